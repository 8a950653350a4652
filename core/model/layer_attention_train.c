/* Attention in training: the heads of one sequence that share keys and values, both ways.
 *
 *   S = q kᵀ / √D (masked)   P = softmax(S)   O = P v
 *   dv = Pᵀ dO   dS = P ∘ (dO vᵀ - rowsum(dO ∘ O)) + extra   dq = dS k / √D   dk = dSᵀ q / √D
 *
 * Nothing of size t·t outlives a call: the backward pass computes P again from q and k, and the row sums of dP ∘ P are
 * those of dO ∘ O (Dao et al. 2022, section 3.1). It goes by tiles of queries over the keys that any of them sees, so
 * that a tile of P and one of dS stay in the second-level cache; dk and dv are added up tile after tile, in the order
 * of heads and queries. Each result depends on its own sequence alone.
 */
#include "model/layers.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

#define TILE_QUERIES 64 /* at 1000 keys P and dS of a tile take 512 KiB */
#define LANES 8

static size_t queries_of(const struct attention_train *a) { return a->queries ? a->queries : a->t; }
static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Of a row of P and of dS: not a power of two, whose rows would collide in a cache. */
static size_t row_stride(const struct attention_train *a) { return padded(a->t) + PANEL_ROWS; }

/* Panels of k and of v, rows of P and of dS, a sum per row. */
static size_t backward_scratch(const struct attention_train *a) {
    return 2 * padded(a->t) * a->D + 2 * TILE_QUERIES * row_stride(a) + TILE_QUERIES;
}

size_t attention_train_scratch(const struct attention_train *a) {
    size_t forward = attention_stream_scratch(a->D, a->group), backward = backward_scratch(a);
    return forward > backward ? forward : backward;
}

void attention_train_forward(const struct attention_train *a, const float *q, const float *k, const float *v,
                             float *context, float *scratch) {
    struct attention_keys keys = {.k = k, .v = v, .stride = a->k_stride, .count = a->t};
    attention_stream(queries_of(a), a->group, a->D, q, a->q_stride, &keys, 0, a->causal, a->window, context,
                     a->q_stride, scratch);
}

static size_t first_seen(const struct attention_train *a, size_t i) {
    return a->causal && a->window && i + 1 > a->window ? i + 1 - a->window : 0;
}
static size_t seen_end(const struct attention_train *a, size_t i) { return a->causal ? i + 1 : a->t; }

/* Queries begin..end-1 of one head, and the keys that any of them sees, from a whole panel on. */
struct tile {
    size_t begin, end, first, count, stride;
    float *p, *ds, *sum; /* (end-begin,count) row stride `stride`, twice; [end-begin] */
};

static struct tile tile_of(const struct attention_train *a, size_t begin, float *scratch) {
    struct tile tile = {.begin = begin, .end = smaller(queries_of(a), begin + TILE_QUERIES), .stride = row_stride(a)};
    tile.first = first_seen(a, begin) / PANEL_ROWS * PANEL_ROWS;
    tile.count = seen_end(a, tile.end - 1) - tile.first;
    tile.p = scratch;
    tile.ds = tile.p + TILE_QUERIES * tile.stride;
    tile.sum = tile.ds + TILE_QUERIES * tile.stride;
    return tile;
}

/* to(rows,count) = x(rows,D) · the rows of panels that the tile's keys are, transposed. */
static void multiply_keys(const struct attention_train *a, const struct tile *tile, const float *x, const float *panels,
                          float *to) {
    kernels.matmul_f32(tile->end - tile->begin, a->D, x + tile->begin * a->q_stride, a->q_stride,
                       panels + tile->first * a->D, NULL, to, tile->stride, tile->count);
}

