/* config.json of every family: what is read, in both of transformers' spellings, and what is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "model/family.h"
#include "model/kv_cache.h"
#include "model/linear_select.h"
#include "small_model.h"

#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":32,\"n_head\":4,\"n_layer\":2,\"n_positions\":16,\"vocab_size\":50"
#define OPT                                                                                                            \
    "\"model_type\":\"opt\",\"hidden_size\":32,\"num_attention_heads\":4,\"num_hidden_layers\":2,\"ffn_dim\":64,"      \
    "\"max_position_embeddings\":16,\"vocab_size\":50"
#define SIZES                                                                                                          \
    "\"hidden_size\":32,\"num_attention_heads\":4,\"num_hidden_layers\":2,\"intermediate_size\":64,"                   \
    "\"max_position_embeddings\":16,\"vocab_size\":50"
#define LLAMA "\"model_type\":\"llama\"," SIZES
#define QWEN2 "\"model_type\":\"qwen2\"," SIZES
#define MISTRAL "\"model_type\":\"mistral\"," SIZES
#define DISTILBERT                                                                                                     \
    "\"model_type\":\"distilbert\",\"dim\":32,\"n_heads\":4,\"n_layers\":2,\"hidden_dim\":64,"                         \
    "\"max_position_embeddings\":16,\"vocab_size\":50"

static void test_refusals(void **state) {
    static const struct {
        const char *json, *error; /* error NULL: accepted */
    } cases[] = {
        {"{" DISTILBERT "}", NULL},
        {"{" DISTILBERT ",\"activation\":\"relu\"}", "activation relu"},
        {"{" GPT2 ",\"architectures\":[\"GPT2LMHeadModel\"],\"n_ctx\":16,\"activation_function\":\"gelu_new\"}", NULL},
        {"{" GPT2 ",\"activation_function\":\"relu\"}", "activation_function relu"},
        {"{" GPT2 ",\"activation_function\":0}", "activation_function 0"},
        {"{" GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", "scale_attn_by_inverse_layer_idx true"},
        {"{" GPT2 ",\"scale_attn_weights\":false}", "scale_attn_weights false"},
        {"{" GPT2 ",\"reorder_and_upcast_attn\":true}", "reorder_and_upcast_attn true"},
        {"{" GPT2 ",\"add_cross_attention\":true}", "add_cross_attention true"},
        {"{" GPT2 ",\"architectures\":[\"GPT2DoubleHeadsModel\"]}",
         "\"GPT2DoubleHeadsModel\" is not supported (only GPT2LMHeadModel, GPT2Model)"},
        {"{" GPT2 ",\"n_inner\":\"many\"}", "n_inner"},
        {"{" OPT ",\"do_layer_norm_before\":false,\"word_embed_proj_dim\":16}", NULL},
        {"{" OPT ",\"activation_function\":\"gelu\"}", "activation_function gelu"},
        {"{" OPT ",\"enable_bias\":false}", "enable_bias false"},
        {"{" OPT ",\"layer_norm_elementwise_affine\":false}", "layer_norm_elementwise_affine false"},
        {"{" OPT ",\"do_layer_norm_before\":1}", "do_layer_norm_before"},
        {"{" LLAMA ",\"rope_theta\":10000.0,\"rope_scaling\":null,\"pretraining_tp\":1}", NULL},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"},\"head_dim\":null}", NULL},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8}}",
         "low_freq_factor of rotary positions of type llama3 is missing"},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"factor\":8}}",
         "factor of rotary positions of type default is not supported"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", NULL},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor of rotary positions of type linear is missing"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}", "must be in 1..1e6"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-2}}", "rope_scaling.factor must be above 0"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"low_freq_factor\":1}}", "low_freq_factor of"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"llama3\"}}", "says both linear and llama3"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2.0}}", "rope_scaling.rope_type yarn"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
         "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}",
         NULL},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":4.0,"
         "\"high_freq_factor\":1.0,\"original_max_position_embeddings\":8192}}",
         "low_freq_factor 4 must be above 0 and below high_freq_factor 1"},
        {"{" LLAMA ",\"rope_theta\":10000.0,\"rope_parameters\":{\"rope_theta\":5e5}}", "rope_theta is 10000"},
        {"{" LLAMA ",\"rope_theta\":0.5}", "rope_theta must be in 1..1e12 (got 0.5)"},
        {"{" LLAMA ",\"rope_theta\":0}", "rope_theta must be in 1..1e12 (got 0)"},
        {"{" LLAMA ",\"rope_theta\":-5.0}", "rope_theta must be in 1..1e12 (got -5)"},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_theta\":0}}", "rope_parameters.rope_theta must be in"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_theta\":5e5,\"type\":\"default\"},\"rope_theta\":5e5}", NULL},
        {"{" LLAMA ",\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":5e5}}", NULL},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":{\"rope_theta\":5e5}}",
         "rope_parameters.rope_theta is 500000, but rope_scaling"},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_theta\":5e5},\"rope_scaling\":{\"rope_theta\":6e5}}",
         "rope_scaling.rope_theta is 600000 but rope_parameters.rope_theta is 500000"},
        {"{" LLAMA ",\"partial_rotary_factor\":1.0}", NULL},
        {"{" LLAMA ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor 0.5 is not supported (only 1)"},
        {"{" LLAMA ",\"attention_bias\":true}", "attention_bias true"},
        {"{" LLAMA ",\"mlp_bias\":true}", "mlp_bias true"},
        {"{" LLAMA ",\"hidden_act\":\"gelu\"}", "hidden_act gelu"},
        {"{" LLAMA ",\"pretraining_tp\":2}", "pretraining_tp 2"},
        {"{" LLAMA ",\"num_key_value_heads\":3}", "heads 4 is not a multiple of key_value_heads 3"},
        {"{" LLAMA ",\"head_dim\":7}", "head_width 7 is odd"},
        {"{" LLAMA ",\"quantization_config\":{}}", "quantization_config {} is not supported (only null)"},
        {"{" LLAMA ",\"quantization_config\":null,\"is_decoder\":true,\"max_sequence_length\":2048}", NULL},
        {"{" LLAMA ",\"head_dim\":0}", "head_dim 0 is not supported (1 or more, or null)"},
        {"{" LLAMA ",\"num_key_value_heads\":0}", "num_key_value_heads 0 is not supported"},
        {"{" LLAMA ",\"pad_token_id\":-51}", "pad_token_id -51 is outside the vocabulary of 50"},
        {"{" LLAMA ",\"pad_token_id\":0.5}", "pad_token_id must be a whole number"},
        {"{" GPT2 ",\"n_inner\":0}", "n_inner 0 is not supported (1 or more, or null)"},
        {"{" GPT2 ",\"n_special\":0,\"predict_special_tokens\":true,\"chunk_size_feed_forward\":4}", NULL},
        {"{" GPT2 ",\"n_special\":2}", "n_special 2"},
        {"{" OPT ",\"word_embed_proj_dim\":0}", "word_embed_proj_dim 0 is not supported"},
        {"{" MISTRAL ",\"sliding_window\":0}", "sliding_window 0 is not supported (1 or more, or null)"},
        {"{" MISTRAL ",\"attention_bias\":false,\"mlp_bias\":false}", NULL},
        {"{" MISTRAL ",\"attention_bias\":true}", "attention_bias true"},
        {"{" DISTILBERT ",\"is_decoder\":true}", "is_decoder true"},
        {"{" DISTILBERT ",\"tie_word_embeddings\":false}", NULL},
        {"{" DISTILBERT ",\"tie_word_embeddings\":false,\"architectures\":[\"DistilBertForMaskedLM\"]}",
         "tie_word_embeddings false"},
        {"{" DISTILBERT ",\"language\":\"english\",\"name\":\"x\",\"eos_token_ids\":0,\"xla_device\":null,"
         "\"attn_implementation\":null,\"unk_token_id\":1,\"pruned_heads\":null}",
         NULL},
        {"{" LLAMA ",\"sliding_window\":4}", "\"sliding_window\""},
        {"{" LLAMA ",\"layer_types\":[\"full_attention\"]}", "layer_types has 1 entries"},
        {"{" QWEN2 ",\"use_sliding_window\":false,\"sliding_window\":4096,\"max_window_layers\":28}", NULL},
        {"{" QWEN2 ",\"use_sliding_window\":true}", "use_sliding_window true"},
        {"{" QWEN2 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "layer_types"},
        {"{" QWEN2 ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", "linear_attention"},
        {"{" MISTRAL ",\"sliding_window\":4,\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]}", NULL},
        {"{" MISTRAL ",\"sliding_window\":4,\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         "layer_types"},
        {"{" MISTRAL ",\"sliding_window\":9999999}", "window"},
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

static struct model_config parsed(const char *json) {
    struct model_config config;
    if (model_config_parse(&config, json, strlen(json)) < 0) fail_msg("%s", error_text());
    return config;
}

static void test_values(void **state) {
    struct model_config config = parsed("{" GPT2 ",\"n_inner\":null}");
    (void)state;
    assert_int_equal(config.feed_forward, 128);
    assert_true(config.tied && config.causal && config.norm_first && config.final_norm);
    config = parsed("{" OPT ",\"do_layer_norm_before\":false,\"word_embed_proj_dim\":16}");
    assert_int_equal(config.embedding_width, 16);
    assert_int_equal(config.position_offset, 2);
    assert_false(config.norm_first || config.final_norm);
    assert_int_equal(parsed("{" OPT ",\"word_embed_proj_dim\":32}").embedding_width, 0);
    config = parsed("{" LLAMA ",\"num_key_value_heads\":2,\"head_dim\":10,\"rope_theta\":5e5}");
    assert_int_equal(config.key_value_heads, 2);
    assert_int_equal(config.head_width, 10);
    assert_true(config.rotary_base == 5e5f && !config.tied && !config.query_bias);
    config = parsed("{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.5,"
                    "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},"
                    "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":3}}");
    assert_true(config.rotary_scaling.factor == 32 && config.rotary_scaling.low == 1.5f &&
                config.rotary_scaling.high == 4 && config.rotary_scaling.original == 8192);
    for (int linear = 0; linear < 2; linear++) { /* printed and read again */
        char *text;
        if (linear) config.rotary_scaling = (struct rotary_scaling){.factor = 2.5f};
        assert_int_equal(model_config_print(&config, &text), 0);
        struct model_config again = parsed(text);
        assert_memory_equal(&again.rotary_scaling, &config.rotary_scaling, sizeof config.rotary_scaling);
        memory_release(text);
    }
    assert_true(parsed("{" LLAMA "}").rotary_scaling.factor == 0);
    assert_true(parsed("{" QWEN2 ",\"tie_word_embeddings\":true}").query_bias);
    assert_true(parsed("{" DISTILBERT ",\"tie_word_embeddings\":false}").tied);
    assert_int_equal(parsed("{\"pad_token_id\":-1," LLAMA "}").pad_id, 49);
    assert_int_equal(parsed("{\"pad_token_id\":null," LLAMA "}").pad_id, -1);
    /* transformers' MistralConfig: 4096 unless said otherwise. */
    assert_int_equal(parsed("{" MISTRAL "}").window, 4096);
    assert_int_equal(parsed("{" MISTRAL ",\"sliding_window\":null}").window, 0);
}

/* The roles that techniques name, and that heads are not taken unless asked for. */
static void test_roles(void **state) {
    struct model model;
    struct model_config config = parsed("{" LLAMA ",\"architectures\":[\"LlamaForCausalLM\"]}");
    struct option_names none = {0};
    (void)state;
    assert_int_equal(model_create(&model, &config, 1, 0.02), 0);
    assert_int_equal(model.linear_count, 7 * config.layers + 1);
    const struct linear *head = model_linear_find(&model, "lm_head"),
                        *gate = model_linear_find(&model, "model.layers.1.mlp.gate_proj");
    assert_true(head && head->role == ROLE_HEAD && head->block == -1 && !linear_selected(head, &none, &none));
    assert_true(gate && gate->role == ROLE_GATE && gate->block == 1 && linear_selected(gate, &none, &none));
    assert_null(gate->bias);
    model_close(&model);

    config = parsed("{" GPT2 "}");
    assert_int_equal(model_create(&model, &config, 1, 0.02), 0);
    assert_non_null(model_linear_find(&model, "transformer.h.0.attn.c_attn.query"));
    assert_non_null(model_parameter(&model, "transformer.h.1.attn.c_attn.value.bias"));
    model_close(&model);
}

static int count_stored(void *context, const struct layout_entry *entry) {
    struct stored_tensor stored;
    size_t *seen = context;
    layout_stored(entry, &stored);
    if (strcmp(stored.name, "transformer.h.1.attn.c_attn.weight") == 0) {
        assert_true(stored.transposed);
        assert_int_equal(stored.total, 96);
        assert_int_equal(stored.first, 32 * *seen);
        (*seen)++;
    } else if (strcmp(entry->name, "transformer.wte.weight") == 0) {
        assert_string_equal(stored.name, entry->name);
        assert_int_equal(stored.total, 50);
    }
    return 0;
}

static void test_stored(void **state) {
    struct model_config config = parsed("{" GPT2 "}");
    size_t seen = 0;
    (void)state;
    assert_int_equal(layout_walk(&config, count_stored, &seen), 0);
    assert_int_equal(seen, 3);
}

/* Every layer's weights times its tokens, and two products per query and key that it sees. */
static void test_work(void **state) {
    struct model model;
    struct model_config config = parsed("{" MISTRAL ",\"sliding_window\":3,\"num_key_value_heads\":2}");
    int32_t ids[7] = {1, 2, 3, 4, 5, 6, 7};
    uint32_t offset[3] = {0, 5, 7};
    struct batch batch = {.sequences = 2, .tokens = 7, .ids = ids, .offset = offset};
    uint64_t block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32, pairs = (1 + 2 + 3 + 3 + 3) + (1 + 2);
    (void)state;
    assert_int_equal(model_create(&model, &config, 1, 0.02), 0);
    assert_int_equal(model_attention_pairs(&config, &batch, false), pairs);
    assert_int_equal(model_multiply_adds(&model, &batch), 2 * block * 7 + 2 * pairs * 2 * 32);
    model_close(&model);
}

/* Tokens through a model, after `past` tokens of every sequence where that is not 0. */
static void run_reading(const struct model *model, enum batch_read read, uint32_t past, float *hidden) {
    int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint32_t offset[4] = {0, 5, 6, 9}, before[4] = {0, past, 2 * past, 3 * past};
    struct batch batch = {.sequences = 3, .tokens = 9, .ids = ids, .offset = offset, .read = read};
    struct batch first = {.sequences = 3, .tokens = 3 * past, .ids = ids, .offset = before};
    struct workspace workspace = {0};
    struct kv_cache cache = {0};
    struct model_output output;
    if (past) {
        assert_int_equal(kv_cache_open(&cache, model, 3, 16, CACHE_F32), 0);
        first.cache = batch.cache = &cache;
        if (model_forward(model, &first, NULL, &workspace, &output) < 0) fail_msg("%s", error_text());
    }
    if (model_forward(model, &batch, NULL, &workspace, &output) < 0) fail_msg("%s", error_text());
    size_t rows = read == READ_ALL ? 9 : 3;
    memcpy(hidden, output.hidden, rows * model->config.width * sizeof *hidden);
    assert_true(!output.logits == (read == READ_LAST || !(model->config.model_heads & HEAD_CLASSIFICATION)));
    kv_cache_close(&cache);
    workspace_close(&workspace);
}

/* One token of each sequence read: the bits that reading all of them gives. */
static void check_read(const char *json) {
    static const uint32_t firsts[3] = {0, 5, 6}, lasts[3] = {4, 5, 8};
    struct model model;
    struct model_config config = parsed(json);
    float all[9 * 32], some[3 * 32];
    if (model_create(&model, &config, 1, 0.2) < 0) fail_msg("%s", error_text());
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    for (uint32_t past = 0; past <= (config.causal ? 3u : 0u); past += 3) {
        run_reading(&model, READ_ALL, past, all);
        for (enum batch_read read = READ_FIRST; read <= READ_LAST; read++) {
            run_reading(&model, read, past, some);
            for (size_t i = 0; i < 3; i++)
                assert_memory_equal(some + i * 32, all + 32 * (read == READ_FIRST ? firsts : lasts)[i],
                                    32 * sizeof *some);
        }
    }
    model_close(&model);
}

static void test_read(void **state) {
    (void)state;
    check_read("{" DISTILBERT ",\"architectures\":[\"DistilBertForSequenceClassification\"]}");
    check_read("{" GPT2 "}");
    check_read("{" OPT ",\"do_layer_norm_before\":false,\"word_embed_proj_dim\":16}");
    check_read("{" LLAMA ",\"num_key_value_heads\":2}");
    check_read("{" MISTRAL ",\"sliding_window\":3,\"num_key_value_heads\":2}");
}

/* The work of such passes: queries and what follows them in the last block are of three tokens. */
static void test_read_work(void **state) {
    struct model model;
    struct model_config config = parsed("{" MISTRAL ",\"sliding_window\":3,\"num_key_value_heads\":2}");
    int32_t ids[7] = {1, 2, 3, 4, 5, 6, 7};
    uint32_t offset[3] = {0, 5, 7};
    struct batch batch = {.sequences = 2, .tokens = 7, .ids = ids, .offset = offset, .read = READ_LAST};
    uint64_t keys = 2 * 16 * 32, others = 2 * 32 * 32 + 3 * 64 * 32, pairs = (1 + 2 + 3 + 3 + 3) + (1 + 2);
    (void)state;
    assert_int_equal(model_create(&model, &config, 1, 0.02), 0);
    assert_int_equal(model_multiply_adds(&model, &batch), keys * 14 + others * (7 + 2) + 2 * 32 * (pairs + 3 + 2));
    batch.read = READ_FIRST;
    assert_int_equal(model_multiply_adds(&model, &batch), keys * 14 + others * (7 + 2) + 2 * 32 * (pairs + 1 + 1));
    model_close(&model);
}

/* The n-th allocation fails, for every n: an error each time, nothing leaked (under ASan), nothing used. */
static void failing_allocations(const char *json) {
    struct model_config config = parsed(json);
    int32_t ids[3] = {1, 2, 3}, target[3] = {2, 3, -1};
    uint32_t offset[2] = {0, 3};
    float nll[3];
    bool done = false;
    for (long n = 1; !done; n++) {
        struct model model;
        struct workspace workspace = {0};
        struct model_output output;
        struct kv_cache cache = {0};
        struct batch batch = {.sequences = 1, .tokens = 3, .ids = ids, .offset = offset};
        memory_fail_after(n);
        int status = model_create(&model, &config, 1, 0.02);
        if (status == 0) status = model_prepare_as(&model, GEMM_BUILTIN, STORAGE_F16);
        if (status == 0) status = kv_cache_open(&cache, &model, 1, 8, CACHE_F16);
        batch.cache = &cache;
        if (status == 0) status = model_forward(&model, &batch, NULL, &workspace, &output);
        if (status == 0) status = model_token_nll(&model, output.hidden, NULL, target, 3, &workspace, nll, NULL);
        memory_fail_after(0);
        done = status == 0;
        if (!done) assert_int_equal(status, E_MEMORY);
        assert_true(n < 400);
        kv_cache_close(&cache);
        workspace_close(&workspace);
        model_close(&model);
    }
}

static void test_failing_allocations(void **state) {
    (void)state;
    failing_allocations("{" GPT2 ",\"architectures\":[\"GPT2LMHeadModel\"]}");
    failing_allocations("{" OPT ",\"architectures\":[\"OPTForCausalLM\"],\"word_embed_proj_dim\":16}");
    failing_allocations("{" LLAMA ",\"architectures\":[\"LlamaForCausalLM\"]}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_roles),     cmocka_unit_test(test_stored),
        cmocka_unit_test(test_work),      cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_work), cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
