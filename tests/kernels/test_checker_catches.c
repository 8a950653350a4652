/* The checker is itself tested: every planted bug must be caught, and it must be caught in the kernel that has
 * it. The bugs are the ones that kernels really have: tails, overruns, saturation, rounding, aliasing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checker.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "planted.h"

#define F32_PASS T, N, x, x_stride, weights, bias, y, y_stride, rows
#define S8_PASS T, n_padded, q, scale_x, panels, scale_w, row_negative, row_total, zeros, bias, y, y_stride, rows
#define U4_PASS T, n_padded, G, symmetric, q, scale_x, sums, panels, bias, y, y_stride, rows
#define QUANTIZE_PASS T, N, x, x_stride, n_padded, G, q, scale, sums

#define TOKENS_MOST 65 /* of the checker's cases */

static volatile float seen; /* keeps a planted read from being optimised away */

static KERNEL_MATMUL_F32(writes_one_past_rows) {
    matmul_f32_c(F32_PASS);
    if (rows % 16) y[(T - 1) * y_stride + rows] = 0;
}
static KERNEL_MATMUL_F32(writes_whole_panels_always) {
    matmul_f32_c(T, N, x, x_stride, weights, bias, y, y_stride, (rows + 15) / 16 * 16);
}
static KERNEL_MATMUL_F32(forgets_last_column) {
    for (size_t r = 0; r < rows; r += 16)
        matmul_f32_c(T, N & ~(size_t)1, x, x_stride, weights + r * N, bias ? bias + r : NULL, y + r, y_stride,
                     rows - r < 16 ? rows - r : 16);
}
static KERNEL_MATMUL_F32(forgets_bias) {
    (void)bias, matmul_f32_c(T, N, x, x_stride, weights, NULL, y, y_stride, rows);
}
static KERNEL_MATMUL_F32(ignores_input_stride) {
    (void)x_stride, matmul_f32_c(T, N, x, N, weights, bias, y, y_stride, rows);
}
static KERNEL_MATMUL_F32(reads_one_past_input) {
    matmul_f32_c(F32_PASS);
    seen = x[(T - 1) * x_stride + N];
}
static KERNEL_MATMUL_F32(reads_bias_of_whole_panels) {
    matmul_f32_c(F32_PASS);
    if (bias) seen = bias[(rows + 15) / 16 * 16 - 1];
}
static KERNEL_MATMUL_F32(takes_the_first_panel_twice) {
    matmul_f32_c(F32_PASS);
    if (rows > 16) matmul_f32_c(T, N, x, x_stride, weights, NULL, y + 16, y_stride, rows < 32 ? rows - 16 : 16);
}
/* The value of one output as a chain over n. */
static float chain(size_t N, const float *x, const float *weights, size_t r) {
    float sum = 0;
    for (size_t n = 0; n < N; n++) sum += x[n] * weights[(r / 16 * N + n) * 16 + r % 16];
    return sum;
}
static KERNEL_MATMUL_F32(accumulates_into_output) {
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < rows; r++)
            y[t * y_stride + r] += chain(N, x + t * x_stride, weights, r) + (bias ? bias[r] : 0);
}
/* Right within rounding, but a row's sum is split in two when it comes in a batch. */
static KERNEL_MATMUL_F32(depends_on_the_batch) {
    matmul_f32_c(F32_PASS);
    if (T < 6 || N < 8) return;
    for (size_t r = 0; r < rows; r++) {
        float even = 0, odd = 0;
        for (size_t n = 0; n < N; n++) *(n % 2 ? &odd : &even) += x[n] * weights[(r / 16 * N + n) * 16 + r % 16];
        y[r] = even + odd + (bias ? bias[r] : 0);
    }
}

typedef float decode_weight(uint16_t bits);
static float same_value(float value) { return value; }
static float through_half(float value) { return half_to_float(half_from_float(value)); }

