/* How int8 layers quantize their input: grids, every way of choosing them against arithmetic written out here, batches
 * whose sequences do not see each other, and layers that keep their way on disk. */
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
#include <unistd.h>

#include "base/error.h"
#include "base/random.h"
#include "io/safetensors.h"
#include "kernels/kernels.h"
#include "small_model.h"

#define R 37
#define N 129
#define T 11

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void fill(float *x, size_t count, uint64_t seed) {
    struct random random;
    random_open(&random, seed, random_stream("activations", 0, 0));
    for (size_t i = 0; i < count; i++) x[i] = (float)random_normal(&random) + (i % 7 == 0 ? 1.5f : 0);
}

static void test_grids(void **state) {
    static const struct {
        struct activation_quantizer quantizer;
        float low, high, scale;
        int32_t zero;
    } cases[] = {
        {{.asymmetric = true}, -1, 4.1f, (4.1f + 1) / 255, -128 + 50},
        {{.asymmetric = true}, -1, 4.04f, (4.04f + 1) / 255, -128 + 51}, /* 50.6 */
        {{.asymmetric = true}, 0.5f, 2, 2.0f / 255, -128},               /* zero is always representable */
        {{.asymmetric = true}, -3, -0.5f, 3.0f / 255, 127},              /* ... at either end */
        {{.asymmetric = true}, 0, 0, 1, -128},
        {{.asymmetric = true, .reduced = true}, -1, 4.08f, (4.08f + 1) / 127, -64 + 25},
        {{0}, -3, 1, 3.0f / 127, 0},
        {{.reduced = true}, -3, 7, 7.0f / 63, 0},
        {{0}, 0, 0, 1, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float scale;
        int32_t zero;
        activation_grid(&cases[i].quantizer, cases[i].low, cases[i].high, &scale, &zero);
        assert_true(scale == cases[i].scale);
        assert_int_equal(zero, cases[i].zero);
    }
}

static void test_checks(void **state) {
    static const struct {
        struct activation_quantizer quantizer;
        int code;
    } cases[] = {
        {{0}, 0},
        {{.range = ACTIVATION_STATIC, .scale = 0.1f}, 0},
        {{.range = ACTIVATION_STATIC, .asymmetric = true, .scale = 0.1f, .zero = -128}, 0},
        {{.range = ACTIVATION_STATIC, .asymmetric = true, .reduced = true, .scale = 0.1f, .zero = -65}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC, .asymmetric = true, .scale = 0.1f, .zero = 128}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC, .scale = 0.1f, .zero = 1}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC, .scale = -1}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC, .scale = INFINITY}, E_ARGUMENT},
        {{.range = ACTIVATION_STATIC, .scale = NAN}, E_ARGUMENT},
        {{.range = ACTIVATION_PER_TENSOR, .scale = 1}, E_ARGUMENT},
        {{.zero = 1}, E_ARGUMENT},
        {{.outlier = 6}, 0},
        {{.outlier = -1}, E_ARGUMENT},
        {{.outlier = NAN}, E_ARGUMENT},
        {{.outlier = 6, .asymmetric = true}, E_ARGUMENT},
        {{.outlier = 6, .reduced = true}, E_ARGUMENT},
        {{.outlier = 6, .range = ACTIVATION_PER_TENSOR}, E_ARGUMENT},
        {{.range = (enum activation_range)3}, E_ARGUMENT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(activation_check(&cases[i].quantizer), cases[i].code);
    struct weight weight = {.format = weight_format_find("int8_groups")};
    assert_int_equal(weight_set_activation(&weight, &(struct activation_quantizer){.outlier = 6}), E_UNSUPPORTED);
    weight.format = weight_format_find("int4");
    assert_int_equal(weight_set_activation(&weight, &(struct activation_quantizer){0}), E_UNSUPPORTED);
}

/* Random weights, shifted so that zero points matter, on the grid of round-to-nearest. */
static const struct layer {
    const char *format;
    size_t group;
    bool symmetric;
} layers[] = {{"int8", 0, true}, {"int8_affine", 0, false}, {"int8_groups", 32, true}, {"int8_groups", 64, false}};
#define LAYERS (sizeof layers / sizeof *layers)

static void weight_new(struct weight *weight, const struct layer *layer, float *w) {
    const struct weight_format *format = weight_format_find(layer->format);
    struct weight_shape shape = {.rows = R, .columns = N, .group = layer->group, .symmetric = layer->symmetric};
    float scale[5 * R];
    uint8_t zero[5 * R];
    struct weight_grid grid = {.scale = scale, .zero = layer->symmetric ? NULL : zero};
    fill(w, R * N, 1);
    must(weight_grid_minmax(format, &shape, w, &grid));
    must(weight_pack(weight, format, &shape, w, &grid));
    must(format->unpack(&shape, weight->packed, w));
    must(weight_prepare(weight, GEMM_BUILTIN));
}

