/* Attention losses against their definition in double and finite differences of it: plain and shared heads, whole,
 * causal and windowed, one set of vectors or two, sequences longer than a tile. */
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
#include "train/loss_attention.h"

#define H 4
#define D_STUDENT 6
#define D_TEACHER 5
#define LONGEST 70 /* more than one tile of rows */

static float *noise(size_t count, uint64_t seed) {
    struct random random;
    float *x = malloc(count * sizeof *x);
    random_open(&random, seed, random_stream("test_loss_attention", 0, 0));
    for (size_t i = 0; i < count; i++) x[i] = (float)(0.7 * random_normal(&random));
    return x;
}

static bool sees(const struct attention_task *task, size_t row, size_t key) {
    return !task->causal || (key <= row && (!task->window || key + task->window > row));
}

/* Score of one pair of tokens of a side whose vectors are doubles. */
static double score(const struct attention_side *side, const double *a, const double *b, size_t row, size_t key,
                    size_t h) {
    size_t D = side->D;
    double sum = 0;
    const double *x = a + (row * side->a_heads + h) * D,
                 *y = b + (key * side->b_heads + h / (side->a_heads / side->b_heads)) * D;
    for (size_t d = 0; d < D; d++) sum += x[d] * y[d];
    return sum / sqrt((double)D);
}

/* The loss as it reads; student a and b, teacher a and b in double. */
static double definition(const struct attention_task *task, const double *vectors[4]) {
    double total = 0;
    for (size_t s = 0; s < task->sequences; s++)
        for (size_t h = 0; h < task->student.a_heads; h++)
            for (size_t i = task->offset[s]; i < task->offset[s + 1]; i++) {
                double own[LONGEST], other[LONGEST], sum_own = 0, sum_other = 0, row = 0;
                size_t n = 0;
                for (size_t j = task->offset[s]; j < task->offset[s + 1]; j++) {
                    if (!sees(task, i - task->offset[s], j - task->offset[s])) continue;
                    own[n] = score(&task->student, vectors[0], vectors[1], i, j, h);
                    other[n] = score(&task->teacher, vectors[2], vectors[3], i, j, h);
                    sum_own += exp(own[n]);
                    sum_other += exp(other[n]);
                    n++;
                }
                for (size_t j = 0; j < n; j++)
                    row += task->kind == ATTENTION_SCORES
                               ? (own[j] - other[j]) * (own[j] - other[j]) / (double)n
                               : exp(other[j]) / sum_other * (other[j] - log(sum_other) - own[j] + log(sum_own));
                total += row;
            }
    return total / ((double)task->student.a_heads * (double)task->offset[task->sequences]);
}

static double *widen(const float *x, size_t count) {
    double *y = malloc(count * sizeof *y);
    for (size_t i = 0; i < count; i++) y[i] = (double)x[i];
    return y;
}

/* Check `samples` elements of a gradient, spread over it. */
static void check_gradient(const struct attention_task *task, const double *vectors[4], double *moved, size_t count,
                           const float *gradient, double factor) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)gradient[i]));
    assert_true(largest > 0);
    for (size_t i = 0; i < count; i += count / 40 + 1) {
        double saved = moved[i], up, down;
        moved[i] = saved + 1e-4, up = definition(task, vectors);
        moved[i] = saved - 1e-4, down = definition(task, vectors);
        moved[i] = saved;
        double difference = fabs((double)gradient[i] - factor * (up - down) / 2e-4);
        if (!(difference <= 1e-4 * largest)) fail_msg("element %zu is off by %g of %g", i, difference, largest);
    }
}

