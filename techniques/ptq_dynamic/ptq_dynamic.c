/* Post-training quantization to 8 bits without calibration data: weights are rounded once, activations as they come.
 *
 * Weights take one scale for the whole matrix, per row, or per group of 32, 64 or 128 inputs, with or without zero
 * points. Activations take one scale per token, or one per sequence ("tensor": what other libraries compute for a batch
 * of one; formats/activation.h). Everything is multiplied in integers from the packed bytes.
 *
 * Presets are the conventions of two libraries, so that their losses can be measured beside ours:
 *
 *   onnxruntime (quantize_dynamic)  weights per tensor, scale absmax/127, codes -127..127 (asymmetric: 256 levels);
 *                                   activations per tensor by DynamicQuantizeLinear, 8 bits with a zero point
 *   torch (default_dynamic_qconfig  weights per tensor, scale absmax/127.5, w * (1/scale), codes -128..127; activations
 *   on x86)                         per tensor in 7 bits (reduce_range) with a zero point; their scale in f32, where
 *                                   torch takes it in double
 *
 * Sources: TECHNIQUES 2.3; the onnxruntime quantization manual; torch.ao.quantization. */
#include "technique.h"
#include "technique_rounding.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "model/linear_round.h"
#include "model/linear_select.h"

struct options {
    const char *preset, *granularity, *activations, *activation_grid;
    int64_t group, activation_bits;
    bool symmetric;
    struct option_names layers, skip, keep;
};

static const struct option ptq_dynamic_options[] = {
    {"preset", OPTION_CHOICE, "none", 0, 0, "none|onnxruntime|torch", NULL,
     "conventions of a library; options left on auto follow it", offsetof(struct options, preset)},
    {"granularity", OPTION_CHOICE, "auto", 0, 0, "auto|tensor|row|group", NULL,
     "weights that share a scale; auto: a row, with a preset the tensor", offsetof(struct options, granularity)},
    {"group", OPTION_INTEGER, "0", 0, 0, "0|32|64|128", "weights",
     "weights of a group; 0: 64 where granularity is group", offsetof(struct options, group)},
    {"symmetric", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "weight grid symmetric around zero",
     offsetof(struct options, symmetric)},
    {"activations", OPTION_CHOICE, "auto", 0, 0, "auto|token|tensor", NULL,
     "activations that share a scale: a token, or a sequence; auto: a token, with a preset the sequence",
     offsetof(struct options, activations)},
    {"activation_grid", OPTION_CHOICE, "auto", 0, 0, "auto|symmetric|asymmetric", NULL,
     "asymmetric: with a zero point; auto: symmetric, with a preset asymmetric",
     offsetof(struct options, activation_grid)},
    {"activation_bits", OPTION_INTEGER, "0", 0, 0, "0|7|8", "bits", "bits of an activation; 0: 8, with preset torch 7",
     offsetof(struct options, activation_bits)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave in f32",
     offsetof(struct options, skip)},
    {"keep", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "more layers to leave in f32, such as a sensitivity analysis names",
     offsetof(struct options, keep)},
    OPTION_END,
};

static bool is(const char *option, const char *word) { return strcmp(option, word) == 0; }

static const struct weight_format *format_of(const struct options *options) {
    if (is(options->granularity, "group")) return weight_format_find("int8_groups");
    return weight_format_find(options->symmetric ? "int8" : "int8_affine");
}

static bool chosen(const struct linear *linear, const struct options *options) {
    return linear_selected(linear, &options->layers, &options->skip) &&
           linear_selected(linear, &options->layers, &options->keep);
}

/* Put what "auto" means in its place. */
static int settle(void *opaque) {
    int status = 0;
    struct options *options = opaque;
    bool preset = !is(options->preset, "none");
    if (is(options->granularity, "auto")) options->granularity = preset ? "tensor" : "row";
    if (is(options->granularity, "group") && options->group == 0) options->group = 64;
    if (is(options->activations, "auto")) options->activations = preset ? "tensor" : "token";
    if (is(options->activation_grid, "auto")) options->activation_grid = preset ? "asymmetric" : "symmetric";
    if (options->activation_bits == 0) options->activation_bits = is(options->preset, "torch") ? 7 : 8;
    if (!is(options->granularity, "group") && options->group != 0)
        FAIL(E_UNSUPPORTED, "group is for granularity group (got %lld with %s)", (long long)options->group,
             options->granularity);
    if (is(options->granularity, "group") && !is(options->preset, "none"))
        FAIL(E_UNSUPPORTED, "preset %s has no groups", options->preset);
    if (is(options->preset, "torch") && !options->symmetric)
        FAIL(E_UNSUPPORTED, "preset torch has symmetric weights only");
out:
    return status;
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
        struct weight_shape shape = {linear->rows, linear->columns, (size_t)options->group, options->symmetric};
        TRY(format_of(options)->size_bytes(&shape, &bytes));
        left++;
    }
    if (left == 0) FAIL(E_UNSUPPORTED, "skip and keep leave no layer to quantize");
