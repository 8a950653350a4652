/* Figures, stages, counters and provenance: what a reader needs to believe the tables. */
#include "report/page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

int page_figures(struct text *page, const struct figures *figures, const char *directory) {
    int status = 0;
    page_section(page, "figures", "Figures");
    if (*figures->note) {
        text_raw(page, "<p class=\"alert\">");
        text_escape(page, figures->note);
        text_raw(page, "</p>\n");
    }
    if (figures->count == 0) text_raw(page, "<p>No cell has the numbers that a figure needs.</p>\n");
    for (size_t i = 0; i < figures->count; i++) {
        const struct figure *figure = &figures->items[i];
        text_raw(page, "<figure>\n");
        if (figure->drawn) TRY(figure_inline(page, directory, figure));
        if (*figure->problem) {
            text_raw(page, "<p class=\"alert\">");
            text_escape(page, figure->problem);
            text_raw(page, "</p>");
        }
        text_raw(page, "<figcaption><b>");
        text_escape(page, figure->title);
        text_print(page, ".</b> %s <small>", figure->caption);
        if (figure->drawn)
            text_print(page, "<a href=\"%s.svg\">image</a>, <a href=\"%s.gp\">script</a>, ", figure->stem,
                       figure->script);
        text_print(page, "<a href=\"%s.dat\">data</a></small></figcaption>\n</figure>\n", figure->stem);
    }
    text_raw(page, "</section>\n");
out:
    return status;
}

/* What the technique reported after a stage: all its metrics but the primary one. */
static int stage_metrics(struct text *page, const struct report *report, const struct report_stage *stage) {
    int status = 0;
    bool more = false, first = true;
    struct rows rows = {0};
    TRY(rows_open(&rows, report, "SELECT name, value, unit FROM metric WHERE stage_id = ?3 ORDER BY id", stage->id));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        if (strcmp(rows_view(&rows, 0), report->metric) == 0) continue;
        if (!first) text_raw(page, ", ");
        first = false;
        text_escape(page, rows_view(&rows, 0));
        text_raw(page, " ");
        text_figures(page, rows_real(&rows, 1), 4);
        text_raw(page, " ");
        text_escape(page, rows_view(&rows, 2));
    }
out:
    rows_close(&rows);
    return status;
}

int page_stages(struct text *page, const struct report *report) {
    int status = 0;
    const struct report_cell *cell = NULL;
    double scale = report->quality_scale;
    int decimals = scale == 100 ? 2 : 4;
    page_section(page, "stages", "Stages");
    if (report->stage_count == 0) {
        text_raw(page, "<p>No stage was recorded.</p>\n</section>\n");
        goto out;
    }
    text_raw(
        page,
        "<p>What was applied, with the options read back after it ran, and what the model scored on the validation "
        "split after it. Stages shared with the baseline are listed once, under the baseline.</p>\n"
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Stages\"><table><thead><tr><th "
        "scope=\"col\" class=\"text\">cell</th>"
        "<th scope=\"col\" class=\"text\">stage</th><th scope=\"col\">");
    text_escape(page, report->metric);
    text_print(
        page,
        "<small>validation%s, change</small></th><th scope=\"col\">compressed layers</th><th scope=\"col\">seconds</th>"
        "<th scope=\"col\" class=\"text\">options</th><th scope=\"col\" "
        "class=\"text\">reported</th></tr></thead><tbody>\n",
        scale == 100 ? ", %" : "");
    for (size_t i = 0; i < report->stage_count; i++) {
        const struct report_stage *stage = &report->stages[i];
        if (stage->shared) continue;
        text_raw(page, "<tr><th scope=\"row\">");
        if (cell != stage->cell) page_cell_name(page, stage->cell);
        cell = stage->cell;
        text_raw(page, "</th><td class=\"text\">");
        text_escape(page, stage->technique);
        text_raw(page, "</td><td>");
        text_number(page, scale * stage->quality, decimals);
        if (isfinite(stage->quality_before)) {
            text_raw(page, "<small>");
            text_signed(page, scale * (stage->quality - stage->quality_before), decimals);
            text_raw(page, "</small>");
        }
        text_raw(page, "</td><td>");
        text_bytes(page, stage->linear_bytes);
        text_raw(page, "</td><td>");
        text_figures(page, stage->wall_ms / 1000, 3);
        if (stage->cached) text_raw(page, "<small>when first run; served from the cache</small>");
        text_raw(page, "</td><td class=\"text wrap\">");
        page_json(page, stage->options);
        text_raw(page, "</td><td class=\"text wrap\">");
        TRY(stage_metrics(page, report, stage));
        text_raw(page, "</td></tr>\n");
    }
    text_raw(page, "</tbody></table></div>\n</section>\n");
out:
    return status;
}

