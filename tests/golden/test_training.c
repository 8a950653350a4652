/* Training against transformers, every family that is there: losses, every gradient, three AdamW steps; and the same
 * bits at any number of threads and when blocks are computed twice instead of kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "golden_family.h"
#include "kernels/kernels.h"
#include "padded_rows.h"
#include "train/head.h"
#include "train/optimizer.h"
#include "train/schedule.h"

#define REL 1e-4
#define NOISE                                                                                                          \
    1e-2 /* of the threshold under which adamw.safetensors is not compared: what rounding leaves of a zero             \
          */
#define MAX_STEPS 16

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

/* ---- a family in training -------------------------------------------------------------------------------- */

struct training {
    struct golden_family family;
    struct golden_batch batch;
    struct pass pass;
    uint32_t *rows; /* of a language model: tokens that predict, and what */
    int32_t *targets;
    size_t count;
};

/* The token after each one of a causal model, the token itself of a masked one; -100 predicts nothing. */
static void choose_rows(struct training *training) {
    const struct golden_batch *batch = &training->batch;
    uint32_t ahead = training->family.model.config.causal ? 1 : 0;
    training->rows = room(batch->batch.tokens, sizeof *training->rows);
    training->targets = room(batch->batch.tokens, sizeof *training->targets);
    for (size_t b = 0; b < batch->B; b++)
        for (uint32_t t = batch->offset[b]; t + ahead < batch->offset[b + 1]; t++) {
            if (batch->labels[t + ahead] == LABEL_IGNORED) continue;
            training->rows[training->count] = t;
            training->targets[training->count++] = batch->labels[t + ahead];
        }
}

static void training_open(struct training *training, const char *name) {
    memset(training, 0, sizeof *training);
    assert_true(golden_family_open(&training->family, name, true));
    assert_true(golden_batch_open(&training->batch, &training->family, "padded"));
    struct model *model = &training->family.model;
    if (training->batch.per_token) choose_rows(training);
    must(model_gradients_open(model, model->config.model_heads));
    must(pass_open(&training->pass, model, NULL));
}

static void training_close(struct training *training) {
    pass_close(&training->pass);
    free(training->rows);
    free(training->targets);
    golden_batch_close(&training->batch);
    golden_family_close(&training->family);
}

static double gradients(struct training *training, bool checkpoint) {
    bool first = training->family.model.config.model_heads & HEAD_CLASSIFICATION; /* is all that is read */
    struct pass_options options = {.scale = 1, .first = first, .checkpoint = checkpoint};
    struct logit_loss labels = {.labels = training->count ? training->targets : training->batch.labels};
    double loss;
    must(pass_forward(&training->pass, &training->batch.batch, &options));
    if (training->family.model.config.model_heads & HEAD_SPAN)
        return padded_span(&training->pass, &training->family, &training->batch);
    if (training->count) must(head_tokens(&training->pass, training->rows, training->count, &labels, &loss));
    else must(head_classify(&training->pass, &labels, &loss));
    must(pass_backward(&training->pass));
    return loss;
}

static void train_family(const struct golden_family *family, void (*check)(struct training *training)) {
    struct training training;
    training_open(&training, family->name);
    check(&training);
    training_close(&training);
}

/* ---- losses and gradients --------------------------------------------------------------------------------- */

static void check_number(const char *name, const char *what, double got, double expected) {
    if (!(fabs(got - expected) <= REL * fabs(expected)))
        fail_msg("%s: %s: %.9g instead of %.9g", name, what, got, expected);
}

static void open_tensors(const struct training *training, const char *file, struct safetensors *tensors) {
    char name[160];
    snprintf(name, sizeof name, "families/%s/%s", training->family.name, file);
    golden_open(tensors, name);
}

