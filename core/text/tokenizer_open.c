/* Opening tokenizer files by their content, and folders as Hugging Face's libraries write them.
 *
 * A folder's tokenizer_config.json and special_tokens_map.json say which tokens begin and end a text, which pad, and
 * of WordPiece what is done to letters; what it says counts before what tokenizer.json does, as in transformers.
 */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "text/tokenizer_json.h"
#include "text/wordpiece.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (256u << 20)
#define PATH_BYTES 4096

/* FOLDER/name into path; false when there is no such file. */
static bool find_file(const char *folder, const char *name, char path[PATH_BYTES]) {
    int length = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return length > 0 && length < PATH_BYTES && access(path, R_OK) == 0;
}

/* ---- one file ------------------------------------------------------------------------------------- */
static int open_gguf(struct tokenizer **tokenizer, const char *path) {
    int status = 0;
    struct gguf file = {0};
    TRY(gguf_open(&file, path));
    status = tokenizer_from_gguf(tokenizer, &file);
    if (status < 0) error_prefix(status, "%s", path);
out:
    gguf_close(&file);
    return status;
}

/* What training or a technique left: the tokenizer of its model is part of an artifact's metadata. */
static int open_artifact(struct tokenizer **tokenizer, const char *path) {
    int status = 0;
    struct safetensors file = {0};
    TRY(safetensors_open(&file, path));
    const char *text = safetensors_metadata(&file, "tokenizer");
    if (!text) FAIL(E_FORMAT, "%s: holds tensors and no tokenizer: name one as tokenizer: {path: FILE}", path);
    status = tokenizer_parse(tokenizer, text, strlen(text));
    if (status < 0) error_prefix(status, "%s", path);
out:
    safetensors_close(&file);
    return status;
}

/* A .model file begins with its first piece: field 1, of length kind. No vocab.txt begins with an empty line. */
static int parse_content(struct tokenizer **tokenizer, const char *bytes, size_t count) {
    size_t at = strspn(bytes, " \t\r\n");
    if (at < count && bytes[at] == '{') return tokenizer_parse(tokenizer, bytes, count);
    if (count && bytes[0] == '\n') return tokenizer_parse_sentencepiece(tokenizer, bytes, count);
    return tokenizer_parse_vocab(tokenizer, bytes, count, true);
}

static int open_file(struct tokenizer **tokenizer, const char *path) {
    int status = 0;
    char magic[9] = "", *bytes = NULL;
    size_t count;
    FILE *file = fopen(path, "rb");
    if (file && fread(magic, 1, sizeof magic, file) < 4) magic[0] = 0;
    if (file) fclose(file);
    if (memcmp(magic, "GGUF", 4) == 0) return open_gguf(tokenizer, path);
    /* safetensors: the length of a JSON header in eight bytes, of which no text has four zeros. */
    if (memcmp(magic + 4, "\0\0\0\0{", 5) == 0) return open_artifact(tokenizer, path);
    TRY(file_read(path, FILE_BYTES_MAX, &bytes, &count));
    status = parse_content(tokenizer, bytes, count);
    if (status < 0) error_prefix(status, "%s", path);
out:
    memory_release(bytes);
    return status;
}

/* ---- a folder's settings -------------------------------------------------------------------------- */
struct settings {
    struct json_document config, map, added, model;
    char *config_text, *map_text, *added_text, *model_text;
};

static int read_json(const char *folder, const char *name, struct json_document *document, char **text) {
    int status = 0;
    char path[PATH_BYTES];
    size_t bytes;
    if (!find_file(folder, name, path)) return 0;
    TRY(file_read(path, FILE_BYTES_MAX, text, &bytes));
    status = json_open(document, *text, bytes);
    if (status < 0) error_prefix(status, "%s", path);
out:
    return status;
}

static void settings_close(struct settings *settings) {
    json_close(&settings->config);
    json_close(&settings->map);
    json_close(&settings->added);
    json_close(&settings->model);
    memory_release(settings->config_text);
    memory_release(settings->map_text);
    memory_release(settings->added_text);
    memory_release(settings->model_text);
}

/* The text of a token in the settings, written as a string or as an object with content; NULL when absent. */
static const char *token_text(const struct settings *settings, const char *key) {
    const struct json_document *documents[2] = {&settings->config, &settings->map};
    for (int i = 0; i < 2; i++) {
        const struct json *node = documents[i]->nodes ? json_member(json_root(documents[i]), key) : NULL;
        if (node && node->type == JSON_OBJECT) node = json_member(node, "content");
        if (node && node->type == JSON_STRING) return node->text;
    }
    return NULL;
}

static bool is_set(const struct settings *settings, const char *key, bool otherwise) {
    const struct json *node = settings->config.nodes ? json_member(json_root(&settings->config), key) : NULL;
    return !node || node->type == JSON_NULL ? otherwise : node->type == JSON_TRUE;
}

