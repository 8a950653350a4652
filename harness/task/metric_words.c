/* See metric_words.h. Lower case covers the scripts that have two cases and one code point each in the ranges below:
 * Latin, Greek, Cyrillic, Armenian; what lies outside stays as it is. */
#include "task/metric_words.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"

int word_list_add(struct word_list *list, struct text_pool *pool, const char *word, size_t bytes) {
    int status = 0;
    if (list->count == list->capacity) {
        void *block = list->id;
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        TRY(memory_resize(&block, capacity, sizeof *list->id));
        list->id = block;
        list->capacity = capacity;
    }
    TRY(text_pool_add(pool, word, bytes, &list->id[list->count]));
    list->count++;
out:
    return status;
}

int word_list_split(struct word_list *list, struct text_pool *pool, const char *text) {
    int status = 0;
    while (*text) {
        size_t bytes = strcspn(text, " ");
        if (bytes) TRY(word_list_add(list, pool, text, bytes));
        text += bytes + (text[bytes] == ' ');
    }
out:
    return status;
}

void word_list_close(struct word_list *list) {
    memory_release(list->id);
    *list = (struct word_list){0};
}

size_t blank_bytes(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] == ' ' || (c[0] >= 0x09 && c[0] <= 0x0d) || (c[0] >= 0x1c && c[0] <= 0x1f)) return 1;
    if (c[0] == 0xc2 && (c[1] == 0x85 || c[1] == 0xa0)) return 2;
    if (c[0] == 0xe1 && c[1] == 0x9a && c[2] == 0x80) return 3;
    if (c[0] == 0xe3 && c[1] == 0x80 && c[2] == 0x80) return 3;
    if (c[0] == 0xe2 && c[1] == 0x80 &&
        ((c[2] >= 0x80 && c[2] <= 0x8a) || c[2] == 0xa8 || c[2] == 0xa9 || c[2] == 0xaf))
        return 3;
    if (c[0] == 0xe2 && c[1] == 0x81 && c[2] == 0x9f) return 3;
    return 0;
}

static uint32_t code_lower(uint32_t c) {
    if (c >= 'A' && c <= 'Z') return c + 32;
    if (c >= 0xc0 && c <= 0xde && c != 0xd7) return c + 32;
    /* Pairs of capital and small letter: even and odd, or odd and even. */
    if ((c >= 0x100 && c <= 0x137 && c != 0x130) || (c >= 0x14a && c <= 0x177) || (c >= 0x1e00 && c <= 0x1e95) ||
        (c >= 0x1ea0 && c <= 0x1eff) || (c >= 0x460 && c <= 0x481) || (c >= 0x48a && c <= 0x4bf) ||
        (c >= 0x4d0 && c <= 0x52f))
        return c | 1;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e) || (c >= 0x4c1 && c <= 0x4ce)) return c + (c & 1);
    if (c == 0x178) return 0xff;
    if (c >= 0x391 && c <= 0x3ab && c != 0x3a2) return c + 32;
    if (c == 0x386) return 0x3ac;
    if (c >= 0x388 && c <= 0x38a) return c + 37;
    if (c == 0x38c) return 0x3cc;
    if (c == 0x38e || c == 0x38f) return c + 63;
    if (c >= 0x410 && c <= 0x42f) return c + 32;
    if (c >= 0x400 && c <= 0x40f) return c + 80;
    if (c >= 0x531 && c <= 0x556) return c + 48;
    return c;
}

size_t character_lower(const char *text, char out[4], size_t *read) {
    const unsigned char *c = (const unsigned char *)text;
    size_t bytes = c[0] < 0x80 ? 1 : c[0] >= 0xc2 && c[0] < 0xe0 ? 2 : c[0] >= 0xe0 && c[0] < 0xf0 ? 3 : 0;
    uint32_t code = bytes == 1 ? c[0] : bytes == 2 ? c[0] & 0x1fu : c[0] & 0x0fu;
    for (size_t i = 1; i < bytes; i++) {
        if ((c[i] & 0xc0) != 0x80) bytes = 0; /* ends the loop; also at the terminating zero */
        else code = code << 6 | (c[i] & 0x3fu);
    }
    *read = bytes ? bytes : 1;
    uint32_t lower = bytes ? code_lower(code) : 0;
    if (!bytes || lower == code) {
        memcpy(out, text, *read);
        return *read;
    }
    if (lower < 0x80) { /* never from a longer character */
        out[0] = (char)lower;
        return 1;
    }
    if (lower < 0x800) {
        out[0] = (char)(0xc0 | lower >> 6);
        out[1] = (char)(0x80 | (lower & 0x3f));
        return 2;
    }
    out[0] = (char)(0xe0 | lower >> 12);
    out[1] = (char)(0x80 | (lower >> 6 & 0x3f));
    out[2] = (char)(0x80 | (lower & 0x3f));
    return 3;
}
