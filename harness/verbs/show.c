/* `runexp show`: everything stored about one cell, or about the newest session of one experiment.
 *
 * One table of (section, item, value, unit, note), so that each format carries the whole of it. Each section is one
 * statement that gives item, value, unit and note; only bulky columns (the log, per-item results) are left out
 * or summed up.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "store/query.h"
#include "verbs/arguments.h"
#include "verbs/lookup.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

struct section {
    const char *name, *sql; /* ?1: cell, ?2: session */
};

static const struct section session_sections[] = {
    {"session",
     "SELECT 'number', s.id, NULL, NULL FROM session s WHERE s.id = ?2 UNION ALL"
     " SELECT 'started', started_at, NULL, iif(ended_at IS NULL, 'under way or interrupted', 'ended ' || ended_at)"
     " FROM session WHERE id = ?2 UNION ALL"
     " SELECT 'command', command, NULL, NULL FROM session WHERE id = ?2 UNION ALL"
     " SELECT 'rounds x samples', rounds || ' x ' || samples, NULL, warmup || ' warm-ups before each'"
     " FROM session WHERE id = ?2 UNION ALL"
     " SELECT 'order seed', order_seed, NULL, NULL FROM session WHERE id = ?2 UNION ALL"
     " SELECT 'cpu flags used', cpu_flags_used, NULL, printf('mask 0x%x', cpumask) FROM session WHERE id = ?2"
     " UNION ALL SELECT 'load average', load_average, NULL, warnings FROM session WHERE id = ?2 UNION ALL"
     " SELECT 'timing', iif(timing_valid, 'valid', 'not valid'), NULL, timing_note FROM session"
     " WHERE id = ?2"},
    {"host",
     "SELECT 'cpu', h.cpu, NULL, h.virtual FROM host h JOIN session s ON s.host_id = h.id WHERE s.id = ?2"
     " UNION ALL SELECT 'cpu flags', h.cpu_flags, NULL, NULL FROM host h JOIN session s ON s.host_id = h.id"
     " WHERE s.id = ?2 UNION ALL SELECT 'cores', h.cores, NULL, NULL FROM host h JOIN session s ON"
     " s.host_id = h.id WHERE s.id = ?2 UNION ALL SELECT 'caches', h.caches, NULL, NULL FROM host h JOIN"
     " session s ON s.host_id = h.id WHERE s.id = ?2 UNION ALL SELECT 'memory', h.memory_bytes, 'bytes', NULL"
     " FROM host h JOIN session s ON s.host_id = h.id WHERE s.id = ?2 UNION ALL SELECT 'kernel', h.kernel, NULL,"
     " iif(h.governor IS NULL, NULL, 'governor ' || h.governor) FROM host h JOIN session s ON s.host_id = h.id"
     " WHERE s.id = ?2"},
    {"build", "SELECT 'commit', b.git_commit, NULL, iif(b.dirty, 'work tree differs', NULL) FROM build b JOIN session s"
              " ON s.build_id = b.id WHERE s.id = ?2 UNION ALL SELECT 'version', b.version, NULL, b.mode FROM build b"
              " JOIN session s ON s.build_id = b.id WHERE s.id = ?2 UNION ALL SELECT 'compiler', b.compiler, NULL,"
              " b.flags FROM build b JOIN session s ON s.build_id = b.id WHERE s.id = ?2 UNION ALL SELECT 'blas',"
              " b.blas, NULL, NULL FROM build b JOIN session s ON s.build_id = b.id WHERE s.id = ?2 UNION ALL SELECT"
              " 'onednn', b.onednn, NULL, NULL FROM build b JOIN session s ON s.build_id = b.id WHERE s.id = ?2"},
    {NULL, NULL},
};

static const struct section experiment_sections[] = {
    {"experiment",
     "SELECT 'name', e.name, NULL, e.description FROM experiment e JOIN session s ON s.experiment_id = e.id"
     " WHERE s.id = ?2 UNION ALL SELECT 'file', e.path, NULL, 'hash ' || substr(e.hash, 1, 16)"
     " FROM experiment e JOIN session s ON s.experiment_id = e.id WHERE s.id = ?2 UNION ALL"
     " SELECT 'task', e.task, NULL, 'data ' || substr(e.data_hash, 1, 16) FROM experiment e"
     " JOIN session s ON s.experiment_id = e.id WHERE s.id = ?2 UNION ALL"
     " SELECT 'model', e.model, NULL, NULL FROM experiment e JOIN session s ON s.experiment_id = e.id"
     " WHERE s.id = ?2 UNION ALL SELECT 'primary metric', e.primary_metric, NULL,"
     " iif(e.higher_is_better, 'higher is better', 'lower is better') FROM experiment e"
     " JOIN session s ON s.experiment_id = e.id WHERE s.id = ?2"},
    {"yardstick", "SELECT y.name, y.accuracy_frac, 'frac', length(y.correct) || ' items' FROM yardstick y"
                  " JOIN experiment e ON e.task = y.task AND e.data_hash = y.data_hash"
                  " JOIN session s ON s.experiment_id = e.id WHERE s.id = ?2 ORDER BY y.accuracy_frac"},
    {"result", "SELECT cell, metric_value, metric_name, printf('%d bytes, %.2f bits per weight, %s%s', size_bytes,"
               " bits_per_weight, executes, iif(latency_ms_median IS NULL, '', printf(', %.4g ms, ratio %.3f (%.3f to"
               " %.3f) at batch %d', latency_ms_median, latency_ratio, latency_ratio_lo, latency_ratio_hi, batch)))"
               " FROM result_all WHERE session_id = ?2 ORDER BY ordinal"},
    {"not ok", "SELECT c.label, r.status, r.kind || ' ' || r.round, r.reason FROM run r JOIN cell c ON c.id = r.cell_id"
               " WHERE r.session_id = ?2 AND r.status <> 'ok' ORDER BY c.ordinal, r.kind, r.round"},
    {NULL, NULL},
};

