/* The task that holds generated texts against references: its scores against the same texts made and judged by hand,
 * what ends a text, references in columns and lists, agreement, refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "model/generate.h"
#include "scratch_file.h"
#include "task/metrics.h"
#include "task/task.h"
#include "text/tokenizer_parts.h"

/* GPT-2's spelling: U+0120 is a blank, U+010A a line break. The ids are in the order written. */
#define BLANK "\xC4\xA0"
#define BREAK "\xC4\x8A"
#define CUT "\xC3\xA3\xC4\xA4" /* bytes E3 82: the beginning of a character of three */
static const char words[] =
    "{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"" BLANK "\":4,\"" BREAK "\":5,\"" BLANK "a\":6,\"" BLANK "b\":7,\"" BLANK
    "c\":8,\"" BLANK "d\":9,\"" BREAK BREAK "\":10,\"<|endoftext|>\":11,\"" BREAK "a\":12,\"" BLANK CUT "\":13}";
static const char merges[] = "#version: 0.2\n" BLANK " a\n" BLANK " b\n" BLANK " c\n" BLANK " d\n" BREAK " " BREAK "\n";
enum { VOCABULARY = 14, END = 11, ITEMS = 6, NEW_TOKENS = 12, REFERENCES = 2 };

static const char *const prompts[ITEMS] = {"a b c", "d", "b b a", "c d", "a a a a", "d c b a"};
static const char *const references[ITEMS][REFERENCES] = {{"a b c d a b", "b b b"},
                                                          {"c c d d a b c d", "b a b a b a"},
                                                          {"a a \xEF\xBF\xBD b b", "d d d d"},
                                                          {"b c b c b c", "a d a d a d"},
                                                          {"c", "d c a b"},
                                                          {"a b a c a d", "d d b b"}};

static struct tokenizer *tokenizer;
static char data_path[128], folder[128], file[128];

static void file_write(const char *text) {
    scratch_file(data_path, ".jsonl", text);
    char *slash = strrchr(data_path, '/');
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - data_path), data_path);
    snprintf(file, sizeof file, "%s", slash + 1);
}

static int fixture_open(void **state) {
    (void)state;
    char text[2048] = "";
    for (size_t i = 0; i < ITEMS; i++) /* the first column holds a list */
        snprintf(text + strlen(text), sizeof text - strlen(text),
                 "{\"prompt\":\"%s\",\"reference\":[\"%s\"],\"other\":\"%s\"}\n", prompts[i], references[i][0],
                 references[i][1]);
    file_write(text);
    return tokenizer_parse_merges(&tokenizer, words, sizeof words - 1, merges, sizeof merges - 1);
}

static int fixture_close(void **state) {
    (void)state;
    scratch_remove(data_path);
    tokenizer_free(tokenizer);
    return 0;
}

static void tiny(struct model *model, uint64_t seed) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, "llama"), 0);
    config.layers = 2, config.width = 24, config.heads = 4, config.key_value_heads = 2, config.head_width = 6;
    config.feed_forward = 40, config.vocabulary = VOCABULARY, config.positions = 40;
    config.model_heads = HEAD_CAUSAL_LM;
    config.tied = false;
    if (model_create(model, &config, seed, 0.4) < 0 || model_prepare(model, GEMM_BUILTIN) < 0)
        fail_msg("%s", error_text());
}

struct setting {
    const char *name, *value;
};

/* Open the task on `name`, both columns as references, then with the settings (ended by NULL). */
static int task_with(struct task *task, const char *name, const struct setting *settings) {
    const struct task_kind *kind = task_kind_find("generation");
    static const char *const columns[] = {"reference", "other"};
    struct option_store store = {0};
    const struct setting usual[] = {{"data", folder}, {"test", name}, {"new_tokens", "12"}};
    uint64_t options[32] = {0};
    assert_non_null(kind);
    assert_true(kind->options_bytes <= sizeof options);
    assert_int_equal(option_defaults(kind->options, options, &store), 0);
    assert_int_equal(option_set_names(option_find(kind->options, "references"), options, columns, 2, &store), 0);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        assert_int_equal(option_set(option_find(kind->options, usual[i].name), options, usual[i].value, &store), 0);
    for (; settings && settings->name; settings++)
        assert_int_equal(option_set(option_find(kind->options, settings->name), options, settings->value, &store), 0);
    int status = kind->open(task, options);
    option_store_close(&store);
    return status;
}

