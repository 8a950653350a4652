/* Results, yardsticks and problems: the tables a reader decides by. Cells that did not end ok stay in the results
 * table, coloured and with their reason, so that a missing number is never mistaken for a good one. */
#include "report/page.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

/* <td data-v="…">, with an empty value for an absent number. */
static void td_number(struct text *page, double sort_value) {
    if (isfinite(sort_value)) text_print(page, "<td data-v=\"%.9g\">", sort_value);
    else text_raw(page, "<td data-v=\"\">");
}

/* "lo to hi" in a small second line. */
static void small_interval(struct text *page, double lo, double hi, double scale, int decimals, bool with_sign) {
    if (!isfinite(lo) || !isfinite(hi)) return;
    text_raw(page, "<small>");
    (with_sign ? text_signed : text_number)(page, scale * lo, decimals);
    text_raw(page, " to ");
    (with_sign ? text_signed : text_number)(page, scale * hi, decimals);
    text_raw(page, "</small>");
}

/* Two rows: groups, then the columns that sort. */
static void results_head(struct text *page, const struct report *report) {
    text_raw(page, "<thead><tr><td colspan=\"2\"></td><th scope=\"colgroup\" colspan=\"2\">quality</th>"
                   "<th scope=\"colgroup\" colspan=\"4\">size</th>");
    for (size_t b = 0; b < report->batch_count; b++)
        text_print(page, "<th scope=\"colgroup\" colspan=\"3\">batch of %lld</th>", (long long)report->batch[b]);
    text_raw(page, "<th scope=\"colgroup\">memory</th></tr>\n<tr><th scope=\"col\">no.</th><th scope=\"col\" "
                   "class=\"text\">cell</th>"
                   "<th scope=\"col\">");
    text_escape(page, report->metric);
    text_print(page,
               "<small>test split%s</small></th><th scope=\"col\">difference<small>%s</small></th>"
               "<th scope=\"col\">layers<small>share of f32</small></th><th scope=\"col\">file</th>"
               "<th scope=\"col\">bits<small>per weight</small></th><th scope=\"col\" class=\"text\">executes</th>",
               report->quality_scale == 100 ? ", %" : "", report->quality_scale == 100 ? "points" : "to baseline");
    for (size_t b = 0; b < report->batch_count; b++)
        text_raw(page, "<th scope=\"col\">ms</th><th scope=\"col\">ratio<small>to baseline</small></th><th "
                       "scope=\"col\">tokens/s</th>");
    text_raw(page, "<th scope=\"col\">peak</th></tr></thead>\n");
}

static void quality_columns(struct text *page, const struct report *report, const struct report_cell *cell) {
    const struct report_estimate *difference = &cell->difference;
    int decimals = report->quality_scale == 100 ? 2 : 4;
    td_number(page, cell->quality);
    text_number(page, report->quality_scale * cell->quality, decimals);
    text_raw(page, "</td>");
    if (cell->is_baseline) {
        text_raw(page, "<td data-v=\"0\">baseline</td>");
        return;
    }
    td_number(page, difference->estimate);
    text_signed(page, report->quality_scale * difference->estimate, decimals);
    small_interval(page, difference->lo, difference->hi, report->quality_scale, decimals, true);
    int side = interval_side(difference->lo, difference->hi, 0);
    if (isfinite(difference->p_value)) {
        text_raw(page, "<small>");
        text_p_value(page, difference->p_value);
        if (side == -1 || side == 1)
            text_print(page, ", <b class=\"%s\">%s</b>", (side > 0) == report->higher_is_better ? "good" : "bad",
                       verdict_quality(report, difference));
        text_raw(page, "</small>");
    }
    text_raw(page, "</td>");
}

