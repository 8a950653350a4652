/* finetune through its contract: options, needs, probe, every objective, metrics, progress, curve and evaluations,
 * determinism, checkpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_task.h"
#include "technique_training.h"

extern const struct technique technique_finetune;

/* What the technique told its host, and is to be told. */
struct host {
    double steps, tokens, loss_first, loss_last, tokens_per_s, best_step, best_score, fraction;
    size_t calls, told, scored;
    size_t stop_at; /* 0: never */
};

static void take_metric(void *opaque, const char *name, const char *unit, double value) {
    struct host *host = opaque;
    const struct {
        const char *name, *unit;
        double *value;
    } known[] = {{"steps", "", &host->steps},
                 {"tokens", "tok", &host->tokens},
                 {"loss_first", "nats", &host->loss_first},
                 {"loss_last", "nats", &host->loss_last},
                 {"tokens_per_s", "tok/s", &host->tokens_per_s},
                 {"best_step", "", &host->best_step},
                 {"best_score", "", &host->best_score}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            assert_string_equal(unit, known[i].unit);
            *known[i].value = value;
            return;
        }
    fail_msg("unknown metric '%s'", name);
}

static int take_progress(void *opaque, double fraction, const char *text) {
    struct host *host = opaque;
    assert_true(fraction > host->fraction && fraction <= 1);
    assert_non_null(strstr(text, "loss"));
    host->fraction = fraction;
    host->calls++;
    return host->calls == host->stop_at;
}

static void take_step(void *opaque, const struct train_progress *progress) {
    struct host *host = opaque;
    assert_int_equal(progress->step, ++host->told);
    assert_true(progress->rate >= 0 && progress->gradient_norm > 0);
}

/* Best at the second evaluation. */
static int take_score(void *opaque, const struct model *model, double *value, bool *higher_is_better) {
    struct host *host = opaque;
    assert_non_null(model);
    host->scored++;
    *value = host->scored == 2 ? 0.25 : 0.5;
    *higher_is_better = false;
    return 0;
}

struct case_of {
    const char *family;
    enum train_objective task; /* what the data teaches */
    const char *const *pairs;  /* options and their values, NULL */
    const char *folder;        /* for checkpoints, or NULL */
};

/* Options given as text pairs, a model of its own; returns apply's status and leaves the model's hash. */
static int run(const struct case_of *one, struct host *host, char hash[65]) {
    const struct technique *technique = &technique_finetune;
    struct option_store store = {0};
    struct model model;
    struct small_task task, text;
    void *options = calloc(1, technique->options_bytes), *state = calloc(1, technique->state_bytes);
    enum train_objective head = one->task;
    for (const char *const *pair = one->pairs; *pair; pair += 2)
        if (strcmp(pair[0], "objective") == 0 && strcmp(pair[1], "task") != 0)
            assert_int_equal(train_objective_find(pair[1], &head), 0);
    small_task_model(&model, one->family, head, 1);
    small_task_open(&task, one->task, 400, 2);
    small_task_open(&text, TRAIN_CAUSAL_LM, 300, 3);
    struct technique_context context = {.model = &model,
                                        .objective = one->task,
                                        .training = &task.examples,
                                        .unlabelled = &text.examples,
                                        .seed = 6,
                                        .mask_id = SMALL_MASK,
                                        .special_ids = SMALL_SPECIAL,
                                        .checkpoint_dir = one->folder,
                                        .metric = take_metric,
                                        .progress = take_progress,
                                        .step = take_step,
                                        .evaluate = take_score,
                                        .host = host};
    assert_int_equal(option_defaults(technique->options, options, &store), 0);
    for (const char *const *pair = one->pairs; *pair; pair += 2)
        if (option_set(option_find(technique->options, pair[0]), options, pair[1], &store) < 0)
            fail_msg("%s", error_text());
    uint32_t needs = technique->needs_of(options);
    assert_int_equal(needs & ~technique->needs, 0);
    if (!(needs & NEEDS_TRAINING_DATA)) context.training = NULL;
    if (!(needs & NEEDS_UNLABELLED_TEXT)) context.unlabelled = NULL;
    int status = technique->settle(options);
    if (status == 0) status = technique->probe(&context, options);
    if (status == 0) status = technique->apply(&context, state, options);
    if (status == 0) assert_int_equal(technique->report(&context, state, options), 0);
    small_model_hash(&model, hash);
    option_store_close(&store);
    small_task_close(&task);
    small_task_close(&text);
    model_close(&model);
    free(options);
    free(state);
    return status;
}

