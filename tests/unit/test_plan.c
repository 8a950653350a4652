/* Expansion: order, baselines, zip, exclude, include, duplicates, keys, printing, and a thousand cells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/threads.h"
#include "plan/plan.h"
#include "scratch_file.h"

#define HEAD                                                                                                           \
    "experiment: e\n"                                                                                                  \
    "model: {family: bert, layers: 1, width: 32, heads: 4}\n"                                                          \
    "task: {wordnet: {}}\n"

static void read_good(struct experiment *experiment, const char *text) {
    char path[128];
    scratch_file(path, ".yaml", text);
    if (experiment_read(experiment, path, NULL, 0) != 0) fail_msg("%s\n%s", error_text(), text);
    scratch_remove(path);
}

/* Labels joined by "; ". */
static void expect_labels(const char *text, const char *expected) {
    struct experiment e;
    char joined[2000] = "";
    read_good(&e, text);
    for (size_t i = 0; i < e.cell_count; i++)
        snprintf(joined + strlen(joined), sizeof joined - strlen(joined), "%s%s", i > 0 ? "; " : "", e.cells[i].label);
    assert_string_equal(joined, expected);
    for (size_t i = 0; i < e.cell_count; i++) {
        const struct cell *cell = &e.cells[i], *base = &e.cells[cell->baseline];
        assert_true(base->is_baseline);
        assert_int_equal(cell->is_baseline, cell->baseline == i);
        assert_true(base->threads == cell->threads && base->seed == cell->seed && base->gemm == cell->gemm);
        assert_true(cell->baseline <= i);
        assert_true(cell->stage_count >= cell->prepare_count);
    }
    experiment_close(&e);
}

static void test_product(void **state) {
    (void)state;
    expect_labels(HEAD, "baseline");
    expect_labels(HEAD "matrix: {pipeline: [[]]}\n", "baseline");
    expect_labels(HEAD "matrix: {pipeline: [[rtn: {bits: 8}], [], [null]]}\n", "baseline; rtn bits=8; null");
    expect_labels(HEAD "matrix: {pipeline: [[magnitude: {sparsity: [0.3, 0.5]}, rtn: {bits: [8, 4]}]]}\n",
                  "baseline; magnitude sparsity=0.3 + rtn bits=8; magnitude sparsity=0.3 + rtn bits=4; "
                  "magnitude sparsity=0.5 + rtn bits=8; magnitude sparsity=0.5 + rtn bits=4");
    expect_labels(HEAD "matrix: {pipeline: [[null]], seed: 1..2}\n",
                  "baseline seed=1; null seed=1; baseline seed=2; null seed=2");
    expect_labels(HEAD "matrix: {gemm: [builtin, openblas], threads: 1}\n",
                  "baseline gemm=builtin; baseline gemm=openblas");
    expect_labels(HEAD "matrix: {pipeline: [[rtn: {skip: [\"a\\nb\"]}]]}\n", "baseline; rtn skip=[a b]");
    expect_labels(HEAD "matrix: {pipeline: [[rtn: {layers: [query, up], bits: 8}]]}\n",
                  "baseline; rtn layers=[query, up] bits=8");
}

static void test_zip(void **state) {
    (void)state;
    expect_labels(HEAD "matrix: {pipeline: [[null]], zip: {seed: [5, 6], threads: [2, 1]}}\n",
                  "baseline threads=2 seed=5; null threads=2 seed=5; baseline threads=1 seed=6; null threads=1 seed=6");
    expect_labels(HEAD "matrix: {zip: {seed: [5, 6], pipeline: [[rtn: {bits: [8, 4]}], [null]]}}\n",
                  "baseline seed=5; rtn bits=8 seed=5; rtn bits=4 seed=5; baseline seed=6; null seed=6");
    expect_labels(HEAD "matrix: {seed: [1, 2], zip: {threads: [1, 2], gemm: [builtin, openblas]}}\n",
                  "baseline threads=1 seed=1 gemm=builtin; baseline threads=2 seed=1 gemm=openblas; "
                  "baseline threads=1 seed=2 gemm=builtin; baseline threads=2 seed=2 gemm=openblas");
}

static void test_exclude_include(void **state) {
    (void)state;
    expect_labels(
        HEAD "matrix:\n  pipeline: [[rtn: {bits: [8, 4]}], [null]]\n  seed: [1, 2]\n"
             "  exclude: [{seed: 2, pipeline: [rtn: {bits: 4}]}, {seed: 1, pipeline: [null]}]\n",
        "baseline seed=1; rtn bits=8 seed=1; rtn bits=4 seed=1; baseline seed=2; rtn bits=8 seed=2; null seed=2");
    expect_labels(HEAD "matrix: {pipeline: [[rtn]], seed: 1..4, exclude: [{seed: 2..3}]}\n",
                  "baseline seed=1; rtn seed=1; baseline seed=4; rtn seed=4");
    expect_labels(
        HEAD "matrix:\n  pipeline: [[rtn]]\n  include: [{pipeline: [null], seed: 9}, {pipeline: [rtn: {bits: 4}]}]\n",
        "baseline seed=1; rtn seed=1; baseline seed=9; null seed=9; rtn bits=4 seed=1");
    /* a baseline that exclude names is still there for the cells that need it */
    expect_labels(HEAD "matrix: {pipeline: [[], [null]], exclude: [{pipeline: []}]}\n", "baseline; null");
}

