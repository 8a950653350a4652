/* Embeddings of whole sequences, and how sentence-transformers' folders say they are made: modules.json lists what
 * follows the model, 1_Pooling/config.json which tokens count. Of its modes three are one mean over a stretch of
 * tokens: all of them (mean; mean_sqrt_len_tokens differs in length alone, which no cosine sees), the first (cls), the
 * last (lasttoken). What would give other embeddings is refused by name. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "kernels/kernels.h"
#include "model/family.h"

#define TEXT_BYTES_MAX (1u << 20)
#define WITHOUT "; take modules.json away to use the model without"

/* Names of the modes, and of the fields that older files have for them. */
static const struct mode {
    const char *name, *field;
    enum model_pooling pooling;
} modes[] = {
    {"mean", "pooling_mode_mean_tokens", POOLING_MEAN},
    {"mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", POOLING_MEAN},
    {"cls", "pooling_mode_cls_token", POOLING_FIRST},
    {"lasttoken", "pooling_mode_lasttoken", POOLING_LAST},
};
#define MODES (sizeof modes / sizeof *modes)

const char *pooling_name(enum model_pooling pooling) {
    size_t i = 0;
    while (modes[i].pooling != pooling) i++;
    return modes[i].name;
}

int pooling_parse(const struct json *node, enum model_pooling *pooling) {
    int status = 0;
    const char *name;
    if (node->type == JSON_ARRAY && node->count == 1) node = node->child;
    if (node->type == JSON_ARRAY) FAIL(E_UNSUPPORTED, "pooling_mode: several modes are not supported");
    TRY(json_text(node, "pooling_mode", &name));
    for (size_t i = 0; i < MODES; i++)
        if (strcmp(name, modes[i].name) == 0) {
            *pooling = modes[i].pooling;
            goto out;
        }
    FAIL(E_UNSUPPORTED, "pooling_mode \"%.40s\" is not supported (mean, cls and lasttoken are)", name);
out:
    return status;
}

/* ---- a folder of sentence-transformers ------------------------------------------------------------------- */

/* A truth for each mode; none set is the mean. */
static int parse_truths(const struct json *root, enum model_pooling *pooling) {
    int status = 0;
    size_t found = 0;
    *pooling = POOLING_MEAN;
    for (const struct json *field = root->child; field; field = field->next) {
        size_t i = 0;
        if (strncmp(field->key, "pooling_mode_", 13) != 0 || field->type != JSON_TRUE) continue;
        while (i < MODES && strcmp(field->key, modes[i].field) != 0) i++;
        if (i == MODES) FAIL(E_UNSUPPORTED, "%.60s is not supported (mean, cls and lasttoken are)", field->key);
        if (found++) FAIL(E_UNSUPPORTED, "several modes of pooling are not supported");
        *pooling = modes[i].pooling;
    }
out:
    return status;
}

static int parse_pooling(const struct json *root, enum model_pooling *pooling) {
    if (root->type != JSON_OBJECT) return error_record(E_FORMAT, __FILE__, __LINE__, "expected an object");
    const struct json *mode = json_member(root, "pooling_mode");
    return mode ? pooling_parse(mode, pooling) : parse_truths(root, pooling);
}

/* Parse one file; what it says is an error with the path in front. */
static int read_file(const char *path, int (*parse)(const struct json *root, void *context), void *context) {
    int status = 0;
    struct json_document document = {0};
    char *text = NULL;
    size_t bytes;
    TRY(file_read(path, TEXT_BYTES_MAX, &text, &bytes));
    status = json_open(&document, text, bytes);
    if (status == 0) status = parse(json_root(&document), context);
    if (status < 0) error_prefix(status, "%s", path);
out:
    json_close(&document);
    memory_release(text);
    return status;
}

struct modules {
    const char *folder;
    char *path; /* of the pooling's config, room for PATH_ROOM more than the folder */
    enum model_pooling pooling;
};
#define PATH_ROOM 128

static int pooling_file(const struct json *root, void *context) {
    struct modules *modules = context;
    return parse_pooling(root, &modules->pooling);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), some = strlen(end);
    return length >= some && strcmp(text + length - some, end) == 0;
}

