/* Dynamic quantization as ONNX Runtime, torch and bitsandbytes do it, against what they gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "formats/weight.h"
#include "golden_files.h"
#include "kernels/kernels.h"

static struct safetensors inputs, onnx, torch, bitsandbytes;
static bool there, bitsandbytes_there;

static int open_goldens(void **state) {
    char path[512];
    (void)state;
    there = golden_path(path, sizeof path, "quant/onnxruntime.safetensors");
    if (!there) return 0;
    golden_open(&inputs, "quant/inputs.safetensors");
    golden_open(&onnx, "quant/onnxruntime.safetensors");
    golden_open(&torch, "quant/torch.safetensors");
    bitsandbytes_there = golden_path(path, sizeof path, "quant/bitsandbytes.safetensors");
    if (bitsandbytes_there) golden_open(&bitsandbytes, "quant/bitsandbytes.safetensors");
    return 0;
}

static int close_goldens(void **state) {
    (void)state;
    safetensors_close(&inputs);
    safetensors_close(&onnx);
    safetensors_close(&torch);
    safetensors_close(&bitsandbytes);
    return 0;
}

static const struct tensor *onnx_tensor(const char *name, const char *ending) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, ending);
    return golden_tensor(&onnx, key);
}

/* x (rows,columns) as one tensor, in our signed codes. */
static void quantize(size_t rows, size_t columns, const float *x, float *scale, int32_t *zero, int8_t *q) {
    static const struct activation_quantizer way = {.range = ACTIVATION_PER_TENSOR, .asymmetric = true};
    float *low = malloc(2 * rows * sizeof *low), *high = low + rows, lowest = 0, highest = 0;
    int32_t *zeros = malloc(2 * rows * sizeof *zeros);
    kernels.range_f32(rows, columns, x, columns, low, high);
    for (size_t t = 0; t < rows; t++) lowest = fminf(lowest, low[t]), highest = fmaxf(highest, high[t]);
    activation_grid(&way, lowest, highest, scale, zero);
    for (size_t t = 0; t < rows; t++) low[t] = *scale, zeros[t] = *zero;
    kernels.quantize_affine(rows, columns, x, columns, columns, columns, low, zeros, -128, 127, q, zeros + rows);
    free(low);
    free(zeros);
}

/* DynamicQuantizeLinear bit for bit. */
static void test_dynamic_quantize_linear(void **state) {
    static const char *const names[] = {"dql.x", "dql.negative", "dql.positive", "dql.ties", "dql.zeros"};
    (void)state;
    if (!there) skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct tensor *x = i == 0 ? golden_tensor(&inputs, "x") : onnx_tensor(names[i], "input");
        const uint8_t *expected = onnx_tensor(names[i], "y")->data, *point = onnx_tensor(names[i], "zero_point")->data;
        float scale, wanted;
        int32_t zero;
        size_t count = (size_t)(x->shape[0] * x->shape[1]);
        int8_t *q = malloc(count);
        assert_non_null(q);
        quantize((size_t)x->shape[0], (size_t)x->shape[1], x->data, &scale, &zero, q);
        memcpy(&wanted, onnx_tensor(names[i], "scale")->data, sizeof wanted);
        assert_true(scale == wanted);
        assert_int_equal(zero + 128, *point);
        for (size_t k = 0; k < count; k++)
            if (q[k] + 128 != expected[k])
                fail_msg("%s: code %zu is %d, expected %d", names[i], k, q[k] + 128, expected[k]);
        free(q);
    }
}

/* A matrix with the given codes, scales (one, or one per row) and, of u8 codes, zero point. */
static void weight_new(struct weight *weight, const struct tensor *codes, const float *scales, size_t scale_count,
                       const uint8_t *point) {
    size_t rows = (size_t)codes->shape[0], columns = (size_t)codes->shape[1];
    struct weight_shape shape = {.rows = rows, .columns = columns, .symmetric = !point};
    float *w = malloc(rows * columns * sizeof *w), *scale = malloc(rows * sizeof *scale);
    uint8_t *zero = malloc(rows);
    struct weight_grid grid = {.scale = scale, .groups = 1, .zero = point ? zero : NULL, .as_torch = !point};
    assert_true(w && scale && zero);
    for (size_t r = 0; r < rows; r++) scale[r] = scales[scale_count == 1 ? 0 : r], zero[r] = point ? *point : 0;
    for (size_t i = 0; i < rows * columns; i++) {
        int code = point ? ((const uint8_t *)codes->data)[i] - *point : ((const int8_t *)codes->data)[i];
        w[i] = scale[i / columns] * (float)code;
    }
    if (weight_pack(weight, weight_format_find(point ? "int8_affine" : "int8"), &shape, w, &grid) < 0)
        fail_msg("%s", error_text());
    assert_int_equal(weight_prepare(weight, GEMM_BUILTIN), 0);
    free(w);
    free(scale);
    free(zero);
}

