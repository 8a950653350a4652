/* The report: nothing of the database is lost or trusted on its way to the page, figures are sound XML, and every
 * trouble on the way (no gnuplot, no scripts, no results, no memory) is one line and never half a page. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/memory.h"
#include "report/figure_points.h"
#include "report/figures.h"
#include "report/page.h"
#include "report/report.h"
#include "report/report_files.h"
#include "report/report_text.h"
#include "synthetic_db.h"
#include "verbs/verbs.h"

static char folder[64], db[96], out[96], index_path[REPORT_PATH], *search_path;
static struct text page;

static void assert_ok(int status) {
    if (status < 0) fail_msg("%s: %s (%s)", error_name(status), error_text(), error_origin());
}

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_report_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(db, sizeof db, "%s/results.db", folder);
    snprintf(out, sizeof out, "%s/report", folder);
    search_path = strdup(getenv("PATH"));
    return search_path ? 0 : -1;
}

static int folder_close(void **state) {
    (void)state;
    folder_remove(folder);
    free(search_path);
    return 0;
}

/* A plain database and no report, before each test. */
static int fresh(void **state) {
    (void)state;
    setenv("PATH", search_path, 1);
    unsetenv("PLOTS_DIR");
    folder_remove(out);
    error_clear();
    return synthetic_database(db);
}

static int page_drop(void **state) {
    (void)state;
    text_close(&page);
    return 0;
}

static void sql_run(const char *sql) {
    sqlite3 *handle = NULL;
    char *message = NULL;
    assert_int_equal(sqlite3_open(db, &handle), SQLITE_OK);
    if (sqlite3_exec(handle, sql, NULL, NULL, &message) != SQLITE_OK) fail_msg("%s: %s", sql, message);
    sqlite3_close(handle);
}

static void report_read(const char *experiment) {
    assert_ok(report_write(db, experiment, out, index_path, sizeof index_path));
    assert_ok(file_append(&page, index_path));
}

static void assert_holds(const char *words) {
    if (!strstr(page.bytes, words)) fail_msg("the page lacks: %s", words);
}
static void assert_lacks(const char *words) {
    const char *found = strstr(page.bytes, words);
    if (found) fail_msg("the page holds: %.80s", found);
}

static size_t occurrences(const char *text, const char *words) {
    size_t count = 0;
    for (const char *c = text; (c = strstr(c, words)) != NULL; c++) count++;
    return count;
}

static int exists(const char *name) {
    char path[REPORT_PATH];
    struct stat about;
    assert_ok(path_join(path, out, name));
    return stat(path, &about) == 0;
}

static void gnuplot_needed(void) {
    if (system("command -v gnuplot >/dev/null 2>&1") == 0) return;
    print_message("skipped: gnuplot is not installed\n");
    skip();
}

/* Enough of an XML parser to find what breaks viewers: unbalanced or misnamed elements, unquoted attributes, bare < or
 * & in text, unknown entities. Returns NULL, or where it went wrong. */
static const char *xml_fault(const char *c) {
    const char *open[64];
    size_t length[64], depth = 0, elements = 0;
    while (*c) {
        if (*c == '&') {
            size_t name = strcspn(c, "; \n<");
            if (c[name] != ';' || name < 3) return c;
            c += name;
        } else if (strncmp(c, "<?", 2) == 0 || strncmp(c, "<!", 2) == 0) {
            if (!(c = strchr(c, '>'))) return "an unended declaration";
        } else if (c[0] == '<' && c[1] == '/') {
            size_t name = strcspn(c + 2, "> \n");
            if (depth == 0 || name != length[depth - 1] || strncmp(c + 2, open[depth - 1], name) != 0) return c;
            depth--;
            c = strchr(c, '>');
        } else if (*c == '<') {
            const char *begin = c + 1;
            size_t name = strcspn(begin, " \t\n/>");
            if (name == 0 || depth == 64) return c;
            c = begin + name;
            while (*c && *c != '>' && strncmp(c, "/>", 2) != 0) {
                c += strspn(c, " \t\n");
                if (*c == '>' || *c == '/' || !*c) continue;
                c += strcspn(c, "=>");
                if (*c != '=') return begin;
                c += 1 + strspn(c + 1, " ");
                if (*c != '"' && *c != '\'') return begin;
                char quote[] = {*c, '<', '\0'};
                c++;
                c += strcspn(c, quote);
                if (*c++ != quote[0]) return begin;
            }
            elements++;
            if (*c == '>') open[depth] = begin, length[depth++] = name;
            else if (*c) c++;
        }
        if (!c || !*c) return "an unended element";
        c++;
    }
    return depth ? open[depth - 1] : elements ? NULL : "no element";
}

