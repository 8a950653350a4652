/* The list of tasks: one row per kind of data. */
#include <string.h>

#include "task/task.h"
#include "task/task_kinds.h"
#include "task/wordnet.h"

const struct task_kind *const task_kinds[] = {&task_wordnet,    &task_classification,     &task_regression,
                                              &task_similarity, &task_question_answering, &task_generation,
                                              &task_perplexity, &task_perplexity_rolling, NULL};

const char *task_split_option(enum task_split split) {
    return split == SPLIT_TEST ? "test" : split == SPLIT_VALIDATION ? "validation" : "train";
}

const struct task_kind *task_kind_find(const char *name) {
    for (size_t i = 0; task_kinds[i]; i++)
        if (strcmp(task_kinds[i]->name, name) == 0) return task_kinds[i];
    return NULL;
}
