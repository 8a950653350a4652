/* Every loss against torch: cross-entropy, soft targets, hidden states, attention scores, spans, shifted labels. */
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
#include "train/loss.h"
#include "train/loss_attention.h"
#include "train/loss_hidden.h"

#define REL 1e-5

/* The two files, and the tensors' sizes as they come. */
struct files {
    struct safetensors arrays;
    struct json_document document;
    char *text;
};

static void files_open(struct files *files) {
    char path[512];
    if (!golden_path(path, sizeof path, "losses/arrays.safetensors")) skip();
    golden_open(&files->arrays, "losses/arrays.safetensors");
    golden_json(&files->document, &files->text, "losses/values.json");
}

static void files_close(struct files *files) {
    json_close(&files->document);
    memory_release(files->text);
    safetensors_close(&files->arrays);
}

static const float *floats(const struct files *files, const char *name) {
    return golden_tensor(&files->arrays, name)->data;
}

static double setting(const struct files *files, const char *key) {
    return golden_number(json_root(&files->document), key);
}

static void check_value(const struct files *files, const char *name, double loss) {
    double expected = golden_number(json_member(json_root(&files->document), "values"), name);
    if (!(fabs(loss - expected) <= REL * fabs(expected))) fail_msg("%s: %.9g instead of %.9g", name, loss, expected);
}

static void check_gradient(const struct files *files, const char *loss, const char *input, const float *got) {
    char key[96];
    snprintf(key, sizeof key, "%s.grad.%s", loss, input);
    const struct tensor *expected = golden_tensor(&files->arrays, key);
    golden_close(key, golden_difference(got, expected->data, expected->count, NULL, 1), REL);
}

/* A loss over logits, and at another scale. */
static void check_logits(const struct files *files, const char *name, const char *input, const float *logits,
                         size_t rows, size_t V, const struct logit_loss *aim, double unit) {
    float *gradient = malloc(rows * V * sizeof *gradient);
    double loss, again;
    memcpy(gradient, logits, rows * V * sizeof *gradient);
    assert_int_equal(loss_logits(gradient, rows, V, aim, unit, &loss), 0);
    check_value(files, name, loss * unit);
    check_gradient(files, name, input, gradient);
    memcpy(gradient, logits, rows * V * sizeof *gradient);
    assert_int_equal(loss_logits(gradient, rows, V, aim, unit / 4, &again), 0);
    assert_true(again == loss);
    for (size_t i = 0; i < rows * V; i++) gradient[i] *= 4;
    check_gradient(files, name, input, gradient);
    free(gradient);
}

/* The loss alone. */
static double loss_of(const float *logits, size_t rows, size_t V, const struct logit_loss *aim) {
    float *copy = malloc(rows * V * sizeof *copy);
    double loss;
    memcpy(copy, logits, rows * V * sizeof *copy);
    assert_int_equal(loss_logits(copy, rows, V, aim, 1, &loss), 0);
    free(copy);
    return loss;
}

static void test_cross_entropy(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *logits = golden_tensor(&files.arrays, "ce.logits");
    struct logit_loss aim = {.labels = golden_tensor(&files.arrays, "ce.target")->data};
    size_t counted = 0;
    for (size_t i = 0; i < logits->shape[0]; i++) counted += aim.labels[i] != LABEL_IGNORED;
    check_logits(&files, "ce.mean", "logits", logits->data, logits->shape[0], logits->shape[1], &aim, 1);
    check_logits(&files, "ce.sum", "logits", logits->data, logits->shape[0], logits->shape[1], &aim, (double)counted);
    aim.smoothing = setting(&files, "label_smoothing");
    check_logits(&files, "ce.smooth0.1", "logits", logits->data, logits->shape[0], logits->shape[1], &aim, 1);
    files_close(&files);
}

static void test_soft_targets(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *student = golden_tensor(&files.arrays, "kd.student");
    size_t rows = student->shape[0], V = student->shape[1];
    struct logit_loss aim = {.labels = golden_tensor(&files.arrays, "kd.target")->data,
                             .teacher = floats(&files, "kd.teacher"),
                             .temperature = setting(&files, "temperature"),
                             .alpha = setting(&files, "alpha")};
    check_logits(&files, "kd.combined", "student", student->data, rows, V, &aim, 1);
    aim.alpha = 0;
    check_logits(&files, "kd.ce", "student", student->data, rows, V, &aim, 1);
    aim.alpha = 1;
    check_logits(&files, "kd.kl", "student", student->data, rows, V, &aim, 1);
    aim.labels = NULL;
    check_logits(&files, "kd.kl", "student", student->data, rows, V, &aim, 1);
    files_close(&files);
}

