/* Small file helpers of the report. renameat2 with RENAME_EXCHANGE swaps two folders in one step; where the file
 * system cannot (some network and overlay ones), the old folder is moved aside first, and a reader may miss the page
 * for an instant but never sees a half-written one. */
#include "report/report_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

int path_join(char path[REPORT_PATH], const char *directory, const char *name) {
    int status = 0;
    int length = snprintf(path, REPORT_PATH, "%s/%s", directory, name);
    if (length < 0 || length >= REPORT_PATH) FAIL(E_LIMIT, "%s: the path is too long", directory);
out:
    return status;
}

int folder_make(const char *path) {
    int status = 0;
    char part[REPORT_PATH];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) FAIL(E_ARGUMENT, "'%s' is not a usable folder name", path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            FAIL(E_IO, "%s: the folder cannot be created: %s; choose another with --out", part, strerror(errno));
    }
    struct stat about;
    if (stat(path, &about) != 0 || !S_ISDIR(about.st_mode))
        FAIL(E_IO, "%s: exists and is not a folder; choose another with --out", path);
out:
    return status;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *walk) {
    (void)about, (void)kind, (void)walk;
    remove(path);
    return 0;
}

void folder_remove(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

void folders_forget(const char *directory, const char *name) {
    char path[REPORT_PATH];
    size_t length = strlen(name);
    DIR *folder = opendir(directory);
    if (!folder) return;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const char *own = entry->d_name;
        char *end;
        if (own[0] != '.' || strncmp(own + 1, name, length) != 0 || own[1 + length] != '.') continue;
        long pid = strtol(own + 2 + length, &end, 10);
        if (pid <= 0 || (*end && strcmp(end, ".old") != 0) || kill((pid_t)pid, 0) == 0 || errno != ESRCH) continue;
        if (path_join(path, directory, own) == 0) folder_remove(path);
    }
    closedir(folder);
}

int folder_replace(const char *fresh, const char *target) {
    int status = 0;
    char aside[REPORT_PATH + 8];
    if (rename(fresh, target) == 0) goto out; /* there was none, or an empty one */
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, target, RENAME_EXCHANGE) == 0) {
        folder_remove(fresh);
        goto out;
    }
    snprintf(aside, sizeof aside, "%s.old", fresh);
    if (rename(target, aside) != 0 || rename(fresh, target) != 0) {
        int cause = errno;
        rename(aside, target);
        FAIL(E_IO, "%s: the old report cannot be replaced: %s", target, strerror(cause));
    }
    folder_remove(aside);
out:
    return status;
}

int file_write(const char *directory, const char *name, const struct text *text) {
    int status = 0;
    char path[REPORT_PATH], fresh[REPORT_PATH + 8] = "";
    FILE *file = NULL;
    TRY(text_status(text));
    TRY(path_join(path, directory, name));
    snprintf(fresh, sizeof fresh, "%s.new", path);
    file = fopen(fresh, "wb");
    if (!file) FAIL(E_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (text->length && fwrite(text->bytes, 1, text->length, file) != text->length)
        FAIL(E_IO, "%s: cannot be written: %s", path, strerror(errno));
    int closed = fclose(file);
    file = NULL;
    if (closed != 0 || rename(fresh, path) != 0) FAIL(E_IO, "%s: cannot be written: %s", path, strerror(errno));
out:
    if (file) fclose(file);
    if (status < 0 && *fresh) remove(fresh);
    return status;
}

int file_append(struct text *text, const char *path) {
    int status = 0;
    char block[16384];
    size_t count, limit = text->length + (64u << 20);
    FILE *file = fopen(path, "rb");
    if (!file) FAIL(E_IO, "%s: cannot be read: %s", path, strerror(errno));
    while ((count = fread(block, 1, sizeof block, file)) > 0) {
        text_raw_n(text, block, count);
        if (text->length > limit) FAIL(E_LIMIT, "%s: larger than 64 MiB", path);
    }
    if (ferror(file)) FAIL(E_IO, "%s: cannot be read: %s", path, strerror(errno));
    TRY(text_status(text));
out:
    if (file) fclose(file);
    return status;
}
