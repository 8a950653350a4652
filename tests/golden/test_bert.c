/* BERT against transformers: logits, hidden states, losses, every gradient, three AdamW steps. */
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
#include "golden_files.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "train/optimizer.h"
#include "train/train.h"

#define REL 1e-4
#define NOISE                                                                                                          \
    1e-2 /* of the threshold under which adamw.safetensors is not compared: what rounding leaves of a zero             \
          */
#define MAX_STEPS 16

struct golden {
    const char *family;
    char folder[512];
    struct safetensors io;
    struct json_document meta;
    char *meta_text;
    struct model model;
    struct workspace workspace;
    /* the padded batch, packed */
    size_t B, T_padded;
    const int32_t *mask;
    int32_t *ids, *types, *labels;
    uint32_t *offset;
    struct batch batch;
};

static const int32_t *ints(const struct safetensors *file, const char *name) {
    const struct tensor *tensor = golden_tensor(file, name);
    assert_int_equal(tensor->dtype, DTYPE_I32);
    return tensor->data;
}

static const float *floats(const struct safetensors *file, const char *name, size_t count) {
    const struct tensor *tensor = golden_tensor(file, name);
    assert_int_equal(tensor->dtype, DTYPE_F32);
    assert_int_equal(tensor->count, count);
    return tensor->data;
}

/* Open the model and pack the padded batch; false: skipped. */
static bool golden_load(struct golden *golden, const char *family, bool editable) {
    char name[128];
    memset(golden, 0, sizeof *golden);
    golden->family = family;
    snprintf(name, sizeof name, "families/%s", family);
    if (!golden_path(golden->folder, sizeof golden->folder, name)) return false;
    snprintf(name, sizeof name, "families/%s/io.safetensors", family);
    golden_open(&golden->io, name);
    snprintf(name, sizeof name, "families/%s/meta.json", family);
    golden_json(&golden->meta, &golden->meta_text, name);
    if (model_open(&golden->model, golden->folder, editable) < 0) fail_msg("%s", error_text());

    const struct tensor *ids = golden_tensor(&golden->io, "padded.input_ids");
    const int32_t *types = ints(&golden->io, "padded.token_type_ids"), *labels = ints(&golden->io, "padded.labels");
    bool per_token = golden_tensor(&golden->io, "padded.labels")->dimensions == 2;
    size_t B = golden->B = ids->shape[0], T = golden->T_padded = ids->shape[1], used = 0;
    golden->mask = ints(&golden->io, "padded.attention_mask");
    golden->ids = calloc(3 * B * T, sizeof(int32_t));
    golden->types = golden->ids + B * T;
    golden->labels = golden->types + B * T;
    golden->offset = calloc(B + 1, sizeof(uint32_t));
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t++) {
            size_t i = b * T + t;
            if (!golden->mask[i]) continue;
            golden->ids[used] = ((const int32_t *)ids->data)[i];
            golden->types[used] = types[i];
            if (per_token) golden->labels[used] = labels[i];
            used++;
        }
        if (!per_token) golden->labels[b] = labels[b];
        golden->offset[b + 1] = (uint32_t)used;
    }
    golden->batch = (struct batch){B, used, golden->ids, golden->offset, golden->types, NULL, NULL};
    return true;
}

static void golden_close_all(struct golden *golden) {
    workspace_close(&golden->workspace);
    model_close(&golden->model);
    safetensors_close(&golden->io);
    json_close(&golden->meta);
    memory_release(golden->meta_text);
    free(golden->ids);
    free(golden->offset);
}

/* Packed rows (tokens, n) back to (B, T, n), zero where padded. */
static float *unpack(const struct golden *golden, const float *packed, size_t n) {
    float *padded = calloc(golden->B * golden->T_padded * n, sizeof(float));
    size_t used = 0;
    for (size_t i = 0; i < golden->B * golden->T_padded; i++)
        if (golden->mask[i]) memcpy(padded + i * n, packed + used++ * n, n * sizeof(float));
    return padded;
}

static void compare_padded(const struct golden *golden, const char *name, const float *packed, size_t n,
                           const float *expected) {
    float *padded = unpack(golden, packed, n);
    golden_close(name, golden_difference(padded, expected, golden->B * golden->T_padded * n, golden->mask, n), REL);
    free(padded);
}

static void check_hidden(struct golden *golden) {
    size_t L = golden->model.config.layers, C = golden->model.config.width, T = golden->batch.tokens;
    float *hidden = calloc((L + 1) * T * C, sizeof(float));
    if (model_hidden_states(&golden->model, &golden->batch, &golden->workspace, hidden) < 0)
        fail_msg("%s", error_text());
    for (size_t i = 0; i <= L; i++) {
        char name[64];
        snprintf(name, sizeof name, "padded.hidden.%zu", i);
        compare_padded(golden, name, hidden + i * T * C, C,
                       floats(&golden->io, name, golden->B * golden->T_padded * C));
    }
    free(hidden);
}