static void test_soft_targets_of_tokens(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *student = golden_tensor(&files.arrays, "kd3.student");
    size_t sequences = student->shape[0], rows = sequences * student->shape[1], V = student->shape[2];
    struct logit_loss aim = {.teacher = floats(&files, "kd3.teacher"),
                             .temperature = setting(&files, "temperature"),
                             .alpha = 1,
                             .counted = golden_tensor(&files.arrays, "kd3.mask")->data};
    check_logits(&files, "kd3.kl_masked_tokens", "student", student->data, rows, V, &aim, 1);
    aim.counted = NULL; /* the slip to be told apart: all tokens, divided by the sequences */
    check_logits(&files, "kd3.kl_batchmean_over_sequences", "student", student->data, rows, V, &aim,
                 (double)rows / (double)sequences);
    files_close(&files);
}

/* All classes named one by one, in any order, are the whole row; fewer are another distribution. */
static void test_best_classes(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *student = golden_tensor(&files.arrays, "kd.student");
    size_t rows = student->shape[0], V = student->shape[1];
    const float *teacher = floats(&files, "kd.teacher");
    uint32_t *id = calloc(rows * V, sizeof *id);
    float *best = calloc(rows * V, sizeof *best);
    for (size_t i = 0; i < rows * V; i++) {
        id[i] = (uint32_t)(V - 1 - i % V);
        best[i] = teacher[i / V * V + id[i]];
    }
    struct logit_loss aim = {.teacher = best,
                             .temperature = setting(&files, "temperature"),
                             .alpha = 1,
                             .teacher_top_id = id,
                             .teacher_top = V};
    check_logits(&files, "kd.kl", "student", student->data, rows, V, &aim, 1);

    /* One class: the student's surprise at it, softened. */
    double loss, expected = 0, T = aim.temperature;
    aim.teacher_top = 1;
    loss = loss_of(student->data, rows, V, &aim);
    for (size_t r = 0; r < rows; r++) {
        const float *z = (const float *)student->data + r * V;
        double sum = 0;
        for (size_t i = 0; i < V; i++) sum += exp((double)z[i] / T);
        expected += T * T * (log(sum) - (double)z[id[r]] / T) / (double)rows;
    }
    assert_true(fabs(loss - expected) <= REL * expected);
    free(id);
    free(best);
    files_close(&files);
}

static void test_hidden_states(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *student = golden_tensor(&files.arrays, "hidden.student");
    size_t rows = student->shape[0], C = student->shape[1];
    const float *teacher = floats(&files, "hidden.teacher");
    float *gradient = calloc(rows * C, sizeof *gradient);
    check_value(&files, "hidden.cosine", loss_cosine(rows, C, student->data, teacher, 1, gradient));
    check_gradient(&files, "hidden.cosine", "student", gradient);
    loss_cosine(rows, C, student->data, teacher, -1, gradient); /* gradients are added */
    for (size_t i = 0; i < rows * C; i++) assert_true(gradient[i] == 0);
    check_value(&files, "hidden.mse", loss_mean_square(rows, C, student->data, teacher, 0.25, gradient));
    loss_mean_square(rows, C, student->data, teacher, 0.75, gradient);
    check_gradient(&files, "hidden.mse", "student", gradient);
    check_value(&files, "hidden.mse", loss_mean_square(rows, C, student->data, teacher, 1, NULL));
    free(gradient);
    files_close(&files);
}

static void test_projected_states(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *student = golden_tensor(&files.arrays, "projected.student"),
                        *weight = golden_tensor(&files.arrays, "projected.weight");
    size_t rows = student->shape[0], N = student->shape[1], R = weight->shape[0];
    float *projected = calloc(rows * R, sizeof *projected), *dprojected = calloc(rows * R, sizeof *dprojected);
    float *dstudent = calloc(rows * N, sizeof *dstudent), *dweight = malloc(R * N * sizeof *dweight);
    projection_forward(rows, N, R, student->data, weight->data, projected);
    check_value(&files, "projected.mse",
                loss_mean_square(rows, R, projected, floats(&files, "projected.teacher"), 1, dprojected));
    projection_backward(rows, N, R, student->data, weight->data, dprojected, dstudent, false, dweight);
    check_gradient(&files, "projected.mse", "student", dstudent);
    check_gradient(&files, "projected.mse", "weight", dweight);
    /* In two halves that are added. */
    memset(dstudent, 0, rows * N * sizeof *dstudent);
    for (size_t i = 0; i < rows * R; i++) dprojected[i] *= 0.5f;
    for (int half = 0; half < 2; half++)
        projection_backward(rows, N, R, student->data, weight->data, dprojected, dstudent, half == 1, dweight);
    check_gradient(&files, "projected.mse", "student", dstudent);
    check_gradient(&files, "projected.mse", "weight", dweight);
    free(projected);
    free(dprojected);
    free(dstudent);
    free(dweight);
    files_close(&files);
}

