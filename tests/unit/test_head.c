/* Heads and their losses: cross-entropy with class weights, smoothing and a teacher against formulas in double and
 * differences, rows of a large vocabulary in tiles, spans beside their definition, and the errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_training.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

/* ---- losses of logits ---------------------------------------------------------------------------------------- */

#define ROWS 7
#define V 19
#define TOP 5

static double log_sum(const float *z, size_t n, double T) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)z[i] / T);
    return log(sum);
}

/* The formulas of head.h, one by one. */
static double reference(const struct logit_loss *loss, const float *logits) {
    double ce = 0, weights = 0, kl = 0, T = loss->temperature, s = loss->smoothing;
    for (size_t i = 0; i < ROWS; i++) {
        const float *z = logits + i * V;
        int32_t y = loss->labels ? loss->labels[i] : LABEL_IGNORED;
        double lse = log_sum(z, V, 1);
        if (y != LABEL_IGNORED) {
            double w = loss->class_weight ? (double)loss->class_weight[y] : 1;
            weights += w;
            ce += (1 - s) * w * (lse - (double)z[y]);
            for (size_t c = 0; c < V; c++)
                ce += s / V * (loss->class_weight ? (double)loss->class_weight[c] : 1) * (lse - (double)z[c]);
        }
        size_t n = loss->teacher_top_id ? TOP : V;
        for (size_t j = 0; loss->teacher && j < n; j++) {
            const float *teacher = loss->teacher + i * n;
            double log_p = (double)teacher[j] / T - log_sum(teacher, n, T);
            size_t c = loss->teacher_top_id ? loss->teacher_top_id[i * n + j] : j;
            kl += exp(log_p) * (log_p - (double)z[c] / T + log_sum(z, V, T));
        }
    }
    ce = weights > 0 ? ce / weights : 0;
    return loss->teacher ? loss->alpha * T * T * kl / ROWS + (1 - loss->alpha) * ce : ce;
}

static void check_loss(const struct logit_loss *loss, const float *logits) {
    float *z = room(ROWS * V, sizeof *z), *gradient = room(ROWS * V, sizeof *gradient), *scratch;
    double row_loss[ROWS], expected = reference(loss, logits), largest = 0;
    struct logit_means means;
    memcpy(gradient, logits, ROWS * V * sizeof *gradient);
    scratch = room((size_t)threads_get() * logit_loss_scratch(loss, V), sizeof *scratch);
    must(logit_loss_check(loss, ROWS, V));
    logit_loss_means(loss, ROWS, V, &means);
    double got = 0; /* in two calls, as tiles of rows do it */
    got += logit_loss_rows(loss, &means, 0, 3, V, 0.5, gradient, row_loss, scratch);
    got += logit_loss_rows(loss, &means, 3, ROWS - 3, V, 0.5, gradient + 3 * V, row_loss, scratch);
    if (!(fabs(got - expected) <= 2e-6 * (1 + fabs(expected)))) fail_msg("%.9g instead of %.9g", got, expected);
    memcpy(z, logits, ROWS * V * sizeof *z);
    for (size_t i = 0; i < ROWS * V; i++) largest = fmax(largest, fabs((double)gradient[i]));
    for (size_t i = 0; i < ROWS * V; i++) {
        const float step = 1.0f / 1024;
        z[i] = logits[i] + step;
        double up = reference(loss, z), from = (double)z[i];
        z[i] = logits[i] - step;
        double slope = 0.5 * (up - reference(loss, z)) / (from - (double)z[i]);
        z[i] = logits[i];
        if (!(fabs(slope - (double)gradient[i]) <= 1e-5 * largest))
            fail_msg("logit %zu: %g instead of %g", i, (double)gradient[i], slope);
    }
    free(z);
    free(gradient);
    free(scratch);
}

static void test_logit_losses(void **state) {
    float logits[ROWS * V], teacher[ROWS * V], weight[V];
    int32_t labels[ROWS];
    uint32_t top[ROWS * TOP];
    struct random random;
    (void)state;
    random_open(&random, 4, 4);
    for (size_t i = 0; i < ROWS * V; i++) logits[i] = (float)(2 * random_normal(&random));
    for (size_t i = 0; i < ROWS * V; i++) teacher[i] = (float)(2 * random_normal(&random));
    for (size_t c = 0; c < V; c++) weight[c] = (float)(0.5 + random_uniform(&random));
    for (size_t i = 0; i < ROWS; i++) labels[i] = i == 2 ? LABEL_IGNORED : (int32_t)random_below(&random, V);
    for (size_t i = 0; i < ROWS * TOP; i++) top[i] = (uint32_t)(3 * (i % TOP) + i / TOP % 3);
    struct logit_loss loss = {.labels = labels};
    check_loss(&loss, logits);
    loss.smoothing = 0.1;
    check_loss(&loss, logits);
    loss.class_weight = weight;
    check_loss(&loss, logits);
    loss.teacher = teacher;
    loss.temperature = 2;
    loss.alpha = 0.3;
    check_loss(&loss, logits);
    loss.teacher_top_id = top;
    loss.teacher_top = TOP;
    check_loss(&loss, logits);
    loss.labels = NULL;
    loss.alpha = 1;
    check_loss(&loss, logits);
}

