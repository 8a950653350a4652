/* The model in memory: configs, creation, inference that depends on neither neighbours nor threads, packing,
 * size and work, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_model.h"

#define BOTH (HEAD_CLASSIFICATION | HEAD_MASKED_LM)

static const size_t lengths[] = {7, 1, 24, 12, 12, 3, 9};
#define SEQUENCES (sizeof lengths / sizeof *lengths)

/* ---- configs ---------------------------------------------------------------------------------------- */

static void test_config_round_trip(void **state) {
    struct model_config config, back;
    (void)state;
    for (unsigned heads = 0; heads < 8; heads++)
        for (int32_t pad = -1; pad < 2; pad++) {
            char *json;
            config = small_config(heads);
            config.pad_id = pad;
            assert_int_equal(model_config_print(&config, &json), 0);
            if (model_config_parse(&back, json, strlen(json)) < 0) fail_msg("%s", error_text());
            assert_memory_equal(&back, &config, sizeof config);
            memory_release(json);
        }
}

#define SIZES                                                                                                          \
    "\"model_type\":\"bert\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"                    \
    "\"intermediate_size\":64,\"vocab_size\":100,\"max_position_embeddings\":16,\"type_vocab_size\":2"

static void test_config_spellings(void **state) {
    static const struct {
        const char *json, *error; /* error NULL: accepted */
    } cases[] = {
        {"{" SIZES "}", NULL},
        {"{" SIZES ",\"torch_dtype\":\"float16\",\"position_embedding_type\":\"absolute\"}", NULL},     /* version 4 */
        {"{" SIZES ",\"dtype\":\"float32\",\"add_cross_attention\":false,\"is_decoder\":false}", NULL}, /* 5 */
        {"{" SIZES ",\"architectures\":[\"BertForMaskedLM\"],\"pad_token_id\":null}", NULL},
        {"{" SIZES ",\"position_embedding_type\":\"relative_key\"}", "position_embedding_type relative_key"},
        {"{" SIZES ",\"hidden_act\":\"relu\"}", "hidden_act relu"},
        {"{" SIZES ",\"is_decoder\":true}", "is_decoder true"},
        {"{" SIZES ",\"pruned_heads\":{\"0\":[1]}}", "pruned_heads"},
        {"{" SIZES ",\"embedding_size\":128}", "\"embedding_size\""},
        {"{" SIZES ",\"architectures\":[\"BertForTokenClassification\"]}", "BertForTokenClassification"},
        {"{" SIZES ",\"id2label\":{\"0\":\"a\"},\"num_labels\":3}", "num_labels is 3"},
        {"{" SIZES ",\"layer_norm_eps\":0}", "norm_epsilon"},
        {"{" SIZES ",\"pad_token_id\":100}", "pad_id 100"},
        {"{" SIZES ",\"pad_token_id\":-101}", "pad_token_id"},
        {"{\"model_type\":\"bert\",\"hidden_size\":32}", "is missing"},
        {"{\"model_type\":\"t5\"}", "\"t5\" is not supported (known: bert, distilbert, gpt2, opt, llama"},
        {"{\"hidden_size\":32}", "model_type"},
        {"[]", "object"},
        {"{\"model_type\":\"bert\",\"hidden_size\":-3}", "hidden_size"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        int status = model_config_parse(&config, cases[i].json, strlen(cases[i].json));
        if (!cases[i].error && status < 0) fail_msg("%s: %s", cases[i].json, error_text());
        if (cases[i].error && status == 0) fail_msg("accepted: %s", cases[i].json);
        if (cases[i].error && !strstr(error_text(), cases[i].error)) fail_msg("%s: %s", cases[i].json, error_text());
    }
}

static void test_config_check(void **state) {
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    (void)state;
    assert_int_equal(model_config_check(&config), 0);
    config.heads = 5;
    assert_int_equal(model_config_check(&config), E_SHAPE);
    assert_string_equal(error_text(), "width 32 is not a multiple of heads 5");
    config = small_config(HEAD_CLASSIFICATION);
    config.key_value_heads = 1;
    assert_int_equal(model_config_check(&config), E_UNSUPPORTED);
    config = small_config(HEAD_CLASSIFICATION);
    config.vocabulary = SIZE_MAX;
    assert_int_equal(model_config_check(&config), E_ARGUMENT);
    config = small_config(HEAD_CLASSIFICATION);
    config.causal = true;
    assert_int_equal(model_config_check(&config), E_UNSUPPORTED);
    assert_int_equal(model_config_family(&config, "bort"), E_NOT_FOUND);
    assert_string_equal(error_text(),
                        "unknown model family 'bort' (known: bert, distilbert, gpt2, opt, llama, qwen2, mistral)");
}

/* ---- creation --------------------------------------------------------------------------------------- */

static void test_create(void **state) {
    struct model model;
    char one[65], two[65], other[65];
    int before = threads_get();
    (void)state;
    threads_set(1);
    small_model(&model, BOTH, 1);
    small_model_hash(&model, one);
    double sum = 0, squares = 0;
    const struct parameter *tokens = model_parameter(&model, "bert.embeddings.word_embeddings.weight");
    size_t count = tokens->rows * tokens->columns;
    for (size_t i = 0; i < count; i++) sum += (double)tokens->value[i], squares += pow((double)tokens->value[i], 2);
    assert_true(fabs(sum / (double)count) < 0.02 && fabs(sqrt(squares / (double)count) - 0.2) < 0.01);
    for (size_t c = 0; c < tokens->columns; c++) assert_true(tokens->value[c] == 0); /* the pad */
    assert_true(model_parameter(&model, "bert.embeddings.LayerNorm.weight")->value[3] == 1);
    assert_true(model_parameter(&model, "cls.predictions.bias")->value[3] == 0);
    assert_null(model_parameter(&model, "bert.encoder.layer.2.output.dense.weight"));
    assert_int_equal(model.linear_count, 2 * 6 + 3);
    assert_string_equal(model.linears[0].name, "bert.encoder.layer.0.attention.self.query");
    assert_int_equal(model.linears[11].block, 1);
    assert_int_equal(model.linears[12].role, ROLE_POOLER);
    assert_string_equal(linear_role_name(model.linears[5].role), "down");
    assert_ptr_equal(model_linear_find(&model, "classifier"), &model.linears[13]);
    model_close(&model);
    threads_set(2);
    small_model(&model, BOTH, 1);
    small_model_hash(&model, two);
    model_close(&model);
    small_model(&model, BOTH, 2);
    small_model_hash(&model, other);
    model_close(&model);
    threads_set(before);
    assert_string_equal(one, two);
    assert_string_not_equal(one, other);
}

static void test_metadata(void **state) {
    struct model model;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 1);
    assert_int_equal(model_set_metadata(&model, "tokenizer", "{}"), 0);
    assert_int_equal(model_set_metadata(&model, "labels", "a b"), 0);
    assert_int_equal(model_set_metadata(&model, "tokenizer", "{\"x\":1}"), 0);
    assert_string_equal(model_metadata(&model, "tokenizer"), "{\"x\":1}");
    assert_null(model_metadata(&model, "other"));
    assert_int_equal(model_set_metadata(&model, "config", "x"), E_ARGUMENT);
    model_close(&model);
}

