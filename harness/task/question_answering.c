/* Extractive question answering: questions about a text, answered by a span of it (SQuAD, Rajpurkar et al. 2016).
 *
 * A context that does not fit beside its question is cut into windows that overlap; the span with the largest start
 * plus end logit of all windows is the answer, and its text is taken from the file's own bytes by the tokenizer's
 * offsets. Exact match and F1 are those of SQuAD's v1.1 script, as fractions. Questions of v2.0 that have no answer are
 * left out. Items are questions.
 */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/answer_windows.h"
#include "task/data_table.h"
#include "task/metrics.h"
#include "task/task_kinds.h"

struct answering_options {
    const char *data, *train, *validation, *test;
    int64_t max_tokens, stride, max_answer_tokens, max_items, max_train;
};
#define AT(field) offsetof(struct answering_options, field)
static const struct option answering_options[] = {
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the files", AT(data)},
    {"train", OPTION_TEXT, "", 0, 0, NULL, NULL, "file to train on and to calibrate with; empty: none", AT(train)},
    {"validation", OPTION_TEXT, "", 0, 0, NULL, NULL, "file to score after each stage; empty: none", AT(validation)},
    {"test", OPTION_TEXT, "dev-v1.1.json", 0, 0, NULL, NULL, "file to score", AT(test)},
    {"max_tokens", OPTION_INTEGER, "384", 8, 1048576, NULL, "tokens",
     "longest window, question included; at most the model's positions", AT(max_tokens)},
    {"stride", OPTION_INTEGER, "128", 1, 1048576, NULL, "tokens",
     "how many tokens of context lie between the beginnings of two windows", AT(stride)},
    {"max_answer_tokens", OPTION_INTEGER, "30", 1, 1048576, NULL, "tokens", "longest answer", AT(max_answer_tokens)},
    {"max_items", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "score the first questions only; 0: all", AT(max_items)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "questions", "train on the first questions only; 0: all",
     AT(max_train)},
    OPTION_END};
#undef AT

struct answering {
    struct answering_options options;
    struct split_data {
        struct data_table table;
        const char **questions, **contexts; /* [items] */
        const char **paragraph;             /* [paragraphs] of the training split: contexts without repetitions */
        const char **texts;                 /* [items] question and context as one text: what timing runs */
        char *joined;                       /* their bytes */
        size_t items, paragraphs;
    } split[SPLITS];
};

static void split_close(struct split_data *split) {
    data_table_close(&split->table);
    memory_release(split->questions);
    memory_release(split->contexts);
    memory_release(split->paragraph);
    memory_release(split->texts);
    memory_release(split->joined);
}

/* "question context" of every item. */
static int texts_join(struct split_data *split) {
    int status = 0;
    size_t room = 0, used = 0;
    void *block;
    for (size_t i = 0; i < split->items; i++) room += strlen(split->questions[i]) + strlen(split->contexts[i]) + 2;
    TRY(memory_take(&block, room, 1));
    split->joined = block;
    for (size_t i = 0; i < split->items; i++) {
        split->texts[i] = split->joined + used;
        used +=
            (size_t)snprintf(split->joined + used, room - used, "%s %s", split->questions[i], split->contexts[i]) + 1;
    }
out:
    return status;
}

/* Contexts stand in the file once for all their questions: text to learn words from. */
static int paragraphs_take(struct task *task, struct split_data *split) {
    int status = 0;
    TRY(memory_take((void **)&split->paragraph, split->items, sizeof(char *)));
    for (size_t i = 0; i < split->items; i++)
        if (i == 0 || split->contexts[i] != split->contexts[i - 1])
            split->paragraph[split->paragraphs++] = split->contexts[i];
    task->split[SPLIT_UNLABELLED] =
        (struct task_text){.count = split->paragraphs, .text = split->paragraph, .path = split->table.path};
out:
    return status;
}

