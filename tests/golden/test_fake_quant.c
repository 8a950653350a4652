/* Fake quantization and its straight-through gradients against torch, and on the grids of our packed formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "train/fake_quant.h"

#define REL 1e-5

struct quant_goldens {
    struct safetensors inputs, torch;
    struct json_document info;
    char *text;
};

static bool goldens_open(struct quant_goldens *goldens) {
    char path[512];
    if (!golden_path(path, sizeof path, "quant/torch.safetensors")) return false;
    golden_open(&goldens->inputs, "quant/inputs.safetensors");
    golden_open(&goldens->torch, "quant/torch.safetensors");
    golden_json(&goldens->info, &goldens->text, "quant/info.json");
    return true;
}

static void goldens_close(struct quant_goldens *goldens) {
    json_close(&goldens->info);
    memory_release(goldens->text);
    safetensors_close(&goldens->torch);
    safetensors_close(&goldens->inputs);
}

static const struct tensor *torch_tensor(const struct quant_goldens *goldens, const char *name, const char *ending) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, ending);
    return golden_tensor(&goldens->torch, key);
}

static struct fake_grid settings_of(const struct quant_goldens *goldens, const char *name) {
    const struct json *settings = json_member(json_member(json_root(&goldens->info), "torch.fake_settings"), name);
    double scale = 0;
    assert_non_null(settings);
    if (json_member(settings, "scale")) scale = golden_number(settings, "scale");
    return (struct fake_grid){.scale = (float)scale,
                              .zero = (int)golden_number(settings, "zero_point"),
                              .low = (int)golden_number(settings, "quant_min"),
                              .high = (int)golden_number(settings, "quant_max")};
}

/* torch multiplies by 1/scale, and adds the zero point before it rounds; the packed formats divide, round, then add.
 * Where x/scale is within the rounding errors of both of a half, the two may differ by one code. */
static bool is_tie(const struct fake_grid *grid, float x) {
    double ratio = (double)x / (double)grid->scale;
    double size = fabs(ratio) + fabs(ratio + grid->zero) + 1;
    return fabs(fabs(ratio - floor(ratio)) - 0.5) <= 2 * FLT_EPSILON * size;
}

/* What a tie of x may change in the scale's gradient, by its upstream one: half a code more or less, but at an end of
 * the grid either that or all of the end, as beyond it. */
static double tie_reach(const struct fake_grid *grid, float x) {
    double below = floor((double)x / (double)grid->scale) + grid->zero;
    if (below >= grid->low && below + 1 <= grid->high) return 1;
    return 1 + fmax(abs(grid->low - grid->zero), abs(grid->high - grid->zero));
}

/* One grid's stretch of x: values, gradients, and the gradient at the scale, which is returned with its tolerance. */
static double check_stretch(const struct fake_grid *grid, size_t count, const float *x, const float *upstream,
                            const float *expected, const float *expected_gradient, double *tolerance) {
    float *y = malloc(2 * count * sizeof *y), *gradient = y + count;
    assert_non_null(y);
    if (expected) fake_round(grid, count, x, y);
    double step = fake_round_backward(grid, count, x, upstream, false, gradient), squares = 0, ties = 0;
    for (size_t i = 0; i < count; i++) {
        double ratio = (double)x[i] / (double)grid->scale, edge = (double)grid->scale;
        bool tie = is_tie(grid, x[i]);
        if (tie) ties += fabs((double)upstream[i]) * tie_reach(grid, x[i]);
        squares += pow((double)upstream[i] * fmax(1, fabs(ratio)), 2); /* of terms, whose errors add up at random */
        if (expected) assert_true(fabsf(y[i] - expected[i]) <= (float)(REL * fabs((double)expected[i]) + tie * edge));
        if (tie) continue;
        assert_true(gradient[i] == expected_gradient[i]);
    }
    *tolerance = REL * fabs(step) + 4 * FLT_EPSILON * sqrt(squares) + ties;
    free(y);
    return step;
}

