/* The shape of the tables that tools/unicode_tables.sh generates. Private to core/text: use unicode.h. */
#ifndef UNICODE_TABLES_H
#define UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

struct unicode_record {
    uint8_t category; /* enum unicode_category */
    uint8_t combining_class;
    uint8_t decomposition_count; /* canonical, not yet recursive; 0: decomposes into itself */
    uint8_t recent;              /* 1: assigned after Unicode 8 */
    uint16_t decomposition;      /* index of its first code point in unicode_decompositions */
    uint8_t casing;              /* enum unicode_casing */
    int32_t lower;               /* to be added for the simple lower case */
};
struct unicode_composition {
    uint32_t first, second, composed;
};

extern const struct unicode_record unicode_records[];
extern const uint32_t unicode_decompositions[];
extern const uint16_t unicode_blocks[][256];                    /* record of each code point of a block */
extern const uint16_t unicode_stage[4352];                      /* block of each code point / 256 */
extern const struct unicode_composition unicode_compositions[]; /* ascending by first, then second */
extern const size_t unicode_composition_count;

#endif
