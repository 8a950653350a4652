/* WordPiece as BERT uses it: cleaning, words, longest match first, decoding.
 *
 * One pass over the text builds one word after the other. A word of ASCII letters and digits, the common case, is
 * lower-cased and matched at once; anything else goes character by character through the normalizer (clean, split CJK,
 * decompose and drop marks, lower-case) into a word with the place of each character in the original.
 *
 * Pieces are found by hash: one pass over the rest of the word hashes all its prefixes, which are then looked up from
 * the longest down. Slots hold 32 bits of the hash, so a miss rarely touches the tokens' text.
 */
#include "text/wordpiece.h"

#include "base/error.h"
#include "base/memory.h"
#include "text/unicode.h"

#include <string.h>

#define HASH_WORD 0xCBF29CE484222325u      /* FNV-1a's start, for pieces that begin a word */
#define HASH_CONTINUED 0x9AE16A3B2F90404Fu /* and for those that go on */
#define HASH_FACTOR 0x100000001B3u

struct wordpiece {
    struct wordpiece_settings settings;
    char *prefix;
    size_t prefix_bytes, longest; /* bytes of the longest piece, without prefix */
    struct piece_slot {
        uint32_t tag, id_plus_one;
    } * slots;
    size_t mask;
    int32_t unknown;
};

/* ---- pieces --------------------------------------------------------------------------------------- */
static inline uint64_t hash_byte(uint64_t hash, uint8_t byte) { return (hash ^ byte) * HASH_FACTOR; }

static inline uint64_t hash_mix(uint64_t hash) {
    hash ^= hash >> 32;
    hash *= 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

/* The piece `text` of the pieces that begin a word, or go on; -1 when there is none. `hash` is of its bytes. */
static int32_t piece_find(const struct tokenizer *tokenizer, const uint8_t *text, size_t bytes, bool continued,
                          uint64_t hash) {
    const struct wordpiece *state = tokenizer->state;
    size_t skip = continued ? state->prefix_bytes : 0;
    hash = hash_mix(hash);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & state->mask; state->slots[i].id_plus_one; i = (i + 1) & state->mask) {
        size_t id = state->slots[i].id_plus_one - 1;
        if (state->slots[i].tag == tag && text_pool_length(&tokenizer->tokens, id) == skip + bytes &&
            memcmp(text_pool_text(&tokenizer->tokens, id) + skip, text, bytes) == 0)
            return (int32_t)id;
    }
    return -1;
}

static bool is_continued(const struct wordpiece *state, const char *text, size_t bytes) {
    return bytes > state->prefix_bytes && state->prefix_bytes && memcmp(text, state->prefix, state->prefix_bytes) == 0;
}

static int index_pieces(struct tokenizer *tokenizer, struct wordpiece *state) {
    int status = 0;
    void *block = NULL;
    size_t capacity = 1024;
    while (capacity < 4 * tokenizer->tokens.count) capacity *= 2;
    TRY(memory_take(&block, capacity, sizeof *state->slots));
    state->slots = block;
    state->mask = capacity - 1;
    for (size_t id = 0; id < tokenizer->tokens.count; id++) {
        const char *text = text_pool_text(&tokenizer->tokens, id);
        size_t bytes = text_pool_length(&tokenizer->tokens, id);
        bool continued = is_continued(state, text, bytes);
        uint64_t hash = continued ? HASH_CONTINUED : HASH_WORD;
        for (size_t i = continued ? state->prefix_bytes : 0; i < bytes; i++) hash = hash_byte(hash, (uint8_t)text[i]);
        hash = hash_mix(hash);
        size_t slot = hash & state->mask;
        while (state->slots[slot].id_plus_one) slot = (slot + 1) & state->mask;
        state->slots[slot] = (struct piece_slot){(uint32_t)(hash >> 32), (uint32_t)id + 1};
        if (continued) bytes -= state->prefix_bytes;
        if (bytes > state->longest) state->longest = bytes;
    }
out:
    return status;
}

/* ---- matching one word ---------------------------------------------------------------------------- */
/* The bytes of a normalized word. Byte i comes from begin[i] .. end[i]-1 of the text; both NULL: from origin + i. */
struct word_bytes {
    const uint8_t *bytes;
    size_t count;
    const uint32_t *begin, *end;
    size_t origin;
};

