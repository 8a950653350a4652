/* Plain Hugging Face directories: written and opened again, every family has its parameters back; packed layers are
 * refused or unpacked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/model.h"

static char folder[] = "/tmp/test_save_huggingface_XXXXXX";
static char inside[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(inside, sizeof inside, "%s/model", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char path[96];
    snprintf(path, sizeof path, "%s/model.safetensors", inside);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", inside);
    unlink(path);
    rmdir(inside);
    return rmdir(folder); /* nothing else was left behind */
}

static void make(struct model *model, const char *family) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, family), 0);
    config.layers = 2, config.width = 32, config.heads = config.key_value_heads = 4, config.head_width = 8;
    config.feed_forward = 64, config.vocabulary = 40, config.positions = 16;
    if (config.causal) config.model_heads = HEAD_CAUSAL_LM;
    if (model_create(model, &config, 5, 0.2) < 0) fail_msg("%s: %s", family, error_text());
}

static void every_family_comes_back(void **state) {
    (void)state;
    static const char *const families[] = {"bert", "distilbert", "gpt2", "opt", "llama", "qwen2", "mistral"};
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        struct model model, again;
        make(&model, families[f]);
        if (model_save_huggingface(&model, inside, false) < 0) fail_msg("%s: %s", families[f], error_text());
        if (model_open(&again, inside, true) < 0) fail_msg("%s: %s", families[f], error_text());
        assert_int_equal(again.parameter_count, model.parameter_count);
        for (size_t i = 0; i < model.parameter_count; i++) {
            const struct parameter *a = &model.parameters[i], *b = &again.parameters[i];
            assert_string_equal(a->name, b->name);
            if (memcmp(a->value, b->value, a->rows * a->columns * sizeof(float)) != 0) fail_msg("%s", a->name);
        }
        model_close(&again);
        model_close(&model);
    }
}

/* GPT-2's three matrices are one, and turned. */
static void tensors_are_stored_as_transformers_wants(void **state) {
    (void)state;
    struct model model;
    struct safetensors file;
    const struct tensor *fused;
    char path[96];
    make(&model, "gpt2");
    assert_int_equal(model_save_huggingface(&model, inside, false), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", inside);
    assert_int_equal(safetensors_open(&file, path), 0);
    assert_string_equal(safetensors_metadata(&file, "format"), "pt");
    if (safetensors_require(&file, "transformer.h.1.attn.c_attn.weight", DTYPE_F32, 2, (size_t[]){32, 96}, &fused) < 0)
        fail_msg("%s", error_text());
    const float *key = model_parameter(&model, "transformer.h.1.attn.c_attn.key.weight")->value, *w = fused->data;
    for (size_t r = 0; r < 32; r++)
        for (size_t n = 0; n < 32; n++) assert_true(w[n * 96 + 32 + r] == key[r * 32 + n]);
    safetensors_close(&file);
    model_close(&model);
}

static void packed_layers_are_refused_or_unpacked(void **state) {
    (void)state;
    struct model model, again;
    make(&model, "llama");
    struct linear *linear = &model.linears[3];
    const struct weight_format *format = weight_format_find("int8");
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    float scale[64], values[64 * 64];
    char name[160];
    struct weight_grid grid = {.scale = scale, .groups = weight_grid_groups(format, &shape)};
    snprintf(name, sizeof name, "%s.weight", linear->name);
    assert_int_equal(weight_grid_minmax(format, &shape, linear->value, &grid), 0);
    assert_int_equal(linear_pack(&model, linear, format, 0, true, &grid), 0);
    assert_int_equal(model_save_huggingface(&model, inside, false), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), linear->name));
    if (model_save_huggingface(&model, inside, true) < 0) fail_msg("%s", error_text());
    assert_int_equal(model_open(&again, inside, false), 0);
    assert_int_equal(format->unpack(&linear->weight.shape, linear->weight.packed, values), 0);
    assert_memory_equal(model_parameter(&again, name)->value, values, linear->rows * linear->columns * sizeof(float));
    model_close(&again);
    model_close(&model);
}

static void attention_in_8_bits_is_refused_or_left_out(void **state) {
    (void)state;
    struct model model, again;
    make(&model, "bert");
    assert_int_equal(model_set_int8_attention(&model), 0);
    assert_int_equal(model_save_huggingface(&model, inside, false), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "attention is in 8 bits"));
    if (model_save_huggingface(&model, inside, true) < 0) fail_msg("%s", error_text());
    assert_int_equal(model_open(&again, inside, false), 0);
    assert_false(again.int8_attention);
    model_close(&again);
    model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_comes_back),
        cmocka_unit_test(tensors_are_stored_as_transformers_wants),
        cmocka_unit_test(packed_layers_are_refused_or_unpacked),
        cmocka_unit_test(attention_in_8_bits_is_refused_or_left_out),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
