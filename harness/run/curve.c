/* See curve.h. The journal is a row of fixed size per call, as it is in memory: it is read by the same program on the
 * same machine, or not at all. A row cut off at its end is left out. */
#include "run/curve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

enum journal_kind { JOURNAL_STEP = 1, JOURNAL_SCORE };
struct journal_row {
    uint64_t kind;
    struct train_progress step; /* of a score: the step it follows */
    double value;
};

/* Room for one more element. */
static bool grow(struct curve *curve, void **list, size_t *capacity, size_t count, size_t size) {
    if (curve->status < 0) return false;
    if (count < *capacity) return true;
    size_t more = *capacity ? *capacity * 2 : 256;
    curve->status = memory_resize(list, more, size);
    if (curve->status < 0) return false;
    *capacity = more;
    return true;
}

/* Forget steps and scores from `step` on. */
static void forget(struct curve *curve, size_t step) {
    while (curve->count && curve->rows[curve->count - 1].step >= step) curve->count--;
    if (!curve->count) curve->spacing = 1;
    while (curve->score_count && curve->scores[curve->score_count - 1].step >= step) curve->score_count--;
}

static bool kept(const struct curve *curve, size_t step) { return (step - 1) % curve->spacing == 0; }

static void thin(struct curve *curve) {
    size_t left = 0;
    curve->spacing *= 2;
    for (size_t i = 0; i < curve->count; i++)
        if (kept(curve, curve->rows[i].step)) curve->rows[left++] = curve->rows[i];
    curve->count = left;
}

static void step_add(struct curve *curve, const struct train_progress *row) {
    forget(curve, row->step);
    curve->newest = *row;
    if (!kept(curve, row->step)) return;
    if (!grow(curve, (void **)&curve->rows, &curve->capacity, curve->count, sizeof *curve->rows)) return;
    curve->rows[curve->count++] = *row;
    if (curve->count > CURVE_ROWS) thin(curve);
}

static void score_add(struct curve *curve, size_t step, double value) {
    while (curve->score_count && curve->scores[curve->score_count - 1].step >= step) curve->score_count--;
    if (!grow(curve, (void **)&curve->scores, &curve->score_capacity, curve->score_count, sizeof *curve->scores))
        return;
    curve->scores[curve->score_count++] = (struct curve_score){step, value};
}

static void journal_write(struct curve *curve, const struct journal_row *row) {
    if (curve->journal < 0) return;
    if (write(curve->journal, row, sizeof *row) == (ssize_t)sizeof *row) return;
    close(curve->journal);
    curve->journal = -1;
}

static void journal_read(struct curve *curve) {
    struct journal_row row;
    off_t whole = 0;
    while (read(curve->journal, &row, sizeof row) == (ssize_t)sizeof row) {
        if (row.step.step == 0 && row.kind == JOURNAL_STEP) break;
        if (row.kind == JOURNAL_STEP) step_add(curve, &row.step);
        else if (row.kind == JOURNAL_SCORE) score_add(curve, row.step.step, row.value);
        else break;
        whole += (off_t)sizeof row;
    }
    /* What is not a whole row goes. */
    if (ftruncate(curve->journal, whole) == 0 && lseek(curve->journal, whole, SEEK_SET) == whole) return;
    close(curve->journal);
    curve->journal = -1;
}

int curve_open(struct curve *curve, const char *folder) {
    int status = 0;
    char path[4096];
    *curve = (struct curve){.spacing = 1, .journal = -1};
    if (!folder || snprintf(path, sizeof path, "%s/" CURVE_JOURNAL, folder) >= (int)sizeof path) goto out;
    curve->journal = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (curve->journal >= 0) journal_read(curve);
    TRY(curve->status);
out:
    if (status < 0) curve_close(curve);
    return status;
}

void curve_close(struct curve *curve) {
    if (curve->spacing && curve->journal >= 0) close(curve->journal);
    memory_release(curve->rows);
    memory_release(curve->scores);
    *curve = (struct curve){0};
}

void curve_step(struct curve *curve, const struct train_progress *row) {
    struct journal_row line;
    if (row->step == 0) return; /* steps count from 1 */
    memset(&line, 0, sizeof line);
    line.kind = JOURNAL_STEP;
    line.step = *row;
    step_add(curve, row);
    journal_write(curve, &line);
}

void curve_score(struct curve *curve, double value) {
    struct journal_row line;
    memset(&line, 0, sizeof line);
    line.kind = JOURNAL_SCORE;
    line.step.step = curve->newest.step;
    line.value = value;
    score_add(curve, curve->newest.step, value);
    journal_write(curve, &line);
}

static void row_record(struct record *record, int stage, const struct train_progress *row) {
    record_curve(record, &(struct curve_record){stage, (int64_t)row->step, row->loss, row->rate, row->gradient_norm,
                                                row->seconds});
}

int curve_record(const struct curve *curve, struct record *record, int stage, const char *metric) {
    int status = 0;
    TRY(curve->status);
    for (size_t i = 0; i < curve->count; i++) row_record(record, stage, &curve->rows[i]);
    if (curve->newest.step && (!curve->count || curve->rows[curve->count - 1].step != curve->newest.step))
        row_record(record, stage, &curve->newest);
    for (size_t i = 0; curve->newest.step && i < curve->score_count; i++)
        record_evaluation(
            record, &(struct evaluation_record){stage, (int64_t)curve->scores[i].step, metric, curve->scores[i].value});
    TRY(record->status);
out:
    return status;
}
