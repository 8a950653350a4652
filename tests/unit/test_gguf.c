/* GGUF: every kind of value and every tensor type, a table of lies, truncation at every byte, single changed bytes. */
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
#include "io/gguf.h"

static char folder[] = "/tmp/test_gguf_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void every_value_and_type_is_read(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct gguf file;
    uint64_t whole;
    double number;
    bool truth = false;
    const char *text;
    size_t bytes, place = 0;
    put_sample(&writer);
    write_whole_file(path, writer.bytes, writer.count);
    if (gguf_open(&file, path) < 0) fail_msg("%s", error_text());
    assert_int_equal(file.version, 3);
    assert_int_equal(file.entry_count, 14);
    assert_int_equal(file.tensor_count, gguf_test_type_count);
    for (size_t type = 0; type < GGUF_TYPES; type++) {
        char key[32];
        snprintf(key, sizeof key, "value.%zu", type);
        bool real = type == GGUF_F32 || type == GGUF_F64;
        if (type == GGUF_STRING || type == GGUF_ARRAY) continue;
        assert_int_equal(gguf_u64(&file, key, &whole), real || type == GGUF_BOOL ? E_FORMAT : 0);
        if (!real && type != GGUF_BOOL) assert_int_equal(whole, 1);
        assert_int_equal(gguf_number(&file, key, &number), type == GGUF_BOOL ? E_FORMAT : 0);
        if (!real && type != GGUF_BOOL) assert_true(number == 1);
    }
    assert_int_equal(gguf_bool(&file, "value.7", &truth), 0);
    assert_true(truth);
    assert_int_equal(gguf_text(&file, "general.name", &text, &bytes), 0);
    assert_true(bytes == 6 && memcmp(text, "sample", 6) == 0);
    assert_int_equal(gguf_text(&file, "value.7", &text, &bytes), E_FORMAT);
    assert_int_equal(gguf_u64(&file, "nothing", &whole), E_NOT_FOUND);
    assert_int_equal(gguf_u64(&file, "array.numbers", &whole), E_FORMAT);
    const struct gguf_entry *numbers = gguf_find(&file, "array.numbers"), *texts = gguf_find(&file, "array.texts");
    for (uint64_t i = 0; i < 3; i++) assert_int_equal(gguf_element_whole(numbers, i), (int64_t)i - 1);
    assert_true(gguf_element(numbers, 0) == -1);
    assert_true(gguf_next_string(texts, &place, &text, &bytes) && bytes == 1 && text[0] == 'a');
    assert_true(gguf_next_string(texts, &place, &text, &bytes) && bytes == 0);
    assert_true(gguf_next_string(texts, &place, &text, &bytes) && bytes == 3 && memcmp(text, "ccc", 3) == 0);
    assert_false(gguf_next_string(texts, &place, &text, &bytes));
    for (size_t i = 0; i < gguf_test_type_count; i++) {
        const struct tensor *tensor = gguf_tensor(&file, dtype_name(gguf_test_types[i].dtype));
        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, gguf_test_types[i].dtype);
        assert_true(tensor->dimensions == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 256);
    }
    gguf_close(&file);
    gguf_close(&file);
    gguf_writer_close(&writer);
}

static void a_file_cut_short_is_refused_at_every_byte(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct gguf file;
    put_sample(&writer);
    /* The padding behind the last tensor's data may be missing. */
    size_t last = writer.count;
    write_whole_file(path, writer.bytes, writer.count);
    assert_int_equal(gguf_open(&file, path), 0);
    const uint8_t *end = file.map.bytes;
    for (size_t i = 0; i < file.tensor_count; i++) {
        const uint8_t *tensor_end = (const uint8_t *)file.tensors[i].data + file.tensors[i].bytes;
        if (tensor_end > end) end = tensor_end;
    }
    last = (size_t)(end - file.map.bytes);
    gguf_close(&file);
    for (size_t length = writer.count; length-- > 0;) {
        assert_int_equal(truncate(path, (off_t)length), 0);
        int code = gguf_open(&file, path);
        if (length >= last) {
            assert_int_equal(code, 0);
            gguf_close(&file);
        } else if (code != E_FORMAT) {
            fail_msg("%zu bytes gave %d", length, code);
        }
    }
    gguf_writer_close(&writer);
}

