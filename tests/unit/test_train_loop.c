/* The training loop: every objective learns on every family that has it, the same loss curve at any number of threads,
 * micro-batches, early stopping with the best kept, teachers, what is frozen and what learns beside the model, errors.
 */
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
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_task.h"
#include "train/pass.h"

#define STEPS_MOST 400

/* What the loop told, and what it is to be told. */
struct watcher {
    double loss[STEPS_MOST], norm[STEPS_MOST], rate[STEPS_MOST];
    size_t steps;
    size_t stop_at;       /* 0: never */
    const double *scores; /* of evaluations, in turn */
    size_t scored;
    bool lower_is_better;
    const struct model *model; /* that is trained */
    float value[STEPS_MOST];   /* of the one that `watched` finds, after each step */
    char hash[8][65];          /* of the model at the first evaluations */
};

static float watched(const struct model *model) { return model->linears[1].parameter->value[7]; }

static int take_step(void *opaque, const struct train_progress *progress) {
    struct watcher *watcher = opaque;
    assert_int_equal(progress->step, watcher->steps + 1);
    assert_true(progress->step <= progress->steps && progress->seconds >= 0);
    watcher->loss[watcher->steps] = progress->loss;
    watcher->norm[watcher->steps] = progress->gradient_norm;
    if (watcher->model) watcher->value[watcher->steps] = watched(watcher->model);
    watcher->rate[watcher->steps++] = progress->rate;
    return progress->step == watcher->stop_at;
}

static int take_score(void *opaque, const struct model *model, double *score, bool *higher_is_better) {
    struct watcher *watcher = opaque;
    if (watcher->scored < 8) small_model_hash(model, watcher->hash[watcher->scored]);
    *score = watcher->scores[watcher->scored++];
    *higher_is_better = !watcher->lower_is_better;
    return 0;
}

struct outcome {
    struct watcher watcher;
    struct train_result result;
    char hash[65];
    float watched; /* at the end */
    int status;
};

/* A model and examples of their own from fixed seeds. */
static void run(const char *family, const struct train_plan *plan, size_t examples, int threads,
                struct outcome *outcome) {
    struct model model;
    struct small_task task;
    struct train_host host = {&outcome->watcher, take_step, plan->evaluate_steps ? take_score : NULL};
    int before = threads_get();
    small_task_model(&model, family, plan->objective, 5);
    small_task_open(&task, plan->objective, examples, 2);
    outcome->watcher.model = &model;
    threads_set(threads ? threads : 1); /* so little work is done sooner by one */
    outcome->status = train_run(&model, &task.examples, plan, &host, &outcome->result);
    threads_set(before);
    small_model_hash(&model, outcome->hash);
    outcome->watched = watched(&model);
    outcome->watcher.model = NULL;
    assert_null(model.parameters[0].gradient);
    small_task_close(&task);
    model_close(&model);
}

static const struct pairing {
    const char *family;
    enum train_objective objective;
    double rate, below; /* last loss over first */
} pairings[] = {
    {"bert", TRAIN_CLASSIFICATION, 2e-3, 0.8},
    {"bert", TRAIN_REGRESSION, 2e-3, 0.6},
    {"bert", TRAIN_SIMILARITY, 2e-3, 0.7},
    {"bert", TRAIN_QUESTION_ANSWERING, 5e-3, 0.7},
    {"bert", TRAIN_MASKED_LM, 5e-3, 0.97},
    {"distilbert", TRAIN_CLASSIFICATION, 2e-3, 0.8},
    {"distilbert", TRAIN_QUESTION_ANSWERING, 5e-3, 0.7},
    {"distilbert", TRAIN_MASKED_LM, 5e-3, 0.97},
    {"gpt2", TRAIN_CAUSAL_LM, 5e-3, 0.65},
    {"gpt2", TRAIN_SIMILARITY, 2e-3, 0.7},
    {"opt", TRAIN_CAUSAL_LM, 5e-3, 0.65},
    {"llama", TRAIN_CAUSAL_LM, 5e-3, 0.5},
    {"qwen2", TRAIN_CAUSAL_LM, 5e-3, 0.5},
    {"mistral", TRAIN_CAUSAL_LM, 5e-3, 0.5},
};
#define PAIRINGS (sizeof pairings / sizeof *pairings)

