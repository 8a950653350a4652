/* int8 and int8_affine: one scale per output row, codes in panels of 16 rows by 4 columns (the layout of
 * KERNEL_MATMUL_S8) followed by one f32 scale per row; int8_affine has one zero point per row behind those, and
 * value = scale * (code - zero). Rows are padded to 16 and columns to 64 with zeros, so the kernels have no remainders,
 * and what is beyond the columns counts nowhere: the input's codes there are 0, and row sums leave it out.
 *
 * int8 packs codes -127..127; on torch's grid also -128. int8_affine packs -128..127. */
#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "formats/execution.h"
#include "formats/onednn.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define COLUMN_ALIGN 64
#define COLUMNS_AFFINE                                                                                                 \
    32768 /* 255 * 255 * 32768 is what 32 bits hold, and 255 * 128 * 65536, all that a weight may have */

static size_t padded_columns(const struct weight_shape *shape) { return size_round_up(shape->columns, COLUMN_ALIGN); }

/* Where code (r, n) lies. */
static size_t code_place(size_t n_padded, size_t r, size_t n) {
    return r / 16 * 16 * n_padded + n / 4 * 64 + r % 16 * 4 + n % 4;
}

/* The parts behind the codes. */
static size_t scale_place(const struct weight_shape *shape, size_t r) {
    return panels_of(shape->rows) * 16 * padded_columns(shape) + r * sizeof(float);
}
static size_t zero_place(const struct weight_shape *shape, size_t r) {
    return scale_place(shape, panels_of(shape->rows) * 16) + r;
}

static int size_of(const struct weight_format *format, const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    bool affine = format == &format_int8_affine;
    *bytes = 0;
    TRY(weight_shape_check(format, shape));
    if (affine && shape->columns > COLUMNS_AFFINE)
        FAIL(E_LIMIT, "int8_affine takes %d columns at most (got %zu)", COLUMNS_AFFINE, shape->columns);
    *bytes = panels_of(shape->rows) * 16 * (padded_columns(shape) + sizeof(float) + affine);
out:
    return status;
}

static int pack(const struct weight_format *format, const struct weight_shape *shape, const float *w,
                const struct weight_grid *grid, void *packed) {
    int status = 0;
    size_t bytes, R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    bool affine = format == &format_int8_affine;
    TRY(size_of(format, shape, &bytes));
    if (!grid || grid->groups != 1 || !grid->zero == affine)
        FAIL(E_ARGUMENT, "%s takes one scale per row and %s", format->name,
             affine ? "one zero point" : "no zero points");
    memset(packed, 0, bytes);
    int8_t *codes = packed;
    for (size_t r = 0; r < R; r++) {
        float scale = grid->scale[r];
        int zero = affine ? grid->zero[r] - 128 : 0;
        float least = affine || grid->as_torch ? -128.0f : -127.0f;
        float inverse = 1.0f / scale;
        if (!isfinite(scale)) FAIL(E_NUMERIC, "scale of row %zu is not finite", r);
        memcpy(codes + scale_place(shape, r), &scale, sizeof scale);
        if (affine) codes[zero_place(shape, r)] = (int8_t)zero;
        for (size_t n = 0; n < N; n++) {
            float value = w[r * N + n], code = (float)zero;
            if (scale != 0.0f) code += rintf(grid->as_torch ? value * inverse : value / scale);
            if (isnan(code)) FAIL(E_NUMERIC, "weight in row %zu, column %zu is not a number", r, n);
            code = code > least ? code : least;
            codes[code_place(n_padded, r, n)] = (int8_t)(code < 127.0f ? code : 127.0f);
        }
    }
out:
    return status;
}

static int unpack(const struct weight_format *format, const struct weight_shape *shape, const void *packed, float *w) {
    size_t R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    const int8_t *codes = packed;
    for (size_t r = 0; r < R; r++) {
        float scale;
        int zero = format == &format_int8_affine ? codes[zero_place(shape, r)] : 0;
        memcpy(&scale, codes + scale_place(shape, r), sizeof scale);
        for (size_t n = 0; n < N; n++) w[r * N + n] = scale * (float)(codes[code_place(n_padded, r, n)] - zero);
    }
    return 0;
}