/* alpha 0 is plain training, bit for bit; a teacher that agrees leaves nothing to learn. */
static void test_teacher_limits(void **state) {
    float logits[ROWS * V], plain[ROWS * V], taught[ROWS * V], scratch[4 * V];
    double row_loss[ROWS];
    int32_t labels[ROWS];
    struct logit_means means;
    (void)state;
    for (size_t i = 0; i < ROWS * V; i++) logits[i] = plain[i] = taught[i] = sinf((float)i);
    for (size_t i = 0; i < ROWS; i++) labels[i] = (int32_t)i;
    struct logit_loss loss = {.labels = labels, .temperature = 2};
    int before = threads_get();
    threads_set(1);
    logit_loss_means(&loss, ROWS, V, &means);
    double one = logit_loss_rows(&loss, &means, 0, ROWS, V, 1, plain, row_loss, scratch);
    loss.teacher = logits;
    assert_true(logit_loss_rows(&loss, &means, 0, ROWS, V, 1, taught, row_loss, scratch) == one);
    for (size_t i = 0; i < ROWS * V; i++) assert_true(taught[i] == plain[i]);
    loss.alpha = 1;
    memcpy(taught, logits, sizeof taught);
    assert_true(fabs(logit_loss_rows(&loss, &means, 0, ROWS, V, 1, taught, row_loss, scratch)) < 1e-6);
    for (size_t i = 0; i < ROWS * V; i++) assert_true(fabsf(taught[i]) < 1e-7f);
    threads_set(before);
}

/* ---- a large vocabulary ---------------------------------------------------------------------------------------- */

/* So many logits that rows go through in several tiles: the same as the batch's parts, whose rows fit in one. */
static void check_tiles(const char *family) {
    enum { LARGE = 60001, LENGTH = 190 }; /* 32 MiB are 139 rows */
    static const struct small_kind kind = {.name = "large", .family = "gpt2", .objective = SMALL_TOKENS};
    static const size_t lengths[] = {LENGTH, 12};
    struct small_training training;
    struct pass_options options = {.scale = 1};
    struct small_kind of = kind;
    of.family = family;
    of.untied = strcmp(family, "llama") == 0;
    of.vocabulary = LARGE;
    small_training_open(&training, &of, lengths, 2, 2);
    training.count = LENGTH;
    for (size_t i = 0; i < LENGTH; i++) training.rows[i] = (uint32_t)i, training.labels[i] = (int32_t)(i * 313 % LARGE);
    double whole = small_training_step(&training, &options), parts = 0;
    size_t values = small_training_values(&training);
    float *expected = room(values, sizeof *expected), *got = room(values, sizeof *got);
    small_training_gradients(&training, expected);
    training.count = LENGTH / 2;
    options.scale = 0.5;
    parts += 0.5 * small_training_step(&training, &options);
    memmove(training.rows, training.rows + LENGTH / 2, LENGTH / 2 * sizeof *training.rows);
    memmove(training.labels, training.labels + LENGTH / 2, LENGTH / 2 * sizeof *training.labels);
    options.add = true;
    parts += 0.5 * small_training_step(&training, &options);
    small_training_gradients(&training, got);
    double largest = 0, worst = 0;
    for (size_t i = 0; i < values; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        worst = fmax(worst, fabs((double)expected[i] - (double)got[i]));
    }
    assert_true(fabs(whole - parts) < 1e-6 * whole);
    if (!(worst <= 1e-5 * largest)) fail_msg("%s: off by %g of %g", family, worst, largest);
    free(expected);
    free(got);
    small_training_close(&training);
}

static void test_tiles_of_rows(void **state) {
    (void)state;
    check_tiles("gpt2");
    check_tiles("llama");
    check_tiles("bert");
}

/* No row to predict: no loss, and zeros where gradients of earlier steps were. */
static void test_no_rows(void **state) {
    static const size_t lengths[] = {9, 6};
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        struct small_training training;
        struct pass_options options = {.scale = 1};
        if (small_kinds[i].objective != SMALL_TOKENS) continue;
        small_training_open(&training, &small_kinds[i], lengths, 2, 2);
        small_training_step(&training, &options);
        training.count = 0;
        assert_true(small_training_step(&training, &options) == 0);
        size_t values = small_training_values(&training);
        float *gradients = room(values, sizeof *gradients);
        small_training_gradients(&training, gradients);
        for (size_t k = 0; k < values; k++) assert_true(gradients[k] == 0);
        free(gradients);
        small_training_close(&training);
    }
}