static int score(const struct task *task, const struct model *model, const struct model *baseline,
                 struct task_result *result) {
    struct task_scoring scoring = {.task = task,
                                   .split = SPLIT_TEST,
                                   .model = model,
                                   .baseline = baseline,
                                   .tokenizer = tokenizer,
                                   .max_tokens = 64,
                                   .batch = 8};
    *result = (struct task_result){0};
    return task->kind->score(&scoring, result);
}

static const void *items(const struct task_result *result, const char *name) {
    for (size_t i = 0; i < result->item_count; i++)
        if (strcmp(result->items[i].name, name) == 0) return result->items[i].values;
    fail_msg("no items %s", name);
    return NULL;
}

static double metric(const struct task_result *result, const char *name) {
    for (size_t i = 0; i < result->metric_count; i++)
        if (strcmp(result->metrics[i].name, name) == 0) return result->metrics[i].value;
    fail_msg("no metric %s", name);
    return NAN;
}

/* One text by generate itself. stop: 0 nothing, 1 the end token, 2 a line break, too. The text is cut by hand. */
struct written {
    char text[256];
    size_t tokens;
    bool ended;
};
static struct written write_text(const struct model *model, size_t item, struct generate_options options, int stop) {
    static const int32_t all_stops[] = {END, 5, 10, 12};
    struct workspace workspace = {0};
    struct generated out[4];
    struct written written;
    int32_t ids[32];
    size_t prompt_tokens, count;
    char *text;
    assert_int_equal(tokenizer_encode(tokenizer, prompts[item], strlen(prompts[item]), ids, 32, &prompt_tokens), 0);
    options.new_tokens = NEW_TOKENS;
    options.end = stop ? all_stops : NULL;
    options.end_count = stop == 1 ? 1 : 4;
    if (generate(model, ids, prompt_tokens, &options, &workspace, out, &count) < 0) fail_msg("%s", error_text());
    assert_int_equal(tokenizer_decode(tokenizer, out[0].ids, out[0].count, &text), 0);
    snprintf(written.text, sizeof written.text, "%s", text);
    for (char *cut; (cut = strstr(written.text, "\xE3\x82")) != NULL;) { /* one sign for both bytes */
        memmove(cut + 3, cut + 2, strlen(cut + 2) + 1);
        memcpy(cut, "\xEF\xBF\xBD", 3);
    }
    char *line_end = stop == 2 ? strchr(written.text, '\n') : NULL;
    if (line_end) *line_end = 0;
    written.tokens = out[0].count;
    written.ended = out[0].ended;
    memory_release(text);
    generated_close(out, count);
    workspace_close(&workspace);
    return written;
}

/* Scores of all items against texts written and judged one by one. */
static void check_scores(const struct task_result *result, const struct written *written, bool stem) {
    struct bleu_counts sum = {0};
    double rouge_sum[3] = {0}, tokens = 0, ended = 0;
    static const char *const matched[] = {"matched1", "matched2", "matched3", "matched4"},
                             *const total[] = {"total1", "total2", "total3", "total4"},
                             *const rouges[] = {"rouge1", "rouge2", "rougeL"};
    assert_int_equal(result->count, ITEMS);
    for (size_t i = 0; i < ITEMS; i++) {
        struct bleu_counts counts;
        struct rouge_score rouge[ROUGE_KINDS];
        const int32_t *kept = items(result, "tokens");
        if (kept[i] != (int32_t)written[i].tokens)
            fail_msg("item %zu: %d tokens, expected %zu", i, kept[i], written[i].tokens);
        assert_int_equal(metric_bleu_count(written[i].text, references[i], REFERENCES, false, &counts), 0);
        assert_int_equal(metric_rouge(written[i].text, references[i], REFERENCES, stem, rouge), 0);
        metric_bleu_add(&sum, &counts);
        for (size_t n = 0; n < BLEU_ORDER; n++) {
            assert_int_equal(((const int32_t *)items(result, matched[n]))[i], counts.matched[n]);
            assert_int_equal(((const int32_t *)items(result, total[n]))[i], counts.total[n]);
        }
        assert_int_equal(((const int32_t *)items(result, "hypothesis_tokens"))[i], counts.hypothesis_tokens);
        assert_int_equal(((const int32_t *)items(result, "reference_tokens"))[i], counts.reference_tokens);
        assert_true(((const float *)items(result, "sentence_bleu"))[i] ==
                    (float)metric_bleu(&counts, true, NULL, NULL));
        for (size_t k = 0; k < 3; k++) {
            assert_true(((const float *)items(result, rouges[k]))[i] == (float)rouge[k].f1);
            rouge_sum[k] += rouge[k].f1;
        }
        tokens += (double)written[i].tokens;
        ended += written[i].ended;
    }
    assert_true(fabs(metric(result, "bleu") - metric_bleu(&sum, false, NULL, NULL)) < 1e-9);
    for (size_t k = 0; k < 3; k++) assert_true(fabs(metric(result, rouges[k]) - rouge_sum[k] / ITEMS) < 1e-12);
    assert_true(fabs(metric(result, "mean_tokens") - tokens / ITEMS) < 1e-12);
    assert_true(fabs(metric(result, "ended") - ended / ITEMS) < 1e-12);
}

