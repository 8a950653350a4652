/* The page from its sections, in the order in which a reviewer asks: what is this, what came out, what went wrong,
 * the numbers, the pictures, the details, where it comes from, how to read it. */
#include "report/page.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

void page_section(struct text *page, const char *id, const char *heading) {
    text_print(page, "<section id=\"%s\">\n<h2>%s</h2>\n", id, heading);
}

void page_cell_name(struct text *page, const struct report_cell *cell) {
    text_print(page, "%d ", cell->number);
    text_escape(page, cell->label);
}

void page_json(struct text *page, const char *json) {
    for (const char *c = json ? json : ""; *c;) {
        size_t plain = strcspn(c, "{}\",:");
        if (plain) {
            char part[256]; /* pieces of 255 bytes: a character cut in two would show as unreadable, so cut before it */
            if (plain >= sizeof part) plain = sizeof part - 1;
            while (plain > 1 && ((unsigned char)c[plain] & 0xC0) == 0x80) plain--;
            memcpy(part, c, plain);
            part[plain] = '\0';
            text_escape(page, part);
            c += plain;
            continue;
        }
        if (*c == ':') text_raw(page, " ");
        if (*c == ',') text_raw(page, c[1] == ' ' ? "," : ", ");
        c++;
    }
}

void page_quality(struct text *page, const struct report *report, double quality) {
    text_number(page, report->quality_scale * quality, report->quality_scale == 100 ? 2 : 4);
    if (report->quality_scale == 100 && isfinite(quality)) text_raw(page, " %");
}

void page_difference(struct text *page, const struct report *report, double difference) {
    text_signed(page, report->quality_scale * difference, report->quality_scale == 100 ? 2 : 4);
    if (report->quality_scale == 100) text_raw(page, " points");
}

void page_interval(struct text *page, double lo, double hi, double scale, int decimals, bool with_sign) {
    if (!isfinite(lo) || !isfinite(hi)) return;
    text_raw(page, " (");
    (with_sign ? text_signed : text_number)(page, scale * lo, decimals);
    text_raw(page, " to ");
    (with_sign ? text_signed : text_number)(page, scale * hi, decimals);
    text_raw(page, ")");
}

static void badge(struct text *page, const char *kind, size_t count, const char *what) {
    text_print(page, "<li%s%s%s>%zu %s%s</li>\n", *kind ? " class=\"" : "", kind, *kind ? "\"" : "", count,
               count == 1 ? "cell " : "cells ", what);
}

static void header(struct text *page, const struct report *report) {
    const struct report_session *s = &report->session;
    text_raw(page, "<header>\n<h1>");
    text_escape(page, report->name);
    text_raw(page, "</h1>\n<p class=\"soft\">");
    text_escape(page, report->description);
    text_raw(page, "</p>\n<p class=\"soft\">");
    text_escape(page, s->started_at);
    text_raw(page, " \xC2\xB7 commit ");
    text_escape(page, report->commit);
    text_raw(page, report->dirty ? " with uncommitted changes" : "");
    text_raw(page, " \xC2\xB7 ");
    text_escape(page, report->cpu);
    text_raw(page, "</p>\n<ul class=\"badges\">\n");
    badge(page, report->ok_count ? "good" : "bad", report->ok_count, "ok");
    badge(page, report->failed_count ? "bad" : "", report->failed_count, "failed");
    if (report->not_run_count) badge(page, "bad", report->not_run_count, "without a run");
    badge(page, report->skipped_count ? "skip" : "", report->skipped_count, "skipped");
    text_print(page, "<li class=\"%s</li>\n</ul>\n",
               s->timing_valid ? "good\">timings valid" : "bad\">timings not valid");
    if (!s->timing_valid) {
        text_raw(page, "<p class=\"alert\">Do not use the timings of this session: ");
        text_escape(page, s->timing_note && *s->timing_note ? s->timing_note : "no reason was recorded");
        text_raw(page, "</p>\n");
    }
    if (!s->ended_at)
        text_raw(page, "<p class=\"alert\">This session has not ended: it was interrupted or is still running. What is "
                       "here is real but incomplete.</p>\n");
    if (s->warnings && *s->warnings) {
        text_raw(page, "<p class=\"alert\">Warnings: ");
        text_escape(page, s->warnings);
        text_raw(page, "</p>\n");
    }
    text_raw(page,
             "<nav aria-label=\"Sections\"><a href=\"#answer\">Answer</a><a href=\"#problems\">Failed and skipped</a>"
             "<a href=\"#results\">Results</a><a href=\"#yardsticks\">Yardsticks</a><a href=\"#figures\">Figures</a>"
             "<a href=\"#stages\">Stages</a><a href=\"#counters\">Counters</a><a href=\"#provenance\">Provenance</a>"
             "<a href=\"#reading\">How to read</a></nav>\n</header>\n");
}

