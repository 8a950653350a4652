/* The training loop: micro-batches, clipping and the optimizer, evaluations, checkpoints; who is told what, and when.
 */
#include "train/train.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "train/train_run.h"

void train_plan_defaults(struct train_plan *plan) {
    *plan = (struct train_plan){
        .objective = TRAIN_CLASSIFICATION,
        .epochs = 1,
        .batch = 32,
        .optimizer = OPTIMIZER_ADAMW,
        .rate = 5e-4,
        .warmup_frac = 0.06,
        .schedule = SCHEDULE_LINEAR,
        .schedule_power = 1,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .epsilon = 1e-8,
        .momentum = 0.9,
        .weight_decay = 0.01,
        .clip_norm = 1,
        .mask_frac = 0.15,
        .mask_id = -1,
        .checkpoint_s = 600,
    };
}

double train_now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

/* Gradients for what is trained: what neither the plan nor an edit freezes. */
static int open_gradients(struct training *training) {
    int status = 0;
    const struct train_plan *plan = training->plan;
    struct model *model = training->model;
    void *block = NULL;
    TRY(memory_take(&block, model->parameter_count, sizeof(bool)));
    bool *frozen = block;
    if (plan->frozen) memcpy(frozen, plan->frozen, model->parameter_count * sizeof *frozen);
    for (size_t i = 0; plan->edits && i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        if (!plan->edits[i].frozen) continue;
        if (linear->parameter) frozen[linear->parameter - model->parameters] = true;
        if (linear->bias_parameter) frozen[linear->bias_parameter - model->parameters] = true;
    }
    TRY(model_gradients_open_some(model, train_objective_heads(plan->objective), frozen));
out:
    memory_release(block);
    return status;
}

static int plan_steps(struct training *training) {
    int status = 0;
    const struct train_plan *plan = training->plan;
    double steps = plan->steps ? (double)plan->steps : plan->epochs * (double)training->batches.per_epoch;
    if (steps > 1e9) FAIL(E_ARGUMENT, "epochs %g are %g steps: too many", plan->epochs, steps);
    training->schedule = (struct schedule){.kind = plan->schedule,
                                           .steps = steps < 1 ? 1 : (size_t)(steps + 0.5),
                                           .peak = plan->rate,
                                           .power = plan->schedule_power,
                                           .end_frac = plan->schedule_end_frac};
    training->schedule.warmup = (size_t)(plan->warmup_frac * (double)training->schedule.steps + 0.5);
out:
    return status;
}

/* Look-ups alone give the token embedding a gradient, unless it is the language-model head as well. */
static bool tokens_are_sparse(const struct training *training) {
    enum train_objective objective = training->plan->objective;
    return objective != TRAIN_MASKED_LM && !(objective == TRAIN_CAUSAL_LM && training->model->config.tied);
}

static int training_open(struct training *training) {
    int status = 0;
    const struct train_plan *plan = training->plan;
    struct optimizer_settings settings = {.kind = plan->optimizer,
                                          .beta1 = plan->beta1,
                                          .beta2 = plan->beta2,
                                          .epsilon = plan->epsilon,
                                          .momentum = plan->momentum,
                                          .nesterov = plan->nesterov,
                                          .weight_decay = plan->weight_decay,
                                          .clip_norm = plan->clip_norm};

    TRY(train_check(training->model, training->examples, plan, training->host));
    TRY(batches_open(&training->batches, training->examples, plan, &training->model->config));
    TRY(plan_steps(training));
    training->chance = train_chance(training);
    TRY(open_gradients(training));
    model_unprepare(training->model);
    TRY(pass_open(&training->pass, training->model, plan->edits));
    TRY(trainables_open(&training->trainables, training->model, tokens_are_sparse(training), plan->extra,
                        plan->extra_count));
    if (training->trainables.count == 0) FAIL(E_ARGUMENT, "everything is frozen: there is nothing to train");
    TRY(optimizer_open(&training->optimizer, &settings, &training->trainables));
    TRY(train_average_open(training));
    TRY(train_resume_open(training));
out:
    return status;
}

static void training_close(struct training *training) {
    optimizer_settle(&training->optimizer);
    train_resume_close(training);
    train_average_close(training);
    optimizer_close(&training->optimizer);
    trainables_close(&training->trainables);
    pass_close(&training->pass);
    batches_close(&training->batches);
    model_gradients_close(training->model);
}

/* ---- one step ---------------------------------------------------------------------------------------- */