static void size_columns(struct text *page, const struct report_cell *cell) {
    double share = cell->linear_bytes / cell->linear_f32_bytes;
    td_number(page, cell->linear_bytes);
    text_bytes(page, cell->linear_bytes);
    if (isfinite(share)) {
        text_raw(page, "<small>");
        text_number(page, share, 3);
        text_raw(page, " of f32</small>");
    }
    text_raw(page, "</td>");
    td_number(page, cell->file_bytes);
    text_bytes(page, cell->file_bytes);
    text_raw(page, "</td>");
    td_number(page, cell->bits_per_weight);
    text_number(page, cell->bits_per_weight, 2);
    text_print(page, "</td><td class=\"text\">%s</td>",
               !cell->has_artifact ? "\xE2\x80\x93"
               : cell->simulated   ? "simulated"
                                   : "packed");
}

static void timing_columns(struct text *page, const struct report_cell *cell, const struct report_timing *timing) {
    const struct report_estimate *ms = &timing->latency_ms, *ratio = &timing->ratio;
    td_number(page, ms->estimate);
    text_figures(page, ms->estimate, 4);
    if (isfinite(ms->lo) && isfinite(ms->hi)) {
        text_raw(page, "<small>");
        text_figures(page, ms->lo, 3);
        text_raw(page, " to ");
        text_figures(page, ms->hi, 3);
        text_raw(page, "</small>");
    }
    text_raw(page, "</td>");
    if (cell->is_baseline) {
        text_raw(page, "<td data-v=\"1\">baseline</td>");
    } else {
        td_number(page, ratio->estimate);
        text_number(page, ratio->estimate, 3);
        small_interval(page, ratio->lo, ratio->hi, 1, 3, false);
        int side = interval_side(ratio->lo, ratio->hi, 1);
        if (side == -1 || side == 1)
            text_print(page, "<small><b class=\"%s\">%s</b></small>", side < 0 ? "good" : "bad", verdict_ratio(ratio));
        text_raw(page, "</td>");
    }
    td_number(page, timing->tokens_per_s.estimate);
    text_count(page, timing->tokens_per_s.estimate);
    text_raw(page, "</td>");
}

/* Axes that differ between cells are part of a cell's name; those all share are in the provenance. */
static void cell_axes(struct text *page, const struct report *report, const struct report_cell *cell) {
    bool threads = false, seed = false, gemm = false;
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *other = &report->cells[i];
        threads |= other->threads != cell->threads;
        seed |= strcmp(other->seed, cell->seed) != 0;
        gemm |= strcmp(other->gemm, cell->gemm) != 0;
    }
    text_raw(page, "<small>");
    text_escape(page, cell->pipeline);
    if (threads) text_print(page, ", %lld thread%s", (long long)cell->threads, cell->threads == 1 ? "" : "s");
    if (seed) {
        text_raw(page, ", seed ");
        text_escape(page, cell->seed);
    }
    if (gemm) {
        text_raw(page, ", ");
        text_escape(page, cell->gemm);
    }
    text_raw(page, "</small>");
}

void page_results(struct text *page, const struct report *report) {
    page_section(page, "results", "Results");
    text_raw(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Results\">\n<table class=\"sortable\">\n"
        "<caption>A click on a column's head sorts. Small print: intervals and p values; \xE2\x80\x93 is a number that "
        "does not exist.</caption>\n");
    results_head(page, report);
    text_raw(page, "<tbody>\n");
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        bool skipped = strcmp(cell->status, "skipped") == 0;
        text_print(page, "<tr%s><td data-v=\"%d\">%d</td><th scope=\"row\" data-v=\"",
                   !cell->ok           ? (skipped ? " class=\"skip\"" : " class=\"bad\"")
                   : cell->is_baseline ? " class=\"baseline\""
                                       : "",
                   cell->number, cell->number);
        text_escape(page, cell->label);
        text_raw(page, "\">");
        text_escape(page, cell->label);
        cell_axes(page, report, cell);
        if (!cell->ok) {
            text_raw(page, "<small><a href=\"#problems\"><b>");
            text_escape(page, cell->status);
            text_raw(page, "</b>: see why</a></small>");
        }
        if (cell->failed_rounds > 0)
            text_print(page, "<small class=\"bad\">%.0f timing round%s not ok</small>", cell->failed_rounds,
                       cell->failed_rounds == 1 ? "" : "s");
        text_raw(page, "</th>");
        quality_columns(page, report, cell);
        size_columns(page, cell);
        for (size_t b = 0; b < report->batch_count; b++) timing_columns(page, cell, &cell->timing[b]);
        td_number(page, cell->peak_rss_bytes);
        text_bytes(page, cell->peak_rss_bytes);
        text_raw(page, "</td></tr>\n");
    }
    text_raw(page, "</tbody>\n</table>\n</div>\n</section>\n");
}

