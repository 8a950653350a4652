/* qlora: train low-rank updates over a base that is packed in 4 (or 8) bits and stays so (Dettmers et al. 2023).
 *
 * Layers that an earlier stage packed are the base as they are; others are rounded to nearest first. While training, a
 * block's values are unpacked to f32 when it is at work, so the model takes its packed bytes and little more.
 *
 * A layer of the artifact is one matrix, so the end has two ways, and what each costs is measured where the task has a
 * validation split: score_base before training, score_merged with the updates merged in f32, score_repacked with the
 * merged layers rounded again, in the format and with the quantization of inputs that each had.
 *   merge: f32     keeps all that was learned and gives up the smaller file
 *   merge: repack  keeps the file small and loses what of the updates is below half a step of the grid
 *                  (repack_relative_error_frac beside update_relative_frac says how much of it that is)
 */
#include "technique_rounding.h"
#include "technique_training.h"

#include <math.h>
#include <string.h>

#include "train/adapter_set.h"

struct options {
    struct train_options train;
    int64_t bits, group, rank;
    bool symmetric, rank_stabilized, train_head;
    double alpha, lora_dropout;
    const char *merge;
    struct option_names layers, skip;
};

static const struct option qlora_options[] = {
    {"bits", OPTION_INTEGER, "4", 0, 0, "8|4", "bits", "bits of a weight of layers that are not packed yet",
     offsetof(struct options, bits)},
    {"group", OPTION_INTEGER, "0", 0, 0, "0|32|64|128", "weights",
     "weights that share a scale; 0: a row at 8 bits, 64 at 4 bits", offsetof(struct options, group)},
    {"symmetric", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "grid symmetric around zero; 8 bits always is",
     offsetof(struct options, symmetric)},
    {"merge", OPTION_CHOICE, "repack", 0, 0, "repack|f32", NULL,
     "at the end: round the merged layers again, or leave them in f32", offsetof(struct options, merge)},
    {"rank", OPTION_INTEGER, "8", 1, 4096, NULL, NULL, "Rank of an update; at most the smaller side of a layer.",
     offsetof(struct options, rank)},
    {"alpha", OPTION_REAL, "16", 0, 100000, NULL, NULL, "Updates are scaled by alpha/rank.",
     offsetof(struct options, alpha)},
    {"rank_stabilized", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,
     "Scale by alpha over the root of the rank instead, which suits high ranks.",
     offsetof(struct options, rank_stabilized)},
    {"lora_dropout", OPTION_REAL, "0", 0, 0.9, NULL, "frac", "Share of an update's inputs zeroed while training.",
     offsetof(struct options, lora_dropout)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names to pack and update; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave as they are",
     offsetof(struct options, skip)},
    {"train_head", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL,
     "Train the task's head (pooler, classifier, span) as a whole beside the updates.",
     offsetof(struct options, train_head)},
    TRAIN_OPTIONS(struct options, train, "3", "0.0005"),
    OPTION_END,
};

struct state {
    struct train_result result;
    size_t trained;
    double base, merged, repacked;                     /* validation scores; NaN: not measured */
    double update_squared, error_squared, all_squared; /* sums over all values of updated layers */
};

/* The base may be packed already, so gradients of the layers themselves are not asked for. */
static uint32_t needs_of(const void *options) {
    return technique_training_needs(&((const struct options *)options)->train) & ~(uint32_t)NEEDS_GRADIENTS;
}

static const struct weight_format *format_of(const struct options *options) {
    return weight_format_find(options->bits == 4 ? "int4" : "int8");
}

static struct weight_shape shape_of(const struct linear *linear, const struct options *options) {
    return (struct weight_shape){linear->rows, linear->columns, (size_t)options->group, options->symmetric};
}

static int settle(void *opaque) {
    int status = 0;
    struct options *options = opaque;
    TRY(technique_settle_grid(options->bits, &options->group, options->symmetric));
    TRY(train_options_settle(&options->train));
out:
    return status;
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    size_t bytes;
    TRY(technique_training_probe(context, &options->train));
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        size_t side = linear->rows < linear->columns ? linear->rows : linear->columns;
        if (!linear_selected(linear, &options->layers, &options->skip)) continue;
        if (linear->block < 0)
            FAIL(E_UNSUPPORTED, "%s is outside the blocks: updates are for layers inside", linear->name);
        if ((size_t)options->rank > side)
            FAIL(E_UNSUPPORTED, "rank %lld is above the smaller side of %s, %zu", (long long)options->rank,
                 linear->name, side);
        struct weight_shape shape = shape_of(linear, options);
        if (linear->value) TRY(format_of(options)->size_bytes(&shape, &bytes));
    }
out:
    return status;
}

/* Layers that were packed are f32 when they end merged: of what is not there, no sizes are made up. */
static int foresee(struct technique_context *context, const void *opaque) {
    const struct options *options = opaque;
    bool repacks = strcmp(options->merge, "repack") == 0;
    for (size_t i = 0; i < context->model->linear_count; i++) {
        struct linear *linear = &context->model->linears[i];
        if (!linear_selected(linear, &options->layers, &options->skip) || repacks == !linear->value) continue;
        if (!repacks) return error_record(E_STATE, __FILE__, __LINE__, "%s is unpacked", linear->name);
        linear_shape_packed(linear, format_of(options));
    }
    return 0;
}

