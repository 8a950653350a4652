/* See metrics.h: exact match and F1 of extracted answers, as SQuAD's v1.1 script computes them (Rajpurkar et al. 2016).
 *
 * An answer is lower-cased, loses ASCII punctuation, then the words a, an and the, then superfluous blanks. F1 is over
 * words as multisets.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metric_words.h"
#include "task/metrics.h"
#include "text/unicode.h"

/* Bytes of the character at the start of a text of bytes > 0; *word: Python's \w, a letter, number or underscore. */
static size_t character_bytes(const char *text, size_t bytes, bool *word) {
    uint32_t code;
    size_t length = utf8_decode((const uint8_t *)text, bytes, &code);
    *word = unicode_is_letter(code) || unicode_is_number(code) || code == '_';
    return length;
}

/* Length of the run of word characters at the start of text; 0: it begins with another. */
static size_t word_bytes(const char *text, size_t bytes) {
    size_t end = 0;
    bool word = true;
    while (end < bytes) {
        size_t length = character_bytes(text + end, bytes - end, &word);
        if (!word) break;
        end += length;
    }
    return end;
}

static bool is_article(const char *word, size_t bytes) {
    return (bytes == 1 && word[0] == 'a') || (bytes == 2 && memcmp(word, "an", 2) == 0) ||
           (bytes == 3 && memcmp(word, "the", 3) == 0);
}

static size_t punctuation_drop(char *text) {
    size_t kept = 0;
    for (const char *c = text; *c; c++)
        if (!ispunct((unsigned char)*c)) text[kept++] = *c;
    text[kept] = 0;
    return kept;
}

int metric_answer_normalize(const char *text, char **normalized) {
    int status = 0;
    size_t kept = 0;
    bool gap = false, word;
    char *out = NULL;
    TRY(text_lower(text, &out));
    size_t used = punctuation_drop(out);
    for (size_t at = 0; at < used;) {
        size_t end = at + word_bytes(out + at, used - at);
        if (end > at && is_article(out + at, end - at)) {
            gap = true;
            at = end;
            continue;
        }
        size_t blank = end == at ? blank_bytes(out + at) : 0;
        if (blank) {
            gap = true;
            at += blank;
            continue;
        }
        if (end == at) end += character_bytes(out + at, used - at, &word);
        if (gap && kept) out[kept++] = ' '; /* never overtakes `at`: the gap had at least a byte */
        gap = false;
        memmove(out + kept, out + at, end - at);
        kept += end - at;
        at = end;
    }
    out[kept] = 0;
    *normalized = out;
out:
    return status;
}

static int number_compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double words_f1(const struct word_list *a, const struct word_list *b) {
    size_t common = 0;
    for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
        if (a->id[i] == b->id[j]) common++;
        bool first = a->id[i] <= b->id[j], second = b->id[j] <= a->id[i];
        i += first;
        j += second;
    }
    return common ? 2.0 * (double)common / (double)(a->count + b->count) : 0;
}

static int sorted_words(struct word_list *list, struct text_pool *pool, const char *text) {
    int status = 0;
    list->count = 0;
    TRY(word_list_split(list, pool, text));
    if (list->count) qsort(list->id, list->count, sizeof *list->id, number_compare);
out:
    return status;
}

int metric_answer(const char *prediction, const char *const *references, size_t reference_count, double *exact,
                  double *f1) {
    int status = 0;
    char *own = NULL, *other = NULL;
    struct text_pool pool = {0};
    struct word_list own_words = {0}, other_words = {0};
    *exact = *f1 = 0;
    TRY(metric_answer_normalize(prediction, &own));
    TRY(sorted_words(&own_words, &pool, own));
    for (size_t i = 0; i < reference_count; i++) {
        TRY(metric_answer_normalize(references[i], &other));
        TRY(sorted_words(&other_words, &pool, other));
        double score = words_f1(&own_words, &other_words);
        if (score > *f1) *f1 = score;
        if (strcmp(own, other) == 0) *exact = 1;
        memory_release(other);
        other = NULL;
    }
out:
    memory_release(own);
    memory_release(other);
    word_list_close(&own_words);
    word_list_close(&other_words);
    text_pool_close(&pool);
    return status;
}
