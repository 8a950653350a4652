/* One stage of a technique that trains, on a small task, as the harness would run it. */
#ifndef TRAINING_STAGE_H
#define TRAINING_STAGE_H

#include "small_task.h"
#include "technique.h"

struct training_stage {
    const struct technique *technique;
    struct model *model; /* edited */
    const struct small_task *task;
    const struct examples *validation; /* scored by training_stage_loss; NULL: the task has no such split */
    const char *checkpoint_dir;
    size_t stop_at; /* after that many steps; 0: never */
    /* Called with every model that is scored; NULL: nobody looks. */
    void (*look)(void *context, const struct model *model);
    void *context;

    /* What the technique told. */
    struct metric_told {
        char name[48];
        double value;
    } metrics[24];
    size_t metric_count, steps, scored;
};

/* "name=value" texts, ending with NULL, over the defaults and seed 6; probe, apply, report. The first status that is
 * not 0. */
int training_stage_run(struct training_stage *stage, const char *const *settings);
double training_stage_metric(const struct training_stage *stage, const char *name); /* NaN when absent */

/* Mean cross-entropy of classes, or of next tokens in a causal language model, over examples, by inference. */
double training_stage_loss(const struct model *model, const struct examples *examples);
/* Logits of the first `count` examples, or hidden states of their tokens in a model without classes; the caller frees
 * them. */
float *training_stage_outputs(const struct model *model, const struct examples *examples, size_t count, size_t *values);

#endif
