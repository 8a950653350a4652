/* The comparison rows of a session: what its samples and outcomes say, with intervals (contract: store.h).
 *
 * Samples are read once, ordered, and boiled down to one record per (cell, batch, round): the round's median
 * latency and token rate without warm-ups. A latency ratio pairs a cell's rounds with its baseline's rounds of the same
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

struct round_record {
    int64_t cell_id, batch, round;
    double latency_ms, tokens_per_s; /* medians of the round's samples */
};
struct round_list {
    struct round_record *rounds;
    size_t count, capacity;
};
struct cell_row {
    int64_t id, baseline_id, run_id; /* baseline_id 0: not part of this experiment; run_id 0: no ok build */
    bool is_baseline;
};
struct outcome {
    uint8_t *correct; /* [items] */
    size_t items;
};

struct comparison {
    struct store *store;
    int64_t session_id;
    double confidence;
    struct cell_row *cells;
    size_t cell_count, cell_capacity;
    struct round_list rounds;
    struct query insert;
};

/* Room for one more element in a growing block. */
static int grow(void **block, size_t count, size_t *capacity, size_t size) {
    int status = 0;
    if (count < *capacity) goto out;
    size_t wanted = *capacity ? 2 * *capacity : 32;
    TRY(memory_resize(block, wanted, size));
    *capacity = wanted;
out:
    return status;
}

static int cells_read(struct comparison *c) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *block = NULL;
    TRY(query_open(&q, c->store,
                   "SELECT c.id, c.is_baseline, ifnull((SELECT b.id FROM cell b WHERE b.experiment_id = c.experiment_id"
                   " AND b.key = c.baseline_key), 0), ifnull((SELECT r.id FROM run r WHERE r.cell_id = c.id AND"
                   " r.session_id = s.id AND r.kind = 'build' AND r.status = 'ok' LIMIT 1), 0)"
                   " FROM session s JOIN cell c ON c.experiment_id = s.experiment_id WHERE s.id = ? ORDER BY c.id"));
    query_integer(&q, c->session_id);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        block = c->cells;
        TRY(grow(&block, c->cell_count, &c->cell_capacity, sizeof *c->cells));
        c->cells = block;
        c->cells[c->cell_count++] = (struct cell_row){.id = query_get_integer(&q, 0),
                                                      .is_baseline = query_get_integer(&q, 1) != 0,
                                                      .baseline_id = query_get_integer(&q, 2),
                                                      .run_id = query_get_integer(&q, 3)};
    }
out:
    query_close(&q);
    return status;
}

/* Close the group of samples gathered for one round. */
static int round_add(struct round_list *list, int64_t cell_id, int64_t batch, int64_t round, const double *latency_ms,
                     const double *rate, size_t n) {
    int status = 0;
    void *block = list->rounds;
    if (n == 0) goto out;
    TRY(grow(&block, list->count, &list->capacity, sizeof *list->rounds));
    list->rounds = block;
    list->rounds[list->count++] = (struct round_record){.cell_id = cell_id,
                                                        .batch = batch,
                                                        .round = round,
                                                        .latency_ms = statistics_median(latency_ms, n),
                                                        .tokens_per_s = statistics_median(rate, n)};
out:
    list->rounds = block;
    return status;
}

static int rounds_read(struct comparison *c) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *latency = NULL, *rate = NULL;
    size_t n = 0, latency_capacity = 0, rate_capacity = 0;
    int64_t cell_id = 0, batch = 0, round = 0;
    TRY(query_open(&q, c->store,
                   "SELECT r.cell_id, s.batch, r.round, s.latency_ns, s.tokens FROM run r JOIN sample s ON"
                   " s.run_id = r.id WHERE r.session_id = ? AND r.kind = 'time' AND r.status = 'ok' AND s.warmup = 0"
                   " AND s.latency_ns > 0 ORDER BY r.cell_id, s.batch, r.round, s.ordinal"));
    query_integer(&q, c->session_id);
    for (;;) {
        TRY(query_row(&q, &row));
        bool same = row && query_get_integer(&q, 0) == cell_id && query_get_integer(&q, 1) == batch &&
                    query_get_integer(&q, 2) == round;
        if (!same) {
            TRY(round_add(&c->rounds, cell_id, batch, round, latency, rate, n));
            n = 0;
        }
        if (!row) break;
        cell_id = query_get_integer(&q, 0);
        batch = query_get_integer(&q, 1);
        round = query_get_integer(&q, 2);
        TRY(grow(&latency, n, &latency_capacity, sizeof(double)));
        TRY(grow(&rate, n, &rate_capacity, sizeof(double)));
        double ns = query_get_real(&q, 3);
        ((double *)latency)[n] = ns / 1e6;
        ((double *)rate)[n] = query_get_real(&q, 4) / ns * 1e9;
        n++;
    }
out:
    query_close(&q);
    memory_release(latency);
    memory_release(rate);
    return status;
}

