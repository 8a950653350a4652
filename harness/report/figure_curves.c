/* The loss curves of a session: one panel per kind of stage that trained, in it a curve for every such stage that is
 * not another cell's, with the scores taken on the way.
 *
 * Cells share what their pipelines begin with, so a curve belongs to a chain of stages with their options and a seed;
 * each chain is drawn once, under the name of its first cell. The losses of single batches are noisy: a mean over the
 * neighbouring steps is drawn over them.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "report/figure_data.h"
#include "report/report_files.h"

enum {
    PANELS_MAX = 6,
    ROWS_DRAWN = 1024, /* of a curve: more than there are pixels */
    CURVES_MAX = 24,   /* of a panel; more are counted, not drawn */
    LABEL_CHARACTERS = 32,
    LABEL_SHARED = 21, /* before "and 10 more" */
    SMOOTH_SHARE = 50  /* a mean over 1/50 of the curve to either side */
};
#define LOG_RATIO 8 /* a smoothed loss that spans more is drawn on a logarithmic axis */

struct chain {
    char key[HASH_HEX];
    const struct report_stage *stage;
    size_t users; /* cells that have it */
};

struct panel {
    const char *technique;
    size_t curves, left_out;
    double lowest, highest; /* smoothed loss */
};

struct curves {
    const struct report *report;
    struct chain *chains; /* [report->stage_count] at most */
    size_t count;
    struct panel panels[PANELS_MAX];
    size_t panel_count;
    struct text legend, steps, scores;
    double *loss, *smooth;
    int64_t *step;
    size_t rows, capacity;
};

/* Everything up to a stage that makes its curve what it is. */
static void chain_key(const struct report_stage *stage, char key[HASH_HEX]) {
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, stage->cell->seed ? stage->cell->seed : "");
    for (const struct report_stage *s = stage - stage->ordinal; s <= stage; s++) {
        hash_text(&hash, s->technique);
        hash_text(&hash, s->options);
    }
    hash_close(&hash, key);
}

static int chains_find(struct curves *curves) {
    int status = 0;
    const struct report *report = curves->report;
    void *block = NULL;
    TRY(memory_take(&block, report->stage_count, sizeof *curves->chains));
    curves->chains = block;
    for (size_t i = 0; i < report->stage_count; i++) {
        const struct report_stage *stage = &report->stages[i];
        struct chain *fresh = &curves->chains[curves->count];
        size_t known = 0;
        if ((size_t)stage->ordinal > i || stage[-stage->ordinal].cell != stage->cell) continue; /* a gap: not a chain */
        chain_key(stage, fresh->key);
        while (known < curves->count && strcmp(curves->chains[known].key, fresh->key) != 0) known++;
        curves->chains[known].users++;
        if (known < curves->count) continue;
        fresh->stage = stage;
        curves->count++;
    }
out:
    return status;
}

/* ---- one curve ------------------------------------------------------------------------------------------ */

static int row_add(struct curves *curves, int64_t step, double loss) {
    int status = 0;
    if (curves->rows == curves->capacity) {
        size_t capacity = curves->capacity ? 2 * curves->capacity : 1024;
        void *block = curves->loss;
        TRY(memory_resize(&block, capacity, sizeof *curves->loss));
        curves->loss = block;
        block = curves->smooth;
        TRY(memory_resize(&block, capacity, sizeof *curves->smooth));
        curves->smooth = block;
        block = curves->step;
        TRY(memory_resize(&block, capacity, sizeof *curves->step));
        curves->step = block;
        curves->capacity = capacity;
    }
    curves->loss[curves->rows] = loss;
    curves->step[curves->rows++] = step;
out:
    return status;
}

static int rows_load(struct curves *curves, const struct report_stage *stage) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    char sql[192];
    curves->rows = 0;
    snprintf(sql, sizeof sql, "SELECT step, loss FROM curve WHERE run_id = ?3 AND stage = %d ORDER BY step",
             stage->ordinal);
    TRY(rows_open(&rows, curves->report, sql, stage->cell->run_id));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        double loss = rows_real(&rows, 1);
        if (isfinite(loss)) TRY(row_add(curves, sqlite3_column_int64(rows.statement, 0), loss));
    }
out:
    rows_close(&rows);
    return status;
}

/* Means over the neighbours to both sides, as far as there are any. */
static void rows_smooth(struct curves *curves, struct panel *panel) {
    size_t width = curves->rows / SMOOTH_SHARE;
    for (size_t i = 0; i < curves->rows; i++) {
        size_t from = i < width ? 0 : i - width, to = i + width < curves->rows ? i + width : curves->rows - 1;
        double sum = 0;
        for (size_t k = from; k <= to; k++) sum += curves->loss[k];
        curves->smooth[i] = sum / (double)(to - from + 1);
        panel->lowest = fmin(panel->lowest, curves->smooth[i]);
        panel->highest = fmax(panel->highest, curves->smooth[i]);
    }
}

static int scores_print(struct curves *curves, const struct report_stage *stage, size_t panel, size_t curve) {
    int status = 0;
    bool more = false, any = false;
    struct rows rows = {0};
    char sql[192];
    double scale = curves->report->quality_scale;
    snprintf(sql, sizeof sql, "SELECT step, value FROM evaluation WHERE run_id = ?3 AND stage = %d ORDER BY step",
             stage->ordinal);
    TRY(rows_open(&rows, curves->report, sql, stage->cell->run_id));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        double value = rows_real(&rows, 1);
        if (!isfinite(value)) continue;
        text_print(&curves->scores, "%zu\t%zu\t%.0f\t%.9g\n", panel + 1, curve, rows_real(&rows, 0), scale * value);
        any = true;
    }
    if (any) text_raw(&curves->scores, "\n");
