/* Windows of questions and contexts as training examples (Devlin et al. 2018, section 4.2): the answer's first and
 * last token in each. See answer_windows.h. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/answer_windows.h"
#include "task/example_arrays.h"

/* Bytes of the first `characters` characters of a text, or of all of it. */
static size_t characters_bytes(const char *text, size_t characters) {
    size_t at = 0;
    while (text[at] && characters > 0) {
        for (at++; ((unsigned char)text[at] & 0xC0) == 0x80;) at++;
        characters--;
    }
    return at;
}

void answer_locate(const char *context, const char *answer, const char *start, struct answer_span *span) {
    size_t length = strlen(answer), near = characters_bytes(context, (size_t)strtoull(start, NULL, 10));
    *span = (struct answer_span){0, 0, 0};
    if (!length) return;
    for (const char *at = strstr(context, answer); at; at = strstr(at + 1, answer)) {
        size_t begin = (size_t)(at - context);
        size_t distance = begin > near ? begin - near : near - begin;
        size_t best = span->begin > near ? span->begin - near : near - span->begin;
        if (span->end && distance >= best) break; /* they only get further away */
        *span = (struct answer_span){(uint32_t)begin, (uint32_t)(begin + length), 0};
    }
}

/* By pair, then by place. */
static int place_compare(const void *a, const void *b) {
    const struct answer_window *x = a, *y = b;
    if (x->pair != y->pair) return x->pair < y->pair ? -1 : 1;
    return (x->from > y->from) - (x->from < y->from);
}

/* The context tokens first..last of the answer; false when the tokens do not cover it (a text cut off). */
static bool answer_tokens(const struct answer_pair *pair, const struct answer_span *answer, size_t *first,
                          size_t *last) {
    const uint32_t *begin = pair->encoding.begin, *end = pair->encoding.end;
    bool found = false;
    for (size_t t = pair->context; t < pair->after; t++) {
        if (begin[t] == end[t] || end[t] <= answer->begin || begin[t] >= answer->end) continue;
        if (!found) *first = t;
        *last = t;
        found = true;
    }
    return found;
}

static void window_fill(const struct answer_window *window, const struct answer_pair *pair,
                        const struct answer_span *answer, struct example_arrays *arrays, size_t item, size_t *used) {
    const struct {
        size_t begin, end;
    } parts[] = {{0, pair->context}, {window->from, window->to}, {pair->after, pair->encoding.count}};
    size_t first = 0, last = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t count = parts[i].end - parts[i].begin;
        memcpy(arrays->ids + *used, pair->encoding.ids + parts[i].begin, count * sizeof *arrays->ids);
        memcpy(arrays->types + *used, pair->types + parts[i].begin, count * sizeof *arrays->types);
        *used += count;
    }
    arrays->offset[item + 1] = (uint32_t)*used;
    arrays->start[item] = arrays->end[item] = -1;
    if (!answer_tokens(pair, answer, &first, &last) || first < window->from || last >= window->to) return;
    arrays->start[item] = (int32_t)(pair->context + first - window->from);
    arrays->end[item] = (int32_t)(pair->context + last - window->from);
}

static int arrays_take(struct task_examples *out, size_t count, size_t tokens, struct example_arrays **arrays) {
    int status = 0;
    void *block;
    TRY(example_arrays_open(out, count, tokens, arrays));
    TRY(memory_take(&block, tokens, sizeof *(*arrays)->types));
    (*arrays)->types = block;
    TRY(memory_take(&block, count, sizeof *(*arrays)->start));
    (*arrays)->start = block;
    TRY(memory_take(&block, count, sizeof *(*arrays)->end));
    (*arrays)->end = block;
out:
    return status;
}

int answer_windows_examples(const struct answer_windows *windows, const struct answer_span *answers,
                            struct task_examples *out) {
    int status = 0;
    void *block = NULL;
    struct example_arrays *arrays;
    size_t count = 0, tokens = 0, used = 0, item = 0;
    *out = (struct task_examples){0};
    TRY(memory_take(&block, windows->window_count, sizeof *windows->windows));
    struct answer_window *sorted = block;
    for (size_t i = 0; i < windows->window_count; i++) {
        const struct answer_window *window = &windows->windows[i];
        if (answers[window->pair].begin == answers[window->pair].end) continue;
        sorted[count++] = *window;
        tokens += window->length;
    }
    if (!count) FAIL(E_FORMAT, "no answer occurs in its context");
    qsort(sorted, count, sizeof *sorted, place_compare);
    TRY(arrays_take(out, count, tokens, &arrays));
    for (size_t i = 0; i < count; i++)
        window_fill(&sorted[i], &windows->pairs[sorted[i].pair], &answers[sorted[i].pair], arrays, item++, &used);
    example_arrays_view(out, count, 0, false);
out:
    memory_release(block);
    if (status < 0) task_examples_close(out);
    return status;
}