static void test_learns(void **state) {
    (void)state;
    for (size_t i = 0; i < PAIRINGS; i++) {
        struct train_plan plan;
        struct outcome outcome = {0};
        small_task_plan(&plan, pairings[i].objective);
        plan.steps = 60;
        plan.rate = pairings[i].rate;
        run(pairings[i].family, &plan, 400, 0, &outcome);
        if (outcome.status < 0) fail_msg("%s: %s", pairings[i].family, error_text());
        assert_true(outcome.result.steps == 60 && outcome.watcher.steps == 60 && outcome.result.tokens > 60 * 16 * 5);
        if (!(outcome.result.loss_last < pairings[i].below * outcome.result.loss_first))
            fail_msg("%s, %s: loss %g became %g", pairings[i].family, train_objective_name(pairings[i].objective),
                     outcome.result.loss_first, outcome.result.loss_last);
    }
}

/* With dropout, in micro-batches, several shards each. */
static void test_same_curve_at_any_thread_count(void **state) {
    static const int threads[] = {1, 3, 1};
    (void)state;
    for (size_t i = 0; i < PAIRINGS; i++) {
        struct train_plan plan;
        struct outcome outcome[3] = {0};
        small_task_plan(&plan, pairings[i].objective);
        plan.steps = 3;
        plan.batch = 40;
        plan.micro_batch = 24;
        plan.dropout = 0.1;
        for (int k = 0; k < 3; k++) {
            if (k == 2) plan.seed++;
            run(pairings[i].family, &plan, 80, threads[k], &outcome[k]);
            if (outcome[k].status < 0) fail_msg("%s: %s", pairings[i].family, error_text());
        }
        assert_string_equal(outcome[1].hash, outcome[0].hash);
        assert_memory_equal(outcome[1].watcher.loss, outcome[0].watcher.loss, plan.steps * sizeof(double));
        assert_memory_equal(outcome[1].watcher.norm, outcome[0].watcher.norm, plan.steps * sizeof(double));
        assert_string_not_equal(outcome[2].hash, outcome[0].hash);
    }
}

/* Losses and norms of a step in pieces are those of the step in one, up to rounding; with dropout, masks, weights and
 * a batch that the pieces do not divide. */
static void test_micro_batches(void **state) {
    (void)state;
    for (size_t i = 0; i < PAIRINGS; i++) {
        struct train_plan plan;
        struct outcome whole = {0}, pieces = {0};
        small_task_plan(&plan, pairings[i].objective);
        plan.steps = 4;
        plan.batch = 22;
        plan.dropout = 0.1;
        plan.label_smoothing = 0.1;
        plan.balance_classes = true;
        plan.rate = 1e-4; /* rounding would grow along the steps */
        run(pairings[i].family, &plan, 66, 0, &whole);
        plan.micro_batch = 5;
        run(pairings[i].family, &plan, 66, 0, &pieces);
        assert_true(whole.status == 0 && pieces.status == 0);
        for (size_t k = 0; k < 4; k++) {
            double loss = whole.watcher.loss[k], norm = whole.watcher.norm[k];
            if (!(fabs(pieces.watcher.loss[k] - loss) <= 2e-5 * loss &&
                  fabs(pieces.watcher.norm[k] - norm) <= 2e-4 * norm))
                fail_msg("%s, %s, step %zu: loss %.9g is %.9g in pieces, norm %.9g is %.9g", pairings[i].family,
                         train_objective_name(pairings[i].objective), k, loss, pieces.watcher.loss[k], norm,
                         pieces.watcher.norm[k]);
        }
    }
}

/* R-Drop: the divergence of an example's two passes is in the loss by its weight, whatever passes a batch is cut into,
 * and it falls. */
static void test_r_drop(void **state) {
    struct outcome outcomes[4];
    struct train_plan plan;
    (void)state;
    memset(outcomes, 0, sizeof outcomes);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.dropout = 0.2;
    plan.epochs = 6;
    for (size_t i = 0; i < 4; i++) {
        static const double weights[] = {1e-9, 1, 3, 3};
        plan.r_drop = weights[i];
        plan.micro_batch = i == 3 ? plan.batch / 4 : 0;
        run("bert", &plan, 256, 1, &outcomes[i]);
        assert_int_equal(outcomes[i].status, 0);
    }
    const double *none = outcomes[0].watcher.loss, *one = outcomes[1].watcher.loss, *three = outcomes[2].watcher.loss,
                 *parts = outcomes[3].watcher.loss;
    assert_true(one[0] > none[0] + 1e-4);
    assert_true(fabs((three[0] - none[0]) - 3 * (one[0] - none[0])) < 1e-6);
    assert_true(fabs(parts[0] - three[0]) < 1e-6);
    assert_string_not_equal(outcomes[0].hash, outcomes[1].hash);
    assert_true(outcomes[2].result.loss_last < 0.9 * outcomes[2].result.loss_first);
}

