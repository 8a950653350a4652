/* Bad experiment files and overrides: each is refused with one line that says where, what was expected and,
 * where there is one, the nearest spelling. A row is data: text, override, expected place and words. runexp
 * ends with exit code 2 for every one of them (test_bad_input_cli.sh).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/experiment.h"
#include "scratch_file.h"

/* Lines 1 to 3 of most cases; the case's own text begins at line 4. */
#define HEAD                                                                                                           \
    "experiment: e\n"                                                                                                  \
    "model: {family: bert, layers: 1, width: 32, heads: 4}\n"                                                          \
    "task: {wordnet: {}}\n"
#define P HEAD "matrix: {pipeline: ["

struct bad {
    const char *text;  /* the file */
    const char *set;   /* one --set, or NULL */
    const char *place; /* "4:1" after the file's name; NULL: the message begins with `words` */
    const char *words; /* a part of the message */
};

static const struct bad rows[] = {
    /* YAML itself */
    {"", NULL, "1:1", "the file is empty"},
    {"# nothing\n", NULL, "1:1", "the file is empty"},
    {"experiment: e\n  model: x\n", NULL, "2:8", "not valid YAML"},
    {"experiment: [e\n", NULL, "2:1", "not valid YAML"},
    {"experiment: e\nexperiment: f\n", NULL, "2:1", "duplicate key 'experiment'"},
    {"experiment: e\nmodel: {width: 8, heads: 2, width: 16}\n", NULL, "2:29", "duplicate key 'width'"},
    {"experiment: !!str e\n", NULL, "1:13", "tags are not read"},
    {"experiment: !evil {a: b}\n", NULL, "1:13", "tags are not read"},
    {"experiment: e\ndescription: ${HOME}\n", NULL, "2:14", "environment variables are not substituted"},
    {"experiment: e\n---\nexperiment: f\n", NULL, "2:1", "a second document"},
    {"experiment: e\nmodel: *nobody\n", NULL, "2:8", "no anchor &nobody"},
    {"experiment: e\n.a: &a [*a]\n", NULL, "2:9", "no anchor &a is complete"},
    {"experiment: e\n? [a, b]\n: c\n", NULL, "2:3", "a key must be a word, not a list"},
    {"experiment: e\nmodel: {<<: 3}\n", NULL, "2:13", "<< takes a map"},
    {"experiment: \"a\\0b\"\n", NULL, "1:13", "zero byte"},
    {"experiment: e\n\tmodel: x\n", NULL, "2:1", "not valid YAML: a tab; indent with blanks"},
    {"experiment: \xff\xfe\n", NULL, "1:13", "not valid YAML"},
    {"experiment: e\n.a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n", NULL, "2:37",
     "nested more than 32 deep"},
    {"- a\n- b\n", NULL, "1:1", "an experiment is a map of keys"},
    {"just words\n", NULL, "1:1", "an experiment is a map of keys"},
    /* top level */
    {"model: {family: bert}\n", NULL, "1:1", "experiment is required"},
    {"experiment: a/b\n", NULL, "1:13", "letters, digits, - and _ (got 'a/b')"},
    {"experiment:\n", NULL, "1:12", "experiment must be a name"},
    {"experiment: [a]\n", NULL, "1:13", "experiment must be a name"},
    {"experiment: e\ntask: wordnet\n", NULL, "1:1", "model is required"},
    {"experiment: e\nmodel: {family: bert}\n", NULL, "1:1", "task is required"},
    {HEAD "mesure: {rounds: 3}\n", NULL, "4:1", "unknown key 'mesure'; did you mean 'measure'?"},
    {HEAD "description: [a]\n", NULL, "4:14", "description must be a text, not a list"},
    {HEAD "plugins: x.so\n", NULL, "4:10", "plugins must be a list of paths"},
    {HEAD "plugins: [x.so]\n", NULL, "4:11", "a plug-in's file is called technique_<name>.so"},
    {HEAD "plugins: [./technique_none.so]\n", NULL, "4:11", "no such plug-in"},
    /* model, tokenizer, task */
    {"experiment: e\nmodel: {family: brt}\ntask: wordnet\n", NULL, "2:17", "model: family"},
    {"experiment: e\nmodel: {family: bert, widht: 8}\ntask: wordnet\n", NULL, "2:23",
     "model: unknown option 'widht'; did you mean 'width'?"},
    {"experiment: e\nmodel: {width: 130, heads: 4}\ntask: wordnet\n", NULL, "2:8", "130"},
    {"experiment: e\nmodel: {layers: 0}\ntask: wordnet\n", NULL, "2:17", "model: layers must be a whole number in 1"},
    {"experiment: e\nmodel: {layers: two}\ntask: wordnet\n", NULL, "2:17", "(got two)"},
    {"experiment: e\nmodel: {layers: [1, 2]}\ntask: wordnet\n", NULL, "2:17", "layers takes one value here"},
    {"experiment: e\nmodel: {layers: }\ntask: wordnet\n", NULL, "2:17", "layers has no value"},
    {"experiment: e\nmodel: {layers: {a: 1}}\ntask: wordnet\n", NULL, "2:17", "takes a value, not a map"},
    {"experiment: e\nmodel: bert\ntask: wordnet\n", NULL, "2:8", "model must be a map of settings"},
    {HEAD "tokenizer: {lower_case: yes}\n", NULL, "4:25", "must be true or false (got yes)"},
    {HEAD "tokenizer: {type: wordpiece}\n", NULL, "4:19", "tokenizer: type must be one of bpe (got wordpiece)"},
    {HEAD "tokenizer: {max_tokens: 100}\n", NULL, "4:25", "max_tokens 100 is more than the model's 64 positions"},
    {HEAD "tokenizer: {vocabulary: 99}\n", NULL, "4:25", "vocabulary must be a whole number in 261"},
    {"experiment: e\nmodel: {family: bert}\ntask: wordnut\n", NULL, "3:7",
     "unknown task 'wordnut'; did you mean 'wordnet'?"},
    {"experiment: e\nmodel: {family: bert}\ntask: {wordnet: {dta: /x}}\n", NULL, "3:18",
     "wordnet: unknown option 'dta'; did you mean 'data'?"},
    {"experiment: e\nmodel: {family: bert}\ntask: {wordnet: {}, other: {}}\n", NULL, "3:7", "a map of 2 names"},
    {"experiment: e\nmodel: {family: bert}\ntask: [wordnet]\n", NULL, "3:7", "not a list"},
    /* measure, limits */
    {HEAD "measure: {rounds: -1}\n", NULL, "4:19", "rounds must be a whole number in 0..1000 (got -1)"},
    {HEAD "measure: {samples: 2.5}\n", NULL, "4:20", "samples must be a whole number"},
    {HEAD "measure: {samples: 99999999999999999999}\n", NULL, "4:20", "samples must be a whole number"},
    {HEAD "measure: {batch: []}\n", NULL, "4:18", "batch is empty"},
    {HEAD "measure: {batch: [1, 0]}\n", NULL, "4:22", "batch must be whole numbers in 1..65536 (got 0)"},
    {HEAD "measure: {batch: [8, 8]}\n", NULL, "4:22", "batch 8 is there twice"},
    {HEAD "measure: {prompt_tokens: 65}\n", NULL, "4:26", "65 tokens are more than the model's 64 positions"},
    {HEAD "measure: {batch: [1], new_tokens: 4}\n", NULL, "4:35", "new_tokens needs a model that writes text"},
    {HEAD "measure: {cache: int4}\n", NULL, "4:18", "cache must be one of f32, f16, int8 (got int4)"},
    {HEAD "measure: {meters: [tme]}\n", NULL, "4:20", "unknown meter 'tme'; did you mean 'time'?"},
    {HEAD "measure: {confidence: 1}\n", NULL, "4:23", "confidence must be a number in 0.5..0.9999 (got 1)"},
    {HEAD "limits: {wall_s: soon}\n", NULL, "4:18", "wall_s must be a number"},
    {HEAD "limits: {memory_mb: nan}\n", NULL, "4:21", "memory_mb must be a whole number"},
    /* stages and pipelines */
    {HEAD "prepare: [finetun: {}]\n", NULL, "4:11", "unknown technique 'finetun'"},
    {HEAD "prepare: {rtn: {}}\n", NULL, "4:10", "prepare must be a list of stages"},
    {HEAD "prepare: [rtn: {bits: [8, 4]}]\n", NULL, "4:23", "bits takes one value here"},
    {P "[rtm]]}\n", NULL, "4:22", "unknown technique 'rtm'; did you mean 'rtn'?"},
    {P "[rtn: {bits: 5}]]}\n", NULL, "4:34", "rtn: bits must be one of 8, 4 (got 5)"},
    {P "[rtn: {bits: [8, 5]}]]}\n", NULL, "4:38", "rtn: bits must be one of 8, 4 (got 5)"},
    {P "[rtn: {bit: 8}]]}\n", NULL, "4:28", "rtn: unknown option 'bit'; did you mean 'bits'? (known: bits, group,"},
    {P "[rtn: {bits: []}]]}\n", NULL, "4:34", "bits is an empty list"},
    {P "[rtn: {bits: [[8]]}]]}\n", NULL, "4:35", "not a list of lists"},
    {P "[rtn: {layers: [[a]]}]]}\n", NULL, "4:37", "layers is a list of words"},
    {P "[rtn: [8]]]}\n", NULL, "4:27", "rtn must be a map of settings"},
    {P "[{rtn: {}, null: {}}]]}\n", NULL, "4:22", "a map of 2 names; write one NAME"},
    {P "[null: {x: 1}]]}\n", NULL, "4:29", "null: unknown option 'x' (known: none)"},
    {P "[rtn: {bits: 8, group: 32}]]}\n", NULL, "4:22", "rtn: 8 bits have one scale per row; group must be 0 (got 32)"},
    {P "[magnitude, rtn: {symmetric: false}]]}\n", NULL, "4:33", "rtn: 8 bits are symmetric only"},
    {HEAD "prepare: [qat: {symmetric: false, bits: 4, weights: lsq}]\n", NULL, "4:11", "qat: learned scales (lsq)"},
    {P "[ptq_dynamic: {preset: torch, granularity: group}]]}\n", NULL, "4:22", "preset torch has no groups"},
    {P "[ptq_static: {bins: 63}]]}\n", NULL, "4:22", "ptq_static: bins and quantized_bins must be even (got 63"},
    {P "[smoothquant: {sites: [norms]}]]}\n", NULL, "4:22", "smoothquant: sites: 'norms' is none of norm_attention,"},
    {P "[equalize: {pairs: [down]}]]}\n", NULL, "4:22", "equalize: pairs: 'down' is neither value nor up"},
    {P "[distill: {depth: 2, layers: [0]}]]}\n", NULL, "4:22", "depth 2 and 1 layers contradict each other"},
    {HEAD "prepare: [finetune: {dropout: -0.5}]\n", NULL, "4:11",
     "finetune: dropout must be -1 or in 0..0.9 (got -0.5)"},
    {P "[lora: {dropout: 0, r_drop: 1}]]}\n", NULL, "4:22", "lora: r_drop 1 compares two passes with dropout"},
    {P "[magnitude: {sparsity: 1}]]}\n", NULL, "4:44", "sparsity must be a number in 0..0.9999 (got 1)"},
    {P "[magnitude: {sparsity: 0.5..0.1}]]}\n", NULL, "4:44", "the range 0.5..0.1 is empty"},
    {P "[magnitude: {sparsity: 0.1..0.5+0}]]}\n", NULL, "4:44", "a step must be above 0"},
    {P "[magnitude: {sparsity: 0.1..0.5*1}]]}\n", NULL, "4:44", "a factor must be above 1"},
    {P "[magnitude: {sparsity: a..b}]]}\n", NULL, "4:44", "'a..b' is not a range"},
    {P "rtn: {bits: 8}]}\n", NULL, "4:21", "each pipeline is a list of stages"},
    {HEAD "matrix: {pipeline: rtn}\n", NULL, "4:20", "pipeline must be a list of pipelines"},
    {HEAD "matrix: {pipeline: []}\n", NULL, "4:20", "pipeline is an empty list"},
    /* the matrix */
    {HEAD "matrix:\n", NULL, "4:8", "the matrix is empty"},
    {HEAD "matrix: {}\n", NULL, "4:9", "the matrix is empty"},
    {HEAD "matrix: {thread: [1]}\n", NULL, "4:10", "matrix: unknown key 'thread'; did you mean 'threads'?"},
    {HEAD "matrix: {threads: []}\n", NULL, "4:19", "threads is an empty list"},
    {HEAD "matrix: {threads: [-1]}\n", NULL, "4:20", "threads must be a whole number"},
    {HEAD "matrix: {seed: 1..}\n", NULL, "4:16", "'1..' is not a range"},
    {HEAD "matrix: {seed: 1..999999999}\n", NULL, "4:16", "has more than 100000 values"},
    {HEAD "matrix: {gemm: mkl}\n", NULL, "4:16", "gemm must be one of builtin, openblas, onednn (got mkl)"},
    {HEAD "matrix: {seed: 1..1000, threads: 1..1000}\n", NULL, "4:9", "1000000 cells; at most 100000"},
    {HEAD "matrix: {zip: {seed: [1, 2], threads: [1, 2, 3]}}\n", NULL, "4:15", "lists must have one length"},
    {HEAD "matrix: {seed: [1], zip: {seed: [1]}}\n", NULL, "4:27", "seed is an axis of the matrix as well"},
    {HEAD "matrix: {zip: {}}\n", NULL, "4:15", "zip is empty"},
    {HEAD "matrix: {seed: 1..2, exclude: [{seed: 3}]}\n", NULL, "4:32", "this rule matches no cell"},
    {HEAD "matrix: {seed: 1..2, exclude: [{sed: 1}]}\n", NULL, "4:33", "unknown key 'sed'; did you mean 'seed'?"},
    {HEAD "matrix: {seed: 1..2, exclude: [{seed: [1, 2]}]}\n", NULL, "4:9", "exclude leaves no cell"},
    {HEAD "matrix: {seed: 1, exclude: {seed: 1}}\n", NULL, "4:28", "exclude must be a list of maps"},
    {HEAD "matrix: {seed: 1, include: [{seed: 2}]}\n", NULL, "4:29", "an entry is a map with a pipeline"},
    {P "[rtn]], include: [{pipeline: [rtn]}]}\n", NULL, "4:39", "the cell 'rtn' is in the matrix already"},
    {HEAD "matrix: {seed: 1, include: [{pipeline: []}]}\n", NULL, "4:29", "is in the matrix already"},
    /* --set */
    {HEAD, "measure.rounds", NULL, "--set measure.rounds: write --set path.to.key=value"},
    {HEAD, "=3", NULL, "--set =3: write --set path.to.key=value"},
    {HEAD, "measure.rounds=x", NULL, "--set measure.rounds: measure: rounds must be a whole number"},
    {HEAD, "measure.round=3", NULL, "--set measure.round: measure: unknown option 'round'; did you mean 'rounds'?"},
    {HEAD, "rouds=3", NULL, "--set rouds: unknown key 'rouds'; did you mean 'rounds'?"},
    {HEAD, "mesure.rounds=3", NULL, "--set mesure.rounds: unknown key 'mesure'; did you mean 'measure'?"},
    {HEAD, "task.wordnet.nothing=1", NULL, "--set task.wordnet.nothing: wordnet: unknown option 'nothing'"},
    {HEAD, "task.similarity.data=x", NULL, "--set task.similarity.data: the task is wordnet, not 'similarity'"},
    {HEAD, "experiment.x=1", NULL, "--set experiment.x: 'x' is below a value"},
    {HEAD, "measure.batch=[1", NULL, "--set measure.batch: not valid YAML"},
    {HEAD, "description=${HOME}", NULL, "--set description: \"${\": environment variables"},
    {HEAD, "measure..rounds=1", NULL, "--set measure..rounds: the path has an empty part"},
    {HEAD "prepare: [rtn]\n", "prepare.finetune.epochs=1", NULL,
     "--set prepare.finetune.epochs: the list has no stage"},
    {HEAD "prepare: [rtn]\n", "prepare.1.bits=4", NULL, "--set prepare.1.bits: '1' is not a place in a list of 1"},
    {HEAD "prepare: [rtn]\n", "prepare.rtn.bits=3", NULL, "--set prepare.rtn.bits: rtn: bits must be one of 8, 4"},
};

