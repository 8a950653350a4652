/* safetensors: round trip, fixed bytes, a table of lying headers, truncation at every byte, conversions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "io/safetensors.h"

static char folder[] = "/tmp/test_safetensors_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails when anything was left behind */
}

static void write_bytes(const void *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* A file of the given header text (its true length in front) and `data_bytes` bytes of data. */
static void write_header(const char *header, size_t data_bytes) {
    uint8_t bytes[4096] = {0};
    size_t length = strlen(header);
    assert_true(8 + length + data_bytes <= sizeof bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) bytes[8 + length + i] = (uint8_t)i;
    write_bytes(bytes, 8 + length + data_bytes);
}

static const float weights[6] = {1, -2, 3.5f, 0, 1e-9f, INFINITY};
static const int8_t codes[3] = {-128, 0, 127};
static const struct tensor sample[] = {
    {.name = "z.weight", .dtype = DTYPE_F32, .dimensions = 2, .shape = {2, 3}, .data = weights},
    {.name = "codes", .dtype = DTYPE_I8, .dimensions = 1, .shape = {3}, .data = codes},
    {.name = "empty", .dtype = DTYPE_U8, .dimensions = 2, .shape = {0, 7}},
    {.name = "scalar \"quoted\" \xc3\xa9", .dtype = DTYPE_F32, .data = weights + 2},
};
static const struct safetensors_meta metadata[] = {{"format", "pt"}, {"note", "line\nbreak"}};

static void what_is_written_reads_back(void **state) {
    (void)state;
    struct safetensors file;
    const struct tensor *tensor;
    assert_int_equal(safetensors_write(path, sample, 4, metadata, 2), 0);
    assert_int_equal(safetensors_open(&file, path), 0);
    assert_int_equal(file.count, 4);
    for (size_t i = 1; i < file.count; i++) assert_true(strcmp(file.tensors[i - 1].name, file.tensors[i].name) < 0);
    assert_int_equal(safetensors_require(&file, "z.weight", DTYPE_F32, 2, (size_t[]){2, 3}, &tensor), 0);
    assert_memory_equal(tensor->data, weights, sizeof weights);
    assert_int_equal((uintptr_t)tensor->data % 64, 0);
    assert_int_equal(tensor->count, 6);
    assert_int_equal(safetensors_require(&file, "codes", DTYPE_I8, 1, (size_t[]){3}, &tensor), 0);
    assert_memory_equal(tensor->data, codes, sizeof codes);
    assert_int_equal(safetensors_require(&file, "scalar \"quoted\" \xc3\xa9", DTYPE_F32, 0, NULL, &tensor), 0);
    assert_memory_equal(tensor->data, weights + 2, 4);
    assert_int_equal(safetensors_find(&file, "empty")->bytes, 0);
    assert_null(safetensors_find(&file, "nothing"));
    assert_string_equal(safetensors_metadata(&file, "format"), "pt");
    assert_string_equal(safetensors_metadata(&file, "note"), "line\nbreak");
    assert_null(safetensors_metadata(&file, "missing"));
    assert_int_equal(safetensors_require(&file, "nothing", DTYPE_F32, 0, NULL, &tensor), E_NOT_FOUND);
    assert_non_null(strstr(error_text(), "has no tensor 'nothing'"));
    assert_int_equal(safetensors_require(&file, "z.weight", DTYPE_F32, 2, (size_t[]){3, 2}, &tensor), E_SHAPE);
    assert_non_null(strstr(error_text(), "tensor 'z.weight' is F32 [2,3] but must be F32 [3,2]"));
    assert_int_equal(safetensors_require(&file, "codes", DTYPE_U8, 1, (size_t[]){3}, &tensor), E_SHAPE);
    safetensors_close(&file);
    safetensors_close(&file);
}

static void the_bytes_depend_on_the_arguments_alone(void **state) {
    (void)state;
    char first[HASH_HEX], second[HASH_HEX];
    struct stat info;
    assert_int_equal(safetensors_write(path, sample, 4, metadata, 2), 0);
    assert_int_equal(hash_file(path, first), 0);
    assert_int_equal(safetensors_write(path, sample, 4, metadata, 2), 0); /* over an existing file */
    assert_int_equal(hash_file(path, second), 0);
    assert_string_equal(first, second);
    assert_string_equal(first, "e541a9b460676bf23f8db7339a25172f846472d0da47f4baebabcb0072bd086d");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0600, 0600);
    assert_int_equal(safetensors_write(path, NULL, 0, NULL, 0), 0);
    struct safetensors file;
    assert_int_equal(safetensors_open(&file, path), 0);
    assert_int_equal(file.count, 0);
    assert_null(safetensors_find(&file, "a"));
    safetensors_close(&file);
}

