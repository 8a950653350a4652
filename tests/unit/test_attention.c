/* Streamed attention and rotary positions against plain formulas in double. */
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
#include "model/attention.h"
#include "model/layers.h"

#define POISON 1e30f /* in gaps and keys that nobody may see: it would show in every result */

static float *normal(size_t count, uint64_t stream) {
    struct random random;
    float *values = calloc(count ? count : 1, sizeof(float));
    random_open(&random, 11, stream);
    for (size_t i = 0; i < count; i++) values[i] = (float)random_normal(&random);
    return values;
}

/* t queries of `group` heads on `past` keys and their own, as the last t of past+t tokens. */
struct shape {
    size_t t, past, group, D, window;
    bool causal;
};

struct tokens {
    size_t keys, q_stride, k_stride, y_stride;
    float *q, *k, *v;
};

static struct tokens tokens_new(const struct shape *s) {
    struct tokens x = {.keys = s->past + s->t, .q_stride = s->group * s->D + 3, .k_stride = s->D + 5};
    x.y_stride = s->group * s->D + 1;
    x.q = normal(s->t * x.q_stride, 1), x.k = normal(x.keys * x.k_stride, 2), x.v = normal(x.keys * x.k_stride, 3);
    return x;
}

static void tokens_free(struct tokens *x) { free(x->q), free(x->k), free(x->v); }

/* The context of one query's head, D values; magnitude: Σ p|v| of each. */
static void naive(const struct shape *s, const struct tokens *x, size_t i, size_t head, double *context,
                  double *magnitude) {
    size_t end = s->causal ? s->past + i + 1 : x->keys;
    size_t begin = s->causal && s->window && end > s->window ? end - s->window : 0;
    double *p = calloc(end, sizeof *p), largest = -INFINITY, sum = 0;
    for (size_t j = begin; j < end; j++) {
        for (size_t d = 0; d < s->D; d++)
            p[j] += (double)x->q[i * x->q_stride + head * s->D + d] * (double)x->k[j * x->k_stride + d];
        p[j] /= sqrt((double)s->D);
        largest = fmax(largest, p[j]);
    }
    for (size_t j = begin; j < end; j++) sum += p[j] = exp(p[j] - largest);
    for (size_t d = 0; d < s->D; d++) {
        context[d] = magnitude[d] = 0;
        for (size_t j = begin; j < end; j++) {
            double product = p[j] / sum * (double)x->v[j * x->k_stride + d];
            context[d] += product, magnitude[d] += fabs(product);
        }
    }
    free(p);
}

/* slack: what a value may be off by itself. */
static void check_context(const struct shape *s, const struct tokens *x, const float *y, double tolerance,
                          double slack) {
    double expected[256], magnitude[256];
    for (size_t i = 0; i < s->t; i++)
        for (size_t h = 0; h < s->group; h++) {
            naive(s, x, i, h, expected, magnitude);
            for (size_t d = 0; d < s->D; d++) {
                double got = (double)y[i * x->y_stride + h * s->D + d];
                if (!(fabs(got - expected[d]) <= tolerance * magnitude[d] + slack))
                    fail_msg("t %zu past %zu group %zu D %zu window %zu: query %zu head %zu [%zu] is %g, expected %g",
                             s->t, s->past, s->group, s->D, s->window, i, h, d, got, expected[d]);
            }
        }
}

static struct attention_keys rows_of(const struct tokens *x) {
    return (struct attention_keys){.k = x->k, .v = x->v, .stride = x->k_stride, .count = x->keys};
}

static float *stream(const struct shape *s, const struct tokens *x, const struct attention_keys *keys) {
    float *y = calloc(s->t * x->y_stride, sizeof *y);
    float *scratch = malloc(attention_stream_scratch(s->D, s->group) * sizeof *scratch);
    memset(scratch, 0xff, attention_stream_scratch(s->D, s->group) * sizeof *scratch);
    attention_stream(s->t, s->group, s->D, x->q, x->q_stride, keys, s->past, s->causal, s->window, y, x->y_stride,
                     scratch);
    free(scratch);
    return y;
}

/* Sums of up to 700 terms in f32 and scores of a few units: 1e-5 leaves a margin of ten. */
static const struct shape shapes[] = {
    {1, 0, 1, 1, 0, true},       {5, 0, 1, 3, 0, false},    {16, 0, 1, 32, 0, false},  {17, 0, 2, 8, 0, true},
    {128, 0, 1, 32, 0, false},   {131, 0, 1, 16, 0, true},  {260, 0, 3, 20, 0, true},  {300, 0, 1, 64, 0, false},
    {1, 300, 3, 64, 0, true},    {2, 255, 4, 24, 0, true},  {9, 513, 1, 64, 0, true},  {40, 0, 1, 8, 6, true},
    {70, 500, 2, 16, 300, true}, {1, 700, 1, 128, 1, true}, {600, 0, 2, 16, 17, true}, {3, 40, 130, 4, 0, true},
};

