/* Heat on a square plate: each rank has a block of rows and a row of each neighbour's above and below. The
 * neighbours' rows travel while the inner rows are computed. Arguments: side of the plate, steps. */
#include "common.h"

static void step(const double *restrict old, double *restrict new, size_t n, size_t from, size_t to) {
    for (size_t row = from; row < to; row++) {
        const double *above = old + (row - 1) * n, *here = old + row * n, *below = old + (row + 1) * n;
        double *line = new + row * n;
        for (size_t column = 1; column + 1 < n; column++)
            line[column] = (above[column] + below[column] + here[column - 1] + here[column + 1]) / 4.0;
    }
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    size_t n = argument(argc, argv, 1), steps = argument(argc, argv, 2);
    if (n % ranks || n / ranks < 2) stop("the side must be a multiple of the ranks");
    size_t rows = n / ranks;
    int up = rank ? rank - 1 : MPI_PROC_NULL, down = rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL;
    /* Row 0 and row rows + 1 are the neighbours'. */
    double *plates[2] = {zeroed((rows + 2) * n, sizeof(double)), zeroed((rows + 2) * n, sizeof(double))};
    /* The edges of the plate stay as they are. */
    size_t first = rank ? 1 : 2, last = rank + 1 < ranks ? rows : rows - 1;
    double heat = 0;
    for (int run = 0; run <= RUNS; run++) {
        for (int plate = 0; plate < 2; plate++) {
            memset(plates[plate], 0, (rows + 2) * n * sizeof(double));
            for (size_t column = 0; rank == 0 && column < n; column++) plates[plate][n + column] = 1.0;
        }
        double start = begin();
        for (size_t i = 0; i < steps; i++) {
            double *old = plates[i % 2], *new = plates[(i + 1) % 2];
            MPI_Request requests[4];
            MPI_Irecv(old, n, MPI_DOUBLE, up, 0, MPI_COMM_WORLD, &requests[0]);
            MPI_Irecv(old + (rows + 1) * n, n, MPI_DOUBLE, down, 1, MPI_COMM_WORLD, &requests[1]);
            MPI_Isend(old + n, n, MPI_DOUBLE, up, 1, MPI_COMM_WORLD, &requests[2]);
            MPI_Isend(old + rows * n, n, MPI_DOUBLE, down, 0, MPI_COMM_WORLD, &requests[3]);
            step(old, new, n, 2, rows);
            MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
            if (first == 1) step(old, new, n, 1, 2);
            if (last == rows) step(old, new, n, rows, rows + 1);
        }
        tell(run, rank, start);
    }
    double own = 0;
    for (size_t i = n; i < (rows + 1) * n; i++) own += plates[steps % 2][i];
    MPI_Reduce(&own, &heat, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("result %.6f\n", heat);
    MPI_Finalize();
    return 0;
}
