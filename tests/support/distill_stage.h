/* One training stage on a small task, with what it tells its host, for the tests of distill. */
#ifndef DISTILL_STAGE_H
#define DISTILL_STAGE_H

#include "small_task.h"
#include "technique.h"

extern const struct technique technique_distill, technique_finetune;

#define STAGE_STEPS 256

struct stage {
    struct model model; /* in and out */
    struct small_task task;
    const char *cache_dir; /* NULL: none */
    uint64_t seed;
    int stop;        /* what progress answers */
    long fail_after; /* allocations of the stage until the first that fails; 0: none does */
    /* What came back. */
    double loss[STAGE_STEPS]; /* of each step */
    size_t steps, forwards;
    double loss_first, loss_last;
    int64_t depth, width, heads, feed_forward; /* options after probe */
    char hash[65];                             /* of the model's values */
};

/* A teacher of `layers` layers and 96 examples; function of the objective and seeds alone. trained: it has learnt the
 * task, on examples of its own. */
void stage_open(struct stage *stage, const char *family, enum train_objective objective, size_t layers, bool trained);
void stage_close(struct stage *stage);
/* Probe, open, apply, report, close with "name", "value" pairs over the defaults, of which batch is 16, dropout 0,
 * epochs 1 and rate 0.002. Returns the first status that is not 0. */
int stage_run(struct stage *stage, const struct technique *technique, const char *const *pairs);
/* The same, or the test fails with the error's text. */
void stage_must(struct stage *stage, const struct technique *technique, const char *const *pairs);
/* Mean loss of the objective over 64 fresh examples: how well the model knows the task. */
double stage_judge(struct stage *stage);

#endif