static void prepare(struct golden *golden, enum gemm_backend backend) {
    if (model_prepare(&golden->model, backend) < 0) fail_msg("%s", error_text());
}

static void test_classifier_outputs(void **state) {
    struct golden golden;
    struct model_output output;
    (void)state;
    if (!golden_load(&golden, "bert-cls", false)) skip();
    for (int backend = GEMM_BUILTIN; backend <= GEMM_ONEDNN; backend++) {
        enum gemm_backend found;
        if (gemm_backend_find(gemm_backend_name((enum gemm_backend)backend), &found) < 0) continue;
        prepare(&golden, found);
        if (model_forward(&golden.model, &golden.batch, NULL, &golden.workspace, &output) < 0)
            fail_msg("%s", error_text());
        size_t C = golden.model.config.width, K = golden.model.config.classes;
        golden_close(
            "logits",
            golden_difference(output.logits, floats(&golden.io, "padded.logits", golden.B * K), golden.B * K, NULL, 1),
            REL);
        golden_close(
            "pooled",
            golden_difference(output.pooled, floats(&golden.io, "padded.pooled", golden.B * C), golden.B * C, NULL, 1),
            REL);
        check_hidden(&golden);
    }
    golden_close_all(&golden);
}

static void test_masked_lm_outputs(void **state) {
    struct golden golden;
    struct model_output output;
    (void)state;
    if (!golden_load(&golden, "bert-mlm", false)) skip();
    prepare(&golden, GEMM_BUILTIN);
    if (model_forward(&golden.model, &golden.batch, NULL, &golden.workspace, &output) < 0) fail_msg("%s", error_text());
    assert_null(output.logits);
    size_t T = golden.batch.tokens, V = golden.model.config.vocabulary;
    float *logits = calloc(T * V, sizeof(float));
    uint32_t *rows = calloc(T, sizeof(uint32_t));
    for (size_t t = 0; t < T; t++) rows[t] = (uint32_t)t;
    if (model_logits(&golden.model, output.hidden, rows, T, &golden.workspace, logits) < 0)
        fail_msg("%s", error_text());
    compare_padded(&golden, "logits", logits, V, floats(&golden.io, "padded.logits", golden.B * golden.T_padded * V));
    check_hidden(&golden);
    free(rows);
    free(logits);
    golden_close_all(&golden);
}

static enum train_objective objective_of(const struct golden *golden) {
    return golden->model.config.model_heads & HEAD_MASKED_LM ? TRAIN_MASKED_LM : TRAIN_CLASSIFICATION;
}

static double gradients(struct golden *golden) {
    double loss;
    if (train_gradients(&golden->model, &golden->batch, golden->labels, objective_of(golden), &loss) < 0)
        fail_msg("%s", error_text());
    return loss;
}

static void check_number(const char *what, double got, double expected) {
    if (!(fabs(got - expected) <= REL * fabs(expected))) fail_msg("%s: %.9g instead of %.9g", what, got, expected);
}

static void check_gradients(const char *family) {
    struct golden golden;
    struct safetensors file;
    char name[128];
    double largest = 0;
    if (!golden_load(&golden, family, true)) skip();
    snprintf(name, sizeof name, "families/%s/grads.safetensors", family);
    golden_open(&file, name);
    check_number("loss", gradients(&golden), golden_number(json_member(json_root(&golden.meta), "loss"), "padded"));
    assert_int_equal(file.count, golden.model.parameter_count);
    for (size_t i = 0; i < file.count; i++)
        for (size_t j = 0; j < file.tensors[i].count; j++)
            largest = fmax(largest, fabs((double)((const float *)file.tensors[i].data)[j]));
    for (size_t i = 0; i < golden.model.parameter_count; i++) {
        const struct parameter *parameter = &golden.model.parameters[i];
        size_t count = parameter->rows * parameter->columns;
        struct difference difference =
            golden_difference(parameter->gradient, floats(&file, parameter->name, count), count, NULL, 1);
        difference.scale = largest;
        golden_close(parameter->name, difference, REL);
    }
    safetensors_close(&file);
    golden_close_all(&golden);
}

static void test_classifier_gradients(void **state) {
    (void)state;
    check_gradients("bert-cls");
}
static void test_masked_lm_gradients(void **state) {
    (void)state;
    check_gradients("bert-mlm");
}

