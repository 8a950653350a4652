/* f16 and bf16: 16-bit floating point in panels of 16 rows, multiplied as they lie. Values are rounded to nearest even;
 * there is no grid. Rows are padded to 16, and columns to an even number where they lie in pairs, with zeros.
 *
 *   format        weights  activations      layout
 *   f16           f16      f32              KERNEL_MATMUL_F16: column by column, panels in pairs
 *   f16_both      f16      rounded to f16   the same
 *   bf16          bf16     rounded to bf16  KERNEL_MATMUL_BF16: pairs of columns, as the CPU's instruction takes them
 *   bf16_weights  bf16     f32              KERNEL_MATMUL_BF16_F32: as f16
 *
 * All sum in f32. Where activations stay f32, what is lost is the weights' rounding alone; where they are rounded, it
 * is once per input (weight_input.c). An activation beyond 65504 becomes infinite in f16_both, and shows. */
#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

static bool is_bf16(const struct weight_format *format) {
    return format == &format_bf16 || format == &format_bf16_weights;
}
static bool in_pairs(const struct weight_format *format) { return format == &format_bf16; }

static size_t padded_columns(const struct weight_shape *shape, bool pairs) {
    return pairs ? size_round_up(shape->columns, 2) : shape->columns;
}

/* Where element (r, n) lies. */
static size_t place_pair(size_t n_padded, size_t r, size_t n) {
    return r / 16 * 16 * n_padded + n / 2 * 32 + r % 16 * 2 + n % 2;
}
static size_t place(const struct weight_shape *shape, bool pairs, size_t r, size_t n) {
    return pairs ? place_pair(padded_columns(shape, true), r, n) : paired_place(shape->rows, shape->columns, r, n);
}

static int size_of(const struct weight_format *format, const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    *bytes = 0;
    TRY(weight_shape_check(format, shape));
    *bytes = panels_of(shape->rows) * 16 * padded_columns(shape, in_pairs(format)) * sizeof(uint16_t);
out:
    return status;
}

/* Is none infinite or not a number? An exponent of ones carries into the sign's place once its least bit is added. */
static bool all_finite(const struct weight_format *format, const uint16_t *halves, size_t count) {
    uint16_t exponent = is_bf16(format) ? 0x7f80 : 0x7c00, least = is_bf16(format) ? 0x0080 : 0x0400, any = 0;
    for (size_t i = 0; i < count; i++) any |= (uint16_t)((halves[i] & exponent) + least);
    return !(any & 0x8000u);
}

/* Row by row: conversion runs at vector speed, the scattered stores of 16-bit values stay within one panel. These
 * three tell whether all values were finite once they were rounded. */
static bool fill_rows(const struct weight_format *format, const struct weight_shape *shape, size_t first, size_t count,
                      const float *w, uint16_t *packed) {
    size_t N = shape->columns;
    uint16_t line[256];
    bool finite = true;
    for (size_t r = first; r < first + count; r++)
        for (size_t n = 0, some; n < N; n += some) {
            const float *from = w + (r - first) * N + n;
            some = N - n < 256 ? N - n : 256;
            if (is_bf16(format)) kernels.narrow_bf16(some, from, line);
            else kernels.narrow_f16(some, from, line);
            finite = all_finite(format, line, some) && finite;
            for (size_t i = 0; i < some; i++) packed[place(shape, in_pairs(format), r, n + i)] = line[i];
        }
    return finite;
}

/* A whole panel, its padding included: transposed as f32, 64 columns at a time, then narrowed in one run. */
static bool fill_panel(const struct weight_format *format, const struct weight_shape *shape, size_t panel, size_t valid,
                       const float *w, uint16_t *packed) {
    enum { COLUMNS = 64 };
    size_t N = shape->columns, n_padded = padded_columns(shape, in_pairs(format));
    float turned[COLUMNS * 16], pairs[COLUMNS * 16];
    uint16_t narrow[COLUMNS * 16];
    bool finite = true;
    for (size_t n = 0, some; n < N; n += some) {
        some = N - n < COLUMNS ? N - n : COLUMNS;
        uint16_t *to = packed + panel * 16 * n_padded + n * 16;
        kernels.pack_f32(some, w + n, N, valid, turned);
        if (!in_pairs(format)) {
            if (is_bf16(format)) kernels.narrow_bf16(some * 16, turned, narrow);
            else kernels.narrow_f16(some * 16, turned, narrow);
            finite = all_finite(format, narrow, some * 16) && finite;
            to = packed + paired_place(shape->rows, N, panel * 16, n);
            for (size_t i = 0, side = paired_side(shape->rows, panel * 16); i < some; i++)
                memcpy(to + i * side, narrow + i * 16, 16 * sizeof *to);
            continue;
        }
        if (some % 2) memset(turned + some * 16, 0, 16 * sizeof *turned);
        for (size_t i = 0; i < some; i += 2)
            for (size_t r = 0; r < 16; r++) {
                pairs[i * 16 + r * 2] = turned[i * 16 + r];
                pairs[i * 16 + r * 2 + 1] = turned[i * 16 + 16 + r];
            }
        kernels.narrow_bf16(size_round_up(some, 2) * 16, pairs, to);
        finite = all_finite(format, to, size_round_up(some, 2) * 16) && finite;
    }
    return finite;
}

