/* tokenizer.json of Hugging Face's tokenizers: what all kinds of models in it share.
 *
 * What the file asks for and we cannot do is refused by name rather than ignored, because ignoring it would give other
 * ids.
 */
#include "text/tokenizer_json.h"

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "text/byte_alphabet.h"

#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX (256u << 20)

bool json_unset(const struct json *node) {
    return !node || node->type == JSON_NULL || node->type == JSON_FALSE ||
           (node->type == JSON_STRING && node->text_bytes == 0) || (node->type == JSON_ARRAY && node->count == 0);
}

bool json_says_yes(const struct json *node) { return node && node->type == JSON_TRUE; }

bool json_has_type(const struct json *node, const char *type) {
    const struct json *member = json_member(node, "type");
    return member && member->type == JSON_STRING && strcmp(member->text, type) == 0;
}

/* ---- tokens --------------------------------------------------------------------------------------- */
int token_list_open(struct token_list *list, const struct json *root, size_t vocabulary) {
    int status = 0;
    void *block = NULL;
    const struct json *added = json_member(root, "added_tokens");
    if (!json_unset(added) && added->type != JSON_ARRAY) FAIL(E_FORMAT, "added_tokens must be an array");
    size_t room = vocabulary + (added ? added->count : 0);
    if (room > VOCABULARY_MAX) FAIL(E_LIMIT, "%zu tokens are more than the %u allowed", room, VOCABULARY_MAX);
    TRY(memory_take(&block, room, sizeof *list->items));
    *list = (struct token_list){.items = block, .room = room};
out:
    return status;
}

void token_list_close(struct token_list *list) {
    memory_release(list->items);
    *list = (struct token_list){0};
}

int token_list_vocabulary(struct token_list *list, const struct json *vocabulary) {
    int status = 0;
    for (const struct json *member = vocabulary->child; member; member = member->next) {
        uint64_t id;
        TRY(json_u64(member, "an id in model.vocab", &id));
        if (id >= list->room || list->items[id].text)
            FAIL(E_FORMAT, "model.vocab: id %zu of '%.100s' is %s", (size_t)id, member->key,
                 id >= list->room ? "too large: ids must have no gaps" : "used twice");
        list->items[id] = (struct token_listed){.text = member->key, .bytes = strlen(member->key)};
    }
out:
    return status;
}

static int list_added_token(struct token_list *list, uint64_t id, const struct json *item, bool normalizes) {
    int status = 0;
    const char *content;
    TRY(json_text(json_member(item, "content"), "content in added_tokens", &content));
    struct token_listed *listed = id < list->room ? &list->items[id] : NULL;
    if (!listed || (listed->text && (listed->added || strcmp(listed->text, content) != 0)))
        FAIL(E_FORMAT, "added_tokens: id %zu of '%.100s' is %s", (size_t)id, content,
             !listed ? "too large: ids must have no gaps" : "used twice");
    if (json_says_yes(json_member(item, "single_word")))
        FAIL(E_UNSUPPORTED, "added_tokens: single_word of '%.100s' is not supported", content);
    *listed = (struct token_listed){.text = content,
                                    .bytes = strlen(content),
                                    .added = ADDED,
                                    .special = json_says_yes(json_member(item, "special"))};
    if (json_says_yes(json_member(item, "lstrip"))) listed->added |= ADDED_STRIP_LEFT;
    if (json_says_yes(json_member(item, "rstrip"))) listed->added |= ADDED_STRIP_RIGHT;
    if (json_says_yes(json_member(item, "normalized")) && normalizes)
        FAIL(E_UNSUPPORTED, "added_tokens: normalized of '%.100s' is not supported beside a normalizer", content);
out:
    return status;
}

int token_list_added(struct token_list *list, const struct json *root) {
    int status = 0;
    const struct json *added = json_member(root, "added_tokens");
    bool normalizes = !json_unset(json_member(root, "normalizer"));
    for (const struct json *item = added ? added->child : NULL; item; item = item->next) {
        uint64_t id;
        TRY(json_u64(json_member(item, "id"), "id in added_tokens", &id));
        TRY(list_added_token(list, id, item, normalizes));
    }
    for (size_t id = 0; id < list->room; id++) list->count += list->items[id].text != NULL;
    for (size_t id = 0; id < list->count; id++) {
        if (!list->items[id].text) FAIL(E_FORMAT, "no token has id %zu: ids must have no gaps", id);
        if (!list->items[id].bytes) FAIL(E_FORMAT, "the token with id %zu is empty", id);
    }
out:
    return status;
}

