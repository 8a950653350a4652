/* Static post-training quantization to int8: the range of every layer's input is chosen beforehand from calibration
 * data and stored with the layer, so that nothing is measured while the model runs. Weights are rounded to a symmetric
 * grid, one scale a row or one a matrix, and multiplied from their packed bytes.
 *
 * In order: ranges from what the f32 model computes (core/calibrate/observer.h); sensitivity, when asked: each layer
 * quantized alone (ptq_static_sensitivity.c); the worst are kept in f32; the others are packed, their biases corrected
 * when asked (ptq_static_bias.c). Smoothing and equalising are stages of their own before this one.
 * Source: Wu et al. 2020, "Integer quantization for deep learning inference"; Nagel et al. 2019 for biases; conventions
 * as in ONNX Runtime's quantize_static.
 */
#include "ptq_static.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/linear_select.h"

static const struct option ptq_static_options[] = {
    {"calibrator", OPTION_CHOICE, "percentile", 0, 0, CALIBRATOR_CHOICES, NULL, "how the range of an input is chosen",
     offsetof(struct ptq_static_options, calibrator)},
    {"percentile", OPTION_REAL, "99.999", 50.001, 100, NULL, "%", "percentile: share of the values inside the range",
     offsetof(struct ptq_static_options, percentile)},
    {"averaging", OPTION_REAL, "0.01", 0, 1, NULL, NULL,
     "moving_average: what a batch changes of the average; 0: the mean of all batches",
     offsetof(struct ptq_static_options, averaging)},
    {"bins", OPTION_INTEGER, "2048", 2, 65536, NULL, "bins", "of a histogram at first; even",
     offsetof(struct ptq_static_options, bins)},
    {"quantized_bins", OPTION_INTEGER, "128", 2, 65536, NULL, "bins",
     "entropy: that a histogram is squeezed into; even", offsetof(struct ptq_static_options, quantized_bins)},
    {"granularity", OPTION_CHOICE, "row", 0, 0, "row|tensor", NULL, "weights that share a scale",
     offsetof(struct ptq_static_options, granularity)},
    {"asymmetric", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "inputs have a zero point",
     offsetof(struct ptq_static_options, asymmetric)},
    {"bias_correction", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,
     "biases take over the mean of what quantizing changes in outputs",
     offsetof(struct ptq_static_options, bias_correction)},
    {"examples", OPTION_INTEGER, "128", 1, 1e6, NULL, "examples", "that ranges are chosen from",
     offsetof(struct ptq_static_options, examples)},
    {"batch", OPTION_INTEGER, "16", 1, 65536, NULL, "examples", "seen at a time: moving_average averages over batches",
     offsetof(struct ptq_static_options, batch)},
    {"max_tokens", OPTION_INTEGER, "512", 1, 1e6, NULL, "tokens", "of an example that are looked at",
     offsetof(struct ptq_static_options, max_tokens)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct ptq_static_options, layers)},
    {"keep", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave in f32",
     offsetof(struct ptq_static_options, keep)},
    {"keep_worst", OPTION_INTEGER, "0", 0, 1e6, NULL, "layers", "most sensitive ones to leave in f32",
     offsetof(struct ptq_static_options, keep_worst)},
    {"sensitivity", OPTION_CHOICE, "off", 0, 0, "off|outputs|task", NULL,
     "quantize each layer alone and see what outputs, or the task's metric as well, lose; keep_worst asks for outputs",
     offsetof(struct ptq_static_options, sensitivity)},
    {"sensitivity_examples", OPTION_INTEGER, "32", 1, 1e6, NULL, "examples", "whose outputs are compared",
     offsetof(struct ptq_static_options, sensitivity_examples)},
    OPTION_END,
};

/* Passes for every layer are worth keeping. */
static uint32_t needs_of(const void *opaque) {
    const struct ptq_static_options *options = opaque;
    bool sensitivity = options->keep_worst > 0 || strcmp(options->sensitivity, "off") != 0;
    return NEEDS_CALIBRATION_DATA | (sensitivity ? NEEDS_CACHE : 0);
}