/* The methods behind the intervals, as stored with them. */
static void method_item(struct text *page, const char *what, const char *method) {
    if (!method) return;
    text_print(page, "<li>%s: ", what);
    text_escape(page, method);
    text_raw(page, ".</li>\n");
}

static void how_to_read(struct text *page, const struct report *report) {
    const struct report_cell *cell = NULL; /* one that was compared, for the methods */
    for (size_t i = 0; i < report->cell_count; i++)
        if (!report->cells[i].is_baseline && report->cells[i].difference.method && !cell) cell = &report->cells[i];
    page_section(page, "reading", "How to read");
    text_raw(page, "<ul>\n<li><b>Interval</b>: the range of true values that the measurements are compatible with. Two "
                   "numbers whose "
                   "difference has an interval across zero (or a ratio across one) have not been told apart.</li>\n");
    if (cell) {
        method_item(page, "Difference in quality", cell->difference.method);
        if (report->batch_count) {
            method_item(page, "Latency", cell->timing[0].latency_ms.method);
            method_item(page, "Ratio to the baseline", cell->timing[0].ratio.method);
        }
    }
    text_raw(
        page,
        "<li><b>p</b>: how often chance alone would make the two sets of results differ this much. With many cells, "
        "one in twenty falls below 0.05 by luck.</li>\n"
        "<li><b>Compressed layers</b>: the linear layers that techniques may change; embeddings and the rest are in "
        "<b>file</b> too. <b>Bits per weight</b> counts scales and zero points.</li>\n"
        "<li><b>Packed</b> cells run from their packed bytes. <b>Simulated</b> cells keep compressed values in an "
        "uncompressed format: their quality is that of the technique, their bytes and time are not.</li>\n"
        "<li><b>Latency</b> is of one batch from token ids to the model's output (with generation: to the last new "
        "token), "
        "in a fresh process per round; cells "
        "take turns within a round, so that drift of the machine hits all alike, and ratios are paired by round.</li>\n"
        "<li><b>Peak memory</b> is the largest resident set of a timed process, program and libraries included.</li>\n"
        "<li>docs/REPORT.md of the source explains each figure at length.</li>\n</ul>\n</section>\n");
}

int page_write(struct text *page, const struct report *report, const struct figures *figures, const char *directory) {
    int status = 0;
    struct text title = {0};
    text_print(&title, "%s \xC2\xB7 Shrinklab", report->name);
    TRY(text_status(&title));
    page_begin(page, title.bytes);
    header(page, report);
    TRY(page_headline(page, report));
    TRY(page_problems(page, report));
    page_results(page, report);
    page_generation(page, report);
    TRY(page_yardsticks(page, report));
    TRY(page_figures(page, figures, directory));
    TRY(page_stages(page, report));
    TRY(page_counters(page, report));
    page_provenance(page, report, figures);
    how_to_read(page, report);
    page_end(page);
    TRY(text_status(page));
out:
    text_close(&title);
    return status;
}