out:
    rows_close(&rows);
    return status;
}

static struct panel *panel_of(struct curves *curves, const char *technique) {
    for (size_t p = 0; p < curves->panel_count; p++)
        if (strcmp(curves->panels[p].technique, technique) == 0) return &curves->panels[p];
    if (curves->panel_count == PANELS_MAX) return NULL;
    struct panel *panel = &curves->panels[curves->panel_count++];
    *panel = (struct panel){.technique = technique, .lowest = INFINITY, .highest = -INFINITY};
    return panel;
}

static int chain_print(struct curves *curves, const struct chain *chain) {
    int status = 0;
    const struct report_cell *cell = chain->stage->cell;
    TRY(rows_load(curves, chain->stage));
    struct panel *panel = curves->rows ? panel_of(curves, chain->stage->technique) : NULL;
    if (!panel) goto out;
    if (panel->curves == CURVES_MAX) {
        panel->left_out++;
        goto out;
    }
    size_t place = (size_t)(panel - curves->panels), curve = ++panel->curves;
    rows_smooth(curves, panel);
    size_t spacing = (curves->rows - 1) / ROWS_DRAWN + 1;
    for (size_t i = 0; i < curves->rows; i++)
        if (i % spacing == 0 || i + 1 == curves->rows)
            text_print(&curves->steps, "%zu\t%zu\t%lld\t%.6g\t%.6g\n", place + 1, curve, (long long)curves->step[i],
                       curves->loss[i], curves->smooth[i]);
    text_raw(&curves->steps, "\n"); /* a gap between curves */
    TRY(scores_print(curves, chain->stage, place, curve));
    text_print(&curves->legend, "%zu\t%zu\t%d ", place + 1, curve, cell->number);
    text_label(&curves->legend, cell->label, chain->users > 1 ? LABEL_SHARED : LABEL_CHARACTERS);
    if (chain->users > 1) text_print(&curves->legend, " and %zu more", chain->users - 1);
    text_raw(&curves->legend, "\n");
out:
    return status;
}

/* ---- the figure ----------------------------------------------------------------------------------------- */

static int dat_write(struct curves *curves, const char *directory) {
    int status = 0;
    struct text dat = {0};
    text_raw(&dat, "# block 0: panel\tcurve of the panel\tnumber and label of its cell, and how many more have it\n");
    for (size_t p = 0; p < curves->panel_count; p++)
        if (curves->panels[p].left_out)
            text_print(&curves->legend, "%zu\t%d\t%zu more not drawn\n", p + 1, CURVES_MAX + 1,
                       curves->panels[p].left_out);
    TRY(text_status(&curves->legend));
    TRY(text_status(&curves->steps));
    TRY(text_status(&curves->scores));
    text_raw(&dat, curves->legend.bytes);
    text_raw(&dat, "\n\n# block 1: panel\tcurve\tstep\tloss of the step's batch\tmean over neighbouring steps\n");
    text_raw(&dat, curves->steps.bytes);
    text_raw(&dat, "\n# block 2: panel\tcurve\tstep\tscore on the validation split\n");
    if (curves->scores.length) text_raw(&dat, curves->scores.bytes);
    TRY(file_write(directory, "loss_curve.dat", &dat));
out:
    text_close(&dat);
    return status;
}

static void figure_fill(struct figure *figure, const struct curves *curves) {
    const struct report *report = curves->report;
    snprintf(figure->title, sizeof figure->title, "loss while training");
    figure->caption =
        "A panel per kind of stage that trains. Thin: the loss of each step's batch (thinned evenly where there are "
        "more than a thousand); thick: its mean over neighbouring steps. Points: the score on the validation "
        "split after that step, on the right axis. A stage that several cells share is drawn once. The axis of the "
        "loss is "
        "logarithmic where it spans more than eightfold.";
    figure_describe(figure, report, "one curve per trained stage and seed, no interval");
    for (size_t p = 0; p < curves->panel_count; p++) {
        const struct panel *panel = &curves->panels[p];
        bool logarithmic = panel->lowest > 0 && panel->highest > LOG_RATIO * panel->lowest;
        size_t rows = panel->curves + (panel->left_out > 0);
        text_print(&figure->arguments[2], "%s%s", p ? " " : "", panel->technique);
        text_print(&figure->arguments[3], "%s%d", p ? " " : "", logarithmic);
        text_print(&figure->arguments[4], "%s%zu", p ? " " : "", rows);
    }
    if (curves->scores.length) figure_quality_axis(&figure->arguments[5], report, "validation");
}

int figure_loss_curve(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    struct curves curves = {.report = report};
    TRY(chains_find(&curves));
    for (size_t i = 0; i < curves.count; i++) TRY(chain_print(&curves, &curves.chains[i]));
    struct figure *figure = curves.panel_count ? figure_add(figures, "loss_curve", "loss_curve") : NULL;
    if (!figure) goto out;
    figure_fill(figure, &curves);
    TRY(dat_write(&curves, directory));
out:
    memory_release(curves.chains);
    memory_release(curves.loss);
    memory_release(curves.smooth);
    memory_release(curves.step);
    text_close(&curves.legend);
    text_close(&curves.steps);
    text_close(&curves.scores);
    return status;
}