static int take_step(struct training *training, struct train_progress *progress) {
    int status = 0;
    struct train_tally *tally = &training->tally;
    size_t step = tally->steps;

    *progress = (struct train_progress){
        .step = step + 1, .steps = training->schedule.steps, .rate = schedule_rate(&training->schedule, step)};
    batches_step(&training->batches, step);
    for (size_t i = 0; i < training->batches.micros; i++) {
        double share, loss;
        TRY(train_micro(training, i, &share, &loss));
        progress->loss += share * loss;
    }
    status = optimizer_step(&training->optimizer, progress->rate, &progress->gradient_norm);
    if (status == E_NUMERIC) status = train_not_finite_backward(training, progress->gradient_norm);
    if (status < 0) goto out;
    TRY(train_check_loss(training, progress->loss));
    if (step < LOSS_FIRST_STEPS) tally->first_sum += progress->loss;
    tally->last[step % LOSS_LAST_STEPS] = progress->loss;
    tally->tokens += training->batches.tokens;
    tally->steps++;
    train_average_join(training);
    progress->seconds = train_now_s() - training->started_s;
out:
    return status;
}

static bool evaluation_is_due(const struct training *training) {
    size_t every = training->plan->evaluate_steps, steps = training->tally.steps;
    return every && (steps % every == 0 || steps == training->schedule.steps);
}

static int evaluate(struct training *training) {
    int status = 0;
    struct train_tally *tally = &training->tally;
    double score;
    bool higher = true;

    optimizer_settle(&training->optimizer);
    train_average_swap(training);
    TRY(training->host->evaluate(training->host->context, training->model, &score, &higher));
    /* A score that is not a number betters nothing. */
    if (tally->best_step ? (higher ? score > tally->best_score : score < tally->best_score) : !isnan(score)) {
        tally->best_score = score;
        tally->best_step = tally->steps;
        tally->unbettered = 0;
        train_best_keep(training);
    } else {
        tally->unbettered++;
    }
    train_average_swap(training);
out:
    return status;
}

static bool is_over(const struct training *training) {
    const struct train_tally *tally = &training->tally;
    return tally->steps >= training->schedule.steps ||
           (training->plan->patience && tally->unbettered >= training->plan->patience);
}

static int loop(struct training *training) {
    int status = 0;
    const struct train_host *host = training->host;
    while (!is_over(training)) {
        struct train_progress progress;
        bool stop;
        TRY(take_step(training, &progress));
        stop = host && host->step && host->step(host->context, &progress);
        if (!stop && evaluation_is_due(training)) TRY(evaluate(training));
        /* Stopped before an evaluation, a run could not be gone on from here. */
        if (stop ? !evaluation_is_due(training)
                 : !is_over(training) && train_now_s() - training->checkpointed_s >= training->plan->checkpoint_s)
            train_checkpoint(training);
        if (stop) FAIL(E_INTERRUPTED, "training was stopped at step %zu of %zu", progress.step, progress.steps);
    }
    optimizer_settle(&training->optimizer);
    if (training->best_kept) train_best_restore(training);
    else train_average_swap(training);
out:
    return status;
}

static void report(const struct training *training, size_t resumed, struct train_result *result) {
    const struct train_tally *tally = &training->tally;
    size_t first = tally->steps < LOSS_FIRST_STEPS ? tally->steps : LOSS_FIRST_STEPS;
    size_t last = tally->steps < LOSS_LAST_STEPS ? tally->steps : LOSS_LAST_STEPS;
    double sum = 0;
    for (size_t i = 0; i < last; i++) sum += tally->last[i];
    *result = (struct train_result){.steps = tally->steps,
                                    .tokens = tally->tokens,
                                    .steps_planned = training->schedule.steps,
                                    .steps_resumed = resumed,
                                    .loss_first = first ? tally->first_sum / (double)first : 0,
                                    .loss_last = last ? sum / (double)last : 0,
                                    .seconds = train_now_s() - training->started_s,
                                    .best_step = tally->best_step,
                                    .best_score = tally->best_score,
                                    .checkpoints = training->checkpoints,
                                    .checkpoints_failed = training->checkpoints_failed};
}

int train_run(struct model *model, const struct examples *examples, const struct train_plan *plan,
              const struct train_host *host, struct train_result *result) {
    int status = 0;
    struct training training = {
        .model = model, .examples = examples, .plan = plan, .host = host, .started_s = train_now_s()};
    size_t resumed;

    if (result) *result = (struct train_result){0};
    TRY(training_open(&training));
    resumed = training.tally.steps;
    TRY(loop(&training));
    if (result) report(&training, resumed, result);
out:
    training_close(&training);
    return status;
}
