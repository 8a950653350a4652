/* Histograms that stream, and the ranges that calibrators choose from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "calibrate/observer.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void must_fail(int status, int code, const char *words) {
    assert_int_equal(status, code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
}

/* ---- histograms --------------------------------------------------------------------------------------- */

static uint64_t total(const struct histogram *histogram) {
    uint64_t sum = histogram->bins ? 0 : histogram->zeros;
    for (size_t i = 0; i < histogram->bins; i++) sum += histogram->counts[i];
    return sum;
}

/* Counted anew from all values with the edges as they are. */
static void check_counts(const struct histogram *histogram, const float *x, size_t count) {
    for (size_t i = 0; i < histogram->bins; i++) {
        double from = histogram_edge(histogram, i), to = histogram_edge(histogram, i + 1);
        bool last = i + 1 == histogram->bins;
        uint64_t expected = 0;
        for (size_t k = 0; k < count; k++) {
            double value = (double)x[k];
            expected += value >= from && (value < to || (last && value <= to));
        }
        if (histogram->counts[i] != expected)
            fail_msg("bin %zu (%g..%g): %llu instead of %llu", i, from, to, (unsigned long long)histogram->counts[i],
                     (unsigned long long)expected);
    }
}

/* Values on edges (sixteenths), growing from call to call so that bins are added, then joined. */
static void test_streams(void **state) {
    enum { COUNT = 600 };
    float x[COUNT];
    struct histogram histogram;
    size_t most = 0, fewest_joins = 0;
    double first_width = 0;
    (void)state;
    must(histogram_open(&histogram, 16));
    for (size_t i = 0; i < COUNT; i++) {
        double reach = pow(2, (double)(i / 60)), share = random_uniform_at(5, 1, i) * 2 - 1;
        x[i] = (float)(floor(share * reach * 16) / 16);
    }
    x[0] = -1; /* so that edges are eighths */
    for (size_t i = 0; i < COUNT; i += 60) {
        must(histogram_add(&histogram, x + i, 60, NULL, NULL));
        if (i == 0) first_width = histogram.width;
        if (histogram.bins > most) most = histogram.bins;
        fewest_joins += histogram.width > first_width;
        assert_int_equal(total(&histogram), i + 60);
        check_counts(&histogram, x, i + 60);
        assert_true(histogram.half == histogram.width * (double)(histogram.bins / 2));
        assert_true(fabs((double)histogram.high) <= histogram.half && fabs((double)histogram.low) <= histogram.half);
    }
    assert_true(first_width == 0.125);
    assert_true(most > 16 && most <= 16 * HISTOGRAM_GROWTH); /* both ways of growing were taken */
    assert_true(fewest_joins > 2);
    histogram_close(&histogram);
}

static void test_wide_leap(void **state) {
    static const float x[] = {1e-30f, -1e-30f, 3e37f, 0, -3e38f};
    struct histogram histogram;
    float low, high;
    (void)state;
    must(histogram_open(&histogram, 64));
    for (size_t i = 0; i < 5; i++) must(histogram_add(&histogram, x + i, 1, &low, &high));
    assert_true(low == -3e38f && high == -3e38f && histogram.low == -3e38f && histogram.high == 3e37f);
    assert_true(histogram.bins <= 64 * HISTOGRAM_GROWTH && total(&histogram) == 5);
    check_counts(&histogram, x, 5);
    histogram_close(&histogram);
}