static void test_duplicates(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e, HEAD "matrix: {pipeline: [[rtn], [rtn: {bits: 8}], [rtn: {bits: [8, 4]}]]}\n");
    assert_int_equal(e.cell_count, 3);
    assert_non_null(strstr(e.notes, "2 duplicate cells dropped, the first: rtn bits=8"));
    experiment_close(&e);
}

static void test_prepare(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e, HEAD "prepare: [null, magnitude: {sparsity: 0.1}]\nmatrix: {pipeline: [[rtn]]}\n");
    assert_int_equal(e.cells[0].stage_count, 2);
    assert_int_equal(e.cells[0].prepare_count, 2);
    assert_int_equal(e.cells[1].stage_count, 3);
    assert_string_equal(e.cells[1].stages[1].technique->name, "magnitude");
    assert_string_equal(e.cells[1].pipeline, "rtn");
    assert_int_equal(e.cells[1].stages[2].at.line, 5);
    assert_int_equal(e.cells[1].stages[2].at.column, 22);
    experiment_close(&e);
}

static void test_skips(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e, HEAD "matrix: {pipeline: [[null]], threads: [1, 1024]}\n");
    assert_int_equal(e.cell_count, 4);
    assert_null(e.cells[1].skip_reason);
    assert_non_null(strstr(e.cells[2].skip_reason, "1024 threads, but this process may use"));
    assert_non_null(e.cells[3].skip_reason);
    experiment_close(&e);
}

/* Options that do not go together, whatever the model, are known of before anything runs; the others of the lists run,
 * and what a technique settles for itself is not part of a cell's name. */
static void test_impossible_options(void **state) {
    (void)state;
    struct experiment e;
    read_good(&e, HEAD "matrix: {pipeline: [[null, rtn: {bits: [8, 4], group: [0, 32]}]], seed: [1, 2]}\n");
    assert_int_equal(e.cell_count, 10);
    for (size_t i = 0; i < e.cell_count; i++) {
        if (!strstr(e.cells[i].label, "bits=8 group=32")) assert_null(e.cells[i].skip_reason);
        else
            assert_string_equal(e.cells[i].skip_reason, "rtn: 8 bits have one scale per row; group must be 0 (got 32)");
    }
    assert_non_null(e.cells[2].skip_reason);
    assert_string_equal(e.cells[3].label, "null + rtn bits=4 group=0 seed=1");
    experiment_close(&e);
    /* A pattern of exclude need not be possible itself. */
    read_good(&e, HEAD "matrix: {pipeline: [[rtn: {bits: [8, 4], group: [0, 32]}]],\n"
                       "  exclude: [{pipeline: [rtn: {group: 32}]}]}\n");
    assert_int_equal(e.cell_count, 3);
    experiment_close(&e);
}

static void first_keys(const char *text, const char *data, char cell[HASH_HEX], char prefix[HASH_HEX]) {
    struct experiment e;
    read_good(&e, text);
    const struct cell *last = &e.cells[e.cell_count - 1];
    assert_int_equal(plan_cell_key(&e, last, data, cell), 0);
    assert_int_equal(plan_prefix_key(&e, last, last->prepare_count, data, prefix), 0);
    if (data[0] == '\0') assert_string_equal(cell, last->key);
    experiment_close(&e);
}

static void test_keys(void **state) {
    (void)state;
    static const struct {
        const char *text, *data;
        bool cell_same, prefix_same;
    } rows[] = {
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\n", "", true, true},
        {"description: other\n" HEAD "prepare: [rtn: {bits: 8}]\nmatrix: {pipeline: [[null]], threads: 1}\n", "", true,
         true},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\nmeasure: {rounds: 1}\n", "", true, true},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 2}\n", "", false, true},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1, gemm: openblas}\n", "", false, true},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[magnitude]], threads: 1}\n", "", false, true},
        {HEAD "prepare: [rtn: {bits: 4}]\nmatrix: {pipeline: [[null]], threads: 1}\n", "", false, false},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1, seed: 2}\n", "", false, false},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\n", "abc", false, false},
        {HEAD "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\ntokenizer: {vocabulary: 999}\n", "", false,
         false},
        {"experiment: e\nmodel: {layers: 2, width: 32, heads: 4}\ntask: wordnet\n"
         "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\n",
         "", false, false},
        {"experiment: e\nmodel: {layers: 1, width: 32, heads: 4}\ntask: {wordnet: {data: /x}}\n"
         "prepare: [rtn]\nmatrix: {pipeline: [[null]], threads: 1}\n",
         "", false, false},
    };
    char cell[HASH_HEX], prefix[HASH_HEX], other_cell[HASH_HEX], other_prefix[HASH_HEX];
    first_keys(rows[0].text, rows[0].data, cell, prefix);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        first_keys(rows[i].text, rows[i].data, other_cell, other_prefix);
        if ((strcmp(cell, other_cell) == 0) != rows[i].cell_same) fail_msg("cell key of row %zu", i);
        if ((strcmp(prefix, other_prefix) == 0) != rows[i].prefix_same) fail_msg("prefix key of row %zu", i);
    }
}

