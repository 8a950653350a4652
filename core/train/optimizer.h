/* AdamW, Adam with L2 decay, and SGD with momentum over a list of trainables, with clipping by global norm.
 *
 * Rows of a sparse trainable (the token table, when only look-ups give it gradients) that never occurred have no
 * gradient and no moments. They are stepped as if they were updated like all others, to the bit, but cost nothing:
 * their gradients and moments are neither read nor written nor resident, and the decay that they missed is made up for
 * when they first occur, or in optimizer_settle.
 */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "train/trainable.h"

/* adam_l2 adds decay·value to the gradient (Kingma and Ba 2015, as torch's Adam does); adamw decays apart from it. */
enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_ADAM_L2, OPTIMIZER_SGD };

struct optimizer_settings {
    enum optimizer_kind kind;
    double beta1, beta2, epsilon; /* adamw, adam_l2; epsilon > 0 */
    double momentum;              /* sgd */
    bool nesterov;
    double weight_decay; /* of trainables with `decay` */
    double clip_norm;    /* 0: none */
};

/* What the optimizer keeps of one trainable. */
struct optimizer_item {
    float *m, *v;   /* (rows, columns): first and second moment; sgd: m is the momentum, v NULL */
    uint32_t *last; /* [rows] 1 + the step that touched a row last, 0: none did; NULL unless rows are kept apart */
};

/* A fixed piece of one trainable, the unit of parallel work: elements begin..end-1; whole rows where they fit. */
struct optimizer_chunk {
    uint32_t item;
    size_t begin, end;
};

struct optimizer {
    struct optimizer_settings settings;
    const struct trainables *trainables;
    struct optimizer_item *items; /* one for each trainable */
    struct optimizer_chunk *chunks;
    double *partial; /* [chunk_count] sums of squares */
    size_t chunk_count;
    float *zeros;  /* the gradient of a row that did not occur in a step */
    size_t *met;   /* rows that occurred for the first time */
    float *missed; /* decay factors that untouched rows have yet to be multiplied by, oldest first */
    size_t missed_count, missed_room;
    size_t step;                /* steps taken */
    struct arena arena, sparse; /* sparse: pages come into being when they are touched */
};

/* Zero moments for every trainable; the list is borrowed until optimizer_close. E_MEMORY. */
int optimizer_open(struct optimizer *optimizer, const struct optimizer_settings *settings,
                   const struct trainables *trainables);
void optimizer_close(struct optimizer *optimizer); /* accepts a zeroed one */

/* Rows of a sparse trainable that the coming step may give a gradient: to be called before anything reads them or
 * adds to their gradient, once for each micro-batch. Nothing for other trainables, nor for one that is not in the list
 * (SIZE_MAX). */
void optimizer_touch(struct optimizer *optimizer, size_t item, const int32_t *rows, size_t count);

/* One step at `rate`. norm: of all gradients before clipping, summed in a fixed order; the factor is
 * min(1, clip_norm / (norm + 1e-6)), as torch's clip_grad_norm_. E_NUMERIC when it is not finite: nothing moved.
 * E_MEMORY.
 */
int optimizer_step(struct optimizer *optimizer, double rate, double *norm);

/* Bring all rows up to date: to be called before anybody reads values of rows that were not touched. */
void optimizer_settle(struct optimizer *optimizer);

#endif
