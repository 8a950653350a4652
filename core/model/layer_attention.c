/* Scaled dot-product attention of one head of one sequence (Vaswani et al. 2017), both ways.
 *
 *   S = q kᵀ / √D   P = softmax(S)   O = P v
 *   dP = dO vᵀ   dS = P ∘ (dP - rowsum(dP ∘ P)) / √D   dq = dS k   dk = dSᵀ q   dv = Pᵀ dO
 *
 * Sequences are short, so a library's fixed cost per call would exceed the work: the products run on the panel
 * kernel, whose panels of 16 outputs are cut from k and v here. Each result depends on its own sequence alone.
 */
#include "model/layers.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

static size_t padded(size_t n) { return (n + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS; }

size_t attention_scratch(size_t t, size_t D, bool backward) {
    size_t panel = PANEL_ROWS * (t > D ? t : D);
    return panel + (backward ? 2 : 1) * t * padded(t);
}

/* y(M,n) = a(M,K) · b(n,K)ᵀ: 16 rows of b side by side are one panel. */
static void product_transposed(size_t M, size_t n, size_t K, const float *a, size_t a_stride, const float *b,
                               size_t b_stride, float *y, size_t y_stride, float *panel) {
    for (size_t j = 0; j < n; j += PANEL_ROWS) {
        size_t valid = n - j < PANEL_ROWS ? n - j : PANEL_ROWS;
        if (valid < PANEL_ROWS) memset(panel, 0, K * PANEL_ROWS * sizeof *panel);
        for (size_t r = 0; r < valid; r++)
            for (size_t i = 0; i < K; i++) panel[i * PANEL_ROWS + r] = b[(j + r) * b_stride + i];
        kernels.matmul_f32(M, K, a, a_stride, panel, NULL, y + j, y_stride, valid);
    }
}

/* y(M,n) = a(M,K) · b(K,n): 16 columns of b are one panel as they lie. */
static void product(size_t M, size_t n, size_t K, const float *a, size_t a_stride, const float *b, size_t b_stride,
                    float *y, size_t y_stride, float *panel) {
    for (size_t j = 0; j < n; j += PANEL_ROWS) {
        size_t valid = n - j < PANEL_ROWS ? n - j : PANEL_ROWS;
        if (valid < PANEL_ROWS) memset(panel, 0, K * PANEL_ROWS * sizeof *panel);
        for (size_t i = 0; i < K; i++) memcpy(panel + i * PANEL_ROWS, b + i * b_stride + j, valid * sizeof *panel);
        kernels.matmul_f32(M, K, a, a_stride, panel, NULL, y + j, y_stride, valid);
    }
}

void attention_forward(size_t t, size_t D, size_t stride, const float *q, const float *k, const float *v,
                       float *context, float *probabilities, float *scratch) {
    float *panel = scratch, *scores = scratch + PANEL_ROWS * (t > D ? t : D);
    size_t score_stride = padded(t);
    if (probabilities) scores = probabilities, score_stride = t;
    product_transposed(t, t, D, q, stride, k, stride, scores, score_stride, panel);
    kernels.softmax(t, t, score_stride, 1.0f / sqrtf((float)D), scores);
    product(t, D, t, scores, score_stride, v, stride, context, stride, panel);
}

static void transpose(size_t t, const float *from, float *to) {
    for (size_t i = 0; i < t; i++)
        for (size_t j = 0; j < t; j++) to[j * t + i] = from[i * t + j];
}

void attention_backward(size_t t, size_t D, size_t stride, const float *q, const float *k, const float *v,
                        const float *probabilities, const float *dcontext, float *dq, float *dk, float *dv,
                        float *scratch) {
    float *panel = scratch, *ds = scratch + PANEL_ROWS * (t > D ? t : D), *turned = ds + t * t;
    float scale = 1.0f / sqrtf((float)D);

    transpose(t, probabilities, turned);
    product(t, D, t, turned, t, dcontext, stride, dv, stride, panel);
    product_transposed(t, t, D, dcontext, stride, v, stride, ds, t, panel);
    for (size_t i = 0; i < t; i++) {
        const float *p = probabilities + i * t;
        float *d = ds + i * t, sum = 0;
        for (size_t j = 0; j < t; j++) sum += d[j] * p[j];
        for (size_t j = 0; j < t; j++) d[j] = p[j] * (d[j] - sum) * scale;
    }
    product(t, D, t, ds, t, k, stride, dq, stride, panel);
    transpose(t, ds, turned);
    product(t, D, t, turned, t, q, stride, dk, stride, panel);
}
