/* What techniques that round layers have in common beyond core/model/linear_round.h: which grids there are, and the
 * metrics that they report. */
#ifndef TECHNIQUE_ROUNDING_H
#define TECHNIQUE_ROUNDING_H

#include "model/linear_round.h"
#include "technique.h"

/* For `struct technique`.settle, of 8 or 4 bits: 8 have one symmetric scale per row, 4 have groups, of 64 where nothing
 * is said (*group 0). E_UNSUPPORTED. */
static inline int technique_settle_grid(int64_t bits, int64_t *group, bool symmetric) {
    int status = 0;
    if (bits == 4 && *group == 0) *group = 64;
    if (bits == 8 && *group != 0)
        FAIL(E_UNSUPPORTED, "8 bits have one scale per row; group must be 0 (got %lld)", (long long)*group);
    if (bits == 8 && !symmetric) FAIL(E_UNSUPPORTED, "8 bits are symmetric only");
out:
    return status;
}

/* For `struct technique`.report of a technique whose state is a struct rounding_error: mean squared and relative error
 * of the rounded weights, and how many layers were rounded. Returns 0. */
static inline int technique_report_rounding(struct technique_context *context, void *state, const void *options) {
    const struct rounding_error *error = state;
    (void)options;
    if (context->metric == NULL || error->weights == 0) return 0;
    context->metric(context->host, "weight_mean_squared_error", "", rounding_mean_squared(error));
    context->metric(context->host, "weight_relative_error_frac", "frac", rounding_relative(error));
    context->metric(context->host, "layers_rounded", "layers", (double)error->layers);
    return 0;
}

#endif
