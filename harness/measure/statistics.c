/* Statistics on stored samples (contract and method: statistics.h).
 *
 * Resampling draws from the counter-based generator with the caller's seed, so an interval is a pure function
 * of its samples. The bootstrap-t keeps the mean and the sum of squares of each resample only: 10,000
 * resamples of ten rounds cost about a millisecond.
 * Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 12.5 and 13.3;
 * Agresti and Min, Statistics in Medicine 24, 2005; McNemar 1947 in its exact (binomial) form.
 */
#include "measure/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

enum { SORT_ON_STACK = 256 };

static int double_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A sorted copy, in `stack` where it fits; *sorted is released by sorted_release. */
static int sorted_copy(const double *values, size_t n, double stack[SORT_ON_STACK], double **sorted) {
    int status = 0;
    *sorted = stack;
    if (n > SORT_ON_STACK) {
        void *block = NULL;
        TRY(memory_take(&block, n, sizeof *values));
        *sorted = block;
    }
    memcpy(*sorted, values, n * sizeof *values);
    qsort(*sorted, n, sizeof *values, double_order);
out:
    return status;
}

static void sorted_release(double *sorted, const double *stack) {
    if (sorted != stack) memory_release(sorted);
}

static double quantile_of_sorted(const double *sorted, size_t n, double q) {
    double at = q * (double)(n - 1);
    if (!(at > 0)) return sorted[0];
    size_t below = (size_t)at;
    if (below >= n - 1) return sorted[n - 1];
    double part = at - (double)below;
    return sorted[below] + part * (sorted[below + 1] - sorted[below]);
}

double statistics_quantile(const double *values, size_t n, double q) {
    double stack[SORT_ON_STACK], *sorted;
    if (n == 0 || sorted_copy(values, n, stack, &sorted) < 0) return NAN;
    double result = quantile_of_sorted(sorted, n, q);
    sorted_release(sorted, stack);
    return result;
}

double statistics_median(const double *values, size_t n) { return statistics_quantile(values, n, 0.5); }

void statistics_outliers(const double *values, size_t n, bool *outlier) {
    /* hyperfine's threshold on the modified z-score 0.6745 |x - median| / MAD: about 22 MADs. */
    const double limit = 14.826;
    for (size_t i = 0; i < n; i++) outlier[i] = false;
    void *block = NULL;
    if (n < 3 || memory_take(&block, n, sizeof(double)) < 0) return;
    double *deviation = block;
    double median = statistics_median(values, n);
    for (size_t i = 0; i < n; i++) deviation[i] = fabs(values[i] - median);
    double mad = statistics_median(deviation, n);
    /* With more than half of the values equal the MAD is 0 and says nothing; the mean deviation takes its place
     * (Iglewicz and Hoaglin 1993). */
    double scale = mad / 0.6745;
    if (!(mad > 0)) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += deviation[i];
        scale = sum / (double)n * 1.253314;
    }
    if (scale > 0)
        for (size_t i = 0; i < n; i++) outlier[i] = deviation[i] / scale > limit;
    memory_release(block);
}

static double mean_of(const double *values, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    return sum / (double)n;
}

/* A uniform index below n from one 32-bit word: multiply and shift; the bias of n / 2^32 is far below the
 * resolution of 10,000 resamples. */
static size_t index_below(struct random *random, size_t n) {
    return (size_t)(((uint64_t)random_u32(random) * (uint64_t)n) >> 32);
}

struct interval statistics_mean_interval_resampled(const double *values, size_t n, double confidence, uint64_t seed,
                                                   size_t resamples) {
    struct interval interval = {.estimate = n ? mean_of(values, n) : NAN, .lo = NAN, .hi = NAN, .n = n};
    double *t = NULL;
    void *block = NULL;
    if (n < 3 || !isfinite(interval.estimate)) return interval;
    double count = (double)n, squares = 0;
    for (size_t i = 0; i < n; i++) {
        double d = values[i] - interval.estimate;
        squares += d * d;
    }
    double deviation = sqrt(squares / (count - 1)), error = deviation / sqrt(count);
    if (!(error > 1e-14 * fabs(interval.estimate)) || error < 1e-300) {
        interval.lo = interval.hi = interval.estimate; /* all values alike */
        return interval;
    }
    if (resamples > STATISTICS_RESAMPLES) resamples = STATISTICS_RESAMPLES;
    if (memory_take(&block, resamples, sizeof *t) < 0) return interval;
    t = block;
    struct random random;
    random_open(&random, seed, random_stream("bootstrap mean", n, 0));
    /* A resample of one repeated value has no spread and no t; it is drawn again. The chance is n^(1-n). */
    for (size_t r = 0; r < resamples;) {
        double sum = 0, sum_squares = 0;
        for (size_t i = 0; i < n; i++) {
            double d = values[index_below(&random, n)] - interval.estimate;
            sum += d;
            sum_squares += d * d;
        }
        double mean = sum / count, variance = (sum_squares - sum * mean) / (count - 1);
        if (!(variance > 1e-12 * deviation * deviation)) continue;
        t[r++] = mean / sqrt(variance / count);
    }
    qsort(t, resamples, sizeof *t, double_order);
    double tail = (1 - confidence) / 2;
    interval.lo = interval.estimate - quantile_of_sorted(t, resamples, 1 - tail) * error;
    interval.hi = interval.estimate - quantile_of_sorted(t, resamples, tail) * error;
    memory_release(block);
    return interval;
}

