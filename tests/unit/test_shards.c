/* Sharded safetensors: tensors of all files by name, lying indexes, truncation of index and shard at every byte. */
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
#include "io/shards.h"

static char folder[] = "/tmp/test_shards_XXXXXX";
static char index_path[64], first_path[64], second_path[64], whole_path[64];

#define GOOD                                                                                                           \
    "{\"metadata\":{\"total_size\":24},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\","           \
    "\"c\":\"one.safetensors\"}}"

static const float values[] = {1, 2, 3};
static const struct tensor tensors[] = {
    {.name = "a", .dtype = DTYPE_F32, .dimensions = 1, .shape = {2}, .data = values},
    {.name = "c", .dtype = DTYPE_F32, .dimensions = 1, .shape = {3}, .data = values},
    {.name = "b", .dtype = DTYPE_F32, .dimensions = 1, .shape = {1}, .data = values + 2},
};

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", folder);
    snprintf(first_path, sizeof first_path, "%s/one.safetensors", folder);
    snprintf(second_path, sizeof second_path, "%s/two.safetensors", folder);
    snprintf(whole_path, sizeof whole_path, "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(index_path), unlink(first_path), unlink(second_path), unlink(whole_path);
    return rmdir(folder);
}

static int write_good(void **state) {
    (void)state;
    write_whole_file(index_path, GOOD, strlen(GOOD));
    unlink(whole_path);
    return safetensors_write(first_path, tensors, 2, NULL, 0) < 0 ||
           safetensors_write(second_path, tensors + 2, 1, NULL, 0) < 0;
}

static void tensors_of_all_files_are_found(void **state) {
    (void)state;
    struct shards shards;
    if (shards_open(&shards, folder) < 0) fail_msg("%s", error_text());
    struct tensor_list list = {shards.tensors, shards.count};
    assert_int_equal(shards.file_count, 2);
    assert_int_equal(shards.count, 3);
    assert_int_equal(tensor_list_find(&list, "a")->count, 2);
    assert_int_equal(tensor_list_find(&list, "c")->count, 3);
    assert_memory_equal(tensor_list_find(&list, "b")->data, values + 2, 4);
    assert_null(tensor_list_find(&list, "d"));
    shards_close(&shards);
    shards_close(&shards);
}

static void one_whole_file_needs_no_index(void **state) {
    (void)state;
    struct shards shards;
    unlink(index_path);
    assert_int_equal(shards_open(&shards, folder), E_IO);
    assert_non_null(strstr(error_text(), "neither model.safetensors nor model.safetensors.index.json"));
    assert_int_equal(safetensors_write(whole_path, tensors, 3, NULL, 0), 0);
    assert_int_equal(shards_open(&shards, folder), 0);
    assert_int_equal(shards.count, 3);
    shards_close(&shards);
}

static void lying_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *message;
    } cases[] = {
        {"", E_FORMAT, "index.json"},
        {"[]", E_FORMAT, "needs a \"weight_map\""},
        {"{\"weight_map\":[]}", E_FORMAT, "needs a \"weight_map\""},
        {"{\"weight_map\":{\"a\":1}}", E_FORMAT, "the file of tensor 'a' must be a string"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", E_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", E_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", E_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", E_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\\u0000x\"}}", E_FORMAT, "must not hold a zero"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", E_IO, "absent.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", E_FORMAT,
         "tensor 'b' is not in one.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", E_FORMAT, "names 1 tensors but its files hold 2"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", E_FORMAT, "index.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct shards shards;
        write_whole_file(index_path, cases[i].text, strlen(cases[i].text));
        int code = shards_open(&shards, folder);
        if (code != cases[i].code || !strstr(error_text(), cases[i].message))
            fail_msg("%s gave %d: %s", cases[i].text, code, error_text());
        assert_null(shards.files);
    }
}

static void a_tensor_in_two_files_is_refused(void **state) {
    (void)state;
    struct shards shards;
    assert_int_equal(safetensors_write(second_path, tensors + 1, 2, NULL, 0), 0);
    assert_int_equal(shards_open(&shards, folder), E_FORMAT);
    assert_non_null(strstr(error_text(), "tensor 'c' is in two files"));
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    struct shards shards;
    const char *const paths[] = {index_path, first_path, second_path};
    for (size_t i = 0; i < 3; i++) {
        FILE *file = fopen(paths[i], "rb");
        fseek(file, 0, SEEK_END);
        long whole = ftell(file);
        fclose(file);
        for (long length = whole; length-- > 0;) {
            assert_int_equal(truncate(paths[i], length), 0);
            if (shards_open(&shards, folder) != E_FORMAT) fail_msg("%s of %ld bytes was accepted", paths[i], length);
        }
        write_good(state);
    }
}

static void memory_running_out_leaves_nothing(void **state) {
    (void)state;
    struct shards shards;
    memory_fail_after(0);
    assert_int_equal(shards_open(&shards, folder), 0);
    long allocations = memory_count();
    shards_close(&shards);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        assert_int_equal(shards_open(&shards, folder), E_MEMORY);
        memory_fail_after(0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(tensors_of_all_files_are_found, write_good),
        cmocka_unit_test_setup(one_whole_file_needs_no_index, write_good),
        cmocka_unit_test_setup(lying_indexes_are_refused, write_good),
        cmocka_unit_test_setup(a_tensor_in_two_files_is_refused, write_good),
        cmocka_unit_test_setup(every_truncation_is_refused, write_good),
        cmocka_unit_test_setup(memory_running_out_leaves_nothing, write_good),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
