/* The first section: what was asked and the answer in words, every word derived from a stored number and its interval.
 * "No measurable change" means that the interval includes no change, not that there is none. */
#include "report/page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"

enum { ANSWERS_MAX = 8 };

int interval_side(double lo, double hi, double neutral) {
    if (!isfinite(lo) || !isfinite(hi)) return 2;
    return hi < neutral ? -1 : lo > neutral ? 1 : 0;
}

const char *verdict_quality(const struct report *report, const struct report_estimate *difference) {
    int side = interval_side(difference->lo, difference->hi, 0);
    if (side == 2) return "interval unknown";
    if (side == 0) return "no measurable change";
    return (side > 0) == report->higher_is_better ? "better" : "worse";
}

const char *verdict_ratio(const struct report_estimate *ratio) {
    int side = interval_side(ratio->lo, ratio->hi, 1);
    return side == 2 ? "interval unknown" : side == 0 ? "no measurable difference" : side < 0 ? "faster" : "slower";
}

/* Is there an executed cell that is as good in quality, bytes and time, and better in one of them? */
static bool dominated(const struct report *report, const struct report_cell *cell) {
    double sign = report->higher_is_better ? 1 : -1;
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *other = &report->cells[i];
        if (!other->ok || other->simulated || other == cell) continue;
        double quality = sign * (other->quality - cell->quality), bytes = cell->linear_bytes - other->linear_bytes;
        double time = 0;
        if (report->batch_count) time = cell->timing[0].latency_ms.estimate - other->timing[0].latency_ms.estimate;
        if (quality >= 0 && bytes >= 0 && time >= 0 && (quality > 0 || bytes > 0 || time > 0)) return true;
    }
    return false;
}

/* One cell in one sentence. */
static void answer(struct text *page, const struct report *report, const struct report_cell *cell) {
    text_raw(page, "<li><b>");
    page_cell_name(page, cell);
    text_raw(page, "</b>: ");
    if (isfinite(cell->difference.estimate)) {
        text_raw(page, "quality ");
        page_difference(page, report, cell->difference.estimate);
        page_interval(page, cell->difference.lo, cell->difference.hi, report->quality_scale,
                      report->quality_scale == 100 ? 2 : 4, true);
        text_print(page, ", <b>%s</b>", verdict_quality(report, &cell->difference));
    } else {
        text_raw(page, "quality ");
        page_quality(page, report, cell->quality);
        text_raw(page, ", not compared with a baseline");
    }
    if (isfinite(cell->linear_bytes / cell->linear_f32_bytes)) {
        text_raw(page, "; compressed layers take ");
        text_figures(page, cell->linear_bytes / cell->linear_f32_bytes, 3);
        text_raw(page, " of their f32 bytes (");
        text_figures(page, cell->bits_per_weight, 3);
        text_raw(page, " bits per weight)");
    }
    for (size_t b = 0; b < report->batch_count; b++) {
        const struct report_estimate *ratio = &cell->timing[b].ratio;
        if (!isfinite(ratio->estimate)) continue;
        text_print(page, "; a batch of %lld takes ", (long long)report->batch[b]);
        text_number(page, ratio->estimate, 3);
        text_raw(page, " of the baseline's time");
        page_interval(page, ratio->lo, ratio->hi, 1, 3, false);
        text_print(page, ", <b>%s</b>", verdict_ratio(ratio));
    }
    const struct report_estimate *decode = &cell->decode.ratio;
    if (isfinite(decode->estimate)) {
        text_raw(page, "; decoding alone takes ");
        text_number(page, decode->estimate, 3);
        page_interval(page, decode->lo, decode->hi, 1, 3, false);
        text_print(page, ", <b>%s</b>", verdict_ratio(decode));
    }
    text_print(page, "%s.</li>\n", cell->simulated ? "; simulated, not executed in compressed form" : "");
}

/* The baseline's quality and how it stands to the yardsticks. */
static int baseline_sentence(struct text *page, const struct report *report) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    const struct report_cell *baseline = report->baseline;
    if (!baseline) {
        text_raw(page, "<p class=\"alert\">The baseline has no result, so nothing can be compared with it.</p>\n");
        goto out;
    }
    text_raw(page, "<p>The baseline (uncompressed) reaches <b>");
    page_quality(page, report, baseline->quality);
    text_raw(page, "</b> ");
    text_escape(page, report->metric);
    text_raw(page, " on the test split");
    TRY(rows_open(&rows, report,
                  "SELECT y.name, k.estimate, k.lo, k.hi, k.p_value FROM comparison k JOIN experiment e ON e.id = ?2"
                  " JOIN yardstick y ON y.task = e.task AND y.data_hash = e.data_hash AND k.name = 'vs_' || y.name"
                  " WHERE k.session_id = ?1 AND k.cell_id = ?3 ORDER BY y.accuracy_frac DESC",
                  baseline->id));
    for (const char *joint = ": ";; joint = ", ") {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        double estimate = rows_real(&rows, 1);
        int side = interval_side(rows_real(&rows, 2), rows_real(&rows, 3), 0);
        text_raw(page, joint);
        if (side == 0 || side == 2) text_raw(page, "not distinguishable from ");
        else {
            text_number(page, 100 * fabs(estimate), 2);
            text_print(page, " points %s ", estimate < 0 ? "below" : "above");
        }
        text_raw(page, "<i>");
        text_escape(page, rows_view(&rows, 0));
        text_raw(page, "</i> (");
        text_p_value(page, rows_real(&rows, 4));
        text_raw(page, ")");
    }
    if (isfinite(baseline->decode.tokens_per_s.estimate)) {
        text_raw(page, ". It gives its first token after ");
        text_figures(page, baseline->prefill.latency_ms.estimate, 3);
        text_raw(page, " ms and then ");
        text_figures(page, baseline->decode.tokens_per_s.estimate, 3);
        text_raw(page, " tokens/s");
    }
    text_raw(page, ".</p>\n");