static void test_rows(void **state) {
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct bad *row = &rows[i];
        struct experiment experiment;
        char path[128], start[200];
        scratch_file(path, ".yaml", row->text);
        error_clear();
        int status = experiment_read(&experiment, path, &row->set, row->set != NULL ? 1 : 0);
        const char *text = error_text();
        if (row->place == NULL) snprintf(start, sizeof start, "%s", row->words);
        else snprintf(start, sizeof start, "%s:%s: ", path, row->place);
        bool refused = status == E_ARGUMENT || status == E_PLUGIN;
        bool one_line = strchr(text, '\n') == NULL && strlen(text) < 700;
        if (!refused || !one_line || strncmp(text, start, strlen(start)) != 0 || strstr(text, row->words) == NULL) {
            print_error("row %zu: expected \"%s\" with \"%s\", got %d \"%s\" for\n%s", i, start, row->words, status,
                        text, row->text);
            wrong++;
        }
        assert_null(experiment.cells);
        scratch_remove(path);
    }
    assert_int_equal(wrong, 0);
}

static void test_count(void **state) {
    (void)state;
    assert_true(sizeof rows / sizeof *rows >= 60);
}

static void test_files(void **state) {
    (void)state;
    struct experiment experiment, *list;
    size_t count;
    char a[128], b[128];
    assert_int_equal(experiment_read(&experiment, "/nonexistent/x.yaml", NULL, 0), E_IO);
    assert_non_null(strstr(error_text(), "/nonexistent/x.yaml: cannot be read: No such file"));
    assert_int_equal(experiment_read(&experiment, "/tmp", NULL, 0), E_IO);
    assert_non_null(strstr(error_text(), "is a directory"));
    assert_int_equal(experiments_read(&list, &count, NULL, 0, NULL, 0), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "no experiment file"));
    scratch_file(a, ".yaml", HEAD);
    scratch_file(b, ".yaml", HEAD);
    const char *paths[] = {a, b};
    assert_int_equal(experiments_read(&list, &count, paths, 2, NULL, 0), E_ARGUMENT);
    assert_null(list);
    assert_non_null(strstr(error_text(), a));
    assert_non_null(strstr(error_text(), b));
    assert_non_null(strstr(error_text(), "the experiment 'e' is also at "));
    scratch_remove(a);
    scratch_remove(b);
}

