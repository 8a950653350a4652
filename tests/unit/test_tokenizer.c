/* Byte-level BPE: split rules, training against a naive trainer, encoding against naive merging, round
 * trips, the file format, and hostile tokenizer.json texts.
 */
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
#include "base/random.h"
#include "base/threads.h"
#include "gguf_writer.h"
#include "scratch_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"

static const char *const corpus[] = {
    "the state of being hungry; 'the cat's hungry'",
    "The THE the hungriest cats; they'll eat 2005 rats, don't they?",
    "aaaa aaa aaaaa aaaaaaa banana bananas abab ababab bcbcbc",
    "the cattle (hungry) ate the oats -- 20 % of them",
};
enum { TEXTS = sizeof corpus / sizeof corpus[0] };

/* ---- splitting ---- */
static void text_is_split_as_gpt2_does(void **state) {
    (void)state;
    static const struct {
        const char *text, *words; /* separated by | */
    } row[] = {
        {"a cat", "a| cat"},
        {"it's we're I'll I'm don't he'd we've", "it|'s| we|'re| I|'ll| I|'m| don|'t| he|'d| we|'ve"},
        {"it'S 'x'", "it|'|S| '|x|'"},
        {"  two  blanks ", " | two| | blanks| "},
        {"a\n\nb\t c", "a|\n|\n|b|\t| c"},
        {"x=12;y", "x|=|12|;|y"},
        {" 12a!? .", " 12|a|!?| ."},
        {"caf\xc3\xa9s", "caf\xc3\xa9s"},
        {" ", " "},
        {"'", "'"},
        {"'l", "'|l"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char words[200] = "";
        const char *text = row[i].text;
        for (size_t left = strlen(text); left;) {
            size_t length = word_length((const uint8_t *)text, left, WORD_GPT2, false);
            assert_in_range(length, 1, left);
            if (*words) strcat(words, "|");
            strncat(words, text, length);
            text += length;
            left -= length;
        }
        assert_string_equal(words, row[i].words);
    }
    assert_int_equal(word_length((const uint8_t *)"'S", 2, WORD_GPT2, true), 2);
    assert_int_equal(word_length((const uint8_t *)"'lL", 3, WORD_GPT2, true), 3);
}

/* ---- training against a naive trainer ---- */
enum { SYMBOLS_MAX = 4000 };
struct naive {
    int32_t id[SYMBOLS_MAX]; /* all words of the corpus, -1 behind each */
    size_t count;
    char token[1000][64]; /* by id, from 0 */
    size_t tokens;
};

static void naive_open(struct naive *naive, const char *const *texts, size_t count) {
    memset(naive, 0, sizeof *naive);
    naive->tokens = SPECIAL_COUNT + 256;
    for (int byte = 0; byte < 256; byte++) naive->token[SPECIAL_COUNT + byte][0] = (char)byte;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *text = (const uint8_t *)texts[i];
        for (size_t left = strlen(texts[i]); left;) {
            size_t length = word_length(text, left, WORD_GPT2, true);
            for (size_t k = 0; k < length; k++) naive->id[naive->count++] = SPECIAL_COUNT + byte_lower(text[k]);
            naive->id[naive->count++] = -1;
            text += length;
            left -= length;
        }
    }
}

static bool naive_known(const struct naive *naive, const char *token) {
    for (size_t i = 0; i < naive->tokens; i++)
        if (strcmp(naive->token[i], token) == 0) return true;
    return false;
}