static int check(const struct weight_format *format, const struct weight_shape *shape, const void *packed,
                 size_t bytes) {
    int status = 0;
    size_t expected, R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    TRY(size_of(format, shape, &expected));
    if (bytes != expected)
        FAIL(E_FORMAT, "%s weights (%zu,%zu) take %zu bytes (got %zu)", format->name, R, N, expected, bytes);
    const int8_t *codes = packed;
    for (size_t r = 0; r < panels_of(R) * 16; r++) {
        float scale;
        memcpy(&scale, codes + scale_place(shape, r), sizeof scale);
        if (!isfinite(scale)) FAIL(E_FORMAT, "%s scale of row %zu is not finite", format->name, r);
        if (r >= R && scale != 0.0f) FAIL(E_FORMAT, "%s scale of padding row %zu is not 0", format->name, r);
        if (r >= R && format == &format_int8_affine && codes[zero_place(shape, r)])
            FAIL(E_FORMAT, "%s zero point of padding row %zu is not 0", format->name, r);
        for (size_t n = r < R ? N : 0; n < n_padded; n++)
            if (codes[code_place(n_padded, r, n)])
                FAIL(E_FORMAT, "%s padding in row %zu, column %zu is not 0", format->name, r, n);
    }
out:
    return status;
}

/* Zero points of weights need the sum of a whole token; without them nothing needs any. */
static void input(const struct weight_shape *shape, size_t *n_padded, size_t *group) {
    *group = *n_padded = padded_columns(shape);
}

static int prepare(const struct weight *weight, struct weight_prepared *prepared, size_t *bytes) {
    int status = 0;
    size_t rows = panels_of(weight->shape.rows) * 16, n_padded = padded_columns(&weight->shape);
    bool affine = weight->format == &format_int8_affine;
    const int8_t *codes = weight->packed;
    size_t library = 0;
    TRY(memory_take((void **)&prepared->scale, rows, sizeof(float)));
    TRY(memory_take((void **)&prepared->row_negative, rows, sizeof(int32_t)));
    TRY(memory_take((void **)&prepared->row_total, rows, sizeof(int32_t)));
    TRY(memory_take((void **)&prepared->row_sum, rows, sizeof(int32_t)));
    if (affine) TRY(memory_take((void **)&prepared->row_zero, rows, sizeof(int32_t)));
    memcpy(prepared->scale, codes + rows * n_padded, rows * sizeof(float));
    for (size_t p = 0; p < rows / 16; p++) {
        /* Here, and not where they go, the compiler has vectors of them. */
        int32_t sum[16] = {0}, negative[16] = {0};
        for (size_t n = 0; n < n_padded; n += 4)
            for (size_t r = 0; r < 16; r++)
                for (size_t i = 0; i < 4; i++) {
                    int32_t code = codes[(p * n_padded + n) * 16 + r * 4 + i];
                    sum[r] += code;
                    negative[r] -= code < 0 ? code : 0;
                }
        memcpy(prepared->row_total + p * 16, sum, sizeof sum);
        memcpy(prepared->row_sum + p * 16, sum, sizeof sum);
        memcpy(prepared->row_negative + p * 16, negative, sizeof negative);
    }
    for (size_t r = 0; affine && r < rows; r++) {
        prepared->row_zero[r] = codes[zero_place(&weight->shape, r)];
        prepared->row_sum[r] -= prepared->row_zero[r] * (int32_t)weight->shape.columns;
    }
    if (prepared->backend == GEMM_ONEDNN)
        TRY(onednn_open_s8(&prepared->onednn, weight->shape.rows, n_padded, codes, &library));
    *bytes = rows * (sizeof(float) + (affine ? 4 : 3) * sizeof(int32_t)) + library;
out:
    return status;
}

