/* SentencePiece on models that the test writes itself: against slow and simple versions of both segmentations, and each
 * setting by example. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "gguf_writer.h"
#include "scratch_file.h"
#include "sentencepiece_writer.h"
#include "text/tokenizer.h"
#include "token_text.h"

#define S "\xE2\x96\x81" /* the space symbol */

static struct tokenizer *open_model(const struct sentencepiece_writer *writer) {
    struct tokenizer *tokenizer;
    size_t bytes;
    uint8_t *file = writer_print(writer, &bytes);
    if (tokenizer_parse_sentencepiece(&tokenizer, file, bytes) < 0) fail_msg("%s", error_text());
    free(file);
    return tokenizer;
}

static void check_refused(const struct sentencepiece_writer *writer, int code, const char *part) {
    struct tokenizer *tokenizer;
    size_t bytes;
    uint8_t *file = writer_print(writer, &bytes);
    assert_int_equal(tokenizer_parse_sentencepiece(&tokenizer, file, bytes), code);
    if (!strstr(error_text(), part)) fail_msg("'%s' does not say '%s'", error_text(), part);
    assert_null(tokenizer);
    free(file);
}

/* ---- against simple versions ---------------------------------------------------------------------- */
#define PIECE_LONGEST 5
#define RANDOM_PIECES 40

/* All single characters of `alphabet` but the last, and random strings of it, with random scores that often tie. */
static char piece_texts[RANDOM_PIECES + 8][4 * PIECE_LONGEST];
static void random_model(struct sentencepiece_writer *writer, struct random *random, const char *alphabet) {
    size_t letters = strlen(alphabet), made = 0;
    memset(writer, 0, sizeof *writer);
    writer_add_usual(writer);
    for (size_t i = 0; i < letters - 1 + RANDOM_PIECES; i++) {
        char *text = piece_texts[made];
        size_t length = i < letters - 1 ? 1 : 2 + random_below(random, PIECE_LONGEST - 1);
        bool known = false;
        text[0] = 0;
        for (size_t k = 0; k < length; k++) {
            char letter = alphabet[i < letters - 1 ? i : random_below(random, letters)];
            strcat(text, letter == '_' ? S : (char[]){letter, 0});
        }
        for (size_t k = 0; k < made; k++) known |= strcmp(piece_texts[k], text) == 0;
        if (known) continue;
        writer_add(writer, text, -1.0f - (float)random_below(random, 12) / 4, 1);
        made++;
    }
}

static int find_piece(const struct sentencepiece_writer *writer, const char *text, size_t bytes) {
    for (size_t i = 3; i < writer->count; i++)
        if (strlen(writer->pieces[i].text) == bytes && memcmp(writer->pieces[i].text, text, bytes) == 0) return (int)i;
    return -1;
}

/* A random text of the alphabet and what normalization makes of it: one space symbol in front and for every blank. */
static void random_text(struct random *random, const char *alphabet, size_t length, char *text, char *normal) {
    *text = *normal = 0;
    strcat(normal, S);
    for (size_t i = 0; i < length; i++) {
        char letter = alphabet[random_below(random, strlen(alphabet))];
        strcat(text, (char[]){letter == '_' ? ' ' : letter, 0});
        strcat(normal, letter == '_' ? S : (char[]){letter, 0});
    }
}

/* The best pair of the whole row again and again. */
static void merge_slowly(const struct sentencepiece_writer *writer, const char *text, char *out, size_t size) {
    static size_t begin[4096];
    size_t count = 0, bytes = strlen(text), used = 0;
    for (size_t at = 0; at < bytes; at += text[at] == S[0] ? 3 : 1) begin[count++] = at;
    begin[count] = bytes;
    for (;;) {
        size_t best = count;
        float score = -INFINITY;
        for (size_t i = 0; i + 1 < count; i++) {
            int id = find_piece(writer, text + begin[i], begin[i + 2] - begin[i]);
            if (id < 0 || writer->pieces[id].score <= score) continue;
            score = writer->pieces[id].score;
            best = i;
        }
        if (best == count) break;
        memmove(begin + best + 1, begin + best + 2, (count - best - 1) * sizeof *begin);
        count--;
    }
    bool unknown = false;
    *out = 0;
    for (size_t i = 0; i < count; i++) {
        int id = find_piece(writer, text + begin[i], begin[i + 1] - begin[i]);
        if (id >= 0 || !unknown)
            used += (size_t)snprintf(out + used, size - used, "%s%d", used ? " " : "", id < 0 ? 0 : id);
        unknown = id < 0;
    }
}

