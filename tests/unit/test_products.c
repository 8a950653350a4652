/* Weights in 16 bits (layout, rounding, hostile bytes, products) and epilogues: the same bits as the work done
 * afterwards, every row handed over once. */
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

static void weight_new(struct weight *weight, const char *name, size_t rows, size_t columns, const float *w,
                       enum gemm_backend backend) {
    packed_new(weight, name, (struct weight_shape){.rows = rows, .columns = columns, .symmetric = true}, w);
    assert_int_equal(weight_prepare(weight, backend), 0);
}

/* Two rows past a panel, an odd number of columns: where each value lies, by hand from the layouts. A third panel of
 * f16 has no other beside it. */
static void values_lie_where_the_layouts_say(void **state) {
    (void)state;
    enum { R = 34, N = 5 };
    float *w = normal_new(R * N, 1), back[R * N];
    struct weight weight;
    weight_new(&weight, "f16", R, N, w, GEMM_BUILTIN);
    assert_int_equal(weight.packed_bytes, 3 * 16 * N * 2);
    const uint16_t *bits = weight.packed;
    assert_int_equal(bits[3 * 32 + 7], half_from_float(w[7 * N + 3]));
    assert_int_equal(bits[2 * 32 + 17], half_from_float(w[17 * N + 2]));
    assert_int_equal(bits[N * 32 + 2 * 16 + 1], half_from_float(w[33 * N + 2]));
    assert_int_equal(bits[N * 32 + 2 * 16 + 2], 0); /* row 34 */
    assert_int_equal(weight.format->unpack(&weight.shape, weight.packed, back), 0);
    for (size_t i = 0; i < R * N; i++) assert_true(back[i] == half_to_float(half_from_float(w[i])));
    weight_close(&weight);

    weight_new(&weight, "bf16", R, N, w, GEMM_BUILTIN);
    assert_int_equal(weight.packed_bytes, 3 * 16 * 6 * 2);
    bits = weight.packed;
    assert_int_equal(bits[1 * 32 + 7 * 2 + 1], bf16_from_float(w[7 * N + 3]));
    assert_int_equal(bits[16 * 6 + 2 * 32 + 1 * 2], bf16_from_float(w[17 * N + 4]));
    assert_int_equal(bits[2 * 32 + 7 * 2 + 1], 0); /* column 5 */
    assert_int_equal(weight.format->unpack(&weight.shape, weight.packed, back), 0);
    for (size_t i = 0; i < R * N; i++) assert_true(back[i] == bf16_to_float(bf16_from_float(w[i])));
    weight_close(&weight);

    weight_new(&weight, "bf16_weights", R, N, w, GEMM_BUILTIN);
    assert_int_equal(weight.packed_bytes, 3 * 16 * N * 2);
    bits = weight.packed;
    assert_int_equal(bits[3 * 32 + 7], bf16_from_float(w[7 * N + 3]));
    assert_int_equal(bits[4 * 32 + 17], bf16_from_float(w[17 * N + 4]));
    assert_int_equal(bits[N * 32 + 4 * 16 + 1], bf16_from_float(w[33 * N + 4]));
    assert_int_equal(weight.format->unpack(&weight.shape, weight.packed, back), 0);
    for (size_t i = 0; i < R * N; i++) assert_true(back[i] == bf16_to_float(bf16_from_float(w[i])));
    weight_close(&weight);
    memory_release(w);
}

static void pieces_fill_what_pack_packs(void **state) {
    (void)state;
    enum { R = 50, N = 301 };
    static const char *const formats[] = {"f32", "f16", "bf16", "f16_both", "bf16_weights"};
    float *w = normal_new(R * N, 2);
    for (size_t f = 0; f < 5; f++) {
        struct weight weight;
        void *packed;
        weight_new(&weight, formats[f], R, N, w, GEMM_BUILTIN);
        assert_int_equal(memory_take(&packed, weight.packed_bytes, 1), 0);
        for (size_t first = 0, count = 1; first < R; first += count, count = first + 7 < R ? 7 : R - first)
            assert_int_equal(weight_fill_rows(weight.format, &weight.shape, first, count, w + first * N, packed), 0);
        assert_memory_equal(packed, weight.packed, weight.packed_bytes);
        assert_int_equal(weight_fill_rows(weight.format, &weight.shape, 48, 3, w, packed), E_ARGUMENT);
        float kept = w[2 * N - 1]; /* beyond both, as part of a panel and of a whole one */
        w[2 * N - 1] = 3.4e38f;
        for (size_t count = 7; count <= 16 && f > 0; count += 9)
            assert_int_equal(weight_fill_rows(weight.format, &weight.shape, 16, count, w, packed), E_NUMERIC);
        w[2 * N - 1] = kept;
        memory_release(packed);
        weight_close(&weight);
    }
    struct weight_shape shape = {.rows = R, .columns = N};
    assert_int_equal(weight_fill_rows(weight_format_find("int8"), &shape, 0, 1, w, w), E_UNSUPPORTED);
    memory_release(w);
}

