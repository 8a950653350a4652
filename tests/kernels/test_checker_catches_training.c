/* As test_checker_catches.c, for the kernels that training alone uses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "planted.h"

static volatile float seen; /* keeps a planted read from being optimised away */

#define MULTIPLY_PASS M, N, K, a, a_row, a_step, b, b_stride, add, y, y_stride
static KERNEL_MULTIPLY_F32(adds_always) {
    (void)add, multiply_f32_c(M, N, K, a, a_row, a_step, b, b_stride, 1, y, y_stride);
}
static KERNEL_MULTIPLY_F32(takes_a_as_it_lies) {
    (void)a_row, multiply_f32_c(M, N, K, a, a_step == 1 ? a_row : K, 1, b, b_stride, add, y, y_stride);
}
static KERNEL_MULTIPLY_F32(starts_anew_after_a_stretch) {
    size_t skipped = K > 256 ? 256 : 0;
    multiply_f32_c(M, N, K - skipped, a + skipped * a_step, a_row, a_step, b + skipped * b_stride, b_stride, add, y,
                   y_stride);
}
static KERNEL_MULTIPLY_F32(writes_whole_vectors) {
    multiply_f32_c(MULTIPLY_PASS);
    if (N % 8) y[(M - 1) * y_stride + N] = 0;
}
static KERNEL_MULTIPLY_F32(reads_whole_vectors) {
    multiply_f32_c(MULTIPLY_PASS);
    seen = b[(K - 1) * b_stride + (N + 7) / 8 * 8 - 1];
}
/* Right within rounding, but what is there is added last where rows come together. */
static KERNEL_MULTIPLY_F32(adds_last_in_a_batch) {
    float *before = malloc((M + 1) * sizeof *before);
    assert_non_null(before);
    for (size_t m = 0; m < M; m++) before[m] = y[m * y_stride];
    multiply_f32_c(MULTIPLY_PASS);
    if (add && M >= 2) {
        multiply_f32_c(M, 1, K, a, a_row, a_step, b, b_stride, 0, y, y_stride);
        for (size_t m = 0; m < M; m++) y[m * y_stride] += before[m];
    }
    free(before);
}

static KERNEL_GELU_TANH_BACKWARD(derives_the_other_gelu) { gelu_backward_c(count, x, dy, dx); }
static KERNEL_GELU_TANH_BACKWARD(overflows_far_out) {
    for (size_t i = 0; i < count; i++) {
        float s = 1 / (1 + expf(-1.5957691f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
        float steep = x[i] * (1.5957691f * (1 + 0.134145f * x[i] * x[i])); /* may be infinite, times 0 */
        dx[i] = dy[i] * (s + steep * (s * (1 - s)));
    }
}
static KERNEL_GELU_TANH_BACKWARD(overwrites_dy_first) {
    memset(dx, 0, count * sizeof *dx);
    gelu_tanh_backward_c(count, x, dy, dx);
}
static KERNEL_SILU_GATE_BACKWARD(swaps_the_gradients) { silu_gate_backward_c(count, gate, up, dy, dup, dgate); }
static KERNEL_SILU_GATE_BACKWARD(writes_dgate_before_it_reads_dy) {
    float d[400];
    memcpy(d, dy, count * sizeof *d);
    silu_gate_backward_c(count, gate, up, d, dgate, dup);
    for (size_t i = 0; i < count; i++) dup[i] = dy[i] * gate[i] / (1 + expf(-gate[i]));
}
static KERNEL_SILU_GATE_BACKWARD(forgets_the_slope) {
    for (size_t i = 0; i < count; i++) {
        float s = 1 / (1 + expf(-gate[i])), d = dy[i], u = up[i];
        dgate[i] = d * u * s, dup[i] = d * gate[i] * s;
    }
}
static KERNEL_LAYER_NORM_BACKWARD(overwrites_gradients) {
    memset(dgain, 0, C * sizeof *dgain), memset(dbias, 0, C * sizeof *dbias);
    layer_norm_backward_c(T, C, x, mean, rstd, gain, dy, dx, dgain, dbias);
}
static KERNEL_LAYER_NORM_BACKWARD(forgets_the_mean_of_g) {
    for (size_t t = 0; t < T; t++) {
        double sum = 0;
        for (size_t c = 0; c < C; c++) sum += (double)gain[c] * (double)dy[t * C + c];
        layer_norm_backward_c(1, C, x + t * C, mean + t, rstd + t, gain, dy + t * C, dx + t * C, dgain, dbias);
        for (size_t c = 0; c < C; c++) dx[t * C + c] += rstd[t] * (float)(sum / (double)C);
    }
}
static KERNEL_LAYER_NORM_BACKWARD(drops_the_last_columns) {
    float last[8], *from = dgain + C / 8 * 8;
    memcpy(last, from, C % 8 * sizeof *last);
    layer_norm_backward_c(T, C, x, mean, rstd, gain, dy, dx, dgain, dbias);
    memcpy(from, last, C % 8 * sizeof *last);
}
static KERNEL_RMS_NORM_BACKWARD(sums_without_gain) {
    for (size_t t = 0; t < T; t++) {
        double sum = 0;
        for (size_t c = 0; c < C; c++) sum += (double)dy[t * C + c] * (double)x[t * C + c] * (double)rstd[t];
        for (size_t c = 0; c < C; c++) {
            float xhat = x[t * C + c] * rstd[t], d = dy[t * C + c];
            dgain[c] += d * xhat;
            dx[t * C + c] = rstd[t] * (gain[c] * d - xhat * (float)(sum / (double)C));
        }
    }
}
static KERNEL_RMS_NORM_BACKWARD(reads_dy_after_it_wrote_dx) {
    float once[400] = {0};
    rms_norm_backward_c(T, C, x, rstd, gain, dy, dx, once);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < C; c++) dgain[c] += dy[t * C + c] * (x[t * C + c] * rstd[t]);
}
static KERNEL_SOFTMAX_BACKWARD(multiplies_in_another_order) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = i * stride; j < i * stride + n; j++) x[j] = p[j] * (x[j] - sum[i]) * scale;
}
static KERNEL_SOFTMAX_BACKWARD(touches_what_lies_between_rows) {
    softmax_backward_c(rows, n, stride, scale, p, sum, x);
    if (rows > 1 && stride > n) x[n] = 0;
}

