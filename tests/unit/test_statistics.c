/* Statistics against hand-computed values, and the coverage of the intervals by simulation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "measure/statistics.h"

static void assert_near(double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance)) fail_msg("got %.12g, expected %.12g within %g", got, expected, tolerance);
}

static void medians_and_quantiles(void **state) {
    (void)state;
    const double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_near(statistics_median(odd, 3), 3, 0);
    assert_near(statistics_median(even, 4), 2.5, 0);
    assert_near(statistics_median(one, 1), 7, 0);
    assert_true(isnan(statistics_median(odd, 0)));
    assert_near(odd[0], 5, 0); /* the input keeps its order */
    /* Type 7 of Hyndman and Fan, as R's quantile(): quantile(c(1,2,3,4), .25) is 1.75. */
    assert_near(statistics_quantile(even, 4, 0.25), 1.75, 1e-15);
    assert_near(statistics_quantile(even, 4, 0), 1, 0);
    assert_near(statistics_quantile(even, 4, 1), 4, 0);
    double many[1000];
    for (int i = 0; i < 1000; i++) many[i] = 999 - i;
    assert_near(statistics_median(many, 1000), 499.5, 0);
}

static void outliers_are_flagged(void **state) {
    (void)state;
    /* median 10, MAD 1: z = 0.6745 (x - 10) exceeds 14.826 above 10 + 21.98. */
    double values[] = {9, 10, 11, 9, 10, 11, 10, 31, 33};
    bool flag[9];
    statistics_outliers(values, 9, flag);
    for (int i = 0; i < 8; i++) assert_false(flag[i]);
    assert_true(flag[8]);
    double same[] = {5, 5, 5, 5, 5};
    statistics_outliers(same, 5, flag);
    for (int i = 0; i < 5; i++) assert_false(flag[i]);
    statistics_outliers(values, 2, flag);
    assert_false(flag[0] || flag[1]);
}

static void intervals_of_few_values(void **state) {
    (void)state;
    const double values[] = {1, 2, 4}, same[] = {3, 3, 3, 3};
    struct interval none = statistics_mean_interval(values, 0, 0.95, 1);
    assert_true(isnan(none.estimate));
    struct interval two = statistics_mean_interval(values, 2, 0.95, 1);
    assert_near(two.estimate, 1.5, 0);
    assert_true(isnan(two.lo) && isnan(two.hi) && two.n == 2);
    struct interval three = statistics_mean_interval(values, 3, 0.95, 1);
    assert_true(three.lo < three.estimate && three.estimate < three.hi && isfinite(three.lo) && isfinite(three.hi));
    struct interval flat = statistics_mean_interval(same, 4, 0.95, 1);
    assert_near(flat.lo, 3, 0);
    assert_near(flat.hi, 3, 0);
    struct interval median = statistics_median_interval(values, 3, 0.95, 1);
    assert_near(median.estimate, 2, 0);
    assert_near(median.lo, 1, 0);
    assert_near(median.hi, 4, 0);
}

static void ratio_of_constant_factor(void **state) {
    (void)state;
    /* Each round drifts, the ratio within it does not: the interval is a point. */
    double a[10], b[10];
    for (int i = 0; i < 10; i++) {
        b[i] = 2 + 0.3 * i;
        a[i] = 0.5 * b[i];
    }
    struct interval ratio = statistics_ratio_interval(a, b, 10, 0.95, 1);
    assert_near(ratio.estimate, 0.5, 1e-12);
    assert_near(ratio.lo, 0.5, 1e-12);
    assert_near(ratio.hi, 0.5, 1e-12);
    /* Geometric mean: ratios 1/2, 1, 2 average to 1. */
    const double x[] = {1, 2, 4}, y[] = {2, 2, 2};
    assert_near(statistics_ratio_interval(x, y, 3, 0.95, 1).estimate, 1, 1e-12);
}

static void same_seed_same_interval(void **state) {
    (void)state;
    const double values[] = {1, 2.5, 3, 1.5, 2, 2.25, 1.75};
    struct interval a = statistics_mean_interval(values, 7, 0.95, 5), b = statistics_mean_interval(values, 7, 0.95, 5),
                    c = statistics_mean_interval(values, 7, 0.95, 6),
                    wide = statistics_mean_interval(values, 7, 0.99, 5);
    assert_true(a.lo == b.lo && a.hi == b.hi);
    assert_true(a.lo != c.lo);
    assert_near(a.lo, c.lo, 0.1);
    assert_true(wide.lo < a.lo && wide.hi > a.hi);
}

