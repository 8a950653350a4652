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
};

/* For needs_of, beside what else the technique needs. */
static inline uint32_t technique_training_needs(const struct train_options *options) {
    return (train_options_read_text(options) ? NEEDS_UNLABELLED_TEXT : NEEDS_TRAINING_DATA) | NEEDS_GRADIENTS |
           NEEDS_CACHE;
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

/* Plan, listeners and examples of a run. The context must outlive it; close it afterwards, whatever happened. */
static inline int technique_training_open(struct technique_training *training, struct technique_context *context,
                                          const struct train_options *options) {
    int status = 0;
    enum train_objective objective = train_options_objective(options, context->objective);
    *training = (struct technique_training){
        .host = {.context = context,
                 .step = technique_training_step,
                 .evaluate = context->evaluate ? technique_training_evaluate : NULL},
        .examples = train_options_read_text(options) ? context->unlabelled : context->training};
    if (!training->examples)
        FAIL(E_STATE, "%s needs %s", train_objective_name(objective),
             train_options_read_text(options) ? "unlabelled text" : "training data");
    TRY(train_options_plan(options, objective, training->examples->classes, &training->plan, &training->weights));
    training->plan.dropout = train_options_dropout(options, &context->model->config);
    training->plan.mask_id = context->mask_id;
    training->plan.special_ids = context->special_ids;
    training->plan.seed = context->seed;
    training->plan.checkpoint_dir = context->checkpoint_dir;
out:
    return status;
}

static inline void technique_training_close(struct technique_training *training) { memory_release(training->weights); }

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
