/* Readers of data files: what they take, and that what is wrong is named with file and line. */
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
#include "scratch_file.h"
#include "task/data_table.h"

static char path[128];

static int read_columns(struct data_table *table, const char *suffix, const char *text, const char *const *columns,
                        size_t count) {
    scratch_file(path, suffix, text);
    struct data_request request = {.path = path, .columns = columns, .column_count = count};
    int status = data_table_read(table, &request, NULL);
    scratch_remove(path);
    return status;
}

static void expect_error(const char *suffix, const char *text, const char *const *columns, size_t count, int code,
                         const char *message) {
    struct data_table table;
    char expected[400];
    assert_int_equal(read_columns(&table, suffix, text, columns, count), code);
    snprintf(expected, sizeof expected, "%s%s", path, message);
    assert_string_equal(error_text(), expected);
    assert_null(table.text);
}

static void test_tsv(void **state) {
    (void)state;
    static const char *const names[] = {"sentence", "label"}, *const numbers[] = {"2"};
    struct data_table table;
    double value;
    assert_int_equal(
        read_columns(&table, ".tsv", "label\tsentence\r\n0\ta \"quoted\" word\r\n\r\n1\t\n1\tend", names, 2), 0);
    assert_int_equal(table.rows, 3);
    assert_string_equal(data_text(&table, 0, 0), "a \"quoted\" word");
    assert_string_equal(data_text(&table, 1, 0), "");
    assert_string_equal(data_text(&table, 2, 0), "end");
    assert_int_equal(table.line[0], 2);
    assert_int_equal(table.line[1], 4);
    assert_int_equal(data_number(&table, 2, 1, "label", &value), 0);
    assert_true(value == 1);
    assert_int_equal(data_number(&table, 0, 0, "label", &value), E_FORMAT);
    assert_non_null(strstr(error_text(), ":2: label is 'a \"quoted\" word', expected a number"));
    data_table_close(&table);
    assert_int_equal(read_columns(&table, ".tsv", "a\tb\nc\td\n", numbers, 1), 0); /* numbers: no header */
    assert_int_equal(table.rows, 2);
    assert_string_equal(data_text(&table, 0, 0), "b");
    data_table_close(&table);
}

static void test_tsv_names_given(void **state) {
    (void)state;
    static const char *const header[] = {"id", "text"}, *const wanted[] = {"text"};
    static const char *const files[] = {"1\tx\n2\ty\n", "id\ttext\n1\tx\n2\ty\n"};
    for (size_t i = 0; i < 2; i++) {
        struct data_table table;
        scratch_file(path, ".tsv", files[i]);
        struct data_request request = {
            .path = path, .columns = wanted, .column_count = 1, .header = header, .header_count = 2};
        assert_int_equal(data_table_read(&table, &request, NULL), 0);
        scratch_remove(path);
        assert_int_equal(table.rows, 2);
        assert_string_equal(data_text(&table, 0, 0), "x");
        data_table_close(&table);
    }
    static const char *const other[] = {"body"};
    struct data_table table;
    scratch_file(path, ".tsv", "body\n1\n");
    struct data_request request = {
        .path = path, .columns = other, .column_count = 1, .header = header, .header_count = 2};
    assert_int_equal(data_table_read(&table, &request, NULL), E_ARGUMENT);
    scratch_remove(path);
    assert_non_null(strstr(
        error_text(), ": `header` names no column 'body' but: id, text; with header: [] the file's first line names"));
}

static void test_csv(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b"};
    struct data_table table;
    assert_int_equal(
        read_columns(&table, ".csv", "a,b\n\"say \"\"hi\"\"\",\"two\nlines\"\r\nplain,\"\"\n,last\n", names, 2), 0);
    assert_int_equal(table.rows, 3);
    assert_string_equal(data_text(&table, 0, 0), "say \"hi\"");
    assert_string_equal(data_text(&table, 0, 1), "two\nlines");
    assert_string_equal(data_text(&table, 1, 1), "");
    assert_int_equal(table.line[1], 4); /* the quoted line break counts */
    assert_string_equal(data_text(&table, 2, 0), "");
    assert_string_equal(data_text(&table, 2, 1), "last");
    data_table_close(&table);
    expect_error(".csv", "a,b\n1,\"open\n2,3\n", names, 2, E_FORMAT, ":2: a quoted field has no end");
    expect_error(".csv", "a,b\n\"x\"y,1\n", names, 2, E_FORMAT, ":2: text behind the closing quote of a field");
}

