/* Two hash maps of the tokenizers, both open-addressed with linear probing at most half full: pairs of ids
 * to a number, and byte strings to their index in a growing pool.
 */
#ifndef TOKEN_MAP_H
#define TOKEN_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_NONE UINT32_MAX

struct pair_map {
    struct pair_slot {
        uint64_t key; /* left << 32 | right */
        uint32_t value;
        uint32_t used;
    } * slots;
    size_t capacity, count; /* capacity: 0 or a power of two */
};
/* The value of a pair, or MAP_NONE. */
uint32_t pair_map_find(const struct pair_map *map, uint32_t left, uint32_t right);
/* The value of a pair is `value` when it was absent; *found is the value it has now. E_MEMORY. */
int pair_map_add(struct pair_map *map, uint32_t left, uint32_t right, uint32_t value, uint32_t *found);
/* Room for so many pairs in all, so that adding them moves nothing. E_MEMORY. */
int pair_map_reserve(struct pair_map *map, size_t count);
void pair_map_close(struct pair_map *map);

/* Strings end to end: string i is bytes[offset[i] .. offset[i+1]). */
struct text_pool {
    char *bytes;
    uint32_t *offset;
    size_t count, byte_capacity, count_capacity;
    uint32_t *slots; /* index + 1, 0 for empty */
    size_t slot_capacity;
};
uint32_t text_pool_find(const struct text_pool *pool, const char *text, size_t bytes);
/* The index of the string, added when absent: then *index is the former count. E_MEMORY, E_LIMIT. */
int text_pool_add(struct text_pool *pool, const char *text, size_t bytes, uint32_t *index);
/* Room for so many strings of so many bytes in all, so that adding them moves nothing. E_MEMORY, E_LIMIT. */
int text_pool_reserve(struct text_pool *pool, size_t count, size_t bytes);
static inline size_t text_pool_length(const struct text_pool *pool, size_t i) {
    return pool->offset[i + 1] - pool->offset[i];
}
static inline const char *text_pool_text(const struct text_pool *pool, size_t i) {
    return pool->bytes + pool->offset[i];
}
void text_pool_close(struct text_pool *pool);

#endif