static void lying_halves_are_refused(void **state) {
    (void)state;
    static const char *const formats[] = {"f16", "bf16", "f16_both", "bf16_weights"};
    static const uint16_t infinities[] = {0x7c00, 0xff80, 0x7c00, 0xff80};
    float *w = normal_new(18 * 5, 3);
    for (size_t f = 0; f < 4; f++) {
        struct weight weight, view;
        weight_new(&weight, formats[f], 18, 5, w, GEMM_BUILTIN);
        uint16_t *bits = (uint16_t *)(uintptr_t)weight.packed;
        size_t bytes = weight.packed_bytes;
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, bits, bytes), 0);
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, bits, bytes - 2), E_FORMAT);
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, (uint8_t *)bits + 1, bytes), E_FORMAT);
        uint16_t kept = bits[5];
        bits[5] = infinities[f];
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, bits, bytes), E_FORMAT);
        bits[5] = kept;
        bits[bytes / 2 - 1] = 1; /* row 31 */
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, bits, bytes), E_FORMAT);
        assert_non_null(strstr(error_text(), "padding"));
        weight_close(&weight);
    }
    w[7] = NAN;
    struct weight weight;
    struct weight_shape shape = {.rows = 18, .columns = 5};
    assert_int_equal(weight_pack(&weight, weight_format_find("f16"), &shape, w, NULL), E_NUMERIC);
    memory_release(w);
}

/* Products of 16-bit weights against double arithmetic; rows alone, on one thread and on two, have the same bits. */
static void products_of_halves_match_double_arithmetic(void **state) {
    (void)state;
    static const char *const formats[] = {"f16", "bf16", "f16_both", "bf16_weights"};
    static const size_t shapes[][3] = {{1, 150, 264}, {37, 150, 264}, {130, 37, 129}, {2, 1, 1}};
    for (size_t f = 0; f < 4; f++)
        for (size_t s = 0; s < 4; s++) {
            size_t T = shapes[s][0], R = shapes[s][1], N = shapes[s][2];
            float *w = normal_new(R * N, 4), *x = normal_new(T * N, 5), *bias = normal_new(R, 6);
            float *y = normal_new(T * R, 7), *two = normal_new(T * R, 8), *alone = normal_new(R, 9);
            struct weight weight;
            struct weight_scratch scratch = {0};
            weight_new(&weight, formats[f], R, N, w, GEMM_BUILTIN);
            assert_int_equal(weight.format->unpack(&weight.shape, weight.packed, w), 0);
            threads_set(1);
            assert_int_equal(weight_matmul(&weight, T, x, bias, y, &scratch), 0);
            threads_set(2);
            assert_int_equal(weight_matmul(&weight, T, x, bias, two, &scratch), 0);
            assert_memory_equal(y, two, T * R * sizeof *y);
            for (size_t t = 0; t < T; t++) {
                assert_int_equal(weight_matmul(&weight, 1, x + t * N, bias, alone, &scratch), 0);
                assert_memory_equal(alone, y + t * R, R * sizeof *y);
            }
            for (size_t i = 0; i < T * R; i++) {
                double exact = (double)bias[i % R], magnitude = fabs(exact);
                for (size_t n = 0; n < N; n++) {
                    float value = x[i / R * N + n];
                    if (f == 1) value = bf16_to_float(bf16_from_float(value));
                    if (f == 2) value = half_to_float(half_from_float(value));
                    double product = (double)value * (double)w[i % R * N + n];
                    exact += product, magnitude += fabs(product);
                }
                if (!(fabs((double)y[i] - exact) <= (double)(N + 2) * 0x1p-24 * magnitude * 1.01))
                    fail_msg("%s: y[%zu] is %g, expected %g", formats[f], i, (double)y[i], exact);
            }
            weight_scratch_close(&scratch);
            weight_close(&weight);
            memory_release(w), memory_release(x), memory_release(bias);
            memory_release(y), memory_release(two), memory_release(alone);
        }
}

