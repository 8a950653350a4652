/* Watching values go by and choosing the range that eight bits shall cover.
 *
 *   min_max         all that was seen
 *   moving_average  an average over the batches' own minima and maxima: with a rate, from the first batch on
 *                   range += rate·(batch - range) (torch's MovingAverageMinMaxObserver); rate 0: their mean, as ONNX
 *                   Runtime's calibrator has it for the batches of one call
 *   percentile      what is left when (100-p)/2 % of the values are cut off on each side; symmetric: the p-th
 *                   percentile of magnitudes. Edges as ONNX Runtime's PercentileCalibrater takes them (the lower edge
 *                   of the bin where the sum arrives); 100: min_max
 *   entropy         of the ranges around zero that bins allow, the one whose histogram changes least, in Kullback and
 *                   Leibler's measure, when it is squeezed into `quantized_bins` (TensorRT; ONNX Runtime's
 *                   EntropyCalibrater with its conventions: counts squeezed are integers, outliers join the outermost
 *                   bins of the reference alone, empty bins get 1e-4)
 *   mse             the least expected squared error of values rounded to `codes` levels and clamped, values being
 *                   spread evenly over each bin; searched over both ends (the aim of torch's HistogramObserver, by a
 *                   search that is not greedy)
 *
 * A range lies inside min_max's (moving_average's as well, being an average), but for symmetric ones, which are then
 * made -m..m by the larger magnitude. Sources: Wu et al. 2020, "Integer quantization for deep learning inference";
 * onnxruntime/python/tools/quantization/calibrate.py.
 */
#ifndef OBSERVER_H
#define OBSERVER_H

#include <stdbool.h>

#include "calibrate/histogram.h"

enum calibrator {
    CALIBRATOR_MIN_MAX,
    CALIBRATOR_MOVING_AVERAGE,
    CALIBRATOR_PERCENTILE,
    CALIBRATOR_ENTROPY,
    CALIBRATOR_MSE
};
#define CALIBRATOR_CHOICES "min_max|moving_average|percentile|entropy|mse"
const char *calibrator_name(enum calibrator calibrator);
int calibrator_find(const char *name, enum calibrator *calibrator); /* E_NOT_FOUND */

struct observer_plan {
    enum calibrator calibrator;
    bool symmetric;        /* the range is to be -m..m */
    double averaging;      /* moving_average: 0..1 */
    double percentile;     /* above 50, to 100 */
    size_t bins;           /* of the first width; even */
    size_t quantized_bins; /* entropy: even, at most `bins` */
    int codes;             /* mse: levels, 255 of symmetric int8 and 256 else */
};
/* 2048 bins, 128 quantized bins, percentile 99.999, averaging 0.01. */
void observer_defaults(struct observer_plan *plan, enum calibrator calibrator, bool symmetric);

struct range {
    double low, high;
};

struct observer {
    struct observer_plan plan;
    struct histogram histogram;
    struct range average;
    size_t batches;
};

/* E_ARGUMENT: a plan out of range. */
int observer_open(struct observer *observer, const struct observer_plan *plan);
void observer_close(struct observer *observer); /* accepts a zeroed one */
/* One batch of values: what moving_average averages over. E_NUMERIC, E_MEMORY. */
int observer_add(struct observer *observer, const float *x, size_t count);
/* The range chosen from all that was added. E_STATE: nothing was; E_MEMORY. In one thread, so that layers may be
 * shared out. */
int observer_range(const struct observer *observer, struct range *range);

/* Mean squared error of values spread as the histogram says when they are rounded to `codes` levels from low to high
 * (moved so that zero is one of them; all values are clamped). */
double range_error(const struct histogram *histogram, struct range range, int codes);

#endif
