/* Attention of one block over a whole batch, on all threads: rotary positions, writing into the cache, attending.
 *
 * What a model_forward does between the projections of a block. Work is cut into (sequence, key/value head, tile of
 * queries), so that one long sequence of few heads still feeds all threads; bounds and results do not depend on their
 * number.
 */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "model/kv_cache.h"
#include "model/model.h"

struct attention {
    const struct model_config *config;
    const struct batch *batch; /* with a cache: its lengths are those before the pass; the caller grows them after it */
    size_t layer;
    bool int8;                  /* in 8-bit products; without a cache, not causal, no shared keys */
    const float *rotary;        /* rotary_table (T,D) of the tokens' positions, or NULL */
    float *query, *key, *value; /* (T,H·D), (T,K·D), (T,K·D); query and key are turned in place */
    const uint32_t *read; /* NULL, or [B] the one token of each sequence, counted over the batch, that asks: query and
                           * context are (B,H·D) */
    size_t query_stride, key_stride; /* of a row of query; of key and value */
    float *context;                  /* (T,H·D) dense */
    float *scratch;                  /* attention_scratch_floats */
};

/* Floats that attention_run needs at this many threads. */
size_t attention_scratch_floats(const struct model_config *config, const struct batch *batch, bool int8,
                                size_t threads);
void attention_run(const struct attention *attention);

#endif