/* The file's tensor of a parameter as the model holds it: Hugging Face may store it as a slice, or transposed. */
static float *expected_of(const struct training *training, const struct safetensors *file, size_t index) {
    const struct model *model = &training->family.model;
    const struct parameter *parameter = &model->parameters[index];
    const struct value_place *place = &model->places[index];
    size_t rows = parameter->kind == PARAMETER_VECTOR ? parameter->columns : parameter->rows,
           columns = parameter->kind == PARAMETER_VECTOR ? 1 : parameter->columns;
    const struct tensor *tensor = golden_tensor(file, place->tensor->name);
    assert_int_equal(tensor->dtype, DTYPE_F32);
    assert_int_equal(tensor->count, place->tensor->count);
    float *expected = room(rows * columns, sizeof *expected);
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < columns; n++)
            expected[r * columns + n] =
                ((const float *)tensor->data)[place->transposed ? n * place->total + place->first + r
                                                                : (place->first + r) * columns + n];
    return expected;
}

static size_t values_of(const struct safetensors *file) {
    size_t values = 0;
    for (size_t i = 0; i < file->count; i++) values += file->tensors[i].count;
    return values;
}

static double largest_of(const struct safetensors *file) {
    double largest = 0;
    for (size_t i = 0; i < file->count; i++)
        for (size_t j = 0; j < file->tensors[i].count; j++)
            largest = fmax(largest, fabs((double)((const float *)file->tensors[i].data)[j]));
    return largest;
}

static void check_gradients(struct training *training) {
    const struct model *model = &training->family.model;
    struct safetensors file;
    size_t values = 0;
    open_tensors(training, "grads.safetensors", &file);
    double loss = gradients(training, false), largest = largest_of(&file);
    check_number(training->family.name, "loss", loss,
                 golden_number(json_member(json_root(&training->family.meta), "loss"), "padded"));
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        size_t count = parameter->rows * parameter->columns;
        float *expected = expected_of(training, &file, i);
        struct difference difference = golden_difference(parameter->gradient, expected, count, NULL, 1);
        char what[224];
        values += count;
        snprintf(what, sizeof what, "%s %s", training->family.name, parameter->name);
        difference.scale = largest;
        golden_close(what, difference, REL);
        free(expected);
    }
    assert_int_equal(values, values_of(&file));
    safetensors_close(&file);
}

static void gradients_of(struct golden_family *family) { train_family(family, check_gradients); }

static void test_gradients(void **state) {
    (void)state;
    if (!golden_families(gradients_of)) skip();
}

/* ---- three steps of AdamW ----------------------------------------------------------------------------------- */

/* What the golden says that its own steps in f32 and in f64 differ by where gradients are above the threshold. */
static double golden_noise(const struct training *training) {
    const struct json *rule = json_member(json_root(&training->family.meta), "adamw_rule");
    return json_member(rule, "f32_f64_max_diff_there") ? golden_number(rule, "f32_f64_max_diff_there") : 0;
}

/* Where gradients are above the threshold, parameters are at most 1e-3 apart, or twice the golden's own noise. Where
 * that is above 1e-4, of a tensor one value and one in a thousand may be further off: a gradient that is almost zero,
 * of an embedding's dimension in every token, steps by its rounding noise, and turns small gradients of the next step.
 */
static void compare_parameters(const struct training *training, double threshold) {
    const struct model *model = &training->family.model;
    struct safetensors updated, grads;
    double noise = golden_noise(training), clear = fmax(1e-3, 2 * noise);
    open_tensors(training, "adamw.safetensors", &updated);
    open_tensors(training, "grads.safetensors", &grads);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        float *expected = expected_of(training, &updated, i), *gradient = expected_of(training, &grads, i);
        size_t count = parameter->rows * parameter->columns, off = 0, allowed = noise > 1e-4 ? 1 + count / 1000 : 0;
        for (size_t j = 0; j < count; j++) {
            double d = fabs((double)parameter->value[j] - (double)expected[j]);
            bool is_clear = fabs((double)gradient[j]) >= threshold;
            off += is_clear && d > clear;
            if (!(d <= 2e-2) || off > allowed)
                fail_msg("%s %s[%zu]: differs by %g, above %g as %zu others", training->family.name, parameter->name, j,
                         d, is_clear ? clear : 2e-2, off);
        }
        free(expected);
        free(gradient);
    }
    safetensors_close(&updated);
    safetensors_close(&grads);
}