/* Added and special where it has the text of one of these. */
static void list_special(struct token_list *list, const char *const *special) {
    for (size_t id = 0; id < list->room; id++)
        for (const char *const *name = special; name && *name && list->items[id].text; name++)
            if (strcmp(list->items[id].text, *name) == 0) {
                list->items[id].added |= ADDED;
                list->items[id].special = true;
            }
}

int token_list_beside(struct token_list *list, const struct beside_merges *beside, bool normalizes) {
    int status = 0;
    for (const struct json *item = beside->decoder ? beside->decoder->child : NULL; item; item = item->next) {
        char *end;
        uint64_t id = strtoull(item->key, &end, 10);
        if (end == item->key || *end || item->key[0] == '-')
            FAIL(E_FORMAT, "added_tokens_decoder: '%.100s' is no id", item->key);
        TRY(list_added_token(list, id, item, normalizes));
    }
    for (const struct json *item = beside->added ? beside->added->child : NULL; item; item = item->next) {
        uint64_t id;
        TRY(json_u64(item, "an id in added_tokens.json", &id));
        struct token_listed *listed = id < list->room ? &list->items[id] : NULL;
        if (!listed || (listed->text && strcmp(listed->text, item->key) != 0))
            FAIL(E_FORMAT, "added_tokens.json: id %zu of '%.100s' is %s", (size_t)id, item->key,
                 listed ? "used twice" : "too large: ids must have no gaps");
        if (!listed->text) *listed = (struct token_listed){.text = item->key, .bytes = strlen(item->key)};
        listed->added |= ADDED;
    }
    list_special(list, beside->special);
out:
    return status;
}

int token_list_store(const struct token_list *list, struct tokenizer *tokenizer, const struct byte_alphabet *alphabet,
                     char *scratch) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, list->count, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, list->count, 1));
    tokenizer->added = block;
    for (size_t id = 0; id < list->count; id++) {
        const struct token_listed *token = &list->items[id];
        uint32_t index;
        size_t bytes = token->bytes;
        const char *text = token->text;
        if (!token->added && alphabet) {
            if (!byte_alphabet_read(alphabet, text, bytes, scratch, &bytes))
                FAIL(E_FORMAT, "model.vocab: '%.100s' has a character that stands for no byte", text);
            text = scratch;
        }
        TRY(text_pool_add(&tokenizer->tokens, text, bytes, &index));
        if (index != id) FAIL(E_FORMAT, "tokens %u and %zu are the same: '%.100s'", index, id, token->text);
        tokenizer->special[id] = token->special;
        tokenizer->added[id] = token->added;
    }
out:
    return status;
}

/* ---- what stands around a text -------------------------------------------------------------------- */
static int read_template_id(const struct tokenizer *tokenizer, const struct json *node, int32_t *id) {
    int status = 0;
    uint64_t value;
    TRY(json_u64(node, "a token id in post_processor", &value));
    if (value >= tokenizer->tokens.count)
        FAIL(E_FORMAT, "post_processor: id %zu is outside the vocabulary", (size_t)value);
    *id = (int32_t)value;
out:
    return status;
}

static int read_template(const struct tokenizer *tokenizer, const struct json *processor, const char *name,
                         struct token_template *template) {
    int status = 0;
    const struct json *items = json_member(processor, name), *named = json_member(processor, "special_tokens");
    for (const struct json *item = items ? items->child : NULL; item; item = item->next) {
        const struct json *special = json_member(item, "SpecialToken");
        const struct json *node = special ? special : json_member(item, "Sequence");
        const char *text;
        uint64_t type = 0;
        TRY(json_text(json_member(node, "id"), "id in post_processor", &text));
        if (json_member(node, "type_id")) TRY(json_u64(json_member(node, "type_id"), "type_id", &type));
        if (type > 1) FAIL(E_UNSUPPORTED, "post_processor: type_id %zu is not supported", (size_t)type);
        enum template_part part = strcmp(text, "B") == 0 ? TEMPLATE_SECOND : TEMPLATE_FIRST;
        if (!special && !template_add(template, part, -1, (int32_t)type)) FAIL(E_LIMIT, "post_processor is too long");
        const struct json *ids = special ? json_member(json_member(named, text), "ids") : NULL;
        if (special && !ids) FAIL(E_FORMAT, "post_processor.special_tokens does not list '%.100s'", text);
        for (const struct json *node_id = ids ? ids->child : NULL; node_id; node_id = node_id->next) {
            int32_t id = -1;
            TRY(read_template_id(tokenizer, node_id, &id));
            if (!template_add(template, TEMPLATE_ID, id, (int32_t)type)) FAIL(E_LIMIT, "post_processor is too long");
        }
    }
out:
    return status;
}

