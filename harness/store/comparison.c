/* The comparison rows of a session: what its samples and outcomes say, with intervals (contract: store.h).
 *
 * A latency ratio pairs a cell's rounds with its baseline's rounds of the same
 * number, since both were timed minutes apart at most; rounds that only one of them has are left out. Quality is
 * paired item by item. Everything is recomputed from raw rows, so calling it twice changes nothing.
 */
#include "store/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "measure/statistics.h"
#include "store/query.h"
#include "store/rounds.h"
#include "task/paired.h"

struct cell_row {
    int64_t id, baseline_id, run_id; /* baseline_id 0: not part of this experiment; run_id 0: no ok build */
    bool is_baseline;
};
struct comparison {
    struct store *store;
    int64_t session_id;
    double confidence;
    struct cell_row *cells;
    size_t cell_count, cell_capacity;
    struct round_list rounds;
    struct query insert;
    const struct paired_estimator *estimator; /* of the primary metric; NULL: one this program does not know */
};

static int cells_read(struct comparison *c) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, c->store,
                   "SELECT c.id, c.is_baseline, ifnull((SELECT b.id FROM cell b WHERE b.experiment_id = c.experiment_id"
                   " AND b.key = c.baseline_key), 0), ifnull((SELECT r.id FROM run r WHERE r.cell_id = c.id AND"
                   " r.session_id = s.id AND r.kind = 'build' AND r.status = 'ok' LIMIT 1), 0)"
                   " FROM session s JOIN cell c ON c.experiment_id = s.experiment_id WHERE s.id = ? ORDER BY c.id"));
    query_integer(&q, c->session_id);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        if (c->cell_count == c->cell_capacity) {
            void *block = c->cells;
            size_t wanted = c->cell_capacity ? 2 * c->cell_capacity : 32;
            TRY(memory_resize(&block, wanted, sizeof *c->cells));
            c->cells = block;
            c->cell_capacity = wanted;
        }
        c->cells[c->cell_count++] = (struct cell_row){.id = query_get_integer(&q, 0),
                                                      .is_baseline = query_get_integer(&q, 1) != 0,
                                                      .baseline_id = query_get_integer(&q, 2),
                                                      .run_id = query_get_integer(&q, 3)};
    }
out:
    query_close(&q);
    return status;
}

static int comparison_add(struct comparison *c, int64_t cell_id, const char *name, int64_t batch,
                          struct interval interval, double p_value, const char *method) {
    int status = 0;
    char text[160]; /* the level belongs to the method, or a reader cannot tell what the interval means */
    if (interval.lo < interval.hi) snprintf(text, sizeof text, "%g %%: %s", 100 * c->confidence, method);
    else snprintf(text, sizeof text, "%s", method);
    if (interval.n >= 3 && isnan(interval.lo) && error_code() == E_MEMORY) TRY(E_MEMORY);
    query_integer(&c->insert, cell_id);
    query_integer(&c->insert, c->session_id);
    query_text(&c->insert, name);
    query_integer(&c->insert, batch);
    query_real(&c->insert, interval.estimate);
    query_real(&c->insert, interval.lo);
    query_real(&c->insert, interval.hi);
    query_real(&c->insert, p_value);
    query_integer(&c->insert, (int64_t)interval.n);
    query_text(&c->insert, text);
    TRY(query_done(&c->insert));
out:
    return status;
}

/* A comparison's name in a phase: "latency_ms" of the whole, "prefill_ms" of the phase prefill. */
static void phase_name(char name[64], const char *phase, const char *of_whole, const char *of_phase) {
    if (*phase) snprintf(name, 64, "%s_%s", phase, of_phase);
    else snprintf(name, 64, "%s", of_whole);
}

