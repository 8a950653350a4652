/* Factors moved between layers leave the outputs of every family of the goldens alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "calibrate/fold.h"
#include "golden_family.h"

#define REL 1e-5

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* Logits of classes, spans or, of all tokens, words. */
static float *logits_of(struct model *model, const struct batch *batch, struct workspace *workspace, size_t *count) {
    struct model_output output;
    size_t V = model->config.vocabulary;
    float *logits;
    must(model_prepare(model, GEMM_BUILTIN));
    must(model_forward(model, batch, NULL, workspace, &output));
    bool words = model->config.model_heads & (HEAD_CAUSAL_LM | HEAD_MASKED_LM);
    *count = output.logits ? batch->sequences * model->config.classes
             : output.span ? 2 * batch->tokens
             : words       ? batch->tokens * V
                           : batch->tokens * model->config.width;
    logits = malloc(*count * sizeof *logits);
    assert_non_null(logits);
    if (words && !output.logits && !output.span)
        must(model_logits(model, output.hidden, NULL, batch->tokens, workspace, logits));
    else
        memcpy(logits,
               output.logits ? output.logits
               : output.span ? output.span
                             : output.hidden,
               *count * sizeof *logits);
    return logits;
}

static void check(struct golden_family *family) {
    static const char *const prefixes[] = {"padded", "unpadded"};
    struct model model;
    struct fold_site *sites;
    size_t moved = 0, count;
    must(model_copy(&model, &family->model, NULL));
    sites = calloc(FOLD_KINDS * model.config.layers, sizeof *sites);
    assert_non_null(sites);
    fold_sites(&model, sites);
    for (size_t i = 0; i < 2; i++) {
        struct golden_batch batch;
        if (!golden_batch_open(&batch, family, prefixes[i])) continue;
        float *before = logits_of(&model, &batch.batch, &family->workspace, &count);
        for (size_t k = 0; k < FOLD_KINDS * model.config.layers; k++) {
            if (sites[k].reason) continue;
            float *factor = malloc(sites[k].channels * sizeof *factor);
            assert_non_null(factor);
            for (size_t c = 0; c < sites[k].channels; c++) factor[c] = (float)exp(2 * random_uniform_at(k, i, c) - 1);
            must(fold_check(&model, &sites[k]));
            fold_apply(&model, &sites[k], factor);
            free(factor);
            moved++;
        }
        float *after = logits_of(&model, &batch.batch, &family->workspace, &count);
        struct difference difference = golden_difference(after, before, count, NULL, 1);
        printf("%s %s: %g\n", family->name, prefixes[i], difference.largest / difference.scale);
        golden_close(family->name, difference, REL);
        free(before);
        free(after);
        golden_batch_close(&batch);
    }
    assert_true(moved > 0);
    free(sites);
    model_close(&model);
}

static void test_families(void **state) {
    (void)state;
    if (!golden_families(check)) skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