struct interval statistics_mean_interval(const double *values, size_t n, double confidence, uint64_t seed) {
    return statistics_mean_interval_resampled(values, n, confidence, seed, STATISTICS_RESAMPLES);
}

struct interval statistics_ratio_interval(const double *a, const double *b, size_t n, double confidence,
                                          uint64_t seed) {
    struct interval interval = {.estimate = NAN, .lo = NAN, .hi = NAN, .n = n};
    double stack[SORT_ON_STACK], *logs = stack;
    void *block = NULL;
    if (n > SORT_ON_STACK) {
        if (memory_take(&block, n, sizeof *logs) < 0) return interval;
        logs = block;
    }
    for (size_t i = 0; i < n; i++) logs[i] = log(a[i] / b[i]);
    interval = statistics_mean_interval(logs, n, confidence, seed);
    interval.estimate = exp(interval.estimate);
    interval.lo = exp(interval.lo);
    interval.hi = exp(interval.hi);
    memory_release(block);
    return interval;
}

struct interval statistics_median_interval(const double *values, size_t n, double confidence, uint64_t seed) {
    struct interval interval = {.estimate = NAN, .lo = NAN, .hi = NAN, .n = n};
    double stack[SORT_ON_STACK], *sorted = stack;
    void *medians_block = NULL, *counts_block = NULL;
    if (n == 0 || sorted_copy(values, n, stack, &sorted) < 0) return interval;
    interval.estimate = quantile_of_sorted(sorted, n, 0.5);
    if (n < 3) goto out;
    if (memory_take(&medians_block, STATISTICS_RESAMPLES, sizeof(double)) < 0) goto out;
    if (memory_take(&counts_block, n, sizeof(uint32_t)) < 0) goto out;
    double *medians = medians_block;
    uint32_t *counts = counts_block;
    struct random random;
    random_open(&random, seed, random_stream("bootstrap median", n, 0));
    /* How often each sorted value was drawn gives the resample's median without sorting it. */
    for (size_t r = 0; r < STATISTICS_RESAMPLES; r++) {
        memset(counts, 0, n * sizeof *counts);
        for (size_t i = 0; i < n; i++) counts[index_below(&random, n)]++;
        size_t lower_rank = (n - 1) / 2, upper_rank = n / 2, seen = 0, i = 0;
        while (seen + counts[i] <= lower_rank) seen += counts[i++];
        double lower = sorted[i];
        while (seen + counts[i] <= upper_rank) seen += counts[i++];
        medians[r] = (lower + sorted[i]) / 2;
    }
    qsort(medians, STATISTICS_RESAMPLES, sizeof *medians, double_order);
    double tail = (1 - confidence) / 2;
    interval.lo = quantile_of_sorted(medians, STATISTICS_RESAMPLES, tail);
    interval.hi = quantile_of_sorted(medians, STATISTICS_RESAMPLES, 1 - tail);
out:
    memory_release(counts_block);
    memory_release(medians_block);
    sorted_release(sorted, stack);
    return interval;
}

double statistics_normal_two_sided(double confidence) {
    double low = 0, high = 40;
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2;
        if (erf(middle / sqrt(2)) < confidence) low = middle;
        else high = middle;
    }
    return (low + high) / 2;
}

static void discordant(const uint8_t *a, const uint8_t *b, size_t n, size_t *only_a, size_t *only_b) {
    *only_a = *only_b = 0;
    for (size_t i = 0; i < n; i++) {
        *only_a += a[i] && !b[i];
        *only_b += b[i] && !a[i];
    }
}

struct interval statistics_paired_difference(const uint8_t *a, const uint8_t *b, size_t n, double confidence) {
    struct interval interval = {.estimate = NAN, .lo = NAN, .hi = NAN, .n = n};
    if (n == 0) return interval;
    size_t only_a, only_b;
    discordant(a, b, n, &only_a, &only_b);
    double count = (double)n, plus = (double)only_a + 0.5, minus = (double)only_b + 0.5;
    interval.estimate = ((double)only_a - (double)only_b) / count;
    if (n < 3) return interval;
    double adjusted = count + 2, centre = (plus - minus) / adjusted;
    double variance = (plus + minus - (plus - minus) * (plus - minus) / adjusted) / (adjusted * adjusted);
    double half = statistics_normal_two_sided(confidence) * sqrt(variance);
    interval.lo = fmax(-1, centre - half);
    interval.hi = fmin(1, centre + half);
    return interval;
}

double statistics_mcnemar(size_t only_a, size_t only_b) {
    size_t fewer = only_a < only_b ? only_a : only_b, total = only_a + only_b;
    if (only_a == only_b) return 1;
    /* Terms in logarithms, since 2^-total underflows; the smallest terms come first. */
    double n = (double)total, tail = 0;
    for (size_t k = 0; k <= fewer; k++) {
        double x = (double)k;
        tail += exp(lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1) - n * log(2));
    }
    return fmin(1, 2 * tail);
}

double statistics_mcnemar_outcomes(const uint8_t *a, const uint8_t *b, size_t n) {
    size_t only_a, only_b;
    discordant(a, b, n, &only_a, &only_b);
    return statistics_mcnemar(only_a, only_b);
}