static void test_objectives(void **state) {
    static const char *const pairs[] = {"epochs", "3", "rate", "0.003", "batch", "16", NULL};
    static const char *const hidden[] = {"objective", "masked_lm", "epochs", "3", "rate", "0.005", NULL};
    static const char *const next[] = {"objective", "causal_lm", "epochs", "3", "rate", "0.005", NULL};
    static const struct case_of cases[] = {
        {"bert", TRAIN_CLASSIFICATION, pairs, NULL},  {"bert", TRAIN_REGRESSION, pairs, NULL},
        {"bert", TRAIN_SIMILARITY, pairs, NULL},      {"distilbert", TRAIN_QUESTION_ANSWERING, pairs, NULL},
        {"bert", TRAIN_CLASSIFICATION, hidden, NULL}, {"llama", TRAIN_CAUSAL_LM, pairs, NULL},
        {"gpt2", TRAIN_CLASSIFICATION, next, NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct host one = {0}, two = {0};
        char first[65], second[65];
        bool text = cases[i].pairs != pairs;
        if (run(&cases[i], &one, first) < 0) fail_msg("%zu: %s", i, error_text());
        assert_int_equal(run(&cases[i], &two, second), 0);
        assert_string_equal(first, second);         /* same seed, same bytes */
        assert_true(one.steps == (text ? 30 : 75)); /* of 300 texts, or 400 examples */
        assert_true((double)one.calls == one.steps && (double)one.told == one.steps && one.fraction == 1);
        assert_true(one.tokens > one.steps * 16 * 5 && one.tokens_per_s > 0);
        assert_true(one.loss_last < one.loss_first && one.loss_last == two.loss_last);
        assert_true(one.scored == 0 && one.best_step == 0);
    }
}

static void test_every_option_arrives(void **state) {
    static const char *const pairs[] = {"steps",
                                        "7",
                                        "batch",
                                        "24",
                                        "micro_batch",
                                        "8",
                                        "max_tokens",
                                        "9",
                                        "rate",
                                        "0.01",
                                        "warmup_frac",
                                        "0.5",
                                        "schedule",
                                        "polynomial",
                                        "schedule_power",
                                        "3",
                                        "schedule_end_frac",
                                        "0.2",
                                        "optimizer",
                                        "sgd",
                                        "beta1",
                                        "0.8",
                                        "beta2",
                                        "0.98",
                                        "epsilon",
                                        "1e-06",
                                        "momentum",
                                        "0.7",
                                        "nesterov",
                                        "true",
                                        "weight_decay",
                                        "0.02",
                                        "clip_norm",
                                        "5",
                                        "dropout",
                                        "0.2",
                                        "word_dropout",
                                        "0.3",
                                        "label_smoothing",
                                        "0.1",
                                        "mask_frac",
                                        "0.4",
                                        "average_decay",
                                        "0.7",
                                        "evaluate_steps",
                                        "11",
                                        "patience",
                                        "4",
                                        "keep_best",
                                        "false",
                                        "checkpoint_s",
                                        "60",
                                        "checkpoint_activations",
                                        "true",
                                        "compute",
                                        "bf16",
                                        "epochs",
                                        "2.5",
                                        NULL};
    struct option_store store = {0};
    struct train_plan plan;
    double *weights;
    struct train_options *o = calloc(1, technique_finetune.options_bytes);
    (void)state;
    assert_int_equal(option_defaults(technique_finetune.options, o, &store), 0);
    assert_int_equal(train_options_plan(o, TRAIN_CLASSIFICATION, 3, &plan, &weights), 0);
    struct train_plan plain;
    train_plan_defaults(&plain);
    assert_true(plan.beta1 == plain.beta1 && plan.beta2 == plain.beta2 && plan.epsilon == plain.epsilon);
    assert_true(plan.weight_decay == plain.weight_decay && plan.clip_norm == plain.clip_norm && !plan.balance_classes);
    assert_true(plan.optimizer == OPTIMIZER_ADAMW && plan.schedule == SCHEDULE_LINEAR && plan.keep_best);
    struct model_config with = {.norm = NORM_LAYER}, without = {.norm = NORM_RMS};
    assert_true(train_options_dropout(o, &with) == 0.1 && train_options_dropout(o, &without) == 0);
    o->dropout = 0.2;
    assert_true(train_options_dropout(o, &with) == 0.2 && train_options_dropout(o, &without) == 0.2);
    o->dropout = -0.5; /* neither a share nor -1 */
    assert_int_equal(train_options_plan(o, TRAIN_CLASSIFICATION, 3, &plan, &weights), E_ARGUMENT);
    for (const char *const *pair = pairs; *pair; pair += 2)
        assert_int_equal(option_set(option_find(technique_finetune.options, pair[0]), o, pair[1], &store), 0);
    assert_int_equal(train_options_plan(o, TRAIN_CLASSIFICATION, 3, &plan, &weights), 0);
    assert_true(plan.steps == 7 && plan.batch == 24 && plan.micro_batch == 8 && plan.max_tokens == 9);
    assert_true(plan.rate == 0.01 && plan.warmup_frac == 0.5 && plan.schedule == SCHEDULE_POLYNOMIAL);
    assert_true(plan.schedule_power == 3 && plan.schedule_end_frac == 0.2 && plan.optimizer == OPTIMIZER_SGD);
    assert_true(plan.beta1 == 0.8 && plan.beta2 == 0.98 && plan.epsilon == 1e-6 && plan.momentum == 0.7);
    assert_true(plan.nesterov && plan.weight_decay == 0.02 && plan.clip_norm == 5 && plan.dropout == 0.2);
    assert_true(plan.word_dropout == 0.3 && plan.label_smoothing == 0.1 && plan.mask_frac == 0.4);
    assert_true(plan.average_decay == 0.7 && plain.average_decay == 0);
    assert_true(plan.evaluate_steps == 11 && plan.patience == 4 && !plan.keep_best && plan.checkpoint_s == 60);
    assert_true(plan.checkpoint_activations && plan.compute == TRAIN_BF16 && plan.epochs == 2.5);
    option_store_close(&store);
    free(o);
}

static void test_class_weights(void **state) {
    static const char *const words[][3] = {{"off"}, {"balanced"}, {"1", "0", "2.5"}, {"1", "x", "2"}, {"1", "-1", "2"}};
    static const size_t counts[] = {1, 1, 3, 3, 3};
    struct train_options o;
    struct option_store store = {0};
    const struct option *option = option_find(technique_finetune.options, "class_weights");
    (void)state;
    assert_int_equal(option_defaults(technique_finetune.options, &o, &store), 0);
    for (size_t i = 0; i < 5; i++) {
        struct train_plan plan;
        double *weights;
        assert_int_equal(option_set_names(option, &o, words[i], counts[i], &store), 0);
        int status = train_options_plan(&o, TRAIN_CLASSIFICATION, 3, &plan, &weights);
        assert_int_equal(status, i < 3 ? 0 : E_ARGUMENT);
        if (i < 3) assert_true(plan.balance_classes == (i == 1) && (plan.class_weights != NULL) == (i == 2));
        if (i == 2) assert_true(weights[0] == 1 && weights[1] == 0 && weights[2] == 2.5);
        memory_release(weights);
        if (i != 2) continue;
        assert_int_equal(train_options_plan(&o, TRAIN_CLASSIFICATION, 4, &plan, &weights), E_UNSUPPORTED);
        assert_non_null(strstr(error_text(), "4 numbers, one for each class (got 3)"));
        memory_release(weights);
        assert_int_equal(train_options_plan(&o, TRAIN_CAUSAL_LM, 0, &plan, &weights), 0); /* not of language models */
        assert_null(weights);
    }
    option_store_close(&store);
}

static void test_evaluations(void **state) {
    static const char *const pairs[] = {"evaluate_steps", "5", "patience", "2", "rate", "0.002", NULL};
    static const char *const last[] = {"evaluate_steps", "5",         "patience", "2", "rate",
                                       "0.002",          "keep_best", "false",    NULL};
    struct host best = {0}, late = {0};
    char kept[65], whole[65];
    (void)state;
    assert_int_equal(run(&(struct case_of){"bert", TRAIN_CLASSIFICATION, pairs, NULL}, &best, kept), 0);
    assert_true(best.scored == 4 && best.steps == 20 && best.best_step == 10 && best.best_score == 0.25);
    assert_int_equal(run(&(struct case_of){"bert", TRAIN_CLASSIFICATION, last, NULL}, &late, whole), 0);
    assert_true(late.steps == 20 && late.best_step == 10);
    assert_string_not_equal(kept, whole);
}

static void test_no_rate_moves_nothing(void **state) {
    static const char *const nothing[] = {"rate", "0", "epochs", "0.2", NULL};
    struct host idle = {0};
    struct model model;
    char untouched[65], fresh[65];
    (void)state;
    assert_int_equal(run(&(struct case_of){"bert", TRAIN_CLASSIFICATION, nothing, NULL}, &idle, untouched), 0);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 1);
    small_model_hash(&model, fresh);
    model_close(&model);
    assert_string_equal(untouched, fresh);
}

