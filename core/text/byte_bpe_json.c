/* Byte-level BPE out of tokenizer.json, and out of vocab.json with merges.txt. */
#include "base/error.h"
#include "base/memory.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer_json.h"

#include <string.h>

/* ---- what the file asks for ----------------------------------------------------------------------- */
static int read_byte_level(struct tokenizer *tokenizer, const struct json *item, bool *use_regex) {
    int status = 0;
    const struct json *pattern = json_member(item, "use_regex");
    (void)tokenizer;
    if (!json_unset(json_member(item, "add_prefix_space")))
        FAIL(E_UNSUPPORTED, "pre_tokenizer.add_prefix_space is not supported");
    *use_regex = !pattern || pattern->type == JSON_TRUE;
out:
    return status;
}

static int read_split(struct tokenizer *tokenizer, const struct json *item) {
    int status = 0;
    const struct json *behavior = json_member(item, "behavior");
    const char *text;
    TRY(json_text(json_member(json_member(item, "pattern"), "Regex"), "pre_tokenizer: pattern.Regex of a Split",
                  &text));
    if (!word_pattern_find(text, &tokenizer->pattern))
        FAIL(E_UNSUPPORTED, "pre_tokenizer: the pattern %.200s is not one of those supported", text);
    if (!behavior || behavior->type != JSON_STRING || strcmp(behavior->text, "Isolated") != 0 ||
        json_says_yes(json_member(item, "invert")))
        FAIL(E_UNSUPPORTED, "pre_tokenizer: a Split must be of behavior \"Isolated\", not inverted");
out:
    return status;
}

/* ByteLevel, or a Sequence of [Digits,] [Split,] ByteLevel. */
static int read_pre_tokenizer(struct tokenizer *tokenizer, const struct json *node) {
    int status = 0;
    bool split = false, use_regex = false, byte_level = false;
    const struct json *item = node;
    if (json_has_type(node, "Sequence")) {
        const struct json *list = json_member(node, "pretokenizers");
        item = list ? list->child : NULL;
    }
    for (; item; item = item == node ? NULL : item->next) {
        if (byte_level) FAIL(E_UNSUPPORTED, "pre_tokenizer: ByteLevel must be the last of the Sequence");
        if (json_has_type(item, "ByteLevel")) {
            TRY(read_byte_level(tokenizer, item, &use_regex));
            byte_level = true;
        } else if (json_has_type(item, "Digits") && item != node && !split && !tokenizer->digits_alone) {
            if (!json_says_yes(json_member(item, "individual_digits")))
                FAIL(E_UNSUPPORTED, "pre_tokenizer: Digits must have individual_digits");
            tokenizer->digits_alone = true;
        } else if (json_has_type(item, "Split") && item != node && !split) {
            TRY(read_split(tokenizer, item));
            split = true;
        } else {
            FAIL(E_UNSUPPORTED,
                 "pre_tokenizer must be of type \"ByteLevel\" or a Sequence of Digits, Split, ByteLevel");
        }
    }
    if (!byte_level) FAIL(E_UNSUPPORTED, "pre_tokenizer must be of type \"ByteLevel\"");
    if (use_regex == split)
        FAIL(E_UNSUPPORTED, "pre_tokenizer.use_regex must be %s", split ? "false after a Split" : "true");
out:
    return status;
}

/* NFC, Lowercase, or a Sequence of these. */
static int read_normalizer(struct tokenizer *tokenizer, const struct json *node) {
    int status = 0;
    const struct json *item = json_unset(node) ? NULL : node;
    if (json_has_type(node, "Sequence")) {
        const struct json *list = json_member(node, "normalizers");
        item = list ? list->child : NULL;
    }
    for (; item; item = item == node ? NULL : item->next) {
        bool composed = json_has_type(item, "NFC");
        if (!composed && !json_has_type(item, "Lowercase"))
            FAIL(E_UNSUPPORTED, "normalizer must be null, \"NFC\", \"Lowercase\" or a Sequence of these");
        TRY(tokenizer_add_step(tokenizer, composed ? NORMAL_COMPOSED : NORMAL_LOWER));
    }
out:
    return status;
}

static int read_settings(struct tokenizer *tokenizer, const struct json *root) {
    static const char *const unused[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"};
    int status = 0;
    const struct json *model = json_member(root, "model");
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++)
        if (!json_unset(json_member(model, unused[i]))) FAIL(E_UNSUPPORTED, "model.%s is not supported", unused[i]);
    tokenizer->ignore_merges = json_says_yes(json_member(model, "ignore_merges"));
    TRY(read_normalizer(tokenizer, json_member(root, "normalizer")));
    TRY(read_pre_tokenizer(tokenizer, json_member(root, "pre_tokenizer")));
out:
    return status;
}

