/* Multiplication by packed weights against double arithmetic on the unpacked values, in any batch, by any thread count,
 * alone or with other matrices that share the input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "formats/weight.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "packed_weight.h"

#define UNIT 0x1p-24

/* y against double arithmetic on the unpacked values; integer formats allow for the quantized input. */
static void multiply_and_compare(const char *format, struct weight_shape shape, size_t T, enum gemm_backend backend,
                                 bool with_bias) {
    size_t R = shape.rows, N = shape.columns;
    float *w = normal_new(R * N, 11), *x = normal_new(T * N, 12), *bias = normal_new(R, 13), *y = normal_new(T * R, 14);
    struct weight weight;
    struct weight_scratch scratch = {0};
    packed_new(&weight, format, shape, w);
    assert_int_equal(weight_prepare(&weight, backend), 0);
    assert_int_equal(weight_prepare(&weight, backend), 0);
    assert_int_equal(weight_matmul(&weight, T, x, with_bias ? bias : NULL, y, &scratch), 0);
    assert_int_equal(weight.format->unpack(&shape, weight.packed, w), 0);
    bool integer = strcmp(format, "f32") != 0;
    for (size_t t = 0; t < T; t++) {
        double largest = 0;
        for (size_t n = 0; n < N; n++) largest = fmax(largest, fabs((double)x[t * N + n]));
        double step = (double)((float)largest / 127.0f);
        for (size_t r = 0; r < R; r++) {
            double exact = with_bias ? (double)bias[r] : 0, magnitude = fabs(exact);
            for (size_t n = 0; n < N; n++) {
                double value = (double)x[t * N + n];
                if (integer) value = step * nearbyint((double)(x[t * N + n] / (float)step));
                exact += value * (double)w[r * N + n];
                magnitude += fabs(value * (double)w[r * N + n]);
            }
            double bound = (double)(integer ? N / 32 + 16 : N + 2) * UNIT * magnitude * 1.01;
            if (!(fabs((double)y[t * R + r] - exact) <= bound))
                fail_msg("%s %s R %zu N %zu T %zu: y[%zu][%zu] is %.9g, expected %.9g within %g", format,
                         gemm_backend_name(backend), R, N, T, t, r, (double)y[t * R + r], exact, bound);
        }
    }
    weight_scratch_close(&scratch);
    weight_close(&weight);
    memory_release(w), memory_release(x), memory_release(bias), memory_release(y);
}

static void products_match_double_arithmetic(void **state) {
    (void)state;
    static const struct weight_shape shapes[] = {{.rows = 8, .columns = 64},
                                                 {.rows = 37, .columns = 129},
                                                 {.rows = 144, .columns = 96},
                                                 {.rows = 1, .columns = 1}};
    static const size_t tokens[] = {1, 2, 16, 37};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            struct weight_shape shape = shapes[s];
            bool bias = (s + i) % 2;
            multiply_and_compare("f32", shape, tokens[i], GEMM_BUILTIN, bias);
            multiply_and_compare("f32", shape, tokens[i], GEMM_OPENBLAS, bias);
            multiply_and_compare("int8", shape, tokens[i], GEMM_BUILTIN, bias);
            multiply_and_compare("int8_affine", shape, tokens[i], GEMM_BUILTIN, bias);
            for (shape.group = 32; shape.group <= 128; shape.group *= 2) {
                shape.symmetric = !shape.symmetric;
                multiply_and_compare("int8_groups", shape, tokens[i], GEMM_BUILTIN, bias);
                multiply_and_compare("int4", shape, tokens[i], GEMM_BUILTIN, bias);
            }
        }
}

static void onednn_products_match_double_arithmetic(void **state) {
    (void)state;
#if defined(THREADS_POSIX)
    printf("skipped: oneDNN is not in this build, or its OpenMP threads cannot be seen by ThreadSanitizer\n");
    skip();
#endif
    static const size_t tokens[] = {1, 16, 37, 64};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        multiply_and_compare("f32", (struct weight_shape){.rows = 37, .columns = 129}, tokens[i], GEMM_ONEDNN, i % 2);
        multiply_and_compare("f32", (struct weight_shape){.rows = 256, .columns = 256}, tokens[i], GEMM_ONEDNN, true);
    }
}

/* One object serves many numbers of tokens, with and without bias, beyond its cache. */
static void onednn_serves_changing_batches(void **state) {
    (void)state;
#if defined(THREADS_POSIX)
    printf("skipped: oneDNN is not in this build, or its OpenMP threads cannot be seen by ThreadSanitizer\n");
    skip();
#endif
    enum { R = 20, N = 24, MOST = 40 };
    float *w = normal_new(R * N, 1), *x = normal_new(MOST * N, 2), *bias = normal_new(R, 3),
          *y = normal_new(MOST * R, 4);
    struct weight weight;
    struct weight_scratch scratch = {0};
    packed_new(&weight, "f32", (struct weight_shape){.rows = R, .columns = N}, w);
    assert_int_equal(weight_prepare(&weight, GEMM_ONEDNN), 0);
    assert_true(weight.prepared_bytes >= R * N * 4);
    for (size_t round = 0; round < 2; round++)
        for (size_t T = 1; T <= MOST; T++) {
            const float *b = T % 2 ? bias : NULL;
            assert_int_equal(weight_matmul(&weight, T, x, b, y, &scratch), 0);
            double exact = b ? (double)b[R - 1] : 0;
            for (size_t n = 0; n < N; n++) exact += (double)x[(T - 1) * N + n] * (double)w[(R - 1) * N + n];
            assert_true(fabs((double)y[T * R - 1] - exact) < 1e-4);
        }
    /* Another backend on the same object. */
    assert_int_equal(weight_prepare(&weight, GEMM_BUILTIN), 0);
    assert_int_equal(weight_matmul(&weight, 1, x, NULL, y, &scratch), 0);
    weight_scratch_close(&scratch);
    weight_close(&weight);
    memory_release(w), memory_release(x), memory_release(bias), memory_release(y);
}

