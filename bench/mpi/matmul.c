/* C = A * B: rank 0 has A and B; rows of A are scattered, B is broadcast, C is gathered. The kernel is the
 * benchmark's own, so that a difference is one in how the matrices travel. Argument: rows and columns. */
#include "common.h"

void bench_gemm(size_t rows, size_t inner, size_t columns, const double *a, const double *b, double *c);

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    size_t n = argument(argc, argv, 1);
    if (n % ranks) stop("the side must be a multiple of the ranks");
    size_t part = n / ranks * n;
    double *a = rank ? NULL : zeroed(n * n, sizeof *a), *c = rank ? NULL : zeroed(n * n, sizeof *c);
    double *b = zeroed(n * n, sizeof *b), *part_a = zeroed(part, sizeof *a), *part_c = zeroed(part, sizeof *c);
    for (size_t i = 0; rank == 0 && i < n * n; i++) {
        size_t j = i + n * n;
        a[i] = (double)((i * 7 + i / 5) % 13);
        b[i] = (double)((j * 7 + j / 5) % 13);
    }
    for (int run = 0; run <= RUNS; run++) {
        double start = begin();
        MPI_Scatter(a, part, MPI_DOUBLE, part_a, part, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        MPI_Bcast(b, n * n, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        bench_gemm(n / ranks, n, n, part_a, b, part_c);
        MPI_Gather(part_c, part, MPI_DOUBLE, c, part, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        tell(run, rank, start);
    }
    if (rank == 0) {
        double first = 0;
        for (size_t k = 0; k < n; k++) first += a[k] * b[k * n];
        if (c[0] != first) stop("the product is wrong");
        printf("result %.6f\n", first);
    }
    MPI_Finalize();
    return 0;
}
