/* Unicode tables and UTF-8 against slow definitions: the tables are generated, so what is tested is that they hang
 * together and agree with facts of the Unicode Standard that no version changes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "text/split_words.h"
#include "text/unicode.h"

static void categories_are_as_published(void **state) {
    (void)state;
    static const struct {
        uint32_t code;
        enum unicode_category category;
        uint32_t lower;
    } row[] = {
        {'A', UNICODE_LU, 'a'},
        {'z', UNICODE_LL, 'z'},
        {'7', UNICODE_ND, '7'},
        {' ', UNICODE_ZS, ' '},
        {'_', UNICODE_PC, '_'},
        {'-', UNICODE_PD, '-'},
        {'(', UNICODE_PS, '('},
        {'$', UNICODE_SC, '$'},
        {'^', UNICODE_SK, '^'},
        {0, UNICODE_CC, 0},
        {0xAD, UNICODE_CF, 0xAD},
        {0xC5, UNICODE_LU, 0xE5},
        {0x1C5, UNICODE_LT, 0x1C6},
        {0x300, UNICODE_MN, 0x300},
        {0x3A3, UNICODE_LU, 0x3C3},
        {0x4E00, UNICODE_LO, 0x4E00},
        {0x5000, UNICODE_LO, 0x5000},
        {0x9FA5, UNICODE_LO, 0x9FA5},
        {0xAC01, UNICODE_LO, 0xAC01},
        {0xD800, UNICODE_CS, 0xD800},
        {0xE001, UNICODE_CO, 0xE001},
        {0x2160, UNICODE_NL, 0x2170},
        {0xBD, UNICODE_NO, 0xBD},
        {0x2028, UNICODE_ZL, 0x2028},
        {0x212A, UNICODE_LU, 'k'},
        {0x20DD, UNICODE_ME, 0x20DD},
        {0x1F600, UNICODE_SO, 0x1F600},
        {0x20001, UNICODE_LO, 0x20001},
        {0x10FFFE, UNICODE_CN, 0x10FFFE},
        {0x110000, UNICODE_CN, 0x110000},
        {0xFFFFFFFF, UNICODE_CN, 0xFFFFFFFF},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        assert_int_equal(unicode_category(row[i].code), row[i].category);
        assert_int_equal(unicode_lower(row[i].code), row[i].lower);
    }
    assert_true(unicode_is_space(0x85) && unicode_is_space(0xA0) && unicode_is_space(0x3000) && unicode_is_space('\v'));
    assert_false(unicode_is_space(0x1C) || unicode_is_space(0x200B) || unicode_is_space(0xFEFF));
}

/* A decomposition by definition: unfold every part until nothing changes. */
static size_t unfold(uint32_t code, uint32_t *to) {
    const struct unicode_record *record = unicode_record(code);
    size_t count = 0;
    if (!record->decomposition_count) {
        to[0] = code;
        return 1;
    }
    for (size_t i = 0; i < record->decomposition_count; i++)
        count += unfold(unicode_decompositions[record->decomposition + i], to + count);
    return count;
}

static void decompositions_unfold_fully_and_compose_back(void **state) {
    (void)state;
    size_t decomposed = 0, composed = 0;
    for (uint32_t code = 0; code < 0x110000; code++) {
        uint32_t parts[UNICODE_DECOMPOSITION_MAX], expected[16];
        size_t count = unicode_decompose(code, parts);
        if (code < 0xAC00 || code > 0xD7A3) {
            assert_int_equal(count, unfold(code, expected));
            assert_memory_equal(parts, expected, count * sizeof *parts);
        }
        decomposed += count > 1;
        uint32_t back = parts[0];
        for (size_t i = 1; back && i < count; i++) back = unicode_compose(back, parts[i]);
        composed += count > 1 && back == code;
    }
    assert_in_range(decomposed, 11172 + 900, 11172 + 1300);  /* all Hangul syllables and about a thousand others */
    assert_in_range(composed, 11172 + 850, decomposed - 50); /* excluded ones do not come back */
    assert_int_equal(unicode_compose('e', 0x301), 0xE9);
    assert_int_equal(unicode_compose(0x1100, 0x1161), 0xAC00);
    assert_int_equal(unicode_compose(0xAC00, 0x11A8), 0xAC01);
    assert_int_equal(unicode_compose(0x915, 0x93C), 0); /* U+0958 is excluded */
    assert_int_equal(unicode_compose('e', 'e'), 0);
}

