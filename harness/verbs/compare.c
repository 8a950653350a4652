/* `runexp compare A B`: two cells, or all common cells of two sessions, metric by metric.
 *
 * Quality is paired item by item where both scored the same data. Latencies are paired round by round within one
 * session; across sessions the machine may have drifted, so the ratio of medians is given without an interval, and each
 * cell's ratio to its own baseline, which carries the drift in both parts, stands beside it.
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "measure/statistics.h"
#include "store/query.h"
#include "store/rounds.h"
#include "verbs/arguments.h"
#include "verbs/compare.h"
#include "verbs/lookup.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

int compare_side(struct store *store, struct side *side) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(
        &q, store,
        "SELECT ifnull((SELECT r.id FROM run r WHERE r.cell_id = c.id AND r.session_id = ?2 AND"
        " r.kind = 'build' AND r.status = 'ok'), 0), e.primary_metric, e.task || ' ' || e.data_hash, e.estimator"
        " FROM cell c JOIN experiment e ON e.id = c.experiment_id WHERE c.id = ?1"));
    query_integer(&q, side->place.cell);
    query_integer(&q, side->place.session);
    TRY(query_row(&q, &row));
    if (!row) FAIL(E_NOT_FOUND, "%s: there is no cell %lld", store->path, (long long)side->place.cell);
    side->run = query_get_integer(&q, 0);
    snprintf(side->metric, sizeof side->metric, "%s", query_get_text(&q, 1));
    snprintf(side->data, sizeof side->data, "%s", query_get_text(&q, 2));
    side->estimator = paired_estimator_find(query_get_text(&q, 3));
out:
    query_close(&q);
    return status;
}

void compare_row(struct table *table, const char *cell, const char *metric, double a, double b, const char *how,
                 struct interval change, double p_value, const char *note) {
    table_add_text(table, cell);
    table_add_text(table, metric);
    table_add_real(table, a);
    table_add_real(table, b);
    table_add_text(table, how);
    table_add_real(table, change.estimate);
    table_add_real(table, change.lo);
    table_add_real(table, change.hi);
    table_add_real(table, p_value);
    table_add_text(table, note);
}

/* The primary metric of two sides, paired item by item; items is 0 where they did not score the same ones. */
struct paired_metric {
    struct interval change;
    double p_value;
    size_t items;
    const char *method;
};

/* Shares of right answers have an exact test. */
static int accuracy_pair(struct store *store, const struct side *a, const struct side *b,
                         struct paired_metric *paired) {
    int status = 0;
    struct outcome x = {0}, y = {0};
    TRY(outcome_read(store, a->run, &x));
    TRY(outcome_read(store, b->run, &y));
    if (x.items == 0 || x.items != y.items) goto out;
    paired->items = x.items;
    paired->change = statistics_paired_difference(y.correct, x.correct, x.items, 0.95);
    paired->p_value = statistics_mcnemar_outcomes(y.correct, x.correct, x.items);
    paired->method = "exact McNemar";
out:
    outcome_close(&x);
    outcome_close(&y);
    return status;
}

bool compare_alike(const struct side *a, const struct side *b) {
    return a->estimator && a->estimator == b->estimator && strcmp(a->metric, b->metric) == 0 &&
           strcmp(a->data, b->data) == 0;
}

static int metric_pair(struct store *store, const struct side *a, const struct side *b, struct paired_metric *paired) {
    int status = 0;
    struct outcome_columns x = {0}, y = {0};
    *paired = (struct paired_metric){.change = compare_plain(NAN), .p_value = NAN};
    if (!compare_alike(a, b)) return 0;
    if (strcmp(a->estimator->name, "accuracy") == 0) return accuracy_pair(store, a, b, paired);
    TRY(outcome_columns_read(store, a->run, a->estimator, &x));
    TRY(outcome_columns_read(store, b->run, a->estimator, &y));
    if (x.items == 0 || x.items != y.items) goto out;
    paired->items = x.items;
    struct paired_columns pair = {(const double *const *)y.values, (const double *const *)x.values};
    TRY(paired_difference(a->estimator, &pair, 1, x.items, 0.95,
                          random_stream("compare", (uint64_t)a->run, (uint64_t)b->run), &paired->change,
                          &paired->p_value));
    paired->method = "percentile bootstrap";
out:
    outcome_columns_close(&x);
    outcome_columns_close(&y);
    return status;
}

