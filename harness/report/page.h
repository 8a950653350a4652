/* The HTML page of one experiment. page_write assembles it; the section functions live in page_*.c and each append
 * one <section>. Everything that comes from the database goes through text_escape. */
#ifndef PAGE_H
#define PAGE_H

#include "report/figures.h"
#include "report/report_data.h"
#include "report/report_text.h"

/* The whole page. `directory` holds the figures. */
int page_write(struct text *page, const struct report *report, const struct figures *figures, const char *directory);

/* <!doctype html> … <body>, with style sheet; and the end of the page, with the script that sorts tables. */
void page_begin(struct text *page, const char *title);
void page_end(struct text *page);

/* What was asked, and the answer in words. E_* from the queries. */
int page_headline(struct text *page, const struct report *report);
int page_problems(struct text *page, const struct report *report);
void page_results(struct text *page, const struct report *report);
void page_generation(struct text *page, const struct report *report); /* nothing where no text was generated */
int page_yardsticks(struct text *page, const struct report *report);
int page_stages(struct text *page, const struct report *report);
int page_counters(struct text *page, const struct report *report);
int page_figures(struct text *page, const struct figures *figures, const char *directory);
void page_provenance(struct text *page, const struct report *report, const struct figures *figures);

/* Shared parts. */
void page_section(struct text *page, const char *id, const char *heading); /* <section id><h2>… */
void page_cell_name(struct text *page, const struct report_cell *cell);    /* number and label, escaped */
void page_json(struct text *page, const char *json); /* {"a":1,"b":[2]} as "a 1, b [2]", escaped */
void page_quality(struct text *page, const struct report *report, double quality);       /* 91.40 % */
void page_difference(struct text *page, const struct report *report, double difference); /* +0.25 points */
/* " (lo to hi)" scaled and signed; nothing when absent */
void page_interval(struct text *page, double lo, double hi, double scale, int decimals, bool with_sign);

/* What an interval says about a difference or ratio, against `neutral` (0 or 1): -1 all below, 1 all above, 0 neither,
 * 2 unknown. */
int interval_side(double lo, double hi, double neutral);
const char *verdict_quality(const struct report *report, const struct report_estimate *difference);
const char *verdict_ratio(const struct report_estimate *ratio);

#endif