/* Heads of language models read hidden states outside the passes that calibration makes. */
static bool is_observed(const struct linear *linear) {
    return linear->role != ROLE_HEAD && linear->role != ROLE_HEAD_TRANSFORM && linear->role != ROLE_PROJECT_OUT;
}

static int settle(void *opaque) {
    int status = 0;
    struct ptq_static_options *options = opaque;
    if (options->bins % 2 || options->quantized_bins % 2)
        FAIL(E_ARGUMENT, "bins and quantized_bins must be even (got %lld and %lld)", (long long)options->bins,
             (long long)options->quantized_bins);
    if (options->quantized_bins > options->bins)
        FAIL(E_ARGUMENT, "quantized_bins must be at most bins, %lld (got %lld)", (long long)options->bins,
             (long long)options->quantized_bins);
    if (options->keep_worst > 0 && strcmp(options->sensitivity, "off") == 0) options->sensitivity = "outputs";
out:
    return status;
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct ptq_static_options *options = opaque;
    const struct model *model = context->model;
    size_t bytes;
    TRY(linear_selection_check_as(model, &options->layers, &options->keep, "keep"));
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        struct weight_shape shape = {linear->rows, linear->columns, 0, true};
        if (!linear_selected(linear, &options->layers, &options->keep)) continue;
        if (!linear->value)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already", linear->name, linear->weight.format->name);
        if (!is_observed(linear)) FAIL(E_UNSUPPORTED, "what enters %s is not seen in calibration", linear->name);
        TRY(weight_format_find("int8")->size_bytes(&shape, &bytes));
    }
out:
    return status;
}

/* Which are the worst is not known before they were tried. */
static int foresee(struct technique_context *context, const void *opaque) {
    const struct ptq_static_options *options = opaque;
    if (options->keep_worst > 0) return error_record(E_STATE, __FILE__, __LINE__, "keep_worst chooses by trying");
    for (size_t i = 0; i < context->model->linear_count; i++) {
        struct linear *linear = &context->model->linears[i];
        if (linear_selected(linear, &options->layers, &options->keep))
            linear_shape_packed(linear, weight_format_find("int8"));
    }
    return 0;
}

int ptq_static_progress(const struct ptq_static *work, double fraction, const char *text) {
    const struct technique_context *context = work->context;
    double whole = work->from + fraction * (work->to - work->from);
    if (!context->progress || !context->progress(context->host, whole, text)) return 0;
    return error_record(E_INTERRUPTED, __FILE__, __LINE__, "stopped");
}

/* ---- apply --------------------------------------------------------------------------------------------- */

static int take_layers(struct ptq_static *work) {
    int status = 0;
    const struct model *model = work->context->model;
    void *block;
    TRY(memory_take(&block, model->linear_count, sizeof *work->observers));
    work->observers = block;
    TRY(memory_take(&block, model->linear_count, sizeof *work->ranges));
    work->ranges = block;
    TRY(memory_take(&block, model->linear_count, sizeof *work->leads));
    work->leads = block;
    TRY(memory_take(&block, model->linear_count, sizeof *work->layers));
    work->layers = block;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        struct weight_shape shape = {linear->rows, linear->columns, 0, true};
        size_t bytes;
        if (!linear_selected(linear, &work->options->layers, &work->options->keep)) continue;
        TRY(weight_format_find("int8")->size_bytes(&shape, &bytes));
        work->layers[work->layer_count++] =
            (struct ptq_static_layer){.linear = i,
                                      .leader = calibration_leader(model, i),
                                      .error = NAN,
                                      .score_lost = NAN,
                                      .bytes_before = linear->rows * linear->columns * sizeof(float),
                                      .bytes_after = bytes};
    }
out:
    return status;
}

