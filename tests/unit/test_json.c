/* JSON: values, hostile texts with their byte positions, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/json.h"

static void a_document_reads_back(void **state) {
    (void)state;
    static const char text[] =
        " { \"a\" : [1, -0.5e+3, true, false, null, {}], \"b\":\"x\\\"\\\\\\/\\b\\f\\n\\r\\t\",\n"
        "\t\"\\u00e9\\ud83d\\ude00\":\"\\u0000z\", \"n\": [[[]]] } ";
    struct json_document document;
    assert_int_equal(json_open(&document, text, strlen(text)), 0);
    const struct json *root = json_root(&document), *a = json_member(root, "a");
    assert_int_equal(root->type, JSON_OBJECT);
    assert_int_equal(root->count, 4);
    assert_int_equal(a->count, 6);
    uint64_t whole;
    double real;
    const char *string;
    assert_int_equal(json_u64(json_item(a, 0), "a", &whole), 0);
    assert_int_equal(whole, 1);
    assert_int_equal(json_number(json_item(a, 1), "a", &real), 0);
    assert_true(real == -500);
    assert_int_equal(json_item(a, 2)->type, JSON_TRUE);
    assert_int_equal(json_item(a, 3)->type, JSON_FALSE);
    assert_int_equal(json_item(a, 4)->type, JSON_NULL);
    assert_int_equal(json_item(a, 5)->type, JSON_OBJECT);
    assert_null(json_item(a, 6));
    assert_null(json_item(root, 0));
    assert_null(json_member(a, "a"));
    assert_int_equal(json_text(json_member(root, "b"), "b", &string), 0);
    assert_string_equal(string, "x\"\\/\b\f\n\r\t");
    const struct json *zero = json_member(root, "\xc3\xa9\xf0\x9f\x98\x80");
    assert_non_null(zero);
    assert_int_equal(zero->text_bytes, 2);
    assert_memory_equal(zero->text, "\0z", 3);
    assert_int_equal(json_text(zero, "key", &string), E_FORMAT);
    assert_string_equal(error_text(), "key must not hold a zero");
    assert_null(json_member(root, "missing"));
    json_close(&document);
    assert_int_equal(json_open(&document, "7", 1), 0); /* a lone number at the very end */
    assert_string_equal(json_root(&document)->text, "7");
    json_close(&document);
}

static void hostile_texts_are_refused_with_their_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } row[] = {
        {"", "byte 0: expected a value"},
        {"  ", "byte 2: expected a value"},
        {"nul", "byte 0: expected a value"},
        {"truex", "byte 4: expected the end of the text"},
        {"1 2", "byte 2: expected the end of the text"},
        {"[1,]", "byte 3: expected a value"},
        {"[1 2]", "byte 3: expected ',' or ']'"},
        {"[,1]", "byte 1: expected a value"},
        {"[1", "byte 2: expected ',' or ']'"},
        {"[", "byte 1: expected a value"},
        {"]", "byte 0: expected a value"},
        {"[}", "byte 1: expected a value"},
        {"{", "byte 1: expected '\"' before a name"},
        {"{]", "byte 1: expected '\"' before a name"},
        {"{\"a\"}", "byte 4: expected ':'"},
        {"{\"a\":}", "byte 5: expected a value"},
        {"{\"a\":1,}", "byte 7: expected '\"' before a name"},
        {"{\"a\":1 \"b\":2}", "byte 7: expected ',' or '}'"},
        {"{a:1}", "byte 1: expected '\"' before a name"},
        {"{1:1}", "byte 1: expected '\"' before a name"},
        {"{\"a\":1,\"a\":2}", "byte 13: the name 'a' appears twice in this object"},
        {"{\"a\":1,\"\\u0061\":2}", "byte 18: the name 'a' appears twice in this object"},
        {"{\"1\":1,\"2\":1,\"3\":1,\"4\":1,\"5\":1,\"6\":1,\"7\":1,\"8\":1,\"9\":1,\"4\":1}",
         "byte 61: the name '4' appears twice in this object"},
        {"{\"a\\u0000b\":1}", "byte 1: a name must not hold a zero"},
        {"01", "byte 0: a number must not start with 0"},
        {"-01", "byte 0: a number must not start with 0"},
        {"-", "byte 1: expected a digit"},
        {"+1", "byte 0: expected a value"},
        {"1.", "byte 2: expected a digit"},
        {".5", "byte 0: expected a value"},
        {"1e", "byte 2: expected a digit"},
        {"1e+", "byte 3: expected a digit"},
        {"0x10", "byte 1: expected the end of the text"},
        {"NaN", "byte 0: expected a value"},
        {"\"", "byte 1: expected '\"' at the end of a string"},
        {"\"a", "byte 2: expected '\"' at the end of a string"},
        {"\"a\\", "byte 3: expected one of \"\\/bfnrtu behind a backslash"},
        {"\"\\x\"", "byte 2: expected one of \"\\/bfnrtu behind a backslash"},
        {"\"\\u12\"", "byte 5: expected four hexadecimal digits behind \\u"},
        {"\"\\u12g4\"", "byte 5: expected four hexadecimal digits behind \\u"},
        {"\"\\ud800\"", "byte 7: expected \\u with the low surrogate"},
        {"\"\\ud800\\u0041\"", "byte 9: high surrogate without a low one"},
        {"\"\\udc00\"", "byte 3: low surrogate without a high one"},
        {"\"a\nb\"", "byte 2: control character 0x0a in a string"},
        {"\"\xff\"", "byte 1: not valid UTF-8"},
        {"\"\xc0\xaf\"", "byte 1: not valid UTF-8"},     /* overlong '/' */
        {"\"\xe0\x80\xaf\"", "byte 1: not valid UTF-8"}, /* overlong */
        {"\"\xed\xa0\x80\"", "byte 1: not valid UTF-8"}, /* surrogate */
        {"\"\xf4\x90\x80\x80\"", "byte 1: not valid UTF-8"},
        {"\"\xe2\x82", "byte 1: not valid UTF-8"}, /* cut short */
        {"\xef\xbb\xbf{}", "byte 0: expected a value"},
        {"/* */ 1", "byte 0: expected a value"},
        {"'a'", "byte 0: expected a value"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct json_document document;
        /* an exact copy, so that AddressSanitizer sees a read behind the text */
        size_t bytes = strlen(row[i].text);
        char *copy = malloc(bytes ? bytes : 1);
        memcpy(copy, row[i].text, bytes);
        if (json_open(&document, copy, bytes) != E_FORMAT) fail_msg("accepted: %s", row[i].text);
        assert_string_equal(error_text(), row[i].message);
        assert_null(document.nodes);
        free(copy);
    }
}

