/* The regression gate on synthetic databases: A/A stays quiet, each planted change is found and named, and what cannot
 * be judged is never called ok. The verbs run as a user runs them, with their standard output read back as CSV. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/store.h"
#include "synthetic_db.h"
#include "verbs/gate.h"
#include "verbs/verbs.h"

static char folder[64], db[96], baselines[96], accepted[160], output[65536];

static int group_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_regress_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(db, sizeof db, "%s/results.db", folder);
    snprintf(baselines, sizeof baselines, "%s/baselines", folder);
    snprintf(accepted, sizeof accepted, "%s/synthetic.json", baselines);
    log_set_level(LOG_WARN);
    return 0;
}

static int group_close(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* Run a verb with words separated by blanks, its standard output into `output`. */
static int run(const char *words) {
    char text[512], *argv[24];
    int argc = 0;
    snprintf(text, sizeof text, "%s", words);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
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

static int regress(const char *more) {
    char words[512];
    snprintf(words, sizeof words, "regress --format csv --db %s --baselines %s %s", db, baselines, more);
    return run(words);
}

/* All cells ok or skipped, so that the results can be accepted. */
static struct synthetic plain(uint64_t noise_seed) {
    struct synthetic settings = synthetic_defaults();
    settings.noise_seed = noise_seed;
    settings.status[SYNTHETIC_FAILED] = "skipped";
    settings.rounds = 7;
    settings.samples = 8;
    settings.warmup = 2;
    return settings;
}

static void session_add(const struct synthetic *settings) {
    struct store store = {0};
    int64_t session;
    int status = store_open(&store, db, STORE_WRITE);
    if (status == 0) status = synthetic_store(&store, settings, &session);
    store_close(&store);
    if (status < 0) fail_msg("%s (%s)", error_text(), error_origin());
}

/* A database with one plain session, accepted: made once, copied for each test. */
static int accepted_session(void **state) {
    (void)state;
    char command[512];
    static bool made;
    if (made) {
        snprintf(command, sizeof command, "cd %s && rm -rf results.db* baselines && cp -r kept/* .", folder);
        return system(command);
    }
    struct synthetic settings = plain(1);
    session_add(&settings);
    assert_int_equal(regress("accept"), EXIT_OK);
    snprintf(command, sizeof command, "cd %s && mkdir kept && cp -r results.db baselines kept", folder);
    made = true;
    return system(command);
}

/* Is there a line with this verdict, cell and rule, whose rest holds `words`? */
static bool has_line(const char *verdict, const char *cell, const char *rule, const char *words) {
    char start[128];
    snprintf(start, sizeof start, "%s,synthetic,%s,%s,", verdict, cell, rule);
    for (const char *line = output; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        size_t length = strcspn(line, "\n");
        const char *found = strstr(line, words);
        if (strncmp(line, start, strlen(start)) == 0 && found && found < line + length) return true;
    }
    return false;
}

static void expect(int code, const char *verdict, const char *cell, const char *rule, const char *words) {
    int got = regress("");
    if (got != code) fail_msg("exit %d, expected %d:\n%s", got, code, output);
    if (!has_line(verdict, cell, rule, words))
        fail_msg("no line %s, %s, %s, %s:\n%s", verdict, cell, rule, words, output);
}

static void same_results_are_ok(void **state) {
    (void)state;
    expect(EXIT_OK, "ok", "rtn bits=8", "quality", "byte by byte");
    assert_true(has_line("ok", "rtn bits=8", "latency b1", ""));
    assert_true(has_line("ok", "rtn bits=8", "latency b32", ""));
    assert_true(has_line("ok", "rtn bits=4 group=96", "status", "skipped as before"));
    assert_true(has_line("note", "baseline", "latency b1", "milliseconds"));
    assert_null(strstr(output, "regression,"));
}

/* Other noise, a slower or faster day: the pairs take it out. */
static void other_days_are_ok(void **state) {
    (void)state;
    for (uint64_t day = 2; day < 10; day++) {
        struct synthetic settings = plain(day);
        settings.drift_factor = 0.7 + 0.1 * (double)day;
        session_add(&settings);
        int code = regress("");
        if (code != EXIT_OK) fail_msg("day %d: exit %d\n%s", (int)day, code, output);
    }
}

static void loss_of_quality(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.accuracy_change[SYNTHETIC_INT8] = -0.02;
    session_add(&settings);
    expect(EXIT_REGRESSION, "regression", "rtn bits=8", "quality", "-1.90 points");
    assert_true(has_line("ok", "rtn bits=4 group=64", "quality", ""));
    /* Clear, but smaller than what matters. */
    settings.accuracy_change[SYNTHETIC_INT8] = -0.004;
    session_add(&settings);
    expect(EXIT_OK, "ok", "rtn bits=8", "quality", "alarm: beyond 0.5 points");
    assert_int_equal(regress("--quality-floor 0.1"), EXIT_REGRESSION);
    settings.accuracy_change[SYNTHETIC_INT8] = 0.02;
    session_add(&settings);
    expect(EXIT_OK, "improvement", "rtn bits=8", "quality", "+");
}

static void growth_of_bytes(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.bytes_factor[SYNTHETIC_INT4] = 1.002;
    session_add(&settings);
    expect(EXIT_REGRESSION, "regression", "rtn bits=4 group=64", "bytes", "+0.20 %");
    assert_int_equal(regress("--bytes-tolerance 1"), EXIT_OK);
    assert_int_equal(regress("--rules quality,latency"), EXIT_OK);
    settings.bytes_factor[SYNTHETIC_INT4] = 1.0005;
    session_add(&settings);
    expect(EXIT_OK, "ok", "rtn bits=4 group=64", "bytes", "");
    settings.bytes_factor[SYNTHETIC_INT4] = 0.9;
    session_add(&settings);
    expect(EXIT_OK, "improvement", "rtn bits=4 group=64", "bytes", "");
}

static void loss_of_speed(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.latency_factor[SYNTHETIC_INT8] = 1.1;
    settings.drift_factor = 0.8; /* faster in milliseconds on this day, and slower all the same */
    session_add(&settings);
    expect(EXIT_REGRESSION, "regression", "rtn bits=8", "latency b1", "against the baseline cell");
    assert_true(has_line("regression", "rtn bits=8", "latency b32", ""));
    assert_true(has_line("ok", "rtn bits=4 group=64", "latency b1", ""));
    settings.latency_factor[SYNTHETIC_INT8] = 1.03;
    session_add(&settings);
    expect(EXIT_OK, "ok", "rtn bits=8", "latency b1", "");
    assert_int_equal(regress("--latency-tolerance 2"), EXIT_REGRESSION);
    settings.latency_factor[SYNTHETIC_INT8] = 0.8;
    session_add(&settings);
    expect(EXIT_OK, "improvement", "rtn bits=8", "latency b1", "");
}

static void slower_baseline(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.latency_factor[SYNTHETIC_BASELINE] = 1.3;
    session_add(&settings);
    expect(EXIT_REGRESSION, "regression", "baseline", "latency b1", "the baseline itself slowed down");
}

static void unstable_machine(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.noise_frac = 0.15;
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "latency b1", "unstable");
    assert_int_equal(regress("--rules quality,bytes"), EXIT_OK);
    settings = plain(3);
    settings.rounds = 2;
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "latency b1", "three are needed");
}

