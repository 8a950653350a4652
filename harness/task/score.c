/* Scoring a classifier by per-item results.
 *
 * Items are sorted by length (ties by position) and run in packed batches; since a sequence's logits do not
 * depend on its neighbours, results do not depend on the batch size either.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metrics.h"
#include "task/task.h"

struct sized {
    uint32_t length, item;
};

static int sized_compare(const void *a, const void *b) {
    const struct sized *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

/* Outcome of one item from its logits. */
static int item_score(const float *logits, size_t classes, size_t item, int32_t label, struct task_scores *scores) {
    int status = 0;
    size_t best = 0;
    double sum = 0;
    for (size_t k = 0; k < classes; k++) {
        if (!isfinite(logits[k])) FAIL(E_NUMERIC, "the model's logits of test item %zu are not finite", item);
        if (logits[k] > logits[best]) best = k;
    }
    for (size_t k = 0; k < classes; k++) sum += exp((double)logits[k] - (double)logits[best]);
    scores->predicted[item] = (int32_t)best;
    scores->correct[item] = (int32_t)best == label;
    scores->nll[item] = (float)(log(sum) + (double)logits[best] - (double)logits[label]);
out:
    return status;
}

/* Run examples in the given order, `batch` at a time; logits go to their own place. */
static int logits_run(const struct model *model, const struct examples *examples, const struct sized *order,
                      size_t batch, size_t longest, float *logits) {
    int status = 0;
    void *ids_block = NULL, *offset_block = NULL;
    struct workspace workspace = {0};
    size_t count = examples->count, classes = examples->classes, room = 0;
    TRY(size_multiply(batch, longest, &room));
    TRY(memory_take(&ids_block, room, sizeof(int32_t)));
    TRY(memory_take(&offset_block, batch + 1, sizeof(uint32_t)));
    int32_t *ids = ids_block;
    uint32_t *offset = offset_block;
    for (size_t begin = 0; begin < count; begin += batch) {
        size_t end = begin + batch < count ? begin + batch : count, used = 0;
        for (size_t i = begin; i < end; i++) {
            memcpy(ids + used, examples->ids + examples->offset[order[i].item], order[i].length * sizeof *ids);
            used += order[i].length;
            offset[i - begin + 1] = (uint32_t)used;
        }
        struct batch packed = {
            .sequences = end - begin, .tokens = used, .ids = ids, .offset = offset, .read = READ_FIRST};
        struct model_output output = {0};
        TRY(model_forward(model, &packed, NULL, &workspace, &output));
        if (!output.logits) FAIL(E_UNSUPPORTED, "the model has no classification head to score");
        for (size_t i = begin; i < end; i++)
            memcpy(logits + order[i].item * classes, output.logits + (i - begin) * classes, classes * sizeof *logits);
    }
out:
    workspace_close(&workspace);
    memory_release(offset_block);
    memory_release(ids_block);
    return status;
}

int task_logits(const struct model *model, const struct examples *examples, size_t batch, float **logits) {
    int status = 0;
    void *order_block = NULL, *block = NULL;
    size_t count = examples->count, classes = examples->classes, longest = 1, room = 0;
    *logits = NULL;
    if (!examples->label || classes == 0) FAIL(E_ARGUMENT, "scoring needs labelled examples");
    if (model->config.classes != classes)
        FAIL(E_SHAPE, "the model tells %zu classes apart but the task has %zu", model->config.classes, classes);
    if (batch == 0) FAIL(E_ARGUMENT, "a scoring batch needs at least one sequence");
    TRY(memory_take(&order_block, count, sizeof(struct sized)));
    struct sized *order = order_block;
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct sized){examples->offset[i + 1] - examples->offset[i], (uint32_t)i};
        if (order[i].length > longest) longest = order[i].length;
    }
    qsort(order, count, sizeof *order, sized_compare);
    TRY(size_multiply(count, classes, &room));
    TRY(memory_take(&block, room, sizeof **logits));
    TRY(logits_run(model, examples, order, batch < count ? batch : count ? count : 1, longest, block));
    *logits = block;
    block = NULL;
out:
    memory_release(block);
    memory_release(order_block);
    return status;
}

