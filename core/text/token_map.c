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

/* The capacity that holds `count` entries, less than half full, from what there is. */
static size_t capacity_for(size_t capacity, size_t count) {
    if (capacity == 0) capacity = FIRST_CAPACITY;
    while (2 * count >= capacity) capacity *= 2;
    return capacity;
}

int pair_map_reserve(struct pair_map *map, size_t count) {
    int status = 0;
    void *block = NULL;
    struct pair_map grown = {.capacity = capacity_for(map->capacity, count), .count = map->count};
    if (grown.capacity == map->capacity) goto out;
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
    TRY(pair_map_reserve(map, map->count));
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

static int reserve_slots(struct text_pool *pool, size_t count) {
    int status = 0;
    void *block = NULL;
    size_t capacity = capacity_for(pool->slot_capacity, count);
    if (capacity == pool->slot_capacity) goto out;
    TRY(memory_take(&block, capacity, sizeof *pool->slots));
    memory_release(pool->slots);
    pool->slots = block;
    pool->slot_capacity = capacity;
    for (size_t i = 0; i < pool->count; i++)
        *text_slot(pool, text_pool_text(pool, i), text_pool_length(pool, i)) = (uint32_t)i + 1;
out:
    return status;
}

/* Room for `count` offsets and `bytes` in all, at least. */
static int reserve_texts(struct text_pool *pool, size_t count, size_t bytes) {
    int status = 0;
    uint32_t used = pool->count ? pool->offset[pool->count] : 0;
    if (count + 1 > pool->count_capacity) {
        void *block = pool->offset;
        TRY(memory_resize(&block, count + 1, sizeof *pool->offset));
        pool->offset = block;
        pool->offset[pool->count] = used;
        pool->count_capacity = count + 1;
    }
    if (bytes > pool->byte_capacity || !pool->bytes) {
        void *block = pool->bytes;
        TRY(memory_resize(&block, bytes + 1, 1));
        pool->bytes = block;
        pool->byte_capacity = bytes;
    }
out:
    return status;
}

int text_pool_reserve(struct text_pool *pool, size_t count, size_t bytes) {
    int status = 0;
    if (bytes > UINT32_MAX - 1) FAIL(E_LIMIT, "more than 4 GB of distinct words");
    TRY(reserve_slots(pool, count));
    TRY(reserve_texts(pool, count, bytes));
out:
    return status;
}

/* Room for one string more; twice what there is where it must grow, so that adding takes constant time. */
static int grow_texts(struct text_pool *pool, size_t bytes) {
    int status = 0;
    size_t used = pool->count ? pool->offset[pool->count] : 0, most = UINT32_MAX - 1;
    size_t count = pool->count + 2 > pool->count_capacity ? 2 * pool->count + FIRST_CAPACITY : 0, room = 0;
    if (bytes > most - used) FAIL(E_LIMIT, "more than 4 GB of distinct words");
    if (used + bytes > pool->byte_capacity || !pool->bytes) room = 2 * (used + bytes) + FIRST_CAPACITY;
    if (count || room) TRY(reserve_texts(pool, count, room));
out:
    return status;
}

int text_pool_add(struct text_pool *pool, const char *text, size_t bytes, uint32_t *index) {
    int status = 0;
    TRY(reserve_slots(pool, pool->count));
    uint32_t *slot = text_slot(pool, text, bytes);
    if (!*slot) {
        TRY(grow_texts(pool, bytes));
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
