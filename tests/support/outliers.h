/* Models whose activations have channels far larger than others, as those of large language models have. */
#ifndef OUTLIERS_H
#define OUTLIERS_H

#include "technique_run.h"
#include "small_task.h"

/* A small model of a family in `run` and examples for it (classes for BERT and DistilBERT, else next tokens). Where the
 * family allows it, every eighth channel of a linear layer's input is 20 times as large as the others, and the weights
 * that read it smaller; the outputs are those of a model without. */
void outliers_open(struct technique_run *run, struct small_task *task, const char *family, uint64_t seed);
void outliers_close(struct technique_run *run, struct small_task *task);

/* Largest change of the outputs of the first examples since `before`, relative to their size; `before` is filled when
 * *before is NULL (the caller frees it). */
double outliers_change(const struct technique_run *run, const struct small_task *task, float **before);

#endif