static void check_bpe(const char *alphabet, size_t length, size_t rounds) {
    static char text[4096], normal[4096], expected[1 << 12];
    struct sentencepiece_writer *writer = calloc(1, sizeof *writer);
    struct random random;
    random_open(&random, 7, length);
    for (size_t round = 0; round < rounds; round++) {
        random_model(writer, &random, alphabet);
        writer->model_type = WRITER_BPE;
        writer->keep_spaces = true;
        struct tokenizer *tokenizer = open_model(writer);
        for (int i = 0; i < 20; i++) {
            random_text(&random, alphabet, length, text, normal);
            merge_slowly(writer, normal, expected, sizeof expected);
            assert_string_equal(ids_text(tokenizer, text), expected);
        }
        tokenizer_free(tokenizer);
    }
    free(writer);
}

static void bpe_is_the_simple_version(void **state) {
    (void)state;
    check_bpe("abcd", 12, 40);
    check_bpe("ab_c", 20, 40);
    check_bpe("abc", 150, 10); /* above MERGE_SHORT: the heap */
    check_bpe("ab_", 150, 10);
}

/* The best score of text[at..], by trying every piece. */
static double best_score(const struct sentencepiece_writer *writer, const char *text, double *known) {
    if (!*text) return 0;
    if (!isnan(*known)) return *known;
    size_t step = *text == S[0] ? 3 : 1;
    double lowest = INFINITY, best = -INFINITY;
    for (size_t i = 3; i < writer->count; i++) {
        size_t bytes = strlen(writer->pieces[i].text);
        if ((double)writer->pieces[i].score < lowest) lowest = (double)writer->pieces[i].score;
        if (strncmp(text, writer->pieces[i].text, bytes) != 0) continue;
        best = fmax(best, (double)writer->pieces[i].score + best_score(writer, text + bytes, known + bytes));
    }
    if (find_piece(writer, text, step) < 0)
        best = fmax(best, lowest - 10 + best_score(writer, text + step, known + step));
    return *known = best;
}

static double score_of(const struct sentencepiece_writer *writer, const struct encoding *encoding) {
    double score = 0, lowest = INFINITY;
    for (size_t i = 3; i < writer->count; i++) lowest = fmin(lowest, (double)writer->pieces[i].score);
    for (size_t i = 0; i < encoding->count; i++) {
        if (encoding->ids[i]) score += (double)writer->pieces[encoding->ids[i]].score;
        else score += (lowest - 10) * (encoding->end[i] - encoding->begin[i]); /* one byte a character here */
    }
    return score;
}

static void unigram_finds_the_best_score(void **state) {
    (void)state;
    static char text[512], normal[512];
    static double known[512];
    struct sentencepiece_writer *writer = calloc(1, sizeof *writer);
    struct random random;
    random_open(&random, 11, 0);
    for (int round = 0; round < 60; round++) {
        random_model(writer, &random, "_abcd"); /* d is unknown where it stands alone */
        writer->model_type = WRITER_UNIGRAM;
        writer->keep_spaces = true;
        struct tokenizer *tokenizer = open_model(writer);
        for (int i = 0; i < 20; i++) {
            struct encoding encoding = {.with_offsets = true};
            random_text(&random, "_abcd", 1 + random_below(&random, 60), text, normal);
            for (size_t k = 0; k < 512; k++) known[k] = NAN;
            assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), false, true, &encoding), 0);
            double best = best_score(writer, normal, known), ours = score_of(writer, &encoding);
            if (fabs(best - ours) > 1e-3) fail_msg("'%s': score %g, the best is %g", normal, ours, best);
            encoding_close(&encoding);
        }
        tokenizer_free(tokenizer);
    }
    free(writer);
}