static void utf8_survives_the_round_trip(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        uint8_t bytes[4];
        uint32_t back;
        size_t length = utf8_encode(code, bytes);
        bool surrogate = code >= 0xD800 && code < 0xE000;
        assert_int_equal(utf8_decode(bytes, length, &back), surrogate ? 1 : length);
        assert_int_equal(back, surrogate ? UNICODE_REPLACEMENT : code);
        for (size_t cut = 1; cut < length; cut++) {
            assert_int_equal(utf8_decode(bytes, cut, &back), 1);
            assert_int_equal(back, UNICODE_REPLACEMENT);
        }
    }
    static const char *const broken[] = {"\x80",
                                         "\xC0\x80",
                                         "\xC1\xBF",
                                         "\xE0\x80\x80",
                                         "\xE0\x9F\xBF",
                                         "\xF0\x8F\xBF\xBF",
                                         "\xF4\x90\x80\x80",
                                         "\xF5\x80\x80\x80",
                                         "\xFF",
                                         "\xC3(",
                                         "\xE2\x82("};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        uint32_t code;
        assert_int_equal(utf8_decode((const uint8_t *)broken[i], strlen(broken[i]), &code), 1);
        assert_int_equal(code, UNICODE_REPLACEMENT);
    }
}

/* ---- patterns ---- */
static void words_are(enum word_pattern pattern, const char *text, const char *expected) {
    char words[300] = "";
    for (size_t left = strlen(text), length; left; left -= length, text += length) {
        length = word_length((const uint8_t *)text, left, pattern, false);
        assert_in_range(length, 1, left);
        if (*words) strcat(words, "|");
        strncat(words, text, length);
    }
    assert_string_equal(words, expected);
}

static void text_is_cut_by_the_patterns(void **state) {
    (void)state;
    words_are(WORD_GPT2, "caf\xC3\xA9 \xE2\x80\x9Cquote\xE2\x80\x9D \xC2\xBD",
              "caf\xC3\xA9| \xE2\x80\x9C|quote|\xE2\x80\x9D| \xC2\xBD");
    words_are(WORD_GPT2,
              "a\xC2\xA0\xC2\xA0"
              "b",
              "a|\xC2\xA0|\xC2\xA0|b");
    words_are(WORD_GPT2, "x\xFFy", "x|\xFF|y");
    words_are(WORD_LLAMA3, "It'S 12345 'll (a) b...\n\nc  \n  d", "It|'S| |123|45| '|ll| (|a|)| b|...\n\n|c|  \n| | d");
    words_are(WORD_LLAMA3, "\tx\n y\r\nz  ", "\tx|\n| y|\r\n|z|  ");
    words_are(WORD_LLAMA3, "a \xC3\xA9-\xC3\xA9 $5", "a| \xC3\xA9|-\xC3\xA9| $|5");
    words_are(WORD_QWEN2, "12 3!", "1|2| |3|!");
}

static void pattern_texts_are_found(void **state) {
    (void)state;
    enum word_pattern pattern;
    for (int i = WORD_GPT2; i <= WORD_QWEN2; i++) {
        assert_true(word_pattern_find(word_pattern_text((enum word_pattern)i), &pattern));
        assert_int_equal(pattern, i);
    }
    assert_false(word_pattern_find("\\w+", &pattern));
}

static void numbers_are_found(void **state) {
    (void)state;
    size_t length;
    assert_int_equal(number_find((const uint8_t *)"ab3", 3, &length), 2);
    assert_int_equal(length, 1);
    assert_int_equal(number_find((const uint8_t *)"a\xC2\xBD", 3, &length), 1);
    assert_int_equal(length, 2);
    assert_int_equal(number_find((const uint8_t *)"abc", 3, &length), 3);
    assert_int_equal(length, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(categories_are_as_published),  cmocka_unit_test(decompositions_unfold_fully_and_compose_back),
        cmocka_unit_test(utf8_survives_the_round_trip), cmocka_unit_test(text_is_cut_by_the_patterns),
        cmocka_unit_test(pattern_texts_are_found),      cmocka_unit_test(numbers_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