/* Generation in two parts: the prompt to its first token, and the tokens after it. */
void page_generation(struct text *page, const struct report *report) {
    if (!report->has_phases) return;
    page_section(page, "generation", "Prefill and decode");
    text_raw(page,
             "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Prefill and decode\">\n"
             "<table class=\"sortable\">\n<caption>Prefill: from the prompt to the first new token. Decode: the new "
             "tokens after it, one at a time.</caption>\n<thead><tr><td></td>"
             "<th scope=\"colgroup\" colspan=\"3\">prefill</th><th scope=\"colgroup\" colspan=\"3\">decode</th></tr>\n"
             "<tr><th scope=\"col\" class=\"text\">cell</th><th scope=\"col\">first token<small>ms</small></th>"
             "<th scope=\"col\">ratio<small>to baseline</small></th><th scope=\"col\">tokens/s</th>"
             "<th scope=\"col\">all others<small>ms</small></th>"
             "<th scope=\"col\">ratio<small>to baseline</small></th><th scope=\"col\">tokens/s</th></tr></thead>\n"
             "<tbody>\n");
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        if (!cell->ok) continue;
        text_print(page, "<tr%s><th scope=\"row\" data-v=\"%d\">", cell->is_baseline ? " class=\"baseline\"" : "",
                   cell->number);
        page_cell_name(page, cell);
        text_raw(page, "</th>");
        timing_columns(page, cell, &cell->prefill);
        timing_columns(page, cell, &cell->decode);
        text_raw(page, "</tr>\n");
    }
    text_raw(page, "</tbody>\n</table>\n</div>\n</section>\n");
}