static const struct json *object_of(const struct json *node) { return node && node->type == JSON_OBJECT ? node : NULL; }

static const char *member_text(const struct json_document *document, const char *key) {
    const struct json *node = document->nodes ? json_member(json_root(document), key) : NULL;
    return node && node->type == JSON_STRING ? node->text : NULL;
}

enum { NAME_KEYS = 7 };
static const char *const name_keys[NAME_KEYS] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                                 "cls_token", "sep_token", "mask_token"};

/* vocab.json with merges.txt, and the tokens that the folder adds. */
static int open_merges(struct tokenizer **tokenizer, const char *vocabulary_path, const char *merges_path,
                       const struct settings *settings) {
    int status = 0;
    char *vocabulary = NULL, *merges = NULL;
    size_t vocabulary_bytes, merges_bytes, named = 0;
    const char *special[NAME_KEYS + 1] = {NULL};
    const struct json *config = settings->config.nodes ? json_root(&settings->config) : NULL;
    struct beside_merges beside = {
        .decoder = object_of(json_member(config, "added_tokens_decoder")),
        .added = settings->added.nodes ? object_of(json_root(&settings->added)) : NULL,
        .special = special,
        .class = member_text(&settings->config, "tokenizer_class"),
        .model_type = member_text(&settings->model, "model_type"),
    };
    for (size_t i = 0; i < NAME_KEYS; i++) {
        special[named] = token_text(settings, name_keys[i]);
        named += special[named] != NULL;
    }
    TRY(file_read(vocabulary_path, FILE_BYTES_MAX, &vocabulary, &vocabulary_bytes));
    TRY(file_read(merges_path, FILE_BYTES_MAX, &merges, &merges_bytes));
    status = byte_bpe_read_merges(tokenizer, vocabulary, vocabulary_bytes, merges, merges_bytes, &beside);
    if (status < 0) error_prefix(status, "%s", merges_path);
out:
    memory_release(vocabulary);
    memory_release(merges);
    return status;
}

/* Tokens that the settings name and the vocabulary has. */
static void apply_names(struct tokenizer *tokenizer, const struct settings *settings) {
    struct tokenizer_special *names = &tokenizer->names;
    const struct {
        const char *key;
        int32_t *id;
    } row[] = {{"bos_token", &names->begin},   {"eos_token", &names->end}, {"pad_token", &names->pad},
               {"unk_token", &names->unknown}, {"cls_token", &names->cls}, {"sep_token", &names->sep},
               {"mask_token", &names->mask}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const char *text = token_text(settings, row[i].key);
        uint32_t id = text ? text_pool_find(&tokenizer->tokens, text, strlen(text)) : MAP_NONE;
        if (id != MAP_NONE) *row[i].id = (int32_t)id;
    }
}

static const struct json *of_settings(const struct settings *settings, const char *key) {
    return settings->config.nodes ? json_member(json_root(&settings->config), key) : NULL;
}

/* A token that the settings name as special and the vocabulary has is found in texts, as transformers has it. */
static bool mark_special(struct tokenizer *tokenizer, const struct json *node) {
    const struct json *content = node && node->type == JSON_OBJECT ? json_member(node, "content") : node;
    bool text = content && content->type == JSON_STRING && content->text_bytes;
    uint32_t id = text ? text_pool_find(&tokenizer->tokens, content->text, content->text_bytes) : MAP_NONE;
    if (id == MAP_NONE || tokenizer->added[id]) return false;
    tokenizer->added[id] = ADDED;
    if (json_says_yes(json_member(node, "lstrip"))) tokenizer->added[id] |= ADDED_STRIP_LEFT;
    if (json_says_yes(json_member(node, "rstrip"))) tokenizer->added[id] |= ADDED_STRIP_RIGHT;
    tokenizer->special[id] = 1;
    return true;
}

static int mark_named(struct tokenizer *tokenizer, const struct settings *settings) {
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    int status = 0;
    bool marked = false;
    for (size_t i = 0; i < NAME_KEYS; i++) marked |= mark_special(tokenizer, of_settings(settings, name_keys[i]));
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const struct json *list = of_settings(settings, lists[i]);
        for (const struct json *item = list ? list->child : NULL; item; item = item->next)
            marked |= mark_special(tokenizer, item);
    }
    if (marked) TRY(added_index_build(tokenizer));
out:
    return status;
}

/* BERT's normalizer: accents go with capitals where nothing is said of them. */
static void apply_normalizer(struct tokenizer *tokenizer, const struct settings *settings) {
    if (tokenizer->kind != TOKENIZER_WORDPIECE) return;
    struct wordpiece_settings *normal = wordpiece_settings_of(tokenizer);
    bool lower_case = is_set(settings, "do_lower_case", normal->lower_case);
    bool accents = lower_case == normal->lower_case ? normal->strip_accents : lower_case;
    normal->lower_case = lower_case;
    normal->strip_accents = is_set(settings, "strip_accents", accents);
    normal->split_chinese = is_set(settings, "tokenize_chinese_chars", normal->split_chinese);
}

