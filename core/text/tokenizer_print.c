/* Writing byte-level BPE as Hugging Face's tokenizer.json: what tokenizer_parse reads back as the same tokenizer. */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/json.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer_parts.h"

#include <string.h>

static void print_token(struct json_writer *out, const struct tokenizer *tokenizer,
                        const struct byte_alphabet *alphabet, uint32_t id, char *scratch) {
    size_t length = text_pool_length(&tokenizer->tokens, id);
    const char *bytes = text_pool_text(&tokenizer->tokens, id);
    if (tokenizer->added[id]) {
        memcpy(scratch, bytes, length);
        scratch[length] = 0;
    } else {
        byte_alphabet_write(alphabet, bytes, length, scratch);
    }
    json_quoted(out, scratch);
}

static void print_added(struct json_writer *out, const struct tokenizer *tokenizer,
                        const struct byte_alphabet *alphabet, char *scratch) {
    const char *comma = "";
    json_raw(out, "\"added_tokens\":[");
    for (uint32_t id = 0; id < tokenizer->tokens.count; id++) {
        if (!tokenizer->added[id]) continue;
        json_format(out, "%s{\"id\":%u,\"content\":", comma, id);
        print_token(out, tokenizer, alphabet, id, scratch);
        json_format(out, ",\"single_word\":false,\"lstrip\":%s,\"rstrip\":%s,\"normalized\":false,\"special\":%s}",
                    tokenizer->added[id] & ADDED_STRIP_LEFT ? "true" : "false",
                    tokenizer->added[id] & ADDED_STRIP_RIGHT ? "true" : "false",
                    tokenizer->special[id] ? "true" : "false");
        comma = ",";
    }
    json_raw(out, "],\n");
}

static void print_model(struct json_writer *out, const struct tokenizer *tokenizer,
                        const struct byte_alphabet *alphabet, char *scratch) {
    json_raw(out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                  "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false");
    json_format(out, ",\"ignore_merges\":%s,\n\"vocab\":{", tokenizer->ignore_merges ? "true" : "false");
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
        byte_alphabet_write(alphabet, text_pool_text(tokens, merge->left), text_pool_length(tokens, merge->left),
                            scratch);
        size_t used = strlen(scratch);
        scratch[used++] = ' ';
        byte_alphabet_write(alphabet, text_pool_text(tokens, merge->right), text_pool_length(tokens, merge->right),
                            scratch + used);
        json_quoted(out, scratch);
    }
    json_raw(out, "]}");
}

static void print_normalizer(struct json_writer *out, const struct normal_steps *steps) {
    static const char *const types[] = {[NORMAL_COMPOSED] = "NFC", [NORMAL_LOWER] = "Lowercase"};
    json_raw(out, "\"normalizer\":");
    if (!steps->count) json_raw(out, "null");
    if (steps->count > 1) json_raw(out, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (size_t i = 0; i < steps->count; i++)
        json_format(out, "%s{\"type\":\"%s\"}", i ? "," : "", types[steps->step[i]]);
    if (steps->count > 1) json_raw(out, "]}");
    json_raw(out, ",\n");
}

/* GPT-2's pattern is ByteLevel's own, others are a Split before it. */
static void print_pre_tokenizer(struct json_writer *out, const struct tokenizer *tokenizer) {
    bool own = tokenizer->pattern == WORD_GPT2, sequence = !own || tokenizer->digits_alone;
    json_raw(out, "\"pre_tokenizer\":");
    if (sequence) json_raw(out, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    if (tokenizer->digits_alone) json_raw(out, "{\"type\":\"Digits\",\"individual_digits\":true},");
    if (!own) {
        json_raw(out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
        json_quoted(out, word_pattern_text(tokenizer->pattern));
        json_raw(out, "},\"behavior\":\"Isolated\",\"invert\":false},");
    }
    json_format(out, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":%s}%s,\n",
                own ? "true" : "false", sequence ? "]}" : "");
}

static void print_template(struct json_writer *out, const char *name, const struct token_template *template) {
    static const char *const texts[] = {[TEMPLATE_FIRST] = "A", [TEMPLATE_SECOND] = "B"};
    json_format(out, "\"%s\":[", name);
    for (size_t i = 0; i < template->count; i++) {
        bool is_id = template->items[i].part == TEMPLATE_ID;
        json_format(out, "%s{\"%s\":{\"id\":", i ? "," : "", is_id ? "SpecialToken" : "Sequence");
        if (is_id) json_format(out, "\"%d\"", template->items[i].id);
        else json_quoted(out, texts[template->items[i].part]);
        json_format(out, ",\"type_id\":%d}}", template->items[i].type);
    }
    json_raw(out, "],");
}

/* A TemplateProcessing whose special tokens are named by their ids in digits. */
static void print_post_processor(struct json_writer *out, const struct tokenizer *tokenizer) {
    const struct token_template *templates[] = {&tokenizer->single, &tokenizer->pair};
    const char *comma = "";
    if (!tokenizer->single.count && !tokenizer->pair.count) {
        json_raw(out, "\"post_processor\":null,\n");
        return;
    }
    json_raw(out, "\"post_processor\":{\"type\":\"TemplateProcessing\",");
    print_template(out, "single", templates[0]);
    print_template(out, "pair", templates[1]);
    json_raw(out, "\"special_tokens\":{");
    int32_t named[2 * TEMPLATE_MAX];
    size_t count = 0;
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < templates[t]->count; i++) {
            int32_t id = templates[t]->items[i].id;
            bool skip = templates[t]->items[i].part != TEMPLATE_ID;
            for (size_t k = 0; k < count && !skip; k++) skip = named[k] == id;
            if (skip) continue;
            named[count++] = id;
            json_format(out, "%s\"%d\":{\"id\":\"%d\",\"ids\":[%d]}", comma, id, id, id);
            comma = ",";
        }
    json_raw(out, "}},\n");
}

int tokenizer_print(const struct tokenizer *tokenizer, char **json, size_t *bytes) {
    int status = 0;
    struct json_writer out = {0};
    struct byte_alphabet alphabet;
    void *scratch = NULL;
    size_t longest = 0;
    *json = NULL;
    *bytes = 0;
    if (tokenizer->kind != TOKENIZER_BYTE_BPE)
        FAIL(E_UNSUPPORTED, "only byte-level BPE is written as tokenizer.json; keep the file it came from");
    for (size_t i = 0; i < tokenizer->tokens.count; i++)
        if (text_pool_length(&tokenizer->tokens, i) > longest) longest = text_pool_length(&tokenizer->tokens, i);
    TRY(memory_take(&scratch, 4 * longest + 4, 1)); /* two tokens, two bytes a byte, a blank, a zero */
    byte_alphabet_fill(&alphabet);
    json_raw(&out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    print_added(&out, tokenizer, &alphabet, scratch);
    print_normalizer(&out, &tokenizer->steps);
    print_pre_tokenizer(&out, tokenizer);
    print_post_processor(&out, tokenizer);
    json_raw(&out, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                   "\"use_regex\":true},\n");
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