static void check_tensor(const char *kind) {
    struct quant_goldens goldens;
    char tensor[32], learnable[32];
    double tolerance;
    if (!goldens_open(&goldens)) skip();
    snprintf(tensor, sizeof tensor, "fake.tensor.%s", kind);
    snprintf(learnable, sizeof learnable, "fake.learnable.%s", kind);
    struct fake_grid grid = settings_of(&goldens, tensor);
    const struct tensor *x = golden_tensor(&goldens.inputs, "x");
    const float *upstream = golden_tensor(&goldens.torch, "fake.upstream_x")->data;
    size_t count = x->shape[0] * x->shape[1];
    check_stretch(&grid, count, x->data, upstream, torch_tensor(&goldens, tensor, "y")->data,
                  torch_tensor(&goldens, tensor, "grad")->data, &tolerance);
    double step = check_stretch(&grid, count, x->data, upstream, NULL,
                                torch_tensor(&goldens, learnable, "grad_x")->data, &tolerance);
    double expected = (double)*(const float *)torch_tensor(&goldens, learnable, "grad_scale")->data;
    if (fabs(step - expected) > tolerance)
        fail_msg("%s: step gradient %.9g, expected %.9g within %g", kind, step, expected, tolerance);
    goldens_close(&goldens);
}

static void test_unsigned(void **state) {
    (void)state;
    check_tensor("u8");
    check_tensor("u4");
}

static void test_signed(void **state) {
    (void)state;
    check_tensor("s8");
}

static void test_channels(void **state) {
    struct quant_goldens goldens;
    double tolerance;
    (void)state;
    if (!goldens_open(&goldens)) skip();
    struct fake_grid grid = settings_of(&goldens, "fake.channel.s4");
    const struct tensor *w = golden_tensor(&goldens.inputs, "w");
    size_t R = w->shape[0], N = w->shape[1];
    const float *scale = golden_tensor(&goldens.torch, "fake.channel.s4.scale")->data, *values = w->data;
    const float *upstream = golden_tensor(&goldens.torch, "fake.upstream_w")->data;
    const float *expected = golden_tensor(&goldens.torch, "fake.channel.s4.y")->data;
    const float *gradient = golden_tensor(&goldens.torch, "fake.channel.s4.grad")->data;
    for (size_t r = 0; r < R; r++) {
        grid.scale = scale[r];
        check_stretch(&grid, N, values + r * N, upstream + r * N, expected + r * N, gradient + r * N, &tolerance);
    }
    goldens_close(&goldens);
}

/* Halves go to even codes, what is beyond the range to its end however far, NaN stays. */
static void test_halves(void **state) {
    static const float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 9, 1e30f, -1e30f, INFINITY, NAN};
    static const float expected[] = {0, 2, 2, 0, -2, -2, 7, 7, -8, 7};
    enum { COUNT = sizeof x / sizeof *x };
    struct fake_grid grid = {.scale = 1, .zero = 8, .high = 15};
    float y[COUNT], dy[COUNT], dx[COUNT];
    (void)state;
    for (size_t i = 0; i < COUNT; i++) dy[i] = 1;
    fake_round(&grid, COUNT, x, y);
    fake_round_backward(&grid, COUNT - 1, x, dy, false, dx);
    for (size_t i = 0; i + 1 < COUNT; i++) {
        assert_true(y[i] == expected[i]);
        assert_true(dx[i] == (i < 6 ? 1 : 0));
    }
    assert_true(isnan(y[COUNT - 1]));
    grid.scale = 0;
    fake_round(&grid, 3, x, y);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
}

/* ---- the grids of packed formats ---------------------------------------------------------------------- */

static float *random_floats(size_t count, uint64_t seed, float size) {
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = size * ((float)(seed >> 40) / (float)(1u << 23) - 1);
    }
    return values;
}

static struct fake_quant open_fake(const char *format, size_t group, bool symmetric, enum fake_weights weights,
                                   enum fake_inputs inputs, size_t R, size_t N, const float *w) {
    struct fake_quant fake;
    struct fake_quant_plan plan = {.format = weight_format_find(format),
                                   .group = group,
                                   .symmetric = symmetric,
                                   .weights = weights,
                                   .inputs = inputs,
                                   .decay = 0.75,
                                   .start_step = 2};
    assert_int_equal(fake_quant_open(&fake, "layer", &plan, R, N, w), 0);
    return fake;
}

