/* Losses over logits and hidden states beyond what the golden files hold: class weights by their definition, the
 * teacher's share for spans, threads, faults. */
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
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "train/loss.h"
#include "train/loss_hidden.h"

#define ROWS 203
#define CLASSES 2003

static float *noise(size_t count, uint64_t seed) {
    struct random random;
    float *x = malloc(count * sizeof *x);
    random_open(&random, seed, random_stream("test_loss", 0, 0));
    for (size_t i = 0; i < count; i++) x[i] = (float)(2 * random_normal(&random));
    return x;
}

/* The whole loss in double, as its definition reads: what torch computes. */
static double definition(const double *z, size_t rows, size_t V, const struct logit_loss *aim) {
    double labels = 0, entropy = 0, divergence = 0, alpha = aim->teacher ? aim->alpha : 0, T = aim->temperature;
    for (size_t r = 0; r < rows; r++, z += V) {
        double sum = 0, soft = 0, teacher_soft = 0, own = 0;
        for (size_t i = 0; i < V; i++) sum += exp(z[i]);
        if (aim->labels[r] != LABEL_IGNORED) {
            double w = aim->class_weight ? (double)aim->class_weight[aim->labels[r]] : 1;
            own = (1 - aim->smoothing) * w * (log(sum) - z[aim->labels[r]]);
            for (size_t i = 0; i < V; i++)
                own += aim->smoothing / (double)V * (aim->class_weight ? (double)aim->class_weight[i] : 1) *
                       (log(sum) - z[i]);
            labels += w;
            entropy += own;
        }
        if (alpha == 0) continue;
        const float *teacher = aim->teacher + r * V;
        for (size_t i = 0; i < V; i++) soft += exp(z[i] / T), teacher_soft += exp((double)teacher[i] / T);
        for (size_t i = 0; i < V; i++)
            divergence += exp((double)teacher[i] / T) / teacher_soft *
                          ((double)teacher[i] / T - log(teacher_soft) - z[i] / T + log(soft));
    }
    return (1 - alpha) * entropy / labels + alpha * T * T * divergence / (double)rows;
}

static void test_against_the_definition(void **state) {
    enum { rows = 5, V = 7 };
    float *logits = noise(rows * V, 1), *teacher = noise(rows * V, 2), gradient[rows * V];
    const float weight[V] = {0.5f, 2, 1, 0, 3, 1, 0.25f};
    const int32_t labels[rows] = {1, 4, LABEL_IGNORED, 0, 6};
    double z[rows * V], loss;
    (void)state;
    for (size_t i = 0; i < rows * V; i++) z[i] = (double)logits[i];
    for (int which = 0; which < 8; which++) {
        struct logit_loss aim = {.labels = labels,
                                 .class_weight = which & 1 ? weight : NULL,
                                 .smoothing = which & 2 ? 0.2 : 0,
                                 .teacher = which & 4 ? teacher : NULL,
                                 .temperature = 3,
                                 .alpha = 0.3};
        memcpy(gradient, logits, sizeof gradient);
        assert_int_equal(loss_logits(gradient, rows, V, &aim, 0.5, &loss), 0);
        double expected = definition(z, rows, V, &aim);
        assert_true(fabs(loss - expected) <= 1e-6 * fabs(expected));
        for (size_t i = 0; i < rows * V; i++) {
            double saved = z[i], up, down;
            z[i] = saved + 1e-5, up = definition(z, rows, V, &aim);
            z[i] = saved - 1e-5, down = definition(z, rows, V, &aim);
            z[i] = saved;
            assert_true(fabs((double)gradient[i] - 0.5 * (up - down) / 2e-5) <= 1e-6);
        }
    }
    free(logits);
    free(teacher);
}

