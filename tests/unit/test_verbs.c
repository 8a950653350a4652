/* Flags, tables and the verbs that read: list, show, compare, export, run as a user runs them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <math.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/json.h"
#include "store/query.h"
#include "synthetic_db.h"
#include "verbs/arguments.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

static char folder[64], db[96], output[262144];

static int group_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_verbs_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(db, sizeof db, "%s/results.db", folder);
    return synthetic_database(db);
}

static int group_close(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* Run argv with its standard output into `output`. */
static int run(int argc, char **argv) {
    fflush(stdout);
    int keep = dup(1);
    FILE *file = tmpfile();
    assert_non_null(file);
    dup2(fileno(file), 1);
    int status = verb_find(argv[0])->function(argc, argv);
    fflush(stdout);
    dup2(keep, 1);
    close(keep);
    rewind(file);
    output[fread(output, 1, sizeof output - 1, file)] = 0;
    fclose(file);
    return status;
}

/* RUN("list", "cells"): with --db appended. Words are copied, since parsing moves them. */
#define RUN(...)                                                                                                       \
    run((int)(sizeof((char *[]){__VA_ARGS__, "--db", db}) / sizeof(char *)), (char *[]){__VA_ARGS__, "--db", db, NULL})

static size_t lines(void) {
    size_t count = 0;
    for (const char *p = output; *p; p++) count += *p == '\n';
    return count;
}

static void expect(const char *words) {
    if (!strstr(output, words)) fail_msg("no \"%s\" in:\n%s", words, output);
}

static void expect_error(int status, int code, const char *words) {
    assert_int_equal(status, code);
    if (!strstr(error_text(), words)) fail_msg("no \"%s\" in: %s", words, error_text());
}

/* ---- flags ---------------------------------------------------------------------------------------- */
static struct {
    bool quick;
    const char *db, *format, *items[4];
    int64_t rounds;
    double limit;
    struct flag_list list;
} got;

static int parse(int *argc, char **argv) {
    memset(&got, 0, sizeof got);
    got.list = (struct flag_list){.items = got.items, .capacity = 2};
    const struct flag flags[] = {
        FLAG_DB(&got.db),
        FLAG_FORMAT(&got.format),
        {.name = "quick", .letter = 'q', .type = FLAG_SWITCH, .help = "", .target = &got.quick},
        {.name = "rounds",
         .type = FLAG_INTEGER,
         .value = "N",
         .help = "",
         .target = &got.rounds,
         .low = 1,
         .high = 100},
        {.name = "limit", .type = FLAG_REAL, .value = "S", .help = "", .target = &got.limit},
        {.name = "set", .letter = 's', .type = FLAG_LIST, .value = "KEY=VALUE", .help = "", .target = &got.list},
        FLAG_END};
    return arguments_parse(flags, argc, argv);
}
#define PARSE(count, ...)                                                                                              \
    (count = (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), parse(&count, (char *[]){__VA_ARGS__, NULL}))

static void flags_are_parsed(void **state) {
    (void)state;
    char *argv[] = {"list", "a",   "--db=x=y", "-q",       "--rounds", "7", "b",  "--limit", "-2.5",
                    "-s",   "k=v", "--set=w",  "--format", "md",       "-", "--", "--db",    NULL};
    int argc = 17;
    assert_int_equal(parse(&argc, argv), 0);
    assert_int_equal(argc, 5);
    assert_string_equal(argv[1], "a");
    assert_string_equal(argv[2], "b");
    assert_string_equal(argv[3], "-");
    assert_string_equal(argv[4], "--db");
    assert_string_equal(got.db, "x=y");
    assert_string_equal(got.format, "md");
    assert_true(got.quick && got.rounds == 7 && got.limit == -2.5);
    assert_int_equal(got.list.count, 2);
    assert_string_equal(got.items[0], "k=v");
}

