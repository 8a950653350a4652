/* SentencePiece tokenizers: gathering pieces, checking them, and emitting tokens; see sentencepiece.h. */
#include "text/sentencepiece.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

/* ---- building ------------------------------------------------------------------------------------- */
static int encode_segment(const struct tokenizer *tokenizer, const struct segment *segment, struct encoding *encoding);

static void close_state(struct tokenizer *tokenizer) {
    struct sentencepiece *model = tokenizer->state;
    if (!model) return;
    charsmap_close(&model->charsmap);
    piece_trie_close(&model->user);
    piece_trie_close(&model->trie);
    text_pool_close(&model->characters);
    merge_table_close(&model->merges);
    memory_release(model->pieces);
    memory_release(model->unknown_surface);
    memory_release(model->pipeline);
    memory_release(model);
}

static const struct tokenizer_traits sentencepiece_traits = {
    .encode = encode_segment, .decode = sentencepiece_decode, .close = close_state};

int sentencepiece_new(struct tokenizer **tokenizer, enum tokenizer_kind kind) {
    int status = 0;
    void *block = NULL;
    TRY(tokenizer_new(tokenizer, kind, &sentencepiece_traits));
    TRY(memory_take(&block, 1, sizeof(struct sentencepiece)));
    struct sentencepiece *model = block;
    (*tokenizer)->state = model;
    model->add_dummy_prefix = model->remove_extra_spaces = model->escape_spaces = model->fuse_unknown = true;
    model->unknown = -1;
    for (size_t i = 0; i < 256; i++) model->byte_id[i] = -1;
    TRY(memory_string(&model->unknown_surface, " \xE2\x81\x87 "));
    TRY(charsmap_open(&model->charsmap, NULL, 0));
out:
    if (status < 0) {
        tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
    return status;
}

/* The byte that "<0x1F>" spells, or -1. */
static int spelled_byte(const char *text, size_t bytes) {
    static const char digits[] = "0123456789ABCDEF";
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int)(16 * (high - digits) + (low - digits)) : -1;
}

int sentencepiece_add(struct tokenizer *tokenizer, const char *text, size_t bytes, double score, uint64_t type) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    size_t id = tokenizer->tokens.count;
    uint32_t index;
    if (!bytes) FAIL(E_FORMAT, "piece %zu is empty", id);
    if (bytes >= PIECE_BYTES_MAX) FAIL(E_FORMAT, "piece %zu has %zu bytes: too long", id, bytes);
    if (id >= VOCABULARY_MAX) FAIL(E_LIMIT, "more than the %u pieces allowed", VOCABULARY_MAX);
    if (type < PIECE_NORMAL || type > PIECE_BYTE)
        FAIL(E_UNSUPPORTED, "piece %zu has the unknown type %llu", id, (unsigned long long)type);
    if (!isfinite(score)) FAIL(E_FORMAT, "the score of piece %zu is not a finite number", id);
    if (id == model->capacity) {
        void *block = model->pieces;
        size_t capacity = 2 * model->capacity + 256;
        TRY(memory_resize(&block, capacity, sizeof *model->pieces));
        model->pieces = block;
        model->capacity = capacity;
    }
    TRY(text_pool_add(&tokenizer->tokens, text, bytes, &index));
    if (index != id) FAIL(E_FORMAT, "pieces %u and %zu are the same: '%.*s'", index, id, (int)bytes, text);
    model->pieces[id] = (struct piece){.score = score, .type = (uint8_t)type};
    if (type == PIECE_UNKNOWN) {
        if (model->unknown >= 0) FAIL(E_FORMAT, "pieces %d and %zu are both the unknown one", model->unknown, id);
        model->unknown = (int32_t)id;
    }
    if (type == PIECE_BYTE) {
        int byte = spelled_byte(text, bytes);
        if (byte < 0) FAIL(E_FORMAT, "byte piece %zu, '%.*s', is not of the form <0x1F>", id, (int)bytes, text);
        model->byte_id[byte] = (int32_t)id;
    }
out:
    return status;
}

static int build_user_trie(struct tokenizer *tokenizer) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    void *block = NULL;
    size_t count = 0;
    for (size_t i = 0; i < tokenizer->tokens.count; i++) count += model->pieces[i].type == PIECE_USER;
    if (!count) goto out;
    TRY(memory_take(&block, count, sizeof(struct trie_string)));
    struct trie_string *strings = block;
    count = 0;
    for (uint32_t i = 0; i < tokenizer->tokens.count; i++) {
        const char *text = text_pool_text(&tokenizer->tokens, i);
        if (model->pieces[i].type != PIECE_USER) continue;
        strings[count++] = (struct trie_string){text, (uint32_t)text_pool_length(&tokenizer->tokens, i), i};
        model->user_start[(uint8_t)*text] = true;
    }
    TRY(piece_trie_build(&model->user, strings, count));