static void absent_and_failed_cells(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.status[SYNTHETIC_INT8] = NULL;
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "status", "missing");
    settings.status[SYNTHETIC_INT8] = "crashed";
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "status", "crashed");
    assert_int_equal(regress("accept"), EXIT_NO_VERDICT);
    assert_true(has_line("impossible", "rtn bits=8", "status", "crashed"));
    settings.status[SYNTHETIC_INT8] = "skipped";
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "status", "skipped now");
    /* A regression elsewhere is still one. */
    settings.bytes_factor[SYNTHETIC_INT4] = 2;
    session_add(&settings);
    expect(EXIT_REGRESSION, "impossible", "rtn bits=8", "status", "skipped now");
}

static void other_machine_or_data(void **state) {
    (void)state;
    struct synthetic settings = plain(2);
    settings.cpu = "Another CPU";
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "", "latency", "another machine");
    assert_int_equal(regress("--rules quality,bytes"), EXIT_OK);
    settings = plain(2);
    settings.timing_valid = false;
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "", "latency", "not valid: dirty build");
    settings = plain(2);
    settings.finished = false;
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "", "session", "interrupted");
    assert_int_equal(regress("accept"), EXIT_NO_VERDICT);
    settings = plain(2);
    settings.data_hash = "other data";
    session_add(&settings);
    expect(EXIT_NO_VERDICT, "impossible", "rtn bits=8", "quality", "other data");
}

