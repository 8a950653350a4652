/* Round-to-nearest grids (the scales that `rtn` uses and that other methods start from).
 *
 * Symmetric: the largest magnitude maps to the largest code (127, 7). Asymmetric, as GPTQ's Quantizer
 * (Frantar et al. 2023): the range from min(0, smallest) to max(0, largest) in 15 or 255 steps, so that zero is
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

int weight_grid_range(const struct weight_format *format, bool symmetric, float low, float high, float *scale,
                      uint8_t *zero) {
    int status = 0;
    bool bytes = format->bits == 8;
    float steps = symmetric ? (bytes ? 127.0f : 7.0f) : (bytes ? 255.0f : 15.0f);
    float range = symmetric ? (high > -low ? high : -low) : high - low;
    *scale = weight_stored_scale(format, range / steps);
    if (!isfinite(*scale)) FAIL(E_NUMERIC, "scale %g does not fit into 16 bits", (double)(range / steps));
    if (symmetric) goto out;
    float above = *scale == 0.0f ? 0.0f : rintf(-low / *scale);
    *zero = (uint8_t)(above < steps ? above : steps);
out:
    return status;
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
        status = weight_grid_range(format, symmetric, low, high, &grid->scale[i], symmetric ? NULL : &grid->zero[i]);
        if (status < 0) {
            error_prefix(status, "row %zu, group %zu", r, i % groups);
            goto out;
        }
    }
out:
    return status;
}
