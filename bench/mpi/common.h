/* What the MPI programs share: memory, the clock, and how runs are told.
 *
 * A program runs once on memory and connections that nobody has used, and then RUNS times more. Rank 0
 * prints `first SECONDS`, a line `warm SECONDS` for each further run, and `result NUMBER`, which must be
 * that of the program over shared memory. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 3 };

static inline void stop(const char *why) {
    fprintf(stderr, "%s\n", why);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static inline void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) stop("no memory");
    return memory;
}

/* Each run between two barriers; the time is that of the slowest rank. */
static inline double begin(void) {
    MPI_Barrier(MPI_COMM_WORLD);
    return MPI_Wtime();
}

static inline void tell(int run, int rank, double start) {
    MPI_Barrier(MPI_COMM_WORLD);
    double time = MPI_Wtime() - start;
    if (rank == 0) printf("%s %.9f\n", run == 0 ? "first" : "warm", time);
}

static inline size_t argument(int argc, char **argv, int index) {
    size_t value = index < argc ? strtoul(argv[index], NULL, 10) : 0;
    if (value == 0) stop("an argument is missing");
    return value;
}