out:
    rows_close(&rows);
    return status;
}

/* "a bert model of 2 layers and width 256" from the config's text, or the last part of a pretrained model's path; the
 * whole stands under Provenance. */
static void model_in_words(struct text *page, const char *json) {
    const char *family = NULL, *path = NULL;
    char last[256];
    int layers = 0, width = 0;
    json_t *config = json_loads(json ? json : "", 0, NULL);
    if (config && json_unpack(config, "{s:s, s:i, s:i}", "model_type", &family, "num_hidden_layers", &layers,
                              "hidden_size", &width) == 0) {
        text_raw(page, "a ");
        text_escape(page, family);
        text_print(page, " model of %d layer%s and width %d", layers, layers == 1 ? "" : "s", width);
    } else if (config && json_unpack(config, "{s:s}", "path", &path) == 0) {
        size_t end = strlen(path), begin;
        while (end > 1 && path[end - 1] == '/') end--;
        for (begin = end; begin > 0 && path[begin - 1] != '/';) begin--;
        snprintf(last, sizeof last, "%.*s", (int)(end - begin), path + begin);
        text_escape(page, last);
    } else text_raw(page, "the model");
    json_decref(config);
}

int page_headline(struct text *page, const struct report *report) {
    int status = 0;
    size_t shown = 0, left = 0, variants = 0;
    for (size_t i = 0; i < report->cell_count; i++) variants += !report->cells[i].is_baseline;
    page_section(page, "answer", "Question and answer");
    text_raw(page, "<div class=\"answer\">\n<p><b>Asked:</b> what ");
    text_raw(page, variants == 1 ? "does " : "do ");
    text_count(page, (double)variants);
    text_raw(page, variants == 1 ? " variant do to " : " variants do to ");
    model_in_words(page, report->model);
    text_raw(page, " on the task ");
    text_escape(page, report->task);
    text_raw(page, ", executed on ");
    text_escape(page, report->cpu);
    text_raw(page, "? The full list is the <a href=\"#results\">table</a>.</p>\n");
    TRY(baseline_sentence(page, report));
    text_raw(page, "<ul>\n");
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        if (!cell->ok || cell->is_baseline || cell->simulated || strcmp(cell->pipeline, "null") == 0) continue;
        if (dominated(report, cell) || shown == ANSWERS_MAX) {
            left++;
            continue;
        }
        answer(page, report, cell);
        shown++;
    }
    for (size_t i = 0; i < report->cell_count; i++) {
        const struct report_cell *cell = &report->cells[i];
        if (!cell->ok || strcmp(cell->pipeline, "null") != 0 || !report->batch_count) continue;
        const struct report_estimate *ratio = &cell->timing[0].ratio;
        text_raw(page, "<li>The harness against itself (<b>");
        page_cell_name(page, cell);
        text_raw(page, "</b>, a stage that changes nothing): ");
        text_number(page, ratio->estimate, 3);
        text_raw(page, " of the baseline's time");
        page_interval(page, ratio->lo, ratio->hi, 1, 3, false);
        int side = interval_side(ratio->lo, ratio->hi, 1);
        text_print(page, ", <b class=\"%s\">%s</b>.</li>\n", side == 0 ? "good" : "bad",
                   side == 0   ? "the interval covers 1, as it must"
                   : side == 2 ? "interval unknown"
                               : "the interval misses 1: read small differences with care");
    }
    text_raw(page, "</ul>\n");
    if (left)
        text_print(
            page,
            "<p class=\"soft\">%zu more executed variant%s: another is at least as good in quality, bytes and time "
            "at once, or this list is full.</p>\n",
            left, left == 1 ? " is in the table" : "s are in the table");
    if (report->simulated_count)
        text_print(page,
                   "<p class=\"soft\">%zu simulated variant%s shown in table and figures only: the quality is real, "
                   "bytes and time are not those of a compressed model.</p>\n",
                   report->simulated_count, report->simulated_count == 1 ? " is" : "s are");
    text_raw(page, "</div>\n</section>\n");
out:
    return status;
}
