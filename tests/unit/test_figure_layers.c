/* The figures of what quantizing stages told of layers: who is drawn together, rows, boxes, ranges, what was lost. What
 * is checked is the data file; test_report.c checks that it can be drawn. */
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

static char folder[64], db_path[96];

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_layers_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(db_path, sizeof db_path, "%s/results.db", folder);
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
    char *dat; /* of the first figure */
};

typedef int figure_function(struct figures *figures, const struct report *report, const char *directory);

/* A fresh database of the synthetic session after some SQL, and its figures of one kind. */
static void draw(struct drawn *drawn, figure_function *figure, const char *sql) {
    char *message = NULL, path[192];
    size_t bytes;
    *drawn = (struct drawn){0};
    if (synthetic_database(db_path) < 0) fail_msg("%s", error_text());
    assert_int_equal(sqlite3_open(db_path, &drawn->db), SQLITE_OK);
    if (sqlite3_exec(drawn->db, sql, NULL, NULL, &message) != SQLITE_OK) fail_msg("%s: %s", sql, message);
    if (report_load(&drawn->report, drawn->db, "synthetic") < 0) fail_msg("%s", error_text());
    if (figure(&drawn->figures, &drawn->report, folder) < 0) fail_msg("%s", error_text());
    if (!drawn->figures.count) return;
    snprintf(path, sizeof path, "%s/%s.dat", folder, drawn->figures.items[0].stem);
    assert_int_equal(file_read(path, 1 << 26, &drawn->dat, &bytes), 0);
}

static void drawn_close(struct drawn *drawn) {
    memory_release(drawn->dat);
    figures_close(&drawn->figures);
    report_close(&drawn->report);
    sqlite3_close(drawn->db);
}

static const char *argument(const struct drawn *drawn, int i) { return drawn->figures.items[0].arguments[i].bytes; }

/* Rows of a block without comments: numbers of up to six columns, of which texts are 0. */
static size_t block_rows(const struct drawn *drawn, int block, double rows[][6]) {
    size_t count = 0;
    const char *at = drawn->dat;
    for (int b = 0; b < block; b++) {
        at = strstr(at, "\n\n\n");
        assert_non_null(at);
        at += 3;
    }
    const char *end = strstr(at, "\n\n\n");
    for (; *at && (!end || at < end); at += strcspn(at, "\n") + 1) {
        if (*at == '#' || *at == '\n') continue;
        const char *field = at;
        for (int c = 0; c < 6; c++) {
            rows[count][c] = strtod(field, NULL);
            field += strcspn(field, "\t\n");
            if (*field == '\t') field++;
        }
        count++;
    }
    return count;
}

static double rows[8192][6];

static void cells_that_chose_alike_share_a_figure(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, figure_layer_ranges, "");
    assert_int_equal(drawn.figures.count, 1);
    assert_string_equal(drawn.figures.items[0].stem, "layer_ranges");
    assert_string_equal(argument(&drawn, 2), "8");
    assert_string_equal(argument(&drawn, 3), "1");
    assert_int_equal(block_rows(&drawn, 0, rows), SYNTHETIC_LAYERS);
    assert_non_null(strstr(drawn.dat, "\n5\tblock.1.query\t6\n"));
    /* Every box of 64 that holds something: all but where the bell is below one of 10,000. */
    size_t boxes = block_rows(&drawn, 1, rows), first = 0;
    double sum = 0;
    for (size_t i = 0; i < boxes && rows[i][0] == 1; i++, first++) {
        assert_true(rows[i][1] >= -1 && rows[i][2] <= 1 && fabs(rows[i][2] - rows[i][1] - 1.0 / 32) < 1e-4);
        sum = fmax(sum, rows[i][3]);
    }
    assert_true(first > 50 && first <= 64 && sum == 1);
    assert_int_equal(block_rows(&drawn, 2, rows), SYNTHETIC_LAYERS);
    assert_true(fabs(rows[3][2] + 0.7) < 1e-4 && fabs(rows[3][3] - 0.8) < 1e-4);
    drawn_close(&drawn);
}