static void test_checkpointed_activations_change_nothing(void **state) {
    (void)state;
    for (size_t i = 0; i < PAIRINGS; i++) {
        struct train_plan plan;
        struct outcome kept = {0}, again = {0};
        small_task_plan(&plan, pairings[i].objective);
        plan.steps = 4;
        plan.dropout = 0.1;
        run(pairings[i].family, &plan, 64, 0, &kept);
        plan.checkpoint_activations = true;
        run(pairings[i].family, &plan, 64, 0, &again);
        assert_true(kept.status == 0 && again.status == 0);
        assert_string_equal(kept.hash, again.hash);
    }
}

/* Products of rounded values: near the curve in f32, not on it, and with the same bits at any number of threads. */
static void test_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < PAIRINGS; i++) {
        struct train_plan plan;
        struct outcome full = {0}, half[2] = {0};
        small_task_plan(&plan, pairings[i].objective);
        plan.steps = 4;
        run(pairings[i].family, &plan, 64, 0, &full);
        plan.compute = TRAIN_BF16;
        for (int k = 0; k < 2; k++) run(pairings[i].family, &plan, 64, k + 1, &half[k]);
        assert_true(full.status == 0 && half[0].status == 0 && half[1].status == 0);
        assert_string_equal(half[0].hash, half[1].hash);
        assert_true(half[0].watcher.loss[0] != full.watcher.loss[0]);
        for (size_t step = 0; step < 4; step++)
            assert_true(fabs(half[0].watcher.loss[step] - full.watcher.loss[step]) <= 0.05 * full.watcher.loss[step]);
    }
}

static void test_optimizers_and_schedules(void **state) {
    static const struct {
        enum optimizer_kind optimizer;
        enum schedule_kind schedule;
        double rate;
    } cases[] = {{OPTIMIZER_ADAM_L2, SCHEDULE_COSINE, 2e-3},
                 {OPTIMIZER_SGD, SCHEDULE_CONSTANT, 0.05},
                 {OPTIMIZER_SGD, SCHEDULE_POLYNOMIAL, 0.05}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct train_plan plan;
        struct outcome outcome = {0};
        small_task_plan(&plan, TRAIN_CLASSIFICATION);
        plan.epochs = 2.5;
        plan.batch = 8;
        plan.optimizer = cases[i].optimizer;
        plan.schedule = cases[i].schedule;
        plan.schedule_power = 2;
        plan.schedule_end_frac = 0.1;
        plan.rate = cases[i].rate;
        plan.warmup_frac = 0.1;
        plan.nesterov = i == 2;
        run("bert", &plan, 400, 0, &outcome);
        assert_int_equal(outcome.status, 0);
        assert_int_equal(outcome.result.steps, 125);
        assert_true(outcome.result.loss_last < 0.9 * outcome.result.loss_first);
        assert_true(outcome.watcher.rate[0] == 0 && outcome.watcher.rate[13] == plan.rate);
        double last = outcome.watcher.rate[124] / plan.rate;
        assert_true(i == 1 ? last == 1 : i == 0 ? last < 0.01 : last > 0.1 && last < 0.11);
    }
}

/* ---- evaluation -------------------------------------------------------------------------------------- */

static void evaluated(const struct train_plan *plan, const double *scores, bool lower, struct outcome *outcome) {
    *outcome = (struct outcome){.watcher = {.scores = scores, .lower_is_better = lower}};
    run("bert", plan, 160, 0, outcome);
    assert_int_equal(outcome->status, 0);
}

static void test_best_is_kept(void **state) {
    static const double scores[] = {0.5, 0.7, 0.6, 0.7, 0.4};
    struct train_plan plan;
    struct outcome outcome;
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.steps = 10;
    plan.evaluate_steps = 2;
    evaluated(&plan, scores, false, &outcome);
    assert_true(outcome.watcher.scored == 5 && outcome.result.best_step == 4 && outcome.result.best_score == 0.7);
    assert_string_equal(outcome.hash, outcome.watcher.hash[4]); /* the last ones */
    plan.keep_best = true;
    evaluated(&plan, scores, false, &outcome);
    assert_string_equal(outcome.hash, outcome.watcher.hash[1]);
    assert_string_not_equal(outcome.hash, outcome.watcher.hash[4]);
    assert_true(outcome.result.steps == 10);
    evaluated(&plan, scores, true, &outcome); /* a loss: the last is the best */
    assert_true(outcome.result.best_step == 10 && outcome.result.best_score == 0.4);
    assert_string_equal(outcome.hash, outcome.watcher.hash[4]);
    plan.evaluate_steps = 4; /* after 4, 8 and at the end */
    evaluated(&plan, scores, false, &outcome);
    assert_true(outcome.watcher.scored == 3 && outcome.result.best_step == 8);
}

