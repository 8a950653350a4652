/* Models made of another's layers: the same values and hidden states in every family, parts of them by the rule of the
 * header, packed and mapped sources, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/family.h"
#include "model/take_layers.h"
#include "scratch_file.h"
#include "small_model.h"

#define LAYERS 4

struct kind {
    const char *family;
    unsigned heads;
    size_t embedding_width; /* 0: as the model */
    bool norm_last;
};
static const struct kind kinds[] = {
    {"bert", HEAD_CLASSIFICATION | HEAD_MASKED_LM | HEAD_SPAN, 0, false},
    {"distilbert", HEAD_CLASSIFICATION, 0, false},
    {"gpt2", HEAD_CAUSAL_LM, 0, false},
    {"opt", HEAD_CAUSAL_LM, 0, false},
    {"opt", HEAD_CAUSAL_LM, 24, true},
    {"llama", HEAD_CAUSAL_LM, 0, false},
    {"qwen2", HEAD_CAUSAL_LM, 0, false},
    {"mistral", HEAD_CAUSAL_LM, 0, false},
};
#define KINDS (sizeof kinds / sizeof *kinds)

/* Random biases too: what is zero everywhere would hide a wrong copy. */
static void make(struct model *model, const struct kind *kind, size_t key_value_heads) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, kind->family), 0);
    config.layers = LAYERS;
    config.width = 32;
    config.heads = 4;
    config.key_value_heads = key_value_heads;
    config.head_width = 8;
    config.feed_forward = 48;
    config.vocabulary = 97;
    config.positions = 24;
    config.classes = 3;
    config.model_heads = kind->heads;
    config.embedding_width = kind->embedding_width;
    if (kind->norm_last) config.norm_first = config.final_norm = false;
    if (model_create(model, &config, 7, 0.2) < 0) fail_msg("%s", error_text());
    for (size_t i = 0; i < model->parameter_count; i++)
        for (size_t j = 0; model->parameters[i].kind == PARAMETER_VECTOR && j < model->parameters[i].columns; j++)
            model->parameters[i].value[j] += 0.01f * (float)((i * 31 + j * 7) % 17);
    assert_int_equal(model_set_metadata(model, "tokenizer", "words"), 0);
    assert_int_equal(model_set_metadata(model, "labels", "yes,no"), 0);
}

static void free_keys(struct model *model, const struct kind *kind) {
    const struct family *family = family_find(kind->family);
    make(model, kind, family->free_head_width ? 2 : 4);
}

/* A parameter of the source by the name it has in the student, whose block number is another. */
static const struct parameter *counterpart(const struct model *source, const char *name, const size_t *layers) {
    char other[256];
    const char *digit = NULL;
    for (const char *c = name; *c && !digit; c++)
        if (c[0] == '.' && c[1] >= '0' && c[1] <= '9') digit = c + 1;
    if (!digit) return model_parameter(source, name);
    snprintf(other, sizeof other, "%.*s%zu%s", (int)(digit - name), name, layers[*digit - '0'], digit + 1);
    return model_parameter(source, other);
}

static void test_every_family(void **state) {
    static const size_t layers[3] = {3, 0, 2};
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct model source, taken;
        free_keys(&source, &kinds[k]);
        if (model_take_layers(&taken, &source, NULL, layers, 3) < 0) fail_msg("%s", error_text());
        assert_int_equal(taken.config.layers, 3);
        assert_true(taken.editable && taken.metadata_count == 2);
        assert_string_equal(model_metadata(&taken, "tokenizer"), "words");
        for (size_t i = 0; i < taken.parameter_count; i++) {
            const struct parameter *own = &taken.parameters[i], *other = counterpart(&source, own->name, layers);
            assert_non_null(other);
            assert_true(own->kind == other->kind && own->rows == other->rows && own->columns == other->columns);
            assert_memory_equal(own->value, other->value, own->rows * own->columns * sizeof(float));
            assert_ptr_not_equal(own->value, other->value);
        }
        for (size_t i = 0; i < taken.linear_count; i++) assert_non_null(taken.linears[i].value);
        model_close(&source);
        model_close(&taken);
    }
}

static void new_batch(struct small_batch *batch, const struct model *model, const size_t *lengths, size_t count) {
    struct model_config config = model->config;
    bool typed = config.token_types > 0;
    config.token_types = typed ? config.token_types : 1;
    config.classes = 3;
    small_batch_new(batch, &config, lengths, count, 5);
    if (!typed) batch->batch.token_types = NULL;
}

/* Hidden states of a model over a fixed batch: (L+1,T,C). */
static float *hidden_states(struct model *model, const struct small_batch *batch) {
    struct workspace workspace = {0};
    size_t count = (model->config.layers + 1) * batch->batch.tokens * model->config.width;
    float *hidden = calloc(count, sizeof *hidden);
    assert_int_equal(model_prepare(model, GEMM_BUILTIN), 0);
    if (model_hidden_states(model, &batch->batch, &workspace, hidden) < 0) fail_msg("%s", error_text());
    workspace_close(&workspace);
    return hidden;
}

