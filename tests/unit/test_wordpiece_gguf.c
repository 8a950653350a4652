/* WordPiece of GGUF files against the same vocabulary as vocab.txt: ids, pairs and texts back; in the forms that older
 * and newer converters of llama.cpp write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "gguf_writer.h"
#include "scratch_file.h"
#include "text/tokenizer.h"

static const char *const small[] = {"[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bee",          "##s",
                                    "##",    "make",      "hon",   "##ey",  "[",     "]",      "\xE2\x96\x81", "."};
static const char *const cased[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Bee", "bee", "##s"};
enum { CONTROL = 3, NORMAL = 1 };

static char path[128];

static bool is_control(const char *text) {
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (size_t i = 0; i < 5; i++)
        if (strcmp(names[i], text) == 0) return true;
    return false;
}

static void put_array(struct gguf_writer *writer, const char *key, enum gguf_type type, size_t count) {
    put_string(writer, key);
    put_whole(writer, GGUF_ARRAY, 4), put_whole(writer, type, 4), put_whole(writer, count, 8);
}

/* As convert_hf_to_gguf.py does it: words are marked, not what goes on. old: brackets stay, too, and no ids. */
static void write_gguf(const char *const *tokens, size_t count, bool old) {
    struct gguf_writer writer = {0};
    put_header(&writer, 3, 0, old ? 3 : 6);
    put_text(&writer, "tokenizer.ggml.model", "bert");
    put_array(&writer, "tokenizer.ggml.tokens", GGUF_STRING, count);
    for (size_t i = 0; i < count; i++) {
        char text[40];
        size_t length = strlen(tokens[i]);
        bool bracketed = length > 2 && tokens[i][0] == '[' && tokens[i][length - 1] == ']';
        if (old ? bracketed : is_control(tokens[i])) snprintf(text, sizeof text, "%s", tokens[i]);
        else if (strncmp(tokens[i], "##", 2) == 0) snprintf(text, sizeof text, "%s", tokens[i] + 2);
        else snprintf(text, sizeof text, "\xE2\x96\x81%s", tokens[i]);
        put_string(&writer, text);
    }
    put_array(&writer, "tokenizer.ggml.token_type", GGUF_I32, count);
    for (size_t i = 0; i < count; i++) put_whole(&writer, is_control(tokens[i]) ? CONTROL : NORMAL, 4);
    for (uint32_t i = 0; i < count && !old; i++) {
        if (strcmp(tokens[i], "[UNK]") == 0) put_u32(&writer, "tokenizer.ggml.unknown_token_id", i);
        if (strcmp(tokens[i], "[CLS]") == 0) put_u32(&writer, "tokenizer.ggml.bos_token_id", i);
        if (strcmp(tokens[i], "[SEP]") == 0)
            put_u32(&writer, "tokenizer.ggml.seperator_token_id", i); /* as they spell it */
    }
    put_padding(&writer, 32);
    write_whole_file(path, writer.bytes, writer.count);
    gguf_writer_close(&writer);
}

static struct tokenizer *from_vocab(const char *const *tokens, size_t count, bool lower_case) {
    char text[400];
    size_t used = 0;
    struct tokenizer *tokenizer;
    for (size_t i = 0; i < count; i++) used += (size_t)snprintf(text + used, sizeof text - used, "%s\n", tokens[i]);
    assert_int_equal(tokenizer_parse_vocab(&tokenizer, text, used, lower_case), 0);
    return tokenizer;
}

static void check_same(const struct tokenizer *a, const struct tokenizer *b, const char *text) {
    struct encoding x = {0}, y = {0};
    char *back_a, *back_b;
    assert_int_equal(tokenizer_append(a, text, strlen(text), true, false, &x), 0);
    assert_int_equal(tokenizer_append(b, text, strlen(text), true, false, &y), 0);
    if (x.count != y.count || memcmp(x.ids, y.ids, x.count * sizeof *x.ids) != 0)
        fail_msg("'%s': %zu and %zu tokens, or others", text, x.count, y.count);
    assert_int_equal(tokenizer_decode(a, x.ids, x.count, &back_a), 0);
    assert_int_equal(tokenizer_decode(b, y.ids, y.count, &back_b), 0);
    assert_string_equal(back_a, back_b);
    memory_release(back_a);
    memory_release(back_b);
    x.count = y.count = 0;
    assert_int_equal(tokenizer_append_pair(a, text, "bees", 0, false, &x, NULL), 0);
    assert_int_equal(tokenizer_append_pair(b, text, "bees", 0, false, &y, NULL), 0);
    assert_int_equal(x.count, y.count);
    assert_memory_equal(x.ids, y.ids, x.count * sizeof *x.ids);
    encoding_close(&x);
    encoding_close(&y);
}

