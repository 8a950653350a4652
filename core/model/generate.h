/* Text from a causal language model: greedy, sampled and beam search over a KV cache.
 *
 * Beam search is that of Hugging Face's `generate`: each step takes the 2K best continuations of the K beams; those
 * that end and rank among the first K become hypotheses scored sum_logprob / new_tokens^length_penalty, the K best
 * others go on; it stops when K hypotheses exist and no running beam can beat the worst of them, or at the limit, where
 * the candidates of the last step compete too. Sampling: temperature, then top-k, then top-p (Holtzman et al. 2020), by
 * a counter-based generator, so that a seed gives the same ids at any number of threads.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "model/kv_cache.h"

struct generate_options {
    size_t new_tokens;  /* at most; exactly when `end` is NULL (fixed length, for timing) */
    const int32_t *end; /* [end_count] ids that end a text; NULL: none */
    size_t end_count;
    double temperature; /* 0: greedy */
    size_t top_k;       /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
    size_t beams;          /* 0 or 1: no beam search */
    double length_penalty; /* 1 */
    bool early_stopping;
    enum cache_type cache;
    /* Called after the prompt's pass (index 0: the first token is known) and after each further token; the harness
     * takes its times here. NULL: none. */
    void (*token)(void *context, size_t index, int32_t id);
    void *context;
};
void generate_defaults(struct generate_options *options); /* greedy, 128 tokens, f16 cache off */

/* One text: ids after the prompt, the ending id included. sum_logprob: of ids, in nats; score as above. */
struct generated {
    int32_t *ids; /* [count], owned */
    size_t count;
    double sum_logprob, score;
    bool ended;
};

/* Continue one prompt. out: room for max(1, beams) results, best first; *count set. E_UNSUPPORTED: no language-model
 * head; E_SHAPE: prompt and new tokens exceed the positions; E_ARGUMENT; E_MEMORY. */
int generate(const struct model *model, const int32_t *prompt, size_t prompt_tokens,
             const struct generate_options *options, struct workspace *workspace, struct generated *out, size_t *count);
void generated_close(struct generated *generated, size_t count);

#endif