/* The rows of one (cell, phase, batch) whose rounds are own[0..count). */
static int timings_compare(struct comparison *c, const struct cell_row *cell, const struct round_record *own,
                           size_t count) {
    int status = 0;
    void *a_block = NULL, *b_block = NULL;
    char name[64];
    TRY(memory_take(&a_block, count, sizeof(double)));
    TRY(memory_take(&b_block, count, sizeof(double)));
    double *a = a_block, *b = b_block;
    int64_t batch = own->batch;
    uint64_t seed = random_stream("comparison", (uint64_t)cell->id, (uint64_t)batch);
    for (size_t i = 0; i < count; i++) {
        a[i] = own[i].latency_ms;
        b[i] = own[i].tokens_per_s;
    }
    phase_name(name, own->phase, "latency_ms", "ms");
    TRY(comparison_add(c, cell->id, name, batch, statistics_median_interval(a, count, c->confidence, seed), NAN,
                       "median of round medians, percentile bootstrap"));
    phase_name(name, own->phase, "tokens_per_s", "tokens_per_s");
    TRY(comparison_add(c, cell->id, name, batch, statistics_median_interval(b, count, c->confidence, seed), NAN,
                       "median of round medians, percentile bootstrap"));
    phase_name(name, own->phase, "latency_ratio", "ratio");
    if (cell->is_baseline) {
        struct interval one = {.estimate = 1, .lo = 1, .hi = 1, .n = count};
        TRY(comparison_add(c, cell->id, name, batch, one, NAN, "the baseline itself"));
        goto out;
    }
    size_t theirs_count;
    const struct round_record *theirs = rounds_find(&c->rounds, cell->baseline_id, own->phase, batch, &theirs_count);
    size_t pairs = rounds_pair(own, count, theirs, theirs_count, a, b);
    if (pairs > 0)
        TRY(comparison_add(c, cell->id, name, batch, statistics_ratio_interval(a, b, pairs, c->confidence, seed), NAN,
                           "paired by round, log ratio, bootstrap-t"));
out:
    memory_release(a_block);
    memory_release(b_block);
    return status;
}

static const struct cell_row *cell_find(const struct comparison *c, int64_t id) {
    for (size_t i = 0; i < c->cell_count; i++)
        if (c->cells[i].id == id) return &c->cells[i];
    return NULL;
}

static int difference_add(struct comparison *c, int64_t cell_id, const char *name, const uint8_t *own,
                          const uint8_t *other, size_t items) {
    return comparison_add(c, cell_id, name, 0, statistics_paired_difference(own, other, items, c->confidence),
                          statistics_mcnemar_outcomes(own, other, items), "paired items, Agresti-Min, exact McNemar");
}

/* Against each stored yardstick of the same task and data with as many items. */
static int yardsticks_compare(struct comparison *c, const struct cell_row *cell, const struct outcome *own) {
    int status = 0;
    struct query q = {0};
    bool row;
    char name[96];
    TRY(query_open(
        &q, c->store,
        "SELECT y.name, y.correct FROM session s JOIN experiment e ON e.id = s.experiment_id JOIN yardstick y"
        " ON y.task = e.task AND y.data_hash = e.data_hash WHERE s.id = ? ORDER BY y.id"));
    query_integer(&q, c->session_id);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        size_t items;
        const uint8_t *correct = query_get_blob(&q, 1, &items);
        if (items != own->items) continue;
        snprintf(name, sizeof name, "vs_%s", query_get_text(&q, 0));
        TRY(difference_add(c, cell->id, name, own->correct, correct, items));
    }
out:
    query_close(&q);
    return status;
}

/* The primary metric against the baseline's, item by item. */
static int metric_compare(struct comparison *c, const struct cell_row *cell, const struct cell_row *baseline) {
    int status = 0;
    struct outcome_columns own = {0}, other = {0};
    double p_value;
    struct interval interval;
    char method[80];
    TRY(outcome_columns_read(c->store, cell->run_id, c->estimator, &own));
    if (own.items == 0) goto out;
    if (cell->is_baseline) {
        struct interval zero = {.estimate = 0, .lo = 0, .hi = 0, .n = own.items};
        TRY(comparison_add(c, cell->id, "metric_difference", 0, zero, 1, "the baseline itself"));
        goto out;
    }
    if (!baseline || !baseline->run_id) goto out;
    TRY(outcome_columns_read(c->store, baseline->run_id, c->estimator, &other));
    if (other.items != own.items) goto out;
    struct paired_columns pair = {(const double *const *)own.values, (const double *const *)other.values};
    TRY(paired_difference(c->estimator, &pair, 1, own.items, c->confidence,
                          random_stream("quality", (uint64_t)cell->id, 0), &interval, &p_value));
    snprintf(method, sizeof method, "%s, paired items, percentile bootstrap", c->estimator->name);
    TRY(comparison_add(c, cell->id, "metric_difference", 0, interval, p_value, method));
out:
    outcome_columns_close(&own);
    outcome_columns_close(&other);
    return status;
}

