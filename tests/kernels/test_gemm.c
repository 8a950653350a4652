/* gemm_f32 against double arithmetic: every transposition, strides, alpha and beta; OpenBLAS and the C loop of
 * builds without libraries (compiled here under another name). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/gemm.h"

#ifndef BACKENDS_NONE
#define BACKENDS_NONE
#define WITH_LIBRARY
#endif
#define gemm_f32 gemm_f32_loop
#define gemm_library gemm_library_loop
void gemm_f32_loop(bool transpose_a, bool transpose_b, size_t M, size_t N, size_t K, float alpha, const float *a,
                   size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
const char *gemm_library_loop(void);
#include "../../core/kernels/gemm.c"
#undef gemm_f32
#undef gemm_library

typedef void gemm_function(bool transpose_a, bool transpose_b, size_t M, size_t N, size_t K, float alpha,
                           const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

enum { MOST = 40 * 45 };

static void check_case(gemm_function *gemm, struct random *random, bool ta, bool tb, float alpha, float beta) {
    static float a[MOST], b[MOST], c[MOST], before[MOST];
    size_t M = 1 + random_below(random, 33), N = 1 + random_below(random, 33), K = 1 + random_below(random, 33);
    size_t lda = (ta ? M : K) + random_below(random, 6), ldb = (tb ? K : N) + random_below(random, 6);
    size_t ldc = N + random_below(random, 6);
    for (size_t i = 0; i < MOST; i++) {
        a[i] = (float)random_normal(random);
        b[i] = (float)random_normal(random);
        /* With beta 0 the old values, even NaN, must not be looked at. */
        before[i] = c[i] = beta == 0.0f ? NAN : (float)random_normal(random);
    }
    gemm(ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc);
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < ldc && m * ldc + n < MOST; n++) {
            size_t at = m * ldc + n;
            if (n >= N) {
                assert_memory_equal(&c[at], &before[at], sizeof *c);
                continue;
            }
            double sum = 0, magnitude = 0;
            for (size_t k = 0; k < K; k++) {
                double product =
                    (double)(ta ? a[k * lda + m] : a[m * lda + k]) * (double)(tb ? b[n * ldb + k] : b[k * ldb + n]);
                sum += product, magnitude += fabs(product);
            }
            double old = beta == 0.0f ? 0 : (double)beta * (double)before[at];
            double exact = (double)alpha * sum + old;
            double bound = (double)(K + 4) * 0x1p-24 * (fabs((double)alpha) * magnitude + fabs(old)) * 1.01;
            if (!(fabs((double)c[at] - exact) <= bound))
                fail_msg("M %zu N %zu K %zu transposed %d %d alpha %g beta %g: c[%zu][%zu] is %g, expected %g", M, N, K,
                         ta, tb, (double)alpha, (double)beta, m, n, (double)c[at], exact);
        }
}

static void check_all(gemm_function *gemm) {
    static const float factors[][2] = {{1, 0}, {1, 1}, {0.5f, -2}, {0, 1}};
    struct random random;
    random_open(&random, 4, 0);
    for (int round = 0; round < 40; round++)
        for (int f = 0; f < 4; f++) check_case(gemm, &random, round & 1, round & 2, factors[f][0], factors[f][1]);
}

static void library_multiplies_every_transposition(void **state) { (void)state, check_all(gemm_f32); }
static void loop_multiplies_every_transposition(void **state) { (void)state, check_all(gemm_f32_loop); }

struct product {
    const float *a, *b;
    float *c;
};

static void multiply_in_body(void *context, size_t begin, size_t end, int worker) {
    const struct product *p = context;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        gemm_f32(false, true, 192, 192, 192, 1, p->a, 192, p->b, 192, 0, p->c + i * 192 * 192, 192);
}

/* Outside a parallel loop as inside one: one thread, hence the same bits whatever threads_set says. */
static void threads_do_not_show(void **state) {
    (void)state;
    enum { SIDE = 192, TIMES = 3 };
    static float a[SIDE * SIDE], b[SIDE * SIDE], outside[SIDE * SIDE], inside[TIMES * SIDE * SIDE];
    struct random random;
    random_open(&random, 5, 0);
    for (size_t i = 0; i < SIDE * SIDE; i++) a[i] = (float)random_normal(&random), b[i] = (float)random_normal(&random);
    for (int threads = 1; threads <= 2; threads++) {
        threads_set(threads);
        gemm_f32(false, true, SIDE, SIDE, SIDE, 1, a, SIDE, b, SIDE, 0, outside, SIDE);
        struct product product = {a, b, inside};
        parallel_for(TIMES, 1, multiply_in_body, &product);
        for (size_t i = 0; i < TIMES; i++) assert_memory_equal(inside + i * SIDE * SIDE, outside, sizeof outside);
    }
}

static void library_has_a_name(void **state) {
    (void)state;
    printf("%s\n", gemm_library());
#ifdef WITH_LIBRARY
    assert_non_null(strstr(gemm_library(), "OpenBLAS "));
    assert_non_null(strchr(gemm_library(), '('));
#endif
    assert_string_equal(gemm_library_loop(), "C");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(library_multiplies_every_transposition),
        cmocka_unit_test(loop_multiplies_every_transposition),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(library_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
