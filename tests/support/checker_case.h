/* What the checks of all kernels are written with: guarded operands, values to fill them with, the failure of a
 * case (private to checker*.c). */
#ifndef CHECKER_CASE_H
#define CHECKER_CASE_H

#include "base/random.h"
#include "checker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOTS 16
#define UNIT 0x1p-24 /* half a unit in the last place of f32 */

/* A stretch of memory between two pages that may not be touched. Data lies flush against one of them; the
 * rest is canary. */
struct slot {
    uint8_t *base, *data;
    size_t bytes;
};

struct check {
    const struct kernels *table;
    struct checker_report *report;
    struct random random;
    const char *kernel;
    char shape[120]; /* the case in words */
    struct slot slots[SLOTS];
    size_t used;
};

/* Record a failure of the case at hand; the first one's words are kept. */
void check_fail(struct check *check, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A random number in 0..bound-1. */
size_t check_below(struct check *check, size_t bound);

/* `count` elements of `size` bytes, aligned to no more than `size`, all canary (as f32 a NaN, as s8 and s32 -1). */
void *check_take(struct check *check, size_t count, size_t size);

enum fill { FILL_NORMAL, FILL_SMALL, FILL_HUGE, FILL_DENORMAL, FILL_ZERO, FILL_MIXED, FILLS };
enum fill check_any_fill(struct check *check);
void check_fill_f32(struct check *check, float *x, size_t count, enum fill fill);

/* (rows, columns) f32 with NaN between the ends of rows and the stride. */
float *check_take_rows(struct check *check, size_t rows, size_t columns, size_t stride, enum fill fill);

/* Token counts around the sizes of tiles; lengths that leave every remainder. */
size_t check_tokens(struct check *check);
size_t check_length(struct check *check);

/* The same bits, or both NaN. */
bool check_same(float a, float b);

/* n·u / (1 - n·u). */
double check_gamma(size_t n);

/* What lies in y between its rows must still be canary. */
void check_gaps(struct check *check, const float *y, size_t T, size_t stride, size_t valid);

/* One check per kernel. */
#define CHECK_DECLARE(name, contract) void check_##name(struct check *check);
KERNELS(CHECK_DECLARE)
#undef CHECK_DECLARE

#endif
