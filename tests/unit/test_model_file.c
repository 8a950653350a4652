/* Models on disk: the round trip, Hugging Face folders in their spellings, lying files, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "io/safetensors.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "small_model.h"

#define BOTH (HEAD_CLASSIFICATION | HEAD_MASKED_LM)

static char folder[] = "/tmp/test_model_file_XXXXXX";
static char artifact[64], second[64], config_path[64], tensors_path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(artifact, sizeof artifact, "%s/a.safetensors", folder);
    snprintf(second, sizeof second, "%s/b.safetensors", folder);
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    snprintf(tensors_path, sizeof tensors_path, "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(artifact), unlink(second), unlink(config_path), unlink(tensors_path);
    return rmdir(folder);
}

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void pack(struct model *model, const char *layer, const char *name, size_t group, bool symmetric) {
    const struct weight_format *format = weight_format_find(name);
    struct linear *linear = model_linear_find(model, layer);
    struct weight_shape shape = {linear->rows, linear->columns, group, symmetric};
    struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
    grid.scale = calloc(linear->rows * grid.groups, sizeof(float));
    uint8_t *zero = calloc(linear->rows * grid.groups, 1);
    grid.zero = symmetric ? NULL : zero;
    must(weight_grid_minmax(format, &shape, linear->value, &grid));
    must(linear_pack(model, linear, format, group, symmetric, &grid));
    free(grid.scale);
    free(zero);
}

static void logits_of(struct model *model, float *logits) {
    static const size_t lengths[] = {3, 11, 6};
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    small_batch_new(&batch, &model->config, lengths, 3, 4);
    must(model_prepare(model, GEMM_BUILTIN));
    must(model_forward(model, &batch.batch, NULL, &workspace, &output));
    memcpy(logits, output.logits, 3 * model->config.classes * sizeof(float));
    workspace_close(&workspace);
    small_batch_free(&batch);
}

/* A model with one layer of each kind. */
static void mixed_model(struct model *model) {
    small_model(model, BOTH, 3);
    pack(model, "bert.encoder.layer.0.attention.self.key", "int8", 0, true);
    pack(model, "bert.encoder.layer.1.intermediate.dense", "int4", 32, true);
    pack(model, "bert.encoder.layer.1.attention.output.dense", "int4", 32, false);
    model_linear_find(model, "bert.encoder.layer.0.output.dense")->simulated = true;
    must(model_set_metadata(model, "tokenizer", "{\"merges\": [\"\\u00e9 \\\"x\\\"\"]}"));
    must(model_set_metadata(model, "labels", "act\nanimal"));
}

static void test_round_trip(void **state) {
    struct model model, back;
    char one[HASH_HEX], two[HASH_HEX];
    float want[9], got[9];
    (void)state;
    mixed_model(&model);
    must(model_save(&model, artifact, BOTH));
    must(hash_file(artifact, one));
    logits_of(&model, want);
    for (int editable = 0; editable < 2; editable++) {
        must(model_open(&back, artifact, editable));
        assert_memory_equal(&back.config, &model.config, sizeof model.config);
        assert_int_equal(back.parameter_count, model.parameter_count);
        assert_true(model_linear_find(&back, "bert.encoder.layer.0.output.dense")->simulated);
        assert_string_equal(model_metadata(&back, "labels"), "act\nanimal");
        assert_string_equal(model_metadata(&back, "tokenizer"), model_metadata(&model, "tokenizer"));
        logits_of(&back, got);
        assert_memory_equal(got, want, sizeof want);
        must(model_save(&back, second, BOTH));
        must(hash_file(second, two));
        assert_string_equal(one, two);
        if (editable) back.parameters[0].value[0] = 1; /* its own memory */
        model_close(&back);
    }
    model_close(&model);
}

/* A copy saves the same bytes when the original is gone, and its unpacked layers hold what the packed ones multiplied.
 */