static void ids_are_those_of_the_vocabulary(void **state) {
    (void)state;
    static const char *const texts[] = {
        "Bees make honey.",        "b\xC3\xA9\x65s bee##", "[SEP] [unused0] [ ] \xE2\x96\x81", "honeyhon", "",
        "make [MASK] . bee beesss"};
    const struct {
        const char *const *tokens;
        size_t count;
        bool lower_case;
    } vocabularies[] = {{small, sizeof small / sizeof *small, true}, {cased, sizeof cased / sizeof *cased, false}};
    for (size_t v = 0; v < 2; v++)
        for (int old = 0; old < 2; old++) {
            struct tokenizer *tokenizer, *expected;
            write_gguf(vocabularies[v].tokens, vocabularies[v].count, old);
            if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
            expected = from_vocab(vocabularies[v].tokens, vocabularies[v].count, vocabularies[v].lower_case);
            assert_int_equal(tokenizer_kind(tokenizer), TOKENIZER_WORDPIECE);
            assert_int_equal(tokenizer_vocabulary(tokenizer), vocabularies[v].count);
            assert_int_equal(tokenizer_special(tokenizer).sep, tokenizer_special(expected).sep);
            assert_int_equal(tokenizer_special(tokenizer).mask, tokenizer_special(expected).mask);
            assert_int_equal(tokenizer_special(tokenizer).unknown, tokenizer_special(expected).unknown);
            for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) check_same(tokenizer, expected, texts[i]);
            tokenizer_free(tokenizer);
            tokenizer_free(expected);
        }
}

static void hostile_vocabularies_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *tokens[3];
        const char *words;
    } cases[] = {{{"[UNK]", "a", "a"}, "tokens 1 and 2 are the same: 'a'"},
                 {{"[PAD]", "a", "b"}, "no token '[UNK]' for unknown words"}};
    struct tokenizer *tokenizer;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_gguf(cases[i].tokens, 3, true);
        assert_int_equal(tokenizer_open(&tokenizer, path), E_FORMAT);
        if (!strstr(error_text(), cases[i].words)) fail_msg("%s", error_text());
        assert_null(tokenizer);
    }
    struct gguf_writer writer = {0};
    put_header(&writer, 3, 0, 3);
    put_text(&writer, "tokenizer.ggml.model", "bert");
    put_array(&writer, "tokenizer.ggml.tokens", GGUF_STRING, 1);
    put_string(&writer, "[UNK]");
    put_u32(&writer, "tokenizer.ggml.seperator_token_id", 1);
    put_padding(&writer, 32);
    write_whole_file(path, writer.bytes, writer.count);
    gguf_writer_close(&writer);
    assert_int_equal(tokenizer_open(&tokenizer, path), E_FORMAT);
    assert_non_null(strstr(error_text(), "seperator_token_id 1 is outside the vocabulary"));
}

static void survives_lack_of_memory(void **state) {
    (void)state;
    long n = 0;
    write_gguf(small, sizeof small / sizeof *small, false);
    for (int status = -1; status < 0;) {
        struct tokenizer *tokenizer;
        memory_fail_after(++n);
        status = tokenizer_open(&tokenizer, path);
        memory_fail_after(0);
        if (status < 0) assert_int_equal(status, E_MEMORY);
        else tokenizer_free(tokenizer);
    }
    assert_true(n > 10);
}

static int path_make(void **state) {
    (void)state;
    scratch_file(path, ".gguf", "");
    return 0;
}
static int path_remove(void **state) {
    (void)state;
    scratch_remove(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_the_vocabulary),
        cmocka_unit_test(hostile_vocabularies_are_refused),
        cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, path_make, path_remove);
}