static void flags_are_refused(void **state) {
    (void)state;
    int n;
    expect_error(PARSE(n, "list", "--formt", "md"), E_ARGUMENT, "unknown flag --formt, did you mean --format?");
    expect_error(PARSE(n, "list", "--completely-else"), E_ARGUMENT, "see runexp list --help");
    expect_error(PARSE(n, "list", "--form", "md"), E_ARGUMENT, "unknown flag --form");
    expect_error(PARSE(n, "list", "-x"), E_ARGUMENT, "unknown flag -x");
    expect_error(PARSE(n, "list", "-qq"), E_ARGUMENT, "unknown flag -qq");
    expect_error(PARSE(n, "list", "--db"), E_ARGUMENT, "--db expects PATH");
    expect_error(PARSE(n, "list", "--db="), E_ARGUMENT, "--db expects PATH");
    expect_error(PARSE(n, "list", "--quick=1"), E_ARGUMENT, "takes no value");
    expect_error(PARSE(n, "list", "--format", "cs"), E_ARGUMENT, "one of table|csv|jsonl|md");
    expect_error(PARSE(n, "list", "--format", ""), E_ARGUMENT, "one of table|csv|jsonl|md");
    expect_error(PARSE(n, "list", "--rounds", "0"), E_ARGUMENT, "--rounds must be in 1..100 (got 0)");
    expect_error(PARSE(n, "list", "--rounds", "7.5"), E_ARGUMENT, "expects a whole number");
    expect_error(PARSE(n, "list", "--rounds", "7x"), E_ARGUMENT, "expects a whole number");
    expect_error(RUN("doctor", "--cpumask", "4294967296"), E_ARGUMENT, "must be in 0..4294967295 (got 4294967296)");
    expect_error(PARSE(n, "list", "--limit", "nan"), E_ARGUMENT, "expects a number");
    expect_error(PARSE(n, "list", "--set", "a", "--set", "b", "--set", "c"), E_ARGUMENT, "at most 2 times");
}

static void help_for_each_verb(void **state) {
    (void)state;
    const char *const names[] = {"list", "show", "compare", "export", "regress"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[16];
        snprintf(name, sizeof name, "%s", names[i]);
        assert_int_equal(RUN(name, "--help"), EXIT_OK);
        expect("usage: runexp ");
        expect(name);
        expect("--format table|csv|jsonl|md");
    }
    assert_string_equal(verb_nearest("lst"), "list");
    assert_null(verb_find("lst"));
}

/* ---- tables --------------------------------------------------------------------------------------- */
static void table_text(enum table_format format) {
    static const char *const columns[] = {"name", "bytes", "ratio", NULL};
    struct table table = {0};
    char *text = NULL;
    size_t size;
    assert_int_equal(table_open(&table, columns), 0);
    table_add_text(&table, "plain");
    table_add_integer(&table, 1234567);
    table_add_real(&table, 0.1);
    table_add_text(&table, "a,\"b\"|\\\n\x1b[1m\xff\xc3\xa9");
    table_add_none(&table);
    table_add_real(&table, 1.0 / 3);
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    assert_int_equal(table_rows(&table), 2);
    assert_int_equal(table_print(&table, format, stream), 0);
    fclose(stream);
    snprintf(output, sizeof output, "%s", text);
    free(text);
    table_close(&table);
}

static void tables_in_each_format(void **state) {
    (void)state;
    table_text(TABLE_TEXT);
    assert_string_equal(output, "name              bytes    ratio\n"
                                "plain           1234567      0.1\n"
                                "a,\"b\"|\\ ?[1m?\xc3\xa9        -  0.33333\n");
    table_text(TABLE_CSV);
    assert_string_equal(output, "name,bytes,ratio\nplain,1234567,0.1\n"
                                "\"a,\"\"b\"\"|\\\n\x1b[1m\xff\xc3\xa9\",,0.3333333333333333\n");
    table_text(TABLE_JSONL);
    assert_string_equal(output, "{\"name\":\"plain\",\"bytes\":1234567,\"ratio\":0.1}\n"
                                "{\"name\":\"a,\\\"b\\\"|\\\\\\n\\u001b[1m\\ufffd\xc3\xa9\",\"bytes\":null,"
                                "\"ratio\":0.3333333333333333}\n");
    table_text(TABLE_MD);
    expect("|---|---:|---:|\n");
    expect("a,\"b\"\\|\\\\ ?[1m?\xc3\xa9");
}

static void table_that_cannot_be_written(void **state) {
    (void)state;
    static const char *const columns[] = {"x", NULL};
    struct table table = {0};
    FILE *full = fopen("/dev/full", "w");
    if (!full) {
        print_message("skipped: no /dev/full\n");
        skip();
    }
    assert_int_equal(table_open(&table, columns), 0);
    table_add_integer(&table, 1);
    expect_error(table_print(&table, TABLE_CSV, full), E_IO, "cannot be written");
    fclose(full);
    memory_fail_after(1);
    table_add_text(&table, "lost");
    memory_fail_after(0);
    assert_int_equal(table_print(&table, TABLE_CSV, stdout), E_MEMORY);
    table_close(&table);
}

