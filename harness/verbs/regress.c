/* `runexp regress`: the newest results of each experiment against what was accepted, one line per verdict;
 * `runexp regress accept`: make the newest results the accepted ones.
 *
 * Made for a nightly line in cron: exit 0 all well, 3 a regression, 4 no verdict, with the reason. An experiment
 * without an accepted baseline and a baseline without an experiment are both "no verdict".
 */
#include <dirent.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/option.h"
#include "store/query.h"
#include "verbs/arguments.h"
#include "verbs/gate.h"
#include "verbs/verbs.h"

struct name_list {
    char **names;
    size_t count;
};

static int name_add(struct name_list *list, const char *name) {
    int status = 0;
    void *block = list->names;
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0) goto out;
    TRY(memory_resize(&block, list->count + 1, sizeof *list->names));
    list->names = block;
    TRY(memory_string(&list->names[list->count], name));
    list->count++;
out:
    return status;
}

static void names_close(struct name_list *list) {
    for (size_t i = 0; i < list->count; i++) memory_release(list->names[i]);
    memory_release(list->names);
}

static int names_stored(struct store *store, struct name_list *list) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, store, "SELECT experiment FROM newest_session ORDER BY experiment"));
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        TRY(name_add(list, query_get_text(&q, 0)));
    }
out:
    query_close(&q);
    return status;
}

static int names_accepted(const char *folder, struct name_list *list) {
    int status = 0;
    char *name = NULL;
    DIR *directory = opendir(folder);
    if (!directory) goto out;
    for (const struct dirent *entry; (entry = readdir(directory));) {
        size_t length = strlen(entry->d_name);
        if (length <= 5 || entry->d_name[0] == '.' || strcmp(entry->d_name + length - 5, ".json") != 0) continue;
        TRY(memory_string_n(&name, entry->d_name, length - 5));
        TRY(name_add(list, name));
        memory_release(name);
        name = NULL;
    }
out:
    memory_release(name);
    if (directory) closedir(directory);
    return status;
}

/* A name that a user wrote must be one of an experiment with results, or with accepted ones. E_NOT_FOUND. */
static int name_check(const struct name_list *known, const char *name, const char *db) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, known->count + 1, sizeof(char *)));
    const char **words = block;
    for (size_t i = 0; i < known->count; i++) {
        if (strcmp(known->names[i], name) == 0) goto out;
        words[i] = known->names[i];
    }
    const char *near = word_nearest(words, name);
    if (near)
        FAIL(E_NOT_FOUND, "%s: no experiment \"%s\", and none was accepted; did you mean \"%s\"?", db, name, near);
    FAIL(E_NOT_FOUND, "%s: no experiment \"%s\", and none was accepted; `runexp list` shows what there is", db, name);
out:
    memory_release(block);
    return status;
}

/* Results with a failed, missing or interrupted part are not accepted: they would hide the part from the gate. */
static int accept_one(struct store *store, const char *folder, const char *name, struct table *table,
                      struct gate_tally *tally) {
    int status = 0;
    char path[4096], detail[4352];
    struct gate_results results = {0};
    size_t scored = 0, refused = tally->count[GATE_IMPOSSIBLE];
    TRY(gate_path(folder, name, path, sizeof path));
    TRY(gate_collect(store, name, &results));
    if (!results.finished)
        gate_line(table, tally, GATE_IMPOSSIBLE, name, NULL, "session", NAN, NAN, NAN,
                  "the newest run is under way, or was interrupted: run it again to complete it");
    for (size_t i = 0; i < results.cell_count; i++) {
        const struct gate_cell *cell = &results.cells[i];
        if (strcmp(cell->status, "ok") == 0) {
            scored++;
        } else if (strcmp(cell->status, "skipped") != 0) {
            snprintf(detail, sizeof detail, "%s%s%.256s", cell->status, *cell->reason ? ": " : "", cell->reason);
            gate_line(table, tally, GATE_IMPOSSIBLE, name, cell->label, "status", NAN, NAN, NAN, detail);
        }
    }
    if (scored == 0) gate_line(table, tally, GATE_IMPOSSIBLE, name, NULL, "session", NAN, NAN, NAN, "no cell is ok");
    if (tally->count[GATE_IMPOSSIBLE] > refused) goto out;
    TRY(gate_write(path, &results));
    snprintf(detail, sizeof detail, "accepted %zu cells of commit %s%s into %s", scored, results.commit,
             results.dirty ? " (work tree differed)" : "", path);
    gate_line(table, tally, GATE_OK, name, NULL, "accept", NAN, NAN, NAN, detail);
    if (!results.timing_valid)
        gate_line(table, tally, GATE_NOTE, name, NULL, "latency", NAN, NAN, NAN,
                  "its timings are not valid, so latency cannot be judged against it");
out:
    gate_results_close(&results);
    return status;
}

