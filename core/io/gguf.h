/* GGUF files, versions 2 and 3 (ggml's docs/gguf.md): metadata by key, then tensors, in one mapped file.
 *
 * Little endian throughout: "GGUF", u32 version, u64 tensors, u64 entries; entries (key, u32 type, value); tensor
 * descriptions (name, u32 dimensions, u64 sizes innermost first, u32 type, u64 offset); padding to the alignment
 * (entry "general.alignment", 32 when absent); data. A string is u64 bytes and its text, without a zero behind.
 * Every count, length, offset and type is checked against the bytes that are left before it is used; keys and
 * names must be distinct, data must be aligned, inside the file and without overlap. What is not understood is
 * refused with the name of the key or tensor.
 */
#ifndef GGUF_H
#define GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/file_map.h"
#include "io/tensor.h"

enum gguf_type { /* the numbers of the file */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_STRING,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64,
                 GGUF_TYPES
};

/* One metadata entry; a view of the mapped file. */
struct gguf_entry {
    const char *key;
    bool array;
    enum gguf_type type; /* of the value, or of an array's elements */
    uint64_t count;      /* elements; 1 when it is no array */
    const uint8_t *data; /* little endian, unaligned; of a string: its length comes first */
    size_t bytes;
};

struct gguf {
    struct file_map map;
    uint32_t version;
    struct gguf_entry *entries; /* sorted by key */
    size_t entry_count;
    struct tensor *tensors; /* sorted by name; shapes outermost first */
    size_t tensor_count;
    char *names; /* keys and names, zero-terminated */
};

int gguf_open(struct gguf *file, const char *path); /* E_IO, E_FORMAT, E_UNSUPPORTED, E_LIMIT, E_MEMORY */
void gguf_close(struct gguf *file);                 /* accepts a zeroed struct */

const struct gguf_entry *gguf_find(const struct gguf *file, const char *key); /* NULL when absent */
const struct tensor *gguf_tensor(const struct gguf *file, const char *name);  /* NULL when absent */

/* Typed reads of single values: E_NOT_FOUND when absent, E_FORMAT when of another type, both naming the key. Any whole
 * type will do for gguf_u64 (negative values are refused), any number for gguf_number. */
int gguf_u64(const struct gguf *file, const char *key, uint64_t *value);
int gguf_number(const struct gguf *file, const char *key, double *value);
int gguf_bool(const struct gguf *file, const char *key, bool *value);
/* Not zero-terminated. */
int gguf_text(const struct gguf *file, const char *key, const char **text, size_t *bytes);

/* Element i (< count) of an entry whose type is a number or bool. */
double gguf_element(const struct gguf_entry *entry, uint64_t i);
int64_t gguf_element_whole(const struct gguf_entry *entry, uint64_t i); /* whole types and bool */

/* The strings of an entry of type GGUF_STRING one after the other: start with a zeroed place, false at the end. */
bool gguf_next_string(const struct gguf_entry *entry, size_t *place, const char **text, size_t *bytes);

#endif