/* Counts every pair anew; joins the most frequent, lowest ids first. Returns false when none is left. */
static bool naive_merge(struct naive *naive) {
    static int counts[1000][1000];
    int best = 1, left = -1, right = -1;
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i + 1 < naive->count; i++)
        if (naive->id[i] >= 0 && naive->id[i + 1] >= 0) counts[naive->id[i]][naive->id[i + 1]]++;
    for (size_t a = 0; a < naive->tokens; a++)
        for (size_t b = 0; b < naive->tokens; b++) {
            char joined[160];
            if (counts[a][b] <= best) continue;
            snprintf(joined, sizeof joined, "%s%s", naive->token[a], naive->token[b]);
            if (naive_known(naive, joined)) continue;
            best = counts[a][b];
            left = (int)a;
            right = (int)b;
        }
    if (left < 0) return false;
    char joined[64];
    snprintf(joined, sizeof joined, "%.30s%.30s", naive->token[left], naive->token[right]);
    strcpy(naive->token[naive->tokens], joined);
    size_t used = 0;
    for (size_t i = 0; i < naive->count; i++) {
        bool join = naive->id[i] == left && i + 1 < naive->count && naive->id[i + 1] == right;
        naive->id[used++] = join ? (int32_t)naive->tokens : naive->id[i];
        i += join;
    }
    naive->count = used;
    naive->tokens++;
    return true;
}

static void training_equals_counting_anew(void **state) {
    (void)state;
    static struct naive naive;
    struct tokenizer *tokenizer;
    naive_open(&naive, corpus, TEXTS);
    while (naive.tokens < 360 && naive_merge(&naive)) continue;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 360, true), 0);
    assert_int_equal(tokenizer_vocabulary(tokenizer), naive.tokens);
    assert_in_range(naive.tokens, 285, 360);
    for (size_t id = SPECIAL_COUNT + 256; id < naive.tokens; id++) {
        char *text;
        assert_int_equal(tokenizer_decode(tokenizer, &(int32_t){(int32_t)id}, 1, &text), 0);
        assert_string_equal(text, naive.token[id]);
        memory_release(text);
    }
    /* what training left of the corpus is what encoding gives */
    size_t at = 0;
    for (size_t i = 0; i < TEXTS; i++) {
        int32_t ids[200];
        size_t count;
        assert_int_equal(tokenizer_encode(tokenizer, corpus[i], strlen(corpus[i]), ids, 200, &count), 0);
        for (size_t k = 0; k < count; k++) {
            while (naive.id[at] < 0) at++;
            assert_int_equal(ids[k], naive.id[at++]);
        }
    }
    tokenizer_free(tokenizer);
}

static void random_corpora_train_the_same(void **state) {
    (void)state;
    static struct naive naive;
    for (uint64_t seed = 0; seed < 8; seed++) {
        char text[600];
        const char *texts[1] = {text};
        struct random random;
        random_open(&random, seed, 0);
        for (size_t i = 0; i < sizeof text - 1; i++) text[i] = "aaab bc"[random_below(&random, seed % 2 ? 7 : 4)];
        text[sizeof text - 1] = 0;
        struct tokenizer *tokenizer;
        naive_open(&naive, texts, 1);
        while (naive.tokens < 276 && naive_merge(&naive)) continue;
        assert_int_equal(tokenizer_train_bpe(&tokenizer, texts, 1, 276, false), 0);
        assert_int_equal(tokenizer_vocabulary(tokenizer), naive.tokens);
        for (size_t id = SPECIAL_COUNT + 256; id < naive.tokens; id++) {
            char *token;
            assert_int_equal(tokenizer_decode(tokenizer, &(int32_t){(int32_t)id}, 1, &token), 0);
            assert_string_equal(token, naive.token[id]);
            memory_release(token);
        }
        tokenizer_free(tokenizer);
    }
}

static void training_is_deterministic_and_ordered(void **state) {
    (void)state;
    struct tokenizer *first, *second;
    char *a, *b;
    size_t a_bytes, b_bytes;
    assert_int_equal(tokenizer_train_bpe(&first, corpus, TEXTS, 330, false), 0);
    assert_int_equal(tokenizer_train_bpe(&second, corpus, TEXTS, 330, false), 0);
    assert_int_equal(tokenizer_print(first, &a, &a_bytes), 0);
    assert_int_equal(tokenizer_print(second, &b, &b_bytes), 0);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a, b, a_bytes);
    struct tokenizer_special special = tokenizer_special(first);
    assert_int_equal(special.pad, 0);
    assert_int_equal(special.cls, 1);
    assert_int_equal(special.sep, 2);
    assert_int_equal(special.mask, 3);
    assert_int_equal(special.unknown, 4);
    memory_release(a);
    memory_release(b);
    tokenizer_free(first);
    tokenizer_free(second);
    assert_int_equal(tokenizer_train_bpe(&first, corpus, TEXTS, 260, false), E_ARGUMENT);
    assert_string_equal(error_text(), "vocabulary must be a whole number in 261..1048576 (got 260)");
    assert_null(first);
    assert_int_equal(tokenizer_train_bpe(&first, NULL, 0, 5000, false), 0); /* nothing to learn: bytes only */
    assert_int_equal(tokenizer_vocabulary(first), 261);
    tokenizer_free(first);
}