static int open_nested(int depth, int closed) {
    char text[1000];
    struct json_document document;
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)closed);
    int status = json_open(&document, text, (size_t)(depth + closed));
    if (!status) json_close(&document);
    return status;
}

static void depth_is_limited(void **state) {
    (void)state;
    assert_int_equal(open_nested(64, 64), 0);
    assert_int_equal(open_nested(64, 63), E_FORMAT);
    assert_int_equal(open_nested(64, 65), E_FORMAT);
    assert_int_equal(open_nested(65, 65), E_FORMAT);
    assert_string_equal(error_text(), "byte 64: nested deeper than 64 levels");
    assert_int_equal(open_nested(900, 0), E_FORMAT);
}

static void too_many_values_are_refused_before_memory_is_taken(void **state) {
    (void)state;
    size_t bytes = (4u << 20) + 2;
    char *text = malloc(bytes);
    struct json_document document;
    memset(text, ',', bytes);
    text[0] = '[';
    memory_fail_after(1);
    assert_int_equal(json_open(&document, text, bytes), E_FORMAT);
    assert_int_equal(memory_count(), 0);
    memory_fail_after(0);
    free(text);
}

static void numbers_are_checked_on_reading(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int status;
        uint64_t value;
    } row[] = {
        {"0", 0, 0},
        {"9007199254740991", 0, 9007199254740991},
        {"9007199254740992", E_FORMAT, 0},
        {"-1", E_FORMAT, 0},
        {"-0", E_FORMAT, 0},
        {"1.0", E_FORMAT, 0},
        {"1e3", E_FORMAT, 0},
        {"18446744073709551617", E_FORMAT, 0},
        {"\"1\"", E_FORMAT, 0},
    };
    struct json_document document;
    double real;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        uint64_t value;
        assert_int_equal(json_open(&document, row[i].text, strlen(row[i].text)), 0);
        assert_int_equal(json_u64(json_root(&document), "size", &value), row[i].status);
        assert_int_equal(value, row[i].value);
        if (row[i].status) assert_string_equal(error_text(), "size must be a whole number from 0 to 2^53-1");
        json_close(&document);
    }
    assert_int_equal(json_open(&document, "1e999", 5), 0);
    assert_int_equal(json_number(json_root(&document), "eps", &real), E_FORMAT);
    json_close(&document);
    assert_int_equal(json_number(NULL, "eps", &real), E_FORMAT);
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    char all[300];
    struct json_writer writer = {0};
    struct json_document document;
    size_t used = 0;
    for (int c = 1; c < 0x80; c++) all[used++] = (char)c;
    strcpy(all + used, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    json_raw(&writer, "[");
    json_quoted(&writer, all);
    json_format(&writer, ",%d,\"%0600d\",", 5, 7);
    json_quoted(&writer, "a\xff");
    json_raw(&writer, "]");
    assert_int_equal(writer.status, 0);
    assert_int_equal(strlen(writer.text), writer.bytes);
    assert_int_equal(json_open(&document, writer.text, writer.bytes), 0);
    assert_string_equal(json_item(json_root(&document), 0)->text, all);
    assert_int_equal(json_item(json_root(&document), 2)->text_bytes, 600);
    assert_string_equal(json_item(json_root(&document), 3)->text, "a\xef\xbf\xbd");
    json_close(&document);
    json_writer_close(&writer);
}

static void the_writer_keeps_its_first_error(void **state) {
    (void)state;
    struct json_writer writer = {0};
    memory_fail_after(1);
    json_raw(&writer, "[");
    memory_fail_after(0);
    json_quoted(&writer, "a");
    json_format(&writer, "%0600d", 1);
    assert_int_equal(writer.status, E_MEMORY);
    assert_null(writer.text);
    json_writer_close(&writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_reads_back),
        cmocka_unit_test(hostile_texts_are_refused_with_their_place),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(too_many_values_are_refused_before_memory_is_taken),
        cmocka_unit_test(numbers_are_checked_on_reading),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(the_writer_keeps_its_first_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
