/* SQL rows to gnuplot data. Every .dat begins with a comment that names its columns, fields are separated by tabs,
 * absent numbers are NaN, and blocks (gnuplot's `index`) by two empty lines. Quality is printed in the unit of the
 * axis (percent for a fraction). */
#include "report/figure_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "measure/statistics.h"
#include "report/figure_points.h"
#include "report/report_files.h"

enum { LABEL_CHARACTERS = 35 };

static const char *plural(double n) { return n == 1 ? "" : "s"; }

struct figure *figure_add(struct figures *figures, const char *stem, const char *script) {
    if (figures->count == FIGURES_MAX) return NULL;
    struct figure *figure = &figures->items[figures->count++];
    *figure = (struct figure){0};
    snprintf(figure->stem, sizeof figure->stem, "%s", stem);
    snprintf(figure->script, sizeof figure->script, "%s", script);
    return figure;
}

/* The method of a kind of interval, as stored with the first cell that has one. */
static const char *method_of(const struct report *report, size_t batch, bool ratio) {
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        const struct report_estimate *e = ratio ? &cell->timing[batch].ratio : &cell->difference;
        if (!cell->is_baseline && isfinite(e->lo) && e->method) return e->method;
    }
    return "no interval is stored";
}

void figure_describe(struct figure *figure, const struct report *report, const char *interval) {
    char date[11]; /* of "2025-06-02T10:11:12Z" */
    text_field(&figure->arguments[0], report->name, 40);
    text_print(&figure->arguments[0], ": %s", figure->title);
    struct text *footer = &figure->arguments[1];
    text_raw(footer, "commit ");
    text_field(footer, report->commit, 16);
    text_print(footer, "%s (", report->dirty ? " with local changes" : "");
    text_field(footer, report->mode, 12);
    text_raw(footer, ") \xC2\xB7 ");
    text_field(footer, report->cpu, 60);
    if (isfinite(report->test_items)) {
        text_raw(footer, " \xC2\xB7 ");
        text_count(footer, report->test_items);
        text_raw(footer, " test items");
    }
    text_print(footer, " \xC2\xB7 %.0f round%s \xC3\x97 %.0f samples \xC2\xB7 ", report->session.rounds,
               plural(report->session.rounds), report->session.samples);
    snprintf(date, sizeof date, "%s", report->session.started_at);
    text_field(footer, date, sizeof date);
    if (!report->session.timing_valid) text_raw(footer, " \xC2\xB7 TIMINGS NOT VALID");
    text_print(footer, "\n%s", interval);
}

void figure_quality_axis(struct text *text, const struct report *report, const char *split) {
    text_field(text, report->metric, 40);
    text_print(text, " on the %s split%s", split, report->quality_scale == 100 ? ", %" : "");
}

/* y, y_lo, y_hi of a cell: its quality, with the interval of the paired difference laid around it. */
static void point_quality(struct figure_point *point, const struct report *report) {
    const struct report_cell *cell = point->cell;
    double scale = report->quality_scale, y = scale * cell->quality;
    bool interval =
        isfinite(cell->difference.lo) && isfinite(cell->difference.hi) && isfinite(cell->difference.estimate);
    point->y = y;
    point->y_lo = interval ? y + scale * (cell->difference.lo - cell->difference.estimate) : y;
    point->y_hi = interval ? y + scale * (cell->difference.hi - cell->difference.estimate) : y;
}

static int by_number(const void *left, const void *right) {
    const struct figure_point *a = left, *b = right;
    return (a->cell->number > b->cell->number) - (a->cell->number < b->cell->number);
}