/* MatMulInteger: the exact integers that are left when the scales are taken off. */
static void test_matmul_integer(void **state) {
    static const float one = 1;
    (void)state;
    if (!there) skip();
    const struct tensor *codes = golden_tensor(&onnx, "matmul_integer.w"), *x = golden_tensor(&inputs, "x"),
                        *expected = golden_tensor(&onnx, "matmul_integer.c");
    size_t T = (size_t)x->shape[0], R = (size_t)codes->shape[0];
    struct weight weight;
    struct weight_scratch scratch = {0};
    float *y = malloc(T * R * sizeof *y), scale;
    memcpy(&scale, golden_tensor(&onnx, "dql.x.scale")->data, sizeof scale);
    uint8_t point = *(const uint8_t *)golden_tensor(&onnx, "dql.x.zero_point")->data;
    weight_new(&weight, codes, &one, 1, NULL);
    struct activation_quantizer fixed = {
        .range = ACTIVATION_STATIC, .asymmetric = true, .scale = scale, .zero = (int32_t)point - 128};
    assert_int_equal(weight_set_activation(&weight, &fixed), 0);
    assert_int_equal(weight_matmul(&weight, T, x->data, NULL, y, &scratch), 0);
    for (size_t i = 0; i < T * R; i++) {
        int32_t integer = ((const int32_t *)expected->data)[i];
        if (y[i] != scale * (float)integer)
            fail_msg("output %zu is %.9g, expected %.9g times %d", i, (double)y[i], (double)scale, integer);
    }
    weight_scratch_close(&scratch);
    weight_close(&weight);
    free(y);
}

/* Whole dynamic layers: x as one tensor, quantized by the library's convention, times its codes. */
static void check_dynamic(const struct safetensors *file, const char *name, bool reduced, bool unsigned_codes) {
    const struct activation_quantizer way = {.range = ACTIVATION_PER_TENSOR, .asymmetric = true, .reduced = reduced};
    const struct tensor *x = golden_tensor(&inputs, "x"), *codes, *scales, *expected;
    const uint8_t *point = NULL;
    char key[96];
    snprintf(key, sizeof key, "%s.w", name);
    codes = golden_tensor(file, key);
    snprintf(key, sizeof key, "%s.w_scale", name);
    scales = golden_tensor(file, key);
    snprintf(key, sizeof key, "%s.y", name);
    expected = golden_tensor(file, key);
    snprintf(key, sizeof key, "%s.w_zero_point", name);
    if (unsigned_codes) point = golden_tensor(file, key)->data;
    size_t T = (size_t)x->shape[0], R = (size_t)codes->shape[0];
    const uint32_t offset[] = {0, (uint32_t)T};
    struct weight weight;
    struct weight_scratch scratch = {.offset = offset, .sequences = 1};
    float *y = malloc(T * R * sizeof *y);
    assert_non_null(y);
    weight_new(&weight, codes, scales->data, (size_t)scales->shape[0], point);
    assert_int_equal(weight_set_activation(&weight, &way), 0);
    assert_int_equal(weight_matmul(&weight, T, x->data, golden_tensor(&inputs, "bias")->data, y, &scratch), 0);
    golden_close(name, golden_difference(y, expected->data, T * R, NULL, R), 1e-5);
    weight_scratch_close(&scratch);
    weight_close(&weight);
    free(y);
}

static void test_dynamic_layers(void **state) {
    (void)state;
    if (!there) skip();
    check_dynamic(&onnx, "dynamic.qint8.tensor", false, false);
    check_dynamic(&onnx, "dynamic.qint8.channel", false, false);
    check_dynamic(&onnx, "dynamic.qint8.channel.reduced", false, false);
    check_dynamic(&onnx, "dynamic.quint8.tensor", false, true);
    check_dynamic(&torch, "dynamic.tensor", true, false);
    check_dynamic(&torch, "dynamic.channel", true, false);
}

