/* Sort of whole numbers below 2^20, equally frequent: each rank puts its keys in the order of the ranks that
 * sort them, the parts are exchanged, and each rank counts what it got. The sorted keys stay where they are.
 * Argument: keys of all ranks. */
#include "common.h"

enum { BITS = 20 };

static uint32_t key(uint64_t index) {
    uint64_t x = (index + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) >> (64 - BITS));
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    size_t total = argument(argc, argv, 1);
    if (total % ranks || (1 << BITS) % ranks) stop("keys must be a multiple of the ranks");
    size_t mine = total / ranks, range = (1u << BITS) / ranks, room = mine + mine / 8 + 1024;
    uint32_t *keys = zeroed(mine, sizeof *keys), *parted = zeroed(mine, sizeof *parted);
    uint32_t *came = zeroed(room, sizeof *came), *sorted = zeroed(room, sizeof *sorted);
    uint32_t *counts = zeroed(range, sizeof *counts);
    int *to = zeroed(ranks, sizeof *to), *to_at = zeroed(ranks + 1, sizeof *to_at);
    int *from = zeroed(ranks, sizeof *from), *from_at = zeroed(ranks + 1, sizeof *from_at);
    int *next = zeroed(ranks, sizeof *next);
    size_t got = 0;
    for (size_t i = 0; i < mine; i++) keys[i] = key(rank * mine + i);
    for (int run = 0; run <= RUNS; run++) {
        double start = begin();
        memset(to, 0, ranks * sizeof *to);
        for (size_t i = 0; i < mine; i++) to[keys[i] / range]++;
        for (int r = 0; r < ranks; r++) next[r] = to_at[r], to_at[r + 1] = to_at[r] + to[r];
        for (size_t i = 0; i < mine; i++) parted[next[keys[i] / range]++] = keys[i];
        MPI_Alltoall(to, 1, MPI_INT, from, 1, MPI_INT, MPI_COMM_WORLD);
        for (int r = 0; r < ranks; r++) from_at[r + 1] = from_at[r] + from[r];
        got = from_at[ranks];
        if (got > room) stop("the keys are not equally frequent");
        MPI_Alltoallv(parted, to, to_at, MPI_UINT32_T, came, from, from_at, MPI_UINT32_T, MPI_COMM_WORLD);
        memset(counts, 0, range * sizeof *counts);
        for (size_t i = 0; i < got; i++) counts[came[i] - rank * range]++;
        size_t at = 0;
        for (size_t value = 0; value < range; value++)
            for (uint32_t n = counts[value]; n > 0; n--) sorted[at++] = rank * range + value;
        tell(run, rank, start);
    }
    uint64_t before = 0, own = 0, sum = 0, count = got;
    MPI_Exscan(&count, &before, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) before = 0;
    for (size_t i = 0; i < got; i++) own += sorted[i] * ((before + i) % 1021);
    MPI_Reduce(&own, &sum, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("result %llu\n", (unsigned long long)sum);
    MPI_Finalize();
    return 0;
}
