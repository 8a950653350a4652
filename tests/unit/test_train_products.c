/* The three products of a linear layer against sums in double, within the bounds of docs/KERNELS.md; and that neither
 * the cut of tokens and rows nor the order of jobs shows in the result. */
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
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "train/products.h"

static float *normal(size_t count, uint64_t stream) {
    struct random random;
    float *values = malloc((count + 1) * sizeof *values);
    random_open(&random, 13, stream);
    for (size_t i = 0; i < count; i++) values[i] = (float)random_normal(&random);
    return values;
}

static float *unset(size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i <= count; i++) values[i] = NAN;
    return values;
}

/* y(M,N) against Σ_k a[m·a_row + k·a_step] b[n·b_row + k·b_step] + start: n products and sums of f32 in any order. */
static void check_sums(const char *what, size_t M, size_t N, size_t K, const float *a, size_t a_row, size_t a_step,
                       const float *b, size_t b_row, size_t b_step, const float *start, size_t start_stride,
                       const float *y) {
    double terms = (double)(K + 4) * 0x1p-24, gamma = terms / (1 - terms);
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double sum = start ? (double)start[m * start_stride + n] : 0, magnitude = fabs(sum);
            for (size_t k = 0; k < K; k++) {
                double term = (double)a[m * a_row + k * a_step] * (double)b[n * b_row + k * b_step];
                sum += term, magnitude += fabs(term);
            }
            if (!(fabs((double)y[m * N + n] - sum) <= gamma * magnitude))
                fail_msg("%s[%zu][%zu] is %.9g, expected %.9g", what, m, n, (double)y[m * N + n], sum);
        }
}

struct shape {
    size_t T, N, R;
};
static const struct shape shapes[] = {{1, 1, 1},    {5, 7, 6},     {25, 16, 17},  {13, 65, 130},
                                      {49, 96, 64}, {112, 70, 33}, {300, 33, 40}, {33, 128, 150}};
#define SHAPES (sizeof shapes / sizeof *shapes)

static void check_forward(struct shape s) {
    float *x = normal(s.T * s.N, 1), *w = normal(s.R * s.N, 2), *bias = normal(s.R, 3), *y = unset(s.T * s.R),
          *cut = unset(s.T * s.R), *panels = unset(panels_forward_floats(s.R, s.N));
    size_t middle = s.R / 2 / 16 * 16, first = s.T / 2;
    panels_forward(s.R, s.N, w, middle, s.R, panels);
    panels_forward(s.R, s.N, w, 0, middle, panels);
    product_forward(s.T, s.N, s.R, x, panels, bias, y);
    check_sums("y", s.T, s.R, s.N, x, s.N, 1, w, s.N, 1, bias, 0, y);
    product_forward(first, s.N, s.R, x, panels, bias, cut);
    product_forward(s.T - first, s.N, s.R, x + first * s.N, panels, bias, cut + first * s.R);
    assert_memory_equal(y, cut, s.T * s.R * sizeof *y);
    product_forward(s.T, s.N, s.R, x, panels, NULL, y);
    check_sums("y without bias", s.T, s.R, s.N, x, s.N, 1, w, s.N, 1, NULL, 0, y);
    free(x), free(w), free(bias), free(y), free(cut), free(panels);
}

static void check_backward_input(struct shape s) {
    float *dy = normal(s.T * s.R, 1), *w = normal(s.R * s.N, 2), *start = normal(s.T * s.N, 3), *dx = unset(s.T * s.N),
          *cut = unset(s.T * s.N), *panels = unset(panels_backward_floats(s.R, s.N));
    size_t middle = s.N / 2 / 16 * 16, first = s.T / 2;
    panels_backward(s.R, s.N, w, middle, s.N, panels);
    panels_backward(s.R, s.N, w, 0, middle, panels);
    product_backward_input(s.T, s.N, s.R, dy, panels, false, dx);
    check_sums("dx", s.T, s.N, s.R, dy, s.R, 1, w, 1, s.N, NULL, 0, dx);
    memcpy(dx, start, s.T * s.N * sizeof *dx);
    memcpy(cut, start, s.T * s.N * sizeof *cut);
    product_backward_input(s.T, s.N, s.R, dy, panels, true, dx);
    check_sums("dx added", s.T, s.N, s.R, dy, s.R, 1, w, 1, s.N, start, s.N, dx);
    product_backward_input(first, s.N, s.R, dy, panels, true, cut);
    product_backward_input(s.T - first, s.N, s.R, dy + first * s.R, panels, true, cut + first * s.N);
    assert_memory_equal(dx, cut, s.T * s.N * sizeof *dx);
    free(dy), free(w), free(start), free(dx), free(cut), free(panels);
}