/* A multiplication with its own idea of a weight and of an input. */
static void multiply_f16(size_t T, size_t N, const float *x, size_t x_stride, const uint16_t *weights,
                         const float *bias, float *y, size_t y_stride, size_t rows, decode_weight *decode,
                         float (*input)(float)) {
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0;
            for (size_t n = 0; n < N; n++)
                sum += input(x[t * x_stride + n]) * decode(weights[(r / 16 * N + n) * 16 + r % 16]);
            y[t * y_stride + r] = bias ? sum + bias[r] : sum;
        }
}
static KERNEL_MATMUL_F16(takes_f16_for_bf16) {
    multiply_f16(T, N, x, x_stride, weights, bias, y, y_stride, rows, bf16_to_float, same_value);
}
static KERNEL_MATMUL_F16(rounds_the_input) {
    multiply_f16(T, N, x, x_stride, weights, bias, y, y_stride, rows, half_to_float, through_half);
}
static KERNEL_MATMUL_F16(forgets_f16_bias) {
    (void)bias, matmul_f16_c(T, N, x, x_stride, weights, NULL, y, y_stride, rows);
}
static KERNEL_MATMUL_BF16(swaps_the_pair) {
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0;
            for (size_t n = 0; n < n_padded; n++)
                sum += bf16_to_float(x[t * x_stride + n]) *
                       bf16_to_float(weights[r / 16 * 16 * n_padded + n / 2 * 32 + r % 16 * 2 + (n + 1) % 2]);
            y[t * y_stride + r] = bias ? sum + bias[r] : sum;
        }
}
static KERNEL_MATMUL_BF16(forgets_the_last_pair) {
    for (size_t r = 0; r < rows; r += 16)
        matmul_bf16_c(T, n_padded - 2, x, x_stride, weights + r * n_padded, bias ? bias + r : NULL, y + r, y_stride,
                      rows - r < 16 ? rows - r : 16);
}
static KERNEL_MATMUL_BF16(rounds_its_sums) {
    matmul_bf16_c(T, n_padded, x, x_stride, weights, bias, y, y_stride, rows);
    for (size_t r = 0; r < rows; r++) y[r] = bf16_to_float(bf16_from_float(y[r]));
}
static KERNEL_NARROW_F16(truncates_to_f16) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0xffffe000u;
        float value;
        memcpy(&value, &bits, sizeof value);
        y[i] = half_from_float(value);
    }
}
static KERNEL_NARROW_BF16(rounds_ties_up) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        y[i] = x[i] != x[i] ? bf16_from_float(x[i]) : (uint16_t)((bits + 0x8000u) >> 16);
    }
}
static KERNEL_PAIR_BF16(repeats_the_odd_row) { pair_bf16_c(K + K % 2, valid, x, K > 1 ? x_stride : 0, panel); }
static KERNEL_PAIR_BF16(pairs_past_valid_columns) {
    pair_bf16_c(K, valid < 16 && K > 1 ? valid + 1 : valid, x, x_stride, panel);
}
static KERNEL_MATMUL_BF16_F32(rounds_the_input_to_bf16) {
    float rounded[400];
    for (size_t t = 0; t < T; t++) {
        for (size_t n = 0; n < N && n < 400; n++) rounded[n] = bf16_to_float(bf16_from_float(x[t * x_stride + n]));
        matmul_bf16_f32_c(1, N, N > 400 ? x + t * x_stride : rounded, x_stride, weights, bias, y + t * y_stride,
                          y_stride, rows);
    }
}
static KERNEL_MATMUL_BF16_F32(takes_bf16_for_f16) { matmul_f16_c(T, N, x, x_stride, weights, bias, y, y_stride, rows); }
static KERNEL_WIDEN_F16(flushes_denormals) {
    for (size_t i = 0; i < count; i++) y[i] = (x[i] & 0x7c00) ? half_to_float(x[i]) : 0;
}

static KERNEL_WIDEN_S8(takes_one_scale) {
    for (size_t i = 0; i < count; i++) y[i] = (float)x[i] * scale[0];
}

static KERNEL_QUANTIZE_S8(rounds_half_away) {
    quantize_s8_c(QUANTIZE_PASS);
    for (size_t i = 0; i < T * N; i++) {
        float code = x[i / N * x_stride + i % N] / scale[i / N];
        if (isfinite(code) && fabsf(code) <= 127) q[i / N * n_padded + i % N] = (int8_t)roundf(code);
    }
}
static KERNEL_QUANTIZE_S8(leaves_padding) {
    quantize_s8_c(QUANTIZE_PASS);
    if (N < n_padded) q[T * n_padded - 1] = 1;
}
static KERNEL_QUANTIZE_S8(loses_nan) {
    quantize_s8_c(QUANTIZE_PASS);
    for (size_t t = 0; t < T; t++)
        if (isnan(scale[t])) scale[t] = 1;
}
static KERNEL_QUANTIZE_S8(multiplies_by_the_inverse) {
    quantize_s8_c(QUANTIZE_PASS);
    for (size_t t = 0; t < T; t++) {
        float inverse = 1 / scale[t];
        for (size_t n = 0; isfinite(scale[t]) && scale[t] > 1e-30f && n < N; n++)
            q[t * n_padded + n] = (int8_t)fmaxf(-127, fminf(127, rintf(x[t * x_stride + n] * inverse)));
    }
}
static KERNEL_QUANTIZE_S8(sums_without_last_code) {
    quantize_s8_c(QUANTIZE_PASS);
    for (size_t i = 0; i < T * (n_padded / G); i++) sums[i] -= q[(i + 1) * G - 1];
}

