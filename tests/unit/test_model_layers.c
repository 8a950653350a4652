/* Each layer's backward pass against central differences of its forward pass.
 *
 * The loss is a fixed random weighting of the outputs, summed in double. With inputs near 1 and a step h of 1/64
 * the difference quotient is wrong by about h² (curvature) and 1e-7/h (rounding): below 1e-3 of the largest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/kernels.h"
#include "model/layers.h"

#define STEP (1.0f / 64)
#define TOLERANCE 2e-3

static float *normal(size_t count, uint64_t stream) {
    struct random random;
    float *values = calloc(count ? count : 1, sizeof(float));
    random_open(&random, 7, stream);
    for (size_t i = 0; i < count; i++) values[i] = (float)(0.5 * random_normal(&random));
    return values;
}

/* A forward pass whose outputs the loss weighs. */
struct probe {
    void (*forward)(struct probe *probe);
    float *y;
    const float *weight;
    size_t outputs, T, N;
    float *x, *w, *b, *extra;
    float *scratch;
};

static double loss(struct probe *probe) {
    double sum = 0;
    probe->forward(probe);
    for (size_t i = 0; i < probe->outputs; i++) sum += (double)probe->weight[i] * (double)probe->y[i];
    return sum;
}

static void check_gradient(const char *what, struct probe *probe, float *values, size_t count, const float *gradient) {
    double scale = 0, worst = 0;
    for (size_t i = 0; i < count; i++) {
        float kept = values[i];
        values[i] = kept + STEP;
        double up = loss(probe);
        values[i] = kept - STEP;
        double down = loss(probe);
        values[i] = kept;
        double expected = (up - down) / (2 * (double)STEP);
        scale = fmax(scale, fabs(expected));
        worst = fmax(worst, fabs(expected - (double)gradient[i]));
    }
    assert_true(scale > 0.01);
    if (!(worst <= TOLERANCE * scale)) fail_msg("%s: off by %g where the largest is %g", what, worst, scale);
}

/* x is the sublayer's output, extra the stream it joins. */
static void norm_probe(struct probe *p) {
    memcpy(p->scratch, p->extra, p->T * p->N * sizeof(float));
    residual_norm_forward(p->T, p->N, p->x, p->scratch, p->w, p->b, 1e-5f, p->y, p->scratch + p->T * p->N,
                          p->scratch + p->T * p->N + p->T);
}

static void test_norm(void **state) {
    enum { T = 4, C = 19 }; /* not a multiple of the lanes */
    float *x = normal(T * C, 1), *residual = normal(T * C, 2), *gain = normal(C, 3), *bias = normal(C, 4),
          *dy = normal(T * C, 5);
    float y[T * C], scratch[T * C + 2 * T], dx[T * C], dgain[C] = {0}, dbias[C] = {0};
    struct probe probe = {norm_probe, y, dy, T * C, T, C, x, gain, bias, residual, scratch};
    (void)state;
    norm_probe(&probe);
    norm_backward(T, C, scratch, scratch + T * C, scratch + T * C + T, gain, dy, dx, dgain, dbias);
    check_gradient("dx", &probe, x, T * C, dx);
    check_gradient("residual", &probe, residual, T * C, dx);
    check_gradient("dgain", &probe, gain, C, dgain);
    check_gradient("dbias", &probe, bias, C, dbias);
    memcpy(y, dy, sizeof y); /* in place */
    memset(dgain, 0, sizeof dgain), memset(dbias, 0, sizeof dbias);
    norm_probe(&probe);
    memcpy(y, dy, sizeof y);
    norm_backward(T, C, scratch, scratch + T * C, scratch + T * C + T, gain, y, y, dgain, dbias);
    assert_memory_equal(y, dx, sizeof dx);
    free(x), free(residual), free(gain), free(bias), free(dy);
}

static void gelu_probe(struct probe *p) { kernels.gelu(p->N, p->x, p->y); }

static void test_gelu(void **state) {
    enum { N = 37 };
    float *x = normal(N, 1), *dy = normal(N, 2), y[N], dx[N];
    struct probe probe = {gelu_probe, y, dy, N, 1, N, x, NULL, NULL, NULL, NULL};
    (void)state;
    kernels.gelu_backward(N, x, dy, dx);
    check_gradient("dx", &probe, x, N, dx);
    free(x), free(dy);
}

static void test_embedding(void **state) {
    enum { T = 6, C = 5, V = 4, P = 3 };
    const int32_t ids[T] = {1, 3, 1, 0, 0, 2}, types[T] = {0, 1, 1, 0, 1, 0}, positions[T] = {0, 1, 2, 0, 1, 2};
    float *tokens = normal(V * C, 1), *type = normal(2 * C, 2), *position = normal(P * C, 3), *dy = normal(T * C, 4);
    float y[T * C], dtable[V * C] = {0}, dtypes[2 * C] = {0};
    (void)state;
    embedding_forward(T, C, ids, types, positions, tokens, type, position, y);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < C; c++) {
            float expected = (tokens[(size_t)ids[t] * C + c] + type[(size_t)types[t] * C + c]) +
                             position[(size_t)positions[t] * C + c];
            assert_true(y[t * C + c] == expected);
        }
    embedding_backward(T, C, ids, dy, 0, 2, 0, dtable); /* row 0 is the pad: no gradient */
    embedding_backward(T, C, ids, dy, 2, V, 0, dtable);
    embedding_backward(T, C, NULL, dy, 0, 2, -1, dtypes); /* no index: all row 0 */
    for (size_t c = 0; c < C; c++) {
        float all = 0;
        for (size_t t = 0; t < T; t++) all += dy[t * C + c];
        assert_true(dtable[c] == 0);
        assert_true(dtable[1 * C + c] == dy[c] + dy[2 * C + c]);
        assert_true(dtable[2 * C + c] == dy[5 * C + c]);
        assert_true(dtable[3 * C + c] == dy[1 * C + c]);
        assert_true(dtypes[c] == all && dtypes[C + c] == 0);
    }
    free(tokens), free(type), free(position), free(dy);
}

static void test_dropout(void **state) {
    enum { N = 40000 };
    float *x = malloc(N * sizeof(float)), *again = malloc(N * sizeof(float)), sum = 0;
    uint8_t *keep = malloc(N), *keep_again = malloc(N);
    size_t kept = 0;
    (void)state;
    for (size_t i = 0; i < N; i++) x[i] = again[i] = 1;
    dropout_forward(1, 2, 0, N, 0.25, x, keep);
    for (size_t i = 0; i < N; i++) kept += keep[i], sum += x[i];
    assert_true(fabs((double)kept / N - 0.75) < 4 * sqrt(0.75 * 0.25 / N));
    assert_true(fabs((double)sum / N - 1) < 0.02);
    dropout_forward(1, 2, 800, N - 800, 0.25, again + 800, keep_again + 800); /* any part alone: the same fate */
    assert_memory_equal(again + 800, x + 800, (N - 800) * sizeof(float));
    dropout_backward(N, 0.25, keep, x, again);
    for (size_t i = 0; i < N; i++) assert_true(again[i] == (keep[i] ? x[i] * x[i] : 0));
    free(x), free(again), free(keep), free(keep_again);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
