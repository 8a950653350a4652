/* Round to nearest: each weight goes to the closest point of a uniform grid, without looking at data.
 *
 * 8 bits: one symmetric scale per row. 4 bits: a scale, and when asymmetric a zero point, per group of 32, 64
 * or 128 inputs. The grid spans min..max of its group and always contains 0, so pruned weights stay zero.
 * The layers are then multiplied from their packed bytes. The naive method that GPTQ, AWQ and their kin must
 * beat. Grid: Frantar et al. 2023 (GPTQ), Quantizer of the reference code; TECHNIQUES 2.6.
 */
#include "technique.h"
#include "technique_rounding.h"

#include "model/linear_round.h"
#include "model/linear_select.h"

struct options {
    int64_t bits, group;
    bool symmetric;
    struct option_names layers, skip;
};

static const struct option rtn_options[] = {
    {"bits", OPTION_INTEGER, "8", 0, 0, "8|4", "bits", "bits of a weight", offsetof(struct options, bits)},
    {"group", OPTION_INTEGER, "0", 0, 0, "0|32|64|128", "weights",
     "weights that share a scale; 0: a row at 8 bits, 64 at 4 bits", offsetof(struct options, group)},
    {"symmetric", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "grid symmetric around zero; 8 bits always is",
     offsetof(struct options, symmetric)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave in f32",
     offsetof(struct options, skip)},
    OPTION_END,
};

static const struct weight_format *format_of(const struct options *options) {
    return weight_format_find(options->bits == 4 ? "int4" : "int8");
}

static struct weight_shape shape_of(const struct linear *linear, const struct options *options) {
    return (struct weight_shape){.rows = linear->rows,
                                 .columns = linear->columns,
                                 .group = (size_t)options->group,
                                 .symmetric = options->symmetric};
}

static int settle(void *opaque) {
    struct options *options = opaque;
    return technique_settle_grid(options->bits, &options->group, options->symmetric);
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    size_t bytes;
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        if (!linear_selected(linear, &options->layers, &options->skip)) continue;
        if (linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already", linear->name, linear->weight.format->name);
        struct weight_shape shape = shape_of(linear, options);
        TRY(format_of(options)->size_bytes(&shape, &bytes));
    }
out:
    return status;
}

static int foresee(struct technique_context *context, const void *opaque) {
    const struct options *options = opaque;
    for (size_t i = 0; i < context->model->linear_count; i++) {
        struct linear *linear = &context->model->linears[i];
        if (linear_selected(linear, &options->layers, &options->skip)) linear_shape_packed(linear, format_of(options));
    }
    return 0;
}

static int layer_round(struct technique_context *context, struct rounding_error *error, const struct options *options,
                       struct linear *linear) {
    int status = 0;
    const struct weight_format *format = format_of(options);
    struct weight_shape shape = shape_of(linear, options);
    size_t groups = weight_grid_groups(format, &shape);
    void *scale = NULL, *zero = NULL;
    TRY(memory_take(&scale, linear->rows * groups, sizeof(float)));
    if (!options->symmetric) TRY(memory_take(&zero, linear->rows * groups, 1));
    struct weight_grid grid = {.scale = scale, .zero = zero, .groups = groups};
    TRY(weight_grid_minmax(format, &shape, linear->value, &grid));
    TRY(linear_round(context->model, linear, format, shape.group, shape.symmetric, &grid, error));
out:
    memory_release(scale);
    memory_release(zero);
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *options) {
    int status = 0;
    const struct options *chosen = options;
    struct model *model = context->model;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!linear_selected(linear, &chosen->layers, &chosen->skip)) continue;
        if (context->progress != NULL &&
            context->progress(context->host, (double)i / (double)model->linear_count, linear->name))
            FAIL(E_INTERRUPTED, "stopped");
        TRY(layer_round(context, opaque, chosen, linear));
    }
out:
    return status;
}

extern const struct technique technique_rtn;
const struct technique technique_rtn = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "rtn",
    .summary = "Rounds weights to the nearest of 256 or 16 levels and multiplies from the packed bytes.",
    .source = "Frantar et al. 2023 (GPTQ), the round-to-nearest baseline; grid as in its reference code",
    .options = rtn_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct rounding_error),
    .settle = settle,
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = technique_report_rounding,
};