static void data_is_aligned_whatever_the_names(void **state) {
    (void)state;
    char name[16] = "";
    for (size_t length = 1; length <= 12; length++) {
        struct tensor tensor = {.name = name, .dtype = DTYPE_F32, .dimensions = 1, .shape = {6}, .data = weights};
        struct safetensors file;
        name[length - 1] = 'n';
        assert_int_equal(safetensors_write(path, &tensor, 1, NULL, 0), 0);
        assert_int_equal(safetensors_open(&file, path), 0);
        assert_int_equal((uintptr_t)safetensors_find(&file, name)->data % 64, 0);
        safetensors_close(&file);
    }
}

/* A file as the Python library writes one: metadata, spaces behind the header, tensors not in name order. */
static void a_foreign_file_is_read(void **state) {
    (void)state;
    struct safetensors file;
    write_header("{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                 "\"b\":{\"shape\":[2,1],\"data_offsets\":[8,12],\"dtype\":\"BF16\"}}    ",
                 12);
    assert_int_equal(safetensors_open(&file, path), 0);
    assert_int_equal(file.count, 2);
    assert_string_equal(file.tensors[0].name, "b");
    assert_int_equal(*(const uint8_t *)file.tensors[0].data, 8);
    assert_string_equal(safetensors_metadata(&file, "format"), "pt");
    safetensors_close(&file);
}

#define F32(offsets) "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" offsets

static void lying_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *message;
    } row[] = {
        {"", 0, "header: byte 0: expected a value"},
        {"[]", 0, "header must be a JSON object"},
        {" {}", 0, "header must be a JSON object"},
        {"{", 0, "header: byte 1: expected '\"' before a name"},
        {"{}x", 0, "header: byte 2: expected the end of the text"},
        {"{}", 4, "4 bytes at the end belong to no tensor"},
        {"{\"a\":1}", 0, "tensor 'a': needs an object with dtype, shape and data_offsets"},
        {"{\"a\":{}}", 0, "tensor 'a': dtype must be a string"},
        {"{\"a\":{\"dtype\":\"F33\"}}", 0, "tensor 'a': dtype 'F33' is not known"},
        {"{\"a\":{\"dtype\":\"f32\"}}", 0, "tensor 'a': dtype 'f32' is not known"},
        {"{\"a\":{\"dtype\":3}}", 0, "tensor 'a': dtype must be a string"},
        {"{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor 'a': needs a shape, an array of whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2}}", 0, "tensor 'a': needs a shape, an array of whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1]}}", 0, "tensor 'a': shape must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5]}}", 0, "tensor 'a': shape must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"]}}", 0,
         "tensor 'a': shape must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616]}}", 0,
         "tensor 'a': shape must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1]}}", 0,
         "tensor 'a': shape has 9 dimensions, more than 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "tensor 'a': shape [4294967296,4294967296] does not fit in memory"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,2147483648],\"data_offsets\":[0,0]}}", 0,
         "tensor 'a': shape [2147483648,2147483648] does not fit in memory"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8,
         "tensor 'a': needs data_offsets, an array of two whole numbers"},
        {"{\"a\":{" F32("8") "}}", 8, "tensor 'a': needs data_offsets, an array of two whole numbers"},
        {"{\"a\":{" F32("[0]") "}}", 8, "tensor 'a': needs data_offsets, an array of two whole numbers"},
        {"{\"a\":{" F32("[0,8,8]") "}}", 8, "tensor 'a': needs data_offsets, an array of two whole numbers"},
        {"{\"a\":{" F32("[-8,0]") "}}", 8, "tensor 'a': data_offsets must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{" F32("[0,9007199254740992]") "}}", 8,
         "tensor 'a': data_offsets must be a whole number from 0 to 2^53-1"},
        {"{\"a\":{" F32("[8,0]") "}}", 8, "tensor 'a': data_offsets [8, 0] run backwards"},
        {"{\"a.weight\":{\"dtype\":\"F32\",\"shape\":[4,4],\"data_offsets\":[0,80]}}", 80,
         "tensor 'a.weight': data_offsets [0, 80] are 80 bytes but F32 [4,4] takes 64"},
        {"{\"a\":{" F32("[0,8]") "}}", 7,
         "tensor 'a': data_offsets [0, 8] lie outside the file's 7 bytes of data (file cut short?)"},
        {"{\"a\":{" F32("[9007199254740983,9007199254740991]") "}}", 8,
         "tensor 'a': data_offsets [9007199254740983, 9007199254740991] lie outside the file's 8 bytes of data (file "
         "cut short?)"},
        {"{\"a\":{" F32("[0,8]") "}}", 9, "1 bytes at the end belong to no tensor"},
        {"{\"a\":{" F32("[4,12]") "}}", 12, "tensor 'a': 4 bytes before its data belong to no tensor"},
        {"{\"a\":{" F32("[0,8]") "},\"b\":{" F32("[4,12]") "}}", 12, "tensor 'b': its data overlaps that of 'a'"},
        {"{\"a\":{" F32("[0,8]") "},\"b\":{" F32("[0,8]") "}}", 8, "tensor 'b': its data overlaps that of 'a'"},
        {"{\"a\":{" F32("[0,8]") "},\"b\":{" F32("[12,20]") "}}", 20,
         "tensor 'b': 4 bytes before its data belong to no tensor"},
        {"{\"a\":{" F32("[0,8]") "},\"a\":{" F32("[8,16]") "}}", 16,
         "header: byte 108: the name 'a' appears twice in this object"},
        {"{\"a\":{" F32("[0,8]") ",\"shape\":[2]}}", 8,
         "header: byte 65: the name 'shape' appears twice in this object"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ must be an object of strings"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ 'a': value must be a string"},
        {"{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0, "__metadata__ 'a': value must not hold a zero"},
        {"{\"a\xff\":1}", 0, "header: byte 3: not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct safetensors file;
        char message[512];
        write_header(row[i].header, row[i].data_bytes);
        if (safetensors_open(&file, path) != E_FORMAT) fail_msg("accepted: %s", row[i].header);
        snprintf(message, sizeof message, "%s: %s", path, row[i].message);
        assert_string_equal(error_text(), message);
        assert_null(file.map.bytes);
    }
}

