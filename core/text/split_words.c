/* Cutting a text into the words that byte-level BPE merges in, by the published patterns.
 *
 * Each pattern is an ordered choice of regular expressions; the functions below decide it by looking at the class of
 * each character, without backtracking. \s is White_Space. A byte that is no UTF-8 counts as a character that is
 * neither letter, number nor space.
 */
#include "text/split_words.h"

#include "text/unicode.h"

#include <string.h>

enum kind { CLASS_OTHER, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER };

#define O CLASS_OTHER
#define S CLASS_SPACE
#define L CLASS_LETTER
#define N CLASS_NUMBER
static const uint8_t ascii_class[128] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, /* control characters */
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* */
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* blank to / */
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O, /* 0 to ? */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, /* @ to O */
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* P to _ */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, /* ` to o */
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* p to delete */
};
#undef O
#undef S
#undef L
#undef N

static enum kind wide_class(const uint8_t *text, size_t bytes, size_t *length) {
    uint32_t code;
    *length = utf8_decode(text, bytes, &code);
    return unicode_is_letter(code)   ? CLASS_LETTER
           : unicode_is_number(code) ? CLASS_NUMBER
           : unicode_is_space(code)  ? CLASS_SPACE
                                     : CLASS_OTHER;
}

/* Class and length of the first character; bytes > 0. */
static inline enum kind class_at(const uint8_t *text, size_t bytes, size_t *length) {
    if (text[0] >= 0x80) return wide_class(text, bytes, length);
    *length = 1;
    return (enum kind)ascii_class[text[0]];
}

/* Where the run of one kind that goes on at `at` ends. */
static size_t run_end(const uint8_t *text, size_t bytes, size_t at, enum kind kind) {
    size_t length;
    while (at < bytes && class_at(text + at, bytes - at, &length) == kind) at += length;
    return at;
}

static inline uint8_t ascii_lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + 32) : byte; }

/* Length of 's 't 'm 'd 're 've 'll at the start of text, or 0. */
static size_t contraction_length(const uint8_t *text, size_t bytes, bool any_case) {
    if (bytes < 2 || text[0] != '\'') return 0;
    char a = (char)(any_case ? ascii_lower(text[1]) : text[1]);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (bytes < 3) return 0;
    char b = (char)(any_case ? ascii_lower(text[2]) : text[2]);
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* White space from the start: the last character before a word belongs to that word or stands alone. */
static size_t space_length(const uint8_t *text, size_t bytes) {
    size_t at = 0, last = 0, length;
    while (at < bytes && class_at(text + at, bytes - at, &length) == CLASS_SPACE) {
        last = length;
        at += length;
    }
    return at < bytes && at > last ? at - last : at;
}

static size_t word_gpt2(const uint8_t *text, size_t bytes, bool any_case) {
    size_t length = contraction_length(text, bytes, any_case);
    if (length) return length;
    size_t start = text[0] == ' ' && bytes > 1;
    enum kind kind = class_at(text + start, bytes - start, &length);
    return kind == CLASS_SPACE ? space_length(text, bytes) : run_end(text, bytes, start + length, kind);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,numbers}| ?[^\sLN]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t word_llama3(const uint8_t *text, size_t bytes, size_t numbers) {
    size_t length = contraction_length(text, bytes, true), first, second;
    if (length) return length;
    if (bytes >= 3 && text[0] == '\'' && text[1] == 0xC5 && text[2] == 0xBF) return 3; /* long s, in any case */
    enum kind kind = class_at(text, bytes, &first), after = CLASS_SPACE;
    if (first < bytes) after = class_at(text + first, bytes - first, &second);
    bool line_end = text[0] == '\r' || text[0] == '\n';
    if (kind == CLASS_LETTER || (kind != CLASS_NUMBER && !line_end && after == CLASS_LETTER && first < bytes))
        return run_end(text, bytes, first, CLASS_LETTER);
    if (kind == CLASS_NUMBER) {
        size_t at = first;
        for (size_t i = 1; i < numbers && at < bytes && class_at(text + at, bytes - at, &length) == CLASS_NUMBER; i++)
            at += length;
        return at;
    }
    if (kind == CLASS_OTHER || (text[0] == ' ' && first < bytes && after == CLASS_OTHER)) {
        size_t at = run_end(text, bytes, kind == CLASS_OTHER ? 0 : 1, CLASS_OTHER);
        while (at < bytes && (text[at] == '\r' || text[at] == '\n')) at++;
        return at;
    }
    size_t end = run_end(text, bytes, 0, CLASS_SPACE);
    for (size_t at = end; at > 0; at--)
        if (text[at - 1] == '\r' || text[at - 1] == '\n') return at;
    return space_length(text, bytes);
}

size_t word_length(const uint8_t *text, size_t bytes, enum word_pattern pattern, bool any_case) {
    switch (pattern) {
    case WORD_LLAMA3: return word_llama3(text, bytes, 3);
    case WORD_QWEN2: return word_llama3(text, bytes, 1);
    case WORD_GPT2: break;
    }
    return word_gpt2(text, bytes, any_case);
}

#define LLAMA3_TEXT(numbers)                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                                              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char *const pattern_texts[] = {
    [WORD_GPT2] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    [WORD_LLAMA3] = LLAMA3_TEXT("\\p{N}{1,3}"),
    [WORD_QWEN2] = LLAMA3_TEXT("\\p{N}"),
};

const char *word_pattern_text(enum word_pattern pattern) { return pattern_texts[pattern]; }

bool word_pattern_find(const char *text, enum word_pattern *pattern) {
    for (size_t i = 0; i < sizeof pattern_texts / sizeof *pattern_texts; i++)
        if (strcmp(text, pattern_texts[i]) == 0) {
            *pattern = (enum word_pattern)i;
            return true;
        }
    return false;
}

size_t number_find(const uint8_t *text, size_t bytes, size_t *length) {
    size_t at = 0;
    for (size_t step; at < bytes; at += step)
        if (class_at(text + at, bytes - at, &step) == CLASS_NUMBER) {
            *length = step;
            return at;
        }
    *length = 0;
    return at;
}
