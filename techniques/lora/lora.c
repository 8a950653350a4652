/* lora: train low-rank updates of chosen layers while the model itself stays frozen (Hu et al. 2021).
 *
 * y = x·(W + s·B·A)ᵀ with A (rank, N), B (R, rank): a few per cent of the values learn, so gradients and the
 * optimizer's moments take a few per cent of their memory. At the end the updates are merged into the layers, up to one
 * f32 rounding per weight, and what follows in the pipeline sees plain layers; everything else keeps its bits.
 */
#include "technique_training.h"
#include "train/adapter_set.h"

struct options {
    struct train_options train;
    int64_t rank;
    double alpha, lora_dropout;
    bool rank_stabilized, train_head;
    struct option_names layers, skip;
};

static const struct option lora_options[] = {
    {"rank", OPTION_INTEGER, "8", 1, 4096, NULL, NULL, "Rank of an update; at most the smaller side of a layer.",
     offsetof(struct options, rank)},
    {"alpha", OPTION_REAL, "16", 0, 100000, NULL, NULL, "Updates are scaled by alpha/rank.",
     offsetof(struct options, alpha)},
    {"rank_stabilized", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,
     "Scale by alpha over the root of the rank instead, which suits high ranks.",
     offsetof(struct options, rank_stabilized)},
    {"lora_dropout", OPTION_REAL, "0", 0, 0.9, NULL, "frac", "Share of an update's inputs zeroed while training.",
     offsetof(struct options, lora_dropout)},
    {"layers", OPTION_NAMES, "[query, value]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names that get an update; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave frozen",
     offsetof(struct options, skip)},
    {"train_head", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL,
     "Train the task's head (pooler, classifier, span) as a whole beside the updates.",
     offsetof(struct options, train_head)},
    TRAIN_OPTIONS(struct options, train, "3", "0.0005"),
    OPTION_END,
};

struct state {
    struct train_result result;
    size_t trained, values;
};

static uint32_t needs_of(const void *options) {
    return technique_training_needs(&((const struct options *)options)->train);
}

static struct adapter_plan plan_of(const struct technique_context *context, const struct options *options) {
    return (struct adapter_plan){.rank = (size_t)options->rank,
                                 .alpha = options->alpha,
                                 .rank_stabilized = options->rank_stabilized,
                                 .dropout = options->lora_dropout,
                                 .seed = context->seed};
}

static int settle(void *opaque) {
    const struct options *options = opaque;
    return train_options_settle(&options->train);
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    TRY(technique_training_probe(context, &options->train));
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        size_t side = linear->rows < linear->columns ? linear->rows : linear->columns;
        if (!linear_selected(linear, &options->layers, &options->skip)) continue;
        if (linear->block < 0)
            FAIL(E_UNSUPPORTED, "%s is outside the blocks: updates are for layers inside", linear->name);
        if (linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s: qlora updates packed layers", linear->name,
                 linear->weight.format->name);
        if ((size_t)options->rank > side)
            FAIL(E_UNSUPPORTED, "rank %lld is above the smaller side of %s, %zu", (long long)options->rank,
                 linear->name, side);
    }
out:
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *opaque_options) {
    int status = 0;
    struct state *state = opaque;
    const struct options *options = opaque_options;
    struct model *model = context->model;
    struct technique_training training;
    struct adapter_set set = {0};
    struct adapter_plan plan = plan_of(context, options);
    TRY(technique_training_open(&training, context, &options->train));
    TRY(adapter_set_open(&set, model, &options->layers, &options->skip, &plan,
                         options->train_head ? train_objective_heads(training.plan.objective) : 0));
    state->trained = adapter_set_values(&set, model);
    for (size_t i = 0; i < model->parameter_count; i++)
        if (!model->parameters[i].aside) state->values += model->parameters[i].rows * model->parameters[i].columns;
    TRY(adapter_set_train(&set, model, training.examples, &training.plan, &training.host, &state->result));
    adapter_set_merge(&set, model);
    TRY(technique_training_mark(&training, model));
out:
    adapter_set_close(&set);
    technique_training_close(&training);
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    (void)options;
    technique_training_report(context, &state->result);
    context->metric(context->host, "trained_values", "", (double)state->trained);
    context->metric(context->host, "trained_frac", "frac", (double)state->trained / (double)state->values);
    return 0;
}

extern const struct technique technique_lora;
const struct technique technique_lora = {
    .abi = TECHNIQUE_ABI,
    .version = 3,
    .name = "lora",
    .summary = "Trains low-rank updates of frozen layers and merges them.",
    .source = "Hu et al. 2021 (LoRA), section 4.1; rank-stabilised: Kalajdzievski 2023 (rsLoRA)",
    .needs = NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT | NEEDS_GRADIENTS | NEEDS_CACHE,
    .options = lora_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .needs_of = needs_of,
    .settle = settle,
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
};