static KERNEL_RANGE_F32(leaves_zero_out) {
    range_f32_c(T, N, x, x_stride, low, high);
    for (size_t t = 0; t < T; t++) {
        low[t] = high[t] = x[t * x_stride];
        for (size_t n = 1; n < N; n++) {
            low[t] = fminf(low[t], x[t * x_stride + n]);
            high[t] = fmaxf(high[t], x[t * x_stride + n]);
        }
    }
}
static KERNEL_RANGE_F32(skips_nan) {
    range_f32_c(T, N, x, x_stride, low, high);
    for (size_t t = 0; t < T; t++)
        if (isnan(low[t])) low[t] = high[t] = 0;
}
#define AFFINE_PASS T, N, x, x_stride, n_padded, G, scale, zero, least, most, q, sums
/* What is out of bounds before the zero point is added may be within them afterwards. */
static KERNEL_QUANTIZE_AFFINE(clamps_before_the_zero_point) {
    quantize_affine_c(AFFINE_PASS);
    for (size_t i = 0; i < T * N; i++) {
        float code = fmaxf(-127, fminf(127, rintf(x[i / N * x_stride + i % N] / scale[i / N])));
        if (isfinite(scale[i / N]))
            q[i / N * n_padded + i % N] = (int8_t)fmaxf((float)least, fminf((float)most, code + (float)zero[i / N]));
    }
    for (size_t i = 0; i < T * (n_padded / G); i++) {
        sums[i] = 0;
        for (size_t n = 0; n < G; n++) sums[i] += q[i * G + n];
    }
}
static KERNEL_QUANTIZE_AFFINE(rounds_after_the_zero_point) {
    quantize_affine_c(AFFINE_PASS);
    for (size_t i = 0; i < T * N; i++) {
        float code = rintf(x[i / N * x_stride + i % N] / scale[i / N] + (float)zero[i / N]);
        if (code >= (float)least && code <= (float)most) q[i / N * n_padded + i % N] = (int8_t)code;
    }
}
static KERNEL_QUANTIZE_AFFINE(pads_with_the_zero_point) {
    quantize_affine_c(AFFINE_PASS);
    for (size_t t = 0; t < T; t++) memset(q + t * n_padded + N, zero[t], n_padded - N);
}
static KERNEL_QUANTIZE_AFFINE(keeps_the_scale_of_nan) {
    float kept[TOKENS_MOST];
    memcpy(kept, scale, T * sizeof *scale);
    quantize_affine_c(AFFINE_PASS);
    memcpy(scale, kept, T * sizeof *scale);
}

