/* Numbers to hold a trained model against: the majority class, and linear SVMs on TF-IDF words and on words
 * and pairs of words.
 *
 * The classifiers see the train split alone; the cost C is chosen by accuracy on the validation split among
 * svm_costs (the smaller one on a tie); the test split is looked at once, with that C.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/features.h"
#include "task/linear_svm.h"

/* Mark the rows whose largest decision is their label's; returns their share. decision: (classes, rows). */
static double decisions_mark(const double *decision, size_t classes, size_t rows, const int32_t *label,
                             uint8_t *correct) {
    size_t right = 0;
    for (size_t i = 0; i < rows; i++) {
        size_t best = 0;
        for (size_t k = 1; k < classes; k++)
            if (decision[k * rows + i] > decision[best * rows + i]) best = k;
        correct[i] = (int32_t)best == label[i];
        right += correct[i];
    }
    return rows ? (double)right / (double)rows : 0;
}

static int yardstick_majority(const struct task *task, struct task_yardstick *yardstick) {
    int status = 0;
    void *counts = NULL;
    const struct task_text *train = &task->split[SPLIT_TRAIN], *test = &task->split[SPLIT_TEST];
    snprintf(yardstick->name, sizeof yardstick->name, "majority class");
    TRY(memory_take(&counts, task->classes, sizeof(size_t)));
    size_t *of = counts, best = 0, right = 0;
    for (size_t i = 0; i < train->count; i++) of[train->label[i]]++;
    for (size_t k = 1; k < task->classes; k++)
        if (of[k] > of[best]) best = k;
    for (size_t i = 0; i < test->count; i++) right += yardstick->correct[i] = test->label[i] == (int32_t)best;
    yardstick->accuracy_frac = test->count ? (double)right / (double)test->count : 0;
out:
    memory_release(counts);
    return status;
}

static int yardstick_linear(const struct task *task, bool pairs, struct task_yardstick *yardstick) {
    int status = 0;
    const struct task_text *split = task->split;
    size_t classes = task->classes, best = 0;
    size_t valid_rows = split[SPLIT_VALIDATION].count, test_rows = split[SPLIT_TEST].count;
    struct vocabulary vocabulary = {0};
    struct sparse train = {0}, valid = {0}, test = {0};
    void *valid_decision = NULL, *test_decision = NULL, *marks = NULL;
    double best_frac = -1;
    snprintf(yardstick->name, sizeof yardstick->name, pairs ? "linear, words and pairs" : "linear, words");
    TRY(vocabulary_open(&vocabulary, &split[SPLIT_TRAIN], pairs));
    TRY(sparse_open(&train, &vocabulary, &split[SPLIT_TRAIN]));
    TRY(sparse_open(&valid, &vocabulary, &split[SPLIT_VALIDATION]));
    TRY(sparse_open(&test, &vocabulary, &split[SPLIT_TEST]));
    TRY(memory_take(&valid_decision, SVM_COSTS * classes * valid_rows, sizeof(double)));
    TRY(memory_take(&test_decision, SVM_COSTS * classes * test_rows, sizeof(double)));
    TRY(memory_take(&marks, valid_rows, 1));
    TRY(svm_decide(&train, split[SPLIT_TRAIN].label, classes, &valid, &test, valid_decision, test_decision));
    for (size_t c = 0; c < SVM_COSTS; c++) {
        const double *decision = (const double *)valid_decision + c * classes * valid_rows;
        double frac = decisions_mark(decision, classes, valid_rows, split[SPLIT_VALIDATION].label, marks);
        if (frac > best_frac) {
            best_frac = frac;
            best = c;
        }
    }
    yardstick->accuracy_frac = decisions_mark((const double *)test_decision + best * classes * test_rows, classes,
                                              test_rows, split[SPLIT_TEST].label, yardstick->correct);
out:
    memory_release(marks);
    memory_release(test_decision);
    memory_release(valid_decision);
    sparse_close(&test);
    sparse_close(&valid);
    sparse_close(&train);
    vocabulary_close(&vocabulary);
    return status;
}

int task_yardsticks(const struct task *task, struct task_yardstick *yardsticks, size_t *count) {
    int status = 0;
    memset(yardsticks, 0, 3 * sizeof *yardsticks);
    *count = 3;
    for (size_t i = 0; i < 3; i++) {
        void *block = NULL;
        TRY(memory_take(&block, task->split[SPLIT_TEST].count, 1));
        yardsticks[i].correct = block;
    }
    TRY(yardstick_majority(task, &yardsticks[0]));
    TRY(yardstick_linear(task, false, &yardsticks[1]));
    TRY(yardstick_linear(task, true, &yardsticks[2]));
out:
    if (status < 0) {
        task_yardsticks_close(yardsticks, 3);
        *count = 0;
    }
    return status;
}

void task_yardsticks_close(struct task_yardstick *yardsticks, size_t count) {
    for (size_t i = 0; i < count; i++) {
        memory_release(yardsticks[i].correct);
        yardsticks[i].correct = NULL;
    }
}
