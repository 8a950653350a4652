/* Perplexity by windows and rolling, against its definition: every scored token's probability is recomputed from a pass
 * over just its own context. */
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
#include "base/random.h"
#include "cpu_mask.h"
#include "kernels/kernels.h"
#include "scratch_file.h"
#include "task/task.h"

enum { WINDOW = 12, STRIDE = 5, TEXT_BYTES = 2000, IDS_MAX = 1000 };

static char text[TEXT_BYTES], path[128];
static struct tokenizer *tokenizer;
static struct model model;
static int32_t ids[IDS_MAX];
static size_t id_count;

static int fixture_open(void **state) {
    (void)state;
    static const char *const words[] = {"red", "apple", "running", "tree", "of", "the", "water", "a"};
    const char *view = text;
    struct random random;
    struct model_config config;
    struct encoding encoding = {0};
    size_t used = 0;
    random_open(&random, 4, 0);
    for (int i = 0; i < 70; i++)
        used += (size_t)snprintf(text + used, TEXT_BYTES - used, "%s%s", words[random_below(&random, 8)],
                                 i % 9 == 8 ? "\n" : " ");
    scratch_file(path, ".txt", text);
    assert_int_equal(tokenizer_train_bpe(&tokenizer, &view, 1, 270, true), 0);
    assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), false, true, &encoding), 0);
    assert_true(encoding.count > 5 * WINDOW && encoding.count < IDS_MAX && encoding.count % WINDOW != 0);
    id_count = encoding.count;
    memcpy(ids, encoding.ids, id_count * sizeof *ids);
    encoding_close(&encoding);
    assert_int_equal(model_config_family(&config, "gpt2"), 0);
    config.layers = 2, config.width = 32, config.heads = config.key_value_heads = 2, config.head_width = 16;
    config.feed_forward = 64, config.vocabulary = tokenizer_vocabulary(tokenizer), config.positions = 2 * WINDOW;
    config.model_heads = HEAD_CAUSAL_LM;
    assert_int_equal(model_create(&model, &config, 6, 0.3), 0);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    return 0;
}

static int fixture_close(void **state) {
    (void)state;
    model_close(&model);
    tokenizer_free(tokenizer);
    scratch_remove(path);
    return 0;
}

/* Nats of token `at` after the tokens first..at-1, from all logits in double. */
static double token_nats(size_t first, size_t at) {
    struct workspace workspace = {0};
    struct model_output output = {0};
    uint32_t offset[2] = {0, (uint32_t)(at - first)}, row = (uint32_t)(at - first - 1);
    struct batch batch = {.sequences = 1, .tokens = at - first, .ids = ids + first, .offset = offset};
    float *logits = calloc(model.config.vocabulary, sizeof *logits);
    double total = 0;
    assert_non_null(logits);
    assert_int_equal(model_forward(&model, &batch, NULL, &workspace, &output), 0);
    assert_int_equal(model_logits(&model, output.hidden, &row, 1, &workspace, logits), 0);
    for (size_t v = 0; v < model.config.vocabulary; v++) total += exp((double)logits[v]);
    double nats = log(total) - (double)logits[ids[at]];
    free(logits);
    workspace_close(&workspace);
    return nats;
}

/* The options of a kind with their defaults, but for what the test sets. */
static void set_number(const struct task_kind *kind, void *options, const char *name, int64_t value) {
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, name) == 0) memcpy((char *)options + option->offset, &value, sizeof value);
}
static void set_text(const struct task_kind *kind, void *options, const char *name, const char *value) {
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, name) == 0) memcpy((char *)options + option->offset, &value, sizeof value);
}

static int score_in(const char *name, int64_t window, struct task_result *result) {
    const struct task_kind *kind = task_kind_find(name);
    struct task task;
    assert_non_null(kind);
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    set_text(kind, options, "data", "/");
    set_text(kind, options, "test", path);
    set_text(kind, options, "validation", "");
    set_number(kind, options, "window", window);
    set_number(kind, options, "stride", STRIDE);
    if (kind->open(&task, options) < 0) fail_msg("%s", error_text());
    struct task_scoring scoring = {.task = &task, .split = SPLIT_TEST, .model = &model, .tokenizer = tokenizer};
    *result = (struct task_result){0};
    int status = kind->score(&scoring, result);
    kind->close(&task);
    free(options);
    return status;
}
static void score(const char *name, struct task_result *result) {
    if (score_in(name, WINDOW, result) < 0) fail_msg("%s", error_text());
}