/* ---- inference -------------------------------------------------------------------------------------- */

static void forward(const struct model *model, const struct batch *batch, struct workspace *workspace,
                    struct model_output *output) {
    if (model_forward(model, batch, NULL, workspace, output) < 0) fail_msg("%s", error_text());
}

/* Pack every layer of the blocks: minmax grid. */
static void pack_all(struct model *model, const char *name, size_t group) {
    const struct weight_format *format = weight_format_find(name);
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->block < 0) continue;
        struct weight_shape shape = {linear->rows, linear->columns, group, true};
        struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
        grid.scale = calloc(linear->rows * grid.groups, sizeof(float));
        if (weight_grid_minmax(format, &shape, linear->value, &grid) < 0 ||
            linear_pack(model, linear, format, group, true, &grid) < 0)
            fail_msg("%s", error_text());
        free(grid.scale);
    }
}

static void check_invariance(const char *format, size_t group) {
    struct model model;
    struct small_batch batch;
    struct workspace workspace = {0}, alone = {0};
    struct model_output output, single;
    int before = threads_get();
    small_model(&model, HEAD_CLASSIFICATION, 3);
    small_batch_new(&batch, &model.config, lengths, SEQUENCES, 4);
    if (format) pack_all(&model, format, group);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    forward(&model, &batch.batch, &workspace, &output);
    size_t C = model.config.width, K = model.config.classes;
    for (int threads = 1; threads <= 3; threads++) {
        threads_set(threads);
        for (size_t i = 0; i < SEQUENCES; i++) {
            uint32_t offset[2] = {0, (uint32_t)lengths[i]};
            struct batch one = {.sequences = 1,
                                .tokens = lengths[i],
                                .ids = batch.ids + batch.offset[i],
                                .offset = offset,
                                .token_types = batch.types + batch.offset[i]};
            forward(&model, &one, &alone, &single);
            assert_memory_equal(single.logits, output.logits + i * K, K * sizeof(float));
            assert_memory_equal(single.hidden, output.hidden + batch.offset[i] * C, lengths[i] * C * sizeof(float));
        }
        struct workspace again = {0};
        struct model_output same;
        forward(&model, &batch.batch, &again, &same);
        assert_memory_equal(same.hidden, output.hidden, batch.batch.tokens * C * sizeof(float));
        workspace_close(&again);
    }
    threads_set(before);
    workspace_close(&workspace);
    workspace_close(&alone);
    small_batch_free(&batch);
    model_close(&model);
}