/* ---- encoding ---- */
static size_t naive_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids) {
    for (size_t i = 0; i < bytes; i++) ids[i] = (int32_t)tokenizer->first[(uint8_t)text[i]];
    for (;;) {
        uint32_t best = MAP_NONE;
        size_t at = 0;
        for (size_t i = 0; i + 1 < bytes; i++) {
            uint32_t rank = pair_map_find(&tokenizer->ranks, (uint32_t)ids[i], (uint32_t)ids[i + 1]);
            if (rank < best) {
                best = rank;
                at = i;
            }
        }
        if (best == MAP_NONE) return bytes;
        ids[at] = (int32_t)tokenizer->merges[best].result;
        memmove(ids + at + 1, ids + at + 2, (bytes - at - 2) * sizeof *ids);
        bytes--;
    }
}

static void words_of_any_length_merge_by_rank(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    struct random random;
    char text[400];
    int32_t expected[400], ids[400];
    size_t count;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 340, false), 0);
    random_open(&random, 11, 0);
    for (int trial = 0; trial < 300; trial++) {
        size_t length = 1 + (size_t)random_below(&random, trial % 2 ? 70 : 300);
        for (size_t i = 0; i < length; i++) text[i] = "abnthe"[random_below(&random, 6)];
        size_t left = naive_encode(tokenizer, text, length, expected);
        assert_int_equal(tokenizer_encode(tokenizer, text, length, ids, 400, &count), 0);
        assert_int_equal(count, left);
        assert_memory_equal(ids, expected, left * sizeof *ids);
    }
    tokenizer_free(tokenizer);
}

static void every_byte_survives_the_round_trip(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    char text[1500], *back;
    int32_t ids[1500];
    size_t count;
    struct random random;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 340, false), 0);
    random_open(&random, 12, 0);
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i < 256 ? i : random_below(&random, 256));
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text, ids, 1500, &count), 0);
    assert_int_equal(tokenizer_decode(tokenizer, ids, count, &back), 0);
    assert_memory_equal(back, text, sizeof text);
    assert_int_equal(back[sizeof text], 0);
    memory_release(back);
    tokenizer_free(tokenizer);
}

