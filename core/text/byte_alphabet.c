/* See byte_alphabet.h. */
#include "text/byte_alphabet.h"

static bool byte_printable(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

void byte_alphabet_fill(struct byte_alphabet *alphabet) {
    uint16_t free_code = 256;
    for (size_t i = 0; i < ALPHABET_END; i++) alphabet->byte_of[i] = -1;
    for (unsigned byte = 0; byte < 256; byte++) {
        uint16_t code = byte_printable(byte) ? (uint16_t)byte : free_code++;
        alphabet->code[byte] = code;
        alphabet->byte_of[code] = (int16_t)byte;
    }
}

void byte_alphabet_write(const struct byte_alphabet *alphabet, const char *bytes, size_t count, char *to) {
    for (size_t i = 0; i < count; i++) {
        unsigned code = alphabet->code[(uint8_t)bytes[i]];
        if (code < 0x80) {
            *to++ = (char)code;
        } else {
            *to++ = (char)(0xC0 | code >> 6);
            *to++ = (char)(0x80 | (code & 0x3F));
        }
    }
    *to = 0;
}

bool byte_alphabet_read(const struct byte_alphabet *alphabet, const char *text, size_t count, char *to, size_t *bytes) {
    *bytes = 0;
    for (size_t i = 0; i < count;) {
        unsigned a = (uint8_t)text[i++], code = a;
        if (a >= 0xE0 || (a >= 0x80 && a < 0xC2)) return false;
        if (a >= 0x80) {
            if (i == count || ((uint8_t)text[i] & 0xC0) != 0x80) return false;
            code = (a & 0x1F) << 6 | ((uint8_t)text[i++] & 0x3F);
        }
        if (code >= ALPHABET_END || alphabet->byte_of[code] < 0) return false;
        to[(*bytes)++] = (char)alphabet->byte_of[code];
    }
    return true;
}