static void test_independent_of_neighbours_and_threads(void **state) {
    (void)state;
    check_invariance(NULL, 0);
    check_invariance("int8", 0);
    check_invariance("int4", 32);
}

/* A batch large enough that every piece runs in parallel. */
static void test_parallel_pieces(void **state) {
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    struct model model;
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    enum { MANY = 120 };
    size_t long_lengths[MANY];
    int before = threads_get();
    (void)state;
    for (size_t i = 0; i < MANY; i++) long_lengths[i] = 5 + i % 20;
    config.width = 64;
    config.head_width = 32;
    assert_int_equal(model_create(&model, &config, 1, 0.1), 0);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    small_batch_new(&batch, &config, long_lengths, MANY, 4);
    float *kept = malloc(batch.batch.tokens * config.width * sizeof(float));
    for (int threads = 1; threads <= 3; threads++) {
        threads_set(threads);
        forward(&model, &batch.batch, &workspace, &output);
        if (threads == 1) memcpy(kept, output.hidden, batch.batch.tokens * config.width * sizeof(float));
        else assert_memory_equal(kept, output.hidden, batch.batch.tokens * config.width * sizeof(float));
    }
    threads_set(before);
    free(kept);
    workspace_close(&workspace);
    small_batch_free(&batch);
    model_close(&model);
}