/* In two jobs; dw and dbias as they were before, or NaN. */
static void backward_weight(struct shape s, const float *x, const float *dy, size_t middle, bool add, float *dw,
                            float *dbias) {
    size_t most = middle > s.R - middle ? middle : s.R - middle;
    float *scratch = unset(product_weight_scratch(s.T, most, s.N));
    if (middle < s.R) product_backward_weight(s.T, s.N, s.R, x, dy, middle, s.R, add, dw, dbias, scratch);
    if (middle > 0) product_backward_weight(s.T, s.N, s.R, x, dy, 0, middle, add, dw, dbias, scratch);
    free(scratch);
}

static void check_backward_weight(struct shape s) {
    float *dy = normal(s.T * s.R, 1), *x = normal(s.T * s.N, 2), *start = normal(s.R * s.N, 3), *dw = unset(s.R * s.N),
          *dbias = unset(s.R), *cut = unset(s.R * s.N), *cut_bias = unset(s.R), *ones = normal(s.T, 4);
    for (size_t t = 0; t < s.T; t++) ones[t] = 1;
    backward_weight(s, x, dy, 0, false, dw, dbias);
    check_sums("dw", s.R, s.N, s.T, dy, 1, s.R, x, 1, s.N, NULL, 0, dw);
    check_sums("dbias", s.R, 1, s.T, dy, 1, s.R, ones, 0, 1, NULL, 0, dbias);
    backward_weight(s, x, dy, s.R / 3, false, cut, cut_bias);
    assert_memory_equal(dw, cut, s.R * s.N * sizeof *dw);
    assert_memory_equal(dbias, cut_bias, s.R * sizeof *dbias);
    memcpy(dw, start, s.R * s.N * sizeof *dw);
    memcpy(cut, start, s.R * s.N * sizeof *dw);
    memcpy(dbias, start, s.R * sizeof *dbias);
    memcpy(cut_bias, start, s.R * sizeof *dbias);
    backward_weight(s, x, dy, 0, true, dw, dbias);
    check_sums("dw added", s.R, s.N, s.T, dy, 1, s.R, x, 1, s.N, start, s.N, dw);
    check_sums("dbias added", s.R, 1, s.T, dy, 1, s.R, ones, 0, 1, start, 1, dbias);
    backward_weight(s, x, dy, s.R / 2, true, cut, cut_bias);
    assert_memory_equal(dw, cut, s.R * s.N * sizeof *dw);
    assert_memory_equal(dbias, cut_bias, s.R * sizeof *dbias);
    backward_weight(s, x, dy, 0, false, dw, NULL); /* without a bias */
    check_sums("dw without bias", s.R, s.N, s.T, dy, 1, s.R, x, 1, s.N, NULL, 0, dw);
    free(dy), free(x), free(start), free(dw), free(dbias), free(cut), free(cut_bias), free(ones);
}

/* ---- bf16: exact products of rounded inputs, so the same bounds hold for those ---- */

static float *rounded(size_t count, const float *x) {
    float *y = malloc((count + 1) * sizeof *y);
    for (size_t i = 0; i < count; i++) y[i] = bf16_to_float(bf16_from_float(x[i]));
    return y;
}

