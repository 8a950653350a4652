/* Rows of numbers in a file named by the hash of what determines them.
 *
 *   magic [16] | key [64 hexadecimal digits] | rows u64 | bytes of a row u64 | zeros to 128 | rows | SHA-256 of all
 * before
 *
 * in the machine's byte order. A file that is short, long, of another key or whose hash is not that of its bytes is as
 * good as none: it is computed anew and replaced. New files appear whole (written beside and renamed). Of cells which
 * need the same rows at the same time one computes them, under a lock that ends with its process; the others wait. A
 * file that cannot be written or locked costs a cell its saving, not its result.
 */
#include "distill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define MAGIC "shrinklab-rows-1"
#define HEADER_BYTES 128 /* rows begin aligned, as they are used in place */
#define WAIT_NS 50000000 /* between two looks at another process's lock */

struct header {
    char magic[16];
    char key[HASH_HEX - 1];
    uint64_t rows, row_bytes;
};

static struct header header_of(const struct kept *kept, const char key[HASH_HEX]) {
    struct header header = {.rows = kept->count, .row_bytes = kept->row_bytes};
    memcpy(header.magic, MAGIC, sizeof header.magic);
    memcpy(header.key, key, sizeof header.key);
    return header;
}

/* The mapped bytes are what this key's file must be. */
static bool file_is_whole(const struct file_map *map, const struct header *header) {
    char hex[HASH_HEX];
    size_t body = HEADER_BYTES + header->rows * header->row_bytes;
    if (map->count != body + HASH_HEX - 1 || memcmp(map->bytes, header, sizeof *header) != 0) return false;
    hash_bytes(map->bytes, body, hex);
    return memcmp(map->bytes + body, hex, HASH_HEX - 1) == 0;
}

/* The rows are on disk. */
static bool find_file(struct kept *kept) {
    struct header header = header_of(kept, kept->key);
    if (access(kept->path, R_OK) != 0 || file_map_open(&kept->map, kept->path) < 0) return false;
    if (!file_is_whole(&kept->map, &header)) {
        log_line(LOG_WARN, "%s is damaged or foreign: it is computed anew", kept->path);
        file_map_close(&kept->map);
        return false;
    }
    kept->rows = kept->map.bytes + HEADER_BYTES;
    kept->found = true;
    return true;
}

static void lock_path(const struct kept *kept, char *path, size_t size) { snprintf(path, size, "%s.lock", kept->path); }

/* Be the only one who computes the rows; without a lock where there can be none. E_INTERRUPTED. */
static int take_turn(struct kept *kept, int (*waiting)(void *context), void *context) {
    int status = 0;
    char path[4096];
    lock_path(kept, path, sizeof path);
    kept->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (kept->lock < 0) goto out;
    while (!(kept->locked = flock(kept->lock, LOCK_EX | LOCK_NB) == 0)) {
        if (errno != EWOULDBLOCK && errno != EINTR) goto out;
        kept->waited = true;
        if (waiting(context)) FAIL(E_INTERRUPTED, "stopped");
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
    }
out:
    if (!kept->locked && kept->lock >= 0) close(kept->lock); /* the file is another's */
    return status;
}

static void end_turn(struct kept *kept) {
    char path[4096];
    if (!kept->locked) return;
    lock_path(kept, path, sizeof path);
    unlink(path); /* who waits for this one finds the rows, or a lock of its own */
    close(kept->lock);
    kept->locked = false;
}

int distill_kept_open(struct kept *kept, const char *folder, const char key[HASH_HEX], size_t count, size_t row_bytes,
                      int (*waiting)(void *context), void *context) {
    int status = 0;
    void *block;
    size_t bytes;
    *kept = (struct kept){.count = count, .row_bytes = row_bytes};
    memcpy(kept->key, key, HASH_HEX);
    TRY(size_multiply(count, row_bytes, &bytes));
    if (folder) {
        size_t size = strlen(folder) + sizeof "/teacher-.rows" + HASH_HEX;
        TRY(memory_take(&block, size, 1));
        kept->path = block;
        snprintf(kept->path, size, "%s/teacher-%s.rows", folder, key);
        if (find_file(kept)) goto out;
        TRY(take_turn(kept, waiting, context));
        if (kept->waited && find_file(kept)) goto out;
    }
    TRY(memory_take_raw(&block, bytes, 1));
    kept->block = block;
    kept->rows = block;
out:
    if (status < 0) distill_kept_close(kept);
    return status;
}