static void without_a_baseline(void **state) {
    (void)state;
    struct synthetic settings = plain(1);
    settings.name = "another";
    session_add(&settings);
    assert_int_equal(regress(""), EXIT_NO_VERDICT);
    assert_non_null(strstr(output, "nothing was accepted"));
    assert_int_equal(regress("synthetic"), EXIT_OK);
    assert_int_equal(regress("accept another"), EXIT_OK);
    assert_int_equal(regress(""), EXIT_OK);
    /* A baseline whose experiment is gone, a name that is none, a database that is none. */
    unlink(db);
    session_add(&settings);
    assert_int_equal(regress(""), EXIT_NO_VERDICT);
    assert_true(has_line("impossible", "", "session", "no results of experiment"));
    assert_int_equal(regress("synthetic"), EXIT_NO_VERDICT);
    assert_int_equal(regress("anothr"), E_NOT_FOUND);
    assert_non_null(strstr(error_text(), "no experiment \"anothr\", and none was accepted; did you mean \"another\"?"));
    assert_int_equal(regress("another synthetik"), E_NOT_FOUND); /* among those that were accepted */
    assert_non_null(strstr(error_text(), "did you mean \"synthetic\"?"));
    assert_int_equal(regress("accept anothr"), E_NOT_FOUND);
    assert_int_equal(regress("../../etc/passwd"), E_NOT_FOUND);
    assert_int_equal(verb_exit_code(E_NOT_FOUND), EXIT_USAGE);
    unlink(db);
    log_set_level(LOG_ERROR);
    assert_int_equal(regress(""), EXIT_NO_VERDICT);
    assert_int_equal(regress("accept"), E_IO);
    log_set_level(LOG_WARN);
}

static const char *judged(double before, double after) {
    static char text[2048];
    char label[] = "c", ok[] = "ok", empty[] = "", name[] = "x", packed[] = "packed";
    struct gate_cell cells[2] = {{.label = label,
                                  .status = ok,
                                  .reason = empty,
                                  .artifact = empty,
                                  .executes = packed,
                                  .size_bytes = 1000,
                                  .metric = before}};
    cells[1] = cells[0];
    cells[1].metric = after;
    struct gate_results a = {.experiment = name,
                             .hash = name,
                             .data_hash = name,
                             .metric = name,
                             .host = name,
                             .cpu = name,
                             .commit = name,
                             .started_at = name,
                             .timing_note = name,
                             .finished = true,
                             .cells = &cells[0],
                             .cell_count = 1};
    struct gate_results n = a;
    n.cells = &cells[1];
    struct gate_rules rules = gate_rules_default();
    struct gate_tally tally = {0};
    struct table table = {0};
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(table_open(&table, gate_columns), 0);
    gate_judge(&a, &n, &rules, &table, &tally);
    assert_int_equal(table_print(&table, TABLE_CSV, file), 0);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    table_close(&table);
    return text;
}

/* What only rounding of binary fractions makes is no change, and no digit of one. */
static void changes_are_without_noise(void **state) {
    (void)state;
    static const struct {
        double before, after;
        const char *line;
    } cases[] = {{30.3, 30.6, ",30.3,30.6,0.3,x +0.99 %"},
                 {0.3, 0.1 + 0.2, ",0.3,0.30000000000000004,0,x +0.00 %"},
                 {0.1 + 0.2, 0.3, ",0.30000000000000004,0.3,0,x +0.00 %"},
                 {0.8, 0.7, ",0.8,0.7,-0.1,x -12.50 %"},
                 {1e70, 2e70, ",1e+70,2e+70,1e+70,x +100.00 %"},
                 {4e-12, 5e-12, ",4e-12,5e-12,1e-12,x +25.00 %"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = judged(cases[i].before, cases[i].after);
        if (!strstr(text, cases[i].line)) fail_msg("%s is not in\n%s", cases[i].line, text);
        if (!strstr(text, "bytes,1000,1000,0,+0.00 %")) fail_msg("bytes:\n%s", text);
    }
}

static void bad_words(void **state) {
    (void)state;
    assert_int_equal(regress("--rules quality,speed"), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "quality,bytes,latency"));
    assert_int_equal(regress("--quality-flor 1"), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "did you mean --quality-floor?"));
    assert_int_equal(regress("--latency-tolerance many"), E_ARGUMENT);
    assert_int_equal(regress("--latency-tolerance"), E_ARGUMENT);
    assert_int_equal(regress("--format xml"), E_ARGUMENT);
    assert_int_equal(verb_exit_code(E_ARGUMENT), EXIT_USAGE);
    assert_int_equal(verb_exit_code(E_INTERRUPTED), EXIT_INTERRUPTED);
}

