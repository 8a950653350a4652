/* Semantic similarity: pairs of sentences with a score, against the cosine of their embeddings (STS-B).
 *
 * An embedding is the mean of the last hidden states over all tokens of a sentence, special ones included, or what else
 * the model's own pooling takes, scaled to unit length (Reimers and Gurevych 2019). Correlations do not depend on the
 * scores' scale; training does, and is given them scaled from low..high to 0..1.
 */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/data_table.h"
#include "task/example_arrays.h"
#include "task/metrics.h"
#include "task/sentence_folder.h"
#include "task/task_kinds.h"

struct similarity_options {
    const char *data, *train, *validation, *test, *first, *second, *score;
    struct option_names header;
    double low, high;
    int64_t max_train;
};
#define AT(field) offsetof(struct similarity_options, field)
static const struct option similarity_options[] = {
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the files", AT(data)},
    {"train", OPTION_TEXT, "", 0, 0, NULL, NULL, "file of the training split; empty: none", AT(train)},
    {"validation", OPTION_TEXT, "dev.tsv", 0, 0, NULL, NULL, "file of the validation split; empty: none",
     AT(validation)},
    {"test", OPTION_TEXT, "test.tsv", 0, 0, NULL, NULL, "file of the test split", AT(test)},
    {"first", OPTION_TEXT, "sentence1", 0, 0, NULL, NULL, "column of the first sentences", AT(first)},
    {"second", OPTION_TEXT, "sentence2", 0, 0, NULL, NULL, "column of the second sentences", AT(second)},
    {"score", OPTION_TEXT, "score", 0, 0, NULL, NULL, "column of the scores", AT(score)},
    {"header", OPTION_NAMES, "[index, genre, filename, year, old_index, source1, source2, sentence1, sentence2, score]",
     0, 0, NULL, NULL, "names of all columns, of files without a first line of names; []: the files have them",
     AT(header)},
    {"low", OPTION_REAL, "0", -1e9, 1e9, NULL, NULL, "lowest score there can be: what training aims at as cosine 0",
     AT(low)},
    {"high", OPTION_REAL, "5", -1e9, 1e9, NULL, NULL, "highest score there can be: cosine 1", AT(high)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "pairs", "train on the first pairs only; 0: all", AT(max_train)},
    OPTION_END};
#undef AT

struct similarity {
    struct data_table table[SPLITS];
    const char **texts[SPLITS]; /* first and second sentences by turns: [2 * rows] */
    float *scores[SPLITS];      /* [rows] */
    double low, high;
};

static int split_open(struct task *task, const struct similarity_options *options, enum task_split split,
                      const char *file, struct hash *hash) {
    int status = 0;
    struct similarity *owned = task->owned;
    struct data_table *table = &owned->table[split];
    const char *columns[] = {options->first, options->second, options->score};
    char path[PATH_MAX];
    if (!file || !*file) return 0;
    TRY(data_file_find(path, sizeof path, options->data, task_split_option(split), file));
    struct data_request request = {.path = path,
                                   .columns = columns,
                                   .column_count = 3,
                                   .header = options->header.count ? options->header.items : NULL,
                                   .header_count = options->header.count};
    TRY(data_table_read(table, &request, hash));
    size_t count = table->rows;
    if (split == SPLIT_TRAIN && options->max_train && (size_t)options->max_train < count)
        count = (size_t)options->max_train;
    TRY(memory_take((void **)&owned->texts[split], 2 * count, sizeof(char *)));
    TRY(memory_take((void **)&owned->scores[split], count, sizeof(float)));
    for (size_t i = 0; i < count; i++) {
        double score;
        owned->texts[split][2 * i] = data_text(table, i, 0);
        owned->texts[split][2 * i + 1] = data_text(table, i, 1);
        if (split == SPLIT_TRAIN) TRY(data_score(table, i, 2, owned->low, owned->high, &score));
        else TRY(data_number(table, i, 2, "the score", &score)); /* correlations know no scale */
        owned->scores[split][i] = (float)score;
    }
    if (split != SPLIT_TRAIN) TRY(scores_vary(owned->scores[split], count, table->path));
    task->split[split] = (struct task_text){
        .count = 2 * count, .text = owned->texts[split], .path = table->path, .line = table->line, .texts_per_line = 2};
    if (split == SPLIT_TRAIN) task->split[SPLIT_UNLABELLED] = task->split[split];
out:
    return status;
}

static void similarity_close(struct task *task) {
    struct similarity *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) {
        data_table_close(&owned->table[i]);
        memory_release(owned->texts[i]);
        memory_release(owned->scores[i]);
    }
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int similarity_open(struct task *task, const void *context) {
    int status = 0;
    const struct similarity_options *options = context;
    struct hash hash;
    *task = (struct task){.kind = &task_similarity};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct similarity)));
    struct similarity *owned = task->owned;
    owned->low = options->low;
    owned->high = options->high;
    if (options->train && *options->train && !(owned->low < owned->high))
        FAIL(E_ARGUMENT, "low %g must be below high %g", owned->low, owned->high);
    TRY(split_open(task, options, SPLIT_TRAIN, options->train, &hash));
    TRY(split_open(task, options, SPLIT_VALIDATION, options->validation, &hash));
    TRY(split_open(task, options, SPLIT_TEST, options->test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) similarity_close(task);
    return status;
}

