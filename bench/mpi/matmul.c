/* C = A * B with MPI: rank 0 has A and B; rows of A are scattered, B is broadcast, C is gathered.
 * The kernel is the benchmark's own. Prints the best of three runs after a warm one, as a DSM's
 * figure is taken on memory that exists, too. */
#include <mpi.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

void bench_gemm(size_t rows, size_t inner, size_t columns, const double *a, const double *b, double *c);

static double *matrix(size_t elements) {
    double *m = calloc(elements, sizeof *m);
    if (!m) MPI_Abort(MPI_COMM_WORLD, 1);
    return m;
}

static double multiply(int rank, int ranks, size_t n, double *a, double *b, double *c, double *part_a, double *part_c) {
    size_t rows = n / ranks;
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    MPI_Scatter(a, rows * n, MPI_DOUBLE, part_a, rows * n, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    MPI_Bcast(b, n * n, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    bench_gemm(rows, n, n, part_a, b, part_c);
    MPI_Gather(part_c, rows * n, MPI_DOUBLE, c, rows * n, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    (void)rank;
    return MPI_Wtime() - start;
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    if (n == 0 || n % ranks) {
        if (rank == 0) fprintf(stderr, "usage: mpi-matmul N, a multiple of the ranks\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    double *a = rank ? NULL : matrix(n * n), *b = matrix(n * n), *c = rank ? NULL : matrix(n * n);
    double *part_a = matrix(n / ranks * n), *part_c = matrix(n / ranks * n);
    for (size_t i = 0; rank == 0 && i < n * n; i++) {
        size_t j = i + n * n;
        a[i] = (double)((i * 7 + i / 5) % 13);
        b[i] = (double)((j * 7 + j / 5) % 13);
    }
    double best = multiply(rank, ranks, n, a, b, c, part_a, part_c);
    for (int run = 0; run < 3; run++) {
        double time = multiply(rank, ranks, n, a, b, c, part_a, part_c);
        if (run == 0 || time < best) best = time;
    }
    if (rank == 0) {
        double first = 0;
        for (size_t k = 0; k < n; k++) first += a[k] * b[k * n];
        if (c[0] != first) {
            fprintf(stderr, "C[0][0] is %f and not %f\n", c[0], first);
            MPI_Abort(MPI_COMM_WORLD, 3);
        }
        printf("seconds %f\n", best);
    }
    MPI_Finalize();
    return 0;
}
