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

static bool is_word(const struct option_names *words, const char *word) {
    return words->count == 1 && strcmp(words->items[0], word) == 0;
}

bool train_options_weigh_classes(const struct train_options *options) {
    return options->class_weights.count > 0 && !is_word(&options->class_weights, "off");
}

static int read_weight(const struct option_names *words, size_t i, double *weight) {
    char *end;
    *weight = strtod(words->items[i], &end);
    if (!*end && end != words->items[i] && *weight >= 0 && *weight <= 1e6) return 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "class_weights: weight %zu must be a number in 0..1e6 (got %s)",
                        i + 1, words->items[i]);
}

/* Options that an objective has no use for, and that say so by being set. */
static int check_use(const struct train_options *o, enum train_objective objective) {
    bool tokens = objective == TRAIN_MASKED_LM || objective == TRAIN_CAUSAL_LM;
    const char *option = NULL, *of = NULL;
    if (o->r_drop > 0 && objective != TRAIN_CLASSIFICATION) option = "r_drop", of = "classification";
    if (train_options_weigh_classes(o) && objective != TRAIN_CLASSIFICATION)
        option = "class_weights", of = "classification";
    if (o->word_dropout > 0 && tokens) option = "word_dropout", of = "other objectives than language models";
    if (o->label_smoothing > 0 && objective != TRAIN_CLASSIFICATION && !tokens)
        option = "label_smoothing", of = "classification and language models";
    if (!option) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "%s is of %s, and the objective is %s", option, of,
                        train_objective_name(objective));
}

int train_options_settle(const struct train_options *options) {
    int status = 0;
    const struct option_names *words = &options->class_weights;
    double weight;
    if (options->dropout < 0 && options->dropout != -1)
        FAIL(E_ARGUMENT, "dropout must be -1 or in 0..0.9 (got %g)", options->dropout);
    if (options->r_drop > 0 && options->dropout == 0)
        FAIL(E_ARGUMENT, "r_drop %g compares two passes with dropout, and dropout is 0", options->r_drop);
    if (options->patience > 0 && options->evaluate_steps == 0)
        FAIL(E_ARGUMENT, "patience %lld counts evaluations, and evaluate_steps is 0", (long long)options->patience);
    if (strcmp(options->optimizer, "sgd") == 0 && options->nesterov && options->momentum == 0)
        FAIL(E_ARGUMENT, "nesterov needs a momentum above 0");
    for (size_t i = 0; i < words->count && !is_word(words, "balanced") && !is_word(words, "off"); i++)
        TRY(read_weight(words, i, &weight));
    if (strcmp(options->objective, "task") != 0)
        TRY(check_use(options, train_options_objective(options, TRAIN_CLASSIFICATION)));
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
    TRY(check_use(options, objective));
    if (model && options->r_drop > 0 && train_options_dropout(options, &model->config) == 0)
        FAIL(E_UNSUPPORTED,
             "r_drop %g compares two passes with dropout, and a %s model has none unless it is asked for",
             options->r_drop, model->config.family);
out:
    return status;
}

int train_options_check_classes(const struct train_options *options, size_t classes) {
    const struct option_names *words = &options->class_weights;
    if (!train_options_weigh_classes(options) || is_word(words, "balanced") || words->count == classes) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__,
                        "class_weights must be balanced, off, or %zu numbers, one for each class (got %zu)", classes,
                        words->count);
}

/* "balanced", "off", or a number for each class. */
static int class_weights(const struct train_options *options, size_t classes, struct train_plan *plan,
                         double **weights) {
    int status = 0;
    const struct option_names *words = &options->class_weights;
    void *block = NULL;
    if (!train_options_weigh_classes(options)) goto out;
    if (is_word(words, "balanced")) {
        plan->balance_classes = true;
        goto out;
    }
    TRY(train_options_check_classes(options, classes));
    TRY(memory_take(&block, classes, sizeof **weights));
    *weights = block;
    for (size_t i = 0; i < classes; i++) TRY(read_weight(words, i, &(*weights)[i]));
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
    if (objective == TRAIN_CLASSIFICATION) TRY(class_weights(o, classes, plan, weights));
out:
    return status;
}
