/* What ptq_dynamic promises: layers in 8 bits, the same bytes each time, the conventions of its presets, less error
 * with finer scales, no more than round-to-nearest, and refusals by name. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "golden_files.h"
#include "technique_run.h"

extern const struct technique technique_ptq_dynamic, technique_rtn;

static double distance_after(const char *const *settings, double *relative) {
    struct technique_run run;
    float before[12], after[12];
    technique_run_open(&run, 3);
    technique_run_logits(&run, before);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, settings), 0);
    technique_run_logits(&run, after);
    *relative = technique_run_metric(&run, "weight_relative_error_frac");
    technique_run_close(&run);
    return logits_distance(before, after);
}

static void hash_after(const struct technique *technique, const char *const *settings, char hex[HASH_HEX]) {
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, technique, settings), 0);
    technique_run_hash(&run, hex);
    technique_run_close(&run);
}

static void test_same_bytes(void **state) {
    static const char *const settings[] = {"granularity=group", "symmetric=false", "activation_grid=asymmetric", NULL};
    char one[HASH_HEX], two[HASH_HEX];
    (void)state;
    hash_after(&technique_ptq_dynamic, settings, one);
    hash_after(&technique_ptq_dynamic, settings, two);
    assert_string_equal(one, two);
    /* Without options it is round-to-nearest in 8 bits, byte for byte. */
    hash_after(&technique_ptq_dynamic, NULL, one);
    hash_after(&technique_rtn, NULL, two);
    assert_string_equal(one, two);
}

static void test_formats(void **state) {
    static const struct {
        const char *settings[4], *format;
        size_t group;
        struct activation_quantizer activation;
        double share; /* of f32, at most: a model of width 64 */
    } cases[] = {
        {{NULL}, "int8", 0, {0}, 0.27},
        {{"symmetric=false", "activations=tensor", NULL}, "int8_affine", 0, {.range = ACTIVATION_PER_TENSOR}, 0.275},
        {{"granularity=group", "group=32", "activation_bits=7", NULL}, "int8_groups", 32, {.reduced = true}, 0.27},
        {{"granularity=group", NULL}, "int8_groups", 64, {0}, 0.26},
        {{"preset=onnxruntime", NULL}, "int8", 0, {.range = ACTIVATION_PER_TENSOR, .asymmetric = true}, 0.27},
        {{"preset=torch", NULL},
         "int8",
         0,
         {.range = ACTIVATION_PER_TENSOR, .asymmetric = true, .reduced = true},
         0.27},
        {{"preset=torch", "activations=token", "activation_bits=8", NULL}, "int8", 0, {.asymmetric = true}, 0.27},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct technique_run run;
        struct model_size size;
        technique_run_open(&run, 3);
        assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, cases[c].settings), 0);
        for (size_t i = 0; i < run.model.linear_count; i++) {
            const struct weight *weight = &run.model.linears[i].weight;
            if (run.model.linears[i].block < 0) continue;
            assert_string_equal(weight->format->name, cases[c].format);
            assert_int_equal(weight->shape.group, cases[c].group);
            assert_true(activation_same(&weight->activation, &cases[c].activation));
            assert_false(run.model.linears[i].simulated);
        }
        model_size(&run.model, &size);
        assert_true((double)size.linear_bytes < cases[c].share * (double)size.linear_f32_bytes);
        assert_true(technique_run_metric(&run, "layers_rounded") == 12);
        technique_run_close(&run);
    }
}

/* Weights that lie on the grid already come back unchanged. */
static void test_lossless(void **state) {
    static const char *const row[] = {NULL}, *const tensor[] = {"granularity=tensor", NULL},
                             *const group[] = {"granularity=group", "group=32", NULL},
                             *const affine[] = {"symmetric=false", NULL};
    static const char *const *const settings[] = {row, tensor, group, affine};
    (void)state;
    for (size_t s = 0; s < 4; s++) {
        struct technique_run run;
        technique_run_open(&run, 3);
        for (size_t l = 0; l < run.model.linear_count; l++) {
            struct linear *linear = &run.model.linears[l];
            if (linear->block < 0) continue;
            for (size_t i = 0; i < linear->rows * linear->columns; i++) { /* the ends in every group, scale 1/64 */
                int code = s == 3 ? (int)(i * 7 % 256) - 60 : (int)(i * 7 % 255) - 127;
                if (i % 32 == 0) code = s == 3 ? 195 : 127;
                if (i % 32 == 1) code = s == 3 ? -60 : -127;
                linear->value[i] = (float)code / 64;
            }
        }
        assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, settings[s]), 0);
        assert_true(technique_run_metric(&run, "weight_relative_error_frac") == 0);
        technique_run_close(&run);
    }
}

static void test_order(void **state) {
    static const char *const tensor[] = {"granularity=tensor", NULL}, *const row[] = {NULL},
                             *const g64[] = {"granularity=group", NULL},
                             *const g32[] = {"granularity=group", "group=32", NULL},
                             *const free32[] = {"granularity=group", "group=32", "symmetric=false", NULL},
                             *const torch[] = {"preset=torch", NULL}, *const sequence[] = {"activations=tensor", NULL},
                             *const seven[] = {"activation_bits=7", NULL};
    double errors[8];
    (void)state;
    distance_after(tensor, &errors[0]);
    double by_token = distance_after(row, &errors[1]);
    distance_after(g64, &errors[2]);
    distance_after(g32, &errors[3]);
    distance_after(free32, &errors[4]);
    double by_torch = distance_after(torch, &errors[5]), by_sequence = distance_after(sequence, &errors[6]);
    double in_seven = distance_after(seven, &errors[7]);
    assert_true(errors[0] > errors[1] && errors[1] > errors[3] && errors[3] > errors[4]);
    assert_true(errors[2] < errors[0] && errors[2] > errors[3]); /* a width of 64: its groups are rows or halves */
    assert_true(errors[6] == errors[1] && errors[7] == errors[1]);
    assert_true(by_token < by_sequence && by_token < in_seven && by_sequence < by_torch);
    assert_true(errors[0] < 0.03 && by_token > 0);
}