/* Column 0 of row r in panels of n_padded columns. */
static const int8_t *row_s8(const int8_t *panels, size_t n_padded, size_t r) {
    return panels + r / 16 * 16 * n_padded + r % 16 * 4;
}
static KERNEL_MATMUL_S8(saturates_pairs) {
    matmul_s8_c(S8_PASS);
    for (size_t r = 0; !zeros && r < rows; r++) {
        const int8_t *row = row_s8(panels, n_padded, r);
        int32_t sum = 0, row_sum = 0;
        for (size_t n = 0; n < n_padded; n++) row_sum += row[n / 4 * 64 + n % 4];
        for (size_t n = 0; n < n_padded; n += 2) {
            const int8_t *w = row + n / 4 * 64 + n % 4;
            int pair = (q[n] + 128) * w[0] + (q[n + 1] + 128) * w[1];
            sum += pair > INT16_MAX ? INT16_MAX : pair < INT16_MIN ? INT16_MIN : pair;
        }
        float value = (scale_x[0] * scale_w[r]) * (float)(sum - 128 * row_sum);
        y[r] = bias ? value + bias[r] : value;
    }
}
static KERNEL_MATMUL_S8(uses_fma_at_the_end) {
    matmul_s8_c(T, n_padded, q, scale_x, panels, scale_w, row_negative, row_total, zeros, NULL, y, y_stride, rows);
    for (size_t t = 0; bias && t < T; t++)
        for (size_t r = 0; r < rows; r++) {
            if (zeros) {
                y[t * y_stride + r] += bias[r];
                continue;
            }
            const int8_t *row = row_s8(panels, n_padded, r);
            int32_t sum = 0;
            for (size_t n = 0; n < n_padded; n++) sum += q[t * n_padded + n] * row[n / 4 * 64 + n % 4];
            y[t * y_stride + r] = fmaf(scale_x[t] * scale_w[r], (float)sum, bias[r]);
        }
}
static KERNEL_MATMUL_S8(rounds_columns_up) {
    matmul_s8_c(S8_PASS);
    seen = panels[(rows - 1) / 16 * 16 * n_padded + (n_padded + 63) / 64 * 64 * 16 - 1];
}
static KERNEL_MATMUL_S8(scales_all_panels_as_the_first) {
    matmul_s8_c(S8_PASS);
    if (rows > 16)
        matmul_s8_c(T, n_padded, q, scale_x, panels + 16 * n_padded, scale_w, row_negative, row_total, zeros,
                    bias ? bias + 16 : NULL, y + 16, y_stride, rows - 16);
}
static KERNEL_MATMUL_S8(reads_whole_panels_of_bias) {
    matmul_s8_c(S8_PASS);
    if (bias) seen = bias[(rows + 15) / 16 * 16 - 1];
}
static KERNEL_MATMUL_S8(writes_whole_panels) {
    matmul_s8_c(S8_PASS);
    if (rows % 16) y[(T - 1) * y_stride + rows] = 0;
}
static KERNEL_MATMUL_S8(takes_zero_points_of_the_first_token) {
    matmul_s8_c(S8_PASS);
    for (size_t t = 1; zeros && t < T; t++)
        matmul_s8_c(1, n_padded, q + t * n_padded, scale_x + t, panels, scale_w, row_negative, row_total, zeros, bias,
                    y + t * y_stride, y_stride, rows);
}
static KERNEL_MATMUL_S8(forgets_zero_points_of_weights) {
    struct zero_points some = {0};
    if (zeros) some = (struct zero_points){.x = zeros->x, .row_sum = zeros->row_sum};
    matmul_s8_c(T, n_padded, q, scale_x, panels, scale_w, row_negative, row_total, &some, bias, y, y_stride, rows);
}
static KERNEL_MATMUL_S8(negates_the_least_code) { /* sign(x, w) as some AVX2 code has it */
    matmul_s8_c(S8_PASS);
    for (size_t r = 0; !zeros && r < rows; r++) {
        const int8_t *row = row_s8(panels, n_padded, r);
        int32_t sum = 0;
        for (size_t n = 0; n < n_padded; n++) {
            int w = row[n / 4 * 64 + n % 4];
            sum += w < 0 ? -w * (int8_t)-q[n] : w * q[n];
        }
        float value = (scale_x[0] * scale_w[r]) * (float)sum;
        y[r] = bias ? value + bias[r] : value;
    }
}

#define GROUPS_PASS T, n_padded, G, symmetric, q, scale_x, zero_x, sums, panels, row_value, bias, y, y_stride, rows
static KERNEL_MATMUL_S8_GROUPS(forgets_zero_points_of_groups) {
    const int32_t none[TOKENS_MOST * 4] = {0};
    (void)sums;
    matmul_s8_groups_c(T, n_padded, G, symmetric, q, scale_x, zero_x, none, panels, row_value, bias, y, y_stride, rows);
}
static KERNEL_MATMUL_S8_GROUPS(forgets_zero_points_of_inputs) {
    (void)zero_x;
    matmul_s8_groups_c(T, n_padded, G, symmetric, q, scale_x, NULL, sums, panels, row_value, bias, y, y_stride, rows);
}
static KERNEL_MATMUL_S8_GROUPS(steps_over_groups_as_if_symmetric) {
    matmul_s8_groups_c(GROUPS_PASS);
    if (rows > 16)
        matmul_s8_groups_c(T, n_padded, G, symmetric, q, scale_x, zero_x, sums,
                           panels + panel_s8_groups_bytes(n_padded, G, 1), row_value ? row_value + 16 : NULL,
                           bias ? bias + 16 : NULL, y + 16, y_stride, rows < 32 ? rows - 16 : 16);
}
static KERNEL_MATMUL_S8_GROUPS(reads_bias_of_whole_group_panels) {
    matmul_s8_groups_c(GROUPS_PASS);
    if (bias) seen = bias[(rows + 15) / 16 * 16 - 1];
}