static const struct activation_quantizer ways[] = {
    {0},
    {.asymmetric = true},
    {.reduced = true},
    {.range = ACTIVATION_PER_TENSOR},
    {.range = ACTIVATION_PER_TENSOR, .asymmetric = true},
    {.range = ACTIVATION_PER_TENSOR, .asymmetric = true, .reduced = true},
    {.range = ACTIVATION_STATIC, .scale = 0.03f},
    {.range = ACTIVATION_STATIC, .asymmetric = true, .scale = 0.02f, .zero = -40},
    {.range = ACTIVATION_STATIC, .asymmetric = true, .reduced = true, .scale = 0.04f, .zero = 63},
    {.outlier = 1.75f}, /* int8 only: the last */
};
#define WAYS (sizeof ways / sizeof *ways)

/* The ways that a layer can have. */
static size_t ways_of(const struct layer *layer) { return strcmp(layer->format, "int8") == 0 ? WAYS : WAYS - 1; }

/* The same with outliers: their columns as they are, the others on the grid of what is below the threshold. */
static void expected_outliers(const struct activation_quantizer *way, size_t begin, size_t end, const float *x,
                              double *seen) {
    bool left_out[N] = {false};
    size_t count = 0;
    for (size_t i = begin * N; i < end * N; i++) left_out[i % N] |= fabsf(x[i]) >= way->outlier;
    for (size_t n = 0; n < N; n++) count += left_out[n];
    assert_true(count > 0 && count < N);
    for (size_t t = begin; t < end; t++) {
        float top = 0;
        for (size_t n = 0; n < N; n++)
            if (fabsf(x[t * N + n]) < way->outlier) top = fmaxf(top, fabsf(x[t * N + n]));
        for (size_t n = 0; n < N; n++) {
            float value = x[t * N + n], step = top / 127;
            seen[t * N + n] = left_out[n] ? (double)value : (double)rintf(value / step) * (double)step;
        }
    }
}

/* Tokens begin..end-1 of x as the layer sees them: what their codes stand for. */
static void expected_input(const struct activation_quantizer *way, size_t begin, size_t end, const float *x,
                           double *seen) {
    int top = way->reduced ? 63 : 127, bottom = way->asymmetric ? -top - 1 : -top;
    float low = 0, high = 0, scale;
    int32_t zero;
    for (size_t i = begin * N; i < end * N; i++) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    activation_grid(way, low, high, &scale, &zero);
    if (way->range == ACTIVATION_STATIC) scale = way->scale, zero = way->zero;
    for (size_t i = begin * N; i < end * N; i++) {
        double code = fmin(top, fmax(bottom, (double)rintf(x[i] / scale) + zero));
        seen[i] = (code - zero) * (double)scale;
    }
}

static void check_product(const struct layer *layer, const struct activation_quantizer *way) {
    static float w[R * N], x[T * N], bias[R], y[T * R];
    static double seen[T * N];
    static const uint32_t offset[] = {0, 1, 7, T};
    struct weight weight;
    struct weight_scratch scratch = {.offset = offset, .sequences = 3};
    weight_new(&weight, layer, w);
    fill(x, T * N, 2);
    fill(bias, R, 3);
    x[8 * N + 3] = 1.749f; /* token 8's scale, in a column that its neighbour takes out */
    x[9 * N + 3] = -5;
    must(weight_set_activation(&weight, way));
    must(weight_matmul(&weight, T, x, bias, y, &scratch));
    if (way->outlier > 0)
        for (size_t i = 0; i < 3; i++) expected_outliers(way, offset[i], offset[i + 1], x, seen);
    else if (way->range == ACTIVATION_PER_TENSOR)
        for (size_t i = 0; i < 3; i++) expected_input(way, offset[i], offset[i + 1], x, seen);
    else
        for (size_t t = 0; t < T; t++) expected_input(way, t, t + 1, x, seen);
    for (size_t i = 0; i < T * R; i++) {
        double exact = (double)bias[i % R], magnitude = fabs(exact);
        for (size_t n = 0; n < N; n++) {
            exact += seen[i / R * N + n] * (double)w[i % R * N + n];
            magnitude += fabs(seen[i / R * N + n] * (double)w[i % R * N + n]);
        }
        /* Roundings: the factor of both scales, the integer, the product, the sum, and every unpacked weight; in groups
         * also a product and a sum of each of up to 5, and the zero point's share, which is taken off a larger total.
         */
        double bound = 0x1p-24 * (layer->group ? 40 : 5) * magnitude;
        if (!(fabs((double)y[i] - exact) <= bound))
            fail_msg("%s: y[%zu] is %.9g, expected %.9g", layer->format, i, (double)y[i], exact);
    }
    weight_scratch_close(&scratch);
    weight_close(&weight);
}

