/* Attention in bf16 and in 8-bit products against the formula in double, where it is easy and where heads rest; and
 * which of them a model's blocks use. */
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
#include "base/threads.h"
#include "kernels/kernels.h"
#include "base/error.h"
#include "model/attention.h"
#include "model/forward.h"
#include "model/layers.h"
#include "small_model.h"

static const enum attention_arithmetic kinds[] = {ATTENTION_BF16, ATTENTION_INT8};

struct head {
    size_t t, keys, D, stride; /* of rows of q, k and v */
    float *q, *k, *v;
};

static float *normal(size_t count, uint64_t stream, float size) {
    struct random random;
    float *values = calloc(count, sizeof(float));
    random_open(&random, 12, stream);
    for (size_t i = 0; i < count; i++) values[i] = size * (float)random_normal(&random);
    return values;
}

static struct head head_new(size_t t, size_t keys, size_t D) {
    struct head x = {.t = t, .keys = keys, .D = D, .stride = D + 3};
    x.q = normal(t * x.stride, 1, 2), x.k = normal(keys * x.stride, 2, 1), x.v = normal(keys * x.stride, 3, 1);
    return x;
}

static void head_free(struct head *x) { free(x->q), free(x->k), free(x->v); }

/* Contexts (t,D), caller's. They lie between columns that nobody may touch, and what scratch held is all one. */
static float *attend(enum attention_arithmetic kind, const struct head *x, size_t first, size_t count) {
    static const int fills[] = {0xff, 0x80};
    bool int8 = kind == ATTENTION_INT8;
    size_t stride = x->D + 1,
           floats = int8 ? attention_int8_scratch(x->D, x->keys) : attention_bf16_scratch(x->D, x->keys);
    size_t bytes = floats * sizeof(float);
    struct attention_keys keys = {.k = x->k, .v = x->v, .stride = x->stride, .count = x->keys};
    float *y[2], *scratch = malloc(bytes);
    for (int run = 0; run < 2; run++) {
        memset(scratch, fills[run], bytes);
        y[run] = malloc(count * stride * sizeof *y[run]);
        for (size_t i = 0; i < count * stride; i++) y[run][i] = 77;
        (int8 ? attention_int8 : attention_bf16)(count, x->D, x->q + first * x->stride, x->stride, &keys, y[run],
                                                 stride, scratch);
    }
    assert_memory_equal(y[0], y[1], count * stride * sizeof *y[0]);
    for (size_t i = 0; i < count; i++) {
        assert_true(y[0][i * stride + x->D] == 77);
        memmove(y[0] + i * x->D, y[0] + i * stride, x->D * sizeof *y[0]);
    }
    free(scratch), free(y[1]);
    return y[0];
}

static void formula(const struct head *x, size_t i, double *context) {
    double *p = calloc(x->keys, sizeof *p), top = -INFINITY, sum = 0;
    for (size_t j = 0; j < x->keys; j++) {
        for (size_t d = 0; d < x->D; d++) p[j] += (double)x->q[i * x->stride + d] * (double)x->k[j * x->stride + d];
        p[j] /= sqrt((double)x->D);
        top = fmax(top, p[j]);
    }
    for (size_t j = 0; j < x->keys; j++) sum += p[j] = exp(p[j] - top);
    for (size_t d = 0; d < x->D; d++) context[d] = 0;
    for (size_t j = 0; j < x->keys; j++)
        for (size_t d = 0; d < x->D; d++) context[d] += p[j] / sum * (double)x->v[j * x->stride + d];
    free(p);
}

/* Root of the mean square of what is off, over that of the contexts. */
static double error_of(enum attention_arithmetic kind, const struct head *x) {
    float *y = attend(kind, x, 0, x->t);
    double *expected = malloc(x->D * sizeof *expected), off = 0, size = 0;
    for (size_t i = 0; i < x->t; i++) {
        formula(x, i, expected);
        for (size_t d = 0; d < x->D; d++) {
            off += pow((double)y[i * x->D + d] - expected[d], 2);
            size += expected[d] * expected[d];
        }
    }
    free(y), free(expected);
    return sqrt(off / size);
}

