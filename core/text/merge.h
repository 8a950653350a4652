/* Merging neighbouring symbols by priority, the heart of byte-pair encoding. Private to core/text.
 *
 * A pair of symbols may have a merge: what it becomes and its rank. Of all pairs in a row of symbols the one of lowest
 * rank is merged first, the leftmost among equals, until no pair has a merge. Short rows scan an array of ranks; longer
 * ones keep a heap over a linked list, so that no input is quadratic.
 */
#ifndef MERGE_H
#define MERGE_H

#include "text/token_map.h"

#define MERGE_SHORT 64

struct merge_rule {
    uint32_t rank, result;
};
struct merge_table {
    struct pair_map pairs; /* of symbols, to an index into rules */
    struct merge_rule *rules;
    size_t count, capacity;
};

/* E_FORMAT: the pair has a rule already. E_MEMORY, E_LIMIT. */
int merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, struct merge_rule rule);
void merge_table_close(struct merge_table *table); /* accepts a zeroed struct */

/* The pair that was last seen to make a symbol, by symbol; left is MAP_NONE at first. */
struct merge_origin {
    uint32_t left, right;
};

/* Merge `count` symbols in place; returns how many are left. count <= MERGE_SHORT. A symbol without rules (a frozen or
 * unknown one) simply never merges. */
size_t merge_short(const struct merge_table *table, uint32_t *symbols, size_t count);
/* As merge_short for any count, in n log n. origins: NULL, or an array by symbol that receives the pairs seen, the
 * later over the earlier, whether they were merged or not. E_MEMORY, E_LIMIT. */
int merge_long(const struct merge_table *table, uint32_t *symbols, size_t count, struct merge_origin *origins,
               size_t *left);

#endif
