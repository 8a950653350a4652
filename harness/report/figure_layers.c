/* What quantizing stages told of layers, in two kinds of figure.
 *
 * Ranges: a row per layer, in it the counts of its input and, a colour each, the ranges that the stages chose which
 * began alike, so that calibrators can be compared on the same histogram. Stages that chose the same ranges are drawn
 * once. Sensitivity: a row per layer with what was lost when it alone was quantized, and the bytes that this saves; one
 * figure for each kind of beginning.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "report/figure_data.h"
#include "report/report_files.h"

enum {
    STAGES_MAX = 64,  /* that tell of layers; more are not looked at */
    FIGURES_EACH = 3, /* of either kind */
    ROWS_MAX = 48,    /* layers drawn: evenly spaced ones of deeper models */
    MEMBERS_MAX = 7,  /* colours */
    BOXES = 64,       /* of a histogram */
    NAME_CHARACTERS = 28,
    LABEL_CHARACTERS = 90
};

struct layer_row {
    char name[64], format[8];
    double low, high, seen_low, seen_high, error, score_lost, saved_bytes;
};

struct told {
    const struct report_stage *stage;
    char beginning[HASH_HEX]; /* of what came before, with the seed */
    struct layer_row *rows;
    size_t count;
    bool measured, scored; /* any error, any score lost */
    char error_name[32];
};

struct layers {
    const struct report *report;
    struct told told[STAGES_MAX];
    size_t count;
};

/* The end of a long name says more than its beginning. */
static void name_copy(char name[64], const char *whole) {
    size_t length = strlen(whole);
    if (length <= NAME_CHARACTERS) snprintf(name, 64, "%s", whole);
    else snprintf(name, 64, "..%s", whole + length - (NAME_CHARACTERS - 2));
}

static void beginning_key(const struct report_stage *stage, char key[HASH_HEX]) {
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, stage->cell->seed ? stage->cell->seed : "");
    hash_text(&hash, stage->technique);
    for (const struct report_stage *s = stage - stage->ordinal; s < stage; s++) {
        hash_text(&hash, s->technique);
        hash_text(&hash, s->options);
    }
    hash_close(&hash, key);
}

static int row_take(struct told *told, size_t *capacity, struct layer_row **row) {
    int status = 0;
    if (told->count == *capacity) {
        void *block = told->rows;
        size_t more = *capacity ? 2 * *capacity : 64;
        TRY(memory_resize(&block, more, sizeof *told->rows));
        told->rows = block;
        *capacity = more;
    }
    *row = &told->rows[told->count++];
out:
    return status;
}

static int told_load(struct told *told, const struct report *report) {
    int status = 0;
    bool more = false;
    size_t capacity = 0;
    struct rows rows = {0};
    char sql[256];
    snprintf(sql, sizeof sql,
             "SELECT layer, format, low, high, seen_low, seen_high, error, score_lost, bytes_f32 - bytes_packed,"
             " error_name FROM layer WHERE run_id = ?3 AND stage = %d ORDER BY ordinal",
             told->stage->ordinal);
    TRY(rows_open(&rows, report, sql, told->stage->cell->run_id));
    for (;;) {
        struct layer_row *row;
        TRY(rows_next(&rows, &more));
        if (!more) break;
        TRY(row_take(told, &capacity, &row));
        *row = (struct layer_row){.low = rows_real(&rows, 2),
                                  .high = rows_real(&rows, 3),
                                  .seen_low = rows_real(&rows, 4),
                                  .seen_high = rows_real(&rows, 5),
                                  .error = rows_real(&rows, 6),
                                  .score_lost = rows_real(&rows, 7),
                                  .saved_bytes = rows_real(&rows, 8)};
        name_copy(row->name, rows_view(&rows, 0));
        snprintf(row->format, sizeof row->format, "%s", rows_view(&rows, 1));
        told->measured |= isfinite(row->error);
        told->scored |= isfinite(row->score_lost);
        if (*rows_view(&rows, 9)) snprintf(told->error_name, sizeof told->error_name, "%s", rows_view(&rows, 9));
    }
out:
    rows_close(&rows);
    return status;
}

static int layers_load(struct layers *layers) {
    int status = 0;
    const struct report *report = layers->report;
    for (size_t i = 0; i < report->stage_count && layers->count < STAGES_MAX; i++) {
        struct told *told = &layers->told[layers->count];
        const struct report_stage *stage = &report->stages[i];
        if ((size_t)stage->ordinal > i || stage[-stage->ordinal].cell != stage->cell) continue; /* a gap */
        *told = (struct told){.stage = stage};
        status = told_load(told, report);
        layers->count++; /* its rows are freed in any case */
        TRY(status);
        if (!told->count) layers->count--;
        else beginning_key(stage, told->beginning);
    }
out:
    return status;
}

static void layers_close(struct layers *layers) {
    for (size_t i = 0; i < layers->count; i++) memory_release(layers->told[i].rows);
}