/* ---- settings by example -------------------------------------------------------------------------- */
static struct sentencepiece_writer small_bpe(bool byte_fallback) {
    struct sentencepiece_writer writer = {.model_type = WRITER_BPE, .byte_fallback = byte_fallback};
    writer_add_usual(&writer);
    return writer;
}

static void unknown_characters_and_bytes(void **state) {
    (void)state;
    struct sentencepiece_writer writer = small_bpe(false);
    writer_add(&writer, S, -1, 1); /* 3 */
    writer_add(&writer, "a", -2, 1);
    struct tokenizer *tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "a\xC3\xA9\xC3\xA9"
                                            "a"),
                        "3 4 0 4"); /* a run is one unknown token */
    assert_string_equal(ids_text(tokenizer, "\x80"), "3 0");
    assert_string_equal(ids_text(tokenizer, ""), "");
    assert_string_equal(ids_text(tokenizer, "  "), "");
    check_decoded(tokenizer, (const int32_t[]){1, 3, 4, 0, 2}, 5, "a \xE2\x81\x87 ");
    tokenizer_free(tokenizer);

    writer = small_bpe(true);
    writer_add(&writer, S, -1, 1); /* 259 */
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "\xC3\xA9"), "259 198 172");
    assert_string_equal(ids_text(tokenizer, "\x80"), "259 242 194 192"); /* no UTF-8: U+FFFD */
    check_decoded(tokenizer, (const int32_t[]){259, 198, 172, 259, 198, 3 + 'x'}, 6, "\xC3\xA9 \xEF\xBF\xBDx");
    check_decoded(tokenizer, (const int32_t[]){198}, 1, "\xEF\xBF\xBD");
    int32_t id = 260;
    char *text;
    assert_int_equal(tokenizer_decode(tokenizer, &id, 1, &text), E_ARGUMENT);
    tokenizer_free(tokenizer);
}

static void a_trie_knows_only_its_pieces(void **state) {
    (void)state;
    struct sentencepiece_writer writer = {.model_type = WRITER_UNIGRAM, .keep_spaces = true};
    writer_add_usual(&writer);
    writer_add(&writer, S, -1, 1); /* 3 */
    writer_add(&writer, "ab", -2, 1);
    writer_add(&writer, "c", -2, 1);
    struct tokenizer *tokenizer = open_model(&writer);
    for (int byte = 1; byte < 128; byte++) {
        const char text[] = {(char)byte, 'a', 'b', 0};
        const char *expected = byte == ' ' ? "3 3 4" : byte == 'c' ? "3 5 4" : "3 0 4";
        assert_string_equal(ids_text(tokenizer, text), expected);
    }
    tokenizer_free(tokenizer);
}

static void ties_go_left_and_users_win(void **state) {
    (void)state;
    struct sentencepiece_writer writer = small_bpe(false);
    static const char *const texts[] = {S, "a", "b", "aa", "ab", (S "a"), ("b" S)}; /* 3 .. 9 */
    static const float scores[] = {-1, -2, -3, -4, -4, -5, -4};
    for (size_t i = 0; i < 7; i++) writer_add(&writer, texts[i], scores[i], 1);
    struct tokenizer *tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "aaa"), "3 6 4");
    assert_string_equal(ids_text(tokenizer, "aab"), "3 6 5");
    assert_string_equal(ids_text(tokenizer, "b b"), "3 9 5"); /* across words */
    tokenizer_free(tokenizer);
    writer_add(&writer, "ba", 0, 4); /* 10: user-defined, found before any merge */
    writer_add(&writer, "bab", 0, 4);
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "aba"), "8 10");
    assert_string_equal(ids_text(tokenizer, "babab"), "3 11 7"); /* the longest, then ab */
    tokenizer_free(tokenizer);
}