/* ---- verbs ---------------------------------------------------------------------------------------- */
static void lists(void **state) {
    (void)state;
    assert_int_equal(RUN("list", "--format", "csv"), EXIT_OK);
    expect("experiment,sessions,newest,state,cells,ok,skipped,not_ok,git_commit,cpu\nsynthetic,1,");
    expect(",finished,6,4,1,1,0123456789ab,");
    assert_int_equal(RUN("list", "sessions"), EXIT_OK);
    assert_int_equal(lines(), 2);
    assert_int_equal(RUN("list", "cells", "synthetic"), EXIT_OK);
    assert_int_equal(lines(), 7);
    expect("NaN after quantization");
    expect("skipped");
    expect_error(RUN("list", "cell"), E_ARGUMENT, "did you mean cells?");
    expect_error(RUN("list", "cells", "syntetic"), E_NOT_FOUND, "did you mean \"synthetic\"?");
    expect_error(RUN("list", "cells", "synthetic", "more"), E_ARGUMENT, "got \"more\" too");
}

static void shows(void **state) {
    (void)state;
    assert_int_equal(RUN("show", "rtn bits=8"), EXIT_OK);
    const char *const parts[] = {"as requested",
                                 "sha256 ",
                                 "bits per weight",
                                 "after stage 1 rtn",
                                 "from cache",
                                 "vs_word_pairs",
                                 "hardware counters in this virtual machine",
                                 "round 9",
                                 "Synthetic CPU 90",
                                 "OpenBLAS 0.3.21"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) expect(parts[i]);
    assert_int_equal(RUN("show", "synthetic/rtn bits=2"), EXIT_OK);
    expect("NaN after quantization");
    assert_int_equal(RUN("show", "synthetic@1", "--format", "md"), EXIT_OK);
    expect("majority");
    expect("256 input columns");
    expect_error(RUN("show", "rtn bits=9"), E_NOT_FOUND, "did you mean \"rtn bits=");
    expect_error(RUN("show", "synthetic@99"), E_NOT_FOUND, "runexp list cells");
    expect_error(RUN("show"), E_ARGUMENT, "one cell or experiment");
}

static void compares(void **state) {
    (void)state;
    assert_int_equal(RUN("compare", "rtn bits=8", "rtn bits=4 group=64", "--format", "csv"), EXIT_OK);
    expect("accuracy,0.91575,0.908,difference,-0.00775");
    expect("paired on 4000 items, exact McNemar");
    expect("size_bytes,10022420,9322496,ratio,0.930");
    expect("paired over 10 rounds");
    assert_int_equal(RUN("compare", "synthetic@1", "1"), EXIT_OK);
    expect("neither has an ok build");
    expect_error(RUN("compare", "1", "rtn bits=8"), E_ARGUMENT, "\"1\" is a session");
    expect_error(RUN("compare", "1"), E_ARGUMENT, "two cells or two sessions");
}

static void relabel(const char *from, const char *to, int seed) {
    struct store store = {0};
    char sql[192];
    assert_int_equal(store_open(&store, db, STORE_WRITE), 0);
    snprintf(sql, sizeof sql, "UPDATE cell SET label = '%s', seed = %d WHERE label = '%s'", to, seed, from);
    assert_int_equal(store_execute(&store, sql), 0);
    store_close(&store);
}

static void compares_over_seeds(void **state) {
    (void)state;
    static const struct {
        const char *label, *other;
        int seed;
    } cells[] = {{"baseline", "plain seed=1", 1},
                 {"rtn bits=8", "plain seed=2", 2},
                 {"rtn bits=4 group=64", "rough seed=1", 1},
                 {"magnitude sparsity=0.5", "rough seed=2", 2}};
    for (size_t i = 0; i < 4; i++) relabel(cells[i].label, cells[i].other, cells[i].seed);
    assert_int_equal(RUN("compare", "plain seed=*", "synthetic/rough seed=*@1", "--format", "csv"), EXIT_OK);
    /* (0.9165 + 0.91575) / 2 and (0.908 + 0.895) / 2 */
    expect("accuracy,0.916125,0.9015,difference,-0.01462");
    expect(",-0.01800");
    const char *p_value = strstr(output, ",\"mean of 2 seeds");
    assert_non_null(p_value);
    while (p_value[-1] != ',') p_value--;
    assert_true(strtod(p_value, NULL) > 1e-24 && strtod(p_value, NULL) < 1e-10); /* fewer items than answers differ */
    expect("mean of 2 seeds, paired on 4000 items with all their seeds, bootstrap, exact sign test");
    expect("8000 answers as if independent, exact McNemar: only A right 127, only B 10");
    expect("size_bytes,");
    expect("paired over 20 rounds of 2 seeds");
    const char *row = strstr(output, "latency_ms batch 1,"), *ratio = row ? strstr(row, "ratio,") : NULL;
    assert_non_null(ratio); /* 0.72 and 1.01 / 0.55, their geometric mean */
    assert_true(fabs(strtod(ratio + strlen("ratio,"), NULL) - sqrt(0.72 * 1.01 / 0.55)) < 0.02);
    assert_int_equal(RUN("compare", "plain seed=*", "plain seed=*", "--format", "csv"), EXIT_OK);
    expect("difference,0,0,0,1,");
    expect_error(RUN("compare", "plain seed=*", "rough"), E_NOT_FOUND, "no results of cells \"rough\"");
    expect_error(RUN("compare", "plain seed=1", "rough seed=*"), E_ARGUMENT, "have 1 seeds in common");
    expect_error(RUN("compare", "plane seed=*", "rough seed=*"), E_NOT_FOUND, "runexp list cells");
    for (size_t i = 0; i < 4; i++) relabel(cells[i].other, cells[i].label, 1);
}