static void test_packed_is_close(void **state) {
    static const struct {
        const char *format;
        size_t group;
        double tolerance;
    } cases[] = {{"int8", 0, 0.05}, {"int4", 32, 0.6}};
    struct small_batch batch;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model exact, packed;
        struct workspace a = {0}, b = {0};
        struct model_output want, got;
        double worst = 0, scale = 0;
        small_model(&exact, HEAD_CLASSIFICATION, 3);
        small_model(&packed, HEAD_CLASSIFICATION, 3);
        small_batch_new(&batch, &exact.config, lengths, SEQUENCES, 4);
        pack_all(&packed, cases[i].format, cases[i].group);
        assert_null(packed.linears[0].value);
        assert_null(model_parameter(&packed, "bert.encoder.layer.0.attention.self.query.weight"));
        assert_non_null(packed.linears[0].bias_parameter);
        assert_string_equal(packed.linears[0].bias_parameter->name, "bert.encoder.layer.0.attention.self.query.bias");
        assert_int_equal(model_prepare(&exact, GEMM_BUILTIN), 0);
        assert_int_equal(model_prepare(&packed, GEMM_BUILTIN), 0);
        forward(&exact, &batch.batch, &a, &want);
        forward(&packed, &batch.batch, &b, &got);
        for (size_t j = 0; j < SEQUENCES * exact.config.classes; j++) {
            scale = fmax(scale, fabs((double)want.logits[j]));
            worst = fmax(worst, fabs((double)want.logits[j] - (double)got.logits[j]));
        }
        assert_true(worst > 0 && worst < cases[i].tolerance * scale);
        assert_int_equal(model_gradients_open(&packed, HEAD_CLASSIFICATION), E_STATE);
        workspace_close(&a);
        workspace_close(&b);
        small_batch_free(&batch);
        model_close(&exact);
        model_close(&packed);
    }
}

struct seen {
    size_t count, tokens;
    const char *names[64];
    double sum;
};
static void see(void *context, const struct linear *linear, const float *x, size_t T) {
    struct seen *seen = context;
    assert_true(seen->count < 64);
    seen->names[seen->count++] = linear->name;
    seen->tokens += T;
    for (size_t i = 0; i < T * linear->columns; i++) seen->sum += fabs((double)x[i]);
}

static void test_taps_and_hidden_states(void **state) {
    struct model model;
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    struct seen seen = {0};
    struct model_tap tap = {see, &seen};
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 3);
    small_batch_new(&batch, &model.config, lengths, SEQUENCES, 4);
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_STATE); /* not prepared */
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    assert_int_equal(model_forward(&model, &batch.batch, &tap, &workspace, &output), 0);
    assert_int_equal(seen.count, model.linear_count);
    for (size_t i = 0; i < seen.count; i++) assert_string_equal(seen.names[i], model.linears[i].name);
    assert_int_equal(seen.tokens, 12 * batch.batch.tokens + 2 * SEQUENCES);
    assert_true(isfinite(seen.sum) && seen.sum > 0);

    size_t count = batch.batch.tokens * model.config.width;
    float *hidden = calloc(3 * count, sizeof(float));
    assert_int_equal(model_hidden_states(&model, &batch.batch, &workspace, hidden), 0);
    forward(&model, &batch.batch, &workspace, &output);
    assert_memory_equal(output.hidden, hidden + 2 * count, count * sizeof(float));

    /* An edit after model_prepare shows only once the panels are dropped. */
    model.linears[0].value[0] += 1;
    model_unprepare(&model);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    forward(&model, &batch.batch, &workspace, &output);
    assert_memory_not_equal(output.hidden, hidden + 2 * count, count * sizeof(float));
    free(hidden);
    workspace_close(&workspace);
    small_batch_free(&batch);
    model_close(&model);
}

static void test_bad_batches(void **state) {
    struct model model;
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 3);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    small_batch_new(&batch, &model.config, lengths, SEQUENCES, 4);
    batch.ids[3] = 97;
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_SHAPE);
    assert_non_null(strstr(error_text(), "token 3 has id 97 outside the model's vocabulary of 97: is the tokenizer"));
    batch.ids[3] = -1;
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_SHAPE);
    batch.ids[3] = 1;
    batch.types[2] = 2;
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_SHAPE);
    batch.types[2] = 0;
    batch.offset[2]--; /* an empty sequence */
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_SHAPE);
    batch.offset[2] = batch.offset[3] = 6; /* and one longer than the positions */
    batch.offset[1] = 3;
    batch.offset[3] = 31;
    assert_int_equal(model_forward(&model, &batch.batch, NULL, &workspace, &output), E_SHAPE);
    assert_non_null(strstr(error_text(), "24 positions"));
    workspace_close(&workspace);
    small_batch_free(&batch);
    model_close(&model);
}

