/* Finding added tokens in a text: leftmost first, of those at one place the longest, as Hugging Face's tokenizers do.
 *
 * Few bytes begin an added token (mostly '<' or '['), so the text is scanned for such a byte, and there each length
 * that an added token with that first byte has is looked up, the longest first.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

#include <stdlib.h>

struct added_length {
    uint32_t byte, length;
};

static int compare_lengths(const void *left, const void *right) {
    const struct added_length *a = left, *b = right;
    if (a->byte != b->byte) return a->byte < b->byte ? -1 : 1;
    return a->length != b->length ? (a->length > b->length ? -1 : 1) : 0;
}

int added_index_build(struct tokenizer *tokenizer) {
    int status = 0;
    void *block = NULL;
    struct added_length *all = NULL;
    size_t count = 0, kept = 0;
    for (size_t id = 0; id < tokenizer->tokens.count; id++) count += tokenizer->added[id] != 0;
    TRY(memory_take(&block, count, sizeof *all));
    all = block;
    TRY(memory_take(&block, count, sizeof(uint32_t)));
    memory_release(tokenizer->added_index.lengths);
    tokenizer->added_index.lengths = block;
    count = 0;
    for (size_t id = 0; id < tokenizer->tokens.count; id++)
        if (tokenizer->added[id])
            all[count++] = (struct added_length){(uint8_t)text_pool_text(&tokenizer->tokens, id)[0],
                                                 (uint32_t)text_pool_length(&tokenizer->tokens, id)};
    qsort(all, count, sizeof *all, compare_lengths);
    for (size_t byte = 0, i = 0; byte < 256; byte++) {
        tokenizer->added_index.begin[byte] = (uint32_t)kept;
        for (; i < count && all[i].byte == byte; i++)
            if (kept == tokenizer->added_index.begin[byte] || tokenizer->added_index.lengths[kept - 1] != all[i].length)
                tokenizer->added_index.lengths[kept++] = all[i].length;
    }
    tokenizer->added_index.begin[256] = (uint32_t)kept;
out:
    memory_release(all);
    return status;
}

/* The added token at `text`, or -1. */
static int32_t added_at(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    const uint32_t *begin = &tokenizer->added_index.begin[(uint8_t)text[0]];
    for (uint32_t i = begin[0]; i < begin[1]; i++) {
        uint32_t length = tokenizer->added_index.lengths[i];
        uint32_t id = length <= bytes ? text_pool_find(&tokenizer->tokens, text, length) : MAP_NONE;
        if (id != MAP_NONE && tokenizer->added[id]) return (int32_t)id;
    }
    return -1;
}

static size_t strip_left(const char *text, size_t from, size_t at) {
    while (at > from) {
        size_t start = at - 1;
        uint32_t code;
        while (start > from && ((uint8_t)text[start] & 0xC0) == 0x80 && at - start < 4) start--;
        if (utf8_decode((const uint8_t *)text + start, at - start, &code) != at - start || !unicode_is_space(code))
            break;
        at = start;
    }
    return at;
}

static size_t strip_right(const char *text, size_t bytes, size_t at) {
    while (at < bytes) {
        uint32_t code;
        size_t length = utf8_decode((const uint8_t *)text + at, bytes - at, &code);
        if (!unicode_is_space(code)) break;
        at += length;
    }
    return at;
}

void added_index_find(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t from, int32_t *id,
                      size_t *begin, size_t *end) {
    const uint32_t *first = tokenizer->added_index.begin;
    *id = -1;
    for (size_t at = from; at < bytes && first[256]; at++) {
        uint8_t byte = (uint8_t)text[at];
        if (first[byte] == first[byte + 1] || (*id = added_at(tokenizer, text + at, bytes - at)) < 0) continue;
        uint8_t flags = tokenizer->added[*id];
        size_t after = at + text_pool_length(&tokenizer->tokens, (size_t)*id);
        *begin = flags & ADDED_STRIP_LEFT ? strip_left(text, from, at) : at;
        *end = flags & ADDED_STRIP_RIGHT ? strip_right(text, bytes, after) : after;
        return;
    }
    *begin = *end = bytes;
}