out:
    memory_release(block);
    return status;
}

int sentencepiece_finish(struct tokenizer *tokenizer) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    size_t count = tokenizer->tokens.count;
    void *block = NULL;
    if (!count) FAIL(E_FORMAT, "the model has no pieces");
    if (model->unknown < 0 && !model->byte_fallback && !model->pipeline)
        FAIL(E_FORMAT, "the model has no unknown piece");
    for (int byte = 0; byte < 256; byte++) {
        if (model->byte_fallback && model->byte_id[byte] < 0)
            FAIL(E_FORMAT, "byte_fallback is set, but there is no piece <0x%02X>", byte);
        if (!model->byte_fallback && model->byte_id[byte] >= 0)
            FAIL(E_FORMAT, "piece %d stands for a byte, but byte_fallback is not set", model->byte_id[byte]);
    }
    TRY(memory_take(&block, count, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, count, 1));
    tokenizer->added = block;
    for (size_t i = 0; i < count; i++) {
        tokenizer->special[i] = model->pieces[i].type == PIECE_CONTROL;
        model->has_unused |= model->pieces[i].type == PIECE_UNUSED;
    }
    tokenizer->names.unknown = model->unknown;
    TRY(build_user_trie(tokenizer));
    if (tokenizer->kind == TOKENIZER_SENTENCE_BPE) TRY(sentencepiece_build_bpe(tokenizer));
    else TRY(sentencepiece_build_unigram(tokenizer));
out:
    return status;
}

/* ---- encoding ------------------------------------------------------------------------------------- */
/* The bytes of an unknown character as tokens: the last one holds the character's place, as in SentencePiece. */
static int emit_bytes(struct emitter *emitter, size_t begin, size_t end, size_t from, size_t to) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(emitter->tokenizer);
    for (size_t i = begin; i < end; i++) {
        int32_t id = model->byte_id[(uint8_t)emitter->normalized->text[i]];
        TRY(encoding_add(emitter->encoding, id, from, i + 1 == end ? to : from));
    }
out:
    return status;
}

int emit_piece(struct emitter *emitter, size_t begin, size_t end, int32_t id) {
    const struct sentencepiece *model = sentencepiece_of(emitter->tokenizer);
    const uint32_t *origin = emitter->normalized->origin;
    struct encoding *encoding = emitter->encoding;
    bool after_unknown = emitter->after_unknown, after_spelled = emitter->after_spelled;
    /* Of a tokenizer.json's Unigram model: unknown like a character that is no piece, and joins those beside it. */
    bool spelled = id >= 0 && id == model->unknown && model->double_scores;
    size_t from = 0, to = 0;
    if (encoding->with_offsets) {
        from = emitter->origin + origin[begin];
        to = emitter->origin + origin[end];
    }
    emitter->after_unknown = id < 0 || spelled;
    emitter->after_spelled = spelled && !after_unknown;
    if (id >= 0 && !spelled) return encoding_add(encoding, id, from, to);
    if (model->byte_fallback && emitter->after_spelled) {
        emitter->spelled = begin;
        return encoding_add(encoding, id, from, to);
    }
    if (model->byte_fallback && after_spelled) { /* it is the token only alone */
        encoding->count--;
        begin = emitter->spelled;
        if (encoding->with_offsets) from = emitter->origin + origin[begin];
    }
    if (model->byte_fallback) return emit_bytes(emitter, begin, end, from, to);
    if (model->unknown < 0) return 0; /* tokenizer.json may have no unknown token: the character is dropped */
    if (!after_unknown || !model->fuse_unknown) return encoding_add(encoding, model->unknown, from, to);
    if (encoding->with_offsets) encoding->end[encoding->count - 1] = (uint32_t)to;
    return 0;
}

static int encode_segment(const struct tokenizer *tokenizer, const struct segment *segment, struct encoding *encoding) {
    int status = 0;
    struct normalized normalized = {.with_origin = encoding->with_offsets};
    struct emitter emitter = {.tokenizer = tokenizer, .normalized = &normalized, .encoding = encoding};
    emitter.origin = segment->origin;
    if (sentencepiece_of(tokenizer)->pipeline) return pipeline_encode(&emitter, segment);
    TRY(sentencepiece_normalize(sentencepiece_of(tokenizer), segment->text, segment->bytes, &normalized));
    if (!normalized.count) goto out;
    if (tokenizer->kind == TOKENIZER_SENTENCE_BPE) TRY(sentencepiece_segment_bpe(&emitter, 0, normalized.count));
    else TRY(sentencepiece_segment_unigram(&emitter, 0, normalized.count));
out:
    normalized_close(&normalized);
    return status;
}
