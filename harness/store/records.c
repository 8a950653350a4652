/* Finding or adding the rows that runs hang on: hosts, builds, experiments, sessions, cells, yardsticks.
 *
 * "Find or insert" runs inside one write transaction, so two programs on one database cannot both insert.
 */
#include "store/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/hash.h"
#include "store/query.h"

static const char *text_or_empty(const char *text) { return text ? text : ""; }

/* Now, as 2026-01-31T12:00:00Z. */
static void now_text(char text[32]) {
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

/* The integer in the first column of a bound query's first row. */
static int read_id(struct query *query, int64_t *id, bool *found) {
    int status = 0;
    TRY(query_row(query, found));
    if (*found) {
        *id = query_get_integer(query, 0);
        query_reset(query);
    }
out:
    return status;
}

static void host_fingerprint(const struct host_record *record, char hex[HASH_HEX]) {
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, text_or_empty(record->cpu));
    hash_text(&hash, text_or_empty(record->cpu_flags));
    hash_text(&hash, text_or_empty(record->caches));
    hash_text(&hash, text_or_empty(record->virtual));
    hash_number(&hash, (uint64_t)record->cores);
    /* The kernel takes a little memory of its own, more or less with each version. */
    hash_number(&hash, (uint64_t)((record->memory_bytes + (INT64_C(1) << 29)) >> 30));
    hash_close(&hash, hex);
}

int store_host(struct store *store, const struct host_record *record, int64_t *id) {
    int status = 0;
    struct query find = {0}, add = {0};
    bool found;
    char fingerprint[HASH_HEX];
    host_fingerprint(record, fingerprint);
    TRY(store_begin(store));
    TRY(query_open(&find, store, "SELECT id FROM host WHERE fingerprint = ? AND kernel = ? AND governor IS ?"));
    query_text(&find, fingerprint);
    query_text(&find, text_or_empty(record->kernel));
    query_text(&find, record->governor && *record->governor ? record->governor : NULL);
    TRY(read_id(&find, id, &found));
    if (!found) {
        TRY(query_open(&add, store,
                       "INSERT INTO host (fingerprint, cpu, cpu_flags, cores, caches, memory_bytes, kernel, governor,"
                       " virtual) VALUES (?,?,?,?,?,?,?,?,?)"));
        query_text(&add, fingerprint);
        query_text(&add, text_or_empty(record->cpu));
        query_text(&add, text_or_empty(record->cpu_flags));
        query_integer(&add, record->cores);
        query_text(&add, text_or_empty(record->caches));
        query_integer(&add, record->memory_bytes);
        query_text(&add, text_or_empty(record->kernel));
        query_text(&add, record->governor && *record->governor ? record->governor : NULL);
        query_text(&add, record->virtual && *record->virtual ? record->virtual : NULL);
        TRY(query_done(&add));
        *id = sqlite3_last_insert_rowid(store->db);
    }
    TRY(store_commit(store));
out:
    query_close(&find);
    query_close(&add);
    if (status < 0) store_rollback(store);
    return status;
}

int store_build(struct store *store, const struct build_record *record, int64_t *id) {
    int status = 0;
    struct query find = {0}, add = {0};
    struct hash hash;
    bool found;
    char fingerprint[HASH_HEX];
    hash_open(&hash);
    hash_text(&hash, text_or_empty(record->version));
    hash_text(&hash, text_or_empty(record->commit));
    hash_text(&hash, text_or_empty(record->mode));
    hash_text(&hash, text_or_empty(record->compiler));
    hash_text(&hash, text_or_empty(record->flags));
    hash_text(&hash, text_or_empty(record->blas));
    hash_text(&hash, text_or_empty(record->onednn));
    hash_number(&hash, record->dirty);
    hash_close(&hash, fingerprint);
    TRY(store_begin(store));
    TRY(query_open(&find, store, "SELECT id FROM build WHERE fingerprint = ?"));
    query_text(&find, fingerprint);
    TRY(read_id(&find, id, &found));
    if (!found) {
        TRY(query_open(
            &add, store,
            "INSERT INTO build (fingerprint, version, git_commit, dirty, mode, compiler, flags, blas, onednn)"
            " VALUES (?,?,?,?,?,?,?,?,?)"));
        query_text(&add, fingerprint);
        query_text(&add, text_or_empty(record->version));
        query_text(&add, text_or_empty(record->commit));
        query_integer(&add, record->dirty);
        query_text(&add, text_or_empty(record->mode));
        query_text(&add, text_or_empty(record->compiler));
        query_text(&add, text_or_empty(record->flags));
        query_text(&add, text_or_empty(record->blas));
        query_text(&add, record->onednn);
        TRY(query_done(&add));
        *id = sqlite3_last_insert_rowid(store->db);
    }
    TRY(store_commit(store));
out:
    query_close(&find);
    query_close(&add);
    if (status < 0) store_rollback(store);
    return status;
}