/* Round an f32 layer to nearest into a format. */
static int pack(struct model *model, struct linear *linear, const struct weight_format *format,
                const struct weight_shape *shape) {
    int status = 0;
    size_t groups = weight_grid_groups(format, shape);
    void *scale = NULL, *zero = NULL;
    TRY(memory_take(&scale, linear->rows * groups, sizeof(float)));
    if (!shape->symmetric) TRY(memory_take(&zero, linear->rows * groups, 1));
    struct weight_grid grid = {.scale = scale, .zero = zero, .groups = groups};
    TRY(weight_grid_minmax(format, shape, linear->value, &grid));
    TRY(linear_pack(model, linear, format, shape->group, shape->symmetric, &grid));
out:
    memory_release(scale);
    memory_release(zero);
    return status;
}

static int pack_base(struct model *model, const struct options *options) {
    int status = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        struct weight_shape shape = shape_of(linear, options);
        if (!linear->value || !linear_selected(linear, &options->layers, &options->skip)) continue;
        TRY(pack(model, linear, format_of(options), &shape));
    }
out:
    return status;
}

/* The score on the validation split; stays NaN where there is none. */
static int measure(struct technique_context *context, const struct model *model, double *score) {
    bool higher_is_better;
    if (!context->evaluate) return 0;
    int status = context->evaluate(context->host, model, score, &higher_is_better);
    if (status != E_STATE) return status;
    error_clear();
    *score = NAN;
    return 0;
}

/* Σ (a - b)² and, unless NULL, Σ a². */
static double distance(size_t count, const float *a, const float *b, double *squares) {
    double sum = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)a[i] - (double)b[i];
        sum += difference * difference;
        all += (double)a[i] * (double)a[i];
    }
    if (squares) *squares += all;
    return sum;
}

/* Round the merged layers again, each into the format that it has in `base` and with that layer's way to quantize its
 * input, and sum up what updates and rounding did. */
static int repack(struct state *state, const struct adapter_set *set, const struct model *base, struct model *merged) {
    int status = 0;
    void *block = NULL;
    for (size_t i = 0; i < base->linear_count; i++) {
        const struct weight *weight = &base->linears[i].weight;
        struct linear *linear = &merged->linears[i];
        size_t count = linear->rows * linear->columns;
        if (!set->adapted[i]) continue;
        memory_release(block);
        TRY(memory_take_raw(&block, 2 * count, sizeof(float)));
        float *before = block, *values = before + count;
        TRY(weight->format->unpack(&weight->shape, weight->packed, before));
        memcpy(values, linear->value, count * sizeof *values);
        state->update_squared += distance(count, values, before, &state->all_squared);
        TRY(pack(merged, linear, weight->format, &weight->shape));
        if (weight->format->quantizes_input) TRY(linear_set_activation(merged, linear, &weight->activation));
        TRY(weight->format->unpack(&linear->weight.shape, linear->weight.packed, before));
        state->error_squared += distance(count, values, before, NULL);
    }
out:
    memory_release(block);
    return status;
}

/* Measure both ways to end, and put the chosen one in the model's place. */
static int finish(struct technique_context *context, struct state *state, const struct options *options,
                  const struct adapter_set *set) {
    int status = 0;
    struct model merged = {0}, repacked = {0}, *chosen;
    TRY(adapter_set_merged(set, context->model, &merged));
    TRY(measure(context, &merged, &state->merged));
    TRY(model_copy(&repacked, &merged, NULL));
    TRY(repack(state, set, context->model, &repacked));
    TRY(measure(context, &repacked, &state->repacked));
    chosen = strcmp(options->merge, "f32") == 0 ? &merged : &repacked;
    model_close(context->model);
    *context->model = *chosen;
    *chosen = (struct model){0};
out:
    model_close(&merged);
    model_close(&repacked);
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *opaque_options) {
    int status = 0;
    struct state *state = opaque;
    const struct options *options = opaque_options;
    struct technique_training training;
    struct adapter_set set = {0};
    struct adapter_plan plan = {.rank = (size_t)options->rank,
                                .alpha = options->alpha,
                                .rank_stabilized = options->rank_stabilized,
                                .dropout = options->lora_dropout,
                                .seed = context->seed};
    state->base = state->merged = state->repacked = NAN;
    TRY(technique_training_open(&training, context, &options->train));
    TRY(pack_base(context->model, options));
    TRY(measure(context, context->model, &state->base));
    TRY(adapter_set_open(&set, context->model, &options->layers, &options->skip, &plan,
                         options->train_head ? train_objective_heads(training.plan.objective) : 0));
    state->trained = adapter_set_values(&set, context->model);
    TRY(adapter_set_train(&set, context->model, training.examples, &training.plan, &training.host, &state->result));
    TRY(finish(context, state, options, &set));
    TRY(technique_training_mark(&training, context->model));
out:
    adapter_set_close(&set);
    technique_training_close(&training);
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    const struct {
        const char *name;
        double value;
    } scores[] = {{"score_base", state->base}, {"score_merged", state->merged}, {"score_repacked", state->repacked}};
    (void)options;
    technique_training_report(context, &state->result);
    context->metric(context->host, "trained_values", "", (double)state->trained);
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++)
        if (!isnan(scores[i].value)) context->metric(context->host, scores[i].name, "", scores[i].value);
    if (state->all_squared <= 0) return 0;
    context->metric(context->host, "update_relative_frac", "frac", sqrt(state->update_squared / state->all_squared));
    context->metric(context->host, "repack_relative_error_frac", "frac",
                    sqrt(state->error_squared / state->all_squared));
    return 0;
}

extern const struct technique technique_qlora;
const struct technique technique_qlora = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "qlora",
    .summary = "Trains low-rank updates over a base that stays packed in 4 or 8 bits.",
    .source = "Dettmers et al. 2023 (QLoRA), section 3, on the grids of our packed formats",
    .needs = NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT | NEEDS_CACHE,
    .options = qlora_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .needs_of = needs_of,
    .settle = settle,
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = report,
};