static void test_zeros_first(void **state) {
    static const float zeros[7] = {0}, some[] = {-2, 2, 1};
    struct histogram histogram;
    struct observer observer;
    struct observer_plan plan;
    struct range range;
    (void)state;
    must(histogram_open(&histogram, 4));
    must(histogram_add(&histogram, zeros, 7, NULL, NULL));
    assert_true(histogram.bins == 0 && histogram.values == 7);
    must(histogram_add(&histogram, some, 3, NULL, NULL));
    must(histogram_add(&histogram, zeros, 7, NULL, NULL));
    static const uint64_t expected[] = {1, 0, 14, 2};
    assert_memory_equal(histogram.counts, expected, sizeof expected);
    histogram_close(&histogram);
    for (int k = CALIBRATOR_MIN_MAX; k <= CALIBRATOR_MSE; k++) {
        observer_defaults(&plan, (enum calibrator)k, false);
        must(observer_open(&observer, &plan));
        must_fail(observer_range(&observer, &range), E_STATE, "nothing was observed");
        must(observer_add(&observer, zeros, 7));
        must(observer_range(&observer, &range));
        assert_true(range.low == 0 && range.high == 0);
        observer_close(&observer);
    }
}

static void test_refusals(void **state) {
    static const float bad[] = {1, NAN, INFINITY, -INFINITY};
    struct histogram histogram;
    struct observer observer;
    struct observer_plan plan;
    enum calibrator calibrator;
    (void)state;
    must_fail(histogram_open(&histogram, 7), E_ARGUMENT, "even number of bins");
    must(histogram_open(&histogram, 8));
    for (size_t i = 1; i < 4; i++) {
        float x[3] = {bad[0], bad[i], bad[0]};
        must_fail(histogram_add(&histogram, x, 3, NULL, NULL), E_NUMERIC, "not finite");
    }
    assert_int_equal(histogram.values, 0);
    histogram_close(&histogram);
    observer_defaults(&plan, CALIBRATOR_PERCENTILE, false);
    plan.percentile = 50;
    must_fail(observer_open(&observer, &plan), E_ARGUMENT, "percentile must be above 50");
    observer_defaults(&plan, CALIBRATOR_ENTROPY, false);
    plan.quantized_bins = 4096;
    must_fail(observer_open(&observer, &plan), E_ARGUMENT, "quantized_bins must be even and at most bins, 2048");
    observer_defaults(&plan, CALIBRATOR_MOVING_AVERAGE, false);
    plan.averaging = 1.5;
    must_fail(observer_open(&observer, &plan), E_ARGUMENT, "averaging must be 0 to 1");
    must_fail(calibrator_find("best", &calibrator), E_NOT_FOUND, "no calibrator 'best': one of min_max|");
    must(calibrator_find("mse", &calibrator));
    assert_int_equal(calibrator, CALIBRATOR_MSE);
}

/* ---- ranges ------------------------------------------------------------------------------------------- */

/* Neural Compressor's own test of its calibrators (ONNX Runtime's by origin), in float32: [0..9, 0..4], then
 * [0..14, 0..14]. */
static void known(enum calibrator calibrator, size_t bins, double first, double second) {
    float one[15], two[30];
    struct observer observer;
    struct observer_plan plan;
    struct range range;
    for (size_t i = 0; i < 15; i++) one[i] = (float)(i < 10 ? i : i - 10);
    for (size_t i = 0; i < 30; i++) two[i] = (float)(i % 15);
    observer_defaults(&plan, calibrator, false);
    plan.bins = bins;
    must(observer_open(&observer, &plan));
    must(observer_add(&observer, one, 15));
    must(observer_range(&observer, &range));
    if (range.low != 0 || fabs(range.high - first) > 1e-6)
        fail_msg("%g..%.8g, not 0..%.8g", range.low, range.high, first);
    must(observer_add(&observer, two, 30));
    must(observer_range(&observer, &range));
    if (range.low != 0 || fabs(range.high - second) > 1e-6)
        fail_msg("%g..%.8g, not 0..%.8g", range.low, range.high, second);
    observer_close(&observer);
}

static void test_known(void **state) {
    (void)state;
    known(CALIBRATOR_MIN_MAX, 2048, 9, 14);
    known(CALIBRATOR_ENTROPY, 128, 9, 9.140625);
    known(CALIBRATOR_PERCENTILE, 2048, 8.991211, 13.9921875);
}