static int split_open(struct task *task, enum task_split which, const char *file, struct hash *hash) {
    int status = 0;
    struct answering *owned = task->owned;
    struct split_data *split = &owned->split[which];
    size_t limit = (size_t)(which == SPLIT_TRAIN ? owned->options.max_train : owned->options.max_items);
    char path[PATH_MAX];
    if (!*file) return 0;
    TRY(data_file_find(path, sizeof path, owned->options.data, task_split_option(which), file));
    TRY(data_squad_read(&split->table, path, hash));
    split->items = split->table.rows;
    if (limit && limit < split->items) split->items = limit;
    TRY(memory_take((void **)&split->questions, split->items, sizeof(char *)));
    TRY(memory_take((void **)&split->contexts, split->items, sizeof(char *)));
    TRY(memory_take((void **)&split->texts, split->items, sizeof(char *)));
    for (size_t i = 0; i < split->items; i++) {
        split->questions[i] = data_text(&split->table, i, SQUAD_QUESTION);
        split->contexts[i] = data_text(&split->table, i, SQUAD_CONTEXT);
    }
    TRY(texts_join(split));
    task->split[which] = (struct task_text){.count = split->items, .text = split->texts, .path = split->table.path};
    if (which == SPLIT_TRAIN) TRY(paragraphs_take(task, split));
out:
    return status;
}

static void answering_close(struct task *task) {
    struct answering *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) split_close(&owned->split[i]);
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int answering_open(struct task *task, const void *context) {
    int status = 0;
    struct hash hash;
    *task = (struct task){.kind = &task_question_answering};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct answering)));
    struct answering *owned = task->owned;
    owned->options = *(const struct answering_options *)context;
    TRY(split_open(task, SPLIT_TRAIN, owned->options.train, &hash));
    TRY(split_open(task, SPLIT_VALIDATION, owned->options.validation, &hash));
    TRY(split_open(task, SPLIT_TEST, owned->options.test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
    hash_number(&hash, (uint64_t)owned->options.max_items);
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) answering_close(task);
    return status;
}

static int windows_open(struct answer_windows *windows, const struct tokenizer *tokenizer,
                        const struct split_data *split, size_t max_tokens, size_t stride) {
    int status =
        answer_windows_open(windows, tokenizer, split->questions, split->contexts, split->items, max_tokens, stride);
    if (status == E_LIMIT) error_prefix(status, "%s", split->table.path); /* a question; all else is not the file's */
    return status;
}