static void unused_pieces_are_cut_again(void **state) {
    (void)state;
    struct sentencepiece_writer writer = small_bpe(false);
    static const char *const texts[] = {S, "a", "b", "c", "ab", "abc"}; /* 3 .. 8 */
    for (size_t i = 0; i < 6; i++) writer_add(&writer, texts[i], -1.0f - (float)i, i == 5 ? 5 : 1);
    struct tokenizer *tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "abc"), "3 7 6");
    tokenizer_free(tokenizer);
    writer.pieces[7].type = 5; /* ab too */
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "abc"), "3 4 5 6");
    tokenizer_free(tokenizer);
    writer.model_type = WRITER_UNIGRAM;
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "abc"), "3 4 5 6");
    tokenizer_free(tokenizer);
}

static void rules_and_spaces(void **state) {
    (void)state;
    static const char *const rules[][2] = {{"A", "b"}, {"x", ""}, {"AB", "c "}, {"\t", " "}, {"\xE3\x80\x80", " "}};
    struct sentencepiece_writer writer = small_bpe(false);
    size_t bytes;
    uint8_t *blob = writer_charsmap(rules, 5, &bytes);
    static const char *const texts[] = {S, "a", "b", "c"}; /* 3 .. 6 */
    for (size_t i = 0; i < 4; i++) writer_add(&writer, texts[i], -1, 1);
    writer.charsmap = blob;
    writer.charsmap_bytes = bytes;
    struct tokenizer *tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "A"), "3 5");
    assert_string_equal(ids_text(tokenizer, "ABa"), "3 6 3 4"); /* the longest rule */
    assert_string_equal(ids_text(tokenizer, "AB a"), "3 6 3 4");
    assert_string_equal(ids_text(tokenizer, "\t a \xE3\x80\x80 axa\t"), "3 4 3 4 4");
    tokenizer_free(tokenizer);
    writer.keep_spaces = true;
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, " a  \xE3\x80\x80"), "3 3 4 3 3 3");
    check_decoded(tokenizer, (const int32_t[]){3, 3, 4}, 3, " a");
    tokenizer_free(tokenizer);
    writer.no_dummy_prefix = true;
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, "a a"), "4 3 4");
    check_decoded(tokenizer, (const int32_t[]){3, 4}, 2, " a");
    tokenizer_free(tokenizer);
    writer.no_dummy_prefix = writer.keep_spaces = false;
    writer.space_as_suffix = true;
    tokenizer = open_model(&writer);
    assert_string_equal(ids_text(tokenizer, " a  a "), "4 3 4 3");
    check_decoded(tokenizer, (const int32_t[]){3, 3, 4, 3}, 4, "a ");
    tokenizer_free(tokenizer);
    writer.charsmap_bytes = bytes - 1;
    check_refused(&writer, E_FORMAT, "precompiled_charsmap");
    free(blob);
}

static void places_in_the_text(void **state) {
    (void)state;
    static const char *const rules[][2] = {{"AB", "c c"}};
    static const char text[] = " a  AB\xC3\xA9";
    static const uint32_t begin[] = {0, 1, 2, 4, 4, 4, 6, 6}, end[] = {0, 2, 4, 4, 4, 6, 6, 8};
    struct sentencepiece_writer writer = small_bpe(true);
    size_t bytes;
    uint8_t *blob = writer_charsmap(rules, 1, &bytes);
    writer.charsmap = blob;
    writer.charsmap_bytes = bytes;
    writer_add(&writer, S "a", -1, 1);
    writer_add(&writer, S, -2, 1);
    writer_add(&writer, "c", -3, 1);
    struct tokenizer *tokenizer = open_model(&writer);
    struct encoding encoding = {.with_offsets = true};
    assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), true, true, &encoding), 0);
    assert_int_equal(encoding.ids[0], 1); /* <s> */
    static const int32_t ids[] = {1, 259, 260, 261, 260, 261, 198, 172};
    assert_int_equal(encoding.count, 8);
    assert_memory_equal(encoding.ids, ids, sizeof ids);
    assert_memory_equal(encoding.begin, begin, sizeof begin);
    assert_memory_equal(encoding.end, end, sizeof end);
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
    free(blob);
}

