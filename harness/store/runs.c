/* Committing a run with everything that belongs to it, and serving finished builds from cache.
 *
 * One transaction per run: kill the program at any moment and each run is either whole or absent.
 */
#include "store/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "store/query.h"

static const char *text_or_empty(const char *text) { return text ? text : ""; }

static int run_remove(struct store *store, int64_t id) {
    static const char *const removals[] = {"DELETE FROM counter WHERE run_id = ?",
                                           "DELETE FROM sample WHERE run_id = ?",
                                           "DELETE FROM metric WHERE run_id = ?",
                                           "DELETE FROM stage WHERE run_id = ?",
                                           "DELETE FROM outcome WHERE run_id = ?",
                                           "DELETE FROM curve WHERE run_id = ?",
                                           "DELETE FROM evaluation WHERE run_id = ?",
                                           "DELETE FROM layer WHERE run_id = ?",
                                           "DELETE FROM run WHERE id = ?"};
    int status = 0;
    struct query q = {0};
    for (size_t i = 0; i < sizeof removals / sizeof *removals; i++) {
        TRY(query_open(&q, store, removals[i]));
        query_integer(&q, id);
        TRY(query_done(&q));
        query_close(&q);
    }
out:
    query_close(&q);
    return status;
}

/* Remove an earlier try of this run that did not end ok. E_STATE where an ok one is stored. */
static int earlier_remove(struct store *store, int64_t cell_id, int64_t session_id, const char *kind, int64_t round) {
    int status = 0;
    struct query q = {0};
    bool found, ok;
    int64_t id = 0;
    TRY(query_open(
        &q, store,
        "SELECT id, status = 'ok' FROM run WHERE cell_id = ? AND session_id = ? AND kind = ? AND round = ?"));
    query_integer(&q, cell_id);
    query_integer(&q, session_id);
    query_text(&q, kind);
    query_integer(&q, round);
    TRY(query_row(&q, &found));
    if (!found) goto out;
    id = query_get_integer(&q, 0);
    ok = query_get_integer(&q, 1) != 0;
    if (ok)
        FAIL(E_STATE, "%s: cell %lld already has an ok %s run of round %lld in session %lld", store->path,
             (long long)cell_id, kind, (long long)round, (long long)session_id);
    query_close(&q);
    TRY(run_remove(store, id));
out:
    query_close(&q);
    return status;
}

int store_runs_forget(struct store *store, int64_t cell_id, int64_t session_id) {
    int status = 0;
    struct query q = {0};
    bool found = true;
    TRY(store_begin(store));
    while (found) {
        int64_t id = 0;
        TRY(query_open(&q, store, "SELECT id FROM run WHERE cell_id = ? AND session_id = ? LIMIT 1"));
        query_integer(&q, cell_id);
        query_integer(&q, session_id);
        TRY(query_row(&q, &found));
        if (found) id = query_get_integer(&q, 0);
        query_close(&q);
        if (found) TRY(run_remove(store, id));
    }
    TRY(store_commit(store));
out:
    query_close(&q);
    if (status < 0) store_rollback(store);
    return status;
}

static int artifact_add(struct store *store, const struct artifact_record *artifact, int64_t *id) {
    int status = 0;
    struct query q = {0};
    bool found;
    TRY(query_open(&q, store,
                   "INSERT INTO artifact (hash, path, bytes, linear_bytes, linear_f32_bytes, bits_per_weight, executes)"
                   " VALUES (?,?,?,?,?,?,?) ON CONFLICT (hash) DO UPDATE SET path = excluded.path RETURNING id"));
    query_text(&q, artifact->hash);
    query_text(&q, artifact->path);
    query_integer(&q, artifact->bytes);
    query_integer(&q, artifact->linear_bytes);
    query_integer(&q, artifact->linear_f32_bytes);
    query_real(&q, artifact->bits_per_weight);
    query_text(&q, artifact->executes);
    TRY(query_row(&q, &found));
    if (found) *id = query_get_integer(&q, 0);
    while (found) TRY(query_row(&q, &found));
out:
    query_close(&q);
    return status;
}

static int run_add(struct store *store, const struct run_record *record, int64_t artifact_id, int64_t *id) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO run (uuid, cell_id, session_id, kind, round, position, status, reason, signal,"
                   " exit_code, artifact_id, started_at, wall_ms, overhead_ms, peak_rss_bytes, log)"
                   " VALUES (?,?,?,?,?,?,?,?,nullif(?,0),?,nullif(?,0),?,ifnull(?,0),?,nullif(?,0),?)"));
    query_text(&q, record->uuid);
    query_integer(&q, record->cell_id);
    query_integer(&q, record->session_id);
    query_text(&q, record->kind);
    query_integer(&q, record->round);
    query_integer(&q, record->position);
    query_text(&q, record->status);
    query_text(&q, text_or_empty(record->reason));
    query_integer(&q, record->signal);
    query_integer(&q, record->exit_code);
    query_integer(&q, artifact_id);
    query_text(&q, text_or_empty(record->started_at));
    query_real(&q, record->wall_ms);
    query_real(&q, record->overhead_ms);
    query_integer(&q, record->peak_rss_bytes);
    query_text(&q, text_or_empty(record->log));
    TRY(query_done(&q));
    *id = sqlite3_last_insert_rowid(store->db);
