/* Unicode for tokenizers: UTF-8, general categories, lower case, canonical decomposition and composition.
 *
 * The data comes from the build machine's Unicode Character Database (tools/unicode_tables.sh), so its version follows
 * the distribution. Code points above U+10FFFF and surrogates are unassigned.
 */
#ifndef UNICODE_H
#define UNICODE_H

#include "text/unicode_tables.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum unicode_category {
    UNICODE_CN, /* unassigned */
    UNICODE_LU,
    UNICODE_LL,
    UNICODE_LT,
    UNICODE_LM,
    UNICODE_LO,
    UNICODE_MN,
    UNICODE_MC,
    UNICODE_ME,
    UNICODE_ND,
    UNICODE_NL,
    UNICODE_NO,
    UNICODE_PC,
    UNICODE_PD,
    UNICODE_PS,
    UNICODE_PE,
    UNICODE_PI,
    UNICODE_PF,
    UNICODE_PO,
    UNICODE_SM,
    UNICODE_SC,
    UNICODE_SK,
    UNICODE_SO,
    UNICODE_ZS,
    UNICODE_ZL,
    UNICODE_ZP,
    UNICODE_CC,
    UNICODE_CF,
    UNICODE_CS,
    UNICODE_CO
};

/* How a character takes part in case: bits of unicode_record.casing, of the properties Cased and Case_Ignorable. */
enum unicode_casing { UNICODE_CASED = 1, UNICODE_CASE_IGNORABLE = 2 };

#define UNICODE_REPLACEMENT 0xFFFDu
#define UNICODE_LOWER_MAX 2         /* code points that the lower case of one has */
#define UNICODE_DECOMPOSITION_MAX 4 /* code points that one decomposes into, recursively */

static inline const struct unicode_record *unicode_record(uint32_t code) {
    return &unicode_records[code > 0x10FFFF ? 0 : unicode_blocks[unicode_stage[code >> 8]][code & 255]];
}
static inline enum unicode_category unicode_category(uint32_t code) {
    return (enum unicode_category)unicode_record(code)->category;
}
static inline bool unicode_is_letter(uint32_t code) {
    enum unicode_category category = unicode_category(code);
    return category >= UNICODE_LU && category <= UNICODE_LO;
}
/* Nd, Nl, No. */
static inline bool unicode_is_number(uint32_t code) {
    enum unicode_category category = unicode_category(code);
    return category >= UNICODE_ND && category <= UNICODE_NO;
}
static inline bool unicode_is_punctuation(uint32_t code) {
    enum unicode_category category = unicode_category(code);
    return category >= UNICODE_PC && category <= UNICODE_PO;
}
/* White_Space: the separators, U+0009 to U+000D and U+0085. */
static inline bool unicode_is_space(uint32_t code) {
    if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
    enum unicode_category category = unicode_category(code);
    return (category >= UNICODE_ZS && category <= UNICODE_ZP) || code == 0x85;
}
static inline uint32_t unicode_lower(uint32_t code) { return (uint32_t)((int32_t)code + unicode_record(code)->lower); }

/* The full lower case of one code point: its simple one but for U+0130, which becomes two; returns how many. A final
 * sigma is up to the caller. */
size_t unicode_lower_full(uint32_t code, uint32_t to[UNICODE_LOWER_MAX]);
/* The full canonical decomposition of one code point (itself when it has none); returns how many. */
size_t unicode_decompose(uint32_t code, uint32_t to[UNICODE_DECOMPOSITION_MAX]);
/* The canonical composite of two code points, or 0. */
uint32_t unicode_compose(uint32_t first, uint32_t second);

/* The first character of bytes > 0: returns its length. Where the bytes are not UTF-8 (overlong, surrogate, cut off,
 * above U+10FFFF) *code is U+FFFD and the length 1. */
size_t utf8_decode(const uint8_t *text, size_t bytes, uint32_t *code);
/* 1 to 4 bytes; returns how many. */
size_t utf8_encode(uint32_t code, uint8_t to[4]);

#endif
