/* The C versions of the kernels: the oracle that every variant is checked against, and what runs where no
 * variant does. Those in integers are in integer_c.c, those of training in training_c.c.
 *
 * Written for clarity first. Integer kernels and the purely elementwise ones (add, adamw) do their float arithmetic in
 * the order that every variant repeats, one rounding per operation (-ffp-contract=off), so all variants agree bit for
 * bit. The others agree within bounds that docs/KERNELS.md derives. */
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <math.h>
#include <string.h>

/* Rows of the panel that starts at row r. */
static size_t rows_of_panel(size_t rows, size_t r) { return rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS; }

KERNEL_MATMUL_F32(matmul_f32_c) {
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            const float *panel = weights + first * N;
            float sum[PANEL_ROWS] = {0}, *out = y + t * y_stride + first;
            for (size_t n = 0; n < N; n++) {
                float value = x[t * x_stride + n];
                for (size_t r = 0; r < PANEL_ROWS; r++) sum[r] += value * panel[n * PANEL_ROWS + r];
            }
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) out[r] = bias ? sum[r] + bias[first + r] : sum[r];
        }
}

KERNEL_MATMUL_F16(matmul_f16_c) {
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            size_t side = paired_side(rows, first);
            const uint16_t *panel = weights + paired_place(rows, N, first, 0);
            float sum[PANEL_ROWS] = {0}, *out = y + t * y_stride + first;
            for (size_t n = 0; n < N; n++) {
                float value = x[t * x_stride + n];
                for (size_t r = 0; r < PANEL_ROWS; r++) sum[r] += value * half_to_float(panel[n * side + r]);
            }
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) out[r] = bias ? sum[r] + bias[first + r] : sum[r];
        }
}

KERNEL_MATMUL_BF16_F32(matmul_bf16_f32_c) {
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            size_t side = paired_side(rows, first);
            const uint16_t *panel = weights + paired_place(rows, N, first, 0);
            float sum[PANEL_ROWS] = {0}, *out = y + t * y_stride + first;
            for (size_t n = 0; n < N; n++) {
                float value = x[t * x_stride + n];
                for (size_t r = 0; r < PANEL_ROWS; r++) sum[r] += value * bf16_to_float(panel[n * side + r]);
            }
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) out[r] = bias ? sum[r] + bias[first + r] : sum[r];
        }
}

/* The odd column before the even one, as vdpbf16ps adds them. */
KERNEL_MATMUL_BF16(matmul_bf16_c) {
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            const uint16_t *panel = weights + first * n_padded;
            float sum[PANEL_ROWS] = {0}, *out = y + t * y_stride + first;
            for (size_t n = 0; n < n_padded; n += 2) {
                float even = bf16_to_float(x[t * x_stride + n]), odd = bf16_to_float(x[t * x_stride + n + 1]);
                const uint16_t *pair = panel + n * PANEL_ROWS;
                for (size_t r = 0; r < PANEL_ROWS; r++) {
                    sum[r] += odd * bf16_to_float(pair[2 * r + 1]);
                    sum[r] += even * bf16_to_float(pair[2 * r]);
                }
            }
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) out[r] = bias ? sum[r] + bias[first + r] : sum[r];
        }
}

KERNEL_NARROW_F16(narrow_f16_c) {
    for (size_t i = 0; i < count; i++) y[i] = half_from_float(x[i]);
}

KERNEL_WIDEN_F16(widen_f16_c) {
    for (size_t i = 0; i < count; i++) y[i] = half_to_float(x[i]);
}

KERNEL_WIDEN_S8(widen_s8_c) {
    for (size_t i = 0; i < count; i++) y[i] = (float)x[i] * scale[i % 16];
}

KERNEL_NARROW_BF16(narrow_bf16_c) {
    for (size_t i = 0; i < count; i++) y[i] = bf16_from_float(x[i]);
}

