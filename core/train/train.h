/* Training: objectives, AdamW, the linear schedule, and the loop over shuffled, packed batches.
 *
 * The backward pass of each layer stands beside its forward pass in model/. Everything is cut into tiles
 * that do not depend on the number of threads, so the trained parameters are bit-identical at any.
 */
#ifndef TRAIN_H
#define TRAIN_H

#include "model/model.h"
#include "text/examples.h"

enum train_objective { TRAIN_CLASSIFICATION, TRAIN_MASKED_LM };

struct train_plan {
    enum train_objective objective;
    double epochs;      /* may be a fraction */
    size_t batch;       /* sequences per step */
    double rate;        /* peak learning rate */
    double warmup_frac; /* of all steps: linear from 0; then linear decay to 0 at the end */
    double beta1, beta2, epsilon;
    double weight_decay; /* on parameters with two dimensions only */
    double clip_norm;    /* gradient norm limit; 0: none */
    double dropout;      /* on embeddings, each block's two outputs and the pooled vector; 0: none */
    double label_smoothing;
    double word_dropout; /* classification: share of ordinary tokens replaced by [MASK], drawn anew each step */
    double mask_frac;    /* masked LM: fraction of tokens to predict (80 % [MASK], 10 % random, 10 % kept) */
    int32_t mask_id;     /* [MASK] */
    int32_t special_ids; /* ids below this are never masked nor drawn */
    size_t max_tokens;   /* longer examples are cut */
    uint64_t seed;
};
void train_plan_defaults(
    struct train_plan *plan); /* AdamW 0.9/0.999/1e-8, decay 0.01, clip 1, warm-up 0.06, batch 32 */

struct train_progress {
    size_t step, steps;
    double loss, rate, gradient_norm, seconds;
};

/* What the caller may observe; returns nonzero to stop (E_INTERRUPTED). May be NULL. */
typedef int train_observer(void *context, const struct train_progress *progress);

struct train_result {
    size_t steps, tokens;
    double loss_first, loss_last;
    double seconds;
};

/* Train the model in place. E_NUMERIC when the loss is not finite: the text names step and advice.
 * E_MEMORY, E_SHAPE, E_INTERRUPTED. */
int train_run(struct model *model, const struct examples *examples, const struct train_plan *plan,
              train_observer *observer, void *context, struct train_result *result);

#endif
