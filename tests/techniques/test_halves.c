/* What float16 and bfloat16 promise: 16-bit layers, the same bytes each time, nothing lost where weights fit, errors in
 * the order of their precisions, and refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "technique_run.h"

extern const struct technique technique_float16, technique_bfloat16;

static const char *const weights[] = {"arithmetic=weights", NULL}, *const both[] = {"arithmetic=both", NULL};

static const struct half_case {
    const struct technique *technique;
    const char *const *settings;
    const char *format;
} cases[] = {
    {&technique_float16, weights, "f16"},
    {&technique_float16, both, "f16_both"},
    {&technique_bfloat16, weights, "bf16_weights"},
    {&technique_bfloat16, both, "bf16"},
};
#define CASES (sizeof cases / sizeof *cases)

static void test_formats(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        struct technique_run run;
        struct model_size size;
        char hex[2][HASH_HEX];
        for (int i = 0; i < 2; i++) {
            technique_run_open(&run, 3);
            assert_int_equal(technique_run_stage(&run, cases[c].technique, cases[c].settings), 0);
            technique_run_hash(&run, hex[i]);
            if (i == 0) technique_run_close(&run);
        }
        assert_string_equal(hex[0], hex[1]);
        for (size_t i = 0; i < run.model.linear_count; i++)
            assert_string_equal(run.model.linears[i].weight.format->name,
                                run.model.linears[i].block >= 0 ? cases[c].format : "f32");
        model_size(&run.model, &size);
        assert_int_equal(2 * size.linear_bytes, size.linear_f32_bytes);
        assert_true(technique_run_metric(&run, "layers_rounded") == 12);
        technique_run_close(&run);
    }
    struct technique_run run; /* the defaults */
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_float16, NULL), 0);
    assert_string_equal(run.model.linears[0].weight.format->name, "f16");
    technique_run_close(&run);
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_bfloat16, NULL), 0);
    assert_string_equal(run.model.linears[0].weight.format->name, "bf16");
    technique_run_close(&run);
}

/* Weights of 7 bits fit into either: logits stay, to the order of summation, where activations stay f32. */
static void test_lossless(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        struct technique_run run;
        float before[12], after[12];
        double scale = 0;
        technique_run_open(&run, 3);
        for (size_t l = 0; l < run.model.linear_count; l++)
            for (size_t i = 0; i < run.model.linears[l].rows * run.model.linears[l].columns; i++)
                run.model.linears[l].value[i] = rintf(run.model.linears[l].value[i] * 128) / 128;
        technique_run_logits(&run, before);
        assert_int_equal(technique_run_stage(&run, cases[c].technique, cases[c].settings), 0);
        assert_true(technique_run_metric(&run, "weight_relative_error_frac") == 0);
        technique_run_logits(&run, after);
        for (int i = 0; i < 12; i++) scale += (double)before[i] * (double)before[i];
        double distance = logits_distance(before, after);
        if (cases[c].settings == weights) assert_true(distance <= 1e-10 * scale);
        else assert_true(distance > 1e-10 * scale);
        technique_run_close(&run);
    }
}

static void test_order(void **state) {
    (void)state;
    double distance[CASES], error[CASES];
    for (size_t c = 0; c < CASES; c++) {
        struct technique_run run;
        float before[12], after[12];
        technique_run_open(&run, 3);
        technique_run_logits(&run, before);
        assert_int_equal(technique_run_stage(&run, cases[c].technique, cases[c].settings), 0);
        technique_run_logits(&run, after);
        distance[c] = logits_distance(before, after);
        error[c] = technique_run_metric(&run, "weight_relative_error_frac");
        technique_run_close(&run);
    }
    assert_true(error[0] == error[1] && error[2] == error[3]);
    assert_true(error[0] > 0 && error[0] < 0x1p-11 && error[2] > error[0] && error[2] < 0x1p-8);
    assert_true(distance[0] < distance[2] && distance[1] < distance[3] && distance[2] < distance[3]);
}

static void refused(const struct technique *technique, const char *const *settings, float weight, const char *words) {
    struct technique_run run;
    technique_run_open(&run, 3);
    if (weight != 0) run.model.linears[1].value[5] = weight;
    assert_int_equal(technique_run_stage(&run, technique, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    technique_run_close(&run);
}

static void test_refusals(void **state) {
    static const char *const nobody[] = {"skip=[nobody]", NULL}, *const none[] = {"layers=[query, key]", "skip=[query]",
                                                                                  "keep=[key]", NULL};
    struct technique_run run;
    (void)state;
    refused(&technique_float16, nobody, 0, "'nobody'");
    refused(&technique_bfloat16, none, 0, "no layer");
    refused(&technique_float16, NULL, 65520, "beyond its range");
    refused(&technique_bfloat16, NULL, 3.4e38f, "beyond its range");
    technique_run_open(&run, 3);
    run.model.linears[1].value[5] = 65519;
    assert_int_equal(technique_run_stage(&run, &technique_float16, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_bfloat16, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as f16 already"));
    technique_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_lossless),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