/* The same pieces in a GGUF file; `missing` leaves one of its three arrays out, or its begin token's id. */
static void write_gguf(const struct sentencepiece_writer *pieces, const char *path, const char *missing) {
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"};
    static const enum gguf_type types[] = {GGUF_STRING, GGUF_F32, GGUF_I32};
    static const char begin_key[] = "tokenizer.ggml.bos_token_id";
    struct gguf_writer writer = {0};
    put_header(&writer, 3, 0, 6 - (missing != NULL));
    put_text(&writer, "tokenizer.ggml.model", pieces->model_type == WRITER_BPE ? "llama" : "t5");
    if (!missing || strcmp(missing, begin_key) != 0) put_u32(&writer, begin_key, 1);
    put_u32(&writer, "tokenizer.ggml.eot_token_id", 5);
    for (int k = 0; k < 3; k++) {
        if (missing && strcmp(missing, keys[k]) == 0) continue;
        put_string(&writer, keys[k]);
        put_whole(&writer, GGUF_ARRAY, 4);
        put_whole(&writer, types[k], 4);
        put_whole(&writer, pieces->count, 8);
        for (size_t i = 0; i < pieces->count; i++) {
            if (k == 0) put_string(&writer, pieces->pieces[i].text);
            if (k == 1) put_bytes(&writer, &pieces->pieces[i].score, 4);
            if (k == 2) put_whole(&writer, (uint64_t)pieces->pieces[i].type, 4);
        }
    }
    put_padding(&writer, 32);
    write_whole_file(path, writer.bytes, writer.count);
    gguf_writer_close(&writer);
}

static void gguf_says_the_same(void **state) {
    (void)state;
    char path[128];
    scratch_file(path, ".gguf", "");
    for (int kind = WRITER_UNIGRAM; kind <= WRITER_BPE; kind++) {
        struct sentencepiece_writer writer = small_bpe(true);
        struct tokenizer *tokenizer;
        struct encoding encoding = {0};
        writer.model_type = kind;
        writer.keep_spaces = true;
        static const char *const texts[] = {S, "a", "b", "ab", S "a", "ba"};
        for (size_t i = 0; i < 6; i++) writer_add(&writer, texts[i], -1.0f - (float)(i % 3), i == 5 ? 4 : 1);
        struct tokenizer *model = open_model(&writer);
        write_gguf(&writer, path, NULL);
        if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
        assert_int_equal(tokenizer_kind(tokenizer), tokenizer_kind(model));
        char expected[1 << 12];
        strcpy(expected, ids_text(model, " ab  \xC3\xA9 babba"));
        assert_string_equal(ids_text(tokenizer, " ab  \xC3\xA9 babba"), expected);
        const int32_t *ends;
        assert_int_equal(tokenizer_ends(tokenizer, &ends), 1);
        assert_int_equal(ends[0], 5);
        tokenizer_free(tokenizer);
        tokenizer_free(model);
        /* Unless the file says otherwise llama's begin with <s> and t5's end with 1, by llama.cpp's ids where the file
         * has none. */
        for (int named = 0; named < 2; named++) {
            write_gguf(&writer, path, named ? NULL : "tokenizer.ggml.bos_token_id");
            if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
            encoding.count = 0;
            assert_int_equal(tokenizer_append(tokenizer, "a", 1, true, true, &encoding), 0);
            assert_int_equal(encoding.count, 2);
            assert_int_equal(encoding.ids[kind == WRITER_BPE ? 0 : 1], 1);
            tokenizer_free(tokenizer);
        }
        encoding_close(&encoding);
        write_gguf(&writer, path, "tokenizer.ggml.scores");
        assert_int_equal(tokenizer_open(&tokenizer, path), E_FORMAT);
        assert_non_null(strstr(error_text(), "tokenizer.ggml.scores"));
        write_gguf(&writer, path, "tokenizer.ggml.token_type"); /* then nothing is the unknown piece */
        assert_int_equal(tokenizer_open(&tokenizer, path), E_FORMAT);
    }
    scratch_remove(path);
}