static void page_holds_every_cell_and_number(void **state) {
    (void)state;
    report_read("synthetic");
    for (int i = 0; i < SYNTHETIC_CELLS; i++) {
        struct text label = {0};
        text_escape(&label, synthetic_labels[i]);
        assert_true(occurrences(page.bytes, label.bytes) >= 1);
        text_close(&label);
    }
    static const char *const words[] = {
        "<!doctype html>",   "id=\"answer\"",  "id=\"problems\"", "id=\"results\"",
        "id=\"yardsticks\"", "id=\"figures\"", "id=\"stages\"",   "id=\"counters\"",
        "id=\"provenance\"", "id=\"reading\"", "<b>failed</b>",   "<b>skipped</b>",
        "1 cell failed",     "1 cell skipped", "4 cells ok",      "majority",
        "word_pairs",        "points above",   "simulated",       "packed",
        "0123456789ab",      "finetune",       "faster",          "prefers-color-scheme:dark",
        "@media print",      "aria-sort",      "</html>"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) assert_holds(words[i]);
    /* self-contained: nothing is fetched */
    assert_lacks("http-equiv=\"refresh");
    assert_lacks("src=");
    assert_lacks("@import");
    assert_lacks("<link");
    assert_int_equal(occurrences(page.bytes, "http://") + occurrences(page.bytes, "https://"),
                     occurrences(page.bytes, "=\"http://www.w3.org/"));
}

static void absent_numbers_have_reasons(void **state) {
    (void)state;
    report_read("synthetic");
    const char *row = strstr(page.bytes, "papi: PAPI_TOT_INS");
    assert_non_null(row);
    const char *reason = strstr(row, "not available: no hardware counters in this virtual machine");
    assert_non_null(reason);
    assert_true(reason < strstr(row, "</tr>"));
    text_close(&page);
    /* in one cell only: a dash with the reason in its place, numbers in the others */
    sql_run("UPDATE counter SET value = 7 WHERE name = 'PAPI_TOT_INS' AND run_id IN"
            " (SELECT r.id FROM run r JOIN cell c ON c.id = r.cell_id WHERE c.is_baseline)");
    report_read("synthetic");
    row = strstr(page.bytes, "papi: PAPI_TOT_INS");
    assert_non_null(row);
    assert_true(strstr(row, "<td>7</td>") < strstr(row, "</tr>"));
    assert_true(strstr(row, "\xE2\x80\x93<small class=\"skip wrap\">no hardware counters") < strstr(row, "</tr>"));
}

static void hostile_texts_are_escaped(void **state) {
    (void)state;
    sql_run(
        "UPDATE cell SET label = '</td><script>alert(1)</script>\"''&\t\\ {/Symbol x} `id`' WHERE is_baseline = 0 AND "
        "ordinal = 1;"
        "UPDATE cell SET pipeline = '<b onclick=x>' WHERE ordinal = 1;"
        "UPDATE experiment SET description = '<script>alert(2)</script>', text = '</pre><script>alert(3)</script>',"
        " model = '{\"<script>alert(4)</script>\":1}', path = '\"><script>alert(5)</script>';"
        "UPDATE host SET cpu = '</title><script>alert(6)</script>\n&' || char(7) || CAST(x'ff' AS TEXT);"
        "UPDATE session SET warnings = '<script>alert(7)</script>', command = '<script>alert(8)</script>', started_at "
        "= '<&''\"';"
        "UPDATE run SET reason = '<script>alert(9)</script>', log = '</pre><script>alert(10)</script>' WHERE status <> "
        "'ok';"
        "UPDATE stage SET technique = '<script>alert(11)</script>', options = '{\"a\":\"<script>alert(12)</script>\"}';"
        "UPDATE metric SET unit = '<script>alert(13)</script>' WHERE name = 'weight_rmse';"
        "UPDATE counter SET reason = '<script>alert(14)</script>' WHERE value IS NULL;"
        "UPDATE yardstick SET name = '<script>alert(15)</script>' WHERE name = 'majority';"
        "UPDATE comparison SET name = 'vs_<script>alert(15)</script>' WHERE name = 'vs_majority';"
        "UPDATE comparison SET method = '<script>alert(16)</script>';");
    report_read("synthetic");
    assert_int_equal(occurrences(page.bytes, "<script"), 1); /* our own */
    assert_lacks("<b onclick");
    assert_lacks("\a");
    for (int i = 1; i <= 16; i++) {
        char words[64];
        snprintf(words, sizeof words, "&lt;script&gt;alert(%d)&lt;/script&gt;", i);
        if (i != 4) assert_holds(words); /* in the model's JSON braces and quotes go, text stays */
    }
    assert_holds("&lt;script&gt;alert(4)");
    assert_int_equal(occurrences(page.bytes, "<svg"), occurrences(page.bytes, "</svg>"));
    if (occurrences(page.bytes, "<svg") == 0) gnuplot_needed();
    for (const char *c = page.bytes; (c = strstr(c, "<svg")) != NULL; c++) {
        char *copy = strndup(c, (size_t)(strstr(c, "</svg>") - c) + 6);
        const char *fault = xml_fault(copy);
        if (fault) fail_msg("a figure is not well formed: %.120s", fault);
        free(copy);
    }
}