static void capacity_ids_and_case_are_respected(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    size_t full, count;
    char *text;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 300, true), 0);
    assert_int_equal(tokenizer_encode(tokenizer, "XYZ qqq", 7, ids, 8, &full), 0);
    assert_int_equal(tokenizer_decode(tokenizer, ids, full, &text), 0);
    assert_string_equal(text, "xyz qqq");
    memory_release(text);
    memset(ids, 0xff, sizeof ids);
    assert_int_equal(tokenizer_encode(tokenizer, "XYZ qqq", 7, ids, 2, &count), 0);
    assert_int_equal(count, full);
    assert_int_equal(ids[2], -1);
    assert_int_equal(tokenizer_encode(tokenizer, "", 0, NULL, 0, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(tokenizer_decode(tokenizer, (int32_t[]){1, SPECIAL_COUNT + 'a', 2, 0}, 4, &text), 0);
    assert_string_equal(text, "a");
    memory_release(text);
    assert_int_equal(tokenizer_decode(tokenizer, &(int32_t){300}, 1, &text), E_ARGUMENT);
    assert_int_equal(tokenizer_decode(tokenizer, &(int32_t){-1}, 1, &text), E_ARGUMENT);
    assert_null(text);
    tokenizer_free(tokenizer);
    tokenizer_free(NULL);
}

/* A word that was met before becomes what it became at first, whether its token is reached by merges ("ab"), is not
 * ("abc"), has a byte that no token stands for ("ad"), or is an added one in literal text ("xy"). */
static void words_met_again_stay_the_same(void **state) {
    static const struct {
        const char *normalizer, *ignore_merges, *text;
        int32_t ids[8];
        size_t count;
    } cases[] = {
        {"null", "false", "abc\nabc\nabc", {3, 2, 6, 3, 2, 6, 3, 2}, 8},
        {"null", "true", "abc\nabc\nabc", {5, 6, 5, 6, 5}, 5},
        {"null", "false", "ad\nad\nad", {0, 6, 0, 6, 0}, 5},
        {"null", "false", "ab\nab\nbc\nab", {3, 6, 3, 6, 7, 6, 3}, 7},
        {"{\"type\":\"Lowercase\"}", "true", "XY\nABC\nxy", {9, 10, 6, 5, 6, 9, 10}, 7},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *tokenizer;
        char json[1000];
        int32_t ids[8];
        size_t count;
        snprintf(json, sizeof json,
                 "{\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                 "\"added_tokens\":[{\"id\":8,\"content\":\"xy\",\"special\":false}],\"model\":{"
                 "\"type\":\"BPE\",\"ignore_merges\":%s,\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":5,"
                 "\"ad\":4,\"\u010a\":6,\"bc\":7,\"xy\":8,\"x\":9,\"y\":10},\"merges\":[\"a b\",\"b c\"]}}",
                 cases[i].normalizer, cases[i].ignore_merges);
        if (tokenizer_parse(&tokenizer, json, strlen(json)) < 0) fail_msg("%s", error_text());
        for (int pass = 0; pass < 2; pass++) {
            assert_int_equal(tokenizer_encode(tokenizer, cases[i].text, strlen(cases[i].text), ids, 8, &count), 0);
            if (count != cases[i].count) fail_msg("%s: %zu tokens", cases[i].text, count);
            assert_memory_equal(ids, cases[i].ids, count * sizeof *ids);
        }
        tokenizer_free(tokenizer);
    }
}

#define SHARED_TEXTS 200

struct sharing {
    const struct tokenizer *tokenizer;
    int32_t ids[SHARED_TEXTS][400];
    size_t count[SHARED_TEXTS];
};

static void encode_corpus(void *context, size_t begin, size_t end, int worker) {
    struct sharing *sharing = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const char *text = corpus[i % TEXTS];
        sharing->count[i] = SIZE_MAX;
        if (tokenizer_encode(sharing->tokenizer, text, strlen(text), sharing->ids[i], 400, &sharing->count[i]) < 0)
            sharing->count[i] = SIZE_MAX;
    }
}

/* Threads that meet the same words for the first time at the same time agree (ThreadSanitizer watches, too). */
static void threads_share_a_tokenizer(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 340, false), 0);
    static struct sharing sharing, alone;
    sharing.tokenizer = alone.tokenizer = tokenizer;
    int before = threads_get();
    threads_set(4);
    parallel_for(SHARED_TEXTS, 1, encode_corpus, &sharing);
    threads_set(before);
    encode_corpus(&alone, 0, SHARED_TEXTS, 0);
    for (size_t i = 0; i < SHARED_TEXTS; i++) {
        assert_int_equal(sharing.count[i], alone.count[i]);
        assert_true(alone.count[i] > 0 && alone.count[i] <= 400);
        assert_memory_equal(sharing.ids[i], alone.ids[i], alone.count[i] * sizeof(int32_t));
    }
    tokenizer_free(tokenizer);
}