static void lying_lengths_and_odd_files_are_refused(void **state) {
    (void)state;
    struct safetensors file;
    static const struct {
        uint8_t bytes[12];
        size_t count;
        const char *message;
    } row[] = {
        {{0}, 0, "has 0 bytes"},
        {{2, 0, 0}, 3, "has 3 bytes"},
        {{0}, 8, "header: byte 0"},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "header of 3 bytes in a file of 10"},
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10, "header of 18446744073709551615 bytes is"},
        {{0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, '{', '}'}, 10, "is larger than the allowed"},
        {{1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}'}, 10, "header of 100000001 bytes is larger"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        write_bytes(row[i].bytes, row[i].count);
        assert_int_equal(safetensors_open(&file, path), E_FORMAT);
        assert_non_null(strstr(error_text(), row[i].message));
    }
    assert_int_equal(safetensors_open(&file, folder), E_IO);
    assert_non_null(strstr(error_text(), "not a regular file"));
    unlink(path);
    assert_int_equal(safetensors_open(&file, path), E_IO);
    assert_non_null(strstr(error_text(), "cannot open: No such file"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(safetensors_open(&file, path), E_IO);
    unlink(path);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    uint8_t bytes[4096];
    assert_int_equal(safetensors_write(path, sample, 4, metadata, 2), 0);
    FILE *from = fopen(path, "rb");
    size_t count = fread(bytes, 1, sizeof bytes, from);
    fclose(from);
    assert_in_range(count, 200, sizeof bytes - 1);
    struct safetensors file;
    for (size_t cut = 0; cut < count; cut++) {
        write_bytes(bytes, cut);
        if (safetensors_open(&file, path) != E_FORMAT) fail_msg("accepted the first %zu bytes of %zu", cut, count);
    }
    write_bytes(bytes, count);
    assert_int_equal(safetensors_open(&file, path), 0);
    safetensors_close(&file);
}

static void bad_arguments_write_nothing(void **state) {
    (void)state;
    unlink(path);
    struct tensor twice[2] = {sample[0], sample[0]};
    struct tensor reserved = {.name = "__metadata__", .dtype = DTYPE_F32, .data = weights};
    struct tensor huge = {
        .name = "a", .dtype = DTYPE_F32, .dimensions = 2, .shape = {SIZE_MAX / 2, 3}, .data = weights};
    struct tensor bare = {.name = "a", .dtype = DTYPE_F32, .dimensions = 1, .shape = {3}};
    struct tensor deep = {.name = "a", .dtype = DTYPE_F32, .dimensions = 9, .data = weights};
    struct safetensors_meta same[2] = {{"a", "b"}, {"a", "c"}};
    assert_int_equal(safetensors_write(path, twice, 2, NULL, 0), E_ARGUMENT);
    assert_int_equal(safetensors_write(path, &reserved, 1, NULL, 0), E_ARGUMENT);
    assert_int_equal(safetensors_write(path, &huge, 1, NULL, 0), E_LIMIT);
    assert_int_equal(safetensors_write(path, &bare, 1, NULL, 0), E_ARGUMENT);
    assert_int_equal(safetensors_write(path, &deep, 1, NULL, 0), E_ARGUMENT);
    assert_int_equal(safetensors_write(path, sample, 1, same, 2), E_ARGUMENT);
    assert_int_not_equal(access(path, F_OK), 0);
    char missing[96];
    snprintf(missing, sizeof missing, "%s/none/x", folder);
    assert_int_equal(safetensors_write(missing, sample, 4, NULL, 0), E_IO);
}

static void a_full_disk_leaves_nothing_behind(void **state) {
    (void)state;
    struct rlimit before, small;
    unlink(path);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 100; /* inside the header */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int status = safetensors_write(path, sample, 4, metadata, 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, E_IO);
    assert_non_null(strstr(error_text(), "cannot write: File too large"));
    assert_int_not_equal(access(path, F_OK), 0); /* and remove_folder meets no temporary file */
}

static void numbers_convert_exactly(void **state) {
    (void)state;
    static const struct {
        uint16_t bits;
        float value;
    } half[] = {{0x0000, 0},        {0x8000, -0.0f},     {0x3c00, 1},          {0xc000, -2},
                {0x7bff, 65504},    {0x0400, 0x1p-14f},  {0x0001, 0x1p-24f},   {0x83ff, -0x3ffp-24f},
                {0x7c00, INFINITY}, {0xfc00, -INFINITY}, {0x3555, 0x1.554p-2f}};
    for (size_t i = 0; i < sizeof half / sizeof half[0]; i++) {
        struct tensor tensor = {
            .name = "h", .dtype = DTYPE_F16, .dimensions = 1, .shape = {1}, .count = 1, .bytes = 2, .data = &half[i]};
        float value = -1;
        assert_int_equal(tensor_to_f32(&tensor, &value), 0);
        assert_memory_equal(&value, &half[i].value, 4);
    }
    uint16_t bits[3] = {0x7e00, 0x3f80, 0xff80};
    float value[3];
    struct tensor tensor = {.name = "h", .dtype = DTYPE_F16, .count = 1, .bytes = 2, .data = bits};
    assert_int_equal(tensor_to_f32(&tensor, value), 0);
    assert_true(isnan(value[0]));
    tensor = (struct tensor){.name = "b", .dtype = DTYPE_BF16, .count = 2, .bytes = 4, .data = bits + 1};
    assert_int_equal(tensor_to_f32(&tensor, value), 0);
    assert_true(value[0] == 1 && value[1] == -INFINITY);
    uint8_t unaligned[9];
    memcpy(unaligned + 1, weights, 8);
    tensor = (struct tensor){.name = "f", .dtype = DTYPE_F32, .count = 2, .bytes = 8, .data = unaligned + 1};
    assert_int_equal(tensor_to_f32(&tensor, value), 0);
    assert_memory_equal(value, weights, 8);
    tensor.dtype = DTYPE_I8;
    assert_int_equal(tensor_to_f32(&tensor, value), E_UNSUPPORTED);
    for (int i = DTYPE_F32; i <= DTYPE_BOOL; i++) assert_true(dtype_bytes((enum dtype)i) > 0);
    assert_string_equal(dtype_name(DTYPE_BF16), "BF16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),         cmocka_unit_test(the_bytes_depend_on_the_arguments_alone),
        cmocka_unit_test(data_is_aligned_whatever_the_names), cmocka_unit_test(a_foreign_file_is_read),
        cmocka_unit_test(lying_headers_are_refused),          cmocka_unit_test(lying_lengths_and_odd_files_are_refused),
        cmocka_unit_test(every_truncation_is_refused),        cmocka_unit_test(bad_arguments_write_nothing),
        cmocka_unit_test(a_full_disk_leaves_nothing_behind),  cmocka_unit_test(numbers_convert_exactly),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
