/* tokenizer.json of Hugging Face's tokenizers: model BPE, pre-tokenizer ByteLevel.
 *
 * Tokens are written in GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68
 * are U+0100 and following in ascending order, so that no token holds a blank and a merge is "left right".
 * Added tokens are written as they are. What the file asks for and we cannot do is refused by name
 * rather than ignored, because ignoring it would give other ids.
 */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/json.h"
#include "text/tokenizer_parts.h"

#include <string.h>

#define FILE_BYTES_MAX (256u << 20)
#define ALPHABET_END 324 /* U+0100 + 68 */

/* ---- the byte alphabet ---------------------------------------------------------------------------- */
static bool byte_printable(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* code[byte] and byte_of[code] (-1: not in the alphabet). */
struct alphabet {
    uint16_t code[256];
    int16_t byte_of[ALPHABET_END];
};

static void alphabet_fill(struct alphabet *alphabet) {
    uint16_t free_code = 256;
    for (size_t i = 0; i < ALPHABET_END; i++) alphabet->byte_of[i] = -1;
    for (unsigned byte = 0; byte < 256; byte++) {
        uint16_t code = byte_printable(byte) ? (uint16_t)byte : free_code++;
        alphabet->code[byte] = code;
        alphabet->byte_of[code] = (int16_t)byte;
    }
}

/* Bytes to alphabet text; `to` has room for 2 bytes a byte and the zero. */
static void alphabet_write(const struct alphabet *alphabet, const char *bytes, size_t count, char *to) {
    for (size_t i = 0; i < count; i++) {
        unsigned code = alphabet->code[(uint8_t)bytes[i]];
        if (code < 0x80) {
            *to++ = (char)code;
        } else {
            *to++ = (char)(0xC0 | code >> 6);
            *to++ = (char)(0x80 | (code & 0x3F));
        }
    }
    *to = 0;
}

/* Alphabet text (valid UTF-8, which JSON strings are) to bytes; false when a character is not in it. `to`
 * has room for as many bytes as the text. */
static bool alphabet_read(const struct alphabet *alphabet, const char *text, size_t count, char *to, size_t *bytes) {
    *bytes = 0;
    for (size_t i = 0; i < count;) {
        unsigned a = (uint8_t)text[i++], code = a;
        if (a >= 0xE0) return false;
        if (a >= 0x80) {
            if (i == count) return false;
            code = (a & 0x1F) << 6 | ((uint8_t)text[i++] & 0x3F);
        }
        if (code >= ALPHABET_END || alphabet->byte_of[code] < 0) return false;
        to[(*bytes)++] = (char)alphabet->byte_of[code];
    }
    return true;
}

/* ---- writing -------------------------------------------------------------------------------------- */
static void print_token(struct json_writer *out, const struct tokenizer *tokenizer, const struct alphabet *alphabet,
                        uint32_t id, char *scratch) {
    size_t length = text_pool_length(&tokenizer->tokens, id);
    const char *bytes = text_pool_text(&tokenizer->tokens, id);
    if (tokenizer->added[id]) {
        memcpy(scratch, bytes, length);
        scratch[length] = 0;
    } else {
        alphabet_write(alphabet, bytes, length, scratch);
    }
    json_quoted(out, scratch);
}

static void print_added(struct json_writer *out, const struct tokenizer *tokenizer, const struct alphabet *alphabet,
                        char *scratch) {
    const char *comma = "";
    json_raw(out, "\"added_tokens\":[");
    for (uint32_t id = 0; id < tokenizer->tokens.count; id++) {
        if (!tokenizer->added[id]) continue;
        json_format(out, "%s{\"id\":%u,\"content\":", comma, id);
        print_token(out, tokenizer, alphabet, id, scratch);
        json_format(out,
                    ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
                    tokenizer->special[id] ? "true" : "false");
        comma = ",";
    }
    json_raw(out, "],\n");
}

static void print_model(struct json_writer *out, const struct tokenizer *tokenizer, const struct alphabet *alphabet,
                        char *scratch) {
    json_raw(out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                  "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\n"
                  "\"vocab\":{");
    for (uint32_t id = 0; id < tokenizer->tokens.count; id++) {
        json_raw(out, id ? ",\n" : "\n");
        print_token(out, tokenizer, alphabet, id, scratch);
        json_format(out, ":%u", id);
    }
    json_raw(out, "},\n\"merges\":[");
    for (size_t i = 0; i < tokenizer->merge_count; i++) {
        const struct merge *merge = &tokenizer->merges[i];
        const struct text_pool *tokens = &tokenizer->tokens;
        json_raw(out, i ? ",\n" : "\n");
        alphabet_write(alphabet, text_pool_text(tokens, merge->left), text_pool_length(tokens, merge->left), scratch);
        size_t used = strlen(scratch);
        scratch[used++] = ' ';
        alphabet_write(alphabet, text_pool_text(tokens, merge->right), text_pool_length(tokens, merge->right),
                       scratch + used);
        json_quoted(out, scratch);
    }
    json_raw(out, "]}");
}

int tokenizer_print(const struct tokenizer *tokenizer, char **json, size_t *bytes) {
    int status = 0;
    struct json_writer out = {0};
    struct alphabet alphabet;
    void *scratch = NULL;
    size_t longest = 0;
    *json = NULL;
    *bytes = 0;
    for (size_t i = 0; i < tokenizer->tokens.count; i++)
        if (text_pool_length(&tokenizer->tokens, i) > longest) longest = text_pool_length(&tokenizer->tokens, i);
    TRY(memory_take(&scratch, 4 * longest + 4, 1)); /* two tokens, two bytes a byte, a blank, a zero */
    alphabet_fill(&alphabet);
    json_raw(&out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    print_added(&out, tokenizer, &alphabet, scratch);
    json_raw(&out, tokenizer->lower_case ? "\"normalizer\":{\"type\":\"Lowercase\"},\n" : "\"normalizer\":null,\n");
    json_raw(&out, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                   "\"use_regex\":true},\n\"post_processor\":null,\n\"decoder\":{\"type\":\"ByteLevel\","
                   "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\n");
    print_model(&out, tokenizer, &alphabet, scratch);
    json_raw(&out, "}\n");
    TRY(out.status);
    *json = out.text;
    *bytes = out.bytes;
    out.text = NULL;
out:
    json_writer_close(&out);
    memory_release(scratch);
    return status;
}

int tokenizer_save(const struct tokenizer *tokenizer, const char *path) {
    int status = 0;
    struct file_replace file = {.file = -1};
    char *json = NULL;
    size_t bytes;
    TRY(tokenizer_print(tokenizer, &json, &bytes));
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, json, bytes));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    memory_release(json);
    return status;
}