int store_experiment(struct store *store, const struct experiment_record *record, int64_t *id) {
    int status = 0;
    struct query find = {0}, add = {0};
    bool found;
    TRY(store_begin(store));
    TRY(query_open(&find, store, "SELECT id FROM experiment WHERE name = ? AND hash = ? AND data_hash = ?"));
    query_text(&find, record->name);
    query_text(&find, record->hash);
    query_text(&find, text_or_empty(record->data_hash));
    TRY(read_id(&find, id, &found));
    if (!found) {
        TRY(query_open(&add, store,
                       "INSERT INTO experiment (name, hash, path, description, text, task, data_hash, model,"
                       " primary_metric, higher_is_better, classes, primary_unit, estimator)"
                       " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"));
        query_text(&add, record->name);
        query_text(&add, record->hash);
        query_text(&add, text_or_empty(record->path));
        query_text(&add, text_or_empty(record->description));
        query_text(&add, text_or_empty(record->text));
        query_text(&add, text_or_empty(record->task));
        query_text(&add, text_or_empty(record->data_hash));
        query_text(&add, text_or_empty(record->model));
        query_text(&add, text_or_empty(record->primary_metric));
        query_integer(&add, record->higher_is_better);
        query_text(&add, record->classes);
        query_text(&add, text_or_empty(record->primary_unit));
        query_text(&add, record->estimator ? record->estimator : "accuracy");
        TRY(query_done(&add));
        *id = sqlite3_last_insert_rowid(store->db);
    }
    TRY(store_commit(store));
out:
    query_close(&find);
    query_close(&add);
    if (status < 0) store_rollback(store);
    return status;
}

int store_cell(struct store *store, const struct cell_record *record, int64_t *id) {
    int status = 0;
    struct query find = {0}, add = {0};
    bool found;
    TRY(store_begin(store));
    TRY(query_open(&find, store, "SELECT id FROM cell WHERE experiment_id = ? AND key = ?"));
    query_integer(&find, record->experiment_id);
    query_text(&find, record->key);
    TRY(read_id(&find, id, &found));
    if (!found) {
        TRY(query_open(&add, store,
                       "INSERT INTO cell (experiment_id, key, label, ordinal, pipeline, options, threads, seed, gemm,"
                       " is_baseline, baseline_key, storage) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"));
        query_integer(&add, record->experiment_id);
        query_text(&add, record->key);
        query_text(&add, record->label);
        query_integer(&add, record->ordinal);
        query_text(&add, text_or_empty(record->pipeline));
        query_text(&add, text_or_empty(record->options));
        query_integer(&add, record->threads);
        query_integer(&add, (int64_t)record->seed);
        query_text(&add, text_or_empty(record->gemm));
        query_integer(&add, record->is_baseline);
        query_text(&add, text_or_empty(record->baseline_key));
        query_text(&add, record->storage ? record->storage : "f32");
        TRY(query_done(&add));
        *id = sqlite3_last_insert_rowid(store->db);
    }
    TRY(store_commit(store));
out:
    query_close(&find);
    query_close(&add);
    if (status < 0) store_rollback(store);
    return status;
}

int store_session_unfinished(struct store *store, int64_t experiment_id, int64_t host_id, int64_t build_id,
                             uint32_t cpumask, int64_t *id) {
    int status = 0;
    struct query q = {0};
    bool found;
    *id = 0;
    TRY(query_open(&q, store,
                   "SELECT s.id FROM session s JOIN experiment e ON e.id = s.experiment_id WHERE s.experiment_id = ?"
                   " AND s.host_id = ? AND s.build_id = ? AND s.cpumask = ? AND s.ended_at IS NULL AND NOT EXISTS"
                   " (SELECT 1 FROM newest_session n WHERE n.experiment = e.name AND n.session_id > s.id) ORDER BY "
                   "s.id DESC LIMIT 1"));
    query_integer(&q, experiment_id);
    query_integer(&q, host_id);
    query_integer(&q, build_id);
    query_integer(&q, cpumask);
    TRY(read_id(&q, id, &found));
out:
    query_close(&q);
    return status;
}

int store_session_done(struct store *store, int64_t experiment_id, int64_t host_id, int64_t build_id, uint32_t cpumask,
                       const char *command, int64_t *id) {
    int status = 0;
    struct query q = {0};
    bool found;
    *id = 0;
    TRY(query_open(
        &q, store,
        "SELECT s.id FROM session s JOIN experiment e ON e.id = s.experiment_id JOIN session u ON u.id > s.id AND"
        " u.host_id = s.host_id AND u.build_id = s.build_id AND u.cpumask = s.cpumask AND u.command = s.command AND"
        " u.ended_at IS NULL JOIN experiment f ON f.id = u.experiment_id AND f.name <> e.name WHERE s.experiment_id = ?"
        " AND s.host_id = ? AND s.build_id = ? AND s.cpumask = ? AND s.command = ? AND s.ended_at IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM run r WHERE r.session_id = s.id AND r.status NOT IN ('ok', 'skipped'))"
        " AND NOT EXISTS (SELECT 1 FROM session b WHERE b.id > s.id AND b.id < u.id AND"
        " (b.command <> s.command OR b.ended_at IS NULL))"
        " AND NOT EXISTS (SELECT 1 FROM newest_session n WHERE n.experiment = e.name AND n.session_id > s.id)"
        " AND NOT EXISTS (SELECT 1 FROM newest_session n WHERE n.experiment = f.name AND n.session_id > u.id)"
        " ORDER BY s.id DESC LIMIT 1"));
    query_integer(&q, experiment_id);
    query_integer(&q, host_id);
    query_integer(&q, build_id);
    query_integer(&q, cpumask);
    query_text(&q, text_or_empty(command));
    TRY(read_id(&q, id, &found));
out:
    query_close(&q);
    return status;
}

