/* Rounding one layer: what model/linear_round.h says. */
#include "model/linear_round.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

int linear_round(struct model *model, struct linear *linear, const struct weight_format *format, size_t group,
                 bool symmetric, const struct weight_grid *grid, struct rounding_error *error) {
    int status = 0;
    size_t count = linear->rows * linear->columns;
    void *before = NULL, *after = NULL;
    TRY(memory_take_raw(&before, count, sizeof(float)));
    TRY(memory_take_raw(&after, count, sizeof(float)));
    if (linear->value) memcpy(before, linear->value, count * sizeof(float)); /* linear_pack refuses the others */
    TRY(linear_pack(model, linear, format, group, symmetric, grid));
    TRY(format->unpack(&linear->weight.shape, linear->weight.packed, after));
    const float *w = before, *rounded = after;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)w[i] - (double)rounded[i];
        error->error_squared += difference * difference;
        error->value_squared += (double)w[i] * (double)w[i];
    }
    error->weights += count;
    error->layers++;
out:
    memory_release(before);
    memory_release(after);
    return status;
}

double rounding_mean_squared(const struct rounding_error *error) {
    return error->weights ? error->error_squared / (double)error->weights : 0;
}

double rounding_relative(const struct rounding_error *error) {
    return error->value_squared > 0 ? sqrt(error->error_squared / error->value_squared) : 0;
}
