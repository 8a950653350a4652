/* Low-rank updates: values against their definition in f64, gradients against finite differences, and bits that do
 * not depend on how tokens are cut. */
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
#include "kernels/kernels.h"
#include "model/layers.h"
#include "train/adapter.h"
#include "train/trainable.h"

/* Nothing a multiple of anything. */
enum { T = 70, N = 149, R = 135, RANK = 7, FIRST = 31 };

struct layer {
    struct adapter adapter;
    float x[T * N], y[T * R], dy[T * R], dx[T * N];
    float *scratch;
};

static void fill(float *values, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)(seed >> 40) / (float)(1u << 23) - 1;
    }
}

static struct layer *layer_new(double dropout) {
    struct layer *layer = calloc(1, sizeof *layer);
    struct adapter_plan plan = {.rank = RANK, .alpha = 5, .dropout = dropout, .seed = 3};
    assert_non_null(layer);
    assert_int_equal(adapter_open(&layer->adapter, "layer", R, N, &plan), 0);
    assert_int_equal(adapter_reserve(&layer->adapter, T), 0);
    fill(layer->adapter.b, R * RANK, 5);
    fill(layer->x, T * N, 7);
    fill(layer->dy, T * R, 9);
    layer->scratch = malloc(adapter_scratch(&layer->adapter, T) * sizeof(float));
    return layer;
}

static void layer_free(struct layer *layer) {
    adapter_close(&layer->adapter);
    free(layer->scratch);
    free(layer);
}

/* Forward and backward in pieces of `piece` tokens; y starts at 1, dx at 2. */
static void run(struct layer *layer, size_t piece, bool bf16, bool add) {
    struct adapter *adapter = &layer->adapter;
    for (size_t i = 0; i < T * R; i++) layer->y[i] = 1;
    for (size_t i = 0; i < T * N; i++) layer->dx[i] = 2;
    adapter_prepare(adapter, 11, FIRST, bf16);
    for (size_t t = 0; t < T; t += piece) {
        size_t tokens = T - t < piece ? T - t : piece;
        adapter_forward(adapter, t, tokens, layer->x + t * N, layer->y + t * R, layer->scratch);
    }
    for (size_t t = 0; t < T; t += piece) {
        size_t tokens = T - t < piece ? T - t : piece;
        adapter_backward(adapter, t, tokens, layer->dy + t * R, layer->dx + t * N, layer->scratch);
    }
    for (size_t job = 0; job < ADAPTER_JOBS; job++)
        adapter_gradient(adapter, job, T, layer->x, layer->dy, add, layer->scratch);
}

static void assert_near(double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance)) fail_msg("%.9g, expected %.9g within %g", got, expected, tolerance);
}

/* Against sums in f64; the dropout is found by what it leaves of ones. */
static void check_values(double dropout, bool bf16) {
    struct layer *layer = layer_new(dropout);
    struct adapter *adapter = &layer->adapter;
    static double hidden[T * RANK], dhidden[T * RANK], input[T * N];
    double tolerance = bf16 ? 0.02 : 1e-5, s = 5.0 / RANK, stride = (N + 7) / 8 * 8, kept = 0;
    for (size_t t = 0; t < T; t++) {
        float factor[N];
        uint8_t keep[N];
        for (size_t n = 0; n < N; n++) factor[n] = 1;
        if (dropout > 0)
            dropout_forward(3, random_stream("adapter dropout", random_stream("layer", 0, 0), 11),
                            (FIRST + t) * (size_t)stride, N, dropout, factor, keep);
        for (size_t n = 0; n < N; n++) {
            input[t * N + n] = (double)factor[n];
            kept += factor[n] > 0;
        }
    }
    assert_near(kept / (T * N), 1 - dropout, 0.03);
    run(layer, T, bf16, false);
    for (size_t t = 0; t < T; t++)
        for (size_t k = 0; k < RANK; k++) {
            double sum = 0, back = 0;
            for (size_t n = 0; n < N; n++)
                sum += input[t * N + n] * (double)layer->x[t * N + n] * (double)adapter->a[k * N + n];
            for (size_t r = 0; r < R; r++) back += (double)layer->dy[t * R + r] * (double)adapter->b[r * RANK + k];
            hidden[t * RANK + k] = s * sum;
            dhidden[t * RANK + k] = s * back;
        }
    for (size_t t = 0; t < T; t++) {
        for (size_t r = 0; r < R; r++) {
            double y = 1;
            for (size_t k = 0; k < RANK; k++) y += hidden[t * RANK + k] * (double)adapter->b[r * RANK + k];
            assert_near((double)layer->y[t * R + r], y, 4 * tolerance);
        }
        for (size_t n = 0; n < N; n++) {
            double dx = 0;
            for (size_t k = 0; k < RANK; k++) dx += dhidden[t * RANK + k] * (double)adapter->a[k * N + n];
            assert_near((double)layer->dx[t * N + n], 2 + dx * input[t * N + n], 8 * tolerance);
        }
    }
    for (size_t k = 0; k < RANK; k++) {
        for (size_t n = 0; n < N; n++) {
            double da = 0;
            for (size_t t = 0; t < T; t++) da += dhidden[t * RANK + k] * input[t * N + n] * (double)layer->x[t * N + n];
            assert_near((double)adapter->da[k * N + n], da, 100 * tolerance);
        }
        for (size_t r = 0; r < R; r++) {
            double db = 0;
            for (size_t t = 0; t < T; t++) db += (double)layer->dy[t * R + r] * hidden[t * RANK + k];
            assert_near((double)adapter->db[r * RANK + k], db, 100 * tolerance);
        }
    }
    layer_free(layer);
}

