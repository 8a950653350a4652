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

/* What is multiplied: f32, or rows rounded to bf16 or to 8-bit codes; those two without a cache, not causal, without
 * shared keys. In order of the scratch they take. */
enum attention_arithmetic { ATTENTION_F32, ATTENTION_BF16, ATTENTION_INT8 };

struct attention {
    const struct model_config *config;
    const struct batch *batch; /* with a cache: its lengths are those before the pass; the caller grows them after it */
    size_t layer;
    enum attention_arithmetic arithmetic;
    const float *rotary;        /* rotary_table (T,D) of the tokens' positions, or NULL */
    float *query, *key, *value; /* (T,H·D), (T,K·D), (T,K·D); query and key are turned in place */
    const uint32_t *read; /* NULL, or [B] the one token of each sequence, counted over the batch, that asks: query and
                           * context are (B,H·D) */
    size_t query_stride, key_stride; /* of a row of query; of key and value */
    float *context;                  /* (T,H·D) dense */
    float *scratch;                  /* attention_scratch_floats */
};

/* Floats that attention_run needs at this many threads. */
size_t attention_scratch_floats(const struct model_config *config, const struct batch *batch,
                                enum attention_arithmetic arithmetic, size_t threads);
void attention_run(const struct attention *attention);

#endif
