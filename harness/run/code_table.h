/* The generated table of source hashes (tools/code_hash.sh). */
#ifndef CODE_TABLE_H
#define CODE_TABLE_H

struct code_entry {
    const char *name, *hash;
}; /* ends with a NULL name */
extern const struct code_entry code_table[];
extern const char *const code_table_core;

#endif
