/* Classification of texts from files: TSV (GLUE's), CSV or JSON lines with a column of texts and one of labels.
 *
 * Each split is a file in the folder `data`; only the test split is required. Classes are `labels` in the order given,
 * and every label in the files must be one of them.
 */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/data_table.h"
#include "task/task_kinds.h"

struct classification_options {
    const char *data, *train, *validation, *test, *text, *train_text, *label;
    struct option_names labels, header;
    int64_t max_train;
};
#define AT(field) offsetof(struct classification_options, field)
static const struct option classification_options[] = {
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the files", AT(data)},
    {"train", OPTION_TEXT, "train.tsv", 0, 0, NULL, NULL, "file of the training split; empty: none", AT(train)},
    {"validation", OPTION_TEXT, "dev.tsv", 0, 0, NULL, NULL, "file of the validation split; empty: none",
     AT(validation)},
    {"test", OPTION_TEXT, "test.tsv", 0, 0, NULL, NULL, "file of the test split", AT(test)},
    {"text", OPTION_TEXT, "sentence", 0, 0, NULL, NULL, "column of the texts, by name or number", AT(text)},
    {"train_text", OPTION_TEXT, "", 0, 0, NULL, NULL,
     "the same in the training file where it differs; empty: as `text`", AT(train_text)},
    {"label", OPTION_TEXT, "label", 0, 0, NULL, NULL, "column of the labels", AT(label)},
    {"labels", OPTION_NAMES, "[0, 1]", 0, 0, NULL, NULL, "the labels, in the order of the classes", AT(labels)},
    {"header", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "names of all columns, of files without a first line of names",
     AT(header)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "train on the first items only; 0: all", AT(max_train)},
    OPTION_END};
#undef AT

struct classification {
    struct data_table table[SPLITS];
    const char **texts[SPLITS];
    int32_t *labels[SPLITS];
};

static int label_find(const struct data_table *table, size_t row, const struct option_names *labels, int32_t *label) {
    int status = 0;
    const char *text = data_text(table, row, 1);
    char known[160] = "";
    size_t used = 0;
    for (size_t k = 0; k < labels->count; k++)
        if (strcmp(labels->items[k], text) == 0) {
            *label = (int32_t)k;
            return 0;
        }
    for (size_t k = 0; k < labels->count && used < sizeof known; k++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", k ? ", " : "", labels->items[k]);
    FAIL(E_FORMAT, "%s:%u: label '%.40s' is not one of `labels` (%s%s)", table->path, table->line[row], text, known,
         used < sizeof known ? "" : "...");
out:
    return status;
}

static int split_open(struct task *task, const struct classification_options *options, enum task_split split,
                      const char *file, struct hash *hash) {
    int status = 0;
    struct classification *owned = task->owned;
    struct data_table *table = &owned->table[split];
    bool own_name = split == SPLIT_TRAIN && *options->train_text;
    const char *columns[] = {own_name ? options->train_text : options->text, options->label};
    char path[PATH_MAX];
    if (!*file) return 0;
    TRY(data_file_find(path, sizeof path, options->data, task_split_option(split), file));
    struct data_request request = {.path = path,
                                   .columns = columns,
                                   .column_count = 2,
                                   .header = options->header.count ? options->header.items : NULL,
                                   .header_count = options->header.count};
    TRY(data_table_read(table, &request, hash));
    size_t count = table->rows;
    if (split == SPLIT_TRAIN && options->max_train && (size_t)options->max_train < count)
        count = (size_t)options->max_train;
    TRY(memory_take((void **)&owned->texts[split], count, sizeof(char *)));
    TRY(memory_take((void **)&owned->labels[split], count, sizeof(int32_t)));
    for (size_t i = 0; i < count; i++) {
        owned->texts[split][i] = data_text(table, i, 0);
        TRY(label_find(table, i, &options->labels, &owned->labels[split][i]));
    }
    task->split[split] = (struct task_text){.count = count,
                                            .text = owned->texts[split],
                                            .label = owned->labels[split],
                                            .path = table->path,
                                            .line = table->line};
    /* The same texts without their labels are what there is to learn hidden words from. */
    if (split == SPLIT_TRAIN) {
        task->split[SPLIT_UNLABELLED] = task->split[split];
        task->split[SPLIT_UNLABELLED].label = NULL;
    }
out:
    return status;
}

static void classification_close(struct task *task) {
    struct classification *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) {
        data_table_close(&owned->table[i]);
        memory_release(owned->texts[i]);
        memory_release(owned->labels[i]);
    }
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int classification_open(struct task *task, const void *context) {
    int status = 0;
    const struct classification_options *options = context;
    struct hash hash;
    *task = (struct task){.kind = &task_classification};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct classification)));
    if (options->labels.count < 2) FAIL(E_ARGUMENT, "labels: at least two are needed");
    for (size_t k = 1; k < options->labels.count; k++)
        for (size_t i = 0; i < k; i++)
            if (strcmp(options->labels.items[i], options->labels.items[k]) == 0)
                FAIL(E_ARGUMENT, "labels: '%s' is named twice", options->labels.items[k]);
    task->class_names = options->labels.items;
    task->classes = options->labels.count;
    TRY(split_open(task, options, SPLIT_TRAIN, options->train, &hash));
    TRY(split_open(task, options, SPLIT_VALIDATION, options->validation, &hash));
    TRY(split_open(task, options, SPLIT_TEST, options->test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
    hash_number(&hash, (uint64_t)options->max_train);
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) classification_close(task);
    return status;
}

const struct task_kind task_classification = {
    .name = "classification",
    .summary = "labelled texts from TSV, CSV or JSON lines",
    .primary_metric = "accuracy",
    .primary_unit = "frac",
    .higher_is_better = true,
    .estimator = "accuracy",
    .options = classification_options,
    .options_bytes = sizeof(struct classification_options),
    .open = classification_open,
    .close = classification_close,
    .heads = HEAD_CLASSIFICATION,
    .score = task_classification_score,
    .objective = TRAIN_CLASSIFICATION,
};
