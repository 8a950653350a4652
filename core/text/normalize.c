/* See normalize.h. A text is a list of characters, each with its place in the original; a step makes a new list of it.
 *
 * Composition is the Unicode Standard's, section 3.11: every character is decomposed, marks between two starters are
 * put in the order of their classes, and each is joined to the starter before it unless another of its class is
 * between. A composed character's place is from the first to the last of what it was made of.
 */
#include "text/normalize.h"

#include "base/error.h"
#include "base/memory.h"
#include "text/unicode.h"

#include <stdlib.h>

struct character {
    uint32_t code; /* or NO_CHARACTER and the byte */
    uint32_t begin, end;
    uint32_t order; /* among the marks after a starter */
};
struct characters {
    struct character *items;
    size_t count, capacity;
};

#define NO_CHARACTER 0x80000000u /* of no category, case or class, as all that is above U+10FFFF */

static int add(struct characters *list, uint32_t code, uint32_t begin, uint32_t end) {
    int status = 0;
    if (list->count == list->capacity) {
        void *block = list->items;
        size_t capacity = 2 * list->capacity + 64;
        TRY(memory_resize(&block, capacity, sizeof *list->items));
        list->items = block;
        list->capacity = capacity;
    }
    list->items[list->count++] = (struct character){.code = code, .begin = begin, .end = end};
out:
    return status;
}

static int read_text(struct characters *to, const uint8_t *text, size_t bytes) {
    int status = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t code;
        length = utf8_decode(text + at, bytes - at, &code);
        if (length == 1 && text[at] >= 0x80) code = NO_CHARACTER | text[at];
        TRY(add(to, code, (uint32_t)at, (uint32_t)(at + length)));
    }
out:
    return status;
}

static int lower(struct characters *to, const struct characters *from) {
    int status = 0;
    for (size_t i = 0; i < from->count; i++) {
        uint32_t codes[UNICODE_LOWER_MAX];
        size_t count = unicode_lower_full(from->items[i].code, codes);
        for (size_t k = 0; k < count; k++) TRY(add(to, codes[k], from->items[i].begin, from->items[i].end));
    }
out:
    return status;
}

/* ---- normal form C -------------------------------------------------------------------------------- */
static uint8_t class_of(const struct character *character) { return unicode_record(character->code)->combining_class; }

static int by_class(const void *left, const void *right) {
    const struct character *a = left, *b = right;
    if (class_of(a) != class_of(b)) return class_of(a) < class_of(b) ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static void order_marks(struct characters *list) {
    for (size_t at = 0, end; at < list->count; at = end + 1) {
        for (end = at; end < list->count && class_of(&list->items[end]); end++)
            list->items[end].order = (uint32_t)(end - at);
        if (end - at > 1) qsort(list->items + at, end - at, sizeof *list->items, by_class);
    }
}

/* The place of what two characters become. */
static void join_places(struct character *to, const struct character *with) {
    if (with->begin < to->begin) to->begin = with->begin;
    if (with->end > to->end) to->end = with->end;
}

static void join_marks(struct characters *list) {
    struct character *starter = NULL, *kept = list->items;
    for (size_t i = 0; i < list->count; i++) {
        struct character next = list->items[i];
        bool reaches = starter && (kept == starter + 1 || class_of(kept - 1) < class_of(&next));
        uint32_t composed = reaches ? unicode_compose(starter->code, next.code) : 0;
        if (composed) {
            starter->code = composed;
            join_places(starter, &next);
            continue;
        }
        if (!class_of(&next)) starter = kept;
        *kept++ = next;
    }
    list->count = (size_t)(kept - list->items);
}

static int compose(struct characters *to, const struct characters *from) {
    int status = 0;
    for (size_t i = 0; i < from->count; i++) {
        uint32_t codes[UNICODE_DECOMPOSITION_MAX];
        size_t count = unicode_decompose(from->items[i].code, codes);
        for (size_t k = 0; k < count; k++) TRY(add(to, codes[k], from->items[i].begin, from->items[i].end));
    }
    order_marks(to);
    if (to->count) join_marks(to);
out:
    return status;
}

/* ---- texts ---------------------------------------------------------------------------------------- */
static int take_room(struct normal_text *normal, size_t characters) {
    int status = 0;
    size_t room;
    void *block = NULL;
    TRY(size_multiply(characters, 4, &room));
    if (room > UINT32_MAX) FAIL(E_LIMIT, "a text of %zu characters is too long to be normalized", characters);
    TRY(memory_take(&block, room, 1));
    normal->text = block;
    TRY(memory_take(&block, room, sizeof *normal->begin));
    normal->begin = block;
    TRY(memory_take(&block, room, sizeof *normal->end));
    normal->end = block;
out:
    return status;
}

static int write_text(struct normal_text *normal, const struct characters *from) {
    int status = 0;
    TRY(take_room(normal, from->count));
    for (size_t i = 0; i < from->count; i++) {
        const struct character *character = &from->items[i];
        uint8_t *to = normal->text + normal->bytes;
        size_t length = 1;
        if (character->code & NO_CHARACTER) *to = (uint8_t)character->code;
        else length = utf8_encode(character->code, to);
        for (size_t k = 0; k < length; k++, normal->bytes++) {
            normal->begin[normal->bytes] = character->begin;
            normal->end[normal->bytes] = character->end;
        }
    }
out:
    return status;
}

int normal_text_open(struct normal_text *normal, const char *text, size_t bytes, const struct normal_steps *steps) {
    int status = 0;
    struct characters list = {0}, other = {0};
    *normal = (struct normal_text){0};
    TRY(read_text(&list, (const uint8_t *)text, bytes));
    for (size_t i = 0; i < steps->count; i++) {
        other.count = 0;
        TRY(steps->step[i] == NORMAL_COMPOSED ? compose(&other, &list) : lower(&other, &list));
        struct characters done = other;
        other = list;
        list = done;
    }
    TRY(write_text(normal, &list));
out:
    memory_release(list.items);
    memory_release(other.items);
    if (status < 0) normal_text_close(normal);
    return status;
}

void normal_text_place(const struct normal_text *normal, uint32_t *begin, uint32_t *end) {
    uint32_t first = normal->begin[*begin], last = normal->end[*begin];
    for (uint32_t i = *begin + 1; i < *end; i++) {
        if (normal->begin[i] < first) first = normal->begin[i];
        if (normal->end[i] > last) last = normal->end[i];
    }
    *begin = first;
    *end = last;
}

void normal_text_close(struct normal_text *normal) {
    memory_release(normal->text);
    memory_release(normal->begin);
    memory_release(normal->end);
    *normal = (struct normal_text){0};
}
