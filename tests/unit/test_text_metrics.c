/* What metrics of texts make of a text before they compare: Python's and its libraries' results, written down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metric_words.h"
#include "task/metrics.h"

/* Python 3.11.7 (Unicode 14): str.lower. */
static void lower_case_is_pythons(void **state) {
    (void)state;
    static const struct {
        const char *text, *lower;
    } row[] = {
        {"", ""},
        {"An ASCII text, 1 2", "an ascii text, 1 2"},
        {"\xC8\x98 \xC8\x9A", "\xC8\x99 \xC8\x9B"}, /* Romanian S and T with comma */
        {"\xC7\x8D \xC7\x85 \xC7\x84 \xC6\x81 \xC6\x8F", "\xC7\x8E \xC7\x86 \xC7\x86 \xC9\x93 \xC9\x99"},
        /* sigma: at the end of words, and alone */
        {"\xCE\x9F\xCE\x94\xCE\x9F\xCE\xA3 \xCE\xA3\xCE\x9F\xCE\xA6\xCE\x9F\xCE\xA3 \xCE\xA3",
         "\xCE\xBF\xCE\xB4\xCE\xBF\xCF\x82 \xCF\x83\xCE\xBF\xCF\x86\xCE\xBF\xCF\x82 \xCF\x83"},
        /* beside a stop, an apostrophe and a modifier letter, which case ignores */
        {"\xCE\x91.\xCE\xA3' \xCE\x9F\xCE\x94\xCE\x9F\xCE\xA3'\xCE\x91 \xCE\xA3\xCA\xB0",
         "\xCE\xB1.\xCF\x82' \xCE\xBF\xCE\xB4\xCE\xBF\xCF\x83'\xCE\xB1 \xCF\x83\xCA\xB0"},
        {"\xC4\xB0ZM\xC4\xB0R", "i\xCC\x87zmi\xCC\x87r"}, /* I with a dot */
        {"\xE1\xBA\x9E \xC3\x9F", "\xC3\x9F \xC3\x9F"},   /* sharp s */
        {"\xCF\x8F \xCF\xB7 \xCF\xB4 \xCF\xA2", "\xCF\x97 \xCF\xB8 \xCE\xB8 \xCF\xA3"},
        {"\xE1\xBC\x88\xCE\x98\xCE\x97 \xE1\xBE\x88 \xE1\xBE\xBA",
         "\xE1\xBC\x80\xCE\xB8\xCE\xB7 \xE1\xBE\x80 \xE1\xBD\xB0"},
        {"\xD3\x80 \xEA\x99\x80 \xD4\x80", "\xD3\x8F \xEA\x99\x81 \xD4\x81"},                 /* Cyrillic */
        {"\xEF\xBC\xA1 \xE2\x85\xA3 \xE2\x92\xB6", "\xEF\xBD\x81 \xE2\x85\xB3 \xE2\x93\x90"}, /* wide, Roman, circled */
        {"\xE1\xB2\x90 \xE1\x8E\xA0 \xEA\xAD\xB0", "\xE1\x83\x90 \xEA\xAD\xB0 \xEA\xAD\xB0"}, /* Georgian, Cherokee */
        {"\xF0\x90\x90\x80", "\xF0\x90\x90\xA8"},                                             /* Deseret */
        {"\xC8\xBA \xC8\xBE \xE2\x84\xAA \xE2\x84\xAB", "\xE2\xB1\xA5 \xE2\xB1\xA6 k \xC3\xA5"}, /* longer, shorter */
        {"A\xFFZ \xC3", "a\xFFz \xC3"}, /* no UTF-8: no Python text, left alone */
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *lower = NULL;
        assert_int_equal(text_lower(row[i].text, &lower), 0);
        assert_string_equal(lower, row[i].lower);
        memory_release(lower);
    }
    char *lower = NULL;
    memory_fail_after(1);
    assert_int_equal(text_lower("A", &lower), E_MEMORY);
    memory_fail_after(0);
    assert_null(lower);
}

static void check_answer(const char *text, const char *expected) {
    char *normalized = NULL;
    assert_int_equal(metric_answer_normalize(text, &normalized), 0);
    assert_string_equal(normalized, expected);
    memory_release(normalized);
}

/* Python 3.11.7: str.lower, then string.punctuation out, the articles of re \b(a|an|the)\b, and str.split. */
static void answers_are_lowered_before_punctuation_goes(void **state) {
    (void)state;
    check_answer("\xCE\xA4\xCE\x9F \xCE\x9F\xCE\xA3'\xCE\x91 THE", "\xCF\x84\xCE\xBF \xCE\xBF\xCF\x83\xCE\xB1");
    check_answer("The \xC4\xB0ZM\xC4\xB0R!", "i\xCC\x87zmi\xCC\x87r");
}

