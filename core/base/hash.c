/* SHA-256 over Nettle. The context lives inside struct hash, so hashing allocates nothing and cannot fail. */
#include "base/hash.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct sha256_ctx) <= sizeof(struct hash), "struct hash holds Nettle's context");
_Static_assert(_Alignof(struct sha256_ctx) <= _Alignof(struct hash), "struct hash is aligned for Nettle's context");

static struct sha256_ctx *context(struct hash *hash) { return (struct sha256_ctx *)(void *)hash->state; }

void hash_open(struct hash *hash) { sha256_init(context(hash)); }

void hash_update(struct hash *hash, const void *bytes, size_t count) {
    if (count) sha256_update(context(hash), count, bytes);
}

void hash_text(struct hash *hash, const char *text) {
    size_t length = strlen(text);
    hash_number(hash, length);
    hash_update(hash, text, length);
}

void hash_number(struct hash *hash, uint64_t number) {
    uint8_t bytes[8]; /* little endian on every machine */
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(number >> 8 * i);
    hash_update(hash, bytes, sizeof bytes);
}

void hash_close(struct hash *hash, char hex[HASH_HEX]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(context(hash), sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[HASH_HEX - 1] = 0;
}

int hash_file(const char *path, char hex[HASH_HEX]) {
    int status = 0;
    struct hash hash = {0};
    uint8_t bytes[65536];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) FAIL(E_IO, "%s: cannot open: %s", path, strerror(errno));
    hash_open(&hash);
    for (;;) {
        ssize_t got = read(file, bytes, sizeof bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) FAIL(E_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0) break;
        hash_update(&hash, bytes, (size_t)got);
    }
    hash_close(&hash, hex);
out:
    if (file >= 0) close(file);
    return status;
}

void hash_bytes(const void *bytes, size_t count, char hex[HASH_HEX]) {
    struct hash hash = {0};
    hash_open(&hash);
    hash_update(&hash, bytes, count);
    hash_close(&hash, hex);
}