static void probabilities(const struct attention_train *a, const struct tile *tile, const float *q,
                          const float *panels) {
    multiply_keys(a, tile, q, panels, tile->p);
    for (size_t i = tile->begin; i < tile->end; i++) {
        float *row = tile->p + (i - tile->begin) * tile->stride;
        size_t low = first_seen(a, i) - tile->first, high = seen_end(a, i) - tile->first;
        for (size_t j = 0; j < low; j++) row[j] = -INFINITY;
        for (size_t j = high; j < tile->count; j++) row[j] = -INFINITY;
    }
    kernels.softmax(tile->end - tile->begin, tile->count, tile->stride, 1.0f / sqrtf((float)a->D), tile->p);
}

/* In eight fixed lanes, so that a compiler can use vectors without changing the order. */
static float dot(size_t count, const float *x, const float *y) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t l = 0; l < LANES; l++) lane[l] += x[i + l] * y[i + l];
    for (size_t l = 0; i < count; i++, l++) lane[l] += x[i] * y[i];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* From the gradient at P in ds to that at q kᵀ; extra: NULL, or (t,t) more at S. */
static void score_gradients(const struct attention_train *a, const struct tile *tile, const float *context,
                            const float *dcontext, const float *extra) {
    float scale = 1.0f / sqrtf((float)a->D);
    size_t rows = tile->end - tile->begin;
    for (size_t i = 0; i < rows; i++) {
        size_t at = (tile->begin + i) * a->q_stride;
        tile->sum[i] = dot(a->D, dcontext + at, context + at);
    }
    kernels.softmax_backward(rows, tile->count, tile->stride, scale, tile->p, tile->sum, tile->ds);
    for (size_t i = tile->begin; extra && i < tile->end; i++) {
        float *row = tile->ds + (i - tile->begin) * tile->stride;
        for (size_t j = first_seen(a, i); j < seen_end(a, i); j++) row[j - tile->first] += extra[i * a->t + j] * scale;
    }
}

/* to(rows,D) += from(queries,rows)ᵀ · x(queries,D) for the tile's keys. */
static void add_keys(const struct attention_train *a, const struct tile *tile, const float *from, const float *x,
                     float *to) {
    kernels.multiply_f32(tile->count, a->D, tile->end - tile->begin, from, 1, tile->stride,
                         x + tile->begin * a->q_stride, a->q_stride, true, to + tile->first * a->k_stride, a->k_stride);
}

static void clear_rows(size_t rows, size_t columns, float *x, size_t stride) {
    for (size_t i = 0; i < rows; i++) memset(x + i * stride, 0, columns * sizeof *x);
}

void attention_train_backward(const struct attention_train *a, const float *q, const float *k, const float *v,
                              const float *context, const float *dcontext, float *dq, float *dk, float *dv,
                              const float *dscores, float *scratch) {
    size_t t = a->t, D = a->D;
    float *k_panels = scratch, *v_panels = k_panels + padded(t) * D, *rest = v_panels + padded(t) * D;
    for (size_t j = 0; j < t; j += PANEL_ROWS) {
        kernels.pack_f32(D, k + j * a->k_stride, a->k_stride, smaller(t - j, PANEL_ROWS), k_panels + j * D);
        kernels.pack_f32(D, v + j * a->k_stride, a->k_stride, smaller(t - j, PANEL_ROWS), v_panels + j * D);
    }
    clear_rows(t, D, dk, a->k_stride);
    clear_rows(t, D, dv, a->k_stride);
    for (size_t h = 0; h < a->group; h++)
        for (size_t begin = 0; begin < queries_of(a); begin += TILE_QUERIES) {
            struct tile tile = tile_of(a, begin, rest);
            const float *query = q + h * D, *dy = dcontext + h * D;
            probabilities(a, &tile, query, k_panels);
            add_keys(a, &tile, tile.p, dy, dv);
            multiply_keys(a, &tile, dy, v_panels, tile.ds);
            score_gradients(a, &tile, context + h * D, dy, dscores ? dscores + h * queries_of(a) * t : NULL);
            add_keys(a, &tile, tile.ds, query, dk);
            kernels.multiply_f32(tile.end - begin, D, tile.count, tile.ds, tile.stride, 1, k + tile.first * a->k_stride,
                                 a->k_stride, false, dq + h * D + begin * a->q_stride, a->q_stride);
        }
}
