/* Experiment files that are good: every section, anchors and merge keys, ranges, overrides, the registry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/experiment.h"
#include "config/settings.h"
#include "scratch_file.h"

#define HEAD                                                                                                           \
    "experiment: e\n"                                                                                                  \
    "model: {family: bert, layers: 1, width: 32, heads: 4}\n"                                                          \
    "task: {wordnet: {}}\n"

static void read_good(struct experiment *experiment, const char *text, const char *const *sets, size_t count) {
    char path[128];
    scratch_file(path, ".yaml", text);
    if (experiment_read(experiment, path, sets, count) != 0) fail_msg("%s\n%s", error_text(), text);
    scratch_remove(path);
}

static void test_sections(void **state) {
    (void)state;
    struct experiment e;
    read_good(
        &e,
        "experiment: full-1_a\n"
        "description: one line\n"
        "model: {family: bert, layers: 3, width: 96, heads: 6, feed_forward: 200, positions: 48, deviation: 0.05}\n"
        "tokenizer: {type: bpe, vocabulary: 1000, lower_case: false, max_tokens: 40}\n"
        "task: {wordnet: {data: /some/where}}\n"
        "measure: {rounds: 4, samples: 3, warmup: 0, batch: [8, 1], meters: [rusage, time], confidence: 0.9}\n"
        "limits: {wall_s: 1.5, memory_mb: 64}\n",
        NULL, 0);
    assert_string_equal(e.name, "full-1_a");
    assert_string_equal(e.description, "one line");
    assert_int_equal(e.model.config.layers, 3);
    assert_int_equal(e.model.config.head_width, 16);
    assert_int_equal(e.model.config.key_value_heads, 6);
    assert_int_equal(e.model.config.feed_forward, 200);
    assert_int_equal(e.model.config.vocabulary, 1000);
    assert_int_equal(e.model.config.model_heads, HEAD_CLASSIFICATION);
    assert_true(e.model.deviation == 0.05);
    assert_string_equal(e.tokenizer.type, "bpe");
    assert_false(e.tokenizer.lower_case);
    assert_int_equal(e.tokenizer.max_tokens, 40);
    assert_string_equal(e.task->name, "wordnet");
    const char *data = NULL;
    for (const struct option *option = e.task->options; option->name != NULL; option++)
        if (strcmp(option->name, "data") == 0)
            data = *(const char *const *)(const void *)((const char *)e.task_options + option->offset);
    assert_string_equal(data, "/some/where");
    assert_int_equal(e.measure.rounds, 4);
    assert_int_equal(e.measure.batch_count, 2);
    assert_int_equal(e.measure.batch[0], 8);
    assert_int_equal(e.measure.meter_count, 2);
    assert_string_equal(e.measure.meters[0], "rusage");
    assert_true(e.measure.confidence == 0.9);
    assert_true(e.limits.wall_s == 1.5);
    assert_int_equal(e.limits.memory_mb, 64);
    assert_int_equal(e.cell_count, 1);
    assert_true(e.cells[0].is_baseline);
    experiment_close(&e);
    experiment_close(&e); /* a zeroed one */
}

static void test_defaults(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e, "experiment: e\nmodel: {family: bert}\ntask: wordnet\n", NULL, 0);
    assert_int_equal(e.model.config.width, 256);
    assert_int_equal(e.model.config.feed_forward, 1024);
    assert_int_equal(e.measure.rounds, 10);
    assert_int_equal(e.measure.batch[0], 1);
    assert_int_equal(e.measure.batch[1], 32);
    assert_int_equal(e.measure.meter_count, 3);
    assert_string_equal(e.description, "");
    assert_string_equal(e.notes, "");
    assert_true(e.limits.wall_s == 14400);
    experiment_close(&e);
}

