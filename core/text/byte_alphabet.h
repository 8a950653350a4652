/* GPT-2's byte alphabet, in which the tokens of byte-level BPE are written: printable Latin-1 bytes stand for
 * themselves, the other 68 are U+0100 and following in ascending order, so that no token holds a blank and a merge is
 * "left right". Private to core/text.
 */
#ifndef BYTE_ALPHABET_H
#define BYTE_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ALPHABET_END 324 /* U+0100 + 68 */

struct byte_alphabet {
    uint16_t code[256];            /* of each byte */
    int16_t byte_of[ALPHABET_END]; /* of each code, -1: not in the alphabet */
};
void byte_alphabet_fill(struct byte_alphabet *alphabet);
/* Bytes to alphabet text; `to` has room for 2 bytes a byte and the zero. */
void byte_alphabet_write(const struct byte_alphabet *alphabet, const char *bytes, size_t count, char *to);
/* Alphabet text to bytes; false when a character is not in it. `to` has room for as many bytes as the text. */
bool byte_alphabet_read(const struct byte_alphabet *alphabet, const char *text, size_t count, char *to, size_t *bytes);

#endif
