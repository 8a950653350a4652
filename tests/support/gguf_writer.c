#include "gguf_writer.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

const struct gguf_test_type gguf_test_types[] = {
    {0, DTYPE_F32},   {1, DTYPE_F16},   {30, DTYPE_BF16}, {28, DTYPE_F64},    {24, DTYPE_I8},
    {25, DTYPE_I16},  {26, DTYPE_I32},  {27, DTYPE_I64},  {8, DTYPE_Q8_0},    {2, DTYPE_Q4_0},
    {3, DTYPE_Q4_1},  {6, DTYPE_Q5_0},  {7, DTYPE_Q5_1},  {10, DTYPE_Q2_K},   {11, DTYPE_Q3_K},
    {12, DTYPE_Q4_K}, {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K}, {20, DTYPE_IQ4_NL},
};
const size_t gguf_test_type_count = sizeof gguf_test_types / sizeof gguf_test_types[0];

void gguf_writer_close(struct gguf_writer *writer) {
    memory_release(writer->bytes);
    *writer = (struct gguf_writer){0};
}

void put_bytes(struct gguf_writer *writer, const void *bytes, size_t count) {
    if (writer->count + count > writer->capacity) {
        void *grown = writer->bytes;
        size_t capacity = 2 * (writer->count + count);
        CHECK(memory_resize(&grown, capacity, 1) == 0, "%zu bytes", capacity);
        writer->bytes = grown;
        writer->capacity = capacity;
    }
    if (count) memcpy(writer->bytes + writer->count, bytes, count);
    writer->count += count;
}

void put_whole(struct gguf_writer *writer, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(i < sizeof value ? value >> 8 * i : 0);
        put_bytes(writer, &byte, 1);
    }
}

void put_string(struct gguf_writer *writer, const char *text) {
    put_whole(writer, strlen(text), 8);
    put_bytes(writer, text, strlen(text));
}

void put_padding(struct gguf_writer *writer, size_t alignment) {
    while (writer->count % alignment) put_whole(writer, 0, 1);
}

void put_header(struct gguf_writer *writer, uint32_t version, uint64_t tensors, uint64_t entries) {
    put_bytes(writer, "GGUF", 4);
    put_whole(writer, version, 4);
    put_whole(writer, tensors, 8);
    put_whole(writer, entries, 8);
}

void put_u32(struct gguf_writer *writer, const char *key, uint32_t value) {
    put_string(writer, key);
    put_whole(writer, GGUF_U32, 4);
    put_whole(writer, value, 4);
}

void put_f32(struct gguf_writer *writer, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_string(writer, key);
    put_whole(writer, GGUF_F32, 4);
    put_whole(writer, bits, 4);
}

void put_text(struct gguf_writer *writer, const char *key, const char *value) {
    put_string(writer, key);
    put_whole(writer, GGUF_STRING, 4);
    put_string(writer, value);
}

void put_tensor(struct gguf_writer *writer, const char *name, size_t dimensions, const size_t *shape, uint32_t type,
                uint64_t offset) {
    put_string(writer, name);
    put_whole(writer, dimensions, 4);
    for (size_t i = dimensions; i-- > 0;) put_whole(writer, shape[i], 8);
    put_whole(writer, type, 4);
    put_whole(writer, offset, 8);
}

static void put_array(struct gguf_writer *writer, const char *key, enum gguf_type type, uint64_t count) {
    put_string(writer, key);
    put_whole(writer, GGUF_ARRAY, 4);
    put_whole(writer, type, 4);
    put_whole(writer, count, 8);
}

void put_sample(struct gguf_writer *writer) {
    static const size_t width[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    struct tensor tensor = {.dimensions = 2, .shape = {2, 256}};
    uint64_t offset = 0;
    uint64_t random = 1;

    put_header(writer, 3, gguf_test_type_count, 14);
    for (size_t type = 0; type < GGUF_TYPES; type++) {
        char key[32];
        if (!width[type]) continue;
        snprintf(key, sizeof key, "value.%zu", type);
        put_string(writer, key);
        put_whole(writer, type, 4);
        put_whole(writer, 1, width[type]);
    }
    put_text(writer, "general.name", "sample");
    put_array(writer, "array.texts", GGUF_STRING, 3);
    put_string(writer, "a");
    put_string(writer, "");
    put_string(writer, "ccc");
    put_array(writer, "array.numbers", GGUF_I16, 3);
    for (int i = -1; i < 2; i++) put_whole(writer, (uint64_t)(int64_t)i, 2);
    for (size_t i = 0; i < gguf_test_type_count; i++) {
        put_tensor(writer, dtype_name(gguf_test_types[i].dtype), 2, tensor.shape, gguf_test_types[i].number, offset);
        tensor.dtype = gguf_test_types[i].dtype;
        CHECK(tensor_measure(&tensor) == 0, "%s", error_text());
        offset += size_round_up(tensor.bytes, 32);
    }
    put_padding(writer, 32);
    for (uint64_t i = 0; i < offset; i++) put_whole(writer, (random = random * 6364136223846793005u + 1) >> 56, 1);
}

void write_whole_file(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, count, file) == count && fclose(file) == 0, "cannot write %s", path);
}