static void greedy_texts_are_judged(void **state) {
    (void)state;
    static const struct setting never[] = {{"stop", "none"}, {NULL, NULL}},
                                line[] = {{"stop", "newline"}, {NULL, NULL}};
    const struct setting *const settings[] = {never, NULL, line};
    size_t ended[3] = {0}, unended[3] = {0}, with_bleu = 0;
    for (int stop = 0; stop < 3; stop++) {
        struct task task;
        assert_int_equal(task_with(&task, file, settings[stop]), 0);
        for (uint64_t seed = 1; seed <= 12; seed++) {
            struct model model = {0};
            struct task_result result;
            struct written written[ITEMS];
            struct generate_options options;
            generate_defaults(&options);
            tiny(&model, seed);
            for (size_t i = 0; i < ITEMS; i++) {
                written[i] = write_text(&model, i, options, stop);
                ended[stop] += written[i].ended;
                unended[stop] += !written[i].ended;
            }
            if (score(&task, &model, NULL, &result) < 0) fail_msg("%s", error_text());
            check_scores(&result, written, false);
            with_bleu += metric(&result, "bleu") > 0;
            task_result_close(&result);
            model_close(&model);
        }
        task.kind->close(&task);
    }
    assert_int_equal(ended[0], 0);
    assert_true(ended[1] > 0 && unended[1] > 0);
    assert_true(ended[2] > ended[1] && unended[2] > 0); /* line breaks end more texts */
    assert_true(with_bleu > 0);
}

static void beams_and_samples_are_judged(void **state) {
    (void)state;
    static const struct setting beams[] = {{"beams", "3"}, {"length_penalty", "0.5"}, {NULL, NULL}},
                                sample[] = {{"temperature", "1.5"}, {"top_k", "6"},   {"top_p", "0.9"},
                                            {"seed", "7"},          {"stop", "none"}, {NULL, NULL}};
    struct model model = {0};
    struct task task;
    struct task_result result;
    struct written written[ITEMS];
    struct generate_options options;
    tiny(&model, 2);
    generate_defaults(&options);
    options.beams = 3;
    options.length_penalty = 0.5;
    for (size_t i = 0; i < ITEMS; i++) written[i] = write_text(&model, i, options, 1);
    assert_int_equal(task_with(&task, file, beams), 0);
    assert_int_equal(score(&task, &model, NULL, &result), 0);
    check_scores(&result, written, false);
    task_result_close(&result);
    task.kind->close(&task);

    generate_defaults(&options);
    options.temperature = 1.5;
    options.top_k = 6;
    options.top_p = 0.9;
    for (size_t i = 0; i < ITEMS; i++) {
        options.seed = random_stream("generation", 7, i);
        written[i] = write_text(&model, i, options, 0);
    }
    assert_int_equal(task_with(&task, file, sample), 0);
    assert_int_equal(score(&task, &model, NULL, &result), 0);
    check_scores(&result, written, false);
    task_result_close(&result);
    task.kind->close(&task);
    model_close(&model);
}