/* The .dat of both scatter figures: block 0 the points in the order of the legend's rows, block 1 the frontier. */
static int points_write(struct figure_point *points, size_t count, const struct report *report, const char *directory,
                        const struct figure *figure, const char *x_name, bool log_x) {
    int status = 0;
    char name[80];
    struct text dat = {0}, frontier = {0};
    figure_points_frontier(points, count, report->higher_is_better);
    figure_points_place(points, count, log_x);
    text_print(&frontier, "\n\n# block 1: Pareto frontier: %s\tquality\n", x_name);
    for (size_t i = 0; i < count; i++)
        if (points[i].frontier) text_print(&frontier, "%.9g\t%.9g\n", points[i].x, points[i].y);
    TRY(text_status(&frontier));
    qsort(points, count, sizeof *points, by_number);
    text_print(
        &dat,
        "# block 0: number\tlabel\tseries (0 baseline)\tsimulated\t%s\tlo\thi\tquality\tlo\thi\tplace of the number\n",
        x_name);
    for (size_t i = 0; i < count; i++) {
        const struct figure_point *p = &points[i];
        text_print(&dat, "%d\t", p->cell->number);
        text_label(&dat, p->cell->label, LABEL_CHARACTERS);
        text_print(&dat, "\t%d\t%d\t%.9g\t%.9g\t%.9g\t%.9g\t%.9g\t%.9g\t%d\n", p->cell->series, p->cell->simulated,
                   p->x, p->x_lo, p->x_hi, p->y, p->y_lo, p->y_hi, p->place);
    }
    text_raw(&dat, frontier.bytes);
    snprintf(name, sizeof name, "%s.dat", figure->stem);
    TRY(file_write(directory, name, &dat));
out:
    text_close(&dat);
    text_close(&frontier);
    return status;
}

static void scatter_arguments(struct figure *figure, const struct report *report) {
    figure_quality_axis(&figure->arguments[2], report, "test");
    text_raw(&figure->arguments[3], report->higher_is_better ? "up" : "down");
    if (report->baseline) text_print(&figure->arguments[4], "%.9g", report->quality_scale * report->baseline->quality);
    else text_raw(&figure->arguments[4], "NaN");
}

int figure_quality_bytes(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    size_t count = 0;
    void *block = NULL;
    TRY(memory_take(&block, report->cell_count, sizeof(struct figure_point)));
    struct figure_point *points = block;
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        if (!cell->ok || !(cell->linear_bytes > 0) || !isfinite(cell->quality)) continue;
        points[count] = (struct figure_point){
            .cell = cell, .x = cell->linear_bytes, .x_lo = cell->linear_bytes, .x_hi = cell->linear_bytes};
        point_quality(&points[count++], report);
    }
    struct figure *figure = count ? figure_add(figures, "quality_bytes", "quality_bytes") : NULL;
    if (!figure) goto out;
    snprintf(figure->title, sizeof figure->title, "quality against size");
    figure->caption =
        "Each point is a cell. Left is smaller, and the dashed line is the baseline's quality. The stepped line "
        "joins the cells that no other executed cell beats in both (Pareto frontier). Hollow points are "
        "simulated: their zeros or levels are not stored compactly, so their bytes are those of the "
        "format they are kept in.";
    figure_describe(figure, report, "vertical bars: difference to the baseline, ");
    text_field(&figure->arguments[1], method_of(report, 0, false), 100);
    scatter_arguments(figure, report);
    text_print(&figure->arguments[5], "%.9g", count ? points[0].cell->linear_f32_bytes : NAN);
    TRY(points_write(points, count, report, directory, figure, "bytes of the compressed layers", true));
out:
    memory_release(block);
    return status;
}

int figure_quality_latency(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    char stem[64];
    void *block = NULL;
    TRY(memory_take(&block, report->cell_count, sizeof(struct figure_point)));
    struct figure_point *points = block;
    for (size_t b = 0; b < report->batch_count; b++) {
        size_t count = 0;
        bool paired = false;
        for (size_t i = 0; i < report->cell_count; i++) {
            const struct report_cell *cell = &report->cells[i];
            struct report_estimate ratio = cell->timing[b].ratio;
            if (!cell->ok) continue;
            if (cell->is_baseline && isfinite(cell->timing[b].latency_ms.estimate))
                ratio = (struct report_estimate){.estimate = 1, .lo = 1, .hi = 1};
            else if (isfinite(ratio.estimate)) paired = true;
            if (!isfinite(cell->quality) || !isfinite(ratio.estimate)) continue;
            points[count] = (struct figure_point){.cell = cell,
                                                  .x = ratio.estimate,
                                                  .x_lo = isfinite(ratio.lo) ? ratio.lo : ratio.estimate,
                                                  .x_hi = isfinite(ratio.hi) ? ratio.hi : ratio.estimate};
            point_quality(&points[count++], report);
        }
        snprintf(stem, sizeof stem, "quality_latency_batch%lld", (long long)report->batch[b]);
        struct figure *figure = paired ? figure_add(figures, stem, "quality_latency") : NULL;
        if (!figure) continue;
        snprintf(figure->title, sizeof figure->title, "quality against time, batch %lld", (long long)report->batch[b]);
        figure->caption =
            "Time as a ratio to the baseline timed in the same rounds: left of 1 is faster. Bars on both axes "
            "are intervals; cells whose bars overlap may not differ. Hollow points are simulated: "
            "they run through the format they are kept in, so they cannot be faster for it.";
        figure_describe(figure, report, "horizontal bars: ratio, ");
        text_field(&figure->arguments[1], method_of(report, b, true), 70);
        text_raw(&figure->arguments[1], "; vertical: difference, ");
        text_field(&figure->arguments[1], method_of(report, b, false), 70);
        scatter_arguments(figure, report);
        text_print(&figure->arguments[5], "%lld", (long long)report->batch[b]);
        TRY(points_write(points, count, report, directory, figure, "latency ratio", false));
    }
out:
    memory_release(block);
    return status;
}

