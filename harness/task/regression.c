/* Regression: a text, or a pair of texts read together, to a number (as BERT learns STS-B: one output over the pooled
 * vector, mean square against the score).
 *
 * The model is taught scores scaled from low..high to 0..1, and its outputs are scaled back before they are judged.
 * Pairs take the tokenizer's form of two texts, [CLS] first [SEP] second [SEP], with segments.
 */
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/data_table.h"
#include "task/example_arrays.h"
#include "task/metrics.h"
#include "task/task_kinds.h"

struct regression_options {
    const char *data, *train, *validation, *test, *first, *second, *score;
    struct option_names header;
    double low, high;
    int64_t max_train;
};
#define AT(field) offsetof(struct regression_options, field)
static const struct option regression_options[] = {
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the files", AT(data)},
    {"train", OPTION_TEXT, "train.tsv", 0, 0, NULL, NULL, "file of the training split; empty: none", AT(train)},
    {"validation", OPTION_TEXT, "dev.tsv", 0, 0, NULL, NULL, "file of the validation split; empty: none",
     AT(validation)},
    {"test", OPTION_TEXT, "test.tsv", 0, 0, NULL, NULL, "file of the test split", AT(test)},
    {"first", OPTION_TEXT, "sentence1", 0, 0, NULL, NULL, "column of the texts, by name or number", AT(first)},
    {"second", OPTION_TEXT, "", 0, 0, NULL, NULL, "column of second texts, read with the first; empty: none",
     AT(second)},
    {"score", OPTION_TEXT, "score", 0, 0, NULL, NULL, "column of the numbers", AT(score)},
    {"header", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "names of all columns, of files without a first line of names",
     AT(header)},
    {"low", OPTION_REAL, "0", -1e9, 1e9, NULL, NULL, "lowest number there can be: learnt as 0", AT(low)},
    {"high", OPTION_REAL, "5", -1e9, 1e9, NULL, NULL, "highest number there can be: learnt as 1", AT(high)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "train on the first items only; 0: all", AT(max_train)},
    OPTION_END};
#undef AT

enum { COLUMN_SCORE, COLUMN_FIRST, COLUMN_SECOND };

struct regression {
    struct data_table table[SPLITS];
    const char **texts[SPLITS]; /* the first of each: what timing runs */
    float *scores[SPLITS];
    double low, high;
    bool pairs;
};

static int split_open(struct task *task, const struct regression_options *options, enum task_split split,
                      const char *file, struct hash *hash) {
    int status = 0;
    struct regression *owned = task->owned;
    struct data_table *table = &owned->table[split];
    const char *columns[] = {options->score, options->first, options->second};
    char path[PATH_MAX];
    if (!file || !*file) return 0;
    TRY(data_file_find(path, sizeof path, options->data, task_split_option(split), file));
    struct data_request request = {.path = path,
                                   .columns = columns,
                                   .column_count = owned->pairs ? 3 : 2,
                                   .header = options->header.count ? options->header.items : NULL,
                                   .header_count = options->header.count};
    TRY(data_table_read(table, &request, hash));
    size_t count = table->rows;
    if (split == SPLIT_TRAIN && options->max_train && (size_t)options->max_train < count)
        count = (size_t)options->max_train;
    TRY(memory_take((void **)&owned->texts[split], count, sizeof(char *)));
    TRY(memory_take((void **)&owned->scores[split], count, sizeof(float)));
    for (size_t i = 0; i < count; i++) {
        double score;
        owned->texts[split][i] = data_text(table, i, COLUMN_FIRST);
        TRY(data_score(table, i, COLUMN_SCORE, owned->low, owned->high, &score));
        owned->scores[split][i] = (float)score;
    }
    if (split != SPLIT_TRAIN) TRY(scores_vary(owned->scores[split], count, table->path));
    task->split[split] =
        (struct task_text){.count = count, .text = owned->texts[split], .path = table->path, .line = table->line};
    if (split == SPLIT_TRAIN) task->split[SPLIT_UNLABELLED] = task->split[split];
out:
    return status;
}