static const char *const stems[] = {
    "quality_bytes", "quality_latency_batch1", "latency_distribution_batch1", "stage_waterfall", "loss_curve",
    "layer_ranges",  "layer_sensitivity"};

static void figures_are_sound(void **state) {
    (void)state;
    gnuplot_needed();
    report_read("synthetic");
    char name[128], path[REPORT_PATH];
    struct text svg = {0};
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++) {
        snprintf(name, sizeof name, "synthetic/%s.dat", stems[i]);
        assert_true(exists(name));
        snprintf(name, sizeof name, "synthetic/%s.svg", stems[i]);
        assert_ok(path_join(path, out, name));
        assert_ok(file_append(&svg, path));
        const char *fault = xml_fault(svg.bytes);
        if (fault) fail_msg("%s is not well formed: %.120s", name, fault);
        assert_non_null(strstr(svg.bytes, "commit 0123456789ab"));
        assert_null(strstr(svg.bytes, "scale(0.00)"));     /* some viewers refuse it */
        assert_null(strstr(svg.bytes, "' color='white'")); /* a mark that shows on dark paper alone */
        text_close(&svg);
    }
    assert_true(exists("synthetic/quality_bytes.gp") && exists("synthetic/quality_latency.gp") &&
                exists("synthetic/latency_distribution.gp") && exists("synthetic/stage_waterfall.gp") &&
                exists("synthetic/loss_curve.gp") && exists("synthetic/layer_ranges.gp") &&
                exists("synthetic/layer_sensitivity.gp"));
    assert_int_equal(occurrences(page.bytes, "<svg role=\"img\""), 10); /* two batch sizes, two cells with layers */
    assert_lacks("rgb(118,");
    assert_int_equal(occurrences(page.bytes, " id='gpPt6'"), 0); /* ids carry the figure's name */
    assert_int_equal(occurrences(page.bytes, " id='quality_bytes-gpPt6'"), 1);
}

/* How far below the figure's upper edge a text stands. */
static double place_of(const char *svg, const char *words) {
    const char *at = strstr(svg, words);
    if (!at) fail_msg("the figure lacks: %s", words);
    while (at > svg && strncmp(at, "translate(", 10) != 0) at--;
    at = strchr(at, ',');
    assert_non_null(at);
    return strtod(at + 1, NULL);
}

/* Cells without a point leave no gap in the legend, and an interval that goes far beyond all ratios leaves the axis
 * alone. The dashed lines: the baseline's quality, and its time. */
static void points_and_legend_use_the_room(void **state) {
    (void)state;
    gnuplot_needed();
    sql_run("UPDATE cell SET ordinal = ordinal + 100;"
            "UPDATE cell SET ordinal = (ordinal - 100 + 2) % 6;" /* the failed and the skipped cell come first */
            "UPDATE comparison SET hi = 1e100 WHERE name = 'latency_ratio' AND hi > 1");
    report_read("synthetic");
    char path[REPORT_PATH];
    struct text svg = {0};
    assert_ok(path_join(path, out, "synthetic/quality_latency_batch1.svg"));
    assert_ok(file_append(&svg, path));
    assert_true(place_of(svg.bytes, ">3  baseline<") < 90);
    assert_null(strstr(svg.bytes, "e+100<"));
    assert_int_equal(occurrences(svg.bytes, "stroke-dasharray="), 2);
    text_close(&svg);
}

