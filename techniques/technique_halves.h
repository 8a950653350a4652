/* What float16 and bfloat16 share: the choice of layers and of the format, and the work itself. Everything is inline,
 * so that a technique exports its one symbol still. */
#ifndef TECHNIQUE_HALVES_H
#define TECHNIQUE_HALVES_H

#include "kernels/half.h"
#include "model/linear_round.h"
#include "model/linear_select.h"
#include "technique.h"
#include "technique_rounding.h"

#include <math.h>
#include <string.h>

struct halves_options {
    const char *arithmetic; /* "weights" or "both" */
    struct option_names layers, skip, keep;
};

#define HALVES_OPTIONS(standard)                                                                                       \
    {"arithmetic",                                                                                                     \
     OPTION_CHOICE,                                                                                                    \
     standard,                                                                                                         \
     0,                                                                                                                \
     0,                                                                                                                \
     "weights|both",                                                                                                   \
     NULL,                                                                                                             \
     "weights: they are widened and activations stay f32; both: activations are rounded as well; sums are f32",        \
     offsetof(struct halves_options, arithmetic)},                                                                     \
        {"layers",                                                                                                     \
         OPTION_NAMES,                                                                                                 \
         "[]",                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         "roles (query, up, ...) or patterns of layer names; none: every linear layer of the blocks",                  \
         offsetof(struct halves_options, layers)},                                                                     \
        {"skip",                                                                                                       \
         OPTION_NAMES,                                                                                                 \
         "[]",                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         "roles or patterns of layers to leave in f32",                                                                \
         offsetof(struct halves_options, skip)},                                                                       \
    {                                                                                                                  \
        "keep", OPTION_NAMES, "[]", 0, 0, NULL, NULL,                                                                  \
            "more layers to leave in f32, such as a sensitivity analysis names", offsetof(struct halves_options, keep) \
    }

static inline bool halves_chosen(const struct linear *linear, const struct halves_options *options) {
    return linear_selected(linear, &options->layers, &options->skip) &&
           linear_selected(linear, &options->layers, &options->keep);
}

/* Can these layers be packed in `format`? E_UNSUPPORTED names the layer that is packed already or the weight that would
 * not be finite. */
static inline int halves_probe(const struct technique_context *context, const struct weight_format *format,
                               const struct halves_options *options) {
    int status = 0;
    size_t left = 0;
    bool f16 = format->name[0] == 'f';
    TRY(linear_selection_check(context->model, &options->layers, &options->skip));
    TRY(linear_selection_check(context->model, &options->layers, &options->keep));
    for (size_t i = 0; i < context->model->linear_count; i++) {
        const struct linear *linear = &context->model->linears[i];
        if (!halves_chosen(linear, options)) continue;
        if (linear->value == NULL)
            FAIL(E_UNSUPPORTED, "%s is packed as %s already", linear->name, linear->weight.format->name);
        for (size_t k = 0; k < linear->rows * linear->columns && !context->planning; k++) {
            float w = linear->value[k];
            if (!isfinite(f16 ? half_to_float(half_from_float(w)) : bf16_to_float(bf16_from_float(w))))
                FAIL(E_UNSUPPORTED, "%s holds %g, which is beyond its range", linear->name, (double)w);
        }
        left++;
    }
    if (left == 0) FAIL(E_UNSUPPORTED, "skip and keep leave no layer to round");
out:
    return status;
}

static inline int halves_foresee(struct technique_context *context, const struct weight_format *format,
                                 const struct halves_options *options) {
    for (size_t i = 0; i < context->model->linear_count; i++)
        if (halves_chosen(&context->model->linears[i], options))
            linear_shape_packed(&context->model->linears[i], format);
    return 0;
}

static inline int halves_apply(struct technique_context *context, struct rounding_error *error,
                               const struct weight_format *format, const struct halves_options *options) {
    int status = 0;
    struct model *model = context->model;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!halves_chosen(linear, options)) continue;
        if (context->progress != NULL &&
            context->progress(context->host, (double)i / (double)model->linear_count, linear->name))
            FAIL(E_INTERRUPTED, "stopped");
        TRY(linear_round(model, linear, format, 0, true, NULL, error));
    }
out:
    return status;
}

#endif