static KERNEL_MATMUL_U4(forgets_zero_points) {
    const int32_t none[TOKENS_MOST * 6] = {0};
    (void)sums, matmul_u4_c(T, n_padded, G, symmetric, q, scale_x, none, panels, bias, y, y_stride, rows);
}
static KERNEL_MATMUL_U4(mixes_up_the_scales) {
    matmul_u4_c(U4_PASS);
    float first = y[0];
    if (rows > 1) y[0] = y[1], y[1] = first;
}
static KERNEL_MATMUL_U4(sums_16_pairs_in_16_bits) {
    matmul_u4_c(U4_PASS);
    if (G < 64) return;
    int16_t sum = 0;
    int64_t exact = 0;
    const uint8_t *codes = panels + (symmetric ? 32 : 48);
    for (size_t n = 0; n < 64; n++) {
        int product = q[n] * (n % 8 < 4 ? codes[n / 8 * 64 + n % 4] & 15 : codes[n / 8 * 64 + n % 4] >> 4);
        sum = (int16_t)(sum + product), exact += product;
    }
    if (sum != exact) y[0] += 1;
}
static KERNEL_MATMUL_U4(steps_over_panels_as_if_symmetric) {
    matmul_u4_c(U4_PASS);
    if (rows > 16)
        matmul_u4_c(T, n_padded, G, symmetric, q, scale_x, sums, panels + panel_u4_bytes(n_padded, G, 1),
                    bias ? bias + 16 : NULL, y + 16, y_stride, rows < 32 ? rows - 16 : 16);
}
static KERNEL_MATMUL_U4(reads_u4_bias_of_whole_panels) {
    matmul_u4_c(U4_PASS);
    if (bias) seen = bias[(rows + 15) / 16 * 16 - 1];
}

