/* The cache of keys and values: its block, writing into it, and moving slots.
 *
 * Both halves of the block have the same extents, so one offset serves keys and values. Slots are moved by a list of
 * copies that is worked out once and then done layer by layer: a slot is overwritten only when nobody needs it any
 * more, and a cycle goes through one spare slot.
 */
#include "model/kv_cache.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "kernels/kernels.h"

static size_t row_elements(const struct kv_cache *cache) { return size_round_up(cache->head_width, PANEL_ROWS); }

enum cache_type cache_type_find(const char *name) {
    if (strcmp(name, "int8") == 0) return CACHE_INT8;
    return strcmp(name, "f16") == 0 ? CACHE_F16 : CACHE_F32;
}

int kv_cache_open(struct kv_cache *cache, const struct model *model, size_t slots, size_t capacity,
                  enum cache_type type) {
    int status = 0;
    const struct model_config *config = &model->config;
    size_t heads, elements, bytes, scales = 0;
    void *block;

    memset(cache, 0, sizeof *cache);
    if (!config->causal) FAIL(E_UNSUPPORTED, "a %s model reads whole texts: it has no use for a cache", config->family);
    if (!slots || !capacity) FAIL(E_ARGUMENT, "a cache of %zu slots for %zu tokens", slots, capacity);
    if (capacity > config->positions)
        FAIL(E_SHAPE, "%zu tokens do not fit into the model's %zu positions", capacity, config->positions);
    cache->type = type;
    cache->slots = slots;
    cache->capacity = capacity;
    cache->layers = config->layers;
    cache->key_value_heads = config->key_value_heads;
    cache->head_width = config->head_width;
    cache->head_tokens = size_round_up(capacity, PANEL_ROWS);
    TRY(size_multiply(cache->head_tokens, row_elements(cache), &cache->head_elements));
    TRY(size_multiply(config->layers * config->key_value_heads, slots, &heads));
    TRY(size_multiply(heads, cache->head_elements, &elements));
    TRY(size_multiply(elements, 2 * cache_element_bytes(type), &bytes));
    if (type == CACHE_INT8) TRY(size_multiply(heads, cache->head_tokens, &scales));
    TRY(memory_take(&block, slots, sizeof *cache->length));
    cache->length = block;
    TRY(memory_take(&block, bytes, 1));
    cache->keys = block;
    cache->values = cache->keys + bytes / 2;
    cache->bytes = bytes + 2 * scales * sizeof(float);
    if (!scales) goto out;
    TRY(memory_take(&block, scales, 2 * sizeof(float)));
    cache->key_scale = block;
    cache->value_scale = cache->key_scale + scales;
out:
    if (status < 0) kv_cache_close(cache);
    return status;
}

void kv_cache_close(struct kv_cache *cache) {
    memory_release(cache->length);
    memory_release(cache->keys);
    memory_release(cache->key_scale);
    memset(cache, 0, sizeof *cache);
}

/* Codes of x, `step` apart, and what one of them is worth: the largest magnitude over 127, NaN where x holds one. As
 * kernels.quantize_s8, whose codes lie side by side. */
