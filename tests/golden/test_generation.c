/* Generation against transformers: greedy ids, beam search with and without an ending id, on three families. */
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

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "model/generate.h"

#define TOLERANCE 1e-4
/* f16 keys and values move a log-probability of these models by up to some 1e-3; a gap ten times that stays. */
#define WIDE_GAP 0.02

struct golden {
    struct model model;
    struct workspace workspace;
    struct json_document cases;
    char *text;
};

static bool golden_load(struct golden *golden, const char *name) {
    char path[512], file[64];
    const char *folder;
    memset(golden, 0, sizeof *golden);
    snprintf(file, sizeof file, "generation/%s.json", name);
    if (!golden_path(path, sizeof path, file)) return false;
    golden_json(&golden->cases, &golden->text, file);
    assert_int_equal(json_text(json_member(json_root(&golden->cases), "model"), "model", &folder), 0);
    snprintf(file, sizeof file, "generation/%s", folder);
    if (!golden_path(path, sizeof path, file)) return false;
    if (model_open(&golden->model, path, false) < 0 || model_prepare(&golden->model, GEMM_BUILTIN) < 0)
        fail_msg("%s", error_text());
    return true;
}

static void golden_free(struct golden *golden) {
    workspace_close(&golden->workspace);
    model_close(&golden->model);
    json_close(&golden->cases);
    memory_release(golden->text);
}

static size_t read_ids(const struct json *list, int32_t **ids) {
    *ids = calloc(list->count + 1, sizeof **ids);
    for (size_t i = 0; i < list->count; i++) {
        double value;
        assert_int_equal(json_number(json_item(list, i), "id", &value), 0);
        (*ids)[i] = (int32_t)value;
    }
    return list->count;
}

static void expect_ids(const char *what, const struct generated *got, const struct json *expected) {
    int32_t *ids;
    size_t count = read_ids(expected, &ids);
    for (size_t i = 0; i < got->count && i < count; i++)
        if (got->ids[i] != ids[i]) fail_msg("%s: id %zu is %d, expected %d", what, i, got->ids[i], ids[i]);
    if (got->count != count) fail_msg("%s: %zu ids, expected %zu", what, got->count, count);
    free(ids);
}

static void expect_near(const char *what, double got, double expected) {
    if (!(fabs(got - expected) <= TOLERANCE)) fail_msg("%s: %.7f, expected %.7f", what, got, expected);
}

static void run(struct golden *golden, const struct json *prompt, const struct generate_options *options,
                struct generated *out, size_t *count) {
    int32_t *ids;
    size_t tokens = read_ids(prompt, &ids);
    if (generate(&golden->model, ids, tokens, options, &golden->workspace, out, count) < 0)
        fail_msg("%s", error_text());
    free(ids);
}

static void check_greedy(struct golden *golden, const struct json *test, size_t new_tokens) {
    const struct json *expected = json_member(test, "greedy");
    struct generate_options options;
    struct generated out;
    size_t count;
    generate_defaults(&options);
    options.new_tokens = new_tokens;
    for (int type = CACHE_F32; type <= CACHE_F16; type++) {
        options.cache = (enum cache_type)type;
        if (type == CACHE_F16 && golden_number(expected, "min_top2_margin") < WIDE_GAP) continue;
        run(golden, json_member(test, "prompt"), &options, &out, &count);
        assert_int_equal(count, 1);
        expect_ids(type == CACHE_F16 ? "greedy, f16 cache" : "greedy", &out, json_member(expected, "ids"));
        assert_false(out.ended);
        if (type == CACHE_F32) expect_near("sum_logprob", out.sum_logprob, golden_number(expected, "sum_logprob"));
        generated_close(&out, 1);
    }
}

static void check_beams(struct golden *golden, const struct json *test, const char *which, int threads) {
    const struct json *expected = json_member(test, which), *beams = json_member(expected, "beams");
    struct generate_options options;
    struct generated out[16];
    size_t count;
    int32_t end = 0;
    generate_defaults(&options);
    options.new_tokens = (size_t)golden_number(expected, "max_new_tokens");
    options.beams = (size_t)golden_number(expected, "num_beams");
    options.length_penalty = golden_number(expected, "length_penalty");
    if (json_member(expected, "eos")) {
        end = (int32_t)golden_number(expected, "eos");
        options.end = &end;
        options.end_count = 1;
    }
    assert_true(options.beams <= 16);
    threads_set(threads);
    run(golden, json_member(test, "prompt"), &options, out, &count);
    assert_int_equal(count, beams->count);
    for (size_t i = 0; i < count; i++) {
        const struct json *beam = json_item(beams, i);
        char what[48];
        snprintf(what, sizeof what, "%s %zu", which, i);
        expect_ids(what, &out[i], json_member(beam, "ids"));
        expect_near(what, out[i].score, golden_number(beam, "score"));
        expect_near(what, out[i].sum_logprob, golden_number(beam, "sum_logprob"));
        assert_int_equal(out[i].ended, options.end && out[i].ids[out[i].count - 1] == end);
    }
    generated_close(out, count);
}

static void check_model(const char *name) {
    struct golden golden;
    if (!golden_load(&golden, name)) skip();
    const struct json *root = json_root(&golden.cases), *cases = json_member(root, "cases");
    assert_true(cases->count > 0);
    for (size_t i = 0; i < cases->count; i++) {
        const struct json *test = json_item(cases, i);
        check_greedy(&golden, test, (size_t)golden_number(root, "max_new_tokens"));
        check_beams(&golden, test, "beam", 1);
        check_beams(&golden, test, "beam_eos", 2);
    }
    golden_free(&golden);
}

static void gpt2_writes_as_the_reference(void **state) { (void)state, check_model("gpt2-lm"); }
static void opt_writes_as_the_reference(void **state) { (void)state, check_model("opt-lm"); }
static void llama_writes_as_the_reference(void **state) { (void)state, check_model("llama-lm"); }

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_writes_as_the_reference),
        cmocka_unit_test(opt_writes_as_the_reference),
        cmocka_unit_test(llama_writes_as_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
