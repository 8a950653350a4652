/* SentencePiece's segmentations as tokenizer.json has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "text/tokenizer.h"
#include "token_text.h"

#define S "\xE2\x96\x81" /* the space symbol */

/* Hugging Face's Metaspace decoder leaves no blank in the first token, also of a piece across words. */
static void first_token_in_json_has_no_blanks(void **state) {
    (void)state;
    static const char json[] =
        "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"" S "a" S S "b" S
        "\",-1],[\"c\",-2],[\"" S "d" S "e\",-3]]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" S
        "\",\"prepend_scheme\":\"%s\",\"split\":false},"
        "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" S "\",\"prepend_scheme\":\"%s\",\"split\":false}}";
    static const struct {
        const char *scheme, *decoded;
    } cases[] = {{"always", "abc d e"}, {"first", "abc d e"}, {"never", " a  b c d e"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *tokenizer;
        char text[sizeof json + 16];
        int length = snprintf(text, sizeof text, json, cases[i].scheme, cases[i].scheme);
        if (tokenizer_parse(&tokenizer, text, (size_t)length) < 0) fail_msg("%s", error_text());
        check_decoded(tokenizer, (const int32_t[]){1, 2, 3}, 3, cases[i].decoded);
        tokenizer_free(tokenizer);
    }
}

/* With ignore_merges a text that is a token is that token, also one that no merge makes and one that stands for a byte;
 * a part of a text is not. */
static void whole_texts_in_json_are_tokens(void **state) {
    (void)state;
    static const struct {
        const char *text, *ignoring, *merging;
    } cases[] = {{" ab", "259", "256 257 258"},
                 {"<0x41>", "65", "60 48 120 52 49 62"},
                 {" ab ab", "256 257 258 256 257 258", "256 257 258 256 257 258"},
                 {"<0x41> a", "60 48 120 52 49 62 256 257", "60 48 120 52 49 62 256 257"}};
    char json[1 << 13];
    for (int ignore = 0; ignore < 2; ignore++) {
        struct tokenizer *tokenizer;
        int used = snprintf(
            json, sizeof json,
            "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"ignore_merges\":%s,\"merges\":[],\"vocab\":{",
            ignore ? "true" : "false");
        for (int i = 0; i < 256; i++)
            used += snprintf(json + used, sizeof json - (size_t)used, "\"<0x%02X>\":%d,", i, i);
        used += snprintf(json + used, sizeof json - (size_t)used,
                         "\"" S "\":256,\"a\":257,\"b\":258,\"" S
                         "ab\":259}},\"normalizer\":{\"type\":\"Replace\",\"pattern\":"
                         "{\"String\":\" \"},\"content\":\"" S "\"}}");
        if (tokenizer_parse(&tokenizer, json, (size_t)used) < 0) fail_msg("%s", error_text());
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            assert_string_equal(ids_text(tokenizer, cases[i].text), ignore ? cases[i].ignoring : cases[i].merging);
        tokenizer_free(tokenizer);
    }
}

/* Ids of Hugging Face's tokenizers 0.23.3: the unknown token is looked up as any piece, and joins the unknown
 * characters beside it, as which it is then bytes where there are such; what is added behind the vocabulary is not
 * looked up. */
static void unknown_token_in_json_is_a_piece(void **state) {
    (void)state;
    static const struct {
        const char *text, *plain, *bytes;
    } cases[] = {{"a<unk>b", "12 2 11", "12 2 11"},
                 {"<unk>", "3 2", "3 2"},
                 {"x<unk>y", "3 2", "3 133 73 130 123 120 75 134"},
                 {"a <unk>xy b", "12 3 2 3 11", "12 3 73 130 123 120 75 133 134 3 11"},
                 {"<unk><unk>", "3 2", "3 73 130 123 120 75 73 130 123 120 75"},
                 {"<unk>x", "3 2", "3 73 130 123 120 75 133"},
                 {"x<unk>", "3 2", "3 133 73 130 123 120 75"},
                 {"a q", "12 3 2", "12 3 126"}};
    char json[1 << 14];
    for (int fallback = 0; fallback < 2; fallback++) {
        struct tokenizer *tokenizer;
        size_t used = (size_t)snprintf(
            json, sizeof json,
            "{\"model\":{\"type\":\"Unigram\",\"unk_id\":2,\"byte_fallback\":%s,\"vocab\":[[\"<pad>\",0],[\"</s>\",0],"
            "[\"<unk>\",-1],[\"" S "\",-2],[\"<\",-3],[\">\",-3],[\"u\",-3],[\"n\",-3],[\"k\",-3],[\"unk\",-2.5],"
            "[\"a\",-3],[\"b\",-3],[\"" S "a\",-1.5]",
            fallback ? "true" : "false");
        for (int i = 0; i < 256 && fallback; i++)
            used += (size_t)snprintf(json + used, sizeof json - used, ",[\"<0x%02X>\",-9]", i);
        used += (size_t)snprintf(
            json + used, sizeof json - used,
            "]},\"added_tokens\":[{\"id\":%d,\"content\":\"" S "q\",\"special\":true}],"
            "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" S
            "\",\"prepend_scheme\":\"always\"},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" S
            "\",\"prepend_scheme\":\"always\"}}",
            fallback ? 13 + 256 : 13);
        if (tokenizer_parse(&tokenizer, json, used) < 0) fail_msg("%s", error_text());
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const char *expected = fallback ? cases[i].bytes : cases[i].plain,
                       *got = ids_text(tokenizer, cases[i].text);
            if (strcmp(got, expected) != 0) fail_msg("%s: %s, expected %s", cases[i].text, got, expected);
        }
        tokenizer_free(tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_token_in_json_has_no_blanks),
        cmocka_unit_test(whole_texts_in_json_are_tokens),
        cmocka_unit_test(unknown_token_in_json_is_a_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
