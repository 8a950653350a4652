/* An unfinished training run in one file, from which it goes on as if it had never stopped.
 *
 * The file: a header (magic, version, byte order, the run's identity, bytes of the parts), the parts end to end, and
 * the SHA-256 of all before it. It is written beside its name, synced and renamed, so whatever happens (a kill, a full
 * disk), the last whole one stays. The numbers are this machine's own; a file of another byte order counts as another
 * run's.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <stdbool.h>

#include "base/hash.h"

/* A piece of a run's state. Parts are read in order, so what decides about a later one may be an earlier one. */
struct checkpoint_part {
    void *bytes;
    size_t rows, row_bytes;
    const uint32_t *only; /* [rows] rows whose number is 0 are left out: neither read nor written; NULL: all are kept */
    const bool *present;  /* NULL or true: it is there */
};

/* E_IO: the file that was there before is untouched. E_MEMORY. */
int checkpoint_write(const char *path, const char identity[HASH_HEX], const struct checkpoint_part *parts,
                     size_t count);
/* *found: the parts were read; false: there is no file, or one of another identity or version (said in the log), and
 * nothing was read. E_FORMAT: the file is damaged; the text says what to do. E_IO, E_MEMORY. */
int checkpoint_read(const char *path, const char identity[HASH_HEX], const struct checkpoint_part *parts, size_t count,
                    bool *found);

#endif
