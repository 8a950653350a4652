/* What rtn promises: packed layers, the same bytes each time, less error with more bits and smaller groups,
 * rounding that no other choice of codes on its grid beats, and refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "technique_run.h"

extern const struct technique technique_rtn;

static double distance_after(const char *const *settings, double *relative) {
    struct technique_run run;
    float before[12], after[12];
    technique_run_open(&run, 3);
    technique_run_logits(&run, before);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, settings), 0);
    technique_run_logits(&run, after);
    *relative = technique_run_metric(&run, "weight_relative_error_frac");
    technique_run_close(&run);
    return logits_distance(before, after);
}

static void test_same_bytes(void **state) {
    (void)state;
    static const char *const settings[] = {"bits=4", "symmetric=false", NULL};
    char hex[2][HASH_HEX];
    for (int i = 0; i < 2; i++) {
        struct technique_run run;
        technique_run_open(&run, 3);
        assert_int_equal(technique_run_stage(&run, &technique_rtn, settings), 0);
        technique_run_hash(&run, hex[i]);
        technique_run_close(&run);
    }
    assert_string_equal(hex[0], hex[1]);
}

static void test_formats(void **state) {
    (void)state;
    struct technique_run run;
    struct model_size size;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, NULL), 0);
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        assert_string_equal(linear->weight.format->name, linear->block >= 0 ? "int8" : "f32");
        assert_false(linear->simulated);
    }
    model_size(&run.model, &size);
    assert_true(100 * size.linear_bytes < 30 * size.linear_f32_bytes);
    assert_true(technique_run_metric(&run, "layers_rounded") == 12);
    technique_run_close(&run);
}

/* The lossless setting: a matrix that lies on the grid already comes back unchanged. */
static void test_lossless(void **state) {
    (void)state;
    static const char *const eight[] = {"bits=8", NULL}, *const four[] = {"bits=4", "group=32", NULL};
    for (int bits = 8; bits >= 4; bits -= 4) {
        struct technique_run run;
        technique_run_open(&run, 3);
        int top = bits == 8 ? 127 : 7;
        for (size_t l = 0; l < run.model.linear_count; l++) {
            struct linear *linear = &run.model.linears[l];
            if (linear->block < 0) continue;
            for (size_t i = 0; i < linear->rows * linear->columns; i++) /* the top in every group, scale 1/64 */
                linear->value[i] = (float)(i % 32 == 0 ? top : (int)(i * 7 % (size_t)(2 * top + 1)) - top) / 64;
        }
        assert_int_equal(technique_run_stage(&run, &technique_rtn, bits == 8 ? eight : four), 0);
        assert_true(technique_run_metric(&run, "weight_relative_error_frac") < 1e-6);
        technique_run_close(&run);
    }
}

static void test_order(void **state) {
    (void)state;
    static const char *const eight[] = {"bits=8", NULL}, *const g32[] = {"bits=4", "group=32", NULL},
                             *const g64[] = {"bits=4", NULL}, *const free64[] = {"bits=4", "symmetric=false", NULL};
    double r8, r32, r64, rfree;
    double d8 = distance_after(eight, &r8), d64 = distance_after(g64, &r64);
    distance_after(g32, &r32);
    distance_after(free64, &rfree);
    assert_true(d8 > 0 && d8 < d64);
    assert_true(r8 < r32 && r32 < r64);
    assert_true(rfree < r64);
    assert_true(r8 < 0.01 && r64 < 0.15);
}

/* No code on the same grid is nearer than the one chosen: error of each weight is at most half a step. */
static void test_nearest(void **state) {
    (void)state;
    struct technique_run run;
    float before[64], after[128 * 64];
    technique_run_open(&run, 3);
    struct linear *linear = model_linear_find(&run.model, "bert.encoder.layer.1.attention.self.query");
    assert_non_null(linear);
    memcpy(before, linear->value, sizeof before); /* row 0 */
    assert_int_equal(technique_run_stage(&run, &technique_rtn, NULL), 0);
    assert_int_equal(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, after), 0);
    float top = 0;
    for (int i = 0; i < 64; i++) top = fmaxf(top, fabsf(before[i]));
    for (int i = 0; i < 64; i++) assert_true(fabsf(before[i] - after[i]) <= 0.5f * top / 127 * 1.001f);
    technique_run_close(&run);
}

static void test_selection(void **state) {
    (void)state;
    static const char *const settings[] = {"layers=[query, *.layer.1.*]", "skip=[down]", NULL};
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, settings), 0);
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        bool wanted = (linear->role == ROLE_QUERY || linear->block == 1) && linear->role != ROLE_DOWN;
        assert_int_equal(linear->value == NULL, wanted);
    }
    technique_run_close(&run);
}

static void refused(const char *const *settings, const char *words) {
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    technique_run_close(&run);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const group[] = {"bits=8", "group=64", NULL}, *const odd[] = {"symmetric=false", NULL},
                             *const nobody[] = {"layers=[nobody]", NULL},
                             *const none[] = {"layers=[query]", "skip=[query]", NULL};
    refused(group, "group must be 0");
    refused(odd, "symmetric only");
    refused(nobody, "'nobody'");
    refused(none, "no layer");
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_rtn, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8 already"));
    technique_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_formats), cmocka_unit_test(test_lossless),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_nearest), cmocka_unit_test(test_selection),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