/* ---- files ---- */
static void a_saved_tokenizer_loads_as_itself(void **state) {
    (void)state;
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    for (int lower = 0; lower < 2; lower++) {
        struct tokenizer *tokenizer, *loaded;
        char *before, *after;
        size_t before_bytes, after_bytes, a, b;
        int32_t ids[200], again[200];
        assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 330, lower), 0);
        assert_int_equal(tokenizer_save(tokenizer, path), 0);
        assert_int_equal(tokenizer_load(&loaded, path), 0);
        assert_int_equal(tokenizer_print(tokenizer, &before, &before_bytes), 0);
        assert_int_equal(tokenizer_print(loaded, &after, &after_bytes), 0);
        assert_int_equal(before_bytes, after_bytes);
        assert_memory_equal(before, after, before_bytes);
        assert_int_equal(tokenizer_encode(tokenizer, corpus[1], strlen(corpus[1]), ids, 200, &a), 0);
        assert_int_equal(tokenizer_encode(loaded, corpus[1], strlen(corpus[1]), again, 200, &b), 0);
        assert_int_equal(a, b);
        assert_memory_equal(ids, again, a * sizeof *ids);
        memory_release(before);
        memory_release(after);
        tokenizer_free(tokenizer);
        tokenizer_free(loaded);
    }
    unlink(path);
    struct tokenizer *missing;
    assert_int_equal(tokenizer_load(&missing, path), E_IO);
    assert_null(missing);
}

/* `text` with the first `from` replaced by `to`. */
static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) fail_msg("'%s' is not in the file", from);
    char *copy = malloc(strlen(text) + strlen(to) + 1);
    size_t before = (size_t)(at - text);
    memcpy(copy, text, before);
    strcpy(copy + before, to);
    strcat(copy, at + strlen(from));
    return copy;
}

