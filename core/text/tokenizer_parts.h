/* The inside of a tokenizer, shared by training, files and the kinds. Private to core/text.
 *
 * A text passes through the same steps whatever the kind (tokenizer.c): special tokens spelled out in it are cut out,
 * the kind encodes the segments between them, and a template puts special tokens around the whole. A kind is a row of
 * functions (struct tokenizer_traits) over what it keeps in `state`; byte-level BPE, which is also trained here,
 * keeps its merges in the struct itself. Encoding takes a const tokenizer: any number of threads may share one.
 */
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H

#include "text/normalize.h"
#include "text/split_words.h"
#include "text/token_map.h"
#include "text/tokenizer.h"

#define VOCABULARY_MAX (1u << 20)
#define SPECIAL_COUNT 5
#define TEMPLATE_MAX 16

extern const char *const special_names[SPECIAL_COUNT]; /* [PAD] [CLS] [SEP] [MASK] [UNK] */

/* Flags of an added token: it is one, and takes the white space on its left or right with it. */
enum { ADDED = 1, ADDED_STRIP_LEFT = 2, ADDED_STRIP_RIGHT = 4 };

/* A part of the text that one call of a kind encodes: no special token is spelled out in it. */
struct segment {
    const char *text;
    size_t bytes;  /* > 0 */
    size_t origin; /* its first byte's place in the whole text: offsets are relative to that */
};

struct tokenizer_traits {
    /* Append the tokens of a segment with encoding_add. */
    int (*encode)(const struct tokenizer *tokenizer, const struct segment *segment, struct encoding *encoding);
    /* The text of ids, which are inside the vocabulary, and its length; zero-terminated, memory_release. Drops special
     * tokens. */
    int (*decode)(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *bytes);
    /* (optional) Release tokenizer->state, which may be half built. */
    void (*close)(struct tokenizer *tokenizer);
};
extern const struct tokenizer_traits byte_bpe_traits;

/* What stands around one text or two: special ids and the places of the texts, in order. */
enum template_part { TEMPLATE_FIRST, TEMPLATE_SECOND, TEMPLATE_ID };
struct token_template {
    struct {
        enum template_part part;
        int32_t id; /* TEMPLATE_ID: the token */
        int32_t type;
    } items[TEMPLATE_MAX];
    size_t count; /* 0: single: just the text; pair: there is no such form */
};

#define ENDS_MOST 16

struct tokenizer {
    enum tokenizer_kind kind;
    const struct tokenizer_traits *traits;
    struct text_pool tokens; /* the bytes of each id */
    uint8_t *special;        /* [tokens.count] 1: dropped when decoding, no part of merges */
    uint8_t *added;          /* [tokens.count] ADDED: found in the text before all else; ADDED_STRIP_… */
    struct tokenizer_special names;
    int32_t ends[ENDS_MOST]; /* what a folder or file says of them */
    size_t end_count;        /* 0: names.end alone */
    struct token_template single, pair;
    struct {
        uint32_t *lengths;   /* the distinct lengths of added tokens, longest first, by first byte */
        uint32_t begin[257]; /* lengths[begin[b] .. begin[b+1]) of those that begin with byte b */
    } added_index;
    void *state; /* of the kind, released by its close */

    /* byte-level BPE */
    struct merge {
        uint32_t left, right, result;
    } * merges; /* by rank: the lowest is applied first */
    size_t merge_count;
    struct pair_map ranks;
    uint32_t first[256]; /* the id a byte starts as, after lower-casing; MAP_NONE: left out */
    uint8_t *whole;      /* [tokens.count] whether its bytes, as a word, become this token alone: see byte_bpe.c */
    enum word_pattern pattern;
    struct normal_steps steps; /* what a text goes through before everything else */
    bool lower_case;           /* one of them is NORMAL_LOWER; all that they do to ASCII */
    bool digits_alone;         /* every numeric character is a word, whatever the pattern says */
    bool ignore_merges;        /* a word that is a token is that token */
};

/* A zeroed tokenizer of a kind; tokenizer_free releases it in any state. */
int tokenizer_new(struct tokenizer **tokenizer, enum tokenizer_kind kind, const struct tokenizer_traits *traits);

/* One token more, from bytes begin .. end-1 of the whole text. E_MEMORY, E_LIMIT. */
int encoding_grow(struct encoding *encoding, size_t more);
static inline int encoding_add(struct encoding *encoding, int32_t id, size_t begin, size_t end) {
    if (encoding->count == encoding->capacity) {
        int status = encoding_grow(encoding, 1);
        if (status < 0) return status;
    }
    encoding->ids[encoding->count] = id;
    if (encoding->with_offsets) {
        encoding->begin[encoding->count] = (uint32_t)begin;
        encoding->end[encoding->count] = (uint32_t)end;
    }
    encoding->count++;
    return 0;
}

/* Append to a template; false when it is full. */
bool template_add(struct token_template *template, enum template_part part, int32_t id, int32_t type);

/* The templates cls A sep and cls A sep [between] B sep, the second text and its sep of `type`; between -1: none. */
void tokenizer_frame(struct tokenizer *tokenizer, int32_t cls, int32_t sep, int32_t between, int32_t type);

/* Fill in names from the texts that special tokens usually have. */
void tokenizer_name_special(struct tokenizer *tokenizer);

/* The index by which added tokens are found in texts, once tokens and added are complete. */
int added_index_build(struct tokenizer *tokenizer);
/* The next added token at or after `from` in the text, leftmost, then longest; *id is -1 and *begin the text's end when
 * there is none. begin .. end-1 holds the token with the white space that it takes with it. */
void added_index_find(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t from, int32_t *id,
                      size_t *begin, size_t *end);

/* One more id that ends a text, once; one outside the vocabulary, or beyond ENDS_MOST, does not. */
void tokenizer_end_add(struct tokenizer *tokenizer, uint64_t id);
/* The id of a special token by its text, or -1. */
int32_t tokenizer_special_id(const struct tokenizer *tokenizer, const char *name);

/* Byte-level BPE: add a step. E_LIMIT: there are NORMAL_STEPS_MAX. */
int tokenizer_add_step(struct tokenizer *tokenizer, enum normal_step step);
/* Whether steps can change more of a text than the case of ASCII: see tokenizer->lower_case. */
bool tokenizer_normalizes(const struct tokenizer *tokenizer, const char *text, size_t bytes);

/* Byte-level BPE: fill in what follows from tokens, special and merges: ranks, first, names. E_FORMAT when a merge is
 * listed twice, or no byte has a token. */
int tokenizer_finish(struct tokenizer *tokenizer);

static inline uint8_t byte_lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + 32) : byte; }

#endif
