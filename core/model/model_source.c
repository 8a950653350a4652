/* Opening by content: a folder is Hugging Face's; a file starts with "GGUF", or with eight bytes of length and a
 * brace (safetensors), or is llama2.c's if its size is exactly what its header asks for. */
#include "model/model_source.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

#define CONFIG_BYTES_MAX (16u << 20)

static bool has_pooler(const struct tensor_list *list) {
    return tensor_list_find(list, "pooler.dense.weight") || tensor_list_find(list, "bert.pooler.dense.weight");
}

/* What `architectures` say is what was saved last; the tensors say what is there. BertModel without its pooler has
 * nothing that says so but the missing tensor. A pooler beside a masked-LM head is what a classifier learns on top of,
 * and a language-model head is one whatever class is named, if any: transformers' classes for these take them, too. */
static void settle_heads(struct model_config *config, const struct tensor_list *list) {
    const struct family *family = family_find(config->family);
    if (config->model_heads & HEAD_POOLER && !has_pooler(list)) config->model_heads &= ~(unsigned)HEAD_POOLER;
    if (family->heads & HEAD_POOLER && !(config->model_heads & (HEAD_CLASSIFICATION | HEAD_SPAN)) && has_pooler(list))
        config->model_heads |= HEAD_POOLER;
    if (family->heads & HEAD_CAUSAL_LM && tensor_list_find(list, "lm_head.weight"))
        config->model_heads |= HEAD_CAUSAL_LM;
}

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), ending_length = strlen(ending);
    return length >= ending_length && strcmp(text + length - ending_length, ending) == 0;
}

/* A folder without config.json is none of Hugging Face's, but may hold a file that is a model by itself. */
static int refuse_folder(const char *path) {
    int status = 0;
    DIR *directory = opendir(path);
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        if (ends_with(entry->d_name, ".gguf"))
            FAIL(E_IO, "%s: the folder has no config.json; did you mean the file '%s/%s'?", path, path, entry->d_name);
    FAIL(E_IO, "%s: the folder has no config.json, as a model of Hugging Face's has", path);
out:
    if (directory) closedir(directory);
    return status;
}

static int open_folder(struct model_source *source, const char *path, struct model_config *config) {
    int status = 0;
    char *file_path = NULL, *text = NULL;
    size_t length = strlen(path), bytes = 0;
    void *block;

    source->kind = SOURCE_HUGGINGFACE;
    TRY(memory_take(&block, length + 32, 1));
    file_path = block;
    snprintf(file_path, length + 32, "%s/config.json", path);
    if (access(file_path, F_OK) != 0 && errno == ENOENT) TRY(refuse_folder(path));
    TRY(file_read(file_path, CONFIG_BYTES_MAX, &text, &bytes));
    status = model_config_parse(config, text, bytes);
    if (status < 0) {
        error_prefix(status, "%s", file_path);
        goto out;
    }
    TRY(pooling_read(path, &config->pooling));
    TRY(shards_open(&source->shards, path));
    source->list = (struct tensor_list){source->shards.tensors, source->shards.count};
    settle_heads(config, &source->list);
out:
    memory_release(file_path);
    memory_release(text);
    return status;
}

static int open_artifact(struct model_source *source, const char *path, struct model_config *config) {
    int status = 0;
    const char *text;
    source->kind = SOURCE_ARTIFACT;
    TRY(safetensors_open(&source->artifact, path));
    source->list = (struct tensor_list){source->artifact.tensors, source->artifact.count};
    text = safetensors_metadata(&source->artifact, "config");
    if (!text)
        FAIL(E_FORMAT,
             "%s: no \"config\" in its metadata: not a model file of runexp (a Hugging Face model is "
             "opened by its folder)",
             path);
    status = model_config_parse(config, text, strlen(text));
    if (status < 0) error_prefix(status, "%s: config", path);
out:
    return status;
}

static int open_gguf(struct model_source *source, const char *path, struct model_config *config) {
    int status = 0;
    source->kind = SOURCE_GGUF;
    TRY(gguf_open(&source->gguf, path));
    source->list = (struct tensor_list){source->gguf.tensors, source->gguf.tensor_count};
    status = gguf_config(&source->gguf, config, &source->interleaved);
    if (status < 0) error_prefix(status, "%s", path);
out:
    return status;
}

