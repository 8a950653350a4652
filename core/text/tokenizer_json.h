/* Reading tokenizer.json: what all kinds share, and the kinds' own readers. Private to core/text. */
#ifndef TOKENIZER_JSON_H
#define TOKENIZER_JSON_H

#include "io/json.h"
#include "text/tokenizer_parts.h"

/* Absent, null, false, "" and [] all mean "not used". */
bool json_unset(const struct json *node);
bool json_says_yes(const struct json *node);
/* Is an object whose member "type" is `type`. */
bool json_has_type(const struct json *node, const char *type);

/* The file's tokens by id, before they enter the pool; texts are borrowed from the document. */
struct token_list {
    struct token_listed {
        const char *text; /* NULL: no token has this id */
        size_t bytes;
        uint8_t added; /* flags as in struct tokenizer */
        bool special;
    } * items;
    size_t count; /* ids 0 .. count-1, without gaps once token_list_check is content */
    size_t room;
};
/* Room for `vocabulary` tokens and the file's added_tokens. */
int token_list_open(struct token_list *list, const struct json *root, size_t vocabulary);
void token_list_close(struct token_list *list); /* accepts a zeroed struct */
/* model.vocab as an object of ids. */
int token_list_vocabulary(struct token_list *list, const struct json *vocabulary);
/* added_tokens, then: no gaps, no empty token. Sets count. */
int token_list_added(struct token_list *list, const struct json *root);
/* What a folder says of tokens beside vocab.json with merges.txt; all borrowed, and NULL where it says nothing. */
struct beside_merges {
    const struct json *decoder; /* added_tokens_decoder of tokenizer_config.json: an object by id */
    const struct json *added;   /* added_tokens.json: an object of ids */
    const char *const *special; /* texts of the tokens that are special, NULL behind the last */
    const char *class,
        *model_type; /* tokenizer_class, and config.json's model_type: Qwen2's splits words its own way */
};
/* Its tokens, before token_list_added; `normalizes`: the tokenizer has a normalizer. */
int token_list_beside(struct token_list *list, const struct beside_merges *beside, bool normalizes);
/* tokens, special and added of the tokenizer, from the list. With an alphabet, tokens that are not added are written in
 * it and are stored as bytes; `scratch` then has room for the longest text. */
struct byte_alphabet;
int token_list_store(const struct token_list *list, struct tokenizer *tokenizer, const struct byte_alphabet *alphabet,
                     char *scratch);

/* single and pair from post_processor: TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence. */
int tokenizer_read_templates(struct tokenizer *tokenizer, const struct json *root);

/* A merge more: its two sides as texts in the alphabet; scratch has room for both. E_FORMAT: not in the vocabulary. */
int byte_bpe_add_merge(struct tokenizer *tokenizer, const char *const side[2], const size_t bytes[2],
                       const struct byte_alphabet *alphabet, char *scratch);
/* tokenizer_parse_merges with what stands beside the two files. E_UNSUPPORTED: another class's tokenizer. */
int byte_bpe_read_merges(struct tokenizer **tokenizer, const char *vocab_json, size_t vocab_bytes, const char *merges,
                         size_t merges_bytes, const struct beside_merges *beside);
/* The two sides of "left right". */
bool merge_split(const char *text, size_t length, const char *side[2], size_t bytes[2]);

/* Put the tokens of an added_tokens_decoder (an object by id, or NULL) into the document of a tokenizer.json. *nodes is
 * part of it from then on: release it behind the document. E_LIMIT, E_MEMORY. */
int json_join_added(struct json_document *document, const struct json *decoder, struct json **nodes);
/* tokenizer_parse with these tokens. */
int tokenizer_parse_with(struct tokenizer **tokenizer, const char *json, size_t bytes, const struct json *decoder);

/* The kinds. `bytes`: of the file, no string is longer. */
int byte_bpe_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes);
int wordpiece_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes);
int sentencepiece_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes,
                            enum tokenizer_kind kind);

#endif