/* Shares of right answers have an exact test. */
static int accuracy_compare(struct comparison *c, const struct cell_row *cell, const struct cell_row *baseline) {
    int status = 0;
    struct outcome own = {0}, other = {0};
    TRY(outcome_read(c->store, cell->run_id, &own));
    if (own.items == 0) goto out;
    if (cell->is_baseline) {
        struct interval zero = {.estimate = 0, .lo = 0, .hi = 0, .n = own.items};
        TRY(comparison_add(c, cell->id, "metric_difference", 0, zero, 1, "the baseline itself"));
    } else if (baseline && baseline->run_id) {
        TRY(outcome_read(c->store, baseline->run_id, &other));
        if (other.items == own.items)
            TRY(difference_add(c, cell->id, "metric_difference", own.correct, other.correct, own.items));
    }
    TRY(yardsticks_compare(c, cell, &own));
out:
    outcome_close(&own);
    outcome_close(&other);
    return status;
}

static int quality_compare(struct comparison *c, const struct cell_row *cell) {
    const struct cell_row *baseline = cell_find(c, cell->baseline_id);
    if (cell->run_id == 0 || !c->estimator) return 0;
    if (strcmp(c->estimator->name, "accuracy") == 0) return accuracy_compare(c, cell, baseline);
    return metric_compare(c, cell, baseline);
}

static int estimator_read(struct comparison *c) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, c->store,
                   "SELECT e.estimator FROM session s JOIN experiment e ON e.id = s.experiment_id WHERE s.id = ?"));
    query_integer(&q, c->session_id);
    TRY(query_row(&q, &row));
    if (row) c->estimator = paired_estimator_find(query_get_text(&q, 0));
out:
    query_close(&q);
    return status;
}

int store_compare(struct store *store, int64_t session_id, double confidence) {
    int status = 0;
    struct comparison c = {.store = store, .session_id = session_id, .confidence = confidence};
    struct query remove = {0};
    if (!(confidence > 0 && confidence < 1))
        FAIL(E_ARGUMENT, "confidence must lie between 0 and 1 (got %g)", confidence);
    error_clear();
    TRY(store_begin(store));
    TRY(query_open(&remove, store, "DELETE FROM comparison WHERE session_id = ?"));
    query_integer(&remove, session_id);
    TRY(query_done(&remove));
    TRY(query_open(&c.insert, store,
                   "INSERT INTO comparison (cell_id, session_id, name, batch, estimate, lo, hi, p_value, n, method)"
                   " VALUES (?,?,?,?,?,?,?,?,?,?)"));
    TRY(cells_read(&c));
    TRY(estimator_read(&c));
    TRY(rounds_read(store, session_id, &c.rounds));
    for (size_t i = 0; i < c.rounds.count;) {
        const struct round_record *own = &c.rounds.rounds[i];
        size_t end = i;
        while (end < c.rounds.count && rounds_same(&c.rounds.rounds[end], own)) end++;
        const struct cell_row *cell = cell_find(&c, own->cell_id);
        if (cell) TRY(timings_compare(&c, cell, own, end - i));
        i = end;
    }
    for (size_t i = 0; i < c.cell_count; i++) TRY(quality_compare(&c, &c.cells[i]));
    TRY(store_commit(store));
out:
    query_close(&remove);
    query_close(&c.insert);
    if (status < 0) store_rollback(store);
    memory_release(c.cells);
    rounds_close(&c.rounds);
    return status;
}