/* Layer number of drawn row k of `drawn`. */
static size_t row_at(size_t k, size_t drawn, size_t count) {
    return drawn == count ? k : k * (count - 1) / (drawn - 1);
}

/* ---- ranges -------------------------------------------------------------------------------------------- */

static double reach_of(const struct layer_row *row) {
    double reach = fmax(fabs(row->seen_low), fabs(row->seen_high));
    return reach > 0 ? reach : 1;
}

static bool same_ranges(const struct told *a, const struct told *b) {
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->rows[i].low != b->rows[i].low || a->rows[i].high != b->rows[i].high) return false;
    return true;
}

/* Members of the figure that begins with `first`: told[first] and later ones that began alike and chose otherwise. */
static size_t members_of(const struct layers *layers, size_t first, size_t members[MEMBERS_MAX], size_t *left_out) {
    size_t count = 0;
    for (size_t i = first; i < layers->count; i++) {
        bool fresh = strcmp(layers->told[i].beginning, layers->told[first].beginning) == 0 &&
                     layers->told[i].count == layers->told[first].count;
        for (size_t k = 0; k < count && fresh; k++) fresh = !same_ranges(&layers->told[i], &layers->told[members[k]]);
        if (!fresh) continue;
        if (count < MEMBERS_MAX) members[count++] = i;
        else ++*left_out;
    }
    return count;
}

/* A JSON list of counts as boxes: row, left and right end as shares of the row's reach, share of the fullest box. */
static void boxes_print(struct text *text, size_t row, const char *counts, double low, double width, double reach) {
    double box[BOXES] = {0}, most = 0;
    size_t bins = 0, each;
    for (const char *c = counts; *c; c++) bins += *c == ',' || *c == '[';
    each = (bins + BOXES - 1) / BOXES;
    const char *at = counts;
    for (size_t i = 0; i < bins && *at; i++) {
        char *end;
        box[i / each] += strtod(at + 1, &end);
        at = end;
    }
    for (size_t i = 0; i < BOXES; i++) most = fmax(most, box[i]);
    for (size_t i = 0; i < BOXES; i++)
        if (box[i] > 0)
            text_print(text, "%zu\t%.5g\t%.5g\t%.4g\n", row, (low + (double)(i * each) * width) / reach,
                       (low + (double)((i + 1) * each) * width) / reach, box[i] / most);
}

/* The histograms of the drawn rows of a stage. */
static int histograms_print(struct text *text, const struct report *report, const struct told *told, size_t drawn) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    char sql[192];
    size_t layer = 0, k = 0;
    snprintf(sql, sizeof sql,
             "SELECT histogram, histogram_low, histogram_width FROM layer WHERE run_id = ?3 AND stage = %d"
             " ORDER BY ordinal",
             told->stage->ordinal);
    TRY(rows_open(&rows, report, sql, told->stage->cell->run_id));
    for (; k < drawn; layer++) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        if (layer != row_at(k, drawn, told->count)) continue;
        k++;
        if (isfinite(rows_real(&rows, 1)))
            boxes_print(text, k, rows_view(&rows, 0), rows_real(&rows, 1), rows_real(&rows, 2),
                        reach_of(&told->rows[layer]));
    }
out:
    rows_close(&rows);
    return status;
}

static int ranges_dat(const struct layers *layers, const size_t *members, size_t count, size_t drawn, size_t left_out,
                      const char *directory, const char *name) {
    int status = 0;
    struct text dat = {0};
    const struct told *first = &layers->told[members[0]];
    text_raw(&dat, "# block 0: row\tlayer\tlargest magnitude of its input\n");
    for (size_t k = 0; k < drawn; k++) {
        const struct layer_row *row = &first->rows[row_at(k, drawn, first->count)];
        text_print(&dat, "%zu\t", k + 1);
        text_field(&dat, row->name, NAME_CHARACTERS);
        text_print(&dat, "\t%.3g\n", reach_of(row));
    }
    text_raw(&dat, "\n\n# block 1: row\tleft\tright\tcount, of the fullest box\n");
    TRY(histograms_print(&dat, layers->report, first, drawn));
    text_raw(&dat, "\n\n# block 2: member\trow\tlow\thigh\n");
    for (size_t m = 0; m < count; m++)
        for (size_t k = 0; k < drawn; k++) {
            size_t at = row_at(k, drawn, first->count);
            const struct layer_row *row = &layers->told[members[m]].rows[at];
            if (isfinite(row->low) && isfinite(row->high))
                text_print(&dat, "%zu\t%zu\t%.5g\t%.5g\n", m + 1, k + 1, row->low / reach_of(&first->rows[at]),
                           row->high / reach_of(&first->rows[at]));
        }
    text_raw(&dat, "\n\n# block 3: member\tnumber and label of its cell\n");
    for (size_t m = 0; m < count; m++) {
        const struct report_cell *cell = layers->told[members[m]].stage->cell;
        text_print(&dat, "%zu\t%d ", m + 1, cell->number);
        text_label(&dat, cell->label, LABEL_CHARACTERS);
        text_raw(&dat, "\n");
    }
    if (left_out) text_print(&dat, "%zu\t%zu more not drawn\n", count + 1, left_out);
    TRY(file_write(directory, name, &dat));
out:
    text_close(&dat);
    return status;
}