static KERNEL_DROPOUT(keeps_what_equals_the_limit_out) {
    dropout_c(seed, stream, first, count, dropped ? dropped - 1 : 0, scale, x, keep);
}
static KERNEL_DROPOUT(counts_in_32_bits) {
    dropout_c(seed, stream, (first / 8 & UINT32_MAX) * 8, count, dropped, scale, x, keep);
}
static KERNEL_DROPOUT(compares_with_sign) {
    dropout_c(seed, stream, first, count, dropped, scale, x, keep);
    for (size_t i = 0; i < count && dropped > 32767; i++) keep[i] = 1;
}
static KERNEL_DROPOUT(forgets_the_scale) {
    (void)scale;
    dropout_c(seed, stream, first, count, dropped, 1, x, keep);
}
static KERNEL_DROPOUT(writes_whole_blocks) {
    dropout_c(seed, stream, first, count, dropped, scale, x, keep);
    if (count % 8) keep[count] = 1;
}

static void planted_bugs_in_products_are_caught(void **state) {
    (void)state;
    PLANT(multiply_f32, adds_always);
    PLANT(multiply_f32, takes_a_as_it_lies);
    PLANT(multiply_f32, starts_anew_after_a_stretch);
    PLANT(multiply_f32, writes_whole_vectors);
    PLANT(multiply_f32, reads_whole_vectors);
    PLANT(multiply_f32, adds_last_in_a_batch);
}

static void planted_bugs_in_activations_are_caught(void **state) {
    (void)state;
    PLANT(gelu_tanh_backward, derives_the_other_gelu);
    PLANT(gelu_tanh_backward, overflows_far_out);
    PLANT(gelu_tanh_backward, overwrites_dy_first);
    PLANT(silu_gate_backward, swaps_the_gradients);
    PLANT(silu_gate_backward, writes_dgate_before_it_reads_dy);
    PLANT(silu_gate_backward, forgets_the_slope);
}

static void planted_bugs_in_rows_are_caught(void **state) {
    (void)state;
    PLANT(layer_norm_backward, overwrites_gradients);
    PLANT(layer_norm_backward, forgets_the_mean_of_g);
    PLANT(layer_norm_backward, drops_the_last_columns);
    PLANT(rms_norm_backward, sums_without_gain);
    PLANT(rms_norm_backward, reads_dy_after_it_wrote_dx);
    PLANT(softmax_backward, multiplies_in_another_order);
    PLANT(softmax_backward, touches_what_lies_between_rows);
}

static void planted_bugs_in_dropout_are_caught(void **state) {
    (void)state;
    PLANT(dropout, keeps_what_equals_the_limit_out);
    PLANT(dropout, counts_in_32_bits);
    PLANT(dropout, compares_with_sign);
    PLANT(dropout, forgets_the_scale);
    PLANT(dropout, writes_whole_blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planted_bugs_in_products_are_caught),
        cmocka_unit_test(planted_bugs_in_activations_are_caught),
        cmocka_unit_test(planted_bugs_in_rows_are_caught),
        cmocka_unit_test(planted_bugs_in_dropout_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
