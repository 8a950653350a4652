/* What techniques that train have in common: needs by their training options, a plan with the context's
 * data, seed, folder and listeners, and the metrics of a run. For techniques whose options hold a struct train_options
 * (train/train_options.h); everything is inline, so that a technique exports its one symbol still. */
#ifndef TECHNIQUE_TRAINING_H
#define TECHNIQUE_TRAINING_H

#include <stdio.h>

#include "base/memory.h"
#include "technique.h"
#include "train/train_options.h"

/* A run that is about to begin. The technique may add to the plan. */
struct technique_training {
    struct train_plan plan;
    struct train_host host;
    const struct examples *examples;
    double *weights;
    size_t *zeros; /* [linear_count] of layers whose zeros are marked as simulated; others 0 */
};

/* For needs_of, beside what else the technique needs. */
static inline uint32_t technique_training_needs(const struct train_options *options) {
    return (train_options_read_text(options) ? NEEDS_UNLABELLED_TEXT : NEEDS_TRAINING_DATA) | NEEDS_GRADIENTS |
           NEEDS_CACHE;
}

/* For probe: train_options_check, and what the task and its tokenizer must have. */
static inline int technique_training_probe(const struct technique_context *context,
                                           const struct train_options *options) {
    int status = 0;
    enum train_objective objective = train_options_objective(options, context->objective);
    TRY(train_options_check(options, context->objective, context->model));
    if (objective == TRAIN_CLASSIFICATION && context->training)
        TRY(train_options_check_classes(options, context->training->classes));
    if (options->evaluate_steps && !context->evaluate)
        FAIL(E_UNSUPPORTED, "evaluate_steps %lld: the task has no validation split to score",
             (long long)options->evaluate_steps);
    if ((objective == TRAIN_MASKED_LM || options->word_dropout > 0) && context->mask_id < 0)
        FAIL(E_UNSUPPORTED, "%s needs a tokenizer with a mask token",
             objective == TRAIN_MASKED_LM ? "masked_lm" : "word_dropout");
out:
    return status;
}

static inline int technique_training_step(void *opaque, const struct train_progress *progress) {
    struct technique_context *context = opaque;
    char text[96];
    if (context->step) context->step(context->host, progress);
    if (!context->progress) return 0;
    snprintf(text, sizeof text, "step %zu of %zu, loss %.4f", progress->step, progress->steps, progress->loss);
    return context->progress(context->host, (double)progress->step / (double)progress->steps, text);
}

static inline int technique_training_evaluate(void *opaque, const struct model *model, double *score,
                                              bool *higher_is_better) {
    struct technique_context *context = opaque;
    return context->evaluate(context->host, model, score, higher_is_better);
}

static inline int technique_training_zeros(const struct linear *linear, size_t *zeros) {
    int status = 0;
    size_t count = linear->rows * linear->columns;
    const struct weight *weight = &linear->weight;
    const float *value = linear->value;
    void *room = NULL;
    if (!value) {
        TRY(memory_take_raw(&room, count, sizeof(float)));
        TRY(weight->format->unpack(&weight->shape, weight->packed, room));
        value = room;
    }
    *zeros = 0;
    for (size_t i = 0; i < count; i++) *zeros += value[i] == 0;
out:
    memory_release(room);
    return status;
}

/* Training moves pruned weights as well. Layers that end with less than half of the zeros that they began with promise
 * nothing more than what they are, and lose their mark. For the end of apply. */
static inline int technique_training_mark(const struct technique_training *training, struct model *model) {
    int status = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        size_t left;
        if (!linear->simulated) continue;
        TRY(technique_training_zeros(linear, &left));
        if (left < training->zeros[i] - training->zeros[i] / 2) linear->simulated = linear->weight.simulated = false;
    }
out:
    return status;
}

/* Plan, listeners and examples of a run. The context must outlive it; close it afterwards, whatever happened. */
static inline int technique_training_open(struct technique_training *training, struct technique_context *context,
                                          const struct train_options *options) {
    int status = 0;
    enum train_objective objective = train_options_objective(options, context->objective);
    const struct model *model = context->model;
    void *block;
    *training = (struct technique_training){
        .host = {.context = context,
                 .step = technique_training_step,
                 .evaluate = context->evaluate ? technique_training_evaluate : NULL},
        .examples = train_options_read_text(options) ? context->unlabelled : context->training};
    if (!training->examples)
        FAIL(E_STATE, "%s needs %s", train_objective_name(objective),
             train_options_read_text(options) ? "unlabelled text" : "training data");
    TRY(train_options_plan(options, objective, training->examples->classes, &training->plan, &training->weights));
    TRY(memory_take(&block, model->linear_count, sizeof *training->zeros));
    training->zeros = block;
    for (size_t i = 0; i < model->linear_count; i++)
        if (model->linears[i].simulated) TRY(technique_training_zeros(&model->linears[i], &training->zeros[i]));
    training->plan.dropout = train_options_dropout(options, &model->config);
    training->plan.mask_id = context->mask_id;
    training->plan.special_ids = context->special_ids;
    training->plan.seed = context->seed;
    training->plan.checkpoint_dir = context->checkpoint_dir;
out:
    return status;
}

static inline void technique_training_close(struct technique_training *training) {
    memory_release(training->weights);
    memory_release(training->zeros);
}

static inline void technique_training_report(struct technique_context *context, const struct train_result *result) {
    void *host = context->host;
    context->metric(host, "steps", "", (double)result->steps);
    context->metric(host, "tokens", "tok", (double)result->tokens);
    context->metric(host, "loss_first", "nats", result->loss_first);
    context->metric(host, "loss_last", "nats", result->loss_last);
    if (result->seconds > 0) context->metric(host, "tokens_per_s", "tok/s", (double)result->tokens / result->seconds);
    if (result->best_step) context->metric(host, "best_step", "", (double)result->best_step);
    if (result->best_step) context->metric(host, "best_score", "", result->best_score);
}

#endif
