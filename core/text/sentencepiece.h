/* The inside of SentencePiece tokenizers (Kudo and Richardson 2018), BPE and Unigram. Private to core/text.
 *
 * A reader (sentencepiece_file.c, sentencepiece_gguf.c, sentencepiece_json.c) fills in pieces and settings;
 * sentencepiece_finish derives the tables. Encoding normalizes the text (sentencepiece_normalize.c), segments it by
 * merging (sentencepiece_bpe.c) or by the most probable path (sentencepiece_unigram.c), and emits ids: runs of unknown
 * characters become one unknown token, or each its UTF-8 bytes where the vocabulary has byte pieces.
 */
#ifndef SENTENCEPIECE_H
#define SENTENCEPIECE_H

#include "text/charsmap.h"
#include "text/merge.h"
#include "text/piece_trie.h"
#include "text/tokenizer_parts.h"

#define SPACE_SYMBOL "\xE2\x96\x81" /* U+2581, what a blank becomes */
#define SPACE_BYTES 3
#define PIECE_BYTES_MAX 8000 /* SentencePiece's own limit */

/* As the numbers in .model files and in GGUF's token_type. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER, /* always one token where the text spells it */
    PIECE_UNUSED,
    PIECE_BYTE
};
/* May be a result of segmentation by its text. */
static inline bool piece_type_spelled(uint8_t type) {
    return type == PIECE_NORMAL || type == PIECE_USER || type == PIECE_UNUSED;
}

/* Where BPE may cut a text into words that are merged on their own. */
enum word_split {
    SPLIT_NEVER,
    SPLIT_BEFORE_RUN, /* before a run of space symbols: exact where no piece has a space symbol behind another character
                       */
};

struct sentencepiece {
    struct piece {
        double score;
        uint8_t type;
    } * pieces; /* by id */
    size_t capacity;
    bool add_dummy_prefix, remove_extra_spaces, escape_spaces, space_as_suffix, byte_fallback;
    int32_t unknown;       /* id, -1: none */
    int32_t byte_id[256];  /* with byte_fallback */
    char *unknown_surface; /* what the unknown token decodes to */
    struct charsmap charsmap;
    bool fuse_unknown;              /* a run of unknown characters is one token */
    struct text_pipeline *pipeline; /* of tokenizer.json; NULL: SentencePiece's own normalization and decoding */
    struct piece_trie user;         /* the PIECE_USER ones */
    bool user_start[256];           /* one of them starts with this byte */

    /* BPE: symbols are ids, then the characters of pieces that are no pieces themselves */
    struct text_pool characters; /* symbol tokens.count + i */
    struct merge_table merges;
    uint32_t ascii[128]; /* the symbol of a character, MAP_NONE for none */
    enum word_split split;
    bool has_unused;

    bool ignore_merges; /* a word that is a token is that token */

    /* Unigram */
    struct piece_trie trie;
    double unknown_score;
    bool double_scores; /* sums are not rounded to float */
};

/* A zeroed tokenizer of kind TOKENIZER_SENTENCE_BPE or TOKENIZER_UNIGRAM with SentencePiece's default settings. */
int sentencepiece_new(struct tokenizer **tokenizer, enum tokenizer_kind kind);
static inline struct sentencepiece *sentencepiece_of(const struct tokenizer *tokenizer) { return tokenizer->state; }

/* What tokenizer.json puts in front of the model and behind it (sentencepiece_pipeline.c). */
#define STEPS_MAX 8
enum text_step {                       /* normalizers, in order */
                 STEP_RULES,           /* Precompiled */
                 STEP_PREPEND,         /* a space symbol in front */
                 STEP_SPACES,          /* every blank becomes a space symbol */
                 STEP_COLLAPSE_BLANK,  /* two blanks or more become one */
                 STEP_COLLAPSE_SYMBOL, /* two blanks or more become a space symbol */
                 STEP_STRIP_LEFT,      /* white space at the ends */
                 STEP_STRIP_RIGHT
};
enum prefix_scheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS }; /* Metaspace: a space symbol in front of words */
/* STRIP_FIRST_TOKEN: all blanks of the first token, inside it too, as Hugging Face's Metaspace decoder. */
enum decode_strip { STRIP_NOTHING, STRIP_ONE_BLANK, STRIP_FIRST_TOKEN };
struct text_pipeline {
    enum text_step steps[STEPS_MAX];
    size_t step_count;
    bool whitespace_split;           /* pre-tokenizer WhitespaceSplit */
    bool metaspace, metaspace_split; /* pre-tokenizer Metaspace: blanks are space symbols, which begin words */
    enum prefix_scheme prefix;       /* of Metaspace */
    enum decode_strip strip;         /* what decoding drops in front */
    bool decode_bytes;               /* decoder ByteFallback: otherwise byte tokens are shown as they are written */
};
struct emitter;
int pipeline_encode(struct emitter *emitter, const struct segment *segment);

/* The piece with the next id. E_FORMAT: empty, too long, known already, a score that is no number, a byte piece that
 * spells no byte, a second unknown piece; E_UNSUPPORTED: a type that does not exist; E_LIMIT. */
int sentencepiece_add(struct tokenizer *tokenizer, const char *text, size_t bytes, double score, uint64_t type);
/* Derive everything else. E_FORMAT: no unknown piece and no byte fallback, byte fallback without 256 byte pieces. */
int sentencepiece_finish(struct tokenizer *tokenizer);

/* A normalized text: every space a space symbol. */
struct normalized {
    char *text;
    uint32_t *origin; /* [count + 1] where each byte comes from in the segment; only with offsets */
    size_t count, capacity;
    bool with_origin;
};
int sentencepiece_normalize(const struct sentencepiece *model, const char *text, size_t bytes,
                            struct normalized *normalized);
/* Room for `more` bytes behind; then one byte that comes from `from`. */
int normalized_reserve(struct normalized *normalized, size_t more);
static inline void normalized_put(struct normalized *normalized, char byte, size_t from) {
    if (normalized->with_origin) normalized->origin[normalized->count] = (uint32_t)from;
    normalized->text[normalized->count++] = byte;
}
void normalized_close(struct normalized *normalized); /* accepts a zeroed struct */

/* Tokens on their way out: what is known of the last one. */
struct emitter {
    const struct tokenizer *tokenizer;
    const struct normalized *normalized;
    struct encoding *encoding;
    size_t origin;                     /* of the segment in the whole text */
    bool after_unknown, after_spelled; /* spelled: the text spells the unknown token, which is emitted last */
    size_t spelled;                    /* where that begins in the normalized text */
};
/* Bytes begin .. end-1 of the normalized text are token id, or unknown (-1). */
int emit_piece(struct emitter *emitter, size_t begin, size_t end, int32_t id);

int sentencepiece_build_bpe(struct tokenizer *tokenizer);
int sentencepiece_build_unigram(struct tokenizer *tokenizer);
/* Emit the tokens of bytes begin .. end-1 of the normalized text. */
int sentencepiece_segment_bpe(struct emitter *emitter, size_t begin, size_t end);
int sentencepiece_segment_unigram(struct emitter *emitter, size_t begin, size_t end);

int sentencepiece_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *bytes);

#endif