static int similarity_training(const struct task *task, const struct tokenizer *tokenizer,
                               const struct task_lengths *lengths, struct task_examples *out) {
    int status = 0;
    const struct similarity *owned = task->owned;
    size_t pairs = task->split[SPLIT_TRAIN].count / 2;
    void *block;
    TRY(task_examples_open(out, task, SPLIT_TRAIN, tokenizer, task_longest(lengths)));
    struct example_arrays *arrays = out->owned;
    TRY(memory_take(&block, pairs, sizeof *arrays->target));
    arrays->target = block;
    for (size_t i = 0; i < pairs; i++)
        arrays->target[i] = score_scale((double)owned->scores[SPLIT_TRAIN][i], owned->low, owned->high);
    example_arrays_view(out, 2 * pairs, 0, true);
out:
    if (status < 0) task_examples_close(out);
    return status;
}

struct sized {
    uint32_t length, item;
};
static int sized_compare(const void *a, const void *b) {
    const struct sized *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

/* Unit embeddings of all examples, (count, width), sentences of like length together. */
static int embeddings_make(const struct model *model, const struct examples *examples, size_t batch, float **out) {
    int status = 0;
    void *order_block = NULL, *ids_block = NULL, *offset_block = NULL, *pooled_block = NULL, *result = NULL;
    struct workspace workspace = {0};
    size_t count = examples->count, width = model->config.width, longest = 1;
    *out = NULL;
    TRY(memory_take(&order_block, count, sizeof(struct sized)));
    struct sized *order = order_block;
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct sized){examples->offset[i + 1] - examples->offset[i], (uint32_t)i};
        if (order[i].length > longest) longest = order[i].length;
    }
    qsort(order, count, sizeof *order, sized_compare);
    TRY(memory_take(&ids_block, batch * longest, sizeof(int32_t)));
    TRY(memory_take(&offset_block, batch + 1, sizeof(uint32_t)));
    TRY(memory_take(&pooled_block, batch * width, sizeof(float)));
    TRY(memory_take(&result, count * width, sizeof(float)));
    int32_t *ids = ids_block;
    uint32_t *offset = offset_block;
    float *pooled = pooled_block, *embeddings = result;
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
        model_pool(model, &packed, output.hidden, true, pooled);
        for (size_t i = begin; i < end; i++)
            memcpy(embeddings + order[i].item * width, pooled + (i - begin) * width, width * sizeof *pooled);
    }
    *out = embeddings;
    result = NULL;
out:
    workspace_close(&workspace);
    memory_release(order_block);
    memory_release(ids_block);
    memory_release(offset_block);
    memory_release(pooled_block);
    memory_release(result);
    return status;
}

static double dot(const float *a, const float *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* How far the embeddings themselves moved from the baseline's. */
static int agreement_score(const struct task_scoring *scoring, const float *own, struct task_result *result) {
    int status = 0;
    float *theirs = NULL;
    double sum = 0;
    size_t width = scoring->model->config.width, count = scoring->examples->count;
    if (scoring->baseline->config.width != width) return 0;
    TRY(embeddings_make(scoring->baseline, scoring->examples, scoring->batch, &theirs));
    for (size_t i = 0; i < count; i++) sum += dot(own + i * width, theirs + i * width, width);
    task_result_metric(result, "cosine_to_baseline", "", sum / (double)count);
out:
    memory_release(theirs);
    return status;
}

static int similarity_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    const struct similarity *owned = scoring->task->owned;
    float *embeddings = NULL, *value, *target;
    void *x_block = NULL, *y_block = NULL;
    double spearman, kendall;
    size_t width = scoring->model->config.width, count = result->count = owned->table[scoring->split].rows;
    TRY(embeddings_make(scoring->model, scoring->examples, scoring->batch, &embeddings));
    TRY(task_result_items(result, "value", ITEM_F32, (void **)&value));
    TRY(task_result_items(result, "target", ITEM_F32, (void **)&target));
    TRY(memory_take(&x_block, count, sizeof(double)));
    TRY(memory_take(&y_block, count, sizeof(double)));
    double *x = x_block, *y = y_block;
    for (size_t i = 0; i < count; i++) {
        const float *pair = embeddings + 2 * i * width;
        value[i] = (float)dot(pair, pair + width, width);
        target[i] = owned->scores[scoring->split][i];
        x[i] = (double)value[i];
        y[i] = (double)target[i];
    }
    TRY(metric_spearman(x, y, count, &spearman));
    TRY(metric_kendall(x, y, count, &kendall));
    task_result_metric(result, "spearman", "", spearman);
    task_result_metric(result, "pearson", "", metric_pearson(x, y, count));
    task_result_metric(result, "kendall", "", kendall);
    if (scoring->baseline) TRY(agreement_score(scoring, embeddings, result));
out:
    memory_release(embeddings);
    memory_release(x_block);
    memory_release(y_block);
    return status;
}

const struct task_kind task_similarity = {
    .name = "similarity",
    .summary = "pairs of sentences with a score (STS-B): cosine of pooled embeddings",
    .primary_metric = "spearman",
    .primary_unit = "",
    .higher_is_better = true,
    .estimator = "spearman",
    .options = similarity_options,
    .options_bytes = sizeof(struct similarity_options),
    .open = similarity_open,
    .close = similarity_close,
    .score = similarity_score,
    .check_folder = sentence_folder_check,
    .objective = TRAIN_SIMILARITY,
    .training = similarity_training,
};