static void hostile_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *message;
        int status;
    } row[] = {
        {"{\"version\"", "[\"version\"", "byte 10: expected ',' or ']'", E_FORMAT},
        {"\"model\":", "\"modal\":", "needs an object with a member 'model'", E_FORMAT},
        {"\"type\":\"BPE\"", "\"type\":\"WordLevel\"", "model.type must be", E_UNSUPPORTED},
        {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "normalizer of a WordPiece model", E_UNSUPPORTED},
        {"\"dropout\":null", "\"dropout\":0.1", "model.dropout is not supported", E_UNSUPPORTED},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", "pre_tokenizer must be Metaspace", E_UNSUPPORTED},
        {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "model.end_of_word_suffix is not supported",
         E_UNSUPPORTED},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}",
         "normalizer must be null, \"NFC\", \"Lowercase\" or a Sequence", E_UNSUPPORTED},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"", "\"pre_tokenizer\":{\"type\":\"Whitespace\"",
         "pre_tokenizer must be of type \"ByteLevel\"", E_UNSUPPORTED},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":true", "pre_tokenizer.add_prefix_space is not supported",
         E_UNSUPPORTED},
        {"\"use_regex\":true", "\"use_regex\":false", "pre_tokenizer.use_regex must be true", E_UNSUPPORTED},
        {"\"single_word\":false", "\"single_word\":true", "single_word of '[PAD]' is not supported", E_UNSUPPORTED},
        {"\"post_processor\":null", "\"post_processor\":{\"type\":\"X\"}", "post_processor of this type",
         E_UNSUPPORTED},
        {"\"vocab\":{", "\"vocab\":[],\"x\":{", "model.vocab must be an object of ids", E_FORMAT},
        {"\"a\":102", "\"a\":101", "id 101", E_FORMAT},
        {"\"a\":102", "\"a\":-1", "an id in model.vocab must be a whole number", E_FORMAT},
        {"\"a\":102", "\"a\":\"102\"", "an id in model.vocab must be a whole number", E_FORMAT},
        {"\"a\":102", "\"a\":4000000000", "id 4000000000 of 'a' is too large: ids must have no gaps", E_FORMAT},
        {"\"a\":102,", "", "no token has id 102: ids must have no gaps", E_FORMAT},
        {"\"a\":102", "\"b\":102", "the name 'b' appears twice", E_FORMAT},
        {"\"a\":102", "\"\":102", "the token with id 102 is empty", E_FORMAT},
        {"\"a\":102", "\"\\u20ac\":102", "has a character that stands for no byte", E_FORMAT},
        {"\"a\":102", "\"\\u0144\":102", "has a character that stands for no byte", E_FORMAT},
        {"\"id\":3", "\"id\":2", "added_tokens: id 2 of '[MASK]' is used twice", E_FORMAT},
        {"\"id\":3", "\"id\":102", "added_tokens: id 102 of '[MASK]' is used twice", E_FORMAT},
        {"\"id\":3", "\"id\":99999", "added_tokens: id 99999 of '[MASK]' is too large", E_FORMAT},
        {"\"id\":3,", "", "id in added_tokens must be a whole number", E_FORMAT},
        {"\"content\":\"[CLS]\"", "\"content\":7", "content in added_tokens must be a string", E_FORMAT},
        {"\"added_tokens\":[", "\"added_tokens\":7,\"x\":[", "added_tokens must be an array", E_FORMAT},
        {"\"merges\":[", "\"merges\":{},\"x\":[", "model.merges must be an array", E_FORMAT},
        {"\"merges\":[", "\"merges\":[7,", "merge 0 must be \"left right\" or a pair", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\"ab\",", "merge 0 must be \"left right\" or a pair", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\" a\",", "merge 0 must be \"left right\" or a pair", E_FORMAT},
        {"\"merges\":[", "\"merges\":[[\"a\"],", "merge 0 must be \"left right\" or a pair", E_FORMAT},
        {"\"merges\":[", "\"merges\":[[\"a\",1],", "merge 0 must be \"left right\" or a pair", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\"a b c\",", "merge 0: its right side is not in model.vocab", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\"zz a\",", "merge 0: its left side is not in model.vocab", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\"q z\",", "merge 0: what it makes is not in model.vocab", E_FORMAT},
        {"\"merges\":[", "\"merges\":[\"[PAD] a\",", "merge 0: its left side is not in model.vocab", E_FORMAT},
    };
    struct tokenizer *tokenizer, *bad;
    char *json;
    size_t bytes;
    assert_int_equal(tokenizer_train_bpe(&tokenizer, corpus, TEXTS, 290, false), 0);
    assert_int_equal(tokenizer_print(tokenizer, &json, &bytes), 0);
    tokenizer_free(tokenizer);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char *text = replaced(json, row[i].from, row[i].to);
        int status = tokenizer_parse(&bad, text, strlen(text));
        if (status != row[i].status || !strstr(error_text(), row[i].message))
            fail_msg("%s -> %s: %d %s", row[i].from, row[i].to, status, error_text());
        assert_null(bad);
        free(text);
    }
    /* a merge listed twice, and merges written as pairs */
    char *merges = strstr(json, "\"merges\":[") + strlen("\"merges\":[\n"), line[64], again[160];
    snprintf(line, sizeof line, "%.*s", (int)strcspn(merges, "\n"), merges);
    snprintf(again, sizeof again, "\"merges\":[%s", line);
    char *twice = replaced(json, "\"merges\":[", again);
    assert_int_equal(tokenizer_parse(&bad, twice, strlen(twice)), E_FORMAT);
    assert_string_equal(error_text(), "merge 1 repeats merge 0");
    free(twice);
    char *blank = strchr(line, ' ');
    snprintf(again, sizeof again, "\"merges\":[[%.*s\",\"%.*s],", (int)(blank - line), line, (int)strlen(blank + 1) - 1,
             blank + 1);
    char *without = replaced(json, line, "");
    char *pairs = replaced(without, "\"merges\":[", again);
    char *back;
    assert_int_equal(tokenizer_parse(&tokenizer, pairs, strlen(pairs)), 0);
    assert_int_equal(tokenizer_print(tokenizer, &back, &bytes), 0);
    assert_string_equal(back, json);
    memory_release(back);
    tokenizer_free(tokenizer);
    free(without);
    free(pairs);
    for (size_t cut = 0; cut + 2 < strlen(json); cut += 1 + cut / 50) /* +2: the last byte is a newline */
        assert_int_not_equal(tokenizer_parse(&bad, json, cut), 0);
    memory_release(json);
}

/* A GGUF file of three bytes, their one merge and a begin token, whose id it says when `named`; add_bos -1: not said.
 */
