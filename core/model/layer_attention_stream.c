/* Attention at inference: every model's, from 16 tokens to a decoded token over thousands of cached keys.
 *
 * A tile of queries times the heads that share its keys is a block of rows; stretch by stretch of ATTEND_KEYS keys the
 * attend kernel adds to their running softmax. Keys go in panels of 16: a cache holds them so, rows of a batch are
 * transposed here, once per tile of queries, which costs a few percent of the tile's products. int8 keys and values are
 * widened here as well: a decoded token does so about as long as it multiplies. Stretches begin at
 * multiples of ATTEND_KEYS from key 0, whatever the query, so that a query's sums are ordered alike in a full pass, in
 * a pass over a cache, and in any tile.
 */
#include "model/layers.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"

#define TILE_ROWS 128 /* queries times heads of a group */

struct tile {
    size_t D, W, rows;
    float *q, *y, *top, *sum; /* (rows,D), (rows,W), [rows], [rows] */
    uint32_t *low, *high;     /* [rows] within the stretch at work */
    float *panels, *values;   /* of a stretch: [ATTEND_KEYS/16][D][16], (ATTEND_KEYS,W) */
};

static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }

size_t attention_tile(size_t group) { return group < TILE_ROWS ? TILE_ROWS / group : 1; }

size_t attention_stream_scratch(size_t D, size_t group) {
    size_t rows = attention_tile(group) * group;
    return rows * (padded(D) + padded(D)) + 4 * padded(rows) + 2 * ATTEND_KEYS * padded(D);
}

static void tile_cut(struct tile *tile, size_t D, size_t group, float *scratch) {
    size_t most = attention_tile(group) * group, W = padded(D);
    tile->D = D;
    tile->W = W;
    tile->q = scratch;
    tile->y = tile->q + most * W;
    tile->top = tile->y + most * W;
    tile->sum = tile->top + padded(most);
    tile->low = (uint32_t *)(void *)(tile->sum + padded(most));
    tile->high = tile->low + padded(most);
    tile->panels = (float *)(void *)(tile->high + padded(most));
    tile->values = tile->panels + ATTEND_KEYS * W;
}

/* Queries dense and scaled for exponentials of base 2; sums empty. */
static void tile_start(struct tile *tile, size_t t, size_t group, const float *q, size_t q_stride) {
    float scale = 1.44269504088896341f / sqrtf((float)tile->D);
    tile->rows = t * group;
    for (size_t i = 0; i < t; i++) {
        const float *from = q + i * q_stride;
        float *to = tile->q + i * group * tile->D;
        for (size_t d = 0; d < group * tile->D; d++) to[d] = from[d] * scale;
    }
    memset(tile->y, 0, tile->rows * tile->W * sizeof *tile->y);
    for (size_t r = 0; r < tile->rows; r++) tile->top[r] = -INFINITY, tile->sum[r] = 0;
}

/* The part first..last-1 of the keys, as it lies in a stretch of n keys from `begin`. */
static uint32_t within(size_t key, size_t begin, size_t n) {
    return key <= begin ? 0 : key - begin < n ? (uint32_t)(key - begin) : (uint32_t)n;
}

/* A stretch of codes in f32: panels of keys with a scale per lane, values with one per row. */
static void attend_codes(struct tile *tile, const struct attention_keys *keys, size_t begin, size_t n) {
    const int8_t *k = (const int8_t *)keys->k + begin * tile->D, *v = (const int8_t *)keys->v + begin * keys->stride;
    size_t D = tile->D, W = tile->W;
    for (size_t j = 0; j < n; j += PANEL_ROWS)
        kernels.widen_s8(D * PANEL_ROWS, k + j * D, keys->k_scale + begin + j, tile->panels + j * D);
    for (size_t j = 0; j < n; j++) {
        float scale[PANEL_ROWS];
        for (size_t i = 0; i < PANEL_ROWS; i++) scale[i] = keys->v_scale[begin + j];
        kernels.widen_s8(W, v + j * keys->stride, scale, tile->values + j * W);
    }
    kernels.attend_f32(tile->rows, D, W, n, tile->q, tile->panels, tile->values, W, tile->low, tile->high, tile->top,
                       tile->sum, tile->y);
}

