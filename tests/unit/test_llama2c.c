/* llama2.c's files: every tensor where the format says, both kinds of classifier, lying headers, truncation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "gguf_writer.h"
#include "io/llama2c.h"

static char folder[] = "/tmp/test_llama2c_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.bin", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* width 8, feed-forward 12, 2 layers, 4 heads of 2, 2 key/value heads, 5 words, 3 positions */
#define SHARED_FLOATS (5 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 + 96 + 96) + 8 + 3 * 2)
static const int32_t header[7] = {8, 12, 2, 4, 2, 5, 3};

/* Float i of the data is i. */
static void put_file(struct gguf_writer *writer, const int32_t words[7], size_t floats) {
    for (size_t i = 0; i < 7; i++) put_whole(writer, (uint32_t)words[i], 4);
    for (size_t i = 0; i < floats; i++) {
        float value = (float)i;
        put_bytes(writer, &value, sizeof value);
    }
}

static void expect_tensor(const struct llama2c *file, const char *name, size_t rows, size_t columns, size_t first) {
    struct tensor_list list = {file->tensors, file->count};
    const struct tensor *tensor = tensor_list_find(&list, name);
    float value;
    if (!tensor) fail_msg("no %s", name);
    assert_int_equal(tensor->dimensions, rows == 1 ? 1 : 2);
    assert_int_equal(tensor->shape[0], rows == 1 ? columns : rows);
    if (rows > 1) assert_int_equal(tensor->shape[1], columns);
    memcpy(&value, tensor->data, sizeof value);
    assert_true(value == (float)first);
}

static void tensors_lie_where_the_format_says(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct llama2c file;
    put_file(&writer, header, SHARED_FLOATS);
    write_whole_file(path, writer.bytes, writer.count);
    if (llama2c_open(&file, path) < 0) fail_msg("%s", error_text());
    assert_true(file.tied);
    assert_int_equal(file.count, 2 + 9 * 2);
    expect_tensor(&file, "model.embed_tokens.weight", 5, 8, 0);
    expect_tensor(&file, "model.layers.1.input_layernorm.weight", 1, 8, 48);
    expect_tensor(&file, "model.layers.0.self_attn.q_proj.weight", 8, 8, 56);
    expect_tensor(&file, "model.layers.1.self_attn.k_proj.weight", 4, 8, 56 + 128 + 32);
    expect_tensor(&file, "model.layers.0.self_attn.v_proj.weight", 4, 8, 248);
    expect_tensor(&file, "model.layers.0.self_attn.o_proj.weight", 8, 8, 312);
    expect_tensor(&file, "model.layers.0.post_attention_layernorm.weight", 1, 8, 440);
    expect_tensor(&file, "model.layers.0.mlp.gate_proj.weight", 12, 8, 456);
    expect_tensor(&file, "model.layers.1.mlp.down_proj.weight", 8, 12, 648 + 96);
    expect_tensor(&file, "model.layers.0.mlp.up_proj.weight", 12, 8, 840);
    expect_tensor(&file, "model.norm.weight", 1, 8, 1032);
    llama2c_close(&file);
    llama2c_close(&file);
    gguf_writer_close(&writer);
}

static void a_negative_vocabulary_brings_a_classifier(void **state) {
    (void)state;
    int32_t words[7];
    struct gguf_writer writer = {0};
    struct llama2c file;
    memcpy(words, header, sizeof words);
    words[5] = -5;
    put_file(&writer, words, SHARED_FLOATS + 40);
    write_whole_file(path, writer.bytes, writer.count);
    if (llama2c_open(&file, path) < 0) fail_msg("%s", error_text());
    assert_false(file.tied);
    assert_int_equal(file.vocabulary, 5);
    expect_tensor(&file, "lm_head.weight", 5, 8, SHARED_FLOATS);
    llama2c_close(&file);
    gguf_writer_close(&writer);
}

static void every_truncation_and_one_byte_more_are_refused(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct llama2c file;
    put_file(&writer, header, SHARED_FLOATS);
    put_whole(&writer, 0, 1);
    write_whole_file(path, writer.bytes, writer.count);
    assert_int_equal(llama2c_open(&file, path), E_FORMAT);
    for (size_t length = writer.count - 1; length-- > 0;) {
        assert_int_equal(truncate(path, (off_t)length), 0);
        if (llama2c_open(&file, path) != E_FORMAT) fail_msg("%zu bytes were accepted", length);
    }
    gguf_writer_close(&writer);
}

static void lying_headers_are_refused(void **state) {
    (void)state;
    static const int32_t lies[][2] = {{0, 0},         {0, -8},   {0, 9}, {0, INT32_MAX}, {1, 0},  {1, 1 << 24}, {2, 0},
                                      {2, 5000},      {2, 1024}, {3, 3}, {3, 8},         {4, 3},  {4, 0},       {5, 0},
                                      {5, INT32_MIN}, {5, -5},   {6, 0}, {6, INT32_MAX}, {6, -3}, {1, 11},      {6, 4}};
    struct gguf_writer writer = {0};
    struct llama2c file;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        int32_t words[7];
        memcpy(words, header, sizeof words);
        words[lies[i][0]] = lies[i][1];
        put_file(&writer, words, SHARED_FLOATS);
        write_whole_file(path, writer.bytes, writer.count);
        if (llama2c_open(&file, path) != E_FORMAT) fail_msg("word %d as %d", lies[i][0], lies[i][1]);
        assert_non_null(strstr(error_text(), "llama2.c file"));
        assert_null(file.map.bytes);
        gguf_writer_close(&writer);
    }
}

static void memory_running_out_leaves_nothing(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct llama2c file;
    put_file(&writer, header, SHARED_FLOATS);
    write_whole_file(path, writer.bytes, writer.count);
    memory_fail_after(0);
    assert_int_equal(llama2c_open(&file, path), 0);
    long allocations = memory_count();
    llama2c_close(&file);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        assert_int_equal(llama2c_open(&file, path), E_MEMORY);
        memory_fail_after(0);
    }
    gguf_writer_close(&writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_lie_where_the_format_says),
        cmocka_unit_test(a_negative_vocabulary_brings_a_classifier),
        cmocka_unit_test(every_truncation_and_one_byte_more_are_refused),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(memory_running_out_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
