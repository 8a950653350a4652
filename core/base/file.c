/* Whole-file reads and atomic replacement: temporary file, fsync, rename, fsync of the folder (without the
 * last, a rename may be lost in a power cut though the data is not).
 */
#include "base/file.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

size_t path_beside(const char *path, const char *name, char *text, size_t size) {
    const char *slash = strrchr(path, '/');
    return (size_t)snprintf(text, size, "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, name);
}

int file_folders(const char *path, const char *remedy) {
    int status = 0;
    char *folder = NULL;
    TRY(memory_string(&folder, path));
    for (char *slash = *folder ? strchr(folder + 1, '/') : NULL; slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(folder, 0777) < 0 && errno != EEXIST)
            FAIL(E_IO, "%s: the folder cannot be made (%s); %s", folder, strerror(errno), remedy);
        *slash = '/';
    }
out:
    memory_release(folder);
    return status;
}

int file_read(const char *path, size_t limit, char **bytes, size_t *count) {
    int status = 0;
    void *block = NULL;
    size_t used = 0;
    struct stat info;
    *bytes = NULL;
    *count = 0;
    /* O_NONBLOCK: opening a FIFO must not hang; a regular file ignores it. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &info) != 0) FAIL(E_IO, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) FAIL(E_IO, "%s: is not a regular file", path);
    if (info.st_size < 0 || (size_t)info.st_size > limit)
        FAIL(E_LIMIT, "%s: has %lld bytes, more than the %zu allowed", path, (long long)info.st_size, limit);
    size_t expected = (size_t)info.st_size;
    TRY(memory_take(&block, expected + 1, 1));
    while (used < expected) {
        ssize_t got = read(file, (char *)block + used, expected - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) FAIL(E_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0) FAIL(E_IO, "%s: ended at byte %zu of %zu", path, used, expected);
        used += (size_t)got;
    }
    *bytes = block;
    *count = used;
    block = NULL;
out:
    memory_release(block);
    if (file >= 0) close(file);
    return status;
}

int file_replace_open(struct file_replace *replace, const char *path) {
    static atomic_uint serial;
    int status = 0;
    void *block = NULL;
    *replace = (struct file_replace){.file = -1};
    TRY(memory_string(&replace->path, path));
    size_t size = strlen(path) + 48;
    TRY(memory_take(&block, size, 1));
    replace->temporary = block;
    do {
        snprintf(block, size, "%s.%ld.%u.tmp", path, (long)getpid(), atomic_fetch_add(&serial, 1));
        replace->file = open(block, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (replace->file < 0 && errno == EEXIST);
    if (replace->file < 0) FAIL(E_IO, "%s: cannot create: %s", path, strerror(errno));
out:
    if (status < 0) file_replace_close(replace);
    return status;
}

int file_replace_open_alone(struct file_replace *replace, const char *path) {
    int status = 0;
    void *block = NULL;
    *replace = (struct file_replace){.file = -1};
    TRY(memory_string(&replace->path, path));
    size_t size = strlen(path) + sizeof ".tmp";
    TRY(memory_take(&block, size, 1));
    replace->temporary = block;
    snprintf(block, size, "%s.tmp", path);
    replace->file = open(block, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (replace->file < 0) FAIL(E_IO, "%s: cannot create: %s", path, strerror(errno));
out:
    if (status < 0) file_replace_close(replace);
    return status;
}

int file_replace_write(struct file_replace *replace, const void *bytes, size_t count) {
    int status = 0;
    const char *from = bytes;
    while (count) {
        ssize_t written = write(replace->file, from, count);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) FAIL(E_IO, "%s: cannot write: %s", replace->path, strerror(errno));
        from += written;
        count -= (size_t)written;
    }
out:
    return status;
}

/* The folder of the target, synced; a file system that cannot sync folders is left alone. */
static void folder_sync(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    int folder = open(!slash ? "." : *path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash) *slash = '/';
    if (folder < 0) return;
    fsync(folder);
    close(folder);
}

int file_replace_commit(struct file_replace *replace) {
    int status = 0;
    if (fsync(replace->file) != 0) FAIL(E_IO, "%s: cannot sync: %s", replace->path, strerror(errno));
    int closed = close(replace->file);
    replace->file = -1;
    if (closed != 0 || rename(replace->temporary, replace->path) != 0) {
        int reason = errno;
        unlink(replace->temporary);
        FAIL(E_IO, "%s: cannot replace: %s", replace->path, strerror(reason));
    }
    folder_sync(replace->path);
out:
    return status;
}

void file_replace_close(struct file_replace *replace) {
    if (replace->file >= 0) {
        close(replace->file);
        unlink(replace->temporary);
    }
    memory_release(replace->path);
    memory_release(replace->temporary);
    *replace = (struct file_replace){.file = -1};
}
