/* The layers of a transformer, forward and backward side by side.
 *
 * Each function works on one tile of consecutive tokens (or one tile of weight rows) in one thread and
 * touches nothing else; the passes that call them (model_forward.c, train/pass.c) cut the work into tiles
 * whose bounds never depend on the number of threads. Letters as in model.h; t is one sequence's length.
 * Backward functions overwrite their results unless they say that they add.
 */
#ifndef LAYERS_H
#define LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

/* sum(T,C) += x(T,C); y(T,C) = norm(sum). mean, rstd [T] are written when not NULL. y may be sum. */
void residual_norm_forward(size_t T, size_t C, const float *x, float *sum, const float *gain, const float *bias,
                           float epsilon, float *y, float *mean, float *rstd);
/* dx(T,C) of layer norm at input x; dgain[C] and dbias[C] are added to. dx may be dy. */
void norm_backward(size_t T, size_t C, const float *x, const float *mean, const float *rstd, const float *gain,
                   const float *dy, float *dx, float *dgain, float *dbias);

/* dx(T,C) of rms norm at input x; dgain[C] is added to. rstd [T] from the forward pass. dx may be dy. */
void rms_norm_backward(size_t T, size_t C, const float *x, const float *rstd, const float *gain, const float *dy,
                       float *dx, float *dgain);

/* active[count] from up and, of the gated kind alone, gate (else NULL); active may be up or gate. */
void activation_forward(enum model_activation activation, size_t count, const float *up, const float *gate,
                        float *active);
/* dup[count] and, of the gated kind alone, dgate (else NULL) from the forward pass's inputs and dactive; dup or dgate
 * may be dactive. */
void activation_backward(enum model_activation activation, size_t count, const float *up, const float *gate,
                         const float *dactive, float *dup, float *dgate);

/* y(T,C) = tokens[id] + types[type] + positions[p]. position [T]: place of each token in its sequence;
 * type NULL: all 0. */
void embedding_forward(size_t T, size_t C, const int32_t *ids, const int32_t *type, const int32_t *position,
                       const float *tokens, const float *types, const float *positions, float *y);
/* Rows begin..end-1 of dtable += Σ over tokens whose index[t] is that row of dy(T,C), in token order; the row
 * `skip` (-1: none) gets nothing. index NULL: all 0. */
void embedding_backward(size_t T, size_t C, const int32_t *index, const float *dy, size_t begin, size_t end,
                        int64_t skip, float *dtable);

/* Keys and values that the heads of one group attend to: rows of a batch, or what a cache holds of a slot. */
struct attention_keys {
    const void *k, *v; /* f32 rows (count,D), row stride `stride`; or, of a cache, see kv_cache_keys */
    size_t stride, count;
    bool cached; /* k in panels of 16 keys, v in rows whose columns beyond D (to a multiple of 16) are 0 */
    bool half;   /* f16; cached only */
    const float *k_scale, *v_scale; /* int8 unless NULL: a scale per key and per value; cached only */
};
/* Queries that one item of work takes, so that a long sequence gives all threads something to do. */
size_t attention_tile(size_t group);
/* Floats of scratch for attention_stream at any t and count. */
size_t attention_stream_scratch(size_t D, size_t group);
/* The `group` query heads of one sequence that share a key/value head (1: none shared), by running maxima over
 * stretches of keys (Milakov and Gimelshein 2018; Dao et al. 2022), so that memory does not grow with t·count.
 * q (t, group·D) row stride q_stride: head h of the group at column h·D; context likewise. Query i sits at position
 * start+i of the keys. causal: it sees keys max(0, start+i+1-window) .. start+i (window 0: from 0); else all `count`.
 * Any t; work that is to be shared out is cut at multiples of attention_tile(group) queries (start moves along).
 * The result of a query does not depend on the cut, nor on the other queries. */
void attention_stream(size_t t, size_t group, size_t D, const float *q, size_t q_stride,
                      const struct attention_keys *keys, size_t start, bool causal, size_t window, float *context,
                      size_t context_stride, float *scratch);