static void test_values(void **state) {
    (void)state;
    check_values(0, false);
    check_values(0.3, false);
}

static void test_values_bf16(void **state) {
    (void)state;
    check_values(0, true);
    check_values(0.3, true);
}

static double loss(struct layer *layer) {
    double sum = 0;
    adapter_prepare(&layer->adapter, 11, FIRST, false);
    memset(layer->y, 0, sizeof layer->y);
    adapter_forward(&layer->adapter, 0, T, layer->x, layer->y, layer->scratch);
    for (size_t i = 0; i < T * R; i++) sum += (double)layer->y[i] * (double)layer->dy[i];
    return sum;
}

/* The update is linear in each of x, A and B, so a wide step loses nothing. */
static void check_differences(struct layer *layer, float *values, size_t count, const float *gradient, double less) {
    for (size_t i = 0; i < count; i += count / 50) {
        float kept = values[i];
        values[i] = kept + 0.5f;
        double above = loss(layer);
        values[i] = kept - 0.5f;
        double below = loss(layer);
        values[i] = kept;
        assert_near((double)gradient[i] - less, above - below, 2e-3);
    }
}

static void test_finite_differences(void **state) {
    (void)state;
    for (int dropped = 0; dropped < 2; dropped++) {
        struct layer *layer = layer_new(dropped ? 0.2 : 0);
        run(layer, T, false, false);
        check_differences(layer, layer->x, T * N, layer->dx, 2);
        check_differences(layer, layer->adapter.a, RANK * N, layer->adapter.da, 0);
        check_differences(layer, layer->adapter.b, R * RANK, layer->adapter.db, 0);
        layer_free(layer);
    }
}

/* Bits do not depend on the cut; adding to what is there gives twice as much. */
static void test_cut(void **state) {
    (void)state;
    for (int dropped = 0; dropped < 2; dropped++) {
        struct layer *whole = layer_new(dropped ? 0.2 : 0), *cut = layer_new(dropped ? 0.2 : 0);
        run(whole, T, false, false);
        run(cut, 13, false, false);
        assert_memory_equal(whole->y, cut->y, sizeof cut->y);
        assert_memory_equal(whole->dx, cut->dx, sizeof cut->dx);
        assert_memory_equal(whole->adapter.da, cut->adapter.da, RANK * N * sizeof(float));
        assert_memory_equal(whole->adapter.db, cut->adapter.db, R * RANK * sizeof(float));
        run(cut, 13, false, true);
        for (size_t i = 0; i < RANK * N; i++)
            assert_near(1, (double)cut->adapter.da[i] / (2 * (double)whole->adapter.da[i]), 1e-4);
        for (size_t i = 0; i < R * RANK; i++)
            assert_near(1, (double)cut->adapter.db[i] / (2 * (double)whole->adapter.db[i]), 1e-4);
        layer_free(whole);
        layer_free(cut);
    }
}

/* The merged matrix gives what the update added. */
static void test_merge(void **state) {
    static float w[R * N], y[T * R];
    (void)state;
    struct layer *layer = layer_new(0);
    run(layer, T, false, false);
    adapter_merge(&layer->adapter, w);
    linear_forward(T, N, R, layer->x, w, NULL, y);
    for (size_t i = 0; i < T * R; i++) assert_near((double)layer->y[i] - 1, (double)y[i], 1e-4);
    layer_free(layer);
}

/* A fresh update: B zero, so nothing changes by a single bit; A within ±1/√N, of its deviation, and of its name. */
static void test_start(void **state) {
    struct adapter adapter, other;
    struct adapter_plan plan = {.rank = 64, .alpha = 16, .rank_stabilized = true, .seed = 3};
    struct trainable items[2];
    static float x[N], y[R], before[R];
    float scratch[8192];
    (void)state;
    assert_int_equal(adapter_open(&adapter, "a", R, N, &plan), 0);
    assert_true(adapter.scale == 2); /* 16/√64 */
    assert_int_equal(adapter_open(&other, "b", R, N, &plan), 0);
    double squares = 0, bound = 1 / sqrt(N);
    for (size_t i = 0; i < 64 * N; i++) {
        squares += (double)adapter.a[i] * (double)adapter.a[i];
        assert_true(fabs((double)adapter.a[i]) <= bound);
    }
    assert_near(sqrt(squares / (64 * N)), bound / sqrt(3), 0.02 * bound);
    assert_true(memcmp(adapter.a, other.a, 64 * N * sizeof(float)) != 0);
    adapter_close(&other);
    assert_int_equal(adapter_open(&other, "a", R, N, &plan), 0);
    assert_memory_equal(adapter.a, other.a, 64 * N * sizeof(float));
    assert_int_equal(adapter_reserve(&adapter, 1), 0);
    fill(x, N, 1), fill(y, R, 2), memcpy(before, y, sizeof y);
    assert_true(adapter_scratch(&adapter, 1) <= sizeof scratch / sizeof *scratch);
    adapter_prepare(&adapter, 0, 0, false);
    adapter_forward(&adapter, 0, 1, x, y, scratch);
    assert_memory_equal(before, y, sizeof y);
    adapter_trainables(&adapter, items);
    assert_string_equal(items[0].name, "a.lora_A");
    assert_string_equal(items[1].name, "a.lora_B");
    assert_true(items[0].rows == 64 && items[0].columns == N && items[1].rows == R && items[1].columns == 64);
    adapter_close(&other);
    adapter_close(&adapter);
    plan.rank = R + 1;
    assert_int_equal(adapter_open(&adapter, "a", R, N, &plan), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "1 to 135"));
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_values_bf16), cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_cut),    cmocka_unit_test(test_merge),       cmocka_unit_test(test_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
