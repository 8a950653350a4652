/* Models opened from GGUF, llama2.c and sharded folders: the same parameters and logits as the model whose values were
 * written there, lazily and editable; metadata that asks for something else is refused by key. */
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
#include "gguf_writer.h"
#include "kernels/half.h"
#include "model/model.h"

static char folder[] = "/tmp/test_model_kinds_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.bin", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

#define C 32
#define F 48
#define V 40
#define P 16
#define L 2
#define H 4
#define D 8

static void make(struct model *model, const char *family, bool tied, size_t key_value_heads) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, family), 0);
    config.layers = L, config.width = C, config.heads = H, config.key_value_heads = key_value_heads;
    config.head_width = D, config.feed_forward = F, config.vocabulary = V, config.positions = P;
    config.tied = tied;
    config.norm_epsilon = 1e-5f;
    config.pad_id = -1;
    if (strcmp(family, "bert") != 0) config.model_heads = HEAD_CAUSAL_LM;
    if (config.rotary_base > 0) config.rotary_base = 1000;
    if (strcmp(family, "gpt2") != 0 && strcmp(family, "bert") != 0) config.embedding_width = 0;
    if (model_create(model, &config, 3, 0.2) < 0) fail_msg("%s", error_text());
    for (size_t i = 0; i < model->parameter_count; i++) { /* gains and biases that would be missed */
        struct parameter *parameter = &model->parameters[i];
        for (size_t k = 0; parameter->kind == PARAMETER_VECTOR && k < parameter->columns; k++)
            parameter->value[k] += 0.01f * (float)((k + i) % 7);
    }
}

/* ---- writing GGUF ----------------------------------------------------------------------------------- */

/* Hugging Face's words and GGUF's. */
static const struct {
    const char *family, *theirs, *gguf;
} words[] = {
    {"llama", "model.embed_tokens", "token_embd"},
    {"llama", "input_layernorm", "attn_norm"},
    {"llama", "self_attn.q_proj", "attn_q"},
    {"llama", "self_attn.k_proj", "attn_k"},
    {"llama", "self_attn.v_proj", "attn_v"},
    {"llama", "self_attn.o_proj", "attn_output"},
    {"llama", "post_attention_layernorm", "ffn_norm"},
    {"llama", "mlp.gate_proj", "ffn_gate"},
    {"llama", "mlp.up_proj", "ffn_up"},
    {"llama", "mlp.down_proj", "ffn_down"},
    {"llama", "model.norm", "output_norm"},
    {"llama", "lm_head", "output"},
    {"gpt2", "transformer.wte", "token_embd"},
    {"gpt2", "transformer.wpe", "position_embd"},
    {"gpt2", "ln_1", "attn_norm"},
    {"gpt2", "attn.c_attn.query", "attn_qkv"},
    {"gpt2", "attn.c_proj", "attn_output"},
    {"gpt2", "ln_2", "ffn_norm"},
    {"gpt2", "mlp.c_fc", "ffn_up"},
    {"gpt2", "mlp.c_proj", "ffn_down"},
    {"gpt2", "transformer.ln_f", "output_norm"},
    {"bert", "bert.embeddings.word_embeddings", "token_embd"},
    {"bert", "bert.embeddings.position_embeddings", "position_embd"},
    {"bert", "bert.embeddings.token_type_embeddings", "token_types"},
    {"bert", "bert.embeddings.LayerNorm", "token_embd_norm"},
    {"bert", "attention.self.query", "attn_q"},
    {"bert", "attention.self.key", "attn_k"},
    {"bert", "attention.self.value", "attn_v"},
    {"bert", "attention.output.dense", "attn_output"},
    {"bert", "attention.output.LayerNorm", "attn_output_norm"},
    {"bert", "intermediate.dense", "ffn_up"},
    {"bert", "output.dense", "ffn_down"},
    {"bert", "output.LayerNorm", "layer_output_norm"},
};

/* False for what is stored together with another. */
static bool gguf_name(const struct model *model, const struct parameter *parameter, char name[128]) {
    const char *family = strcmp(model->config.family, "qwen2") == 0 ? "llama" : model->config.family, *word = NULL;
    const char *ending = strrchr(parameter->name, '.'), *digits = strpbrk(parameter->name, "0123456789");
    size_t longest = 0;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t length = strlen(words[i].theirs);
        if (strcmp(words[i].family, family) != 0 || (size_t)(ending - parameter->name) < length) continue;
        if (length > longest && memcmp(ending - length, words[i].theirs, length) == 0)
            longest = length, word = words[i].gguf;
    }
    if (!word) return false;
    if (digits && strncmp(parameter->name, "transformer.w", 13) != 0)
        snprintf(name, 128, "blk.%d.%s%s", atoi(strstr(parameter->name, ".0.") ? "0" : "1"), word, ending);
    else snprintf(name, 128, "%s%s", word, ending);
    return true;
}

