/* Grids of activations: what formats/activation.h says. */
#include "formats/activation.h"

#include "base/error.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

void activation_codes(const struct activation_quantizer *quantizer, int *least, int *most) {
    *most = quantizer->reduced ? 63 : 127;
    *least = quantizer->asymmetric ? -*most - 1 : -*most;
}

void activation_grid(const struct activation_quantizer *quantizer, float low, float high, float *scale, int32_t *zero) {
    int least, most;
    activation_codes(quantizer, &least, &most);
    low = low > 0 ? 0 : low;
    high = high < 0 ? 0 : high;
    *zero = 0;
    if (!quantizer->asymmetric) {
        *scale = (high < -low ? -low : high) / (float)most;
        if (*scale == 0.0f) *scale = 1;
        return;
    }
    *scale = (high - low) / (float)(most - least);
    if (*scale == 0.0f) *scale = 1;
    float above = rintf(-low / *scale);
    *zero = least;
    if (above > 0) *zero = above < (float)(most - least) ? least + (int32_t)above : most;
}

int activation_check(const struct activation_quantizer *quantizer) {
    int status = 0, least, most;
    activation_codes(quantizer, &least, &most);
    switch (quantizer->range) {
    case ACTIVATION_PER_TOKEN:
    case ACTIVATION_PER_TENSOR:
        if (quantizer->scale != 0.0f || quantizer->zero != 0)
            FAIL(E_ARGUMENT, "only static activations have a scale and a zero point (got %g and %d per %s)",
                 (double)quantizer->scale, quantizer->zero, activation_range_name(quantizer->range));
        break;
    case ACTIVATION_STATIC:
        if (!isfinite(quantizer->scale) || !(quantizer->scale > 0))
            FAIL(E_ARGUMENT, "the scale of activations must be positive and finite (got %g)", (double)quantizer->scale);
        if (quantizer->asymmetric ? quantizer->zero < least || quantizer->zero > most : quantizer->zero != 0)
            FAIL(E_ARGUMENT, "the zero point of activations must be within %d..%d (got %d)",
                 quantizer->asymmetric ? least : 0, quantizer->asymmetric ? most : 0, quantizer->zero);
        break;
    default: FAIL(E_ARGUMENT, "range %d of activations is not known", (int)quantizer->range);
    }
    if (!isfinite(quantizer->outlier) || quantizer->outlier < 0)
        FAIL(E_ARGUMENT, "the threshold of outliers must be finite and not negative (got %g)",
             (double)quantizer->outlier);
    if (quantizer->outlier != 0.0f &&
        (quantizer->range != ACTIVATION_PER_TOKEN || quantizer->asymmetric || quantizer->reduced))
        FAIL(E_ARGUMENT, "outliers are left out of symmetric 8-bit activations per token only");
out:
    return status;
}

bool activation_same(const struct activation_quantizer *a, const struct activation_quantizer *b) {
    return a->range == b->range && a->asymmetric == b->asymmetric && a->reduced == b->reduced && a->scale == b->scale &&
           a->zero == b->zero && a->outlier == b->outlier;
}

bool activation_joins(const struct activation_quantizer *quantizer) {
    return quantizer->range == ACTIVATION_PER_TENSOR || quantizer->outlier > 0;
}

static const char *const range_names[] = {
    [ACTIVATION_PER_TOKEN] = "token", [ACTIVATION_PER_TENSOR] = "tensor", [ACTIVATION_STATIC] = "static"};

const char *activation_range_name(enum activation_range range) { return range_names[range]; }

int activation_range_find(const char *name, enum activation_range *range) {
    int status = 0;
    for (size_t i = 0; i < sizeof range_names / sizeof *range_names; i++) {
        if (strcmp(name, range_names[i]) != 0) continue;
        *range = (enum activation_range)i;
        goto out;
    }
    FAIL(E_NOT_FOUND, "the range of activations must be one of token, tensor, static (got %.40s)", name);
out:
    return status;
}
