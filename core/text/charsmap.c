/* Precompiled normalization rules; see charsmap.h. */
#include "text/charsmap.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

#define RESULTS_MAX 32 /* SentencePiece looks at no more rules that are prefixes of each other */

static uint32_t unit_label(uint32_t unit) { return unit & 0x800000FFu; }
static bool unit_has_value(uint32_t unit) { return unit >> 8 & 1; }
static uint32_t unit_offset(uint32_t unit) { return (unit >> 10 & 0x1FFFFF) << ((unit & 1u << 9) >> 6); }

/* The unit below node `at` for a byte: false when there is none. */
static bool step(const struct charsmap *map, size_t *at, uint8_t byte) {
    size_t child = *at ^ unit_offset(map->units[*at]) ^ byte;
    if (child >= map->unit_count || unit_label(map->units[child]) != byte) return false;
    *at = child;
    return true;
}

/* The string of a node that has one. */
static const char *node_string(const struct charsmap *map, size_t at) {
    if (!unit_has_value(map->units[at])) return NULL;
    size_t leaf = at ^ unit_offset(map->units[at]);
    if (leaf >= map->unit_count) return NULL;
    size_t string = map->units[leaf] & 0x7FFFFFFFu;
    return string < map->string_bytes ? map->strings + string : NULL;
}

const char *charsmap_find(const struct charsmap *map, const char *text, size_t bytes, bool shortest, size_t *used) {
    const char *found = NULL;
    size_t at = 0;
    *used = 0;
    if (!map->units) return NULL;
    for (size_t i = 0, results = 0; i < bytes && results < RESULTS_MAX && step(map, &at, (uint8_t)text[i]); i++) {
        const char *string = node_string(map, at);
        if (!string) continue;
        found = string;
        *used = i + 1;
        if (shortest) break;
        results++;
    }
    return found;
}

/* Most text is ASCII that no rule touches: those bytes need no walk. */
static void find_plain(struct charsmap *map) {
    for (unsigned first = 0; first < 128; first++) {
        size_t at = 0;
        map->plain[first] = true;
        if (!map->units || !step(map, &at, (uint8_t)first)) continue;
        map->plain[first] = !node_string(map, at);
        for (unsigned second = 0; second < 128 && map->plain[first]; second++) {
            size_t below = at;
            map->plain[first] = !step(map, &below, (uint8_t)second);
        }
    }
}

int charsmap_open(struct charsmap *map, const void *blob, size_t bytes) {
    int status = 0;
    void *block = NULL;
    const uint8_t *from = blob;
    *map = (struct charsmap){0};
    if (bytes) {
        if (bytes < 5) FAIL(E_FORMAT, "precompiled_charsmap is cut short");
        size_t trie = (size_t)from[0] | (size_t)from[1] << 8 | (size_t)from[2] << 16 | (size_t)from[3] << 24;
        if (trie % 4 || !trie || trie >= bytes - 4)
            FAIL(E_FORMAT, "precompiled_charsmap: a trie of %zu bytes does not fit in %zu", trie, bytes);
        if (from[bytes - 1]) FAIL(E_FORMAT, "precompiled_charsmap: its strings do not end in a zero");
        TRY(memory_take(&block, trie / 4, sizeof *map->units));
        map->units = block;
        map->unit_count = trie / 4;
        for (size_t i = 0; i < map->unit_count; i++) {
            const uint8_t *unit = from + 4 + 4 * i;
            map->units[i] = unit[0] | (uint32_t)unit[1] << 8 | (uint32_t)unit[2] << 16 | (uint32_t)unit[3] << 24;
        }
        map->string_bytes = bytes - 4 - trie;
        TRY(memory_take(&block, map->string_bytes, 1));
        map->strings = block;
        memcpy(map->strings, from + 4 + trie, map->string_bytes);
    }
    find_plain(map);
out:
    if (status < 0) charsmap_close(map);
    return status;
}

void charsmap_close(struct charsmap *map) {
    memory_release(map->units);
    memory_release(map->strings);
    *map = (struct charsmap){0};
}
