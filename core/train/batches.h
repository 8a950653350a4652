/* The order in which training sees its examples, and the masks of masked-LM training. Private to core/train. */
#ifndef BATCHES_H
#define BATCHES_H

#include "base/memory.h"
#include "model/model.h"
#include "train/train.h"

struct batches {
    const struct examples *examples;
    const struct train_plan *plan;
    size_t cut; /* longest sequence kept */
    size_t per_epoch, epoch;
    uint32_t *order; /* [count] this epoch's */
    uint32_t *slot;  /* [per_epoch] which stretch of `order` is the k-th batch */
    uint64_t *keys;  /* [batch] for sorting */
    struct arena arena;
    /* the batch at hand */
    int32_t *ids, *labels; /* labels [B] or [T] */
    uint32_t *offset;
    struct batch batch;
};

/* cut: sequences are cut to this many tokens. E_ARGUMENT when there are no examples, E_MEMORY. */
int batches_open(struct batches *batches, const struct examples *examples, const struct train_plan *plan, size_t cut);
void batches_close(struct batches *batches); /* accepts a zeroed one */
/* Fill `batch` and `labels` with the batch of a step; a function of (examples, plan, step) alone. */
void batches_step(struct batches *batches, size_t step, size_t vocabulary);

#endif