/* What is opened after a byte changed must be safe to read to its end. */
static void read_everything(const struct gguf *file) {
    static float row[1024];
    volatile double sum = 0;
    for (size_t i = 0; i < file->entry_count; i++) {
        const struct gguf_entry *entry = &file->entries[i];
        const char *text;
        size_t bytes, place = 0;
        while (gguf_next_string(entry, &place, &text, &bytes))
            for (size_t k = 0; k < bytes; k++) sum += text[k];
        for (uint64_t k = 0; entry->type != GGUF_STRING && k < entry->count; k++) sum += gguf_element(entry, k);
    }
    for (size_t i = 0; i < file->tensor_count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        size_t columns = tensor->shape[tensor->dimensions - 1];
        for (size_t r = 0; columns <= 1024 && dtype_is_real(tensor->dtype) && r < tensor->count / columns; r++) {
            tensor_rows_to_f32(tensor, r, r + 1, row);
            sum += (double)row[columns - 1];
        }
    }
}

static void a_changed_byte_does_no_harm(void **state) {
    (void)state;
    static const uint8_t change[] = {0x01, 0x80, 0xff};
    struct gguf_writer writer = {0};
    struct gguf file;
    size_t accepted = 0;
    put_sample(&writer);
    write_whole_file(path, writer.bytes, writer.count);
    assert_int_equal(gguf_open(&file, path), 0);
    size_t header = writer.count;
    for (size_t i = 0; i < file.tensor_count; i++) {
        size_t begin = (size_t)((const uint8_t *)file.tensors[i].data - file.map.bytes);
        if (begin < header) header = begin;
    }
    gguf_close(&file);
    FILE *stream = fopen(path, "r+b");
    setvbuf(stream, NULL, _IONBF, 0);
    for (size_t i = 0; i < header; i++)
        for (size_t k = 0; k < sizeof change; k++) {
            fseek(stream, (long)i, SEEK_SET);
            fputc(writer.bytes[i] ^ change[k], stream);
            if (gguf_open(&file, path) == 0) {
                accepted++;
                read_everything(&file);
                gguf_close(&file);
            }
            fseek(stream, (long)i, SEEK_SET);
            fputc(writer.bytes[i], stream);
        }
    fclose(stream);
    assert_true(accepted > 0 && accepted < header * sizeof change);
    gguf_writer_close(&writer);
}

/* ---- lies ------------------------------------------------------------------------------------------- */
static void expect(struct gguf_writer *writer, int code, const char *message) {
    struct gguf file;
    write_whole_file(path, writer->bytes, writer->count);
    assert_int_equal(gguf_open(&file, path), code);
    if (!strstr(error_text(), message)) fail_msg("'%s' lacks '%s'", error_text(), message);
    assert_non_null(strstr(error_text(), path));
    assert_null(file.map.bytes);
    gguf_writer_close(writer);
}

static const size_t shape[] = {2, 32};

static void lying_headers_are_refused(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    put_bytes(&w, "GGML", 4);
    expect(&w, E_FORMAT, "does not start with \"GGUF\"");
    put_header(&w, 1, 0, 0);
    expect(&w, E_UNSUPPORTED, "version 1");
    put_header(&w, 3u << 24, 0, 0);
    expect(&w, E_UNSUPPORTED, "big endian");
    put_header(&w, 3, UINT64_MAX, 0);
    expect(&w, E_FORMAT, "do not fit");
    put_header(&w, 3, 0, UINT64_MAX);
    expect(&w, E_FORMAT, "do not fit");
    put_header(&w, 3, 0, 2);
    put_u32(&w, "a.key", 1);
    put_u32(&w, "a.key", 2);
    expect(&w, E_FORMAT, "key 'a.key' occurs twice");
    put_header(&w, 3, 0, 1);
    put_string(&w, "a.key");
    put_whole(&w, 13, 4);
    put_whole(&w, 0, 8);
    expect(&w, E_FORMAT, "key 'a.key': value type 13");
    put_header(&w, 3, 0, 1);
    put_string(&w, "a.key");
    put_whole(&w, GGUF_ARRAY, 4);
    put_whole(&w, GGUF_U64, 4);
    put_whole(&w, UINT64_MAX / 4, 8);
    expect(&w, E_FORMAT, "key 'a.key'");
    put_header(&w, 3, 0, 1);
    put_string(&w, "a.key");
    put_whole(&w, GGUF_ARRAY, 4);
    put_whole(&w, GGUF_ARRAY, 4);
    put_whole(&w, 0, 8);
    expect(&w, E_UNSUPPORTED, "arrays of arrays");
    put_header(&w, 3, 0, 1);
    put_string(&w, "a.key");
    put_whole(&w, GGUF_BOOL, 4);
    put_whole(&w, 2, 1);
    expect(&w, E_FORMAT, "a bool is 2");
    put_header(&w, 3, 0, 1);
    put_string(&w, "");
    put_whole(&w, 0, 8);
    expect(&w, E_FORMAT, "a key has 0 bytes");
    put_header(&w, 3, 0, 1);
    put_u32(&w, "general.alignment", 24);
    expect(&w, E_FORMAT, "24 is not a power of two");
}

