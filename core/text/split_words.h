/* The patterns that cut a text into words before byte-level BPE. Private to core/text. */
#ifndef SPLIT_WORDS_H
#define SPLIT_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* L: letters, N: numbers (all of Unicode's L* and N*). */
enum word_pattern {
    WORD_GPT2,   /* 's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\sLN]+|\s+(?!\S)|\s+ */
    WORD_LLAMA3, /* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,3}| ?[^\sLN]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    WORD_QWEN2   /* the same with N for N{1,3} */
};

/* The pattern as tokenizer.json writes it; and the pattern of such a text, false when it is none of these. */
const char *word_pattern_text(enum word_pattern pattern);
bool word_pattern_find(const char *text, enum word_pattern *pattern);

/* Length of the first word of a text of bytes > 0. any_case: contractions in capitals too, because the text will be
 * lower-cased. */
size_t word_length(const uint8_t *text, size_t bytes, enum word_pattern pattern, bool any_case);

/* Where the first numeric character stands and its length; `bytes` and 0 when there is none. */
size_t number_find(const uint8_t *text, size_t bytes, size_t *length);

#endif