/* The samples of one cell, and its row in the box block. */
struct cloud {
    double *values;
    size_t count, capacity, outliers;
    double slowest_outlier;
};

static int cloud_add(struct cloud *cloud, double value) {
    int status = 0;
    if (cloud->count == cloud->capacity) {
        size_t capacity = cloud->capacity ? 2 * cloud->capacity : 256;
        void *block = cloud->values;
        TRY(memory_resize(&block, capacity, sizeof *cloud->values));
        cloud->values = block;
        cloud->capacity = capacity;
    }
    cloud->values[cloud->count++] = value;
out:
    return status;
}

/* One line of block 1 for the cell whose samples are in the cloud; empties it. */
static void cloud_box(struct cloud *cloud, struct text *boxes, const struct report_cell *cell, int row) {
    if (!cloud->count) return;
    text_print(boxes, "%d\t%d ", row, cell->number);
    text_label(boxes, cell->label, LABEL_CHARACTERS);
    text_print(boxes, "\t%d\t%d\t%.9g\t%.9g\t%.9g\t%zu", cell->series, cell->simulated,
               statistics_quantile(cloud->values, cloud->count, 0.25), statistics_median(cloud->values, cloud->count),
               statistics_quantile(cloud->values, cloud->count, 0.75), cloud->count);
    if (cloud->outliers)
        text_print(boxes, ", %zu outlier%s to %.3g", cloud->outliers, plural((double)cloud->outliers),
                   cloud->slowest_outlier);
    text_raw(boxes, "\n");
    cloud->outliers = 0;
    cloud->slowest_outlier = 0;
    cloud->count = 0;
}

static int distribution_write(const struct report *report, int64_t batch, const char *directory, const char *stem,
                              int *rows_written) {
    static const char sql[] =
        "SELECT c.id, r.round - (SELECT MIN(x.round) FROM run x WHERE x.session_id = ?1 AND x.kind = 'time'),"
        " p.outlier, p.latency_ns, p.ordinal FROM sample p JOIN run r ON r.id = p.run_id"
        " JOIN cell c ON c.id = r.cell_id WHERE r.session_id = ?1 AND c.experiment_id = ?2 AND p.batch = ?3"
        " AND r.status = 'ok' AND p.warmup = 0 AND p.phase = '' ORDER BY c.ordinal, c.id, r.round, p.ordinal";
    int status = 0, row = 0;
    bool more = false;
    size_t at = 0;
    const struct report_cell *cell = NULL;
    char name[80];
    struct text dat = {0}, boxes = {0};
    struct cloud cloud = {0};
    struct rows rows = {0};
    double rounds = report->session.rounds > 0 ? report->session.rounds : 1;
    text_raw(&dat, "# block 0: row\tlane within the row (by round, first on top)\tmilliseconds\toutlier\tround (from "
                   "0)\tseries\n");
    TRY(rows_open(&rows, report, sql, batch));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        int64_t id = sqlite3_column_int64(rows.statement, 0);
        if (!cell || cell->id != id) {
            if (cell) cloud_box(&cloud, &boxes, cell, row);
            while (at < report->cell_count && report->cells[at].id != id) at++;
            if (at == report->cell_count) break;
            cell = &report->cells[at];
            row++;
        }
        double ms = rows_real(&rows, 3) / 1e6, round = rows_real(&rows, 1);
        double lane = fmin(fmax((round + 0.5) / rounds, 0), 1) - 0.5;
        bool outlier = rows_real(&rows, 2) != 0;
        TRY(cloud_add(&cloud, ms));
        if (outlier) cloud.outliers++, cloud.slowest_outlier = fmax(cloud.slowest_outlier, ms);
        text_print(&dat, "%d\t%.3f\t%.6g\t%d\t%.0f\t%d\n", row, 0.8 * lane, ms, outlier, round, cell->series);
    }
    if (cell) cloud_box(&cloud, &boxes, cell, row);
    text_raw(&dat, "\n\n# block 1: row\tnumber and label\tseries\tsimulated\tlower quartile\tmedian\tupper "
                   "quartile\tsamples and outliers\n");
    TRY(text_status(&boxes));
    if (boxes.length) text_raw(&dat, boxes.bytes);
    snprintf(name, sizeof name, "%s.dat", stem);
    *rows_written = row;
    if (row) TRY(file_write(directory, name, &dat));