static const struct section cell_sections[] = {
    {"cell", "SELECT 'label', label, NULL, iif(is_baseline, 'the baseline', pipeline) FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'key', key, NULL, NULL FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'options', options, NULL, 'as requested' FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'threads', threads, NULL, NULL FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'seed', seed, NULL, NULL FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'gemm', gemm, NULL, NULL FROM cell WHERE id = ?1 UNION ALL"
             " SELECT 'baseline', ifnull((SELECT b.label FROM cell b WHERE b.key = c.baseline_key AND"
             " b.experiment_id = c.experiment_id), c.baseline_key), NULL, NULL FROM cell c WHERE id = ?1"},
    {"build run", "SELECT 'status', status, NULL, trim(reason || iif(signal IS NULL, '', ' signal ' || signal) ||"
                  " iif(exit_code = 0, '', ' exit code ' || exit_code)) FROM run WHERE cell_id = ?1 AND session_id = ?2"
                  " AND kind = 'build' UNION ALL SELECT 'wall time', wall_ms, 'ms', 'started ' || started_at FROM run"
                  " WHERE cell_id = ?1 AND session_id = ?2 AND kind = 'build' UNION ALL SELECT 'overhead', overhead_ms,"
                  " 'ms', NULL FROM run WHERE cell_id = ?1 AND session_id = ?2 AND kind = 'build' UNION ALL"
                  " SELECT 'peak memory', peak_rss_bytes, 'bytes', NULL FROM run WHERE cell_id = ?1 AND session_id = ?2"
                  " AND kind = 'build'"},
    {"stage", "SELECT t.ordinal || ' ' || t.technique, t.options, NULL, printf('version %d, %.1f ms%s', t.version,"
              " t.wall_ms, iif(t.cached, ', from cache', '')) FROM stage t JOIN run r ON r.id = t.run_id"
              " WHERE r.cell_id = ?1 AND r.session_id = ?2 ORDER BY t.ordinal"},
    {"curve",
     "SELECT t.ordinal || ' ' || t.technique || ' ' || p.item, p.value, p.unit, p.note FROM run r"
     " JOIN stage t ON t.run_id = r.id JOIN ("
     "  SELECT run_id, stage, 1 AS place, 'first loss' AS item, loss AS value, NULL AS unit, 'step ' || min(step) AS "
     "note"
     "  FROM curve GROUP BY run_id, stage UNION ALL"
     "  SELECT run_id, stage, 2, 'last loss', loss, NULL, printf('step %d, after %.1f s', max(step), seconds)"
     "  FROM curve GROUP BY run_id, stage UNION ALL"
     "  SELECT run_id, stage, 3, 'best score', value, metric, 'after step ' || step || ', of ' || n || ' scored' FROM ("
     "   SELECT v.run_id, v.stage, v.metric, v.value, v.step, count(*) OVER w AS n, row_number() OVER (w ORDER BY"
     "    iif(e.higher_is_better, -v.value, v.value), v.step) AS rank FROM evaluation v JOIN run x ON x.id = v.run_id"
     "    JOIN cell c ON c.id = x.cell_id JOIN experiment e ON e.id = c.experiment_id"
     "    WINDOW w AS (PARTITION BY v.run_id, v.stage, v.metric)) WHERE rank = 1"
     " ) p ON p.run_id = r.id AND p.stage = t.ordinal"
     " WHERE r.cell_id = ?1 AND r.session_id = ?2 ORDER BY t.ordinal, p.place"},
    {"artifact", "SELECT 'path', a.path, NULL, 'sha256 ' || a.hash FROM artifact a JOIN run r ON r.artifact_id = a.id"
                 " WHERE r.cell_id = ?1 AND r.session_id = ?2 AND r.kind = 'build' UNION ALL"
                 " SELECT 'size', a.bytes, 'bytes', a.executes FROM artifact a JOIN run r ON r.artifact_id = a.id"
                 " WHERE r.cell_id = ?1 AND r.session_id = ?2 AND r.kind = 'build' UNION ALL"
                 " SELECT 'linear layers', a.linear_bytes, 'bytes', a.linear_f32_bytes || ' as f32' FROM artifact a"
                 " JOIN run r ON r.artifact_id = a.id WHERE r.cell_id = ?1 AND r.session_id = ?2 AND r.kind = 'build'"
                 " UNION ALL SELECT 'bits per weight', a.bits_per_weight, 'bits', 'with scales and zeros'"
                 " FROM artifact a JOIN run r ON r.artifact_id = a.id WHERE r.cell_id = ?1 AND r.session_id = ?2"
                 " AND r.kind = 'build'"},
    {"metric", "SELECT m.name, m.value, m.unit, ifnull('after stage ' || t.ordinal || ' ' || t.technique,"
               " 'final artifact') FROM metric m JOIN run r ON r.id = m.run_id LEFT JOIN stage t ON t.id = m.stage_id"
               " WHERE r.cell_id = ?1 AND r.session_id = ?2 ORDER BY t.ordinal IS NOT NULL, t.ordinal, m.id"},
    {"comparison", "SELECT k.name || iif(k.batch = 0, '', ' batch ' || k.batch), k.estimate,"
                   " iif(k.lo IS NULL, NULL, printf('%.5g to %.5g', k.lo, k.hi)), printf('n %d%s; %s', k.n,"
                   " iif(k.p_value IS NULL, '', printf(', p %.3g', k.p_value)), k.method) FROM comparison k"
                   " WHERE k.cell_id = ?1 AND k.session_id = ?2 ORDER BY k.batch, k.name"},
    {"counter",
     "SELECT k.meter || ' ' || k.name || ' batch ' || k.batch, avg(k.value), k.unit, nullif(max(k.reason), '')"
     " FROM counter k JOIN run r ON r.id = k.run_id WHERE r.cell_id = ?1 AND r.session_id = ?2"
     " GROUP BY k.meter, k.name, k.batch ORDER BY min(k.id)"},
    {"timing run", "SELECT 'round ' || r.round, r.status, r.peak_rss_bytes || ' bytes', nullif(r.reason, '') FROM run r"
                   " WHERE r.cell_id = ?1 AND r.session_id = ?2 AND r.kind = 'time' ORDER BY r.round"},
    {NULL, NULL},
};

