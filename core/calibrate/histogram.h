/* Counts of values in equal bins around zero, streamed: the first values set the width of a bin, larger ones add whole
 * bins of that width on both sides (as ONNX Runtime's HistogramCollector merges), and where that would take more than
 * HISTOGRAM_GROWTH times the bins asked for, neighbours are joined in pairs first. So memory is bounded whatever comes,
 * and every count stays exact.
 *
 * Bin i holds values from -half + i·width up to, without it, the next edge; the last one its upper edge, too (and keeps
 * those when more bins follow). Counts do
 * not depend on the number of threads; the width depends on the order of calls.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_GROWTH 8

struct histogram {
    size_t asked;     /* bins of the first width; even */
    size_t bins;      /* bins now, even; 0: nothing but zeros was seen */
    double half;      /* edges run from -half to half */
    double width;     /* of a bin */
    uint64_t *counts; /* [bins] */
    uint64_t zeros;   /* seen before the first other value */
    float low, high;  /* least and largest value seen; 0 before the first */
    uint64_t values;
};

/* bins: even, 2..65536, else E_ARGUMENT. */
int histogram_open(struct histogram *histogram, size_t bins);
void histogram_close(struct histogram *histogram); /* accepts a zeroed one */

/* Add x[count]; their least and largest in *low and *high when not NULL. E_NUMERIC: a value is not finite (nothing was
 * added); E_MEMORY. On all threads. */
int histogram_add(struct histogram *histogram, const float *x, size_t count, float *low, float *high);

/* The lower edge of bin `bin`; of bin `bins`, the upper edge of all. */
static inline double histogram_edge(const struct histogram *histogram, size_t bin) {
    return ((double)bin - (double)(histogram->bins / 2)) * histogram->width;
}

#endif