/* What keeps one experiment from being judged is a line of its own, and the others go on. */
static int judge_one(struct store *store, const char *folder, const char *name, const struct gate_rules *rules,
                     struct table *table, struct gate_tally *tally) {
    int status = 0;
    char path[4096];
    struct gate_results accepted = {0}, newest = {0};
    status = gate_path(folder, name, path, sizeof path);
    if (status == 0) status = gate_read(path, &accepted);
    if (status == 0) status = gate_collect(store, name, &newest);
    if (status == E_MEMORY) goto out;
    if (status < 0) {
        gate_line(table, tally, GATE_IMPOSSIBLE, name, NULL, "session", NAN, NAN, NAN, error_text());
        status = 0;
        goto out;
    }
    gate_judge(&accepted, &newest, rules, table, tally);
out:
    gate_results_close(&accepted);
    gate_results_close(&newest);
    return status;
}

static int rules_parse(const char *words, struct gate_rules *rules) {
    int status = 0;
    rules->quality = rules->bytes = rules->latency = false;
    for (const char *word = words;; word += strcspn(word, ",") + 1) {
        size_t length = strcspn(word, ",");
        if (length == 7 && strncmp(word, "quality", length) == 0) rules->quality = true;
        else if (length == 5 && strncmp(word, "bytes", length) == 0) rules->bytes = true;
        else if (length == 7 && strncmp(word, "latency", length) == 0) rules->latency = true;
        else FAIL(E_ARGUMENT, "--rules expects words of quality,bytes,latency (got \"%.*s\")", (int)length, word);
        if (!word[length]) break;
    }
out:
    return status;
}

int verb_regress(int argc, char **argv) {
    int status = 0;
    const char *db = DEFAULT_DB, *format = "table", *folder = "results/baselines", *words = "quality,bytes,latency";
    struct gate_rules rules = gate_rules_default();
    const struct flag flags[] = {FLAG_DB(&db),
                                 FLAG_FORMAT(&format),
                                 {.name = "baselines",
                                  .type = FLAG_TEXT,
                                  .value = "DIR",
                                  .help = "where accepted results lie (default results/baselines)",
                                  .target = &folder},
                                 {.name = "rules",
                                  .type = FLAG_TEXT,
                                  .value = "quality,bytes,latency",
                                  .help = "which rules to judge by (default all)",
                                  .target = &words},
                                 {.name = "quality-floor",
                                  .type = FLAG_REAL,
                                  .value = "POINTS",
                                  .help = "smallest loss of quality that matters (default 0.5)",
                                  .target = &rules.quality_floor_points,
                                  .high = 100},
                                 {.name = "bytes-tolerance",
                                  .type = FLAG_REAL,
                                  .value = "PERCENT",
                                  .help = "growth of an artifact that is let pass (default 0.1)",
                                  .target = &rules.bytes_tolerance_pct,
                                  .high = 1000},
                                 {.name = "latency-tolerance",
                                  .type = FLAG_REAL,
                                  .value = "PERCENT",
                                  .help = "slowdown against the baseline cell that is let pass (default 5)",
                                  .target = &rules.latency_tolerance_pct,
                                  .high = 1000},
                                 FLAG_END};
    struct store store = {0};
    struct table table = {0};
    struct gate_tally tally = {0};
    struct name_list names = {0}, known = {0};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    TRY(rules_parse(words, &rules));
    bool accept = argc > 1 && strcmp(argv[1], "accept") == 0;
    TRY(table_open(&table, gate_columns));
    status = store_open(&store, db, STORE_READ);
    if (status < 0 && !accept) {
        /* To a nightly line, no results and unreadable results are the same alarm. */
        log_line(LOG_ERROR, "%s", error_text());
        status = EXIT_NO_VERDICT;
    }
    if (status != 0) goto out;
    TRY(names_stored(&store, &known));
    if (!accept) TRY(names_accepted(folder, &known));
    for (int i = accept ? 2 : 1; i < argc; i++) {
        TRY(name_check(&known, argv[i], db));
        TRY(name_add(&names, argv[i]));
    }
    const struct name_list *list = names.count ? &names : &known;
    for (size_t i = 0; i < list->count; i++) {
        if (accept) TRY(accept_one(&store, folder, list->names[i], &table, &tally));
        else TRY(judge_one(&store, folder, list->names[i], &rules, &table, &tally));
    }
    TRY(table_print(&table, table_format_of(format), stdout));
    status = gate_exit_code(&tally);
    log_line(LOG_INFO, "regress: %zu regressions, %zu without verdict, %zu improvements, %zu ok",
             tally.count[GATE_REGRESSION], tally.count[GATE_IMPOSSIBLE], tally.count[GATE_IMPROVEMENT],
             tally.count[GATE_OK]);
out:
    names_close(&names);
    names_close(&known);
    table_close(&table);
    store_close(&store);
    return status;
}
