/* Ranges that are searched for: entropy and least squared error. Private to core/calibrate. */
#ifndef OBSERVER_SEARCH_H
#define OBSERVER_SEARCH_H

#include "calibrate/observer.h"

/* Both take a histogram with bins. The range is not yet held against what was seen. E_MEMORY. */
int range_least_divergence(const struct histogram *histogram, size_t quantized_bins, struct range *range);
/* The divergence of the candidate with `reach` bins on the left of the middle; room for 2·bins numbers. */
double range_divergence(const struct histogram *histogram, size_t quantized_bins, size_t reach, double *room);
void range_least_error(const struct histogram *histogram, bool symmetric, int codes, struct range *range);

#endif
