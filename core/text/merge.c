/* Merging neighbouring symbols by priority; see merge.h. */
#include "text/merge.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdbool.h>

/* ---- the table ------------------------------------------------------------------------------------ */
int merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, struct merge_rule rule) {
    int status = 0;
    uint32_t index = (uint32_t)table->count, found;
    if (table->count == table->capacity) {
        void *block = table->rules;
        size_t capacity = 2 * table->capacity + 256;
        if (capacity > UINT32_MAX / 2) FAIL(E_LIMIT, "more than %zu merges", table->count);
        TRY(memory_resize(&block, capacity, sizeof *table->rules));
        table->rules = block;
        table->capacity = capacity;
    }
    TRY(pair_map_add(&table->pairs, left, right, index, &found));
    if (found != index) FAIL(E_FORMAT, "merge %u repeats merge %u", index, found);
    table->rules[table->count++] = rule;
out:
    return status;
}

void merge_table_close(struct merge_table *table) {
    pair_map_close(&table->pairs);
    memory_release(table->rules);
    *table = (struct merge_table){0};
}

/* The rule of a pair; rank MAP_NONE where it has none. */
static struct merge_rule find_rule(const struct merge_table *table, uint32_t left, uint32_t right) {
    uint32_t index = pair_map_find(&table->pairs, left, right);
    return index == MAP_NONE ? (struct merge_rule){MAP_NONE, MAP_NONE} : table->rules[index];
}

/* ---- short rows ----------------------------------------------------------------------------------- */
size_t merge_short(const struct merge_table *table, uint32_t *symbols, size_t count) {
    struct merge_rule rule[MERGE_SHORT]; /* of the pair (i, i+1) */
    for (size_t i = 0; i + 1 < count; i++) rule[i] = find_rule(table, symbols[i], symbols[i + 1]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rule[i].rank < rule[best].rank) best = i;
        if (rule[best].rank == MAP_NONE) break;
        symbols[best] = rule[best].result;
        count--;
        for (size_t i = best + 1; i < count; i++) {
            symbols[i] = symbols[i + 1];
            if (i + 1 < count) rule[i] = rule[i + 1];
        }
        if (best > 0) rule[best - 1] = find_rule(table, symbols[best - 1], symbols[best]);
        if (best + 1 < count) rule[best] = find_rule(table, symbols[best], symbols[best + 1]);
    }
    return count;
}

/* ---- long rows ------------------------------------------------------------------------------------ */
/* The pairs in the order they are to be merged. An entry is stale when the pair at its place has another rank by now;
 * one that was stale and has its rank again is the pair that stands there. */
struct heap_item {
    uint32_t rank, place;
};
struct row {
    const struct merge_table *table;
    struct merge_origin *origins;
    uint32_t *symbols, *next, *previous; /* by place; next == count at the end */
    struct merge_rule *rule;             /* of the pair that starts at a place */
    uint32_t count;
    struct heap_item *heap;
    size_t heap_count;
};

static bool item_before(struct heap_item a, struct heap_item b) {
    return a.rank != b.rank ? a.rank < b.rank : a.place < b.place;
}

static void heap_push(struct row *row, struct heap_item item) {
    size_t i = row->heap_count++;
    for (; i && item_before(item, row->heap[(i - 1) / 2]); i = (i - 1) / 2) row->heap[i] = row->heap[(i - 1) / 2];
    row->heap[i] = item;
}

static struct heap_item heap_pop(struct row *row) {
    struct heap_item top = row->heap[0], last = row->heap[--row->heap_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < row->heap_count; i = child) {
        if (child + 1 < row->heap_count && item_before(row->heap[child + 1], row->heap[child])) child++;
        if (!item_before(row->heap[child], last)) break;
        row->heap[i] = row->heap[child];
    }
    row->heap[i] = last;
    return top;
}

static void look_at_pair(struct row *row, uint32_t place) {
    uint32_t right = row->next[place];
    row->rule[place].rank = MAP_NONE;
    if (right == row->count) return;
    struct merge_rule rule = find_rule(row->table, row->symbols[place], row->symbols[right]);
    row->rule[place] = rule;
    if (rule.rank == MAP_NONE) return;
    heap_push(row, (struct heap_item){rule.rank, place});
    if (row->origins) row->origins[rule.result] = (struct merge_origin){row->symbols[place], row->symbols[right]};
}

/* At most 3n entries enter the heap: n pairs at first and two with each of at most n merges. */
int merge_long(const struct merge_table *table, uint32_t *symbols, size_t count, struct merge_origin *origins,
               size_t *left) {
    int status = 0;
    void *block = NULL;
    if (count > UINT32_MAX / 4) FAIL(E_LIMIT, "a word of %zu characters is too long", count);
    TRY(memory_take(&block, 10 * count, sizeof(uint32_t)));
    uint32_t *numbers = block;
    struct row row = {.table = table, .origins = origins, .symbols = symbols, .next = numbers};
    row.previous = numbers + count;
    row.rule = (struct merge_rule *)(void *)(numbers + 2 * count);
    row.heap = (struct heap_item *)(void *)(numbers + 4 * count);
    row.count = (uint32_t)count;
    for (uint32_t i = 0; i < row.count; i++) {
        row.next[i] = i + 1;
        row.previous[i] = i - 1;
    }
    for (uint32_t i = 0; i < row.count; i++) look_at_pair(&row, i);
    while (row.heap_count) {
        struct heap_item item = heap_pop(&row);
        uint32_t place = item.place, right = row.next[place];
        if (row.rule[place].rank != item.rank) continue;
        symbols[place] = row.rule[place].result;
        row.next[place] = row.next[right];
        row.rule[right].rank = MAP_NONE;
        if (row.next[place] < row.count) row.previous[row.next[place]] = place;
        if (place > 0) look_at_pair(&row, row.previous[place]);
        look_at_pair(&row, place);
    }
    *left = 0;
    for (uint32_t i = 0; i < row.count; i = row.next[i]) symbols[(*left)++] = symbols[i];
out:
    memory_release(block);
    return status;
}