/* The first layers compute what they computed. */
static void test_same_hidden_states(void **state) {
    static const size_t layers[LAYERS] = {0, 1, 2, 3}, lengths[3] = {5, 1, 12};
    (void)state;
    for (size_t k = 0; k < KINDS; k++)
        for (size_t count = 1; count <= LAYERS; count += LAYERS - 1) {
            struct model source, taken;
            struct small_batch batch;
            free_keys(&source, &kinds[k]);
            assert_int_equal(model_take_layers(&taken, &source, NULL, layers, count), 0);
            new_batch(&batch, &source, lengths, 3);
            float *all = hidden_states(&source, &batch), *some = hidden_states(&taken, &batch);
            assert_memory_equal(all, some, (count + 1) * batch.batch.tokens * 32 * sizeof *all);
            free(all);
            free(some);
            small_batch_free(&batch);
            model_close(&source);
            model_close(&taken);
        }
}

static float at(const struct model *model, int block, enum part part, size_t row, size_t column) {
    const struct parts *parts = model->family_state;
    const struct parameter *p = (block < 0 ? parts->own : parts->block[block])[part].weight;
    return p->value[row * p->columns + column];
}

static float bias_at(const struct model *model, int block, enum part part, size_t i) {
    const struct parts *parts = model->family_state;
    return (block < 0 ? parts->own : parts->block[block])[part].bias->value[i];
}

/* Half of everything: the leading columns, and of heads their own leading parts. */
static void test_narrower(void **state) {
    static const size_t layers[2] = {1, 3}, lengths[2] = {4, 9};
    struct model source, taken;
    struct small_batch batch;
    (void)state;
    make(&source, &kinds[0], 4);
    struct model_config config = source.config;
    config.width = 16;
    config.head_width = 4; /* of 8: still four heads */
    config.feed_forward = 20;
    config.model_heads = HEAD_CLASSIFICATION;
    if (model_take_layers(&taken, &source, &config, layers, 2) < 0) fail_msg("%s", error_text());
    assert_int_equal(taken.config.layers, 2);
    for (size_t c = 0; c < 16; c++) {
        assert_true(at(&taken, -1, PART_TOKENS, 96, c) == at(&source, -1, PART_TOKENS, 96, c));
        assert_true(at(&taken, 1, PART_DOWN, c, 19) == at(&source, 3, PART_DOWN, c, 19));
        assert_true(at(&taken, 0, PART_UP, 19, c) == at(&source, 1, PART_UP, 19, c));
        assert_true(at(&taken, -1, PART_CLASSIFIER, 2, c) == at(&source, -1, PART_CLASSIFIER, 2, c));
        size_t place = c / 4 * 8 + c % 4;
        assert_true(at(&taken, 0, PART_VALUE, c, 3) == at(&source, 1, PART_VALUE, place, 3));
        assert_true(bias_at(&taken, 0, PART_VALUE, c) == bias_at(&source, 1, PART_VALUE, place));
        assert_true(at(&taken, 0, PART_ATTENTION_OUTPUT, 5, c) == at(&source, 1, PART_ATTENTION_OUTPUT, 5, place));
        assert_true(bias_at(&taken, 0, PART_ATTENTION_OUTPUT, c) == bias_at(&source, 1, PART_ATTENTION_OUTPUT, c));
        assert_true(bias_at(&taken, 0, PART_ATTENTION_NORM, c) == bias_at(&source, 1, PART_ATTENTION_NORM, c));
    }
    small_batch_new(&batch, &taken.config, lengths, 2, 5);
    free(hidden_states(&taken, &batch)); /* it runs */
    small_batch_free(&batch);
    model_close(&source);
    model_close(&taken);
}

/* Rotary pairs stay pairs, and a query head keeps its keys. */
static void test_narrower_with_groups(void **state) {
    static const size_t layers[1] = {2}, lengths[2] = {4, 9};
    static const size_t place[8] = {0, 1, 4, 5, 16, 17, 20, 21}; /* heads 0 and 2 of width 8, the halves' first two */
    struct model source, taken;
    struct small_batch batch;
    (void)state;
    make(&source, &kinds[5], 2);
    struct model_config config = source.config;
    config.width = 16;
    config.heads = config.key_value_heads = 2; /* one query head of each group of two */
    config.head_width = 4;
    if (model_take_layers(&taken, &source, &config, layers, 1) < 0) fail_msg("%s", error_text());
    for (size_t r = 0; r < 8; r++) {
        assert_true(at(&taken, 0, PART_QUERY, r, 15) == at(&source, 2, PART_QUERY, place[r], 15));
        assert_true(at(&taken, 0, PART_ATTENTION_OUTPUT, 3, r) == at(&source, 2, PART_ATTENTION_OUTPUT, 3, place[r]));
        size_t key = place[r] < 8 ? place[r] : place[r] - 8; /* heads 0 and 1 */
        assert_true(at(&taken, 0, PART_KEY, r, 15) == at(&source, 2, PART_KEY, key, 15));
    }
    new_batch(&batch, &taken, lengths, 2);
    free(hidden_states(&taken, &batch));
    small_batch_free(&batch);
    model_close(&source);
    model_close(&taken);
}