static void regression_close(struct task *task) {
    struct regression *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) {
        data_table_close(&owned->table[i]);
        memory_release(owned->texts[i]);
        memory_release(owned->scores[i]);
    }
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int regression_open(struct task *task, const void *context) {
    int status = 0;
    static const char *const output[] = {"score"};
    const struct regression_options *options = context;
    struct hash hash;
    *task = (struct task){.kind = &task_regression, .class_names = output, .classes = 1};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct regression)));
    struct regression *owned = task->owned;
    owned->pairs = *options->second != 0;
    owned->low = options->low;
    owned->high = options->high;
    if (!(owned->low < owned->high)) FAIL(E_ARGUMENT, "low %g must be below high %g", owned->low, owned->high);
    TRY(split_open(task, options, SPLIT_TRAIN, options->train, &hash));
    TRY(split_open(task, options, SPLIT_VALIDATION, options->validation, &hash));
    TRY(split_open(task, options, SPLIT_TEST, options->test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) regression_close(task);
    return status;
}

/* ---- examples ----------------------------------------------------------------------------------------- */

static int pairs_open(struct task_examples *out, const struct task *task, enum task_split split,
                      const struct tokenizer *tokenizer, size_t longest) {
    int status = 0;
    const struct data_table *table = &((const struct regression *)task->owned)->table[split];
    size_t count = task->split[split].count, slots, used = 0;
    struct encoding encoding = {0};
    struct example_arrays *arrays;
    int32_t *types = NULL;
    void *block;
    *out = (struct task_examples){0};
    TRY(size_multiply(count, longest, &slots));
    TRY(example_arrays_open(out, count, slots, &arrays));
    TRY(memory_take(&block, slots, sizeof *arrays->types));
    arrays->types = block;
    for (size_t i = 0; i < count; i++) {
        encoding.count = 0;
        TRY(tokenizer_append_pair(tokenizer, data_text(table, i, COLUMN_FIRST), data_text(table, i, COLUMN_SECOND),
                                  longest, false, &encoding, &types));
        if (!encoding.count) FAIL(E_FORMAT, "%s:%u: the texts have no tokens", table->path, table->line[i]);
        memcpy(arrays->ids + used, encoding.ids, encoding.count * sizeof *arrays->ids);
        memcpy(arrays->types + used, types, encoding.count * sizeof *arrays->types);
        used += encoding.count;
        arrays->offset[i + 1] = (uint32_t)used;
        memory_release(types);
        types = NULL;
    }
out:
    memory_release(types);
    encoding_close(&encoding);
    return status;
}

/* A split as the model reads it, with targets in 0..1. */
static int regression_examples(const struct task *task, enum task_split split, const struct tokenizer *tokenizer,
                               size_t longest, bool targets, struct task_examples *out) {
    int status = 0;
    const struct regression *owned = task->owned;
    size_t count = task->split[split].count;
    void *block;
    if (owned->pairs) TRY(pairs_open(out, task, split, tokenizer, longest));
    else TRY(task_examples_open(out, task, split, tokenizer, longest));
    struct example_arrays *arrays = out->owned;
    if (targets) {
        TRY(memory_take(&block, count, sizeof *arrays->target));
        arrays->target = block;
        for (size_t i = 0; i < count; i++)
            arrays->target[i] = score_scale((double)owned->scores[split][i], owned->low, owned->high);
    }
    example_arrays_view(out, count, 0, false);
out:
    if (status < 0) task_examples_close(out);
    return status;
}