static KERNEL_GELU(tanh_instead_of_erf) {
    for (size_t i = 0; i < count; i++)
        y[i] = 0.5f * x[i] * (1 + tanhf(0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}
static KERNEL_GELU(forgets_the_tail) { gelu_c(count / 8 * 8, x, y); }
static KERNEL_GELU(overruns_to_whole_vectors) { gelu_c((count + 7) / 8 * 8, x, y); }
static KERNEL_GELU_TANH(erf_instead_of_tanh) { gelu_c(count, x, y); }
static KERNEL_GELU_TANH(cubes_without_the_factor) {
    for (size_t i = 0; i < count; i++)
        y[i] = 0.5f * x[i] * (1 + tanhf(0.7978845608f * (x[i] + 0.0447f * x[i] * x[i] * x[i])));
}
static KERNEL_SILU_GATE(swaps_gate_and_up) { silu_gate_c(count, up, gate, y); }
static KERNEL_SILU_GATE(gate_without_its_value) {
    for (size_t i = 0; i < count; i++) y[i] = up[i] / (1 + expf(-gate[i]));
}
static KERNEL_GELU_BACKWARD(breaks_in_place) {
    memset(dx, 0, count * sizeof *dx);
    gelu_backward_c(count, x, dy, dx);
}
static KERNEL_SOFTMAX(overflows) {
    for (size_t i = 0; i < rows; i++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++) sum += x[i * stride + j] = expf(scale * x[i * stride + j]);
        for (size_t j = 0; j < n; j++) x[i * stride + j] /= sum;
    }
}
static KERNEL_SOFTMAX(counts_padding_lanes) {
    softmax_c(rows, n, stride, scale, x);
    for (size_t i = 0; i < rows && n % 8; i++)
        for (size_t j = 0; j < n; j++) x[i * stride + j] *= 1 - 1e-4f;
}
#define ATTEND_PASS T, D, W, n, q, k, v, v_stride, low, high, top, sum, y
/* What the first stretch left stays as it was summed, under the old maximum. */
static KERNEL_ATTEND_F32(forgets_to_rescale) {
    for (size_t t = 0; t < T; t++) {
        float before = sum[t], old = top[t], now;
        attend_f32_c(1, D, W, n, q + t * D, k, v, v_stride, low + t, high + t, top + t, sum + t, y + t * W);
        now = top[t];
        if (before > 0 && now > old) sum[t] += before * (1 - exp2f(old - now));
    }
}
static KERNEL_ATTEND_F16(sees_the_next_key) {
    for (size_t t = 0; t < T; t++) {
        uint32_t end = low[t] < high[t] && high[t] < n ? high[t] + 1 : high[t];
        attend_f16_c(1, D, W, n, q + t * D, k, v, v_stride, low + t, &end, top + t, sum + t, y + t * W);
    }
}
static KERNEL_ATTEND_F32(touches_rows_that_see_nothing) {
    attend_f32_c(ATTEND_PASS);
    for (size_t t = 0; t < T; t++)
        if (low[t] >= high[t]) top[t] = 0;
}
static KERNEL_ATTEND_F16(reads_values_of_whole_panels) {
    attend_f16_c(ATTEND_PASS);
    seen = v[((n + 15) / 16 * 16 - 1) * v_stride + W - 1];
}
/* Zero steps are the code 0 here, beyond n alone. */
static KERNEL_SOFTMAX_S8(pads_with_the_zero_code) {
    softmax_s8_c(rows, n, stride, score, inverse, code, scale);
    for (size_t i = 0; i < rows; i++) memset(code + i * stride + n, 0, stride - n);
}
static KERNEL_SOFTMAX_S8(sums_without_the_inverse) {
    (void)inverse;
    float ones[1024];
    for (size_t j = 0; j < n; j++) ones[j] = 1;
    softmax_s8_c(rows, n, stride, score, ones, code, scale);
}
static KERNEL_SOFTMAX_S8(lets_nan_pass) {
    softmax_s8_c(rows, n, stride, score, inverse, code, scale);
    for (size_t i = 0; i < rows; i++)
        if (isnan(scale[i])) scale[i] = 0;
}
static KERNEL_SOFTMAX_S8(rounds_down) {
    softmax_s8_c(rows, n, stride, score, inverse, code, scale);
    for (size_t i = 0; i < rows * stride; i++)
        if (code[i] > -127 && code[i] < 127) code[i]--;
}
static KERNEL_SOFTMAX_BF16(cuts_bits_off) {
    softmax_bf16_c(rows, n, stride, score, weight, scale);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++)
            if (weight[i * stride + j] % 2 == 0 && weight[i * stride + j] > 0x100) weight[i * stride + j] -= 1;
}
static KERNEL_SOFTMAX_BF16(sums_a_few_columns_more) {
    softmax_bf16_c(rows, n, stride, score, weight, scale);
    for (size_t i = 0; i < rows && n % 16; i++) scale[i] /= 1 + 1e-4f;
}
static KERNEL_PANEL_SUMS_S8(counts_what_is_above_zero) {
    panel_sums_s8_c(n_padded, count, panels, total, negative);
    for (size_t r = 0; r < 16 * count; r++) negative[r] += total[r];
}
static KERNEL_PANEL_SUMS_S8(leaves_the_last_columns) {
    if (n_padded > 4) panel_sums_s8_c(n_padded, count, panels, total, negative);
    else memset(total, 0, 16 * count * sizeof *total);
}
static KERNEL_PACK_F32(leaves_absent_rows) {
    float before[16];
    memcpy(before, panel, sizeof before);
    pack_f32_c(N, x, x_stride, valid, panel);
    memcpy(panel + valid, before + valid, (16 - valid) * sizeof *panel);
}
static KERNEL_LAYER_NORM(divides_by_one_less) {
    for (size_t t = 0; t < T; t++) {
        double sum = 0, squares = 0;
        for (size_t c = 0; c < C; c++) sum += (double)x[t * C + c];
        for (size_t c = 0; c < C; c++) squares += pow((double)x[t * C + c] - sum / (double)C, 2);
        double factor = 1 / sqrt(squares / (double)(C - 1) + (double)eps), center = sum / (double)C;
        if (mean) mean[t] = (float)center;
        if (rstd) rstd[t] = (float)factor;
        for (size_t c = 0; c < C; c++)
            y[t * C + c] = (float)(((double)x[t * C + c] - center) * factor) * gain[c] + bias[c];
    }
}
static KERNEL_LAYER_NORM(ignores_absent_statistics) {
    layer_norm_c(T, C, x, gain, bias, eps, y, mean, rstd);
    if (!mean) mean = y - 1;
    mean[0] = 0;
}
static KERNEL_LAYER_NORM(cancels_in_one_pass) {
    layer_norm_c(T, C, x, gain, bias, eps, y, mean, rstd);
    for (size_t t = 0; t < T; t++) {
        float sum = 0, squares = 0;
        for (size_t c = 0; c < C; c++) sum += x[t * C + c], squares += x[t * C + c] * x[t * C + c];
        if (rstd) rstd[t] = 1 / sqrtf(fabsf(squares / (float)C - sum / (float)C * (sum / (float)C)) + eps);
    }
}
static KERNEL_RMS_NORM(subtracts_the_mean) {
    for (size_t t = 0; t < T; t++) {
        double sum = 0, squares = 0;
        for (size_t c = 0; c < C; c++) sum += (double)x[t * C + c];
        for (size_t c = 0; c < C; c++) squares += pow((double)x[t * C + c] - sum / (double)C, 2);
        float factor = (float)(1 / sqrt(squares / (double)C + (double)eps));
        if (rstd) rstd[t] = factor;
        for (size_t c = 0; c < C; c++) y[t * C + c] = x[t * C + c] * factor * gain[c];
    }
}
static KERNEL_RMS_NORM(adds_eps_outside_the_root) {
    rms_norm_c(T, C, x, gain, 0, y, rstd);
    for (size_t i = 0; i < T * C; i++) y[i] /= 1 + eps;
}
static KERNEL_ADD(adds_twice_at_the_end) {
    add_c(count, x, y);
    if (count) y[count - 1] += x[count - 1];
}
static KERNEL_ADAMW(puts_eps_inside_the_root) {
    adamw_c(count, p, grad, grad_scale, m, v, rate, b1, b2, 0, decay, correction1, correction2 + eps * 100);
}
static KERNEL_ADAMW(decays_after_the_step) {
    adamw_c(count, p, grad, grad_scale, m, v, rate, b1, b2, eps, 0, correction1, correction2);
    for (size_t i = 0; i < count; i++) p[i] *= 1 - rate * decay;
}

