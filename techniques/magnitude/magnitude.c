/* Magnitude pruning: set the weights of smallest absolute value to zero.
 *
 * Exactly floor(sparsity * n) weights go, over each layer or over all selected layers together; among equal
 * magnitudes the one that stands first goes first, so earlier zeros count. (Reference codes that compare with
 * a threshold prune one or more too many: TECHNIQUES 1.3.) The threshold is found by counting the upper and
 * then the lower 16 bits of |w|, whose bit patterns order like the values. No format exploits the zeros yet,
 * so the layers are marked simulated. Source: Han et al. 2015, "Learning both weights and connections".
 */
#include "technique.h"

#include <math.h>
#include <string.h>

#include "model/linear_select.h"

struct options {
    double sparsity;
    const char *scope;
    struct option_names layers, skip;
};

static const struct option magnitude_options[] = {
    {"sparsity", OPTION_REAL, "0.5", 0, 0.9999, NULL, "frac", "part of the weights to set to zero",
     offsetof(struct options, sparsity)},
    {"scope", OPTION_CHOICE, "layer", 0, 0, "layer|global", NULL, "rank inside each layer, or over all of them",
     offsetof(struct options, scope)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave dense",
     offsetof(struct options, skip)},
    OPTION_END,
};

enum { DIGITS = 1 << 16 };

struct state {
    size_t weights, zeros;
};

/* |w| as an unsigned number of the same order; NaN above all. */
static uint32_t magnitude_key(float w) {
    uint32_t bits;
    memcpy(&bits, &w, sizeof bits);
    return bits & 0x7fffffffu;
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        if (linear_selected(linear, &options->layers, &options->skip) && linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already; prune before quantizing", linear->name,
                 linear->weight.format->name);
    }
out:
    return status;
}

/* Count one 16-bit digit of the keys: the upper halves, or the lower halves below one upper half. */
static void digits_count(struct linear *const *linears, size_t count, bool lower, uint32_t upper, size_t *histogram) {
    memset(histogram, 0, DIGITS * sizeof *histogram);
    for (size_t l = 0; l < count; l++) {
        size_t n = linears[l]->rows * linears[l]->columns;
        for (size_t i = 0; i < n; i++) {
            uint32_t key = magnitude_key(linears[l]->value[i]);
            if (!lower) histogram[key >> 16]++;
            else if (key >> 16 == upper) histogram[key & 0xffffu]++;
        }
    }
}

/* The digit in which the prune-th smallest (0-based) lies; *prune becomes its rank inside that digit. */
static uint32_t digit_find(const size_t *histogram, size_t *prune) {
    uint32_t digit = 0;
    while (*prune >= histogram[digit]) *prune -= histogram[digit++];
    return digit;
}

/* Zero the `prune` smallest weights of these layers taken together. histogram: [DIGITS] scratch. */
static void layers_prune(struct linear *const *linears, size_t count, size_t prune, size_t *histogram) {
    if (prune == 0) return;
    size_t rank = prune;
    digits_count(linears, count, false, 0, histogram);
    uint32_t upper = digit_find(histogram, &rank);
    digits_count(linears, count, true, upper, histogram);
    uint32_t threshold = upper << 16 | digit_find(histogram, &rank); /* rank of them equal the threshold and go */
    for (size_t l = 0; l < count; l++) {
        size_t n = linears[l]->rows * linears[l]->columns;
        for (size_t i = 0; i < n; i++) {
            uint32_t key = magnitude_key(linears[l]->value[i]);
            if (key > threshold || (key == threshold && rank == 0)) continue;
            if (key == threshold) rank--;
            linears[l]->value[i] = 0;
        }
        linears[l]->simulated = true;
    }
}

/* floor(sparsity * n) of the decimal number meant: 0.29 * 100 is 28.999999999999996 in binary. */
static size_t prune_count(double sparsity, size_t n) { return (size_t)floor(sparsity * (double)n + 1e-6); }

static int apply(struct technique_context *context, void *opaque, const void *options) {
    int status = 0;
    struct state *state = opaque;
    const struct options *chosen = options;
    struct model *model = context->model;
    void *list = NULL, *histogram = NULL;
    size_t count = 0;
    TRY(memory_take(&list, model->linear_count, sizeof(struct linear *)));
    TRY(memory_take(&histogram, DIGITS, sizeof(size_t)));
    struct linear **linears = list;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!linear_selected(linear, &chosen->layers, &chosen->skip)) continue;
        if (linear->value == NULL) FAIL(E_UNSUPPORTED, "%s is packed; prune before quantizing", linear->name);
        linears[count++] = linear;
        state->weights += linear->rows * linear->columns;
    }
    if (strcmp(chosen->scope, "global") == 0)
        layers_prune(linears, count, prune_count(chosen->sparsity, state->weights), histogram);
    else
        for (size_t l = 0; l < count; l++)
            layers_prune(&linears[l], 1, prune_count(chosen->sparsity, linears[l]->rows * linears[l]->columns),
                         histogram);
    for (size_t l = 0; l < count; l++)
        for (size_t i = 0; i < linears[l]->rows * linears[l]->columns; i++) state->zeros += linears[l]->value[i] == 0;
out:
    memory_release(list);
    memory_release(histogram);
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    (void)options;
    if (context->metric == NULL || state->weights == 0) return 0;
    context->metric(context->host, "sparsity_frac", "frac", (double)state->zeros / (double)state->weights);
    context->metric(context->host, "weights_zero", "weights", (double)state->zeros);
    return 0;
}

extern const struct technique technique_magnitude;
const struct technique technique_magnitude = {
    .abi = TECHNIQUE_ABI,
    .version = 2,
    .name = "magnitude",
    .summary = "Sets the weights of smallest magnitude to zero; the zeros are simulated until a sparse format exists.",
    .source = "Han et al. 2015, \"Learning both Weights and Connections for Efficient Neural Networks\"",
    .options = magnitude_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
};
