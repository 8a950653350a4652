/* Building the trie; see piece_trie.h.
 *
 * A node waits in a queue as the range of sorted strings below it. Its children need a base such that base ^ c is free
 * for each of their bytes c: every free place of the last OPEN_BLOCKS blocks is tried for the first byte, and a new
 * block is taken when none fits (as Darts-clone does: time stays linear, some places stay empty).
 */
#include "text/piece_trie.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256
#define OPEN_BLOCKS 16
#define ROOT_PARENT (UINT32_MAX - 1) /* neither free nor anybody's child */

struct range { /* strings begin .. end-1 share their first `depth` bytes, which lead to `node` */
    uint32_t node, begin, end, depth;
};

struct builder {
    struct piece_trie *trie;
    const struct trie_string *strings;
    size_t capacity;
    struct range *queue;
    size_t head, tail, queue_capacity;
    uint32_t first_free[OPEN_BLOCKS]; /* no place below this one is free, by block index modulo OPEN_BLOCKS */
};

static int compare_strings(const void *a, const void *b) {
    const struct trie_string *x = a, *y = b;
    size_t shorter = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, shorter);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int add_block(struct builder *builder) {
    int status = 0;
    struct piece_trie *trie = builder->trie;
    if (trie->count > UINT32_MAX / 4) FAIL(E_LIMIT, "a trie of more than %zu nodes", trie->count);
    if (trie->count == builder->capacity) {
        void *block = trie->units;
        size_t capacity = 2 * builder->capacity + BLOCK;
        TRY(memory_resize(&block, capacity, sizeof *trie->units));
        trie->units = block;
        builder->capacity = capacity;
    }
    for (size_t i = 0; i < BLOCK; i++)
        trie->units[trie->count + i] = (struct trie_unit){.parent = TRIE_NONE, .value = TRIE_NONE};
    builder->first_free[trie->count / BLOCK % OPEN_BLOCKS] = (uint32_t)trie->count;
    trie->count += BLOCK;
out:
    return status;
}

static bool fits(const struct piece_trie *trie, uint32_t base, const uint8_t *labels, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (trie->units[base ^ labels[i]].parent != TRIE_NONE) return false;
    return true;
}

static int find_base(struct builder *builder, const uint8_t *labels, size_t count, uint32_t *base) {
    int status = 0;
    const struct piece_trie *trie = builder->trie;
    size_t blocks = trie->count / BLOCK, first = blocks > OPEN_BLOCKS ? blocks - OPEN_BLOCKS : 0;
    for (size_t block = first; block < blocks; block++) {
        uint32_t *start = &builder->first_free[block % OPEN_BLOCKS], end = (uint32_t)((block + 1) * BLOCK);
        while (*start < end && trie->units[*start].parent != TRIE_NONE) ++*start;
        for (uint32_t place = *start; place < end; place++) {
            *base = place ^ labels[0];
            if (trie->units[place].parent == TRIE_NONE && fits(trie, *base, labels, count)) return 0;
        }
    }
    TRY(add_block(builder));
    *base = (uint32_t)(trie->count - BLOCK);
out:
    return status;
}

static int push(struct builder *builder, struct range range) {
    int status = 0;
    if (builder->tail == builder->queue_capacity) {
        void *block = builder->queue;
        size_t capacity = 2 * builder->queue_capacity + BLOCK;
        TRY(memory_resize(&block, capacity, sizeof *builder->queue));
        builder->queue = block;
        builder->queue_capacity = capacity;
    }
    builder->queue[builder->tail++] = range;
out:
    return status;
}

/* Place the children of a node and queue them. */
static int grow_node(struct builder *builder, struct range range) {
    int status = 0;
    const struct trie_string *strings = builder->strings;
    uint8_t labels[BLOCK];
    uint32_t starts[BLOCK + 1], base;
    size_t count = 0;
    if (strings[range.begin].bytes == range.depth) {
        builder->trie->units[range.node].value = strings[range.begin++].value;
        if (range.begin < range.end && strings[range.begin].bytes == range.depth)
            FAIL(E_FORMAT, "the piece '%.*s' is listed twice", (int)range.depth, strings[range.begin].text);
    }
    for (uint32_t i = range.begin; i < range.end; i++) {
        uint8_t label = (uint8_t)strings[i].text[range.depth];
        if (count && labels[count - 1] == label) continue;
        labels[count] = label;
        starts[count++] = i;
    }
    if (!count) return 0;
    starts[count] = range.end;
    TRY(find_base(builder, labels, count, &base));
    builder->trie->units[range.node].base = base;
    for (size_t i = 0; i < count; i++) {
        struct range below = {base ^ labels[i], starts[i], starts[i + 1], range.depth + 1};
        builder->trie->units[below.node].parent = range.node;
        TRY(push(builder, below));
    }
out:
    return status;
}

int piece_trie_build(struct piece_trie *trie, struct trie_string *strings, size_t count) {
    int status = 0;
    struct builder builder = {.trie = trie, .strings = strings};
    *trie = (struct piece_trie){0};
    if (!count) return 0;
    if (count > UINT32_MAX / 2) FAIL(E_LIMIT, "a trie of %zu strings", count);
    qsort(strings, count, sizeof *strings, compare_strings);
    TRY(add_block(&builder));
    trie->units[0].parent = ROOT_PARENT;
    TRY(push(&builder, (struct range){.end = (uint32_t)count}));
    while (builder.head < builder.tail) TRY(grow_node(&builder, builder.queue[builder.head++]));
out:
    memory_release(builder.queue);
    if (status < 0) piece_trie_close(trie);
    return status;
}

void piece_trie_close(struct piece_trie *trie) {
    memory_release(trie->units);
    *trie = (struct piece_trie){0};
}

size_t piece_trie_longest(const struct piece_trie *trie, const char *text, size_t bytes, uint32_t *value) {
    size_t longest = 0;
    uint32_t node = 0;
    *value = TRIE_NONE;
    for (size_t i = 0; trie->count && i < bytes; i++) {
        node = piece_trie_step(trie, node, (uint8_t)text[i]);
        if (node == TRIE_NONE) break;
        if (trie->units[node].value == TRIE_NONE) continue;
        *value = trie->units[node].value;
        longest = i + 1;
    }
    return longest;
}
