/* Hash maps of the tokenizers. Keys are mixed by multiplication with a 64-bit odd constant (Knuth's
 * multiplicative hashing, high bits folded down), strings by FNV-1a first.
 */
#include "text/token_map.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

#define FIRST_CAPACITY 1024

static size_t mix(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    key ^= key >> 32;
    key *= 0xD6E8FEB86659FD93u;
    return (size_t)(key ^ key >> 32);
}

/* ---- pairs ---------------------------------------------------------------------------------------- */
static struct pair_slot *pair_slot(const struct pair_map *map, uint64_t key) {
    size_t i = mix(key) & (map->capacity - 1);
    while (map->slots[i].used && map->slots[i].key != key) i = (i + 1) & (map->capacity - 1);
    return &map->slots[i];
}

uint32_t pair_map_find(const struct pair_map *map, uint32_t left, uint32_t right) {
    if (!map->capacity) return MAP_NONE;
    const struct pair_slot *slot = pair_slot(map, (uint64_t)left << 32 | right);
    return slot->used ? slot->value : MAP_NONE;
}

static int pair_map_grow(struct pair_map *map) {
    int status = 0;
    void *block = NULL;
    struct pair_map grown = {.capacity = map->capacity ? 2 * map->capacity : FIRST_CAPACITY, .count = map->count};
    TRY(memory_take(&block, grown.capacity, sizeof *grown.slots));
    grown.slots = block;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slots[i].used) *pair_slot(&grown, map->slots[i].key) = map->slots[i];
    pair_map_close(map);
    *map = grown;
out:
    return status;
}

int pair_map_add(struct pair_map *map, uint32_t left, uint32_t right, uint32_t value, uint32_t *found) {
    int status = 0;
    uint64_t key = (uint64_t)left << 32 | right;
    if (2 * map->count >= map->capacity) TRY(pair_map_grow(map));
    struct pair_slot *slot = pair_slot(map, key);
    if (!slot->used) {
        *slot = (struct pair_slot){.key = key, .value = value, .used = 1};
        map->count++;
    }
    *found = slot->value;
out:
    return status;
}

void pair_map_close(struct pair_map *map) {
    memory_release(map->slots);
    *map = (struct pair_map){0};
}

/* ---- strings -------------------------------------------------------------------------------------- */
static size_t text_hash(const char *text, size_t bytes) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return mix(hash);
}

static uint32_t *text_slot(const struct text_pool *pool, const char *text, size_t bytes) {
    size_t mask = pool->slot_capacity - 1, i = text_hash(text, bytes) & mask;
    for (; pool->slots[i]; i = (i + 1) & mask) {
        size_t index = pool->slots[i] - 1;
        if (text_pool_length(pool, index) == bytes && memcmp(text_pool_text(pool, index), text, bytes) == 0) break;
    }
    return &pool->slots[i];
}

uint32_t text_pool_find(const struct text_pool *pool, const char *text, size_t bytes) {
    if (!pool->slot_capacity) return MAP_NONE;
    uint32_t slot = *text_slot(pool, text, bytes);
    return slot ? slot - 1 : MAP_NONE;
}

static int slots_grow(struct text_pool *pool) {
    int status = 0;
    void *block = NULL;
    size_t capacity = pool->slot_capacity ? 2 * pool->slot_capacity : FIRST_CAPACITY;
    TRY(memory_take(&block, capacity, sizeof *pool->slots));
    memory_release(pool->slots);
    pool->slots = block;
    pool->slot_capacity = capacity;
    for (size_t i = 0; i < pool->count; i++)
        *text_slot(pool, text_pool_text(pool, i), text_pool_length(pool, i)) = (uint32_t)i + 1;
out:
    return status;
}

static int pool_reserve(struct text_pool *pool, size_t bytes) {
    int status = 0;
    size_t used = pool->count ? pool->offset[pool->count] : 0;
    if (bytes > UINT32_MAX - 1 - used) FAIL(E_LIMIT, "more than 4 GB of distinct words");
    if (pool->count + 2 > pool->count_capacity) {
        void *block = pool->offset;
        size_t capacity = pool->count_capacity ? 2 * pool->count_capacity : FIRST_CAPACITY;
        TRY(memory_resize(&block, capacity, sizeof *pool->offset));
        pool->offset = block;
        pool->offset[pool->count] = (uint32_t)used;
        pool->count_capacity = capacity;
    }
    if (used + bytes > pool->byte_capacity || !pool->bytes) {
        void *block = pool->bytes;
        size_t capacity = 2 * (used + bytes) + FIRST_CAPACITY;
        TRY(memory_resize(&block, capacity, 1));
        pool->bytes = block;
        pool->byte_capacity = capacity;
    }
out:
    return status;
}

int text_pool_add(struct text_pool *pool, const char *text, size_t bytes, uint32_t *index) {
    int status = 0;
    if (2 * pool->count >= pool->slot_capacity) TRY(slots_grow(pool));
    uint32_t *slot = text_slot(pool, text, bytes);
    if (!*slot) {
        TRY(pool_reserve(pool, bytes));
        uint32_t begin = pool->offset[pool->count];
        memcpy(pool->bytes + begin, text, bytes);
        pool->offset[++pool->count] = begin + (uint32_t)bytes;
        *slot = (uint32_t)pool->count;
    }
    *index = *slot - 1;
out:
    return status;
}

void text_pool_close(struct text_pool *pool) {
    memory_release(pool->bytes);
    memory_release(pool->offset);
    memory_release(pool->slots);
    *pool = (struct text_pool){0};
}
