/* WordPiece out of tokenizer.json and vocab.txt. */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_json.h"
#include "text/wordpiece.h"

#include <string.h>

const struct wordpiece_settings wordpiece_bert_settings = {.clean = true,
                                                           .split_chinese = true,
                                                           .strip_accents = true,
                                                           .lower_case = true,
                                                           .decode_cleanup = true,
                                                           .word_max = 100,
                                                           .prefix = "##"};

/* ---- tokenizer.json ------------------------------------------------------------------------------- */
static int read_settings(const struct json *root, struct wordpiece_settings *settings, const char **unknown) {
    int status = 0;
    uint64_t word_max;
    const struct json *model = json_member(root, "model"), *normalizer = json_member(root, "normalizer");
    const struct json *decoder = json_member(root, "decoder"), *accents = json_member(normalizer, "strip_accents");
    *settings = wordpiece_bert_settings;
    if (!json_has_type(normalizer, "BertNormalizer"))
        FAIL(E_UNSUPPORTED, "normalizer of a WordPiece model must be of type \"BertNormalizer\"");
    if (!json_has_type(json_member(root, "pre_tokenizer"), "BertPreTokenizer"))
        FAIL(E_UNSUPPORTED, "pre_tokenizer of a WordPiece model must be of type \"BertPreTokenizer\"");
    settings->clean = json_says_yes(json_member(normalizer, "clean_text"));
    settings->split_chinese = json_says_yes(json_member(normalizer, "handle_chinese_chars"));
    settings->lower_case = json_says_yes(json_member(normalizer, "lowercase"));
    settings->strip_accents = !accents || accents->type == JSON_NULL ? settings->lower_case : json_says_yes(accents);
    if (!json_unset(decoder) && !json_has_type(decoder, "WordPiece"))
        FAIL(E_UNSUPPORTED, "decoder of a WordPiece model must be of type \"WordPiece\"");
    settings->decode_cleanup = json_says_yes(json_member(decoder, "cleanup"));
    TRY(json_u64(json_member(model, "max_input_chars_per_word"), "model.max_input_chars_per_word", &word_max));
    settings->word_max = (size_t)word_max;
    TRY(json_text(json_member(model, "continuing_subword_prefix"), "model.continuing_subword_prefix",
                  &settings->prefix));
    TRY(json_text(json_member(model, "unk_token"), "model.unk_token", unknown));
out:
    return status;
}

int wordpiece_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct token_list list = {0};
    struct wordpiece_settings settings;
    const char *unknown;
    const struct json *vocabulary = json_member(json_member(root, "model"), "vocab");
    (void)bytes;
    *tokenizer = NULL;
    TRY(read_settings(root, &settings, &unknown));
    if (!vocabulary || vocabulary->type != JSON_OBJECT) FAIL(E_FORMAT, "model.vocab must be an object of ids");
    TRY(tokenizer_new(&fresh, TOKENIZER_WORDPIECE, &wordpiece_traits));
    TRY(token_list_open(&list, root, vocabulary->count));
    TRY(token_list_vocabulary(&list, vocabulary));
    TRY(token_list_added(&list, root));
    TRY(token_list_store(&list, fresh, NULL, NULL));
    TRY(tokenizer_read_templates(fresh, root));
    TRY(wordpiece_finish(fresh, &settings, unknown, false));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    token_list_close(&list);
    return status;
}

/* ---- vocab.txt ------------------------------------------------------------------------------------ */
/* One token a line; the line's number is its id. */
static int read_lines(struct tokenizer *tokenizer, const char *text, size_t bytes) {
    int status = 0;
    void *block = NULL;
    size_t lines = 1;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    const char *zero = memchr(text, 0, bytes);
    if (zero)
        FAIL(E_FORMAT,
             "neither a vocabulary of a token a line (byte %zu is 0) nor another file with a tokenizer: "
             "name one as tokenizer: {path: FILE}",
             (size_t)(zero - text));
    if (lines > VOCABULARY_MAX) FAIL(E_LIMIT, "%zu tokens are more than the %u allowed", lines, VOCABULARY_MAX);
    TRY(memory_take(&block, lines, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, lines, 1));
    tokenizer->added = block;
    for (size_t at = 0, line = 0; at < bytes; line++) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t length = end ? (size_t)(end - text) - at : bytes - at, next = at + length + 1;
        uint32_t id;
        if (length && text[at + length - 1] == '\r') length--;
        if (!length) FAIL(E_FORMAT, "line %zu is empty", line + 1);
        TRY(text_pool_add(&tokenizer->tokens, text + at, length, &id));
        if (id != line)
            FAIL(E_FORMAT, "lines %u and %zu are the same: '%.*s'", id + 1, line + 1, (int)length, text + at);
        for (size_t i = 0; i < SPECIAL_COUNT; i++)
            if (strlen(special_names[i]) == length && memcmp(special_names[i], text + at, length) == 0)
                tokenizer->special[id] = tokenizer->added[id] = ADDED;
        at = next;
    }
out:
    return status;
}

int tokenizer_parse_vocab(struct tokenizer **tokenizer, const char *text, size_t bytes, bool lower_case) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct wordpiece_settings settings = wordpiece_bert_settings;
    *tokenizer = NULL;
    settings.lower_case = settings.strip_accents = lower_case;
    TRY(tokenizer_new(&fresh, TOKENIZER_WORDPIECE, &wordpiece_traits));
    TRY(read_lines(fresh, text, bytes));
    TRY(wordpiece_finish(fresh, &settings, special_names[4], true));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    return status;
}
