/* Cross-layer range equalisation: of two layers with something between them that lets positive factors pass, channel by
 * channel, the rows of the first are divided and the columns of the second multiplied until both have the same largest
 * magnitude, sqrt(r1·r2). The model computes the same; a grid shared by channels (per tensor, or per row in the second
 * layer) then spends fewer of its levels on single channels. No data is needed.
 *
 * Pairs: value → attention_output in every family, up → down with ReLU or a gate (core/calibrate/fold.h). Each layer is
 * in one pair at most, so one pass is the fixed point. A channel that is all zero on either side is left alone.
 * Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
 */
#include "technique.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "calibrate/fold.h"

struct options {
    struct option_names pairs;
};

static const struct option equalize_options[] = {
    {"pairs", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "value (to attention_output), up (to down); none: all that are exact", offsetof(struct options, pairs)},
    OPTION_END,
};

struct state {
    double precision_before, precision_after; /* sums over pairs */
    size_t pairs, left;
};

static bool is_pair(enum fold_kind kind) { return kind == FOLD_VALUE || kind == FOLD_UP; }

static bool wanted(const struct options *options, enum fold_kind kind) {
    if (!is_pair(kind)) return false;
    for (size_t i = 0; i < options->pairs.count; i++)
        if (strcmp(options->pairs.items[i], fold_kind_name(kind)) == 0) return true;
    return options->pairs.count == 0;
}

static int sites_of(const struct model *model, struct fold_site **sites) {
    int status = 0;
    void *block;
    TRY(memory_take(&block, FOLD_KINDS * model->config.layers, sizeof **sites));
    *sites = block;
    fold_sites(model, *sites);
out:
    return status;
}

static int settle(void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    for (size_t i = 0; i < options->pairs.count; i++)
        if (strcmp(options->pairs.items[i], "value") != 0 && strcmp(options->pairs.items[i], "up") != 0)
            FAIL(E_ARGUMENT, "pairs: '%s' is neither value nor up", options->pairs.items[i]);
out:
    return status;
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    const struct model *model = context->model;
    struct fold_site *sites = NULL;
    const char *reason = NULL;
    size_t exact = 0;

    TRY(sites_of(model, &sites));
    for (size_t i = 0; i < FOLD_KINDS * model->config.layers; i++) {
        if (!wanted(options, sites[i].kind)) continue;
        if (sites[i].reason) {
            reason = sites[i].reason;
            continue;
        }
        TRY(fold_check(model, &sites[i]));
        exact++;
    }
    if (exact == 0) FAIL(E_UNSUPPORTED, "no pair of a %s model: %s", model->config.family, reason);
out:
    memory_release(sites);
    return status;
}

/* Mean over channels of the product of both sides' ranges, each as a share of its matrix's: what equation 9 maximises.
 */
static double precision(size_t count, const float *first, const float *second) {
    double most_first = 0, most_second = 0, sum = 0;
    for (size_t i = 0; i < count; i++) {
        most_first = fmax(most_first, (double)first[i]);
        most_second = fmax(most_second, (double)second[i]);
    }
    for (size_t i = 0; i < count; i++) sum += (double)first[i] * (double)second[i];
    return most_first > 0 && most_second > 0 ? sum / (most_first * most_second * (double)count) : 1;
}

static int equalize_pair(struct model *model, struct state *state, const struct fold_site *site) {
    int status = 0;
    void *block = NULL;
    size_t count = site->channels;
    TRY(memory_take(&block, 3 * count, sizeof(float)));
    float *first = block, *second = first + count, *factor = second + count;
    fold_source_absmax(model, site, first);
    fold_consumer_absmax(model, site, second);
    state->precision_before += precision(count, first, second);
    for (size_t i = 0; i < count; i++) {
        double ratio = first[i] > 0 && second[i] > 0 ? sqrt((double)first[i] / (double)second[i]) : 1;
        factor[i] = (float)ratio;
        if (!(factor[i] > 0) || !isfinite(factor[i]) || !isfinite(1 / factor[i])) factor[i] = 1;
    }
    fold_apply(model, site, factor);
    fold_source_absmax(model, site, first);
    fold_consumer_absmax(model, site, second);
    state->precision_after += precision(count, first, second);
    state->pairs++;
out:
    memory_release(block);
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *chosen) {
    int status = 0;
    struct state *state = opaque;
    struct model *model = context->model;
    const char *said[FOLD_KINDS] = {NULL};
    struct fold_site *sites = NULL;

    TRY(sites_of(model, &sites));
    for (size_t i = 0; i < FOLD_KINDS * model->config.layers; i++) {
        const struct fold_site *site = &sites[i];
        if (!wanted(chosen, site->kind)) continue;
        if (!site->reason) {
            TRY(equalize_pair(model, state, site));
            continue;
        }
        state->left++;
        if (!said[site->kind])
            log_line(LOG_INFO, "equalize: pairs of kind %s are left: %s", fold_kind_name(site->kind), site->reason);
        said[site->kind] = site->reason;
    }
out:
    memory_release(sites);
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    double pairs = (double)state->pairs;
    (void)options;
    if (context->metric == NULL || state->pairs == 0) return 0;
    context->metric(context->host, "pairs_equalized", "", pairs);
    context->metric(context->host, "pairs_left", "", (double)state->left);
    context->metric(context->host, "channel_precision_before_frac", "frac", state->precision_before / pairs);
    context->metric(context->host, "channel_precision_after_frac", "frac", state->precision_after / pairs);
    return 0;
}

extern const struct technique technique_equalize;
const struct technique technique_equalize = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "equalize",
    .summary = "Moves factors between layers so that channels have alike ranges; the model computes the same.",
    .source = "Nagel et al. 2019, section 4.1 (cross-layer equalization)",
    .options = equalize_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .settle = settle,
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
};