/* One counter over the cells: mean over the rounds that have it. */
struct counter_row {
    int64_t batch;
    double *mean;     /* [cells] NaN: absent */
    double counted;   /* cells with a value */
    double share;     /* smallest running/enabled time: below 1 the counter was multiplexed */
    char reason[200]; /* why a value is absent */
};

static void counter_value(struct text *page, double value, const char *unit) {
    if (strcmp(unit, "bytes") == 0) text_bytes(page, value);
    else if (fabs(value) >= 1000 || value == floor(value)) text_count(page, value);
    else text_figures(page, value, 4);
}

static void counter_print(struct text *page, const struct report *report, const struct counter_row *row,
                          const char *name, const char *unit) {
    text_raw(page, "<tr><th scope=\"row\">");
    text_escape(page, name);
    text_raw(page, "<small>");
    text_escape(page, unit);
    text_print(page, ", batch %lld", (long long)row->batch);
    if (row->share < 0.995) text_print(page, ", multiplexed: counted %.0f %% of the time", 100 * row->share);
    text_raw(page, "</small></th>");
    size_t columns = 0;
    for (size_t i = 0; i < report->cell_count; i++) columns += report->cells[i].ok;
    if (row->counted == 0) {
        text_print(page, "<td class=\"text wrap skip\" colspan=\"%zu\">not available: ", columns);
        text_escape(page, *row->reason ? row->reason : "no reason was recorded");
        text_raw(page, "</td></tr>\n");
        return;
    }
    for (size_t i = 0; i < report->cell_count; i++) {
        if (!report->cells[i].ok) continue;
        text_raw(page, "<td>");
        counter_value(page, row->mean[i], unit);
        if (!isfinite(row->mean[i])) {
            text_raw(page, "<small class=\"skip wrap\">");
            text_escape(page, *row->reason ? row->reason : "not recorded");
            text_raw(page, "</small>");
        }
        text_raw(page, "</td>");
    }
    text_raw(page, "</tr>\n");
}