static int metrics_compare(struct table *table, struct store *store, const char *label, const struct side *a,
                           const struct side *b) {
    int status = 0;
    struct query q = {0};
    struct paired_metric paired;
    bool row;
    char note[128];
    TRY(metric_pair(store, a, b, &paired));
    TRY(query_open(
        &q, store,
        "SELECT m.name, m.value, n.value FROM metric m JOIN metric n ON n.name = m.name AND n.run_id = ?2 AND"
        " n.stage_id IS NULL WHERE m.run_id = ?1 AND m.stage_id IS NULL ORDER BY m.id"));
    query_integer(&q, a->run);
    query_integer(&q, b->run);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        double va = query_get_real(&q, 1), vb = query_get_real(&q, 2);
        const char *name = query_get_text(&q, 0);
        /* What is stored per item says something about the primary metric alone. */
        bool primary = strcmp(name, a->metric) == 0;
        if (primary && paired.items) {
            snprintf(note, sizeof note, "paired on %zu items, %s", paired.items, paired.method);
            compare_row(table, label, name, va, vb, "difference", paired.change, paired.p_value, note);
        } else {
            compare_row(table, label, name, va, vb, "difference", compare_plain(vb - va), NAN,
                        primary ? "not paired: other items" : NULL);
        }
    }
    status = table->status;
out:
    query_close(&q);
    return status;
}

static int sizes_compare(struct table *table, struct store *store, const char *label, const struct side *a,
                         const struct side *b) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(
        &q, store,
        "SELECT x.bytes, y.bytes, x.bits_per_weight, y.bits_per_weight, iif(x.hash = y.hash, 'the same file',"
        " iif(x.executes = y.executes, NULL, x.executes || ' against ' || y.executes)) FROM run r"
        " JOIN artifact x ON x.id = r.artifact_id, run s JOIN artifact y ON y.id = s.artifact_id"
        " WHERE r.id = ?1 AND s.id = ?2"));
    query_integer(&q, a->run);
    query_integer(&q, b->run);
    TRY(query_row(&q, &row));
    if (!row) goto out;
    for (int i = 0; i < 2; i++) {
        double x = query_get_real(&q, 2 * i), y = query_get_real(&q, 2 * i + 1);
        compare_row(table, label, i ? "bits_per_weight" : "size_bytes", x, y, "ratio", compare_plain(y / x), NAN,
                    query_is_null(&q, 4) ? NULL : query_get_text(&q, 4));
    }
    status = table->status;
out:
    query_close(&q);
    return status;
}

/* The stored comparison row of a side; not found: NaN. */
static int stored_interval(struct store *store, const struct side *side, const char *name, int64_t batch,
                           struct interval *interval) {
    int status = 0;
    struct query q = {0};
    bool row;
    *interval = compare_plain(NAN);
    TRY(query_open(&q, store,
                   "SELECT estimate, lo, hi FROM comparison WHERE cell_id = ? AND session_id = ? AND name = ? AND"
                   " batch = ?"));
    query_integer(&q, side->place.cell);
    query_integer(&q, side->place.session);
    query_text(&q, name);
    query_integer(&q, batch);
    TRY(query_row(&q, &row));
    if (row)
        *interval = (struct interval){
            .estimate = query_get_real(&q, 0), .lo = query_get_real(&q, 1), .hi = query_get_real(&q, 2)};
out:
    query_close(&q);
    return status;
}

static int latency_compare(struct table *table, struct store *store, const char *label, const struct side *a,
                           const struct side *b, const char *phase, int64_t batch) {
    int status = 0;
    void *x = NULL, *y = NULL;
    char metric[96], name[64];
    struct interval ia, ib;
    bool same_session = a->place.session == b->place.session;
    size_t a_count, b_count, pairs = 0;
    const struct round_record *ra = rounds_find(&a->rounds, a->place.cell, phase, batch, &a_count);
    const struct round_record *rb = rounds_find(&b->rounds, b->place.cell, phase, batch, &b_count);
    if (b_count == 0) goto out;
    snprintf(name, sizeof name, "%s%s", phase, *phase ? "_ms" : "latency_ms");
    TRY(stored_interval(store, a, name, batch, &ia));
    TRY(stored_interval(store, b, name, batch, &ib));
    snprintf(metric, sizeof metric, "%s batch %lld", name, (long long)batch);
    if (same_session) {
        TRY(memory_take(&x, b_count, sizeof(double)));
        TRY(memory_take(&y, b_count, sizeof(double)));
        pairs = rounds_pair(rb, b_count, ra, a_count, x, y);
        char note[64];
        snprintf(note, sizeof note, "paired over %zu rounds", pairs);
        compare_row(table, label, metric, ia.estimate, ib.estimate, "ratio",
                    statistics_ratio_interval(x, y, pairs, 0.95, 1), NAN, note);
    } else {
        compare_row(table, label, metric, ia.estimate, ib.estimate, "ratio", compare_plain(ib.estimate / ia.estimate),
                    NAN, "other sessions: drift is not cancelled");
        snprintf(name, sizeof name, "%s%s", phase, *phase ? "_ratio" : "latency_ratio");
        TRY(stored_interval(store, a, name, batch, &ia));
        TRY(stored_interval(store, b, name, batch, &ib));
        snprintf(metric, sizeof metric, "%s batch %lld", name, (long long)batch);
        bool known = isfinite(ia.lo) && isfinite(ib.lo);
        compare_row(table, label, metric, ia.estimate, ib.estimate, "ratio", compare_plain(ib.estimate / ia.estimate),
                    NAN,
                    !known                           ? "no intervals"
                    : ib.lo > ia.hi || ia.lo > ib.hi ? "to the baseline; intervals apart"
                                                     : "to the baseline; intervals overlap");
    }
    status = table->status;
out:
    memory_release(x);
    memory_release(y);
    return status;
}

