/* Something small to learn for every objective: a model of a family, and examples whose answer can be read off them. */
#ifndef SMALL_TASK_H
#define SMALL_TASK_H

#include "small_model.h"
#include "train/train.h"

struct small_task {
    enum train_objective objective;
    struct small_examples base;
    float *target;
    int32_t *start, *end;
    struct examples examples;
};

/* Two layers of width 32, vocabulary 97, 24 positions, with the head that the objective needs. */
void small_task_model(struct model *model, const char *family, enum train_objective objective, uint64_t seed);
/* `count` examples of 5 to 16 tokens: classes and scores by the words' classes, pairs that are alike or not, answers
 * behind a sign, texts that count upwards. count is even. */
void small_task_open(struct small_task *task, enum train_objective objective, size_t count, uint64_t seed);
void small_task_close(struct small_task *task);
/* AdamW at 2e-3, batch 16, one epoch, no dropout, seed 4. */
void small_task_plan(struct train_plan *plan, enum train_objective objective);

#endif