static void compare_parameters(const struct golden *golden, const struct safetensors *updated,
                               const struct safetensors *grads, double threshold) {
    for (size_t i = 0; i < golden->model.parameter_count; i++) {
        const struct parameter *parameter = &golden->model.parameters[i];
        size_t count = parameter->rows * parameter->columns;
        const float *expected = floats(updated, parameter->name, count),
                    *gradient = floats(grads, parameter->name, count);
        for (size_t j = 0; j < count; j++) {
            double d = fabs((double)parameter->value[j] - (double)expected[j]);
            double limit = fabs((double)gradient[j]) >= threshold ? 1e-3 : 2e-2;
            if (!(d <= limit)) fail_msg("%s[%zu]: differs by %g, above %g", parameter->name, j, d, limit);
        }
    }
}

/* Gradients that are rounding noise, to zero: AdamW divides each by its own size, so what it makes of them is noise. */
static void drop_noise(struct golden *golden, double threshold) {
    for (size_t i = 0; i < golden->model.parameter_count; i++) {
        const struct parameter *parameter = &golden->model.parameters[i];
        for (size_t j = 0; j < parameter->rows * parameter->columns; j++)
            if (fabs((double)parameter->gradient[j]) <= NOISE * threshold) parameter->gradient[j] = 0;
    }
}

/* Losses before each step and after the last, and the norms, of the golden's steps: on gradients as they are,
 * or without their rounding noise where `threshold` > 0. */
static void walk(struct golden *golden, size_t steps, double threshold, double *losses, double *norms) {
    struct optimizer_settings settings = {
        .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .clip_norm = 1};
    struct trainables trainables;
    struct optimizer optimizer;
    struct schedule schedule = {.kind = SCHEDULE_LINEAR, .steps = steps, .warmup = 1, .peak = 1e-2};
    gradients(golden);
    assert_int_equal(trainables_open(&trainables, &golden->model, false, NULL, 0), 0);
    assert_int_equal(optimizer_open(&optimizer, &settings, &trainables), 0);
    for (size_t step = 0; step < steps; step++) {
        losses[step] = gradients(golden);
        if (threshold > 0) drop_noise(golden, threshold);
        assert_int_equal(optimizer_step(&optimizer, schedule_rate(&schedule, step), &norms[step]), 0);
    }
    losses[steps] = gradients(golden);
    optimizer_close(&optimizer);
    trainables_close(&trainables);
}

/* Within REL, and what the rounding noise of earlier steps' gradients can do: the distance to the walk without it. */
static void check_walked(const char *what, size_t step, double got, double expected, double quiet) {
    double limit = REL * fabs(expected) + 3 * fabs(got - quiet);
    if (!(fabs(got - expected) <= limit))
        fail_msg("%s %zu: %.9g instead of %.9g within %g", what, step, got, expected, limit);
}

static void check_adamw(const char *family) {
    struct golden golden, twin;
    struct safetensors updated, grads;
    double losses[MAX_STEPS + 1], norms[MAX_STEPS], quiet_losses[MAX_STEPS + 1], quiet_norms[MAX_STEPS];
    char name[128];
    if (!golden_load(&golden, family, true)) skip();
    assert_true(golden_load(&twin, family, true));
    snprintf(name, sizeof name, "families/%s/adamw.safetensors", family);
    golden_open(&updated, name);
    snprintf(name, sizeof name, "families/%s/grads.safetensors", family);
    golden_open(&grads, name);
    const struct json *adamw = json_member(json_root(&golden.meta), "adamw"),
                      *rule = json_member(json_root(&golden.meta), "adamw_rule");
    size_t steps = json_member(adamw, "losses")->count;
    assert_in_range(steps, 1, MAX_STEPS);

    walk(&golden, steps, 0, losses, norms);
    walk(&twin, steps, golden_number(rule, "threshold"), quiet_losses, quiet_norms);
    for (size_t step = 0; step < steps; step++) {
        double loss, norm;
        assert_int_equal(json_number(json_item(json_member(adamw, "losses"), step), "loss", &loss), 0);
        check_walked("loss", step, losses[step], loss, quiet_losses[step]);
        assert_int_equal(json_number(json_item(json_member(adamw, "grad_norms"), step), "norm", &norm), 0);
        check_walked("norm", step, norms[step], norm, quiet_norms[step]);
    }
    check_walked("loss after step", steps, losses[steps], golden_number(adamw, "loss_after"), quiet_losses[steps]);
    compare_parameters(&golden, &updated, &grads, golden_number(rule, "threshold"));
    safetensors_close(&updated);
    safetensors_close(&grads);
    golden_close_all(&golden);
    golden_close_all(&twin);
}

static void test_classifier_adamw(void **state) {
    (void)state;
    check_adamw("bert-cls");
}
static void test_masked_lm_adamw(void **state) {
    (void)state;
    check_adamw("bert-mlm");
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classifier_outputs),   cmocka_unit_test(test_masked_lm_outputs),
        cmocka_unit_test(test_classifier_gradients), cmocka_unit_test(test_masked_lm_gradients),
        cmocka_unit_test(test_classifier_adamw),     cmocka_unit_test(test_masked_lm_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