static void expect_metric(const struct task_result *result, const char *name, double expected) {
    for (size_t i = 0; i < result->metric_count; i++)
        if (strcmp(result->metrics[i].name, name) == 0) {
            if (!(fabs(result->metrics[i].value - expected) <= 1e-5 * fabs(expected)))
                fail_msg("%s is %.9g, expected %.9g", name, result->metrics[i].value, expected);
            return;
        }
    fail_msg("there is no %s", name);
}

static void windows_do_not_overlap(void **state) {
    (void)state;
    struct task_result result;
    double sum = 0;
    size_t windows = id_count / WINDOW; /* the rest is left out */
    for (size_t w = 0; w < windows; w++)
        for (size_t t = w * WINDOW + 1; t < (w + 1) * WINDOW; t++) sum += token_nats(w * WINDOW, t);
    score("perplexity", &result);
    assert_int_equal(result.count, windows);
    expect_metric(&result, "scored_tokens", (double)(windows * (WINDOW - 1)));
    expect_metric(&result, "perplexity_windows", exp(sum / (double)(windows * (WINDOW - 1))));
    task_result_close(&result);
}

/* With a begin token in front, a window has one token less to score. */
static void a_stride_fits_into_its_window(void **state) {
    (void)state;
    const struct task_kind *kind = task_kind_find("perplexity_rolling");
    struct task task;
    bool bos = true;
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    set_text(kind, options, "data", "/");
    set_text(kind, options, "test", path);
    set_number(kind, options, "window", WINDOW);
    set_number(kind, options, "stride", WINDOW);
    assert_int_equal(kind->open(&task, options), 0);
    kind->close(&task);
    for (const struct option *option = kind->options; option->name; option++)
        if (strcmp(option->name, "bos") == 0) memcpy((char *)options + option->offset, &bos, sizeof bos);
    assert_int_equal(kind->open(&task, options), E_ARGUMENT);
    assert_string_equal(error_text(), "stride 12 is longer than window 12 without its begin token");
    set_number(kind, options, "stride", WINDOW - 1);
    assert_int_equal(kind->open(&task, options), 0);
    kind->close(&task);
    free(options);
}

static void an_empty_text_is_named(void **state) {
    (void)state;
    const struct task_kind *kind = task_kind_find("perplexity");
    struct task task;
    char empty[128], expected[200];
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    scratch_file(empty, ".txt", " \n\n");
    set_text(kind, options, "data", "/");
    set_text(kind, options, "test", empty);
    set_number(kind, options, "window", WINDOW);
    assert_int_equal(kind->open(&task, options), E_FORMAT);
    snprintf(expected, sizeof expected, "%s: the text has no lines", empty);
    assert_non_null(strstr(error_text(), expected + 1));
    scratch_remove(empty);
    free(options);
}

static void a_text_too_short_is_named(void **state) {
    (void)state;
    struct task_result result;
    char expected[200];
    char usual[sizeof path];
    memcpy(usual, path, sizeof path);
    scratch_file(path, ".txt", "a");
    snprintf(expected, sizeof expected, "%s: 1 token, too few for one window of %d", path, WINDOW);
    assert_int_equal(score_in("perplexity", WINDOW, &result), E_FORMAT);
    assert_non_null(strstr(error_text(), expected)); /* the folder "/" in front */
    task_result_close(&result);
    scratch_remove(path);
    memcpy(path, usual, sizeof path);
}

static void a_window_too_long_is_named(void **state) {
    (void)state;
    struct task_result result;
    assert_int_equal(score_in("perplexity", 2 * WINDOW + 1, &result), 0); /* its last token is not read */
    task_result_close(&result);
    assert_int_equal(score_in("perplexity", 2 * WINDOW + 2, &result), E_SHAPE);
    assert_string_equal(error_text(), "window 26 is longer than the model's 24 positions; lower the task's `window`");
    task_result_close(&result);
}