static void test_json_lines(void **state) {
    (void)state;
    static const char *const names[] = {"prompt", "references"};
    struct data_table table;
    assert_int_equal(read_columns(&table, ".jsonl",
                                  "\xef\xbb\xbf{\"references\":[\"one\",\"two\"],\"prompt\":\"caf\\u00e9\"}\n\n"
                                  "{\"prompt\":7,\"references\":\"only\"}",
                                  names, 2),
                     0);
    assert_int_equal(table.rows, 2);
    assert_string_equal(data_text(&table, 0, 0), "caf\xc3\xa9");
    assert_int_equal(data_count(&table, 0, 1), 2);
    assert_string_equal(data_next(data_text(&table, 0, 1)), "two");
    assert_string_equal(data_text(&table, 1, 0), "7");
    assert_int_equal(data_count(&table, 1, 1), 1);
    data_table_close(&table);
    expect_error(".jsonl", "{\"prompt\":\"a\",\"references\":[]}\n{\"prompt\":\"b\"}\n", names, 2, E_FORMAT,
                 ":2: there is no field 'references'; the fields are: prompt");
    expect_error(".json", "[{\"prompt\":\"a\"}]", names, 2, E_FORMAT,
                 ":1: a JSON array; expected are JSON lines, an object a line");
    expect_error(".json", "{\n\"prompt\":\"a\"}", names, 2, E_FORMAT,
                 ":1: expected are JSON lines, an object a line: byte 1: expected '\"' before a name");
    expect_error(".jsonl", "{\"prompt\":\"a\",\"references\":[]}\n{\n", names, 2, E_FORMAT,
                 ":2: byte 1: expected '\"' before a name");
    expect_error(".jsonl", "7\n", names, 2, E_FORMAT, ":1: a line must be a JSON object");
    expect_error(".jsonl", "{\"prompt\":null,\"references\":\"a\"}\n", names, 2, E_FORMAT,
                 ":1: field 'prompt' must be a text, a number, or a list of texts");
}

static void test_wrong_files(void **state) {
    (void)state;
    static const char *const names[] = {"text"};
    struct data_table table;
    expect_error(".tsv", "", names, 1, E_FORMAT, ": the file is empty");
    expect_error(".tsv", "text\n", names, 1, E_FORMAT, ": a header and no rows");
    expect_error(".tsv", "id\tlabel\n1\t2\n", names, 1, E_ARGUMENT,
                 ":1: there is no column 'text'; the columns are: id, label");
    expect_error(".tsv", "id\ttext\n1\ta\n2\n", names, 1, E_FORMAT, ":3: 1 field, expected at least 2");
    expect_error(".tsv", "text\tid\ttext\n1\ta\t2\n", names, 1, E_ARGUMENT,
                 ": columns 1 and 3 are both named 'text'; name one by its number");
    struct data_request request = {.path = "/nowhere/x.tsv", .columns = names, .column_count = 1};
    assert_int_equal(data_table_read(&table, &request, NULL), E_IO);
}

/* As many fields as there may be, and one more, which is empty, behind the last separator of the file. */
static void test_many_fields(void **state) {
    (void)state;
    static const char *const last[] = {"1024"};
    static char text[2050];
    struct data_table table;
    for (size_t i = 0; i < 1024; i++) text[2 * i] = 'x', text[2 * i + 1] = '\t';
    expect_error(".tsv", text, last, 1, E_FORMAT, ":1: more than 1024 fields");
    text[2046] = 0; /* 1023 fields and an empty one */
    assert_int_equal(read_columns(&table, ".tsv", text, last, 1), 0);
    assert_int_equal(table.rows, 1);
    assert_string_equal(data_text(&table, 0, 0), "");
    data_table_close(&table);
}

static void test_squad(void **state) {
    (void)state;
    struct data_table table;
    scratch_file(
        path, ".json",
        "\xef\xbb\xbf{\"version\":\"v2.0\",\"data\":[{\"title\":\"t\",\"paragraphs\":[{\"context\":\"Bees make "
        "honey.\","
        "\"qas\":[{\"id\":\"1\",\"question\":\"Who?\",\"answers\":[{\"text\":\"Bees\",\"answer_start\":0},"
        "{\"text\":\"the bees\",\"answer_start\":0}]},{\"id\":\"2\",\"question\":\"Why?\",\"answers\":[],"
        "\"is_impossible\":true},{\"id\":\"3\",\"question\":\"What?\",\"answers\":[{\"text\":\"honey\"}]}]}]}]}");
    assert_int_equal(data_squad_read(&table, path, NULL), 0);
    scratch_remove(path);
    assert_int_equal(table.rows, 2); /* the impossible one is left out */
    assert_string_equal(data_text(&table, 0, SQUAD_CONTEXT), "Bees make honey.");
    assert_int_equal(data_count(&table, 0, SQUAD_ANSWERS), 2);
    assert_string_equal(data_next(data_text(&table, 0, SQUAD_ANSWERS)), "the bees");
    assert_string_equal(data_text(&table, 1, SQUAD_CONTEXT), "Bees make honey.");
    assert_string_equal(data_text(&table, 1, SQUAD_ID), "3");
    data_table_close(&table);
    scratch_file(path, ".json", "{\"data\":[{\"paragraphs\":[{\"context\":\"c\",\"qas\":[{\"id\":\"1\"}]}]}]}");
    assert_int_equal(data_squad_read(&table, path, NULL), E_FORMAT);
    scratch_remove(path);
    assert_non_null(strstr(error_text(), "question 1: 'question' is missing"));
    scratch_file(path, ".json", "[{\"question\":\"c\"}]");
    assert_int_equal(data_squad_read(&table, path, NULL), E_FORMAT);
    scratch_remove(path);
    assert_non_null(strstr(error_text(), ": expected is SQuAD's JSON, an object with an array 'data'"));
    scratch_file(path, ".json", "{\"question\":\"c\"}\n{}\n");
    assert_int_equal(data_squad_read(&table, path, NULL), E_FORMAT);
    scratch_remove(path);
    assert_non_null(strstr(error_text(), ": expected is SQuAD's JSON, one object: byte"));
}