/* Two columns at a time are transposed as if they were one f32, then parted. */
bool float16_fill_halves(const struct weight_shape *shape, size_t panel, size_t valid, const uint16_t *rows,
                         uint16_t *packed) {
    enum { PAIRS = 64 };
    size_t N = shape->columns, side = paired_side(shape->rows, panel * 16);
    float turned[PAIRS * 16];
    uint32_t infinite = 0;
    for (size_t pair = 0, some; pair < N / 2; pair += some) {
        some = N / 2 - pair < PAIRS ? N / 2 - pair : PAIRS;
        uint16_t *to = packed + paired_place(shape->rows, N, panel * 16, 2 * pair);
        kernels.pack_f32(some, (const float *)(const void *)rows + pair, N / 2, valid, turned);
        for (size_t i = 0; i < some; i++) {
            uint32_t both[16];
            memcpy(both, turned + i * 16, sizeof both);
            for (size_t r = 0; r < 16; r++) {
                /* An exponent of ones carries into the bit above once its least bit is added. */
                infinite |= ((both[r] & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
                to[2 * i * side + r] = (uint16_t)both[r];
                to[(2 * i + 1) * side + r] = (uint16_t)(both[r] >> 16);
            }
        }
    }
    return !infinite;
}

/* Whole panels where rows begin one and reach its end or the matrix's. */
bool float16_fill(const struct weight_format *format, const struct weight_shape *shape, size_t first, size_t count,
                  const float *w, uint16_t *packed) {
    bool finite = true;
    for (size_t r = first, some; r < first + count; r += some) {
        size_t left = first + count - r, last = shape->rows - r < 16 ? shape->rows - r : 16;
        const float *from = w + (r - first) * shape->columns;
        some = left < 16 - r % 16 ? left : 16 - r % 16;
        if (r % 16 == 0 && some == last) finite = fill_panel(format, shape, r / 16, some, from, packed) && finite;
        else finite = fill_rows(format, shape, r, some, from, packed) && finite;
    }
    return finite;
}

struct packing {
    const struct weight_format *format;
    const struct weight_shape *shape;
    const float *w;
    uint16_t *packed;
    int bad; /* seen by any thread */
};

static void pack_panels(void *context, size_t begin, size_t end, int worker) {
    struct packing *packing = context;
    size_t N = packing->shape->columns, first = begin * 16, rows = packing->shape->rows;
    size_t count = (end * 16 < rows ? end * 16 : rows) - first;
    (void)worker;
    if (!float16_fill(packing->format, packing->shape, first, count, packing->w + first * N, packing->packed))
        __atomic_store_n(&packing->bad, 1, __ATOMIC_RELAXED);
}

static int pack(const struct weight_format *format, const struct weight_shape *shape, const float *w, void *packed) {
    int status = 0;
    size_t bytes;
    struct packing packing = {.format = format, .shape = shape, .w = w, .packed = packed};
    TRY(size_of(format, shape, &bytes));
    memset(packed, 0, bytes);
    parallel_for(panels_of(shape->rows), 8, pack_panels, &packing);
    if (packing.bad) FAIL(E_NUMERIC, "%s: a weight is not a number, or beyond what 16 bits hold", format->name);
out:
    return status;
}

static int check(const struct weight_format *format, const struct weight_shape *shape, const void *packed,
                 size_t bytes) {
    int status = 0;
    bool pairs = in_pairs(format);
    size_t expected, R = shape->rows, N = shape->columns;
    const uint16_t *bits = packed, largest = is_bf16(format) ? 0x7f80 : 0x7c00;
    TRY(size_of(format, shape, &expected));
    if (bytes != expected)
        FAIL(E_FORMAT, "%s weights (%zu,%zu) take %zu bytes (got %zu)", format->name, R, N, expected, bytes);
    if ((uintptr_t)packed % sizeof *bits) FAIL(E_FORMAT, "%s weights must start at an even address", format->name);
    for (size_t r = 0; r < panels_of(R) * 16; r++)
        for (size_t n = 0; n < padded_columns(shape, pairs); n++) {
            uint16_t value = bits[place(shape, pairs, r, n)];
            if ((value & 0x7fff) >= largest)
                FAIL(E_FORMAT, "%s weight in row %zu, column %zu is not finite", format->name, r, n);
            if ((r >= R || n >= N) && value)
                FAIL(E_FORMAT, "%s padding in row %zu, column %zu is not 0", format->name, r, n);
        }
out:
    return status;
}

static void unpack(const struct weight_format *format, const struct weight_shape *shape, const uint16_t *bits,
                   float *w) {
    for (size_t r = 0; r < shape->rows; r++)
        for (size_t n = 0; n < shape->columns; n++) {
            uint16_t value = bits[place(shape, in_pairs(format), r, n)];
            w[r * shape->columns + n] = is_bf16(format) ? bf16_to_float(value) : half_to_float(value);
        }
}

/* The traits' functions of one format. */
#define FUNCTIONS(name)                                                                                                \
    static int name##_size_bytes(const struct weight_shape *shape, size_t *bytes) {                                    \
        return size_of(&format_##name, shape, bytes);                                                                  \
    }                                                                                                                  \
    static int name##_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid,           \
                           void *packed) {                                                                             \
        (void)grid;                                                                                                    \
        return pack(&format_##name, shape, w, packed);                                                                 \
    }                                                                                                                  \
    static int name##_check(const struct weight_shape *shape, const void *packed, size_t bytes) {                      \
        return check(&format_##name, shape, packed, bytes);                                                            \
    }                                                                                                                  \
    static int name##_unpack(const struct weight_shape *shape, const void *packed, float *w) {                         \
        unpack(&format_##name, shape, packed, w);                                                                      \
        return 0;                                                                                                      \
    }
FUNCTIONS(f16)
FUNCTIONS(f16_both)
FUNCTIONS(bf16)
FUNCTIONS(bf16_weights)

static void f16_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                         size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, N = weight->shape.columns;
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    kernels.matmul_f16(t_end - t_begin, N, input->x + t_begin * N, N, (const uint16_t *)weight->packed + r_begin * N,
                       bias ? bias + r_begin : NULL, y + t_begin * R + r_begin, R, r_end - r_begin);
}

static void bf16_weights_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin,
                                  size_t t_end, size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, N = weight->shape.columns;
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    kernels.matmul_bf16_f32(t_end - t_begin, N, input->x + t_begin * N, N,
                            (const uint16_t *)weight->packed + r_begin * N, bias ? bias + r_begin : NULL,
                            y + t_begin * R + r_begin, R, r_end - r_begin);
}

