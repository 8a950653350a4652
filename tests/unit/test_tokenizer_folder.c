/* tokenizer.json beside the tokenizer_config.json of its folder: which tokens are added and special. Expected ids are
 * those of transformers 5.24. */
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
#include "text/tokenizer.h"

/* No merges: a text is its characters, and the tokens that are added. U+0120 is a blank. */
static const char json[] =
    "{\"added_tokens\":[{\"id\":1,\"content\":\"</s>\",\"special\":true,\"normalized\":false},"
    "{\"id\":10,\"content\":\"<z>\",\"special\":false,\"normalized\":false}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"<unk>\":0,\"</"
    "s>\":1,\"a\":2,\"b\":3,\"c\":4,\"d\":5,\"<\":6,"
    "\"x\":7,\">\":8,\"<x>\":9,\"<z>\":10,\"\\u0120\":11}}}";

static char folder[] = "/tmp/test_tokenizer_folder_XXXXXX";

static void write_file(const char *name, const char *text) {
    char path[100];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int folder_open(void **state) {
    (void)state;
    assert_non_null(mkdtemp(folder));
    write_file("tokenizer.json", json);
    return 0;
}
static int folder_close(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void expect_ids(const char *settings, const char *text, const char *expected) {
    struct tokenizer *tokenizer;
    struct encoding encoding = {0};
    char got[200] = "";
    size_t used = 0;
    write_file("tokenizer_config.json", settings);
    if (tokenizer_open(&tokenizer, folder) < 0) fail_msg("%s: %s", settings, error_text());
    assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), true, false, &encoding), 0);
    for (size_t i = 0; i < encoding.count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d", i ? " " : "", (int)encoding.ids[i]);
    if (strcmp(got, expected) != 0) fail_msg("%s: '%s' is %s, expected %s", settings, text, got, expected);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

#define DECODER(id, content, flags)                                                                                    \
    "{\"added_tokens_decoder\":{\"" id "\":{\"content\":\"" content "\",\"normalized\":false" flags "}}}"

static void tokens_of_the_settings_are_added(void **state) {
    (void)state;
    expect_ids("{}", "a<new>b", "2 6 8 3");
    expect_ids("{}", "a<x>b", "2 6 7 8 3");
    expect_ids("{}", "a <z> b", "2 11 10 11 3");
    expect_ids(DECODER("12", "<new>", ""), "a <new> b", "2 11 12 11 3");
    expect_ids(DECODER("12", "<new>", ""), "a <z> b</s>", "2 11 10 11 3 1");
    expect_ids(DECODER("12", "<new>", ",\"lstrip\":true"), "a <new> b", "2 12 11 3");
    expect_ids(DECODER("9", "<x>", ""), "a<x>b", "2 9 3");
    /* What the file has already is taken anew. */
    expect_ids(DECODER("10", "<z>", ",\"special\":true,\"rstrip\":true"), "a <z> b", "2 11 10 3");
    expect_ids(DECODER("1", "</s>", ",\"special\":true"), "a<z>b</s>", "2 10 3 1");
}

static void named_tokens_are_special(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    char *text;
    const int32_t ids[] = {0, 2, 9};
    expect_ids("{}", "<unk>a</s>", "6 8 2 1");
    expect_ids("{\"unk_token\":\"<unk>\"}", "<unk>a</s>", "0 2 1");
    expect_ids("{\"unk_token\":{\"content\":\"<unk>\",\"lstrip\":true}}", "a <unk>a", "2 0 2");
    expect_ids("{\"additional_special_tokens\":[\"<x>\"]}", "a<x>b", "2 9 3");
    write_file("tokenizer_config.json", "{\"unk_token\":\"<unk>\",\"extra_special_tokens\":[{\"content\":\"<x>\"}]}");
    assert_int_equal(tokenizer_open(&tokenizer, folder), 0);
    assert_int_equal(tokenizer_special(tokenizer).unknown, 0);
    assert_int_equal(tokenizer_decode(tokenizer, ids, 3, &text), 0);
    assert_string_equal(text, "a"); /* as special tokens are dropped */
    memory_release(text);
    tokenizer_free(tokenizer);
}

static void expect_refused(const char *settings, int code, const char *words) {
    struct tokenizer *tokenizer;
    write_file("tokenizer_config.json", settings);
    assert_int_equal(tokenizer_open(&tokenizer, folder), code);
    if (!strstr(error_text(), words)) fail_msg("%s: %s", settings, error_text());
    assert_null(tokenizer);
}

static void ids_must_fit(void **state) {
    (void)state;
    expect_refused(DECODER("20", "<new>", ""), E_FORMAT, "id 20 of '<new>' is too large");
    expect_refused(DECODER("5", "<x>", ""), E_FORMAT, "id 5 of '<x>' is used twice");
    expect_refused(DECODER("x", "<new>", ""), E_FORMAT, "id in added_tokens");
    expect_refused("{\"added_tokens_decoder\":{\"12\":7}}", E_FORMAT, "content in added_tokens");
    expect_refused(DECODER("12", "<new>", ",\"single_word\":true"), E_UNSUPPORTED, "single_word of '<new>'");
}

/* File texts NULL: no such file. */
static void expect_ends(const char *generation, const char *model, const char *expected) {
    struct tokenizer *tokenizer;
    const int32_t *ends;
    char path[100], got[200] = "";
    const char *const texts[] = {generation, model}, *const names[] = {"generation_config.json", "config.json"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (texts[i]) write_file(names[i], texts[i]);
        else unlink(path);
    }
    write_file("tokenizer_config.json", "{\"eos_token\":\"</s>\"}");
    if (tokenizer_open(&tokenizer, folder) < 0) {
        if (!strstr(expected, ".json: ") || !strstr(error_text(), expected))
            fail_msg("%s, expected %s", error_text(), expected);
        assert_null(tokenizer);
        return;
    }
    size_t count = tokenizer_ends(tokenizer, &ends), used = 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d", i ? " " : "", (int)ends[i]);
    if (strcmp(got, expected) != 0) fail_msg("ends are '%s', expected '%s'", got, expected);
    assert_int_equal(tokenizer_special(tokenizer).end, 1); /* what training puts behind a text */
    tokenizer_free(tokenizer);
}

static void folders_say_what_ends_a_text(void **state) {
    (void)state;
    expect_ends(NULL, NULL, "1");
    expect_ends(NULL, "{\"eos_token_id\":4}", "4");
    expect_ends(NULL, "{\"eos_token_id\":null}", "1");
    expect_ends("{\"eos_token_id\":[5,1,5]}", "{\"eos_token_id\":4}", "5 1");
    expect_ends("{\"eos_token_id\":7}", NULL, "7");
    expect_ends("{}", "{\"eos_token_id\":4}", "1");       /* transformers would have none */
    expect_ends("{\"eos_token_id\":[900,2]}", NULL, "2"); /* beyond the vocabulary */
    expect_ends("{\"eos_token_id\":[-1,2]}", NULL, "2");
    expect_ends(NULL, "{\"eos_token_id\":-1}", "1");
    expect_ends("{\"eos_token_id\":[2,[3]]}", NULL, "generation_config.json: ");
    expect_ends("{\"eos_token_id\":", NULL, "generation_config.json: ");
    expect_ends(NULL, "{\"eos_token_id\":\"2\"}", "config.json: ");
    expect_ends(NULL, NULL, "1");
}

static void survives_lack_of_memory(void **state) {
    (void)state;
    long n = 0;
    write_file("tokenizer_config.json", DECODER("12", "<new>", ""));
    for (int status = -1; status < 0;) {
        struct tokenizer *tokenizer;
        memory_fail_after(++n);
        status = tokenizer_open(&tokenizer, folder);
        memory_fail_after(0);
        if (status < 0) assert_int_equal(status, E_MEMORY);
        else tokenizer_free(tokenizer);
    }
    assert_true(n > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_of_the_settings_are_added),
        cmocka_unit_test(named_tokens_are_special),
        cmocka_unit_test(ids_must_fit),
        cmocka_unit_test(folders_say_what_ends_a_text),
        cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
