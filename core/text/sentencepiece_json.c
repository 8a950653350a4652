/* SentencePiece models as tokenizer.json has them: BPE with byte fallback (Llama, Mistral, Gemma) and Unigram (T5,
 * XLM-RoBERTa), with the normalizers, pre-tokenizers and decoders of those families; anything else is refused by name.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_json.h"

#include <string.h>

static bool text_is(const struct json *node, const char *text) {
    return node && node->type == JSON_STRING && strcmp(node->text, text) == 0;
}

/* The items of a Sequence in turn, or the one object itself. */
static const struct json *first_item(const struct json *node, const char *type, const char *list) {
    if (!json_has_type(node, type)) return json_unset(node) ? NULL : node;
    const struct json *items = json_member(node, list);
    return items ? items->child : NULL;
}
static const struct json *next_item(const struct json *node, const struct json *item) {
    return item == node ? NULL : item->next;
}

/* ---- normalizers ---------------------------------------------------------------------------------- */
static int add_step(struct text_pipeline *pipeline, enum text_step step) {
    int status = 0;
    if (pipeline->step_count == STEPS_MAX) FAIL(E_UNSUPPORTED, "normalizer: more than %d steps", STEPS_MAX);
    pipeline->steps[pipeline->step_count++] = step;
out:
    return status;
}

/* Standard base64; *bytes of the result. */
static int decode_base64(const struct json *node, uint8_t **blob, size_t *bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int status = 0;
    void *block = NULL;
    *bytes = 0;
    if (!node || node->type != JSON_STRING) FAIL(E_FORMAT, "normalizer: precompiled_charsmap must be a string");
    TRY(memory_take(&block, node->text_bytes, 1));
    *blob = block;
    uint32_t bits = 0;
    for (size_t i = 0, filled = 0; i < node->text_bytes && node->text[i] != '='; i++) {
        const char *digit = node->text[i] ? strchr(digits, node->text[i]) : NULL;
        if (!digit) FAIL(E_FORMAT, "normalizer: precompiled_charsmap is not base64 at character %zu", i);
        bits = bits << 6 | (uint32_t)(digit - digits);
        filled += 6;
        if (filled < 8) continue;
        filled -= 8;
        (*blob)[(*bytes)++] = (uint8_t)(bits >> filled);
    }
out:
    return status;
}

static int read_rules(struct sentencepiece *model, const struct json *item) {
    int status = 0;
    uint8_t *blob = NULL;
    size_t bytes;
    if (model->charsmap.units) FAIL(E_UNSUPPORTED, "normalizer: two of type Precompiled");
    TRY(decode_base64(json_member(item, "precompiled_charsmap"), &blob, &bytes));
    charsmap_close(&model->charsmap);
    TRY(charsmap_open(&model->charsmap, blob, bytes));
    TRY(add_step(model->pipeline, STEP_RULES));
out:
    memory_release(blob);
    return status;
}

static int read_replace(struct text_pipeline *pipeline, const struct json *item) {
    int status = 0;
    const struct json *pattern = json_member(item, "pattern"), *content = json_member(item, "content");
    const struct json *text = json_member(pattern, "String"), *regex = json_member(pattern, "Regex");
    bool symbol = text_is(content, SPACE_SYMBOL);
    if (text_is(text, " ") && symbol) TRY(add_step(pipeline, STEP_SPACES));
    else if (text_is(regex, " {2,}") && symbol) TRY(add_step(pipeline, STEP_COLLAPSE_SYMBOL));
    else if (text_is(regex, " {2,}") && text_is(content, " ")) TRY(add_step(pipeline, STEP_COLLAPSE_BLANK));
    else FAIL(E_UNSUPPORTED, "normalizer: this Replace is not one of those supported");
out:
    return status;
}