static int sections_add(struct table *table, struct store *store, const struct section *sections, int64_t cell,
                        int64_t session) {
    int status = 0;
    struct query q = {0};
    bool row;
    for (const struct section *section = sections; section->name; section++) {
        TRY(query_open(&q, store, section->sql));
        sqlite3_bind_int64(q.statement, 1, cell);
        /* ?2 is unknown to a section about the cell alone. */
        if (sqlite3_bind_parameter_count(q.statement) > 1) sqlite3_bind_int64(q.statement, 2, session);
        for (;;) {
            TRY(query_row(&q, &row));
            if (!row) break;
            table_add_text(table, section->name);
            for (int i = 0; i < 4; i++) {
                switch (sqlite3_column_type(q.statement, i)) {
                case SQLITE_NULL: table_add_none(table); break;
                case SQLITE_INTEGER: table_add_integer(table, query_get_integer(&q, i)); break;
                case SQLITE_FLOAT: table_add_real(table, query_get_real(&q, i)); break;
                default: table_add_text(table, query_get_text(&q, i));
                }
            }
        }
        query_close(&q);
    }
    status = table->status;
out:
    query_close(&q);
    return status;
}

int verb_show(int argc, char **argv) {
    static const char *const columns[] = {"section", "item", "value", "unit", "note", NULL};
    int status = 0;
    const char *db = DEFAULT_DB, *format = "table";
    const struct flag flags[] = {FLAG_DB(&db), FLAG_FORMAT(&format), FLAG_END};
    struct store store = {0};
    struct table table = {0};
    struct cell_place place = {0};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 1, 1, "one cell or experiment"));
    TRY(store_open(&store, db, STORE_READ));
    TRY(table_open(&table, columns));
    TRY(lookup_session(&store, argv[1], &place.session));
    if (place.session) {
        TRY(sections_add(&table, &store, experiment_sections, 0, place.session));
    } else {
        TRY(lookup_cell(&store, argv[1], &place));
        TRY(sections_add(&table, &store, cell_sections, place.cell, place.session));
    }
    TRY(sections_add(&table, &store, session_sections, place.cell, place.session));
    TRY(table_print(&table, table_format_of(format), stdout));
    status = EXIT_OK;
out:
    table_close(&table);
    store_close(&store);
    return status;
}
