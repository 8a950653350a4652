/* UTF-8 as SentencePiece reads it: lengths of characters in bytes that may be anything. Private to core/text. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that starts with `lead`, by its high bits alone; 1 for a byte that starts none. */
static inline size_t utf8_lead_length(uint8_t lead) { return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

/* The same, never beyond the text's end; bytes > 0. */
static inline size_t utf8_step(const char *text, size_t bytes) {
    size_t length = utf8_lead_length((uint8_t)*text);
    return length < bytes ? length : bytes;
}

/* Length of the character at the start of a text of bytes > 0, or 0 where there is none: a stray or missing
 * continuation byte, an overlong form, a surrogate, a code point above 0x10FFFF. */
static inline size_t utf8_valid_length(const char *text, size_t bytes) {
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80) return 1;
    size_t length = b[0] < 0xC2 ? 0 : b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : b[0] < 0xF5 ? 4 : 0;
    if (!length || length > bytes) return 0;
    for (size_t i = 1; i < length; i++)
        if ((b[i] & 0xC0) != 0x80) return 0;
    if ((b[0] == 0xE0 && b[1] < 0xA0) || (b[0] == 0xED && b[1] > 0x9F)) return 0;
    if ((b[0] == 0xF0 && b[1] < 0x90) || (b[0] == 0xF4 && b[1] > 0x8F)) return 0;
    return length;
}

#endif
