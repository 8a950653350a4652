/* Plans, and the ranges that need no search; the others are in observer_search.c. */
#include "calibrate/observer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "calibrate/observer_search.h"

static const char *const names[] = {"min_max", "moving_average", "percentile", "entropy", "mse"};

const char *calibrator_name(enum calibrator calibrator) { return names[calibrator]; }

int calibrator_find(const char *name, enum calibrator *calibrator) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) {
            *calibrator = (enum calibrator)i;
            return 0;
        }
    return error_record(E_NOT_FOUND, __FILE__, __LINE__, "no calibrator '%.30s': one of %s", name, CALIBRATOR_CHOICES);
}

void observer_defaults(struct observer_plan *plan, enum calibrator calibrator, bool symmetric) {
    *plan = (struct observer_plan){.calibrator = calibrator,
                                   .symmetric = symmetric,
                                   .averaging = 0.01,
                                   .percentile = 99.999,
                                   .bins = 2048,
                                   .quantized_bins = 128,
                                   .codes = symmetric ? 255 : 256};
}

int observer_open(struct observer *observer, const struct observer_plan *plan) {
    int status = 0;
    memset(observer, 0, sizeof *observer);
    if (!(plan->averaging >= 0 && plan->averaging <= 1))
        FAIL(E_ARGUMENT, "averaging must be 0 to 1 (got %g)", plan->averaging);
    if (!(plan->percentile > 50 && plan->percentile <= 100))
        FAIL(E_ARGUMENT, "percentile must be above 50 and at most 100 (got %g)", plan->percentile);
    if (plan->quantized_bins < 2 || plan->quantized_bins % 2 || plan->quantized_bins > plan->bins)
        FAIL(E_ARGUMENT, "quantized_bins must be even and at most bins, %zu (got %zu)", plan->bins,
             plan->quantized_bins);
    observer->plan = *plan;
    /* ONNX Runtime counts magnitudes where the range is symmetric; a bin of ours then has the width of one of those. */
    TRY(histogram_open(&observer->histogram,
                       plan->calibrator == CALIBRATOR_PERCENTILE && plan->symmetric ? 2 * plan->bins : plan->bins));
out:
    return status;
}

void observer_close(struct observer *observer) {
    histogram_close(&observer->histogram);
    memset(observer, 0, sizeof *observer);
}

int observer_add(struct observer *observer, const float *x, size_t count) {
    int status = 0;
    float low, high;
    double rate;
    if (count == 0) goto out;
    TRY(histogram_add(&observer->histogram, x, count, &low, &high));
    observer->batches++;
    rate = observer->plan.averaging > 0 ? observer->plan.averaging : 1 / (double)observer->batches;
    if (observer->batches == 1) rate = 1;
    observer->average.low += rate * ((double)low - observer->average.low);
    observer->average.high += rate * ((double)high - observer->average.high);
out:
    return status;
}

/* ---- percentile --------------------------------------------------------------------------------------- */

/* The first bin up to which the counts make up `share` of all. counts of bin i: those of bins -1-i and i around the
 * middle when folded. */
static size_t bin_at(const struct histogram *histogram, double share, bool folded) {
    size_t half = histogram->bins / 2, bins = folded ? half : histogram->bins;
    double target = share * (double)histogram->values, sum = 0;
    for (size_t i = 0; i < bins; i++) {
        sum += (double)(folded ? histogram->counts[half + i] + histogram->counts[half - 1 - i] : histogram->counts[i]);
        if (sum >= target) return i;
    }
    return bins - 1;
}

static void percentile_range(const struct histogram *histogram, double percentile, bool symmetric,
                             struct range *range) {
    double cut = (100 - percentile) / 200;
    if (percentile >= 100) return;
    if (symmetric) {
        range->high = (double)bin_at(histogram, percentile / 100, true) * histogram->width;
        range->low = -range->high;
        return;
    }
    range->low = histogram_edge(histogram, bin_at(histogram, cut, false));
    range->high = histogram_edge(histogram, bin_at(histogram, 1 - cut, false));
}

int observer_range(const struct observer *observer, struct range *range) {
    int status = 0;
    const struct observer_plan *plan = &observer->plan;
    const struct histogram *histogram = &observer->histogram;
    double low = (double)histogram->low, high = (double)histogram->high;

    if (histogram->values == 0) FAIL(E_STATE, "nothing was observed");
    *range = (struct range){low, high};
    if (plan->calibrator == CALIBRATOR_MOVING_AVERAGE) *range = observer->average;
    if (histogram->bins == 0) goto out; /* all zero */
    switch (plan->calibrator) {
    case CALIBRATOR_MIN_MAX:
    case CALIBRATOR_MOVING_AVERAGE: break;
    case CALIBRATOR_PERCENTILE: percentile_range(histogram, plan->percentile, plan->symmetric, range); break;
    case CALIBRATOR_ENTROPY: TRY(range_least_divergence(histogram, plan->quantized_bins, range)); break;
    case CALIBRATOR_MSE: range_least_error(histogram, plan->symmetric, plan->codes, range); break;
    }
    if (plan->symmetric) {
        double reach = fmax(fabs(low), fabs(high)), half;
        if (plan->calibrator != CALIBRATOR_PERCENTILE && plan->calibrator != CALIBRATOR_MSE) {
            range->low = fmax(range->low, low);
            range->high = fmin(range->high, high);
        }
        half = fmin(fmax(fabs(range->low), fabs(range->high)), reach);
        *range = (struct range){-half, half};
        goto out;
    }
    range->low = fmin(fmax(range->low, low), high);
    range->high = fmax(fmin(range->high, high), range->low);
out:
    return status;
}