static void test_copy(void **state) {
    struct model model, copy, open;
    char one[HASH_HEX], two[HASH_HEX];
    bool unpack[64] = {false};
    (void)state;
    mixed_model(&model);
    must(model_save(&model, artifact, BOTH));
    must(hash_file(artifact, one));
    size_t key = (size_t)(model_linear_find(&model, "bert.encoder.layer.0.attention.self.key") - model.linears);
    float values[32 * 32];
    const struct weight *weight = &model.linears[key].weight;
    must(weight->format->unpack(&weight->shape, weight->packed, values));
    must(model_copy(&copy, &model, NULL));
    unpack[key] = true;
    must(model_copy(&open, &model, unpack));
    assert_int_equal(open.parameter_count, model.parameter_count + 1);
    assert_memory_equal(open.linears[key].value, values, sizeof values);
    assert_true(model_linear_find(&open, "bert.encoder.layer.0.output.dense")->simulated);
    assert_null(model_linear_find(&open, "bert.encoder.layer.1.intermediate.dense")->value);
    model.parameters[0].value[0] += 1;
    model_close(&model);
    must(model_save(&copy, artifact, BOTH));
    must(hash_file(artifact, two));
    assert_string_equal(one, two);
    pack(&open, "bert.encoder.layer.0.attention.self.key", "int8", 0, true); /* the same grid again */
    must(model_save(&open, artifact, BOTH));
    must(hash_file(artifact, two));
    assert_string_equal(one, two);
    model_close(&copy);
    model_close(&open);
}

static void test_heads_left_out(void **state) {
    struct model model, back;
    float want[9], got[9];
    (void)state;
    mixed_model(&model);
    logits_of(&model, want);
    must(model_save(&model, artifact, HEAD_CLASSIFICATION));
    must(model_open(&back, artifact, false));
    assert_int_equal(back.config.model_heads, HEAD_CLASSIFICATION);
    assert_null(model_parameter(&back, "cls.predictions.bias"));
    logits_of(&back, got);
    assert_memory_equal(got, want, sizeof want);
    model_close(&back);
    must(model_save(&model, artifact, HEAD_NONE));
    must(model_open(&back, artifact, false));
    assert_null(model_parameter(&back, "classifier.weight"));
    model_close(&back);
    model_close(&model);
}

/* ---- Hugging Face folders --------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

enum spelling { PLAIN, NO_PREFIX, GAMMA_BETA, HALVES };

/* A tensor's values in f16, to be released. */
static uint16_t *halves_of(struct tensor *tensor) {
    const float *value = tensor->data;
    size_t count = tensor->shape[0] * tensor->shape[1];
    uint16_t *halves = malloc(count * sizeof *halves);
    for (size_t i = 0; i < count; i++) halves[i] = half_from_float(value[i]);
    tensor->dtype = DTYPE_F16;
    tensor->data = halves;
    return halves;
}

/* The model's tensors under another spelling, with tensors such as Hugging Face adds. extra: how many of them. */
static void write_folder(const struct model *model, enum spelling spelling, const struct tensor *extra, size_t extras) {
    struct tensor *tensors = calloc(model->parameter_count + extras, sizeof *tensors);
    uint16_t **halves = calloc(model->parameter_count, sizeof *halves);
    char(*names)[160] = calloc(model->parameter_count, sizeof *names), *json;
    struct safetensors_meta metadata = {"format", "pt"};
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        const char *name = parameter->name, *norm = strstr(name, "LayerNorm.");
        if (spelling == NO_PREFIX && strncmp(name, "bert.", 5) == 0) name += 5;
        snprintf(names[i], sizeof names[i], "%s", name);
        if (spelling == GAMMA_BETA && norm)
            snprintf(names[i], sizeof names[i], "%.*s.%s", (int)(norm - parameter->name) + 9, parameter->name,
                     strcmp(norm, "LayerNorm.weight") == 0 ? "gamma" : "beta");
        tensors[i] = (struct tensor){.name = names[i], .dtype = DTYPE_F32, .dimensions = 2, .data = parameter->value};
        tensors[i].shape[0] = parameter->rows, tensors[i].shape[1] = parameter->columns;
        if (parameter->kind == PARAMETER_VECTOR) tensors[i].dimensions = 1, tensors[i].shape[0] = parameter->columns;
        else if (spelling == HALVES) halves[i] = halves_of(&tensors[i]);
    }
    for (size_t i = 0; i < extras; i++) tensors[model->parameter_count + i] = extra[i];
    must(safetensors_write(tensors_path, tensors, model->parameter_count + extras, &metadata, 1));
    must(model_config_print(&model->config, &json));
    write_text(config_path, json);
    memory_release(json);
    for (size_t i = 0; i < model->parameter_count; i++) free(halves[i]);
    free(halves);
    free(tensors);
    free(names);
}