out:
    query_close(&q);
    return status;
}

/* stage_ids: [stage_count] row of each stage, out. */
static int stages_add(struct store *store, int64_t run_id, const struct stage_record *stages, size_t count,
                      int64_t *stage_ids) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO stage (run_id, ordinal, technique, version, options, wall_ms, cached, linear_bytes,"
                   " total_bytes) VALUES (?,?,?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < count; i++) {
        query_integer(&q, run_id);
        query_integer(&q, (int64_t)i);
        query_text(&q, stages[i].technique);
        query_integer(&q, stages[i].version);
        query_text(&q, text_or_empty(stages[i].options));
        query_real(&q, stages[i].wall_ms);
        query_integer(&q, stages[i].cached);
        query_integer(&q, stages[i].linear_bytes);
        query_integer(&q, stages[i].total_bytes);
        TRY(query_done(&q));
        stage_ids[i] = sqlite3_last_insert_rowid(store->db);
    }
out:
    query_close(&q);
    return status;
}

static int metrics_add(struct store *store, int64_t run_id, const struct run_record *record, const int64_t *stage_ids) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store, "INSERT INTO metric (run_id, stage_id, name, unit, value) VALUES (?,nullif(?,0),?,?,?)"));
    for (size_t i = 0; i < record->metric_count; i++) {
        const struct metric_record *metric = &record->metrics[i];
        if (metric->stage >= 0 && (size_t)metric->stage >= record->stage_count)
            FAIL(E_ARGUMENT, "metric %s belongs to stage %d of a run with %zu stages", metric->name, metric->stage,
                 record->stage_count);
        query_integer(&q, run_id);
        query_integer(&q, metric->stage < 0 ? 0 : stage_ids[metric->stage]);
        query_text(&q, metric->name);
        query_text(&q, text_or_empty(metric->unit));
        query_real(&q, metric->value);
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

static int samples_add(struct store *store, int64_t run_id, const struct sample_record *samples, size_t count) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO sample (run_id, phase, batch, ordinal, warmup, outlier, latency_ns, tokens)"
                   " VALUES (?,?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < count; i++) {
        query_integer(&q, run_id);
        query_text(&q, text_or_empty(samples[i].phase));
        query_integer(&q, samples[i].batch);
        query_integer(&q, samples[i].ordinal);
        query_integer(&q, samples[i].warmup);
        query_integer(&q, samples[i].outlier);
        query_real(&q, samples[i].latency_ns);
        query_integer(&q, samples[i].tokens);
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

static int counters_add(struct store *store, int64_t run_id, const struct counter_record *counters, size_t count) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO counter (run_id, meter, batch, name, unit, value, reason, enabled_ns, running_ns)"
                   " VALUES (?,?,?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < count; i++) {
        query_integer(&q, run_id);
        query_text(&q, counters[i].meter);
        query_integer(&q, counters[i].batch);
        query_text(&q, counters[i].name);
        query_text(&q, text_or_empty(counters[i].unit));
        query_real(&q, counters[i].value);
        query_text(&q, text_or_empty(counters[i].reason));
        query_real(&q, counters[i].enabled_ns);
        query_real(&q, counters[i].running_ns);
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

static int outcomes_add(struct store *store, int64_t run_id, const struct outcome_record *outcomes, size_t count) {
    static const char *const types[] = {[OUTCOME_U8] = "u8", [OUTCOME_I32] = "i32", [OUTCOME_F32] = "f32"};
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store, "INSERT INTO outcome (run_id, name, type, items, data) VALUES (?,?,?,?,?)"));
    for (size_t i = 0; i < count; i++) {
        const struct outcome_record *outcome = &outcomes[i];
        query_integer(&q, run_id);
        query_text(&q, outcome->name);
        query_text(&q, types[outcome->type]);
        query_integer(&q, (int64_t)outcome->items);
        query_blob(&q, outcome->values ? outcome->values : "", outcome->items * outcome_type_bytes(outcome->type));
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

static int stage_check(const char *what, int stage, size_t stage_count) {
    int status = 0;
    if (stage < 0 || (size_t)stage >= stage_count)
        FAIL(E_ARGUMENT, "%s of stage %d of a run with %zu stages", what, stage, stage_count);
out:
    return status;
}

static void finite_real(struct query *q, double number) { query_real(q, isfinite(number) ? number : NAN); }

static int curve_add(struct store *store, int64_t run_id, const struct run_record *record) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(
        &q, store,
        "INSERT INTO curve (run_id, stage, step, loss, rate, gradient_norm, seconds) VALUES (?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < record->curve_count; i++) {
        const struct curve_record *row = &record->curve[i];
        TRY(stage_check("a step", row->stage, record->stage_count));
        query_integer(&q, run_id);
        query_integer(&q, row->stage);
        query_integer(&q, row->step);
        finite_real(&q, row->loss);
        finite_real(&q, row->rate);
        finite_real(&q, row->gradient_norm);
        finite_real(&q, row->seconds);
        TRY(query_done(&q));
    }
    query_close(&q);
    TRY(query_open(&q, store, "INSERT INTO evaluation (run_id, stage, step, metric, value) VALUES (?,?,?,?,?)"));
    for (size_t i = 0; i < record->evaluation_count; i++) {
        const struct evaluation_record *row = &record->evaluations[i];
        TRY(stage_check("an evaluation", row->stage, record->stage_count));
        query_integer(&q, run_id);
        query_integer(&q, row->stage);
        query_integer(&q, row->step);
        query_text(&q, row->metric);
        finite_real(&q, row->value);
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

static int layers_add(struct store *store, int64_t run_id, const struct run_record *record) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO layer (run_id, stage, ordinal, layer, format, low, high, seen_low, seen_high,"
                   " histogram_low, histogram_width, histogram, error_name, error, score_lost, bytes_f32, bytes_packed)"
                   " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < record->layer_count; i++) {
        const struct layer_record *row = &record->layers[i];
        TRY(stage_check("a layer", row->stage, record->stage_count));
        query_integer(&q, run_id);
        query_integer(&q, row->stage);
        query_integer(&q, (int64_t)i);
        query_text(&q, row->layer);
        query_text(&q, row->format);
        finite_real(&q, row->low);
        finite_real(&q, row->high);
        finite_real(&q, row->seen_low);
        finite_real(&q, row->seen_high);
        finite_real(&q, row->histogram ? row->histogram_low : NAN);
        finite_real(&q, row->histogram ? row->histogram_width : NAN);
        query_text(&q, row->histogram);
        query_text(&q, row->error_name);
        finite_real(&q, row->error);
        finite_real(&q, row->score_lost);
        query_integer(&q, row->bytes_f32);
        query_integer(&q, row->bytes_packed);
        TRY(query_done(&q));
    }
out:
    query_close(&q);
    return status;
}

int store_run(struct store *store, const struct run_record *record) {
    int status = 0;
    int64_t artifact_id = 0, run_id = 0;
    void *stage_ids = NULL;
    TRY(memory_take(&stage_ids, record->stage_count, sizeof(int64_t)));
    TRY(store_begin(store));
    TRY(earlier_remove(store, record->cell_id, record->session_id, record->kind, record->round));
    if (record->artifact) TRY(artifact_add(store, record->artifact, &artifact_id));
    TRY(run_add(store, record, artifact_id, &run_id));
    TRY(stages_add(store, run_id, record->stages, record->stage_count, stage_ids));
    TRY(metrics_add(store, run_id, record, stage_ids));
    TRY(samples_add(store, run_id, record->samples, record->sample_count));
    TRY(counters_add(store, run_id, record->counters, record->counter_count));
    TRY(outcomes_add(store, run_id, record->outcomes, record->outcome_count));
    TRY(curve_add(store, run_id, record));
    TRY(layers_add(store, run_id, record));
    TRY(store_commit(store));
out:
    if (status < 0) store_rollback(store);
    memory_release(stage_ids);
    return status;
}

int store_run_exists(struct store *store, int64_t cell_id, int64_t session_id, const char *kind, int64_t round,
                     bool any_status, bool *exists) {
    int status = 0;
    struct query q = {0};
    *exists = false;
    TRY(query_open(&q, store,
                   "SELECT 1 FROM run WHERE cell_id = ? AND session_id = ? AND kind = ? AND round = ?"
                   " AND (? OR status = 'ok')"));
    query_integer(&q, cell_id);
    query_integer(&q, session_id);
    query_text(&q, kind);
    query_integer(&q, round);
    query_integer(&q, any_status);
    TRY(query_row(&q, exists));
out:
    query_close(&q);
    return status;
}

static bool file_has(const char *path, int64_t bytes) {
    struct stat info;
    return stat(path, &info) == 0 && (int64_t)info.st_size == bytes;
}

int store_build_cached(struct store *store, const char *cell_key, int64_t *run_id, char *artifact_path, size_t size,
                       char artifact_hash[65]) {
    int status = 0;
    struct query q = {0};
    bool row;
    char name[96];
    *run_id = 0;
    TRY(query_open(&q, store,
                   "SELECT r.id, a.path, a.bytes, a.hash FROM run r JOIN cell c ON c.id = r.cell_id"
                   " JOIN artifact a ON a.id = r.artifact_id"
                   " WHERE c.key = ? AND r.kind = 'build' AND r.status = 'ok' ORDER BY r.id DESC"));
    query_text(&q, cell_key);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        const char *path = query_get_text(&q, 1), *hash = query_get_text(&q, 3);
        int64_t bytes = query_get_integer(&q, 2);
        if (strlen(path) >= size || strlen(hash) != 64) continue;
        memcpy(artifact_path, path, strlen(path) + 1);
        /* Paths hold from where runexp was started: the folder may have been moved since, or the user gone elsewhere.
         */
        snprintf(name, sizeof name, "artifacts/%s.safetensors", hash);
        if (!file_has(path, bytes) &&
            (path_beside(store->path, name, artifact_path, size) >= size || !file_has(artifact_path, bytes)))
            continue;
        *run_id = query_get_integer(&q, 0);
        memcpy(artifact_hash, hash, 65);
        break;
    }
out:
    query_close(&q);
    return status;
}

