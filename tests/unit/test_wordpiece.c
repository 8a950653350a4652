/* WordPiece on a small vocabulary: normalization, offsets, special tokens in texts, pairs and their truncation; files
 * of words cut off at every byte; folders.
 */
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

/* ids: [PAD] 0 [UNK] 1 [CLS] 2 [SEP] 3 [MASK] 4, then from 5 */
static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##able\n##a\nable\ncafe\n.\n'\ns\n\xE4\xB8\xAD\nx\n##x\n"
    "1\n##2\n";

static struct tokenizer *open_small(bool lower_case) {
    struct tokenizer *tokenizer;
    if (tokenizer_parse_vocab(&tokenizer, vocabulary, sizeof vocabulary - 1, lower_case) < 0)
        fail_msg("%s", error_text());
    return tokenizer;
}

static void texts_become_ids_with_offsets(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t count;
        int32_t ids[8];
        uint32_t begin[8], end[8];
    } row[] = {
        {"Unable", 2, {5, 6}, {0, 2}, {2, 6}},
        {" caf\xC3\xA9. ", 2, {9, 10}, {1, 6}, {6, 7}},
        {"cafe\xCC\x81s", 1, {1}, {0}, {7}},             /* no ##s: the whole word is unknown */
        {"u\xCC\x88n", 1, {5}, {0}, {4}},                /* the mark inside belongs to what is around it */
        {"x\xE1\xAB\x84\xE1\xAD\x84", 1, {1}, {0}, {7}}, /* two marks that change places */
        {"x\xE4\xB8\xADx", 3, {14, 13, 14}, {0, 1, 4}, {1, 4, 5}},
        {"x\x01x\xEF\xBF\xBDX", 3, {14, 15, 15}, {0, 2, 6}, {1, 3, 7}}, /* dropped, not cut at */
        {"\xFFx", 1, {14}, {1}, {2}},
        {"x's", 3, {14, 11, 12}, {0, 1, 2}, {1, 2, 3}},
        {"12 2", 3, {16, 17, 1}, {0, 1, 3}, {1, 2, 4}},
        {"\xC4\xB0x", 1, {1}, {0}, {3}},
        {"a[MASK]x", 3, {1, 4, 14}, {0, 1, 7}, {1, 7, 8}},
        {"\t\r\n", 0, {0}, {0}, {0}},
    };
    struct tokenizer *tokenizer = open_small(true);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct encoding encoding = {.with_offsets = true};
        assert_int_equal(tokenizer_append(tokenizer, row[i].text, strlen(row[i].text), false, false, &encoding), 0);
        if (encoding.count != row[i].count) fail_msg("row %zu: %zu tokens", i, encoding.count);
        for (size_t k = 0; k < encoding.count; k++)
            if (encoding.ids[k] != row[i].ids[k] || encoding.begin[k] != row[i].begin[k] ||
                encoding.end[k] != row[i].end[k])
                fail_msg("row %zu token %zu: %d at %u..%u", i, k, encoding.ids[k], encoding.begin[k], encoding.end[k]);
        encoding_close(&encoding);
    }
    tokenizer_free(tokenizer);
}