static void test_products(void **state) {
    (void)state;
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t k = 0; k < ways_of(&layers[l]); k++) check_product(&layers[l], &ways[k]);
}

/* oneDNN's products of codes: the same bits as ours, whatever the way; few tokens are ours. */
static void check_library(const struct layer *layer) {
    static float w[R * N], x[T * N], bias[R], ours[T * R], theirs[T * R];
    static const uint32_t offset[] = {0, 1, 7, T};
    struct weight weight;
    struct weight_scratch scratch = {.offset = offset, .sequences = 3};
    weight_new(&weight, layer, w);
    fill(x, T * N, 2);
    fill(bias, R, 3);
    x[9 * N + 3] = -5;
    for (size_t k = 0; k < ways_of(layer); k++) {
        must(weight_set_activation(&weight, &ways[k]));
        must(weight_prepare(&weight, GEMM_BUILTIN));
        must(weight_matmul(&weight, T, x, k % 2 ? bias : NULL, ours, &scratch));
        must(weight_prepare(&weight, GEMM_ONEDNN));
        memset(theirs, 0, sizeof theirs);
        must(weight_matmul(&weight, T, x, k % 2 ? bias : NULL, theirs, &scratch));
        if (memcmp(ours, theirs, sizeof ours) != 0) fail_msg("%s: way %zu differs", layer->format, k);
    }
    assert_int_equal(weight.backend, GEMM_ONEDNN);
    scratch.offset = NULL;
    must(weight_set_activation(&weight, &ways[0]));
    must(weight_matmul(&weight, 1, x, NULL, theirs, &scratch));
    must(weight_prepare(&weight, GEMM_BUILTIN));
    must(weight_matmul(&weight, 1, x, NULL, ours, &scratch));
    assert_memory_equal(ours, theirs, R * sizeof *ours);
    weight_scratch_close(&scratch);
    weight_close(&weight);
}

static void test_library(void **state) {
    (void)state;
#if defined(THREADS_POSIX) || defined(BACKENDS_NONE)
    printf("skipped: oneDNN is not in this build, or its OpenMP threads cannot be seen by ThreadSanitizer\n");
    (void)check_library;
    skip();
#endif
    for (size_t l = 0; l < LAYERS; l++)
        if (!layers[l].group) check_library(&layers[l]);
}

/* Whatever the way, a sequence gets the same bits alone, and rows without sequences are each their own. */
static void check_neighbours(const struct layer *layer) {
    static float w[R * N], x[T * N], all[T * R], alone[T * R];
    static const uint32_t offset[] = {0, 4, T}, first[] = {0, 4}, second[] = {0, T - 4};
    struct weight weight;
    struct weight_scratch scratch = {0};
    weight_new(&weight, layer, w);
    fill(x, T * N, 4);
    x[2 * N + 5] = 40; /* a wide sequence beside a narrow one */
    for (size_t k = 0; k < ways_of(layer); k++) {
        must(weight_set_activation(&weight, &ways[k]));
        scratch.offset = offset, scratch.sequences = 2;
        must(weight_matmul(&weight, T, x, NULL, all, &scratch));
        scratch.offset = first, scratch.sequences = 1;
        must(weight_matmul(&weight, 4, x, NULL, alone, &scratch));
        scratch.offset = second;
        must(weight_matmul(&weight, T - 4, x + 4 * N, NULL, alone + 4 * R, &scratch));
        assert_memory_equal(all, alone, sizeof all);
        scratch.offset = NULL;
        must(weight_matmul(&weight, T, x, NULL, all, &scratch));
        for (size_t t = 0; t < T; t++) must(weight_matmul(&weight, 1, x + t * N, NULL, alone + t * R, &scratch));
        assert_memory_equal(all, alone, sizeof all);
    }
    weight_scratch_close(&scratch);
    weight_close(&weight);
}

static void test_neighbours(void **state) {
    (void)state;
    check_neighbours(&layers[0]);
    check_neighbours(&layers[3]);
}

