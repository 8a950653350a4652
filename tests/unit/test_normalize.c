/* Normalizers of byte-level BPE: what texts become, the places of tokens in the original, files, training. Expected
 * texts are those of normalize_str of Hugging Face's tokenizers 0.23.3.
 */
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
#include "text/tokenizer.h"

#define NFC "{\"type\":\"NFC\"}"
#define LOWER "{\"type\":\"Lowercase\"}"
#define SEQUENCE(steps) "{\"type\":\"Sequence\",\"normalizers\":[" steps "]}"

/* A token for each byte and a normalizer: decoding shows what was encoded. */
static int open_bytes(struct tokenizer **tokenizer, const char *normalizer) {
    struct tokenizer *plain;
    char *json;
    size_t bytes;
    assert_int_equal(tokenizer_train_bpe(&plain, NULL, 0, 261, false), 0);
    assert_int_equal(tokenizer_print(plain, &json, &bytes), 0);
    tokenizer_free(plain);
    const char *old = "\"normalizer\":null", *at = strstr(json, old);
    assert_non_null(at);
    size_t room = bytes + strlen(normalizer) + 1;
    char *changed = malloc(room);
    assert_non_null(changed);
    int length =
        snprintf(changed, room, "%.*s\"normalizer\":%s%s", (int)(at - json), json, normalizer, at + strlen(old));
    int status = tokenizer_parse(tokenizer, changed, (size_t)length);
    free(changed);
    memory_release(json);
    return status;
}

static void check_text(const char *normalizer, const char *text, const char *expected) {
    struct tokenizer *tokenizer;
    struct encoding encoding = {.with_offsets = true};
    char *decoded;
    assert_int_equal(open_bytes(&tokenizer, normalizer), 0);
    assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), false, true, &encoding), 0);
    assert_int_equal(tokenizer_decode(tokenizer, encoding.ids, encoding.count, &decoded), 0);
    assert_string_equal(decoded, expected);
    memory_release(decoded);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

static void texts_are_composed(void **state) {
    (void)state;
    check_text(NFC, "xe\xCC\x81y \xC3\x89", "x\xC3\xA9y \xC3\x89");
    /* marks in the order of their classes, the first joined */
    check_text(NFC, "e\xCC\x81\xCC\xA3z q\xCC\x87\xCC\xA3", "\xE1\xBA\xB9\xCC\x81z q\xCC\xA3\xCC\x87");
    /* excluded from composition; singletons; a mark that is two */
    check_text(NFC, "\xE0\xA5\x98\xE2\x84\xAB\xE2\x84\xA6 \xCD\x84",
               "\xE0\xA4\x95\xE0\xA4\xBC\xC3\x85\xCE\xA9 \xCC\x88\xCC\x81");
    /* Hangul */
    check_text(NFC, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8 \xEA\xB0\x80\xE1\x86\xA8 \xE1\x85\xA1",
               "\xEA\xB0\x81 \xEA\xB0\x81 \xE1\x85\xA1");
    /* what stands between keeps apart: a mark of the same class, a mark before a vowel */
    check_text(NFC, "c\xCC\x88\xCC\x81", "c\xCC\x88\xCC\x81");
    check_text(NFC, "\xE1\x84\x80\xCC\x80\xE1\x85\xA1", "\xE1\x84\x80\xCC\x80\xE1\x85\xA1");
    /* a mark behind another of its class, marks behind nothing */
    check_text(NFC,
               " a\xCC\x81\xCC\x81 \xCC\x81"
               "A\xCC\x8A",
               " \xC3\xA1\xCC\x81 \xCC\x81\xC3\x85");
    check_text(NFC, "\xCC\x81", "\xCC\x81");
    check_text(NFC, "Plain", "Plain");
    check_text(NFC, "e\xCC\x81\xFF\xCC", "\xC3\xA9\xFF\xCC"); /* no UTF-8, which the library cannot be given */
}

static void texts_are_lowered(void **state) {
    (void)state;
    check_text(LOWER, "\xC4\xB0S \xCE\x9F\xCE\x94\xCE\x9F\xCE\xA3",
               "i\xCC\x87s \xCE\xBF\xCE\xB4\xCE\xBF\xCF\x83"); /* no final sigma */
    check_text(LOWER, "E\xCC\x81 \xC8\xBA\xE2\x84\xAA \xF0\x90\x90\x80 \xE1\xBA\x9E",
               "e\xCC\x81 \xE2\xB1\xA5k \xF0\x90\x90\xA8 \xC3\x9F");
    check_text(LOWER, "PLAIN", "plain");
    check_text(LOWER, "\xC3\x89\xFF", "\xC3\xA9\xFF");
}

static void steps_follow_each_other(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    check_text(SEQUENCE(NFC "," LOWER), "E\xCC\x81\xE2\x84\xAB \xC4\xB0", "\xC3\xA9\xC3\xA5 i\xCC\x87");
    check_text(SEQUENCE(LOWER "," NFC), "E\xCC\x81\xE2\x84\xAB I\xCC\x87\xCE\xA5\xCC\x88",
               "\xC3\xA9\xC3\xA5 i\xCC\x87\xCF\x8B");
    check_text(SEQUENCE(LOWER),
               "\xC3\x89"
               "A",
               "\xC3\xA9"
               "a");
    check_text(SEQUENCE(""),
               "\xC3\x89"
               "A",
               "\xC3\x89"
               "A");
    assert_int_equal(open_bytes(&tokenizer, SEQUENCE(NFC "," LOWER "," NFC "," LOWER "," NFC)), E_LIMIT);
    assert_int_equal(open_bytes(&tokenizer, SEQUENCE(NFC ",{\"type\":\"NFKC\"}")), E_UNSUPPORTED);
}

