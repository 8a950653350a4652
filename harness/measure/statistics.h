/* Statistics on stored samples: medians, outlier flags, paired ratios with bootstrap intervals.
 *
 * The ratio of a cell to its baseline is formed round by round (both were timed in the same round, in random
 * order), as the log of the ratio of the two round medians; the estimate is the exponential of the mean over
 * rounds and the interval a studentized (bootstrap-t) one, whose coverage holds at the five to twenty rounds
 * used here (Efron and Tibshirani 1993, section 12.5). Fixed seed: same samples, same interval.
 */
#ifndef STATISTICS_H
#define STATISTICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct interval {
    double estimate, lo, hi;
    size_t n;
}; /* NaN where n is too small (lo and hi need n >= 3) or memory ran out (error_code() says so) */

#define STATISTICS_RESAMPLES 10000

double statistics_median(const double *values, size_t n);             /* NaN when n is 0; does not reorder */
double statistics_quantile(const double *values, size_t n, double q); /* linear interpolation (type 7) */

/* Modified z-score by the median absolute deviation > 14.826 (hyperfine's rule): flag, never drop. */
void statistics_outliers(const double *values, size_t n, bool *outlier);

/* Bootstrap-t interval of the mean of values (10,000 resamples). */
struct interval statistics_mean_interval(const double *values, size_t n, double confidence, uint64_t seed);
/* exp of the interval of mean(log(a/b)). a, b > 0. */
struct interval statistics_ratio_interval(const double *a, const double *b, size_t n, double confidence, uint64_t seed);
/* statistics_mean_interval with another number of resamples (at most STATISTICS_RESAMPLES): for simulations. */
struct interval statistics_mean_interval_resampled(const double *values, size_t n, double confidence, uint64_t seed,
                                                   size_t resamples);
/* Percentile bootstrap interval of the median. */
struct interval statistics_median_interval(const double *values, size_t n, double confidence, uint64_t seed);
/* Mean of paired differences of 0/1 outcomes (a - b) with its interval: normal with Agresti-Min's adjustment
 * (2005, add 1/2 to each of the four counts), which centres the interval on a slightly smaller difference. */
struct interval statistics_paired_difference(const uint8_t *a, const uint8_t *b, size_t n, double confidence);
/* Exact two-sided McNemar test from the two discordant counts (binomial, p = 1/2): 1 when both are 0. */
double statistics_mcnemar(size_t only_a, size_t only_b);
/* The same from paired 0/1 outcomes. */
double statistics_mcnemar_outcomes(const uint8_t *a, const uint8_t *b, size_t n);
/* z with P(|N(0,1)| <= z) = confidence; confidence in (0,1). */
double statistics_normal_two_sided(double confidence);

#endif