static int read_normalizer(struct sentencepiece *model, const struct json *node) {
    int status = 0;
    struct text_pipeline *pipeline = model->pipeline;
    for (const struct json *item = first_item(node, "Sequence", "normalizers"); item; item = next_item(node, item)) {
        if (json_has_type(item, "Precompiled")) {
            TRY(read_rules(model, item));
        } else if (json_has_type(item, "Replace")) {
            TRY(read_replace(pipeline, item));
        } else if (json_has_type(item, "Prepend") && text_is(json_member(item, "prepend"), SPACE_SYMBOL)) {
            TRY(add_step(pipeline, STEP_PREPEND));
        } else if (json_has_type(item, "Strip")) {
            if (json_says_yes(json_member(item, "strip_left"))) TRY(add_step(pipeline, STEP_STRIP_LEFT));
            if (json_says_yes(json_member(item, "strip_right"))) TRY(add_step(pipeline, STEP_STRIP_RIGHT));
        } else {
            const struct json *type = json_member(item, "type");
            FAIL(E_UNSUPPORTED, "normalizer %.100s is not supported with this model",
                 type && type->type == JSON_STRING ? type->text : "of no type");
        }
    }
out:
    return status;
}

/* ---- pre-tokenizers and decoders ------------------------------------------------------------------ */
static int read_scheme(const struct json *item, enum prefix_scheme *scheme) {
    int status = 0;
    const struct json *name = json_member(item, "prepend_scheme"), *old = json_member(item, "add_prefix_space");
    if (!text_is(json_member(item, "replacement"), SPACE_SYMBOL))
        FAIL(E_UNSUPPORTED, "Metaspace: replacement must be U+2581");
    if (json_unset(name)) *scheme = !old || json_says_yes(old) ? PREFIX_ALWAYS : PREFIX_NEVER;
    else if (text_is(name, "always")) *scheme = PREFIX_ALWAYS;
    else if (text_is(name, "first")) *scheme = PREFIX_FIRST;
    else if (text_is(name, "never")) *scheme = PREFIX_NEVER;
    else FAIL(E_UNSUPPORTED, "Metaspace: prepend_scheme must be always, first or never");
out:
    return status;
}

static int read_pre_tokenizer(struct text_pipeline *pipeline, const struct json *node) {
    int status = 0;
    for (const struct json *item = first_item(node, "Sequence", "pretokenizers"); item; item = next_item(node, item)) {
        if (json_has_type(item, "WhitespaceSplit") && !pipeline->metaspace) {
            pipeline->whitespace_split = true;
        } else if (json_has_type(item, "Metaspace") && !pipeline->metaspace) {
            const struct json *split = json_member(item, "split");
            TRY(read_scheme(item, &pipeline->prefix));
            pipeline->metaspace = true;
            pipeline->metaspace_split = !split || json_says_yes(split);
        } else {
            FAIL(E_UNSUPPORTED, "pre_tokenizer must be Metaspace, or WhitespaceSplit and Metaspace");
        }
    }
    if (pipeline->whitespace_split && !pipeline->metaspace)
        FAIL(E_UNSUPPORTED, "pre_tokenizer: WhitespaceSplit without Metaspace is not supported");
out:
    return status;
}

static int read_decoder(struct text_pipeline *pipeline, const struct json *node) {
    int status = 0;
    enum prefix_scheme scheme;
    pipeline->strip = STRIP_NOTHING;
    for (const struct json *item = first_item(node, "Sequence", "decoders"); item; item = next_item(node, item)) {
        if (json_has_type(item, "Metaspace")) {
            TRY(read_scheme(item, &scheme));
            if (scheme != PREFIX_NEVER) pipeline->strip = STRIP_FIRST_TOKEN;
        } else if (json_has_type(item, "Strip")) {
            uint64_t start, stop;
            TRY(json_u64(json_member(item, "start"), "decoder: start", &start));
            TRY(json_u64(json_member(item, "stop"), "decoder: stop", &stop));
            if (!text_is(json_member(item, "content"), " ") || start != 1 || stop)
                FAIL(E_UNSUPPORTED, "decoder: Strip must take one blank from the start");
            pipeline->strip = STRIP_ONE_BLANK;
        } else if (json_has_type(item, "Replace")) {
            const struct json *pattern = json_member(json_member(item, "pattern"), "String");
            if (!text_is(pattern, SPACE_SYMBOL) || !text_is(json_member(item, "content"), " "))
                FAIL(E_UNSUPPORTED, "decoder: Replace must turn U+2581 into a blank");
        } else if (json_has_type(item, "ByteFallback")) {
            pipeline->decode_bytes = true;
        } else if (!json_has_type(item, "Fuse")) {
            FAIL(E_UNSUPPORTED, "decoder must be of Metaspace, Replace, ByteFallback, Fuse and Strip");
        }
    }
out:
    return status;
}