static int cells_compare(struct table *table, struct store *store, const char *label, struct side *a, struct side *b) {
    int status = 0;
    TRY(compare_side(store, a));
    TRY(compare_side(store, b));
    if (a->run && b->run) {
        TRY(metrics_compare(table, store, label, a, b));
        TRY(sizes_compare(table, store, label, a, b));
    } else {
        compare_row(table, label, "status", NAN, NAN, NULL, compare_plain(NAN), NAN,
                    a->run   ? "B has no ok build"
                    : b->run ? "A has no ok build"
                             : "neither has an ok build");
    }
    for (size_t i = 0; i < a->rounds.count; i++) {
        const struct round_record *round = &a->rounds.rounds[i];
        if (round->cell_id != a->place.cell || (i > 0 && rounds_same(round, round - 1))) continue;
        TRY(latency_compare(table, store, label, a, b, round->phase, round->batch));
    }
    status = table->status;
out:
    return status;
}

/* Cells of both sessions are matched by label; one that only one session has is listed. */
static int sessions_compare(struct table *table, struct store *store, struct side *a, struct side *b) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, store,
                   "SELECT label, max(iif(session_id = ?1, id, 0)), max(iif(session_id = ?2, id, 0)) FROM"
                   " (SELECT DISTINCT c.label, c.id, c.ordinal, r.session_id FROM run r JOIN cell c ON c.id = r.cell_id"
                   " WHERE r.session_id IN (?1, ?2)) GROUP BY label ORDER BY min(ordinal)"));
    query_integer(&q, a->place.session);
    query_integer(&q, b->place.session);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        a->place.cell = query_get_integer(&q, 1);
        b->place.cell = query_get_integer(&q, 2);
        if (a->place.cell && b->place.cell) TRY(cells_compare(table, store, query_get_text(&q, 0), a, b));
        else
            compare_row(table, query_get_text(&q, 0), "status", NAN, NAN, NULL, compare_plain(NAN), NAN,
                        a->place.cell ? "only in A" : "only in B");
    }
out:
    query_close(&q);
    return status;
}

int verb_compare(int argc, char **argv) {
    static const char *const columns[] = {"cell", "metric", "a",       "b",    "change_as", "change",
                                          "lo",   "hi",     "p_value", "note", NULL};
    int status = 0;
    const char *db = DEFAULT_DB, *format = "table";
    const struct flag flags[] = {FLAG_DB(&db), FLAG_FORMAT(&format), FLAG_END};
    struct store store = {0};
    struct table table = {0};
    struct side a = {0}, b = {0};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 2, 2, "two cells or two sessions"));
    TRY(store_open(&store, db, STORE_READ));
    TRY(table_open(&table, columns));
    char label[256];
    snprintf(label, sizeof label, "%s, %s", argv[1], argv[2]);
    if (strstr(argv[1], SEED_ANY) || strstr(argv[2], SEED_ANY)) {
        TRY(compare_seeds(&table, &store, label, argv[1], argv[2]));
        goto print;
    }
    TRY(lookup_session(&store, argv[1], &a.place.session));
    TRY(lookup_session(&store, argv[2], &b.place.session));
    bool sessions = a.place.session && b.place.session;
    if (!sessions && (a.place.session || b.place.session))
        FAIL(E_ARGUMENT, "compare expects two cells or two sessions (\"%s\" is a session, \"%s\" is none)",
             argv[a.place.session ? 1 : 2], argv[a.place.session ? 2 : 1]);
    if (!sessions) {
        TRY(lookup_cell(&store, argv[1], &a.place));
        TRY(lookup_cell(&store, argv[2], &b.place));
    }
    TRY(rounds_read(&store, a.place.session, &a.rounds));
    TRY(rounds_read(&store, b.place.session, &b.rounds));
    if (sessions) {
        TRY(sessions_compare(&table, &store, &a, &b));
    } else {
        TRY(cells_compare(&table, &store, label, &a, &b));
    }
print:
    TRY(table_print(&table, table_format_of(format), stdout));
    status = EXIT_OK;
out:
    rounds_close(&a.rounds);
    rounds_close(&b.rounds);
    table_close(&table);
    store_close(&store);
    return status;
}
