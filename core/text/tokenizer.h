/* Tokenizers: text to ids and back. Byte-level BPE (GPT-2's scheme) trained on a corpus is the first;
 * WordPiece and SentencePiece are to join behind the same struct.
 *
 * A trained tokenizer is written as Hugging Face's tokenizer.json (model type BPE, byte level), so that
 * other tools can read it.
 */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* Ids of the special tokens, or -1 where the tokenizer has none. */
struct tokenizer_special {
    int32_t pad, cls, sep, mask, unknown;
};

/* Train byte-level BPE: merges by highest pair count (ties: the pair that comes first by token ids), over
 * words split by GPT-2's pre-tokenizer (ASCII rules; bytes >= 0x80 count as letters), lower-cased first
 * (ASCII) when asked. Vocabulary = 5 special tokens ([PAD] [CLS] [SEP] [MASK] [UNK] as ids 0..4), 256
 * bytes, then merges up to `vocabulary` entries; fewer when no pair is left that occurs twice. A pair that
 * would spell a token that exists is passed over, so every token has one spelling. Deterministic.
 * texts: count zero-terminated strings. E_ARGUMENT: vocabulary not in 261..1048576; E_LIMIT. */
int tokenizer_train_bpe(struct tokenizer **tokenizer, const char *const *texts, size_t count, size_t vocabulary,
                        bool lower_case);

/* A tokenizer.json that this library wrote, or another byte-level BPE one without what we lack (dropout,
 * prefixes, other normalizers). E_IO, E_FORMAT, E_UNSUPPORTED, E_LIMIT. */
int tokenizer_load(struct tokenizer **tokenizer, const char *path);
int tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t bytes);
int tokenizer_save(const struct tokenizer *tokenizer, const char *path); /* atomic */
/* The tokenizer.json text; release with memory_release. */
int tokenizer_print(const struct tokenizer *tokenizer, char **json, size_t *bytes);
void tokenizer_free(struct tokenizer *tokenizer);

size_t tokenizer_vocabulary(const struct tokenizer *tokenizer);
struct tokenizer_special tokenizer_special(const struct tokenizer *tokenizer);

/* Append the ids of `text` to ids, at most `capacity`; *count is the full number of ids. No special tokens. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, size_t capacity,
                     size_t *count);
/* The text of ids (special tokens dropped), zero-terminated; release with memory_release. E_ARGUMENT: an id
 * outside the vocabulary. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text);

#endif
