/* What must hold of every golden family by itself: no neighbour or thread shows in a result, a cached step equals a
 * full pass, both spellings of a config are one config, a saved file gives the same bits, 16-bit weights stay close. */
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
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "golden_family.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "scratch_file.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

static bool is_language_model(const struct model *model) {
    return model->config.model_heads & (HEAD_CAUSAL_LM | HEAD_MASKED_LM);
}

static void open_first_batch(struct golden_batch *batch, const struct golden_family *family) {
    if (!golden_batch_open(batch, family, "padded")) fail_msg("%s has no padded batch", family->name);
}

/* Everything that a pass gives, end to end, in a new block: hidden, then classes, spans or vocabulary logits. */
static float *all_outputs(const struct model *model, const struct batch *batch, size_t *count) {
    struct workspace workspace = {0};
    struct model_output output;
    const struct model_config *config = &model->config;
    size_t T = batch->tokens, C = config->width, V = is_language_model(model) ? config->vocabulary : 0;
    size_t K = config->model_heads & HEAD_CLASSIFICATION ? config->classes : 0;
    size_t S = config->model_heads & HEAD_SPAN ? 2 : 0;
    *count = T * (C + V + S) + batch->sequences * K;
    float *all = room(*count, sizeof(float)), *at = all;
    must(model_forward(model, batch, NULL, &workspace, &output));
    memcpy(at, output.hidden, T * C * sizeof(float));
    at += T * C;
    if (K) memcpy(at, output.logits, batch->sequences * K * sizeof(float));
    at += batch->sequences * K;
    if (S) memcpy(at, output.span, T * S * sizeof(float));
    at += T * S;
    if (V) must(model_logits(model, output.hidden, NULL, T, &workspace, at));
    workspace_close(&workspace);
    return all;
}

static void same_bits(const char *what, const struct golden_family *family, const float *a, const float *b,
                      size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: %s: number %zu is %.9g instead of %.9g", family->name, what, i, (double)a[i], (double)b[i]);
}

/* ---- neighbours and threads --------------------------------------------------------------------------- */

static void neighbours_of(struct golden_family *family) {
    struct golden_batch batch;
    struct model_output output;
    size_t C = family->model.config.width;
    open_first_batch(&batch, family);
    must(model_prepare(&family->model, GEMM_BUILTIN));
    float *together = room(batch.batch.tokens * C, sizeof(float));
    must(model_forward(&family->model, &batch.batch, NULL, &family->workspace, &output));
    memcpy(together, output.hidden, batch.batch.tokens * C * sizeof(float));
    for (size_t b = 0; b < batch.B; b++) {
        uint32_t first = batch.offset[b], offset[2] = {0, batch.offset[b + 1] - first};
        struct batch alone = {.sequences = 1, .tokens = offset[1], .ids = batch.ids + first, .offset = offset};
        if (batch.batch.token_types) alone.token_types = batch.types + first;
        must(model_forward(&family->model, &alone, NULL, &family->workspace, &output));
        same_bits("alone", family, output.hidden, together + first * C, offset[1] * C);
    }
    free(together);
    golden_batch_close(&batch);
}

static void test_neighbours(void **state) {
    (void)state;
    if (!golden_families(neighbours_of)) skip();
}

static void threads_of(struct golden_family *family) {
    struct golden_batch batch;
    size_t count;
    int before = threads_get();
    open_first_batch(&batch, family);
    must(model_prepare(&family->model, GEMM_BUILTIN));
    threads_set(1);
    float *one = all_outputs(&family->model, &batch.batch, &count);
    for (int threads = 2; threads <= 3; threads++) {
        threads_set(threads);
        float *more = all_outputs(&family->model, &batch.batch, &count);
        same_bits("more threads", family, more, one, count);
        free(more);
    }
    threads_set(before);
    free(one);
    golden_batch_close(&batch);
}

static void test_threads(void **state) {
    (void)state;
    if (!golden_families(threads_of)) skip();
}

/* ---- cache -------------------------------------------------------------------------------------------- */

/* Feed the batch through slots in pieces of `step` tokens and compare every row with the full pass. Sequence b lies in
 * slot B-1-b, so that a slot is not taken for a sequence. */