static void check_forward_bf16(struct shape s) {
    float *x = normal(s.T * s.N, 1), *w = normal(s.R * s.N, 2), *bias = normal(s.R, 3), *y = unset(s.T * s.R),
          *cut = unset(s.T * s.R), *scratch = unset(product_bf16_scratch(s.T, s.N)), *rx = rounded(s.T * s.N, x),
          *rw = rounded(s.R * s.N, w);
    uint16_t *panels = malloc(panels_forward_bf16_count(s.R, s.N) * sizeof *panels);
    size_t middle = s.R / 2 / 16 * 16, first = s.T / 2;
    memset(panels, 0xff, panels_forward_bf16_count(s.R, s.N) * sizeof *panels);
    panels_forward_bf16(s.R, s.N, w, middle, s.R, panels);
    panels_forward_bf16(s.R, s.N, w, 0, middle, panels);
    product_forward_bf16(s.T, s.N, s.R, x, panels, bias, y, scratch);
    check_sums("y", s.T, s.R, s.N, rx, s.N, 1, rw, s.N, 1, bias, 0, y);
    product_forward_bf16(first, s.N, s.R, x, panels, bias, cut, scratch);
    product_forward_bf16(s.T - first, s.N, s.R, x + first * s.N, panels, bias, cut + first * s.R, scratch);
    assert_memory_equal(y, cut, s.T * s.R * sizeof *y);
    free(x), free(w), free(bias), free(y), free(cut), free(scratch), free(rx), free(rw), free(panels);
}

static void check_backward_input_bf16(struct shape s) {
    float *dy = normal(s.T * s.R, 1), *w = normal(s.R * s.N, 2), *start = normal(s.T * s.N, 3), *dx = unset(s.T * s.N),
          *scratch = unset(product_bf16_scratch(s.T, s.R)), *rdy = rounded(s.T * s.R, dy), *rw = rounded(s.R * s.N, w);
    uint16_t *panels = malloc(panels_backward_bf16_count(s.R, s.N) * sizeof *panels);
    size_t middle = s.N / 2 / 16 * 16;
    memset(panels, 0xff, panels_backward_bf16_count(s.R, s.N) * sizeof *panels);
    panels_backward_bf16(s.R, s.N, w, middle, s.N, panels);
    panels_backward_bf16(s.R, s.N, w, 0, middle, panels);
    product_backward_input_bf16(s.T, s.N, s.R, dy, panels, false, dx, scratch);
    check_sums("dx", s.T, s.N, s.R, rdy, s.R, 1, rw, 1, s.N, NULL, 0, dx);
    memcpy(dx, start, s.T * s.N * sizeof *dx);
    product_backward_input_bf16(s.T, s.N, s.R, dy, panels, true, dx, scratch);
    check_sums("dx added", s.T, s.N, s.R, rdy, s.R, 1, rw, 1, s.N, start, s.N, dx);
    free(dy), free(w), free(start), free(dx), free(scratch), free(rdy), free(rw), free(panels);
}

static void backward_weight_bf16(struct shape s, const float *x, const float *dy, size_t middle, bool add, float *dw,
                                 float *dbias) {
    size_t most = middle > s.R - middle ? middle : s.R - middle;
    float *scratch = unset(product_weight_bf16_scratch(s.T, most, s.N));
    if (middle < s.R) product_backward_weight_bf16(s.T, s.N, s.R, x, dy, middle, s.R, add, dw, dbias, scratch);
    if (middle > 0) product_backward_weight_bf16(s.T, s.N, s.R, x, dy, 0, middle, add, dw, dbias, scratch);
    free(scratch);
}

/* From panels of x, made in two pieces, the gradients are the same to the bit. */
static void check_panels_of_input(struct shape s, const float *x, const float *dy, const float *dw,
                                  const float *dbias) {
    size_t count = panels_backward_bf16_count(s.T, s.N), first = s.T / 4 * 2;
    uint16_t *panels = malloc(count * sizeof *panels);
    float *got = unset(s.R * s.N), *bias = unset(s.R), *scratch = unset(product_turned_bf16_scratch(s.T, s.R));
    memset(panels, 0xff, count * sizeof *panels);
    if (first < s.T) panels_rows_bf16(s.T, s.N, x, first, s.T, panels);
    if (first) panels_rows_bf16(s.T, s.N, x, 0, first, panels);
    product_backward_weight_panels_bf16(s.T, s.N, s.R, panels, dy, 0, s.R, false, got, bias, scratch);
    assert_memory_equal(got, dw, s.R * s.N * sizeof *dw);
    assert_memory_equal(bias, dbias, s.R * sizeof *dbias);
    free(panels), free(got), free(bias), free(scratch);
}

