/* int8: symmetric per output row, codes -127..127, in panels of 16 rows by 4 columns (the layout of
 * KERNEL_MATMUL_S8) followed by one f32 scale per row. Rows are padded to 16 and columns to 64 with zeros,
 * so the kernels have no remainders. -128 is not a code: its magnitude has no byte. */
#include "base/error.h"
#include "base/memory.h"
#include "formats/execution.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define COLUMN_ALIGN 64

static size_t padded_columns(const struct weight_shape *shape) { return size_round_up(shape->columns, COLUMN_ALIGN); }

/* Where code (r, n) lies. */
static size_t code_place(size_t n_padded, size_t r, size_t n) {
    return r / 16 * 16 * n_padded + n / 4 * 64 + r % 16 * 4 + n % 4;
}

static int int8_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    *bytes = 0;
    TRY(weight_shape_check(&format_int8, shape));
    *bytes = panels_of(shape->rows) * 16 * (padded_columns(shape) + sizeof(float));
out:
    return status;
}

static int int8_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    int status = 0;
    size_t bytes, R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    TRY(int8_size_bytes(shape, &bytes));
    if (!grid || grid->groups != 1 || grid->zero) FAIL(E_ARGUMENT, "int8 takes one scale per row and no zero points");
    memset(packed, 0, bytes);
    int8_t *codes = packed;
    uint8_t *scales = (uint8_t *)packed + panels_of(R) * 16 * n_padded;
    for (size_t r = 0; r < R; r++) {
        float scale = grid->scale[r];
        if (!isfinite(scale)) FAIL(E_NUMERIC, "scale of row %zu is not finite", r);
        memcpy(scales + r * sizeof scale, &scale, sizeof scale);
        for (size_t n = 0; n < N; n++) {
            float code = scale == 0.0f ? 0.0f : rintf(w[r * N + n] / scale);
            if (isnan(code)) FAIL(E_NUMERIC, "weight in row %zu, column %zu is not a number", r, n);
            code = code > -127.0f ? code : -127.0f;
            codes[code_place(n_padded, r, n)] = (int8_t)(code < 127.0f ? code : 127.0f);
        }
    }
out:
    return status;
}

static int int8_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    size_t R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    const int8_t *codes = packed;
    const uint8_t *scales = (const uint8_t *)packed + panels_of(R) * 16 * n_padded;
    for (size_t r = 0; r < R; r++) {
        float scale;
        memcpy(&scale, scales + r * sizeof scale, sizeof scale);
        for (size_t n = 0; n < N; n++) w[r * N + n] = scale * (float)codes[code_place(n_padded, r, n)];
    }
    return 0;
}

static int int8_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    int status = 0;
    size_t expected, R = shape->rows, N = shape->columns, n_padded = padded_columns(shape);
    TRY(int8_size_bytes(shape, &expected));
    if (bytes != expected) FAIL(E_FORMAT, "int8 weights (%zu,%zu) take %zu bytes (got %zu)", R, N, expected, bytes);
    const int8_t *codes = packed;
    const uint8_t *scales = (const uint8_t *)packed + panels_of(R) * 16 * n_padded;
    for (size_t r = 0; r < panels_of(R) * 16; r++) {
        float scale;
        memcpy(&scale, scales + r * sizeof scale, sizeof scale);
        if (!isfinite(scale)) FAIL(E_FORMAT, "int8 scale of row %zu is not finite", r);
        if (r >= R && scale != 0.0f) FAIL(E_FORMAT, "int8 scale of padding row %zu is not 0", r);
        for (size_t n = 0; n < n_padded; n++) {
            int8_t code = codes[code_place(n_padded, r, n)];
            if (code == -128) FAIL(E_FORMAT, "int8 code in row %zu, column %zu is -128; codes are -127..127", r, n);
            if ((r >= R || n >= N) && code) FAIL(E_FORMAT, "int8 padding in row %zu, column %zu is not 0", r, n);
        }
    }
out:
    return status;
}

static void int8_input(const struct weight_shape *shape, size_t *n_padded, size_t *group) {
    *n_padded = padded_columns(shape);
    *group = COLUMN_ALIGN;
}

static int int8_prepare(const struct weight *weight, struct weight_prepared *prepared, size_t *bytes) {
    int status = 0;
    size_t rows = panels_of(weight->shape.rows) * 16, n_padded = padded_columns(&weight->shape);
    const int8_t *codes = weight->packed;
    TRY(memory_take((void **)&prepared->scale, rows, sizeof(float)));
    TRY(memory_take((void **)&prepared->row_negative, rows, sizeof(int32_t)));
    TRY(memory_take((void **)&prepared->row_sum, rows, sizeof(int32_t)));
    memcpy(prepared->scale, codes + rows * n_padded, rows * sizeof(float));
    for (size_t p = 0; p < rows / 16; p++)
        for (size_t n = 0; n < n_padded; n += 4)
            for (size_t i = 0; i < 64; i++) {
                int8_t code = codes[p * 16 * n_padded + n * 16 + i];
                prepared->row_sum[p * 16 + i / 4] += code;
                if (code < 0) prepared->row_negative[p * 16 + i / 4] -= code;
            }
    *bytes = rows * (sizeof(float) + 2 * sizeof(int32_t));
out:
    return status;
}

static void int8_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                          size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, n_padded = padded_columns(&weight->shape);
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    const struct weight_prepared *prepared = weight->prepared;
    struct zero_points zeros = {.row_sum = prepared->row_sum + r_begin};
    if (input->zero) zeros.x = input->zero + t_begin;
    kernels.matmul_s8(t_end - t_begin, n_padded, input->q + t_begin * n_padded, input->scale + t_begin,
                      (const int8_t *)weight->packed + r_begin * n_padded, prepared->scale + r_begin,
                      prepared->row_negative + r_begin, zeros.x ? &zeros : NULL, bias ? bias + r_begin : NULL,
                      y + t_begin * R + r_begin, R, r_end - r_begin);
}

static const struct weight_execution int8_execution = {
    .input = int8_input, .prepare = int8_prepare, .multiply = int8_multiply};

const struct weight_format format_int8 = {
    .name = "int8",
    .summary = "8-bit integers, one f32 scale per row, integer arithmetic",
    .executes = EXECUTES_PACKED,
    .bits = 8,
    .code_low = -127,
    .code_high = 127,
    .size_bytes = int8_size_bytes,
    .pack = int8_pack,
    .unpack = int8_unpack,
    .check = int8_check,
    .execution = &int8_execution,
};