static void check_steps(struct golden_family *family, const struct golden_batch *batch, const float *full, size_t step,
                        enum cache_type type, double tolerance) {
    const struct model *model = &family->model;
    size_t C = model->config.width, T = batch->batch.tokens;
    struct kv_cache cache;
    float *got = room(T * C, sizeof(float));
    must(kv_cache_open(&cache, model, batch->B, model->config.positions, type));
    for (size_t at = 0;; at += step) {
        int32_t ids[256];
        uint32_t offset[65] = {0}, slot[64], source[64];
        size_t rows = 0;
        for (size_t b = 0; b < batch->B; b++) {
            size_t length = batch->offset[b + 1] - batch->offset[b];
            if (at >= length) continue;
            size_t n = length - at < step ? length - at : step;
            memcpy(ids + offset[rows], batch->ids + batch->offset[b] + at, n * sizeof *ids);
            slot[rows] = (uint32_t)(batch->B - 1 - b);
            source[rows] = batch->offset[b] + (uint32_t)at;
            offset[rows + 1] = offset[rows] + (uint32_t)n;
            rows++;
        }
        if (!rows) break;
        struct batch piece = {.sequences = rows, .tokens = offset[rows], .ids = ids, .offset = offset};
        struct model_output output;
        piece.cache = &cache;
        piece.slot = slot;
        must(model_forward(model, &piece, NULL, &family->workspace, &output));
        for (size_t i = 0; i < rows; i++)
            memcpy(got + source[i] * C, output.hidden + offset[i] * C, (offset[i + 1] - offset[i]) * C * sizeof(float));
    }
    for (size_t b = 0; b < batch->B; b++)
        assert_int_equal(cache.length[batch->B - 1 - b], batch->offset[b + 1] - batch->offset[b]);
    golden_close(family->name, golden_difference(got, full, T * C, NULL, 1), tolerance);
    kv_cache_close(&cache);
    free(got);
}

static void cache_of(struct golden_family *family) {
    struct golden_batch batch;
    struct model_output output;
    if (!family->model.config.causal) return;
    open_first_batch(&batch, family);
    if (batch.B > 64) fail_msg("more sequences than this test has room for");
    must(model_prepare(&family->model, GEMM_BUILTIN));
    size_t count = batch.batch.tokens * family->model.config.width;
    float *full = room(count, sizeof(float));
    must(model_forward(&family->model, &batch.batch, NULL, &family->workspace, &output));
    memcpy(full, output.hidden, count * sizeof(float));
    check_steps(family, &batch, full, 1, CACHE_F32, 1e-5);
    check_steps(family, &batch, full, 256 / batch.B < 5 ? 1 : 5, CACHE_F32, 1e-5);
    check_steps(family, &batch, full, 1, CACHE_F16, 1e-2);
    check_steps(family, &batch, full, 5, CACHE_INT8, 0.1);
    free(full);
    golden_batch_close(&batch);
}

static void test_cache(void **state) {
    (void)state;
    if (!golden_families(cache_of)) skip();
}

static void test_cache_refusals(void **state) {
    struct golden_family family;
    struct golden_batch batch;
    struct model_output output;
    struct kv_cache cache;
    (void)state;
    if (!golden_family_open(&family, "llama-lm", false)) skip();
    open_first_batch(&batch, &family);
    must(model_prepare(&family.model, GEMM_BUILTIN));
    uint32_t longest = 0, *slot = room(batch.B, sizeof *slot);
    for (size_t b = 0; b < batch.B; b++)
        if (batch.offset[b + 1] - batch.offset[b] > longest) longest = batch.offset[b + 1] - batch.offset[b];
    must(kv_cache_open(&cache, &family.model, batch.B, longest, CACHE_F32));
    batch.batch.cache = &cache;
    batch.batch.slot = slot; /* all the same, which one text alone may be */
    if (batch.B > 1)
        assert_int_equal(model_forward(&family.model, &batch.batch, NULL, &family.workspace, &output), E_SHAPE);
    batch.batch.slot = NULL;
    must(model_forward(&family.model, &batch.batch, NULL, &family.workspace, &output));
    assert_int_equal(model_forward(&family.model, &batch.batch, NULL, &family.workspace, &output), E_LIMIT);
    kv_cache_close(&cache);
    free(slot);
    golden_batch_close(&batch);
    golden_family_close(&family);
}

/* ---- files -------------------------------------------------------------------------------------------- */

static void artifact_of(struct golden_family *family) {
    struct golden_batch batch;
    struct model again;
    char path[128];
    size_t count;
    open_first_batch(&batch, family);
    scratch_file(path, ".safetensors", "");
    must(model_save(&family->model, path, ~0u));
    must(model_open(&again, path, false));
    assert_memory_equal(&again.config, &family->model.config, sizeof again.config);
    must(model_prepare(&family->model, GEMM_BUILTIN));
    must(model_prepare(&again, GEMM_BUILTIN));
    float *before = all_outputs(&family->model, &batch.batch, &count),
          *after = all_outputs(&again, &batch.batch, &count);
    same_bits("saved and opened", family, after, before, count);
    free(before);
    free(after);
    model_close(&again);
    scratch_remove(path);
    golden_batch_close(&batch);
}

static void test_artifact(void **state) {
    (void)state;
    if (!golden_families(artifact_of)) skip();
}

static void config_of(struct golden_family *family) {
    char path[640], *text;
    size_t bytes;
    struct model_config config;
    must(model_config_print(&family->model.config, &text));
    must(model_config_parse(&config, text, strlen(text)));
    memory_release(text);
    assert_memory_equal(&config, &family->model.config, sizeof config);
    snprintf(path, sizeof path, "%s/config.v4.json", family->folder);
    if (access(path, R_OK) != 0) return;
    must(file_read(path, 1u << 20, &text, &bytes));
    must(model_config_parse(&config, text, bytes));
    memory_release(text);
    assert_memory_equal(&config, &family->model.config, sizeof config);
}

static void test_configs(void **state) {
    (void)state;
    if (!golden_families(config_of)) skip();
}

