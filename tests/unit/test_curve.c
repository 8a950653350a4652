/* Curves of training stages: thinning, resuming, the journal, and their way into a record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "run/curve.h"

static struct train_progress row(size_t step) {
    return (struct train_progress){step, 100000, 1e6 / (double)step, 1e-3, (double)step, 0.5 * (double)step};
}

static void record_of(const struct curve *curve, struct record *record) {
    *record = (struct record){0};
    record_stage(record, &(struct stage_record){.technique = "finetune", .options = "{}"});
    assert_int_equal(curve_record(curve, record, 0, "accuracy"), 0);
    assert_int_equal(record_finish(record), 0);
}

static void short_ones_are_kept_whole(void **state) {
    (void)state;
    struct curve curve;
    struct record record;
    assert_int_equal(curve_open(&curve, NULL), 0);
    curve_score(&curve, 0.5);
    record_of(&curve, &record); /* no step yet, so no curve */
    assert_int_equal(record.run.evaluation_count, 0);
    record_close(&record);
    for (size_t step = 1; step <= CURVE_ROWS; step++) {
        struct train_progress progress = row(step);
        curve_step(&curve, &progress);
        if (step % 1000 == 0) curve_score(&curve, (double)step);
    }
    record_of(&curve, &record);
    assert_int_equal(record.run.curve_count, CURVE_ROWS);
    for (size_t i = 0; i < CURVE_ROWS; i++) {
        struct train_progress progress = row(i + 1);
        assert_int_equal(record.run.curve[i].step, i + 1);
        assert_true(record.run.curve[i].loss == progress.loss && record.run.curve[i].rate == progress.rate);
        assert_true(record.run.curve[i].gradient_norm == progress.gradient_norm);
        assert_true(record.run.curve[i].seconds == progress.seconds);
    }
    assert_int_equal(record.run.evaluation_count, 3);
    assert_int_equal(record.run.evaluations[0].step, 0);
    assert_int_equal(record.run.evaluations[2].step, 2000);
    assert_true(record.run.evaluations[2].value == 2000);
    assert_string_equal(record.run.evaluations[2].metric, "accuracy");
    record_close(&record);
    curve_close(&curve);
}

/* What is kept follows from the number of steps, resumed or not: evenly spaced steps and the last. */
static void check_thinned(const struct curve *curve, size_t steps) {
    struct record record;
    size_t spacing = 1;
    while ((steps - 1) / spacing + 1 > CURVE_ROWS) spacing *= 2;
    size_t even = (steps - 1) / spacing + 1, last = (steps - 1) % spacing != 0;
    record_of(curve, &record);
    assert_int_equal(record.run.curve_count, even + last);
    for (size_t i = 0; i < even; i++) assert_int_equal(record.run.curve[i].step, 1 + i * spacing);
    assert_int_equal(record.run.curve[record.run.curve_count - 1].step, steps);
    record_close(&record);
}

static void long_ones_are_thinned_evenly(void **state) {
    (void)state;
    static const size_t lengths[] = {CURVE_ROWS + 1, CURVE_ROWS + 2, 6315, 4 * CURVE_ROWS, 4 * CURVE_ROWS + 1, 50000};
    for (size_t c = 0; c < sizeof lengths / sizeof *lengths; c++) {
        struct curve curve;
        assert_int_equal(curve_open(&curve, NULL), 0);
        for (size_t step = 1; step <= lengths[c]; step++) {
            struct train_progress progress = row(step);
            curve_step(&curve, &progress);
        }
        check_thinned(&curve, lengths[c]);
        curve_close(&curve);
    }
}

static void a_resumed_stage_goes_on(void **state) {
    (void)state;
    struct curve curve;
    struct record record;
    char folder[] = "/tmp/test_curve_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/" CURVE_JOURNAL, folder);
    assert_int_equal(curve_open(&curve, folder), 0);
    for (size_t step = 1; step <= 5000; step++) {
        struct train_progress progress = row(step);
        curve_step(&curve, &progress);
        if (step % 500 == 0) curve_score(&curve, (double)step);
    }
    curve_close(&curve); /* as a killed worker leaves it: with half a row at the end */
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs("half", file);
    assert_int_equal(fclose(file), 0);

    /* The checkpoint was of step 4000: what came after is told again, with other numbers to know it by. */
    assert_int_equal(curve_open(&curve, folder), 0);
    check_thinned(&curve, 5000);
    for (size_t step = 4001; step <= 6315; step++) {
        struct train_progress progress = row(step);
        progress.loss = 1;
        curve_step(&curve, &progress);
    }
    check_thinned(&curve, 6315);
    record_of(&curve, &record);
    for (size_t i = 0; i < record.run.curve_count; i++)
        assert_true((record.run.curve[i].loss == 1) == (record.run.curve[i].step > 4000));
    assert_int_equal(record.run.evaluation_count, 8); /* 500 … 4000 */
    record_close(&record);
    curve_close(&curve);

    /* And once more from the beginning. */
    assert_int_equal(curve_open(&curve, folder), 0);
    struct train_progress first = row(1);
    curve_step(&curve, &first);
    record_of(&curve, &record);
    assert_int_equal(record.run.curve_count, 1);
    assert_int_equal(record.run.evaluation_count, 0);
    record_close(&record);
    curve_close(&curve);
    unlink(path);
    rmdir(folder);
}

static void a_journal_that_cannot_be_written_is_no_error(void **state) {
    (void)state;
    struct curve curve;
    struct record record;
    struct train_progress first = row(1);
    assert_int_equal(curve_open(&curve, "/nowhere/at/all"), 0);
    curve_step(&curve, &first);
    record_of(&curve, &record);
    assert_int_equal(record.run.curve_count, 1);
    record_close(&record);
    curve_close(&curve);
}

static void a_score_told_again_takes_its_place(void **state) {
    (void)state;
    struct curve curve;
    struct record record;
    struct train_progress first = row(1);
    assert_int_equal(curve_open(&curve, NULL), 0);
    curve_step(&curve, &first);
    curve_score(&curve, 1);
    curve_score(&curve, 2);
    record_of(&curve, &record);
    assert_int_equal(record.run.evaluation_count, 1);
    assert_true(record.run.evaluations[0].value == 2);
    record_close(&record);
    curve_close(&curve);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_ones_are_kept_whole), cmocka_unit_test(long_ones_are_thinned_evenly),
        cmocka_unit_test(a_resumed_stage_goes_on), cmocka_unit_test(a_journal_that_cannot_be_written_is_no_error),
        cmocka_unit_test(a_score_told_again_takes_its_place)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