/* Values as the file holds them: rows in interleaved pairs, or followed by those stored with them. */
static size_t gather(const struct model *model, const struct parameter *parameter, float *out) {
    bool fused = strstr(parameter->name, "c_attn.query") != NULL;
    bool pairs = strcmp(model->config.family, "llama") == 0 &&
                 (strstr(parameter->name, "q_proj") || strstr(parameter->name, "k_proj"));
    size_t count = 0, rows = parameter->rows, columns = parameter->columns;
    for (int part = 0; part < (fused ? 3 : 1); part++) {
        static const char *const parts[] = {"query", "key", "value"};
        char name[160];
        const struct parameter *from = parameter;
        if (fused) {
            const char *place = strstr(parameter->name, "query");
            snprintf(name, sizeof name, "%.*s%s%s", (int)(place - parameter->name), parameter->name, parts[part],
                     place + 5);
            from = model_parameter(model, name);
        }
        for (size_t r = 0; r < rows; r++) {
            size_t row = pairs ? r / D * D + r % 2 * (D / 2) + r % D / 2 : r; /* file row r holds this one */
            memcpy(out + count, from->value + row * columns, columns * sizeof *out);
            count += columns;
        }
    }
    return count;
}

/* One more entry by its full key, and a key of the architecture that is left out; NULL: neither. flat_rows: a matrix of
 * one row is written as a vector, as ggml does. factors: [D/2] of rotary frequencies, a tensor. */
struct variation {
    const char *key, *left_out;
    enum gguf_type type;
    double value;
    bool flat_rows;
    const float *factors;
};

static void put_entry(struct gguf_writer *file, const struct variation *extra) {
    if (extra->type == GGUF_F32) {
        put_f32(file, extra->key, (float)extra->value);
        return;
    }
    put_string(file, extra->key);
    put_whole(file, extra->type, 4);
    put_whole(file, (uint64_t)extra->value, extra->type == GGUF_BOOL ? 1 : extra->type == GGUF_U16 ? 2 : 4);
}

static void write_gguf_as(const struct model *model, bool half, const struct variation *variation) {
    static float values[3 * F * C * 2];
    struct gguf_writer data = {0}, file = {0};
    const struct model_config *config = &model->config;
    const char *family = config->family;
    bool rms = config->norm == NORM_RMS;
    char key[64];
    uint64_t tensors = 0, count = 1;
    struct gguf_writer table = {0}, entries = {0};

    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        char name[128];
        bool vector = parameter->kind == PARAMETER_VECTOR, narrow = half && !vector;
        if (!gguf_name(model, parameter, name)) continue;
        size_t gathered = gather(model, parameter, values);
        size_t shape[2] = {vector ? gathered : gathered / parameter->columns, parameter->columns};
        put_padding(&data, 32);
        bool flat = variation->flat_rows && shape[0] == 1;
        put_tensor(&table, name, vector || flat ? 1 : 2, flat ? &shape[1] : shape, narrow ? 1 : 0, data.count);
        for (size_t k = 0; k < gathered; k++) {
            uint16_t bits = half_from_float(values[k]);
            put_bytes(&data, narrow ? (const void *)&bits : (const void *)&values[k], narrow ? 2 : 4);
        }
        tensors++;
    }
    if (variation->factors) {
        put_padding(&data, 32);
        put_tensor(&table, "rope_freqs.weight", 1, (const size_t[]){D / 2}, 0, data.count);
        put_bytes(&data, variation->factors, D / 2 * sizeof *variation->factors);
        tensors++;
    }
    put_text(&entries, "general.architecture", family);
    const struct variation usual[] = {
        {"block_count", NULL, GGUF_U32, L, false, NULL},
        {"context_length", NULL, GGUF_U32, P, false, NULL},
        {"embedding_length", NULL, GGUF_U32, C, false, NULL},
        {"feed_forward_length", NULL, GGUF_U32, F, false, NULL},
        {"attention.head_count", NULL, GGUF_U32, H, false, NULL},
        {rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", NULL, GGUF_F32, 1e-5, false, NULL},
        {config->causal ? "attention.head_count_kv" : NULL, NULL, GGUF_U32, (double)config->key_value_heads, false,
         NULL},
        {config->rotary_base > 0 ? "rope.freq_base" : NULL, NULL, GGUF_F32, (double)config->rotary_base, false, NULL},
    };
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        struct variation entry = usual[i];
        if (!entry.key || (variation->left_out && strcmp(entry.key, variation->left_out) == 0)) continue;
        snprintf(key, sizeof key, "%s.%s", family, entry.key);
        entry.key = key;
        put_entry(&entries, &entry);
        count++;
    }
    if (variation->key) put_entry(&entries, variation), count++;
    put_header(&file, 3, tensors, count);
    put_bytes(&file, entries.bytes, entries.count);
    put_bytes(&file, table.bytes, table.count);
    put_padding(&file, 32);
    put_bytes(&file, data.bytes, data.count);
    write_whole_file(path, file.bytes, file.count);
    gguf_writer_close(&data), gguf_writer_close(&file), gguf_writer_close(&table), gguf_writer_close(&entries);
}