static int answering_training(const struct task *task, const struct tokenizer *tokenizer,
                              const struct task_lengths *lengths, struct task_examples *out) {
    int status = 0;
    const struct answering *owned = task->owned;
    const struct split_data *split = &owned->split[SPLIT_TRAIN];
    struct answer_windows windows = {0};
    void *block = NULL;
    /* Windows have a length of their own. */
    struct task_lengths window = {(size_t)owned->options.max_tokens, lengths->positions};
    TRY(memory_take(&block, split->items, sizeof(struct answer_span)));
    struct answer_span *answers = block;
    for (size_t i = 0; i < split->items; i++)
        answer_locate(split->contexts[i], data_text(&split->table, i, SQUAD_ANSWERS),
                      data_text(&split->table, i, SQUAD_STARTS), &answers[i]);
    TRY(windows_open(&windows, tokenizer, split, task_longest(&window), (size_t)owned->options.stride));
    status = answer_windows_examples(&windows, answers, out);
    if (status == E_FORMAT || status == E_LIMIT) error_prefix(status, "%s", split->table.path);
out:
    answer_windows_close(&windows);
    memory_release(block);
    return status;
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

/* The accepted answers of one item, in a list of its own: release with memory_release. */
static int references_take(const struct data_table *table, size_t item, const char ***references, size_t *count) {
    int status = 0;
    void *block;
    *count = data_count(table, item, SQUAD_ANSWERS);
    TRY(memory_take(&block, *count, sizeof **references));
    *references = block;
    const char *text = data_text(table, item, SQUAD_ANSWERS);
    for (size_t i = 0; i < *count; i++, text = data_next(text)) (*references)[i] = text;
out:
    return status;
}

static int item_score(const struct data_table *table, size_t item, const struct answer_span *span, double *exact,
                      double *f1) {
    int status = 0;
    char *answer = NULL;
    const char **references = NULL;
    size_t count;
    const char *context = data_text(table, item, SQUAD_CONTEXT);
    TRY(memory_string_n(&answer, context + span->begin, span->end - span->begin));
    TRY(references_take(table, item, &references, &count));
    TRY(metric_answer(answer, references, count, exact, f1));
out:
    memory_release(answer);
    memory_release(references);
    return status;
}

/* How many answers are the baseline's own, to the letter. */
static int agreement_score(const struct task_scoring *scoring, const struct answer_windows *windows,
                           const struct answer_span *own, const struct split_data *split, struct task_result *result) {
    int status = 0;
    const struct answering *task = scoring->task->owned;
    void *block = NULL;
    uint8_t *same;
    size_t same_count = 0;
    TRY(memory_take(&block, result->count, sizeof *own));
    struct answer_span *theirs = block;
    TRY(answer_spans_find(windows, scoring->baseline, scoring->batch, (size_t)task->options.max_answer_tokens, theirs));
    TRY(task_result_items(result, "same_answer", ITEM_U8, (void **)&same));
    for (size_t i = 0; i < result->count; i++) {
        const char *context = split->contexts[i];
        size_t bytes = own[i].end - own[i].begin;
        same[i] = theirs[i].end - theirs[i].begin == bytes &&
                  memcmp(context + own[i].begin, context + theirs[i].begin, bytes) == 0;
        same_count += same[i];
    }
    task_result_metric(result, "same_answer_as_baseline", "frac", (double)same_count / (double)result->count);
out:
    memory_release(block);
    return status;
}

static int answers_judge(const struct split_data *split, const struct answer_span *spans, struct task_result *result) {
    int status = 0;
    float *value;
    uint8_t *exact_match;
    int32_t *begin, *end;
    double exact_sum = 0, f1_sum = 0, count = (double)result->count;
    TRY(task_result_items(result, "value", ITEM_F32, (void **)&value));
    TRY(task_result_items(result, "exact_match", ITEM_U8, (void **)&exact_match));
    TRY(task_result_items(result, "answer_begin", ITEM_I32, (void **)&begin));
    TRY(task_result_items(result, "answer_end", ITEM_I32, (void **)&end));
    for (size_t i = 0; i < result->count; i++) {
        double exact, f1;
        TRY(item_score(&split->table, i, &spans[i], &exact, &f1));
        value[i] = (float)f1;
        exact_match[i] = exact > 0;
        begin[i] = (int32_t)spans[i].begin;
        end[i] = (int32_t)spans[i].end;
        exact_sum += exact;
        f1_sum += f1;
    }
    task_result_metric(result, "f1", "frac", f1_sum / count);
    task_result_metric(result, "exact_match", "frac", exact_sum / count);
out:
    return status;
}

static int answering_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    const struct answering *owned = scoring->task->owned;
    const struct split_data *split = &owned->split[scoring->split];
    size_t positions = scoring->model->config.positions, max_tokens = (size_t)owned->options.max_tokens;
    struct answer_windows windows = {0};
    void *block = NULL;
    result->count = split->items;
    TRY(windows_open(&windows, scoring->tokenizer, split, max_tokens < positions ? max_tokens : positions,
                     (size_t)owned->options.stride));
    TRY(memory_take(&block, split->items, sizeof(struct answer_span)));
    struct answer_span *spans = block;
    TRY(answer_spans_find(&windows, scoring->model, scoring->batch, (size_t)owned->options.max_answer_tokens, spans));
    TRY(answers_judge(split, spans, result));
    task_result_metric(result, "windows", "windows", (double)windows.window_count);
    if (scoring->baseline) TRY(agreement_score(scoring, &windows, spans, split, result));
out:
    answer_windows_close(&windows);
    memory_release(block);
    return status;
}

const struct task_kind task_question_answering = {
    .name = "question_answering",
    .summary = "questions answered by a span of a text (SQuAD JSON)",
    .primary_metric = "f1",
    .primary_unit = "frac",
    .higher_is_better = true,
    .estimator = "mean",
    .options = answering_options,
    .options_bytes = sizeof(struct answering_options),
    .open = answering_open,
    .close = answering_close,
    .heads = HEAD_SPAN,
    .score = answering_score,
    .objective = TRAIN_QUESTION_ANSWERING,
    .training = answering_training,
};