/* Scores from logits. */
static int scores_fill(const float *logits, const struct examples *examples, struct task_scores *scores) {
    int status = 0;
    void *block = NULL;
    uint64_t *table = NULL;
    struct class_scores metrics;
    size_t count = examples->count, classes = examples->classes;
    TRY(memory_take(&block, classes * classes, sizeof *table));
    table = block;
    TRY(memory_take(&block, count, sizeof *scores->correct));
    scores->correct = block;
    TRY(memory_take(&block, count, sizeof *scores->predicted));
    scores->predicted = block;
    TRY(memory_take(&block, count, sizeof *scores->nll));
    scores->nll = block;
    scores->count = count;
    for (size_t i = 0; i < count; i++) {
        int32_t label = examples->label[i];
        if (label < 0 || (size_t)label >= classes)
            FAIL(E_FORMAT, "item %zu has class %d, expected 0 to %zu", i, (int)label, classes - 1);
        TRY(item_score(logits + i * classes, classes, i, label, scores));
        table[(size_t)label * classes + (size_t)scores->predicted[i]]++;
        scores->mean_nll += (double)scores->nll[i];
    }
    if (count) scores->mean_nll /= (double)count;
    metric_classes(table, classes, &metrics);
    scores->accuracy_frac = metrics.accuracy_frac;
    scores->macro_f1 = metrics.f1_macro;
    scores->matthews = metrics.matthews;
    scores->f1_positive = metrics.f1_positive;
out:
    memory_release(table);
    return status;
}

int task_score(const struct model *model, const struct examples *examples, size_t batch, struct task_scores *scores) {
    int status = 0;
    float *logits = NULL;
    memset(scores, 0, sizeof *scores);
    TRY(task_logits(model, examples, batch, &logits));
    TRY(scores_fill(logits, examples, scores));
out:
    if (status < 0) task_scores_close(scores);
    memory_release(logits);
    return status;
}

double task_divergence(const float *theirs, const float *own, size_t count, bool *same_first) {
    size_t first = 0, own_first = 0;
    double sum = 1, own_sum = 1, divergence = 0; /* the first ones' own shares */
    for (size_t i = 1; i < count; i++) {
        if (theirs[i] > theirs[first]) first = i;
        if (own[i] > own[own_first]) own_first = i;
    }
    for (size_t i = 0; i < count; i++) {
        if (i != first) sum += exp((double)(theirs[i] - theirs[first]));
        if (i != own_first) own_sum += exp((double)(own[i] - own[own_first]));
    }
    double shift = log(own_sum) + (double)own[own_first] - log(sum) - (double)theirs[first];
    for (size_t i = 0; i < count; i++)
        divergence += exp((double)(theirs[i] - theirs[first])) * ((double)theirs[i] - (double)own[i] + shift);
    *same_first = first == own_first;
    return fmax(0, divergence / sum); /* never below 0 but for rounding */
}

/* Divergence from the baseline's class probabilities, item by item. */
static int agreement_score(const struct task_scoring *scoring, const float *logits, struct task_result *result) {
    int status = 0;
    float *theirs = NULL, *kl;
    uint8_t *same;
    size_t classes = scoring->examples->classes;
    double kl_sum = 0, same_sum = 0, count = (double)result->count;
    TRY(task_logits(scoring->baseline, scoring->examples, scoring->batch, &theirs));
    TRY(task_result_items(result, "kl_nats", ITEM_F32, (void **)&kl));
    TRY(task_result_items(result, "same_top1", ITEM_U8, (void **)&same));
    for (size_t i = 0; i < result->count; i++) {
        bool same_first;
        kl[i] = (float)task_divergence(theirs + i * classes, logits + i * classes, classes, &same_first);
        same[i] = same_first;
        kl_sum += (double)kl[i];
        same_sum += same[i];
    }
    task_result_metric(result, "kl_to_baseline", "nats", kl_sum / count);
    task_result_metric(result, "same_top1_as_baseline", "frac", same_sum / count);
out:
    memory_release(theirs);
    return status;
}

int task_classification_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    struct task_scores scores = {0};
    float *logits = NULL;
    void *values;
    TRY(task_logits(scoring->model, scoring->examples, scoring->batch, &logits));
    TRY(scores_fill(logits, scoring->examples, &scores));
    size_t count = result->count = scores.count;
    TRY(task_result_items(result, "correct", ITEM_U8, &values));
    memcpy(values, scores.correct, count);
    TRY(task_result_items(result, "predicted", ITEM_I32, &values));
    memcpy(values, scores.predicted, count * sizeof *scores.predicted);
    TRY(task_result_items(result, "nll", ITEM_F32, &values));
    memcpy(values, scores.nll, count * sizeof *scores.nll);
    task_result_metric(result, "accuracy", "frac", scores.accuracy_frac);
    task_result_metric(result, "macro_f1", "frac", scores.macro_f1);
    if (scoring->examples->classes == 2) task_result_metric(result, "f1_positive", "frac", scores.f1_positive);
    task_result_metric(result, "matthews", "", scores.matthews);
    task_result_metric(result, "mean_nll", "nats", scores.mean_nll);
    if (scoring->baseline) TRY(agreement_score(scoring, logits, result));
out:
    task_scores_close(&scores);
    memory_release(logits);
    return status;
}

void task_scores_close(struct task_scores *scores) {
    memory_release(scores->correct);
    memory_release(scores->predicted);
    memory_release(scores->nll);
    memset(scores, 0, sizeof *scores);
}