/* Aliases of aliases: 10^9 nodes if they were followed. */
static void test_alias_bomb(void **state) {
    (void)state;
    struct experiment experiment;
    char path[128], text[2000];
    size_t used = (size_t)snprintf(text, sizeof text, "experiment: e\n.a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (char c = 'b'; c < 'k'; c++)
        used += (size_t)snprintf(text + used, sizeof text - used, ".%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n",
                                 c, c, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1);
    scratch_file(path, ".yaml", text);
    assert_int_equal(experiment_read(&experiment, path, NULL, 0), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "more than 200000 values"));
    scratch_remove(path);
}

/* A good file with any byte replaced ends in an answer and never in a crash. */
static void test_mutations(void **state) {
    (void)state;
    static const char good[] =
        HEAD "prepare: [null]\nmatrix:\n  pipeline: [[], [rtn: {bits: [8, 4]}]]\n  zip: {seed: 1..2, "
             "threads: [1, 1]}\n  exclude: [{seed: 2, pipeline: [rtn: {bits: 4}]}]\n";
    static const char replacements[] = "\xff:{}[]&*!\"'#|>%@`,-?";
    char text[sizeof good], path[128];
    for (size_t i = 0; i < sizeof good - 1; i++) {
        struct experiment experiment;
        memcpy(text, good, sizeof good);
        text[i] = replacements[i % (sizeof replacements - 1)];
        scratch_file(path, ".yaml", text);
        if (experiment_read(&experiment, path, NULL, 0) == 0) experiment_close(&experiment);
        scratch_remove(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),       cmocka_unit_test(test_count),     cmocka_unit_test(test_files),
        cmocka_unit_test(test_alias_bomb), cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
