#include "distill_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "model/take_layers.h"

static void take_metric(void *opaque, const char *name, const char *unit, double value) {
    struct stage *stage = opaque;
    assert_non_null(unit);
    if (strcmp(name, "teacher_forwards") == 0) stage->forwards = (size_t)value;
    if (strcmp(name, "loss_first") == 0) stage->loss_first = value;
    if (strcmp(name, "loss_last") == 0) stage->loss_last = value;
}

static int take_progress(void *opaque, double fraction, const char *text) {
    const struct stage *stage = opaque;
    assert_true(fraction >= 0 && fraction <= 1 && text[0]);
    return stage->stop;
}

static void take_step(void *opaque, const struct train_progress *progress) {
    struct stage *stage = opaque;
    assert_true(progress->step >= 1 && progress->step <= STAGE_STEPS);
    stage->loss[progress->step - 1] = progress->loss;
    stage->steps = progress->step;
}

void stage_open(struct stage *stage, const char *family, enum train_objective objective, size_t layers, bool trained) {
    static const size_t order[4] = {0, 1, 1, 0};
    struct model two;
    *stage = (struct stage){.seed = 6};
    assert_true(layers >= 1 && layers <= 4);
    small_task_model(&two, family, objective, 1);
    assert_int_equal(model_set_metadata(&two, "tokenizer", "words"), 0);
    if (model_take_layers(&stage->model, &two, NULL, order, layers) < 0) fail_msg("%s", error_text());
    model_close(&two);
    if (trained) {
        struct small_task own;
        struct train_plan plan;
        small_task_open(&own, objective, 400, 9);
        small_task_plan(&plan, objective);
        plan.epochs = 6;
        if (train_run(&stage->model, &own.examples, &plan, NULL, NULL) < 0) fail_msg("%s", error_text());
        small_task_close(&own);
    }
    small_task_open(&stage->task, objective, 96, 2);
}

void stage_close(struct stage *stage) {
    model_close(&stage->model);
    small_task_close(&stage->task);
}

static void set_options(const struct technique *technique, void *options, const char *const *pairs,
                        struct option_store *store) {
    static const char *const usual[] = {"batch", "16", "dropout", "0", "epochs", "1", "rate", "0.002", NULL};
    assert_int_equal(option_defaults(technique->options, options, store), 0);
    for (int round = 0; round < 2; round++)
        for (const char *const *pair = round ? pairs : usual; *pair; pair += 2) {
            const struct option *option = option_find(technique->options, pair[0]);
            if (!option) fail_msg("no option %s", pair[0]);
            if (option_set(option, options, pair[1], store) < 0) fail_msg("%s", error_text());
        }
}

static int64_t whole_number(const struct technique *technique, const void *options, const char *name) {
    const struct option *option = option_find(technique->options, name);
    return option ? *(const int64_t *)(const void *)((const char *)options + option->offset) : 0;
}

int stage_run(struct stage *stage, const struct technique *technique, const char *const *pairs) {
    int status;
    struct option_store store = {0};
    void *options = calloc(1, technique->options_bytes), *state = calloc(1, technique->state_bytes);
    enum train_objective objective = stage->task.objective;
    bool text = objective == TRAIN_MASKED_LM;
    struct technique_context context = {.model = &stage->model,
                                        .objective = text ? TRAIN_CLASSIFICATION : objective,
                                        .training = &stage->task.examples,
                                        .unlabelled = &stage->task.examples,
                                        .seed = stage->seed,
                                        .mask_id = SMALL_MASK,
                                        .special_ids = SMALL_SPECIAL,
                                        .cache_dir = stage->cache_dir,
                                        .metric = take_metric,
                                        .progress = take_progress,
                                        .step = take_step,
                                        .host = stage};
    set_options(technique, options, pairs, &store);
    if (text) option_set(option_find(technique->options, "objective"), options, "masked_lm", &store);
    stage->forwards = SIZE_MAX;
    memory_fail_after(stage->fail_after);
    status = technique->settle(options);
    if (status == 0) status = technique->probe(&context, options);
    if (status == 0) {
        stage->depth = whole_number(technique, options, "depth");
        stage->width = whole_number(technique, options, "width");
        stage->heads = whole_number(technique, options, "heads");
        stage->feed_forward = whole_number(technique, options, "feed_forward");
        status = technique->apply(&context, state, options);
        if (status == 0) status = technique->report(&context, state, options);
        if (technique->close) technique->close(state);
    }
    memory_fail_after(0);
    small_model_hash(&stage->model, stage->hash);
    option_store_close(&store);
    free(options);
    free(state);
    return status;
}

void stage_must(struct stage *stage, const struct technique *technique, const char *const *pairs) {
    if (stage_run(stage, technique, pairs) < 0) fail_msg("%s", error_text());
}

double stage_judge(struct stage *stage) {
    struct small_task fresh;
    struct train_plan plan;
    struct train_result result;
    struct model copy;
    size_t layers[4] = {0, 1, 2, 3};
    assert_int_equal(model_take_layers(&copy, &stage->model, NULL, layers, stage->model.config.layers), 0);
    small_task_open(&fresh, stage->task.objective, 64, 77);
    small_task_plan(&plan, stage->task.objective);
    plan.batch = 64;
    plan.rate = 0;
    if (train_run(&copy, &fresh.examples, &plan, NULL, &result) < 0) fail_msg("%s", error_text());
    small_task_close(&fresh);
    model_close(&copy);
    return result.loss_first;
}