#define INT8_ATTENTION_KEYS 65536 /* most of one sequence: sums stay in 32 bits */
/* Floats of scratch for attention_int8 over so many keys. */
size_t attention_int8_scratch(size_t D, size_t keys);
/* One head of one sequence, every query seeing all keys, in 8-bit products: rows of queries, keys and values take a
 * scale each, weights one per query (layer_attention_int8.c says how). q (t,D) row stride q_stride; keys: rows of a
 * batch, at most INT8_ATTENTION_KEYS; context (t,D). Any t. The result of a query does not depend on the other queries.
 */
void attention_int8(size_t t, size_t D, const float *q, size_t q_stride, const struct attention_keys *keys,
                    float *context, size_t context_stride, float *scratch);

/* The same in bf16 products with f32 sums (layer_attention_bf16.c). Floats of its scratch. */
size_t attention_bf16_scratch(size_t D, size_t keys);
void attention_bf16(size_t t, size_t D, const float *q, size_t q_stride, const struct attention_keys *keys,
                    float *context, size_t context_stride, float *scratch);

/* Rotary positions (Su et al. 2021) in Hugging Face's half-rotated layout: pair (i, i+D/2) of a head turns by
 * position·base^(-2i/D), in f32 throughout as the reference does it, after scaling the frequencies (NULL: as they are).
 * The table (T,D) holds for each token D/2 cosines, then D/2 sines; made once per batch, it serves every layer.
 * position [T]; D even. */
void rotary_table(size_t T, size_t D, const int32_t *position, float base, const struct rotary_scaling *scaling,
                  float *table);
/* By how much pair i turns from one token to the next. */
float rotary_frequency(size_t D, size_t i, float base, const struct rotary_scaling *scaling);
/* In place, for each of `heads` heads of width D in a row of x (row stride `stride`). */
void rotary_forward(size_t T, size_t heads, size_t D, size_t stride, const float *table, float *x);
/* The gradient turned back, in place: dx at the turned rows becomes dx at the rows before. */
void rotary_backward(size_t T, size_t heads, size_t D, size_t stride, const float *table, float *dx);

/* The heads of one sequence that share a key/value head, in training. Head h of the group lies at column h·D of q,
 * context and their gradients, whose rows have stride q_stride; k, v and theirs have k_stride. */
struct attention_train {
    size_t t, group, D, q_stride, k_stride;
    bool causal;    /* query i sees keys 0..i, else all */
    size_t window;  /* causal only: of those the last `window`; 0: all */
    size_t queries; /* 0: t; else the first so many alone: t is then the number of keys */
};
/* Floats of scratch for either way. */
size_t attention_train_scratch(const struct attention_train *attention);
/* context(queries, group·D) = softmax(q kᵀ / √D) v for each head. */
void attention_train_forward(const struct attention_train *attention, const float *q, const float *k, const float *v,
                             float *context, float *scratch);
/* dq, dk, dv, overwritten, from dcontext and the forward pass's inputs and context; dk and dv sum over the group's
 * heads in order. dscores (group,queries,t), or NULL: a further gradient at the scores q kᵀ / √D, read where a query
 * sees a key. */
void attention_train_backward(const struct attention_train *attention, const float *q, const float *k, const float *v,
                              const float *context, const float *dcontext, float *dq, float *dk, float *dv,
                              const float *dscores, float *scratch);

/* Inverted dropout of x[count], elements first..first+count-1 of stream (seed, stream): x is kept and scaled by
 * 1/(1-rate) or zeroed; keep[count] remembers. rate is rounded to 1/65536. first is a multiple of 8. */
void dropout_forward(uint64_t seed, uint64_t stream, uint64_t first, size_t count, double rate, float *x,
                     uint8_t *keep);
/* dx[i] = dy[i] where kept, scaled as forward; dx may be dy. */
void dropout_backward(size_t count, double rate, const uint8_t *keep, const float *dy, float *dx);

#endif
