#include "io/shards.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/json.h"

#define INDEX_BYTES_MAX (64u << 20)
#define SHARDS_MOST 1024
#define NAME_MOST 255

static int path_of(char **path, const char *folder, const char *name) {
    int status = 0;
    void *block = NULL;
    size_t bytes = strlen(folder) + strlen(name) + 2;
    TRY(memory_take(&block, bytes, 1));
    snprintf(block, bytes, "%s/%s", folder, name);
out:
    *path = block;
    return status;
}

static int open_one(struct shards *shards, const char *folder, const char *name) {
    int status = 0;
    char *path = NULL;
    TRY(path_of(&path, folder, name));
    TRY(safetensors_open(&shards->files[shards->file_count], path));
    shards->file_count++;
out:
    memory_release(path);
    return status;
}

/* A name of the index becomes part of a path: it must be a plain file name. */
static int check_name(const struct json *entry, const char **name) {
    int status = 0;
    if (entry->type != JSON_STRING)
        FAIL(E_FORMAT, "weight_map: the file of tensor '%.100s' must be a string", entry->key);
    TRY(json_text(entry, "weight_map", name));
    size_t length = strlen(*name);
    if (length == 0 || length > NAME_MOST || strchr(*name, '/') || strchr(*name, '\\') || (*name)[0] == '.')
        FAIL(E_FORMAT, "weight_map: tensor '%.100s' is in \"%.100s\", which is not a plain file name", entry->key,
             *name);
out:
    return status;
}

/* The distinct file names of the map; names point into the document. */
static int list_files(const struct json *map, const char **names, size_t *count) {
    int status = 0;
    *count = 0;
    for (const struct json *entry = map->child; entry; entry = entry->next) {
        const char *name;
        TRY(check_name(entry, &name));
        bool known = false;
        for (size_t i = *count; i-- > 0 && !known;) known = strcmp(names[i], name) == 0; /* most often the last */
        if (known) continue;
        if (*count == SHARDS_MOST) FAIL(E_LIMIT, "weight_map names more than %d files", SHARDS_MOST);
        names[(*count)++] = name;
    }
out:
    return status;
}

static int gather(struct shards *shards) {
    int status = 0;
    size_t count = 0;
    void *block;
    for (size_t i = 0; i < shards->file_count; i++) count += shards->files[i].count;
    TRY(memory_take(&block, count, sizeof *shards->tensors));
    shards->tensors = block;
    for (size_t i = 0; i < shards->file_count; i++) {
        const struct safetensors *file = &shards->files[i];
        if (file->count) memcpy(shards->tensors + shards->count, file->tensors, file->count * sizeof *file->tensors);
        shards->count += file->count;
    }
    qsort(shards->tensors, shards->count, sizeof *shards->tensors, tensor_compare_names);
    for (size_t i = 1; i < shards->count; i++)
        if (strcmp(shards->tensors[i - 1].name, shards->tensors[i].name) == 0)
            FAIL(E_FORMAT, "tensor '%.100s' is in two files", shards->tensors[i].name);
out:
    return status;
}

/* Every tensor of the map is in the file that it names, and the files hold no others. */
static int check_map(const struct shards *shards, const struct json *map, const char *const *names) {
    int status = 0;
    for (const struct json *entry = map->child; entry; entry = entry->next) {
        size_t i = 0;
        while (strcmp(names[i], entry->text) != 0) i++;
        if (!safetensors_find(&shards->files[i], entry->key))
            FAIL(E_FORMAT, "weight_map: tensor '%.100s' is not in %.100s", entry->key, names[i]);
    }
    if (map->count < shards->count)
        FAIL(E_FORMAT, "weight_map names %zu tensors but its files hold %zu", map->count, shards->count);
out:
    return status;
}

int shards_open_index(struct shards *shards, const char *folder, const char *json, size_t bytes) {
    int status = 0;
    struct json_document document = {0};
    const struct json *map;
    void *block = NULL;
    const char **names;
    size_t count;

    *shards = (struct shards){0};
    TRY(json_open(&document, json, bytes));
    map = json_member(json_root(&document), "weight_map");
    if (!map || map->type != JSON_OBJECT) FAIL(E_FORMAT, "needs a \"weight_map\", an object of file names");
    TRY(memory_take(&block, map->count < SHARDS_MOST ? map->count : SHARDS_MOST, sizeof *names));
    names = block;
    TRY(list_files(map, names, &count));
    TRY(memory_take((void **)&shards->files, count, sizeof *shards->files));
    for (size_t i = 0; i < count; i++) TRY(open_one(shards, folder, names[i]));
    TRY(gather(shards));
    TRY(check_map(shards, map, names));
out:
    memory_release(block);
    json_close(&document);
    if (status < 0) shards_close(shards);
    return status;
}

int shards_open(struct shards *shards, const char *folder) {
    int status = 0;
    char *path = NULL, *text = NULL;
    size_t bytes;

    *shards = (struct shards){0};
    TRY(path_of(&path, folder, "model.safetensors"));
    if (access(path, F_OK) == 0) {
        TRY(memory_take((void **)&shards->files, 1, sizeof *shards->files));
        TRY(open_one(shards, folder, "model.safetensors"));
        TRY(gather(shards));
        goto out;
    }
    memory_release(path);
    path = NULL;
    TRY(path_of(&path, folder, "model.safetensors.index.json"));
    if (access(path, F_OK) != 0)
        FAIL(E_IO, "%s: has neither model.safetensors nor model.safetensors.index.json", folder);
    TRY(file_read(path, INDEX_BYTES_MAX, &text, &bytes));
    status = shards_open_index(shards, folder, text, bytes);
    if (status < 0) error_prefix(status, "%s", path);
out:
    memory_release(path);
    memory_release(text);
    if (status < 0) shards_close(shards);
    return status;
}

void shards_close(struct shards *shards) {
    for (size_t i = 0; i < shards->file_count; i++) safetensors_close(&shards->files[i]);
    memory_release(shards->files);
    memory_release(shards->tensors);
    *shards = (struct shards){0};
}
