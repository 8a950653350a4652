/* See metrics.h: ROUGE (Lin 2004) as the package rouge_score computes it.
 *
 * Words are runs of a-z and 0-9 after lower-casing by all of Unicode; stemming touches words longer than three.
 * ROUGE-Lsum takes each line as a sentence and joins, for each line of the reference, the longest common subsequences
 * with all lines of the hypothesis; a word counts at most as often as either side has it.
 */
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metric_words.h"
#include "task/metrics.h"

static bool is_word_byte(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

/* The words of text[0..bytes), which is in lower case; stems take their words' places in it. */
static int words_read(struct word_list *list, struct text_pool *pool, char *text, size_t bytes, bool stem) {
    int status = 0;
    for (size_t at = 0, end; at < bytes; at = end) {
        for (end = at; end < bytes && is_word_byte(text[end]);) end++;
        size_t length = end - at;
        if (length > 3 && stem) length = porter_stem(text + at, length);
        if (length) TRY(word_list_add(list, pool, text + at, length));
        end += end == at;
    }
out:
    return status;
}

static struct rouge_score score_of(double common, size_t hypothesis, size_t reference) {
    struct rouge_score score = {0};
    if (hypothesis) score.precision = common / (double)hypothesis;
    if (reference) score.recall = common / (double)reference;
    if (score.precision + score.recall > 0)
        score.f1 = 2 * score.precision * score.recall / (score.precision + score.recall);
    return score;
}

/* ---- ROUGE-N ------------------------------------------------------------------------------------------ */

/* Common n-grams of order 1 or 2, each at most as often as either side has it. Pairs are numbered in a map. */
static int grams_score(const struct word_list *own, const struct word_list *other, size_t n,
                       struct rouge_score *score) {
    int status = 0;
    struct pair_map map = {0};
    void *block = NULL;
    size_t ours = own->count >= n ? own->count - n + 1 : 0, theirs = other->count >= n ? other->count - n + 1 : 0;
    size_t common = 0;
    TRY(memory_take(&block, theirs, sizeof(uint32_t)));
    uint32_t *left = block, number = 0; /* left [distinct of the reference]: not yet matched */
    for (size_t i = 0; i < theirs; i++) {
        uint32_t found;
        TRY(pair_map_add(&map, other->id[i], n == 2 ? other->id[i + 1] : 0, number, &found));
        number += found == number;
        left[found]++;
    }
    for (size_t i = 0; i < ours; i++) {
        uint32_t found = pair_map_find(&map, own->id[i], n == 2 ? own->id[i + 1] : 0);
        if (found == MAP_NONE || left[found] == 0) continue;
        left[found]--;
        common++;
    }
    *score = score_of((double)common, ours, theirs);
out:
    pair_map_close(&map);
    memory_release(block);
    return status;
}

/* ---- ROUGE-L ------------------------------------------------------------------------------------------ */

/* Words of a text and where its lines begin in them; empty lines are left out. */
struct lines {
    struct word_list words;
    size_t *begin; /* [count + 1] */
    size_t count;
};

static int lines_read(struct lines *lines, struct text_pool *pool, const char *original, bool stem) {
    int status = 0;
    void *block = NULL;
    char *lower = NULL;
    size_t most = 1;
    TRY(text_lower(original, &lower));
    char *text = lower;
    for (const char *c = text; *c; c++) most += *c == '\n';
    TRY(memory_take(&block, most + 1, sizeof(size_t)));
    lines->begin = block;
    while (*text) {
        size_t bytes = strcspn(text, "\n");
        if (bytes) {
            TRY(words_read(&lines->words, pool, text, bytes, stem));
            lines->begin[++lines->count] = lines->words.count;
        }
        text += bytes + (text[bytes] == '\n');
    }
out:
    memory_release(lower);
    return status;
}

static void lines_close(struct lines *lines) {
    word_list_close(&lines->words);
    memory_release(lines->begin);
}

/* The table of longest common subsequences of the first i and j words: (a_count+1, b_count+1). */
static int lcs_table(const uint32_t *a, size_t a_count, const uint32_t *b, size_t b_count, uint32_t **table) {
    int status = 0;
    size_t width = b_count + 1, cells;
    void *block = NULL;
    *table = NULL;
    TRY(size_multiply(a_count + 1, width, &cells));
    TRY(memory_take(&block, cells, sizeof **table));
    uint32_t *t = *table = block;
    for (size_t i = 1; i <= a_count; i++)
        for (size_t j = 1; j <= b_count; j++) {
            uint32_t up = t[(i - 1) * width + j], left = t[i * width + j - 1];
            t[i * width + j] = a[i - 1] == b[j - 1] ? t[(i - 1) * width + j - 1] + 1 : up > left ? up : left;
        }
out:
    return status;
}

static int lcs_score(const struct word_list *own, const struct word_list *other, struct rouge_score *score) {
    int status = 0;
    uint32_t *table = NULL;
    TRY(lcs_table(other->id, other->count, own->id, own->count, &table));
    *score = score_of(table[(other->count + 1) * (own->count + 1) - 1], own->count, other->count);
out:
    memory_release(table);
    return status;
}

/* Mark the words of reference line a that a longest common subsequence with b uses. */
static int lcs_mark(const uint32_t *a, size_t a_count, const uint32_t *b, size_t b_count, uint8_t *used) {
    int status = 0;
    uint32_t *t = NULL;
    size_t i = a_count, j = b_count, width = b_count + 1;
    TRY(lcs_table(a, a_count, b, b_count, &t));
    while (i > 0 && j > 0) {
        if (a[i - 1] == b[j - 1]) {
            used[i - 1] = 1;
            i--;
            j--;
        } else if (t[i * width + j - 1] > t[(i - 1) * width + j]) {
            j--;
        } else {
            i--;
        }
    }
out:
    memory_release(t);
    return status;
}

static int summary_score(const struct lines *own, const struct lines *other, size_t pool_count,
                         struct rouge_score *score) {
    int status = 0;
    void *used_block = NULL, *own_block = NULL, *other_block = NULL;
    size_t hits = 0;
    TRY(memory_take(&used_block, other->words.count, 1));
    TRY(memory_take(&own_block, pool_count, sizeof(uint32_t)));
    TRY(memory_take(&other_block, pool_count, sizeof(uint32_t)));
    uint8_t *used = used_block;
    uint32_t *own_left = own_block, *other_left = other_block;
    for (size_t i = 0; i < own->words.count; i++) own_left[own->words.id[i]]++;
    for (size_t i = 0; i < other->words.count; i++) other_left[other->words.id[i]]++;
    for (size_t r = 0; r < other->count; r++) {
        size_t begin = other->begin[r], length = other->begin[r + 1] - begin;
        for (size_t c = 0; c < own->count; c++)
            TRY(lcs_mark(other->words.id + begin, length, own->words.id + own->begin[c],
                         own->begin[c + 1] - own->begin[c], used + begin));
        for (size_t i = begin; i < begin + length; i++) {
            uint32_t id = other->words.id[i];
            if (!used[i] || !own_left[id] || !other_left[id]) continue;
            own_left[id]--;
            other_left[id]--;
            hits++;
        }
    }
    *score = score_of((double)hits, own->words.count, other->words.count);
out:
    memory_release(used_block);
    memory_release(own_block);
    memory_release(other_block);
    return status;
}

int metric_rouge(const char *hypothesis, const char *const *references, size_t reference_count, bool stem,
                 struct rouge_score *scores) {
    int status = 0;
    struct text_pool pool = {0};
    struct lines own = {0}, other = {0};
    memset(scores, 0, ROUGE_KINDS * sizeof *scores);
    TRY(lines_read(&own, &pool, hypothesis, stem));
    for (size_t r = 0; r < reference_count; r++) {
        struct rouge_score found[ROUGE_KINDS];
        lines_close(&other);
        other = (struct lines){0};
        TRY(lines_read(&other, &pool, references[r], stem));
        TRY(grams_score(&own.words, &other.words, 1, &found[ROUGE_1]));
        TRY(grams_score(&own.words, &other.words, 2, &found[ROUGE_2]));
        TRY(lcs_score(&own.words, &other.words, &found[ROUGE_L]));
        TRY(summary_score(&own, &other, pool.count, &found[ROUGE_LSUM]));
        for (size_t k = 0; k < ROUGE_KINDS; k++)
            if (found[k].f1 > scores[k].f1) scores[k] = found[k];
    }
out:
    lines_close(&own);
    lines_close(&other);
    text_pool_close(&pool);
    return status;
}
