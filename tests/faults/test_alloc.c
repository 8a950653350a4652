/* Every allocation of reading, writing and training fails once: the call says E_MEMORY, leaves nothing
 * behind on disk, and (under AddressSanitizer) leaks nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "text/tokenizer.h"

static char folder[] = "/tmp/test_alloc_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/file", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static int files_in_folder(void) {
    int count = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (const struct dirent *entry; (entry = readdir(entries));) count += entry->d_name[0] != '.';
    closedir(entries);
    return count;
}

/* Runs `action` with its first, second, … allocation failing until it needs none that fails. `least` guards
 * against an action that never got to work. */
static void fail_each(int (*action)(void), long least, int files_after_failure) {
    for (long n = 1;; n++) {
        assert_true(n < 5000);
        memory_fail_after(n);
        int status = action();
        long asked = memory_count();
        memory_fail_after(0);
        if (asked < n) {
            assert_int_equal(status, 0);
            assert_true(n > least);
            return;
        }
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
        assert_non_null(strstr(error_text(), "out of memory"));
        assert_int_equal(files_in_folder(), files_after_failure);
    }
}

static const float weights[12] = {1, 2, 3};
static const struct tensor tensors[] = {
    {.name = "first.weight", .dtype = DTYPE_F32, .dimensions = 2, .shape = {3, 4}, .data = weights},
    {.name = "a.bias", .dtype = DTYPE_F32, .dimensions = 1, .shape = {4}, .data = weights},
};
static const struct safetensors_meta metadata[] = {{"family", "bert"}, {"note", "tested"}};

static int write_model(void) { return safetensors_write(path, tensors, 2, metadata, 2); }

static int open_model(void) {
    struct safetensors file;
    int status = safetensors_open(&file, path);
    safetensors_close(&file); /* closed or never opened, both are fine */
    return status;
}

static void safetensors_survives(void **state) {
    (void)state;
    fail_each(write_model, 3, 0);
    assert_int_equal(files_in_folder(), 1);
    fail_each(open_model, 4, 1);
    unlink(path);
}

static int open_json(void) {
    static const char text[] = "{\"a\":1,\"b\":[2,3],\"c\":{},\"d\":0,\"e\":0,\"f\":0,\"g\":0,\"h\":0,\"i\":\"text\"}";
    struct json_document document;
    int status = json_open(&document, text, strlen(text));
    json_close(&document);
    return status;
}

static int write_json(void) {
    struct json_writer writer = {0};
    for (int i = 0; i < 200; i++) json_quoted(&writer, "some \"text\" to write");
    int status = writer.status;
    json_writer_close(&writer);
    return status;
}

static void json_survives(void **state) {
    (void)state;
    fail_each(open_json, 2, 0);
    fail_each(write_json, 2, 0);
}

static const char *const corpus[] = {"the state of being hungry the state", "hungry hungrier being state the of"};

static int train(void) {
    struct tokenizer *tokenizer;
    int status = tokenizer_train_bpe(&tokenizer, corpus, 2, 290, true);
    tokenizer_free(tokenizer);
    return status;
}

static struct tokenizer *trained;
static int save(void) { return tokenizer_save(trained, path); }

static int load(void) {
    struct tokenizer *tokenizer;
    int status = tokenizer_load(&tokenizer, path);
    tokenizer_free(tokenizer);
    return status;
}

static int encode_long_word(void) {
    char text[500];
    int32_t ids[500];
    size_t count;
    memset(text, 'h', sizeof text);
    return tokenizer_encode(trained, text, sizeof text, ids, 500, &count);
}

static void tokenizer_survives(void **state) {
    (void)state;
    fail_each(train, 10, 0);
    assert_int_equal(tokenizer_train_bpe(&trained, corpus, 2, 290, true), 0);
    fail_each(save, 3, 0);
    fail_each(load, 10, 1);
    fail_each(encode_long_word, 1, 1);
    tokenizer_free(trained);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_survives),
        cmocka_unit_test(json_survives),
        cmocka_unit_test(tokenizer_survives),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
