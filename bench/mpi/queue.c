/* A queue of tasks of different length: each rank takes the next one when it has finished its last. The queue
 * is a number at rank 0, which each rank adds to by a one-sided operation; MPI needs no lock around it.
 * Argument: tasks. */
#include "common.h"

/* Steps that the numbers of a task take to 1, halved if even, and tripled and one added if odd. */
static uint64_t work(uint64_t task) {
    uint64_t steps = 0, numbers = 1 + task * 7919 % 2000;
    for (uint64_t number = 1; number < numbers; number++) {
        uint64_t n = number;
        for (steps++; n > 1; steps++) n = n % 2 ? 3 * n + 1 : n / 2;
    }
    return steps;
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    uint64_t tasks = argument(argc, argv, 1), *queue, sum = 0, own = 0;
    MPI_Win window;
    MPI_Win_allocate(rank ? 0 : sizeof *queue, sizeof *queue, MPI_INFO_NULL, MPI_COMM_WORLD, &queue, &window);
    MPI_Win_lock_all(MPI_MODE_NOCHECK, window);
    for (int run = 0; run <= RUNS; run++) {
        if (rank == 0) {
            uint64_t none = 0, was;
            MPI_Fetch_and_op(&none, &was, MPI_UINT64_T, 0, 0, MPI_REPLACE, window);
            MPI_Win_flush(0, window);
        }
        own = 0;
        double start = begin();
        for (;;) {
            uint64_t one = 1, task;
            MPI_Fetch_and_op(&one, &task, MPI_UINT64_T, 0, 0, MPI_SUM, window);
            MPI_Win_flush(0, window);
            if (task >= tasks) break;
            own += work(task);
        }
        tell(run, rank, start);
    }
    MPI_Win_unlock_all(window);
    MPI_Reduce(&own, &sum, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("result %llu\n", (unsigned long long)sum);
    MPI_Win_free(&window);
    MPI_Finalize();
    return 0;
}