/* ---- merges --------------------------------------------------------------------------------------- */
/* What a merge makes: mostly the token behind that of the merge before, as both lists are in the order of learning. */
static uint32_t find_result(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    const struct text_pool *tokens = &tokenizer->tokens;
    size_t guess = tokenizer->merge_count ? tokenizer->merges[tokenizer->merge_count - 1].result + 1 : tokens->count;
    bool right = guess < tokens->count && text_pool_length(tokens, guess) == bytes &&
                 memcmp(text_pool_text(tokens, guess), text, bytes) == 0;
    return right ? (uint32_t)guess : text_pool_find(tokens, text, bytes);
}

int byte_bpe_add_merge(struct tokenizer *tokenizer, const char *const side[2], const size_t bytes[2],
                       const struct byte_alphabet *alphabet, char *scratch) {
    static const char *const names[3] = {"its left side", "its right side", "what it makes"};
    int status = 0;
    uint32_t id[3];
    size_t used = 0;
    for (int i = 0; i < 2; i++) {
        size_t length = 0;
        bool known = byte_alphabet_read(alphabet, side[i], bytes[i], scratch + used, &length);
        id[i] = known ? text_pool_find(&tokenizer->tokens, scratch + used, length) : MAP_NONE;
        used += length;
    }
    id[2] = find_result(tokenizer, scratch, used);
    for (int i = 0; i < 3; i++)
        if (id[i] == MAP_NONE || tokenizer->added[id[i]])
            FAIL(E_FORMAT, "merge %zu: %s is not in model.vocab", tokenizer->merge_count, names[i]);
    tokenizer->merges[tokenizer->merge_count++] = (struct merge){id[0], id[1], id[2]};
out:
    return status;
}

bool merge_split(const char *text, size_t length, const char *side[2], size_t bytes[2]) {
    const char *blank = memchr(text, ' ', length);
    if (!blank) return false;
    side[0] = text;
    bytes[0] = (size_t)(blank - text);
    side[1] = blank + 1;
    bytes[1] = length - bytes[0] - 1;
    return bytes[0] && bytes[1];
}

/* "left right" or ["left","right"]. */
static bool merge_sides(const struct json *item, const char *side[2], size_t bytes[2]) {
    if (item->type == JSON_STRING) return merge_split(item->text, item->text_bytes, side, bytes);
    if (item->type != JSON_ARRAY || item->count != 2) return false;
    const struct json *pair[2] = {item->child, item->child->next};
    for (int i = 0; i < 2; i++) {
        if (pair[i]->type != JSON_STRING) return false;
        side[i] = pair[i]->text;
        bytes[i] = pair[i]->text_bytes;
    }
    return bytes[0] && bytes[1];
}

static int read_merges(struct tokenizer *tokenizer, const struct json *merges, const struct byte_alphabet *alphabet,
                       char *scratch) {
    int status = 0;
    void *block = NULL;
    if (!merges || merges->type != JSON_ARRAY) FAIL(E_FORMAT, "model.merges must be an array");
    TRY(memory_take(&block, merges->count, sizeof *tokenizer->merges));
    tokenizer->merges = block;
    for (const struct json *item = merges->child; item; item = item->next) {
        const char *side[2];
        size_t bytes[2];
        if (!merge_sides(item, side, bytes))
            FAIL(E_FORMAT, "merge %zu must be \"left right\" or a pair", tokenizer->merge_count);
        TRY(byte_bpe_add_merge(tokenizer, side, bytes, alphabet, scratch));
    }
out:
    return status;
}

/* ---- the files ------------------------------------------------------------------------------------ */
int byte_bpe_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct token_list list = {0};
    struct byte_alphabet alphabet;
    void *scratch = NULL;
    const struct json *model = json_member(root, "model"), *vocabulary = json_member(model, "vocab");
    *tokenizer = NULL;
    TRY(tokenizer_new(&fresh, TOKENIZER_BYTE_BPE, &byte_bpe_traits));
    TRY(read_settings(fresh, root));
    if (!vocabulary || vocabulary->type != JSON_OBJECT) FAIL(E_FORMAT, "model.vocab must be an object of ids");
    TRY(memory_take(&scratch, bytes, 1)); /* decoding never lengthens, and no string is longer than the file */
    byte_alphabet_fill(&alphabet);
    TRY(token_list_open(&list, root, vocabulary->count));
    TRY(token_list_vocabulary(&list, vocabulary));
    TRY(token_list_added(&list, root));
    TRY(token_list_store(&list, fresh, &alphabet, scratch));
    TRY(read_merges(fresh, json_member(model, "merges"), &alphabet, scratch));
    TRY(tokenizer_read_templates(fresh, root));
    TRY(tokenizer_finish(fresh));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    token_list_close(&list);
    memory_release(scratch);
    return status;
}

