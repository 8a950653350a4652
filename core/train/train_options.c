/* Options to plan. */
#include "train/train_options.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "model/family.h"

/* Which of "a|b|c" a choice is: enumerations are in the order of their option's choices. */
static int choice_index(const char *choices, const char *choice) {
    size_t length = strlen(choice);
    int index = 0;
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL, index++)
        if (strncmp(at, choice, length) == 0 && (at[length] == '|' || !at[length])) return index;
    CHECK(false, "'%s' is not one of %s", choice, choices);
    return 0;
}

enum train_objective train_options_objective(const struct train_options *options, enum train_objective task) {
    enum train_objective objective = task;
    if (strcmp(options->objective, "task") != 0)
        CHECK(train_objective_find(options->objective, &objective) == 0, "%s", error_text());
    return objective;
}

bool train_options_read_text(const struct train_options *options) {
    return strcmp(options->objective, "masked_lm") == 0 || strcmp(options->objective, "causal_lm") == 0;
}

int train_options_settle(const struct train_options *options) {
    int status = 0;
    if (options->dropout < 0 && options->dropout != -1)
        FAIL(E_ARGUMENT, "dropout must be -1 or in 0..0.9 (got %g)", options->dropout);
    if (options->r_drop > 0 && options->dropout == 0)
        FAIL(E_ARGUMENT, "r_drop %g compares two passes with dropout, and dropout is 0", options->r_drop);
out:
    return status;
}

int train_options_check(const struct train_options *options, enum train_objective task, const struct model *model) {
    int status = 0;
    enum train_objective objective = train_options_objective(options, task);
    unsigned missing = model ? train_objective_heads(objective) & ~model->config.model_heads : 0;
    if (!train_options_read_text(options) && objective != task)
        FAIL(E_UNSUPPORTED, "the task's data teaches %s, not %s", train_objective_name(task), options->objective);
    if (missing) FAIL(E_UNSUPPORTED, "the model has no %s head", model_head_name((enum model_head)missing));
out:
    return status;
}

/* "balanced", "off", or a number for each class. */
static int class_weights(const struct option_names *words, size_t classes, struct train_plan *plan, double **weights) {
    int status = 0;
    void *block = NULL;
    if (words->count == 0 || (words->count == 1 && strcmp(words->items[0], "off") == 0)) goto out;
    if (words->count == 1 && strcmp(words->items[0], "balanced") == 0) {
        plan->balance_classes = true;
        goto out;
    }
    if (words->count != classes)
        FAIL(E_ARGUMENT, "class_weights must be balanced, off, or %zu numbers, one for each class (got %zu)", classes,
             words->count);
    TRY(memory_take(&block, classes, sizeof **weights));
    *weights = block;
    for (size_t i = 0; i < classes; i++) {
        char *end;
        (*weights)[i] = strtod(words->items[i], &end);
        if (*end || end == words->items[i] || !((*weights)[i] >= 0 && (*weights)[i] <= 1e6))
            FAIL(E_ARGUMENT, "class_weights: weight %zu must be a number in 0..1e6 (got %s)", i + 1, words->items[i]);
    }
    plan->class_weights = *weights;
out:
    return status;
}

double train_options_dropout(const struct train_options *options, const struct model_config *config) {
    if (options->dropout >= 0) return options->dropout;
    return config->norm == NORM_RMS ? 0 : 0.1;
}

int train_options_plan(const struct train_options *options, enum train_objective objective, size_t classes,
                       struct train_plan *plan, double **weights) {
    int status = 0;
    const struct train_options *o = options;
    *weights = NULL;
    TRY(train_options_settle(o));
    train_plan_defaults(plan);
    plan->objective = objective;
    plan->epochs = o->epochs;
    plan->steps = (size_t)o->steps;
    plan->batch = (size_t)o->batch;
    plan->micro_batch = (size_t)o->micro_batch;
    plan->optimizer = (enum optimizer_kind)choice_index("adamw|adam_l2|sgd", o->optimizer);
    plan->rate = o->rate;
    plan->warmup_frac = o->warmup_frac;
    plan->schedule = (enum schedule_kind)choice_index("constant|linear|cosine|polynomial", o->schedule);
    plan->schedule_power = o->schedule_power;
    plan->schedule_end_frac = o->schedule_end_frac;
    plan->beta1 = o->beta1;
    plan->beta2 = o->beta2;
    plan->epsilon = o->epsilon;
    plan->momentum = o->momentum;
    plan->nesterov = o->nesterov;
    plan->weight_decay = o->weight_decay;
    plan->clip_norm = o->clip_norm;
    plan->dropout = o->dropout;
    plan->word_dropout = o->word_dropout;
    plan->r_drop = o->r_drop;
    plan->label_smoothing = o->label_smoothing;
    plan->mask_frac = o->mask_frac;
    plan->max_tokens = (size_t)o->max_tokens;
    plan->evaluate_steps = (size_t)o->evaluate_steps;
    plan->average_decay = o->average_decay;
    plan->patience = (size_t)o->patience;
    plan->keep_best = o->keep_best;
    plan->checkpoint_s = o->checkpoint_s;
    plan->compute = (enum train_compute)choice_index("f32|bf16", o->compute);
    plan->checkpoint_activations = o->checkpoint_activations;
    if (objective == TRAIN_CLASSIFICATION) TRY(class_weights(&o->class_weights, classes, plan, weights));
out:
    return status;
}