static float write_codes(size_t D, const float *x, int8_t *codes, size_t step) {
    uint32_t largest = 0;
    float scale;
    for (size_t d = 0; d < D; d++) {
        uint32_t bits;
        memcpy(&bits, x + d, sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&scale, &largest, sizeof scale);
    scale /= 127.0f;
    for (size_t d = 0; d < D; d++) {
        float code = scale > 0 ? rintf(x[d] / scale) : 0;
        code = code > -127.0f ? code : -127.0f;
        codes[d * step] = (int8_t)(code < 127.0f ? code : 127.0f);
    }
    return scale;
}

/* x in half precision, `step` apart. */
static void write_halves(size_t D, const float *x, uint16_t *to, size_t step) {
    uint16_t line[64];
    for (size_t d = 0, some; d < D; d += some) {
        some = D - d < 64 ? D - d : 64;
        kernels.narrow_f16(some, x + d, line);
        for (size_t i = 0; i < some; i++) to[(d + i) * step] = line[i];
    }
}

/* One lane of a panel; x has D elements. */
static void write_key(const struct kv_cache *cache, unsigned char *keys, float *scale, size_t token, const float *x) {
    size_t D = cache->head_width, at = token / PANEL_ROWS * D * PANEL_ROWS + token % PANEL_ROWS;
    if (cache->type == CACHE_INT8) {
        scale[token] = write_codes(D, x, (int8_t *)keys + at, PANEL_ROWS);
    } else if (cache->type == CACHE_F16) {
        write_halves(D, x, (uint16_t *)(void *)keys + at, PANEL_ROWS);
    } else {
        float *to = (float *)(void *)keys + at;
        for (size_t d = 0; d < D; d++) to[d * PANEL_ROWS] = x[d];
    }
}

static void write_value(const struct kv_cache *cache, unsigned char *values, float *scale, size_t token,
                        const float *x) {
    size_t D = cache->head_width, at = token * row_elements(cache);
    if (cache->type == CACHE_INT8) {
        scale[token] = write_codes(D, x, (int8_t *)values + at, 1);
    } else if (cache->type == CACHE_F16) {
        write_halves(D, x, (uint16_t *)(void *)values + at, 1);
    } else {
        memcpy((float *)(void *)values + at, x, D * sizeof *x);
    }
}

void kv_cache_write(struct kv_cache *cache, size_t layer, size_t slot, size_t head, size_t at, size_t count,
                    const float *k, const float *v, size_t stride) {
    size_t offset = kv_cache_offset(cache, layer, slot, head), D = cache->head_width;
    size_t scales = kv_cache_head(cache, layer, slot, head) * cache->head_tokens;
    unsigned char *keys = cache->keys + offset, *values = cache->values + offset;
    float *key_scale = cache->key_scale ? cache->key_scale + scales : NULL;
    float *value_scale = cache->value_scale ? cache->value_scale + scales : NULL;
    CHECK(at + count <= cache->capacity, "%zu tokens after %zu in room for %zu", count, at, cache->capacity);
    for (size_t i = 0, step; i < count; i += step) {
        size_t token = at + i;
        bool whole = cache->type == CACHE_F32 && token % PANEL_ROWS == 0 && count - i >= PANEL_ROWS;
        step = whole ? PANEL_ROWS : 1;
        if (whole) kernels.pack_f32(D, k + i * stride, stride, PANEL_ROWS, (float *)(void *)keys + token * D);
        else write_key(cache, keys, key_scale, token, k + i * stride);
    }
    for (size_t i = 0; i < count; i++) write_value(cache, values, value_scale, at + i, v + i * stride);
}

void kv_cache_grow(struct kv_cache *cache, size_t slot, size_t count) {
    CHECK(cache->length[slot] + count <= cache->capacity, "slot %zu grows beyond %zu", slot, cache->capacity);
    cache->length[slot] += (uint32_t)count;
}

struct attention_keys kv_cache_keys(const struct kv_cache *cache, size_t layer, size_t slot, size_t head,
                                    size_t count) {
    size_t offset = kv_cache_offset(cache, layer, slot, head);
    size_t scales = kv_cache_head(cache, layer, slot, head) * cache->head_tokens;
    return (struct attention_keys){.k = cache->keys + offset,
                                   .v = cache->values + offset,
                                   .stride = row_elements(cache),
                                   .count = count,
                                   .cached = true,
                                   .half = cache->type == CACHE_F16,
                                   .k_scale = cache->key_scale ? cache->key_scale + scales : NULL,
                                   .v_scale = cache->value_scale ? cache->value_scale + scales : NULL};
}

void kv_cache_cut(struct kv_cache *cache, size_t slot, size_t length) {
    if (length < cache->length[slot]) cache->length[slot] = (uint32_t)length;
}

/* A copy from one slot to another; slot number `slots` is the spare. */
struct move {
    uint32_t to, from, length;
};

/* The copies that make slot i what from[i] was, in an order that loses nothing; returns their number, at most
 * 2·count. source [count] and needed [slots] are scratch. */
static size_t plan_moves(const struct kv_cache *cache, const uint32_t *from, size_t count, uint32_t *source,
                         uint32_t *needed, struct move *moves) {
    size_t made = 0, left = 0;
    uint32_t spare = (uint32_t)cache->slots, spare_length = 0;
    memset(needed, 0, cache->slots * sizeof *needed);
    for (size_t i = 0; i < count; i++) {
        source[i] = from[i];
        if (from[i] != i) needed[from[i]]++, left++;
    }
    while (left) {
        size_t before = left;
        for (uint32_t i = 0; i < count; i++) {
            if (source[i] == i || needed[i]) continue;
            bool kept = source[i] == spare;
            moves[made++] = (struct move){i, source[i], kept ? spare_length : cache->length[source[i]]};
            if (!kept) needed[source[i]]--;
            source[i] = i;
            left--;
        }
        if (left == before) { /* only cycles are left: open one of them */
            uint32_t first = 0;
            while (source[first] == first) first++;
            spare_length = cache->length[first];
            moves[made++] = (struct move){spare, first, spare_length};
            for (size_t i = 0; i < count; i++)
                if (source[i] == first && i != first) source[i] = spare;
            needed[first] = 0;
        }
    }
    return made;
}

/* One array of a cache: bytes of a head's part, and of a token's in it. */
struct array {
    unsigned char *base;
    size_t head, token;
};

/* One array of one layer. */
static void do_moves(const struct kv_cache *cache, const struct move *moves, size_t count, const struct array *array,
                     size_t layer, unsigned char *spare) {
    size_t slot_bytes = cache->key_value_heads * array->head;
    unsigned char *base = array->base + layer * cache->slots * slot_bytes;
    for (size_t m = 0; m < count; m++) {
        size_t bytes = array->token * size_round_up(moves[m].length, PANEL_ROWS);
        unsigned char *to = moves[m].to == cache->slots ? spare : base + moves[m].to * slot_bytes;
        const unsigned char *from = moves[m].from == cache->slots ? spare : base + moves[m].from * slot_bytes;
        for (size_t h = 0; h < cache->key_value_heads; h++) memcpy(to + h * array->head, from + h * array->head, bytes);
    }
}

int kv_cache_reorder(struct kv_cache *cache, const uint32_t *from, size_t count) {
    int status = 0;
    struct move *moves = NULL;
    uint32_t *numbers = NULL;
    unsigned char *spare = NULL;
    void *block;
    size_t element = cache_element_bytes(cache->type), head = cache->head_elements * element, made;
    size_t scales = cache->head_tokens * sizeof(float), largest = head > scales ? head : scales;
    const struct array arrays[] = {{cache->keys, head, cache->head_width * element},
                                   {cache->values, head, row_elements(cache) * element},
                                   {(unsigned char *)cache->key_scale, scales, sizeof(float)},
                                   {(unsigned char *)cache->value_scale, scales, sizeof(float)}};
    size_t array_count = cache->key_scale ? 4 : 2;

    CHECK(count <= cache->slots, "%zu slots of %zu", count, cache->slots);
    for (size_t i = 0; i < count; i++) CHECK(from[i] < cache->slots, "slot %u of %zu", from[i], cache->slots);
    TRY(memory_take(&block, 2 * count, sizeof *moves));
    moves = block;
    TRY(memory_take(&block, count + cache->slots, sizeof *numbers));
    numbers = block;
    TRY(memory_take(&block, cache->key_value_heads, largest));
    spare = block;
    made = plan_moves(cache, from, count, numbers, numbers + count, moves);
    for (size_t layer = 0; layer < cache->layers; layer++)
        for (size_t i = 0; i < array_count; i++) do_moves(cache, moves, made, &arrays[i], layer, spare);
    for (size_t m = 0; m < made; m++)
        if (moves[m].to != cache->slots) cache->length[moves[m].to] = moves[m].length;
out:
    memory_release(moves);
    memory_release(numbers);
    memory_release(spare);
    return status;
}