/* Two passes of an example: value in double, gradients by differences, nothing where both say the same. */
static double apart(const double *z, size_t pairs, size_t V, const int32_t *labels, const float *weight) {
    double sum = 0, all = 0;
    for (size_t i = 0; i < pairs; i++, z += 2 * V) {
        double p = 0, q = 0, w = weight ? (double)weight[labels[2 * i]] : 1, divergence = 0;
        for (size_t c = 0; c < V; c++) p += exp(z[c]), q += exp(z[V + c]);
        for (size_t c = 0; c < V; c++)
            divergence += (exp(z[c]) / p - exp(z[V + c]) / q) * (z[c] - z[V + c] - log(p) + log(q));
        sum += w * divergence / 2;
        all += w;
    }
    return sum / all;
}

static void test_two_passes(void **state) {
    enum { pairs = 3, V = 4, count = 2 * pairs * V };
    float *logits = noise(count, 3), gradient[count];
    const float weight[V] = {0.5f, 2, 0, 3};
    const int32_t labels[2 * pairs] = {1, 1, 2, 2, 3, 3};
    double z[count];
    (void)state;
    for (size_t i = 0; i < count; i++) z[i] = (double)logits[i];
    for (int weighed = 0; weighed < 2; weighed++) {
        const float *w = weighed ? weight : NULL;
        double loss = loss_agreement(logits, pairs, V, labels, w, 0.7, 0.5, gradient);
        assert_true(fabs(loss - 0.7 * apart(z, pairs, V, labels, w)) <= 1e-12);
        for (size_t i = 0; i < count; i++) {
            double kept = z[i], up, down;
            z[i] = kept + 1e-5, up = apart(z, pairs, V, labels, w);
            z[i] = kept - 1e-5, down = apart(z, pairs, V, labels, w);
            z[i] = kept;
            assert_true(fabs((double)gradient[i] - 0.5 * 0.7 * (up - down) / 2e-5) <= 1e-6);
        }
    }
    memcpy(logits + V, logits, V * sizeof *logits);
    assert_true(loss_agreement(logits, 1, V, labels, NULL, 1, 1, gradient) == 0);
    for (size_t i = 0; i < 2 * V; i++) assert_true(gradient[i] == 0);
    logits[1] = NAN;
    assert_true(isnan(loss_agreement(logits, 1, V, labels, NULL, 1, 1, gradient)));
    logits[1] = 200, logits[V + 1] = -200; /* far apart, and finite */
    assert_true(isfinite(loss_agreement(logits, 1, V, labels, NULL, 1, 1, gradient)));
    free(logits);
}

static void test_rows_that_take_no_part(void **state) {
    static const float logits[6] = {1, 2, 3, 4, 5, 6}, teacher[6] = {0};
    const int32_t labels[2] = {LABEL_IGNORED, LABEL_IGNORED}, counted[2] = {0, 1};
    struct logit_loss aim = {.labels = labels};
    float gradient[6];
    double loss = 1;
    (void)state;
    memcpy(gradient, logits, sizeof gradient);
    assert_int_equal(loss_logits(gradient, 2, 3, &aim, 1, &loss), 0);
    assert_true(loss == 0);
    for (size_t i = 0; i < 6; i++) assert_true(gradient[i] == 0);
    aim = (struct logit_loss){.labels = labels, .teacher = teacher, .temperature = 1, .alpha = 0.5, .counted = counted};
    memcpy(gradient, logits, sizeof gradient);
    assert_int_equal(loss_logits(gradient, 2, 3, &aim, 1, &loss), 0);
    assert_true(loss > 0);
    for (size_t i = 0; i < 6; i++) assert_true(i < 3 ? gradient[i] == 0 : gradient[i] != 0);
    memcpy(gradient, logits, sizeof gradient);
    gradient[4] = NAN;
    assert_int_equal(loss_logits(gradient, 2, 3, &aim, 1, &loss), 0);
    assert_true(isnan(loss)); /* and does not hide */
    assert_int_equal(loss_logits(gradient, 0, 3, &aim, 1, &loss), 0);
    assert_true(loss == 0);
    const int32_t zero[2] = {0, 0};
    const float none[3] = {0, 1, 1}; /* all labels weigh nothing */
    aim = (struct logit_loss){.labels = zero, .class_weight = none};
    memcpy(gradient, logits, sizeof gradient);
    assert_int_equal(loss_logits(gradient, 2, 3, &aim, 1, &loss), 0);
    assert_true(loss == 0 && gradient[0] == 0 && gradient[5] == 0);
}

