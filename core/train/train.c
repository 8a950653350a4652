/* The training loop: batches, pass, clip, AdamW, schedule; and the checks that make its errors readable. */
#include "train/train.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "train/batches.h"
#include "train/head.h"
#include "train/optimizer.h"
#include "train/pass.h"

#define LOSS_FIRST_STEPS 10 /* the reported first and last losses are means over so many steps */
#define LOSS_LAST_STEPS 50

void train_plan_defaults(struct train_plan *plan) {
    *plan = (struct train_plan){
        .objective = TRAIN_CLASSIFICATION,
        .epochs = 1,
        .batch = 32,
        .rate = 5e-4,
        .warmup_frac = 0.06,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .epsilon = 1e-8,
        .weight_decay = 0.01,
        .momentum = 0.9,
        .clip_norm = 1,
        .optimizer = OPTIMIZER_ADAMW,
        .schedule = SCHEDULE_LINEAR,
        .schedule_power = 1,
        .mask_frac = 0.15,
        .mask_id = -1,
        .max_tokens = 128,
    };
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int check_fraction(const char *name, double value, double low, double high) {
    if (value >= low && value <= high) return 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be in %g..%g (got %g)", name, low, high, value);
}

static int check_plan(const struct model *model, const struct examples *examples, const struct train_plan *plan) {
    int status = 0;
    size_t V = model->config.vocabulary;

    if (plan->objective != TRAIN_CLASSIFICATION && plan->objective != TRAIN_MASKED_LM)
        FAIL(E_UNSUPPORTED, "training for %s is not supported", train_objective_name(plan->objective));
    TRY(check_fraction("epochs", plan->epochs, 1e-9, 1e6));
    TRY(check_fraction("batch", (double)plan->batch, 1, 1 << 20));
    TRY(check_fraction("rate", plan->rate, 0, 10));
    TRY(check_fraction("warmup_frac", plan->warmup_frac, 0, 1));
    TRY(check_fraction("dropout", plan->dropout, 0, 0.95));
    TRY(check_fraction("label_smoothing", plan->label_smoothing, 0, 0.95));
    TRY(check_fraction("word_dropout", plan->word_dropout, 0, 0.95));
    if (plan->word_dropout > 0 && (plan->mask_id < 0 || (size_t)plan->mask_id >= V))
        FAIL(E_ARGUMENT, "word dropout needs a tokenizer with a mask token (mask_id %d)", plan->mask_id);
    if (plan->max_tokens < 1) FAIL(E_ARGUMENT, "max_tokens must be at least 1");
    for (size_t i = 0; i < examples->count; i++)
        if (examples->offset[i + 1] <= examples->offset[i]) FAIL(E_SHAPE, "training example %zu is empty", i);
    for (size_t i = examples->offset[0]; i < examples->offset[examples->count]; i++)
        if (examples->ids[i] < 0 || (size_t)examples->ids[i] >= V)
            FAIL(E_SHAPE, "training token %zu has id %d outside the model's vocabulary of %zu", i, examples->ids[i], V);
    if (plan->objective == TRAIN_MASKED_LM) {
        TRY(check_fraction("mask_frac", plan->mask_frac, 1e-6, 1));
        if (plan->mask_id < 0 || (size_t)plan->mask_id >= V)
            FAIL(E_ARGUMENT, "masked-LM training needs a tokenizer with a mask token (mask_id %d)", plan->mask_id);
        if (plan->special_ids < 0 || (size_t)plan->special_ids >= V)
            FAIL(E_ARGUMENT, "special_ids %d leaves no ordinary token in a vocabulary of %zu", plan->special_ids, V);
        goto out;
    }
    if (!examples->label) FAIL(E_ARGUMENT, "classification needs labelled examples");
    for (size_t i = 0; i < examples->count; i++)
        if (examples->label[i] < 0 || (size_t)examples->label[i] >= model->config.classes)
            FAIL(E_SHAPE, "training example %zu has label %d but the model has %zu classes", i, examples->label[i],
                 model->config.classes);
out:
    return status;
}

/* Loss and all gradients of one batch. labels: [B] classes, or [T] ids with -100 ignored. */
static int gradients_of(struct pass *pass, const struct batch *batch, const int32_t *labels,
                        enum train_objective objective, double smoothing, const struct pass_options *options,
                        double *loss) {
    int status = 0;
    struct logit_loss targets = {.labels = labels, .smoothing = smoothing};
    void *rows = NULL, *chosen = NULL;
    size_t count = 0;

    TRY(pass_forward(pass, batch, options));
    if (objective == TRAIN_CLASSIFICATION) {
        TRY(head_classify(pass, &targets, loss));
    } else {
        TRY(memory_take(&rows, batch->tokens, sizeof(uint32_t)));
        TRY(memory_take(&chosen, batch->tokens, sizeof(int32_t)));
        for (size_t t = 0; t < batch->tokens; t++)
            if (labels[t] != LABEL_IGNORED)
                ((uint32_t *)rows)[count] = (uint32_t)t, ((int32_t *)chosen)[count++] = labels[t];
        targets.labels = chosen;
        TRY(head_tokens(pass, rows, count, &targets, loss));
    }
    TRY(pass_backward(pass));
out:
    memory_release(rows);
    memory_release(chosen);
    return status;
}

/* Running sums for the reported losses. */
struct loss_window {
    double first, last[LOSS_LAST_STEPS];
    size_t count;
};

static void window_add(struct loss_window *window, double loss) {
    if (window->count < LOSS_FIRST_STEPS) window->first += loss;
    window->last[window->count++ % LOSS_LAST_STEPS] = loss;
}

static void window_result(const struct loss_window *window, struct train_result *result) {
    size_t first = window->count < LOSS_FIRST_STEPS ? window->count : LOSS_FIRST_STEPS,
           last = window->count < LOSS_LAST_STEPS ? window->count : LOSS_LAST_STEPS;
    double sum = 0;
    for (size_t i = 0; i < last; i++) sum += window->last[i];
    result->loss_first = first ? window->first / (double)first : 0;
    result->loss_last = last ? sum / (double)last : 0;
}

static int diverged(size_t step, size_t steps, const struct train_plan *plan, const char *what, double value) {
    return error_record(E_NUMERIC, __FILE__, __LINE__,
                        "training diverged at step %zu of %zu (%s %g): lower rate (now %g), raise warmup_frac (now %g) "
                        "or set clip_norm (now %g)",
                        step + 1, steps, what, value, plan->rate, plan->warmup_frac, plan->clip_norm);
}

int train_run(struct model *model, const struct examples *examples, const struct train_plan *plan,
              const struct train_host *host, struct train_result *result) {
    int status = 0;
    struct batches batches = {0};
    struct pass pass = {0};
    struct trainables trainables = {0};
    struct optimizer optimizer = {0};
    struct loss_window window = {0};
    struct train_result done = {0};
    double started = now_s(), steps_real;
    size_t cut = plan->max_tokens < model->config.positions ? plan->max_tokens : model->config.positions;
    struct schedule schedule;
    struct optimizer_settings settings = {plan->optimizer, plan->beta1,    plan->beta2,        plan->epsilon,
                                          plan->momentum,  plan->nesterov, plan->weight_decay, plan->clip_norm};

    if (result) *result = done;
    TRY(check_plan(model, examples, plan));
    TRY(batches_open(&batches, examples, plan, cut));
    TRY(model_gradients_open(model, train_objective_heads(plan->objective)));
    TRY(pass_open(&pass, model, NULL));
    TRY(trainables_open(&trainables, model, plan->objective != TRAIN_MASKED_LM, plan->extra, plan->extra_count));
    TRY(optimizer_open(&optimizer, &settings, &trainables));
    model_unprepare(model);
    steps_real = plan->epochs * (double)batches.per_epoch;
    if (steps_real > 1e9) FAIL(E_ARGUMENT, "epochs %g are %g steps: too many", plan->epochs, steps_real);
    done.steps = steps_real < 1 ? 1 : (size_t)(steps_real + 0.5);
    if (plan->steps) done.steps = plan->steps;
    schedule =
        (struct schedule){plan->schedule, done.steps,           (size_t)(plan->warmup_frac * (double)done.steps + 0.5),
                          plan->rate,     plan->schedule_power, plan->schedule_end_frac};

    for (size_t step = 0; step < done.steps; step++) {
        struct pass_options options = {.dropout = plan->dropout, .seed = plan->seed, .step = step, .scale = 1};
        struct train_progress progress = {.step = step + 1, .steps = done.steps};
        progress.rate = schedule_rate(&schedule, step);
        batches_step(&batches, step, model->config.vocabulary);
        optimizer_touch(&optimizer, trainables.tokens, batches.batch.ids, batches.batch.tokens);
        TRY(gradients_of(&pass, &batches.batch, batches.labels, plan->objective, plan->label_smoothing, &options,
                         &progress.loss));
        if (!isfinite(progress.loss)) {
            status = diverged(step, done.steps, plan, "loss", progress.loss);
            goto out;
        }
        status = optimizer_step(&optimizer, progress.rate, &progress.gradient_norm);
        if (status == E_NUMERIC) status = diverged(step, done.steps, plan, "gradient norm", progress.gradient_norm);
        if (status < 0) goto out;
        window_add(&window, progress.loss);
        done.tokens += batches.batch.tokens;
        progress.seconds = now_s() - started;
        if (host && host->step && host->step(host->context, &progress))
            FAIL(E_INTERRUPTED, "training was stopped at step %zu of %zu", step + 1, done.steps);
    }
    optimizer_settle(&optimizer);
    window_result(&window, &done);
    done.seconds = now_s() - started;
    if (result) *result = done;
out:
    optimizer_close(&optimizer);
    trainables_close(&trainables);
    pass_close(&pass);
    batches_close(&batches);
    model_gradients_close(model);
    return status;
}