static void case_is_kept_when_asked_and_words_have_a_limit(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_small(false);
    char text[203];
    int32_t ids[200];
    size_t count;
    assert_int_equal(tokenizer_encode(tokenizer, "X x", 3, ids, 8, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 14);
    for (int wide = 0; wide < 2; wide++) /* exactly 100 characters, then one more; plain, and with a dropped byte */
        for (size_t length = 100; length <= 101; length++) {
            memset(text, 'x', sizeof text);
            size_t bytes = length;
            if (wide) text[bytes++] = '\x01';
            assert_int_equal(tokenizer_encode(tokenizer, text, bytes, ids, 200, &count), 0);
            assert_int_equal(count, length == 100 ? 100 : 1);
            assert_int_equal(ids[0], length == 100 ? 14 : 1);
        }
    tokenizer_free(tokenizer);
}

static void special_tokens_stand_around_and_are_dropped(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_small(true);
    struct encoding encoding = {.with_offsets = true};
    char *text;
    assert_int_equal(tokenizer_append(tokenizer, "unable [SEP]", 12, true, true, &encoding), 0);
    assert_int_equal(encoding.ids[0], 2);
    assert_int_equal(encoding.end[0], 0);
    assert_int_equal(encoding.ids[3], 1); /* '[' in a literal text is no token of this vocabulary */
    assert_int_equal(encoding.ids[encoding.count - 1], 3);
    assert_int_equal(tokenizer_decode(tokenizer, (int32_t[]){2, 5, 6, 10, 11, 12, 4, 8, 3}, 9, &text), 0);
    assert_string_equal(text, "unable. ' s able");
    memory_release(text);
    assert_int_equal(tokenizer_decode(tokenizer, (int32_t[]){6, 6}, 2, &text), 0);
    assert_string_equal(text, "##ableable");
    memory_release(text);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

/* ---- pairs ---- */
static void pair_is(const char *first, const char *second, size_t most, bool only_second, const char *expected) {
    struct tokenizer *tokenizer = open_small(true);
    struct encoding encoding = {.with_offsets = true};
    int32_t *types;
    char text[200] = "";
    assert_int_equal(tokenizer_append_pair(tokenizer, first, second, most, only_second, &encoding, &types), 0);
    for (size_t i = 0; i < encoding.count; i++) snprintf(text + strlen(text), 16, "%d/%d ", encoding.ids[i], types[i]);
    assert_string_equal(text, expected);
    if (most) assert_true(encoding.count <= most);
    memory_release(types);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

static void pairs_are_laid_out_and_cut(void **state) {
    (void)state;
    pair_is("x 1", "s", 0, false, "2/0 14/0 16/0 3/0 12/1 3/1 ");
    pair_is("", "", 0, false, "2/0 3/0 3/1 ");
    pair_is("x x x x x", "1 1", 8, false, "2/0 14/0 14/0 14/0 3/0 16/1 16/1 3/1 "); /* the longer one gives way */
    pair_is("1 1", "x x x x x", 8, false, "2/0 16/0 16/0 3/0 14/1 14/1 14/1 3/1 ");
    pair_is("x x x x x", "1 1 1 1", 8, false, "2/0 14/0 14/0 14/0 3/0 16/1 16/1 3/1 "); /* then half each */
    pair_is("x x x x", "1 1 1 1", 8, false, "2/0 14/0 14/0 3/0 16/1 16/1 16/1 3/1 ");
    pair_is("x x x", "1 1 1 1", 8, true, "2/0 14/0 14/0 14/0 3/0 16/1 16/1 3/1 ");
    pair_is("x x x", "1 1 1 1", 6, true, "2/0 14/0 14/0 14/0 3/0 3/1 ");
    struct tokenizer *tokenizer = open_small(true);
    struct encoding encoding = {0};
    int32_t *types;
    assert_int_equal(tokenizer_append_pair(tokenizer, "x x x", "1", 5, true, &encoding, &types), E_ARGUMENT);
    assert_null(types);
    assert_int_equal(tokenizer_append_pair(tokenizer, "x", "1", 2, false, &encoding, NULL), E_ARGUMENT);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

/* ---- files ---- */
static void files_cut_off_anywhere_are_read_or_refused(void **state) {
    (void)state;
    static const char words[] = "{\"h\":0,\"i\":1,\"hi\":2,\"\xC4\xA0\":3,\"\xC4\xA0hi\":4,\"<|endoftext|>\":5}";
    static const char merges[] = "#version: 0.2\nh i\n\xC4\xA0 hi\n";
    struct tokenizer *tokenizer;
    int32_t ids[8];
    size_t count, accepted = 0;
    for (size_t bytes = 0; bytes < sizeof vocabulary; bytes++) {
        char *copy = malloc(bytes + 1); /* exactly as long, so that reading past it is seen */
        memcpy(copy, vocabulary, bytes);
        accepted += tokenizer_parse_vocab(&tokenizer, copy, bytes, true) == 0;
        tokenizer_free(tokenizer);
        free(copy);
    }
    assert_true(accepted > 0 && accepted < sizeof vocabulary - 4);
    for (size_t bytes = 0; bytes < sizeof words; bytes++) {
        assert_int_equal(tokenizer_parse_merges(&tokenizer, words, bytes, merges, sizeof merges - 1) == 0,
                         bytes == sizeof words - 1);
        tokenizer_free(tokenizer);
    }
    for (size_t bytes = 0; bytes < sizeof merges; bytes++) {
        int status = tokenizer_parse_merges(&tokenizer, words, sizeof words - 1, merges, bytes);
        assert_true(status == 0 || status == E_FORMAT);
        tokenizer_free(tokenizer);
    }
    assert_int_equal(tokenizer_parse_merges(&tokenizer, words, sizeof words - 1, merges, sizeof merges - 1), 0);
    assert_int_equal(tokenizer_encode(tokenizer, "hi hi", 5, ids, 8, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 4);
    assert_int_equal(tokenizer_special(tokenizer).end, 5);
    tokenizer_free(tokenizer);
}

static void hostile_vocabularies_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
        size_t bytes; /* 0: to the terminating zero */
    } row[] = {
        {"", "no token '[UNK]'", 0},
        {"a\nb\n", "no token '[UNK]'", 0},
        {"[UNK]\n\nb\n", "line 2 is empty", 0},
        {"[UNK]\na\nb\na\n", "lines 2 and 4 are the same: 'a'", 0},
        {"@\0\0\0\n\n", "neither a vocabulary of a token a line (byte 1 is 0)", 6}, /* as a model of llama2.c begins */
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct tokenizer *tokenizer;
        size_t bytes = row[i].bytes ? row[i].bytes : strlen(row[i].text);
        assert_int_equal(tokenizer_parse_vocab(&tokenizer, row[i].text, bytes, true), E_FORMAT);
        if (!strstr(error_text(), row[i].message)) fail_msg("%s", error_text());
        assert_null(tokenizer);
    }
}

static void write_file(const char *folder, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void folders_are_opened_by_what_they_hold(void **state) {
    (void)state;
    char folder[] = "/tmp/test_wordpiece_XXXXXX", command[300];
    struct tokenizer *tokenizer;
    struct encoding encoding = {0};
    assert_non_null(mkdtemp(folder));
    assert_int_equal(tokenizer_open(&tokenizer, folder), E_IO);
    assert_null(tokenizer);
    write_file(folder, "vocab.txt", vocabulary);
    write_file(folder, "tokenizer_config.json", "{\"do_lower_case\": false}");
    assert_int_equal(tokenizer_open(&tokenizer, folder), 0);
    assert_int_equal(tokenizer_kind(tokenizer), TOKENIZER_WORDPIECE);
    assert_int_equal(tokenizer_append(tokenizer, "X", 1, false, false, &encoding), 0);
    assert_int_equal(encoding.ids[0], 1); /* kept as a capital */
    tokenizer_free(tokenizer);
    write_file(folder, "vocab.json", "{\"h\":0,\"i\":1,\"hi\":2,\"</s>\":3}");
    write_file(folder, "merges.txt", "h i\n");
    write_file(folder, "tokenizer_config.json", "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"</s>\"}}");
    assert_int_equal(tokenizer_open(&tokenizer, folder), 0);
    encoding.count = 0;
    assert_int_equal(tokenizer_append(tokenizer, "hi", 2, true, false, &encoding), 0);
    assert_int_equal(encoding.count, 2);
    assert_int_equal(encoding.ids[0], 3);
    assert_int_equal(encoding.ids[1], 2);
    tokenizer_free(tokenizer);
    write_file(folder, "tokenizer_config.json", "{");
    assert_int_equal(tokenizer_open(&tokenizer, folder), E_FORMAT);
    encoding_close(&encoding);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void settings_say_what_is_done_to_letters(void **state) {
    (void)state;
    static const char json[] =
        "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
        "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"model\":"
        "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
        "\"max_input_chars_per_word\":100,\"vocab\":{\"[UNK]\":0,\"e\":1,\"\xC3\xA9\":2,\"E\":3,\"\xC3\x89\":4,"
        "\"\xE4\xB8\xAD\":5,\"##\xE4\xB8\xAD\":6}}}";
    static const char words[] = "[UNK]\ne\n\xC3\xA9\nE\n\xC3\x89\n\xE4\xB8\xAD\n##\xE4\xB8\xAD\n";
    static const char *const files[2][2] = {{"vocab.txt", words}, {"tokenizer.json", json}};
    static const struct {
        const char *settings;
        int32_t ids[5]; /* of e, E, E acute, and two ideographs, as transformers has them */
    } row[] = {
        {"{}", {1, 1, 1, 5, 5}},
        {"{\"strip_accents\": null, \"do_lower_case\": true}", {1, 1, 1, 5, 5}},
        {"{\"strip_accents\": false}", {1, 1, 2, 5, 5}},
        {"{\"do_lower_case\": false}", {1, 3, 4, 5, 5}},
        {"{\"do_lower_case\": false, \"strip_accents\": true}", {1, 3, 3, 5, 5}},
        {"{\"tokenize_chinese_chars\": false}", {1, 1, 1, 5, 6}},
    };
    char folder[] = "/tmp/test_wordpiece_XXXXXX", command[300];
    assert_non_null(mkdtemp(folder));
    for (size_t file = 0; file < 2; file++) { /* tokenizer.json is read before vocab.txt */
        write_file(folder, files[file][0], files[file][1]);
        for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
            struct tokenizer *tokenizer;
            struct encoding encoding = {0};
            static const char text[] = "e E \xC3\x89 \xE4\xB8\xAD\xE4\xB8\xAD";
            write_file(folder, "tokenizer_config.json", row[i].settings);
            if (tokenizer_open(&tokenizer, folder) < 0) fail_msg("%s", error_text());
            assert_int_equal(tokenizer_append(tokenizer, text, sizeof text - 1, false, false, &encoding), 0);
            assert_int_equal(encoding.count, 5);
            for (size_t k = 0; k < 5; k++)
                if (encoding.ids[k] != row[i].ids[k])
                    fail_msg("%s, %s: token %zu is %d", files[file][0], row[i].settings, k, encoding.ids[k]);
            encoding_close(&encoding);
            tokenizer_free(tokenizer);
        }
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void folders_add_to_merges_and_name_their_class(void **state) {
    (void)state;
    static const char added[] = "\"content\": \"<x>\", \"lstrip\": true, \"special\": false";
    static const struct {
        const char *config, *added, *model;
        const char *message; /* NULL: it opens */
        size_t count;
        int32_t ids[8]; /* of "1 <x>12" */
        const char *decoded;
    } row[] = {
        {"{}", "{}", "{}", NULL, 6, {0, 2, 4, 5, 6, 3}, "1 <x>12"},
        {"{}", "{\"<x>\": 8}", "{}", NULL, 4, {0, 2, 8, 3}, "1 <x>12"},
        {"{\"pad_token\": \"<x>\"}", "{\"<x>\": 8}", "{}", NULL, 4, {0, 2, 8, 3}, "1 12"},
        {"{\"added_tokens_decoder\": {\"8\": {%}}}", "{}", "{}", NULL, 3, {0, 8, 3}, "1<x>12"},
        {"{\"tokenizer_class\": \"Qwen2Tokenizer\"}", "{}", "{}", NULL, 7, {0, 2, 4, 5, 6, 0, 1}, "1 <x>12"},
        {"{}", "{}", "{\"model_type\": \"qwen2\"}", NULL, 7, {0, 2, 4, 5, 6, 0, 1}, "1 <x>12"},
        {"{\"tokenizer_class\": \"GPT2Tokenizer\"}",
         "{}",
         "{\"model_type\": \"qwen2\"}",
         NULL,
         6,
         {0, 2, 4, 5, 6, 3},
         "1 <x>12"},
        {"{\"tokenizer_class\": \"RobertaTokenizer\"}",
         "{}",
         "{}",
         "tokenizer_class \"RobertaTokenizer\"",
         0,
         {0},
         NULL},
        {"{\"add_prefix_space\": true}", "{}", "{}", "tokenizer_config.json: add_prefix_space", 0, {0}, NULL},
        {"{\"added_tokens_decoder\": {\"x\": {%}}}", "{}", "{}", "'x' is no id", 0, {0}, NULL},
        {"{\"added_tokens_decoder\": {\"7\": {%}}}", "{}", "{}", "id 7 of '<x>' is used twice", 0, {0}, NULL},
        {"{}", "{\"<x>\": 9}", "{}", "id 9 of '<x>' is too large", 0, {0}, NULL},
        {"{}", "{\"<x>\": 7}", "{}", "id 7 of '<x>' is used twice", 0, {0}, NULL},
    };
    char folder[] = "/tmp/test_wordpiece_XXXXXX", text[600];
    assert_non_null(mkdtemp(folder));
    write_file(folder, "vocab.json", "{\"1\":0,\"2\":1,\"\xC4\xA0\":2,\"12\":3,\"<\":4,\"x\":5,\">\":6,\"y\":7}");
    write_file(folder, "merges.txt", "1 2\n");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct tokenizer *tokenizer;
        struct encoding encoding = {0};
        char *decoded = NULL;
        const char *place = strchr(row[i].config, '%');
        size_t before = place ? (size_t)(place - row[i].config) : strlen(row[i].config);
        snprintf(text, sizeof text, "%.*s%s%s", (int)before, row[i].config, place ? added : "", place ? place + 1 : "");
        write_file(folder, "tokenizer_config.json", text);
        write_file(folder, "added_tokens.json", row[i].added);
        write_file(folder, "config.json", row[i].model);
        int status = tokenizer_open(&tokenizer, folder);
        if (row[i].message && (status >= 0 || tokenizer || !strstr(error_text(), row[i].message)))
            fail_msg("row %zu: %s", i, status < 0 ? error_text() : "opened");
        if (row[i].message) continue;
        if (status < 0) fail_msg("row %zu: %s", i, error_text());
        assert_int_equal(tokenizer_append(tokenizer, "1 <x>12", 7, false, false, &encoding), 0);
        if (encoding.count != row[i].count) fail_msg("row %zu: %zu tokens", i, encoding.count);
        for (size_t k = 0; k < encoding.count; k++)
            if (encoding.ids[k] != row[i].ids[k]) fail_msg("row %zu: token %zu is %d", i, k, encoding.ids[k]);
        assert_int_equal(tokenizer_decode(tokenizer, encoding.ids, encoding.count, &decoded), 0);
        if (strcmp(decoded, row[i].decoded) != 0) fail_msg("row %zu: '%s'", i, decoded);
        memory_release(decoded);
        encoding_close(&encoding);
        tokenizer_free(tokenizer);
    }
    snprintf(text, sizeof text, "rm -r %s", folder);
    assert_int_equal(system(text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_ids_with_offsets),
        cmocka_unit_test(case_is_kept_when_asked_and_words_have_a_limit),
        cmocka_unit_test(special_tokens_stand_around_and_are_dropped),
        cmocka_unit_test(pairs_are_laid_out_and_cut),
        cmocka_unit_test(files_cut_off_anywhere_are_read_or_refused),
        cmocka_unit_test(hostile_vocabularies_are_refused),
        cmocka_unit_test(folders_are_opened_by_what_they_hold),
        cmocka_unit_test(settings_say_what_is_done_to_letters),
        cmocka_unit_test(folders_add_to_merges_and_name_their_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
