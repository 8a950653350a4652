/* The order in which training sees its examples, what each objective is to say of them, and the masks of masked-LM
 * training. Private to core/train.
 *
 * A step's batch is drawn whole; passes take it in micro-batches, stretches of whole sequences, each with its share of
 * the step's loss. Everything is a function of (examples, plan, step), whatever was asked before.
 */
#ifndef BATCHES_H
#define BATCHES_H

#include "base/memory.h"
#include "model/model.h"
#include "train/train.h"

struct batches {
    const struct examples *examples;
    const struct train_plan *plan;
    size_t cut;        /* longest sequence kept */
    size_t vocabulary; /* random ids are drawn below it */
    size_t classes;    /* of the model */
    size_t unit;       /* sequences that stay together: 2 of a pair, else 1 */
    size_t copies;     /* of each in a batch, side by side: 2 with R-Drop, else 1 */
    size_t units, per_batch, per_micro;
    size_t per_epoch, epoch;
    uint32_t *order;     /* [units] this epoch's */
    uint32_t *slot;      /* [per_epoch] which stretch of `order` is the k-th batch */
    uint64_t *keys;      /* [per_batch] for sorting */
    float *class_weight; /* [classes] or NULL: all 1 */
    struct arena arena;

    /* The step at hand: its sequences, shortest first. */
    size_t step, sequences, tokens, micros;
    double weight;                      /* what shares are shares of: rows, weights of labels, or sequences */
    int32_t *ids, *types, *token_label; /* [tokens]; token_label: what is predicted there, or LABEL_IGNORED */
    uint32_t *offset, *example;         /* [sequences + 1], [sequences] */
    int32_t *label, *start, *end;       /* [sequences] */
    float *target;                      /* [sequences / unit] */
    /* The micro-batch at hand. */
    uint32_t *micro_offset, *row;
    int32_t *row_label;
};

/* Longest sequence that training keeps: the plan's max_tokens (0: any) or the model's positions. */
size_t batches_cut(const struct train_plan *plan, const struct model_config *config);

/* Examples and plan fit the model (train_check). E_MEMORY. */
int batches_open(struct batches *batches, const struct examples *examples, const struct train_plan *plan,
                 const struct model_config *config);
void batches_close(struct batches *batches); /* accepts a zeroed one */

/* Draw the batch of a step. */
void batches_step(struct batches *batches, size_t step);
/* Its micro-batch `index` of batches->micros; arrays stay until the next call. */
void batches_micro(struct batches *batches, size_t index, struct train_batch *micro);

#endif
