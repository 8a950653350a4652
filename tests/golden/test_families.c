/* Every family against transformers: hidden states, what the head reads, logits, losses, on every batch of every
 * folder that is there; and what must hold of our own: no neighbour, thread count or cut of the work shows in a
 * result, cached steps equal a full pass, saved files give the same bits. */
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
#include "base/threads.h"
#include "golden_family.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "scratch_file.h"

#define REL 1e-4

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

/* Each batch of a family. */
static void each_batch(struct golden_family *family,
                       void (*check)(struct golden_family *family, struct golden_batch *batch)) {
    static const char *const prefixes[] = {"padded", "unpadded"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        struct golden_batch batch;
        if (!golden_batch_open(&batch, family, prefixes[i])) continue;
        check(family, &batch);
        golden_batch_close(&batch);
    }
}

/* ---- outputs ------------------------------------------------------------------------------------------ */

/* What the head reads: after project_out where the family has it, which model_logits applies itself. */
static void check_final(struct golden_family *family, struct golden_batch *batch, const float *hidden) {
    const struct model *model = &family->model;
    size_t T = batch->batch.tokens, C = model->config.width, E = model->config.embedding_width;
    if (!E) {
        golden_batch_close_to(family, batch, "final", hidden, C, REL);
        return;
    }
    const struct parameter *project = model_parameter(model, "model.decoder.project_out.weight");
    assert_non_null(project);
    float *projected = room(T * E, sizeof(float));
    for (size_t t = 0; t < T; t++)
        for (size_t e = 0; e < E; e++) {
            double sum = 0;
            for (size_t c = 0; c < C; c++) sum += (double)hidden[t * C + c] * (double)project->value[e * C + c];
            projected[t * E + e] = (float)sum;
        }
    golden_batch_close_to(family, batch, "final", projected, E, REL);
    free(projected);
}

static void check_all(const char *what, const float *got, const float *expected, size_t count) {
    golden_close(what, golden_difference(got, expected, count, NULL, 1), REL);
}

static void check_span(struct golden_family *family, struct golden_batch *batch, const float *span) {
    size_t T = batch->batch.tokens;
    float *one = room(T, sizeof(float));
    for (size_t side = 0; side < 2; side++) {
        for (size_t t = 0; t < T; t++) one[t] = span[2 * t + side];
        golden_batch_close_to(family, batch, side ? "end_logits" : "start_logits", one, 1, REL);
    }
    free(one);
}

static void check_logits(struct golden_family *family, struct golden_batch *batch, const float *hidden,
                         const char *name) {
    size_t T = batch->batch.tokens, V = family->model.config.vocabulary;
    float *logits = room(T * V, sizeof(float));
    must(model_logits(&family->model, hidden, NULL, T, &family->workspace, logits));
    golden_batch_close_to(family, batch, name, logits, V, REL);
    free(logits);
}

static void check_outputs(struct golden_family *family, struct golden_batch *batch) {
    const struct model *model = &family->model;
    size_t L = model->config.layers, C = model->config.width, T = batch->batch.tokens;
    float *hidden = room((L + 1) * T * C, sizeof(float));
    struct model_output output;

    must(model_hidden_states(model, &batch->batch, &family->workspace, hidden));
    for (size_t i = 0; i <= L; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%zu", i);
        golden_batch_close_to(family, batch, name, hidden + i * T * C, C, REL);
    }
    must(model_forward(model, &batch->batch, NULL, &family->workspace, &output));
    check_final(family, batch, output.hidden);
    if (output.logits)
        check_all("logits", output.logits, golden_batch_floats(family, batch, "logits"),
                  batch->B * model->config.classes);
    if (golden_batch_floats(family, batch, "pooled"))
        check_all("pooled", output.pooled, golden_batch_floats(family, batch, "pooled"), batch->B * C);
    if (output.span) check_span(family, batch, output.span);
    if (is_language_model(model)) check_logits(family, batch, output.hidden, "logits");
    assert_true(output.logits || output.span || is_language_model(model));
    free(hidden);
}

