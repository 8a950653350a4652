/* See unicode.h. Hangul syllables are computed, as the Unicode Standard, section 3.12, says. */
#include "text/unicode.h"

enum {
    HANGUL_SYLLABLE = 0xAC00,
    HANGUL_LEAD = 0x1100,
    HANGUL_VOWEL = 0x1161,
    HANGUL_TAIL = 0x11A7, /* one before the first: no tail is number 0 */
    HANGUL_LEADS = 19,
    HANGUL_VOWELS = 21,
    HANGUL_TAILS = 28,
    HANGUL_SYLLABLES = HANGUL_LEADS * HANGUL_VOWELS * HANGUL_TAILS
};

size_t unicode_lower_full(uint32_t code, uint32_t to[UNICODE_LOWER_MAX]) {
    bool dotted = code == 0x130; /* capital I with a dot: i and a combining dot */
    to[0] = dotted ? 'i' : unicode_lower(code);
    to[1] = 0x307;
    return dotted ? 2 : 1;
}

size_t unicode_decompose(uint32_t code, uint32_t to[UNICODE_DECOMPOSITION_MAX]) {
    const struct unicode_record *record = unicode_record(code);
    uint32_t syllable = code - HANGUL_SYLLABLE;
    if (syllable < HANGUL_SYLLABLES) {
        to[0] = HANGUL_LEAD + syllable / (HANGUL_VOWELS * HANGUL_TAILS);
        to[1] = HANGUL_VOWEL + syllable / HANGUL_TAILS % HANGUL_VOWELS;
        to[2] = HANGUL_TAIL + syllable % HANGUL_TAILS;
        return to[2] == HANGUL_TAIL ? 2 : 3;
    }
    /* Only the first of two decomposes further, which Unicode's stability policy keeps so: unfold from the right. */
    uint32_t tail[UNICODE_DECOMPOSITION_MAX];
    size_t tails = 0, count = 0;
    for (; record->decomposition_count && tails + 1 < UNICODE_DECOMPOSITION_MAX; record = unicode_record(code)) {
        if (record->decomposition_count == 2) tail[tails++] = unicode_decompositions[record->decomposition + 1];
        code = unicode_decompositions[record->decomposition];
    }
    to[count++] = code;
    while (tails) to[count++] = tail[--tails];
    return count;
}

uint32_t unicode_compose(uint32_t first, uint32_t second) {
    uint32_t lead = first - HANGUL_LEAD, vowel = second - HANGUL_VOWEL;
    if (lead < HANGUL_LEADS && vowel < HANGUL_VOWELS)
        return HANGUL_SYLLABLE + (lead * HANGUL_VOWELS + vowel) * HANGUL_TAILS;
    uint32_t syllable = first - HANGUL_SYLLABLE, tail = second - HANGUL_TAIL;
    if (syllable < HANGUL_SYLLABLES && syllable % HANGUL_TAILS == 0 && tail >= 1 && tail < HANGUL_TAILS)
        return first + tail;
    size_t low = 0, high = unicode_composition_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct unicode_composition *entry = &unicode_compositions[middle];
        if (entry->first == first && entry->second == second) return entry->composed;
        if (entry->first < first || (entry->first == first && entry->second < second)) low = middle + 1;
        else high = middle;
    }
    return 0;
}

size_t utf8_decode(const uint8_t *text, size_t bytes, uint32_t *code) {
    uint32_t a = text[0];
    *code = a;
    if (a < 0x80) return 1;
    size_t length = a >= 0xF0 ? 4 : a >= 0xE0 ? 3 : 2;
    *code = UNICODE_REPLACEMENT;
    if (a < 0xC2 || a > 0xF4 || bytes < length) return 1;
    uint32_t value = a & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) return 1;
        value = value << 6 | (text[i] & 0x3F);
    }
    if ((length == 3 && (value < 0x800 || (value >= 0xD800 && value < 0xE000))) ||
        (length == 4 && (value < 0x10000 || value > 0x10FFFF)))
        return 1;
    *code = value;
    return length;
}

size_t utf8_encode(uint32_t code, uint8_t to[4]) {
    if (code < 0x80) {
        to[0] = (uint8_t)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        to[i] = (uint8_t)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    to[0] = (uint8_t)((0xF00u >> length & 0xFF) | code); /* 110x xxxx, 1110 xxxx, 1111 0xxx */
    return length;
}