static void test_anchors(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e,
              "experiment: e\n"
              ".small: &small {layers: 1, width: 32}\n"
              ".deep: &deep {layers: 9, positions: 20}\n"
              "model: {<<: [*small, *deep], heads: 2}\n"
              "task: wordnet\n"
              ".stage: &stage {rtn: &options {bits: 4, group: 64, .note: free}}\n"
              "matrix:\n"
              "  .x: ignored\n"
              "  pipeline: [[*stage], [{rtn: {<<: *options, group: 32}}]]\n",
              NULL, 0);
    assert_int_equal(e.model.config.layers, 1); /* the first map of a merge list wins */
    assert_int_equal(e.model.config.positions, 20);
    assert_int_equal(e.cell_count, 3);
    assert_string_equal(e.cells[1].label, "rtn bits=4 group=64");
    assert_string_equal(e.cells[2].label, "rtn group=32 bits=4");
    experiment_close(&e);
}

static void test_overrides(void **state) {
    (void)state;
    static const char *const sets[] = {
        "measure.rounds=2",
        "batch=[4, 16]",
        "data=../elsewhere",
        "matrix.pipeline.0.rtn.bits=[8, 4]",
        "seed=7",
        "prepare.null={}",
        "description='two words: and = signs'",
        "limits={wall_s: 5}",
    };
    struct experiment e;
    read_good(&e,
              "experiment: e\n.a: &a [rtn]\nmodel: {family: bert}\ntask: wordnet\nprepare: [null]\n"
              "matrix: {pipeline: [*a, *a]}",
              sets, sizeof sets / sizeof *sets);
    assert_int_equal(e.measure.rounds, 2);
    assert_int_equal(e.measure.batch_count, 2);
    assert_int_equal(e.measure.batch[1], 16);
    assert_string_equal(e.description, "two words: and = signs");
    assert_true(e.limits.wall_s == 5);
    assert_int_equal(e.cell_count, 3); /* baseline, bits 8 and 4; the other alias is a copy, equal to bits 8 */
    assert_string_equal(e.cells[2].label, "rtn bits=4");
    assert_int_equal(e.cells[0].seed, 7);
    assert_non_null(strstr(e.text, "pipeline: [*a, *a]}\n# --set measure.rounds=2\n"));
    assert_non_null(strstr(e.text, "# --set data=../elsewhere\n"));
    experiment_close(&e);
}

static void expand(const char *text, const struct option *option, const char *expected) {
    struct document document = {0};
    struct values values = {0};
    char joined[400] = "";
    struct position at = {.file = "t"};
    struct node *node;
    assert_int_equal(node_new(&document, NODE_SCALAR, &at, &node), 0);
    node->text = text;
    if (values_read(&values, &document, option, node, "w") != 0) fail_msg("%s", error_text());
    for (size_t i = 0; i < values.count; i++)
        snprintf(joined + strlen(joined), sizeof joined - strlen(joined), "%s%s", i > 0 ? " " : "", values.text[i]);
    assert_string_equal(joined, expected);
    document_close(&document);
}

static void test_ranges(void **state) {
    (void)state;
    static const struct option whole = {.name = "n", .type = OPTION_INTEGER}, real = {.name = "r", .type = OPTION_REAL},
                               text = {.name = "t", .type = OPTION_TEXT};
    expand("1..4", &whole, "1 2 3 4");
    expand("1..9+2", &whole, "1 3 5 7 9");
    expand("1..10+4", &whole, "1 5 9");
    expand("64..1024*2", &whole, "64 128 256 512 1024");
    expand("-2..1", &whole, "-2 -1 0 1");
    expand("5..5", &whole, "5");
    expand("1..1000000*1000", &whole, "1 1000 1000000");
    expand("0.1..0.5+0.1", &real, "0.1 0.2 0.3 0.4 0.5");
    expand("1e-5..1e-3*10", &real, "1e-05 0.0001 0.001");
    expand("1e-1..1e+0+3e-1", &real, "0.1 0.4 0.7 1");
    expand("../data", &text, "../data");
}