/* As the kernels do, operation by operation, so that the bits are the same. */
static void finish(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                   const float *bias, float *y) {
    size_t R = weight->shape.rows;
    const struct weight_prepared *prepared = weight->prepared;
    for (size_t t = t_begin; t < t_end; t++)
        for (size_t r = 0; r < R; r++) {
            int32_t sum;
            memcpy(&sum, y + t * R + r, sizeof sum);
            if (input->zero) sum -= input->zero[t] * prepared->row_sum[r];
            if (prepared->row_zero) sum -= prepared->row_zero[r] * input->sums[t];
            float value = input->scale[t] * prepared->scale[r] * (float)sum;
            y[t * R + r] = bias ? value + bias[r] : value;
        }
    if (input->outliers)
        outliers_multiply(input->outliers, input->x, &weight->shape, weight->packed, prepared->scale, t_begin, t_end, 0,
                          panels_of(R), y);
}

static void multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                     size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, n_padded = padded_columns(&weight->shape);
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    const struct weight_prepared *prepared = weight->prepared;
    struct zero_points zeros = {.row_sum = prepared->row_sum + r_begin};
    if (input->zero) zeros.x = input->zero + t_begin;
    if (prepared->row_zero) zeros.w = prepared->row_zero + r_begin, zeros.x_sum = input->sums + t_begin;
    kernels.matmul_s8(t_end - t_begin, n_padded, input->q + t_begin * n_padded, input->scale + t_begin,
                      (const int8_t *)weight->packed + r_begin * n_padded, prepared->scale + r_begin,
                      prepared->row_negative + r_begin, prepared->row_total + r_begin,
                      zeros.x || zeros.w ? &zeros : NULL, bias ? bias + r_begin : NULL, y + t_begin * R + r_begin, R,
                      r_end - r_begin);
    if (input->outliers)
        outliers_multiply(input->outliers, input->x, &weight->shape, weight->packed, prepared->scale, t_begin, t_end,
                          p_begin, p_end, y);
}

static int int8_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    return size_of(&format_int8, shape, bytes);
}
static int int8_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    return pack(&format_int8, shape, w, grid, packed);
}
static int int8_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    return unpack(&format_int8, shape, packed, w);
}
static int int8_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    return check(&format_int8, shape, packed, bytes);
}

static int affine_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    return size_of(&format_int8_affine, shape, bytes);
}
static int affine_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    return pack(&format_int8_affine, shape, w, grid, packed);
}
static int affine_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    return unpack(&format_int8_affine, shape, packed, w);
}
static int affine_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    return check(&format_int8_affine, shape, packed, bytes);
}

static const struct weight_execution int8_execution = {.input = input,
                                                       .tiles_flag = CPU_AMX_INT8,
                                                       .prepare = prepare,
                                                       .multiply = multiply,
                                                       .finish = finish},
                                     affine_execution = {.input = input,
                                                         .tiles_flag = CPU_AMX_INT8,
                                                         .prepare = prepare,
                                                         .multiply = multiply,
                                                         .finish = finish};

const struct weight_format format_int8 = {
    .name = "int8",
    .summary = "8-bit integers, one f32 scale per row, integer arithmetic",
    .executes = EXECUTES_PACKED,
    .bits = 8,
    .code_low = -127,
    .code_high = 127,
    .quantizes_input = true,
    .size_bytes = int8_size_bytes,
    .pack = int8_pack,
    .unpack = int8_unpack,
    .check = int8_check,
    .execution = &int8_execution,
};

const struct weight_format format_int8_affine = {
    .name = "int8_affine",
    .summary = "8-bit integers, one f32 scale and one zero point per row, integer arithmetic",
    .executes = EXECUTES_PACKED,
    .bits = 8,
    .code_low = -128,
    .code_high = 127,
    .has_asymmetric = true,
    .quantizes_input = true,
    .size_bytes = affine_size_bytes,
    .pack = affine_pack,
    .unpack = affine_unpack,
    .check = affine_check,
    .execution = &affine_execution,
};
