/* Tasks whose data are files: what classification makes of columns, labels and limits, and that similarity is the
 * cosine of embeddings, recomputed sentence by sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "cpu_mask.h"
#include "kernels/kernels.h"
#include "scratch_file.h"
#include "task/task.h"

#define PAIRS "red apple\tgreen apple\t4.5\nrunning water\tthe tree\t0.5\na tree\ttrees\t3.75\nof the water\tapple\t1\n"

static char train_path[128], test_path[128];

/* Options of a kind: texts (paths, columns) by name; lists and numbers through the table's own type. */
static void set_text(const struct task_kind *kind, void *options, const char *name, const char *value) {
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, name) == 0) {
            memcpy((char *)options + option->offset, &value, sizeof value);
            return;
        }
    fail_msg("%s has no option %s", kind->name, name);
}
static void set_number(const struct task_kind *kind, void *options, const char *name, int64_t value) {
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, name) == 0) memcpy((char *)options + option->offset, &value, sizeof value);
}
static void set_names(const struct task_kind *kind, void *options, const char *name, const char **items, size_t count) {
    struct option_names names = {.items = items, .count = count};
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, name) == 0) memcpy((char *)options + option->offset, &names, sizeof names);
}

static void *classification_options_new(const struct task_kind *kind) {
    static const char *labels[] = {"good", "bad"};
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    set_text(kind, options, "data", "/");
    set_text(kind, options, "train", train_path);
    set_text(kind, options, "validation", "");
    set_text(kind, options, "test", test_path);
    set_text(kind, options, "text", "review");
    set_text(kind, options, "train_text", "phrase");
    set_text(kind, options, "label", "label");
    set_names(kind, options, "labels", labels, 2);
    return options;
}

static void classification_reads_columns_and_labels(void **state) {
    (void)state;
    const struct task_kind *kind = task_kind_find("classification");
    struct task task;
    char whole[HASH_HEX];
    scratch_file(train_path, ".tsv", "phrase\tlabel\nfine\tgood\npoor\tbad\nwarm\tgood\n");
    scratch_file(test_path, ".tsv", "id\tlabel\treview\n7\tbad\tdull\n8\tgood\tbright\n");
    void *options = classification_options_new(kind);
    if (kind->open(&task, options) < 0) fail_msg("%s", error_text());
    assert_int_equal(task.classes, 2);
    assert_string_equal(task.class_names[1], "bad");
    assert_int_equal(task.split[SPLIT_TRAIN].count, 3);
    assert_string_equal(task.split[SPLIT_TRAIN].text[1], "poor");
    assert_int_equal(task.split[SPLIT_TRAIN].label[0], 0);
    assert_int_equal(task.split[SPLIT_TRAIN].label[1], 1);
    assert_int_equal(task.split[SPLIT_VALIDATION].count, 0);
    assert_int_equal(task.split[SPLIT_TEST].count, 2);
    assert_string_equal(task.split[SPLIT_TEST].text[0], "dull");
    assert_int_equal(task.split[SPLIT_TEST].label[0], 1);
    /* The training texts again, without labels. */
    assert_int_equal(task.split[SPLIT_UNLABELLED].count, 3);
    assert_string_equal(task.split[SPLIT_UNLABELLED].text[2], "warm");
    assert_null(task.split[SPLIT_UNLABELLED].label);
    memcpy(whole, task.data_hash, sizeof whole);
    kind->close(&task);
    set_number(kind, options, "max_train", 2);
    assert_int_equal(kind->open(&task, options), 0);
    assert_int_equal(task.split[SPLIT_TRAIN].count, 2);
    assert_int_equal(task.split[SPLIT_TEST].count, 2);
    assert_string_not_equal(task.data_hash, whole); /* other training data: another identity */
    kind->close(&task);
    free(options);
    scratch_remove(train_path);
    scratch_remove(test_path);
}

static void classification_names_what_is_wrong(void **state) {
    (void)state;
    const struct task_kind *kind = task_kind_find("classification");
    struct task task;
    char expected[256];
    scratch_file(train_path, ".tsv", "phrase\tlabel\nfine\tgood\n");
    scratch_file(test_path, ".tsv", "label\treview\nbad\tdull\nneither\tso so\n");
    void *options = classification_options_new(kind);
    assert_int_equal(kind->open(&task, options), E_FORMAT);
    snprintf(expected, sizeof expected, "%s:3: label 'neither' is not one of `labels` (good, bad)", test_path);
    assert_non_null(strstr(error_text(), expected));
    assert_null(task.owned);
    static const char *twice[] = {"good", "bad", "good"};
    set_names(kind, options, "labels", twice, 3);
    assert_int_equal(kind->open(&task, options), E_ARGUMENT);
    assert_string_equal(error_text(), "labels: 'good' is named twice");
    set_names(kind, options, "labels", twice, 2);
    set_text(kind, options, "train_text", "");
    assert_int_equal(kind->open(&task, options), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "there is no column 'review'"));
    free(options);
    scratch_remove(train_path);
    scratch_remove(test_path);
}