static void write_gguf(const struct model *model, bool half, const char *extra_key) {
    write_gguf_as(model, half, &(struct variation){.key = extra_key, .type = GGUF_U32, .value = 2});
}

/* ---- comparing -------------------------------------------------------------------------------------- */
static void logits_of(struct model *model, float *out) {
    static const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6};
    static const uint32_t offset[] = {0, 8};
    struct batch batch = {.sequences = 1, .tokens = 8, .ids = ids, .offset = offset};
    struct workspace workspace = {0};
    struct model_output output;
    if (model_prepare(model, GEMM_BUILTIN) < 0 || model_forward(model, &batch, NULL, &workspace, &output) < 0)
        fail_msg("%s", error_text());
    if (!model->config.causal) memcpy(out, output.hidden, 8 * C * sizeof *out);
    else if (model_logits(model, output.hidden, NULL, 8, &workspace, out) < 0) fail_msg("%s", error_text());
    workspace_close(&workspace);
}

/* Opened as it is: the parameters of `model`, and its logits to the last bit. */
static void compare(struct model *model, bool editable, bool lazy) {
    static float expected[8 * V], found[8 * V];
    struct model opened;
    size_t places = 0;
    if (model_open(&opened, path, editable) < 0) fail_msg("%s", error_text());
    assert_int_equal(opened.parameter_count, model->parameter_count);
    for (size_t i = 0; i < opened.parameter_count; i++) {
        const struct parameter *a = &model->parameters[i], *b = &opened.parameters[i];
        float row[256];
        assert_string_equal(a->name, b->name);
        assert_true(a->rows == b->rows && a->columns == b->columns && a->columns <= 256);
        places += b->place != NULL;
        for (size_t r = 0; r < a->rows; r++) {
            parameter_rows(b, r, r + 1, row);
            if (memcmp(row, a->value + r * a->columns, a->columns * sizeof *row) != 0)
                fail_msg("%s, row %zu", a->name, r);
        }
    }
    assert_true(lazy == (places > 0));
    logits_of(model, expected);
    logits_of(&opened, found);
    assert_memory_equal(found, expected, (opened.config.causal ? 8 * V : 8 * C) * sizeof *found);
    if (lazy) {
        char copy[80];
        snprintf(copy, sizeof copy, "%s.copy", path);
        assert_int_equal(model_save(&opened, copy, ~0u), E_STATE);
        assert_int_not_equal(access(copy, F_OK), 0);
    }
    model_close(&opened);
}

/* What half precision leaves of the matrices. */
static void round_to_half(struct model *model) {
    model_unprepare(model);
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        for (size_t k = 0; parameter->kind != PARAMETER_VECTOR && k < parameter->rows * parameter->columns; k++)
            parameter->value[k] = half_to_float(half_from_float(parameter->value[k]));
    }
}