struct rows {
    float *y;
    size_t R;
    int32_t seen[400];
};

/* Whole rows: each is doubled, and counted. */
static void double_rows(void *context, size_t begin, size_t end) {
    struct rows *rows = context;
    for (size_t i = begin * rows->R; i < end * rows->R; i++) rows->y[i] *= 2;
    for (size_t t = begin; t < end; t++) __atomic_fetch_add(&rows->seen[t], 1, __ATOMIC_RELAXED);
}

static void activate_apart(enum weight_activation activation, size_t count, float *y) {
    if (activation == WEIGHT_GELU) kernels.gelu(count, y, y);
    if (activation == WEIGHT_GELU_TANH) kernels.gelu_tanh(count, y, y);
    for (size_t i = 0; activation == WEIGHT_RELU && i < count; i++) y[i] = y[i] > 0 ? y[i] : 0;
}

static void check_epilogue(const char *format, enum gemm_backend backend, size_t T, enum weight_activation activation) {
    enum { R = 150, N = 264 };
    bool gated = activation == WEIGHT_SILU_GATE;
    float *x = normal_new(T * N, 10), *bias = normal_new(R, 11), *then[2], *apart[2];
    struct weight weights[2];
    const struct weight *pointers[] = {&weights[0], &weights[1]};
    const float *biases[] = {bias, NULL};
    struct weight_scratch scratch = {0};
    struct rows rows = {.R = R};
    for (size_t i = 0; i < 2; i++) {
        float *w = normal_new(R * N, 12 + i);
        weight_new(&weights[i], format, R, N, w, backend);
        then[i] = normal_new(T * R, 1), apart[i] = normal_new(T * R, 2);
        memory_release(w);
    }
    size_t count = gated ? 2 : 1;
    struct weight_epilogue epilogue = {.activation = activation, .rows = double_rows, .context = &rows};
    rows.y = then[count - 1];
    assert_int_equal(weight_matmul_shared(pointers, biases, apart, count, T, x, &scratch), 0);
    if (gated) kernels.silu_gate(T * R, apart[0], apart[1], apart[1]);
    /* Row by row, as vectors must begin where the tile's do. */
    for (size_t t = 0; t < T; t++) activate_apart(activation, R, apart[0] + t * R);
    for (size_t i = 0; i < T * R; i++) apart[count - 1][i] *= 2;
    assert_int_equal(weight_matmul_then(pointers, biases, then, count, T, x, &epilogue, &scratch), 0);
    assert_memory_equal(then[count - 1], apart[count - 1], T * R * sizeof(float));
    for (size_t t = 0; t < T; t++) assert_int_equal(rows.seen[t], 1);
    weight_scratch_close(&scratch);
    for (size_t i = 0; i < 2; i++) weight_close(&weights[i]), memory_release(then[i]), memory_release(apart[i]);
    memory_release(x), memory_release(bias);
}

static void epilogues_equal_the_work_done_afterwards(void **state) {
    (void)state;
    static const struct {
        const char *format;
        enum gemm_backend backend;
    } kinds[] = {
        {"f32", GEMM_BUILTIN},
        {"f32", GEMM_OPENBLAS},
        {"f16", GEMM_BUILTIN},
        {"bf16", GEMM_BUILTIN},
        {"int8", GEMM_BUILTIN},
#if !defined(THREADS_POSIX) && !defined(BACKENDS_NONE)
        {"f32", GEMM_ONEDNN},
        {"int8", GEMM_ONEDNN}
#endif
    };
    static const size_t tokens[] = {1, 5, 37, 203};
    threads_set(2);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t i = 0; i < 4; i++)
            for (int activation = WEIGHT_PLAIN; activation <= WEIGHT_SILU_GATE; activation++)
                check_epilogue(kinds[k].format, kinds[k].backend, tokens[i], (enum weight_activation)activation);
}

