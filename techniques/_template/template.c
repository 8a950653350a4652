/* Adds Gaussian noise to the weights: how much error does the model bear, layer by layer?
 *
 * A small but complete technique to copy; docs/ADDING_A_TECHNIQUE.md says how. Replace this text by what your
 * technique does, the design and why, and its source (paper, equation). The steps below are in the order in
 * which the harness calls them. Everything but the last struct is static.
 */
#include "technique.h"

#include <math.h>

#include "base/random.h"
#include "model/linear_select.h"

/* 1. Options: a struct, and a table with a row per field. The table alone gives YAML parsing and its messages,
 *    ranges, `runexp techniques template`, the docs page, the JSON Schema and the values stored with results.
 *    Types: OPTION_INTEGER int64_t, _REAL double, _BOOLEAN bool, _CHOICE, _TEXT and _PATH const char *, _NAMES a list.
 *    A row: name, type, default (NULL: required), low, high, choices "a|b", unit, help, offset. */
struct options {
    double noise;
    struct option_names layers, skip;
};

static const struct option template_options[] = {
    {"noise", OPTION_REAL, "0.1", 0, 10, NULL, "frac", "standard deviation of the noise over that of the layer",
     offsetof(struct options, noise)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",
     offsetof(struct options, layers)},
    {"skip", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "roles or patterns of layers to leave alone",
     offsetof(struct options, skip)},
    OPTION_END,
};

/* 2. State: what apply leaves for report. The harness allocates it, zeroed, and frees it; pointers inside are
 *    yours to release in close. */
struct state {
    double noise_squared, value_squared;
};

/* 3. probe: can this run, with these options, on this model? E_UNSUPPORTED with a reason makes the cell a skip.
 *    It may also set options by the model: what they say afterwards is stored. Options that do not go together
 *    on any model are refused in settle, which has only the options and is asked before anything runs; none here.
 *    With foresee, which says what becomes of sizes and formats (here they stay), probe is asked then as well. */
static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct options *options = opaque;
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        if (linear_selected(linear, &options->layers, &options->skip) && linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already", linear->name, linear->weight.format->name);
    }
out:
    return status;
}

/* Add noise to one layer. Random numbers are functions of (seed, stream, index): give each layer a stream of
 * its own, and the result does not depend on the order of work or the number of threads. */
static void layer_disturb(struct linear *linear, uint64_t seed, size_t layer, double noise, struct state *state) {
    size_t count = linear->rows * linear->columns;
    double squares = 0;
    for (size_t i = 0; i < count; i++) squares += (double)linear->value[i] * (double)linear->value[i];
    double deviation = noise * sqrt(squares / (double)count);
    struct random random;
    random_open(&random, seed, random_stream("template", layer, 0));
    for (size_t i = 0; i < count; i++) {
        double step = deviation * random_normal(&random);
        linear->value[i] = (float)((double)linear->value[i] + step);
        state->noise_squared += step * step;
    }
    state->value_squared += squares;
}

/* 4. apply: edit context->model. Values of a layer are linear->value, (rows, columns) f32; linear_pack puts a
 *    layer into a packed format. Report progress where it takes long, and stop when asked. */
static int apply(struct technique_context *context, void *opaque, const void *options) {
    int status = 0;
    struct state *state = opaque;
    const struct options *chosen = options;
    struct model *model = context->model;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!linear_selected(linear, &chosen->layers, &chosen->skip)) continue;
        if (context->progress != NULL &&
            context->progress(context->host, (double)i / (double)model->linear_count, linear->name))
            FAIL(E_INTERRUPTED, "stopped");
        if (chosen->noise > 0) layer_disturb(linear, context->seed, i, chosen->noise, state);
    }
out:
    return status;
}

/* 5. report: extra numbers, each with a unit, stored with the run. The harness measures quality, bytes and
 *    time itself: a technique cannot grade itself. */
static int report(struct technique_context *context, void *opaque, const void *options) {
    const struct state *state = opaque;
    (void)options;
    if (context->metric != NULL && state->value_squared > 0)
        context->metric(context->host, "weight_relative_error_frac", "frac",
                        sqrt(state->noise_squared / state->value_squared));
    return 0;
}

/* 6. The one exported symbol. version: raise it when results change, it is part of every cell's identity.
 *    needs: what the harness must provide (NEEDS_TRAINING_DATA, NEEDS_GRADIENTS, ...); 0 here. Techniques that
 *    train also tell context->step of each step and may ask context->evaluate; see docs/ADDING_A_TECHNIQUE.md. */
extern const struct technique technique_template;
const struct technique technique_template = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "template",
    .summary = "Adds Gaussian noise to the weights, to see how much error a model bears.",
    .source = "none",
    .needs = 0,
    .options = template_options,
    .options_bytes = sizeof(struct options),
    .state_bytes = sizeof(struct state),
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
};
