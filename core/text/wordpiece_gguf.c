/* WordPiece out of a GGUF file: tokenizer.ggml.model "bert", as llama.cpp's convert_hf_to_gguf.py writes BERT's
 * embedding models.
 *
 * Its pieces are turned about: one that begins a word has U+2581 in front, and "##" is left away. Control tokens, and
 * in older files whatever stands in brackets, are as in vocab.txt. Such a file does not say whether letters lose their
 * capitals: they keep them where a piece has one, as those of cased models have.
 */
#include "base/error.h"
#include "base/memory.h"
#include "io/gguf.h"
#include "text/tokenizer_gguf.h"
#include "text/wordpiece.h"

#include <string.h>

#define WORD_BEGIN "\xE2\x96\x81"
enum { BEGIN_BYTES = 3, TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_UNUSED = 5 };

static int find_arrays(const struct gguf *file, const struct gguf_entry **texts, const struct gguf_entry **types) {
    int status = 0;
    *texts = gguf_find(file, "tokenizer.ggml.tokens");
    *types = gguf_find(file, "tokenizer.ggml.token_type");
    if (!*texts || !(*texts)->array || (*texts)->type != GGUF_STRING)
        FAIL(E_FORMAT, "tokenizer.ggml.tokens must be an array of strings");
    if ((*texts)->count > VOCABULARY_MAX) FAIL(E_LIMIT, "more than %u tokens", VOCABULARY_MAX);
    if (*types && (!(*types)->array || ((*types)->type != GGUF_I32 && (*types)->type != GGUF_U32) ||
                   (*types)->count != (*texts)->count))
        FAIL(E_FORMAT, "tokenizer.ggml.token_type must have one whole number a token");
out:
    return status;
}

static bool is_special_name(const char *text, size_t bytes) {
    for (size_t i = 0; i < SPECIAL_COUNT; i++)
        if (strlen(special_names[i]) == bytes && memcmp(special_names[i], text, bytes) == 0) return true;
    return false;
}

/* The token as vocab.txt has it, into `out` of bytes + 2; its length. */
static size_t token_spell(const char *text, size_t bytes, int64_t type, char *out) {
    bool bracketed = bytes > 2 && text[0] == '[' && text[bytes - 1] == ']';
    bool kept = bracketed || type == TYPE_UNKNOWN || type == TYPE_CONTROL || type == TYPE_UNUSED;
    size_t skip = bytes > BEGIN_BYTES && memcmp(text, WORD_BEGIN, BEGIN_BYTES) == 0 ? BEGIN_BYTES : 0;
    size_t put = skip || kept ? 0 : 2;
    memcpy(out, "##", 2);
    memcpy(out + put, text + skip, bytes - skip);
    return put + bytes - skip;
}

/* *capitals: a piece has one. */
static int add_tokens(struct tokenizer *tokenizer, const struct gguf_entry *texts, const struct gguf_entry *types,
                      bool *capitals) {
    int status = 0;
    void *block = NULL, *scratch = NULL;
    size_t place = 0, bytes;
    const char *text;
    TRY(memory_take(&scratch, texts->bytes + 2, 1)); /* no token is longer than all */
    TRY(memory_take(&block, texts->count, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, texts->count, 1));
    tokenizer->added = block;
    for (uint64_t i = 0; gguf_next_string(texts, &place, &text, &bytes); i++) {
        int64_t type = types ? gguf_element_whole(types, i) : TYPE_NORMAL;
        uint32_t id;
        if (memchr(text, 0, bytes)) FAIL(E_FORMAT, "tokenizer.ggml.tokens: token %zu holds a zero byte", (size_t)i);
        bytes = token_spell(text, bytes, type, scratch);
        if (!bytes) FAIL(E_FORMAT, "tokenizer.ggml.tokens: token %zu is empty", (size_t)i);
        TRY(text_pool_add(&tokenizer->tokens, scratch, bytes, &id));
        if (id != i)
            FAIL(E_FORMAT, "tokenizer.ggml.tokens: tokens %u and %zu are the same: '%.*s'", id, (size_t)i,
                 (int)(bytes < 100 ? bytes : 100), (const char *)scratch);
        bool special = type == TYPE_CONTROL || is_special_name(scratch, bytes);
        tokenizer->special[i] = tokenizer->added[i] = special ? ADDED : 0;
        for (const char *c = scratch; type == TYPE_NORMAL && *c != '[' && c < (char *)scratch + bytes; c++)
            *capitals |= *c >= 'A' && *c <= 'Z';
    }
out:
    memory_release(scratch);
    return status;
}

int wordpiece_read_gguf(struct tokenizer **tokenizer, const struct gguf *file) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    const struct gguf_entry *texts, *types;
    struct wordpiece_settings settings = wordpiece_bert_settings;
    struct tokenizer_special ids = {.unknown = -1, .cls = -1, .begin = -1, .sep = -1, .mask = -1, .pad = -1};
    bool capitals = false;
    char *unknown = NULL;
    *tokenizer = NULL;
    TRY(find_arrays(file, &texts, &types));
    TRY(tokenizer_new(&fresh, TOKENIZER_WORDPIECE, &wordpiece_traits));
    TRY(add_tokens(fresh, texts, types, &capitals));
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.unknown_token_id", &ids.unknown));
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.bos_token_id", &ids.cls)); /* where newer files have it */
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.cls_token_id", &ids.cls));
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.seperator_token_id", &ids.sep));
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.mask_token_id", &ids.mask));
    TRY(tokenizer_gguf_id(fresh, file, "tokenizer.ggml.padding_token_id", &ids.pad));
    settings.lower_case = settings.strip_accents = !capitals;
    if (ids.unknown >= 0)
        TRY(memory_string_n(&unknown, text_pool_text(&fresh->tokens, (size_t)ids.unknown),
                            text_pool_length(&fresh->tokens, (size_t)ids.unknown)));
    TRY(wordpiece_finish(fresh, &settings, unknown ? unknown : special_names[4], false));
    struct tokenizer_special *names = &fresh->names;
    if (ids.unknown >= 0) names->unknown = ids.unknown;
    if (ids.cls >= 0) names->cls = ids.cls;
    if (ids.sep >= 0) names->sep = ids.sep;
    if (ids.mask >= 0) names->mask = ids.mask;
    if (ids.pad >= 0) names->pad = ids.pad;
    if (names->cls >= 0 && names->sep >= 0) tokenizer_frame(fresh, names->cls, names->sep, -1, 1);
    *tokenizer = fresh;
    fresh = NULL;
out:
    memory_release(unknown);
    tokenizer_free(fresh);
    return status;
}
