/* The inside of a tokenizer, shared by training, files and encoding. Private to core/text. */
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H

#include "text/token_map.h"
#include "text/tokenizer.h"

#define VOCABULARY_MAX (1u << 20)
#define SPECIAL_COUNT 5

extern const char *const special_names[SPECIAL_COUNT]; /* [PAD] [CLS] [SEP] [MASK] [UNK] */

struct tokenizer {
    struct text_pool tokens; /* the bytes of each id */
    uint8_t *special;        /* [tokens.count] 1: dropped when decoding, no part of merges */
    uint8_t *added;          /* [tokens.count] 1: written as it is, not by the byte alphabet */
    struct merge {
        uint32_t left, right, result;
    } * merges; /* by rank: the lowest is applied first */
    size_t merge_count;
    struct pair_map ranks;
    uint32_t first[256]; /* the id a byte starts as, after lower-casing */
    bool lower_case;
    struct tokenizer_special names;
};

/* Fill in what follows from tokens, special and merges: ranks, first, names. E_UNSUPPORTED when a byte
 * has no token, E_FORMAT when a merge is listed twice. */
int tokenizer_finish(struct tokenizer *tokenizer);

/* Length of the first word of a text of bytes > 0 by GPT-2's pattern
 *   's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\sLN]+|\s+(?!\S)|\s+
 * with L the ASCII letters and all bytes from 0x80, N the ASCII digits. */
size_t word_length(const uint8_t *text, size_t bytes, bool lower_case);

static inline uint8_t byte_lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + 32) : byte; }

#endif