/* A packed layer gives what it unpacks to; a model that is only mapped gives its file's values. */
static void test_packed_and_mapped(void **state) {
    static const size_t layers[2] = {0, 3};
    struct model source, mapped, taken;
    char path[128];
    float expected[32 * 48], scale[48];
    (void)state;
    make(&source, &kinds[0], 4);
    struct linear *linear = (struct linear *)(uintptr_t)((struct parts *)source.family_state)->block[3][PART_UP].linear;
    struct weight_grid grid = {.scale = scale, .groups = 1};
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    const struct weight_format *int8 = weight_format_find("int8");
    assert_int_equal(weight_grid_minmax(int8, &shape, linear->value, &grid), 0);
    assert_int_equal(linear_pack(&source, linear, int8, 0, true, &grid), 0);
    assert_int_equal(int8->unpack(&shape, linear->weight.packed, expected), 0);
    scratch_file(path, ".safetensors", "");
    assert_int_equal(model_save(&source, path, source.config.model_heads), 0);
    for (int from_file = 0; from_file < 2; from_file++) {
        if (from_file && model_open(&mapped, path, false) < 0) fail_msg("%s", error_text());
        if (model_take_layers(&taken, from_file ? &mapped : &source, NULL, layers, 2) < 0) fail_msg("%s", error_text());
        const struct parts *parts = taken.family_state;
        assert_memory_equal(parts->block[1][PART_UP].weight->value, expected, sizeof expected);
        assert_memory_equal(parts->block[0][PART_UP].weight->value,
                            ((struct parts *)source.family_state)->block[0][PART_UP].weight->value, sizeof expected);
        assert_int_equal(model_gradients_open(&taken, HEAD_CLASSIFICATION), 0); /* it can be trained */
        model_close(&taken);
        if (from_file) model_close(&mapped);
    }
    scratch_remove(path);
    model_close(&source);
}

static void test_refusals(void **state) {
    static const size_t layers[2] = {0, LAYERS};
    struct model source, taken;
    (void)state;
    make(&source, &kinds[0], 4);
    struct model_config config = source.config;
    assert_int_equal(model_take_layers(&taken, &source, NULL, layers, 0), E_ARGUMENT);
    assert_int_equal(model_take_layers(&taken, &source, NULL, layers, 2), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "layer 4 does not exist: the model has layers 0 to 3"));
    config.feed_forward = 49;
    assert_int_equal(model_take_layers(&taken, &source, &config, layers, 1), E_SHAPE);
    assert_non_null(strstr(error_text(), "feed_forward 49"));
    config = source.config;
    config.vocabulary = 96;
    assert_int_equal(model_take_layers(&taken, &source, &config, layers, 1), E_SHAPE);
    config = source.config;
    config.model_heads |= HEAD_POOLER;
    source.config.model_heads &= ~(unsigned)HEAD_SPAN;
    assert_int_equal(model_take_layers(&taken, &source, &config, layers, 1), E_SHAPE);
    config = source.config;
    config.width = 30;
    assert_int_equal(model_take_layers(&taken, &source, &config, layers, 1), E_SHAPE);
    for (long n = 1;; n++) {
        memory_fail_after(n);
        int status = model_take_layers(&taken, &source, NULL, layers, 1);
        memory_fail_after(0);
        if (status == 0) break;
        assert_int_equal(status, E_MEMORY);
    }
    model_close(&taken);
    model_close(&source);
}

static void test_spread(void **state) {
    static const size_t six[6] = {0, 2, 4, 7, 9, 11}, three[3] = {0, 3, 5};
    size_t layers[6];
    (void)state;
    layers_spread(12, 6, layers); /* as DistilBERT */
    assert_memory_equal(layers, six, sizeof six);
    layers_spread(6, 2, layers);
    assert_true(layers[0] == 0 && layers[1] == 5);
    layers_spread(6, 3, layers);
    assert_memory_equal(layers, three, sizeof three);
    layers_spread(5, 1, layers);
    assert_true(layers[0] == 0);
    layers_spread(6, 6, layers);
    for (size_t i = 0; i < 6; i++) assert_true(layers[i] == i);
    layers_spread(1, 1, layers);
    assert_true(layers[0] == 0);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family),
        cmocka_unit_test(test_same_hidden_states),
        cmocka_unit_test(test_narrower),
        cmocka_unit_test(test_narrower_with_groups),
        cmocka_unit_test(test_packed_and_mapped),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