/* Gradients that are rounding noise, to zero: AdamW divides each by its own size, so what it makes of them is noise. */
static void drop_noise(const struct model *model, double threshold) {
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        for (size_t j = 0; j < parameter->rows * parameter->columns; j++)
            if (fabs((double)parameter->gradient[j]) <= NOISE * threshold) parameter->gradient[j] = 0;
    }
}

/* Losses before each step and after the last, and the norms, of the golden's steps: on gradients as they are, or
 * without their rounding noise where `threshold` > 0. */
static void walk(struct training *training, size_t steps, double threshold, double *losses, double *norms) {
    struct model *model = &training->family.model;
    struct optimizer_settings settings = {
        .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .clip_norm = 1};
    struct schedule schedule = {.kind = SCHEDULE_LINEAR, .steps = steps, .warmup = 1, .peak = 1e-2};
    struct trainables trainables;
    struct optimizer optimizer;
    must(trainables_open(&trainables, model, false, NULL, 0));
    must(optimizer_open(&optimizer, &settings, &trainables));
    for (size_t step = 0; step < steps; step++) {
        losses[step] = gradients(training, false);
        if (threshold > 0) drop_noise(model, threshold);
        must(optimizer_step(&optimizer, schedule_rate(&schedule, step), &norms[step]));
    }
    losses[steps] = gradients(training, false);
    optimizer_close(&optimizer);
    trainables_close(&trainables);
}

/* Within REL, or where the golden is less exact than that itself, twice what its own steps in f32 and in f64 differ by
 * and the digits that a small loss has in f32: it is -log of a probability near 1. Beyond it what the rounding noise of
 * earlier steps' gradients can do: the distance to the walk without it. */
static void check_walked(const char *name, const char *what, size_t step, double got, double quiet, double expected,
                         double exact) {
    double own = 2 * fmax(fabs(expected - exact), (double)FLT_EPSILON);
    double limit = fmax(REL * fabs(expected), own) + 3 * fabs(got - quiet);
    if (!(fabs(got - expected) <= limit))
        fail_msg("%s: %s %zu: %.9g instead of %.9g within %g", name, what, step, got, expected, limit);
}

static double number_at(const struct json *object, const char *key, size_t index) {
    double value = 0;
    must(json_number(json_item(json_member(object, key), index), key, &value));
    return value;
}

static void check_adamw(struct training *training) {
    struct training twin;
    const char *name = training->family.name;
    double losses[MAX_STEPS + 1], norms[MAX_STEPS], quiet_losses[MAX_STEPS + 1], quiet_norms[MAX_STEPS];
    const struct json *root = json_root(&training->family.meta), *adamw = json_member(root, "adamw"),
                      *exact = json_member(root, "adamw_f64");
    double threshold = golden_number(json_member(root, "adamw_rule"), "threshold");
    size_t steps = json_member(adamw, "losses")->count;
    assert_in_range(steps, 1, MAX_STEPS);
    training_open(&twin, name);
    walk(training, steps, 0, losses, norms);
    walk(&twin, steps, threshold, quiet_losses, quiet_norms);
    if (!exact) exact = adamw;
    for (size_t step = 0; step < steps; step++) {
        check_walked(name, "loss", step, losses[step], quiet_losses[step], number_at(adamw, "losses", step),
                     number_at(exact, "losses", step));
        check_walked(name, "norm", step, norms[step], quiet_norms[step], number_at(adamw, "grad_norms", step),
                     number_at(exact, "grad_norms", step));
    }
    check_walked(name, "loss after step", steps, losses[steps], quiet_losses[steps], golden_number(adamw, "loss_after"),
                 golden_number(exact, "loss_after"));
    compare_parameters(training, threshold);
    training_close(&twin);
}

static void adamw_of(struct golden_family *family) { train_family(family, check_adamw); }

static void test_adamw(void **state) {
    (void)state;
    if (!golden_families(adamw_of)) skip();
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