/* With alpha 0 the teacher changes no bit. */
static void test_no_share_of_the_teacher(void **state) {
    float *teacher = noise(ROWS * CLASSES, 4), *with = noise(ROWS * CLASSES, 5), *without = noise(ROWS * CLASSES, 5);
    int32_t labels[ROWS];
    double one, two;
    (void)state;
    for (size_t i = 0; i < ROWS; i++) labels[i] = (int32_t)(i * 13 % CLASSES);
    struct logit_loss plain = {.labels = labels, .smoothing = 0.1}, aim = plain;
    aim.teacher = teacher;
    aim.temperature = 2;
    assert_int_equal(loss_logits(without, ROWS, CLASSES, &plain, 1, &one), 0);
    assert_int_equal(loss_logits(with, ROWS, CLASSES, &aim, 1, &two), 0);
    assert_true(one == two);
    assert_memory_equal(with, without, ROWS * CLASSES * sizeof *with);
    free(teacher);
    free(with);
    free(without);
}

static void all_losses(float *gradient, double loss[5]) {
    float *student = noise(ROWS * CLASSES, 7), *teacher = noise(ROWS * CLASSES, 8), *weight = noise(64 * CLASSES, 9);
    float *projected = calloc(ROWS, 64 * sizeof(float));
    int32_t labels[ROWS];
    for (size_t i = 0; i < ROWS; i++) labels[i] = (int32_t)(i * 13 % CLASSES);
    struct logit_loss aim = {.labels = labels, .smoothing = 0.1, .teacher = teacher, .temperature = 2, .alpha = 0.5};
    memcpy(gradient, student, ROWS * CLASSES * sizeof *gradient);
    assert_int_equal(loss_logits(gradient, ROWS, CLASSES, &aim, 1, &loss[0]), 0);
    loss[1] = loss_cosine(ROWS, CLASSES, student, teacher, 1, gradient);
    loss[2] = loss_mean_square(ROWS, CLASSES, student, teacher, 1, gradient);
    projection_forward(ROWS, CLASSES, 64, student, weight, projected);
    projection_backward(ROWS, CLASSES, 64, student, weight, projected, gradient, false, weight);
    loss[3] = loss_mean_square(ROWS, 64, projected, teacher, 1, NULL);
    loss[4] = loss_mean_square(63, CLASSES, weight, weight + CLASSES, 1, NULL);
    free(student);
    free(teacher);
    free(weight);
    free(projected);
}

static void test_same_bits_at_any_thread_count(void **state) {
    float *one = calloc(ROWS * CLASSES, sizeof *one), *three = calloc(ROWS * CLASSES, sizeof *three);
    double loss_one[5], loss_three[5];
    (void)state;
    threads_set(1);
    all_losses(one, loss_one);
    threads_set(3);
    all_losses(three, loss_three);
    threads_set(threads_available());
    assert_memory_equal(one, three, ROWS * CLASSES * sizeof *one);
    assert_memory_equal(loss_one, loss_three, sizeof loss_one);
    free(one);
    free(three);
}

