/* See keys.h. The config's part comes from plan/plan.h; this adds data and code. */
#include "run/keys.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "plan/plan.h"
#include "run/run.h"

static int entry_compare(const void *a, const void *b) {
    return strcmp((*(struct dirent *const *)a)->d_name, (*(struct dirent *const *)b)->d_name);
}

static int file_add(struct hash *hash, const char *path, const char *name) {
    int status = 0;
    char hex[HASH_HEX];
    TRY(hash_file(path, hex));
    hash_text(hash, name);
    hash_text(hash, hex);
out:
    return status;
}

/* A module of sentence-transformers lies in a folder of its own, and says in a file what it does. */
static int module_add(struct hash *hash, const char *folder, const char *name) {
    char file[PATH_MAX];
    if (snprintf(file, sizeof file, "%s/config.json", folder) >= (int)sizeof file || access(file, F_OK) != 0) return 0;
    return file_add(hash, file, name);
}

/* The files of a folder by name; of folders below it their config.json. */
static int folder_add(struct hash *hash, const char *path) {
    int status = 0;
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, NULL, NULL);
    if (count < 0) FAIL(E_IO, "%s: %s", path, strerror(errno));
    if (count) qsort(entries, (size_t)count, sizeof(struct dirent *), entry_compare);
    for (int i = 0; i < count; i++) {
        char file[PATH_MAX];
        struct stat info;
        const char *name = entries[i]->d_name;
        if (snprintf(file, sizeof file, "%s/%s", path, name) >= (int)sizeof file)
            FAIL(E_LIMIT, "%s/%s: the path is too long", path, name);
        if (stat(file, &info) != 0) continue;
        if (S_ISREG(info.st_mode)) TRY(file_add(hash, file, name));
        else if (S_ISDIR(info.st_mode) && *name != '.') TRY(module_add(hash, file, name));
    }
out:
    for (int i = 0; i < count; i++) free(entries[i]);
    free(entries);
    return status;
}

static int path_add(struct hash *hash, const char *path, const char *what) {
    int status = 0;
    struct stat info;
    if (stat(path, &info) != 0)
        FAIL(E_IO, "%s: %s: %s; `make models` fetches the public ones", what, path, strerror(errno));
    TRY(S_ISDIR(info.st_mode) ? folder_add(hash, path) : file_add(hash, path, ""));
out:
    return status;
}

/* Files that stages name, by path: a teacher of some hundred megabytes stands in the keys of many cells. Forgotten when
 * the next experiment asks for its keys. */
static struct known_path { char path[PATH_MAX], hex[HASH_HEX]; } known_paths[8];
static size_t known_count;

static int known_path_add(struct hash *hash, const char *path, const char *what) {
    int status = 0;
    struct hash own;
    char hex[HASH_HEX];
    for (size_t i = 0; i < known_count; i++)
        if (strcmp(known_paths[i].path, path) == 0) {
            hash_text(hash, known_paths[i].hex);
            goto out;
        }
    hash_open(&own);
    status = path_add(&own, path, what);
    hash_close(&own, hex);
    if (status < 0) goto out;
    hash_text(hash, hex);
    if (known_count == sizeof known_paths / sizeof *known_paths || strlen(path) >= PATH_MAX) goto out;
    snprintf(known_paths[known_count].path, PATH_MAX, "%s", path);
    memcpy(known_paths[known_count++].hex, hex, HASH_HEX);
out:
    return status;
}

/* What the options of a stage name on disk is part of it, by content. */
static int stage_paths_add(struct hash *hash, const struct stage_plan *stage) {
    int status = 0;
    for (const struct option *option = stage->technique->options; option && option->name; option++) {
        struct option_names paths = option_paths(option, stage->options);
        for (size_t i = 0; i < paths.count; i++) TRY(known_path_add(hash, paths.items[i], option->name));
    }
out:
    return status;
}

static int identity(const struct cell *cell, size_t stages, const char *data_hash, char hex[HASH_HEX]) {
    int status = 0;
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, data_hash);
    hash_text(&hash, code_hash_core());
    for (size_t i = 0; i < stages; i++) {
        char code[HASH_HEX];
        TRY(code_hash_technique(cell->stages[i].technique, code));
        hash_text(&hash, code);
        TRY(stage_paths_add(&hash, &cell->stages[i]));
    }
out:
    hash_close(&hash, hex);
    return status;
}

int keys_cell(const struct experiment *experiment, const struct cell *cell, const char *data_hash, char key[HASH_HEX]) {
    int status = 0;
    char known[HASH_HEX];
    TRY(identity(cell, cell->stage_count, data_hash, known));
    TRY(plan_cell_key(experiment, cell, known, key));
out:
    return status;
}

int keys_prefix(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                char key[HASH_HEX]) {
    int status = 0;
    char known[HASH_HEX];
    TRY(identity(cell, stages, data_hash, known));
    TRY(plan_prefix_key(experiment, cell, stages, known, key));
out:
    return status;
}

int keys_data(const struct experiment *experiment, const char *data_hash, char hex[HASH_HEX]) {
    int status = 0;
    struct hash hash;
    const char *tokenizer = experiment->tokenizer.path;
    known_count = 0;
    hash_open(&hash);
    hash_text(&hash, data_hash);
    if (experiment->model.path) TRY(path_add(&hash, experiment->model.path, "model"));
    if (tokenizer && *tokenizer) TRY(path_add(&hash, tokenizer, "tokenizer"));
out:
    hash_close(&hash, hex);
    if (status == 0 && !experiment->model.path && !(tokenizer && *tokenizer)) memcpy(hex, data_hash, HASH_HEX);
    return status;
}
