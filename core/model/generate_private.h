/* What greedy, sampled and beam decoding share. Private to the generate files. */
#ifndef GENERATE_PRIVATE_H
#define GENERATE_PRIVATE_H

#include "model/generate.h"

struct generation {
    const struct model *model;
    const struct generate_options *options;
    struct workspace *workspace;
    struct kv_cache cache;
    float *logits; /* (max(1,K),V) of the last pass */
    int32_t *heap; /* [V], for sampling */
};

/* Feed `count` tokens to each slot 0..sequences-1 (ids: slot by slot); logits of each one's last token. */
int generation_pass(struct generation *generation, const int32_t *ids, size_t sequences, size_t count);
bool generation_ends(const struct generate_options *options, int32_t id);

/* The id that `options` choose from V logits at step `index`, and its log-probability under the model's own
 * distribution (temperature 1, nothing left out). Overwrites the logits. heap [V]. */
int32_t choose_token(const struct generate_options *options, size_t index, size_t V, float *logits, int32_t *heap,
                     double *logprob);

int generate_beams(struct generation *generation, const int32_t *prompt, size_t prompt_tokens, struct generated *out,
                   size_t *count);

#endif
