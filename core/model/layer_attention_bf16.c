/* Attention in bf16 products with f32 sums: queries, keys, values and the softmax's weights are rounded to bf16, as a
 * layer in bf16 rounds its input; exponentials and their sums are f32.
 *
 * Both products are those of the layers (matmul_bf16), with panels made here, once for each tile of queries: of keys
 * two columns of each side by side, of values two keys. Weights are not divided by their sum before they are rounded;
 * contexts are. A block of rows at a time, whose scores stay in the first-level cache.
 */
#include "model/layers.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/attention_scratch.h"

#define BLOCK_ROWS 32 /* queries whose scores are at work */

/* W: D, padded: n, rounded up to whole panels. */
struct halves {
    size_t D, W, n, padded;
    uint16_t *keys, *values, *queries, *weights; /* panels, panels, (BLOCK_ROWS,W), (BLOCK_ROWS,padded) */
    float *turned, *scores, *scale;              /* (W,16) or (BLOCK_ROWS,W), (BLOCK_ROWS,padded), [BLOCK_ROWS] */
};

/* Where the parts lie behind `scratch`; returns the end. */
static uintptr_t halves_cut(struct halves *h, size_t D, size_t n, float *scratch) {
    uintptr_t at = (uintptr_t)scratch;
    size_t W = size_round_up(D, PANEL_ROWS), m = size_round_up(n, PANEL_ROWS);
    *h = (struct halves){.D = D, .W = W, .n = n, .padded = m};
    h->keys = scratch_cut(&at, m * W * sizeof(uint16_t));
    h->values = scratch_cut(&at, m * W * sizeof(uint16_t));
    h->queries = scratch_cut(&at, BLOCK_ROWS * W * sizeof(uint16_t));
    h->weights = scratch_cut(&at, BLOCK_ROWS * m * sizeof(uint16_t));
    h->turned = scratch_cut(&at, BLOCK_ROWS * W * sizeof(float));
    h->scores = scratch_cut(&at, BLOCK_ROWS * m * sizeof(float));
    h->scale = scratch_cut(&at, BLOCK_ROWS * sizeof(float));
    return at;
}

size_t attention_bf16_scratch(size_t D, size_t keys) {
    struct halves h;
    return (halves_cut(&h, D, keys, NULL) + sizeof(float) - 1) / sizeof(float);
}

/* [padded/16] panels [W/2][16][2]; keys beyond the last are zeros. */
static void pack_keys(struct halves *h, const float *k, size_t stride) {
    size_t D = h->D, pairs = (D + 1) / 2;
    for (size_t j = 0; j < h->padded; j += PANEL_ROWS) {
        uint16_t *panel = h->keys + j * h->W;
        kernels.pack_f32(D, k + j * stride, stride, h->n - j < PANEL_ROWS ? h->n - j : PANEL_ROWS, h->turned);
        kernels.pair_bf16(D, PANEL_ROWS, h->turned, PANEL_ROWS, panel);
        memset(panel + pairs * 2 * PANEL_ROWS, 0, (h->W / 2 - pairs) * 2 * PANEL_ROWS * sizeof *panel);
    }
}

/* The transpose: [W/16] panels [padded/2][16][2]. */
static void pack_values(struct halves *h, const float *v, size_t stride) {
    size_t D = h->D, pairs = (h->n + 1) / 2;
    for (size_t d = 0; d < h->W; d += PANEL_ROWS) {
        uint16_t *panel = h->values + d * h->padded;
        kernels.pair_bf16(h->n, D - d < PANEL_ROWS ? D - d : PANEL_ROWS, v + d, stride, panel);
        memset(panel + pairs * 2 * PANEL_ROWS, 0, (h->padded / 2 - pairs) * 2 * PANEL_ROWS * sizeof *panel);
    }
}

static void attend_block(struct halves *h, size_t rows, const float *q, size_t q_stride, float *context,
                         size_t context_stride) {
    size_t D = h->D, W = h->W;
    float scale = 1.44269504088896341f / sqrtf((float)D); /* for exponentials of base 2 */
    for (size_t r = 0; r < rows; r++) {
        for (size_t d = 0; d < D; d++) h->turned[r * W + d] = q[r * q_stride + d] * scale;
        for (size_t d = D; d < W; d++) h->turned[r * W + d] = 0;
    }
    kernels.narrow_bf16(rows * W, h->turned, h->queries);
    kernels.matmul_bf16(rows, W, h->queries, W, h->keys, NULL, h->scores, h->padded, h->n);
    kernels.softmax_bf16(rows, h->n, h->padded, h->scores, h->weights, h->scale);
    kernels.matmul_bf16(rows, h->padded, h->weights, h->padded, h->values, NULL, context, context_stride, D);
    for (size_t r = 0; r < rows; r++)
        for (size_t d = 0; d < D; d++) context[r * context_stride + d] *= h->scale[r];
}

void attention_bf16(size_t t, size_t D, const float *q, size_t q_stride, const struct attention_keys *keys,
                    float *context, size_t context_stride, float *scratch) {
    struct halves h;
    CHECK(!keys->cached, "bf16 attention is over the rows of a batch");
    halves_cut(&h, D, keys->count, scratch);
    pack_keys(&h, keys->k, keys->stride);
    pack_values(&h, keys->v, keys->stride);
    for (size_t i = 0, rows; i < t; i += rows) {
        rows = t - i < BLOCK_ROWS ? t - i : BLOCK_ROWS;
        attend_block(&h, rows, q + i * q_stride, q_stride, context + i * context_stride, context_stride);
    }
}
