/* Linear layers over f32 weights, for training: y = x·Wᵀ + b and its three gradients, by gemm_f32. */
#include "model/layers.h"

#include <string.h>

#include "kernels/gemm.h"
#include "kernels/kernels.h"

void linear_forward(size_t T, size_t N, size_t R, const float *x, const float *w, const float *bias, float *y) {
    for (size_t t = 0; bias && t < T; t++) memcpy(y + t * R, bias, R * sizeof *y);
    gemm_f32(false, true, T, R, N, 1.0f, x, N, w, N, bias ? 1.0f : 0.0f, y, R);
}

void linear_backward_input(size_t T, size_t N, size_t R, const float *dy, const float *w, bool add, float *dx) {
    gemm_f32(false, false, T, N, R, 1.0f, dy, R, w, N, add ? 1.0f : 0.0f, dx, N);
}

void linear_backward_weight(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin, size_t end,
                            float *dw, float *dbias) {
    gemm_f32(true, false, end - begin, N, T, 1.0f, dy + begin, R, x, N, 0.0f, dw + begin * N, N);
    if (!dbias) return;
    memset(dbias + begin, 0, (end - begin) * sizeof *dbias);
    for (size_t t = 0; t < T; t++) kernels.add(end - begin, dy + t * R + begin, dbias + begin);
}
