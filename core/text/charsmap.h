/* SentencePiece's precompiled normalization: rules "these bytes become those" in a double-array trie of Darts-clone's
 * format, and the zero-terminated strings that its values point to. Private to core/text.
 *
 * Layout: u32 bytes of the trie, the trie (u32 units, little-endian), the strings. A unit holds the byte that leads to
 * it (bits 0-7; bit 31 set marks a value instead), whether a value hangs below it (bit 8), and the exclusive-or
 * distance of its children (bits 10-30, times 256 when bit 9 is set). Every step is checked against the array's end.
 */
#ifndef CHARSMAP_H
#define CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct charsmap {
    uint32_t *units; /* NULL: no rules */
    size_t unit_count;
    char *strings; /* string_bytes, the last is zero */
    size_t string_bytes;
    bool plain[128]; /* this ASCII byte, with the end or an ASCII byte behind it, is under no rule */
};

/* Copies what it needs from a blob of the format above. E_FORMAT. */
int charsmap_open(struct charsmap *map, const void *blob, size_t bytes);
void charsmap_close(struct charsmap *map); /* accepts a zeroed struct */

/* What the longest rule at the start of the text makes of it (zero-terminated), and in *used how many bytes it
 * replaces; NULL where no rule applies. `shortest` takes the shortest rule instead. */
const char *charsmap_find(const struct charsmap *map, const char *text, size_t bytes, bool shortest, size_t *used);

#endif