/* ---- reading: what we cannot do ------------------------------------------------------------------- */
/* Absent, null, false or "" all mean "not used". */
static bool is_unset(const struct json *node) {
    return !node || node->type == JSON_NULL || node->type == JSON_FALSE ||
           (node->type == JSON_STRING && node->text_bytes == 0);
}

static bool has_type(const struct json *node, const char *type) {
    const struct json *member = json_member(node, "type");
    return member && member->type == JSON_STRING && strcmp(member->text, type) == 0;
}

static int check_supported(const struct json *root, bool *lower_case) {
    static const char *const unused[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                                         "ignore_merges"};
    int status = 0;
    const struct json *model = json_member(root, "model"), *normalizer = json_member(root, "normalizer");
    const struct json *split = json_member(root, "pre_tokenizer");
    if (root->type != JSON_OBJECT || !model) FAIL(E_FORMAT, "needs an object with a member 'model'");
    if (!has_type(model, "BPE")) FAIL(E_UNSUPPORTED, "model.type must be \"BPE\"");
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++)
        if (!is_unset(json_member(model, unused[i]))) FAIL(E_UNSUPPORTED, "model.%s is not supported", unused[i]);
    *lower_case = has_type(normalizer, "Lowercase");
    if (!*lower_case && !is_unset(normalizer)) FAIL(E_UNSUPPORTED, "normalizer must be null or of type \"Lowercase\"");
    if (!has_type(split, "ByteLevel")) FAIL(E_UNSUPPORTED, "pre_tokenizer must be of type \"ByteLevel\"");
    if (!is_unset(json_member(split, "add_prefix_space")))
        FAIL(E_UNSUPPORTED, "pre_tokenizer.add_prefix_space is not supported");
    const struct json *pattern = json_member(split, "use_regex");
    if (pattern && pattern->type != JSON_TRUE) FAIL(E_UNSUPPORTED, "pre_tokenizer.use_regex must be true");
