/* What must hold before the first step, so that errors name what the user wrote and not where it hurt. */
#include <math.h>

#include "base/error.h"
#include "train/train_run.h"

static int check_range(const char *name, double value, double low, double high) {
    if (value >= low && value <= high) return 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be in %g..%g (got %g)", name, low, high, value);
}

static int check_numbers(const struct train_plan *plan) {
    int status = 0;
    if (!plan->steps) TRY(check_range("epochs", plan->epochs, 1e-9, 1e6));
    TRY(check_range("steps", (double)plan->steps, 0, 1e9));
    TRY(check_range("batch", (double)plan->batch, 1, 1 << 20));
    TRY(check_range("micro_batch", (double)plan->micro_batch, 0, 1 << 20));
    TRY(check_range("rate", plan->rate, 0, 10));
    TRY(check_range("warmup_frac", plan->warmup_frac, 0, 1));
    TRY(check_range("schedule_power", plan->schedule_power, 0, 100));
    TRY(check_range("schedule_end_frac", plan->schedule_end_frac, 0, 1));
    TRY(check_range("beta1", plan->beta1, 0, 0.999999));
    TRY(check_range("beta2", plan->beta2, 0, 0.999999));
    if (plan->optimizer != OPTIMIZER_SGD) TRY(check_range("epsilon", plan->epsilon, 1e-30, 1));
    TRY(check_range("momentum", plan->momentum, 0, 0.999999));
    TRY(check_range("weight_decay", plan->weight_decay, 0, 10));
    TRY(check_range("clip_norm", plan->clip_norm, 0, 1e9));
    TRY(check_range("dropout", plan->dropout, 0, 0.95));
    TRY(check_range("label_smoothing", plan->label_smoothing, 0, 0.95));
    TRY(check_range("word_dropout", plan->word_dropout, 0, 0.95));
    TRY(check_range("r_drop", plan->r_drop, 0, 100));
    TRY(check_range("checkpoint_s", plan->checkpoint_s, 0, 1e9));
    if (plan->optimizer == OPTIMIZER_SGD && plan->nesterov && plan->momentum == 0)
        FAIL(E_ARGUMENT, "nesterov needs a momentum above 0");
    if (plan->r_drop > 0 && plan->dropout == 0)
        FAIL(E_ARGUMENT, "r_drop compares two dropouts of an example: dropout must be above 0");
    if (plan->r_drop > 0 && plan->objective != TRAIN_CLASSIFICATION)
        FAIL(E_UNSUPPORTED, "r_drop is of classification, and the objective is %s",
             train_objective_name(plan->objective));
out:
    return status;
}

static int check_tokens(const struct model *model, const struct examples *examples) {
    int status = 0;
    size_t V = model->config.vocabulary, types = model->config.token_types;
    for (size_t i = 0; i < examples->count; i++)
        if (examples->offset[i + 1] <= examples->offset[i]) FAIL(E_SHAPE, "training example %zu is empty", i);
    for (size_t i = examples->offset[0]; i < examples->offset[examples->count]; i++)
        if (examples->ids[i] < 0 || (size_t)examples->ids[i] >= V)
            FAIL(E_SHAPE, "training token %zu has id %d outside the model's vocabulary of %zu", i, examples->ids[i], V);
    for (size_t i = examples->offset[0]; examples->types && types > 1 && i < examples->offset[examples->count]; i++)
        if (examples->types[i] < 0 || (size_t)examples->types[i] >= types)
            FAIL(E_SHAPE, "training token %zu is of segment %d but the model has %zu", i, examples->types[i], types);
out:
    return status;
}

