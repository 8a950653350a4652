#include "io/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

int file_map_open(struct file_map *map, const char *path) {
    int status = 0;
    struct stat info;
    *map = (struct file_map){0};
    /* O_NONBLOCK: opening a FIFO must not hang; a regular file ignores it. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0 || fstat(descriptor, &info) != 0) FAIL(E_IO, "cannot open: %s", strerror(errno));
    if (!S_ISREG(info.st_mode)) FAIL(E_IO, "is not a regular file");
    if ((uint64_t)info.st_size > PTRDIFF_MAX) FAIL(E_LIMIT, "is too large to map");
    TRY(memory_string(&map->path, path));
    if (info.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (bytes == MAP_FAILED) FAIL(E_IO, "cannot map: %s", strerror(errno));
        map->bytes = bytes;
        map->count = (size_t)info.st_size;
    }
out:
    if (descriptor >= 0) close(descriptor);
    if (status < 0) {
        error_prefix(status, "%s", path);
        file_map_close(map);
    }
    return status;
}

void file_map_close(struct file_map *map) {
    if (map->bytes) munmap((void *)(uintptr_t)map->bytes, map->count);
    memory_release(map->path);
    *map = (struct file_map){0};
}

void file_map_forget(const void *bytes, size_t count) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)bytes, to = from + count;
    from = (from + page - 1) / page * page;
    to = to / page * page;
    if (from < to) (void)madvise((void *)from, to - from, MADV_DONTNEED); /* advice: nothing is lost when it fails */
}