static void check(enum attention_loss kind, size_t key_heads, bool same, bool causal, size_t window) {
    const uint32_t offset[4] = {0, 3, 3 + LONGEST, 4 + LONGEST}; /* the last has one token */
    size_t T = offset[3], teacher_keys = same ? H : 2;
    float *a = noise(T * H * D_STUDENT, 1), *b = noise(T * key_heads * D_STUDENT, 2), *c = noise(T * H * D_TEACHER, 3),
          *e = noise(T * teacher_keys * D_TEACHER, 4);
    struct attention_task task = {.kind = kind,
                                  .student = {a, same ? a : b, H, same ? H : key_heads, D_STUDENT},
                                  .teacher = {c, same ? c : e, H, teacher_keys, D_TEACHER},
                                  .offset = offset,
                                  .sequences = 3,
                                  .causal = causal,
                                  .window = window};
    size_t a_count = T * H * D_STUDENT, b_count = T * task.student.b_heads * D_STUDENT;
    float *da = calloc(a_count, sizeof *da), *db = same ? da : calloc(b_count, sizeof *db);
    double *wide[4] = {widen(a, a_count), widen(task.student.b, b_count), widen(c, T * H * D_TEACHER),
                       widen(task.teacher.b, T * teacher_keys * D_TEACHER)};
    const double *vectors[4] = {wide[0], same ? wide[0] : wide[1], wide[2], same ? wide[2] : wide[3]};
    double loss, plain;

    assert_int_equal(loss_attention(&task, 0.5, da, db, &loss), 0);
    assert_int_equal(loss_attention(&task, 1, NULL, NULL, &plain), 0);
    assert_true(loss == plain);
    assert_true(fabs(loss - definition(&task, vectors)) <= 1e-5 * loss);
    check_gradient(&task, vectors, wide[0], a_count, da, 0.5);
    if (!same) check_gradient(&task, vectors, wide[1], b_count, db, 0.5);

    /* Three threads and gradients that are there already: the same bits, twice. */
    float *again = calloc(a_count, sizeof *again), *again_b = same ? again : calloc(b_count, sizeof *again_b);
    threads_set(3);
    assert_int_equal(loss_attention(&task, 0.5, again, again_b, &plain), 0);
    assert_true(loss == plain);
    assert_memory_equal(da, again, a_count * sizeof *da);
    assert_memory_equal(db, again_b, b_count * sizeof *db);
    threads_set(1);

    /* A student that is its teacher loses nothing. */
    task.teacher = task.student;
    assert_int_equal(loss_attention(&task, 1, NULL, NULL, &plain), 0);
    assert_true(fabs(plain) <= 1e-7);
    for (size_t i = 0; i < 4; i++) free(wide[i]);
    if (!same) {
        free(db);
        free(again_b);
    }
    free(a);
    free(b);
    free(c);
    free(e);
    free(da);
    free(again);
}

static void test_relations(void **state) {
    (void)state;
    check(ATTENTION_RELATION, H, true, false, 0); /* values with values, MiniLM */
    check(ATTENTION_RELATION, H, false, false, 0);
    check(ATTENTION_RELATION, 2, false, false, 0);
    check(ATTENTION_RELATION, H, true, true, 0);
    check(ATTENTION_RELATION, 1, false, true, 9);
}

static void test_scores(void **state) {
    (void)state;
    check(ATTENTION_SCORES, H, false, false, 0);
    check(ATTENTION_SCORES, 2, false, false, 0);
    check(ATTENTION_SCORES, 2, false, true, 0);
    check(ATTENTION_SCORES, H, false, true, 65);
}

/* Entries at or below -100 are 0 on their side and have no gradient. */
static void test_masked_scores(void **state) {
    const float student[4] = {1, -100, -1e4f, 2}, teacher[4] = {3, 5, -2e4f, -INFINITY};
    float gradient[4] = {0};
    (void)state;
    assert_true(loss_attention_scores(4, student, teacher, 1, gradient) == (4.0 + 25 + 0 + 4) / 4);
    assert_true(gradient[0] == -1 && gradient[1] == 0 && gradient[2] == 0 && gradient[3] == 1);
    assert_true(loss_attention_scores(0, student, teacher, 1, gradient) == 0);
}

static void test_faults(void **state) {
    const uint32_t offset[2] = {0, 2};
    float x[8] = {0};
    struct attention_side side = {x, x, 1, 1, 4};
    struct attention_task task = {ATTENTION_RELATION, side, side, offset, 1, false, 0};
    double loss;
    (void)state;
    for (long n = 1; n <= 2; n++) {
        memory_fail_after(n);
        assert_int_equal(loss_attention(&task, 1, NULL, NULL, &loss), E_MEMORY);
    }
    memory_fail_after(0);
    assert_int_equal(loss_attention(&task, 1, NULL, NULL, &loss), 0);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relations),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_masked_scores),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