/* GPT-2 spells the byte zero as U+0100. A text goes on behind it. */
static void a_zero_byte_ends_no_text(void **state) {
    static const char spelled[] =
        "{\"a\":0,\"b\":1,\"c\":2,\"\xC4\x80\":3,\"" BLANK "\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,"
        "\"i\":9,\"j\":10,\"<|endoftext|>\":11,\"k\":12,\"l\":13}";
    static const char *const letters[VOCABULARY] = {"a", "b", "c", "\xEF\xBF\xBD", " ", "e", "f", "g", "h", "i", "j",
                                                    "",  "k", "l"};
    struct tokenizer *usual = tokenizer;
    size_t seen = 0;
    (void)state;
    assert_int_equal(tokenizer_parse_merges(&tokenizer, spelled, sizeof spelled - 1, "", 0), 0);
    for (uint64_t seed = 1; seed < 100 && seen < 3; seed++) {
        struct model model;
        struct generate_options options;
        struct workspace workspace = {0};
        struct generated out;
        struct task task;
        struct task_result result;
        size_t count, zero = NEW_TOKENS, letter = 0;
        char expected[64] = "", line[256], path[128];
        tiny(&model, seed);
        generate_defaults(&options);
        options.new_tokens = NEW_TOKENS;
        options.end = (const int32_t[]){END}, options.end_count = 1;
        assert_int_equal(generate(&model, (const int32_t[]){0, 1, 2}, 3, &options, &workspace, &out, &count), 0);
        for (size_t i = 0; i < out.count; i++) {
            if (out.ids[i] == 3 && zero == NEW_TOKENS) zero = i;
            if (out.ids[i] != 3 && out.ids[i] != 4 && out.ids[i] != END) letter = i;
            strcat(expected, letters[out.ids[i]]);
        }
        if (zero < letter) { /* there is something behind it to be missed */
            seen++;
            snprintf(line, sizeof line, "{\"prompt\":\"abc\",\"reference\":[\"%s\"],\"other\":\"x\"}\n", expected);
            scratch_file(path, ".jsonl", line);
            assert_int_equal(task_with(&task, strrchr(path, '/') + 1, NULL), 0);
            if (score(&task, &model, NULL, &result) < 0) fail_msg("%s", error_text());
            if (!(metric(&result, "rouge1") == 1)) fail_msg("'%s': rouge1 %g", expected, metric(&result, "rouge1"));
            task_result_close(&result);
            task.kind->close(&task);
            scratch_remove(path);
        }
        generated_close(&out, count);
        workspace_close(&workspace);
        model_close(&model);
    }
    assert_int_equal(seen, 3);
    tokenizer_free(tokenizer);
    tokenizer = usual;
}

/* A tokenizer may know several ids that end a text. */
static void any_end_ends_a_text(void **state) {
    struct tokenizer *usual = tokenizer;
    struct model model;
    struct task task;
    (void)state;
    tiny(&model, 5);
    assert_int_equal(task_with(&task, file, NULL), 0);
    for (int all = 0; all < 2; all++) {
        struct task_result result;
        assert_int_equal(tokenizer_parse_merges(&tokenizer, words, sizeof words - 1, merges, sizeof merges - 1), 0);
        for (uint64_t id = 0; all && id < VOCABULARY; id++) tokenizer_end_add(tokenizer, id);
        if (score(&task, &model, NULL, &result) < 0) fail_msg("%s", error_text());
        assert_true((metric(&result, "ended") == 1) == all);
        assert_true((metric(&result, "mean_tokens") == 1) == all);
        task_result_close(&result);
        tokenizer_free(tokenizer);
    }
    task.kind->close(&task);
    model_close(&model);
    tokenizer = usual;
}

static void agreement_is_of_the_first_items(void **state) {
    (void)state;
    static const struct setting some[] = {{"agreement_items", "4"}, {NULL, NULL}},
                                off[] = {{"agreement_items", "0"}, {NULL, NULL}};
    struct model model = {0}, other = {0};
    struct task task;
    struct task_result result;
    struct generate_options options;
    double same = 0;
    generate_defaults(&options);
    tiny(&model, 1);
    tiny(&other, 2);
    assert_int_equal(task_with(&task, file, some), 0);
    assert_int_equal(score(&task, &model, &model, &result), 0);
    assert_true(metric(&result, "same_text_as_baseline") == 1);
    const float *marks = items(&result, "same_text");
    for (size_t i = 0; i < ITEMS; i++) assert_true(i < 4 ? marks[i] == 1 : isnan(marks[i]));
    task_result_close(&result);
    assert_int_equal(score(&task, &model, &other, &result), 0);
    for (size_t i = 0; i < 4; i++) {
        struct written own = write_text(&model, i, options, 1), theirs = write_text(&other, i, options, 1);
        same += strcmp(own.text, theirs.text) == 0;
    }
    assert_true(same < 4);
    assert_true(metric(&result, "same_text_as_baseline") == same / 4);
    task_result_close(&result);
    task.kind->close(&task);
    assert_int_equal(task_with(&task, file, off), 0);
    assert_int_equal(score(&task, &model, &other, &result), 0);
    for (size_t i = 0; i < result.item_count; i++) assert_string_not_equal(result.items[i].name, "same_text");
    task_result_close(&result);
    task.kind->close(&task);
    model_close(&other);
    model_close(&model);
}