/* Two sequences with a teacher, and a position outside: each side's rows as loss_logits sees them. */
static void test_span_with_a_teacher(void **state) {
    enum { T = 9 };
    float *logits = noise(2 * T, 10), *teacher = noise(2 * T, 11), *gradient = noise(2 * T, 10);
    const uint32_t offset[3] = {0, 4, T};
    const int32_t start[2] = {3, 5}, end[2] = {0, 2}; /* 5 is outside the five tokens of the second */
    struct span_loss aim = {.start = start, .end = end, .teacher = teacher, .temperature = 2, .alpha = 0.4};
    double loss, expected = 0;
    (void)state;
    assert_int_equal(loss_span(gradient, offset, 2, &aim, 1, &loss), 0);
    for (size_t side = 0; side < 2; side++)
        for (size_t s = 0; s < 2; s++) {
            float soft_gradient[5], hard_gradient[5], t[5];
            size_t n = offset[s + 1] - offset[s];
            int32_t label = (side ? end : start)[s];
            if ((size_t)label >= n) label = LABEL_IGNORED;
            double hard, soft, label_share = 0.6 * (side ? 0.5 : 1); /* of two ends, of the one start inside */
            for (size_t i = 0; i < n; i++) {
                soft_gradient[i] = hard_gradient[i] = logits[2 * (offset[s] + i) + side];
                t[i] = teacher[2 * (offset[s] + i) + side];
            }
            struct logit_loss kl = {.teacher = t, .temperature = 2, .alpha = 1}, ce = {.labels = &label};
            assert_int_equal(loss_logits(soft_gradient, 1, n, &kl, 1, &soft), 0);
            assert_int_equal(loss_logits(hard_gradient, 1, n, &ce, 1, &hard), 0);
            expected += 0.5 * (0.4 * 0.5 * soft + label_share * hard);
            for (size_t i = 0; i < n; i++) {
                double wanted = 0.5 * (0.4 * 0.5 * (double)soft_gradient[i] + label_share * (double)hard_gradient[i]);
                assert_true(fabs((double)gradient[2 * (offset[s] + i) + side] - wanted) <= 1e-6);
            }
        }
    assert_true(fabs(loss - expected) <= 1e-6 * expected);
    free(logits);
    free(teacher);
    free(gradient);
}

static void test_faults(void **state) {
    float logits[6] = {0}, gradient[6] = {0}, teacher[6] = {0};
    const int32_t labels[2] = {0, 1}, wrong[2] = {0, 3};
    const uint32_t offset[2] = {0, 3}, ids[2] = {0, 3};
    struct logit_loss aim = {.labels = labels, .teacher = teacher, .temperature = 1, .alpha = 0.5};
    struct span_loss span = {.start = labels, .end = labels};
    double loss;
    (void)state;
    for (long n = 1; n <= 2; n++) {
        memory_fail_after(n);
        assert_int_equal(loss_logits(logits, 2, 3, &aim, 1, &loss), E_MEMORY);
    }
    memory_fail_after(1);
    assert_int_equal(loss_span(logits, offset, 1, &span, 1, &loss), E_MEMORY);
    memory_fail_after(0);
    aim.labels = wrong;
    assert_int_equal(loss_logits(logits, 2, 3, &aim, 1, &loss), E_SHAPE);
    aim.labels = NULL;
    assert_int_equal(loss_logits(logits, 2, 3, &aim, 1, &loss), E_ARGUMENT);
    aim =
        (struct logit_loss){.teacher = teacher, .temperature = 1, .alpha = 1, .teacher_top_id = ids, .teacher_top = 1};
    assert_int_equal(loss_logits(logits, 2, 3, &aim, 1, &loss), E_SHAPE);
    /* Rows of zeros have no direction. */
    assert_true(loss_cosine(2, 3, logits, teacher, 1, gradient) == 1);
    for (size_t i = 0; i < 6; i++) assert_true(gradient[i] == 0);
    assert_true(isnan(loss_cosine(1, 1, (float[]){NAN}, teacher, 1, NULL)));
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_the_definition),
        cmocka_unit_test(test_two_passes),
        cmocka_unit_test(test_rows_that_take_no_part),
        cmocka_unit_test(test_no_share_of_the_teacher),
        cmocka_unit_test(test_same_bits_at_any_thread_count),
        cmocka_unit_test(test_span_with_a_teacher),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
