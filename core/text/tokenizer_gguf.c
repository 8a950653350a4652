/* Tokenizers out of GGUF metadata: the kind by tokenizer.ggml.model. */
#include "text/tokenizer_gguf.h"

#include "base/error.h"
#include "io/gguf.h"

#include <string.h>

int tokenizer_gguf_id(const struct tokenizer *tokenizer, const struct gguf *file, const char *key, int32_t *id) {
    int status = 0;
    uint64_t value;
    if (!gguf_find(file, key)) return 0;
    TRY(gguf_u64(file, key, &value));
    if (value >= tokenizer->tokens.count) FAIL(E_FORMAT, "%s %zu is outside the vocabulary", key, (size_t)value);
    *id = (int32_t)value;
out:
    return status;
}

static int read_flag(const struct gguf *file, const char *key, bool *flag) {
    return gguf_find(file, key) ? gguf_bool(file, key, flag) : 0;
}

/* One end of a frame: whether there is a token, by `flag_key`, and which one, by `id_key`. */
static int add_end(struct tokenizer *tokenizer, const struct gguf *file, const char *flag_key, const char *id_key,
                   bool present, int32_t id) {
    int status = 0;
    TRY(read_flag(file, flag_key, &present));
    if (!present) goto out;
    TRY(tokenizer_gguf_id(tokenizer, file, id_key, &id));
    if (id < 0 || (size_t)id >= tokenizer->tokens.count)
        FAIL(E_FORMAT, "%s is missing, and every text has that token", id_key);
    template_add(&tokenizer->single, TEMPLATE_ID, id, 0);
out:
    return status;
}

int tokenizer_gguf_frame(struct tokenizer *tokenizer, const struct gguf *file, struct gguf_frame usual) {
    static const char begin_key[] = "tokenizer.ggml.bos_token_id", end_key[] = "tokenizer.ggml.eos_token_id";
    int status = 0;
    int32_t turn = -1; /* the end of a turn in a conversation */
    struct tokenizer_special *names = &tokenizer->names;
    TRY(tokenizer_gguf_id(tokenizer, file, begin_key, &names->begin));
    TRY(tokenizer_gguf_id(tokenizer, file, end_key, &names->end));
    TRY(tokenizer_gguf_id(tokenizer, file, "tokenizer.ggml.unknown_token_id", &names->unknown));
    TRY(tokenizer_gguf_id(tokenizer, file, "tokenizer.ggml.padding_token_id", &names->pad));
    TRY(tokenizer_gguf_id(tokenizer, file, "tokenizer.ggml.eot_token_id", &turn));
    if (turn >= 0 && names->end >= 0) tokenizer_end_add(tokenizer, (uint64_t)names->end);
    if (turn >= 0) tokenizer_end_add(tokenizer, (uint64_t)turn);
    TRY(add_end(tokenizer, file, "tokenizer.ggml.add_bos_token", begin_key, usual.begin, usual.begin_id));
    template_add(&tokenizer->single, TEMPLATE_FIRST, -1, 0);
    TRY(add_end(tokenizer, file, "tokenizer.ggml.add_eos_token", end_key, usual.end, usual.end_id));
out:
    return status;
}

int tokenizer_from_gguf(struct tokenizer **tokenizer, const struct gguf *file) {
    int status = 0;
    const char *model;
    size_t bytes;
    *tokenizer = NULL;
    TRY(gguf_text(file, "tokenizer.ggml.model", &model, &bytes));
    if (bytes == 4 && memcmp(model, "gpt2", 4) == 0) return byte_bpe_read_gguf(tokenizer, file);
    if (bytes == 5 && memcmp(model, "llama", 5) == 0)
        return sentencepiece_read_gguf(tokenizer, file, TOKENIZER_SENTENCE_BPE);
    if (bytes == 2 && memcmp(model, "t5", 2) == 0) return sentencepiece_read_gguf(tokenizer, file, TOKENIZER_UNIGRAM);
    if (bytes == 4 && memcmp(model, "bert", 4) == 0) return wordpiece_read_gguf(tokenizer, file);
    FAIL(E_UNSUPPORTED, "tokenizer.ggml.model '%.*s' is not supported", (int)(bytes < 100 ? bytes : 100), model);
out:
    return status;
}