/* Averaged by hand from the values after every tenth step and the last: the end is that, a step is none the wiser. */
static void test_average(void **state) {
    static const double scores[8] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8};
    struct train_plan plan;
    struct outcome plain, averaged, threads = {.watcher.scores = scores};
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.rate = 2e-3;
    plan.weight_decay = 0.5;
    plan.steps = 75;
    plan.evaluate_steps = 10;
    evaluated(&plan, scores, false, &plain);
    plan.average_decay = 0.97; /* 1 - 0.97^10 is 0.2626: from the fourth value on it is no plain mean */
    evaluated(&plan, scores, false, &averaged);
    assert_memory_equal(averaged.watcher.loss, plain.watcher.loss, 75 * sizeof(double));
    double mean = 0;
    for (size_t i = 0; i < 8; i++) {
        double weight = fmax(1 - pow(0.97, 10), 1 / (double)(i + 1));
        mean += weight * ((double)averaged.watcher.value[i < 7 ? 10 * i + 9 : 74] - mean);
    }
    assert_true(fabs((double)averaged.watched - mean) < 1e-6 * fabs(mean));
    assert_true(fabs((double)plain.watched - mean) > 1e-4 * fabs(mean));
    assert_true(plain.watched == plain.watcher.value[74]);
    /* Each evaluation sees the average; the first has one value in it. */
    assert_string_equal(averaged.watcher.hash[0], plain.watcher.hash[0]);
    assert_string_not_equal(averaged.watcher.hash[1], plain.watcher.hash[1]);
    assert_string_equal(averaged.watcher.hash[7], averaged.hash);
    run("bert", &plan, 160, 3, &threads);
    assert_string_equal(threads.hash, averaged.hash);
    /* The best average is kept, and one that nothing has joined yet is not. */
    plan.keep_best = true;
    evaluated(&plan, scores, true, &averaged);
    assert_string_equal(averaged.hash, plain.watcher.hash[0]);
    plan.steps = 9;
    plan.evaluate_steps = 5;
    evaluated(&plan, scores, true, &averaged);
    plan.average_decay = 0;
    evaluated(&plan, scores, true, &plain);
    assert_string_equal(averaged.hash, plain.hash);
    assert_true(averaged.result.best_step == 5);
}

static void test_patience(void **state) {
    static const double scores[] = {0.5, 0.7, 0.6, 0.71, 0.6, NAN, 0.9};
    struct train_plan plan;
    struct outcome outcome;
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.steps = 20;
    plan.evaluate_steps = 2;
    plan.patience = 2;
    plan.keep_best = true;
    evaluated(&plan, scores, false, &outcome);
    assert_true(outcome.watcher.scored == 6 && outcome.result.steps == 12 && outcome.result.steps_planned == 20);
    assert_true(outcome.result.best_step == 8);
    assert_string_equal(outcome.hash, outcome.watcher.hash[3]);
}

/* ---- teachers, frozen and further trainables --------------------------------------------------------- */

struct taught {
    const struct examples *examples;
    size_t calls[2];
    double share, token_share;
    float zeros[64];
    float gradient[2];
};

static int teach_targets(void *opaque, struct train_batch *batch, struct logit_loss *logits, struct span_loss *span) {
    struct taught *taught = opaque;
    assert_true(logits && span);
    for (size_t s = 0; s < batch->batch.sequences; s++) {
        uint32_t from = taught->examples->offset[batch->example[s]];
        assert_int_equal(batch->batch.ids[batch->batch.offset[s]], taught->examples->ids[from]);
    }
    if (batch->first && taught->calls[0]) {
        assert_true(fabs(taught->share - 1) < 1e-12 && fabs(taught->token_share - 1) < 1e-12);
        taught->share = taught->token_share = 0;
    }
    taught->share += batch->share;
    taught->token_share += batch->token_share;
    taught->calls[0]++;
    batch->target = taught->zeros;
    return 0;
}

static int teach_losses(void *opaque, const struct train_batch *batch, struct pass *pass, double *loss) {
    struct taught *taught = opaque;
    assert_non_null(pass_hidden(pass));
    taught->calls[1]++;
    *loss += 100;
    for (size_t i = 0; i < 2; i++)
        taught->gradient[i] = (batch->first ? 0 : taught->gradient[i]) + (float)batch->share * (i ? -1.0f : 1.0f);
    return taught->calls[1] == 30 ? E_UNSUPPORTED : 0;
}