enum { MANY = 40000 };
/* A normal crowd, skewed, with some far outliers. */
static float *crowd(uint64_t seed) {
    float *x = malloc(MANY * sizeof *x);
    struct random random;
    assert_non_null(x);
    random_open(&random, seed, random_stream("crowd", 0, 0));
    for (size_t i = 0; i < MANY; i++) {
        double value = random_normal(&random);
        if (value > 0) value *= 2;
        if (i % 8000 == 77) value = i % 16000 == 77 ? 60 : -25;
        x[i] = (float)value;
    }
    return x;
}

static void choose_of(enum calibrator calibrator, bool symmetric, double percentile, int codes, const float *x,
                      struct range *range) {
    struct observer observer;
    struct observer_plan plan;
    observer_defaults(&plan, calibrator, symmetric);
    plan.percentile = percentile;
    plan.codes = codes;
    must(observer_open(&observer, &plan));
    for (size_t i = 0; i < MANY; i += 5000) must(observer_add(&observer, x + i, 5000));
    must(observer_range(&observer, range));
    observer_close(&observer);
}

static void choose(enum calibrator calibrator, bool symmetric, double percentile, const float *x, struct range *range) {
    choose_of(calibrator, symmetric, percentile, symmetric ? 255 : 256, x, range);
}

/* A mean squared error by rounding every value. */
static double cost(const float *x, struct range range, int codes) {
    double low = fmin(range.low, 0), high = fmax(range.high, 0), scale = (high - low) / (codes - 1);
    double zero = nearbyint(-low / scale), sum = 0;
    for (size_t i = 0; i < MANY; i++) {
        double code = fmin(fmax(nearbyint((double)x[i] / scale) + zero, 0), codes - 1);
        double error = (code - zero) * scale - (double)x[i];
        sum += error * error;
    }
    return sum / MANY;
}

static void test_inside(void **state) {
    float *x = crowd(3);
    struct range whole, range;
    (void)state;
    choose(CALIBRATOR_MIN_MAX, false, 99.9, x, &whole);
    assert_true(whole.low == -25 && whole.high == 60);
    for (int k = CALIBRATOR_MIN_MAX; k <= CALIBRATOR_MSE; k++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            choose((enum calibrator)k, symmetric, 99.9, x, &range);
            double low = symmetric ? -60 : -25;
            assert_true(range.low >= low && range.high <= 60 && range.low < 0 && range.high > 0);
            assert_true(!symmetric || range.low == -range.high);
            if (k == CALIBRATOR_PERCENTILE || k == CALIBRATOR_ENTROPY) assert_true(range.high < 50); /* outliers cut */
        }
    choose(CALIBRATOR_PERCENTILE, false, 100, x, &range);
    assert_true(range.low == whole.low && range.high == whole.high);
    free(x);
}

/* The percentile leaves out as many values as it says. */
static void test_share(void **state) {
    float *x = crowd(4);
    struct range range;
    size_t below = 0, above = 0, beyond = 0;
    (void)state;
    choose(CALIBRATOR_PERCENTILE, false, 98, x, &range);
    for (size_t i = 0; i < MANY; i++) below += (double)x[i]<range.low, above += (double)x[i]> range.high;
    assert_true(below <= MANY / 100 && below > MANY / 100 - 300);
    assert_true(above >= MANY / 100 && above < MANY / 100 + 300);
    choose(CALIBRATOR_PERCENTILE, true, 98, x, &range);
    for (size_t i = 0; i < MANY; i++) beyond += fabs((double)x[i]) > range.high;
    assert_true(beyond >= MANY / 50 && beyond < MANY / 50 + 300);
    free(x);
}