static void attend_cached(struct tile *tile, const struct attention_keys *keys, size_t begin, size_t n) {
    if (keys->k_scale) {
        attend_codes(tile, keys, begin, n);
    } else if (keys->half) {
        const uint16_t *k = keys->k, *v = keys->v;
        kernels.attend_f16(tile->rows, tile->D, tile->W, n, tile->q, k + begin * tile->D, v + begin * keys->stride,
                           keys->stride, tile->low, tile->high, tile->top, tile->sum, tile->y);
    } else {
        const float *k = keys->k, *v = keys->v;
        kernels.attend_f32(tile->rows, tile->D, tile->W, n, tile->q, k + begin * tile->D, v + begin * keys->stride,
                           keys->stride, tile->low, tile->high, tile->top, tile->sum, tile->y);
    }
}

static void attend_rows(struct tile *tile, const struct attention_keys *keys, size_t begin, size_t n) {
    const float *k = (const float *)keys->k + begin * keys->stride, *v = (const float *)keys->v + begin * keys->stride;
    size_t v_stride = keys->stride, D = tile->D, W = tile->W;
    for (size_t j = 0; j < n; j += PANEL_ROWS)
        kernels.pack_f32(D, k + j * keys->stride, keys->stride, n - j < PANEL_ROWS ? n - j : PANEL_ROWS,
                         tile->panels + j * D);
    if (D != W) { /* the kernel wants whole vectors of values */
        for (size_t j = 0; j < n; j++) {
            memcpy(tile->values + j * W, v + j * v_stride, D * sizeof *v);
            memset(tile->values + j * W + D, 0, (W - D) * sizeof *v);
        }
        v = tile->values, v_stride = W;
    }
    kernels.attend_f32(tile->rows, D, W, n, tile->q, tile->panels, v, v_stride, tile->low, tile->high, tile->top,
                       tile->sum, tile->y);
}

static void tile_finish(const struct tile *tile, size_t t, size_t group, float *context, size_t context_stride) {
    for (size_t i = 0; i < t; i++)
        for (size_t h = 0; h < group; h++) {
            size_t row = i * group + h;
            const float *y = tile->y + row * tile->W;
            float *to = context + i * context_stride + h * tile->D, inverse = 1.0f / tile->sum[row];
            for (size_t d = 0; d < tile->D; d++) to[d] = y[d] * inverse;
        }
}

void attention_stream(size_t t, size_t group, size_t D, const float *q, size_t q_stride,
                      const struct attention_keys *keys, size_t start, bool causal, size_t window, float *context,
                      size_t context_stride, float *scratch) {
    struct tile tile;
    size_t most = attention_tile(group);
    CHECK(!causal || start + t <= keys->count, "query %zu of %zu keys", start + t, keys->count);
    CHECK((!keys->half && !keys->k_scale) || keys->cached, "f16 and int8 keys are a cache's");
    tile_cut(&tile, D, group, scratch);
    for (size_t i = 0, count; i < t; i += count) {
        count = t - i < most ? t - i : most;
        size_t position = start + i, last = causal ? position + count : keys->count;
        size_t first = causal && window && position + 1 > window ? position + 1 - window : 0;
        tile_start(&tile, count, group, q + i * q_stride, q_stride);
        for (size_t begin = first - first % ATTEND_KEYS; begin < last; begin += ATTEND_KEYS) {
            size_t n = last - begin < ATTEND_KEYS ? last - begin : ATTEND_KEYS;
            for (size_t r = 0; r < tile.rows; r++) {
                size_t at = position + r / group;
                tile.low[r] = within(causal && window && at + 1 > window ? at + 1 - window : 0, begin, n);
                tile.high[r] = within(causal ? at + 1 : keys->count, begin, n);
            }
            if (keys->cached) attend_cached(&tile, keys, begin, n);
            else attend_rows(&tile, keys, begin, n);
        }
        tile_finish(&tile, count, group, context + i * context_stride, context_stride);
    }
}
