/* SHA-256 (through Nettle where the build has it), for artifact names and cell keys. */
#ifndef HASH_H
#define HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_HEX 65 /* 64 hexadecimal digits and the terminating zero */

struct hash {
    uint64_t state[32];
}; /* opaque; large enough for the library's context (asserted) */

void hash_open(struct hash *hash);
void hash_update(struct hash *hash, const void *bytes, size_t count);
/* Length-prefixed, so that ("ab","c") and ("a","bc") differ. */
void hash_text(struct hash *hash, const char *text);
void hash_number(struct hash *hash, uint64_t number);
void hash_close(struct hash *hash, char hex[HASH_HEX]);

int hash_file(const char *path, char hex[HASH_HEX]); /* E_IO */
void hash_bytes(const void *bytes, size_t count, char hex[HASH_HEX]);

#endif
