/* `runexp run` and `runexp plan`: read experiments, print the plan or carry it out, write the report. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "build_info_text.h"
#include "config/experiment.h"
#include "kernels/kernels.h"
#include "plan/plan.h"
#include "report/report.h"
#include "run/forecast.h"
#include "run/lock.h"
#include "run/run.h"
#include "verbs/arguments.h"
#include "verbs/verbs.h"

struct run_words {
    const char *db, *format;
    struct flag_list set, plugin;
    int64_t jobs, cpumask;
    bool dry_run, quiet, retry_failed, fresh, no_timing, no_report, any_build;
};

static void command_line(int argc, char **argv, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "runexp");
    for (int i = 0; i < argc && used < size; i++) used += (size_t)snprintf(text + used, size - used, " %s", argv[i]);
}

/* Timings of a debug, sanitizer or modified build would mislead: refused unless asked, and then marked. */
static int check_build(const struct experiment *experiments, size_t count, const struct run_words *words,
                       bool *marked) {
    int status = 0;
    bool slow = strcmp(build_mode, "release") != 0, timed = false;
    for (size_t i = 0; i < count; i++) timed |= !words->no_timing && experiments[i].measure.rounds > 0;
    *marked = slow || build_dirty;
    if (words->any_build || !timed || !*marked) goto out;
    if (slow)
        FAIL(E_ARGUMENT,
             "this is a %s build: its timings would mislead; build MODE=release, or pass --any-build to store them "
             "marked, or --no-timing",
             build_mode);
    FAIL(E_ARGUMENT,
         "the sources differ from commit %s: timings could not be traced to it; commit, or pass --any-build to store "
         "them marked, or --no-timing",
         build_commit);
out:
    return status;
}

static int print_plans(struct experiment *experiments, size_t count, const struct run_words *words) {
    int status = 0, exit_code = EXIT_OK;
    struct forecast forecast = {0};
    kernels_open((uint32_t)words->cpumask);
    TRY(forecast_open(&forecast, words->db));
    struct plan_view view = {.cached = forecast_cached, .seconds = forecast_seconds, .host = &forecast};
    for (size_t i = 0; i < count; i++) {
        status = forecast_experiment(&forecast, &experiments[i]);
        if (status < 0) { /* its data, as when it is run */
            error_prefix(status, "%s", experiments[i].name);
            if (count == 1) goto out;
            fprintf(stderr, "runexp: %s\n", error_text());
            exit_code = EXIT_USAGE;
            continue;
        }
        TRY(plan_print(stdout, &experiments[i], &view, words->format));
    }
    status = exit_code;
out:
    forecast_close(&forecast);
    return status;
}

/* What came of several experiments: of those that an error ended or with a failed cell, of cells that are ok, of any
 * that ran, and of reports. */
struct run_tally {
    size_t failures, ok;
    bool ran, report_failed;
};

/* Beside the database. As soon as an experiment has ended: the next one may be interrupted. */
static void write_report(const char *name, const struct run_words *words, struct run_tally *tally) {
    char page[4096], folder[4096];
    path_beside(words->db, "report", folder, sizeof folder);
    if (report_write(words->db, name, folder, page, sizeof page) < 0) {
        fprintf(stderr, "runexp: report: %s\n", error_text());
        tally->report_failed = true;
        return;
    }
    printf("report: %s\n", page);
    fflush(stdout);
}

/* An error is of this experiment alone, of its data or its tokenizer, unless it is E_INTERRUPTED. */
static int run_one(struct store *store, struct experiment *experiment, const struct run_words *words,
                   const struct run_settings *settings, struct run_tally *tally) {
    int status = 0;
    struct run_summary summary = {0};
    status = experiment_run(store, experiment, settings, &summary);
    tally->ok += summary.ok;
    tally->ran |= summary.ok || summary.failed;
    tally->failures += status < 0 || summary.failed;
    if (status == E_INTERRUPTED)
        FAIL(E_INTERRUPTED, "interrupted; run the same command again to go on where it stopped");
    if (status < 0) {
        error_prefix(status, "%s", experiment->name);
        goto out;
    }
    fprintf(stderr, "%s: %zu cells: %zu ok, %zu failed, %zu skipped\n", experiment->name, summary.cells, summary.ok,
            summary.failed, summary.skipped);
    if (summary.done)
        fprintf(stderr, "%s: it had ended before this command was interrupted; --fresh runs it again\n",
                experiment->name);
    if (summary.kept)
        fprintf(stderr,
                "%s: %zu of them failed before this session was interrupted; --retry-failed builds them again\n",
                experiment->name, summary.kept);
    if (!words->no_report) write_report(experiment->name, words, tally);
out:
    return status;
}