/* ---- two passes of an example --------------------------------------------------------------------------------- */

static const struct small_kind *kind_named(const char *name) {
    for (size_t i = 0; i < small_kind_count; i++)
        if (strcmp(small_kinds[i].name, name) == 0) return &small_kinds[i];
    fail_msg("no kind '%s'", name);
    return NULL;
}

/* Examples that differ by their dropout alone: the loss grows by how far they are apart, and gradients are its slopes.
 */
static void test_agreement(void **state) {
    static const size_t lengths[] = {9, 9, 6, 6};
    struct small_training training;
    struct pass_options options = {.scale = 1, .dropout = 0.2, .seed = 3};
    (void)state;
    small_training_open(&training, kind_named("bert classification"), lengths, 4, 2);
    for (size_t s = 0; s < 4; s += 2) {
        memcpy(training.ids + training.offset[s + 1], training.ids + training.offset[s], lengths[s] * sizeof(int32_t));
        training.labels[s + 1] = training.labels[s];
    }
    double alone = small_training_step(&training, &options);
    training.agreement = 1;
    double both = small_training_step(&training, &options);
    assert_true(both > alone + 1e-3);
    for (size_t i = 0; i < training.model.parameter_count; i++) {
        struct parameter *parameter = &training.model.parameters[i];
        if (!parameter->gradient) continue;
        size_t at = 0; /* the value that matters most */
        for (size_t k = 0; k < parameter->rows * parameter->columns; k++)
            if (fabsf(parameter->gradient[k]) > fabsf(parameter->gradient[at])) at = k;
        double got = (double)parameter->gradient[at],
               slope = small_training_slope(&training, &options, &parameter->value[at]);
        if (!(fabs(got - slope) <= 5e-3 * fabs(slope) + 1e-4)) fail_msg("%s: %g for %g", parameter->name, got, slope);
    }
    small_training_close(&training);
}

/* ---- definitions ---------------------------------------------------------------------------------------------- */

/* Losses from what model_forward gives of the same model and batch. */
static double defined_span(const struct small_training *training, const float *span) {
    double sum[2] = {0, 0}, count[2] = {0, 0};
    for (size_t s = 0; s < training->batch.sequences; s++)
        for (size_t side = 0; side < 2; side++) {
            int32_t label = side ? training->end[s] : training->labels[s];
            size_t first = training->offset[s], t = training->offset[s + 1] - first;
            double total = 0;
            if ((size_t)label >= t) continue;
            for (size_t i = 0; i < t; i++) total += exp((double)span[2 * (first + i) + side]);
            sum[side] += log(total) - (double)span[2 * (first + (size_t)label) + side];
            count[side]++;
        }
    return sum[0] / count[0] / 2 + sum[1] / count[1] / 2;
}

static double defined_similarity(const struct small_training *training, const float *hidden) {
    size_t C = training->model.config.width, B = training->batch.sequences;
    float *unit = room(B * C, sizeof *unit);
    double sum = 0;
    model_pool(&training->model, &training->batch, hidden, true, unit);
    for (size_t i = 0; i < B; i += 2) {
        double cosine = 0;
        for (size_t c = 0; c < C; c++) cosine += (double)unit[i * C + c] * (double)unit[(i + 1) * C + c];
        sum += pow(cosine - (double)training->target[i / 2], 2) / (double)(B / 2);
    }
    free(unit);
    return sum;
}

static double defined(const struct small_training *training, const struct model_output *output) {
    double sum = 0;
    if (training->kind->objective == SMALL_SPAN) return defined_span(training, output->span);
    if (training->kind->objective == SMALL_SIMILAR) return defined_similarity(training, output->hidden);
    for (size_t s = 0; s < training->batch.sequences; s++)
        sum += pow((double)output->logits[s] - (double)training->target[s], 2);
    return sum / (double)training->batch.sequences;
}