/* What training computed with is, bit for bit, what the packed bytes hold. */
static void check_packed(const char *format, size_t group, bool symmetric, enum fake_weights weights) {
    const size_t R = 37, N = 150; /* neither whole panels nor whole groups */
    float *w = random_floats(R * N, 7, 0.3f), *seen = malloc(2 * R * N * sizeof *seen), *unpacked = seen + R * N;
    struct weight packed = {0};
    memset(w + 2 * N, 0, N * sizeof *w); /* an all-zero row */
    struct fake_quant fake = open_fake(format, group, symmetric, weights, FAKE_INPUTS_NONE, R, N, w);
    for (size_t i = 0; fake.size && i < R * fake.grid.groups; i++) fake.size[i] *= 0.4f + 0.05f * (float)(i % 7);
    for (size_t begin = 0; begin < R; begin += 16) {
        size_t end = begin + 16 < R ? begin + 16 : R;
        fake_quant_rows(&fake, w, begin, end, seen + begin * N);
    }
    assert_int_equal(weight_pack(&packed, fake.plan.format, &fake.shape, w, &fake.grid), 0);
    assert_int_equal(packed.format->unpack(&packed.shape, packed.packed, unpacked), 0);
    for (size_t i = 0; i < R * N; i++) assert_true(seen[i] == unpacked[i]);
    weight_close(&packed);
    fake_quant_close(&fake);
    free(w);
    free(seen);
}

static void test_packed_values(void **state) {
    (void)state;
    check_packed("int8", 0, true, FAKE_WEIGHTS_ABSMAX);
    check_packed("int8", 0, true, FAKE_WEIGHTS_LSQ);
    for (size_t group = 32; group <= 128; group *= 2) {
        check_packed("int4", group, true, FAKE_WEIGHTS_ABSMAX);
        check_packed("int4", group, false, FAKE_WEIGHTS_ABSMAX);
        check_packed("int4", group, true, FAKE_WEIGHTS_LSQ);
    }
}

/* Esser et al. 2020: the step starts at 2 mean|w| / √Q; its gradient is scaled by 1/√(count·Q), and reaches m, of which
 * the step is 2m/√Q, times that ratio; weights beyond the range get none. Adding adds. */
static void test_learned(void **state) {
    const size_t R = 3, N = 80, G = 32;
    float *w = random_floats(R * N, 11, 0.5f), *dq = random_floats(R * N, 13, 1), *dw = calloc(R * N, sizeof *dw);
    (void)state;
    w[5] = 40; /* beyond any range */
    struct fake_quant fake = open_fake("int4", G, true, FAKE_WEIGHTS_LSQ, FAKE_INPUTS_NONE, R, N, w);
    float *out = malloc(R * N * sizeof *out);
    fake_quant_rows(&fake, w, 0, R, out);
    assert_false(fake_quant_passes(&fake));
    for (int pass = 0; pass < 2; pass++) fake_quant_gradient(&fake, w, 0, R, dq, pass > 0, dw);
    for (size_t r = 0; r < R; r++)
        for (size_t g = 0; g < 3; g++) {
            size_t begin = g * G, end = begin + G < N ? begin + G : N, at = r * 3 + g;
            double mean = 0, step = 0, scale = (double)fake.grid.scale[at], count = (double)(end - begin);
            for (size_t n = begin; n < end; n++) mean += fabs((double)w[r * N + n]) / count;
            assert_true(fabs(scale - 2 * mean / sqrt(7)) <= scale / 2048); /* f16 */
            for (size_t n = begin; n < end; n++) {
                double v = (double)w[r * N + n] / scale, code = rint(v), upstream = (double)dq[r * N + n];
                bool inside = code >= -8 && code <= 7;
                step += upstream * (inside ? code - v : code < -8 ? -8 : 7);
                assert_true(dw[r * N + n] == (inside ? 2 * dq[r * N + n] : 0));
            }
            double expected = 2 * step * (2 / sqrt(7)) / sqrt(count * 7);
            assert_true(fabs((double)fake.dsize[at] - expected) <= 1e-5 * (fabs(expected) + 1e-3));
        }
    assert_true(dw[5] == 0);
    fake_quant_close(&fake);
    free(w), free(dq), free(dw), free(out);
}

