/* Attention in 8-bit products: scores from codes of queries and keys, contexts from codes of weights and values.
 *
 * Queries, keys and values take one scale per token and head (Dettmers et al. 2022, vector-wise; Zhang et al. 2024,
 * SageAttention, per token). A value's scale belongs to the sum over keys, so it is moved into the weight of its key:
 * the softmax's exponentials times the values' scales are rounded, row by row, to 0..255 steps of their own largest.
 * What a key that is looked at much but says little gets is then few steps, and the others keep theirs. Exponentials
 * and their sum are f32.
 *
 * Both products are those of the layers (matmul_s8), with panels made here, once for each tile of queries: keys in
 * panels of 16 rows as weights are, values transposed. A block of rows at a time, whose scores stay in the first-level
 * cache.
 */
#include "model/layers.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/attention_scratch.h"

#define LEAST_SCALE 1e-20f
#define BLOCK_ROWS 32 /* queries whose scores are at work */

/* W: D, padded: n, rounded up to whole panels. */
struct codes {
    size_t D, W, n, padded;
    int8_t *queries, *rows;          /* (BLOCK_ROWS,W), (padded,W) */
    int8_t *keys, *values, *weights; /* panels, panels, (BLOCK_ROWS,padded) */
    float *query_scale, *key_scale, *value_scale, *value_log, *value_inverse, *weight_scale, *ones;
    int32_t *row_sum, *key_total, *key_negative, *value_total, *value_negative, *zero;
    float *scores; /* (BLOCK_ROWS,padded) */
};

static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }

/* Where the parts lie behind `scratch`; returns the end. */
static uintptr_t codes_cut(struct codes *c, size_t D, size_t n, float *scratch) {
    uintptr_t at = (uintptr_t)scratch;
    size_t W = padded(D), m = padded(n);
    *c = (struct codes){.D = D, .W = W, .n = n, .padded = m};
    c->queries = scratch_cut(&at, BLOCK_ROWS * W);
    c->rows = scratch_cut(&at, m * W);
    c->keys = scratch_cut(&at, m * W);
    c->values = scratch_cut(&at, m * W);
    c->weights = scratch_cut(&at, BLOCK_ROWS * m);
    c->query_scale = scratch_cut(&at, BLOCK_ROWS * sizeof(float));
    c->key_scale = scratch_cut(&at, m * sizeof(float));
    c->value_scale = scratch_cut(&at, m * sizeof(float));
    c->value_log = scratch_cut(&at, m * sizeof(float));
    c->value_inverse = scratch_cut(&at, m * sizeof(float));
    c->weight_scale = scratch_cut(&at, BLOCK_ROWS * sizeof(float));
    c->ones = scratch_cut(&at, W * sizeof(float));
    c->row_sum = scratch_cut(&at, (m > BLOCK_ROWS ? m : BLOCK_ROWS) * sizeof(int32_t));
    c->key_total = scratch_cut(&at, m * sizeof(int32_t));
    c->key_negative = scratch_cut(&at, m * sizeof(int32_t));
    c->value_total = scratch_cut(&at, W * sizeof(int32_t));
    c->value_negative = scratch_cut(&at, W * sizeof(int32_t));
    c->zero = scratch_cut(&at, BLOCK_ROWS * sizeof(int32_t));
    c->scores = scratch_cut(&at, BLOCK_ROWS * m * sizeof(float));
    return at;
}

size_t attention_int8_scratch(size_t D, size_t keys) {
    struct codes c;
    return (codes_cut(&c, D, keys, NULL) + sizeof(float) - 1) / sizeof(float);
}

/* Rows of keys or values, and after them rows of zeros to whole panels. */
static void quantize_rows(struct codes *c, const float *x, size_t stride, float *scale) {
    kernels.quantize_s8(c->n, c->D, x, stride, c->W, c->W, c->rows, scale, c->row_sum);
    memset(c->rows + c->n * c->W, 0, (c->padded - c->n) * c->W);
}

/* [padded/16] panels [W/4][16][4]. */
static void pack_keys(struct codes *c) {
    size_t W = c->W;
    for (size_t j = 0; j < c->padded; j += PANEL_ROWS)
        for (size_t d = 0; d < W; d += 4)
            for (size_t r = 0; r < PANEL_ROWS; r++)
                memcpy(c->keys + j * W + (d * PANEL_ROWS + r * 4), c->rows + (j + r) * W + d, 4);
    kernels.panel_sums_s8(W, c->padded / PANEL_ROWS, c->keys, c->key_total, c->key_negative);
}