static void other_ranges_are_other_members(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, figure_layer_ranges,
         "UPDATE layer SET high = high / 2 WHERE run_id = (SELECT max(run_id) FROM layer) AND ordinal = 2");
    assert_int_equal(drawn.figures.count, 1);
    assert_string_equal(argument(&drawn, 3), "2");
    assert_int_equal(block_rows(&drawn, 2, rows), 2 * SYNTHETIC_LAYERS);
    assert_true(rows[SYNTHETIC_LAYERS + 2][0] == 2 && rows[SYNTHETIC_LAYERS + 2][1] == 3);
    assert_true(fabs(rows[SYNTHETIC_LAYERS + 2][3] - 0.4) < 1e-4);
    assert_int_equal(block_rows(&drawn, 3, rows), 2);
    drawn_close(&drawn);
    /* Another beginning is another figure. */
    draw(&drawn, figure_layer_ranges,
         "UPDATE stage SET options = '{}' WHERE ordinal = 0 AND run_id = (SELECT max(run_id) FROM layer)");
    assert_int_equal(drawn.figures.count, 2);
    assert_string_equal(drawn.figures.items[1].stem, "layer_ranges_2");
    drawn_close(&drawn);
}

static void deep_models_are_thinned(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, figure_layer_ranges,
         "INSERT INTO layer SELECT run_id, stage, ordinal + 8 * k.value, layer || '.' || k.value, format, low, high,"
         " seen_low, seen_high, histogram_low, histogram_width, histogram, error_name, error, score_lost, bytes_f32,"
         " bytes_packed FROM layer, json_each('[1,2,3,4,5,6,7,8,9,10,11]') k");
    assert_string_equal(argument(&drawn, 2), "48");
    assert_int_equal(block_rows(&drawn, 0, rows), 48);
    assert_non_null(strstr(drawn.dat, "\n1\tblock.0.query\t"));
    assert_non_null(strstr(drawn.dat, "\n48\tblock.1.down.11\t"));
    drawn_close(&drawn);
}

static void losses_and_bytes_stand_by_layer(void **state) {
    (void)state;
    struct drawn drawn;
    draw(&drawn, figure_layer_sensitivity, "");
    assert_true(drawn.figures.count >= 1);
    assert_string_equal(argument(&drawn, 2), "8");
    assert_string_equal(argument(&drawn, 3), "KL divergence of outputs, nats");
    assert_string_equal(argument(&drawn, 4), "accuracy on the validation split, %");
    assert_int_equal(block_rows(&drawn, 0, rows), SYNTHETIC_LAYERS);
    for (int i = 0; i < SYNTHETIC_LAYERS; i++) {
        assert_true(fabs(rows[i][2] - 1e-4 * (1 + i * i)) < 1e-9);
        assert_true(fabs(rows[i][3] - 0.05 * (i - 1)) < 1e-9); /* percent */
        assert_true(rows[i][4] == (i % 4 / 2 ? 2 : 1) * (65536 - 16896) && rows[i][5] == (i == 7));
    }
    drawn_close(&drawn);
    draw(&drawn, figure_layer_sensitivity, "UPDATE layer SET score_lost = NULL");
    assert_null(argument(&drawn, 4));
    drawn_close(&drawn);
    draw(&drawn, figure_layer_sensitivity, "UPDATE layer SET error = NULL");
    assert_int_equal(drawn.figures.count, 0);
    drawn_close(&drawn);
    draw(&drawn, figure_layer_ranges, "DELETE FROM layer");
    assert_int_equal(drawn.figures.count, 0);
    drawn_close(&drawn);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_that_chose_alike_share_a_figure),
        cmocka_unit_test(other_ranges_are_other_members),
        cmocka_unit_test(deep_models_are_thinned),
        cmocka_unit_test(losses_and_bytes_stand_by_layer),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