static int run_all(struct experiment *experiments, size_t count, const struct run_words *words, const char *command) {
    int status = 0, lock = -1;
    struct run_tally tally = {0};
    struct store store = {0};
    struct run_settings settings = {.db_path = words->db,
                                    .command = command,
                                    .jobs = (int)words->jobs,
                                    .cpumask = (uint32_t)words->cpumask,
                                    .quiet = words->quiet,
                                    .retry_failed = words->retry_failed,
                                    .fresh = words->fresh,
                                    .no_timing = words->no_timing};
    TRY(check_build(experiments, count, words, &settings.timing_marked));
    run_catch_signals();
    TRY(file_folders(words->db, "choose another --db"));
    TRY(lock_database(words->db, &lock));
    TRY(store_open(&store, words->db, STORE_WRITE));
    kernels_open(settings.cpumask);
    for (size_t i = 0; i < count; i++) {
        status = run_one(&store, &experiments[i], words, &settings, &tally);
        if (status == E_INTERRUPTED || (status < 0 && count == 1 && !tally.ran)) goto out;
        if (status < 0) fprintf(stderr, "runexp: %s\n", error_text());
    }
    if (!tally.ran || (!tally.ok && !tally.failures)) status = EXIT_USAGE;
    else status = tally.failures || tally.report_failed ? EXIT_CELL_FAILED : EXIT_OK;
out:
    store_close(&store);
    lock_release(&lock);
    return status;
}

static int run_or_plan(int argc, char **argv, bool plan_only) {
    int status = 0;
    const char *sets[argc > 0 ? argc : 1], *plugins[argc > 0 ? argc : 1];
    char command[2048];
    struct experiment *experiments = NULL;
    size_t count = 0;
    struct run_words words = {
        .db = DEFAULT_DB, .format = "table", .jobs = 1, .cpumask = 0xffffffff, .dry_run = plan_only};
    words.set = (struct flag_list){sets, 0, (size_t)argc};
    words.plugin = (struct flag_list){plugins, 0, (size_t)argc};
    const struct flag flags[] = {
        FLAG_DB(&words.db),
        FLAG_FORMAT(&words.format),
        {.name = "set",
         .type = FLAG_LIST,
         .value = "KEY=VALUE",
         .help = "override a value of the config by path, e.g. measure.rounds=3 (repeatable)",
         .target = &words.set},
        {.name = "plugin",
         .type = FLAG_LIST,
         .value = "FILE.so",
         .help = "load a technique plug-in (repeatable)",
         .target = &words.plugin},
        {.name = "dry-run",
         .letter = 'n',
         .type = FLAG_SWITCH,
         .help = "print the plan and stop",
         .target = &words.dry_run},
        {.name = "jobs",
         .letter = 'j',
         .type = FLAG_INTEGER,
         .value = "N",
         .help = "builds at once (timing is never shared; default 1)",
         .target = &words.jobs,
         .low = 1,
         .high = 64},
        {.name = "cpumask",
         .type = FLAG_INTEGER,
         .value = "MASK",
         .help = "which CPU features kernels may use; 0: plain C (default: all)",
         .target = &words.cpumask,
         .low = 0,
         .high = 4294967295.0},
        {.name = "retry-failed",
         .type = FLAG_SWITCH,
         .help = "in a continued session, build again what failed",
         .target = &words.retry_failed},
        {.name = "fresh",
         .type = FLAG_SWITCH,
         .help = "begin a new session instead of continuing an interrupted one",
         .target = &words.fresh},
        {.name = "no-timing", .type = FLAG_SWITCH, .help = "build and score only", .target = &words.no_timing},
        {.name = "no-report", .type = FLAG_SWITCH, .help = "write no report", .target = &words.no_report},
        {.name = "any-build",
         .type = FLAG_SWITCH,
         .help = "allow timings of a debug, sanitizer or modified build, marked as such",
         .target = &words.any_build},
        {.name = "quiet", .letter = 'q', .type = FLAG_SWITCH, .help = "no progress", .target = &words.quiet},
        FLAG_END};
    command_line(argc, argv, command, sizeof command);
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = 0;
        goto out;
    }
    if (argc < 2) FAIL(E_ARGUMENT, "no config given; try: runexp configs/quickstart.yaml");
    for (size_t i = 0; i < words.plugin.count; i++) TRY(technique_load(plugins[i]));
    TRY(experiments_read(&experiments, &count, (const char *const *)argv + 1, (size_t)argc - 1, sets, words.set.count));
    for (size_t i = 0; i < count; i++)
        if (*experiments[i].notes) fputs(experiments[i].notes, stderr);
    if (words.dry_run) TRY(print_plans(experiments, count, &words));
    else TRY(run_all(experiments, count, &words, command));
out:
    if (experiments) experiments_close(experiments, count);
    return status;
}

int verb_run(int argc, char **argv) { return run_or_plan(argc, argv, false); }
int verb_plan(int argc, char **argv) { return run_or_plan(argc, argv, true); }