/* The experiment's hash decides about resume: measuring plan and cells count, limits and description do not. */
static void test_experiment_hash(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool same;
    } rows[] = {
        {HEAD, true},
        {HEAD "limits: {wall_s: 5}\ndescription: x\n", true},
        {HEAD "measure: {rounds: 3}\n", false},
        {HEAD "measure: {batch: [1]}\n", false},
        {HEAD "matrix: {pipeline: [[null]]}\n", false},
    };
    struct experiment a, b;
    read_good(&a, HEAD);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        read_good(&b, rows[i].text);
        assert_int_equal(strcmp(a.hash, b.hash) == 0, rows[i].same);
        experiment_close(&b);
    }
    experiment_close(&a);
}

static bool odd_is_cached(void *host, const struct experiment *experiment, const struct cell *cell) {
    (void)host;
    return (cell - experiment->cells) % 2 == 1;
}

static double two_seconds(void *host, const struct experiment *experiment, const struct cell *cell) {
    (void)host;
    (void)experiment;
    (void)cell;
    return 2;
}

static char *print_text(const struct experiment *e, const struct plan_view *view, const char *format) {
    char *text = NULL;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);
    assert_non_null(file);
    assert_int_equal(plan_print(file, e, view, format), 0);
    fclose(file);
    return text;
}

static void test_print(void **state) {
    (void)state;
    struct experiment e;
    struct plan_view view = {.cached = odd_is_cached, .seconds = two_seconds};
    read_good(&e, HEAD
              "description: what\nprepare: [null]\nmatrix: {pipeline: [[rtn], [rtn: {bits: 4, layers: [\"a,b\", c]}]], "
              "threads: [1, 1024]}\n");
    char *text = print_text(&e, &view, "table");
    assert_non_null(strstr(text, "6 cells, 1 cached, 3 skipped; about 6 s"));
    assert_non_null(strstr(text, "rtn bits=8 group=0 symmetric=true layers=[] skip=[]"));
    assert_non_null(strstr(text, "skip: 1024 threads"));
    assert_non_null(strstr(text, "null  (prepare)"));
    free(text);
    text = print_text(&e, NULL, "table");
    assert_non_null(strstr(text, "no estimate of time yet"));
    free(text);
    text = print_text(&e, &view, "csv");
    assert_non_null(strstr(text, "2,\"rtn bits=4 layers=[\"\"a,b\"\", c] threads=1\",1,1,builtin,run,2.0,"));
    free(text);
    text = print_text(&e, &view, "md");
    assert_non_null(strstr(text, "| 1 | rtn threads=1 | 1 | 1 | builtin | cached | 2.0 |"));
    free(text);
    text = print_text(&e, &view, "jsonl");
    size_t lines = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++) {
        json_t *row = json_loads(line, 0, NULL);
        assert_non_null(row);
        assert_string_equal(json_string_value(json_object_get(row, "key")), e.cells[lines].key);
        json_t *stage = json_array_get(json_object_get(row, "stages"), 1);
        if (lines == 2) {
            json_t *options = json_object_get(stage, "options");
            assert_int_equal(json_integer_value(json_object_get(options, "bits")), 4);
            assert_int_equal(json_array_size(json_object_get(options, "layers")), 2);
        }
        json_decref(row);
    }
    assert_int_equal(lines, 6);
    free(text);
    assert_int_equal(plan_print(stdout, &e, NULL, "xml"), E_ARGUMENT);
    experiment_close(&e);
}

/* Work grows with the number of cells, not its square: allocations are counted, time is not. */
static void test_many(void **state) {
    (void)state;
    long asked[2];
    for (int i = 0; i < 2; i++) {
        struct experiment e;
        char text[400];
        snprintf(text, sizeof text,
                 HEAD "matrix: {pipeline: [[rtn: {bits: [8, 4]}], [null]], threads: 1, seed: 1..%d}\n",
                 i == 0 ? 500 : 5000);
        memory_fail_after(0);
        read_good(&e, text);
        asked[i] = memory_count();
        assert_int_equal(e.cell_count, i == 0 ? 2000 : 20000);
        assert_string_equal(e.cells[1999].label, "null seed=500");
        char *printed = print_text(&e, NULL, "table");
        assert_non_null(strstr(printed, i == 0 ? "\n2000 cells" : "\n20000 cells"));
        free(printed);
        experiment_close(&e);
    }
    assert_true(asked[1] < 11 * asked[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_zip),
        cmocka_unit_test(test_exclude_include),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_skips),
        cmocka_unit_test(test_impossible_options),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_experiment_hash),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
