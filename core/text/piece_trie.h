/* A trie of byte strings in one array: a step is one load (a double array, Aoe 1989). Private to core/text.
 *
 * The child of node n for byte c is node units[n].base ^ c, when that node's parent is n. Children of a node so lie in
 * one block of 256. Built once from the sorted strings, level by level; only the last blocks are searched for room.
 */
#ifndef PIECE_TRIE_H
#define PIECE_TRIE_H

#include <stddef.h>
#include <stdint.h>

#define TRIE_NONE UINT32_MAX

struct piece_trie {
    struct trie_unit {
        uint32_t base, parent, value; /* parent TRIE_NONE: free; value TRIE_NONE: no string ends here */
    } * units;                        /* node 0 is the root */
    size_t count;                     /* 0: an empty trie, or a multiple of 256 */
};

struct trie_string {
    const char *text;
    uint32_t bytes; /* > 0 */
    uint32_t value; /* not TRIE_NONE */
};

/* strings is sorted in place. E_FORMAT: the same string twice; E_MEMORY, E_LIMIT. */
int piece_trie_build(struct piece_trie *trie, struct trie_string *strings, size_t count);
void piece_trie_close(struct piece_trie *trie); /* accepts a zeroed struct */

/* The child of a node, or TRIE_NONE. The trie is not empty. */
static inline uint32_t piece_trie_step(const struct piece_trie *trie, uint32_t node, uint8_t byte) {
    uint32_t child = trie->units[node].base ^ byte;
    return trie->units[child].parent == node ? child : TRIE_NONE;
}

/* Length of the longest string that starts the text, with its value; 0 where none does. */
size_t piece_trie_longest(const struct piece_trie *trie, const char *text, size_t bytes, uint32_t *value);

#endif