/* At 4 bits, where cutting pays: no range among many has less error on the values than mse's. */
static void test_least_error(void **state) {
    float *x = crowd(5);
    struct range best, range, whole;
    double least = INFINITY;
    (void)state;
    choose(CALIBRATOR_MIN_MAX, false, 99.9, x, &whole);
    choose_of(CALIBRATOR_MSE, false, 99.9, 16, x, &best);
    for (int i = 1; i <= 40; i++)
        for (int k = 1; k <= 40; k++) {
            range = (struct range){whole.low * i / 40, whole.high * k / 40};
            least = fmin(least, cost(x, range, 16));
        }
    assert_true(cost(x, best, 16) <= 1.01 * least);
    assert_true(cost(x, best, 16) < 0.9 * cost(x, whole, 16));
    choose_of(CALIBRATOR_MSE, true, 99.9, 15, x, &best);
    for (int i = 1; i <= 100; i++) {
        range = (struct range){-0.6 * i, 0.6 * i};
        assert_true(cost(x, best, 15) <= 1.01 * cost(x, range, 15));
    }
    free(x);
}

static void test_foreseen(void **state) {
    float *x = crowd(6);
    struct histogram histogram;
    (void)state;
    must(histogram_open(&histogram, 4096));
    must(histogram_add(&histogram, x, MANY, NULL, NULL));
    static const struct range ranges[] = {{-25, 60}, {-5, 8}, {-1, 1}, {0, 3}, {-3, 0}, {1, 2}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        double expected = cost(x, ranges[i], 256), foreseen = range_error(&histogram, ranges[i], 256);
        if (fabs(foreseen - expected) > 0.03 * expected)
            fail_msg("range %g..%g: foreseen %g, is %g", ranges[i].low, ranges[i].high, foreseen, expected);
    }
    histogram_close(&histogram);
    free(x);
}

/* Any number of threads. */
static void test_threads(void **state) {
    float *x = crowd(7);
    uint64_t *counts = NULL;
    int before = threads_get();
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        struct histogram histogram;
        threads_set(threads);
        must(histogram_open(&histogram, 512));
        for (size_t i = 0; i < MANY; i += 20000) must(histogram_add(&histogram, x + i, 20000, NULL, NULL));
        if (!counts) {
            counts = malloc(histogram.bins * sizeof *counts);
            assert_non_null(counts);
            memcpy(counts, histogram.counts, histogram.bins * sizeof *counts);
        }
        assert_memory_equal(counts, histogram.counts, histogram.bins * sizeof *counts);
        histogram_close(&histogram);
    }
    threads_set(before);
    free(counts);
    free(x);
}

static void test_moving_average(void **state) {
    static const float batches[3][2] = {{-1, 2}, {-3, 2}, {-2, 8}};
    struct observer observer;
    struct observer_plan plan;
    struct range range;
    (void)state;
    observer_defaults(&plan, CALIBRATOR_MOVING_AVERAGE, false);
    for (int mean = 0; mean < 2; mean++) {
        plan.averaging = mean ? 0 : 0.5;
        must(observer_open(&observer, &plan));
        for (size_t i = 0; i < 3; i++) must(observer_add(&observer, batches[i], 2));
        must(observer_range(&observer, &range));
        assert_true(range.low == -2 && fabs(range.high - (mean ? 4 : 5)) < 1e-12);
        observer_close(&observer);
    }
}

/* Every allocation fails once; what was counted stays right. */
static void test_memory(void **state) {
    float *x = crowd(8);
    (void)state;
    for (long n = 1; n < 20; n++) {
        struct observer observer;
        struct observer_plan plan;
        struct range range;
        observer_defaults(&plan, CALIBRATOR_ENTROPY, false);
        plan.bins = 256;
        must(observer_open(&observer, &plan));
        memory_fail_after(n);
        int status = observer_add(&observer, x, 100);
        if (status == 0) status = observer_add(&observer, x, MANY);
        if (status == 0) status = observer_range(&observer, &range);
        bool reached = memory_count() >= n;
        memory_fail_after(0);
        assert_int_equal(status, reached ? E_MEMORY : 0);
        observer_close(&observer);
        if (!reached) break;
        assert_true(n < 19);
    }
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),  cmocka_unit_test(test_wide_leap),      cmocka_unit_test(test_zeros_first),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_known),          cmocka_unit_test(test_inside),
        cmocka_unit_test(test_share),    cmocka_unit_test(test_least_error),    cmocka_unit_test(test_foreseen),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_moving_average), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
