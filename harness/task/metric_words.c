/* See metric_words.h. Lower case is Unicode's full one (section 3.13), which has two rules beyond a table: the dotted
 * capital I becomes two characters, and a sigma is final where a cased letter stands before and none after it. */
#include "task/metric_words.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "text/unicode.h"

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

/* Whether a cased letter stands in the text before all but characters that case ignores. */
static bool cased_follows(const uint8_t *text, size_t bytes) {
    uint32_t code;
    for (size_t at = 0; at < bytes;) {
        at += utf8_decode(text + at, bytes - at, &code);
        uint8_t casing = unicode_record(code)->casing;
        if (!(casing & UNICODE_CASE_IGNORABLE)) return casing & UNICODE_CASED;
    }
    return false;
}

enum { SIGMA_CAPITAL = 0x3a3, SIGMA_FINAL = 0x3c2 };

int text_lower(const char *text, char **lower) {
    int status = 0;
    const uint8_t *in = (const uint8_t *)text;
    size_t bytes = strlen(text), used = 0, room;
    bool after_cased = false; /* the last character that case does not ignore */
    void *block = NULL;
    TRY(size_multiply(bytes + 1, 2, &room)); /* no lower case has more than 3/2 of its bytes */
    TRY(memory_take(&block, room, 1));
    uint8_t *out = block;
    for (size_t at = 0, read; at < bytes; at += read) {
        uint32_t code, to[UNICODE_LOWER_MAX];
        read = utf8_decode(in + at, bytes - at, &code);
        size_t count = unicode_lower_full(code, to);
        if (code == SIGMA_CAPITAL && after_cased && !cased_follows(in + at + read, bytes - at - read))
            to[0] = SIGMA_FINAL;
        if (code == UNICODE_REPLACEMENT) { /* or what is no UTF-8 */
            memcpy(out + used, in + at, read);
            used += read;
        } else {
            for (size_t i = 0; i < count; i++) used += utf8_encode(to[i], out + used);
        }
        uint8_t casing = unicode_record(code)->casing;
        if (!(casing & UNICODE_CASE_IGNORABLE)) after_cased = casing & UNICODE_CASED;
    }
    out[used] = 0;
    *lower = block;
out:
    return status;
}