static int open_llama2c(struct model_source *source, const char *path, struct model_config *config) {
    int status = 0;
    source->kind = SOURCE_LLAMA2C;
    TRY(llama2c_open(&source->llama2c, path));
    source->list = (struct tensor_list){source->llama2c.tensors, source->llama2c.count};
    status = llama2c_config(&source->llama2c, config);
    source->interleaved = config->head_width;
    if (status < 0) error_prefix(status, "%s", path);
out:
    return status;
}

/* The kind of a regular file. Whatever is neither GGUF nor of llama2.c's exact size is safetensors' to refuse. */
static int file_kind(const char *path, enum source_kind *kind) {
    int status = 0;
    uint8_t start[9] = {0};
    struct file_map map;
    struct llama2c llama2c;
    TRY(file_map_open(&map, path));
    if (map.count) memcpy(start, map.bytes, map.count < sizeof start ? map.count : sizeof start);
    file_map_close(&map);
    *kind = SOURCE_ARTIFACT;
    if (memcmp(start, "GGUF", 4) == 0) {
        *kind = SOURCE_GGUF;
    } else if (start[8] != '{' && llama2c_open(&llama2c, path) == 0) {
        *kind = SOURCE_LLAMA2C;
        llama2c_close(&llama2c);
    }
out:
    return status;
}

/* ---- tensors by name -------------------------------------------------------------------------------- */

const struct tensor *source_tensor(const struct model_source *source, const char *name) {
    const struct tensor *tensor = tensor_list_find(&source->list, name);
    if (tensor) source->used[tensor - source->list.tensors] = true;
    return tensor;
}

/* By Hugging Face's name, without the body's prefix, or with the old names of a norm's gain and bias. */
static const struct tensor *find_once(const struct model_source *source, const char *name) {
    char other[MODEL_NAME_BYTES + 8];
    const char *prefix = source->family->prefix, *ending = strrchr(name, '.');
    size_t length = prefix ? strlen(prefix) : 0;
    const struct tensor *tensor = source_tensor(source, name);
    if (!tensor && length && strncmp(name, prefix, length) == 0) tensor = source_tensor(source, name + length);
    if (!tensor && ending && ending - name > 9 && strncmp(ending - 9, "LayerNorm", 9) == 0) {
        snprintf(other, sizeof other, "%.*s%s", (int)(ending - name), name,
                 strcmp(ending, ".weight") == 0 ? ".gamma" : ".beta");
        tensor = source_tensor(source, other);
        if (!tensor && length && strncmp(other, prefix, length) == 0) tensor = source_tensor(source, other + length);
    }
    return tensor;
}

/* The same, or where the head is tied by its other name. */
static const struct tensor *find_spelling(const struct model_source *source, const char *name) {
    const struct tensor *tensor = find_once(source, name);
    bool tied = source->kind == SOURCE_HUGGINGFACE && source->config->tied;
    for (const struct tied_tensor *pair = source->family->tied; !tensor && tied && pair->copy; pair++)
        if (strcmp(pair->original, name) == 0) tensor = find_once(source, pair->copy);
    return tensor;
}

/* Whether two tensors hold the same values, in whatever types. */
static int tensors_equal(const struct tensor *a, const struct tensor *b, bool *equal) {
    int status = 0;
    void *block = NULL;
    size_t rows = a->dimensions == 2 ? a->shape[0] : 1, columns = rows ? a->count / rows : 0;
    *equal = a->dimensions == b->dimensions && memcmp(a->shape, b->shape, a->dimensions * sizeof *a->shape) == 0;
    if (!*equal || a->count == 0) goto out;
    if (a->dtype == b->dtype) {
        *equal = memcmp(a->data, b->data, a->bytes) == 0;
        goto out;
    }
    *equal = dtype_is_real(a->dtype) && dtype_is_real(b->dtype);
    TRY(memory_take(&block, 2 * columns, sizeof(float)));
    float *left = block, *right = left + columns;
    for (size_t r = 0; r < rows && *equal; r++) {
        tensor_rows_to_f32(a, r, r + 1, left);
        tensor_rows_to_f32(b, r, r + 1, right);
        *equal = memcmp(left, right, columns * sizeof *left) == 0;
    }
out:
    memory_release(block);
    return status;
}