/* An embedding that is wider than the blocks: the head's room holds rows of both widths. */
static void test_wide_embedding(void **state) {
    enum { T = 5, C = 16, E = 64, V = 97 };
    struct model_config config;
    struct model model;
    struct workspace workspace = {0};
    static float hidden[T * C], together[T * V], alone[V];
    (void)state;
    assert_int_equal(model_config_family(&config, "opt"), 0);
    config.layers = 1, config.width = C, config.heads = config.key_value_heads = 2, config.head_width = 8;
    config.feed_forward = 24, config.vocabulary = V, config.positions = 24, config.embedding_width = E;
    config.model_heads = HEAD_CAUSAL_LM, config.pad_id = -1;
    if (model_create(&model, &config, 3, 0.2) < 0) fail_msg("%s", error_text());
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    for (size_t i = 0; i < T * C; i++) hidden[i] = (float)(i % 13) - 6;
    assert_int_equal(model_logits(&model, hidden, NULL, T, &workspace, together), 0);
    assert_true(workspace.head_bytes >= T * (C + E) * sizeof(float));
    for (size_t t = 0; t < T; t++) {
        assert_int_equal(model_logits(&model, hidden + t * C, NULL, 1, &workspace, alone), 0);
        assert_memory_equal(alone, together + t * V, sizeof alone);
    }
    workspace_close(&workspace);
    model_close(&model);
}

static void test_size_and_work(void **state) {
    struct model model;
    struct model_size size;
    uint32_t offset[] = {0, 2, 5};
    struct batch batch = {.sequences = 2, .tokens = 5, .offset = offset};
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 3);
    uint64_t block = 4 * 32 * 32 + 2 * 32 * 48;
    model_size(&model, &size);
    assert_int_equal(size.linear_f32_bytes, 2 * block * 4);
    assert_int_equal(size.linear_bytes, size.linear_f32_bytes);
    assert_true(size.bits_per_weight == 32);
    assert_int_equal(model_multiply_adds(&model, &batch),
                     2 * block * 5 + 2 * (32 * 32 + 3 * 32) + 2 * (4 + 9) * 2 * 32);
    uint64_t all = size.total_bytes;
    pack_all(&model, "int8", 0);
    model_size(&model, &size);
    assert_int_equal(size.total_bytes, all - size.linear_f32_bytes + size.linear_bytes);
    assert_true(size.linear_bytes < size.linear_f32_bytes && size.bits_per_weight < 32);
    model_close(&model);
}

static void test_failing_allocations(void **state) {
    struct model_config config = small_config(BOTH);
    struct model model;
    struct small_batch batch;
    (void)state;
    small_batch_new(&batch, &config, lengths, SEQUENCES, 4);
    bool done = false;
    for (long n = 1; !done; n++) {
        struct workspace workspace = {0};
        struct model_output output;
        memory_fail_after(n);
        int status = model_create(&model, &config, 1, 0.02);
        if (status == 0) status = model_set_metadata(&model, "key", "value");
        if (status == 0) status = model_prepare(&model, GEMM_BUILTIN);
        if (status == 0) status = model_forward(&model, &batch.batch, NULL, &workspace, &output);
        memory_fail_after(0);
        done = status == 0;
        if (!done) assert_int_equal(status, E_MEMORY);
        assert_true(n < 400);
        model_close(&model);
        workspace_close(&workspace);
    }
    small_batch_free(&batch);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_round_trip),
        cmocka_unit_test(test_config_spellings),
        cmocka_unit_test(test_config_check),
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_independent_of_neighbours_and_threads),
        cmocka_unit_test(test_parallel_pieces),
        cmocka_unit_test(test_packed_is_close),
        cmocka_unit_test(test_taps_and_hidden_states),
        cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_wide_embedding),
        cmocka_unit_test(test_size_and_work),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