static size_t rows_drawn(const struct told *told) { return told->count < ROWS_MAX ? told->count : ROWS_MAX; }

/* Name and file of the n-th figure of a kind. */
static struct figure *figure_numbered(struct figures *figures, const char *kind, size_t n, char name[80]) {
    char stem[64];
    if (n) snprintf(stem, sizeof stem, "%s_%zu", kind, n + 1);
    else snprintf(stem, sizeof stem, "%s", kind);
    snprintf(name, 80, "%s.dat", stem);
    return figure_add(figures, stem, kind);
}

int figure_layer_ranges(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    size_t made = 0;
    struct layers layers = {.report = report};
    TRY(layers_load(&layers));
    for (size_t i = 0; i < layers.count && made < FIGURES_EACH; i++) {
        size_t members[MEMBERS_MAX], left_out = 0, drawn = rows_drawn(&layers.told[i]);
        bool first = true;
        char name[80];
        for (size_t k = 0; k < i; k++) first &= strcmp(layers.told[k].beginning, layers.told[i].beginning) != 0;
        if (!first) continue;
        size_t count = members_of(&layers, i, members, &left_out);
        struct figure *figure = figure_numbered(figures, "layer_ranges", made, name);
        if (!figure) break;
        made++;
        snprintf(figure->title, sizeof figure->title, "ranges chosen for the inputs of layers");
        figure->caption =
            "A row per layer. Grey: how often values of its input occurred in calibration (darker: more often, on a "
            "logarithmic scale), relative to the largest magnitude seen, which stands beside the layer's name. A line "
            "per cell: "
            "the range it chose; values beyond are clamped. Cells that chose the same ranges are drawn once. Of more "
            "than 48 layers evenly spaced ones are drawn; `runexp export --view layers` has all.";
        figure_describe(figure, report, "ranges from calibration data, no interval");
        text_print(&figure->arguments[2], "%zu", drawn);
        text_print(&figure->arguments[3], "%zu", count);
        TRY(ranges_dat(&layers, members, count, drawn, left_out, directory, name));
    }
out:
    layers_close(&layers);
    return status;
}

/* ---- sensitivity --------------------------------------------------------------------------------------- */

static int sensitivity_dat(const struct report *report, const struct told *told, size_t drawn, const char *directory,
                           const char *name) {
    int status = 0;
    struct text dat = {0};
    text_raw(&dat, "# row\tlayer\terror of outputs\tscore lost\tbytes saved\t1 where it was kept in f32\n");
    for (size_t k = 0; k < drawn; k++) {
        const struct layer_row *row = &told->rows[row_at(k, drawn, told->count)];
        text_print(&dat, "%zu\t", k + 1);
        text_field(&dat, row->name, NAME_CHARACTERS);
        text_print(&dat, "\t%.6g\t", row->error > 0 ? row->error : NAN);
        text_print(&dat, "%.6g\t%.0f\t%d\n", report->quality_scale * row->score_lost, row->saved_bytes,
                   strcmp(row->format, "f32") == 0);
    }
    TRY(file_write(directory, name, &dat));
out:
    text_close(&dat);
    return status;
}

int figure_layer_sensitivity(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    size_t made = 0;
    struct layers layers = {.report = report};
    TRY(layers_load(&layers));
    for (size_t i = 0; i < layers.count && made < FIGURES_EACH; i++) {
        const struct told *told = &layers.told[i];
        char name[80];
        bool positive = false;
        for (size_t k = 0; k < told->count; k++) positive |= told->rows[k].error > 0;
        if (!positive) continue;
        struct figure *figure = figure_numbered(figures, "layer_sensitivity", made, name);
        if (!figure) break;
        made++;
        snprintf(figure->title, sizeof figure->title, "one layer quantized at a time: %d %.100s",
                 told->stage->cell->number, told->stage->cell->label);
        figure->caption =
            "A row per layer: what the model's outputs lose when this layer alone is quantized (left, logarithmic "
            "axis), what the task's metric loses on the validation split where it was asked (middle; above 0 is worse) "
            "and the bytes saved (right). Hollow: the layer was kept in f32. Of more than 48 layers evenly spaced ones "
            "are drawn.";
        figure_describe(figure, report, "one pass over calibration examples a layer, no interval");
        text_print(&figure->arguments[2], "%zu", rows_drawn(told));
        text_raw(&figure->arguments[3], strcmp(told->error_name, "divergence_nats") == 0
                                            ? "KL divergence of outputs, nats"
                                            : "squared error of outputs, of their squares");
        if (told->scored) figure_quality_axis(&figure->arguments[4], report, "validation");
        TRY(sensitivity_dat(report, told, rows_drawn(told), directory, name));
    }
out:
    layers_close(&layers);
    return status;
}
