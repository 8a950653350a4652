/* The cache's book-keeping: sizes, refusals, lengths, and slots that move. */
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
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"

enum { LAYERS = 2, HEADS = 2, D = 5, SLOTS = 6, CAPACITY = 37 };

static const struct model_config config = {.family = "llama",
                                           .layers = LAYERS,
                                           .heads = 4,
                                           .key_value_heads = HEADS,
                                           .head_width = D,
                                           .positions = 64,
                                           .causal = true};

static void refusals_say_why(void **state) {
    struct kv_cache cache;
    struct model model = {.config = config};
    (void)state;
    assert_int_equal(kv_cache_open(&cache, &model, 1, 65, CACHE_F32), E_SHAPE);
    assert_non_null(strstr(error_text(), "64 positions"));
    assert_int_equal(kv_cache_open(&cache, &model, 0, 8, CACHE_F32), E_ARGUMENT);
    model.config.causal = false;
    assert_int_equal(kv_cache_open(&cache, &model, 1, 8, CACHE_F32), E_UNSUPPORTED);
    model.config.causal = true;
    model.config.positions = SIZE_MAX;
    assert_int_equal(kv_cache_open(&cache, &model, 1, SIZE_MAX / 16, CACHE_F32), E_LIMIT);
    for (long fail = 1; fail <= 3; fail++) {
        memory_fail_after(fail);
        assert_int_equal(kv_cache_open(&cache, &model, 2, 8, CACHE_INT8), E_MEMORY);
        memory_fail_after(0);
        assert_null(cache.keys);
    }
}

/* A token's key and value say where it belongs: who wrote it, layer, head, index. */
static float mark(size_t writer, size_t layer, size_t head, size_t token, size_t d, bool key) {
    return (float)(((((writer * LAYERS + layer) * HEADS + head) * CAPACITY + token) * D + d) % 1021) + (key ? 0.5f : 0);
}

static void write_slot(struct kv_cache *cache, size_t slot, size_t writer, size_t begin, size_t end) {
    float k[CAPACITY * D], v[CAPACITY * D];
    for (size_t layer = 0; layer < LAYERS; layer++)
        for (size_t head = 0; head < HEADS; head++) {
            for (size_t i = 0; i < (end - begin) * D; i++) {
                k[i] = mark(writer, layer, head, begin + i / D, i % D, true);
                v[i] = mark(writer, layer, head, begin + i / D, i % D, false);
            }
            kv_cache_write(cache, layer, slot, head, begin, end - begin, k, v, D);
        }
    kv_cache_grow(cache, slot, end - begin);
}

static float element(const struct kv_cache *cache, const void *array, size_t i, const float *scale) {
    if (scale) return (float)((const int8_t *)array)[i] * *scale;
    return cache->type == CACHE_F16 ? half_to_float(((const uint16_t *)array)[i]) : ((const float *)array)[i];
}

/* int8 is off by half a step at most, and the largest magnitude of a key or value has code 127. */
static bool holds(float value, float marked, const float *scale) {
    return scale ? fabsf(value - marked) <= 0.501f * *scale : value == marked;
}

static void expect_slot(const struct kv_cache *cache, size_t slot, size_t writer, size_t length) {
    assert_int_equal(cache->length[slot], length);
    for (size_t layer = 0; layer < LAYERS; layer++)
        for (size_t head = 0; head < HEADS; head++) {
            struct attention_keys keys = kv_cache_keys(cache, layer, slot, head, length);
            for (size_t token = 0; token < length; token++)
                for (size_t d = 0; d < D; d++) {
                    const float *k_scale = keys.k_scale ? keys.k_scale + token : NULL,
                                *v_scale = keys.v_scale ? keys.v_scale + token : NULL;
                    float k = element(cache, keys.k, (token / 16 * D + d) * 16 + token % 16, k_scale),
                          v = element(cache, keys.v, token * keys.stride + d, v_scale);
                    if (!holds(k, mark(writer, layer, head, token, d, true), k_scale) ||
                        !holds(v, mark(writer, layer, head, token, d, false), v_scale))
                        fail_msg("slot %zu layer %zu head %zu token %zu holds %g %g", slot, layer, head, token,
                                 (double)k, (double)v);
                }
        }
}

static void tokens_stay_where_they_are(void **state) {
    (void)state;
    for (int type = CACHE_F32; type <= CACHE_INT8; type++) {
        struct kv_cache cache;
        struct model model = {.config = config};
        assert_int_equal(kv_cache_open(&cache, &model, SLOTS, CAPACITY, (enum cache_type)type), 0);
        size_t head = 48 * 16 * cache_element_bytes(cache.type) + (type == CACHE_INT8 ? 48 * sizeof(float) : 0);
        assert_true(cache.bytes == 2 * LAYERS * SLOTS * HEADS * head);
        for (size_t slot = 0; slot < SLOTS; slot++) {
            size_t first = slot * 4; /* parts that begin and end inside panels */
            write_slot(&cache, slot, slot, 0, first);
            write_slot(&cache, slot, slot, first, CAPACITY);
        }
        for (size_t slot = 0; slot < SLOTS; slot++) expect_slot(&cache, slot, slot, CAPACITY);
        kv_cache_cut(&cache, 3, 20);
        expect_slot(&cache, 3, 3, 20);
        kv_cache_cut(&cache, 3, 30); /* nothing to forget */
        expect_slot(&cache, 3, 3, 20);
        write_slot(&cache, 3, 3, 20, 21);
        expect_slot(&cache, 3, 3, 21);
        kv_cache_close(&cache);
        kv_cache_close(&cache);
    }
}

static void check_reorder(const uint32_t *from, size_t count, enum cache_type type) {
    struct kv_cache cache;
    struct model model = {.config = config};
    assert_int_equal(kv_cache_open(&cache, &model, SLOTS, CAPACITY, type), 0);
    for (size_t slot = 0; slot < SLOTS; slot++) write_slot(&cache, slot, slot, 0, slot * 7);
    assert_int_equal(kv_cache_reorder(&cache, from, count), 0);
    for (size_t slot = 0; slot < SLOTS; slot++) {
        size_t source = slot < count ? from[slot] : slot;
        expect_slot(&cache, slot, source, source * 7);
    }
    kv_cache_close(&cache);
}

static void slots_become_others(void **state) {
    static const uint32_t cases[][SLOTS] = {{0, 1, 2, 3, 4, 5}, {1, 0, 3, 2, 5, 4}, {1, 2, 3, 4, 5, 0},
                                            {5, 5, 5, 5, 5, 5}, {1, 2, 0, 0, 3, 3}, {2, 2, 1, 1, 5, 4}};
    struct random random;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_reorder(cases[i], SLOTS, CACHE_F32);
    random_open(&random, 3, 1);
    for (int i = 0; i < 200; i++) {
        uint32_t from[SLOTS];
        size_t count = 1 + (size_t)random_below(&random, SLOTS);
        for (size_t j = 0; j < count; j++) from[j] = (uint32_t)random_below(&random, SLOTS);
        check_reorder(from, count, (enum cache_type)(i % 3));
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(tokens_stay_where_they_are),
        cmocka_unit_test(slots_become_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