static void write_gguf(const char *path, const char *pattern, int add_bos, bool named) {
    static const char *const tokens[] = {"a", "b", "ab", "<|begin|>"};
    struct gguf_writer writer = {0};
    put_header(&writer, 3, 0, (uint64_t)5 + named + (add_bos >= 0));
    put_text(&writer, "tokenizer.ggml.model", "gpt2");
    put_text(&writer, "tokenizer.ggml.pre", pattern);
    if (named) put_u32(&writer, "tokenizer.ggml.bos_token_id", 3);
    put_string(&writer, "tokenizer.ggml.tokens");
    put_whole(&writer, GGUF_ARRAY, 4), put_whole(&writer, GGUF_STRING, 4), put_whole(&writer, 4, 8);
    for (size_t i = 0; i < 4; i++) put_string(&writer, tokens[i]);
    put_string(&writer, "tokenizer.ggml.token_type");
    put_whole(&writer, GGUF_ARRAY, 4), put_whole(&writer, GGUF_I32, 4), put_whole(&writer, 4, 8);
    for (size_t i = 0; i < 4; i++) put_whole(&writer, i == 3 ? 3 : 1, 4);
    put_string(&writer, "tokenizer.ggml.merges");
    put_whole(&writer, GGUF_ARRAY, 4), put_whole(&writer, GGUF_STRING, 4), put_whole(&writer, 1, 8);
    put_string(&writer, "a b");
    if (add_bos >= 0) {
        put_string(&writer, "tokenizer.ggml.add_bos_token");
        put_whole(&writer, GGUF_BOOL, 4), put_whole(&writer, (uint64_t)add_bos, 1);
    }
    put_padding(&writer, 32);
    write_whole_file(path, writer.bytes, writer.count);
    gguf_writer_close(&writer);
}

static void gguf_texts_begin_as_llama_cpp_has_them(void **state) {
    (void)state;
    static const struct {
        const char *pattern;
        bool usual; /* where the file does not say */
    } row[] = {{"gpt-2", false}, {"smollm", false}, {"qwen2", false}, {"llama-bpe", true}, {"llama3", true}};
    char path[128];
    scratch_file(path, ".gguf", "");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int add_bos = -1; add_bos < 2; add_bos++) {
            struct tokenizer *tokenizer;
            struct encoding encoding = {0};
            bool begins = add_bos < 0 ? row[i].usual : add_bos;
            write_gguf(path, row[i].pattern, add_bos, true);
            if (tokenizer_open(&tokenizer, path) < 0) fail_msg("%s", error_text());
            assert_int_equal(tokenizer_append(tokenizer, "ab", 2, true, false, &encoding), 0);
            if (encoding.count != (size_t)1 + begins || encoding.ids[0] != (begins ? 3 : 2))
                fail_msg("%s, %d: %zu tokens", row[i].pattern, add_bos, encoding.count);
            tokenizer_free(tokenizer);
            write_gguf(path, row[i].pattern, add_bos, false);
            if (begins) {
                assert_int_equal(tokenizer_open(&tokenizer, path), E_FORMAT);
                assert_non_null(strstr(error_text(), "tokenizer.ggml.bos_token_id is missing"));
            } else {
                encoding.count = 0;
                assert_int_equal(tokenizer_open(&tokenizer, path), 0);
                assert_int_equal(tokenizer_append(tokenizer, "ab", 2, true, false, &encoding), 0);
                assert_int_equal(encoding.count, 1);
                tokenizer_free(tokenizer);
            }
            encoding_close(&encoding);
        }
    scratch_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_split_as_gpt2_does),          cmocka_unit_test(training_equals_counting_anew),
        cmocka_unit_test(random_corpora_train_the_same),       cmocka_unit_test(training_is_deterministic_and_ordered),
        cmocka_unit_test(words_of_any_length_merge_by_rank),   cmocka_unit_test(every_byte_survives_the_round_trip),
        cmocka_unit_test(capacity_ids_and_case_are_respected), cmocka_unit_test(a_saved_tokenizer_loads_as_itself),
        cmocka_unit_test(words_met_again_stay_the_same),       cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(hostile_files_are_refused),           cmocka_unit_test(gguf_texts_begin_as_llama_cpp_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