static void rows_match_the_formula(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct tokens x = tokens_new(&shapes[i]);
        struct attention_keys keys = rows_of(&x);
        float *y = stream(&shapes[i], &x, &keys);
        check_context(&shapes[i], &x, y, 1e-5, 0);
        for (size_t t = 0; t < shapes[i].t; t++) /* the column behind a row */
            assert_true(y[t * x.y_stride + shapes[i].group * shapes[i].D] == 0);
        free(y), tokens_free(&x);
    }
}

static void cache_of(struct kv_cache *cache, const struct shape *s, size_t capacity, enum cache_type type) {
    struct model model = {.config = {.family = "llama",
                                     .layers = 2,
                                     .heads = 2 * s->group,
                                     .key_value_heads = 2,
                                     .head_width = s->D,
                                     .positions = capacity,
                                     .causal = true}};
    assert_int_equal(kv_cache_open(cache, &model, 3, capacity, type), 0);
    /* what was never written must not matter */
    size_t scales = type == CACHE_INT8 ? 2 * 3 * 2 * cache->head_tokens : 0;
    for (size_t i = 0; i < scales; i++) cache->key_scale[i] = cache->value_scale[i] = INFINITY;
    for (size_t i = 0; i < (cache->bytes - 2 * scales * sizeof(float)) / cache_element_bytes(type) / 2; i++)
        if (type == CACHE_INT8) cache->keys[i] = 100;
        else if (type == CACHE_F32) ((float *)(void *)cache->keys)[i] = POISON;
        else ((uint16_t *)(void *)cache->keys)[i] = 0x7c00; /* infinity */
}

/* The same bits as from rows, written at once or in two parts, f32; and f16 and int8 within their rounding. */
static void caches_match_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        struct tokens x = tokens_new(s);
        struct attention_keys keys = rows_of(&x);
        float *expected = stream(s, &x, &keys);
        for (int type = CACHE_F32; type <= CACHE_INT8; type++) {
            struct kv_cache cache;
            cache_of(&cache, s, x.keys + 7, (enum cache_type)type);
            size_t first = x.keys / 3;
            kv_cache_write(&cache, 1, 2, 1, 0, first, x.k, x.v, x.k_stride);
            kv_cache_write(&cache, 1, 2, 1, first, x.keys - first, x.k + first * x.k_stride, x.v + first * x.k_stride,
                           x.k_stride);
            keys = kv_cache_keys(&cache, 1, 2, 1, x.keys);
            float *y = stream(s, &x, &keys);
            if (type == CACHE_INT8)
                check_context(s, &x, y, 6e-2, 0.02); /* a score of some units times 2^-8; half a step of 5 */
            else if (type == CACHE_F16) check_context(s, &x, y, 1e-2, 0); /* likewise 2^-11 */
            else assert_memory_equal(y, expected, s->t * x.y_stride * sizeof *y);
            free(y), kv_cache_close(&cache);
        }
        free(expected), tokens_free(&x);
    }
}

/* A query gets the same bits alone, in a tile, and when keys follow that it may not see. */
static void a_query_does_not_depend_on_the_cut(void **state) {
    struct shape whole = {300, 40, 3, 20, 0, true};
    struct tokens x = tokens_new(&whole);
    struct attention_keys keys = rows_of(&x);
    float *y = stream(&whole, &x, &keys), *all_q = x.q;
    (void)state;
    for (size_t i = 0; i < whole.t; i += 23) {
        struct shape one = whole;
        one.t = 1, one.past = whole.past + i;
        x.q = all_q + i * x.q_stride;
        float *alone = stream(&one, &x, &keys);
        assert_memory_equal(alone, y + i * x.y_stride, one.group * one.D * sizeof *alone);
        free(alone);
    }
    x.q = all_q;
    free(y), tokens_free(&x);
}

static void rotary_turns_pairs(void **state) {
    enum { T = 4, D = 10, HEADS = 2, STRIDE = HEADS * D + 3 };
    int32_t position[T] = {0, 1, 7, 1999};
    float *x = normal(T * STRIDE, 5), *before = normal(T * STRIDE, 5), table[T * D];
    (void)state;
    rotary_table(T, D, position, 10000.0f, NULL, table);
    rotary_forward(T, HEADS, D, STRIDE, table, x);
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < HEADS; h++)
            for (size_t i = 0; i < D / 2; i++) {
                double angle = (double)position[t] * pow(10000, -2.0 * (double)i / D);
                const float *b = before + t * STRIDE + h * D, *y = x + t * STRIDE + h * D;
                double first = (double)b[i] * cos(angle) - (double)b[i + D / 2] * sin(angle);
                double second = (double)b[i + D / 2] * cos(angle) + (double)b[i] * sin(angle);
                double bound = 4e-7 * (1 + fabs(angle)) * (fabs((double)b[i]) + fabs((double)b[i + D / 2]));
                assert_true(fabs((double)y[i] - first) <= bound && fabs((double)y[i + D / 2] - second) <= bound);
            }
    for (size_t t = 0; t < T; t++) assert_memory_equal(x + t * STRIDE + HEADS * D, before + t * STRIDE + HEADS * D, 12);
    assert_memory_equal(x, before, HEADS * D * sizeof *x); /* position 0 */
    free(x), free(before);
}