/* No groups: the input in bf16 instead of integers. */
static void bf16_input(const struct weight_shape *shape, size_t *n_padded, size_t *group) {
    *n_padded = padded_columns(shape, true);
    *group = 0;
}

static void bf16_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                          size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, n_padded = padded_columns(&weight->shape, true);
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    kernels.matmul_bf16(t_end - t_begin, n_padded, input->bf16 + t_begin * n_padded, n_padded,
                        (const uint16_t *)weight->packed + r_begin * n_padded, bias ? bias + r_begin : NULL,
                        y + t_begin * R + r_begin, R, r_end - r_begin);
}

int weight_fill_rows(const struct weight_format *format, const struct weight_shape *shape, size_t first, size_t count,
                     const float *w, void *packed) {
    int status = 0;
    if (first > shape->rows || count > shape->rows - first)
        FAIL(E_ARGUMENT, "rows %zu to %zu of a matrix of %zu", first, first + count, shape->rows);
    if (format == &format_f32) memcpy((float *)packed + first * shape->columns, w, count * shape->columns * sizeof *w);
    else if (format->bits != 16)
        FAIL(E_UNSUPPORTED, "%s is not filled row by row: its grid must be chosen first", format->name);
    else if (!float16_fill(format, shape, first, count, w, packed))
        FAIL(E_NUMERIC, "%s: a weight is not a number, or beyond what 16 bits hold", format->name);
out:
    return status;
}

static const struct weight_execution f16_execution = {.multiply = f16_multiply},
                                     f16_both_execution = {.rounds_to_f16 = true, .multiply = f16_multiply},
                                     bf16_execution = {.input = bf16_input,
                                                       .tiles_flag = CPU_AMX_BF16,
                                                       .multiply = bf16_multiply},
                                     bf16_weights_execution = {.multiply = bf16_weights_multiply};

const struct weight_format format_f16 = {
    .name = "f16",
    .summary = "IEEE half precision, widened to f32 as it is multiplied",
    .executes = EXECUTES_PACKED,
    .bits = 16,
    .paired = true,
    .size_bytes = f16_size_bytes,
    .pack = f16_pack,
    .unpack = f16_unpack,
    .check = f16_check,
    .execution = &f16_execution,
};

const struct weight_format format_f16_both = {
    .name = "f16_both",
    .summary = "IEEE half precision weights and activations, sums in f32",
    .executes = EXECUTES_PACKED,
    .bits = 16,
    .paired = true,
    .size_bytes = f16_both_size_bytes,
    .pack = f16_both_pack,
    .unpack = f16_both_unpack,
    .check = f16_both_check,
    .execution = &f16_both_execution,
};

const struct weight_format format_bf16 = {
    .name = "bf16",
    .summary = "bfloat16 weights and activations, sums in f32",
    .executes = EXECUTES_PACKED,
    .bits = 16,
    .size_bytes = bf16_size_bytes,
    .pack = bf16_pack,
    .unpack = bf16_unpack,
    .check = bf16_check,
    .execution = &bf16_execution,
};

const struct weight_format format_bf16_weights = {
    .name = "bf16_weights",
    .summary = "bfloat16, widened to f32 as it is multiplied",
    .executes = EXECUTES_PACKED,
    .bits = 16,
    .paired = true,
    .size_bytes = bf16_weights_size_bytes,
    .pack = bf16_weights_pack,
    .unpack = bf16_weights_unpack,
    .check = bf16_weights_check,
    .execution = &bf16_weights_execution,
};
