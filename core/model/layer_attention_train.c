/* Attention in training: the heads of one sequence that share keys and values, both ways.
 *
 *   S = q kᵀ / √D (masked)   P = softmax(S)   O = P v
 *   dv = Pᵀ dO   dS = P ∘ (dO vᵀ - rowsum(dO ∘ O)) + extra   dq = dS k / √D   dk = dSᵀ q / √D
 *
 * Nothing of size t·t outlives a call: the backward pass computes P again from q and k, and the row sums of dP ∘ P are
 * those of dO ∘ O (Dao et al. 2022, section 3.1). Each result depends on its own sequence alone.
 */
#include "model/layers.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }

size_t attention_train_scratch(const struct attention_train *a) {
    size_t stream = attention_stream_scratch(a->D, a->group), t = padded(a->t);
    size_t backward = PANEL_ROWS * (t > a->D ? t : a->D) + 3 * t * t + t * padded(a->D);
    return stream > backward ? stream : backward;
}

void attention_train_forward(const struct attention_train *a, const float *q, const float *k, const float *v,
                             float *context, float *scratch) {
    struct attention_keys keys = {.k = k, .v = v, .stride = a->k_stride, .count = a->t};
    attention_stream(a->t, a->group, a->D, q, a->q_stride, &keys, 0, a->causal, a->window, context, a->q_stride,
                     scratch);
}

/* y(M,n) = a(M,K) · b(n,K)ᵀ: 16 rows of b side by side are one panel. */
static void product_transposed(size_t M, size_t n, size_t K, const float *a, size_t a_stride, const float *b,
                               size_t b_stride, float *y, size_t y_stride, float *panel) {
    for (size_t j = 0; j < n; j += PANEL_ROWS) {
        size_t valid = n - j < PANEL_ROWS ? n - j : PANEL_ROWS;
        kernels.pack_f32(K, b + j * b_stride, b_stride, valid, panel);
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

static void transpose(size_t t, const float *from, float *to) {
    for (size_t i = 0; i < t; i++)
        for (size_t j = 0; j < t; j++) to[j * t + i] = from[i * t + j];
}

/* y(t,D) += or = x(t,D) dense. */
static void collect(size_t t, size_t D, const float *x, bool add, float *y, size_t y_stride) {
    for (size_t i = 0; i < t; i++) {
        if (add) kernels.add(D, x + i * D, y + i * y_stride);
        else memcpy(y + i * y_stride, x + i * D, D * sizeof *y);
    }
}

static size_t first_seen(const struct attention_train *a, size_t i) {
    return a->causal && a->window && i + 1 > a->window ? i + 1 - a->window : 0;
}
static size_t seen_end(const struct attention_train *a, size_t i) { return a->causal ? i + 1 : a->t; }

static void probabilities(const struct attention_train *a, const float *q, const float *k, float *p, float *panel) {
    size_t t = a->t;
    product_transposed(t, t, a->D, q, a->q_stride, k, a->k_stride, p, t, panel);
    for (size_t i = 0; i < t; i++) {
        for (size_t j = 0; j < first_seen(a, i); j++) p[i * t + j] = -INFINITY;
        for (size_t j = seen_end(a, i); j < t; j++) p[i * t + j] = -INFINITY;
    }
    kernels.softmax(t, t, t, 1.0f / sqrtf((float)a->D), p);
}

void attention_train_backward(const struct attention_train *a, const float *q, const float *k, const float *v,
                              const float *context, const float *dcontext, float *dq, float *dk, float *dv,
                              const float *dscores, float *scratch) {
    size_t t = a->t, D = a->D;
    float *p = scratch, *ds = p + t * t, *turned = ds + t * t, *part = turned + t * t, *panel = part + t * padded(D);
    float scale = 1.0f / sqrtf((float)D);
    for (size_t h = 0; h < a->group; h++) {
        const float *query = q + h * D, *y = context + h * D, *dy = dcontext + h * D;
        const float *extra = dscores ? dscores + h * t * t : NULL;
        probabilities(a, query, k, p, panel);
        transpose(t, p, turned);
        product(t, D, t, turned, t, dy, a->q_stride, part, D, panel);
        collect(t, D, part, h > 0, dv, a->k_stride);
        product_transposed(t, t, D, dy, a->q_stride, v, a->k_stride, ds, t, panel);
        for (size_t i = 0; i < t; i++) {
            float sum = 0;
            for (size_t d = 0; d < D; d++) sum += dy[i * a->q_stride + d] * y[i * a->q_stride + d];
            for (size_t j = 0; j < t; j++) ds[i * t + j] = p[i * t + j] * (ds[i * t + j] - sum) * scale;
            for (size_t j = first_seen(a, i); extra && j < seen_end(a, i); j++)
                ds[i * t + j] += extra[i * t + j] * scale;
        }
        product(t, D, t, ds, t, k, a->k_stride, dq + h * D, a->q_stride, panel);
        transpose(t, ds, turned);
        product(t, D, t, turned, t, query, a->q_stride, part, D, panel);
        collect(t, D, part, h > 0, dk, a->k_stride);
    }
}