/* Files lie in the folder, unless their name says where. */
static void test_paths(void **state) {
    (void)state;
    char place[16];
    assert_int_equal(data_file_path(place, sizeof place, "data", "a/b.tsv"), 0);
    assert_string_equal(place, "data/a/b.tsv");
    assert_int_equal(data_file_path(place, sizeof place, "data", "./a.tsv"), 0);
    assert_string_equal(place, "./a.tsv");
    assert_int_equal(data_file_path(place, sizeof place, "data", "/a.tsv"), 0);
    assert_string_equal(place, "/a.tsv");
    assert_int_equal(data_file_path(place, sizeof place, "data", ".a/b.tsv"), 0);
    assert_string_equal(place, "data/.a/b.tsv");
    assert_int_equal(data_file_path(place, sizeof place, "data", "1234567890"), 0);
    assert_int_equal(data_file_path(place, sizeof place, "data", "12345678901"), E_ARGUMENT);
}

static void expect_missing(const char *data, const char *option, const char *file, const char *words) {
    char place[256];
    assert_int_equal(data_file_find(place, sizeof place, data, option, file), E_IO);
    if (strcmp(error_text(), words) != 0) fail_msg("'%s', expected '%s'", error_text(), words);
}

/* Whether the folder is missing or the file in it, and what is there. */
static void test_missing_files(void **state) {
    (void)state;
    char folder[] = "/tmp/test_data_XXXXXX", place[256], words[512];
    assert_non_null(mkdtemp(folder));
    expect_missing("nowhere", "test", "test.tsv",
                   "data: there is no folder 'nowhere' where runexp was started; name the data with --set data=FOLDER");
    expect_missing("/nowhere", "test", "test.tsv",
                   "data: there is no folder '/nowhere'; name the data with --set data=FOLDER");
    snprintf(words, sizeof words, "test: there is no file 'test.tsv' in the folder '%s'", folder);
    expect_missing(folder, "test", "test.tsv", words);
    snprintf(place, sizeof place, "%s/test.csv", folder);
    FILE *made = fopen(place, "w");
    assert_non_null(made);
    fclose(made);
    snprintf(words, sizeof words, "test: there is no file 'test.tsv' in the folder '%s' (did you mean 'test.csv'?)",
             folder);
    expect_missing(folder, "test", "test.tsv", words);
    snprintf(
        words, sizeof words,
        "validation: there is no file 'dev.tsv' in the folder '%s' (it has test.csv); validation: \"\" is for none",
        folder);
    expect_missing(folder, "validation", "dev.tsv", words);
    snprintf(words, sizeof words, "train: sst/train.tsv: there is no folder '%s/sst'", folder);
    expect_missing(folder, "train", "sst/train.tsv", words);
    snprintf(words, sizeof words, "data: '%s' is a file; name the folder it is in with --set data=FOLDER", place);
    expect_missing(place, "test", "test.csv", words);
    expect_missing("nowhere", "test", "./none/test.csv", "test: ./none/test.csv: there is no folder './none'");
    assert_int_equal(data_file_find(place, sizeof place, "nowhere", "test", "/x-none"), E_IO);
    assert_non_null(strstr(error_text(), "test: there is no file 'x-none' in the folder '/'"));
    assert_int_equal(data_file_find(place, sizeof place, folder, "test", "test.csv"), 0);
    assert_int_equal(unlink(place), 0);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tsv),        cmocka_unit_test(test_tsv_names_given), cmocka_unit_test(test_csv),
        cmocka_unit_test(test_json_lines), cmocka_unit_test(test_wrong_files),     cmocka_unit_test(test_many_fields),
        cmocka_unit_test(test_squad),      cmocka_unit_test(test_paths),           cmocka_unit_test(test_missing_files),
    };
    return cmocka_run_group_tests_name("data", tests, NULL, NULL);
}
