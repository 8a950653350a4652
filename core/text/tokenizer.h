/* Tokenizers: text to ids and back, of four kinds behind one struct:
 *
 *   TOKENIZER_BYTE_BPE       byte-level BPE (GPT-2; SmolLM2's splits every numeric character first); also trained here
 *   TOKENIZER_WORDPIECE      BERT's: clean, lower, strip accents, split CJK and punctuation, longest match first
 *   TOKENIZER_SENTENCE_BPE   SentencePiece BPE with byte fallback (Llama, Mistral, llama2.c)
 *   TOKENIZER_UNIGRAM        SentencePiece Unigram: the most probable segmentation (Kudo 2018), byte fallback
 *
 * They are read from tokenizer.json, vocab.txt, vocab.json + merges.txt, SentencePiece .model files and GGUF metadata.
 * A trained tokenizer is written as Hugging Face's tokenizer.json, so that other tools can read it.
 */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

enum tokenizer_kind { TOKENIZER_BYTE_BPE, TOKENIZER_WORDPIECE, TOKENIZER_SENTENCE_BPE, TOKENIZER_UNIGRAM };
enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer);

/* Ids of the special tokens, or -1 where the tokenizer has none. */
struct tokenizer_special {
    int32_t pad, cls, sep, mask, unknown, begin, end; /* begin and end of text: <s>, </s>, <|endoftext|> */
};

/* Train byte-level BPE: merges by highest pair count (ties: the pair that comes first by token ids), over
 * words split by GPT-2's pre-tokenizer (ASCII rules; bytes >= 0x80 count as letters), lower-cased first
 * when asked. Vocabulary = 5 special tokens ([PAD] [CLS] [SEP] [MASK] [UNK] as ids 0..4), 256
 * bytes, then merges up to `vocabulary` entries; fewer when no pair is left that occurs twice. A pair that
 * would spell a token that exists is passed over, so every token has one spelling. Deterministic.
 * texts: count zero-terminated strings. E_ARGUMENT: vocabulary not in 261..1048576; E_LIMIT. */
int tokenizer_train_bpe(struct tokenizer **tokenizer, const char *const *texts, size_t count, size_t vocabulary,
                        bool lower_case);

/* A tokenizer.json that this library wrote, or another byte-level BPE one without what we lack (dropout,
 * prefixes, normalizers other than NFC and Lowercase). E_IO, E_FORMAT, E_UNSUPPORTED, E_LIMIT. */
int tokenizer_load(struct tokenizer **tokenizer, const char *path);
int tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t bytes);
int tokenizer_save(const struct tokenizer *tokenizer, const char *path); /* atomic */
/* The tokenizer.json text; release with memory_release. */
int tokenizer_print(const struct tokenizer *tokenizer, char **json, size_t *bytes);
void tokenizer_free(struct tokenizer *tokenizer);

/* Any supported file by its content: tokenizer.json, vocab.txt, a SentencePiece .model, a GGUF file, an artifact that
 * carries its tokenizer; or a directory: the first of tokenizer.json, tokenizer.model, vocab.json with merges.txt,
 * vocab.txt that it holds (settings such as do_lower_case from tokenizer_config.json). E_IO, E_FORMAT, E_UNSUPPORTED,
 * E_LIMIT. */
int tokenizer_open(struct tokenizer **tokenizer, const char *path);
/* The readers behind it, on bytes in memory (fuzzed). */
int tokenizer_parse_vocab(struct tokenizer **tokenizer, const char *text, size_t bytes, bool lower_case);
int tokenizer_parse_merges(struct tokenizer **tokenizer, const char *vocab_json, size_t vocab_bytes, const char *merges,
                           size_t merges_bytes);
int tokenizer_parse_sentencepiece(struct tokenizer **tokenizer, const void *model, size_t bytes);
struct gguf; /* io/gguf.h */
int tokenizer_from_gguf(struct tokenizer **tokenizer, const struct gguf *file);

size_t tokenizer_vocabulary(const struct tokenizer *tokenizer);
struct tokenizer_special tokenizer_special(const struct tokenizer *tokenizer);
/* The ids after which a text that a model writes is over; returns how many. Of a folder what generation_config.json,
 * or else config.json, says as eos_token_id (one or several, as transformers' generate has it); of GGUF its eos and
 * eot; where nothing is said the end token alone. Not of a tokenizer that was printed and read again. */
size_t tokenizer_ends(const struct tokenizer *tokenizer, const int32_t **ids);

/* Append the ids of `text` to ids, at most `capacity`; *count is the full number of ids. No special tokens. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, size_t capacity,
                     size_t *count);
/* Where tokens come from in the text: bytes begin[i] .. end[i]-1 of the original, before any normalization. */
struct encoding {
    int32_t *ids;
    uint32_t *begin, *end; /* NULL unless offsets were asked for */
    size_t count, capacity;
    bool with_offsets;
};
void encoding_close(struct encoding *encoding); /* accepts a zeroed struct */

/* Append the tokens of `text` to a growing encoding (zeroed before its first use; with_offsets set by the caller).
 * special: add what the tokenizer puts around a text of its own ([CLS] … [SEP], <s>), with empty offsets. Special
 * tokens spelled out in the text become their ids where the reference does so (tokenizer.json), unless `literal`. */
int tokenizer_append(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool special, bool literal,
                     struct encoding *encoding);
/* [CLS] first [SEP] second [SEP] for models with segments; types [count] (0 and 1) may be NULL. At most max_tokens (0:
 * no limit): the longer of the two loses tokens from its end until it fits (longest_first), or only the second when
 * `only_second`. E_UNSUPPORTED: the tokenizer has no such form. */
int tokenizer_append_pair(const struct tokenizer *tokenizer, const char *first, const char *second, size_t max_tokens,
                          bool only_second, struct encoding *encoding, int32_t **types);

/* The text of ids (special tokens dropped), zero-terminated; release with memory_release. E_ARGUMENT: an id
 * outside the vocabulary. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text);
/* The same, and how many bytes it has before its zero: a byte of its own may be one. */
int tokenizer_decode_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                           size_t *bytes);

#endif