/* BertProcessing: cls A sep B sep, the second text of type 1; RobertaProcessing: cls A sep sep B sep, all of type 0. */
static int read_cls_sep(struct tokenizer *tokenizer, const struct json *processor, bool roberta) {
    int status = 0;
    int32_t cls = -1, sep = -1, type = roberta ? 0 : 1;
    TRY(read_template_id(tokenizer, json_item(json_member(processor, "cls"), 1), &cls));
    TRY(read_template_id(tokenizer, json_item(json_member(processor, "sep"), 1), &sep));
    tokenizer_frame(tokenizer, cls, sep, roberta ? sep : -1, type);
out:
    return status;
}

static int read_processor(struct tokenizer *tokenizer, const struct json *processor) {
    int status = 0;
    if (json_unset(processor) || json_has_type(processor, "ByteLevel")) return 0;
    if (json_has_type(processor, "Sequence")) {
        const struct json *list = json_member(processor, "processors");
        for (const struct json *item = list ? list->child : NULL; item; item = item->next) {
            if (json_has_type(item, "Sequence")) FAIL(E_UNSUPPORTED, "post_processor: a Sequence inside a Sequence");
            TRY(read_processor(tokenizer, item));
        }
        return 0;
    }
    if (tokenizer->single.count) FAIL(E_UNSUPPORTED, "post_processor: more than one template");
    if (json_has_type(processor, "TemplateProcessing")) {
        TRY(read_template(tokenizer, processor, "single", &tokenizer->single));
        TRY(read_template(tokenizer, processor, "pair", &tokenizer->pair));
    } else if (json_has_type(processor, "BertProcessing") || json_has_type(processor, "RobertaProcessing")) {
        TRY(read_cls_sep(tokenizer, processor, json_has_type(processor, "RobertaProcessing")));
    } else {
        FAIL(E_UNSUPPORTED, "post_processor of this type is not supported");
    }
out:
    return status;
}

int tokenizer_read_templates(struct tokenizer *tokenizer, const struct json *root) {
    return read_processor(tokenizer, json_member(root, "post_processor"));
}

/* ---- the whole file ------------------------------------------------------------------------------- */
int tokenizer_parse_with(struct tokenizer **tokenizer, const char *json, size_t bytes, const struct json *decoder) {
    int status = 0;
    struct json_document document = {0};
    struct json *joined = NULL;
    *tokenizer = NULL;
    TRY(json_open(&document, json, bytes));
    TRY(json_join_added(&document, decoder, &joined));
    const struct json *root = json_root(&document), *model = json_member(root, "model");
    if (root->type != JSON_OBJECT || !model) FAIL(E_FORMAT, "needs an object with a member 'model'");
    if (json_has_type(model, "WordPiece")) status = wordpiece_read_json(tokenizer, root, bytes);
    else if (json_has_type(model, "Unigram"))
        status = sentencepiece_read_json(tokenizer, root, bytes, TOKENIZER_UNIGRAM);
    else if (json_has_type(model, "BPE") && json_says_yes(json_member(model, "byte_fallback")))
        status = sentencepiece_read_json(tokenizer, root, bytes, TOKENIZER_SENTENCE_BPE);
    else if (json_has_type(model, "BPE")) status = byte_bpe_read_json(tokenizer, root, bytes);
    else FAIL(E_UNSUPPORTED, "model.type must be \"BPE\", \"Unigram\" or \"WordPiece\"");
out:
    json_close(&document);
    memory_release(joined);
    return status;
}

int tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t bytes) {
    return tokenizer_parse_with(tokenizer, json, bytes, NULL);
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