static void test_folders(void **state) {
    static const float zeros[97 * 32];
    struct tensor extra[] = {
        {.name = "bert.embeddings.position_ids", .dtype = DTYPE_F32, .dimensions = 1, .shape = {24}, .data = zeros},
        {.name = "cls.predictions.decoder.weight", .dtype = DTYPE_F32, .dimensions = 2, .shape = {97, 32}},
    };
    struct model model, back;
    char want[65], got[65];
    (void)state;
    small_model(&model, BOTH, 3);
    small_model_hash(&model, want);
    extra[1].data = model_parameter(&model, "bert.embeddings.word_embeddings.weight")->value;
    for (int spelling = PLAIN; spelling <= GAMMA_BETA; spelling++) {
        write_folder(&model, (enum spelling)spelling, extra, 2);
        must(model_open(&back, folder, true));
        small_model_hash(&back, got);
        assert_string_equal(got, want);
        model_close(&back);
    }
    extra[1].data = zeros; /* no copy of the embedding, to which the config ties it */
    for (int spelling = PLAIN; spelling <= GAMMA_BETA; spelling++) {
        write_folder(&model, (enum spelling)spelling, extra, 2);
        assert_int_equal(model_open(&back, folder, true), E_UNSUPPORTED);
    }
    model_close(&model);

    /* BertModel, with and without its pooler. */
    small_model(&model, HEAD_POOLER, 3);
    write_folder(&model, NO_PREFIX, NULL, 0);
    must(model_open(&back, folder, false));
    assert_non_null(model_parameter(&back, "bert.pooler.dense.weight"));
    model_close(&back);
    model_close(&model);
    small_model(&model, HEAD_NONE, 3);
    write_folder(&model, NO_PREFIX, NULL, 0);
    must(model_open(&back, folder, false));
    assert_int_equal(back.config.model_heads, HEAD_NONE);
    model_close(&back);
    model_close(&model);
}

static void expect_open_error(const char *path, int code, const char *text) {
    struct model model;
    int status = model_open(&model, path, false);
    if (status != code || !strstr(error_text(), text))
        fail_msg("expected %s '%s', got %s: %s", error_name(code), text, error_name(status), error_text());
}

static void test_folder_contradicts_itself(void **state) {
    static const float value[32];
    const struct tensor extra = {.name = "bert.encoder.layer.2.output.dense.bias",
                                 .dtype = DTYPE_F32,
                                 .dimensions = 1,
                                 .shape = {32},
                                 .data = value};
    struct model model;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 3);
    write_folder(&model, PLAIN, &extra, 1); /* a layer that the config does not have */
    expect_open_error(folder, E_SHAPE, "'bert.encoder.layer.2.output.dense.bias' is not part of the model");
    write_folder(&model, PLAIN, NULL, 0);
    write_text(config_path, "{\"model_type\":\"bert\",\"hidden_size\":32,\"num_hidden_layers\":3,"
                            "\"num_attention_heads\":2,\"intermediate_size\":48,\"vocab_size\":97,"
                            "\"max_position_embeddings\":24,\"type_vocab_size\":2,\"num_labels\":3,"
                            "\"architectures\":[\"BertForSequenceClassification\"]}");
    expect_open_error(folder, E_NOT_FOUND, "'bert.encoder.layer.2.attention.self.query.weight' is missing");
    write_text(config_path, "{\"model_type\":\"bert\",\"hidden_size\":32,\"num_hidden_layers\":2,"
                            "\"num_attention_heads\":2,\"intermediate_size\":64,\"vocab_size\":97,"
                            "\"max_position_embeddings\":24,\"type_vocab_size\":2,\"num_labels\":3,"
                            "\"architectures\":[\"BertForSequenceClassification\"]}");
    expect_open_error(folder, E_SHAPE,
                      "'bert.encoder.layer.0.intermediate.dense.weight' has shape [48,32] but the config says [64,32]");
    write_text(config_path, "{\"model_type\":\"bert\"");
    expect_open_error(folder, E_FORMAT, "config.json: ");
    unlink(tensors_path);
    unlink(config_path);
    expect_open_error(folder, E_IO, "the folder has no config.json, as a model");
    char gguf[128];
    snprintf(gguf, sizeof gguf, "%s/small.gguf", folder);
    write_text(gguf, "GGUF");
    expect_open_error(folder, E_IO, gguf); /* did you mean that file? */
    unlink(gguf);
    model.parameters[3].value[1] = NAN;
    write_folder(&model, PLAIN, NULL, 0);
    expect_open_error(folder, E_NUMERIC, model.parameters[3].name);
    model_close(&model);
}

/* Matrices in f16 stay in the file until the model is made ready: the one that is bad is named then, and nothing is
 * ready. */