static int add_piece(const struct word_bytes *word, int32_t id, size_t from, size_t to, struct encoding *encoding) {
    if (!word->begin) return encoding_add(encoding, id, word->origin + from, word->origin + to);
    size_t begin = word->begin[from], end = word->end[from]; /* marks in canonical order may have changed places */
    for (size_t i = from + 1; i < to; i++) {
        if (word->begin[i] < begin) begin = word->begin[i];
        if (word->end[i] > end) end = word->end[i];
    }
    return encoding_add(encoding, id, begin, end);
}

/* Longest match first; the whole word is unknown when at some place nothing matches. */
static int match_word(const struct tokenizer *tokenizer, const struct word_bytes *word, struct encoding *encoding) {
    int status = 0;
    const struct wordpiece *state = tokenizer->state;
    uint64_t hashes[4 * WORDPIECE_WORD_MAX];
    size_t kept = encoding->count;
    for (size_t from = 0, length; from < word->count; from += length) {
        const uint8_t *text = word->bytes + from;
        size_t most = word->count - from < state->longest ? word->count - from : state->longest;
        uint64_t hash = from ? HASH_CONTINUED : HASH_WORD;
        int32_t id = -1;
        for (size_t i = 0; i < most; i++) hashes[i] = hash = hash_byte(hash, text[i]);
        for (length = most; length; length--)
            if ((id = piece_find(tokenizer, text, length, from > 0, hashes[length - 1])) >= 0) break;
        if (id < 0) {
            encoding->count = kept;
            return add_piece(word, state->unknown, 0, word->count, encoding);
        }
        TRY(add_piece(word, id, from, from + length, encoding));
    }
out:
    return status;
}

/* ---- normalizing, character by character ---------------------------------------------------------- */
/* A word being built. Characters of one block of combining marks are kept in canonical order. */
struct word {
    uint32_t code[WORDPIECE_WORD_MAX], begin[WORDPIECE_WORD_MAX], end[WORDPIECE_WORD_MAX];
    size_t count, block;  /* block: where the marks after the last starter begin */
    uint32_t first, last; /* the word's begin and end in the text */
    bool open, overlong;
};

static int word_finish(const struct tokenizer *tokenizer, struct word *word, struct encoding *encoding) {
    const struct wordpiece *state = tokenizer->state;
    uint8_t bytes[4 * WORDPIECE_WORD_MAX];
    uint32_t begin[4 * WORDPIECE_WORD_MAX], end[4 * WORDPIECE_WORD_MAX];
    struct word_bytes normal = {.bytes = bytes, .begin = begin, .end = end};
    bool open = word->open, overlong = word->overlong;
    size_t count = word->count;
    word->open = word->overlong = false;
    word->count = word->block = 0;
    if (!open) return 0;
    if (overlong) return encoding_add(encoding, state->unknown, word->first, word->last);
    for (size_t i = 0; i < count; i++) {
        size_t length = utf8_encode(word->code[i], bytes + normal.count);
        for (size_t k = 0; k < length; k++) {
            begin[normal.count] = word->begin[i];
            end[normal.count++] = word->end[i];
        }
    }
    return match_word(tokenizer, &normal, encoding);
}

static void word_add(const struct wordpiece *state, struct word *word, uint32_t code, uint32_t begin, uint32_t end) {
    uint8_t class = unicode_record(code)->combining_class;
    if (!word->open) word->first = begin;
    word->open = true;
    word->last = end;
    if (word->count == state->settings.word_max) {
        word->overlong = true;
        return;
    }
    size_t at = word->count++;
    if (!class || !state->settings.strip_accents) word->block = word->count;
    for (; class && at > word->block && unicode_record(word->code[at - 1])->combining_class > class; at--) {
        word->code[at] = word->code[at - 1];
        word->begin[at] = word->begin[at - 1];
        word->end[at] = word->end[at - 1];
    }
    word->code[at] = code;
    word->begin[at] = begin;
    word->end[at] = end;
}

/* The general category as Hugging Face's tokenizers see it, whose table is Unicode 8's: newer characters are
 * unassigned, and three have another category since. */
