/* The C versions of the attention kernels: the oracle of the variants, and what runs where there is none.
 *
 * One row at a time, in the plainest form of the contract. The two element types share a body through a macro whose
 * argument reads one element. */
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <math.h>
#include <string.h>

KERNEL_PACK_F32(pack_f32_c) {
    memset(panel, 0, N * PANEL_ROWS * sizeof *panel);
    for (size_t r = 0; r < valid; r++)
        for (size_t i = 0; i < N; i++) panel[i * PANEL_ROWS + r] = x[r * x_stride + i];
}

/* Scores become weights 2^(s-top) in place; returns the factor for what was summed under the old maximum. */
static float weigh(size_t count, float *score, float *top, float *sum) {
    float largest = *top, added = 0;
    for (size_t j = 0; j < count; j++)
        if (score[j] > largest) largest = score[j];
    float factor = exp2f(*top - largest);
    for (size_t j = 0; j < count; j++) {
        score[j] = exp2f(score[j] - largest);
        added += score[j];
    }
    *top = largest;
    *sum = *sum * factor + added;
    return factor;
}

#define ATTEND_BODY(read)                                                                                              \
    float score[ATTEND_KEYS];                                                                                          \
    (void)n;                                                                                                           \
    for (size_t t = 0; t < T; t++, q += D, y += W) {                                                                   \
        if (low[t] >= high[t]) continue;                                                                               \
        for (size_t j = low[t]; j < high[t]; j++) {                                                                    \
            float product = 0;                                                                                         \
            for (size_t d = 0; d < D; d++)                                                                             \
                product += q[d] * read(k[(j / PANEL_ROWS * D + d) * PANEL_ROWS + j % PANEL_ROWS]);                     \
            score[j - low[t]] = product;                                                                               \
        }                                                                                                              \
        float factor = weigh(high[t] - low[t], score, top + t, sum + t);                                               \
        for (size_t w = 0; w < W; w++) y[w] *= factor;                                                                 \
        for (size_t j = low[t]; j < high[t]; j++)                                                                      \
            for (size_t w = 0; w < W; w++) y[w] += score[j - low[t]] * read(v[j * v_stride + w]);                      \
    }

#define READ_F32(value) (value)
KERNEL_ATTEND_F32(attend_f32_c){ATTEND_BODY(READ_F32)} KERNEL_ATTEND_F16(attend_f16_c) { ATTEND_BODY(half_to_float) }

static float largest_of(size_t n, const float *score) {
    float top = -INFINITY;
    for (size_t j = 0; j < n; j++)
        if (score[j] > top) top = score[j];
    return top;
}

KERNEL_SOFTMAX_BF16(softmax_bf16_c) {
    for (size_t row = 0; row < rows; row++, score += stride, weight += stride) {
        float top = largest_of(n, score), total = 0;
        for (size_t j = 0; j < n; j++) {
            float p = exp2f(score[j] - top);
            total += p;
            weight[j] = bf16_from_float(p);
        }
        memset(weight + n, 0, (stride - n) * sizeof *weight);
        scale[row] = 1.0f / total;
    }
}

KERNEL_SOFTMAX_S8(softmax_s8_c) {
    for (size_t row = 0; row < rows; row++, score += stride, code += stride) {
        float top = largest_of(n, score), total = 0;
        for (size_t j = 0; j < n; j++) {
            float steps = 255.0f * exp2f(score[j] - top);
            total += steps * inverse[j];
            code[j] = (int8_t)((steps > 0 ? (int)rintf(fminf(steps, 255)) : 0) - 128);
        }
        memset(code + n, -128, stride - n);
        scale[row] = 1.0f / total;
    }
}

KERNEL_PANEL_SUMS_S8(panel_sums_s8_c) {
    for (size_t p = 0; p < count; p++, panels += n_padded * PANEL_ROWS)
        for (size_t r = 0; r < PANEL_ROWS; r++) {
            int32_t sum = 0, below = 0;
            for (size_t n = 0; n < n_padded; n++) {
                int32_t code = panels[n / 4 * 4 * PANEL_ROWS + r * 4 + n % 4];
                sum += code;
                below += code < 0 ? -code : 0;
            }
            total[p * PANEL_ROWS + r] = sum;
            negative[p * PANEL_ROWS + r] = below;
        }
}