/* A second kind of stage that trains without being scored on the way has a panel beside the one with scores. */
static void loss_panel_without_scores_is_drawn(void **state) {
    (void)state;
    gnuplot_needed();
    sql_run("UPDATE stage SET technique = 'distill' WHERE technique = 'rtn';"
            "INSERT INTO curve SELECT run_id, 1, step, loss, rate, gradient_norm, seconds FROM curve"
            " WHERE run_id IN (SELECT run_id FROM stage WHERE technique = 'distill')");
    report_read("synthetic");
    assert_lacks("could not draw");
    assert_true(exists("synthetic/loss_curve.svg"));
}

static void xml_checker_finds_faults(void **state) {
    (void)state;
    assert_null(xml_fault("<?xml version=\"1.0\"?><a x='1'><b/>&lt;</a>"));
    static const char *const faulty[] = {"<a>",        "<a></b>", "<a x=1/>", "<a>&</a>", "<a><b></a></b>",
                                         "<a x='<'/>", "text"};
    for (size_t i = 0; i < sizeof faulty / sizeof *faulty; i++) assert_non_null(xml_fault(faulty[i]));
}

/* The tables are written whatever happens to the figures, with one line that says what. */
static void report_without_gnuplot(void **state) {
    (void)state;
    setenv("PATH", folder, 1);
    report_read("synthetic");
    assert_holds("no figures: gnuplot cannot be started (No such file or directory); install gnuplot-nox");
    assert_holds(synthetic_labels[SYNTHETIC_INT8]);
    assert_lacks("<svg");
    assert_true(exists("synthetic/quality_bytes.dat"));
}

