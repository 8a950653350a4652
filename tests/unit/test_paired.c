/* Paired differences of metrics: estimates by hand, intervals that cover the planted truth, signs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/random.h"
#include "task/paired.h"

enum { ITEMS = 200 };

static struct interval difference(const char *name, const double *const *own, const double *const *other, double *p) {
    struct interval interval;
    const struct paired_estimator *estimator = paired_estimator_find(name);
    assert_non_null(estimator);
    assert_int_equal(
        paired_difference(estimator, &(struct paired_columns){own, other}, 1, ITEMS, 0.95, 1, &interval, p), 0);
    assert_int_equal(interval.n, ITEMS);
    return interval;
}

static void test_mean(void **state) {
    (void)state;
    double a[ITEMS], b[ITEMS], p;
    for (size_t i = 0; i < ITEMS; i++) {
        b[i] = random_uniform_at(3, 1, i);
        a[i] = b[i] + 0.05 + 0.1 * (random_uniform_at(3, 2, i) - 0.5);
    }
    const double *own[] = {a}, *other[] = {b};
    struct interval interval = difference("mean", own, other, &p);
    /* Pairing takes the items' own spread (0.29) away: the noise of the difference has deviation 0.029. */
    assert_true(interval.lo > 0.04 && interval.hi < 0.06 && interval.lo < 0.05 && interval.hi > 0.045);
    assert_true(p < 0.002);
    struct interval turned = difference("mean", other, own, &p);
    assert_true(fabs(turned.estimate + interval.estimate) < 1e-15);
    difference("mean", own, own, &p);
    assert_true(p == 1);
}

static void test_perplexity(void **state) {
    (void)state;
    double nll[ITEMS], worse[ITEMS], tokens[ITEMS], p;
    for (size_t i = 0; i < ITEMS; i++) {
        tokens[i] = 10 + (double)(i % 7);
        nll[i] = tokens[i] * (1 + 0.2 * random_uniform_at(5, 1, i));
        worse[i] = nll[i] * 1.01;
    }
    double sum = 0, all = 0, sum_worse = 0;
    for (size_t i = 0; i < ITEMS; i++) {
        sum += nll[i];
        sum_worse += worse[i];
        all += tokens[i];
    }
    const double *own[] = {worse, tokens}, *other[] = {nll, tokens};
    struct interval interval = difference("perplexity", own, other, &p);
    assert_true(fabs(interval.estimate - (exp(sum_worse / all) - exp(sum / all))) < 1e-12);
    assert_true(interval.lo > 0 && interval.hi > interval.lo && p < 0.002);
}

static void test_correlations(void **state) {
    (void)state;
    static const char *const names[] = {"pearson", "spearman"};
    double target[ITEMS], good[ITEMS], bad[ITEMS], p;
    for (size_t i = 0; i < ITEMS; i++) {
        target[i] = random_uniform_at(7, 1, i);
        good[i] = target[i] + 0.1 * random_uniform_at(7, 2, i);
        bad[i] = target[i] + 2 * random_uniform_at(7, 3, i);
    }
    const double *own[] = {bad, target}, *other[] = {good, target};
    for (size_t k = 0; k < 2; k++) {
        struct interval interval = difference(names[k], own, other, &p);
        assert_true(interval.estimate < -0.3 && interval.hi < 0 && interval.lo > -1);
        assert_true(p < 0.005);
    }
}

static void test_bleu(void **state) {
    (void)state;
    double columns[PAIRED_COLUMNS_MAX][ITEMS], fewer[ITEMS], p;
    const double *own[PAIRED_COLUMNS_MAX], *other[PAIRED_COLUMNS_MAX];
    for (size_t c = 0; c < PAIRED_COLUMNS_MAX; c++) {
        own[c] = other[c] = columns[c];
        for (size_t i = 0; i < ITEMS; i++) columns[c][i] = c < 4 ? 4 - (double)c : c < 8 ? 11 - (double)c : 7;
    }
    for (size_t i = 0; i < ITEMS; i++) fewer[i] = i % 2 ? 3 : 4;
    own[0] = fewer;
    struct interval interval = difference("bleu", own, other, &p);
    /* precisions 4/7, 3/6, 2/5, 1/4; the first becomes 3.5/7 */
    double before = 100 * pow(4.0 / 7 * 0.5 * 0.4 * 0.25, 0.25), after = 100 * pow(0.5 * 0.5 * 0.4 * 0.25, 0.25);
    assert_true(fabs(interval.estimate - (after - before)) < 1e-9);
    assert_true(interval.lo < interval.estimate && interval.estimate < interval.hi && interval.hi < 0);
}

/* Three pairs that say the same are no more evidence than one; three that err independently are. */
static void test_several_pairs(void **state) {
    (void)state;
    double a[3][ITEMS], b[ITEMS], p, p_same;
    for (size_t i = 0; i < ITEMS; i++) {
        b[i] = random_uniform_at(3, 1, i);
        for (size_t s = 0; s < 3; s++) a[s][i] = b[i] + 0.01 + 0.3 * (random_uniform_at(3, 2 + s, i) - 0.5);
    }
    const double *other[] = {b}, *own[3][1] = {{a[0]}, {a[1]}, {a[2]}};
    struct paired_columns same[3], apart[3];
    for (size_t s = 0; s < 3; s++)
        same[s] = (struct paired_columns){own[0], other}, apart[s] = (struct paired_columns){own[s], other};
    struct interval one, thrice, three;
    const struct paired_estimator *mean = paired_estimator_find("mean");
    assert_int_equal(paired_difference(mean, same, 1, ITEMS, 0.95, 1, &one, &p), 0);
    assert_int_equal(paired_difference(mean, same, 3, ITEMS, 0.95, 1, &thrice, &p_same), 0);
    assert_true(fabs(one.lo - thrice.lo) < 1e-12 && fabs(one.hi - thrice.hi) < 1e-12 && p == p_same);
    assert_int_equal(paired_difference(mean, apart, 3, ITEMS, 0.95, 1, &three, &p), 0);
    double sums[3] = {0};
    for (size_t i = 0; i < ITEMS; i++)
        for (size_t s = 0; s < 3; s++) sums[s] += (a[s][i] - b[i]) / ITEMS;
    assert_true(fabs(three.estimate - (sums[0] + sums[1] + sums[2]) / 3) < 1e-12);
    assert_true(three.hi - three.lo < 0.7 * (one.hi - one.lo)); /* 0.58 of it, were there no luck */
}

static void test_too_few(void **state) {
    (void)state;
    const double a[2] = {1, 2}, *own[] = {a};
    struct interval interval;
    double p;
    assert_int_equal(paired_difference(paired_estimator_find("mean"), &(struct paired_columns){own, own}, 1, 2, 0.95, 1,
                                       &interval, &p),
                     0);
    assert_true(interval.estimate == 0 && isnan(interval.lo) && isnan(p));
    assert_null(paired_estimator_find("median"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean), cmocka_unit_test(test_perplexity),    cmocka_unit_test(test_correlations),
        cmocka_unit_test(test_bleu), cmocka_unit_test(test_several_pairs), cmocka_unit_test(test_too_few),
    };
    return cmocka_run_group_tests_name("paired", tests, NULL, NULL);
}
