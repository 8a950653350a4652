/* Weights of random values, packed (contract: packed_weight.h). */
#include "packed_weight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "cpu_mask.h"
#include "kernels/kernels.h"

float *normal_new(size_t count, uint64_t seed) {
    float *x;
    struct random random;
    assert_int_equal(memory_take((void **)&x, count, sizeof *x), 0);
    random_open(&random, seed, random_stream("formats", 0, 0));
    for (size_t i = 0; i < count; i++) x[i] = (float)random_normal(&random);
    return x;
}

void grid_new(struct weight_grid *grid, const struct weight_format *format, const struct weight_shape *shape,
              const float *w) {
    size_t count = shape->rows * weight_grid_groups(format, shape);
    *grid = (struct weight_grid){0};
    assert_int_equal(memory_take((void **)&grid->scale, count, sizeof(float)), 0);
    if (format->has_asymmetric && !shape->symmetric) assert_int_equal(memory_take((void **)&grid->zero, count, 1), 0);
    if (count) assert_int_equal(weight_grid_minmax(format, shape, w, grid), 0);
}

void grid_free(struct weight_grid *grid) {
    memory_release(grid->scale);
    memory_release(grid->zero);
}

void packed_new(struct weight *weight, const char *format, struct weight_shape shape, const float *w) {
    struct weight_grid grid;
    grid_new(&grid, weight_format_find(format), &shape, w);
    assert_int_equal(weight_pack(weight, weight_format_find(format), &shape, w, &grid), 0);
    grid_free(&grid);
}

int open_kernels(void **state) {
    (void)state;
    kernels_open(test_cpu_mask());
    threads_set(2);
    return 0;
}
