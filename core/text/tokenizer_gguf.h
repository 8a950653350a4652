/* Tokenizers out of GGUF metadata: what the kinds share, and their readers. Private to core/text. */
#ifndef TOKENIZER_GGUF_H
#define TOKENIZER_GGUF_H

#include "text/tokenizer_parts.h"

struct gguf;

/* What a kind's texts have around them where the file says nothing, and the ids of these tokens (-1: the file must say
 * them) where it has no key for them; llama.cpp's defaults. */
struct gguf_frame {
    bool begin, end;
    int32_t begin_id, end_id;
};

/* names from tokenizer.ggml.*_token_id, and the single template from add_bos_token and add_eos_token, over what is
 * usual. E_FORMAT: an id outside the vocabulary, or none where texts begin or end with it. */
int tokenizer_gguf_frame(struct tokenizer *tokenizer, const struct gguf *file, struct gguf_frame usual);

/* The id that the file gives under `key`, which is left alone where the file has none. E_FORMAT: as above. */
int tokenizer_gguf_id(const struct tokenizer *tokenizer, const struct gguf *file, const char *key, int32_t *id);

int wordpiece_read_gguf(struct tokenizer **tokenizer, const struct gguf *file);
int byte_bpe_read_gguf(struct tokenizer **tokenizer, const struct gguf *file);
int sentencepiece_read_gguf(struct tokenizer **tokenizer, const struct gguf *file, enum tokenizer_kind kind);

#endif
