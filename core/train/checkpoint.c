/* Checkpoint files (see checkpoint.h). The digest is checked over the whole file before a byte of it is used, so a
 * damaged one never reaches the model. */
#include "train/checkpoint.h"

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "io/file_map.h"

#define VERSION 1u
#define BYTE_ORDER 0x01020304u
#define DIGEST_BYTES (HASH_HEX - 1)

static const char magic[8] = "SHRKTRN";

struct header {
    char magic[8];
    uint32_t version, order;
    uint64_t bytes; /* of the parts that follow */
    char identity[DIGEST_BYTES];
};

/* Rows from `row` on that lie together in the file and in memory; 0: none is left. Moves *row to the first of them. */
static size_t stretch(const struct checkpoint_part *part, size_t *row) {
    size_t end;
    if (part->present && !*part->present) return 0;
    while (*row < part->rows && part->only && !part->only[*row]) (*row)++;
    for (end = *row; end < part->rows && (!part->only || part->only[end]); end++)
        if (!part->only) return part->rows - *row;
    return end - *row;
}

static uint64_t bytes_of(const struct checkpoint_part *part) {
    uint64_t bytes = 0;
    for (size_t row = 0, count; (count = stretch(part, &row)); row += count) bytes += count * part->row_bytes;
    return bytes;
}

static int put(struct file_replace *file, struct hash *hash, const void *bytes, size_t count) {
    hash_update(hash, bytes, count);
    return file_replace_write(file, bytes, count);
}

int checkpoint_write(const char *path, const char identity[HASH_HEX], const struct checkpoint_part *parts,
                     size_t count) {
    int status = 0;
    struct header header = {.version = VERSION, .order = BYTE_ORDER};
    struct file_replace file;
    struct hash hash;
    char digest[HASH_HEX];

    memcpy(header.magic, magic, sizeof magic);
    memcpy(header.identity, identity, sizeof header.identity);
    for (size_t i = 0; i < count; i++) header.bytes += bytes_of(&parts[i]);
    hash_open(&hash);
    TRY(file_replace_open_alone(&file, path));
    TRY(put(&file, &hash, &header, sizeof header));
    for (size_t i = 0; i < count; i++)
        for (size_t row = 0, rows; (rows = stretch(&parts[i], &row)); row += rows)
            TRY(put(&file, &hash, (const char *)parts[i].bytes + row * parts[i].row_bytes, rows * parts[i].row_bytes));
    hash_close(&hash, digest);
    TRY(file_replace_write(&file, digest, DIGEST_BYTES));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    return status;
}

static int damaged(const char *path, const char *what) {
    return error_record(E_FORMAT, __FILE__, __LINE__, "%s: the checkpoint %s; delete it to start this training anew",
                        path, what);
}

/* Whether it is whole. */
static int check(const struct file_map *map, struct header *header) {
    int status = 0;
    char digest[HASH_HEX];
    if (map->count < sizeof *header + DIGEST_BYTES) {
        status = damaged(map->path, "is too short");
        goto out;
    }
    memcpy(header, map->bytes, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) != 0) {
        status = damaged(map->path, "does not begin as one");
        goto out;
    }
    hash_bytes(map->bytes, map->count - DIGEST_BYTES, digest);
    if (memcmp(digest, map->bytes + map->count - DIGEST_BYTES, DIGEST_BYTES) != 0)
        status = damaged(map->path, "is damaged (its checksum does not fit)");
out:
    return status;
}

/* Copy the parts out of `left` bytes at `from`, which are all that there are. */
static int take_parts(const struct file_map *map, const struct checkpoint_part *parts, size_t count) {
    const uint8_t *from = map->bytes + sizeof(struct header);
    size_t left = map->count - sizeof(struct header) - DIGEST_BYTES;
    for (size_t i = 0; i < count; i++)
        for (size_t row = 0, rows; (rows = stretch(&parts[i], &row)); row += rows) {
            size_t bytes = rows * parts[i].row_bytes;
            if (bytes > left) return damaged(map->path, "ends too early");
            memcpy((char *)parts[i].bytes + row * parts[i].row_bytes, from, bytes);
            from += bytes;
            left -= bytes;
        }
    return left ? damaged(map->path, "has bytes too many") : 0;
}

int checkpoint_read(const char *path, const char identity[HASH_HEX], const struct checkpoint_part *parts, size_t count,
                    bool *found) {
    int status = 0;
    struct file_map map = {0};
    struct header header;

    *found = false;
    if (access(path, F_OK) != 0) goto out;
    TRY(file_map_open(&map, path));
    TRY(check(&map, &header));
    if (header.version != VERSION || header.order != BYTE_ORDER ||
        memcmp(header.identity, identity, sizeof header.identity) != 0) {
        log_line(LOG_WARN,
                 "%s: is the checkpoint of another training (options, data, model or version differ): "
                 "starting anew",
                 path);
        goto out;
    }
    TRY(take_parts(&map, parts, count));
    *found = true;
out:
    file_map_close(&map);
    return status;
}