static int write_file(struct kept *kept) {
    int status = 0;
    struct file_replace file = {.file = -1};
    struct hash hash;
    char start[HEADER_BYTES] = {0}, hex[HASH_HEX];
    struct header header = header_of(kept, kept->key);
    memcpy(start, &header, sizeof header);
    hash_open(&hash);
    hash_update(&hash, start, sizeof start);
    hash_update(&hash, kept->rows, kept->count * kept->row_bytes);
    hash_close(&hash, hex);
    TRY(file_replace_open(&file, kept->path));
    TRY(file_replace_write(&file, start, sizeof start));
    TRY(file_replace_write(&file, kept->rows, kept->count * kept->row_bytes));
    TRY(file_replace_write(&file, hex, sizeof hex - 1));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    return status;
}

void distill_kept_finish(struct kept *kept) {
    if (!kept->path || kept->found) return;
    int status = write_file(kept);
    end_turn(kept);
    if (status < 0) {
        log_line(LOG_WARN, "the teacher's outputs are not kept: %s", error_text());
        return;
    }
    /* From here on the page cache holds them, and may let go of them. */
    if (file_map_open(&kept->map, kept->path) < 0) return;
    if (kept->map.count < HEADER_BYTES + kept->count * kept->row_bytes) {
        file_map_close(&kept->map);
        return;
    }
    kept->rows = kept->map.bytes + HEADER_BYTES;
    memory_release(kept->block);
    kept->block = NULL;
}

void distill_kept_close(struct kept *kept) {
    end_turn(kept);
    file_map_close(&kept->map);
    memory_release(kept->block);
    memory_release(kept->path);
    *kept = (struct kept){0};
}

/* ---- what determines an output ----------------------------------------------------------------------------- */

static int hash_parameter(struct hash *hash, const struct parameter *parameter) {
    int status = 0;
    void *row = NULL;
    hash_text(hash, parameter->name);
    hash_number(hash, parameter->rows);
    hash_number(hash, parameter->columns);
    if (parameter->value) {
        hash_update(hash, parameter->value, parameter->rows * parameter->columns * sizeof(float));
        goto out;
    }
    TRY(memory_take_raw(&row, parameter->columns, sizeof(float)));
    for (size_t r = 0; r < parameter->rows; r++) {
        parameter_rows(parameter, r, r + 1, row);
        hash_update(hash, row, parameter->columns * sizeof(float));
    }
out:
    memory_release(row);
    return status;
}

static void hash_activation(struct hash *hash, const struct activation_quantizer *activation) {
    hash_number(hash, activation->range);
    hash_number(hash, activation->asymmetric);
    hash_number(hash, activation->reduced);
    hash_update(hash, &activation->scale, sizeof activation->scale);
    hash_number(hash, (uint32_t)activation->zero);
    hash_update(hash, &activation->outlier, sizeof activation->outlier);
}

int distill_model_key(const struct model *model, char hex[HASH_HEX]) {
    int status = 0;
    struct hash hash;
    char *config = NULL;
    hash_open(&hash);
    TRY(model_config_print(&model->config, &config));
    hash_text(&hash, config);
    hash_number(&hash, model->int8_attention);
    for (size_t i = 0; i < model->parameter_count; i++) TRY(hash_parameter(&hash, &model->parameters[i]));
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        if (linear->parameter) continue;
        hash_text(&hash, linear->name);
        hash_text(&hash, linear->weight.format->name);
        hash_number(&hash, linear->weight.shape.group);
        hash_number(&hash, linear->weight.shape.symmetric);
        hash_activation(&hash, &linear->weight.activation);
        hash_update(&hash, linear->weight.packed, linear->weight.packed_bytes);
    }
out:
    hash_close(&hash, hex);
    memory_release(config);
    return status;
}

void distill_output_key(const struct output_task *task, const char model_hex[HASH_HEX], char hex[HASH_HEX]) {
    struct hash hash;
    const struct examples *examples = task->examples;
    hash_open(&hash);
    hash_text(&hash, MAGIC);
    hash_text(&hash, model_hex);
    hash_number(&hash, kernels.flags); /* another instruction set rounds otherwise */
    hash_number(&hash, task->kind);
    hash_number(&hash, task->top);
    hash_number(&hash, task->kind == OUTPUT_TEXT ? task->cut : 0); /* else that of lengths below */
    hash_number(&hash, task->prompt);
    hash_number(&hash, task->beams);
    hash_number(&hash, examples->pair);
    hash_number(&hash, examples->types != NULL);
    hash_number(&hash, examples->count);
    for (size_t i = 0; i < examples->count; i++) {
        size_t first = examples->offset[i], length = distill_example_length(task, i);
        hash_number(&hash, length);
        hash_update(&hash, examples->ids + first, length * sizeof *examples->ids);
        if (examples->types) hash_update(&hash, examples->types + first, length * sizeof *examples->types);
    }
    hash_close(&hash, hex);
}