/* Run one "INSERT … SELECT … WHERE run_id = ?2" with the new run as ?1 and the old one as ?2. */
static int rows_copy(struct store *store, const char *sql, int64_t new_run, int64_t old_run) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store, sql));
    query_integer(&q, new_run);
    query_integer(&q, old_run);
    TRY(query_done(&q));
out:
    query_close(&q);
    return status;
}

int store_run_copy(struct store *store, int64_t run_id, int64_t cell_id, int64_t session_id, const char *uuid) {
    static const char *const copies[] = {
        ("INSERT INTO stage (run_id, ordinal, technique, version, options, wall_ms, cached, linear_bytes, total_bytes)"
         " SELECT ?1, ordinal, technique, version, options, wall_ms, 1, linear_bytes, total_bytes FROM stage"
         " WHERE run_id = ?2 ORDER BY ordinal"),
        ("INSERT INTO metric (run_id, stage_id, name, unit, value) SELECT ?1, (SELECT n.id FROM stage n JOIN stage o"
         " ON o.ordinal = n.ordinal WHERE n.run_id = ?1 AND o.id = m.stage_id), name, unit, value FROM metric m"
         " WHERE run_id = ?2 ORDER BY m.id"),
        ("INSERT INTO counter (run_id, meter, batch, name, unit, value, reason, enabled_ns, running_ns)"
         " SELECT ?1, meter, batch, name, unit, value, reason, enabled_ns, running_ns FROM counter WHERE run_id = ?2"
         " ORDER BY id"),
        ("INSERT INTO outcome (run_id, name, type, items, data) SELECT ?1, name, type, items, data FROM outcome"
         " WHERE run_id = ?2 ORDER BY id"),
        ("INSERT INTO curve SELECT ?1, stage, step, loss, rate, gradient_norm, seconds FROM curve WHERE run_id = ?2"),
        ("INSERT INTO evaluation SELECT ?1, stage, step, metric, value FROM evaluation WHERE run_id = ?2"),
        ("INSERT INTO layer SELECT ?1, stage, ordinal, layer, format, low, high, seen_low, seen_high, histogram_low,"
         " histogram_width, histogram, error_name, error, score_lost, bytes_f32, bytes_packed FROM layer"
         " WHERE run_id = ?2")};
    int status = 0;
    struct query q = {0};
    TRY(store_begin(store));
    TRY(earlier_remove(store, cell_id, session_id, "build", 0));
    TRY(query_open(&q, store,
                   "INSERT INTO run (uuid, cell_id, session_id, kind, round, position, status, reason, signal,"
                   " exit_code, artifact_id, started_at, wall_ms, overhead_ms, peak_rss_bytes, log)"
                   " SELECT ?, ?, ?, kind, round, position, status, reason, signal, exit_code, artifact_id,"
                   " strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), wall_ms, overhead_ms, peak_rss_bytes, log"
                   " FROM run WHERE id = ? AND kind = 'build' AND round = 0"));
    query_text(&q, uuid);
    query_integer(&q, cell_id);
    query_integer(&q, session_id);
    query_integer(&q, run_id);
    TRY(query_done(&q));
    if (sqlite3_changes(store->db) != 1)
        FAIL(E_NOT_FOUND, "%s: there is no build run %lld to copy", store->path, (long long)run_id);
    int64_t copy = sqlite3_last_insert_rowid(store->db);
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) TRY(rows_copy(store, copies[i], copy, run_id));
    TRY(store_commit(store));
out:
    query_close(&q);
    if (status < 0) store_rollback(store);
    return status;
}