/* ---- tokens --------------------------------------------------------------------------------------- */
static bool spells_byte(const struct token_listed *token) {
    return token->bytes == 6 && memcmp(token->text, "<0x", 3) == 0 && token->text[5] == '>';
}

/* scores: model.vocab of a Unigram model, NULL for BPE. */
static int add_tokens(struct tokenizer *tokenizer, const struct token_list *list, const struct json *scores) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct json *entry = scores ? scores->child : NULL;
    for (size_t id = 0; id < list->count; id++, entry = entry ? entry->next : NULL) {
        const struct token_listed *token = &list->items[id];
        /* A Unigram model looks up what is in its own vocabulary, and nothing that is added behind it. */
        enum piece_type type = scores && !entry ? PIECE_UNUSED : token->special ? PIECE_CONTROL : PIECE_NORMAL;
        double score = 0;
        if (entry) TRY(json_number(json_item(entry, 1), "a score in model.vocab", &score));
        if (model->byte_fallback && spells_byte(token)) type = PIECE_BYTE;
        if (model->unknown == (int32_t)id) {
            model->unknown = -1;
            type = PIECE_UNKNOWN;
        }
        TRY(sentencepiece_add(tokenizer, token->text, token->bytes, score, type));
    }
out:
    return status;
}

static int list_pairs(struct token_list *list, const struct json *vocabulary) {
    int status = 0;
    size_t id = 0;
    for (const struct json *entry = vocabulary->child; entry; entry = entry->next, id++) {
        const struct json *text = json_item(entry, 0);
        if (entry->type != JSON_ARRAY || entry->count != 2 || text->type != JSON_STRING)
            FAIL(E_FORMAT, "model.vocab: entry %zu must be a pair of text and score", id);
        list->items[id] = (struct token_listed){.text = text->text, .bytes = text->text_bytes};
    }
out:
    return status;
}

static int add_merge(struct tokenizer *tokenizer, const struct json *item, uint32_t rank, char *scratch) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct text_pool *tokens = &tokenizer->tokens;
    const char *side[2] = {NULL, NULL};
    size_t bytes[2];
    const struct json *left = item->type == JSON_ARRAY && item->count == 2 ? item->child : NULL;
    if (item->type == JSON_STRING && !merge_split(item->text, item->text_bytes, side, bytes)) side[0] = NULL;
    if (left && left->type == JSON_STRING && left->next->type == JSON_STRING) {
        side[0] = left->text;
        bytes[0] = left->text_bytes;
        side[1] = left->next->text;
        bytes[1] = left->next->text_bytes;
    }
    if (!side[0]) FAIL(E_FORMAT, "merge %u must be \"left right\" or a pair", rank);
    memcpy(scratch, side[0], bytes[0]);
    memcpy(scratch + bytes[0], side[1], bytes[1]);
    uint32_t from = text_pool_find(tokens, side[0], bytes[0]), with = text_pool_find(tokens, side[1], bytes[1]);
    uint32_t result = text_pool_find(tokens, scratch, bytes[0] + bytes[1]);
    if (from == MAP_NONE || with == MAP_NONE || result == MAP_NONE)
        FAIL(E_FORMAT, "merge %u: a side or what it makes is not in model.vocab", rank);
    TRY(merge_table_add(&model->merges, from, with, (struct merge_rule){rank, result}));
out:
    return status;
}

/* ---- the models ----------------------------------------------------------------------------------- */
static int read_around(struct tokenizer *tokenizer, const struct json *root) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    void *block = NULL;
    TRY(memory_take(&block, 1, sizeof *model->pipeline));
    model->pipeline = block;
    TRY(read_normalizer(model, json_member(root, "normalizer")));
    TRY(read_pre_tokenizer(model->pipeline, json_member(root, "pre_tokenizer")));
    TRY(read_decoder(model->pipeline, json_member(root, "decoder")));
    model->byte_fallback = json_says_yes(json_member(json_member(root, "model"), "byte_fallback"));
