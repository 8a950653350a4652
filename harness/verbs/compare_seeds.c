/* `runexp compare "A seed=*" "B seed=*"`: two cells over all seeds that both were run with.
 *
 * Seeds answer the same items, and mostly alike, so their answers are not independent: the interval and the p-value
 * draw items, each with what all seeds made of it. The exact test over all answers as if they were independent stands
 * beside it for shares of right answers. Latencies are paired round by round within each seed, and all pairs pooled.
 */
#include "verbs/compare.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "store/query.h"

struct seeds {
    struct side a[SEEDS_MOST], b[SEEDS_MOST];
    size_t count;
};

static int seeds_match(struct store *store, const char *a, const char *b, struct seeds *seeds) {
    int status = 0;
    struct seed_places x, y;
    TRY(lookup_seeds(store, a, &x));
    TRY(lookup_seeds(store, b, &y));
    for (size_t i = 0, j = 0; i < x.count && j < y.count;) {
        if (x.cells[i].seed != y.cells[j].seed) {
            if (x.cells[i].seed < y.cells[j].seed) i++;
            else j++;
            continue;
        }
        struct side *own = &seeds->a[seeds->count], *other = &seeds->b[seeds->count];
        own->place = x.cells[i++].place;
        other->place = y.cells[j++].place;
        TRY(compare_side(store, own));
        TRY(compare_side(store, other));
        seeds->count += own->run && other->run;
    }
    if (seeds->count < 2)
        FAIL(E_ARGUMENT, "\"%s\" and \"%s\" have %zu seeds in common that both were built with; two are the least", a,
             b, seeds->count);
out:
    return status;
}

/* The mean over the seeds of what `sql` gives for a run, and for a name unless that is NULL; NaN where one has none. */
static int seeds_mean(struct store *store, const char *sql, const struct side *sides, size_t count, const char *name,
                      double *mean) {
    int status = 0;
    struct query q = {0};
    bool row;
    *mean = 0;
    TRY(query_open(&q, store, sql));
    for (size_t i = 0; i < count; i++) {
        query_integer(&q, sides[i].run);
        if (name) query_text(&q, name);
        TRY(query_row(&q, &row));
        *mean += (row ? query_get_real(&q, 0) : NAN) / (double)count;
        query_reset(&q);
    }
out:
    query_close(&q);
    return status;
}

static int metric_mean(struct store *store, const struct side *sides, size_t count, const char *name, double *mean) {
    return seeds_mean(store, "SELECT value FROM metric WHERE run_id = ? AND name = ? AND stage_id IS NULL", sides,
                      count, name, mean);
}

static int size_mean(struct store *store, const struct side *sides, size_t count, double *bytes) {
    return seeds_mean(store, "SELECT t.bytes FROM run r JOIN artifact t ON t.id = r.artifact_id WHERE r.id = ?", sides,
                      count, NULL, bytes);
}

/* Exact sign test over items: which side did more seeds get right? Items on which they are even say nothing. */
static double items_test(const struct paired_columns *pairs, size_t count, size_t items) {
    size_t more_a = 0, more_b = 0;
    for (size_t i = 0; i < items; i++) {
        double difference = 0;
        for (size_t s = 0; s < count; s++) difference += pairs[s].own[0][i] - pairs[s].other[0][i];
        more_b += difference > 0;
        more_a += difference < 0;
    }
    return statistics_mcnemar(more_a, more_b);
}

/* All answers of all seeds as if they were independent. */
static int answers_pool(struct table *table, const char *label, const char *metric, const struct paired_columns *pairs,
                        size_t count, size_t items, double mean_a, double mean_b) {
    int status = 0;
    char note[128];
    size_t only_a = 0, only_b = 0;
    for (size_t s = 0; s < count; s++)
        for (size_t i = 0; i < items; i++) {
            only_b += pairs[s].own[0][i] > pairs[s].other[0][i];
            only_a += pairs[s].own[0][i] < pairs[s].other[0][i];
        }
    snprintf(note, sizeof note, "%zu answers as if independent, exact McNemar: only A right %zu, only B %zu",
             count * items, only_a, only_b);
    compare_row(table, label, metric, mean_a, mean_b, "difference", compare_plain(mean_b - mean_a),
                statistics_mcnemar(only_a, only_b), note);
    status = table->status;
    return status;
}

static int primary_compare(struct table *table, struct store *store, const char *label, const struct seeds *seeds) {
    int status = 0;
    struct outcome_columns x[SEEDS_MOST] = {{{0}, 0}}, y[SEEDS_MOST] = {{{0}, 0}};
    struct paired_columns pairs[SEEDS_MOST];
    const struct side *first = &seeds->a[0];
    struct interval change = compare_plain(NAN);
    double a, b, p_value = NAN;
    char note[128];
    bool alike = true;
    TRY(metric_mean(store, seeds->a, seeds->count, first->metric, &a));
    TRY(metric_mean(store, seeds->b, seeds->count, first->metric, &b));
    for (size_t i = 0; i < seeds->count && alike; i++) {
        alike = compare_alike(&seeds->a[i], &seeds->b[i]) && compare_alike(first, &seeds->a[i]);
        if (!alike) break;
        TRY(outcome_columns_read(store, seeds->a[i].run, first->estimator, &x[i]));
        TRY(outcome_columns_read(store, seeds->b[i].run, first->estimator, &y[i]));
        pairs[i] = (struct paired_columns){(const double *const *)y[i].values, (const double *const *)x[i].values};
        alike = x[i].items > 0 && x[i].items == y[i].items && x[i].items == x[0].items;
    }
    if (!alike) {
        compare_row(table, label, first->metric, a, b, "difference", compare_plain(b - a), NAN,
                    "mean of the seeds; not paired: other items");
        goto out;
    }
    TRY(paired_difference(first->estimator, pairs, seeds->count, x[0].items, 0.95,
                          random_stream("compare", (uint64_t)first->run, (uint64_t)seeds->b[0].run), &change,
                          &p_value));
    bool answers = strcmp(first->estimator->name, "accuracy") == 0;
    if (answers) p_value = items_test(pairs, seeds->count, x[0].items);
    snprintf(note, sizeof note, "mean of %zu seeds, paired on %zu items with all their seeds, %s", seeds->count,
             x[0].items, answers ? "bootstrap, exact sign test" : "percentile bootstrap");
    compare_row(table, label, first->metric, a, b, "difference", change, p_value, note);
    if (answers) TRY(answers_pool(table, label, first->metric, pairs, seeds->count, x[0].items, a, b));
    status = table->status;
out:
    for (size_t i = 0; i < seeds->count; i++) {
        outcome_columns_close(&x[i]);
        outcome_columns_close(&y[i]);
    }
    return status;
}

