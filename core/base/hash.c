/* SHA-256 over Nettle, which uses the CPU's own instructions for it, or over hash_sha256.c in builds with
 * -DBACKENDS_NONE. The context lives inside struct hash, so hashing allocates nothing and cannot fail. */
#include "base/hash.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define DIGEST_BYTES 32

#if defined(BACKENDS_NONE)
#include "base/hash_sha256.h"
typedef struct sha256 digest;
static void digest_open(digest *d) { sha256_open(d); }
static void digest_add(digest *d, const void *bytes, size_t count) { sha256_add(d, bytes, count); }
static void digest_close(digest *d, uint8_t result[DIGEST_BYTES]) { sha256_close(d, result); }
#else
#include <nettle/sha2.h>
typedef struct sha256_ctx digest;
static void digest_open(digest *d) { sha256_init(d); }
static void digest_add(digest *d, const void *bytes, size_t count) { sha256_update(d, count, bytes); }
static void digest_close(digest *d, uint8_t result[DIGEST_BYTES]) { sha256_digest(d, DIGEST_BYTES, result); }
#endif

_Static_assert(sizeof(digest) <= sizeof(struct hash), "struct hash holds the digest's state");
_Static_assert(_Alignof(digest) <= _Alignof(struct hash), "struct hash is aligned for the digest's state");

static digest *inner(struct hash *hash) { return (digest *)(void *)hash->state; }

void hash_open(struct hash *hash) { digest_open(inner(hash)); }

void hash_update(struct hash *hash, const void *bytes, size_t count) {
    if (count) digest_add(inner(hash), bytes, count);
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
    uint8_t result[DIGEST_BYTES];
    digest_close(inner(hash), result);
    for (size_t i = 0; i < sizeof result; i++) {
        hex[2 * i] = digits[result[i] >> 4];
        hex[2 * i + 1] = digits[result[i] & 15];
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