static void report_with_failing_gnuplot(void **state) {
    (void)state;
    char path[REPORT_PATH];
    assert_ok(path_join(path, folder, "gnuplot"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("#!/bin/sh\necho 'warning: of something' >&2\necho '<line 7>: cannot & will not' >&2\nexit 1\n", file);
    fclose(file);
    chmod(path, 0755);
    setenv("PATH", folder, 1);
    report_read("synthetic");
    unlink(path);
    assert_holds("gnuplot could not draw it: &lt;line 7&gt;: cannot &amp; will not");
    assert_lacks("<svg");
}

static void report_without_scripts(void **state) {
    (void)state;
    setenv("PLOTS_DIR", folder, 1);
    report_read("synthetic");
    assert_holds("holds no quality_bytes.gp");
    assert_lacks("<svg");
}

/* Folders of writers that were killed go, those of living ones and of others stay. */
static void leftovers_are_removed(void **state) {
    (void)state;
    char dead[192], own[192], other[192], file[224];
    pid_t gone = fork();
    if (gone == 0) _exit(0);
    assert_int_equal(waitpid(gone, NULL, 0), gone);
    report_read("synthetic");
    snprintf(dead, sizeof dead, "%s/.synthetic.%ld", out, (long)gone);
    snprintf(own, sizeof own, "%s/.synthetic.%ld", out, (long)getppid());
    snprintf(other, sizeof other, "%s/.synthetic.of-mine", out);
    const char *const folders[] = {dead, own, other};
    for (size_t i = 0; i < 3; i++) assert_int_equal(mkdir(folders[i], 0777), 0);
    snprintf(file, sizeof file, "%s/index.html", dead);
    FILE *half = fopen(file, "w");
    assert_non_null(half);
    fclose(half);
    report_read("synthetic");
    assert_int_not_equal(access(dead, F_OK), 0);
    for (size_t i = 1; i < 3; i++) assert_int_equal(rmdir(folders[i]), 0);
}

static void assert_refused(const char *experiment, int code, const char *words) {
    assert_int_equal(report_write(db, experiment, out, index_path, sizeof index_path), code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in: %s", words, error_text());
    assert_null(strchr(error_text(), '\n'));
}

static void nothing_to_report_is_said(void **state) {
    (void)state;
    assert_refused("sinthetic", E_NOT_FOUND, "experiment 'sinthetic' has no results in this database");
    assert_refused("../synthetic", E_FORMAT, "cannot be a folder name");
    struct store store = {0};
    unlink(db);
    assert_ok(store_open(&store, db, STORE_WRITE));
    store_close(&store);
    assert_refused(NULL, E_NOT_FOUND, "holds no results yet; run an experiment first");
    assert_false(exists("."));
    unlink(db);
    assert_true(report_write(db, NULL, out, index_path, sizeof index_path) < 0);
}

static void hostile_experiment_name_is_refused(void **state) {
    (void)state;
    sql_run("UPDATE experiment SET name = '../../escape'");
    assert_refused(NULL, E_FORMAT, "experiment name '../../escape' cannot be a folder name");
}

static void several_experiments_share_an_index(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t session_id;
    settings.name = "second";
    settings.timing_valid = false;
    settings.finished = false;
    settings.status[SYNTHETIC_PRUNED] = NULL;
    assert_ok(store_open(&store, db, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &session_id));
    store_close(&store);
    setenv("PATH", folder, 1);
    report_read(NULL);
    assert_non_null(strstr(index_path, "/report/index.html"));
    assert_holds("href=\"synthetic/index.html\"");
    assert_holds("href=\"second/index.html\"");
    text_close(&page);
    report_read("second");
    assert_holds("timings not valid");
    assert_holds("Do not use the timings of this session: dirty build");
    assert_holds("This session has not ended");
    assert_holds("1 cell without a run");
    assert_holds("<b>not run</b>");
}

/* A new report replaces the whole folder, and a failed one leaves the old in place. */
static void replacement_is_complete(void **state) {
    (void)state;
    char stray[REPORT_PATH];
    setenv("PATH", folder, 1);
    report_read("synthetic");
    assert_ok(path_join(stray, out, "synthetic/stray.txt"));
    fclose(fopen(stray, "w"));
    size_t length = page.length;
    text_close(&page);
    memory_fail_after(40);
    int status = report_write(db, "synthetic", out, index_path, sizeof index_path);
    memory_fail_after(0);
    assert_int_equal(status, E_MEMORY);
    assert_true(exists("synthetic/stray.txt"));
    report_read("synthetic");
    assert_int_equal(page.length, length);
    assert_false(exists("synthetic/stray.txt"));
    char command[256];
    snprintf(command, sizeof command, "test $(ls -A %s | wc -l) -eq 1", out);
    setenv("PATH", search_path, 1);
    assert_int_equal(system(command), 0);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    setenv("PATH", folder, 1);
    memory_fail_after(0);
    report_read("synthetic");
    long count = memory_count();
    assert_true(count > 100);
    for (long n = 1; n < count; n += n < 60 ? 1 : count / 40) {
        memory_fail_after(n);
        int status = report_write(db, "synthetic", out, index_path, sizeof index_path);
        memory_fail_after(0);
        if (status != E_MEMORY) fail_msg("allocation %ld of %ld failed, and the report said %d", n, count, status);
    }
}

static void numbers_are_printed_for_people(void **state) {
    (void)state;
    struct text t = {0};
    text_number(&t, -1.25, 2), text_raw(&t, "|"), text_number(&t, -0.001, 2), text_raw(&t, "|");
    text_number(&t, NAN, 2), text_raw(&t, "|"), text_signed(&t, 0.5, 1), text_raw(&t, "|");
    text_signed(&t, -0.04, 1), text_raw(&t, "|"), text_figures(&t, 12345.6, 3), text_raw(&t, "|");
    text_figures(&t, 0.012345, 3), text_raw(&t, "|"), text_bytes(&t, 1536), text_raw(&t, "|"), text_bytes(&t, 5),
        text_raw(&t, "|");
    text_count(&t, -1234567), text_raw(&t, "|"), text_count(&t, 999), text_raw(&t, "|"), text_p_value(&t, 0.0004),
        text_raw(&t, "|");
    text_p_value(&t, 0.034), text_raw(&t, "|"), text_p_value(&t, 0.5), text_raw(&t, "|"), text_number(&t, 1e300, 2);
    assert_string_equal(t.bytes, "\xE2\x88\x92"
                                 "1.25|0.00|\xE2\x80\x93|+0.5|0.0|12346|0.0123|1.50 KiB|5 B|\xE2\x88\x92"
                                 "1,234,567|999|"
                                 "p < 0.001|p = 0.034|p = 0.50|1.00e+300");
    text_close(&t);
    text_escape(&t, "a<b>&\"'\x01\xC3\xA9\xC3(\xED\xA0\x80");
    assert_string_equal(
        t.bytes, "a&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    text_close(&t);
    text_field(&t, "a\tb\"c`d\\e\nf", 99), text_raw(&t, "|"), text_field(&t, "\xC3\xA9t\xC3\xA9s", 3);
    text_raw(&t, "|"), text_field(&t, "abc", 3);
    text_raw(&t, "|"), text_label(&t, "distill \xC3\xA9pochs=2 alpha=0.5\n", 10), text_raw(&t, "|"),
        text_label(&t, "0123456789", 10);
    assert_string_equal(t.bytes, "a b'c'd/e f|\xC3\xA9t\xE2\x80\xA6|abc|disti\xE2\x80\xA6"
                                 "0.5 |0123456789");
    text_close(&t);
}

static void frontier_is_pareto(void **state) {
    (void)state;
    struct report_cell cells[6] = {
        {.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}, {.number = 5, .simulated = true}, {.number = 6}};
    const double x[] = {4, 1, 2, 2, 0.5, 3}, y[] = {90, 80, 85, 84, 99, 85};
    struct figure_point points[6];
    for (int higher = 0; higher < 2; higher++) {
        for (int i = 0; i < 6; i++) {
            double value = higher ? y[i] : -y[i];
            points[i] = (struct figure_point){.cell = &cells[i], .x = x[i], .y = value, .y_lo = value, .y_hi = value};
        }
        figure_points_frontier(points, 6, higher);
        figure_points_place(points, 6, true);
        int on = 0;
        for (int i = 0; i < 6; i++) {
            if (points[i].frontier) on = 10 * on + points[i].cell->number;
            assert_in_range(points[i].place, 0, 7);
        }
        assert_int_equal(on, 231); /* from small to large: 6 equals 3 but is larger, 5 is simulated */
    }
    /* two points in one place get numbers in different places */
    points[0] = points[1] = (struct figure_point){.cell = &cells[0], .x = 1, .y = 1, .y_lo = 1, .y_hi = 1};
    figure_points_place(points, 2, false);
    assert_int_not_equal(points[0].place, points[1].place);
}

static void verb_prints_the_path_last(void **state) {
    (void)state;
    char path[REPORT_PATH], expected[REPORT_PATH];
    char *arguments[] = {"report", "synthetic", "--db", db, "--out", out, NULL};
    setenv("PATH", folder, 1);
    assert_ok(path_join(path, folder, "stdout"));
    assert_ok(path_join(expected, out, "synthetic/index.html\n"));
    fflush(stdout);
    int kept = dup(1);
    assert_non_null(freopen(path, "w", stdout));
    int status = verb_report(6, arguments);
    fflush(stdout);
    dup2(kept, 1);
    close(kept);
    assert_int_equal(status, 0);
    assert_ok(file_append(&page, path));
    assert_string_equal(page.bytes, expected);
    char *unknown[] = {"report", "nothing", "--db", db, "--out", out, NULL};
    assert_int_equal(verb_exit_code(verb_report(6, unknown)), 2);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, fresh, page_drop)
    const struct CMUnitTest tests[] = {
        CASE(page_holds_every_cell_and_number),
        CASE(absent_numbers_have_reasons),
        CASE(hostile_texts_are_escaped),
        CASE(figures_are_sound),
        CASE(points_and_legend_use_the_room),
        CASE(loss_panel_without_scores_is_drawn),
        CASE(report_without_gnuplot),
        CASE(report_with_failing_gnuplot),
        CASE(report_without_scripts),
        CASE(leftovers_are_removed),
        CASE(nothing_to_report_is_said),
        CASE(hostile_experiment_name_is_refused),
        CASE(several_experiments_share_an_index),
        CASE(replacement_is_complete),
        CASE(every_allocation_may_fail),
        CASE(verb_prints_the_path_last),
        cmocka_unit_test(xml_checker_finds_faults),
        cmocka_unit_test(numbers_are_printed_for_people),
        cmocka_unit_test(frontier_is_pareto),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
