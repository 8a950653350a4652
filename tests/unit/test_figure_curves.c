/* The figure of loss curves: each trained stage once, panels, thinning, smoothing, the kind of axis. What is checked is
 * the data file; test_report.c checks that it can be drawn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "report/figure_data.h"
#include "synthetic_db.h"

static char folder[64], db_path[96], dat_path[96];

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_curves_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(db_path, sizeof db_path, "%s/results.db", folder);
    snprintf(dat_path, sizeof dat_path, "%s/loss_curve.dat", folder);
    return 0;
}

static int folder_close(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

struct drawn {
    struct figures figures;
    struct report report;
    sqlite3 *db;
    char *dat;
};

/* A fresh database of the synthetic session after some SQL, and its figure. */
static void draw(struct drawn *drawn, const char *sql) {
    char *message = NULL;
    size_t bytes;
    *drawn = (struct drawn){0};
    if (synthetic_database(db_path) < 0) fail_msg("%s", error_text());
    assert_int_equal(sqlite3_open(db_path, &drawn->db), SQLITE_OK);
    if (sqlite3_exec(drawn->db, sql, NULL, NULL, &message) != SQLITE_OK) fail_msg("%s: %s", sql, message);
    if (report_load(&drawn->report, drawn->db, "synthetic") < 0) fail_msg("%s", error_text());
    unlink(dat_path);
    if (figure_loss_curve(&drawn->figures, &drawn->report, folder) < 0) fail_msg("%s", error_text());
    if (drawn->figures.count) assert_int_equal(file_read(dat_path, 1 << 26, &drawn->dat, &bytes), 0);
}

static void drawn_close(struct drawn *drawn) {
    memory_release(drawn->dat);
    figures_close(&drawn->figures);
    report_close(&drawn->report);
    sqlite3_close(drawn->db);
}

static const char *argument(const struct drawn *drawn, int i) { return drawn->figures.items[0].arguments[i].bytes; }

/* The rows of a block (0, 1, 2), without comments and the empty lines between curves; at most `most` of them. */
static size_t block_rows(const struct drawn *drawn, int block, double rows[][5], size_t most) {
    size_t count = 0;
    const char *at = drawn->dat;
    for (int b = 0; b < block; b++) {
        at = strstr(at, "\n\n\n");
        assert_non_null(at);
        at += 3;
    }
    const char *end = strstr(at, "\n\n\n");
    for (; *at && (!end || at < end) && count < most; at += strcspn(at, "\n") + 1) {
        if (*at == '#' || *at == '\n') continue;
        double *r = rows[count];
        if (sscanf(at, "%lf\t%lf\t%lf\t%lf\t%lf", &r[0], &r[1], &r[2], &r[3], &r[4]) >= 3) count++;
    }
    return count;
}

static double rows[40000][5];

static void a_shared_stage_is_drawn_once(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, "");
    assert_int_equal(drawn.figures.count, 1);
    assert_string_equal(argument(&drawn, 2), "finetune");
    assert_string_equal(argument(&drawn, 4), "1");
    assert_string_equal(argument(&drawn, 5), "accuracy on the validation split, %");
    assert_non_null(strstr(drawn.dat, "1\t1\t1 baseline and 3 more\n"));
    assert_int_equal(block_rows(&drawn, 1, rows, 40000), SYNTHETIC_STEPS);
    for (int i = 0; i < SYNTHETIC_STEPS; i++) {
        double sum = 0;
        int from = i < 2 ? 0 : i - 2, to = i + 2 < SYNTHETIC_STEPS ? i + 2 : SYNTHETIC_STEPS - 1; /* 1/50 of 120 */
        for (int k = from; k <= to; k++) sum += rows[k][3];
        assert_int_equal(rows[i][2], i + 1);
        assert_true(fabs(rows[i][4] - sum / (double)(to - from + 1)) < 1e-4);
    }
    assert_int_equal(block_rows(&drawn, 2, rows, 40000), 3);
    assert_int_equal(rows[1][2], 2 * SYNTHETIC_STEPS / 3);
    assert_float_equal(rows[1][3], 90.7, 1e-6); /* percent */
    drawn_close(&drawn);
}

static void other_options_and_seeds_are_other_curves(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn,
         "UPDATE stage SET options = '{}' WHERE ordinal = 0 AND run_id IN (SELECT r.id FROM run r JOIN cell c ON"
         " c.id = r.cell_id WHERE c.ordinal = 1);"
         "UPDATE cell SET seed = 2 WHERE ordinal = 2");
    assert_string_equal(argument(&drawn, 4), "3");
    assert_non_null(strstr(drawn.dat, "1\t1\t1 baseline and 1 more\n"));
    assert_non_null(strstr(drawn.dat, "1\t2\t2 rtn bits=8\n"));
    assert_non_null(strstr(drawn.dat, "1\t3\t3 rtn bits=4 group=64\n"));
    drawn_close(&drawn);
}

static void each_kind_of_stage_has_a_panel(void **state) {
    (void)state;
    struct drawn drawn;
    /* The second stage of two cells trains as well, and its loss falls steeply. */
    draw(&drawn, "UPDATE stage SET technique = 'distill' WHERE technique = 'rtn';"
                 "INSERT INTO curve SELECT run_id, 1, step, 2.0 / step / step, rate, gradient_norm, seconds FROM curve"
                 " WHERE run_id IN (SELECT run_id FROM stage WHERE technique = 'distill')");
    assert_string_equal(argument(&drawn, 2), "finetune distill");
    assert_string_equal(argument(&drawn, 3), "0 1");
    assert_string_equal(argument(&drawn, 4), "1 2");
    assert_int_equal(block_rows(&drawn, 1, rows, 40000), 3 * SYNTHETIC_STEPS);
    assert_int_equal(rows[SYNTHETIC_STEPS][0], 2);
    drawn_close(&drawn);
}

static void long_curves_are_thinned(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, "DELETE FROM curve; DELETE FROM evaluation;"
                 "WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 2048)"
                 " INSERT INTO curve SELECT r.id, 0, n.value, 1.0, 1, 1, 1 FROM run r JOIN n"
                 " WHERE r.kind = 'build' AND r.status = 'ok'");
    assert_int_equal(block_rows(&drawn, 1, rows, 40000), 1025);
    assert_int_equal(rows[1][2], 3);
    assert_int_equal(rows[1024][2], 2048);                           /* the last one is there */
    assert_int_equal(drawn.figures.items[0].arguments[5].length, 0); /* no scores, no axis for them */
    drawn_close(&drawn);
}

static void without_curves_there_is_no_figure(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, "DELETE FROM curve; DELETE FROM evaluation");
    assert_int_equal(drawn.figures.count, 0);
    assert_int_not_equal(access(dat_path, F_OK), 0);
    drawn_close(&drawn);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shared_stage_is_drawn_once), cmocka_unit_test(other_options_and_seeds_are_other_curves),
        cmocka_unit_test(each_kind_of_stage_has_a_panel), cmocka_unit_test(long_curves_are_thinned),
        cmocka_unit_test(without_curves_there_is_no_figure)};
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