/* What is not said comes from the model: as long a window as it has positions, and half of it a step. */
static void a_window_is_the_models_positions(void **state) {
    (void)state;
    struct task_result said, unsaid;
    assert_int_equal(score_in("perplexity", 2 * WINDOW, &said), 0);
    if (score_in("perplexity", 0, &unsaid) < 0) fail_msg("%s", error_text());
    assert_int_equal(unsaid.count, said.count);
    assert_true(unsaid.count == id_count / (2 * WINDOW));
    assert_memory_equal(unsaid.items[0].values, said.items[0].values, said.count * sizeof(float));
    expect_metric(&unsaid, "window_tokens", 2 * WINDOW);
    task_result_close(&said);
    task_result_close(&unsaid);
    if (score_in("perplexity_rolling", 0, &unsaid) < 0) fail_msg("%s", error_text());
    expect_metric(&unsaid, "window_tokens", 2 * WINDOW);
    task_result_close(&unsaid);
}

/* The task itself tells, before any model is scored. */
static void a_window_is_refused_beforehand(void **state) {
    (void)state;
    const struct task_kind *kind = task_kind_find("perplexity_rolling");
    struct task task;
    void *options = calloc(1, kind->options_bytes);
    assert_non_null(options);
    set_text(kind, options, "data", "/");
    set_text(kind, options, "test", path);
    set_number(kind, options, "stride", 100);
    assert_int_equal(kind->open(&task, options), 0);
    assert_int_equal(kind->fits(&task, 512), 0);
    assert_int_equal(kind->fits(&task, 64), E_ARGUMENT);
    assert_string_equal(error_text(), "stride 100 is longer than window 64");
    kind->close(&task);
    set_number(kind, options, "window", 400);
    assert_int_equal(kind->open(&task, options), 0);
    assert_int_equal(kind->fits(&task, 400), 0);
    assert_int_equal(kind->fits(&task, 256), E_SHAPE);
    assert_string_equal(error_text(), "window 400 is longer than the model's 256 positions; lower the task's `window`");
    kind->close(&task);
    set_number(kind, options, "window", 1);
    set_number(kind, options, "stride", 1);
    assert_int_equal(kind->open(&task, options), E_ARGUMENT);
    free(options);
}

static void rolling_scores_every_token_but_the_first(void **state) {
    (void)state;
    struct task_result result;
    double sum = 0;
    size_t steps = 0;
    for (size_t done = 0; done < id_count; steps++) {
        size_t end = done == 0 ? WINDOW : done + STRIDE;
        if (end > id_count) end = id_count;
        size_t first = end > WINDOW ? end - WINDOW : 0;
        for (size_t t = done == 0 ? 1 : done; t < end; t++) sum += token_nats(first, t);
        done = end;
    }
    score("perplexity_rolling", &result);
    assert_int_equal(result.count, steps);
    expect_metric(&result, "scored_tokens", (double)(id_count - 1));
    expect_metric(&result, "perplexity_rolling", exp(sum / (double)(id_count - 1)));
    task_result_close(&result);
}

/* "[SEP] a [MASK] a ": two tokens of it are single ids, as transformers' tokenizers have them. */
static void special_tokens_in_the_text_are_special(void **state) {
    (void)state;
    struct task_result result;
    struct encoding encoding = {0};
    char usual[sizeof path], special[400] = "";
    for (int i = 0; i < 20; i++) strcat(special, "[SEP] a [MASK] a\n");
    assert_int_equal(tokenizer_append(tokenizer, special, strlen(special), false, false, &encoding), 0);
    assert_int_equal(encoding.ids[0], tokenizer_special(tokenizer).sep);
    memcpy(usual, path, sizeof path);
    scratch_file(path, ".txt", special);
    score("perplexity_rolling", &result);
    scratch_remove(path);
    memcpy(path, usual, sizeof path);
    expect_metric(&result, "scored_tokens", (double)(encoding.count - 1));
    task_result_close(&result);
    encoding_close(&encoding);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_do_not_overlap),
        cmocka_unit_test(a_stride_fits_into_its_window),
        cmocka_unit_test(an_empty_text_is_named),
        cmocka_unit_test(a_text_too_short_is_named),
        cmocka_unit_test(a_window_too_long_is_named),
        cmocka_unit_test(a_window_is_the_models_positions),
        cmocka_unit_test(a_window_is_refused_beforehand),
        cmocka_unit_test(rolling_scores_every_token_but_the_first),
        cmocka_unit_test(special_tokens_in_the_text_are_special),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
