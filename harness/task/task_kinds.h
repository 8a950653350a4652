/* The kinds of tasks; each is described at the top of its own file. */
#ifndef TASK_KINDS_H
#define TASK_KINDS_H

#include "task/task.h"

extern const struct task_kind task_classification, task_regression, task_similarity, task_question_answering,
    task_generation, task_perplexity, task_perplexity_rolling;

#endif