/* 95 % intervals of log-normal ratios over ten rounds must hold the truth in 93 % of experiments and more. */
static void ratio_interval_covers(void **state) {
    (void)state;
    enum { EXPERIMENTS = 400, ROUNDS = 10 };
    int covered = 0;
    for (uint64_t e = 0; e < EXPERIMENTS; e++) {
        struct random random;
        random_open(&random, 2024, random_stream("coverage", e, 0));
        double logs[ROUNDS];
        for (int i = 0; i < ROUNDS; i++) logs[i] = log(0.8) + 0.03 * random_normal(&random);
        struct interval interval = statistics_mean_interval_resampled(logs, ROUNDS, 0.95, e, 2000);
        covered += interval.lo <= log(0.8) && log(0.8) <= interval.hi;
    }
    if (covered < EXPERIMENTS * 93 / 100 || covered > EXPERIMENTS * 99 / 100)
        fail_msg("%d of %d intervals hold the truth", covered, EXPERIMENTS);
}

static void paired_differences(void **state) {
    (void)state;
    /* 100 items: both right 80, only a 10, only b 2, neither 8. */
    uint8_t a[100], b[100];
    for (int i = 0; i < 100; i++) {
        a[i] = i < 90;
        b[i] = i < 80 || (i >= 90 && i < 92);
    }
    struct interval d = statistics_paired_difference(a, b, 100, 0.95);
    assert_near(d.estimate, 0.08, 1e-15);
    /* Agresti-Min: centre 8/102, variance (13 - 64/102)/102^2, z 1.959964. */
    double half = 1.959963985 * sqrt((13 - 64.0 / 102) / (102.0 * 102.0));
    assert_near(d.lo, 8.0 / 102 - half, 1e-9);
    assert_near(d.hi, 8.0 / 102 + half, 1e-9);
    /* Exact McNemar of 10 against 2: 2 (1 + 12 + 66) / 4096. */
    assert_near(statistics_mcnemar_outcomes(a, b, 100), 158.0 / 4096, 1e-12);
}

static void mcnemar(void **state) {
    (void)state;
    assert_near(statistics_mcnemar(0, 0), 1, 0);
    assert_near(statistics_mcnemar(5, 5), 1, 0);
    assert_near(statistics_mcnemar(5, 0), 0.0625, 1e-12);
    assert_near(statistics_mcnemar(0, 5), 0.0625, 1e-12);
    assert_near(statistics_mcnemar(1, 6), 0.125, 1e-12);
    double far = statistics_mcnemar(3000, 1000);
    assert_true(far >= 0 && far < 1e-100);
    assert_true(statistics_mcnemar(2000, 1999) > 0.98);
}

static void normal_quantile(void **state) {
    (void)state;
    assert_near(statistics_normal_two_sided(0.95), 1.959963984540054, 1e-12);
    assert_near(statistics_normal_two_sided(0.99), 2.575829303548901, 1e-12);
}

static void without_memory(void **state) {
    (void)state;
    const double values[] = {1, 2, 3, 4, 5};
    memory_fail_after(1);
    struct interval mean = statistics_mean_interval(values, 5, 0.95, 1);
    struct interval median = statistics_median_interval(values, 5, 0.95, 1);
    memory_fail_after(0);
    assert_near(mean.estimate, 3, 0);
    assert_near(median.estimate, 3, 0);
    assert_true(isnan(mean.lo) && isnan(median.hi));
    assert_int_equal(error_code(), E_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(medians_and_quantiles),   cmocka_unit_test(outliers_are_flagged),
        cmocka_unit_test(intervals_of_few_values), cmocka_unit_test(ratio_of_constant_factor),
        cmocka_unit_test(same_seed_same_interval), cmocka_unit_test(ratio_interval_covers),
        cmocka_unit_test(paired_differences),      cmocka_unit_test(mcnemar),
        cmocka_unit_test(normal_quantile),         cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