/* Neither vocab.json with merges.txt nor a .model file says what stands around a text: add_bos_token and add_eos_token
 * do, and where they are silent there is what there was. */
static void apply_frame(struct tokenizer *tokenizer, const struct settings *settings) {
    bool begin = is_set(settings, "add_bos_token", tokenizer->single.count > 0) && tokenizer->names.begin >= 0;
    bool end = is_set(settings, "add_eos_token", false) && tokenizer->names.end >= 0;
    tokenizer->single.count = 0;
    if (begin) template_add(&tokenizer->single, TEMPLATE_ID, tokenizer->names.begin, 0);
    template_add(&tokenizer->single, TEMPLATE_FIRST, -1, 0);
    if (end) template_add(&tokenizer->single, TEMPLATE_ID, tokenizer->names.end, 0);
}

/* eos_token_id of one of a folder's files: a number, or several. A negative one is no token's. */
static int add_ends(struct tokenizer *tokenizer, const struct json *ids) {
    int status = 0;
    uint64_t id;
    const struct json *item = ids && ids->type == JSON_ARRAY ? ids->child : ids;
    for (; item && item->type != JSON_NULL; item = ids->type == JSON_ARRAY ? item->next : NULL) {
        if (item->type == JSON_NUMBER && *item->text == '-') continue;
        TRY(json_u64(item, "eos_token_id", &id));
        tokenizer_end_add(tokenizer, id);
    }
out:
    return status;
}

/* Where a folder says how to generate, its config.json is not asked. */
static int apply_ends(struct tokenizer *tokenizer, const char *folder) {
    static const char *const files[] = {"generation_config.json", "config.json"};
    int status = 0;
    struct json_document document = {0};
    char *text = NULL;
    size_t i = 0;
    while (i < sizeof files / sizeof *files && !document.nodes) TRY(read_json(folder, files[i++], &document, &text));
    if (!document.nodes) goto out;
    status = add_ends(tokenizer, json_member(json_root(&document), "eos_token_id"));
    if (status < 0) error_prefix(status, "%s/%s", folder, files[i - 1]);
out:
    json_close(&document);
    memory_release(text);
    return status;
}

static int open_json(struct tokenizer **tokenizer, const char *path, const struct settings *settings) {
    int status = 0;
    char *bytes = NULL;
    size_t count;
    TRY(file_read(path, FILE_BYTES_MAX, &bytes, &count));
    status = tokenizer_parse_with(tokenizer, bytes, count, object_of(of_settings(settings, "added_tokens_decoder")));
    if (status < 0) error_prefix(status, "%s", path);
out:
    memory_release(bytes);
    return status;
}

static int open_folder(struct tokenizer **tokenizer, const char *folder) {
    int status = 0;
    struct settings settings = {0};
    char path[PATH_BYTES], merges[PATH_BYTES];
    TRY(read_json(folder, "tokenizer_config.json", &settings.config, &settings.config_text));
    TRY(read_json(folder, "special_tokens_map.json", &settings.map, &settings.map_text));
    if (find_file(folder, "tokenizer.json", path)) {
        TRY(open_json(tokenizer, path, &settings));
        TRY(mark_named(*tokenizer, &settings));
    } else if (find_file(folder, "tokenizer.model", path)) {
        TRY(open_file(tokenizer, path));
        apply_names(*tokenizer, &settings);
        apply_frame(*tokenizer, &settings);
    } else if (find_file(folder, "vocab.json", path) && find_file(folder, "merges.txt", merges)) {
        TRY(read_json(folder, "added_tokens.json", &settings.added, &settings.added_text));
        TRY(read_json(folder, "config.json", &settings.model, &settings.model_text));
        TRY(open_merges(tokenizer, path, merges, &settings));
        apply_names(*tokenizer, &settings);
        apply_frame(*tokenizer, &settings);
    } else if (find_file(folder, "vocab.txt", path)) {
        TRY(open_file(tokenizer, path));
    } else {
        FAIL(E_IO, "%s holds no tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt", folder);
    }
    apply_names(*tokenizer, &settings);
    apply_normalizer(*tokenizer, &settings);
    TRY(apply_ends(*tokenizer, folder));
    if ((*tokenizer)->kind == TOKENIZER_BYTE_BPE && is_set(&settings, "add_prefix_space", false))
        FAIL(E_UNSUPPORTED, "%s/tokenizer_config.json: add_prefix_space is not supported", folder);
out:
    if (status < 0) {
        tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
    settings_close(&settings);
    return status;
}

int tokenizer_open(struct tokenizer **tokenizer, const char *path) {
    struct stat entry;
    *tokenizer = NULL;
    if (stat(path, &entry) == 0 && S_ISDIR(entry.st_mode)) return open_folder(tokenizer, path);
    return open_file(tokenizer, path);
}