static void gguf_gives_the_model_back(void **state) {
    (void)state;
    static const struct {
        const char *family;
        bool tied;
        size_t key_value_heads;
    } cases[] = {{"llama", true, 2}, {"llama", false, 4}, {"qwen2", true, 2}, {"gpt2", true, 4}, {"bert", true, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model model;
        bool pairs = strcmp(cases[i].family, "llama") == 0;
        make(&model, cases[i].family, cases[i].tied, cases[i].key_value_heads);
        write_gguf(&model, false, NULL);
        compare(&model, false, pairs); /* interleaved rows cannot be views */
        compare(&model, true, false);
        round_to_half(&model);
        write_gguf(&model, true, NULL);
        compare(&model, false, true);
        compare(&model, true, false);
        model_close(&model);
    }
}

/* Of Llama 3.1 and 3.2, as llama.cpp's converter makes them of base 1e6 and factor 8. */
static void gguf_has_factors_of_frequencies(void **state) {
    (void)state;
    float factors[D / 2] = {1, 1, 4.6814826f, 8};
    const float none[D / 2] = {1, 1, 1, 1};
    struct model model, opened;
    make(&model, "llama", true, 2);
    model.config.rotary_base = 1e6f;
    write_gguf_as(&model, false, &(struct variation){.factors = none});
    compare(&model, true, false);
    model.config.rotary_scaling = (struct rotary_scaling){8, 1, 4, 8192};
    write_gguf_as(&model, false, &(struct variation){.factors = factors});
    compare(&model, true, false);
    assert_int_equal(model_open(&opened, path, false), 0);
    assert_memory_equal(&opened.config.rotary_scaling, &model.config.rotary_scaling, sizeof(struct rotary_scaling));
    model_close(&opened);
    factors[2] *= 1.01f;
    write_gguf_as(&model, false, &(struct variation){.factors = factors});
    assert_int_equal(model_open(&opened, path, false), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "tensor 'rope_freqs.weight': value 2 is "));
    model_close(&model);
}

static void gguf_says_how_embeddings_are_made(void **state) {
    (void)state;
    static const struct {
        const char *family, *key;
        enum model_pooling pooling;
    } cases[] = {{"bert", "bert.pooling_type", POOLING_FIRST}, {"bert", NULL, POOLING_MEAN}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model model, opened;
        make(&model, cases[i].family, true, 4);
        write_gguf(&model, false, cases[i].key); /* 2 */
        if (model_open(&opened, path, false) < 0) fail_msg("%s", error_text());
        assert_int_equal(opened.config.pooling, cases[i].pooling);
        model_close(&opened);
        model_close(&model);
    }
}

static void gguf_metadata_that_asks_for_more_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *key, *message;
    } cases[] = {
        {"llama.expert_count", "key 'llama.expert_count': 2 is not supported"},
        {"llama.rope.scaling.factor", "key 'llama.rope.scaling.factor' is not supported"},
        {"llama.rope.scaling.type", "key 'llama.rope.scaling.type' must be a string"},
        {"llama.rope.dimension_count", "turning 2 of 8 values per head"},
        {"llama.attention.key_length", "tensor 'blk.0.attn_q.weight' has shape"},
        {"llama.something.new", "key 'llama.something.new' is not supported"},
    };
    struct model model, opened;
    make(&model, "llama", true, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_gguf(&model, false, cases[i].key);
        assert_true(model_open(&opened, path, false) < 0);
        if (!strstr(error_text(), cases[i].message)) fail_msg("'%s' lacks '%s'", error_text(), cases[i].message);
        assert_non_null(strstr(error_text(), path));
    }
    write_gguf(&model, false, "general.whatever");
    assert_int_equal(model_open(&opened, path, false), 0);
    model_close(&opened);
    model_close(&model);
}

static void one_row_may_be_written_as_a_vector(void **state) {
    (void)state;
    struct model model;
    struct model_config config;
    make(&model, "bert", true, H);
    config = model.config;
    model_close(&model);
    config.token_types = 1;
    assert_int_equal(model_create(&model, &config, 3, 0.2), 0);
    for (int flat = 0; flat < 2; flat++) {
        write_gguf_as(&model, false, &(struct variation){.flat_rows = flat});
        compare(&model, false, false);
        compare(&model, true, false);
    }
    model_close(&model);
}