static void test_attention_scores(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *raw = golden_tensor(&files.arrays, "attention.student_scores"),
                        *mask = golden_tensor(&files.arrays, "attention.added_mask");
    size_t count = raw->count, T = raw->shape[3], per_mask = count / mask->shape[0];
    const float *added = mask->data, *teacher_raw = floats(&files, "attention.teacher_scores");
    float *student = malloc(count * sizeof *student), *teacher = malloc(count * sizeof *teacher),
          *gradient = calloc(count, sizeof *gradient);
    for (size_t i = 0; i < count; i++) {
        float hidden = added[i / per_mask * T + i % T];
        student[i] = ((const float *)raw->data)[i] + hidden;
        teacher[i] = teacher_raw[i] + hidden;
    }
    check_value(&files, "attention.mse", loss_attention_scores(count, student, teacher, 1, gradient));
    check_gradient(&files, "attention.mse", "student_scores", gradient);
    free(student);
    free(teacher);
    free(gradient);
    files_close(&files);
}

static void test_shifted_language_model(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *logits = golden_tensor(&files.arrays, "lm.logits");
    size_t sequences = logits->shape[0], T = logits->shape[1], V = logits->shape[2];
    uint32_t *offset = calloc(sequences + 1, sizeof *offset);
    int32_t *shifted = malloc(sequences * T * sizeof *shifted);
    const struct json *values = json_member(json_root(&files.document), "values");
    for (size_t i = 0; i <= sequences; i++) offset[i] = (uint32_t)(i * T);
    memcpy(shifted, golden_tensor(&files.arrays, "lm.labels")->data, sequences * T * sizeof *shifted);
    size_t targets = loss_shift_labels(shifted, offset, sequences, shifted); /* in place */
    assert_true((double)targets == golden_number(values, "lm.targets"));
    struct logit_loss aim = {.labels = shifted};
    check_logits(&files, "lm.shifted", "logits", logits->data, sequences * T, V, &aim, 1);
    check_value(&files, "lm.perplexity", exp(loss_of(logits->data, sequences * T, V, &aim)));
    free(offset);
    free(shifted);
    files_close(&files);
}

static void test_span(void **state) {
    struct files files;
    (void)state;
    files_open(&files);
    const struct tensor *start = golden_tensor(&files.arrays, "qa.start_logits");
    const float *end = floats(&files, "qa.end_logits");
    size_t B = start->shape[0], T = start->shape[1];
    float *logits = calloc(2 * B * T, sizeof *logits), *gradient = calloc(2 * B * T, sizeof *gradient),
          *side = calloc(B * T, sizeof *side);
    uint32_t *offset = calloc(B + 1, sizeof *offset);
    struct span_loss aim = {.start = golden_tensor(&files.arrays, "qa.start_positions")->data,
                            .end = golden_tensor(&files.arrays, "qa.end_positions")->data};
    double loss, again;
    for (size_t i = 0; i <= B; i++) offset[i] = (uint32_t)(i * T);
    for (size_t i = 0; i < B * T; i++) {
        logits[2 * i] = gradient[2 * i] = ((const float *)start->data)[i];
        logits[2 * i + 1] = gradient[2 * i + 1] = end[i];
    }
    assert_int_equal(loss_span(gradient, offset, B, &aim, 1, &loss), 0);
    check_value(&files, "qa.span", loss);
    for (size_t i = 0; i < B * T; i++) side[i] = gradient[2 * i];
    check_gradient(&files, "qa.span", "start_logits", side);
    for (size_t i = 0; i < B * T; i++) side[i] = gradient[2 * i + 1];
    check_gradient(&files, "qa.span", "end_logits", side);

    /* A teacher that says what the student says adds nothing but takes its share. */
    float *shared = malloc(2 * B * T * sizeof *shared);
    memcpy(shared, logits, 2 * B * T * sizeof *shared);
    aim.teacher = logits;
    aim.temperature = 2;
    aim.alpha = 0.25;
    assert_int_equal(loss_span(shared, offset, B, &aim, 1, &again), 0);
    assert_true(fabs(again - 0.75 * loss) <= REL * loss);
    for (size_t i = 0; i < 2 * B * T; i++) assert_true(fabs((double)shared[i] - 0.75 * (double)gradient[i]) <= 1e-6);
    free(shared);
    free(logits);
    free(gradient);
    free(side);
    free(offset);
    files_close(&files);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_soft_targets),
        cmocka_unit_test(test_soft_targets_of_tokens),
        cmocka_unit_test(test_best_classes),
        cmocka_unit_test(test_hidden_states),
        cmocka_unit_test(test_projected_states),
        cmocka_unit_test(test_attention_scores),
        cmocka_unit_test(test_shifted_language_model),
        cmocka_unit_test(test_span),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
