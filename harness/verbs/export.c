/* `runexp export`: the result view, unrounded, for spreadsheets and scripts. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "store/query.h"
#include "verbs/arguments.h"
#include "verbs/lookup.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

/* The view `problem`, of every session. */
static const char problem_all[] =
    "(SELECT e.name AS experiment, c.label AS cell, r.kind, r.round, r.status, r.reason, r.signal, r.exit_code,"
    " r.session_id FROM run r JOIN cell c ON c.id = r.cell_id JOIN experiment e ON e.id = c.experiment_id"
    " WHERE r.status <> 'ok')";

int verb_export(int argc, char **argv) {
    int status = 0;
    const char *db = DEFAULT_DB, *format = "csv", *view = "result";
    bool all = false;
    const struct flag flags[] = {
        FLAG_DB(&db),
        FLAG_FORMAT(&format),
        {.name = "view",
         .type = FLAG_CHOICE,
         .value = "result|timing|problem|training|layers",
         .help = "which view: a row per cell, per cell and batch size, per run that is not ok, per step of training, or"
                 " per layer that was quantized",
         .target = &view},
        {.name = "all",
         .type = FLAG_SWITCH,
         .help = "every session, not only the newest of each experiment",
         .target = &all},
        FLAG_END};
    struct store store = {0};
    struct query q = {0};
    struct table table = {0};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(store_open(&store, db, STORE_READ));
    for (int i = 1; i < argc; i++) TRY(lookup_experiment(&store, argv[i]));
    const char *from = view;
    if (all && strcmp(view, "result") == 0) from = "result_all";
    if (all && strcmp(view, "problem") == 0) from = problem_all;
    char *sql =
        sqlite3_mprintf("SELECT v.* FROM %s v WHERE (?1 OR v.session_id IN (SELECT session_id FROM newest_session)) AND"
                        " (?2 IS NULL OR v.experiment IN (SELECT value FROM json_each(?2)))",
                        from);
    if (!sql) FAIL(E_MEMORY, "out of memory for a statement");
    status = query_open(&q, &store, sql);
    sqlite3_free(sql);
    TRY(status);
    sqlite3_str *names = sqlite3_str_new(NULL);
    for (int i = 1; i < argc; i++) sqlite3_str_appendf(names, "%s\"%s\"", i > 1 ? "," : "[", argv[i]);
    if (argc > 1) sqlite3_str_appendall(names, "]");
    char *list = sqlite3_str_finish(names);
    query_integer(&q, all);
    query_text(&q, list);
    status = table_open_query(&table, &q);
    query_close(&q);
    sqlite3_free(list);
    TRY(status);
    TRY(table_print(&table, table_format_of(format), stdout));
    status = EXIT_OK;
out:
    query_close(&q);
    table_close(&table);
    store_close(&store);
    return status;
}