static int comparison_add(struct comparison *c, int64_t cell_id, const char *name, int64_t batch,
                          struct interval interval, double p_value, const char *method) {
    int status = 0;
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
    query_text(&c->insert, method);
    TRY(query_done(&c->insert));
out:
    return status;
}

/* The rounds of (cell, batch): they lie together because the list is ordered. */
static const struct round_record *rounds_find(const struct round_list *list, int64_t cell_id, int64_t batch,
                                              size_t *count) {
    size_t first = 0;
    while (first < list->count && (list->rounds[first].cell_id != cell_id || list->rounds[first].batch != batch))
        first++;
    size_t end = first;
    while (end < list->count && list->rounds[end].cell_id == cell_id && list->rounds[end].batch == batch) end++;
    *count = end - first;
    return list->rounds + first;
}

/* The rows of one (cell, batch) whose rounds are own[0..count). */
static int timings_compare(struct comparison *c, const struct cell_row *cell, const struct round_record *own,
                           size_t count) {
    int status = 0;
    void *a_block = NULL, *b_block = NULL;
    TRY(memory_take(&a_block, count, sizeof(double)));
    TRY(memory_take(&b_block, count, sizeof(double)));
    double *a = a_block, *b = b_block;
    int64_t batch = own->batch;
    uint64_t seed = random_stream("comparison", (uint64_t)cell->id, (uint64_t)batch);
    for (size_t i = 0; i < count; i++) {
        a[i] = own[i].latency_ms;
        b[i] = own[i].tokens_per_s;
    }
    TRY(comparison_add(c, cell->id, "latency_ms", batch, statistics_median_interval(a, count, c->confidence, seed), NAN,
                       "median of round medians, percentile bootstrap"));
    TRY(comparison_add(c, cell->id, "tokens_per_s", batch, statistics_median_interval(b, count, c->confidence, seed),
                       NAN, "median of round medians, percentile bootstrap"));
    if (cell->is_baseline) {
        struct interval one = {.estimate = 1, .lo = 1, .hi = 1, .n = count};
        TRY(comparison_add(c, cell->id, "latency_ratio", batch, one, NAN, "the baseline itself"));
        goto out;
    }
    size_t theirs_count, pairs = 0, j = 0;
    const struct round_record *theirs = rounds_find(&c->rounds, cell->baseline_id, batch, &theirs_count);
    for (size_t i = 0; i < count; i++) {
        while (j < theirs_count && theirs[j].round < own[i].round) j++;
        if (j == theirs_count || theirs[j].round != own[i].round) continue;
        a[pairs] = own[i].latency_ms;
        b[pairs++] = theirs[j].latency_ms;
    }
    if (pairs > 0)
        TRY(comparison_add(c, cell->id, "latency_ratio", batch,
                           statistics_ratio_interval(a, b, pairs, c->confidence, seed), NAN,
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

static int outcome_read(struct store *store, int64_t run_id, struct outcome *outcome) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *copy = NULL;
    TRY(query_open(&q, store, "SELECT correct, items FROM outcome WHERE run_id = ?"));
    query_integer(&q, run_id);
    TRY(query_row(&q, &row));
    if (!row) goto out;
    size_t count;
    const void *bytes = query_get_blob(&q, 0, &count);
    if (count == 0 || (int64_t)count != query_get_integer(&q, 1))
        FAIL(E_FORMAT, "%s: the outcome of run %lld has %zu bytes for %lld items; it is damaged", store->path,
             (long long)run_id, count, (long long)query_get_integer(&q, 1));
    TRY(memory_take(&copy, count, 1));
    memcpy(copy, bytes, count);
    *outcome = (struct outcome){.correct = copy, .items = count};
out:
    query_close(&q);
    return status;
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
    TRY(query_open(&q, c->store,
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

static int quality_compare(struct comparison *c, const struct cell_row *cell) {
    int status = 0;
    struct outcome own = {0}, other = {0};
    const struct cell_row *baseline = cell_find(c, cell->baseline_id);
    if (cell->run_id == 0) goto out;
    TRY(outcome_read(c->store, cell->run_id, &own));
    if (own.items == 0) goto out;
    if (cell->is_baseline) {
        struct interval zero = {.estimate = 0, .lo = 0, .hi = 0, .n = own.items};
        TRY(comparison_add(c, cell->id, "accuracy_difference", 0, zero, 1, "the baseline itself"));
    } else if (baseline && baseline->run_id) {
        TRY(outcome_read(c->store, baseline->run_id, &other));
        if (other.items == own.items)
            TRY(difference_add(c, cell->id, "accuracy_difference", own.correct, other.correct, own.items));
    }
    TRY(yardsticks_compare(c, cell, &own));
out:
    memory_release(own.correct);
    memory_release(other.correct);
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
    TRY(rounds_read(&c));
    for (size_t i = 0; i < c.rounds.count;) {
        const struct round_record *own = &c.rounds.rounds[i];
        size_t end = i;
        while (end < c.rounds.count && c.rounds.rounds[end].cell_id == own->cell_id &&
               c.rounds.rounds[end].batch == own->batch)
            end++;
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
    memory_release(c.rounds.rounds);
    return status;
}
