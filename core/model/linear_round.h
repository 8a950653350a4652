/* Packing a layer and adding up what rounding did to it: what every quantizing technique reports. */
#ifndef LINEAR_ROUND_H
#define LINEAR_ROUND_H

#include "model/model.h"

struct rounding_error {
    double error_squared, value_squared; /* sums over all rounded weights */
    size_t weights, layers;
};

/* linear_pack, with the layer's errors added to `error`; grid NULL for formats without one. Errors as linear_pack, and
 * E_MEMORY. */
int linear_round(struct model *model, struct linear *linear, const struct weight_format *format, size_t group,
                 bool symmetric, const struct weight_grid *grid, struct rounding_error *error);

/* Mean square of the errors, and their root as a share of the weights'; 0 where nothing was rounded. */
double rounding_mean_squared(const struct rounding_error *error);
double rounding_relative(const struct rounding_error *error);

#endif