/* Lines "left right"; a first line that begins with "#version" and empty lines are passed over. */
static int read_merge_lines(struct tokenizer *tokenizer, const char *text, size_t bytes,
                            const struct byte_alphabet *alphabet, char *scratch) {
    int status = 0;
    void *block = NULL;
    size_t lines = 1, line = 0;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    TRY(memory_take(&block, lines, sizeof *tokenizer->merges));
    tokenizer->merges = block;
    for (size_t at = 0; at < bytes; line++) {
        const char *end = memchr(text + at, '\n', bytes - at), *side[2];
        size_t length = end ? (size_t)(end - text) - at : bytes - at, next = at + length + 1, sides[2];
        if (length && text[at + length - 1] == '\r') length--;
        bool skip = length == 0 || (line == 0 && length >= 8 && memcmp(text + at, "#version", 8) == 0);
        if (!skip && !merge_split(text + at, length, side, sides))
            FAIL(E_FORMAT, "merges: line %zu must be \"left right\"", line + 1);
        if (!skip) TRY(byte_bpe_add_merge(tokenizer, side, sides, alphabet, scratch));
        at = next;
    }
out:
    return status;
}

/* What a class of transformers does to a text; model_type tells it where a folder names no class. */
static int read_class(struct tokenizer *tokenizer, const struct beside_merges *beside) {
    static const char *const plain[] = {"GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast",
                                        "TokenizersBackend"};
    int status = 0;
    const char *class = beside->class, *type = beside->model_type;
    bool qwen2 = class ? strcmp(class, "Qwen2Tokenizer") == 0 || strcmp(class, "Qwen2TokenizerFast") == 0
                       : type && strcmp(type, "qwen2") == 0;
    if (qwen2) {
        tokenizer->pattern = WORD_QWEN2;
        TRY(tokenizer_add_step(tokenizer, NORMAL_COMPOSED));
        return 0;
    }
    for (size_t i = 0; class && i < sizeof plain / sizeof *plain; i++)
        if (strcmp(class, plain[i]) == 0) return 0;
    if (class)
        FAIL(E_UNSUPPORTED, "tokenizer_class \"%.60s\" is not supported (GPT2Tokenizer and Qwen2Tokenizer are)", class);
out:
    return status;
}

int byte_bpe_read_merges(struct tokenizer **tokenizer, const char *vocab_json, size_t vocab_bytes, const char *merges,
                         size_t merges_bytes, const struct beside_merges *beside) {
    static const char *const usual[] = {"<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>", NULL};
    int status = 0;
    struct json_document document = {0};
    struct tokenizer *fresh = NULL;
    struct token_list list = {0};
    struct byte_alphabet alphabet;
    void *scratch = NULL;
    *tokenizer = NULL;
    TRY(json_open(&document, vocab_json, vocab_bytes));
    const struct json *vocabulary = json_root(&document);
    if (vocabulary->type != JSON_OBJECT) FAIL(E_FORMAT, "vocab.json must be an object of ids");
    TRY(tokenizer_new(&fresh, TOKENIZER_BYTE_BPE, &byte_bpe_traits));
    TRY(read_class(fresh, beside));
    TRY(memory_take(&scratch, vocab_bytes > merges_bytes ? vocab_bytes : merges_bytes, 1));
    byte_alphabet_fill(&alphabet);
    size_t more = (beside->decoder ? beside->decoder->count : 0) + (beside->added ? beside->added->count : 0);
    TRY(token_list_open(&list, NULL, vocabulary->count + more));
    TRY(token_list_vocabulary(&list, vocabulary));
    TRY(token_list_beside(&list, beside, fresh->steps.count > 0));
    TRY(token_list_beside(&list, &(struct beside_merges){.special = usual}, false));
    TRY(token_list_added(&list, NULL));
    TRY(token_list_store(&list, fresh, &alphabet, scratch));
    TRY(read_merge_lines(fresh, merges, merges_bytes, &alphabet, scratch));
    TRY(tokenizer_finish(fresh));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    token_list_close(&list);
    memory_release(scratch);
    json_close(&document);
    return status;
}

int tokenizer_parse_merges(struct tokenizer **tokenizer, const char *vocab_json, size_t vocab_bytes, const char *merges,
                           size_t merges_bytes) {
    return byte_bpe_read_merges(tokenizer, vocab_json, vocab_bytes, merges, merges_bytes, &(struct beside_merges){0});
}