/* The metrics that nothing is stored of per item. */
static int others_compare(struct table *table, struct store *store, const char *label, const struct seeds *seeds) {
    int status = 0;
    struct query q = {0};
    bool row;
    double a, b;
    char note[64];
    snprintf(note, sizeof note, "mean of %zu seeds", seeds->count);
    TRY(query_open(&q, store,
                   "SELECT name FROM metric WHERE run_id = ? AND stage_id IS NULL AND name <> ? ORDER BY id"));
    query_integer(&q, seeds->a[0].run);
    query_text(&q, seeds->a[0].metric);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        const char *name = query_get_text(&q, 0);
        TRY(metric_mean(store, seeds->a, seeds->count, name, &a));
        TRY(metric_mean(store, seeds->b, seeds->count, name, &b));
        if (isfinite(a) && isfinite(b))
            compare_row(table, label, name, a, b, "difference", compare_plain(b - a), NAN, note);
    }
    status = table->status;
out:
    query_close(&q);
    return status;
}

/* The phase and batch size of `like` at all seeds: pairs of rounds of one session each. */
static int latency_pool(struct table *table, const char *label, const struct seeds *seeds,
                        const struct round_record *like) {
    int status = 0;
    void *x = NULL, *y = NULL;
    size_t room = 0, pairs = 0;
    char metric[96], note[64];
    for (size_t i = 0; i < seeds->count; i++) {
        size_t count;
        rounds_find(&seeds->b[i].rounds, seeds->b[i].place.cell, like->phase, like->batch, &count);
        room += count;
    }
    if (!room) goto out;
    TRY(memory_take(&x, room, sizeof(double)));
    TRY(memory_take(&y, room, sizeof(double)));
    double *b = x, *a = y;
    for (size_t i = 0; i < seeds->count; i++) {
        size_t a_count, b_count;
        const struct side *own = &seeds->a[i], *other = &seeds->b[i];
        if (own->place.session != other->place.session) continue; /* drift is not cancelled */
        const struct round_record *ra = rounds_find(&own->rounds, own->place.cell, like->phase, like->batch, &a_count),
                                  *rb = rounds_find(&other->rounds, other->place.cell, like->phase, like->batch,
                                                    &b_count);
        pairs += rounds_pair(rb, b_count, ra, a_count, b + pairs, a + pairs);
    }
    if (!pairs) goto out;
    snprintf(metric, sizeof metric, "%s%s batch %lld", like->phase, *like->phase ? "_ms" : "latency_ms",
             (long long)like->batch);
    snprintf(note, sizeof note, "paired over %zu rounds of %zu seeds", pairs, seeds->count);
    compare_row(table, label, metric, statistics_median(a, pairs), statistics_median(b, pairs), "ratio",
                statistics_ratio_interval(b, a, pairs, 0.95, 1), NAN, note);
    status = table->status;
out:
    memory_release(x);
    memory_release(y);
    return status;
}

static int latencies_compare(struct table *table, struct store *store, const char *label, struct seeds *seeds) {
    int status = 0;
    const struct round_list *first = &seeds->a[0].rounds;
    for (size_t i = 0; i < seeds->count; i++) {
        TRY(rounds_read(store, seeds->a[i].place.session, &seeds->a[i].rounds));
        TRY(rounds_read(store, seeds->b[i].place.session, &seeds->b[i].rounds));
    }
    for (size_t i = 0; i < first->count; i++) {
        const struct round_record *round = &first->rounds[i];
        if (round->cell_id != seeds->a[0].place.cell || (i > 0 && rounds_same(round, round - 1))) continue;
        TRY(latency_pool(table, label, seeds, round));
    }
out:
    for (size_t i = 0; i < seeds->count; i++) {
        rounds_close(&seeds->a[i].rounds);
        rounds_close(&seeds->b[i].rounds);
    }
    return status;
}

int compare_seeds(struct table *table, struct store *store, const char *label, const char *a, const char *b) {
    int status = 0;
    struct seeds seeds = {.count = 0};
    double bytes_a, bytes_b;
    char note[64];
    TRY(seeds_match(store, a, b, &seeds));
    TRY(primary_compare(table, store, label, &seeds));
    TRY(others_compare(table, store, label, &seeds));
    TRY(size_mean(store, seeds.a, seeds.count, &bytes_a));
    TRY(size_mean(store, seeds.b, seeds.count, &bytes_b));
    snprintf(note, sizeof note, "mean of %zu seeds", seeds.count);
    compare_row(table, label, "size_bytes", bytes_a, bytes_b, "ratio", compare_plain(bytes_b / bytes_a), NAN, note);
    TRY(latencies_compare(table, store, label, &seeds));
out:
    return status;
}
