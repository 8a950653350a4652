/* What a model can be trained for, and what is told of each step: the words that the training loop, techniques and
 * the harness share.
 */
#ifndef OBJECTIVE_H
#define OBJECTIVE_H

#include <stddef.h>

/* Each reads other arrays of struct examples (text/examples.h), named behind it. */
enum train_objective {
    TRAIN_CLASSIFICATION,     /* label: cross-entropy over the classes */
    TRAIN_MASKED_LM,          /* ids alone: hidden tokens from those around them */
    TRAIN_CAUSAL_LM,          /* ids alone: each token from those before it */
    TRAIN_REGRESSION,         /* target: one output per sequence, mean square (a classification head of one class) */
    TRAIN_SIMILARITY,         /* pair, target: cosine of two pooled sequences against their score, mean square */
    TRAIN_QUESTION_ANSWERING, /* start, end: first and last token of the answer */
    TRAIN_OBJECTIVES
};

/* "classification", "masked_lm", "causal_lm", "regression", "similarity", "question_answering". */
const char *train_objective_name(enum train_objective objective);
/* By that name; E_NOT_FOUND names those there are. */
int train_objective_find(const char *name, enum train_objective *objective);
/* enum model_head bits that it trains; 0: the body alone. */
unsigned train_objective_heads(enum train_objective objective);

/* One step that was taken. */
struct train_progress {
    size_t step, steps;         /* from 1; of how many in all */
    double loss;                /* nats, or mean squares, of the step's batch, before the step */
    double rate, gradient_norm; /* learning rate; norm of all gradients before clipping */
    double seconds;             /* since training began, times before a resumption included */
};

#endif