static void file_reads_back(void **state) {
    (void)state;
    uint8_t correct[] = {1, 0, 0, 1, 1, 0, 1};
    char label[] = "a \"quoted\" | label", ok[] = "ok", empty[] = "", note[] = "x", packed[] = "packed";
    struct gate_timing timing = {.batch = 32, .latency_ms = {1.25, 1.125, 1.5, 10}, .ratio = {0.5, NAN, NAN, 2}};
    struct gate_cell cell = {.label = label,
                             .status = ok,
                             .reason = empty,
                             .artifact = empty,
                             .executes = packed,
                             .threads = 2,
                             .size_bytes = 1234,
                             .metric = 4.0 / 7,
                             .correct = correct,
                             .items = 7,
                             .timings = &timing,
                             .timing_count = 1};
    struct gate_results results = {.experiment = note,
                                   .hash = note,
                                   .data_hash = note,
                                   .metric = note,
                                   .host = note,
                                   .cpu = note,
                                   .commit = note,
                                   .started_at = note,
                                   .timing_note = note,
                                   .timing_valid = true,
                                   .cells = &cell,
                                   .cell_count = 1};
    struct gate_results back = {0};
    assert_int_equal(gate_write(accepted, &results), 0);
    assert_int_equal(gate_read(accepted, &back), 0);
    assert_int_equal(back.cell_count, 1);
    assert_string_equal(back.cells[0].label, label);
    assert_int_equal(back.cells[0].items, 7);
    assert_memory_equal(back.cells[0].correct, correct, 7);
    assert_int_equal(back.cells[0].size_bytes, 1234);
    assert_true(back.timing_valid && !back.dirty);
    assert_true(back.cells[0].timings[0].latency_ms.hi == 1.5 && isnan(back.cells[0].timings[0].ratio.lo));
    gate_results_close(&back);
}

/* Cut and altered baselines are refused with the file's name, whatever the place. */
static void damaged_file(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    struct gate_results back = {0};
    assert_int_equal(file_read(accepted, 1 << 24, &text, &bytes), 0);
    for (size_t cut = 0; cut < bytes - 3; cut += 1 + bytes / 97) {
        FILE *file = fopen(accepted, "w");
        assert_non_null(file);
        fwrite(text, 1, cut, file);
        fclose(file);
        assert_int_equal(gate_read(accepted, &back), E_FORMAT);
        assert_non_null(strstr(error_text(), "synthetic.json: "));
    }
    memory_release(text);
    const char *const wrong[] = {
        "[]", "{}", "{\"format\": 2}", "{\"format\": 1, \"experiment\": 5}", "null", "\"text\"",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FILE *file = fopen(accepted, "w");
        assert_non_null(file);
        fputs(wrong[i], file);
        fclose(file);
        assert_int_equal(gate_read(accepted, &back), E_FORMAT);
    }
    assert_int_equal(regress(""), EXIT_NO_VERDICT);
    assert_non_null(strstr(output, "synthetic.json"));
}

static void survives_lack_of_memory(void **state) {
    (void)state;
    memory_fail_after(0);
    assert_int_equal(regress(""), EXIT_OK);
    long allocations = memory_count();
    assert_true(allocations > 50);
    for (long n = 1; n <= allocations; n += 1 + n / 5) {
        memory_fail_after(n);
        int status = regress("");
        memory_fail_after(0);
        if (status != E_MEMORY && status != EXIT_NO_VERDICT)
            fail_msg("allocation %ld of %ld: %d", n, allocations, status);
    }
}

int main(void) {
#define GATE_TEST(name) cmocka_unit_test_setup(name, accepted_session)
    const struct CMUnitTest tests[] = {
        GATE_TEST(same_results_are_ok),
        GATE_TEST(other_days_are_ok),
        GATE_TEST(loss_of_quality),
        GATE_TEST(growth_of_bytes),
        GATE_TEST(loss_of_speed),
        GATE_TEST(slower_baseline),
        GATE_TEST(unstable_machine),
        GATE_TEST(absent_and_failed_cells),
        GATE_TEST(other_machine_or_data),
        GATE_TEST(without_a_baseline),
        GATE_TEST(changes_are_without_noise),
        GATE_TEST(bad_words),
        GATE_TEST(file_reads_back),
        GATE_TEST(damaged_file),
        GATE_TEST(survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("regress", tests, group_open, group_close);
}