static void test_matrix_is_not_finite(void **state) {
    static const char *const names[] = {"bert.encoder.layer.1.attention.output.dense.weight",
                                        "bert.embeddings.word_embeddings.weight"};
    static const char *const texts[] = {
        "layer 'bert.encoder.layer.1.attention.output.dense': holds a value that is not finite",
        "the head over 'bert.embeddings.word_embeddings.weight': holds a value that is not finite"};
    struct model model, back;
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        small_model(&model, BOTH, 3);
        const struct parameter *parameter = model_parameter(&model, names[i]);
        assert_non_null(parameter);
        parameter->value[40] = i ? INFINITY : NAN;
        write_folder(&model, HALVES, NULL, 0);
        must(model_open(&back, folder, false));
        assert_int_equal(model_prepare(&back, GEMM_BUILTIN), E_NUMERIC);
        assert_string_equal(error_text(), texts[i]);
        assert_false(back.prepared);
        model_close(&back);
        model_close(&model);
    }
}

/* ---- artifacts that lie ----------------------------------------------------------------------------- */

/* The artifact of the mixed model with one metadata value replaced, or one tensor changed. */
static void rewrite(const char *key, const char *value, const char *tensor, enum dtype dtype, size_t length) {
    struct safetensors file;
    struct safetensors_meta metadata[16];
    must(safetensors_open(&file, artifact));
    struct tensor *tensors = calloc(file.count, sizeof *tensors);
    assert_true(file.metadata_count <= 16);
    memcpy(metadata, file.metadata, file.metadata_count * sizeof *metadata);
    memcpy(tensors, file.tensors, file.count * sizeof *tensors);
    for (size_t i = 0; i < file.metadata_count; i++)
        if (key && strcmp(metadata[i].key, key) == 0) metadata[i].value = value;
    for (size_t i = 0; i < file.count; i++)
        if (tensor && strcmp(tensors[i].name, tensor) == 0) {
            tensors[i].dtype = dtype;
            tensors[i].dimensions = 1;
            tensors[i].shape[0] = length;
        }
    must(safetensors_write(second, tensors, file.count, metadata, file.metadata_count));
    free(tensors);
    safetensors_close(&file);
}

static void test_lying_artifacts(void **state) {
#define KEY "\"bert.encoder.layer.0.attention.self.key\""
    static const struct {
        const char *weights;
        int code;
        const char *text;
    } cases[] = {
        {"{", E_FORMAT, "byte"},
        {"[]", E_FORMAT, "object"},
        {"{}", E_NOT_FOUND, "self.key.weight' is missing"},
        {"{" KEY ": {\"format\": \"int8\", \"rows\": 32, \"columns\": 32}}", E_NOT_FOUND, "is missing"},
        {"{" KEY ": {\"format\": \"int9\", \"rows\": 32, \"columns\": 32}}", E_UNSUPPORTED, "int9"},
        {"{" KEY ": {\"rows\": 32, \"columns\": 32}}", E_FORMAT, "no format"},
        {"{" KEY ": {\"format\": \"int8\", \"rows\": 64, \"columns\": 32}}", E_SHAPE, "64x32"},
        {"{" KEY ": {\"format\": \"int8\", \"rows\": -1, \"columns\": 32}}", E_FORMAT, "rows"},
        {"{" KEY ": {\"format\": \"int8\", \"colour\": 1}}", E_FORMAT, "colour"},
        {"{" KEY ": {\"format\": \"int8\", \"colour\": true}}", E_FORMAT, "colour"},
        {"{" KEY ": 5}", E_FORMAT, "no format"},
        {"{\"bert.pooler\": {\"format\": \"int8\", \"rows\": 32, \"columns\": 32}}", E_SHAPE, "'bert.pooler'"},
    };
    struct model model;
    (void)state;
    mixed_model(&model);
    must(model_save(&model, artifact, BOTH));
    model_close(&model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite("weights", cases[i].weights, NULL, DTYPE_U8, 0);
        expect_open_error(second, cases[i].code, cases[i].text);
        assert_non_null(strstr(error_text(), second));
    }
    rewrite("config", "{}", NULL, DTYPE_U8, 0);
    expect_open_error(second, E_FORMAT, "model_type");
    rewrite(NULL, NULL, "bert.encoder.layer.0.attention.self.key.packed", DTYPE_U8, 40);
    expect_open_error(second, E_FORMAT, "self.key.packed': int8");
    rewrite(NULL, NULL, "bert.encoder.layer.0.attention.self.key.packed", DTYPE_F32, 8);
    expect_open_error(second, E_SHAPE, "must be a U8 vector");
    rewrite(NULL, NULL, "classifier.bias", DTYPE_I32, 3);
    expect_open_error(second, E_UNSUPPORTED, "'classifier.bias' is I32");
    must(safetensors_write(second, NULL, 0, NULL, 0));
    expect_open_error(second, E_FORMAT, "not a model file of runexp");
    expect_open_error("/nonexistent/model", E_IO, "/nonexistent/model");
}

