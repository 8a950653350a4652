/* Weights of random values, packed on the grid that minima and maxima give. Whatever fails fails the test. */
#ifndef PACKED_WEIGHT_H
#define PACKED_WEIGHT_H

#include "formats/weight.h"

/* Normal values, a function of the seed; release with memory_release. */
float *normal_new(size_t count, uint64_t seed);

void grid_new(struct weight_grid *grid, const struct weight_format *format, const struct weight_shape *shape,
              const float *w);
void grid_free(struct weight_grid *grid);

/* Close with weight_close. */
void packed_new(struct weight *weight, const char *format, struct weight_shape shape, const float *w);

/* For cmocka_run_group_tests: the kernels that CPUMASK leaves, on two threads. */
int open_kernels(void **state);

#endif
