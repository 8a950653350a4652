/* GGUF files for tests, byte by byte, so that a test can write what no honest tool would. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "io/gguf.h"

struct gguf_writer {
    uint8_t *bytes;
    size_t count, capacity;
};
void gguf_writer_close(struct gguf_writer *writer);

void put_whole(struct gguf_writer *writer, uint64_t value, size_t bytes); /* little endian */
void put_bytes(struct gguf_writer *writer, const void *bytes, size_t count);
void put_string(struct gguf_writer *writer, const char *text);
void put_padding(struct gguf_writer *writer, size_t alignment); /* zeros up to a multiple */

void put_header(struct gguf_writer *writer, uint32_t version, uint64_t tensors, uint64_t entries);
void put_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void put_f32(struct gguf_writer *writer, const char *key, float value);
void put_text(struct gguf_writer *writer, const char *key, const char *value);
/* shape outermost first, as `struct tensor` has it; type is ggml's number. */
void put_tensor(struct gguf_writer *writer, const char *name, size_t dimensions, const size_t *shape, uint32_t type,
                uint64_t offset);

/* ggml's number and our name for every tensor type that is read. */
struct gguf_test_type {
    uint32_t number;
    enum dtype dtype;
};
extern const struct gguf_test_type gguf_test_types[];
extern const size_t gguf_test_type_count;

/* A small file with one tensor of every type ([2,256]) and one entry of every kind. */
void put_sample(struct gguf_writer *writer);

void write_whole_file(const char *path, const void *bytes, size_t count); /* or the test program ends */

#endif