/* The unit-length mean of a sentence's last hidden states, from a pass of its own. */
static void embed(const struct model *model, const struct examples *examples, size_t item, double *out) {
    struct workspace workspace = {0};
    struct model_output output = {0};
    uint32_t begin = examples->offset[item], length = examples->offset[item + 1] - begin, offset[2] = {0, length};
    struct batch batch = {.sequences = 1, .tokens = length, .ids = examples->ids + begin, .offset = offset};
    size_t width = model->config.width;
    double norm = 0;
    assert_int_equal(model_forward(model, &batch, NULL, &workspace, &output), 0);
    for (size_t c = 0; c < width; c++) {
        out[c] = 0;
        for (size_t t = 0; t < length; t++) out[c] += (double)output.hidden[t * width + c];
        norm += out[c] * out[c];
    }
    for (size_t c = 0; c < width; c++) out[c] /= sqrt(norm);
    workspace_close(&workspace);
}

static void similarity_is_the_cosine_of_mean_embeddings(void **state) {
    (void)state;
    static const double scores[] = {4.5, 0.5, 3.75, 1};
    static const char *header[] = {"first", "second", "score"};
    const struct task_kind *kind = task_kind_find("similarity");
    const char *view = PAIRS;
    struct task task;
    struct tokenizer *tokenizer;
    struct task_examples examples;
    struct model model;
    struct model_config config;
    struct task_result result = {0};
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    scratch_file(test_path, ".tsv", PAIRS);
    set_text(kind, options, "data", "/");
    set_text(kind, options, "test", test_path);
    set_text(kind, options, "validation", "");
    for (int i = 0; i < 3; i++) set_text(kind, options, header[i], header[i]);
    set_names(kind, options, "header", header, 3);
    if (kind->open(&task, options) < 0) fail_msg("%s", error_text());
    assert_int_equal(task.split[SPLIT_TEST].count, 8);
    assert_int_equal(tokenizer_train_bpe(&tokenizer, &view, 1, 270, true), 0);
    assert_int_equal(task_examples_open(&examples, &task, SPLIT_TEST, tokenizer, 24), 0);
    assert_int_equal(model_config_family(&config, "bert"), 0);
    config.layers = 2, config.width = 32, config.heads = config.key_value_heads = 2, config.head_width = 16;
    config.feed_forward = 64, config.vocabulary = tokenizer_vocabulary(tokenizer), config.positions = 24;
    config.model_heads = 0;
    assert_int_equal(model_create(&model, &config, 6, 0.3), 0);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    struct task_scoring scoring = {.task = &task,
                                   .split = SPLIT_TEST,
                                   .model = &model,
                                   .tokenizer = tokenizer,
                                   .examples = &examples.examples,
                                   .max_tokens = 24,
                                   .batch = 3};
    if (kind->score(&scoring, &result) < 0) fail_msg("%s", error_text());
    assert_int_equal(result.count, 4);
    assert_string_equal(result.items[0].name, "value");
    assert_string_equal(result.items[1].name, "target");
    for (size_t i = 0; i < 4; i++) {
        double first[32], second[32], cosine = 0;
        embed(&model, &examples.examples, 2 * i, first);
        embed(&model, &examples.examples, 2 * i + 1, second);
        for (int c = 0; c < 32; c++) cosine += first[c] * second[c];
        double got = (double)((const float *)result.items[0].values)[i];
        if (!(fabs(got - cosine) < 1e-5)) fail_msg("pair %zu: %.7g, expected %.7g", i, got, cosine);
        assert_true((double)((const float *)result.items[1].values)[i] == scores[i]);
    }
    task_result_close(&result);
    model_close(&model);
    task_examples_close(&examples);
    tokenizer_free(tokenizer);
    kind->close(&task);
    free(options);
    scratch_remove(test_path);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classification_reads_columns_and_labels),
        cmocka_unit_test(classification_names_what_is_wrong),
        cmocka_unit_test(similarity_is_the_cosine_of_mean_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