KERNEL_PAIR_BF16(pair_bf16_c) {
    for (size_t k = 0; k < K + K % 2; k++)
        for (size_t c = 0; c < PANEL_ROWS; c++)
            panel[k / 2 * 2 * PANEL_ROWS + 2 * c + k % 2] =
                k < K && c < valid ? bf16_from_float(x[k * x_stride + c]) : 0;
}

/* Φ(x); erfcf keeps the small tail that 1 + erf would cancel. */
static float normal_cumulative(float x) { return 0.5f * erfcf(x * -0.70710678f); }

KERNEL_GELU(gelu_c) {
    for (size_t i = 0; i < count; i++) y[i] = x[i] * normal_cumulative(x[i]);
}

/* 0.5 (1 + tanh u) = 1 / (1 + e^-2u), which does not cancel where tanh is near -1. */
KERNEL_GELU_TANH(gelu_tanh_c) {
    for (size_t i = 0; i < count; i++) {
        float twice = 1.5957691216f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = x[i] / (1.0f + expf(-twice));
    }
}

KERNEL_SILU_GATE(silu_gate_c) {
    for (size_t i = 0; i < count; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

KERNEL_GELU_BACKWARD(gelu_backward_c) {
    for (size_t i = 0; i < count; i++) {
        float density = 0.39894228f * expf(-0.5f * x[i] * x[i]);
        dx[i] = dy[i] * (normal_cumulative(x[i]) + x[i] * density);
    }
}

KERNEL_SOFTMAX(softmax_c) {
    for (size_t i = 0; i < rows; i++) {
        float *row = x + i * stride, largest = -INFINITY;
        for (size_t j = 0; j < n; j++) {
            row[j] *= scale;
            if (row[j] > largest) largest = row[j];
        }
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            row[j] = expf(row[j] - largest);
            sum += row[j];
        }
        float inverse = (float)(1.0 / sum);
        for (size_t j = 0; j < n; j++) row[j] *= inverse;
    }
}

KERNEL_LAYER_NORM(layer_norm_c) {
    for (size_t t = 0; t < T; t++) {
        const float *in = x + t * C;
        float *out = y + t * C;
        double sum = 0, squares = 0;
        for (size_t c = 0; c < C; c++) sum += in[c];
        double center = sum / (double)C;
        for (size_t c = 0; c < C; c++) squares += (in[c] - center) * (in[c] - center);
        float m = (float)center, r = (float)(1.0 / sqrt(squares / (double)C + (double)eps));
        for (size_t c = 0; c < C; c++) out[c] = (in[c] - m) * r * gain[c] + bias[c];
        if (mean) mean[t] = m;
        if (rstd) rstd[t] = r;
    }
}

KERNEL_RMS_NORM(rms_norm_c) {
    for (size_t t = 0; t < T; t++) {
        const float *in = x + t * C;
        float *out = y + t * C;
        double squares = 0;
        for (size_t c = 0; c < C; c++) squares += (double)in[c] * in[c];
        float r = (float)(1.0 / sqrt(squares / (double)C + (double)eps));
        for (size_t c = 0; c < C; c++) out[c] = in[c] * r * gain[c];
        if (rstd) rstd[t] = r;
    }
}

KERNEL_ADD(add_c) {
    for (size_t i = 0; i < count; i++) y[i] += x[i];
}

KERNEL_ADAMW(adamw_c) {
    float shrink = 1.0f - rate * decay, step = rate / correction1, root = sqrtf(correction2);
    float keep1 = (float)b1, keep2 = (float)b2, rest1 = (float)(1.0 - b1), rest2 = (float)(1.0 - b2);
    for (size_t i = 0; i < count; i++) {
        float g = grad[i] * grad_scale;
        m[i] = keep1 * m[i] + rest1 * g;
        v[i] = keep2 * v[i] + rest2 * (g * g);
        p[i] = p[i] * shrink - step * m[i] / (sqrtf(v[i]) / root + eps);
    }
}