static void check_backward_weight_bf16(struct shape s) {
    float *dy = normal(s.T * s.R, 1), *x = normal(s.T * s.N, 2), *start = normal(s.R * s.N, 3), *dw = unset(s.R * s.N),
          *dbias = unset(s.R), *cut = unset(s.R * s.N), *cut_bias = unset(s.R), *ones = normal(s.T, 4),
          *rdy = rounded(s.T * s.R, dy), *rx = rounded(s.T * s.N, x);
    for (size_t t = 0; t < s.T; t++) ones[t] = 1;
    backward_weight_bf16(s, x, dy, 0, false, dw, dbias);
    check_sums("dw", s.R, s.N, s.T, rdy, 1, s.R, rx, 1, s.N, NULL, 0, dw);
    check_sums("dbias", s.R, 1, s.T, dy, 1, s.R, ones, 0, 1, NULL, 0, dbias);
    backward_weight_bf16(s, x, dy, s.R / 3, false, cut, cut_bias);
    assert_memory_equal(dw, cut, s.R * s.N * sizeof *dw);
    assert_memory_equal(dbias, cut_bias, s.R * sizeof *dbias);
    check_panels_of_input(s, x, dy, dw, dbias);
    memcpy(dw, start, s.R * s.N * sizeof *dw);
    backward_weight_bf16(s, x, dy, s.R / 2, true, dw, NULL);
    check_sums("dw added", s.R, s.N, s.T, rdy, 1, s.R, rx, 1, s.N, start, s.N, dw);
    free(dy), free(x), free(start), free(dw), free(dbias), free(cut), free(cut_bias), free(ones), free(rdy), free(rx);
}

/* Panels of `rows` rows and K columns, `pair` of which lie side by side: all beyond them is zero, nothing unset. */
static void check_padding(size_t rows, size_t K, size_t pair, const void *panels, size_t bytes) {
    const uint8_t *byte = panels;
    size_t padded = (K + pair - 1) / pair * pair;
    for (size_t r = 0; r < (rows + 15) / 16 * 16; r++)
        for (size_t k = 0; k < padded; k++) {
            size_t place = r / 16 * 16 * padded + k / pair * pair * 16 + r % 16 * pair + k % pair;
            bool zero = true, unset = true;
            for (size_t i = place * bytes; i < (place + 1) * bytes; i++)
                zero = zero && byte[i] == 0, unset = unset && byte[i] == 0xff;
            assert_false(unset);
            if (r >= rows || k >= K) assert_true(zero);
        }
}

static void test_padding(void **state) {
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) {
        size_t R = shapes[i].R, N = shapes[i].N, most = (R + 16) * (N + 16) * sizeof(float);
        float *w = normal(R * N, 1);
        void *panels = malloc(most);
        panels_forward(R, N, w, 0, R, memset(panels, 0xff, most));
        check_padding(R, N, 1, panels, sizeof(float));
        panels_backward(R, N, w, 0, N, memset(panels, 0xff, most));
        check_padding(N, R, 1, panels, sizeof(float));
        panels_forward_bf16(R, N, w, 0, R, memset(panels, 0xff, most));
        check_padding(R, N, 2, panels, sizeof(uint16_t));
        panels_backward_bf16(R, N, w, 0, N, memset(panels, 0xff, most));
        check_padding(N, R, 2, panels, sizeof(uint16_t));
        free(w), free(panels);
    }
}

/* Room for many columns or tokens is room for fewer: passes cut theirs once, for the most. */
static void test_scratch_bf16(void **state) {
    (void)state;
    for (size_t n = 1; n < 600; n++) {
        assert_true(product_bf16_scratch(64, n) <= product_bf16_scratch(64, n + 1));
        assert_true(product_turned_bf16_scratch(n, 64) <= product_turned_bf16_scratch(n + 1, 64));
        assert_true(product_weight_bf16_scratch(n, 64, 48) <= product_weight_bf16_scratch(n + 1, 64, 48));
    }
}

static void test_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) {
        check_forward_bf16(shapes[i]);
        check_backward_input_bf16(shapes[i]);
        check_backward_weight_bf16(shapes[i]);
    }
}

static void test_forward(void **state) {
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) check_forward(shapes[i]);
}
static void test_backward_input(void **state) {
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) check_backward_input(shapes[i]);
}
static void test_backward_weight(void **state) {
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) check_backward_weight(shapes[i]);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward), cmocka_unit_test(test_backward_input), cmocka_unit_test(test_backward_weight),
        cmocka_unit_test(test_bf16),    cmocka_unit_test(test_padding),        cmocka_unit_test(test_scratch_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