static int modules_file(const struct json *root, void *context) {
    int status = 0;
    struct modules *modules = context;
    size_t length = strlen(modules->folder);
    if (root->type != JSON_ARRAY) FAIL(E_FORMAT, "expected a list of modules");
    for (const struct json *item = root->child; item; item = item->next) {
        const struct json *type_node = json_member(item, "type"), *path_node = json_member(item, "path");
        const char *type, *path;
        if (!type_node || !path_node) FAIL(E_FORMAT, "a module needs a type and a path");
        TRY(json_text(type_node, "type", &type));
        TRY(json_text(path_node, "path", &path));
        if (ends_with(type, ".Pooling")) {
            if (strlen(path) > PATH_ROOM - 16) FAIL(E_FORMAT, "the path \"%.40s…\" is too long", path);
            snprintf(modules->path, length + PATH_ROOM, "%s/%s/config.json", modules->folder, path);
        } else if (!ends_with(type, ".Transformer") && !ends_with(type, ".Normalize")) {
            FAIL(E_UNSUPPORTED, "module \"%.80s\" is not supported" WITHOUT " it", type);
        }
    }
out:
    return status;
}

int pooling_read(const char *folder, enum model_pooling *pooling) {
    int status = 0;
    struct modules modules = {.folder = folder};
    size_t bytes = strlen(folder) + PATH_ROOM;
    void *path = NULL, *pooling_path = NULL;
    TRY(memory_take(&path, bytes, 1));
    snprintf(path, bytes, "%s/modules.json", folder);
    if (access(path, F_OK) != 0) goto out;
    TRY(memory_take(&pooling_path, bytes, 1));
    modules.path = pooling_path;
    TRY(read_file(path, modules_file, &modules));
    if (*modules.path) TRY(read_file(modules.path, pooling_file, &modules));
    *pooling = modules.pooling;
out:
    memory_release(path);
    memory_release(pooling_path);
    return status;
}

static int write_text(const char *path, const char *text) {
    int status = 0;
    struct file_replace file = {.file = -1};
    TRY(file_folders(path, "choose another folder"));
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, text, strlen(text)));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    return status;
}

int pooling_write(const char *folder, const struct model_config *config) {
    int status = 0;
    size_t bytes = strlen(folder) + PATH_ROOM;
    char text[256];
    void *path = NULL;
    TRY(memory_take(&path, bytes, 1));
    snprintf(path, bytes, "%s/modules.json", folder); /* what an earlier model left there must not stay */
    if (config->pooling == POOLING_MEAN && access(path, F_OK) != 0) goto out;
    snprintf(path, bytes, "%s/1_Pooling/config.json", folder);
    snprintf(text, sizeof text,
             "{\"word_embedding_dimension\": %zu, \"pooling_mode_cls_token\": %s, \"pooling_mode_mean_tokens\": %s, "
             "\"pooling_mode_lasttoken\": %s}\n",
             config->width, config->pooling == POOLING_FIRST ? "true" : "false",
             config->pooling == POOLING_MEAN ? "true" : "false", config->pooling == POOLING_LAST ? "true" : "false");
    TRY(write_text(path, text));
    snprintf(path, bytes, "%s/modules.json", folder);
    TRY(write_text(path, "[{\"idx\": 0, \"name\": \"0\", \"path\": \"\", \"type\": "
                         "\"sentence_transformers.models.Transformer\"},\n {\"idx\": 1, \"name\": \"1\", \"path\": "
                         "\"1_Pooling\", \"type\": \"sentence_transformers.models.Pooling\"}]\n"));
out:
    memory_release(path);
    return status;
}

/* ---- embeddings ------------------------------------------------------------------------------------------ */

void model_pooled_tokens(const struct model *model, const struct batch *batch, size_t sequence, size_t *begin,
                         size_t *end) {
    *begin = batch->offset[sequence];
    *end = batch->offset[sequence + 1];
    if (model->config.pooling == POOLING_FIRST) *end = *begin + 1;
    if (model->config.pooling == POOLING_LAST) *begin = *end - 1;
}

void model_pool(const struct model *model, const struct batch *batch, const float *hidden, bool unit, float *out) {
    size_t C = model->config.width, begin, end;
    for (size_t i = 0; i < batch->sequences; i++) {
        float *mean = out + i * C;
        model_pooled_tokens(model, batch, i, &begin, &end);
        double squares = 0, scale = 1.0 / (double)(end - begin);
        memset(mean, 0, C * sizeof *mean);
        for (size_t t = begin; t < end; t++) kernels.add(C, hidden + t * C, mean);
        for (size_t c = 0; c < C; c++) mean[c] = (float)((double)mean[c] * scale);
        for (size_t c = 0; c < C; c++) squares += (double)mean[c] * (double)mean[c];
        scale = unit && squares > 0 ? 1.0 / sqrt(squares) : 1.0;
        for (size_t c = 0; c < C && unit; c++) mean[c] = (float)((double)mean[c] * scale);
    }
}