/* Codes of 8 bits are off by some 0.4 % of their row's largest, bf16 by 0.4 % of itself, scores of a few units by as
 * much of a unit. */
static void near_the_formula(void **state) {
    static const size_t shapes[][3] = {{1, 1, 32},    {3, 5, 8},      {16, 16, 32}, {17, 33, 20}, {128, 128, 32},
                                       {40, 600, 64}, {131, 131, 16}, {1, 200, 32}, {33, 16, 1},  {9, 70, 128}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct head x = head_new(shapes[i][0], shapes[i][1], shapes[i][2]);
        for (size_t k = 0; k < 2; k++) {
            double error = error_of(kinds[k], &x);
            if (!(error < 0.03 && error > 0))
                fail_msg("kind %d t %zu keys %zu D %zu: off by %g", kinds[k], x.t, x.keys, x.D, error);
        }
        head_free(&x);
    }
}

/* Every query looks at key 0, 300 times as much as at all others together, and its value is 1000 times smaller: what
 * the others say is most of the context. In steps of the weights alone each of them would get none. */
static void keeps_what_a_resting_head_says(void **state) {
    struct head x = head_new(16, 100, 32);
    (void)state;
    for (size_t d = 0; d < x.D; d++) {
        for (size_t i = 0; i < x.t; i++) x.q[i * x.stride + d] = 1;
        for (size_t j = 0; j < x.keys; j++) x.k[j * x.stride + d] *= 0.1f;
        x.k[d] = (float)(log(300.0 * (double)(x.keys - 1)) / sqrt((double)x.D));
        x.v[d] *= 1e-3f;
    }
    for (size_t k = 0; k < 2; k++) {
        double error = error_of(kinds[k], &x);
        if (!(error < 0.03)) fail_msg("kind %d: off by %g", kinds[k], error);
    }
    head_free(&x);
}

/* All keys count alike, and values of two sizes, each exact in codes, stand against one another: only the weights,
 * which took over their scales, can be off, by half of 255 steps. */
static void scales_of_values_move_exactly(void **state) {
    struct head x = head_new(1, 64, 16);
    (void)state;
    memset(x.q, 0, x.stride * sizeof *x.q);
    for (int tenth = 0; tenth < 40; tenth++) {
        float large = 1 + 0.1f * (float)tenth;
        for (size_t i = 0; i < x.keys * x.stride; i++) x.v[i] = i / x.stride % 2 ? 1 : -large;
        float *y = attend(ATTENTION_INT8, &x, 0, 1), expected = (1 - large) / 2;
        for (size_t d = 0; d < x.D; d++)
            if (!(fabsf(y[d] - expected) <= large * 0.51f / 255))
                fail_msg("1 and -%g gave %g, expected %g", (double)large, (double)y[d], (double)expected);
        free(y);
    }
    head_free(&x);
}

static void queries_do_not_see_each_other(void **state) {
    struct head x = head_new(150, 150, 32);
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        float *all = attend(kinds[k], &x, 0, x.t);
        for (size_t i = 0; i < x.t; i += 37) {
            float *one = attend(kinds[k], &x, i, 1);
            assert_memory_equal(one, all + i * x.D, x.D * sizeof *one);
            free(one);
        }
        free(all);
    }
    head_free(&x);
}

/* Where `y` (t,D) is a number: only where the row is not `bad` (t: none, -1: all). */
static void expect_numbers(enum attention_arithmetic kind, const struct head *x, size_t bad) {
    float *y = attend(kind, x, 0, x->t);
    for (size_t i = 0; i < x->t; i++)
        if (isnan(y[i * x->D]) != (bad == SIZE_MAX || i == bad)) fail_msg("kind %d, row %zu", kind, i);
    free(y);
}