out:
    memory_release(cloud.values);
    rows_close(&rows);
    text_close(&boxes);
    text_close(&dat);
    return status;
}

int figure_latency_distribution(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0, row_count = 0;
    char stem[64];
    for (size_t b = 0; b < report->batch_count; b++) {
        snprintf(stem, sizeof stem, "latency_distribution_batch%lld", (long long)report->batch[b]);
        TRY(distribution_write(report, report->batch[b], directory, stem, &row_count));
        struct figure *figure = row_count ? figure_add(figures, stem, "latency_distribution") : NULL;
        if (!figure) continue;
        snprintf(figure->title, sizeof figure->title, "every timed sample, batch %lld", (long long)report->batch[b]);
        figure->caption =
            "One tick per timed repetition; within a row the rounds run from top to bottom, so a drift of the "
            "machine shows as a slant and a bad round as a shifted line. Box: middle half of the "
            "samples, thick line: median. Crosses: outliers, flagged and kept. Warm-ups are left out.";
        figure_describe(figure, report,
                        "box: quartiles and median of the samples shown; cross: outlier by the median absolute "
                        "deviation (kept in all numbers)");
        text_print(&figure->arguments[2], "%lld", (long long)report->batch[b]);
    }
out:
    return status;
}

int figure_stage_waterfall(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0, row = 0;
    double scale = report->quality_scale;
    struct text dat = {0};
    const struct report_cell *cell = NULL;
    text_raw(
        &dat,
        "# row\tcell\tstage\tquality before\tafter\tbytes before\tafter\tsimulated\tquality as text\tbytes as text\n");
    for (size_t i = 0; i < report->stage_count; i++) {
        const struct report_stage *stage = &report->stages[i];
        if (stage->shared || (!isfinite(stage->quality) && !isfinite(stage->linear_bytes))) continue;
        text_print(&dat, "%d\t", ++row);
        if (cell != stage->cell) {
            text_print(&dat, "%d ", stage->cell->number);
            text_label(&dat, stage->cell->label, LABEL_CHARACTERS - 3);
        }
        cell = stage->cell;
        text_raw(&dat, "\t");
        text_field(&dat, stage->technique, 20);
        const double values[] = {scale * stage->quality_before, scale * stage->quality, stage->linear_bytes_before,
                                 stage->linear_bytes};
        for (size_t k = 0; k < 4; k++) text_print(&dat, isfinite(values[k]) ? "\t%.9g" : "\tNaN", values[k]);
        text_print(&dat, "\t%d\t", stage->cell->simulated);
        text_number(&dat, scale * stage->quality, scale == 100 ? 2 : 4);
        if (isfinite(stage->quality_before)) {
            text_raw(&dat, " (");
            text_signed(&dat, scale * (stage->quality - stage->quality_before), scale == 100 ? 2 : 4);
            text_raw(&dat, ")");
        }
        text_raw(&dat, "\t");
        text_bytes(&dat, stage->linear_bytes);
        text_raw(&dat, "\n");
    }
    TRY(text_status(&dat));
    struct figure *figure = row ? figure_add(figures, "stage_waterfall", "stage_waterfall") : NULL;
    if (!figure) goto out;
    snprintf(figure->title, sizeof figure->title, "what each stage did");
    figure->caption =
        "Each bar runs from the value before a stage (plain end) to the value after it (point). Left: quality on "
        "the validation split; right: bytes of the compressed layers. Stages that a cell shares with the "
        "baseline are drawn once, under the baseline.";
    figure_describe(figure, report,
                    "validation split, one value per stage, no interval; the test split's intervals are in the table");
    figure_quality_axis(&figure->arguments[2], report, "validation");
    TRY(file_write(directory, "stage_waterfall.dat", &dat));
out:
    text_close(&dat);
    return status;
}
