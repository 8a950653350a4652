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

static void make_as(struct model *model, const char *family, bool tied, unsigned heads) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, family), 0);
    config.tied = tied;
    config.layers = 2, config.width = 32, config.heads = config.key_value_heads = 4, config.head_width = 8;
    config.feed_forward = 64, config.vocabulary = 40, config.positions = 16;
    config.model_heads = heads;
    if (model_create(model, &config, 5, 0.2) < 0) fail_msg("%s: %s", family, error_text());
}

static void make(struct model *model, const char *family) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, family), 0);
    make_as(model, family, config.tied, config.causal ? HEAD_CAUSAL_LM : 0);
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

/* The first `from` in one of the folder's files becomes `to`, which is not longer, and blanks. */
static void patch(const char *name, const char *from, const char *to) {
    char path[96], *bytes, *place = NULL;
    size_t length = strlen(from);
    snprintf(path, sizeof path, "%s/%s", inside, name);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size_t count = (size_t)ftell(file);
    bytes = malloc(count);
    assert_non_null(bytes);
    rewind(file);
    assert_int_equal(fread(bytes, 1, count, file), count);
    for (size_t at = 0; !place && at + length <= count; at++)
        if (memcmp(bytes + at, from, length) == 0) place = bytes + at;
    if (!place) fail_msg("%s: no %s", name, from);
    memset(place, ' ', length);
    memcpy(place, to, strlen(to));
    rewind(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
    free(bytes);
}

static void check_same(const struct model *a, const struct model *b, const char *name) {
    const struct parameter *left = model_parameter(a, name), *right = model_parameter(b, name);
    assert_non_null(left);
    assert_non_null(right);
    if (memcmp(left->value, right->value, left->rows * left->columns * sizeof(float)) != 0) fail_msg("%s", name);
}

/* A file may hold the one tensor by the head's name, or both; transformers 5 ties those that are equal, alone. */
static void tied_tensors_may_have_either_name(void **state) {
    (void)state;
    static const char *const row[][2] = {{"gpt2", "transformer.wte.weight"},
                                         {"opt", "model.decoder.embed_tokens.weight"},
                                         {"llama", "model.embed_tokens.weight"},
                                         {"qwen2", "model.embed_tokens.weight"},
                                         {"mistral", "model.embed_tokens.weight"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct model model, again;
        const char *family = row[i][0], *name = row[i][1];
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\"", name);
        make_as(&model, family, true, HEAD_CAUSAL_LM);
        assert_int_equal(model_save_huggingface(&model, inside, false), 0);
        patch("model.safetensors", quoted, "\"lm_head.weight\"");
        if (model_open(&again, inside, true) < 0) fail_msg("%s: %s", family, error_text());
        assert_true(again.config.tied);
        check_same(&model, &again, name);
        model_close(&again);
        model_close(&model);
        for (int equal = 0; equal < 2; equal++) {
            make_as(&model, family, false, HEAD_CAUSAL_LM);
            float *head = model_parameter(&model, "lm_head.weight")->value;
            if (equal) memcpy(head, model_parameter(&model, name)->value, (size_t)40 * 32 * sizeof *head);
            assert_int_equal(model_save_huggingface(&model, inside, false), 0);
            patch("config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
            if (model_open(&again, inside, true) < 0) fail_msg("%s: %s", family, error_text());
            if (again.config.tied != (equal == 1)) fail_msg("%s: tied %d", family, again.config.tied);
            check_same(&model, &again, name);
            if (!equal) check_same(&model, &again, "lm_head.weight");
            model_close(&again);
            model_close(&model);
        }
    }
}

/* A folder whose config names the body or nothing has the head that its tensors are: a new one would be random. */
static void a_head_is_one_whatever_class_is_named(void **state) {
    (void)state;
    static const char *const families[][2] = {{"gpt2", "[\"GPT2LMHeadModel\"]"},
                                              {"opt", "[\"OPTForCausalLM\"]"},
                                              {"llama", "[\"LlamaForCausalLM\"]"},
                                              {"qwen2", "[\"Qwen2ForCausalLM\"]"},
                                              {"mistral", "[\"MistralForCausalLM\"]"}};
    static const char *const bodies[] = {"GPT2Model", "OPTModel", "LlamaModel", "Qwen2Model", "MistralModel"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (int named = 0; named < 2; named++) {
            struct model model, again;
            char body[32] = "[]";
            if (named) snprintf(body, sizeof body, "[\"%s\"]", bodies[i]);
            make_as(&model, families[i][0], false, HEAD_CAUSAL_LM);
            assert_int_equal(model_save_huggingface(&model, inside, false), 0);
            patch("config.json", families[i][1], body);
            if (model_open(&again, inside, true) < 0) fail_msg("%s: %s", families[i][0], error_text());
            assert_int_equal(again.config.model_heads, HEAD_CAUSAL_LM);
            check_same(&model, &again, "lm_head.weight");
            model_close(&again);
            model_close(&model);
        }
}

/* BERT's own checkpoints are of BertForMaskedLM and have the pooler that a classifier is trained on top of. */
static void a_pooler_beside_a_masked_head_is_kept(void **state) {
    (void)state;
    static const struct {
        unsigned heads, kept;
    } cases[] = {{HEAD_MASKED_LM, HEAD_MASKED_LM | HEAD_POOLER}, {HEAD_SPAN, HEAD_SPAN}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model model, again;
        make_as(&model, "bert", true, cases[i].heads | HEAD_POOLER);
        assert_int_equal(model_save_huggingface(&model, inside, false), 0);
        patch("config.json", ", \"BertModel\"]", "]");
        if (model_open(&again, inside, true) < 0) fail_msg("%s", error_text());
        assert_int_equal(again.config.model_heads, cases[i].kept);
        if (cases[i].kept & HEAD_POOLER) check_same(&model, &again, "bert.pooler.dense.weight");
        model_close(&again);
        model_close(&model);
    }
}

static void masked_language_models_are_tied(void **state) {
    (void)state;
    static const char *const row[][4] = {
        {"bert", "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight",
         "cls.predictions.decoder.weight"},
        {"distilbert", "distilbert.embeddings.word_embeddings.weight",
         "distilbert.transformer.layer.0.attention.q_lin.weight", "vocab_projector.weight"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct model model, again;
        char from[64], to[64];
        make_as(&model, row[i][0], true, HEAD_MASKED_LM);
        snprintf(to, sizeof to, "\"%s\"", row[i][3]);
        for (size_t k = 1; k < 3; k++) {
            assert_int_equal(model_save_huggingface(&model, inside, false), 0);
            snprintf(from, sizeof from, "\"%s\"", row[i][k]);
            patch("model.safetensors", from, to);
            int status = model_open(&again, inside, true);
            if (k == 1) {
                if (status < 0) fail_msg("%s", error_text());
                check_same(&model, &again, row[i][1]);
                model_close(&again);
                continue;
            }
            assert_int_equal(status, E_UNSUPPORTED);
            if (!strstr(error_text(), row[i][3]) || !strstr(error_text(), "must be tied")) fail_msg("%s", error_text());
        }
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
        cmocka_unit_test(tied_tensors_may_have_either_name),
        cmocka_unit_test(a_head_is_one_whatever_class_is_named),
        cmocka_unit_test(a_pooler_beside_a_masked_head_is_kept),
        cmocka_unit_test(masked_language_models_are_tied),
        cmocka_unit_test(tensors_are_stored_as_transformers_wants),
        cmocka_unit_test(packed_layers_are_refused_or_unpacked),
        cmocka_unit_test(attention_in_8_bits_is_refused_or_left_out),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