static void tell(const struct ptq_static *work, const struct ptq_static_layer *layer) {
    const struct technique_context *context = work->context;
    const struct range *range = &work->ranges[layer->leader];
    if (!context->layer) return;
    context->layer(context->host, &(struct technique_layer){.name = context->model->linears[layer->linear].name,
                                                            .format = layer->kept ? "f32" : "int8",
                                                            .low = range->low,
                                                            .high = range->high,
                                                            .inputs = &work->observers[layer->leader].histogram,
                                                            .error = layer->error,
                                                            .error_name = work->error_name,
                                                            .score_lost = layer->score_lost,
                                                            .bytes_f32 = layer->bytes_before,
                                                            .bytes_packed = layer->bytes_after});
}

static int apply(struct technique_context *context, void *opaque, const void *options) {
    int status = 0;
    struct ptq_static *work = opaque;
    struct ptq_static_means means = {0};

    work->context = context;
    work->options = options;
    work->score = NAN;
    work->plan = (struct calibration_plan){.examples = (size_t)work->options->examples,
                                           .batch = (size_t)work->options->batch,
                                           .max_tokens = (size_t)work->options->max_tokens,
                                           .seed = context->seed};
    bool sensitivity = strcmp(work->options->sensitivity, "off") != 0;
    TRY(take_layers(work));
    work->to = sensitivity ? 0.1 : work->options->bias_correction ? 0.5 : 0.9;
    TRY(ptq_static_observe(work));
    work->from = work->to;
    work->to = 0.9;
    if (sensitivity) TRY(ptq_static_measure(work));
    if (work->options->bias_correction) {
        if (sensitivity) work->from = 0.8; /* of what is told; the time is that of one pass */
        TRY(ptq_static_means_open(&means, work));
        work->rounded.means = &means;
    }
    for (size_t i = 0; i < work->layer_count; i++) {
        if (!work->layers[i].kept) TRY(ptq_static_pack(work, context->model, &work->layers[i], &work->rounded));
        tell(work, &work->layers[i]);
    }
out:
    ptq_static_means_close(&means, work);
    work->rounded.means = NULL;
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct ptq_static *work = opaque;
    const struct ptq_static_rounded *rounded = &work->rounded;
    void *host = context->host;
    (void)options;
    if (context->metric == NULL) return 0;
    context->metric(host, "layers_rounded", "layers", (double)(work->layer_count - work->kept));
    context->metric(host, "layers_kept", "layers", (double)work->kept);
    context->metric(host, "weight_relative_error_frac", "frac",
                    rounded->size > 0 ? sqrt(rounded->error / rounded->size) : 0);
    if (work->options->bias_correction) context->metric(host, "biases_corrected", "layers", (double)rounded->corrected);
    if (!work->error_name) return 0;
    double most = 0, lost = NAN;
    for (size_t i = 0; i < work->layer_count; i++) {
        most = fmax(most, work->layers[i].error);
        lost = fmax(lost, work->layers[i].score_lost);
    }
    context->metric(host, "layer_error_most", work->error_unit, most);
    if (isfinite(lost)) context->metric(host, "layer_score_lost_most", "", lost);
    return 0;
}

static void close_work(void *opaque) {
    struct ptq_static *work = opaque;
    size_t count = work->observers ? work->context->model->linear_count : 0;
    for (size_t i = 0; i < count; i++) observer_close(&work->observers[i]);
    memory_release(work->observers);
    memory_release(work->ranges);
    memory_release(work->leads);
    memory_release(work->layers);
}

extern const struct technique technique_ptq_static;
const struct technique technique_ptq_static = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "ptq_static",
    .summary = "Rounds weights and inputs to int8 with ranges chosen beforehand from calibration data.",
    .source = "Wu et al. 2020; calibrators as in ONNX Runtime; bias correction: Nagel et al. 2019, section 4.2",
    .needs = NEEDS_CALIBRATION_DATA | NEEDS_CACHE,
    .options = ptq_static_options,
    .options_bytes = sizeof(struct ptq_static_options),
    .state_bytes = sizeof(struct ptq_static),
    .needs_of = needs_of,
    .settle = settle,
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = report,
    .close = close_work,
};