static enum unicode_category category_of(uint32_t code) {
    const struct unicode_record *record = unicode_record(code);
    if (code == 0x1734) return UNICODE_MN;
    if (code == 0xA9BD) return UNICODE_MC;
    if (code == 0x1885 || code == 0x1886) return UNICODE_LO;
    if (code == 0x166D || code == 0x111C9) return UNICODE_PO;
    return record->recent ? UNICODE_CN : (enum unicode_category)record->category;
}

/* BERT's blocks of CJK ideographs. The fifth begins at U+2B920 here as in Hugging Face's tokenizers, not at U+2B820. */
static bool is_chinese(uint32_t code) {
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
           (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
           (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
           (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

static bool is_punctuation(uint32_t code) {
    enum unicode_category category = category_of(code);
    if (code >= 0x80) return category >= UNICODE_PC && category <= UNICODE_PO;
    return code > ' ' && code < 0x7F && !(code >= '0' && code <= '9') && !((code | 32) >= 'a' && (code | 32) <= 'z');
}

/* A normalized character: ends a word, is one, or joins it. */
static int take_normal(const struct tokenizer *tokenizer, struct word *word, uint32_t code, uint32_t begin,
                       uint32_t end, struct encoding *encoding) {
    int status = 0;
    bool alone = is_punctuation(code);
    if (alone || unicode_is_space(code)) TRY(word_finish(tokenizer, word, encoding));
    if (unicode_is_space(code)) return 0;
    word_add(tokenizer->state, word, code, begin, end);
    if (alone) TRY(word_finish(tokenizer, word, encoding));
out:
    return status;
}

static bool is_dropped(uint32_t code) {
    enum unicode_category category = category_of(code);
    if (code == '\t' || code == '\n' || code == '\r') return false;
    return code == 0 || code == UNICODE_REPLACEMENT || (category >= UNICODE_CC && category <= UNICODE_CO);
}

/* A character of the text. */
static int take_character(const struct tokenizer *tokenizer, struct word *word, uint32_t code, uint32_t begin,
                          uint32_t end, struct encoding *encoding) {
    int status = 0;
    const struct wordpiece_settings *settings = &((const struct wordpiece *)tokenizer->state)->settings;
    uint32_t part[UNICODE_DECOMPOSITION_MAX] = {code};
    size_t parts = 1;
    if (settings->clean && is_dropped(code)) return 0;
    bool alone = settings->split_chinese && is_chinese(code);
    if (alone) TRY(word_finish(tokenizer, word, encoding));
    if (settings->strip_accents) parts = unicode_decompose(code, part);
    for (size_t i = 0; i < parts; i++) {
        if (settings->strip_accents && category_of(part[i]) == UNICODE_MN) {
            if (!unicode_record(part[i])->combining_class) word->block = word->count;
            continue;
        }
        uint32_t lower[UNICODE_LOWER_MAX] = {part[i]};
        size_t lowered = settings->lower_case ? unicode_lower_full(part[i], lower) : 1;
        for (size_t j = 0; j < lowered; j++) TRY(take_normal(tokenizer, word, lower[j], begin, end, encoding));
    }
    if (alone) TRY(word_finish(tokenizer, word, encoding));
out:
    return status;
}

/* ---- a segment ------------------------------------------------------------------------------------ */
static inline bool is_plain(uint8_t byte) {
    return (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z');
}

/* A word of ASCII letters and digits at the start of text that ends before an ASCII character which is no control
 * character: its length, else 0. `lowered` gets its bytes. */
static size_t plain_word(const uint8_t *text, size_t bytes, const struct wordpiece_settings *settings,
                         uint8_t *lowered) {
    size_t most = bytes < settings->word_max ? bytes : settings->word_max, length = 0;
    uint8_t upper = settings->lower_case ? 'Z' : 0;
    for (; length < most && is_plain(text[length]); length++) {
        uint8_t byte = text[length];
        lowered[length] = byte >= 'A' && byte <= upper ? (uint8_t)(byte + 32) : byte;
    }
    if (length == bytes) return length;
    uint8_t next = text[length];
    return next >= ' ' && next < 0x7F && !is_plain(next) ? length : 0;
}

static int wordpiece_encode(const struct tokenizer *tokenizer, const struct segment *segment,
                            struct encoding *encoding) {
    int status = 0;
    const struct wordpiece *state = tokenizer->state;
    const uint8_t *text = (const uint8_t *)segment->text;
    uint8_t lowered[WORDPIECE_WORD_MAX];
    struct word word;
    word.count = word.block = 0;
    word.open = word.overlong = false;
    for (size_t at = 0, length; at < segment->bytes; at += length) {
        struct word_bytes plain = {.bytes = lowered, .origin = segment->origin + at};
        uint32_t code, begin = (uint32_t)plain.origin;
        if (!word.open && text[at] == ' ') {
            length = 1;
            continue;
        }
        plain.count = length = word.open ? 0 : plain_word(text + at, segment->bytes - at, &state->settings, lowered);
        if (length) {
            TRY(match_word(tokenizer, &plain, encoding));
            continue;
        }
        length = utf8_decode(text + at, segment->bytes - at, &code);
        TRY(take_character(tokenizer, &word, code, begin, begin + (uint32_t)length, encoding));
    }
    TRY(word_finish(tokenizer, &word, encoding));
out:
    return status;
}

/* ---- decoding ------------------------------------------------------------------------------------- */
/* Whether no blank goes before a token's text. */
static bool joins_left(const char *text, size_t bytes) {
    static const char *const starts[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        size_t length = strlen(starts[i]);
        if (bytes >= length && memcmp(text, starts[i], length) == 0) return true;
    }
    return false;
}

static int wordpiece_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                            size_t *bytes) {
    int status = 0;
    const struct wordpiece *state = tokenizer->state;
    void *block = NULL;
    size_t room = 1, used = 0;
    for (size_t i = 0; i < count; i++) room += 1 + text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
    TRY(memory_take(&block, room, 1));
    *text = block;
    for (size_t i = 0, shown = 0; i < count; i++) {
        const char *token = text_pool_text(&tokenizer->tokens, (size_t)ids[i]);
        size_t length = text_pool_length(&tokenizer->tokens, (size_t)ids[i]), skip = 0;
        if (tokenizer->special[ids[i]]) continue;
        if (shown++) {
            if (is_continued(state, token, length)) skip = state->prefix_bytes;
            else if (!state->settings.decode_cleanup || !joins_left(token, length)) (*text)[used++] = ' ';
        }
        memcpy(*text + used, token + skip, length - skip);
        used += length - skip;
    }
    *bytes = used;
out:
    return status;
}

/* ---- the kind ------------------------------------------------------------------------------------- */
static void wordpiece_close(struct tokenizer *tokenizer) {
    struct wordpiece *state = tokenizer->state;
    if (!state) return;
    memory_release(state->prefix);
    memory_release(state->slots);
    memory_release(state);
}

const struct tokenizer_traits wordpiece_traits = {
    .encode = wordpiece_encode, .decode = wordpiece_decode, .close = wordpiece_close};

struct wordpiece_settings *wordpiece_settings_of(struct tokenizer *tokenizer) {
    return &((struct wordpiece *)tokenizer->state)->settings;
}

int wordpiece_finish(struct tokenizer *tokenizer, const struct wordpiece_settings *settings, const char *unknown,
                     bool frame) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, 1, sizeof(struct wordpiece)));
    struct wordpiece *state = tokenizer->state = block;
    state->settings = *settings;
    state->settings.prefix = NULL;
    TRY(memory_string(&state->prefix, settings->prefix));
    state->prefix_bytes = strlen(state->prefix);
    if (settings->word_max < 1 || settings->word_max > WORDPIECE_WORD_MAX)
        FAIL(E_UNSUPPORTED, "words of up to %zu characters are not supported, at most %d", settings->word_max,
             WORDPIECE_WORD_MAX);
    uint32_t id = text_pool_find(&tokenizer->tokens, unknown, strlen(unknown));
    if (id == MAP_NONE) FAIL(E_FORMAT, "the vocabulary has no token '%.100s' for unknown words", unknown);
    state->unknown = (int32_t)id;
    TRY(index_pieces(tokenizer, state));
    tokenizer_name_special(tokenizer);
    if (frame && tokenizer->names.cls >= 0 && tokenizer->names.sep >= 0)
        tokenizer_frame(tokenizer, tokenizer->names.cls, tokenizer->names.sep, -1, 1);
    TRY(added_index_build(tokenizer));
out:
    return status;
}
