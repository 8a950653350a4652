/* What int8_attention promises: logits near those of f32, the same after a round trip over disk and together with
 * quantized weights, other bytes than without, and refusals by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "technique_run.h"

extern const struct technique technique_int8_attention, technique_ptq_dynamic, technique_rtn;

/* Scores of random weights are small: large queries make heads choose. */
static void choosy_open(struct technique_run *run, uint64_t seed) {
    technique_run_open(run, seed);
    for (size_t i = 0; i < run->model.linear_count; i++) {
        struct linear *linear = &run->model.linears[i];
        bool looks = linear->role == ROLE_QUERY || linear->role == ROLE_KEY;
        for (size_t k = 0; (looks || linear->role == ROLE_VALUE) && k < linear->rows * linear->columns; k++)
            linear->value[k] *= looks ? 9 : 5;
    }
}

static void test_near_f32(void **state) {
    double changed = 0, off = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct technique_run run;
        float f32[12], int8[12], rounded[12];
        static const char *const four[] = {"bits=4", NULL};
        choosy_open(&run, seed);
        technique_run_logits(&run, f32);
        assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), 0);
        technique_run_logits(&run, int8);
        technique_run_close(&run);
        choosy_open(&run, seed);
        assert_int_equal(technique_run_stage(&run, &technique_rtn, four), 0);
        technique_run_logits(&run, rounded);
        technique_run_close(&run);
        assert_true(memcmp(f32, int8, sizeof f32) != 0);
        changed += logits_distance(f32, rounded);
        off += logits_distance(f32, int8);
    }
    if (!(off * 20 < changed)) fail_msg("8-bit attention is off by %g, 4-bit weights by %g", off, changed);
}

/* Both stages, in either order, make one model. */
static void test_goes_with_quantized_weights(void **state) {
    struct technique_run run;
    char one[HASH_HEX], two[HASH_HEX];
    float first[12], second[12];
    (void)state;
    choosy_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, NULL), 0);
    technique_run_hash(&run, two);
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), 0);
    technique_run_hash(&run, one);
    technique_run_logits(&run, first);
    technique_run_close(&run);
    assert_string_not_equal(one, two);
    choosy_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, NULL), 0);
    technique_run_hash(&run, two);
    technique_run_logits(&run, second);
    technique_run_close(&run);
    assert_string_equal(one, two);
    assert_memory_equal(first, second, sizeof first);
}

static void test_round_trip(void **state) {
    struct technique_run run;
    struct model was;
    char path[] = "/tmp/test_int8_attention_XXXXXX";
    float before[12], after[12];
    (void)state;
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    choosy_open(&run, 5);
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), 0);
    technique_run_logits(&run, before);
    assert_int_equal(model_save(&run.model, path, run.model.config.model_heads), 0);
    was = run.model;
    assert_int_equal(model_open(&run.model, path, false), 0);
    unlink(path);
    assert_null(model_metadata(&run.model, "attention"));
    technique_run_logits(&run, after);
    assert_memory_equal(before, after, sizeof before);
    model_close(&run.model);
    assert_int_equal(model_copy(&run.model, &was, NULL), 0);
    technique_run_logits(&run, after);
    assert_memory_equal(before, after, sizeof before);
    model_close(&run.model);
    assert_int_equal(model_view(&run.model, &was, was.config.model_heads), 0);
    technique_run_logits(&run, after);
    assert_memory_equal(before, after, sizeof before);
    model_close(&run.model);
    run.model = was;
    technique_run_close(&run);
}

static void test_refusals(void **state) {
    struct technique_run run;
    (void)state;
    technique_run_open(&run, 1);
    run.model.config.causal = true;
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), E_UNSUPPORTED);
    assert_ptr_equal(strstr(error_text(), "attention of a bert model is causal"), error_text());
    run.model.config.causal = false;
    run.model.config.positions = 65537;
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "65537 positions"));
    assert_false(run.model.int8_attention);
    run.model.config.positions = 64;
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_int8_attention, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "already"));
    technique_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_f32),
        cmocka_unit_test(test_goes_with_quantized_weights),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
