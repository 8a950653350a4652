/* Temporary files for tests. */
#ifndef SCRATCH_FILE_H
#define SCRATCH_FILE_H

/* Write text to a fresh file whose name ends in `suffix`; the path is the caller's buffer of 128 bytes. */
void scratch_file(char path[128], const char *suffix, const char *text);
void scratch_remove(const char *path);

#endif