out:
    return status;
}

/* ---- reading: tokens ------------------------------------------------------------------------------ */
/* The file's tokens by id, before they enter the pool. */
struct listed {
    const char *text;
    size_t bytes;
    bool added, special;
};

static int list_vocabulary(const struct json *vocabulary, struct listed *listed, size_t room) {
    int status = 0;
    for (const struct json *member = vocabulary->child; member; member = member->next) {
        uint64_t id;
        TRY(json_u64(member, "an id in model.vocab", &id));
        if (id >= room || listed[id].text)
            FAIL(E_FORMAT, "model.vocab: id %zu of '%.100s' is %s", (size_t)id, member->key,
                 id >= room ? "too large: ids must have no gaps" : "used twice");
        listed[id] = (struct listed){.text = member->key, .bytes = strlen(member->key)};
    }
out:
    return status;
}

static int list_added(const struct json *added, struct listed *listed, size_t room) {
    int status = 0;
    for (const struct json *item = added ? added->child : NULL; item; item = item->next) {
        uint64_t id;
        const char *content;
        TRY(json_u64(json_member(item, "id"), "id in added_tokens", &id));
        TRY(json_text(json_member(item, "content"), "content in added_tokens", &content));
        if (id >= room || (listed[id].text && (listed[id].added || strcmp(listed[id].text, content) != 0)))
            FAIL(E_FORMAT, "added_tokens: id %zu of '%.100s' is %s", (size_t)id, content,
                 id >= room ? "too large: ids must have no gaps" : "used twice");
        const struct json *special = json_member(item, "special");
        listed[id] = (struct listed){
            .text = content, .bytes = strlen(content), .added = true, .special = special && special->type == JSON_TRUE};
    }
out:
    return status;
}

static int read_tokens(struct tokenizer *tokenizer, const struct json *root, const struct alphabet *alphabet,
                       char *scratch) {
    int status = 0;
    void *block = NULL;
    struct listed *listed = NULL;
    const struct json *vocabulary = json_member(json_member(root, "model"), "vocab");
    const struct json *added = json_member(root, "added_tokens");
    if (!vocabulary || vocabulary->type != JSON_OBJECT) FAIL(E_FORMAT, "model.vocab must be an object of ids");
    if (!is_unset(added) && added->type != JSON_ARRAY) FAIL(E_FORMAT, "added_tokens must be an array");
    size_t room = vocabulary->count + (added ? added->count : 0), count = 0;
    if (room > VOCABULARY_MAX) FAIL(E_LIMIT, "%zu tokens are more than the %u allowed", room, VOCABULARY_MAX);
    TRY(memory_take(&block, room, sizeof *listed));
    listed = block;
    TRY(memory_take(&block, room, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, room, 1));
    tokenizer->added = block;
    TRY(list_vocabulary(vocabulary, listed, room));
    TRY(list_added(added, listed, room));
    for (size_t id = 0; id < room; id++) count += listed[id].text != NULL;
    for (size_t id = 0; id < count; id++) {
        const struct listed *token = &listed[id];
        uint32_t index;
        size_t bytes = token->bytes;
        const char *text = token->text;
        if (!text) FAIL(E_FORMAT, "no token has id %zu: ids must have no gaps", id);
        if (!bytes) FAIL(E_FORMAT, "the token with id %zu is empty", id);
        if (!token->added) {
            if (!alphabet_read(alphabet, text, bytes, scratch, &bytes))
                FAIL(E_FORMAT, "model.vocab: '%.100s' has a character that stands for no byte", text);
            text = scratch;
        }
        TRY(text_pool_add(&tokenizer->tokens, text, bytes, &index));
        if (index != id) FAIL(E_FORMAT, "tokens %u and %zu are the same: '%.100s'", index, id, token->text);
        tokenizer->special[id] = token->special;
        tokenizer->added[id] = token->added;
    }
out:
    memory_release(listed);
    return status;
}

