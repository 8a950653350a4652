/* SentencePiece's normalization: rules of the model, U+FFFD for bytes that are no UTF-8, spaces to space symbols, extra
 * ones dropped, one in front. User-defined pieces are copied before any rule is asked.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

#include <string.h>

void normalized_close(struct normalized *normalized) {
    memory_release(normalized->text);
    memory_release(normalized->origin);
    *normalized = (struct normalized){0};
}

int normalized_reserve(struct normalized *normalized, size_t more) {
    int status = 0;
    if (normalized->capacity - normalized->count > more) return 0; /* origin has one entry more */
    size_t capacity = normalized->capacity + normalized->capacity / 2 + more + 64;
    void *block = normalized->text;
    if (capacity > UINT32_MAX) FAIL(E_LIMIT, "a text of more than 4 GB when normalized");
    TRY(memory_resize(&block, capacity, 1));
    normalized->text = block;
    if (normalized->with_origin) {
        block = normalized->origin;
        TRY(memory_resize(&block, capacity + 1, sizeof *normalized->origin));
        normalized->origin = block;
    }
    normalized->capacity = capacity;
out:
    return status;
}

/* The callers have reserved the room. */
static void put_space(struct normalized *normalized, bool escape, size_t from) {
    if (!escape) {
        normalized_put(normalized, ' ', from);
    } else {
        for (size_t i = 0; i < SPACE_BYTES; i++) normalized_put(normalized, SPACE_SYMBOL[i], from);
    }
}

/* What the start of a text becomes. */
struct prefix {
    const char *text;
    size_t bytes;
    size_t used; /* bytes of the original that it stands for */
};

static struct prefix normalize_prefix(const struct sentencepiece *model, const char *text, size_t bytes) {
    uint32_t value;
    uint8_t first = (uint8_t)*text;
    size_t used;
    if (model->user_start[first] && (used = piece_trie_longest(&model->user, text, bytes, &value)))
        return (struct prefix){text, used, used};
    if (first < 0x80 && model->charsmap.plain[first] && (bytes == 1 || (uint8_t)text[1] < 0x80))
        return (struct prefix){text, 1, 1};
    const char *rule = charsmap_find(&model->charsmap, text, bytes, false, &used);
    if (rule) return (struct prefix){rule, strlen(rule), used};
    used = utf8_valid_length(text, bytes);
    return used ? (struct prefix){text, used, used} : (struct prefix){"\xEF\xBF\xBD", 3, 1};
}

static bool is_one_space(struct prefix prefix) { return prefix.bytes == 1 && *prefix.text == ' '; }

static void drop_trailing_spaces(const struct sentencepiece *model, struct normalized *normalized, size_t *at) {
    const char *space = model->escape_spaces ? SPACE_SYMBOL : " ";
    size_t bytes = strlen(space);
    while (normalized->count >= bytes && memcmp(normalized->text + normalized->count - bytes, space, bytes) == 0) {
        normalized->count -= bytes;
        if (normalized->with_origin) *at = normalized->origin[normalized->count];
    }
}

int sentencepiece_normalize(const struct sentencepiece *model, const char *text, size_t bytes,
                            struct normalized *normalized) {
    int status = 0;
    size_t at = 0;
    normalized->count = 0;
    while (at < bytes && model->remove_extra_spaces) {
        struct prefix prefix = normalize_prefix(model, text + at, bytes - at);
        if (!is_one_space(prefix)) break;
        at += prefix.used;
    }
    if (at == bytes) return 0;
    TRY(normalized_reserve(normalized, bytes - at + bytes / 2));
    if (model->add_dummy_prefix && !model->space_as_suffix) put_space(normalized, model->escape_spaces, at);
    bool after_space = model->remove_extra_spaces;
    while (at < bytes) {
        struct prefix prefix = normalize_prefix(model, text + at, bytes - at);
        TRY(normalized_reserve(normalized, SPACE_BYTES * (prefix.bytes + 1)));
        for (; after_space && prefix.bytes && *prefix.text == ' '; prefix.text++) prefix.bytes--;
        for (size_t i = 0; i < prefix.bytes; i++) {
            if (prefix.text[i] == ' ') put_space(normalized, model->escape_spaces, at);
            else normalized_put(normalized, prefix.text[i], at);
        }
        if (prefix.bytes) after_space = model->remove_extra_spaces && prefix.text[prefix.bytes - 1] == ' ';
        at += prefix.used;
    }
    if (model->remove_extra_spaces) drop_trailing_spaces(model, normalized, &at);
    TRY(normalized_reserve(normalized, SPACE_BYTES));
    if (model->add_dummy_prefix && model->space_as_suffix) put_space(normalized, model->escape_spaces, at);
    if (normalized->with_origin) normalized->origin[normalized->count] = (uint32_t)at;
out:
    return status;
}