static void values_of_zero_and_no_number(void **state) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct head x = head_new(20, 40, 16);
        memset(x.v, 0, x.keys * x.stride * sizeof *x.v);
        float *y = attend(kinds[k], &x, 0, x.t);
        for (size_t i = 0; i < x.t * x.D; i++) assert_true(y[i] == 0);
        free(y);
        for (size_t d = 0; d < x.D; d++) x.v[7 * x.stride + d] = 1.0f; /* one key alone says something */
        assert_true(error_of(kinds[k], &x) < 0.02);
        for (size_t b = 0; b < 3; b++) {
            x.v[9 * x.stride + 3] = bad[b];
            y = attend(kinds[k], &x, 0, x.t);
            for (size_t i = 0; i < x.t; i++)
                if (isfinite(y[i * x.D + 3]))
                    fail_msg("kind %d: %g gave %g", kinds[k], (double)bad[b], (double)y[i * x.D + 3]);
            free(y);
        }
        x.v[9 * x.stride + 3] = 0;
        expect_numbers(kinds[k], &x, x.t);
        x.q[5 * x.stride + 2] = NAN;
        expect_numbers(kinds[k], &x, 5);
        x.q[5 * x.stride + 2] = 0;
        x.k[11 * x.stride] = NAN;
        expect_numbers(kinds[k], &x, SIZE_MAX);
        head_free(&x);
    }
}

/* ---- a batch ---- */

enum { H = 3, D = 24, SEQUENCES = 4, T = 731 };
static const uint32_t offsets[SEQUENCES + 1] = {0, 5, 605, 606, T};

/* All sequences, or number `only` alone; one query of each when `reads`. Contexts are the caller's. */
static float *run(enum attention_arithmetic kind, int threads, int only, bool reads) {
    static const struct model_config config = {.heads = H, .key_value_heads = H, .head_width = D, .positions = 1024};
    size_t first = only < 0 ? 0 : offsets[only], A = H * D;
    uint32_t offset[SEQUENCES + 1] = {0}, read[SEQUENCES];
    struct batch batch = {.sequences = only < 0 ? SEQUENCES : 1, .offset = offset};
    float *x[3];
    for (size_t b = 0; b < batch.sequences; b++) {
        size_t from = only < 0 ? b : (size_t)only;
        offset[b + 1] = offset[b] + offsets[from + 1] - offsets[from];
        read[b] = offset[b + 1] - 1;
    }
    batch.tokens = offset[batch.sequences];
    for (size_t i = 0; i < 3; i++) {
        float *source = normal(T * A, 10 + i, 1);
        x[i] = calloc(batch.tokens * A, sizeof(float));
        memcpy(x[i], source + first * A, batch.tokens * A * sizeof(float));
        free(source);
    }
    for (size_t b = 0; reads && b < batch.sequences; b++) memcpy(x[0] + b * A, x[0] + read[b] * A, A * sizeof(float));
    threads_set(threads);
    float *scratch = malloc(attention_scratch_floats(&config, &batch, kind, (size_t)threads) * sizeof *scratch);
    float *context = calloc(batch.tokens * A, sizeof *context);
    struct attention attention = {.config = &config,
                                  .batch = &batch,
                                  .arithmetic = kind,
                                  .query = x[0],
                                  .key = x[1],
                                  .value = x[2],
                                  .read = reads ? read : NULL,
                                  .query_stride = A,
                                  .key_stride = A,
                                  .context = context,
                                  .scratch = scratch};
    attention_run(&attention);
    for (size_t i = 0; i < 3; i++) free(x[i]);
    free(scratch);
    return context;
}