/* ---- window ------------------------------------------------------------------------------------------- */

static void window_of(struct golden_family *family) {
    static const char *const prefixes[] = {"padded", "unpadded"};
    size_t V = family->model.config.vocabulary;
    must(model_prepare(&family->model, GEMM_BUILTIN));
    family->model.config.window = 0;
    for (size_t i = 0; i < 2; i++) {
        struct golden_batch batch;
        struct model_output output;
        if (!golden_batch_open(&batch, family, prefixes[i])) continue;
        if (golden_batch_floats(family, &batch, "logits_no_window")) {
            float *logits = room(batch.batch.tokens * V, sizeof(float));
            must(model_forward(&family->model, &batch.batch, NULL, &family->workspace, &output));
            must(model_logits(&family->model, output.hidden, NULL, batch.batch.tokens, &family->workspace, logits));
            golden_batch_close_to(family, &batch, "logits_no_window", logits, V, 1e-4);
            free(logits);
        }
        golden_batch_close(&batch);
    }
}

static void test_window(void **state) {
    (void)state;
    if (!golden_families(window_of)) skip();
}

/* ---- storage and likelihoods --------------------------------------------------------------------------- */

/* Rounding weights to 11 or 8 bits moves a result by some roundings of its largest value, not more. */
static void storage_of(struct golden_family *family) {
    static const struct {
        enum weight_storage storage;
        double tolerance;
    } cases[] = {{STORAGE_F16, 2e-2}, {STORAGE_BF16, 2e-1}};
    struct golden_batch batch;
    size_t count;
    open_first_batch(&batch, family);
    must(model_prepare(&family->model, GEMM_BUILTIN));
    float *exact = all_outputs(&family->model, &batch.batch, &count);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = model_prepare_as(&family->model, GEMM_BUILTIN, cases[i].storage);
        if (status == E_UNSUPPORTED) continue;
        must(status);
        float *rounded = all_outputs(&family->model, &batch.batch, &count);
        struct difference difference = golden_difference(rounded, exact, count, NULL, 1);
        golden_close(family->name, difference, cases[i].tolerance);
        assert_true(difference.largest > 0);
        free(rounded);
    }
    must(model_prepare(&family->model, GEMM_BUILTIN));
    float *back = all_outputs(&family->model, &batch.batch, &count);
    same_bits("back in f32", family, back, exact, count);
    free(back);
    free(exact);
    golden_batch_close(&batch);
}

static void test_storage(void **state) {
    (void)state;
    if (!golden_families(storage_of)) skip();
}

/* model_token_nll against a softmax in double over model_logits, rows out of order, some left out. */
static void likelihood_of(struct golden_family *family) {
    struct golden_batch batch;
    struct model_output output;
    const struct model *model = &family->model;
    size_t V = model->config.vocabulary;
    if (!is_language_model(model)) return;
    open_first_batch(&batch, family);
    size_t n = batch.batch.tokens;
    uint32_t *rows = room(n, sizeof *rows);
    int32_t *target = room(n, sizeof *target), *best = room(n, sizeof *best);
    float *logits = room(n * V, sizeof *logits), *nll = room(n, sizeof *nll);
    for (size_t i = 0; i < n; i++) {
        rows[i] = (uint32_t)(n - 1 - i);
        target[i] = i % 5 == 3 ? -1 : (int32_t)(i * 37 % V);
    }
    must(model_prepare(&family->model, GEMM_BUILTIN));
    must(model_forward(model, &batch.batch, NULL, &family->workspace, &output));
    must(model_logits(model, output.hidden, rows, n, &family->workspace, logits));
    must(model_token_nll(model, output.hidden, rows, target, n, &family->workspace, nll, best));
    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * V;
        size_t most = 0;
        double sum = 0;
        for (size_t v = 0; v < V; v++) most = row[v] > row[most] ? v : most;
        for (size_t v = 0; v < V; v++) sum += exp((double)row[v] - (double)row[most]);
        double expected = target[i] < 0 ? 0 : (double)row[most] + log(sum) - (double)row[target[i]];
        assert_int_equal(best[i], most);
        if (!(fabs((double)nll[i] - expected) <= 2e-5 * (1 + expected)))
            fail_msg("%s: nll of row %zu is %.9g instead of %.9g", family->name, i, (double)nll[i], expected);
    }
    target[0] = (int32_t)V;
    assert_int_equal(model_token_nll(model, output.hidden, rows, target, n, &family->workspace, nll, best), E_SHAPE);
    free(rows);
    free(target);
    free(best);
    free(logits);
    free(nll);
    golden_batch_close(&batch);
}

static void test_likelihood(void **state) {
    (void)state;
    if (!golden_families(likelihood_of)) skip();
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_neighbours),     cmocka_unit_test(test_threads),  cmocka_unit_test(test_cache),
        cmocka_unit_test(test_cache_refusals), cmocka_unit_test(test_artifact), cmocka_unit_test(test_configs),
        cmocka_unit_test(test_window),         cmocka_unit_test(test_storage),  cmocka_unit_test(test_likelihood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
