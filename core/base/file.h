/* Files read whole and files replaced whole.
 *
 * A replacement is written to a temporary file in the same folder, synced, and renamed over the target, so
 * that a reader, a crash or a full disk never meets half a file. file_replace_close without a commit
 * removes the temporary file.
 */
#ifndef FILE_H
#define FILE_H

#include <stddef.h>

/* The bytes of a regular file with a zero behind them; release with memory_release. E_IO; E_LIMIT above
 * `limit` bytes. */
int file_read(const char *path, size_t limit, char **bytes, size_t *count);

/* The path of NAME in the folder of the file PATH, in text [size]; returns its length, which is size or more where it
 * was cut off. */
size_t path_beside(const char *path, const char *name, char *text, size_t size);

/* The folders on the way to a file, made where absent. `remedy` ends the message: "choose another --db". E_IO. */
int file_folders(const char *path, const char *remedy);

struct file_replace {
    char *path, *temporary;
    int file; /* -1 when closed */
};
int file_replace_open(struct file_replace *replace, const char *path);
/* As file_replace_open where nobody else writes that path: the temporary file is PATH.tmp, and one that a killed writer
 * left behind is written over, so that large ones do not pile up. */
int file_replace_open_alone(struct file_replace *replace, const char *path);
int file_replace_write(struct file_replace *replace, const void *bytes, size_t count);
int file_replace_commit(struct file_replace *replace);
void file_replace_close(struct file_replace *replace); /* after open, whether it succeeded or not */

#endif