/* f32 as the reference: at position 1999 and frequency 10000^(-1/4) f32 is 1e-5 from the exact angle. */
static void angles_round_as_the_reference(void **state) {
    int32_t position[] = {1999};
    float table[8];
    (void)state;
    rotary_table(1, 8, position, 10000.0f, NULL, table);
    float frequency = 1.0f / powf(10000.0f, 2.0f / 8.0f);
    assert_true(table[1] == cosf(1999.0f * frequency));
    assert_true(table[4 + 1] == sinf(1999.0f * frequency));
}

/* ---- a whole batch ---- */

enum { LAYERS = 2, H = 6, K = 2, WIDTH = 10, SEQUENCES = 4 };
static const uint32_t offsets[SEQUENCES + 1] = {0, 3, 153, 154, 171};

static const struct model_config batch_config = {.family = "llama",
                                                 .layers = LAYERS,
                                                 .heads = H,
                                                 .key_value_heads = K,
                                                 .head_width = WIDTH,
                                                 .positions = 256,
                                                 .window = 40,
                                                 .causal = true};

/* Contexts of a batch (caller's), its tokens those of `source` from `from` on, sequence by sequence. */
static void run_batch(const struct batch *batch, const int32_t *position, const size_t *from, float *context) {
    size_t T = batch->tokens, A = H * WIDTH, B = K * WIDTH, all = offsets[SEQUENCES];
    float *source[] = {normal(all * A, 1), normal(all * B, 2), normal(all * B, 3)}, *x[3], table[171 * WIDTH];
    size_t widths[] = {A, B, B},
           floats = attention_scratch_floats(&batch_config, batch, ATTENTION_F32, (size_t)threads_get());
    float *scratch = malloc(floats * sizeof *scratch);
    for (size_t i = 0; i < 3; i++) {
        x[i] = calloc(T * widths[i], sizeof(float));
        for (size_t b = 0; b < batch->sequences; b++)
            for (size_t t = batch->offset[b]; t < batch->offset[b + 1]; t++)
                memcpy(x[i] + t * widths[i], source[i] + (from[b] + t - batch->offset[b]) * widths[i],
                       widths[i] * sizeof(float));
    }
    rotary_table(T, WIDTH, position, 10000.0f, NULL, table);
    struct attention attention = {.config = &batch_config,
                                  .batch = batch,
                                  .layer = 1,
                                  .rotary = table,
                                  .query = x[0],
                                  .key = x[1],
                                  .value = x[2],
                                  .query_stride = A,
                                  .key_stride = B,
                                  .context = context,
                                  .scratch = scratch};
    attention_run(&attention);
    for (size_t i = 0; i < 3; i++) free(source[i]), free(x[i]);
    free(scratch);
}

static float *run_whole(int threads) {
    int32_t position[171];
    size_t from[SEQUENCES];
    struct batch batch = {.sequences = SEQUENCES, .tokens = offsets[SEQUENCES], .offset = offsets};
    float *context = calloc(batch.tokens * H * WIDTH, sizeof *context);
    for (size_t b = 0; b < SEQUENCES; b++) {
        from[b] = offsets[b];
        for (uint32_t t = offsets[b]; t < offsets[b + 1]; t++) position[t] = (int32_t)(t - offsets[b]);
    }
    threads_set(threads);
    run_batch(&batch, position, from, context);
    return context;
}

/* Against the formula, for the sequence that spans several tiles of queries and the one of a single token. */
static void batches_match_the_formula(void **state) {
    size_t A = H * WIDTH, B = K * WIDTH, all = offsets[SEQUENCES];
    float *q = normal(all * A, 1), *k = normal(all * B, 2), *v = normal(all * B, 3), *context = run_whole(2);
    (void)state;
    for (size_t b = 1; b < 3; b++)
        for (size_t head = 0; head < K; head++) {
            struct shape s = {offsets[b + 1] - offsets[b], 0, H / K, WIDTH, 40, true};
            size_t first = offsets[b];
            int32_t position[171];
            float table[171 * WIDTH];
            struct tokens x = {.keys = s.t, .q_stride = A, .k_stride = B, .y_stride = A};
            x.q = q + first * A + head * s.group * WIDTH, x.k = k + first * B + head * WIDTH;
            x.v = v + first * B + head * WIDTH;
            for (size_t t = 0; t < s.t; t++) position[t] = (int32_t)t;
            rotary_table(s.t, WIDTH, position, 10000.0f, NULL, table);
            rotary_forward(s.t, s.group, WIDTH, A, table, x.q);
            rotary_forward(s.t, 1, WIDTH, B, table, x.k);
            check_context(&s, &x, context + first * A + head * s.group * WIDTH, 1e-5, 0);
        }
    free(q), free(k), free(v), free(context);
}