/* An earlier session of the experiment, in which one run failed. */
static void fail_earlier(void) {
    struct store store = {0};
    assert_int_equal(store_open(&store, db, STORE_WRITE), 0);
    assert_int_equal(
        store_execute(
            &store, "INSERT INTO session (id, experiment_id, host_id, build_id, started_at, ended_at, command, cpumask,"
                    " cpu_flags_used, order_seed, rounds, samples, warmup) SELECT -1, experiment_id, host_id, build_id,"
                    " started_at, NULL, command, cpumask, cpu_flags_used, order_seed, rounds, samples, warmup"
                    " FROM session LIMIT 1; INSERT INTO run (uuid, cell_id, session_id, kind, round, position, status,"
                    " reason, started_at, wall_ms) SELECT 'earlier', id, -1, 'build', 0, 0, 'failed', 'of old', '', 1"
                    " FROM cell LIMIT 1"),
        0);
    store_close(&store);
}

static void exports(void **state) {
    (void)state;
    static const char *const promised[] = {"experiment",
                                           "cell",
                                           "pipeline",
                                           "model",
                                           "task",
                                           "threads",
                                           "seed",
                                           "status",
                                           "metric_name",
                                           "metric_value",
                                           "size_bytes",
                                           "executes",
                                           "bits_per_weight",
                                           "latency_ms_median",
                                           "latency_ratio",
                                           "latency_ratio_lo",
                                           "latency_ratio_hi",
                                           "tokens_per_s",
                                           "peak_rss_bytes"};
    assert_int_equal(RUN("export", "--format", "jsonl"), EXIT_OK);
    assert_int_equal(lines(), 4);
    char *line = output;
    for (int i = 0; i < 4; i++) {
        struct json_document document = {0};
        size_t length = strcspn(line, "\n");
        assert_int_equal(json_open(&document, line, length), 0);
        for (size_t k = 0; k < sizeof promised / sizeof *promised; k++) {
            const struct json *member = json_member(json_root(&document), promised[k]);
            if (!member || member->type == JSON_NULL) fail_msg("no %s in the result of cell %d", promised[k], i);
        }
        json_close(&document);
        line += length + 1;
    }
    assert_int_equal(RUN("export", "--view", "timing"), EXIT_OK);
    assert_int_equal(lines(), 9);
    assert_int_equal(RUN("export", "--view", "problem", "synthetic"), EXIT_OK);
    assert_int_equal(lines(), 3);
    assert_int_equal(RUN("export", "--all"), EXIT_OK);
    assert_int_equal(lines(), 5);
    expect_error(RUN("export", "sythetic"), E_NOT_FOUND, "did you mean");
    fail_earlier();
    assert_int_equal(RUN("list", "sessions", "--format", "csv"), EXIT_OK);
    expect(",unfinished,");
    assert_int_equal(RUN("export", "--view", "problem"), EXIT_OK);
    assert_int_equal(lines(), 3);
    assert_int_equal(RUN("export", "--view", "problem", "--all", "synthetic"), EXIT_OK);
    assert_int_equal(lines(), 4);
    expect("failed,of old,");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_are_parsed),
        cmocka_unit_test(flags_are_refused),
        cmocka_unit_test(help_for_each_verb),
        cmocka_unit_test(tables_in_each_format),
        cmocka_unit_test(table_that_cannot_be_written),
        cmocka_unit_test(lists),
        cmocka_unit_test(shows),
        cmocka_unit_test(compares),
        cmocka_unit_test(compares_over_seeds),
        cmocka_unit_test(exports),
    };
    return cmocka_run_group_tests_name("verbs", tests, group_open, group_close);
}