out:
    return status;
}

/* Derive the tables; flags of added tokens come from the list. */
static int finish_tokens(struct tokenizer *tokenizer, const struct token_list *list, const struct json *root) {
    int status = 0;
    TRY(sentencepiece_finish(tokenizer));
    for (size_t id = 0; id < list->count; id++) {
        tokenizer->special[id] = list->items[id].special;
        tokenizer->added[id] = list->items[id].added;
    }
    TRY(added_index_build(tokenizer));
    tokenizer_name_special(tokenizer);
    TRY(tokenizer_read_templates(tokenizer, root));
out:
    return status;
}

static int read_bpe(struct tokenizer *tokenizer, const struct json *root, struct token_list *list, char *scratch) {
    static const char *const unused[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct json *settings = json_member(root, "model"), *merges = json_member(settings, "merges");
    const struct json *vocabulary = json_member(settings, "vocab"), *unknown = json_member(settings, "unk_token");
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (!json_unset(json_member(settings, unused[i]))) FAIL(E_UNSUPPORTED, "model.%s is not supported", unused[i]);
    if (!vocabulary || vocabulary->type != JSON_OBJECT) FAIL(E_FORMAT, "model.vocab must be an object of ids");
    if (!merges || merges->type != JSON_ARRAY) FAIL(E_FORMAT, "model.merges must be an array");
    model->fuse_unknown = json_says_yes(json_member(settings, "fuse_unk"));
    model->ignore_merges = json_says_yes(json_member(settings, "ignore_merges"));
    TRY(token_list_open(list, root, vocabulary->count));
    TRY(token_list_vocabulary(list, vocabulary));
    TRY(token_list_added(list, root));
    for (size_t id = 0; id < list->count; id++)
        if (!json_unset(unknown) && text_is(unknown, list->items[id].text)) model->unknown = (int32_t)id;
    TRY(add_tokens(tokenizer, list, NULL));
    uint32_t rank = 0;
    for (const struct json *item = merges->child; item; item = item->next)
        TRY(add_merge(tokenizer, item, rank++, scratch));
    TRY(finish_tokens(tokenizer, list, root));
out:
    return status;
}

static int read_unigram(struct tokenizer *tokenizer, const struct json *root, struct token_list *list) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct json *settings = json_member(root, "model"), *vocabulary = json_member(settings, "vocab");
    const struct json *unknown = json_member(settings, "unk_id");
    uint64_t id;
    if (!vocabulary || vocabulary->type != JSON_ARRAY) FAIL(E_FORMAT, "model.vocab must be an array of pairs");
    model->double_scores = true;
    TRY(token_list_open(list, root, vocabulary->count));
    TRY(list_pairs(list, vocabulary));
    TRY(token_list_added(list, root));
    if (!json_unset(unknown)) {
        TRY(json_u64(unknown, "model.unk_id", &id));
        if (id >= list->count) FAIL(E_FORMAT, "model.unk_id %zu is outside the vocabulary", (size_t)id);
        model->unknown = (int32_t)id;
    }
    TRY(add_tokens(tokenizer, list, vocabulary));
    TRY(finish_tokens(tokenizer, list, root));
out:
    return status;
}

int sentencepiece_read_json(struct tokenizer **tokenizer, const struct json *root, size_t bytes,
                            enum tokenizer_kind kind) {
    int status = 0;
    struct tokenizer *fresh = NULL;
    struct token_list list = {0};
    void *scratch = NULL;
    *tokenizer = NULL;
    TRY(sentencepiece_new(&fresh, kind));
    TRY(memory_take(&scratch, bytes, 1)); /* no two strings of the file together are longer than the file */
    TRY(read_around(fresh, root));
    if (kind == TOKENIZER_SENTENCE_BPE) TRY(read_bpe(fresh, root, &list, scratch));
    else TRY(read_unigram(fresh, root, &list));
    *tokenizer = fresh;
    fresh = NULL;
out:
    tokenizer_free(fresh);
    token_list_close(&list);
    memory_release(scratch);
    return status;
}