static void threads_do_not_change_bits(void **state) {
    float *one = run_whole(1), *two = run_whole(2);
    (void)state;
    assert_memory_equal(one, two, offsets[SEQUENCES] * H * WIDTH * sizeof *one);
    free(one), free(two);
}

/* The sequences in two passes over a cache, slots in another order: the bits of the pass without one. */
static void a_cache_does_not_change_bits(void **state) {
    struct model model = {.config = batch_config};
    struct kv_cache cache;
    static const uint32_t slot[SEQUENCES] = {3, 1, 4, 0};
    float *expected = run_whole(2), *context = calloc(171 * H * WIDTH, sizeof *context);
    size_t done[SEQUENCES] = {0};
    (void)state;
    assert_int_equal(kv_cache_open(&cache, &model, 5, 160, CACHE_F32), 0);
    for (int pass = 0; pass < 2; pass++) { /* a third of each (of one token: nothing), then the rest */
        uint32_t offset[SEQUENCES + 1] = {0}, slots[SEQUENCES];
        size_t from[SEQUENCES], sequence[SEQUENCES], count = 0;
        int32_t position[171];
        for (size_t b = 0; b < SEQUENCES; b++) {
            size_t length = offsets[b + 1] - offsets[b], part = pass ? length - done[b] : length / 3;
            if (!part) continue;
            for (size_t t = 0; t < part; t++) position[offset[count] + t] = (int32_t)(done[b] + t);
            slots[count] = slot[b], from[count] = offsets[b] + done[b], sequence[count] = b;
            offset[count + 1] = offset[count] + (uint32_t)part;
            count++;
        }
        struct batch batch = {
            .sequences = count, .tokens = offset[count], .offset = offset, .cache = &cache, .slot = slots};
        run_batch(&batch, position, from, context);
        for (size_t i = 0; i < count; i++) {
            size_t part = offset[i + 1] - offset[i];
            assert_memory_equal(context + offset[i] * H * WIDTH, expected + from[i] * H * WIDTH,
                                part * H * WIDTH * sizeof *context);
            kv_cache_grow(&cache, slots[i], part);
            done[sequence[i]] += part;
        }
    }
    for (size_t b = 0; b < SEQUENCES; b++) assert_int_equal(cache.length[slot[b]], offsets[b + 1] - offsets[b]);
    kv_cache_close(&cache);
    free(expected), free(context);
}

/* Frequencies of transformers 5.24's LlamaRotaryEmbedding. */
static void test_rotary_scaling(void **state) {
    static const struct {
        struct rotary_scaling scaling;
        float expected[8];
    } cases[] = {{{8, 1, 4, 64},
                  {1, 0.421696514f, 0.0643098727f, 0.00937367696f, 0.00395284733f, 0.00166690187f, 0.000702926656f,
                   0.000296421727f}},
                 {{4, 0, 0, 0},
                  {0.25f, 0.105424128f, 0.0444569848f, 0.0187473539f, 0.00790569466f, 0.00333380373f, 0.00140585331f,
                   0.000592843455f}}};
    static const int32_t position[] = {0, 1, 90};
    float table[3 * 16];
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        rotary_table(3, 16, position, 1000.0f, &cases[c].scaling, table);
        for (size_t i = 0; i < 8; i++) {
            float expected = cases[c].expected[i];
            assert_float_equal(rotary_frequency(16, i, 1000.0f, &cases[c].scaling), expected, 1e-6f * expected);
            for (size_t t = 0; t < 3; t++) {
                assert_float_equal(table[t * 16 + i], cosf((float)position[t] * expected), 2e-5f);
                assert_float_equal(table[t * 16 + 8 + i], sinf((float)position[t] * expected), 2e-5f);
            }
        }
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotary_scaling),
        cmocka_unit_test(rows_match_the_formula),
        cmocka_unit_test(caches_match_rows),
        cmocka_unit_test(a_query_does_not_depend_on_the_cut),
        cmocka_unit_test(batches_match_the_formula),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(a_cache_does_not_change_bits),
        cmocka_unit_test(rotary_turns_pairs),
        cmocka_unit_test(angles_round_as_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