out:
    return status;
}

static int foresee(struct technique_context *context, const void *options) {
    for (size_t i = 0; i < context->model->linear_count; i++) {
        struct linear *linear = &context->model->linears[i];
        if (chosen(linear, options)) linear_shape_packed(linear, format_of(options));
    }
    return 0;
}

/* ---- grids ------------------------------------------------------------------------------------------- */

static int find_range(const float *w, size_t count, float *low, float *high) {
    int status = 0;
    *low = *high = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(w[i])) FAIL(E_NUMERIC, "a weight is not finite");
        if (w[i] < *low) *low = w[i];
        if (w[i] > *high) *high = w[i];
    }
out:
    return status;
}

/* One scale (and zero point) for `count` weights, in the preset's convention. */
static int choose_scale(const struct options *options, const float *w, size_t count, float *scale, uint8_t *zero) {
    int status = 0;
    float low, high;
    TRY(find_range(w, count, &low, &high));
    if (is(options->preset, "torch")) *scale = fmaxf(fmaxf(-low, high) / 127.5f, FLT_EPSILON);
    else TRY(weight_grid_range(format_of(options), options->symmetric, low, high, scale, zero));
out:
    return status;
}

static int choose_grid(const struct options *options, const struct linear *linear, const struct weight_shape *shape,
                       struct weight_grid *grid) {
    int status = 0;
    size_t R = linear->rows, N = linear->columns;
    bool tensor = is(options->granularity, "tensor");
    if (is(options->granularity, "group")) return weight_grid_minmax(format_of(options), shape, linear->value, grid);
    for (size_t r = 0; r < R; r++) {
        uint8_t *zero = grid->zero ? &grid->zero[r] : NULL;
        if (!tensor || r == 0) {
            TRY(choose_scale(options, linear->value + r * N, tensor ? R * N : N, &grid->scale[r], zero));
        } else {
            grid->scale[r] = grid->scale[0];
            if (zero) *zero = grid->zero[0];
        }
    }
out:
    return status;
}

/* ---- the stage --------------------------------------------------------------------------------------- */

static int layer_quantize(struct technique_context *context, struct rounding_error *error,
                          const struct options *options, struct linear *linear) {
    int status = 0;
    const struct weight_format *format = format_of(options);
    struct weight_shape shape = {linear->rows, linear->columns, (size_t)options->group, options->symmetric};
    struct activation_quantizer activation = {
        .range = is(options->activations, "tensor") ? ACTIVATION_PER_TENSOR : ACTIVATION_PER_TOKEN,
        .asymmetric = is(options->activation_grid, "asymmetric"),
        .reduced = options->activation_bits == 7,
    };
    struct weight_grid grid = {.groups = weight_grid_groups(format, &shape), .as_torch = is(options->preset, "torch")};
    void *scale = NULL, *zero = NULL;
    TRY(memory_take(&scale, linear->rows * grid.groups, sizeof(float)));
    if (!options->symmetric) TRY(memory_take(&zero, linear->rows * grid.groups, 1));
    grid.scale = scale, grid.zero = zero;
    status = choose_grid(options, linear, &shape, &grid);
    if (status < 0) {
        error_prefix(status, "layer '%s'", linear->name);
        goto out;
    }
    TRY(linear_round(context->model, linear, format, shape.group, shape.symmetric, &grid, error));
    TRY(linear_set_activation(context->model, linear, &activation));
out:
    memory_release(scale);
    memory_release(zero);
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

extern const struct technique technique_ptq_dynamic;
const struct technique technique_ptq_dynamic = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "ptq_dynamic",
    .summary = "Rounds weights to 8 bits and quantizes activations as they come, without calibration data.",
    .source =
        "dynamic quantization as in ONNX Runtime and torch (quantize_dynamic); per token and row as in Dettmers et "
        "al. 2022, section 2 (vector-wise)",
    .options = ptq_dynamic_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct rounding_error),
    .settle = settle,
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = technique_report_rounding,
};
