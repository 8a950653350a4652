/* SmoothQuant: channels of an input that are large are divided by a factor which the weights that read them take over,
 * so that inputs can be rounded to eight bits by one scale. The model computes the same.
 *
 *   s_j = max|x_j|^alpha / max|w_j|^(1-alpha)   (equation 4; the maximum over all layers that read the input)
 *
 * The paper moves s into the norm in front of query, key, value and of gate, up (sites norm_attention, norm_feed).
 * Beyond it, the factors of attention_output's input go into value's rows (site value) and, with ReLU or a gate, those
 * of down's input into up's (site up), which is as exact (core/calibrate/fold.h says where and why not). Post-norm
 * models have only these.
 *
 * With auto, alpha is chosen for each input by the error of its layers' products on 128 sampled rows when inputs (one
 * scale for all) and weights (one a row) are rounded to int8; leaving the input as it is takes part in the choice.
 * Source: Xiao et al. 2023, "SmoothQuant: accurate and efficient post-training quantization for large language models".
 */
#include "technique.h"

#include <string.h>

#include "base/memory.h"
#include "calibrate/calibrate.h"
#include "smoothquant.h"

#define AUTO_STEPS 20 /* alphas k/20, k = 1..19 */

struct options {
    double alpha;
    bool automatic;
    struct option_names sites;
    int64_t examples, max_tokens;
};

static const struct option smoothquant_options[] = {
    {"alpha", OPTION_REAL, "0.5", 0, 1, NULL, NULL, "how much of the difficulty moves from inputs to weights",
     offsetof(struct options, alpha)},
    {"auto", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,
     "choose alpha for each input by the error of rounding, or none at all", offsetof(struct options, automatic)},
    {"sites", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "norm_attention, norm_feed (the paper's), value, up; none: all that are exact", offsetof(struct options, sites)},
    {"examples", OPTION_INTEGER, "128", 1, 1e6, NULL, "examples", "that are looked at",
     offsetof(struct options, examples)},
    {"max_tokens", OPTION_INTEGER, "512", 1, 1e6, NULL, "tokens", "of an example that are looked at",
     offsetof(struct options, max_tokens)},
    OPTION_END,
};

struct state {
    struct smoothquant_site *sites;
    size_t count, left;
    size_t *site_of; /* [linear_count] that the layer leads, plus 1; 0: none */
    double error_before, error_after, size, alpha_sum;
    size_t smoothed;
    struct technique_context *context;
};

static bool wanted(const struct options *options, enum fold_kind kind) {
    for (size_t i = 0; i < options->sites.count; i++)
        if (strcmp(options->sites.items[i], fold_kind_name(kind)) == 0) return true;
    return options->sites.count == 0;
}

static int settle(void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    for (size_t i = 0; i < options->sites.count; i++) {
        bool known = false;
        for (int kind = 0; kind < FOLD_KINDS; kind++)
            known |= strcmp(options->sites.items[i], fold_kind_name((enum fold_kind)kind)) == 0;
        if (!known)
            FAIL(E_ARGUMENT, "sites: '%s' is none of norm_attention, norm_feed, value, up", options->sites.items[i]);
    }
out:
    return status;
}

/* Call `visit` for every wanted site. */
static int each_site(const struct model *model, const struct options *options,
                     int (*visit)(void *context, const struct fold_site *site), void *context) {
    int status = 0;
    void *block = NULL;
    size_t count = FOLD_KINDS * model->config.layers;
    TRY(memory_take(&block, count, sizeof(struct fold_site)));
    const struct fold_site *sites = block;
    fold_sites(model, block);
    for (size_t i = 0; i < count; i++)
        if (wanted(options, sites[i].kind)) TRY(visit(context, &sites[i]));
out:
    memory_release(block);
    return status;
}

struct probing {
    const struct model *model;
    size_t exact;
    const char *reason;
};

static int probe_site(void *context, const struct fold_site *site) {
    struct probing *probing = context;
    if (site->reason) {
        probing->reason = site->reason;
        return 0;
    }
    probing->exact++;
    return fold_check(probing->model, site);
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    struct probing probing = {.model = context->model};
    TRY(each_site(context->model, opaque, probe_site, &probing));
    if (probing.exact == 0)
        FAIL(E_UNSUPPORTED, "no such input of a %s model can be smoothed: %s", context->model->config.family,
             probing.reason);
out:
    return status;
}

/* ---- what is looked at --------------------------------------------------------------------------------- */

static int take_site(void *context, const struct fold_site *fold) {
    int status = 0;
    struct state *state = context;
    void *block;
    if (fold->reason) {
        state->left++;
        if (fold->block == 0)
            log_line(LOG_INFO, "smoothquant: inputs of kind %s are left: %s", fold_kind_name(fold->kind), fold->reason);
        return 0;
    }
    struct smoothquant_site *site = &state->sites[state->count++];
    *site = (struct smoothquant_site){.fold = *fold};
    random_open(&site->random, state->context->seed, random_stream("smoothquant", fold->block, (uint64_t)fold->kind));
    TRY(memory_take(&block, fold->columns, sizeof(float)));
    site->columns = block;
    TRY(memory_take(&block, SMOOTHQUANT_ROWS * fold->columns, sizeof(float)));
    site->rows = block;
    state->site_of[fold->consumer[0]] = state->count;
out:
    return status;
}