static int check_labels(const struct model *model, const struct examples *examples, const struct train_plan *plan) {
    int status = 0;
    size_t classes = model->config.classes;
    if (!examples->label) FAIL(E_ARGUMENT, "classification needs labelled examples");
    if (examples->classes > classes)
        FAIL(E_SHAPE, "the examples have %zu classes but the model has %zu", examples->classes, classes);
    for (size_t i = 0; i < examples->count; i++)
        if (examples->label[i] < 0 || (size_t)examples->label[i] >= examples->classes)
            FAIL(E_SHAPE, "training example %zu has label %d but there are %zu classes", i, examples->label[i],
                 examples->classes);
    for (size_t k = 0; plan->class_weights && k < examples->classes; k++)
        TRY(check_range("class_weights", plan->class_weights[k], 0, 1e6));
    if ((plan->class_weights || plan->balance_classes) && plan->teacher && plan->micro_batch)
        FAIL(E_UNSUPPORTED, "class weights and a teacher together need the whole batch in one pass: leave out "
                            "micro_batch (activation checkpointing saves memory, too)");
out:
    return status;
}

static int check_targets(const struct model *model, const struct examples *examples, const struct train_plan *plan) {
    int status = 0;
    bool similarity = plan->objective == TRAIN_SIMILARITY;
    size_t count = similarity ? examples->count / 2 : examples->count;
    if (!examples->target) FAIL(E_ARGUMENT, "%s needs examples with scores", train_objective_name(plan->objective));
    if (similarity && (!examples->pair || examples->count % 2)) FAIL(E_ARGUMENT, "similarity needs examples in pairs");
    if (!similarity && model->config.classes != 1)
        FAIL(E_SHAPE, "regression needs a classification head of one output; the model has %zu classes",
             model->config.classes);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(examples->target[i])) FAIL(E_SHAPE, "training score %zu is not a number", i);
out:
    return status;
}

static int check_mask(const struct model *model, const struct train_plan *plan, const char *what) {
    int status = 0;
    size_t V = model->config.vocabulary;
    if (plan->mask_id < 0 || (size_t)plan->mask_id >= V)
        FAIL(E_ARGUMENT, "%s needs a tokenizer with a mask token (mask_id %d)", what, plan->mask_id);
    if (plan->special_ids < 0 || (size_t)plan->special_ids >= V)
        FAIL(E_ARGUMENT, "special_ids %d leaves no ordinary token in a vocabulary of %zu", plan->special_ids, V);
out:
    return status;
}

static int check_objective(const struct model *model, const struct examples *examples, const struct train_plan *plan) {
    int status = 0;
    switch (plan->objective) {
    case TRAIN_CLASSIFICATION: TRY(check_labels(model, examples, plan)); break;
    case TRAIN_REGRESSION:
    case TRAIN_SIMILARITY: TRY(check_targets(model, examples, plan)); break;
    case TRAIN_QUESTION_ANSWERING:
        if (!examples->start || !examples->end) FAIL(E_ARGUMENT, "question_answering needs examples with answers");
        break;
    case TRAIN_MASKED_LM:
        TRY(check_range("mask_frac", plan->mask_frac, 1e-6, 1));
        TRY(check_mask(model, plan, "masked-LM training"));
        break;
    default: break;
    }
    if (plan->word_dropout > 0 && plan->objective != TRAIN_MASKED_LM && plan->objective != TRAIN_CAUSAL_LM)
        TRY(check_mask(model, plan, "word dropout"));
out:
    return status;
}

int train_check(const struct model *model, const struct examples *examples, const struct train_plan *plan,
                const struct train_host *host) {
    int status = 0;
    TRY(check_numbers(plan));
    if (examples->count == 0) FAIL(E_ARGUMENT, "there is nothing to train on: the task gave no examples");
    if (plan->evaluate_steps && !(host && host->evaluate))
        FAIL(E_ARGUMENT, "evaluate_steps %zu: there is nothing to evaluate with", plan->evaluate_steps);
    if (plan->patience && !plan->evaluate_steps) FAIL(E_ARGUMENT, "patience %zu needs evaluate_steps", plan->patience);
    TRY(check_tokens(model, examples));
    TRY(check_objective(model, examples, plan));
out:
    return status;
}
