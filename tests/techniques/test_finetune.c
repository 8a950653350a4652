/* finetune through its contract: options, probe, both objectives, metrics, progress, determinism. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/kernels.h"
#include "small_model.h"
#include "technique.h"

extern const struct technique technique_finetune;

#define BOTH (HEAD_CLASSIFICATION | HEAD_MASKED_LM)

/* What the technique told its host. */
struct host {
    double steps, tokens, loss_first, loss_last, tokens_per_s, fraction;
    size_t calls;
    int stop;
};

static void take_metric(void *opaque, const char *name, const char *unit, double value) {
    struct host *host = opaque;
    assert_non_null(unit);
    if (strcmp(name, "steps") == 0) host->steps = value;
    else if (strcmp(name, "tokens") == 0) host->tokens = value;
    else if (strcmp(name, "loss_first") == 0) host->loss_first = value;
    else if (strcmp(name, "loss_last") == 0) host->loss_last = value;
    else if (strcmp(name, "tokens_per_s") == 0) host->tokens_per_s = value;
    else fail_msg("unknown metric '%s'", name);
}

static int take_progress(void *opaque, double fraction, const char *text) {
    struct host *host = opaque;
    assert_true(fraction > host->fraction && fraction <= 1);
    assert_non_null(strstr(text, "loss"));
    host->fraction = fraction;
    host->calls++;
    return host->stop;
}

/* Options given as text pairs, a model of its own; returns apply's status and leaves the model's hash. */
static int run(const char *const *pairs, struct host *host, char hash[65]) {
    const struct technique *technique = &technique_finetune;
    struct option_store store = {0};
    struct model model;
    struct small_examples labelled, text;
    void *options = calloc(1, technique->options_bytes), *state = calloc(1, technique->state_bytes);
    small_model(&model, BOTH, 1);
    small_examples_new(&labelled, &model.config, 400, 2);
    small_examples_new(&text, &model.config, 300, 3);
    text.examples.label = NULL;
    struct technique_context context = {.model = &model,
                                        .training = &labelled.examples,
                                        .unlabelled = &text.examples,
                                        .seed = 6,
                                        .mask_id = SMALL_MASK,
                                        .special_ids = SMALL_SPECIAL,
                                        .metric = take_metric,
                                        .progress = take_progress,
                                        .host = host};
    assert_int_equal(option_defaults(technique->options, options, &store), 0);
    for (; *pairs; pairs += 2)
        assert_int_equal(option_set(option_find(technique->options, pairs[0]), options, pairs[1], &store), 0);
    int status = technique->probe(&context, options);
    if (status == 0) status = technique->apply(&context, state, options);
    if (status == 0) assert_int_equal(technique->report(&context, state, options), 0);
    small_model_hash(&model, hash);
    option_store_close(&store);
    small_examples_free(&labelled);
    small_examples_free(&text);
    model_close(&model);
    free(options);
    free(state);
    return status;
}

static void test_classification(void **state) {
    static const char *const pairs[] = {"epochs", "3", "rate", "0.002", "batch", "16", NULL};
    struct host one = {0}, two = {0};
    char first[65], second[65];
    (void)state;
    if (run(pairs, &one, first) < 0) fail_msg("%s", error_text());
    assert_int_equal(run(pairs, &two, second), 0);
    assert_string_equal(first, second); /* same seed, same bytes */
    assert_true(one.steps == 75 && one.calls == 75 && one.fraction == 1);
    assert_true(one.tokens > 75 * 16 * 5 && one.tokens_per_s > 0);
    assert_true(one.loss_last < one.loss_first && one.loss_last == two.loss_last);
}

static void test_masked_lm_and_no_rate(void **state) {
    static const char *const pairs[] = {"objective", "masked_lm", "epochs", "0.5", "batch", "16", NULL};
    static const char *const nothing[] = {"rate", "0", "epochs", "0.2", NULL};
    struct host host = {0}, idle = {0};
    struct model model;
    char trained[65], untouched[65], fresh[65];
    (void)state;
    if (run(pairs, &host, trained) < 0) fail_msg("%s", error_text());
    assert_true(host.steps == 10); /* 300 texts, 19 batches, half an epoch */
    assert_int_equal(run(nothing, &idle, untouched), 0);
    small_model(&model, BOTH, 1);
    small_model_hash(&model, fresh);
    model_close(&model);
    assert_string_equal(untouched, fresh); /* rate 0 leaves every bit */
    assert_string_not_equal(trained, fresh);
}

static void test_stops_and_refuses(void **state) {
    static const char *const none[] = {NULL};
    struct host host = {.stop = 1};
    struct technique_context context = {0};
    struct model model;
    char hash[65], objective[] = "masked_lm";
    (void)state;
    assert_int_equal(run(none, &host, hash), E_INTERRUPTED);
    assert_true(host.calls == 1);
    small_model(&model, HEAD_CLASSIFICATION, 1);
    context.model = &model;
    struct option_store store = {0};
    void *options = calloc(1, technique_finetune.options_bytes);
    assert_int_equal(option_defaults(technique_finetune.options, options, &store), 0);
    assert_int_equal(technique_finetune.probe(&context, options), 0);
    assert_int_equal(option_set(option_find(technique_finetune.options, "objective"), options, objective, &store), 0);
    assert_int_equal(technique_finetune.probe(&context, options), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "no masked-LM head"));
    assert_true(option_set(option_find(technique_finetune.options, "dropout"), options, "1.5", &store) < 0);
    option_store_close(&store);
    free(options);
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classification),
        cmocka_unit_test(test_masked_lm_and_no_rate),
        cmocka_unit_test(test_stops_and_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