/* The transpose: [W/16] panels [padded/4][16][4]. */
static void pack_values(struct codes *c) {
    size_t W = c->W;
    for (size_t w = 0; w < W; w += PANEL_ROWS)
        for (size_t j = 0; j < c->padded; j += 4) {
            int8_t *to = c->values + w * c->padded + j * PANEL_ROWS;
            const int8_t *from = c->rows + j * W + w;
            for (size_t i = 0; i < PANEL_ROWS; i++) {
                to[4 * i] = from[i];
                to[4 * i + 1] = from[W + i];
                to[4 * i + 2] = from[2 * W + i];
                to[4 * i + 3] = from[3 * W + i];
            }
        }
    kernels.panel_sums_s8(c->padded, W / PANEL_ROWS, c->values, c->value_total, c->value_negative);
}

/* log2 of a normal number within 2^-15: its exponent, and a polynomial of its mantissa through Chebyshev's nodes. */
static float log2_near(float x) {
    uint32_t bits, one;
    float m;
    memcpy(&bits, &x, sizeof bits);
    one = (bits & 0x7fffffu) | 0x3f800000u;
    memcpy(&m, &one, sizeof m);
    m -= 1;
    float log = 0.0430049578f * m - 0.187488605f;
    log = log * m + 0.409470299f;
    log = log * m - 0.706486449f;
    log = log * m + 1.44149241f;
    return (float)((int32_t)(bits >> 23) - 127) + (log * m + 1.65146709e-05f);
}

/* What the softmax needs of the values' scales. One below LEAST_SCALE counts as that: no inverse is infinite. */
static void weigh_values(struct codes *c) {
    for (size_t j = 0; j < c->n; j++) {
        float scale = c->value_scale[j] < LEAST_SCALE ? LEAST_SCALE : c->value_scale[j];
        c->value_log[j] = scale <= FLT_MAX ? log2_near(scale) : scale; /* what is not finite stays so */
        c->value_inverse[j] = 1.0f / scale;
    }
    for (size_t j = c->n; j < c->padded; j++) c->value_log[j] = c->value_inverse[j] = 0;
}

static void attend_block(struct codes *c, size_t rows, const float *q, size_t q_stride, float *context,
                         size_t context_stride) {
    const struct zero_points zeros = {.x = c->zero, .row_sum = c->value_total};
    float scale = 1.44269504088896341f / sqrtf((float)c->D); /* for exponentials of base 2 */
    kernels.quantize_s8(rows, c->D, q, q_stride, c->W, c->W, c->queries, c->query_scale, c->row_sum);
    for (size_t r = 0; r < rows; r++) c->query_scale[r] *= scale;
    kernels.matmul_s8(rows, c->W, c->queries, c->query_scale, c->keys, c->key_scale, c->key_negative, c->key_total,
                      NULL, c->value_log, c->scores, c->padded, c->n);
    kernels.softmax_s8(rows, c->n, c->padded, c->scores, c->value_inverse, c->weights, c->weight_scale);
    kernels.matmul_s8(rows, c->padded, c->weights, c->weight_scale, c->values, c->ones, c->value_negative,
                      c->value_total, &zeros, NULL, context, context_stride, c->D);
}

void attention_int8(size_t t, size_t D, const float *q, size_t q_stride, const struct attention_keys *keys,
                    float *context, size_t context_stride, float *scratch) {
    struct codes c;
    CHECK(!keys->cached, "8-bit attention is over the rows of a batch");
    codes_cut(&c, D, keys->count, scratch);
    for (size_t w = 0; w < c.W; w++) c.ones[w] = 1;
    for (size_t i = 0; i < BLOCK_ROWS; i++) c.zero[i] = -128;
    quantize_rows(&c, keys->k, keys->stride, c.key_scale);
    pack_keys(&c);
    quantize_rows(&c, keys->v, keys->stride, c.value_scale);
    weigh_values(&c);
    pack_values(&c);
    for (size_t i = 0, rows; i < t; i += rows) {
        rows = t - i < BLOCK_ROWS ? t - i : BLOCK_ROWS;
        attend_block(&c, rows, q + i * q_stride, q_stride, context + i * context_stride, context_stride);
    }
}
