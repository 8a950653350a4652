/* Byte-level BPE out of a GGUF file: tokenizer.ggml.model "gpt2".
 *
 * Tokens are written in the byte alphabet, merges as "left right"; tokenizer.ggml.pre names the pattern, by the names
 * that llama.cpp gives them. A file without that name, or with another, is refused: a guess would give other ids. Llama
 * 3's begin with a token of their own unless the file says otherwise, as in llama.cpp.
 */
#include "base/error.h"
#include "base/memory.h"
#include "io/gguf.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer_gguf.h"
#include "text/tokenizer_json.h"

#include <string.h>

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* begin: whether a text begins with the begin token where the file does not say. */
static int read_pattern(struct tokenizer *tokenizer, const struct gguf *file, bool *begin) {
    static const struct {
        const char *name;
        enum word_pattern pattern;
        bool digits_alone, ignore_merges;
    } row[] = {
        {"gpt-2", WORD_GPT2, false, false},    {"gpt2", WORD_GPT2, false, false},
        {"olmo", WORD_GPT2, false, false},     {"jais", WORD_GPT2, false, false},
        {"mpt", WORD_GPT2, false, false},      {"smollm", WORD_GPT2, true, false},
        {"starcoder", WORD_GPT2, true, false}, {"refact", WORD_GPT2, true, false},
        {"command-r", WORD_GPT2, true, false}, {"codeshell", WORD_GPT2, true, false},
        {"exaone", WORD_GPT2, true, false},    {"llama-bpe", WORD_LLAMA3, false, true},
        {"llama3", WORD_LLAMA3, false, true},  {"llama-v3", WORD_LLAMA3, false, true},
        {"qwen2", WORD_QWEN2, false, false},   {"stablelm2", WORD_QWEN2, false, false},
    };
    int status = 0;
    const char *name;
    size_t bytes;
    TRY(gguf_text(file, "tokenizer.ggml.pre", &name, &bytes));
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (strlen(row[i].name) == bytes && memcmp(row[i].name, name, bytes) == 0) {
            tokenizer->pattern = row[i].pattern;
            tokenizer->digits_alone = row[i].digits_alone;
            tokenizer->ignore_merges = row[i].ignore_merges;
            *begin = row[i].pattern == WORD_LLAMA3;
            return 0;
        }
    FAIL(E_UNSUPPORTED, "tokenizer.ggml.pre '%.*s' is not supported", (int)(bytes < 100 ? bytes : 100), name);
out:
    return status;
}

static int read_tokens(struct tokenizer *tokenizer, const struct gguf *file, const struct byte_alphabet *alphabet,
                       char *scratch) {
    int status = 0;
    const struct gguf_entry *tokens = gguf_find(file, "tokenizer.ggml.tokens");
    const struct gguf_entry *types = gguf_find(file, "tokenizer.ggml.token_type");
    void *block = NULL;
    size_t place = 0, bytes;
    const char *text;
    TRY(memory_take(&block, (size_t)tokens->count, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, (size_t)tokens->count, 1));
    tokenizer->added = block;
    TRY(text_pool_reserve(&tokenizer->tokens, (size_t)tokens->count, tokens->bytes));
    for (size_t id = 0; gguf_next_string(tokens, &place, &text, &bytes); id++) {
        int64_t type = types ? gguf_element_whole(types, id) : TYPE_NORMAL;
        uint32_t index;
        size_t length;
        bool added = type == TYPE_CONTROL || type == TYPE_USER || type == TYPE_UNKNOWN;
        if (!bytes) FAIL(E_FORMAT, "the token with id %zu is empty", id);
        if (!added && byte_alphabet_read(alphabet, text, bytes, scratch, &length)) {
            text = scratch;
            bytes = length;
        } else if (!added && type != TYPE_UNUSED) {
            FAIL(E_FORMAT, "token %zu has a character that stands for no byte", id);
        }
        TRY(text_pool_add(&tokenizer->tokens, text, bytes, &index));
        if (index != id) FAIL(E_FORMAT, "tokens %u and %zu are the same", index, id);
        tokenizer->added[id] = added ? ADDED : 0;
        tokenizer->special[id] = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
    }
out:
    return status;
}

static int read_merges(struct tokenizer *tokenizer, const struct gguf_entry *merges,
                       const struct byte_alphabet *alphabet, char *scratch) {
    int status = 0;
    void *block = NULL;
    size_t place = 0, bytes;
    const char *text;
    TRY(memory_take(&block, (size_t)merges->count, sizeof *tokenizer->merges));
    tokenizer->merges = block;
    while (gguf_next_string(merges, &place, &text, &bytes)) {
        const char *side[2];
        size_t sides[2];
        if (!merge_split(text, bytes, side, sides))
            FAIL(E_FORMAT, "merge %zu must be \"left right\"", tokenizer->merge_count);
        TRY(byte_bpe_add_merge(tokenizer, side, sides, alphabet, scratch));
    }
out:
    return status;
}

/* A string array that must be there. */
static int need_strings(const struct gguf *file, const char *key, const struct gguf_entry **entry) {
    int status = 0;
    *entry = gguf_find(file, key);
    if (!*entry) FAIL(E_FORMAT, "%s is missing", key);
    if (!(*entry)->array || (*entry)->type != GGUF_STRING) FAIL(E_FORMAT, "%s must be an array of strings", key);
    if ((*entry)->count > 4 * (uint64_t)VOCABULARY_MAX) FAIL(E_LIMIT, "%s is too long", key);
out:
    return status;
}

int byte_bpe_read_gguf(struct tokenizer **tokenizer, const struct gguf *file) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct byte_alphabet alphabet;
    const struct gguf_entry *tokens, *merges, *types = gguf_find(file, "tokenizer.ggml.token_type");
    void *scratch = NULL;
    bool begin = false;
    *tokenizer = NULL;
    TRY(need_strings(file, "tokenizer.ggml.tokens", &tokens));
    TRY(need_strings(file, "tokenizer.ggml.merges", &merges));
    if (tokens->count > VOCABULARY_MAX) FAIL(E_LIMIT, "more than %u tokens", VOCABULARY_MAX);
    if (types &&
        (!types->array || (types->type != GGUF_I32 && types->type != GGUF_U32) || types->count != tokens->count))
        FAIL(E_FORMAT, "tokenizer.ggml.token_type must have one whole number a token");
    TRY(tokenizer_new(&fresh, TOKENIZER_BYTE_BPE, &byte_bpe_traits));
    TRY(read_pattern(fresh, file, &begin));
    TRY(memory_take(&scratch, tokens->bytes > merges->bytes ? tokens->bytes : merges->bytes, 1));
    byte_alphabet_fill(&alphabet);
    TRY(read_tokens(fresh, file, &alphabet, scratch));
    TRY(read_merges(fresh, merges, &alphabet, scratch));
    TRY(tokenizer_finish(fresh));
    TRY(tokenizer_gguf_frame(fresh, file, (struct gguf_frame){begin, false, -1, -1}));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    memory_release(scratch);
    return status;
}