/* What would change results and must not be passed over, nor guessed; `message` NULL: the model is the same. */
static void gguf_metadata_is_not_passed_over(void **state) {
    (void)state;
    static const struct {
        const char *family;
        struct variation variation;
        const char *message;
    } cases[] = {
        {"llama",
         {"llama.attention.causal", NULL, GGUF_BOOL, 0, false, NULL},
         "'llama.attention.causal': false is not supported"},
        {"gpt2",
         {"gpt2.attention.causal", NULL, GGUF_BOOL, 0, false, NULL},
         "'gpt2.attention.causal': false is not supported"},
        {"bert",
         {"bert.attention.causal", NULL, GGUF_BOOL, 1, false, NULL},
         "'bert.attention.causal': true is not supported"},
        {"llama", {"llama.attention.causal", NULL, GGUF_BOOL, 1, false, NULL}, NULL},
        {"bert", {"bert.attention.causal", NULL, GGUF_BOOL, 0, false, NULL}, NULL},
        {"llama", {"llama.attention.layer_norm_epsilon", NULL, GGUF_F32, 0.5, false, NULL}, NULL},
        {"gpt2", {"gpt2.attention.layer_norm_rms_epsilon", NULL, GGUF_F32, 0.5, false, NULL}, NULL},
        {"bert", {"bert.attention.layer_norm_rms_epsilon", NULL, GGUF_F32, 0.5, false, NULL}, NULL},
        {"llama",
         {.left_out = "attention.layer_norm_rms_epsilon"},
         "'llama.attention.layer_norm_rms_epsilon' is missing"},
        {"gpt2", {.left_out = "attention.layer_norm_epsilon"}, "'gpt2.attention.layer_norm_epsilon' is missing"},
        {"llama", {.left_out = "block_count"}, "'llama.block_count' is missing"},
        {"llama", {.left_out = "context_length"}, "'llama.context_length' is missing"},
        {"llama", {.left_out = "feed_forward_length"}, "'llama.feed_forward_length' is missing"},
        {"llama", {.left_out = "attention.head_count"}, "'llama.attention.head_count' is missing"},
        {"llama", {"split.count", NULL, GGUF_U16, 2, false, NULL}, "'split.count': one of 2 files"},
        {"llama", {"split.count", NULL, GGUF_U16, 1, false, NULL}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model model, opened;
        make(&model, cases[i].family, true, strcmp(cases[i].family, "llama") == 0 ? 2 : 4);
        write_gguf_as(&model, false, &cases[i].variation);
        if (!cases[i].message) {
            compare(&model, true, false);
        } else {
            if (model_open(&opened, path, false) == 0) fail_msg("read in spite of: %s", cases[i].message);
            if (!strstr(error_text(), cases[i].message)) fail_msg("'%s' lacks '%s'", error_text(), cases[i].message);
        }
        model_close(&model);
    }
}

static void put_values(struct gguf_writer *file, const struct model *model, const char *name) {
    static float values[3 * F * C * 2];
    const struct parameter *parameter = model_parameter(model, name);
    assert_non_null(parameter);
    put_bytes(file, values, gather(model, parameter, values) * sizeof *values);
}

static void llama2c_gives_the_model_back(void **state) {
    (void)state;
    static const char *const blocks[] = {"input_layernorm",  "self_attn.q_proj", "self_attn.k_proj",
                                         "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                                         "mlp.gate_proj",    "mlp.down_proj",    "mlp.up_proj"};
    for (int tied = 0; tied < 2; tied++) {
        struct gguf_writer file = {0};
        struct model model;
        const int32_t header[7] = {C, F, L, H, 2, tied ? V : -V, P};
        make(&model, "llama", tied, 2);
        model.config.rotary_base = 10000; /* llama2.c's own */
        for (size_t i = 0; i < 7; i++) put_whole(&file, (uint32_t)header[i], 4);
        put_values(&file, &model, "model.embed_tokens.weight");
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
            for (size_t layer = 0; layer < L; layer++) {
                char name[80];
                snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, blocks[i]);
                put_values(&file, &model, name);
            }
        put_values(&file, &model, "model.norm.weight");
        for (size_t i = 0; i < P * D; i++) put_whole(&file, 0, 4); /* rotary tables */
        if (!tied) put_values(&file, &model, "lm_head.weight");
        write_whole_file(path, file.bytes, file.count);
        compare(&model, false, true);
        compare(&model, true, false);
        gguf_writer_close(&file);
        model_close(&model);
    }
}

/* A value that is not a number is found whenever it is read first. */
static void values_that_are_not_finite_are_refused(void **state) {
    (void)state;
    struct model model, opened;
    make(&model, "llama", true, 2);
    struct parameter *query =
        (struct parameter *)(uintptr_t)model_parameter(&model, "model.layers.1.self_attn.q_proj.weight");
    query->value[5] = 0.0f / 0.0f;
    write_gguf(&model, true, NULL);
    assert_int_equal(model_open(&opened, path, true), E_NUMERIC);
    assert_non_null(strstr(error_text(), "blk.1.attn_q.weight"));
    assert_int_equal(model_open(&opened, path, false), 0);
    assert_int_equal(model_prepare(&opened, GEMM_BUILTIN), E_NUMERIC);
    assert_non_null(strstr(error_text(), "model.layers.1.self_attn.q_proj"));
    model_close(&opened);
    model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_gives_the_model_back),
        cmocka_unit_test(gguf_has_factors_of_frequencies),
        cmocka_unit_test(gguf_says_how_embeddings_are_made),
        cmocka_unit_test(gguf_metadata_that_asks_for_more_is_refused),
        cmocka_unit_test(gguf_metadata_is_not_passed_over),
        cmocka_unit_test(one_row_may_be_written_as_a_vector),
        cmocka_unit_test(llama2c_gives_the_model_back),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
