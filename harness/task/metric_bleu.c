/* See metrics.h: BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018).
 *
 * Tokens are those of mteval-v13a; n-grams of a hypothesis count at most as often as in the reference that has most of
 * them; an order without a match gets 1/2, 1/4, … of one match (Chen and Cherry 2014, method 3, "exp").
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metric_words.h"
#include "task/metrics.h"

/* ---- tokens ------------------------------------------------------------------------------------------- */

struct buffer {
    char *text;
    size_t used;
};

static void put(struct buffer *out, char c) { out->text[out->used++] = c; }

static bool is_mark(char c) {
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
           (c >= ':' && c <= '@') || c == '/';
}
static bool is_stop(char c) { return c == '.' || c == ','; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Put `with`, which is no longer, in the place of every `what`. */
static void text_replace(char *text, const char *what, const char *with) {
    size_t length = strlen(what), room = strlen(with);
    char *to = text;
    for (const char *found; (found = strstr(text, what)); text += length) {
        size_t before = (size_t)(found - text);
        memmove(to, text, before);
        memcpy(to + before, with, room);
        to += before + room;
        text += before;
    }
    memmove(to, text, strlen(text) + 1);
}

/* One replacement after the other, so that what one leaves may make the next: &amp;lt; ends as <. */
static void text_clean(char *text) {
    static const char *const steps[][2] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                                           {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) text_replace(text, steps[i][0], steps[i][1]);
}

/* The script's four substitutions, one pass each: marks; a stop not after a digit; a stop not before one; a dash
 * after a digit. A match consumes both its characters, as a regular expression does. */
static void pass_marks(const char *in, struct buffer *out) {
    for (; *in; in++) {
        if (is_mark(*in)) put(out, ' ');
        put(out, *in);
        if (is_mark(*in)) put(out, ' ');
    }
}
static void pass_stop_after(const char *in, struct buffer *out) {
    for (; *in; in++) {
        put(out, *in);
        if (is_digit(*in) || !is_stop(in[1])) continue;
        put(out, ' ');
        put(out, *++in);
        put(out, ' ');
    }
}
static void pass_stop_before(const char *in, struct buffer *out) {
    for (; *in; in++) {
        bool match = is_stop(*in) && in[1] && !is_digit(in[1]);
        if (match) put(out, ' ');
        put(out, *in);
        if (!match) continue;
        put(out, ' ');
        put(out, *++in);
    }
}
static void pass_dash(const char *in, struct buffer *out) {
    for (; *in; in++) {
        put(out, *in);
        if (!is_digit(*in) || in[1] != '-') continue;
        put(out, ' ');
        put(out, *++in);
        put(out, ' ');
    }
}

static size_t length_trimmed(const char *text) {
    size_t kept = 0;
    for (size_t at = 0; text[at];) {
        size_t blank = blank_bytes(text + at);
        at += blank ? blank : 1;
        if (!blank) kept = at;
    }
    return kept;
}

/* A copy: lower-cased when asked, then without white space at its end, then cleaned. */
static int text_prepare(const char *text, bool lower, char **prepared) {
    int status = 0;
    TRY(lower ? text_lower(text, prepared) : memory_string(prepared, text));
    (*prepared)[length_trimmed(*prepared)] = 0;
    text_clean(*prepared);
out:
    return status;
}

int metric_bleu_tokens(const char *text, bool lower, char **tokens) {
    static void (*const passes[])(const char *, struct buffer *) = {pass_marks, pass_stop_after, pass_stop_before,
                                                                    pass_dash};
    int status = 0;
    char *prepared = NULL;
    void *a = NULL, *b = NULL;
    size_t room;
    *tokens = NULL;
    TRY(text_prepare(text, lower, &prepared));
    /* Marks grow to 3 bytes; what a later pass puts around a character stays below 12 bytes for each of the text. */
    TRY(size_multiply(strlen(prepared) + 8, 12, &room));
    TRY(memory_take(&a, room, 1));
    TRY(memory_take(&b, room, 1));
    struct buffer from = {.text = a}, to = {.text = b};
    snprintf(from.text, room, " %s ", prepared);
    for (size_t p = 0; p < sizeof passes / sizeof *passes; p++) {
        to.used = 0;
        passes[p](from.text, &to);
        to.text[to.used] = 0;
        struct buffer other = from;
        from = to;
        to = other;
    }
    to.used = 0;
    bool gap = false;
    for (const char *at = from.text; *at;) {
        size_t blank = blank_bytes(at);
        if (blank) gap = true;
        else {
            if (gap && to.used) put(&to, ' ');
            gap = false;
            put(&to, *at);
        }
        at += blank ? blank : 1;
    }
    to.text[to.used] = 0;
    *tokens = to.text;
    if (to.text == a) a = NULL;
    else b = NULL;
out:
    memory_release(prepared);
    memory_release(a);
    memory_release(b);
    return status;
}

/* ---- n-grams ------------------------------------------------------------------------------------------ */

struct gram {
    uint32_t id[BLEU_ORDER]; /* unused places hold 0 */
};

static int gram_compare(const void *a, const void *b) { return memcmp(a, b, sizeof(struct gram)); }

/* All n-grams of a list, sorted. grams: room for words->count. */
static size_t grams_sorted(const struct word_list *words, size_t n, struct gram *grams) {
    if (words->count < n) return 0;
    size_t count = words->count - n + 1;
    for (size_t i = 0; i < count; i++) {
        grams[i] = (struct gram){0};
        memcpy(grams[i].id, words->id + i, n * sizeof(uint32_t));
    }
    qsort(grams, count, sizeof *grams, gram_compare);
    return count;
}

/* How often grams[at] occurs from there on. */
static size_t run_length(const struct gram *grams, size_t count, size_t at) {
    size_t end = at;
    while (end < count && gram_compare(&grams[end], &grams[at]) == 0) end++;
    return end - at;
}

/* Clipped matches of order n: for each distinct n-gram the smaller of its count and its largest count in a reference.
 * best [hypothesis n-grams], at the first place of each run: that largest count. */
static int matches_count(const struct word_list *words, size_t list_count, size_t n, uint64_t *matched,
                         uint64_t *total) {
    int status = 0;
    void *own_block = NULL, *best_block = NULL, *other_block = NULL;
    TRY(memory_take(&own_block, words[0].count, sizeof(struct gram)));
    TRY(memory_take(&best_block, words[0].count, sizeof(size_t)));
    struct gram *own = own_block;
    size_t *best = best_block, count = grams_sorted(&words[0], n, own);
    for (size_t r = 1; r < list_count; r++) {
        memory_release(other_block);
        other_block = NULL;
        TRY(memory_take(&other_block, words[r].count, sizeof(struct gram)));
        struct gram *other = other_block;
        size_t others = grams_sorted(&words[r], n, other);
        for (size_t i = 0, j = 0; i < count && j < others;) {
            int order = gram_compare(&own[i], &other[j]);
            size_t theirs = run_length(other, others, j);
            if (order == 0 && theirs > best[i]) best[i] = theirs;
            if (order <= 0) i += run_length(own, count, i);
            if (order >= 0) j += theirs;
        }
    }
    *matched = 0;
    *total = count;
    for (size_t i = 0; i < count;) {
        size_t ours = run_length(own, count, i);
        *matched += ours < best[i] ? ours : best[i];
        i += ours;
    }
out:
    memory_release(own_block);
    memory_release(best_block);
    memory_release(other_block);
    return status;
}

static size_t distance(size_t a, size_t b) { return a > b ? a - b : b - a; }

int metric_bleu_count(const char *hypothesis, const char *const *references, size_t reference_count, bool lower,
                      struct bleu_counts *counts) {
    int status = 0;
    struct text_pool pool = {0};
    struct word_list *words = NULL;
    char *tokens = NULL;
    *counts = (struct bleu_counts){0};
    TRY(memory_take((void **)&words, reference_count + 1, sizeof *words));
    for (size_t i = 0; i <= reference_count; i++) {
        TRY(metric_bleu_tokens(i ? references[i - 1] : hypothesis, lower, &tokens));
        TRY(word_list_split(&words[i], &pool, tokens));
        memory_release(tokens);
        tokens = NULL;
    }
    size_t length = words[0].count, nearest = reference_count ? words[1].count : 0;
    for (size_t i = 2; i <= reference_count; i++) {
        size_t here = words[i].count, far = distance(here, length), before = distance(nearest, length);
        if (far < before || (far == before && here < nearest)) nearest = here;
    }
    counts->hypothesis_tokens = length;
    counts->reference_tokens = nearest;
    for (size_t n = 1; n <= BLEU_ORDER; n++)
        TRY(matches_count(words, reference_count + 1, n, &counts->matched[n - 1], &counts->total[n - 1]));
out:
    memory_release(tokens);
    for (size_t i = 0; words && i <= reference_count; i++) word_list_close(&words[i]);
    memory_release(words);
    text_pool_close(&pool);
    return status;
}

void metric_bleu_add(struct bleu_counts *sum, const struct bleu_counts *counts) {
    for (size_t n = 0; n < BLEU_ORDER; n++) {
        sum->matched[n] += counts->matched[n];
        sum->total[n] += counts->total[n];
    }
    sum->hypothesis_tokens += counts->hypothesis_tokens;
    sum->reference_tokens += counts->reference_tokens;
}

double metric_bleu(const struct bleu_counts *counts, bool effective_order, double *precisions, double *brevity) {
    double shares[BLEU_ORDER] = {0}, ours = (double)counts->hypothesis_tokens,
           theirs = (double)counts->reference_tokens;
    double penalty = ours >= theirs ? 1 : ours > 0 ? exp(1 - theirs / ours) : 0, logs = 0, smooth = 1, score = 0;
    size_t orders = 0;
    bool any = false;
    for (size_t n = 0; n < BLEU_ORDER; n++) any |= counts->matched[n] > 0;
    for (; any && orders < BLEU_ORDER && counts->total[orders]; orders++) {
        double total = (double)counts->total[orders], matched = (double)counts->matched[orders];
        if (counts->matched[orders] == 0) matched = 1 / (smooth *= 2);
        shares[orders] = 100 * matched / total;
        logs += log(shares[orders]);
    }
    /* Without all orders a corpus scores 0: the logarithm of nothing. */
    if (orders > 0 && (effective_order || orders == BLEU_ORDER)) score = penalty * exp(logs / (double)orders);
    for (size_t n = 0; precisions && n < BLEU_ORDER; n++) precisions[n] = shares[n];
    if (brevity) *brevity = penalty;
    return score;
}