/* Every token of a character has the place of all that became it; the library keeps the first of these. */
static void places_are_those_in_the_original(void **state) {
    (void)state;
    static const char text[] =
        "Xe\xCC\x81\xC4\xB0[SEP]q\xCC\x87\xCC\xA3"; /* after normalizing: x, 2 bytes, i and 2, q, 2 and 2 */
    static const uint32_t begin[] = {0, 1, 1, 4, 4, 4, 6, 11, 14, 14, 12, 12},
                          end[] = {1, 4, 4, 6, 6, 6, 11, 12, 16, 16, 14, 14};
    struct tokenizer *tokenizer;
    struct encoding encoding = {.with_offsets = true};
    assert_int_equal(open_bytes(&tokenizer, SEQUENCE(NFC "," LOWER)), 0);
    assert_int_equal(tokenizer_append(tokenizer, text, sizeof text - 1, false, false, &encoding), 0);
    assert_int_equal(encoding.count, sizeof begin / sizeof *begin);
    assert_memory_equal(encoding.begin, begin, sizeof begin);
    assert_memory_equal(encoding.end, end, sizeof end);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

/* A token of parts that changed places has the place of both. */
static void places_hold_what_changed_places(void **state) {
    (void)state;
    static const char json[] =
        "{\"normalizer\":" NFC ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"\u00cc\":0,\"\u00a3\":1,\"\u0129\":2,\"\u00a3\u00cc\":3},"
        "\"merges\":[\"\u00a3 \u00cc\"]}}";
    static const int32_t ids[] = {0, 3, 2};
    static const uint32_t begin[] = {2, 0, 0}, end[] = {4, 4, 2};
    struct tokenizer *tokenizer;
    struct encoding encoding = {.with_offsets = true};
    assert_int_equal(tokenizer_parse(&tokenizer, json, sizeof json - 1), 0);
    assert_int_equal(tokenizer_append(tokenizer, "\xCC\x87\xCC\xA3", 4, false, false, &encoding), 0);
    assert_int_equal(encoding.count, 3);
    assert_memory_equal(encoding.ids, ids, sizeof ids);
    assert_memory_equal(encoding.begin, begin, sizeof begin);
    assert_memory_equal(encoding.end, end, sizeof end);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
}

static void normalizers_are_printed(void **state) {
    (void)state;
    static const char *const normalizers[] = {"null", NFC, LOWER, SEQUENCE(NFC "," LOWER), SEQUENCE(LOWER "," NFC)};
    for (size_t i = 0; i < sizeof normalizers / sizeof *normalizers; i++) {
        struct tokenizer *tokenizer;
        char *json, line[200];
        size_t bytes;
        assert_int_equal(open_bytes(&tokenizer, normalizers[i]), 0);
        assert_int_equal(tokenizer_print(tokenizer, &json, &bytes), 0);
        snprintf(line, sizeof line, "\n\"normalizer\":%s,\n", normalizers[i]);
        assert_non_null(strstr(json, line));
        memory_release(json);
        tokenizer_free(tokenizer);
    }
}

/* What is learnt from capitals is what is learnt from small letters. */
static void training_lowers_too(void **state) {
    (void)state;
    static const char *const capitals[] = {"\xC3\x89T\xC3\x89 \xC3\x89T\xC3\x89", "\xC8\x98I \xC8\x98I"},
                             *const small[] = {"\xC3\xA9t\xC3\xA9 \xC3\xA9t\xC3\xA9", "\xC8\x99i \xC8\x99i"};
    const char *const *texts[] = {capitals, small};
    char *json[2];
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        struct tokenizer *tokenizer;
        assert_int_equal(tokenizer_train_bpe(&tokenizer, texts[i], 2, 300, true), 0);
        assert_in_range(tokenizer_vocabulary(tokenizer), 264, 300);
        assert_int_equal(tokenizer_print(tokenizer, &json[i], &bytes[i]), 0);
        tokenizer_free(tokenizer);
    }
    assert_string_equal(json[0], json[1]);
    memory_release(json[0]);
    memory_release(json[1]);
}

static void failed_allocations_are_survived(void **state) {
    (void)state;
    static const char text[] = "e\xCC\x81 \xC3\x89";
    struct tokenizer *tokenizer;
    size_t count;
    assert_int_equal(open_bytes(&tokenizer, SEQUENCE(NFC "," LOWER)), 0);
    memory_fail_after(0);
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), NULL, 0, &count), 0);
    long allocations = memory_count();
    assert_in_range(allocations, 4, 100);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int status = tokenizer_encode(tokenizer, text, strlen(text), NULL, 0, &count);
        memory_fail_after(0);
        assert_int_equal(status, E_MEMORY);
    }
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_composed),
        cmocka_unit_test(texts_are_lowered),
        cmocka_unit_test(steps_follow_each_other),
        cmocka_unit_test(places_are_those_in_the_original),
        cmocka_unit_test(places_hold_what_changed_places),
        cmocka_unit_test(normalizers_are_printed),
        cmocka_unit_test(training_lowers_too),
        cmocka_unit_test(failed_allocations_are_survived),
    };
    return cmocka_run_group_tests_name("normalize", tests, NULL, NULL);
}