static void planted_bugs_in_float_multiplication_are_caught(void **state) {
    (void)state;
    PLANT(matmul_f32, writes_one_past_rows);
    PLANT(matmul_f32, writes_whole_panels_always);
    PLANT(matmul_f32, forgets_last_column);
    PLANT(matmul_f32, forgets_bias);
    PLANT(matmul_f32, ignores_input_stride);
    PLANT(matmul_f32, reads_one_past_input);
    PLANT(matmul_f32, reads_bias_of_whole_panels);
    PLANT(matmul_f32, takes_the_first_panel_twice);
    PLANT(matmul_f32, accumulates_into_output);
    PLANT(matmul_f32, depends_on_the_batch);
}

static void planted_bugs_in_16_bits_are_caught(void **state) {
    (void)state;
    PLANT(matmul_f16, takes_f16_for_bf16);
    PLANT(matmul_f16, rounds_the_input);
    PLANT(matmul_f16, forgets_f16_bias);
    PLANT(matmul_bf16_f32, rounds_the_input_to_bf16);
    PLANT(matmul_bf16_f32, takes_bf16_for_f16);
    PLANT(matmul_bf16, swaps_the_pair);
    PLANT(matmul_bf16, forgets_the_last_pair);
    PLANT(matmul_bf16, rounds_its_sums);
    PLANT(narrow_f16, truncates_to_f16);
    PLANT(narrow_bf16, rounds_ties_up);
    PLANT(pair_bf16, repeats_the_odd_row);
    PLANT(pair_bf16, pairs_past_valid_columns);
    PLANT(widen_f16, flushes_denormals);
    PLANT(widen_s8, takes_one_scale);
}

