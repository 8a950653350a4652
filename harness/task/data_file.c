/* See data_table.h: where files are, what is missing where they are not, and whole texts. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/option.h"
#include "task/data_table.h"

static bool as_said(const char *file) { return *file == '/' || strncmp(file, "./", 2) == 0; }

int data_file_path(char *path, size_t size, const char *data, const char *file) {
    int status = 0;
    int length = as_said(file) ? snprintf(path, size, "%s", file) : snprintf(path, size, "%s/%s", data, file);
    if (length >= (int)size) FAIL(E_ARGUMENT, "data: the path is too long");
out:
    return status;
}

/* ---- what is missing ---------------------------------------------------------------------------------- */

enum { NAMES_MAX = 256, NAMES_BYTES = 160 };

static int names_compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* What a folder has: "(did you mean 'dev.csv'?)", or the first names in it, or "". */
static int names_tell(const char *folder, const char *missing, char text[NAMES_BYTES + 32]) {
    int status = 0;
    char *names[NAMES_MAX + 1] = {NULL};
    size_t count = 0, used = 0, shown = 0;
    DIR *directory = opendir(folder);
    text[0] = 0;
    for (const struct dirent *entry; directory && count < NAMES_MAX && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        TRY(memory_string(&names[count], entry->d_name));
        count++;
    }
    qsort(names, count, sizeof *names, names_compare);
    const char *near = word_nearest((const char *const *)names, missing);
    if (near && strlen(near) < NAMES_BYTES) {
        snprintf(text, NAMES_BYTES + 32, " (did you mean '%s'?)", near);
        goto out;
    }
    for (; shown < count && used + strlen(names[shown]) + 2 < NAMES_BYTES; shown++)
        used += (size_t)snprintf(text + used, NAMES_BYTES - used, "%s%s", shown ? ", " : " (it has ", names[shown]);
    if (used) snprintf(text + used, 8, "%s)", shown < count ? ", ..." : "");
out:
    if (directory) closedir(directory);
    for (size_t i = 0; i < count; i++) memory_release(names[i]);
    return status;
}

/* Fails with what there is not: the folder, or the file in it. path is not readable. */
static int missing_tell(const char *path, const char *data, const char *option, const char *file) {
    int status = 0;
    int reason = errno;
    char *folder = NULL, known[NAMES_BYTES + 32];
    struct stat about;
    if (reason != ENOENT && reason != ENOTDIR) FAIL(E_IO, "%s: %s: %s", option, path, strerror(reason));
    if (!as_said(file) && stat(data, &about) != 0)
        FAIL(E_IO, "data: there is no folder '%s'%s; name the data with --set data=FOLDER", data,
             *data == '/' ? "" : " where runexp was started");
    if (!as_said(file) && !S_ISDIR(about.st_mode))
        FAIL(E_IO, "data: '%s' is a file; name the folder it is in with --set data=FOLDER", data);
    const char *slash = strrchr(path, '/'); /* as data/file and what is as said always have */
    TRY(memory_string_n(&folder, path, slash == path ? 1 : (size_t)(slash - path)));
    if (stat(folder, &about) != 0 || !S_ISDIR(about.st_mode))
        FAIL(E_IO, "%s: %s: there is no folder '%s'", option, file, folder);
    TRY(names_tell(folder, slash + 1, known));
    if (strcmp(option, "test") == 0)
        FAIL(E_IO, "%s: there is no file '%s' in the folder '%s'%s", option, slash + 1, folder, known);
    FAIL(E_IO, "%s: there is no file '%s' in the folder '%s'%s; %s: \"\" is for none", option, slash + 1, folder, known,
         option);
out:
    memory_release(folder);
    return status;
}

int data_file_find(char *path, size_t size, const char *data, const char *option, const char *file) {
    int status = 0;
    TRY(data_file_path(path, size, data, file));
    if (access(path, R_OK) != 0) TRY(missing_tell(path, data, option, file));
out:
    return status;
}

/* ---- whole texts -------------------------------------------------------------------------------------- */

int data_text_file(const char *path, char **text, size_t *bytes, struct hash *hash) {
    int status = 0;
    *text = NULL;
    TRY(file_read(path, DATA_FILE_BYTES_MAX, text, bytes));
    const char *zero = memchr(*text, 0, *bytes);
    if (zero) {
        size_t line = 1;
        for (const char *c = *text; c < zero; c++) line += *c == '\n';
        FAIL(E_FORMAT, "%s:%zu: a zero byte: not a text file", path, line);
    }
    if (hash) {
        hash_number(hash, *bytes);
        hash_update(hash, *text, *bytes);
    }
    if (*bytes >= 3 && memcmp(*text, "\xef\xbb\xbf", 3) == 0) {
        *bytes -= 3;
        memmove(*text, *text + 3, *bytes + 1);
    }
out:
    if (status < 0) {
        memory_release(*text);
        *text = NULL;
    }
    return status;
}