/* Row t of a batch has the bits of the row multiplied alone, on one thread and on two, at every level of
 * instruction sets; integer formats give the same bits at all levels. */
static void batches_and_threads_do_not_show(void **state) {
    (void)state;
    enum { T = 37, R = 150, N = 264 };
    static const char *const formats[] = {"f32", "int8", "int4", "int8_affine", "int8_groups"};
    float *w = normal_new(R * N, 21), *x = normal_new(T * N, 22), *bias = normal_new(R, 23);
    float *one = normal_new(T * R, 24), *two = normal_new(T * R, 25), *alone = normal_new(R, 26),
          *first = normal_new(T * R, 1);
    static const uint32_t masks[] = {0, UINT32_MAX};
    for (size_t f = 0; f < 5; f++)
        for (size_t m = 0; m < 2; m++) {
            struct weight weight;
            struct weight_scratch scratch = {0};
            kernels_open(masks[m]);
            packed_new(&weight, formats[f],
                       (struct weight_shape){.rows = R, .columns = N, .group = f == 2 || f == 4 ? 64 : 0}, w);
            assert_int_equal(weight_prepare(&weight, GEMM_BUILTIN), 0);
            threads_set(1);
            assert_int_equal(weight_matmul(&weight, T, x, bias, one, &scratch), 0);
            threads_set(2);
            assert_int_equal(weight_matmul(&weight, T, x, bias, two, &scratch), 0);
            assert_memory_equal(one, two, T * R * sizeof *one);
            for (size_t t = 0; t < T; t++) {
                assert_int_equal(weight_matmul(&weight, 1, x + t * N, bias, alone, &scratch), 0);
                assert_memory_equal(alone, one + t * R, R * sizeof *one);
            }
            if (f > 0 && m > 0) assert_memory_equal(one, first, T * R * sizeof *one);
            memcpy(first, one, T * R * sizeof *one);
            weight_scratch_close(&scratch);
            weight_close(&weight);
        }
    memory_release(w), memory_release(x), memory_release(bias), memory_release(one);
    memory_release(two), memory_release(alone), memory_release(first);
}

/* Three matrices of different formats over one input give what each gives alone, and are counted once each. */
static void shared_input_equals_separate_products(void **state) {
    (void)state;
    enum { T = 19, N = 200 };
    static const size_t rows[] = {48, 17, 100, 33};
    static const char *const formats[] = {"int8", "f32", "int4", "int4"};
    static const size_t groups[] = {0, 0, 64, 128};
    struct weight weights[4];
    const struct weight *pointers[4];
    float *x = normal_new(T * N, 31), *together[4], *biases[4], *apart = normal_new(T * 128, 33);
    struct weight_scratch scratch = {0};
    for (size_t i = 0; i < 4; i++) {
        float *w = normal_new(rows[i] * N, 40 + i);
        packed_new(&weights[i], formats[i],
                   (struct weight_shape){.rows = rows[i], .columns = N, .group = groups[i], .symmetric = i == 3}, w);
        assert_int_equal(weight_prepare(&weights[i], GEMM_BUILTIN), 0);
        memory_release(w);
        pointers[i] = &weights[i];
        together[i] = normal_new(T * rows[i], 50);
        biases[i] = i == 1 ? NULL : normal_new(rows[i], 60);
    }
    struct kernel_counters before = kernel_counters;
    assert_int_equal(weight_matmul_shared(pointers, (const float *const *)biases, together, 4, T, x, &scratch), 0);
    assert_int_equal(kernel_counters.multiply_adds - before.multiply_adds, T * N * (48 + 17 + 100 + 33));
    assert_int_equal(kernel_counters.tokens - before.tokens, T);
    for (size_t i = 0; i < 4; i++) {
        before = kernel_counters;
        assert_int_equal(weight_matmul(&weights[i], T, x, biases[i], apart, &scratch), 0);
        assert_int_equal(kernel_counters.weight_bytes - before.weight_bytes, weights[i].packed_bytes);
        assert_memory_equal(apart, together[i], T * rows[i] * sizeof *apart);
    }
    assert_int_equal(weight_matmul_shared(pointers, NULL, together, 4, 0, x, &scratch), 0);
    assert_int_equal(weight_matmul_shared(pointers, NULL, together, 0, 1, x, &scratch), E_ARGUMENT);
    weights[2].shape.columns++;
    assert_int_equal(weight_matmul_shared(pointers, NULL, together, 4, 1, x, &scratch), E_SHAPE);
    weights[2].shape.columns--;
    void *prepared = weights[0].prepared;
    weights[0].prepared = NULL;
    assert_int_equal(weight_matmul(&weights[0], T, x, NULL, apart, &scratch), E_STATE);
    weights[0].prepared = prepared;
    for (size_t i = 0; i < 4; i++) {
        weight_close(&weights[i]);
        memory_release(together[i]);
        memory_release(biases[i]);
    }
    weight_scratch_close(&scratch);
    memory_release(x), memory_release(apart);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_double_arithmetic),
        cmocka_unit_test(onednn_products_match_double_arithmetic),
        cmocka_unit_test(onednn_serves_changing_batches),
        cmocka_unit_test(batches_and_threads_do_not_show),
        cmocka_unit_test(shared_input_equals_separate_products),
    };
    return cmocka_run_group_tests(tests, open_kernels, NULL);
}