static void open_refused(const char *text, const struct setting *settings, int code, const char *message) {
    char kept_path[128], kept_folder[128], kept_file[128];
    struct task task;
    memcpy(kept_path, data_path, sizeof kept_path);
    memcpy(kept_folder, folder, sizeof kept_folder);
    memcpy(kept_file, file, sizeof kept_file);
    if (text) file_write(text);
    assert_int_equal(task_with(&task, file, settings), code);
    if (!strstr(error_text(), message)) fail_msg("%s", error_text());
    assert_null(task.owned);
    if (text) scratch_remove(data_path);
    memcpy(data_path, kept_path, sizeof kept_path);
    memcpy(folder, kept_folder, sizeof kept_folder);
    memcpy(file, kept_file, sizeof kept_file);
}

static void what_cannot_be_done_is_refused(void **state) {
    (void)state;
    static const struct setting both[] = {{"beams", "2"}, {"temperature", "1"}, {NULL, NULL}},
                                none[] = {{"test", ""}, {NULL, NULL}}, lengthy[] = {{"new_tokens", "39"}, {NULL, NULL}},
                                few[] = {{"max_items", "2"}, {NULL, NULL}};
    struct model model = {0};
    struct task task;
    struct task_result result;
    open_refused(NULL, both, E_ARGUMENT, "beam search does not sample");
    open_refused(NULL, none, E_ARGUMENT, "test: a file is needed");
    open_refused(
        "{\"prompt\":\"a\",\"reference\":\"b\",\"other\":\"c\"}\n{\"prompt\":\"a\",\"reference\":[],\"other\":[]}\n",
        NULL, E_FORMAT, ":2: there is no reference");
    open_refused("{\"prompt\":[\"a\",\"b\"],\"reference\":\"b\",\"other\":\"c\"}\n", NULL, E_FORMAT,
                 ":1: the prompt must be one text");
    open_refused("{\"prompt\":\"a\",\"reference\":\"b\"}\n", NULL, E_FORMAT, ":1: there is no field 'other'");
    tiny(&model, 1);
    assert_int_equal(task_with(&task, file, lengthy), 0);
    assert_int_equal(score(&task, &model, NULL, &result), E_SHAPE);
    assert_non_null(
        strstr(error_text(), ":1: the prompt's 3 tokens and new_tokens 39 exceed the model's 40 positions"));
    task_result_close(&result);
    task.kind->close(&task);
    assert_int_equal(task_with(&task, file, few), 0);
    assert_int_equal(task.split[SPLIT_TEST].count, 2);
    assert_string_equal(task.split[SPLIT_TEST].text[1], prompts[1]);
    assert_int_equal(score(&task, &model, NULL, &result), 0);
    assert_int_equal(result.count, 2);
    task_result_close(&result);
    task.kind->close(&task);
    model_close(&model);
}

static void failed_allocations_are_survived(void **state) {
    (void)state;
    static const struct setting short_one[] = {
        {"new_tokens", "3"}, {"max_items", "2"}, {"stop", "newline"}, {NULL, NULL}};
    struct model model = {0};
    struct task task;
    struct task_result result;
    tiny(&model, 1);
    assert_int_equal(task_with(&task, file, short_one), 0);
    memory_fail_after(0);
    assert_int_equal(score(&task, &model, &model, &result), 0);
    long allocations = memory_count();
    task_result_close(&result);
    assert_true(allocations > 20);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int status = score(&task, &model, &model, &result);
        memory_fail_after(0);
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
        task_result_close(&result);
    }
    task.kind->close(&task);
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_texts_are_judged),         cmocka_unit_test(beams_and_samples_are_judged),
        cmocka_unit_test(a_zero_byte_ends_no_text),        cmocka_unit_test(any_end_ends_a_text),
        cmocka_unit_test(agreement_is_of_the_first_items), cmocka_unit_test(what_cannot_be_done_is_refused),
        cmocka_unit_test(failed_allocations_are_survived),
    };
    return cmocka_run_group_tests_name("generation_task", tests, fixture_open, fixture_close);
}