/* As llama.cpp's converter writes them. */
static void gguf_user_pieces_may_have_blanks(void **state) {
    (void)state;
    char path[128];
    scratch_file(path, ".gguf", "");
    for (int kind = WRITER_UNIGRAM; kind <= WRITER_BPE; kind++) {
        struct sentencepiece_writer symbols = small_bpe(true), blanks = small_bpe(true);
        struct tokenizer *tokenizer;
        symbols.model_type = blanks.model_type = kind;
        symbols.keep_spaces = true;
        static const char *const texts[] = {S, "a", S S, "a" S "a"}, *const spelled[] = {S, "a", "  ", "a a"};
        for (size_t i = 0; i < 4; i++) {
            writer_add(&symbols, texts[i], -1.0f - (float)i, i < 2 ? 1 : 4);
            writer_add(&blanks, spelled[i], -1.0f - (float)i, i < 2 ? 1 : 4);
        }
        struct tokenizer *model = open_model(&symbols);
        write_gguf(&blanks, path, NULL);
        if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
        assert_string_equal(ids_text(model, "a    a a"), "259 260 261 261 262");
        assert_string_equal(ids_text(tokenizer, "a    a a"), "259 260 261 261 262");
        check_decoded(tokenizer, (const int32_t[]){259, 260, 261, 261, 262}, 5, "a    a a");
        tokenizer_free(tokenizer);
        tokenizer_free(model);
    }
    scratch_remove(path);
}

