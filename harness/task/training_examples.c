/* What a task's training split becomes: examples of its objective, or text alone; and the arrays behind examples. */
#include <limits.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/example_arrays.h"

/* ---- arrays ------------------------------------------------------------------------------------------- */

int example_arrays_open(struct task_examples *out, size_t count, size_t tokens, struct example_arrays **arrays) {
    int status = 0;
    void *block = NULL;
    *out = (struct task_examples){0};
    if (tokens >= UINT32_MAX)
        FAIL(E_LIMIT, "%zu examples of %zu tokens in all: at most 2^32 fit; lower max_tokens", count, tokens);
    TRY(memory_take(&block, 1, sizeof **arrays));
    out->owned = *arrays = block;
    TRY(memory_take(&block, tokens, sizeof *(*arrays)->ids));
    (*arrays)->ids = block;
    TRY(memory_take(&block, count + 1, sizeof *(*arrays)->offset));
    (*arrays)->offset = block;
out:
    return status;
}

void example_arrays_view(struct task_examples *out, size_t count, size_t classes, bool pair) {
    const struct example_arrays *arrays = out->owned;
    out->examples = (struct examples){.count = count,
                                      .ids = arrays->ids,
                                      .offset = arrays->offset,
                                      .types = arrays->types,
                                      .label = arrays->label,
                                      .classes = classes,
                                      .pair = pair,
                                      .target = arrays->target,
                                      .start = arrays->start,
                                      .end = arrays->end};
}

void task_examples_close(struct task_examples *examples) {
    struct example_arrays *arrays = examples->owned;
    if (arrays) {
        memory_release(arrays->ids);
        memory_release(arrays->types);
        memory_release(arrays->offset);
        memory_release(arrays->label);
        memory_release(arrays->target);
        memory_release(arrays->start);
        memory_release(arrays->end);
        memory_release(arrays);
    }
    *examples = (struct task_examples){0};
}

/* ---- text ---------------------------------------------------------------------------------------------- */

int text_blocks_open(struct task_examples *out, const struct tokenizer *tokenizer, const char *text, size_t bytes,
                     int32_t begin, size_t max_tokens, size_t max_blocks) {
    int status = 0;
    struct encoding encoding = {0};
    struct example_arrays *arrays;
    size_t extra = begin >= 0, room = max_tokens - extra, count, used = 0;
    *out = (struct task_examples){0};
    if (max_tokens < 2 + extra) FAIL(E_ARGUMENT, "blocks of %zu tokens have nothing to predict", max_tokens);
    TRY(tokenizer_append(tokenizer, text, bytes, false, false, &encoding));
    count = encoding.count / room;
    size_t left = encoding.count % room;
    if (left + extra >= 2) count++;
    else left = 0;
    if (max_blocks && count > max_blocks) {
        count = max_blocks;
        left = 0;
    }
    if (!count) FAIL(E_FORMAT, "%zu token%s: nothing to predict", encoding.count, encoding.count == 1 ? "" : "s");
    TRY(example_arrays_open(out, count, count * max_tokens, &arrays));
    for (size_t i = 0; i < count; i++) {
        size_t length = i + 1 == count && left ? left : room;
        if (begin >= 0) arrays->ids[used++] = begin;
        memcpy(arrays->ids + used, encoding.ids + i * room, length * sizeof *arrays->ids);
        used += length;
        arrays->offset[i + 1] = (uint32_t)used;
    }
    example_arrays_view(out, count, 0, false);
out:
    encoding_close(&encoding);
    if (status < 0) task_examples_close(out);
    return status;
}

int scores_vary(const float *scores, size_t count, const char *path) {
    int status = 0;
    for (size_t i = 1; i < count; i++)
        if (scores[i] != scores[0]) return 0;
    if (count == 1) FAIL(E_FORMAT, "%s: one score: a correlation needs two that differ", path);
    FAIL(E_FORMAT, "%s: all %zu scores are %g: a correlation needs two that differ", path, count, (double)scores[0]);
out:
    return status;
}

float score_scale(double score, double low, double high) {
    double place = (score - low) / (high - low); /* a little outside where the score was rounded to 32 bits */
    return (float)(place < 0 ? 0 : place > 1 ? 1 : place);
}

/* ---- by task ------------------------------------------------------------------------------------------- */

static bool is_language_model(const struct task *task) {
    return task->kind->objective == TRAIN_CAUSAL_LM || task->kind->objective == TRAIN_MASKED_LM;
}

int task_training_open(struct task_examples *out, const struct task *task, const struct tokenizer *tokenizer,
                       const struct task_lengths *lengths) {
    int status = 0;
    *out = (struct task_examples){0};
    if (!task->split[SPLIT_TRAIN].count) FAIL(E_NOT_FOUND, "the task %s has no training data", task->kind->name);
    if (task->kind->training) TRY(task->kind->training(task, tokenizer, lengths, out));
    else TRY(task_examples_open(out, task, SPLIT_TRAIN, tokenizer, task_longest(lengths)));
out:
    return status;
}

bool task_has_unlabelled(const struct task *task) {
    return task->split[SPLIT_UNLABELLED].count || (is_language_model(task) && task->split[SPLIT_TRAIN].count);
}

int task_unlabelled_open(struct task_examples *out, const struct task *task, const struct tokenizer *tokenizer,
                         const struct task_lengths *lengths) {
    int status = 0;
    *out = (struct task_examples){0};
    if (!task_has_unlabelled(task)) FAIL(E_NOT_FOUND, "the task %s has no unlabelled text", task->kind->name);
    if (task->split[SPLIT_UNLABELLED].count)
        TRY(task_examples_open(out, task, SPLIT_UNLABELLED, tokenizer, task_longest(lengths)));
    else TRY(task_training_open(out, task, tokenizer, lengths));
out:
    return status;
}