/* Artifacts of the version before hold the same, but for 16-bit weights, whose panels were not in pairs. */
static void test_versions(void **state) {
    struct model model;
    (void)state;
    mixed_model(&model);
    must(model_save(&model, artifact, BOTH));
    rewrite("format", "shrinklab-3", NULL, DTYPE_U8, 0);
    expect_open_error(second, E_FORMAT, "format \"shrinklab-3\" is not known");
    rewrite("format", "shrinklab-1", NULL, DTYPE_U8, 0);
    struct model back;
    must(model_open(&back, second, false));
    model_close(&back);
    struct linear *linear = model_linear_find(&model, "bert.encoder.layer.1.output.dense");
    must(linear_pack(&model, linear, weight_format_find("bf16"), 0, true, NULL));
    must(model_save(&model, artifact, BOTH));
    rewrite("format", "shrinklab-1", NULL, DTYPE_U8, 0);
    must(model_open(&back, second, false));
    model_close(&back);
    linear = model_linear_find(&model, "bert.encoder.layer.0.intermediate.dense");
    must(linear_pack(&model, linear, weight_format_find("f16"), 0, true, NULL));
    must(model_save(&model, artifact, BOTH));
    model_close(&model);
    rewrite("format", "shrinklab-1", NULL, DTYPE_U8, 0);
    expect_open_error(second, E_FORMAT,
                      "'bert.encoder.layer.0.intermediate.dense.packed' has the layout of an earlier");
    assert_non_null(strstr(error_text(), second));
    must(model_open(&back, artifact, false));
    model_close(&back);
}

/* Attention in 8 bits that a file asks for: another word, or of a model that cannot. */
static void test_lying_attention(void **state) {
    struct model_config config;
    struct model model;
    (void)state;
    small_model(&model, BOTH, 3);
    must(model_set_int8_attention(&model));
    must(model_save(&model, artifact, BOTH));
    model_close(&model);
    rewrite("attention", "int4", NULL, DTYPE_U8, 0);
    expect_open_error(second, E_FORMAT, "attention \"int4\" is not known");
    assert_non_null(strstr(error_text(), second));
    must(model_config_family(&config, "gpt2"));
    config.layers = 1, config.width = 32, config.heads = config.key_value_heads = 2, config.head_width = 16;
    config.feed_forward = 48, config.vocabulary = 97, config.positions = 24;
    must(model_create(&model, &config, 3, 0.02));
    assert_int_equal(model_set_int8_attention(&model), E_UNSUPPORTED);
    model.int8_attention = true;
    must(model_save(&model, second, config.model_heads));
    model_close(&model);
    expect_open_error(second, E_UNSUPPORTED, "attention of a gpt2 model is causal");
    assert_non_null(strstr(error_text(), second));
}

static void test_failing_allocations(void **state) {
    struct model model;
    bool done = false;
    (void)state;
    mixed_model(&model);
    must(model_save(&model, artifact, BOTH));
    for (long n = 1; !done; n++) {
        unlink(second);
        memory_fail_after(n);
        int status = model_save(&model, second, BOTH);
        memory_fail_after(0);
        done = status == 0;
        if (!done) assert_int_equal(status, E_MEMORY);
        assert_int_equal(access(second, F_OK) == 0, done);
        assert_true(n < 1000);
    }
    done = false;
    for (long n = 1; !done; n++) {
        struct model copy;
        memory_fail_after(n);
        int status = model_copy(&copy, &model, NULL);
        memory_fail_after(0);
        done = status == 0;
        if (!done) assert_int_equal(status, E_MEMORY);
        assert_true(n < 1000);
        model_close(&copy);
    }
    model_close(&model);
    for (int editable = 0; editable < 2; editable++) {
        done = false;
        for (long n = 1; !done; n++) {
            memory_fail_after(n);
            int status = model_open(&model, artifact, editable);
            memory_fail_after(0);
            done = status == 0;
            if (!done) assert_int_equal(status, E_MEMORY);
            assert_true(n < 1000);
            model_close(&model);
        }
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_heads_left_out),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_folder_contradicts_itself),
        cmocka_unit_test(test_matrix_is_not_finite),
        cmocka_unit_test(test_lying_artifacts),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_lying_attention),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