static void planted_bugs_in_integer_kernels_are_caught(void **state) {
    (void)state;
    PLANT(quantize_s8, rounds_half_away);
    PLANT(quantize_s8, leaves_padding);
    PLANT(quantize_s8, loses_nan);
    PLANT(quantize_s8, multiplies_by_the_inverse);
    PLANT(quantize_s8, sums_without_last_code);
    PLANT(range_f32, leaves_zero_out);
    PLANT(range_f32, skips_nan);
    PLANT(quantize_affine, clamps_before_the_zero_point);
    PLANT(quantize_affine, rounds_after_the_zero_point);
    PLANT(quantize_affine, pads_with_the_zero_point);
    PLANT(quantize_affine, keeps_the_scale_of_nan);
    PLANT(matmul_s8, takes_zero_points_of_the_first_token);
    PLANT(matmul_s8, forgets_zero_points_of_weights);
    PLANT(matmul_s8, negates_the_least_code);
    PLANT(matmul_s8, saturates_pairs);
    PLANT(matmul_s8, uses_fma_at_the_end);
    PLANT(matmul_s8, rounds_columns_up);
    PLANT(matmul_s8, scales_all_panels_as_the_first);
    PLANT(matmul_s8, reads_whole_panels_of_bias);
    PLANT(matmul_s8, writes_whole_panels);
    PLANT(matmul_s8_groups, forgets_zero_points_of_groups);
    PLANT(matmul_s8_groups, forgets_zero_points_of_inputs);
    PLANT(matmul_s8_groups, steps_over_groups_as_if_symmetric);
    PLANT(matmul_s8_groups, reads_bias_of_whole_group_panels);
    PLANT(matmul_u4, forgets_zero_points);
    PLANT(matmul_u4, mixes_up_the_scales);
    PLANT(matmul_u4, sums_16_pairs_in_16_bits);
    PLANT(matmul_u4, steps_over_panels_as_if_symmetric);
    PLANT(matmul_u4, reads_u4_bias_of_whole_panels);
}

static void planted_bugs_in_elementwise_kernels_are_caught(void **state) {
    (void)state;
    PLANT(gelu, tanh_instead_of_erf);
    PLANT(gelu, forgets_the_tail);
    PLANT(gelu, overruns_to_whole_vectors);
    PLANT(gelu_tanh, erf_instead_of_tanh);
    PLANT(gelu_tanh, cubes_without_the_factor);
    PLANT(silu_gate, swaps_gate_and_up);
    PLANT(silu_gate, gate_without_its_value);
    PLANT(gelu_backward, breaks_in_place);
    PLANT(softmax, overflows);
    PLANT(softmax, counts_padding_lanes);
    PLANT(attend_f32, forgets_to_rescale);
    PLANT(attend_f16, sees_the_next_key);
    PLANT(attend_f32, touches_rows_that_see_nothing);
    PLANT(attend_f16, reads_values_of_whole_panels);
    PLANT(softmax_s8, pads_with_the_zero_code);
    PLANT(softmax_s8, sums_without_the_inverse);
    PLANT(softmax_s8, lets_nan_pass);
    PLANT(softmax_s8, rounds_down);
    PLANT(softmax_bf16, cuts_bits_off);
    PLANT(softmax_bf16, sums_a_few_columns_more);
    PLANT(panel_sums_s8, counts_what_is_above_zero);
    PLANT(panel_sums_s8, leaves_the_last_columns);
    PLANT(pack_f32, leaves_absent_rows);
    PLANT(layer_norm, divides_by_one_less);
    PLANT(layer_norm, ignores_absent_statistics);
    PLANT(layer_norm, cancels_in_one_pass);
    PLANT(rms_norm, subtracts_the_mean);
    PLANT(rms_norm, adds_eps_outside_the_root);
    PLANT(add, adds_twice_at_the_end);
    PLANT(adamw, puts_eps_inside_the_root);
    PLANT(adamw, decays_after_the_step);
}

/* The other half of the proof: the same number of cases finds nothing in the C versions. */
static void no_false_alarm(void **state) {
    (void)state;
    struct kernels table;
    kernels_fill(&table, 0);
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct checker_report report;
        checker_run(&table, NULL, 60, seed, &report);
        if (report.failures) fail_msg("seed %llu: %s", (unsigned long long)seed, report.first);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planted_bugs_in_float_multiplication_are_caught),
        cmocka_unit_test(planted_bugs_in_16_bits_are_caught),
        cmocka_unit_test(planted_bugs_in_integer_kernels_are_caught),
        cmocka_unit_test(planted_bugs_in_elementwise_kernels_are_caught),
        cmocka_unit_test(no_false_alarm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
