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

int task_score(const struct model *model, const struct examples *examples, size_t batch, struct task_scores *scores) {
    int status = 0;
    void *block = NULL;
    struct sized *order = NULL;
    int32_t *ids = NULL;
    uint32_t *offset = NULL;
    uint64_t *table = NULL;
    struct workspace workspace = {0};
    struct class_scores metrics;
    size_t count = examples->count, classes = examples->classes, longest = 1, room = 0;
    memset(scores, 0, sizeof *scores);
    if (!examples->label || classes == 0) FAIL(E_ARGUMENT, "scoring needs labelled examples");
    if (model->config.classes != classes)
        FAIL(E_SHAPE, "the model tells %zu classes apart but the task has %zu", model->config.classes, classes);
    if (batch == 0) FAIL(E_ARGUMENT, "a scoring batch needs at least one sequence");
    TRY(memory_take(&block, count, sizeof *order));
    order = block;
    for (size_t i = 0; i < count; i++) {
        int32_t label = examples->label[i];
        if (label < 0 || (size_t)label >= classes)
            FAIL(E_FORMAT, "item %zu has class %d, expected 0 to %zu", i, (int)label, classes - 1);
        order[i] = (struct sized){examples->offset[i + 1] - examples->offset[i], (uint32_t)i};
        if (order[i].length > longest) longest = order[i].length;
    }
    qsort(order, count, sizeof *order, sized_compare);
    if (batch > count) batch = count ? count : 1;
    TRY(size_multiply(batch, longest, &room));
    TRY(memory_take(&block, room, sizeof *ids));
    ids = block;
    TRY(memory_take(&block, batch + 1, sizeof *offset));
    offset = block;
    TRY(memory_take(&block, classes * classes, sizeof *table));
    table = block;
    TRY(memory_take(&block, count, sizeof *scores->correct));
    scores->correct = block;
    TRY(memory_take(&block, count, sizeof *scores->predicted));
    scores->predicted = block;
    TRY(memory_take(&block, count, sizeof *scores->nll));
    scores->nll = block;
    scores->count = count;
    for (size_t begin = 0; begin < count; begin += batch) {
        size_t end = begin + batch < count ? begin + batch : count, used = 0;
        for (size_t i = begin; i < end; i++) {
            memcpy(ids + used, examples->ids + examples->offset[order[i].item], order[i].length * sizeof *ids);
            used += order[i].length;
            offset[i - begin + 1] = (uint32_t)used;
        }
        struct batch packed = {.sequences = end - begin, .tokens = used, .ids = ids, .offset = offset};
        struct model_output output = {0};
        TRY(model_forward(model, &packed, NULL, &workspace, &output));
        if (!output.logits) FAIL(E_UNSUPPORTED, "the model has no classification head to score");
        for (size_t i = begin; i < end; i++) {
            size_t item = order[i].item;
            int32_t label = examples->label[item];
            TRY(item_score(output.logits + (i - begin) * classes, classes, item, label, scores));
            table[(size_t)label * classes + (size_t)scores->predicted[item]]++;
        }
    }
    for (size_t i = 0; i < count; i++) scores->mean_nll += (double)scores->nll[i];
    if (count) scores->mean_nll /= (double)count;
    metric_classes(table, classes, &metrics);
    scores->accuracy_frac = metrics.accuracy_frac;
    scores->macro_f1 = metrics.f1_macro;
    scores->matthews = metrics.matthews;
out:
    if (status < 0) task_scores_close(scores);
    workspace_close(&workspace);
    memory_release(table);
    memory_release(offset);
    memory_release(ids);
    memory_release(order);
    return status;
}

void task_scores_close(struct task_scores *scores) {
    memory_release(scores->correct);
    memory_release(scores->predicted);
    memory_release(scores->nll);
    memset(scores, 0, sizeof *scores);
}
