/* f32: row-major values, multiplied from panels of 16 rows that are made once (the layout of
 * KERNEL_MATMUL_F32), by OpenBLAS over fixed tiles, or by oneDNN. The panels are as large as the weights;
 * weight_prepare counts them in prepared_bytes. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "formats/onednn.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

static int f32_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    *bytes = 0;
    TRY(weight_shape_check(&format_f32, shape));
    TRY(size_multiply(shape->rows * shape->columns, sizeof(float), bytes));
out:
    return status;
}

static int f32_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    (void)grid;
    memcpy(packed, w, shape->rows * shape->columns * sizeof *w);
    return 0;
}

static int f32_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    memcpy(w, packed, shape->rows * shape->columns * sizeof *w);
    return 0;
}

static int f32_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    int status = 0;
    size_t expected;
    TRY(f32_size_bytes(shape, &expected));
    if (bytes != expected) FAIL(E_FORMAT, "f32 weights take %zu bytes (got %zu)", expected, bytes);
    if ((uintptr_t)packed % sizeof(float)) FAIL(E_FORMAT, "f32 weights must start at a multiple of 4 bytes");
    const float *w = packed;
    for (size_t i = 0; i < shape->rows * shape->columns; i++)
        if (!isfinite(w[i]))
            FAIL(E_FORMAT, "f32 weight in row %zu, column %zu is not finite", i / shape->columns, i % shape->columns);
out:
    return status;
}

struct panelling {
    size_t R, N;
    const float *w;
    float *panels;
};

static void make_panels(void *context, size_t begin, size_t end, int worker) {
    const struct panelling *panelling = context;
    size_t R = panelling->R, N = panelling->N;
    (void)worker;
    for (size_t p = begin; p < end; p++)
        kernels.pack_f32(N, panelling->w + p * 16 * N, N, R - p * 16 < 16 ? R - p * 16 : 16,
                         panelling->panels + p * 16 * N);
}

static int f32_prepare(const struct weight *weight, struct weight_prepared *prepared, size_t *bytes) {
    int status = 0;
    size_t R = weight->shape.rows, N = weight->shape.columns;
    const float *w = weight->packed;
    if (prepared->backend == GEMM_ONEDNN) TRY(onednn_open(&prepared->onednn, R, N, w, bytes));
    if (prepared->backend != GEMM_BUILTIN) goto out;
    *bytes = panels_of(R) * 16 * N * sizeof(float);
    TRY(weight_room_take(weight->room, *bytes, (void **)&prepared->panels, &prepared->owns_panels));
    struct panelling panelling = {R, N, w, prepared->panels};
    parallel_for(panels_of(R), 8, make_panels, &panelling);
out:
    return status;
}

static void f32_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                         size_t p_begin, size_t p_end, const float *bias, float *y) {
    size_t R = weight->shape.rows, N = weight->shape.columns;
    const struct weight_prepared *prepared = weight->prepared;
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    if (prepared->backend == GEMM_OPENBLAS) {
        gemm_f32(false, true, t_end - t_begin, r_end - r_begin, N, 1.0f, input->x + t_begin * N, N,
                 (const float *)weight->packed + r_begin * N, N, 0.0f, y + t_begin * R + r_begin, R);
        for (size_t t = t_begin; bias && t < t_end; t++)
            for (size_t r = r_begin; r < r_end; r++) y[t * R + r] += bias[r];
        return;
    }
    kernels.matmul_f32(t_end - t_begin, N, input->x + t_begin * N, N, prepared->panels + r_begin * N,
                       bias ? bias + r_begin : NULL, y + t_begin * R + r_begin, R, r_end - r_begin);
}

static const struct weight_execution f32_execution = {.prepare = f32_prepare, .multiply = f32_multiply};

const struct weight_format format_f32 = {
    .name = "f32",
    .summary = "32-bit floating point, row-major",
    .executes = EXECUTES_PACKED,
    .bits = 32,
    .size_bytes = f32_size_bytes,
    .pack = f32_pack,
    .unpack = f32_unpack,
    .check = f32_check,
    .execution = &f32_execution,
};
