/* LLM.int8(): 8-bit weights and activations, but for the columns of activations that hold outliers.
 *
 * Vector-wise quantization gives every row of the weights and every token a scale of its own. Where a token of a
 * sequence reaches the threshold in a column, that column is left out of the codes of all its tokens, and multiplied in
 * floating point by the weights' dequantized column: the large values keep their precision and the others a finer grid.
 * Which columns those are is found anew for each input, so nothing is calibrated; weights are eight bits throughout, as
 * in bitsandbytes. Its sequence is a batch; ours do not see each other (formats/activation.h), and in generation the
 * prompt is one and each token after it.
 *
 * The default threshold is the paper's, found on models from 2.7 billion weights on. A small model spreads its large
 * values over more columns of lesser size: of the perplexity that 8 bits cost SmolLM2-135M on WikiText-2 (8 windows of
 * 512: 30.07 in f32, 31.04 by rtn), 6 leaves half (30.57), 2 a fifth (30.26), and 1, with nearly all columns in
 * floating point, nothing (30.06).
 *
 * Activations are f32 here, where the paper's are f16. The naive method to beat: rtn in 8 bits, which is threshold 0.
 * Source: Dettmers et al. 2022, sections 2 and 3; TECHNIQUES 2.9. */
#include "technique.h"
#include "technique_rounding.h"

#include "model/linear_round.h"
#include "model/linear_select.h"

struct options {
    double threshold;
    struct option_names layers, skip, keep;
};

static const struct option llm_int8_options[] = {
    {"threshold", OPTION_REAL, "6", 0, 1e6, NULL, NULL,
     "magnitude at which an activation's column is left out of the codes; 0: none is",
     offsetof(struct options, threshold)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave in f32",
     offsetof(struct options, skip)},
    {"keep", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "more layers to leave in f32, such as a sensitivity analysis names",
     offsetof(struct options, keep)},
    OPTION_END,
};

static bool chosen(const struct linear *linear, const struct options *options) {
    return linear_selected(linear, &options->layers, &options->skip) &&
           linear_selected(linear, &options->layers, &options->keep);
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    size_t bytes, left = 0;
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    TRY(linear_selection_check(context->model, &options->layers, &options->keep));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        if (!chosen(linear, options)) continue;
        if (linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already", linear->name, linear->weight.format->name);
        struct weight_shape shape = {linear->rows, linear->columns, 0, true};
        TRY(weight_format_find("int8")->size_bytes(&shape, &bytes));
        left++;
    }
    if (left == 0) FAIL(E_UNSUPPORTED, "skip and keep leave no layer to quantize");
out:
    return status;
}

static int foresee(struct technique_context *context, const void *options) {
    for (size_t i = 0; i < context->model->linear_count; i++) {
        struct linear *linear = &context->model->linears[i];
        if (chosen(linear, options)) linear_shape_packed(linear, weight_format_find("int8"));
    }
    return 0;
}

static int layer_quantize(struct technique_context *context, struct rounding_error *error,
                          const struct options *options, struct linear *linear) {
    int status = 0;
    const struct weight_format *format = weight_format_find("int8");
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    struct activation_quantizer activation = {.outlier = (float)options->threshold};
    struct weight_grid grid = {0};
    void *scale = NULL;
    TRY(memory_take(&scale, linear->rows, sizeof(float)));
    grid.scale = scale;
    TRY(weight_grid_minmax(format, &shape, linear->value, &grid));
    TRY(linear_round(context->model, linear, format, 0, true, &grid, error));
    TRY(linear_set_activation(context->model, linear, &activation));
out:
    memory_release(scale);
    return status;
}

static int apply(struct technique_context *context, void *state, const void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    struct model *model = context->model;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!chosen(linear, options)) continue;
        if (context->progress != NULL &&
            context->progress(context->host, (double)i / (double)model->linear_count, linear->name))
            FAIL(E_INTERRUPTED, "stopped");
        TRY(layer_quantize(context, state, options, linear));
    }
out:
    return status;
}

extern const struct technique technique_llm_int8;
const struct technique technique_llm_int8 = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "llm_int8",
    .summary = "Rounds weights to 8 bits per row and activations per token, but for columns with outliers.",
    .source = "Dettmers et al. 2022 (LLM.int8()), sections 2 and 3; as in bitsandbytes",
    .options = llm_int8_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct rounding_error),
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = technique_report_rounding,
};
