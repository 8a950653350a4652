/* A whole regular file mapped for reading. A file that is shortened while it is mapped would still raise SIGBUS. */
#ifndef FILE_MAP_H
#define FILE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct file_map {
    char *path;
    const uint8_t *bytes; /* NULL when the file is empty */
    size_t count;
};

int file_map_open(struct file_map *map, const char *path); /* E_IO, E_LIMIT, E_MEMORY, with the path in front */
void file_map_close(struct file_map *map);                 /* accepts a zeroed struct */
/* Give the pages that lie wholly within a part of a mapped file back to the system; they are read again when needed. */
void file_map_forget(const void *bytes, size_t count);

#endif
