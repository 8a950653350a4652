/* What magnitude promises: exactly floor(s*n) zeros, the smallest first with stable ties, more sparsity is not
 * better, it beats pruning at random, and null changes nothing at all. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "technique_run.h"

extern const struct technique technique_magnitude, technique_null, technique_rtn;

static size_t zeros_of(const struct linear *linear) {
    size_t zeros = 0;
    for (size_t i = 0; i < linear->rows * linear->columns; i++) zeros += linear->value[i] == 0;
    return zeros;
}

/* 0.29 * 6400 is 1855.9999999999998 in binary; 1856 weights are meant. */
static void test_exact_count(void **state) {
    (void)state;
    static const size_t parts[] = {0, 100, 2900, 3000, 5000, 5700, 7770, 9999}; /* of 10,000 */
    for (size_t t = 0; t < sizeof parts / sizeof *parts; t++) {
        char setting[32];
        const char *settings[] = {setting, NULL};
        struct technique_run run;
        snprintf(setting, sizeof setting, "sparsity=0.%04zu", parts[t]);
        technique_run_open_sized(&run, 5, 100);
        assert_int_equal(technique_run_stage(&run, &technique_magnitude, settings), 0);
        for (size_t i = 0; i < run.model.linear_count; i++) {
            const struct linear *linear = &run.model.linears[i];
            size_t expected = linear->block < 0 ? 0 : parts[t] * linear->rows * linear->columns / 10000;
            assert_int_equal(zeros_of(linear), expected);
            assert_int_equal(linear->simulated, expected > 0);
        }
        technique_run_close(&run);
    }
}

/* Ties: the first goes first; zeros that are there already count as the smallest. */
static void test_ties(void **state) {
    (void)state;
    static const char *const settings[] = {"sparsity=0.25", "layers=[query]", NULL};
    struct technique_run run;
    technique_run_open(&run, 5);
    struct linear *linear = &run.model.linears[0];
    size_t n = linear->rows * linear->columns;
    for (size_t i = 0; i < n; i++) linear->value[i] = i % 2 ? -0.5f : 0.5f;
    for (size_t i = n - 10; i < n; i++) linear->value[i] = 0;
    assert_int_equal(technique_run_stage(&run, &technique_magnitude, settings), 0);
    for (size_t i = 0; i < n; i++) {
        bool gone = i < n / 4 - 10 || i >= n - 10;
        assert_int_equal(linear->value[i] == 0, gone);
    }
    technique_run_close(&run);
}

static void test_threshold(void **state) {
    (void)state;
    static const char *const settings[] = {"sparsity=0.6", NULL};
    struct technique_run run, before;
    technique_run_open(&run, 5);
    technique_run_open(&before, 5);
    assert_int_equal(technique_run_stage(&run, &technique_magnitude, settings), 0);
    for (size_t l = 0; l < run.model.linear_count; l++) {
        const struct linear *linear = &run.model.linears[l], *old = &before.model.linears[l];
        float gone = 0, kept = INFINITY;
        if (linear->block < 0) continue;
        for (size_t i = 0; i < linear->rows * linear->columns; i++) {
            float w = fabsf(old->value[i]);
            if (linear->value[i] == 0) gone = fmaxf(gone, w);
            else {
                assert_true(linear->value[i] == old->value[i]);
                kept = fminf(kept, w);
            }
        }
        assert_true(gone <= kept);
    }
    technique_run_close(&run);
    technique_run_close(&before);
}

