/* `runexp convert`: a model as a plain Hugging Face folder, for transformers and what reads the same files.
 *
 * The model is any that experiments begin from, or what a cell made. The folder gets config.json, model.safetensors in
 * f32 and, of a sentence encoder, its pooling; and a tokenizer: the files of the folder that --tokenizer or MODEL
 * names, or the one that was trained here, which lies in the artifact. */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "model/model.h"
#include "store/query.h"
#include "verbs/arguments.h"
#include "verbs/lookup.h"
#include "verbs/verbs.h"

#define FILE_BYTES_MAX (512u << 20)

/* What a folder has of its tokenizer, and of how texts are generated. */
static const char *const tokenizer_files[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
    NULL,
};

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The artifact of a cell, where it was or in artifacts/ beside the database. */
static int artifact_find(const char *db, const char *words, char path[PATH_MAX]) {
    int status = 0;
    struct store store = {0};
    struct cell_place place;
    struct query q = {0};
    bool found = false;
    TRY(store_open(&store, db, STORE_READ));
    TRY(lookup_cell(&store, words, &place));
    TRY(query_open(&q, &store,
                   "SELECT a.path, a.hash FROM artifact a JOIN run r ON r.artifact_id = a.id WHERE r.cell_id = ?1"
                   " AND r.session_id = ?2 AND r.kind = 'build'"));
    query_integer(&q, place.cell);
    query_integer(&q, place.session);
    TRY(query_row(&q, &found));
    if (!found) FAIL(E_NOT_FOUND, "%s: the cell has no artifact: it was skipped or failed", words);
    snprintf(path, PATH_MAX, "%s", query_get_text(&q, 0));
    if (access(path, R_OK) != 0) {
        char name[96];
        snprintf(name, sizeof name, "artifacts/%.64s.safetensors", query_get_text(&q, 1));
        if (path_beside(db, name, path, PATH_MAX) >= PATH_MAX || access(path, R_OK) != 0)
            FAIL(E_IO, "%s: its artifact %s is gone; run the experiment again", words, query_get_text(&q, 0));
    }
out:
    query_close(&q);
    store_close(&store);
    return status;
}

static int write_bytes(const char *folder, const char *name, const char *bytes, size_t count) {
    int status = 0;
    struct file_replace file = {.file = -1};
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        FAIL(E_LIMIT, "%s/%s: the path is too long", folder, name);
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, bytes, count));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    return status;
}

static int copy_tokenizer(const char *from, const char *to, size_t *copied) {
    int status = 0;
    char *bytes = NULL;
    for (size_t i = 0; tokenizer_files[i]; i++) {
        char path[PATH_MAX];
        size_t count;
        if (snprintf(path, sizeof path, "%s/%s", from, tokenizer_files[i]) >= (int)sizeof path)
            FAIL(E_LIMIT, "%s/%s: the path is too long", from, tokenizer_files[i]);
        if (access(path, F_OK) != 0) continue;
        TRY(file_read(path, FILE_BYTES_MAX, &bytes, &count));
        TRY(write_bytes(to, tokenizer_files[i], bytes, count));
        memory_release(bytes);
        bytes = NULL;
        ++*copied;
    }
out:
    memory_release(bytes);
    return status;
}

static int write_tokenizer(const struct model *model, const char *from, const char *named, const char *folder) {
    int status = 0;
    const char *own = model_metadata(model, "tokenizer");
    size_t copied = 0;
    if (named && !is_folder(named)) FAIL(E_ARGUMENT, "--tokenizer: %s is no folder", named);
    if (named) from = named;
    else if (own) return write_bytes(folder, "tokenizer.json", own, strlen(own));
    if (is_folder(from)) TRY(copy_tokenizer(from, folder, &copied));
    if (named && !copied) FAIL(E_ARGUMENT, "--tokenizer: %s holds no file of a tokenizer", named);
    if (!copied)
        fprintf(stderr, "runexp: this model has no files of a tokenizer beside it: name their folder by --tokenizer\n");
out:
    return status;
}

int verb_convert(int argc, char **argv) {
    int status = 0;
    const char *db = DEFAULT_DB, *tokenizer = NULL;
    bool unpack = false;
    const struct flag flags[] = {FLAG_DB(&db),
                                 {.name = "tokenizer",
                                  .type = FLAG_TEXT,
                                  .value = "FOLDER",
                                  .help = "copy the tokenizer's files of this folder",
                                  .target = &tokenizer},
                                 {.name = "unpack",
                                  .type = FLAG_SWITCH,
                                  .help = "write layers that a technique packed as the f32 values that they stand for",
                                  .target = &unpack},
                                 FLAG_END};
    struct model model = {0};
    char path[PATH_MAX], real[2][PATH_MAX];
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 2, 2, "a model (a path, or a cell) and a folder"));
    const char *folder = argv[2];
    if (access(argv[1], F_OK) == 0) snprintf(path, sizeof path, "%s", argv[1]);
    else if ((status = artifact_find(db, argv[1], path)) < 0) {
        error_prefix(status, "no file or folder %s; as a cell", argv[1]);
        goto out;
    }
    if (realpath(path, real[0]) && realpath(folder, real[1]) && strcmp(real[0], real[1]) == 0)
        FAIL(E_ARGUMENT, "%s would be written over itself: choose another folder", folder);
    TRY(model_open(&model, path, false));
    size_t packed = 0;
    for (size_t i = 0; i < model.linear_count; i++) packed += model.linears[i].parameter == NULL;
    if ((packed || model.int8_attention) && !unpack)
        FAIL(E_ARGUMENT,
             "%s: %zu layers are packed%s, which Hugging Face's files cannot say; --unpack writes their values", path,
             packed, model.int8_attention ? ", attention is in 8 bits" : "");
    TRY(model_save_huggingface(&model, folder, unpack));
    TRY(write_tokenizer(&model, path, tokenizer, folder));
    printf("%s\n", folder);
    status = EXIT_OK;
out:
    model_close(&model);
    return status;
}