static void test_teacher_and_extra_trainables(void **state) {
    struct model model;
    struct small_task task;
    struct train_plan plan;
    struct watcher watcher = {0};
    struct train_host host = {&watcher, take_step, NULL};
    float value[2] = {3, 3};
    (void)state;
    small_task_model(&model, "bert", TRAIN_REGRESSION, 5);
    small_task_open(&task, TRAIN_REGRESSION, 64, 2);
    struct taught taught = {.examples = &task.examples};
    struct train_teacher teacher = {&taught, teach_targets, teach_losses};
    struct trainable extra = {"projection", value, taught.gradient, 1, 2, false, false};
    small_task_plan(&plan, TRAIN_REGRESSION);
    plan.steps = 8;
    plan.micro_batch = 6; /* three a step */
    plan.teacher = &teacher;
    plan.extra = &extra;
    plan.extra_count = 1;
    plan.warmup_frac = 0;
    if (train_run(&model, &task.examples, &plan, &host, NULL) < 0) fail_msg("%s", error_text());
    assert_true(taught.calls[0] == 24 && taught.calls[1] == 24);
    for (size_t k = 0; k < 8; k++) assert_true(watcher.loss[k] > 100 && watcher.loss[k] < 110);
    assert_true(value[0] < 2.995f && value[1] > 3.005f); /* down and up along their gradients */
    watcher.steps = 0;
    assert_int_equal(train_run(&model, &task.examples, &plan, &host, NULL), E_UNSUPPORTED); /* the thirtieth call */
    small_task_close(&task);
    model_close(&model);
}

static void test_frozen(void **state) {
    struct model model, fresh;
    struct small_task task;
    struct train_plan plan;
    (void)state;
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_model(&fresh, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    bool *frozen = calloc(model.parameter_count, sizeof *frozen);
    struct linear_edit *edits = calloc(model.linear_count, sizeof *edits);
    for (size_t i = 0; i < model.parameter_count; i++)
        frozen[i] = i == 0 || strstr(model.parameters[i].name, "LayerNorm") != NULL; /* the token table, too */
    for (size_t i = 0; i < model.linear_count; i++) edits[i].frozen = model.linears[i].block == 0;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.frozen = frozen;
    plan.edits = edits;
    if (train_run(&model, &task.examples, &plan, NULL, NULL) < 0) fail_msg("%s", error_text());
    for (size_t i = 0; i < model.parameter_count; i++) {
        const struct parameter *parameter = &model.parameters[i];
        bool still = frozen[i] || (strstr(parameter->name, "layer.0.") && !strstr(parameter->name, "LayerNorm"));
        bool same = memcmp(parameter->value, fresh.parameters[i].value,
                           parameter->rows * parameter->columns * sizeof(float)) == 0;
        if (same != still) fail_msg("%s %s", parameter->name, same ? "stayed" : "moved");
    }
    memset(frozen, true, model.parameter_count);
    assert_int_equal(train_run(&model, &task.examples, &plan, NULL, NULL), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "nothing to train"));
    free(frozen);
    free(edits);
    small_task_close(&task);
    model_close(&model);
    model_close(&fresh);
}

static void test_stopping(void **state) {
    struct train_plan plan;
    struct outcome outcome = {.watcher = {.stop_at = 3}};
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    run("bert", &plan, 64, 0, &outcome);
    assert_int_equal(outcome.status, E_INTERRUPTED);
    assert_non_null(strstr(error_text(), "step 3 of 4"));
    assert_int_equal(outcome.watcher.steps, 3);
}

static void test_every_allocation_fails_once(void **state) {
    struct small_task task;
    struct train_plan plan;
    const double scores[] = {1, 2};
    (void)state;
    small_task_open(&task, TRAIN_CLASSIFICATION, 32, 2);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.evaluate_steps = 1;
    plan.keep_best = true;
    plan.average_decay = 0.9;
    plan.weight_decay = 1;
    for (long n = 1;; n++) {
        struct model model;
        struct watcher watcher = {.scores = scores};
        struct train_host host = {&watcher, take_step, take_score};
        small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
        memory_fail_after(n);
        int status = train_run(&model, &task.examples, &plan, &host, NULL);
        long asked = memory_count();
        memory_fail_after(0);
        model_close(&model);
        if (asked < n) {
            assert_true(status == 0 && n > 8);
            break;
        }
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
    }
    small_task_close(&task);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_same_curve_at_any_thread_count),
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_r_drop),
        cmocka_unit_test(test_checkpointed_activations_change_nothing),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_optimizers_and_schedules),
        cmocka_unit_test(test_best_is_kept),
        cmocka_unit_test(test_average),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_teacher_and_extra_trainables),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