static void test_definitions(void **state) {
    static const char *const names[] = {"bert regression",
                                        "bert span",
                                        "distilbert span",
                                        "bert similarity",
                                        "bert similarity of first tokens",
                                        "bert similarity of last tokens"};
    static const size_t lengths[] = {9, 6, 4, 17};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct small_training training;
        struct pass_options options = {.scale = 1};
        struct workspace workspace = {0};
        struct model_output output;
        small_training_open(&training, kind_named(names[i]), lengths, 4, 2);
        if (training.kind->objective == SMALL_SPAN) training.labels[2] = 4; /* past the end: ignored */
        must(model_prepare(&training.model, GEMM_BUILTIN));
        must(model_forward(&training.model, &training.batch, NULL, &workspace, &output));
        double expected = defined(&training, &output), got = small_training_loss(&training, &options);
        if (!(fabs(got - expected) <= 1e-5 * expected)) fail_msg("%s: %.9g instead of %.9g", names[i], got, expected);
        workspace_close(&workspace);
        small_training_close(&training);
    }
}

/* ---- errors ------------------------------------------------------------------------------------------------- */

static void test_errors(void **state) {
    static const size_t lengths[] = {9, 6, 4};
    struct small_training training;
    struct pass_options options = {.scale = 1};
    struct logit_loss loss = {0};
    struct span_loss span = {0};
    double value;
    (void)state;
    small_training_open(&training, kind_named("gpt2"), lengths, 3, 2);
    struct pass *pass = &training.pass;
    must(pass_forward(pass, &training.batch, &options));
    loss.labels = training.labels;
    assert_int_equal(head_classify(pass, &loss, &value), E_UNSUPPORTED);
    assert_int_equal(head_regress(pass, training.target, &value), E_UNSUPPORTED);
    assert_int_equal(head_span(pass, &span, &value), E_UNSUPPORTED);
    assert_int_equal(head_similarity(pass, training.target, &value), E_SHAPE);
    assert_non_null(strstr(error_text(), "3"));
    training.labels[1] = 97;
    assert_int_equal(head_tokens(pass, training.rows, 2, &loss, &value), E_SHAPE);
    assert_non_null(strstr(error_text(), "label 1 is 97"));
    training.labels[1] = 3;
    training.rows[1] = 19;
    assert_int_equal(head_tokens(pass, training.rows, 2, &loss, &value), E_SHAPE);
    assert_int_equal(head_tokens(pass, training.rows, 20, &loss, &value), E_SHAPE);
    loss.labels = NULL;
    assert_int_equal(head_tokens(pass, training.rows, 1, &loss, &value), E_ARGUMENT);
    training.ids[3] = 97;
    assert_int_equal(pass_forward(pass, &training.batch, &options), E_SHAPE);
    assert_non_null(strstr(error_text(), "token 3 has id 97"));
    small_training_close(&training);
    small_training_open(&training, kind_named("bert classification"), lengths, 3, 2);
    must(pass_forward(&training.pass, &training.batch, &options));
    loss.labels = training.labels;
    assert_int_equal(head_tokens(&training.pass, training.rows, 1, &loss, &value), E_UNSUPPORTED);
    small_training_close(&training);
}

/* Every allocation of a first step may fail: E_MEMORY, and then the same pass goes on once there is memory. */
static int whole_step(struct small_training *training, double *loss) {
    int status = 0;
    struct pass_options options = {.scale = 1};
    struct logit_loss labels = {.labels = training->labels, .smoothing = 0.1};
    TRY(pass_forward(&training->pass, &training->batch, &options));
    TRY(head_tokens(&training->pass, training->rows, training->count, &labels, loss));
    if (!pass_want_block_gradient(&training->pass, 0)) {
        status = error_code();
        goto out;
    }
    TRY(pass_backward(&training->pass));
out:
    return status;
}

static void test_failing_allocations(void **state) {
    static const size_t lengths[] = {9, 6, 4};
    struct small_training training;
    struct pass pass;
    double loss = 0, expected;
    long n = 1;
    int status;
    (void)state;
    small_training_open(&training, kind_named("opt post-norm projected"), lengths, 3, 2);
    must(whole_step(&training, &expected));
    for (n = 1, status = -1; status < 0; n++) {
        memory_fail_after(n);
        status = pass_open(&pass, &training.model, NULL);
        assert_int_equal(status, memory_count() < n ? 0 : E_MEMORY);
        memory_fail_after(0);
    }
    assert_true(n > 5);
    pass_close(&training.pass);
    training.pass = pass;
    for (n = 1, status = -1; status < 0; n++) {
        memory_fail_after(n);
        status = whole_step(&training, &loss);
        assert_int_equal(status, memory_count() < n ? 0 : E_MEMORY);
        memory_fail_after(0);
        must(whole_step(&training, &loss));
        assert_true(loss == expected);
        if (status == 0) continue;
        pass_close(&training.pass);
        must(pass_open(&training.pass, &training.model, NULL));
    }
    assert_true(n > 3);
    small_training_close(&training);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logit_losses),  cmocka_unit_test(test_teacher_limits),
        cmocka_unit_test(test_tiles_of_rows), cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_agreement),     cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