/* LLM.int8(): x in halves, rows of codes on both sides, with and without the columns of outliers. */
static void check_outliers(const struct weight *weight, const float *x, size_t T, const char *kind) {
    size_t R = weight->shape.rows, N = weight->shape.columns, differ = 0;
    const uint32_t offset[] = {0, (uint32_t)T};
    struct weight_scratch scratch = {.offset = offset, .sequences = 1};
    float *y = malloc(T * R * sizeof *y);
    char key[64];
    assert_non_null(y);
    assert_int_equal(weight_matmul(weight, T, x, NULL, y, &scratch), 0);
    golden_close(kind, golden_difference(y, golden_tensor(&bitsandbytes, kind)->data, T * R, NULL, R), 2e-3);
    weight_scratch_close(&scratch);
    free(y);
    /* The codes themselves: what quantize_s8 makes of x without what reaches the threshold. */
    bool threshold = weight->activation.outlier > 0;
    snprintf(key, sizeof key, "int8.%s.x", threshold ? "threshold6" : "plain");
    const int8_t *codes = golden_tensor(&bitsandbytes, key)->data;
    snprintf(key, sizeof key, "int8.%s.x_absmax", threshold ? "threshold6" : "plain");
    const float *absmax = golden_tensor(&bitsandbytes, key)->data;
    const struct tensor *columns = golden_tensor(&bitsandbytes, "int8.threshold6.outlier_columns");
    float *row = malloc(N * sizeof *row), scale;
    int8_t *q = malloc(N);
    int32_t sum;
    assert_true(row && q);
    for (size_t t = 0; t < T; t++) {
        for (size_t n = 0; n < N; n++) row[n] = threshold && fabsf(x[t * N + n]) >= 6 ? 0 : x[t * N + n];
        kernels.quantize_s8(1, N, row, N, N, N, q, &scale, &sum);
        assert_true(scale == absmax[t] / 127.0f);
        for (size_t i = 0; threshold && i < (size_t)columns->shape[0]; i++) q[((const int32_t *)columns->data)[i]] = 0;
        for (size_t n = 0; n < N; n++) {
            differ += q[n] != codes[t * N + n];
            assert_in_range(q[n] - codes[t * N + n] + 1, 0, 2);
        }
    }
    assert_true(1000 * differ <= T * N);
    free(row);
    free(q);
}

static void test_llm_int8(void **state) {
    (void)state;
    if (!bitsandbytes_there) skip();
    const struct tensor *w = golden_tensor(&inputs, "w"), *halves = golden_tensor(&bitsandbytes, "int8.x_half");
    const int8_t *codes = golden_tensor(&bitsandbytes, "int8.w")->data;
    const float *absmax = golden_tensor(&bitsandbytes, "int8.w_absmax")->data;
    size_t R = (size_t)w->shape[0], N = (size_t)w->shape[1], T = (size_t)halves->shape[0], differ = 0;
    struct weight_shape shape = {.rows = R, .columns = N, .symmetric = true};
    float *scale = malloc(R * sizeof *scale), *x = malloc(T * N * sizeof *x), *back = malloc(R * N * sizeof *back);
    struct weight_grid grid = {.scale = scale};
    struct weight weight;
    assert_true(scale && x && back);
    kernels.widen_f16(T * N, halves->data, x);
    assert_int_equal(weight_grid_minmax(weight_format_find("int8"), &shape, w->data, &grid), 0);
    assert_int_equal(weight_pack(&weight, weight_format_find("int8"), &shape, w->data, &grid), 0);
    assert_int_equal(weight_prepare(&weight, GEMM_BUILTIN), 0);
    assert_int_equal(weight.format->unpack(&shape, weight.packed, back), 0);
    for (size_t i = 0; i < R * N; i++) {
        int code = (int)rintf(back[i] / scale[i / N]) - codes[i];
        assert_true(scale[i / N] == absmax[i / N] / 127.0f);
        assert_in_range(code + 1, 0, 2);
        differ += code != 0;
    }
    assert_true(1000 * differ <= R * N);
    check_outliers(&weight, x, T, "int8.plain.y");
    assert_int_equal(weight_set_activation(&weight, &(struct activation_quantizer){.outlier = 6}), 0);
    check_outliers(&weight, x, T, "int8.threshold6.y_with_outliers");
    weight_close(&weight);
    free(scale);
    free(x);
    free(back);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dynamic_quantize_linear),
        cmocka_unit_test(test_matmul_integer),
        cmocka_unit_test(test_dynamic_layers),
        cmocka_unit_test(test_llm_int8),
    };
    return cmocka_run_group_tests(tests, open_goldens, close_goldens);
}