static void test_goes_on(void **state) {
    static const char *const pairs[] = {"steps", "9", NULL};
    char folder[] = "/tmp/test_finetune_XXXXXX", path[64], whole[65], again[65];
    struct host plain = {0}, stopped = {.stop_at = 4}, rest = {.told = 4};
    struct case_of one = {"bert", TRAIN_CLASSIFICATION, pairs, NULL};
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(run(&one, &plain, whole), 0);
    one.folder = folder;
    assert_int_equal(run(&one, &stopped, again), E_INTERRUPTED);
    assert_true(stopped.calls == 4);
    assert_int_equal(run(&one, &rest, again), 0);
    assert_string_equal(again, whole);
    assert_true(rest.calls == 5 && rest.steps == 9 && rest.loss_last == plain.loss_last);
    snprintf(path, sizeof path, "%s/training.checkpoint", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void refuses(const struct technique_context *context, const char *objective, int status, const char *text) {
    struct option_store store = {0};
    void *options = calloc(1, technique_finetune.options_bytes);
    assert_int_equal(option_defaults(technique_finetune.options, options, &store), 0);
    assert_int_equal(option_set(option_find(technique_finetune.options, "objective"), options, objective, &store), 0);
    int got = technique_finetune.probe(context, options);
    if (got != status || (status && !strstr(error_text(), text))) fail_msg("%s: %d %s", objective, got, error_text());
    assert_true(option_set(option_find(technique_finetune.options, "dropout"), options, "1.5", &store) < 0);
    option_store_close(&store);
    free(options);
}

static void test_refuses(void **state) {
    struct technique_context context = {.objective = TRAIN_CLASSIFICATION};
    struct model model;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 1);
    context.model = &model;
    refuses(&context, "task", 0, NULL);
    refuses(&context, "classification", 0, NULL);
    refuses(&context, "masked_lm", E_UNSUPPORTED, "no masked-LM head");
    refuses(&context, "causal_lm", E_UNSUPPORTED, "no causal-LM head");
    refuses(&context, "regression", E_UNSUPPORTED, "the task's data teaches classification, not regression");
    context.objective = TRAIN_QUESTION_ANSWERING;
    refuses(&context, "task", E_UNSUPPORTED, "no span head");
    context.model = NULL; /* as the plan is made */
    refuses(&context, "task", 0, NULL);
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* so little work is done sooner by one */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objectives),
        cmocka_unit_test(test_every_option_arrives),
        cmocka_unit_test(test_class_weights),
        cmocka_unit_test(test_evaluations),
        cmocka_unit_test(test_no_rate_moves_nothing),
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