/* Rows arrive grouped by counter, then cell; one line of the table is kept and printed when the counter changes. */
int page_counters(struct text *page, const struct report *report) {
    static const char sql[] =
        "SELECT k.meter, k.name, k.unit, k.batch, c.id, AVG(k.value),"
        " MAX(CASE WHEN k.value IS NULL THEN k.reason END), MIN(k.running_ns / nullif(k.enabled_ns, 0))"
        " FROM counter k JOIN run r ON r.id = k.run_id JOIN cell c ON c.id = r.cell_id"
        " WHERE r.session_id = ?1 AND c.experiment_id = ?2 AND r.status = 'ok'"
        " GROUP BY k.meter, k.name, k.unit, k.batch, c.id ORDER BY k.meter, k.name, k.unit, k.batch, c.ordinal, c.id";
    int status = 0;
    bool more = false, any = false;
    char key[320] = "", wanted[320], name[128] = "", unit[64] = "";
    void *block = NULL;
    struct rows rows = {0};
    TRY(memory_take(&block, report->cell_count, sizeof(double)));
    struct counter_row row = {.mean = block};
    page_section(page, "counters", "Counters");
    TRY(rows_open(&rows, report, sql, 0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (more)
            snprintf(wanted, sizeof wanted, "%.60s\t%.120s\t%.60s\t%lld", rows_view(&rows, 0), rows_view(&rows, 1),
                     rows_view(&rows, 2), (long long)sqlite3_column_int64(rows.statement, 3));
        if (any && (!more || strcmp(key, wanted) != 0)) counter_print(page, report, &row, name, unit);
        if (!more) break;
        if (!any) {
            text_raw(page,
                     "<p>Mean over the runs of each cell, taken in passes of their own; columns are the cells' "
                     "numbers. A counter that this machine does not "
                     "offer has a reason, never a zero.</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
                     "aria-label=\"Counters\"><table><thead><tr><th scope=\"col\" class=\"text\">counter</th>");
            for (size_t i = 0; i < report->cell_count; i++) {
                if (!report->cells[i].ok) continue;
                text_raw(page, "<th scope=\"col\"><span title=\"");
                text_escape(page, report->cells[i].label);
                text_print(page, "\">%d</span></th>", report->cells[i].number);
            }
            text_raw(page, "</tr></thead><tbody>\n");
        }
        if (!any || strcmp(key, wanted) != 0) {
            memcpy(key, wanted, sizeof key);
            snprintf(name, sizeof name, "%.48s: %.70s", rows_view(&rows, 0), rows_view(&rows, 1));
            snprintf(unit, sizeof unit, "%.60s", rows_view(&rows, 2));
            row = (struct counter_row){.mean = block, .share = 1, .batch = sqlite3_column_int64(rows.statement, 3)};
            for (size_t i = 0; i < report->cell_count; i++) row.mean[i] = NAN;
        }
        any = true;
        for (size_t i = 0; i < report->cell_count; i++) {
            if (report->cells[i].id != sqlite3_column_int64(rows.statement, 4)) continue;
            row.mean[i] = rows_real(&rows, 5);
            row.counted += isfinite(row.mean[i]);
        }
        if (*rows_view(&rows, 6)) snprintf(row.reason, sizeof row.reason, "%.190s", rows_view(&rows, 6));
        if (isfinite(rows_real(&rows, 7))) row.share = fmin(row.share, rows_real(&rows, 7));
    }
    text_raw(page, any ? "</tbody></table></div>\n</section>\n" : "<p>No counter was recorded.</p>\n</section>\n");
out:
    rows_close(&rows);
    memory_release(block);
    return status;
}

static void entry(struct text *page, const char *name, const char *value) {
    text_print(page, "<dt>%s</dt><dd>", name);
    text_escape(page, value && *value ? value : "not recorded");
    text_raw(page, "</dd>\n");
}

/* A shell word: in single quotes, each single quote inside as '\''. */
static void shell_word(struct text *page, const struct text *word) {
    text_raw(page, "&#39;");
    for (size_t i = 0; i < word->length; i++) {
        char one[2] = {word->bytes[i], '\0'};
        if (word->bytes[i] == '\'') text_raw(page, "&#39;\\&#39;&#39;");
        else if (word->bytes[i] == '&') text_raw(page, "&amp;");
        else if (word->bytes[i] == '<') text_raw(page, "&lt;");
        else text_raw(page, one);
    }
    text_raw(page, "&#39;");
}

static void redraw(struct text *page, const struct figures *figures) {
    if (figures->count == 0) return;
    text_raw(page, "<h3>Redrawing the figures</h3>\n<p>Each figure&#39;s script and data lie beside this page. In its "
                   "folder:</p>\n"
                   "<details><summary>gnuplot commands</summary><pre>");
    for (size_t i = 0; i < figures->count; i++) {
        const struct figure *figure = &figures->items[i];
        text_print(page, "gnuplot -d -c %s.gp %s.dat %s.svg", figure->script, figure->stem, figure->stem);
        for (size_t k = 0; k < FIGURE_ARGUMENTS; k++) {
            text_raw(page, " ");
            shell_word(page, &figure->arguments[k]);
        }
        text_raw(page, "\n");
    }
    text_raw(page, "</pre></details>\n");
}

void page_provenance(struct text *page, const struct report *report, const struct figures *figures) {
    const struct report_session *s = &report->session;
    page_section(page, "provenance", "Provenance");
    text_raw(page, "<dl>\n");
    entry(page, "command", s->command);
    entry(page, "started", s->started_at);
    entry(page, "ended", s->ended_at ? s->ended_at : "not yet, or interrupted");
    text_raw(page, "<dt>measured as</dt><dd>");
    text_print(page,
               "%.0f rounds of %.0f samples after %.0f warm-ups, cells in random order within a round (order seed ",
               s->rounds, s->samples, s->warmup);
    text_escape(page, s->order_seed);
    text_raw(page, ")</dd>\n");
    if (report->cell_count) {
        text_raw(page, "<dt>threads, seed, gemm</dt><dd>");
        bool same = true;
        for (size_t i = 1; i < report->cell_count; i++) {
            const struct report_cell *a = &report->cells[0], *b = &report->cells[i];
            same &= a->threads == b->threads && strcmp(a->seed, b->seed) == 0 && strcmp(a->gemm, b->gemm) == 0;
        }
        text_print(page, "%lld, ", (long long)report->cells[0].threads);
        text_escape(page, report->cells[0].seed);
        text_raw(page, ", ");
        text_escape(page, report->cells[0].gemm);
        text_raw(page,
                 same ? "</dd>\n" : " in the first cell; axes that vary are named with each cell in the table</dd>\n");
    }
    text_print(page, "<dt>timings</dt><dd%s>%s", s->timing_valid ? "" : " class=\"bad\"",
               s->timing_valid ? "valid" : "not valid: ");
    if (!s->timing_valid)
        text_escape(page, s->timing_note && *s->timing_note ? s->timing_note : "no reason was recorded");
    text_raw(page, "</dd>\n");
    entry(page, "warnings", s->warnings && *s->warnings ? s->warnings : "none");
    text_raw(page, "<dt>load average</dt><dd>");
    text_figures(page, s->load_average, 3);
    text_raw(page, " at the start</dd>\n</dl>\n<h3>Machine</h3>\n<dl>\n");
    entry(page, "CPU", report->cpu);
    text_print(page, "<dt>cores, memory</dt><dd>%.0f, ", report->cores);
    text_bytes(page, report->memory_bytes);
    text_raw(page, "</dd>\n");
    entry(page, "caches", report->caches);
    entry(page, "instruction sets", report->cpu_flags);
    text_raw(page, "<dt>used, mask</dt><dd>");
    text_escape(page, s->cpu_flags_used);
    text_raw(page, ", --cpumask ");
    text_escape(page, s->cpumask);
    text_raw(page, "</dd>\n");
    entry(page, "kernel", report->kernel);
    entry(page, "governor", report->governor ? report->governor : "not offered by this machine");
    entry(page, "virtual machine", report->virtual ? report->virtual : "no");
    text_raw(page, "</dl>\n<h3>Program</h3>\n<dl>\n");
    entry(page, "version", report->version);
    text_raw(page, "<dt>commit</dt><dd>");
    text_escape(page, report->commit);
    text_raw(page, report->dirty ? " <b class=\"bad\">with uncommitted changes</b></dd>\n"
                                 : ", no uncommitted changes</dd>\n");
    entry(page, "build", report->mode);
    entry(page, "compiler", report->compiler);
    entry(page, "flags", report->flags);
    entry(page, "BLAS", report->blas);
    entry(page, "oneDNN", report->onednn ? report->onednn : "not used");
    text_raw(page, "</dl>\n<h3>Experiment</h3>\n<dl>\n");
    entry(page, "file", report->path);
    entry(page, "hash", report->hash);
    text_raw(page, "<dt>model</dt><dd>");
    page_json(page, report->model);
    text_raw(page, "</dd>\n");
    entry(page, "task", report->task);
    entry(page, "hash of the data", report->data_hash);
    text_raw(page, "</dl>\n<details><summary>The experiment file as it was run</summary><pre>");
    text_escape(page, report->config);
    text_raw(page, "</pre></details>\n<details><summary>Artifacts (SHA-256)</summary><pre>");
    for (size_t i = 0; i < report->cell_count; i++) {
        if (!report->cells[i].artifact_hash) continue;
        text_escape(page, report->cells[i].artifact_hash);
        text_raw(page, "  ");
        page_cell_name(page, &report->cells[i]);
        text_raw(page, "\n");
    }
    text_raw(page, "</pre></details>\n");
    redraw(page, figures);
    text_raw(page, "</section>\n");
}
