/* `runexp list`: experiments, sessions or cells, each with its state, as loudly for what failed as for what went well.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/option.h"
#include "store/query.h"
#include "verbs/arguments.h"
#include "verbs/lookup.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

/* The state of a cell in a session: its first run that is not ok, else ok, else missing. */
#define CELL_STATE                                                                                                     \
    "ifnull((SELECT r.status FROM run r WHERE r.cell_id = c.id AND r.session_id = s.id"                                \
    " ORDER BY r.status = 'ok', r.kind, r.round LIMIT 1), 'missing')"
#define CELL_REASON                                                                                                    \
    "(SELECT nullif(r.reason, '') FROM run r WHERE r.cell_id = c.id AND r.session_id = s.id AND r.status <> 'ok'"      \
    " ORDER BY r.kind, r.round LIMIT 1)"

static const struct {
    const char *word, *sql; /* ?1: experiment name or NULL */
} lists[] = {
    {"experiments",
     "SELECT experiment, sessions, newest, state, count(*) AS cells, sum(cell_state = 'ok') AS ok,"
     " sum(cell_state = 'skipped') AS skipped, sum(cell_state NOT IN ('ok', 'skipped')) AS not_ok, git_commit, cpu"
     " FROM (SELECT e.name AS experiment, (SELECT count(*) FROM session o JOIN experiment p ON p.id = o.experiment_id"
     " WHERE p.name = e.name) AS sessions, s.started_at AS newest, s.id AS session_id,"
     " iif(s.ended_at IS NULL, 'unfinished', 'finished') AS state, b.git_commit, h.cpu, " CELL_STATE " AS cell_state"
     " FROM newest_session n JOIN session s ON s.id = n.session_id JOIN experiment e ON e.id = s.experiment_id"
     " JOIN build b ON b.id = s.build_id JOIN host h ON h.id = s.host_id JOIN cell c ON c.experiment_id = e.id"
     " WHERE ?1 IS NULL OR e.name = ?1) GROUP BY session_id ORDER BY experiment"},
    {"sessions",
     "SELECT s.id AS session, e.name AS experiment, s.started_at,"
     " iif(s.ended_at IS NULL, 'unfinished', 'finished') AS state, s.rounds, s.samples,"
     " iif(s.timing_valid, 'valid', ifnull(s.timing_note, 'not valid')) AS timing, s.load_average, b.git_commit,"
     " b.mode, h.cpu, s.warnings FROM session s JOIN experiment e ON e.id = s.experiment_id"
     " JOIN build b ON b.id = s.build_id JOIN host h ON h.id = s.host_id WHERE ?1 IS NULL OR e.name = ?1"
     " ORDER BY s.id"},
    {"cells",
     "SELECT e.name AS experiment, c.label AS cell, " CELL_STATE " AS status, a.metric_name AS metric,"
     " a.metric_value AS value, a.size_bytes, a.executes, a.latency_ms_median AS latency_ms, a.latency_ratio AS ratio,"
     " " CELL_REASON " AS reason FROM newest_session n JOIN session s ON s.id = n.session_id"
     " JOIN experiment e ON e.id = s.experiment_id JOIN cell c ON c.experiment_id = e.id"
     " LEFT JOIN result_all a ON a.cell_id = c.id AND a.session_id = s.id WHERE ?1 IS NULL OR e.name = ?1"
     " ORDER BY e.name, c.ordinal, c.id"},
};

int verb_list(int argc, char **argv) {
    int status = 0;
    const char *db = DEFAULT_DB, *format = "table";
    const struct flag flags[] = {FLAG_DB(&db), FLAG_FORMAT(&format), FLAG_END};
    struct store store = {0};
    struct query q = {0};
    struct table table = {0};
    size_t which = 0;
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 0, 2, "experiments, sessions or cells, and an experiment"));
    if (argc > 1) {
        const char *const words[] = {"experiments", "sessions", "cells", NULL};
        while (which < 3 && strcmp(argv[1], words[which]) != 0) which++;
        const char *near = which == 3 ? word_nearest(words, argv[1]) : NULL;
        if (which == 3)
            FAIL(E_ARGUMENT, "list expects experiments, sessions or cells (got \"%s\"%s%s%s)", argv[1],
                 near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    TRY(store_open(&store, db, STORE_READ));
    if (argc > 2) TRY(lookup_experiment(&store, argv[2]));
    TRY(query_open(&q, &store, lists[which].sql));
    query_text(&q, argc > 2 ? argv[2] : NULL);
    TRY(table_open_query(&table, &q));
    TRY(table_print(&table, table_format_of(format), stdout));
    status = EXIT_OK;
out:
    query_close(&q);
    table_close(&table);
    store_close(&store);
    return status;
}
