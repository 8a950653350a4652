/* What llm_int8 promises: 8-bit layers that keep their threshold on disk, the same bytes each time, nothing lost where
 * weights fit and all columns are left out, less error than round-to-nearest where activations have outliers, and
 * refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "technique_run.h"

extern const struct technique technique_llm_int8, technique_rtn;

/* A model whose activations have outliers: two of a norm's gains are large. */
static void outliers_open(struct technique_run *run, uint64_t seed) {
    technique_run_open(run, seed);
    for (size_t i = 0; i < run->model.parameter_count; i++) {
        struct parameter *parameter = &run->model.parameters[i];
        if (strstr(parameter->name, "LayerNorm.weight") == NULL) continue;
        parameter->value[7] *= 12;
        parameter->value[33] *= 15;
    }
}

/* Summed over models: a single one's logits may happen to be near. */
static double distance_after(const struct technique *technique, const char *const *settings) {
    double sum = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct technique_run run;
        float before[12], after[12];
        outliers_open(&run, seed);
        technique_run_logits(&run, before);
        assert_int_equal(technique_run_stage(&run, technique, settings), 0);
        technique_run_logits(&run, after);
        technique_run_close(&run);
        sum += logits_distance(before, after);
    }
    return sum;
}

static void hash_after(const struct technique *technique, const char *const *settings, char hex[HASH_HEX]) {
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, technique, settings), 0);
    technique_run_hash(&run, hex);
    technique_run_close(&run);
}

static void test_same_bytes(void **state) {
    static const char *const none[] = {"threshold=0", NULL};
    char one[HASH_HEX], two[HASH_HEX];
    (void)state;
    hash_after(&technique_llm_int8, NULL, one);
    hash_after(&technique_llm_int8, NULL, two);
    assert_string_equal(one, two);
    hash_after(&technique_rtn, NULL, two);
    assert_string_not_equal(one, two);
    hash_after(&technique_llm_int8, none, one);
    assert_string_equal(one, two);
}

static void test_formats(void **state) {
    struct technique_run run;
    struct model_size size;
    (void)state;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, NULL), 0);
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        assert_string_equal(linear->weight.format->name, linear->block >= 0 ? "int8" : "f32");
        assert_true(linear->weight.activation.outlier == (linear->block >= 0 ? 6 : 0));
    }
    model_size(&run.model, &size);
    assert_true(100 * size.linear_bytes < 27 * size.linear_f32_bytes);
    technique_run_close(&run);
}

/* Weights on their grids, and a threshold that everything reaches: only the order of summation is left. */
static void test_lossless(void **state) {
    static const char *const all[] = {"threshold=1e-30", NULL};
    struct technique_run run;
    float before[12], after[12];
    double scale = 0;
    (void)state;
    technique_run_open(&run, 3);
    for (size_t l = 0; l < run.model.linear_count; l++) {
        struct linear *linear = &run.model.linears[l];
        for (size_t i = 0; linear->block >= 0 && i < linear->rows * linear->columns; i++)
            linear->value[i] = (float)(i % 32 == 0 ? 127 : (int)(i * 7 % 255) - 127) / 1024;
    }
    technique_run_logits(&run, before);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, all), 0);
    technique_run_logits(&run, after);
    assert_true(technique_run_metric(&run, "weight_relative_error_frac") == 0);
    for (int i = 0; i < 12; i++) scale += (double)before[i] * (double)before[i];
    assert_true(logits_distance(before, after) <= 1e-9 * scale);
    technique_run_close(&run);
}

/* With outliers, leaving them out is far better than not; leaving more out is not worse. */
static void test_order(void **state) {
    static const char *const all[] = {"threshold=1e-30", NULL}, *const none[] = {"threshold=0", NULL};
    (void)state;
    double naive = distance_after(&technique_rtn, NULL), left_out = distance_after(&technique_llm_int8, NULL);
    double nothing = distance_after(&technique_llm_int8, none), everything = distance_after(&technique_llm_int8, all);
    assert_true(nothing == naive);
    assert_true(left_out > 0 && 4 * left_out < naive);
    assert_true(everything < left_out);
}

static void test_selection(void **state) {
    static const char *const settings[] = {"layers=[query, up]", "skip=[*.layer.1.*]", "keep=[up]", NULL};
    struct technique_run run;
    (void)state;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, settings), 0);
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        assert_int_equal(linear->value == NULL, linear->role == ROLE_QUERY && linear->block == 0);
    }
    technique_run_close(&run);
}

static void refused(const char *const *settings, const char *words) {
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    technique_run_close(&run);
}

static void test_refusals(void **state) {
    static const char *const nobody[] = {"layers=[nobody]", NULL}, *const none[] = {"layers=[query, key]",
                                                                                    "skip=[query]", "keep=[key]", NULL};
    struct technique_run run;
    (void)state;
    refused(nobody, "'nobody'");
    refused(none, "no layer");
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_llm_int8, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8 already"));
    technique_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_formats),   cmocka_unit_test(test_lossless),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_selection), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
