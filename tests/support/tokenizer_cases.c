#include "tokenizer_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "golden_files.h"
#include "io/json.h"

bool data_path(char *path, size_t size, const char *name) {
    const char *folder = getenv("DATA");
    if (!folder || !*folder) folder = "../shared/data";
    snprintf(path, size, "%s/%s", folder, name);
    if (access(path, R_OK) == 0) return true;
    printf("skipped: %s is not there (set DATA to the folder of data sets)\n", path);
    return false;
}

/* A file of JSON lines, read line by line in place. */
struct lines {
    char *text, *at;
};

static void lines_open(struct lines *lines, const char *name) {
    char path[512];
    size_t bytes;
    assert_true(golden_path(path, sizeof path, name));
    if (file_read(path, 1u << 28, &lines->text, &bytes) < 0) fail_msg("%s", error_text());
    lines->at = lines->text;
}

static bool lines_next(struct lines *lines, struct json_document *document) {
    size_t length = strcspn(lines->at, "\n");
    if (!length) return false;
    if (json_open(document, lines->at, length) < 0) fail_msg("%s", error_text());
    lines->at += length + (lines->at[length] == '\n');
    return true;
}

static void print_ids(const char *what, const struct encoding *ids) {
    printf("%s:", what);
    for (size_t i = 0; i < ids->count; i++) printf(" %d", (int)ids->ids[i]);
    printf("\n");
}

static void check_ids(const struct tokenizer *tokenizer, const struct json *text, const struct json *expected,
                      bool special, bool literal) {
    struct encoding ours = {0}, theirs = {0};
    assert_non_null(expected);
    assert_int_equal(tokenizer_append(tokenizer, text->text, text->text_bytes, special, literal, &ours), 0);
    theirs.ids = calloc(expected->count + 1, sizeof *theirs.ids);
    for (const struct json *id = expected->child; id; id = id->next) theirs.ids[theirs.count++] = atoi(id->text);
    size_t bytes = theirs.count * sizeof *theirs.ids;
    if (ours.count != theirs.count || (bytes && memcmp(ours.ids, theirs.ids, bytes) != 0)) {
        print_ids("ours", &ours);
        print_ids("theirs", &theirs);
        fail_msg("'%s': the ids %sdiffer", text->text, special ? "with special tokens " : "");
    }
    free(theirs.ids);
    encoding_close(&ours);
}

static void check_decode(const struct tokenizer *tokenizer, const struct json *ids, const char *expected) {
    int32_t *numbers = calloc(ids->count + 1, sizeof *numbers);
    size_t count = 0;
    char *text;
    for (const struct json *id = ids->child; id; id = id->next) numbers[count++] = atoi(id->text);
    assert_int_equal(tokenizer_decode(tokenizer, numbers, count, &text), 0);
    if (strcmp(text, expected) != 0) fail_msg("decoded: '%s', expected '%s'", text, expected);
    memory_release(text);
    free(numbers);
}

void tokenizer_cases_check(const struct tokenizer *tokenizer, const char *name, bool literal) {
    struct lines cases, answers;
    struct json_document one, other;
    size_t count = 0;
    char path[256];
    snprintf(path, sizeof path, "tokenizers/%s.jsonl", name);
    lines_open(&cases, "tokenizers/cases.jsonl");
    lines_open(&answers, path);
    while (lines_next(&cases, &one)) {
        const char *decoded;
        assert_true(lines_next(&answers, &other));
        const struct json *text = json_member(json_root(&one), "text"), *answer = json_root(&other);
        assert_true(text && text->type == JSON_STRING);
        assert_int_equal(golden_number(answer, "id"), golden_number(json_root(&one), "id"));
        check_ids(tokenizer, text, json_member(answer, "ids"), false, literal);
        check_ids(tokenizer, text, json_member(answer, "ids_special"), true, literal);
        assert_int_equal(json_text(json_member(answer, "decode"), "decode", &decoded), 0);
        check_decode(tokenizer, json_member(answer, "ids"), decoded);
        json_close(&one);
        json_close(&other);
        count++;
    }
    assert_true(count > 0);
    memory_release(cases.text);
    memory_release(answers.text);
}
