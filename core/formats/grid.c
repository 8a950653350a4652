/* Round-to-nearest grids (the scales that `rtn` uses and that other methods start from).
 *
 * Symmetric: the largest magnitude maps to the largest code (127, 7). Asymmetric, as GPTQ's Quantizer
 * (Frantar et al. 2023): the range from min(0, smallest) to max(0, largest) in 15 steps, so that zero is
 * always representable. Scales are rounded to storage precision before the zero point is derived from them,
 * because that is the scale which dequantizes. */
#include "base/error.h"
#include "formats/execution.h"
#include "kernels/half.h"

#include <math.h>

size_t weight_grid_groups(const struct weight_format *format, const struct weight_shape *shape) {
    if (!format->code_high) return 0; /* floating point */
    return format->has_groups && shape->group ? (shape->columns + shape->group - 1) / shape->group : 1;
}

float weight_stored_scale(const struct weight_format *format, float scale) {
    return format->has_groups ? half_to_float(half_from_float(scale)) : scale;
}

int weight_grid_minmax(const struct weight_format *format, const struct weight_shape *shape, const float *w,
                       struct weight_grid *grid) {
    int status = 0;
    TRY(weight_shape_check(format, shape));
    size_t groups = weight_grid_groups(format, shape), width = format->has_groups ? shape->group : shape->columns;
    bool symmetric = shape->symmetric || !format->has_asymmetric;
    grid->groups = groups;
    for (size_t i = 0; i < shape->rows * groups; i++) {
        size_t r = i / groups, begin = i % groups * width;
        size_t end = begin + width < shape->columns ? begin + width : shape->columns;
        float low = 0, high = 0;
        for (size_t n = begin; n < end; n++) {
            float value = w[r * shape->columns + n];
            if (!isfinite(value)) FAIL(E_NUMERIC, "weight in row %zu, column %zu is not finite", r, n);
            if (value < low) low = value;
            if (value > high) high = value;
        }
        float levels = symmetric ? (format->bits == 8 ? 127.0f : 7.0f) : 15.0f;
        float range = symmetric ? (high > -low ? high : -low) : high - low;
        float scale = weight_stored_scale(format, range / levels);
        if (!isfinite(scale))
            FAIL(E_NUMERIC, "row %zu, group %zu: scale %g does not fit into 16 bits", r, i % groups,
                 (double)(range / levels));
        grid->scale[i] = scale;
        if (symmetric) continue;
        float zero = scale == 0.0f ? 0.0f : rintf(-low / scale);
        grid->zero[i] = (uint8_t)(zero < 15.0f ? zero : 15.0f);
    }
out:
    return status;
}