static void write_in(const char *folder, const char *name, const void *bytes, size_t count) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void a_folder_says_what_stands_around(void **state) {
    (void)state;
    static const struct {
        const char *settings;
        size_t count;
        int32_t ids[3];
    } row[] = {
        {"{}", 2, {1, 3}},
        {"{\"add_bos_token\": true, \"add_eos_token\": null}", 2, {1, 3}},
        {"{\"add_bos_token\": false}", 1, {3}},
        {"{\"add_eos_token\": true}", 3, {1, 3, 2}},
        {"{\"add_bos_token\": false, \"add_eos_token\": true}", 2, {3, 2}},
        {"{\"add_bos_token\": true, \"bos_token\": \"</s>\"}", 2, {2, 3}},
    };
    struct sentencepiece_writer writer = small_bpe(false);
    char folder[] = "/tmp/test_sentencepiece_XXXXXX", command[300];
    size_t bytes;
    writer_add(&writer, S "a", -1, 1);
    uint8_t *file = writer_print(&writer, &bytes);
    assert_non_null(mkdtemp(folder));
    write_in(folder, "tokenizer.model", file, bytes);
    free(file);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct tokenizer *tokenizer;
        struct encoding encoding = {0};
        write_in(folder, "tokenizer_config.json", row[i].settings, strlen(row[i].settings));
        if (tokenizer_open(&tokenizer, folder) < 0) fail_msg("%s", error_text());
        assert_int_equal(tokenizer_append(tokenizer, "a", 1, true, false, &encoding), 0);
        if (encoding.count != row[i].count) fail_msg("%s: %zu tokens", row[i].settings, encoding.count);
        for (size_t k = 0; k < encoding.count; k++) assert_int_equal(encoding.ids[k], row[i].ids[k]);
        encoding_close(&encoding);
        tokenizer_free(tokenizer);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* ---- hostile files -------------------------------------------------------------------------------- */
static void refusals(void **state) {
    (void)state;
    struct sentencepiece_writer writer = small_bpe(false);
    writer_add(&writer, "a", -1, 1);
    writer.model_type = WRITER_WORD;
    check_refused(&writer, E_UNSUPPORTED, "model_type word");
    writer.model_type = WRITER_CHAR;
    check_refused(&writer, E_UNSUPPORTED, "model_type char");
    writer.model_type = 9;
    check_refused(&writer, E_UNSUPPORTED, "model_type 9");
    writer.model_type = WRITER_UNIGRAM;
    writer_add(&writer, "a", -1, 1);
    check_refused(&writer, E_FORMAT, "are the same");
    writer.pieces[4].text = "";
    check_refused(&writer, E_FORMAT, "byte ");
    writer.pieces[4].text = "b";
    writer.pieces[4].score = NAN;
    check_refused(&writer, E_FORMAT, "finite");
    writer.pieces[4].score = 0;
    writer.pieces[4].type = 7;
    check_refused(&writer, E_UNSUPPORTED, "type 7");
    writer.pieces[4].type = 2;
    check_refused(&writer, E_FORMAT, "unknown");
    writer.pieces[4].type = 6;
    check_refused(&writer, E_FORMAT, "<0x1F>");
    writer.pieces[4].text = "<0x41>";
    check_refused(&writer, E_FORMAT, "byte_fallback is not set");
    writer.byte_fallback = true;
    check_refused(&writer, E_FORMAT, "<0x00>");
    writer.count = 0;
    check_refused(&writer, E_FORMAT, "no pieces");
}

static void truncated_at_every_byte(void **state) {
    (void)state;
    static const char *const rules[][2] = {{"A", "b"}};
    struct sentencepiece_writer writer = small_bpe(false);
    size_t bytes, blob_bytes, accepted = 0;
    uint8_t *blob = writer_charsmap(rules, 1, &blob_bytes);
    writer.charsmap = blob;
    writer.charsmap_bytes = blob_bytes;
    writer_add(&writer, "ab", -1, 1);
    uint8_t *file = writer_print(&writer, &bytes);
    for (size_t cut = 0; cut <= bytes; cut++) {
        struct tokenizer *tokenizer;
        uint8_t *part = malloc(cut + 1); /* its own block: reading beyond the cut is seen by sanitizers */
        memcpy(part, file, cut);
        if (tokenizer_parse_sentencepiece(&tokenizer, part, cut) == 0) accepted++;
        else assert_true(error_text()[0]);
        tokenizer_free(tokenizer);
        free(part);
    }
    assert_int_equal(accepted, 6); /* after each of four pieces, after the trainer, at the end */
    free(file);
    free(blob);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    struct sentencepiece_writer writer = small_bpe(false);
    static const char *const texts[] = {S, "a", "b", "ab", "ba"};
    for (size_t i = 0; i < 5; i++) writer_add(&writer, texts[i], -1, i == 4 ? 4 : i == 3 ? 5 : 1);
    for (int type = WRITER_UNIGRAM; type <= WRITER_BPE; type++) {
        writer.model_type = type;
        size_t bytes;
        uint8_t *file = writer_print(&writer, &bytes);
        long n = 0;
        for (int status = -1; status < 0;) {
            struct tokenizer *tokenizer;
            struct encoding encoding = {.with_offsets = true};
            char *decoded = NULL;
            memory_fail_after(++n);
            status = tokenizer_parse_sentencepiece(&tokenizer, file, bytes);
            if (status == 0) status = tokenizer_append(tokenizer, "ab baab", 7, true, true, &encoding);
            if (status == 0) status = tokenizer_decode(tokenizer, encoding.ids, encoding.count, &decoded);
            memory_fail_after(0);
            assert_true(status == 0 || status == E_MEMORY);
            memory_release(decoded);
            encoding_close(&encoding);
            tokenizer_free(tokenizer);
            assert_true(n < 1000);
        }
        assert_true(n > 10);
        free(file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_is_the_simple_version),
        cmocka_unit_test(unigram_finds_the_best_score),
        cmocka_unit_test(unknown_characters_and_bytes),
        cmocka_unit_test(a_trie_knows_only_its_pieces),
        cmocka_unit_test(ties_go_left_and_users_win),
        cmocka_unit_test(unused_pieces_are_cut_again),
        cmocka_unit_test(rules_and_spaces),
        cmocka_unit_test(places_in_the_text),
        cmocka_unit_test(gguf_says_the_same),
        cmocka_unit_test(gguf_user_pieces_may_have_blanks),
        cmocka_unit_test(a_folder_says_what_stands_around),
        cmocka_unit_test(refusals),
        cmocka_unit_test(truncated_at_every_byte),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