/* As above. What is no \w ends a word, so an article beside it goes. */
static void articles_are_whole_words(void **state) {
    (void)state;
    check_answer("a\xC2\xB2 the\xC2\xBD an\xE2\x91\xA0", "a\xC2\xB2 the\xC2\xBD an\xE2\x91\xA0"); /* numbers */
    check_answer("a\xC3\x97"
                 "b the\xC3\xB7"
                 "2 a\xE2\x82\xAC"
                 "5",
                 "\xC3\x97"
                 "b \xC3\xB7"
                 "2 \xE2\x82\xAC"
                 "5"); /* signs */
    check_answer("a\xE2\x84\xA2 the\xE2\x86\x92house 1\xE3\x80\x82the\xE3\x80\x81"
                 "an",
                 "\xE2\x84\xA2 \xE2\x86\x92house 1\xE3\x80\x82 \xE3\x80\x81");
    check_answer("\xE3\x80\x8Cthe\xE3\x80\x8D a\xF0\x9F\x98\x80", "\xE3\x80\x8C \xE3\x80\x8D \xF0\x9F\x98\x80");
    check_answer("a\xCC\x81 la the\xCC\x81", "\xCC\x81 la \xCC\x81"); /* combining marks */
    check_answer("a\xEF\xB8\x8F a\xEF\xBF\xBD a\xEE\x80\x80 a\xCD\xB8",
                 "\xEF\xB8\x8F \xEF\xBF\xBD \xEE\x80\x80 \xCD\xB8");
    check_answer("the\xE4\xB8\xAD\xE6\x96\x87 \xCE\xB1the the\xD9\xA3",
                 "the\xE4\xB8\xAD\xE6\x96\x87 \xCE\xB1the the\xD9\xA3");
    check_answer("\xE2\x85\xA3"
                 "a a\xC2\xAA a_b the_",
                 "\xE2\x85\xB3"
                 "a a\xC2\xAA ab");
    check_answer("a\xFFthe", "\xFF"); /* no UTF-8: no Python text; no word character either */
}

static void check_tokens(const char *text, bool lower, const char *expected) {
    char *tokens = NULL;
    assert_int_equal(metric_bleu_tokens(text, lower, &tokens), 0);
    assert_string_equal(tokens, expected);
    memory_release(tokens);
}

/* sacrebleu 2.6.0: the 13a tokens of BLEU(lowercase=True). */
static void bleu_lowers_before_it_cleans(void **state) {
    (void)state;
    check_tokens("&AMP; \xC8\x98I <SKIPPED>\xCE\x9F\xCE\xA3", true, "& \xC8\x99i \xCE\xBF\xCF\x82");
    check_tokens("&AMP; &Lt; <SKIPPED>x", true, "& < x");
    check_tokens("&AMP; &Lt; <SKIPPED>x", false, "& AMP ; & Lt ; < SKIPPED > x");
}

/* sacrebleu 2.6.0: the 13a tokens of BLEU(). */
static void bleu_cleans_step_by_step(void **state) {
    (void)state;
    check_tokens("&amp;lt;b&amp;gt; &amp;amp;", false, "< b > & amp ;");
    check_tokens("&quot;&lt;skipped&gt;", false, "\" < skipped >");
    check_tokens("trail-\n", false, "trail-"); /* white space at the end goes first */
    check_tokens("mid-\ndle -\n ", false, "middle -");
    check_tokens("-<skipped>\nx <skip<skipped>ped>", false, "x < skipped >");
}

static void check_rouge(const char *hypothesis, const char *reference, double rouge_1, double rouge_2) {
    struct rouge_score scores[ROUGE_KINDS];
    assert_int_equal(metric_rouge(hypothesis, &reference, 1, false, scores), 0);
    assert_true(fabs(scores[ROUGE_1].f1 - rouge_1) < 1e-12);
    assert_true(fabs(scores[ROUGE_2].f1 - rouge_2) < 1e-12);
}

/* rouge_score 0.1.2, use_stemmer=False. */
static void rouge_lowers_before_it_looks_for_words(void **state) {
    (void)state;
    /* a dotted I is an i and a sign; the Kelvin sign is a k */
    check_rouge("\xC4\xB0STANBUL \xE2\x84\xAA"
                "elvin \xE2\x84\xAA",
                "i stanbul k elvin", 0.75, 1.0 / 3);
}

static void rouge_keeps_long_words_whole(void **state) {
    (void)state;
    char whole[272], cut[272];
    memset(whole, 'b', 256);
    memset(cut, 'b', 256);
    strcpy(whole + 256, "a x");
    strcpy(cut + 256, " a");
    check_rouge(cut, whole, 0, 0);
    strcpy(cut + 256, "a y");
    check_rouge(cut, whole, 0.5, 0);
}

/* NLTK 3.10.4, whose stems rouge_score takes. Whether y is a consonant depends on the y before it, and so on. */
static void stems_of_endless_words_take_no_time(void **state) {
    (void)state;
    enum { LETTERS = 20000, MANY = 2000000 };
    char *word = malloc(MANY + 2);
    assert_non_null(word);
    memset(word, 'y', MANY);
    memcpy(word + LETTERS, "ed", 2);
    assert_int_equal(porter_stem(word, LETTERS + 2), LETTERS);
    assert_int_equal(word[LETTERS - 1], 'i');
    memset(word, 'y', LETTERS + 1);
    memcpy(word + LETTERS + 1, "ed", 2);
    assert_int_equal(porter_stem(word, LETTERS + 3), LETTERS);
    assert_int_equal(word[LETTERS - 1], 'i');
    memset(word, 'y', MANY);
    assert_int_equal(porter_stem(word, MANY), MANY);
    free(word);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lower_case_is_pythons),        cmocka_unit_test(answers_are_lowered_before_punctuation_goes),
        cmocka_unit_test(articles_are_whole_words),     cmocka_unit_test(bleu_lowers_before_it_cleans),
        cmocka_unit_test(bleu_cleans_step_by_step),     cmocka_unit_test(rouge_lowers_before_it_looks_for_words),
        cmocka_unit_test(rouge_keeps_long_words_whole), cmocka_unit_test(stems_of_endless_words_take_no_time),
    };
    return cmocka_run_group_tests_name("text_metrics", tests, NULL, NULL);
}
