/* Keys and values of past tokens, in place: one block per model, [layer][slot][K heads][capacity · D].
 *
 * A forward pass whose batch names a cache appends to its slots and attends to all they hold. Stored as f32 or f16, or
 * as int8: each key and each value is rounded when it is written, to 255 levels up to its largest magnitude, whose
 * scale (f32) is kept beside it, and attention widens a stretch of them at a time. Capacity and D are rounded up to
 * multiples of 16. Keys of one head lie in panels of 16 tokens, [capacity/16][D][16], as the attend kernel reads them:
 * they are transposed once, when they are written. Values lie in rows of the rounded D, columns beyond D zero.
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "model/layers.h"
#include "model/model.h"

enum cache_type { CACHE_F32, CACHE_F16, CACHE_INT8 };

/* "f32|f16|int8", as an option lists them, in that order. */
#define CACHE_TYPES "f32|f16|int8"
enum cache_type cache_type_find(const char *name); /* of those */

struct kv_cache {
    enum cache_type type;
    size_t slots, capacity, layers, key_value_heads, head_width;
    size_t head_elements; /* of one head of one slot in one layer */
    uint32_t *length;     /* [slots] tokens held */
    unsigned char *keys, *values;
    size_t head_tokens;             /* capacity, rounded up */
    float *key_scale, *value_scale; /* int8: [layers][slots][K heads][head_tokens]; else NULL */
    size_t bytes;                   /* of keys and values together, with their scales */
};

/* Room for `capacity` tokens in each of `slots` sequences. E_UNSUPPORTED: the model is not causal; E_SHAPE: more than
 * its positions; E_MEMORY. */
int kv_cache_open(struct kv_cache *cache, const struct model *model, size_t slots, size_t capacity,
                  enum cache_type type);
void kv_cache_close(struct kv_cache *cache); /* accepts a zeroed cache */

/* Write the keys and values of `count` tokens of one key/value head, k and v (count,D) with row stride `stride`, at
 * tokens at.. of a slot. The length stays: the last layer of a pass is followed by kv_cache_grow. Different heads,
 * slots and layers may be written at once. */
void kv_cache_write(struct kv_cache *cache, size_t layer, size_t slot, size_t head, size_t at, size_t count,
                    const float *k, const float *v, size_t stride);
/* The slot holds `count` tokens more. */
void kv_cache_grow(struct kv_cache *cache, size_t slot, size_t count);
/* What attention_stream takes: the first `count` tokens, written but not necessarily counted yet. */
struct attention_keys kv_cache_keys(const struct kv_cache *cache, size_t layer, size_t slot, size_t head, size_t count);

/* Forget the tokens of a slot from `length` on. */
void kv_cache_cut(struct kv_cache *cache, size_t slot, size_t length);
/* Slot i becomes what slot from[i] was, for i < count (beam search); a permutation with repeats is fine. E_MEMORY. */
int kv_cache_reorder(struct kv_cache *cache, const uint32_t *from, size_t count);

static inline size_t cache_element_bytes(enum cache_type type) {
    return type == CACHE_INT8 ? 1 : type == CACHE_F16 ? 2 : 4;
}
/* Heads before one head of one slot in one layer. */
static inline size_t kv_cache_head(const struct kv_cache *cache, size_t layer, size_t slot, size_t head) {
    return (layer * cache->slots + slot) * cache->key_value_heads + head;
}
/* Bytes from keys (or values) to those of one head of one slot in one layer. */
static inline size_t kv_cache_offset(const struct kv_cache *cache, size_t layer, size_t slot, size_t head) {
    return kv_cache_head(cache, layer, slot, head) * cache->head_elements * cache_element_bytes(cache->type);
}

#endif