static int look(void *context, size_t linear, const float *x, size_t T) {
    struct state *state = context;
    if (!state->site_of[linear]) return 0;
    struct smoothquant_site *site = &state->sites[state->site_of[linear] - 1];
    size_t N = site->fold.columns;
    channel_absmax(T, N, x, site->columns);
    for (size_t t = 0; t < T; t++) { /* Vitter's algorithm R */
        uint64_t place = site->seen++;
        if (place >= SMOOTHQUANT_ROWS) place = random_below(&site->random, site->seen);
        if (place < SMOOTHQUANT_ROWS) memcpy(site->rows + place * N, x + t * N, N * sizeof *x);
    }
    return 0;
}

static int tell(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                const struct model_output *output, double fraction) {
    const struct technique_context *host = ((struct state *)context)->context;
    (void)view, (void)batch, (void)workspace, (void)output;
    if (host->progress && host->progress(host->host, 0.7 * fraction, "looking at inputs"))
        return error_record(E_INTERRUPTED, __FILE__, __LINE__, "stopped");
    return 0;
}

/* ---- smoothing ----------------------------------------------------------------------------------------- */

static int smooth(struct state *state, const struct options *options, struct smoothquant_site *site) {
    int status = 0;
    void *block = NULL;
    struct model *model = state->context->model;
    double before, least, size;
    TRY(memory_take(&block, 3 * site->fold.channels, sizeof(float)));
    float *factor = block;
    site->inputs = factor + site->fold.channels;
    site->weights = site->inputs + site->fold.channels;
    fold_channel_absmax(model, &site->fold, site->columns, site->inputs);
    fold_consumer_absmax(model, &site->fold, site->weights);
    site->alpha = -1;
    smoothquant_factors(site, -1, factor);
    TRY(smoothquant_error(model, site, factor, &before, &size));
    least = before;
    for (int k = 1; k < AUTO_STEPS && options->automatic; k++) {
        double alpha = (double)k / AUTO_STEPS, error;
        smoothquant_factors(site, alpha, factor);
        TRY(smoothquant_error(model, site, factor, &error, &size));
        if (error < least) least = error, site->alpha = alpha;
    }
    if (!options->automatic) {
        site->alpha = options->alpha;
        smoothquant_factors(site, site->alpha, factor);
        TRY(smoothquant_error(model, site, factor, &least, &size));
    }
    state->error_before += before;
    state->error_after += least;
    state->size += size;
    if (site->alpha < 0) goto out;
    smoothquant_factors(site, site->alpha, factor);
    fold_apply(model, &site->fold, factor);
    state->alpha_sum += site->alpha;
    state->smoothed++;
out:
    site->inputs = site->weights = NULL;
    memory_release(block);
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *chosen) {
    int status = 0;
    struct state *state = opaque;
    const struct options *options = chosen;
    struct model *model = context->model;
    struct calibration_plan plan = {
        .examples = (size_t)options->examples, .max_tokens = (size_t)options->max_tokens, .seed = context->seed};
    struct calibration_visitor visitor = {.input = look, .batch = tell, .context = state};
    void *block;

    state->context = context;
    TRY(memory_take(&block, FOLD_KINDS * model->config.layers, sizeof *state->sites));
    state->sites = block;
    TRY(memory_take(&block, model->linear_count, sizeof *state->site_of));
    state->site_of = block;
    TRY(each_site(model, options, take_site, state));
    TRY(calibration_run(model, context->calibration, &plan, &visitor));
    for (size_t i = 0; i < state->count; i++) {
        if (context->progress && context->progress(context->host, 0.7 + 0.3 * (double)i / (double)state->count,
                                                   model->linears[state->sites[i].fold.consumer[0]].name))
            FAIL(E_INTERRUPTED, "stopped");
        TRY(smooth(state, options, &state->sites[i]));
    }
out:
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    void *host = context->host;
    (void)options;
    if (context->metric == NULL) return 0;
    context->metric(host, "inputs_smoothed", "", (double)state->smoothed);
    context->metric(host, "inputs_left", "", (double)(state->left + state->count - state->smoothed));
    if (state->smoothed) context->metric(host, "alpha_mean", "", state->alpha_sum / (double)state->smoothed);
    if (state->size > 0) {
        context->metric(host, "rounding_error_before_frac", "frac", state->error_before / state->size);
        context->metric(host, "rounding_error_after_frac", "frac", state->error_after / state->size);
    }
    return 0;
}

static void close_state(void *opaque) {
    struct state *state = opaque;
    for (size_t i = 0; state->sites && i < state->count; i++) {
        memory_release(state->sites[i].columns);
        memory_release(state->sites[i].rows);
    }
    memory_release(state->sites);
    memory_release(state->site_of);
}

extern const struct technique technique_smoothquant;
const struct technique technique_smoothquant = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "smoothquant",
    .summary = "Moves large channels of inputs into the weights that read them; the model computes the same.",
    .source = "Xiao et al. 2023 (SmoothQuant), equation 4",
    .needs = NEEDS_CALIBRATION_DATA,
    .options = smoothquant_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .settle = settle,
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
    .close = close_state,
};