static void test_global(void **state) {
    (void)state;
    static const char *const settings[] = {"sparsity=0.5", "scope=global", NULL};
    struct technique_run run;
    size_t zeros = 0, weights = 0;
    technique_run_open(&run, 5);
    struct linear *small = &run.model.linears[0];
    for (size_t i = 0; i < small->rows * small->columns; i++) small->value[i] *= 0.001f;
    assert_int_equal(technique_run_stage(&run, &technique_magnitude, settings), 0);
    for (size_t l = 0; l < run.model.linear_count; l++)
        if (run.model.linears[l].block >= 0) {
            zeros += zeros_of(&run.model.linears[l]);
            weights += run.model.linears[l].rows * run.model.linears[l].columns;
        }
    assert_int_equal(zeros, weights / 2);
    assert_int_equal(zeros_of(small), small->rows * small->columns); /* the smallest layer goes whole */
    assert_true(fabs(technique_run_metric(&run, "sparsity_frac") - 0.5) < 1e-12);
    assert_true(technique_run_metric(&run, "weights_zero") == (double)zeros);
    technique_run_close(&run);
}

static double distance_after(const struct technique *technique, const char *setting, bool at_random) {
    const char *settings[] = {setting, NULL};
    struct technique_run run;
    float before[12], after[12];
    technique_run_open(&run, 5);
    technique_run_logits(&run, before);
    technique_run_close(&run);
    technique_run_open(&run, 5);
    if (at_random) {
        for (size_t l = 0; l < run.model.linear_count; l++) {
            struct linear *linear = &run.model.linears[l];
            uint32_t order[8192];
            size_t n = linear->rows * linear->columns;
            if (linear->block < 0) continue;
            assert_true(n <= 8192);
            random_permutation(9, l, order, n);
            for (size_t i = 0; i < n / 2; i++) linear->value[order[i]] = 0;
        }
    } else {
        assert_int_equal(technique_run_stage(&run, technique, setting != NULL ? settings : NULL), 0);
    }
    technique_run_logits(&run, after);
    technique_run_close(&run);
    return logits_distance(before, after);
}

static void test_order(void **state) {
    (void)state;
    double none = distance_after(&technique_magnitude, "sparsity=0", false);
    double tenth = distance_after(&technique_magnitude, "sparsity=0.1", false);
    double half = distance_after(&technique_magnitude, "sparsity=0.5", false);
    double most = distance_after(&technique_magnitude, "sparsity=0.9", false);
    double random = distance_after(&technique_magnitude, NULL, true);
    assert_true(none == 0);
    assert_true(tenth > 0 && tenth < half && half < most);
    assert_true(half < random);
    assert_true(distance_after(&technique_null, NULL, false) == 0);
}

/* Zeros stay zero under rtn, and pruning after packing is refused. */
static void test_with_rtn(void **state) {
    (void)state;
    static const char *const half[] = {"sparsity=0.5", NULL}, *const four[] = {"bits=4", "symmetric=false", NULL};
    struct technique_run run;
    float pruned[64 * 64], rounded[64 * 64];
    technique_run_open(&run, 5);
    assert_int_equal(technique_run_stage(&run, &technique_magnitude, half), 0);
    struct linear *linear = &run.model.linears[0];
    memcpy(pruned, linear->value, sizeof pruned);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, four), 0);
    assert_int_equal(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, rounded), 0);
    for (size_t i = 0; i < 64 * 64; i++)
        if (pruned[i] == 0) assert_true(rounded[i] == 0);
    assert_int_equal(technique_run_stage(&run, &technique_magnitude, half), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "prune before quantizing"));
    technique_run_close(&run);
}

static void test_same_bytes(void **state) {
    (void)state;
    static const char *const half[] = {"sparsity=0.5", "scope=global", NULL};
    char hex[2][HASH_HEX];
    for (int i = 0; i < 2; i++) {
        struct technique_run run;
        technique_run_open(&run, 5);
        assert_int_equal(technique_run_stage(&run, &technique_magnitude, half), 0);
        technique_run_hash(&run, hex[i]);
        technique_run_close(&run);
    }
    assert_string_equal(hex[0], hex[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_count), cmocka_unit_test(test_ties),  cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_global),      cmocka_unit_test(test_order), cmocka_unit_test(test_with_rtn),
        cmocka_unit_test(test_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