/* A NaN shows in every output of its token, or of its sequence where that has one scale. */
static void check_nan(const struct layer *layer) {
    static float w[R * N], x[T * N], y[T * R];
    static const uint32_t offset[] = {0, 4, T};
    struct weight weight;
    struct weight_scratch scratch = {.offset = offset, .sequences = 2};
    weight_new(&weight, layer, w);
    fill(x, T * N, 4);
    x[6 * N + 128] = NAN;
    for (size_t k = 0; k < ways_of(layer); k++) {
        must(weight_set_activation(&weight, &ways[k]));
        must(weight_matmul(&weight, T, x, NULL, y, &scratch));
        for (size_t i = 0; i < T * R; i++) {
            bool bad = ways[k].range == ACTIVATION_PER_TENSOR ? i / R >= 4 : i / R == 6;
            assert_int_equal(isnan(y[i]) != 0, bad);
        }
    }
    weight_scratch_close(&scratch);
    weight_close(&weight);
}

static void test_nan(void **state) {
    (void)state;
    check_nan(&layers[0]);
    check_nan(&layers[1]);
}

/* Matrices that share an input but not its grid. */
static void test_shared(void **state) {
    static float w[R * N], x[T * N], y[3][T * R], alone[T * R];
    struct weight weight[3];
    const struct weight *weights[] = {&weight[0], &weight[1], &weight[2]};
    float *outputs[] = {y[0], y[1], y[2]};
    struct weight_scratch scratch = {0};
    (void)state;
    fill(x, T * N, 4);
    for (size_t i = 0; i < 3; i++) {
        weight_new(&weight[i], &layers[0], w);
        must(weight_set_activation(&weight[i], &ways[i == 1 ? 7 : 1]));
    }
    must(weight_matmul_shared(weights, NULL, outputs, 3, T, x, &scratch));
    for (size_t i = 0; i < 3; i++) {
        must(weight_matmul(&weight[i], T, x, NULL, alone, &scratch));
        assert_memory_equal(y[i], alone, sizeof alone);
        weight_close(&weight[i]);
    }
    weight_scratch_close(&scratch);
}

/* ---- models ----------------------------------------------------------------------------------------- */

static void pack(struct model *model, struct linear *linear, const struct activation_quantizer *way) {
    const struct weight_format *format = weight_format_find("int8");
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    float scale[256];
    struct weight_grid grid = {.scale = scale, .groups = 1};
    assert_true(linear->rows <= 256);
    must(weight_grid_minmax(format, &shape, linear->value, &grid));
    must(linear_pack(model, linear, format, 0, true, &grid));
    must(linear_set_activation(model, linear, way));
}

/* Layers in ways[first], ways[first + step] and so on. */
static void packed_model(struct model *model, size_t first, size_t step) {
    small_model(model, HEAD_CLASSIFICATION, 3);
    assert_int_equal(linear_set_activation(model, &model->linears[0], &ways[1]), E_STATE);
    for (size_t i = 0, k = first; i < model->linear_count; i++, k += step)
        if (model->linears[i].block >= 0) pack(model, &model->linears[i], &ways[k % WAYS]);
}

static void run(struct model *model, enum batch_read read, float *hidden, float logits[9]) {
    static const size_t lengths[] = {3, 11, 6};
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    small_batch_new(&batch, &model->config, lengths, 3, 4);
    batch.batch.read = read;
    must(model_prepare(model, GEMM_BUILTIN));
    must(model_forward(model, &batch.batch, NULL, &workspace, &output));
    if (output.logits) memcpy(logits, output.logits, 9 * sizeof(float));
    for (size_t i = 0; i < 3; i++) {
        size_t row = read == READ_ALL ? batch.offset[i + 1] - 1 : i;
        memcpy(hidden + i * model->config.width, output.hidden + row * model->config.width,
               model->config.width * sizeof(float));
    }
    workspace_close(&workspace);
    small_batch_free(&batch);
}

/* What is read is the same whether or not all else is. */
static void test_reads(void **state) {
    struct model model;
    float all[3 * 32], last[3 * 32], logits[9], first[9];
    (void)state;
    for (size_t k = 0; k < 2 * WAYS; k++) {
        packed_model(&model, k, k < WAYS);
        run(&model, READ_ALL, all, logits);
        run(&model, READ_LAST, last, first);
        assert_memory_equal(all, last, sizeof all);
        run(&model, READ_FIRST, last, first);
        assert_memory_equal(logits, first, sizeof first);
        model_close(&model);
    }
}

static char path[] = "/tmp/test_activations_XXXXXX", other[sizeof path + 4];