static void outputs_of(struct golden_family *family) {
    for (int i = GEMM_BUILTIN; i <= GEMM_ONEDNN; i++) {
        enum gemm_backend backend;
        if (gemm_backend_find(gemm_backend_name((enum gemm_backend)i), &backend) < 0) continue;
        must(model_prepare(&family->model, backend));
        each_batch(family, check_outputs);
    }
}

static void test_outputs(void **state) {
    (void)state;
    if (!golden_families(outputs_of)) skip();
}

/* ---- losses -------------------------------------------------------------------------------------------- */

static double cross_entropy(const float *logits, size_t n, size_t stride, int32_t label) {
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, (double)logits[i * stride]);
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[i * stride] - most);
    return most + log(sum) - (double)logits[(size_t)label * stride];
}

/* Mean over targets: of the next token for a causal model, of the token itself for a masked one. */
static double token_loss(struct golden_family *family, struct golden_batch *batch, const float *hidden) {
    size_t T = batch->batch.tokens, scored = 0;
    int32_t *target = room(T, sizeof *target);
    float *nll = room(T, sizeof *nll);
    double sum = 0;
    for (size_t t = 0; t < T; t++) target[t] = -1;
    for (size_t b = 0; b < batch->B; b++)
        for (uint32_t t = batch->offset[b]; t < batch->offset[b + 1]; t++) {
            uint32_t from = family->model.config.causal ? t + 1 : t;
            if (from < batch->offset[b + 1] && batch->labels[from] >= 0) target[t] = batch->labels[from], scored++;
        }
    must(model_token_nll(&family->model, hidden, NULL, target, T, &family->workspace, nll, NULL));
    for (size_t t = 0; t < T; t++) sum += (double)nll[t];
    free(target);
    free(nll);
    return sum / (double)scored;
}

/* (start + end) / 2 over all T positions, padding included: transformers gives padding logits, too, so their share
 * comes from the file. */
static double span_loss(struct golden_family *family, struct golden_batch *batch, const float *span) {
    double sum = 0;
    for (size_t side = 0; side < 2; side++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", batch->prefix, side ? "end_positions" : "start_positions");
        const int32_t *position = golden_tensor(&family->io, name)->data;
        const float *padded = golden_batch_floats(family, batch, side ? "end_logits" : "start_logits");
        size_t scored = 0, T = batch->T_padded;
        double part = 0;
        for (size_t b = 0; b < batch->B; b++) {
            float *row = room(T, sizeof *row);
            memcpy(row, padded + b * T, T * sizeof *row);
            for (uint32_t t = batch->offset[b]; t < batch->offset[b + 1]; t++)
                row[t - batch->offset[b]] = span[2 * t + side];
            if (position[b] >= 0 && (size_t)position[b] < T) part += cross_entropy(row, T, 1, position[b]), scored++;
            free(row);
        }
        sum += part / (double)scored;
    }
    return sum / 2;
}

static void check_loss(struct golden_family *family, struct golden_batch *batch) {
    struct model_output output;
    double loss = 0, expected;
    const struct json *losses = json_member(json_root(&family->meta), "loss");
    if (!json_member(losses, batch->prefix)) return;
    expected = golden_number(losses, batch->prefix);
    must(model_forward(&family->model, &batch->batch, NULL, &family->workspace, &output));
    if (output.logits) {
        size_t classes = family->model.config.classes;
        for (size_t b = 0; b < batch->B; b++)
            loss += cross_entropy(output.logits + b * classes, classes, 1, batch->labels[b]) / (double)batch->B;
    } else if (output.span) {
        loss = span_loss(family, batch, output.span);
    } else {
        loss = token_loss(family, batch, output.hidden);
    }
    if (!(fabs(loss - expected) <= REL * fabs(expected)))
        fail_msg("%s %s: loss %.9g instead of %.9g", family->name, batch->prefix, loss, expected);
}

static void losses_of(struct golden_family *family) {
    must(model_prepare(&family->model, GEMM_BUILTIN));
    each_batch(family, check_loss);
}

static void test_losses(void **state) {
    (void)state;
    if (!golden_families(losses_of)) skip();
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outputs),
        cmocka_unit_test(test_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