/* A file may hold both tensors that its config ties. Where they differ the config is wrong, and they count as they are
 * (transformers 5 does so); a family whose head cannot be untied refuses them. */
static int settle_tied(struct model_source *source, struct model_config *config) {
    int status = 0;
    bool head = config->model_heads & (HEAD_CAUSAL_LM | HEAD_MASKED_LM);
    if (source->kind != SOURCE_HUGGINGFACE || !config->tied || !head) goto out;
    for (const struct tied_tensor *pair = source->family->tied; pair->copy; pair++) {
        const struct tensor *copy = tensor_list_find(&source->list, pair->copy);
        const struct tensor *original = copy ? find_once(source, pair->original) : NULL;
        bool equal = !original;
        if (original) TRY(tensors_equal(copy, original, &equal));
        if (equal) continue;
        if (!(source->family->heads & HEAD_CAUSAL_LM))
            FAIL(E_UNSUPPORTED, "tensors '%s' and '%s' differ, but the head of a %s model must be tied", copy->name,
                 original->name, source->family->name);
        config->tied = false;
    }
out:
    return status;
}

int source_place(void *context, const struct layout_entry *entry, struct value_place *place) {
    int status = 0;
    const struct model_source *source = context;
    struct stored_tensor stored = {.total = entry->kind == PARAMETER_VECTOR ? entry->columns : entry->rows};

    *place = (struct value_place){.total = stored.total};
    if (source->kind == SOURCE_HUGGINGFACE) {
        layout_stored(entry, &stored);
        *place = (struct value_place){.first = stored.first, .total = stored.total, .transposed = stored.transposed};
    } else if (source->kind == SOURCE_GGUF) {
        TRY(gguf_place(entry, source->config, stored.name, place));
    } else {
        snprintf(stored.name, sizeof stored.name, "%s", entry->name);
    }
    if (entry->row->part == PART_QUERY || entry->row->part == PART_KEY) place->interleaved = source->interleaved;
    place->tensor = find_spelling(source, stored.name);
    if (!place->tensor) FAIL(E_NOT_FOUND, "tensor '%s' is missing", stored.name);
out:
    return status;
}

int source_check_used(const struct model_source *source) {
    int status = 0;
    for (size_t i = 0; i < source->list.count; i++) {
        const char *name = source->list.tensors[i].name;
        bool fine = source->used[i];
        if (source->kind == SOURCE_GGUF && source->config->position == POSITION_ROTARY)
            fine = fine || strcmp(name, GGUF_ROTARY_FACTORS) == 0;
        for (size_t j = 0; source->kind == SOURCE_HUGGINGFACE && !fine && source->family->ignored[j]; j++)
            fine = ends_with(name, source->family->ignored[j]);
        if (!fine)
            FAIL(E_SHAPE, "tensor '%.120s' is not part of the model that the config describes (%s, %zu layers)", name,
                 source->config->family, source->config->layers);
    }
out:
    return status;
}

/* ---- open and close ---------------------------------------------------------------------------------- */

int model_source_open(struct model_source *source, const char *path, struct model_config *config) {
    int status = 0;
    struct stat info;
    enum source_kind kind;
    void *block;

    memset(source, 0, sizeof *source);
    if (stat(path, &info) < 0) FAIL(E_IO, "%s: cannot be opened (%s)", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) {
        TRY(open_folder(source, path, config));
    } else {
        TRY(file_kind(path, &kind));
        if (kind == SOURCE_GGUF) TRY(open_gguf(source, path, config));
        else if (kind == SOURCE_LLAMA2C) TRY(open_llama2c(source, path, config));
        else TRY(open_artifact(source, path, config));
    }
    source->family = family_find(config->family);
    source->config = config;
    TRY(memory_take(&block, source->list.count, sizeof *source->used));
    source->used = block;
    status = settle_tied(source, config);
    if (status < 0) error_prefix(status, "%s", path);
out:
    if (status < 0) model_source_close(source);
    return status;
}

void model_source_close(struct model_source *source) {
    safetensors_close(&source->artifact);
    shards_close(&source->shards);
    gguf_close(&source->gguf);
    llama2c_close(&source->llama2c);
    memory_release(source->used);
    memset(source, 0, sizeof *source);
}
