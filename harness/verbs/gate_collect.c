/* Results of a session for the gate, read from the database (contract: gate.h). */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "store/query.h"
#include "store/rounds.h"
#include "verbs/gate.h"
#include "verbs/lookup.h"

static void cell_close(struct gate_cell *cell) {
    memory_release(cell->label);
    memory_release(cell->status);
    memory_release(cell->reason);
    memory_release(cell->artifact);
    memory_release(cell->executes);
    memory_release(cell->correct);
    memory_release(cell->timings);
}

void gate_results_close(struct gate_results *results) {
    for (size_t i = 0; i < results->cell_count; i++) cell_close(&results->cells[i]);
    memory_release(results->cells);
    memory_release(results->experiment);
    memory_release(results->hash);
    memory_release(results->data_hash);
    memory_release(results->metric);
    memory_release(results->host);
    memory_release(results->cpu);
    memory_release(results->commit);
    memory_release(results->started_at);
    memory_release(results->timing_note);
    *results = (struct gate_results){0};
}

static int session_collect(struct store *store, int64_t session, struct gate_results *results) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, store,
                   "SELECT e.name, e.hash, e.data_hash, e.primary_metric, h.fingerprint, h.cpu, b.git_commit,"
                   " s.started_at, s.timing_note, b.dirty, s.timing_valid, s.ended_at IS NOT NULL,"
                   " NOT e.higher_is_better"
                   " FROM session s JOIN experiment e ON e.id = s.experiment_id JOIN host h ON h.id = s.host_id"
                   " JOIN build b ON b.id = s.build_id WHERE s.id = ?"));
    query_integer(&q, session);
    TRY(query_row(&q, &row));
    if (!row) FAIL(E_FORMAT, "%s: session %lld has no host or build", store->path, (long long)session);
    char **const texts[] = {&results->experiment, &results->hash,       &results->data_hash,
                            &results->metric,     &results->host,       &results->cpu,
                            &results->commit,     &results->started_at, &results->timing_note};
    for (int i = 0; i < 9; i++) TRY(memory_string(texts[i], query_get_text(&q, i)));
    results->dirty = query_get_integer(&q, 9) != 0;
    results->timing_valid = query_get_integer(&q, 10) != 0;
    results->finished = query_get_integer(&q, 11) != 0;
    results->lower_is_better = query_get_integer(&q, 12) != 0;
out:
    query_close(&q);
    return status;
}

static int timings_collect(struct store *store, int64_t cell_id, int64_t session, struct gate_cell *cell) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, store,
                   "SELECT l.batch, l.estimate, l.lo, l.hi, l.n, r.estimate, r.lo, r.hi, r.n FROM comparison l"
                   " LEFT JOIN comparison r ON r.cell_id = l.cell_id AND r.session_id = l.session_id AND"
                   " r.batch = l.batch AND r.name = 'latency_ratio'"
                   " WHERE l.cell_id = ? AND l.session_id = ? AND l.name = 'latency_ms' ORDER BY l.batch"));
    query_integer(&q, cell_id);
    query_integer(&q, session);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        void *block = cell->timings;
        TRY(memory_resize(&block, cell->timing_count + 1, sizeof *cell->timings));
        cell->timings = block;
        struct interval own[2];
        for (int i = 0; i < 2; i++)
            own[i] = (struct interval){.estimate = query_get_real(&q, 4 * i + 1),
                                       .lo = query_get_real(&q, 4 * i + 2),
                                       .hi = query_get_real(&q, 4 * i + 3),
                                       .n = (size_t)query_get_integer(&q, 4 * i + 4)};
        cell->timings[cell->timing_count++] =
            (struct gate_timing){.batch = query_get_integer(&q, 0), .latency_ms = own[0], .ratio = own[1]};
    }
out:
    query_close(&q);
    return status;
}

static int cells_collect(struct store *store, int64_t session, struct gate_results *results) {
    int status = 0;
    struct query q = {0};
    struct outcome outcome = {0};
    bool row;
    TRY(query_open(
        &q, store,
        "SELECT c.id, c.label, ifnull((SELECT r.status FROM run r WHERE r.cell_id = c.id AND"
        " r.session_id = s.id ORDER BY r.status = 'ok', r.kind, r.round LIMIT 1), 'missing'),"
        " (SELECT r.reason FROM run r WHERE r.cell_id = c.id AND r.session_id = s.id"
        " AND r.status <> 'ok' ORDER BY r.kind, r.round LIMIT 1), a.artifact_hash, a.executes, c.is_baseline,"
        " c.threads, a.size_bytes, a.metric_value, a.run_id FROM session s JOIN cell c ON"
        " c.experiment_id = s.experiment_id LEFT JOIN result_all a ON a.cell_id = c.id AND"
        " a.session_id = s.id WHERE s.id = ? ORDER BY c.ordinal, c.id"));
    query_integer(&q, session);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        void *block = results->cells;
        TRY(memory_resize(&block, results->cell_count + 1, sizeof *results->cells));
        results->cells = block;
        struct gate_cell *cell = &results->cells[results->cell_count++];
        *cell = (struct gate_cell){.is_baseline = query_get_integer(&q, 6) != 0,
                                   .threads = query_get_integer(&q, 7),
                                   .size_bytes = query_get_integer(&q, 8),
                                   .metric = query_get_real(&q, 9)};
        char **const texts[] = {&cell->label, &cell->status, &cell->reason, &cell->artifact, &cell->executes};
        for (int i = 0; i < 5; i++) TRY(memory_string(texts[i], query_get_text(&q, i + 1)));
        if (!query_is_null(&q, 10)) {
            TRY(outcome_read(store, query_get_integer(&q, 10), &outcome));
            cell->correct = outcome.correct;
            cell->items = outcome.items;
        }
        TRY(timings_collect(store, query_get_integer(&q, 0), session, cell));
    }
out:
    query_close(&q);
    return status;
}

int gate_collect(struct store *store, const char *experiment, struct gate_results *results) {
    int status = 0;
    int64_t session;
    *results = (struct gate_results){0};
    TRY(lookup_experiment(store, experiment));
    TRY(lookup_session(store, experiment, &session));
    TRY(session_collect(store, session, results));
    TRY(cells_collect(store, session, results));
out:
    if (status < 0) gate_results_close(results);
    return status;
}
