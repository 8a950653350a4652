/* SHA-256 in plain C (FIPS 180-4), for builds without Nettle (private to base/). */
#ifndef HASH_SHA256_H
#define HASH_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;    /* so far */
    uint8_t block[64]; /* the last bytes % 64 of them */
};

void sha256_open(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const uint8_t *bytes, size_t count);
void sha256_close(struct sha256 *sha, uint8_t digest[32]);

#endif