static void test_registry(void **state) {
    (void)state;
    size_t count;
    const struct technique *const *list = technique_list(&count);
    assert_true(count >= 3);
    for (size_t i = 0; i < count; i++) {
        if (technique_check(list[i], list[i]->name) != 0) fail_msg("%s", error_text());
        assert_ptr_equal(technique_find(list[i]->name), list[i]);
    }
    assert_null(technique_find("nobody"));
    assert_null(technique_find("template"));
}

static int apply_nothing(struct technique_context *context, void *state, const void *options) {
    (void)context;
    (void)state;
    (void)options;
    return 0;
}

static void test_technique_check(void **state) {
    (void)state;
    static const struct option outside[] = {{"n", OPTION_INTEGER, "1", 0, 0, NULL, NULL, "h", 4}, OPTION_END};
    static const struct option preset[] = {{"n", OPTION_INTEGER, "x", 0, 0, NULL, NULL, "h", 0}, OPTION_END};
    static const struct option twice[] = {{"n", OPTION_INTEGER, "1", 0, 0, NULL, NULL, "h", 0},
                                          {"n", OPTION_INTEGER, "1", 0, 0, NULL, NULL, "h", 0},
                                          OPTION_END};
    const struct technique good = {.abi = TECHNIQUE_ABI, .name = "t", .summary = "s", .apply = apply_nothing};
    struct technique bad;
    static const struct option path[] = {{"p", OPTION_PATH, "", 0, 0, NULL, NULL, "h", 0}, OPTION_END};
    struct technique other = good;
    assert_int_equal(technique_check(&good, "t"), 0);
    other.options = path, other.options_bytes = sizeof(char *);
    assert_int_equal(technique_check(&other, "t"), 0);
    bad = good, bad.abi = 7;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    assert_non_null(strstr(error_text(), "technique 't' has ABI 7, this runexp needs 5"));
    assert_int_equal(technique_check(&good, "u"), E_PLUGIN);
    bad = good, bad.summary = NULL;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    bad = good, bad.apply = NULL;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    bad = good, bad.options = outside, bad.options_bytes = 8;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    assert_non_null(strstr(error_text(), "outside its options struct"));
    bad.options = preset;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    bad.options = twice;
    assert_int_equal(technique_check(&bad, "t"), E_PLUGIN);
    assert_non_null(strstr(error_text(), "twice"));
}

/* docs/CONFIG.md names every option of every section. Read from the top of the tree, where tests are run. */
static void test_documented(void **state) {
    (void)state;
    static char text[65536];
    const struct option *const tables[] = {model_options, tokenizer_options, measure_options, limits_options,
                                           axis_options};
    FILE *file = fopen("docs/CONFIG.md", "r");
    if (file == NULL) {
        print_message("skipped: docs/CONFIG.md is not under the current directory\n");
        skip();
    }
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct option *option = tables[t]; option->name != NULL; option++) {
            char quoted[64];
            snprintf(quoted, sizeof quoted, "`%s`", option->name);
            if (strstr(text, quoted) == NULL) fail_msg("%s is not in docs/CONFIG.md", quoted);
        }
}

/* Let each allocation fail in turn: E_MEMORY, and nothing left behind (a leak shows under ASan). */
static void test_no_memory(void **state) {
    (void)state;
    char path[128];
    static const char *const sets[] = {"rounds=3"};
    long n = 1;
    size_t count;
    technique_list(&count); /* lives as long as the process */
    scratch_file(path, ".yaml",
                 HEAD "prepare: [null]\nmatrix: {pipeline: [[rtn: {bits: [8, 4], layers: [query]}]], seed: 1..2}\n");
    for (;; n++) {
        struct experiment e;
        memory_fail_after(n);
        int status = experiment_read(&e, path, sets, 1);
        memory_fail_after(0);
        if (status == 0) {
            experiment_close(&e);
            break;
        }
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
        assert_true(n < 100000);
    }
    assert_true(n > 20);
    scratch_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sections),        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_anchors),
        cmocka_unit_test(test_overrides),       cmocka_unit_test(test_ranges),    cmocka_unit_test(test_registry),
        cmocka_unit_test(test_technique_check), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
