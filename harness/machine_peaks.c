/* Quick peaks; see machine_peaks.h. Best of the repetitions that fit into the time, at least two. */
#include "machine_peaks.h"

#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"

static double clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int peak_matmul(const char *format_name, enum gemm_backend backend, size_t side, double seconds,
                double *operations_per_s) {
    int status = 0;
    void *x = NULL, *w = NULL, *y = NULL, *scale = NULL;
    struct weight weight = {0};
    struct weight_scratch scratch = {0};
    const struct weight_format *format = weight_format_find(format_name);
    const struct weight_shape shape = {.rows = side, .columns = side, .group = 0, .symmetric = true};
    *operations_per_s = 0;
    if (!format) FAIL(E_NOT_FOUND, "no weight format named %s", format_name);
    TRY(memory_take(&x, side * side, sizeof(float)));
    TRY(memory_take(&w, side * side, sizeof(float)));
    TRY(memory_take(&y, side * side, sizeof(float)));
    for (size_t i = 0; i < side * side; i++) {
        ((float *)x)[i] = (float)random_uniform_at(1, 1, i) - 0.5f;
        ((float *)w)[i] = (float)random_uniform_at(1, 2, i) - 0.5f;
    }
    struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
    if (grid.groups) {
        TRY(memory_take(&scale, side * grid.groups, sizeof(float)));
        grid.scale = scale;
        TRY(weight_grid_minmax(format, &shape, w, &grid));
    }
    TRY(weight_pack(&weight, format, &shape, w, grid.groups ? &grid : NULL));
    TRY(weight_prepare(&weight, backend));
    double begin = clock_s(), best = 1e9;
    for (int i = 0; i < 3 || clock_s() - begin < seconds; i++) {
        double start = clock_s();
        TRY(weight_matmul(&weight, side, x, NULL, y, &scratch));
        double length = clock_s() - start;
        if (i > 0 && length < best) best = length; /* the first one warms up */
    }
    *operations_per_s = 2.0 * (double)side * (double)side * (double)side / best;
out:
    weight_scratch_close(&scratch);
    weight_close(&weight);
    memory_release(scale);
    memory_release(y);
    memory_release(w);
    memory_release(x);
    return status;
}

#define READ_GRAIN ((size_t)1 << 17) /* words: 1 MiB */

struct reading {
    const uint64_t *words;
    uint64_t sum[64]; /* one per worker, kept so that the reading is not left out */
};

static void words_read(void *context, size_t begin, size_t end, int worker) {
    struct reading *reading = context;
    uint64_t sum[8] = {0};
    size_t i = begin;
    for (; i + 8 <= end; i += 8)
        for (size_t k = 0; k < 8; k++) sum[k] += reading->words[i + k];
    for (; i < end; i++) sum[0] += reading->words[i];
    for (size_t k = 1; k < 8; k++) sum[0] += sum[k];
    reading->sum[worker % 64] += sum[0];
}

int peak_read(size_t bytes, double seconds, double *bytes_per_s) {
    int status = 0;
    void *block = NULL;
    struct reading reading = {0};
    size_t count = bytes / sizeof(uint64_t);
    *bytes_per_s = 0;
    TRY(memory_take(&block, count, sizeof(uint64_t)));
    memset(block, 1, count * sizeof(uint64_t)); /* real pages, not the one of zeros */
    reading.words = block;
    double begin = clock_s(), best = 1e9;
    for (int i = 0; i < 3 || clock_s() - begin < seconds; i++) {
        double start = clock_s();
        parallel_for(count, READ_GRAIN, words_read, &reading);
        double length = clock_s() - start;
        if (i > 0 && length < best) best = length;
    }
    *bytes_per_s = (double)(count * sizeof(uint64_t)) / best;
out:
    memory_release(block);
    return status;
}