static void test_round_trip(void **state) {
    struct model model, back, copy, view;
    float hidden[3 * 32], want[9], got[9];
    (void)state;
    packed_model(&model, 0, 1);
    run(&model, READ_ALL, hidden, want);
    must(model_save(&model, path, HEAD_CLASSIFICATION));
    must(model_open(&back, path, false));
    for (size_t i = 0; i < model.linear_count; i++)
        assert_true(activation_same(&back.linears[i].weight.activation, &model.linears[i].weight.activation));
    run(&back, READ_ALL, hidden, got);
    assert_memory_equal(got, want, sizeof want);
    must(model_copy(&copy, &back, NULL));
    run(&copy, READ_ALL, hidden, got);
    assert_memory_equal(got, want, sizeof want);
    must(model_view(&view, &copy, HEAD_CLASSIFICATION));
    run(&view, READ_ALL, hidden, got);
    assert_memory_equal(got, want, sizeof want);
    model_close(&view);
    model_close(&copy);
    model_close(&back);
    model_close(&model);
}

/* The artifact again with `from` replaced by `to`, as long, in its metadata. */
static void tamper(const char *from, const char *to) {
    struct safetensors file;
    struct safetensors_meta metadata[8];
    must(safetensors_open(&file, path));
    assert_true(file.metadata_count <= 8);
    memcpy(metadata, file.metadata, file.metadata_count * sizeof *metadata);
    char *text = NULL;
    for (size_t i = 0; i < file.metadata_count; i++) {
        char *place;
        if (strcmp(metadata[i].key, "weights") != 0) continue;
        text = malloc(strlen(metadata[i].value) + strlen(to) + 1);
        assert_non_null(text);
        strcpy(text, metadata[i].value);
        place = strstr(text, from);
        assert_non_null(place);
        memmove(place + strlen(to), place + strlen(from), strlen(place + strlen(from)) + 1);
        memcpy(place, to, strlen(to));
        metadata[i].value = text;
    }
    must(safetensors_write(other, file.tensors, file.count, metadata, file.metadata_count));
    free(text);
    safetensors_close(&file);
}

static void test_lies(void **state) {
    static const struct {
        const char *from, *to, *words;
    } cases[] = {
        {"\"range\": \"tensor\"", "\"range\": \"sensor\"", "range \"sensor\" is not known"},
        {"\"range\": \"static\"", "\"range\": \"token\"", "only static activations"},
        {"\"range\": \"tensor\", ", "", "has no range"},
        {"\"range\": \"tensor\"", "\"range\": 5", "range must be a string"},
        {"\"zero\": -40", "\"zero\": -129", "no code"},
        {"\"zero\": -40", "\"zero\": 0.5", "no code"},
        {"\"zero\": 63", "\"zero\": 64", "-64..63"},
        {"\"scale\": 0.0", "\"scale\": -0.0", "positive"},
        {"\"scale\": 0.0299999993", "\"scale\": 1e60", "scale 1e+60 is too large"},
        {"\"outlier\": 1.75", "\"outlier\": -1.75", "threshold of outliers"},
        {"\"outlier\": 1.75", "\"outlier\": 1e60", "threshold of outliers 1e+60"},
        {"\"range\": \"tensor\"", "\"outlier\": 6, \"range\": \"tensor\"", "per token only"},
        {"\"reduced\": true", "\"reduced\": 7", "\"reduced\" is not understood"},
        {"\"reduced\": true", "\"colour\": true", "\"colour\" is not understood"},
        {"\"activation\": {", "\"activation\": 5, \"x\": {", "expected an object"},
        {"\"format\": \"int8\", \"rows\": 32, \"columns\": 32, \"group\": 0, \"symmetric\": true, \"simulated\": "
         "false, "
         "\"activation\"",
         "\"format\": \"f16\", \"activation\"", "f16 has no activation of its own"},
    };
    struct model model;
    (void)state;
    packed_model(&model, 0, 1);
    must(model_save(&model, path, HEAD_CLASSIFICATION));
    model_close(&model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tamper(cases[i].from, cases[i].to);
        int status = model_open(&model, other, false);
        if (status != E_FORMAT || !strstr(error_text(), cases[i].words))
            fail_msg("case %zu: expected '%s', got %s: %s", i, cases[i].words, error_name(status), error_text());
        model_close(&model);
    }
}

static int make_files(void **state) {
    int file = mkstemp(path);
    (void)state;
    if (file < 0) return -1;
    snprintf(other, sizeof other, "%s.b", path);
    return close(file);
}

static int remove_files(void **state) {
    (void)state;
    unlink(other);
    return unlink(path);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grids),   cmocka_unit_test(test_checks),     cmocka_unit_test(test_products),
        cmocka_unit_test(test_library), cmocka_unit_test(test_neighbours), cmocka_unit_test(test_nan),
        cmocka_unit_test(test_shared),  cmocka_unit_test(test_reads),      cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_lies),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