static int regression_training(const struct task *task, const struct tokenizer *tokenizer,
                               const struct task_lengths *lengths, struct task_examples *out) {
    return regression_examples(task, SPLIT_TRAIN, tokenizer, task_longest(lengths), true, out);
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

/* The model's one output for every example, `batch` at a time in their order. */
static int outputs_make(const struct model *model, const struct examples *examples, size_t batch, float *outputs) {
    int status = 0;
    struct workspace workspace = {0};
    void *block = NULL;
    if (batch == 0) FAIL(E_ARGUMENT, "a scoring batch needs at least one sequence");
    TRY(memory_take(&block, batch + 1, sizeof(uint32_t)));
    uint32_t *offset = block;
    for (size_t begin = 0; begin < examples->count; begin += batch) {
        size_t end = begin + batch < examples->count ? begin + batch : examples->count;
        uint32_t first = examples->offset[begin];
        struct model_output output = {0};
        for (size_t i = begin; i <= end; i++) offset[i - begin] = examples->offset[i] - first;
        bool typed = examples->types && model->config.token_types > 1;
        struct batch packed = {.sequences = end - begin,
                               .tokens = offset[end - begin],
                               .ids = examples->ids + first,
                               .offset = offset,
                               .token_types = typed ? examples->types + first : NULL};
        TRY(model_forward(model, &packed, NULL, &workspace, &output));
        if (!output.logits || model->config.classes != 1) FAIL(E_UNSUPPORTED, "the model has no head of one output");
        memcpy(outputs + begin, output.logits, (end - begin) * sizeof *outputs);
    }
out:
    workspace_close(&workspace);
    memory_release(block);
    return status;
}

static int correlations_add(struct task_result *result, const float *value, const float *target) {
    int status = 0;
    void *x_block = NULL, *y_block = NULL;
    double spearman, squares = 0;
    size_t count = result->count;
    TRY(memory_take(&x_block, count, sizeof(double)));
    TRY(memory_take(&y_block, count, sizeof(double)));
    double *x = x_block, *y = y_block;
    for (size_t i = 0; i < count; i++) {
        x[i] = (double)value[i];
        y[i] = (double)target[i];
        squares += (x[i] - y[i]) * (x[i] - y[i]);
    }
    TRY(metric_spearman(x, y, count, &spearman));
    task_result_metric(result, "pearson", "", metric_pearson(x, y, count));
    task_result_metric(result, "spearman", "", spearman);
    task_result_metric(result, "mean_square_error", "", squares / (double)count);
out:
    memory_release(x_block);
    memory_release(y_block);
    return status;
}

static int regression_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    const struct regression *owned = scoring->task->owned;
    struct task_lengths lengths = {scoring->max_tokens, scoring->model->config.positions};
    struct task_examples examples = {0};
    float *value, *target, *theirs = NULL;
    double moved = 0;
    size_t count = result->count = scoring->task->split[scoring->split].count;
    TRY(regression_examples(scoring->task, scoring->split, scoring->tokenizer, task_longest(&lengths), false,
                            &examples));
    TRY(task_result_items(result, "value", ITEM_F32, (void **)&value));
    TRY(task_result_items(result, "target", ITEM_F32, (void **)&target));
    TRY(outputs_make(scoring->model, &examples.examples, scoring->batch, value));
    if (scoring->baseline) {
        TRY(memory_take((void **)&theirs, count, sizeof *theirs));
        TRY(outputs_make(scoring->baseline, &examples.examples, scoring->batch, theirs));
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(value[i])) FAIL(E_NUMERIC, "the model's output for item %zu is not finite", i + 1);
        if (theirs) moved += fabs((double)value[i] - (double)theirs[i]) * (owned->high - owned->low);
        value[i] = (float)(owned->low + (double)value[i] * (owned->high - owned->low));
        target[i] = owned->scores[scoring->split][i];
    }
    TRY(correlations_add(result, value, target));
    if (theirs) task_result_metric(result, "moved_from_baseline", "", moved / (double)count);
out:
    memory_release(theirs);
    task_examples_close(&examples);
    return status;
}

const struct task_kind task_regression = {
    .name = "regression",
    .summary = "a number for a text or a pair of texts",
    .primary_metric = "pearson",
    .primary_unit = "",
    .higher_is_better = true,
    .estimator = "pearson",
    .options = regression_options,
    .options_bytes = sizeof(struct regression_options),
    .open = regression_open,
    .close = regression_close,
    .heads = HEAD_CLASSIFICATION,
    .score = regression_score,
    .objective = TRAIN_REGRESSION,
    .training = regression_training,
};