static void lying_tensors_are_refused(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    static const struct {
        size_t dimensions, shape[4];
        uint32_t type;
        uint64_t offset;
        int code;
        const char *message;
    } cases[] = {
        {0, {0}, 0, 0, E_FORMAT, "tensor 't': has 0 dimensions"},
        {5, {1, 1, 1, 1}, 0, 0, E_FORMAT, "tensor 't': has 5 dimensions"},
        {2, {0, 32}, 0, 0, E_FORMAT, "a size of 0"},
        {2, {SIZE_MAX / 2, 4}, 0, 0, E_LIMIT, "does not fit in memory"},
        {2, {2, 31}, 8, 0, E_SHAPE, "rows of 31 are not whole Q8_0 blocks of 32"},
        {2, {2, 128}, 12, 0, E_SHAPE, "not whole Q4_K blocks of 256"},
        {2, {2, 32}, 4, 0, E_UNSUPPORTED, "tensor type 4"},
        {2, {2, 32}, 21, 0, E_UNSUPPORTED, "tensor type IQ3_S is not supported; quantize the model to"},
        {2, {2, 32}, 99, 0, E_UNSUPPORTED, "tensor type 99"},
        {2, {2, 32}, 0, 4, E_FORMAT, "offset 4 is not a multiple of the alignment 32"},
        {2, {2, 32}, 0, 32, E_FORMAT, "lie outside"},
        {2, {2, 32}, 0, (uint64_t)1 << 63, E_FORMAT, "lie outside"},
        {2, {2, 33}, 0, 0, E_FORMAT, "lie outside"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t sizes[5] = {cases[i].shape[0], cases[i].shape[1], cases[i].shape[2], cases[i].shape[3], 1};
        put_header(&w, 2, 1, 0);
        put_tensor(&w, "t", cases[i].dimensions, sizes, cases[i].type, cases[i].offset);
        put_padding(&w, 32);
        for (int k = 0; k < 64; k++) put_whole(&w, 0x3f800000, 4);
        expect(&w, cases[i].code, cases[i].message);
    }
    put_header(&w, 3, 2, 0);
    put_tensor(&w, "a", 2, shape, 0, 0);
    put_tensor(&w, "b", 2, shape, 0, 224);
    put_padding(&w, 32);
    for (int k = 0; k < 128; k++) put_whole(&w, 0, 4);
    expect(&w, E_FORMAT, "tensor 'b': its data overlaps that of 'a'");
    put_header(&w, 3, 2, 0);
    put_tensor(&w, "a", 2, shape, 0, 0);
    put_tensor(&w, "a", 2, shape, 0, 256);
    put_padding(&w, 32);
    for (int k = 0; k < 128; k++) put_whole(&w, 0, 4);
    expect(&w, E_FORMAT, "tensor 'a' occurs twice");
    put_header(&w, 3, 1, 0);
    put_string(&w, "a\nb"); /* a name may hold anything but a zero */
    put_whole(&w, 0, 4);
    put_whole(&w, 0, 32);
    expect(&w, E_FORMAT, "has 0 dimensions");
}

static void alignment_is_the_files_own(void **state) {
    (void)state;
    struct gguf_writer w = {0};
    struct gguf file;
    put_header(&w, 3, 1, 1);
    put_u32(&w, "general.alignment", 4096);
    put_tensor(&w, "a", 2, shape, 0, 0);
    put_padding(&w, 4096);
    for (int k = 0; k < 64; k++) put_whole(&w, 0x3f800000, 4);
    write_whole_file(path, w.bytes, w.count);
    assert_int_equal(gguf_open(&file, path), 0);
    assert_ptr_equal(file.tensors[0].data, file.map.bytes + 4096);
    gguf_close(&file);
    gguf_writer_close(&w);
}

static void memory_running_out_leaves_nothing(void **state) {
    (void)state;
    struct gguf_writer writer = {0};
    struct gguf file;
    put_sample(&writer);
    write_whole_file(path, writer.bytes, writer.count);
    memory_fail_after(0);
    assert_int_equal(gguf_open(&file, path), 0);
    long allocations = memory_count();
    gguf_close(&file);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int code = gguf_open(&file, path);
        memory_fail_after(0);
        assert_int_equal(code, E_MEMORY);
        assert_null(file.map.bytes);
    }
    gguf_writer_close(&writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_and_type_is_read),
        cmocka_unit_test(a_file_cut_short_is_refused_at_every_byte),
        cmocka_unit_test(a_changed_byte_does_no_harm),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(lying_tensors_are_refused),
        cmocka_unit_test(alignment_is_the_files_own),
        cmocka_unit_test(memory_running_out_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
