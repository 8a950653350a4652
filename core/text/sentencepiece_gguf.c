/* SentencePiece out of a GGUF file: tokenizer.ggml.model "llama" (BPE by scores) and "t5" (Unigram).
 *
 * token_type has SentencePiece's own numbers. Spaces are not collapsed and one stands in front unless the file says
 * otherwise; byte pieces, when all are there, stand for unknown characters (llama.cpp, docs of the GGUF format).
 */
#include "base/error.h"
#include "base/memory.h"
#include "io/gguf.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_gguf.h"

#include <string.h>

/* The arrays that describe the tokens, one element each. */
struct gguf_tokens {
    const struct gguf_entry *texts, *scores, *types; /* types NULL: all are normal */
};

static int find_tokens(const struct gguf *file, struct gguf_tokens *tokens) {
    int status = 0;
    tokens->texts = gguf_find(file, "tokenizer.ggml.tokens");
    tokens->scores = gguf_find(file, "tokenizer.ggml.scores");
    tokens->types = gguf_find(file, "tokenizer.ggml.token_type");
    if (!tokens->texts || !tokens->texts->array || tokens->texts->type != GGUF_STRING)
        FAIL(E_FORMAT, "tokenizer.ggml.tokens must be an array of strings");
    uint64_t count = tokens->texts->count;
    if (count > VOCABULARY_MAX) FAIL(E_LIMIT, "more than %u tokens", VOCABULARY_MAX);
    if (!tokens->scores || !tokens->scores->array || tokens->scores->type != GGUF_F32 || tokens->scores->count != count)
        FAIL(E_FORMAT, "tokenizer.ggml.scores must have one f32 a token");
    const struct gguf_entry *types = tokens->types;
    if (types && (!types->array || (types->type != GGUF_I32 && types->type != GGUF_U32) || types->count != count))
        FAIL(E_FORMAT, "tokenizer.ggml.token_type must have one whole number a token");
out:
    return status;
}

/* llama.cpp's converter writes the space symbol of user-defined pieces as a blank; texts are looked through when their
 * blanks are symbols. escaped has room for a symbol per byte. */
static const char *escape_blanks(const char *text, size_t *bytes, char *escaped) {
    static const char symbol[] = "\xE2\x96\x81";
    size_t used = 0;
    for (size_t i = 0; i < *bytes; i++) {
        if (text[i] == ' ') memcpy(escaped + used, symbol, 3), used += 3;
        else escaped[used++] = text[i];
    }
    *bytes = used;
    return escaped;
}

static int add_tokens(struct tokenizer *tokenizer, const struct gguf_tokens *tokens) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    size_t place = 0, bytes, byte_pieces = 0;
    const char *text;
    char escaped[3 * PIECE_BYTES_MAX];
    for (uint64_t id = 0; gguf_next_string(tokens->texts, &place, &text, &bytes); id++) {
        int64_t type = tokens->types ? gguf_element_whole(tokens->types, id) : PIECE_NORMAL;
        if (type < 0) FAIL(E_FORMAT, "tokenizer.ggml.token_type: the type of token %zu is negative", (size_t)id);
        if (type == PIECE_USER && bytes < PIECE_BYTES_MAX) text = escape_blanks(text, &bytes, escaped);
        TRY(sentencepiece_add(tokenizer, text, bytes, (float)gguf_element(tokens->scores, id), (uint64_t)type));
        byte_pieces += type == PIECE_BYTE;
    }
    model->byte_fallback = byte_pieces > 0;
out:
    return status;
}

static int read_flag(const struct gguf *file, const char *key, bool *flag) {
    return gguf_find(file, key) ? gguf_bool(file, key, flag) : 0;
}

static int read_charsmap(struct sentencepiece *model, const struct gguf *file) {
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    int status = 0;
    const struct gguf_entry *entry = gguf_find(file, key);
    if (!entry || !entry->count) return 0;
    if (!entry->array || (entry->type != GGUF_U8 && entry->type != GGUF_I8))
        FAIL(E_FORMAT, "%s must be an array of bytes", key);
    charsmap_close(&model->charsmap);
    TRY(charsmap_open(&model->charsmap, entry->data, entry->bytes));
out:
    return status;
}

/* The piece that stands for unknown characters, where the file names one and no type says so. */
static int read_unknown(struct tokenizer *tokenizer, const struct gguf *file) {
    static const char key[] = "tokenizer.ggml.unknown_token_id";
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    uint64_t id;
    if (model->unknown >= 0 || !gguf_find(file, key)) return 0;
    TRY(gguf_u64(file, key, &id));
    if (id >= tokenizer->tokens.count) FAIL(E_FORMAT, "%s %zu is outside the vocabulary", key, (size_t)id);
    model->unknown = (int32_t)id;
    model->pieces[id].type = PIECE_UNKNOWN;
out:
    return status;
}

int sentencepiece_read_gguf(struct tokenizer **tokenizer, const struct gguf *file, enum tokenizer_kind kind) {
    static const struct gguf_frame llama = {true, false, 1, 2}, t5 = {false, true, -1, 1};
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct gguf_tokens tokens;
    *tokenizer = NULL;
    TRY(find_tokens(file, &tokens));
    TRY(sentencepiece_new(&fresh, kind));
    struct sentencepiece *model = sentencepiece_of(fresh);
    model->remove_extra_spaces = false;
    TRY(read_flag(file, "tokenizer.ggml.add_space_prefix", &model->add_dummy_prefix));
    TRY(read_flag(file, "tokenizer.ggml.remove_extra_whitespaces", &model->remove_extra_spaces));
    TRY(add_tokens(fresh, &tokens));
    TRY(read_charsmap(model, file));
    TRY(read_unknown(fresh, file));
    TRY(sentencepiece_finish(fresh));
    TRY(tokenizer_gguf_frame(fresh, file, kind == TOKENIZER_SENTENCE_BPE ? llama : t5));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    return status;
}