/* Codes and scales of layer.1's down projection, whose values are the first rows of the goldens' w. */
static void check_preset(const char *const *settings, const struct safetensors *goldens, const char *name) {
    struct technique_run run;
    struct safetensors inputs;
    char key[96];
    float after[64 * 256];
    technique_run_open_sized(&run, 3, 256);
    golden_open(&inputs, "quant/inputs.safetensors");
    struct linear *linear = model_linear_find(&run.model, "bert.encoder.layer.1.output.dense");
    const struct tensor *w = golden_tensor(&inputs, "w");
    assert_true(w->shape[0] >= 64 && w->shape[1] == 256 && linear->rows == 64 && linear->columns == 256);
    memcpy(linear->value, w->data, sizeof after);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, settings), 0);
    snprintf(key, sizeof key, "%s.w", name);
    const int8_t *codes = golden_tensor(goldens, key)->data;
    snprintf(key, sizeof key, "%s.w_scale", name);
    const float *scale = golden_tensor(goldens, key)->data;
    assert_int_equal(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, after), 0);
    for (size_t i = 0; i < 64 * 256; i++)
        if (after[i] != scale[i / 256] * (float)codes[i])
            fail_msg("%s: weight %zu is %.9g, expected %.9g times %d", name, i, (double)after[i],
                     (double)scale[i / 256], codes[i]);
    safetensors_close(&inputs);
    technique_run_close(&run);
}

static void test_presets(void **state) {
    static const char *const onnx[] = {"preset=onnxruntime", "granularity=row", NULL}, *const torch[] = {
                                                                                           "preset=torch",
                                                                                           "granularity=row", NULL};
    struct safetensors goldens;
    char path[512];
    (void)state;
    if (!golden_path(path, sizeof path, "quant/torch.safetensors")) skip();
    golden_open(&goldens, "quant/torch.safetensors");
    check_preset(torch, &goldens, "dynamic.channel");
    safetensors_close(&goldens);
    golden_open(&goldens, "quant/onnxruntime.safetensors");
    check_preset(onnx, &goldens, "dynamic.qint8.channel");
    safetensors_close(&goldens);
}

/* A whole matrix shares one scale, by the formulas that the goldens confirm for rows. */
static void test_tensor_presets(void **state) {
    static const char *const onnx[] = {"preset=onnxruntime", NULL}, *const torch[] = {"preset=torch", NULL};
    (void)state;
    for (int t = 0; t < 2; t++) {
        struct technique_run run;
        float after[64 * 64], top = 0, least = INFINITY;
        technique_run_open(&run, 3);
        struct linear *linear = model_linear_find(&run.model, "bert.encoder.layer.0.attention.self.query");
        linear->value[70] = -1.5f; /* the largest: code -127 or -128 */
        for (size_t i = 0; i < 64 * 64; i++) top = fmaxf(top, fabsf(linear->value[i]));
        assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, t ? torch : onnx), 0);
        assert_int_equal(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, after), 0);
        for (size_t i = 0; i < 64 * 64; i++)
            if (after[i] != 0) least = fminf(least, fabsf(after[i]));
        assert_true(top == 1.5f);
        assert_true(least == (t ? top / 127.5f : top / 127));
        assert_true(after[70] == (t ? -128 * least : -127 * least));
        technique_run_close(&run);
    }
}

static void test_selection(void **state) {
    static const char *const settings[] = {"layers=[query, *.layer.1.*]", "skip=[down]", "keep=[*.layer.1.*.key]",
                                           NULL};
    struct technique_run run;
    (void)state;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, settings), 0);
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        bool wanted = (linear->role == ROLE_QUERY || linear->block == 1) && linear->role != ROLE_DOWN &&
                      !(linear->block == 1 && linear->role == ROLE_KEY);
        assert_int_equal(linear->value == NULL, wanted);
    }
    technique_run_close(&run);
}

static void refused(const char *const *settings, const char *words) {
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    technique_run_close(&run);
}

static void test_refusals(void **state) {
    static const char *const group[] = {"group=64", NULL},
                             *const grouped[] = {"preset=onnxruntime", "granularity=group", NULL},
                             *const torch[] = {"preset=torch", "symmetric=false", NULL},
                             *const nobody[] = {"keep=[nobody]", NULL},
                             *const none[] = {"layers=[query, key]", "skip=[query]", "keep=[key]", NULL};
    (void)state;
    refused(group, "group is for granularity group");
    refused(grouped, "has no groups");
    refused(torch, "symmetric weights only");
    refused(nobody, "'nobody'");
    refused(none, "no layer");
    struct technique_run run;
    technique_run_open(&run, 3);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, NULL), 0);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_dynamic, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8 already"));
    technique_run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_formats),  cmocka_unit_test(test_lossless),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_presets),  cmocka_unit_test(test_tensor_presets),
        cmocka_unit_test(test_selection),  cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
