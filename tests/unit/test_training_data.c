/* What each task's training split becomes: pairs with scores, windows with the answer's tokens, blocks of text, prompts
 * with what follows them; and all of SST-2, where it is at hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "scratch_file.h"
#include "small_model.h"
#include "task/answer_windows.h"
#include "task/example_arrays.h"

/* Ids 0..4 are special, words begin at 5. */
static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwho\nwhat\nmake\n##s\nbee\nhoney\nthe\n,\n.\ncafe\n"
    "is\nold\nsweet\n##er\nand\nwhere\n?\n";
enum { CLS = 2, SEP = 3, WHO = 5, MAKE = 7, S = 8, BEE = 9, HONEY = 10, THE = 11, CAFE = 14, IS = 15, OLD = 16 };

static struct tokenizer *tokenizer;

static int fixture_open(void **state) {
    (void)state;
    return tokenizer_parse_vocab(&tokenizer, vocabulary, sizeof vocabulary - 1, true);
}
static int fixture_close(void **state) {
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

struct setting {
    const char *name, *value;
};

/* A task with `settings` (ended by a NULL name) over its defaults; the store lives as long as the task. */
static int task_with(struct task *task, const char *kind_name, const struct setting *settings,
                     struct option_store *store) {
    static uint64_t options[32];
    const struct task_kind *kind = task_kind_find(kind_name);
    assert_non_null(kind);
    assert_true(kind->options_bytes <= sizeof options);
    memset(options, 0, sizeof options);
    assert_int_equal(option_defaults(kind->options, options, store), 0);
    for (; settings->name; settings++) {
        const struct option *option = option_find(kind->options, settings->name);
        assert_non_null(option);
        if (option_set(option, options, settings->value, store) < 0) fail_msg("%s", error_text());
    }
    return kind->open(task, options);
}

static struct task_lengths within(size_t max_tokens, size_t positions) {
    return (struct task_lengths){max_tokens, positions};
}

static void check_ids(const struct examples *examples, size_t item, const int32_t *ids, size_t count) {
    assert_int_equal(examples->offset[item + 1] - examples->offset[item], count);
    assert_memory_equal(examples->ids + examples->offset[item], ids, count * sizeof *ids);
}

/* ---- similarity and regression ------------------------------------------------------------------------- */

static const char pairs_text[] =
    "sentence1\tsentence2\tscore\nbees make honey\tthe bees\t3\nhoney\tcafe\t-1\nold\told\t5\n";

static void pairs_keep_together_and_scores_are_scaled(void **state) {
    (void)state;
    char path[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(4, 64);
    scratch_file(path, ".tsv", pairs_text);
    const struct setting settings[] = {{"data", "/"},    {"train", path}, {"validation", ""}, {"test", path},
                                       {"header", "[]"}, {"low", "-1"},   {NULL, NULL}};
    assert_int_equal(task_with(&task, "similarity", settings, &store), 0);
    assert_int_equal(task.kind->objective, TRAIN_SIMILARITY);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    const struct examples *e = &training.examples;
    assert_int_equal(e->count, 6);
    assert_true(e->pair);
    assert_float_equal(e->target[0], 4.0 / 6, 1e-6);
    assert_float_equal(e->target[1], 0, 0);
    assert_float_equal(e->target[2], 1, 0);
    check_ids(e, 0, (const int32_t[]){CLS, BEE, S, SEP}, 4); /* cut */
    check_ids(e, 1, (const int32_t[]){CLS, THE, BEE, SEP}, 4);
    check_ids(e, 3, (const int32_t[]){CLS, CAFE, SEP}, 3);
    assert_true(task_has_unlabelled(&task));
    task_examples_close(&training);
    task.kind->close(&task);

    const struct setting narrow[] = {{"data", "/"},  {"train", path},  {"validation", ""},
                                     {"test", path}, {"header", "[]"}, {NULL, NULL}};
    char expected[256];
    assert_int_equal(task_with(&task, "similarity", narrow, &store), E_FORMAT);
    snprintf(expected, sizeof expected, "%s:3: the score -1 is outside 0..5 (`low`, `high`)", path);
    assert_string_equal(error_text(), expected);

    const struct setting first[] = {{"data", "/"},    {"train", path},    {"validation", ""}, {"test", path},
                                    {"header", "[]"}, {"max_train", "1"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "similarity", first, &store), 0);
    assert_int_equal(task.split[SPLIT_TRAIN].count, 2);
    assert_int_equal(task.split[SPLIT_TEST].count, 6);
    task.kind->close(&task);

    const struct setting none[] = {{"data", "/"}, {"validation", ""}, {"test", path}, {"header", "[]"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "similarity", none, &store), 0);
    assert_false(task_has_unlabelled(&task));
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), E_NOT_FOUND);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

static void regression_reads_pairs_with_segments(void **state) {
    (void)state;
    char path[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(64, 8);
    struct model model;
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    struct task_result result = {0};
    scratch_file(path, ".tsv", pairs_text);
    const struct setting settings[] = {{"data", "/"}, {"train", path},         {"validation", ""}, {"test", path},
                                       {"low", "-1"}, {"second", "sentence2"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "regression", settings, &store), 0);
    assert_int_equal(task.kind->objective, TRAIN_REGRESSION);
    assert_int_equal(task.classes, 1);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    const struct examples *e = &training.examples;
    assert_int_equal(e->count, 3);
    assert_false(e->pair);
    check_ids(e, 1, (const int32_t[]){CLS, HONEY, SEP, CAFE, SEP}, 5);
    const int32_t types[] = {0, 0, 0, 1, 1};
    assert_memory_equal(e->types + e->offset[1], types, sizeof types);
    assert_int_equal(e->offset[1], 8); /* the model's positions */
    assert_float_equal(e->target[0], 4.0 / 6, 1e-6);

    /* Outputs are scaled back before they are judged. */
    config.vocabulary = tokenizer_vocabulary(tokenizer);
    config.classes = 1;
    config.positions = 16;
    assert_int_equal(model_create(&model, &config, 3, 0.3), 0);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    struct task_scoring scoring = {
        .task = &task, .split = SPLIT_TEST, .model = &model, .tokenizer = tokenizer, .max_tokens = 64, .batch = 2};
    if (task.kind->score(&scoring, &result) < 0) fail_msg("%s", error_text());
    struct workspace workspace = {0};
    struct model_output output;
    const int32_t ids[] = {CLS, HONEY, SEP, CAFE, SEP};
    const uint32_t offset[] = {0, 5};
    struct batch batch = {.sequences = 1, .tokens = 5, .ids = ids, .offset = offset, .token_types = types};
    assert_int_equal(model_forward(&model, &batch, NULL, &workspace, &output), 0);
    const float *value = result.items[0].values, *target = result.items[1].values;
    assert_string_equal(result.items[0].name, "value");
    assert_float_equal(value[1], -1 + 6 * output.logits[0], 1e-5);
    assert_float_equal(target[1], -1, 0);
    assert_string_equal(result.metrics[0].name, "pearson");
    workspace_close(&workspace);
    task_result_close(&result);
    model_close(&model);
    task_examples_close(&training);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

/* What cannot have been learnt cannot be scored against either: each split, in each kind of file. */
static void regression_refuses_scores_outside(void **state) {
    (void)state;
    static const struct {
        const char *ending, *text;
        int line;
    } files[] = {{".tsv", "sentence1\tscore\nbees\t5\nhoney\t6\n", 3},
                 {".csv", "sentence1,score\n\"bees\nhoney\",5\nhoney,6\n", 4},
                 {".jsonl", "{\"sentence1\":\"bees\",\"score\":5}\n\n{\"sentence1\":\"honey\",\"score\":6}\n", 3}};
    static const char *const splits[] = {"train", "validation", "test"};
    char good[128], bad[128], expected[256];
    struct task task;
    struct option_store store = {0};
    scratch_file(good, ".tsv", "sentence1\tscore\nbees\t0\nhoney\t5\n");
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        scratch_file(bad, files[f].ending, files[f].text);
        snprintf(expected, sizeof expected, "%s:%d: the score 6 is outside 0..5 (`low`, `high`)", bad, files[f].line);
        for (int s = 0; s < 3; s++) {
            const struct setting settings[] = {{"data", "/"},
                                               {splits[0], s == 0 ? bad : good},
                                               {splits[1], s == 1 ? bad : good},
                                               {splits[2], s == 2 ? bad : good},
                                               {NULL, NULL}};
            assert_int_equal(task_with(&task, "regression", settings, &store), E_FORMAT);
            assert_string_equal(error_text(), expected);
        }
        scratch_remove(bad);
    }
    option_store_close(&store);
    scratch_remove(good);
}

/* There is no correlation with a number that is always the same: a result without a value would look like one. */
static void scores_to_judge_by_differ(void **state) {
    (void)state;
    static const char *const kinds[] = {"regression", "similarity"};
    char same[128], one[128], good[128], expected[256];
    struct task task;
    struct option_store store = {0};
    scratch_file(same, ".tsv", "sentence1\tsentence2\tscore\nbees\told\t3\nhoney\told\t3.0\n");
    scratch_file(one, ".tsv", "sentence1\tsentence2\tscore\nbees\told\t3\n");
    scratch_file(good, ".tsv", "sentence1\tsentence2\tscore\nbees\told\t3\nhoney\told\t4\n");
    for (int k = 0; k < 2; k++) {
        const struct setting settings[] = {{"data", "/"},      {"header", "[]"}, {"train", one},
                                           {"validation", ""}, {"test", same},   {NULL, NULL}};
        assert_int_equal(task_with(&task, kinds[k], settings, &store), E_FORMAT);
        snprintf(expected, sizeof expected, "%s: all 2 scores are 3: a correlation needs two that differ", same);
        assert_string_equal(error_text(), expected);
        const struct setting single[] = {{"data", "/"},       {"header", "[]"}, {"train", one},
                                         {"validation", one}, {"test", good},   {NULL, NULL}};
        assert_int_equal(task_with(&task, kinds[k], single, &store), E_FORMAT);
        snprintf(expected, sizeof expected, "%s: one score: a correlation needs two that differ", one);
        assert_string_equal(error_text(), expected);
    }
    option_store_close(&store);
    scratch_remove(same);
    scratch_remove(one);
    scratch_remove(good);
}

/* 0.7 in 32 bits lies a little below 0.7. */
static void ends_of_the_scale_are_within(void **state) {
    (void)state;
    char path[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(16, 16);
    scratch_file(path, ".tsv", "sentence1\tscore\nbees\t0.7\nhoney\t1.9\n");
    const struct setting settings[] = {{"data", "/"},  {"train", path}, {"validation", ""}, {"test", path},
                                       {"low", "0.7"}, {"high", "1.9"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "regression", settings, &store), 0);
    if (task_training_open(&training, &task, tokenizer, &lengths) < 0) fail_msg("%s", error_text());
    assert_true(training.examples.target[0] == 0 && training.examples.target[1] <= 1);
    task_examples_close(&training);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static void answers_are_located(void **state) {
    (void)state;
    static const char context[] = "honey, caf\xC3\xA9, honey and honey";
    struct answer_span span;
    answer_locate(context, "honey", "0", &span);
    assert_true(span.begin == 0 && span.end == 5);
    answer_locate(context, "honey", "13", &span); /* characters: é is one of them and two bytes */
    assert_true(span.begin == 14 && span.end == 19);
    answer_locate(context, "honey", "22", &span); /* one off: the nearest */
    assert_true(span.begin == 24 && span.end == 29);
    answer_locate(context, "honey", "", &span);
    assert_true(span.begin == 0 && span.end == 5);
    answer_locate(context, "caf\xC3\xA9", "7", &span);
    assert_true(span.begin == 7 && span.end == 12);
    answer_locate(context, "bees", "0", &span);
    assert_true(span.begin == span.end);
    answer_locate(context, "", "3", &span);
    assert_true(span.begin == span.end);
}

#define PARAGRAPH "bees make honey and the honey is sweet . the caf\xC3\xA9 is old"

static void windows_know_where_the_answer_is(void **state) {
    (void)state;
    char path[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(3, 64);
    scratch_file(path, ".json",
                 "{\"data\":[{\"paragraphs\":[{\"context\":\"" PARAGRAPH "\",\"qas\":["
                 "{\"id\":\"a\",\"question\":\"who\",\"answers\":[{\"text\":\"the caf\xC3\xA9\",\"answer_start\":41}]},"
                 "{\"id\":\"b\",\"question\":\"what\",\"answers\":[{\"text\":\"wasps\",\"answer_start\":3}]},"
                 "{\"id\":\"c\",\"question\":\"where\",\"answers\":[{\"text\":\"honey\",\"answer_start\":24}]}]}]}]}");
    const struct setting settings[] = {{"data", "/"},   {"train", path},      {"test", path},
                                       {"stride", "4"}, {"max_tokens", "12"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "question_answering", settings, &store), 0);
    assert_int_equal(task.kind->objective, TRAIN_QUESTION_ANSWERING);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    const struct examples *e = &training.examples;
    /* 14 context tokens, 8 of them beside a question of one word: windows from 0, 4 and 8 of each located question. */
    assert_int_equal(e->count, 6);
    static const int32_t starts[] = {-1, 3 + 10 - 4, 3 + 10 - 8, 3 + 6, 3 + 6 - 4, -1},
                         ends[] = {-1, 3 + 11 - 4, 3 + 11 - 8, 3 + 6, 3 + 6 - 4, -1};
    assert_memory_equal(e->start, starts, sizeof starts);
    assert_memory_equal(e->end, ends, sizeof ends);
    const int32_t *third = e->ids + e->offset[2];
    assert_int_equal(third[0], CLS);
    assert_int_equal(third[1], WHO);
    assert_int_equal(third[e->start[2]], THE);
    assert_int_equal(third[e->end[2]], CAFE);
    assert_int_equal(e->ids[e->offset[4] + (uint32_t)e->start[4]], HONEY);
    for (size_t i = 0; i < e->count; i++) {
        assert_int_equal(e->types[e->offset[i] + 2], 0);
        assert_int_equal(e->types[e->offset[i] + 3], 1);
        assert_int_equal(e->ids[e->offset[i + 1] - 1], SEP);
    }
    task_examples_close(&training);
    /* The paragraph once, for learning words. */
    assert_int_equal(task.split[SPLIT_UNLABELLED].count, 1);
    assert_string_equal(task.split[SPLIT_UNLABELLED].text[0], PARAGRAPH);
    /* No window is longer than the model's positions. */
    lengths.positions = 9;
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    for (size_t i = 0; i < training.examples.count; i++)
        assert_true(training.examples.offset[i + 1] - training.examples.offset[i] <= 9);
    task_examples_close(&training);
    task.kind->close(&task);

    const struct setting first[] = {{"data", "/"}, {"train", path}, {"test", path}, {"max_train", "2"}, {NULL, NULL}};
    lengths.positions = 64;
    assert_int_equal(task_with(&task, "question_answering", first, &store), 0);
    assert_int_equal(task.split[SPLIT_TRAIN].count, 2);
    assert_int_equal(task.split[SPLIT_TEST].count, 3);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    assert_int_equal(training.examples.count, 1);
    task_examples_close(&training);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

/* ---- text ---------------------------------------------------------------------------------------------- */

static void text_is_cut_into_blocks(void **state) {
    (void)state;
    static const char text[] = "the bee is old and the cafe is old"; /* 9 tokens */
    struct task_examples blocks;
    struct encoding all = {0};
    assert_int_equal(tokenizer_append(tokenizer, text, sizeof text - 1, false, true, &all), 0);
    assert_int_equal(all.count, 9);
    static const struct {
        int32_t begin;
        size_t max_tokens, max_blocks, blocks, last;
    } cases[] = {{-1, 4, 0, 2, 4},                     /* 4, 4; the last token alone predicts nothing */
                 {-1, 6, 0, 2, 3},                     /* 6, 3 */
                 {-1, 64, 0, 1, 9},                    /* the whole */
                 {-1, 3, 2, 2, 3},                     /* the first two of three */
                 {-1, 3, 3, 3, 3},  {CLS, 5, 0, 3, 2}, /* a begin token and 4, 4, 1 */
                 {CLS, 5, 1, 1, 5}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t at = 0, own = cases[c].begin >= 0;
        assert_int_equal(text_blocks_open(&blocks, tokenizer, text, sizeof text - 1, cases[c].begin,
                                          cases[c].max_tokens, cases[c].max_blocks),
                         0);
        const struct examples *e = &blocks.examples;
        assert_int_equal(e->count, cases[c].blocks);
        assert_int_equal(e->offset[e->count] - e->offset[e->count - 1], cases[c].last);
        for (size_t i = 0; i < e->count; i++) {
            const int32_t *ids = e->ids + e->offset[i];
            size_t length = e->offset[i + 1] - e->offset[i];
            assert_true(length <= cases[c].max_tokens);
            if (own) assert_int_equal(ids[0], cases[c].begin);
            assert_memory_equal(ids + own, all.ids + at, (length - own) * sizeof *ids);
            at += length - own;
        }
        task_examples_close(&blocks);
    }
    assert_int_equal(text_blocks_open(&blocks, tokenizer, "bee", 3, -1, 8, 0), E_FORMAT);
    assert_int_equal(text_blocks_open(&blocks, tokenizer, text, sizeof text - 1, -1, 1, 0), E_ARGUMENT);
    encoding_close(&all);
}

static void perplexity_trains_on_blocks_of_a_file(void **state) {
    (void)state;
    char path[128], test[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training, text;
    struct task_lengths lengths = within(64, 4);
    scratch_file(path, ".txt", "the bee is old\n\nand the cafe is old\n");
    scratch_file(test, ".txt", "honey is sweet\n");
    const struct setting settings[] = {
        {"data", "/"}, {"train", path}, {"test", test}, {"max_train", "2"}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "perplexity", settings, &store), 0);
    assert_int_equal(task.kind->objective, TRAIN_CAUSAL_LM);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    assert_int_equal(training.examples.count, 2);
    check_ids(&training.examples, 0, (const int32_t[]){THE, BEE, IS, OLD}, 4);
    assert_null(training.examples.label);
    assert_true(task_has_unlabelled(&task));
    assert_int_equal(task_unlabelled_open(&text, &task, tokenizer, &lengths), 0);
    assert_int_equal(text.examples.count, 2);
    assert_memory_equal(text.examples.ids, training.examples.ids, 8 * sizeof(int32_t));
    task_examples_close(&text);
    task_examples_close(&training);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
    scratch_remove(test);
}

static void generation_trains_on_prompts_with_references(void **state) {
    (void)state;
    char path[128];
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(64, 64);
    scratch_file(path, ".jsonl",
                 "{\"prompt\": \"who makes\", \"reference\": [\"bees\", \"the bees\"]}\n"
                 "{\"prompt\": \"old \", \"reference\": \"cafe\"}\n");
    const struct setting settings[] = {{"data", "/"}, {"train", path}, {"test", path}, {NULL, NULL}};
    assert_int_equal(task_with(&task, "generation", settings, &store), 0);
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    const struct examples *e = &training.examples;
    /* This tokenizer's [SEP] would end a text: it is left off, and it has no end token to put there. */
    assert_int_equal(e->count, 3);
    check_ids(e, 0, (const int32_t[]){CLS, WHO, MAKE, S, BEE, S}, 6);
    check_ids(e, 1, (const int32_t[]){CLS, WHO, MAKE, S, THE, BEE, S}, 7);
    check_ids(e, 2, (const int32_t[]){CLS, OLD, CAFE}, 3);
    task_examples_close(&training);
    lengths.max_tokens = 5;
    assert_int_equal(task_training_open(&training, &task, tokenizer, &lengths), 0);
    check_ids(&training.examples, 1, (const int32_t[]){CLS, WHO, MAKE, S, THE}, 5);
    task_examples_close(&training);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

/* ---- the real thing ------------------------------------------------------------------------------------- */

/* As transformers has them, in one text as in two, and in the text of a language model. */
static void special_tokens_in_a_text_are_special(void **state) {
    (void)state;
    static const char text[] = "bee [SEP] honey";
    struct encoding encoding = {0};
    struct task_examples blocks;
    assert_int_equal(task_encode(tokenizer, text, 16, &encoding), 0);
    assert_int_equal(encoding.count, 5);
    assert_memory_equal(encoding.ids, ((const int32_t[]){CLS, BEE, SEP, HONEY, SEP}), 5 * sizeof(int32_t));
    encoding_close(&encoding);
    assert_int_equal(text_blocks_open(&blocks, tokenizer, text, sizeof text - 1, -1, 8, 0), 0);
    check_ids(&blocks.examples, 0, (const int32_t[]){BEE, SEP, HONEY}, 3);
    task_examples_close(&blocks);
}

#define SST2 "../shared/data/sst2"

static void all_of_sst2(void **state) {
    (void)state;
    struct task task;
    struct option_store store = {0};
    struct task_examples training;
    struct task_lengths lengths = within(64, 512);
    struct tokenizer *wordpiece;
    size_t positive = 0;
    if (access(SST2 "/train.tsv", R_OK) != 0) skip();
    const struct setting settings[] = {{"data", SST2}, {"text", "content"}, {"train_text", "sentence"}, {NULL, NULL}};
    if (tokenizer_open(&wordpiece, "../shared/data/tokenizers/bert-base-uncased/vocab.txt") < 0)
        fail_msg("%s", error_text());
    if (task_with(&task, "classification", settings, &store) < 0) fail_msg("%s", error_text());
    assert_int_equal(task_training_open(&training, &task, wordpiece, &lengths), 0);
    const struct examples *e = &training.examples;
    assert_int_equal(e->count, 67349);
    assert_int_equal(task.split[SPLIT_VALIDATION].count, 872);
    assert_int_equal(task.split[SPLIT_TEST].count, 1821);
    assert_int_equal(e->classes, 2);
    for (size_t i = 0; i < e->count; i++) {
        uint32_t length = e->offset[i + 1] - e->offset[i];
        positive += e->label[i] == 1;
        assert_true(length >= 3 && length <= 64);
        assert_int_equal(e->ids[e->offset[i]], 101);
        assert_int_equal(e->ids[e->offset[i + 1] - 1], 102);
    }
    assert_int_equal(positive, 37569); /* GLUE's */
    /* "hide new secretions from the parental units", as Hugging Face's BertTokenizer has it */
    check_ids(e, 0, (const int32_t[]){101, 5342, 2047, 3595, 8496, 2013, 1996, 18643, 3197, 102}, 10);
    task_examples_close(&training);
    task.kind->close(&task);
    tokenizer_free(wordpiece);
    option_store_close(&store);
}

static void expect_told(const char *kind, const char *ending, const char *text, const char *words) {
    char path[128], expected[256];
    struct task task;
    struct option_store store = {0};
    struct task_examples examples = {0};
    struct task_lengths lengths = within(16, 16);
    scratch_file(path, ending, text);
    const struct setting settings[] = {
        {"data", "/"}, {"train", path}, {"validation", ""}, {"test", path}, {NULL, NULL}};
    if (task_with(&task, kind, settings, &store) < 0) fail_msg("%s", error_text());
    int status = task_training_open(&examples, &task, tokenizer, &lengths);
    snprintf(expected, sizeof expected, "%s%s", path, words);
    assert_int_equal(status, E_FORMAT);
    if (!strstr(error_text(), expected)) fail_msg("'%s', expected '%s'", error_text(), expected);
    task_examples_close(&examples);
    task.kind->close(&task);
    option_store_close(&store);
    scratch_remove(path);
}

static void data_that_teaches_nothing_is_named(void **state) {
    (void)state;
    expect_told("perplexity", ".txt", "a", ": 1 token: nothing to predict");
    expect_told("generation", ".jsonl", "{\"prompt\":\"\",\"reference\":\"\"}\n",
                ": no prompt with its reference has two tokens");
    expect_told("question_answering", ".json",
                "{\"data\":[{\"paragraphs\":[{\"context\":\"bees\",\"qas\":[{\"id\":\"1\",\"question\":\"who\","
                "\"answers\":[{\"text\":\"honey\",\"answer_start\":0}]}]}]}]}",
                ": no answer occurs in its context");
}

/* "file:line" of a text, of several in a line, and of none known. */
static void places_of_texts(void **state) {
    (void)state;
    const uint32_t line[] = {2, 5};
    char place[64];
    struct task_text texts = {.count = 4, .path = "a.tsv", .line = line, .texts_per_line = 2};
    task_text_place(&texts, 1, place, sizeof place);
    assert_string_equal(place, "a.tsv:2");
    task_text_place(&texts, 2, place, sizeof place);
    assert_string_equal(place, "a.tsv:5");
    texts.texts_per_line = 0;
    task_text_place(&texts, 1, place, sizeof place);
    assert_string_equal(place, "a.tsv:5");
    texts.line = NULL;
    task_text_place(&texts, 1, place, sizeof place);
    assert_string_equal(place, "a.tsv");
    texts.path = NULL;
    task_text_place(&texts, 1, place, sizeof place);
    assert_string_equal(place, "text 2 of the data");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs_keep_together_and_scores_are_scaled),
                                       cmocka_unit_test(regression_reads_pairs_with_segments),
                                       cmocka_unit_test(regression_refuses_scores_outside),
                                       cmocka_unit_test(ends_of_the_scale_are_within),
                                       cmocka_unit_test(scores_to_judge_by_differ),
                                       cmocka_unit_test(data_that_teaches_nothing_is_named),
                                       cmocka_unit_test(places_of_texts),
                                       cmocka_unit_test(answers_are_located),
                                       cmocka_unit_test(windows_know_where_the_answer_is),
                                       cmocka_unit_test(text_is_cut_into_blocks),
                                       cmocka_unit_test(perplexity_trains_on_blocks_of_a_file),
                                       cmocka_unit_test(generation_trains_on_prompts_with_references),
                                       cmocka_unit_test(special_tokens_in_a_text_are_special),
                                       cmocka_unit_test(all_of_sst2)};
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