/* Two products, the second of what the first one's rows became: its input converted ahead or not, the same bits; and
 * what was converted for other rows, or for rows that were consumed already, is left alone. */
static void check_ahead(const char *first, const char *second, size_t T) {
    enum { R = 83, N = 70, LAST = 40 };
    struct weight a, b;
    struct weight_scratch scratch = {0}, plain = {0};
    float *x = normal_new(T * N, 1), *w = normal_new(R * N, 2), *v = normal_new(LAST * R, 3);
    float *y = normal_new(T * R, 4), *same = normal_new(T * R, 5), *out = normal_new(T * LAST, 6),
          *expected = normal_new(T * LAST, 7);
    struct rows rows = {.R = R, .y = y};
    const struct weight *pointer = &a;
    weight_new(&a, first, R, N, w, GEMM_BUILTIN);
    weight_new(&b, second, LAST, R, v, GEMM_BUILTIN);
    struct weight_epilogue epilogue = {.activation = WEIGHT_RELU, .rows = double_rows, .context = &rows, .next = &b};
    epilogue.next_x = y;
    for (int round = 0; round < 3; round++) {
        memset(rows.seen, 0, sizeof rows.seen);
        assert_int_equal(weight_matmul_then(&pointer, NULL, &y, 1, T, x, &epilogue, &scratch), 0);
        assert_int_equal(weight_matmul(&b, T, y, NULL, expected, &plain), 0);
        memcpy(same, y, T * R * sizeof *y);
        if (round == 0) assert_int_equal(weight_matmul(&b, T, y, NULL, out, &scratch), 0);
        if (round == 1) assert_int_equal(weight_matmul(&b, T, same, NULL, out, &scratch), 0); /* other rows */
        if (round == 2) {
            assert_int_equal(weight_matmul(&b, T, y, NULL, out, &scratch), 0);
            for (size_t i = 0; i < T * R; i++) y[i] *= 3; /* the same rows later on */
            assert_int_equal(weight_matmul(&b, T, y, NULL, expected, &plain), 0);
            assert_int_equal(weight_matmul(&b, T, y, NULL, out, &scratch), 0);
        }
        assert_memory_equal(out, expected, T * LAST * sizeof *out);
    }
    weight_scratch_close(&scratch), weight_scratch_close(&plain);
    weight_close(&a), weight_close(&b);
    float *all[] = {x, w, v, y, same, out, expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) memory_release(all[i]);
}

static void inputs_converted_ahead_give_the_same_bits(void **state) {
    static const char *const formats[] = {"f32", "int8", "bf16"};
    static const size_t tokens[] = {1, 5, 37, 203};
    (void)state;
    threads_set(2);
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 9; k++) check_ahead(formats[k / 3], formats[k % 3], tokens[i]);
}

static void gates_need_two_matrices_of_one_shape(void **state) {
    (void)state;
    float *w = normal_new(48 * 8, 1), y[48];
    struct weight a, b;
    struct weight_scratch scratch = {0};
    weight_new(&a, "f32", 48, 8, w, GEMM_BUILTIN);
    weight_new(&b, "f32", 32, 8, w, GEMM_BUILTIN);
    const struct weight *pointers[] = {&a, &b};
    float *outputs[] = {y, y};
    struct weight_epilogue epilogue = {.activation = WEIGHT_SILU_GATE};
    assert_int_equal(weight_matmul_then(pointers, NULL, outputs, 2, 1, w, &epilogue, &scratch), E_SHAPE);
    assert_int_equal(weight_matmul_then(pointers, NULL, outputs, 1, 1, w, &epilogue, &scratch), E_SHAPE);
    weight_scratch_close(&scratch);
    weight_close(&a), weight_close(&b);
    memory_release(w);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_lie_where_the_layouts_say),
        cmocka_unit_test(pieces_fill_what_pack_packs),
        cmocka_unit_test(lying_halves_are_refused),
        cmocka_unit_test(products_of_halves_match_double_arithmetic),
        cmocka_unit_test(epilogues_equal_the_work_done_afterwards),
        cmocka_unit_test(inputs_converted_ahead_give_the_same_bits),
        cmocka_unit_test(gates_need_two_matrices_of_one_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