int page_yardsticks(struct text *page, const struct report *report) {
    int status = 0;
    bool more = false, any = false;
    struct rows rows = {0};
    page_section(page, "yardsticks", "Yardsticks");
    text_raw(page,
             "<p>What methods without a transformer reach on the same test items, and how the baseline stands to them: "
             "same items, paired test.</p>\n");
    TRY(rows_open(&rows, report,
                  "SELECT y.name, y.accuracy_frac, k.estimate, k.lo, k.hi, k.p_value, k.method FROM yardstick y"
                  " JOIN experiment e ON e.id = ?2 AND y.task = e.task AND y.data_hash = e.data_hash"
                  " LEFT JOIN comparison k ON k.session_id = ?1 AND k.cell_id = ?3 AND k.name = 'vs_' || y.name"
                  " ORDER BY y.accuracy_frac, y.name",
                  report->baseline ? report->baseline->id : 0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        if (!any)
            text_raw(page, "<div class=\"scroll\"><table><thead><tr><th scope=\"col\" class=\"text\">yardstick</th><th "
                           "scope=\"col\">accuracy, %"
                           "</th><th scope=\"col\">baseline minus yardstick<small>points, interval</small></th><th "
                           "scope=\"col\">p</th>"
                           "<th scope=\"col\" class=\"text\">the baseline is</th><th scope=\"col\" "
                           "class=\"text\">method</th></tr></thead><tbody>\n");
        any = true;
        int side = interval_side(rows_real(&rows, 3), rows_real(&rows, 4), 0);
        text_raw(page, "<tr><th scope=\"row\">");
        text_escape(page, rows_view(&rows, 0));
        text_raw(page, "</th><td>");
        text_number(page, 100 * rows_real(&rows, 1), 2);
        text_raw(page, "</td><td>");
        text_signed(page, 100 * rows_real(&rows, 2), 2);
        small_interval(page, rows_real(&rows, 3), rows_real(&rows, 4), 100, 2, true);
        text_raw(page, "</td><td>");
        if (isfinite(rows_real(&rows, 5))) text_p_value(page, rows_real(&rows, 5));
        else text_number(page, NAN, 0);
        text_print(page, "</td><td class=\"text %s\">%s</td><td class=\"text wrap\">",
                   side == 1    ? "good"
                   : side == -1 ? "bad"
                                : "",
                   side == 1    ? "better"
                   : side == -1 ? "worse"
                   : side == 0  ? "not distinguishable"
                                : "not compared");
        text_escape(page, rows_view(&rows, 6));
        text_raw(page, "</td></tr>\n");
    }
    text_raw(page, any ? "</tbody></table></div>\n</section>\n"
                       : "<p>None is stored for this task and data.</p>\n</section>\n");
out:
    rows_close(&rows);
    return status;
}

int page_problems(struct text *page, const struct report *report) {
    int status = 0;
    bool more = false, any = false;
    size_t not_run = report->not_run_count;
    struct rows rows = {0};
    page_section(page, "problems", "Failed and skipped");
    TRY(rows_open(&rows, report,
                  "SELECT c.label, r.kind, r.round, r.status, r.reason, r.signal, r.exit_code, r.log FROM run r"
                  " JOIN cell c ON c.id = r.cell_id WHERE r.session_id = ?1 AND r.status <> 'ok'"
                  " ORDER BY r.status = 'skipped', c.ordinal, c.id, r.kind, r.round",
                  0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        if (!any)
            text_raw(page, "<div class=\"scroll\"><table><thead><tr><th scope=\"col\" class=\"text\">cell</th><th "
                           "scope=\"col\" class=\"text\">"
                           "outcome</th><th scope=\"col\" class=\"text\">when</th><th scope=\"col\" "
                           "class=\"text\">reason</th></tr></thead><tbody>\n");
        any = true;
        bool skipped = strcmp(rows_view(&rows, 3), "skipped") == 0;
        text_print(page, "<tr class=\"%s\"><th scope=\"row\">", skipped ? "skip" : "bad");
        text_escape(page, rows_view(&rows, 0));
        text_raw(page, "</th><td class=\"text\"><b>");
        text_escape(page, rows_view(&rows, 3));
        text_raw(page, "</b></td><td class=\"text\">");
        if (strcmp(rows_view(&rows, 1), "build") == 0) text_raw(page, "stages and scores");
        else text_print(page, "timing, round %lld", (long long)sqlite3_column_int64(rows.statement, 2));
        text_raw(page, "</td><td class=\"text wrap\">");
        text_escape(page, *rows_view(&rows, 4) ? rows_view(&rows, 4) : "no reason was recorded");
        if (isfinite(rows_real(&rows, 5))) text_print(page, " (signal %.0f)", rows_real(&rows, 5));
        else if (rows_real(&rows, 6) > 0) text_print(page, " (exit code %.0f)", rows_real(&rows, 6));
        if (*rows_view(&rows, 7)) {
            text_raw(page, "<details><summary>log</summary><pre>");
            text_escape(page, rows_view(&rows, 7));
            text_raw(page, "</pre></details>");
        }
        text_raw(page, "</td></tr>\n");
    }
    if (any) text_raw(page, "</tbody></table></div>\n");
    if (not_run)
        text_print(page, "<p class=\"alert\">%zu cell%s no run in this session%s.</p>\n", not_run,
                   not_run == 1 ? " has" : "s have",
                   report->session.ended_at
                       ? ""
                       : ": it was interrupted, or is still running; run the same command again to continue it");
    if (!any && !not_run) text_raw(page, "<p>None: every run of every cell ended ok.</p>\n");
    text_raw(page, "</section>\n");
out:
    rows_close(&rows);
    return status;
}