/* Inputs as the packed formats quantize them. */
static void test_dynamic_inputs(void **state) {
    const size_t T = 9, N = 70, padded = 128;
    float *x = random_floats(T * N, 17, 3), *out = malloc(T * N * sizeof *out), scale[9];
    int8_t *q = malloc(T * padded);
    int32_t sums[9];
    (void)state;
    memset(x + 3 * N, 0, N * sizeof *x);
    x[4 * N] = 1e-42f; /* a token of which nothing but a subnormal is left */
    memset(x + 4 * N + 1, 0, (N - 1) * sizeof *x);
    struct fake_quant fake = open_fake("int4", 64, true, FAKE_WEIGHTS_ABSMAX, FAKE_INPUTS_DYNAMIC, 5, N, x);
    assert_true(fake_quant_passes(&fake));
    fake_quant_input(&fake, T, x, out);
    kernels.quantize_s8(T, N, x, N, padded, padded, q, scale, sums);
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n++) assert_true(out[t * N + n] == scale[t] * (float)q[t * padded + n]);
    fake_quant_close(&fake);
    free(x), free(out), free(q);
}

/* The average: the first step's largest magnitude, then decay·average + (1-decay)·seen, used from start_step on and
 * never in the step it comes from; gradients end at the range. */
static void test_average_inputs(void **state) {
    enum { N = 32 };
    float x[N], out[N], dx[N];
    (void)state;
    struct fake_quant fake =
        open_fake("int8", 0, true, FAKE_WEIGHTS_ABSMAX, FAKE_INPUTS_EMA, 1, N, (const float[N]){1});
    for (uint64_t step = 0; step < 4; step++) {
        for (int micro = 0; micro < 2; micro++) {
            fake_quant_begin(&fake, step);
            for (size_t n = 0; n < N; n++)
                x[n] = (float)(step + 1) * (float)(micro + 1) * ((float)n - 15) / 16, dx[n] = 1; /* up to ±2(step+1) */
            fake_quant_input(&fake, 1, x, out);
            fake_quant_input_gradient(&fake, 1, x, dx);
            double average = step == 2 ? 0.75 * 2 + 0.25 * 4 : 0.75 * 2.5 + 0.25 * 6;
            for (size_t n = 0; n < N; n++) {
                double code = rint((double)x[n] * 127 / average), limit = code > 127 ? 127 : code < -127 ? -127 : code;
                double expected = step < 2 ? (double)x[n] : limit * average / 127;
                assert_true(fabs((double)out[n] - expected) <= 1e-6 * average);
                assert_true(dx[n] == (step < 2 || code == limit ? 1 : 0));
            }
        }
    }
    fake_quant_close(&fake);
}

static void test_refusals(void **state) {
    struct fake_quant fake;
    struct fake_quant_plan plan = {.format = weight_format_find("int4"), .group = 64, .weights = FAKE_WEIGHTS_LSQ};
    float w[64] = {1};
    (void)state;
    assert_int_equal(fake_quant_open(&fake, "layer", &plan, 1, 64, w), E_UNSUPPORTED);
    plan.format = weight_format_find("f32");
    plan.symmetric = true;
    assert_int_equal(fake_quant_open(&fake, "layer", &plan, 1, 64, w), E_UNSUPPORTED);
    plan.format = weight_format_find("int4");
    plan.group = 48;
    assert_true(fake_quant_open(&fake, "layer", &plan, 1, 64, w) < 0);
    plan.group = 64;
    w[3] = NAN;
    assert_int_equal(fake_quant_open(&fake, "layer", &plan, 1, 64, w), E_NUMERIC);
    plan.weights = FAKE_WEIGHTS_ABSMAX; /* weights that went wrong show in what the layer computes */
    assert_int_equal(fake_quant_open(&fake, "layer", &plan, 1, 64, w), 0);
    fake_quant_rows(&fake, w, 0, 1, w);
    assert_true(isnan(w[0]));
    fake_quant_close(&fake);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unsigned),       cmocka_unit_test(test_signed),         cmocka_unit_test(test_channels),
        cmocka_unit_test(test_halves),         cmocka_unit_test(test_packed_values),  cmocka_unit_test(test_learned),
        cmocka_unit_test(test_dynamic_inputs), cmocka_unit_test(test_average_inputs), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