int store_session_built(struct store *store, int64_t session_id, size_t *count) {
    int status = 0;
    struct query q = {0};
    int64_t cells = 0;
    bool found;
    TRY(query_open(&q, store, "SELECT count(DISTINCT cell_id) FROM run WHERE session_id = ? AND kind = 'build'"));
    query_integer(&q, session_id);
    TRY(read_id(&q, &cells, &found));
    *count = (size_t)cells;
out:
    query_close(&q);
    return status;
}

int store_session_begin(struct store *store, const struct session_record *record, int64_t *id) {
    int status = 0;
    struct query q = {0};
    char now[32];
    now_text(now);
    TRY(query_open(
        &q, store,
        "INSERT INTO session (experiment_id, host_id, build_id, started_at, command, cpumask, cpu_flags_used,"
        " load_average, warnings, order_seed, rounds, samples, warmup, timing_valid, timing_note)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    query_integer(&q, record->experiment_id);
    query_integer(&q, record->host_id);
    query_integer(&q, record->build_id);
    query_text(&q, now);
    query_text(&q, text_or_empty(record->command));
    query_integer(&q, record->cpumask);
    query_text(&q, text_or_empty(record->cpu_flags_used));
    query_real(&q, record->load_average);
    query_text(&q, record->warnings);
    query_integer(&q, (int64_t)record->order_seed);
    query_integer(&q, record->rounds);
    query_integer(&q, record->samples);
    query_integer(&q, record->warmup);
    query_integer(&q, record->timing_valid);
    query_text(&q, record->timing_note);
    TRY(query_done(&q));
    *id = sqlite3_last_insert_rowid(store->db);
out:
    query_close(&q);
    return status;
}

int store_session_end(struct store *store, int64_t session_id) {
    int status = 0;
    struct query q = {0};
    char now[32];
    now_text(now);
    TRY(query_open(&q, store, "UPDATE session SET ended_at = ? WHERE id = ?"));
    query_text(&q, now);
    query_integer(&q, session_id);
    TRY(query_done(&q));
    if (sqlite3_changes(store->db) != 1)
        FAIL(E_NOT_FOUND, "%s: there is no session %lld", store->path, (long long)session_id);
out:
    query_close(&q);
    return status;
}

int store_session_order_seed(struct store *store, int64_t session_id, uint64_t *order_seed) {
    int status = 0;
    struct query q = {0};
    bool found;
    int64_t seed = 0;
    TRY(query_open(&q, store, "SELECT order_seed FROM session WHERE id = ?"));
    query_integer(&q, session_id);
    TRY(read_id(&q, &seed, &found));
    if (!found) FAIL(E_NOT_FOUND, "%s: there is no session %lld", store->path, (long long)session_id);
    *order_seed = (uint64_t)seed;
out:
    query_close(&q);
    return status;
}

int store_yardstick(struct store *store, const char *task, const char *data_hash, const char *name,
                    double accuracy_frac, const uint8_t *correct, size_t items) {
    int status = 0;
    struct query q = {0};
    TRY(query_open(&q, store,
                   "INSERT INTO yardstick (task, data_hash, name, accuracy_frac, correct) VALUES (?,?,?,?,?)"
                   " ON CONFLICT (task, data_hash, name) DO UPDATE SET accuracy_frac = excluded.accuracy_frac,"
                   " correct = excluded.correct"));
    query_text(&q, task);
    query_text(&q, data_hash);
    query_text(&q, name);
    query_real(&q, accuracy_frac);
    query_blob(&q, correct ? (const void *)correct : "", items);
    TRY(query_done(&q));
out:
    query_close(&q);
    return status;
}

int store_yardsticks_known(struct store *store, const char *task, const char *data_hash, size_t *count) {
    int status = 0;
    struct query q = {0};
    int64_t number = 0;
    bool found;
    TRY(query_open(&q, store, "SELECT count(*) FROM yardstick WHERE task = ? AND data_hash = ?"));
    query_text(&q, task);
    query_text(&q, data_hash);
    TRY(read_id(&q, &number, &found));
    *count = (size_t)number;
out:
    query_close(&q);
    return status;
}