static void neighbours_and_threads_do_not_change_bits(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        float *all = run(kinds[k], 2, -1, false), *one = run(kinds[k], 1, -1, false);
        float *read = run(kinds[k], 2, -1, true);
        assert_memory_equal(all, one, T * H * D * sizeof *all);
        for (int b = 0; b < SEQUENCES; b++) {
            float *alone = run(kinds[k], 2, b, false);
            assert_memory_equal(alone, all + offsets[b] * H * D, (offsets[b + 1] - offsets[b]) * H * D * sizeof *alone);
            assert_memory_equal(read + b * H * D, all + (offsets[b + 1] - 1) * H * D, H * D * sizeof *read);
            free(alone);
        }
        free(all), free(one), free(read);
    }
}

/* ---- whose blocks use which ---- */

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void blocks_multiply_as_their_layers_do(void **state) {
    struct model model, view;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 3);
    must(model_prepare_as(&model, GEMM_BUILTIN, STORAGE_F16));
    assert_int_equal(forward_arithmetic(&model, 1), ATTENTION_F32);
    must(model_prepare_as(&model, GEMM_BUILTIN, STORAGE_BF16));
    assert_int_equal(forward_arithmetic(&model, 0), ATTENTION_BF16);
    struct linear *key = model_linear_find(&model, "bert.encoder.layer.0.attention.self.key");
    struct weight_shape shape = {key->rows, key->columns, 0, true};
    struct weight_grid grid = {.groups = 1, .scale = calloc(key->rows, sizeof(float))};
    must(weight_grid_minmax(weight_format_find("int8"), &shape, key->value, &grid));
    must(linear_pack(&model, key, weight_format_find("int8"), 0, true, &grid));
    free(grid.scale);
    must(model_view(&view, &model, HEAD_CLASSIFICATION));
    must(model_prepare_as(&view, GEMM_BUILTIN, STORAGE_BF16));
    assert_int_equal(forward_arithmetic(&view, 0), ATTENTION_F32);
    assert_int_equal(forward_arithmetic(&view, 1), ATTENTION_BF16);
    view.config.causal = true;
    assert_int_equal(forward_arithmetic(&view, 1), ATTENTION_F32);
    view.config.causal = false;
    must(model_set_int8_attention(&view));
    assert_int_equal(forward_arithmetic(&view, 0), ATTENTION_INT8);
    assert_int_equal(forward_arithmetic(&view, 1), ATTENTION_INT8);
    model_close(&view);
    model_close(&model);
}

/* A sequence whose codes take more scratch than f32 attention does: threads must not share it. */
static void long_sequences_have_room(void **state) {
    static const size_t length[] = {1500};
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    struct small_batch batch;
    struct model model;
    (void)state;
    config.positions = 1500;
    must(model_create(&model, &config, 3, 0.2));
    must(model_set_int8_attention(&model));
    must(model_prepare(&model, GEMM_BUILTIN));
    small_batch_new(&batch, &config, length, 1, 4);
    float *one = malloc(1500 * config.width * sizeof *one);
    for (int i = 0; i < 6; i++) {
        struct workspace workspace = {0};
        struct model_output output;
        threads_set(i == 0 ? 1 : 2);
        must(model_forward(&model, &batch.batch, NULL, &workspace, &output));
        if (i == 0) memcpy(one, output.hidden, 1500 * config.width * sizeof *one);
        assert_memory_equal(one, output.hidden, 1500 * config.width * sizeof *one);
        workspace_close(&workspace);
    }
    free(one);
    small_batch_free(&batch);
    model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_the_formula),
        cmocka_unit_test(keeps_what_a_resting_head_says),
        cmocka_unit_test(scales_of_values_move_exactly),
        cmocka_unit_test(queries_do_not_see_each_other),
        cmocka_unit_test(values_of_zero_and_no_number),
        cmocka_unit_test(neighbours_and_threads_do_not_change_bits),
        cmocka_unit_test(blocks_multiply_as_their_layers_do),
        cmocka_unit_test(long_sequences_have_room),
    };
    kernels_open(test_cpu_mask());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