/* ---- reading: merges ------------------------------------------------------------------------------ */
/* "left right" or ["left","right"]. */
static bool merge_sides(const struct json *item, const char *side[2], size_t bytes[2]) {
    if (item->type == JSON_STRING) {
        const char *blank = memchr(item->text, ' ', item->text_bytes);
        if (!blank) return false;
        side[0] = item->text;
        bytes[0] = (size_t)(blank - item->text);
        side[1] = blank + 1;
        bytes[1] = item->text_bytes - bytes[0] - 1;
    } else {
        if (item->type != JSON_ARRAY || item->count != 2) return false;
        const struct json *left = item->child, *right = left->next;
        if (left->type != JSON_STRING || right->type != JSON_STRING) return false;
        side[0] = left->text;
        bytes[0] = left->text_bytes;
        side[1] = right->text;
        bytes[1] = right->text_bytes;
    }
    return bytes[0] && bytes[1];
}

static int read_merges(struct tokenizer *tokenizer, const struct json *merges, const struct alphabet *alphabet,
                       char *scratch) {
    int status = 0;
    void *block = NULL;
    if (!merges || merges->type != JSON_ARRAY) FAIL(E_FORMAT, "model.merges must be an array");
    TRY(memory_take(&block, merges->count, sizeof *tokenizer->merges));
    tokenizer->merges = block;
    for (const struct json *item = merges->child; item; item = item->next) {
        const char *side[2];
        size_t bytes[2], used = 0;
        uint32_t id[3];
        if (!merge_sides(item, side, bytes))
            FAIL(E_FORMAT, "merge %zu must be \"left right\" or a pair", tokenizer->merge_count);
        for (int i = 0; i < 2; i++) {
            size_t length = 0;
            bool known = alphabet_read(alphabet, side[i], bytes[i], scratch + used, &length);
            id[i] = known ? text_pool_find(&tokenizer->tokens, scratch + used, length) : MAP_NONE;
            used += length;
        }
        id[2] = text_pool_find(&tokenizer->tokens, scratch, used);
        for (int i = 0; i < 3; i++)
            if (id[i] == MAP_NONE || tokenizer->added[id[i]])
                FAIL(E_FORMAT, "merge %zu: %s is not in model.vocab", tokenizer->merge_count,
                     i == 0   ? "its left side"
                     : i == 1 ? "its right side"
                              : "what it makes");
        tokenizer->merges[tokenizer->merge_count++] = (struct merge){id[0], id[1], id[2]};
    }
out:
    return status;
}

int tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t bytes) {
    int status = 0;
    struct json_document document = {0};
    struct tokenizer *fresh = NULL;
    struct alphabet alphabet;
    void *scratch = NULL;
    *tokenizer = NULL;
    TRY(json_open(&document, json, bytes));
    const struct json *root = json_root(&document);
    TRY(tokenizer_new(&fresh, TOKENIZER_BYTE_BPE, &byte_bpe_traits));
    TRY(check_supported(root, &fresh->lower_case));
    TRY(memory_take(&scratch, bytes, 1)); /* decoding never lengthens, and no string is longer than the file */
    alphabet_fill(&alphabet);
    TRY(read_tokens(fresh, root, &alphabet, scratch));
    TRY(read_merges(fresh, json_member(json_member(root, "model"), "merges"), &alphabet, scratch));
    TRY(tokenizer_finish(fresh));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    memory_release(scratch);
    json_close(&document);
    return status;
}

int tokenizer_load(struct tokenizer **tokenizer, const char *path) {
    int status = 0;
    char *bytes = NULL;
    size_t count;
    *tokenizer = NULL;
    TRY(file_read(path, FILE_BYTES_MAX, &bytes, &count));
    status = tokenizer_parse(tokenizer, bytes, count);
    if (status < 0) error_prefix(status, "%s", path);
out:
    memory_release(bytes);
    return status;
}
