#include "real_text.h"

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
#include "base/memory.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

bool real_text_open(struct real_text *real, const char *name, const char *model, enum weight_storage storage) {
    char path[512], file[64];
    memset(real, 0, sizeof *real);
    snprintf(file, sizeof file, "real/%s.json", name);
    if (!golden_path(path, sizeof path, file)) return false;
    if (access(model, R_OK) != 0) {
        printf("skipped: %s is not there\n", model);
        return false;
    }
    golden_json(&real->document, &real->text, file);
    snprintf(file, sizeof file, "real/%s.safetensors", name);
    golden_open(&real->tensors, file);
    must(model_open(&real->model, model, false));
    must(model_prepare_as(&real->model, GEMM_BUILTIN, storage));
    return true;
}

void real_text_close(struct real_text *real) {
    workspace_close(&real->workspace);
    model_close(&real->model);
    json_close(&real->document);
    safetensors_close(&real->tensors);
    memory_release(real->text);
}

static size_t read_ids(const struct json *list, int32_t **ids) {
    size_t count = 0;
    *ids = calloc(list->count + 1, sizeof **ids);
    for (const struct json *item = list->child; item; item = item->next) {
        uint64_t id;
        must(json_u64(item, "id", &id));
        (*ids)[count++] = (int32_t)id;
    }
    return count;
}

static void check_prompt(struct real_text *real, const struct json *prompt, enum cache_type cache, double gap) {
    int32_t *ids, *expected;
    size_t tokens = read_ids(json_member(prompt, "ids"), &ids), results,
           wanted = read_ids(json_member(prompt, "greedy"), &expected), sure = wanted;
    struct generate_options options;
    struct generated out;
    if (golden_number(prompt, "min_top2_gap") < gap) sure = (size_t)golden_number(prompt, "argmin_gap");
    generate_defaults(&options);
    options.new_tokens = wanted;
    options.cache = cache;
    must(generate(&real->model, ids, tokens, &options, &real->workspace, &out, &results));
    assert_int_equal(out.count, wanted);
    assert_true(sure > 0);
    for (size_t i = 0; i < sure; i++)
        if (out.ids[i] != expected[i])
            fail_msg("after %zu ids, new id %zu is %d, expected %d", tokens, i, out.ids[i], expected[i]);
    generated_close(&out, results);
    free(ids), free(expected);
}

void real_text_check_greedy(struct real_text *real, enum cache_type cache, double gap) {
    const struct json *prompts = json_member(json_root(&real->document), "prompts");
    assert_true(prompts->count > 0);
    for (const struct json *prompt = prompts->child; prompt; prompt = prompt->next)
        check_prompt(real, prompt, cache, gap);
}

void real_text_nll(struct real_text *real, size_t windows, size_t length, const int32_t *inputs, const int32_t *targets,
                   float *nll) {
    uint32_t *offset = calloc(windows + 1, sizeof *offset);
    struct batch batch = {.sequences = windows, .tokens = windows * length, .ids = inputs, .offset = offset};
    struct model_output output;
    for (size_t w = 0; w < windows; w++) offset[w + 1] = (uint32_t)((w + 1) * length);
    must(model_forward(&real->model, &batch, NULL, &real->workspace, &output));
    must(model_token_nll(&real->model, output.hidden, NULL, targets, batch.tokens, &real->workspace, nll, NULL));
    free(offset);
}

double real_text_sum(const float *nll, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)nll[i];
    return sum;
}
