/* The data files of the figures: one function per figure, each adding what the page will draw. Private to figures.c. */
#ifndef FIGURE_DATA_H
#define FIGURE_DATA_H

#include "report/figures.h"

/* Each appends zero or more figures with their arguments to `figures` and writes STEM.dat into the directory. */
int figure_quality_bytes(struct figures *figures, const struct report *report, const char *directory);
int figure_quality_latency(struct figures *figures, const struct report *report, const char *directory);
int figure_latency_distribution(struct figures *figures, const struct report *report, const char *directory);
int figure_stage_waterfall(struct figures *figures, const struct report *report, const char *directory);
int figure_loss_curve(struct figures *figures, const struct report *report, const char *directory);
int figure_layer_ranges(struct figures *figures, const struct report *report, const char *directory);
int figure_layer_sensitivity(struct figures *figures, const struct report *report, const char *directory);

/* Shared by them. The next figure, empty; NULL when the list is full. */
struct figure *figure_add(struct figures *figures, const char *stem, const char *script);
/* Title and first footer line: commit, host, n, date; `interval` begins the second. The figure's title is set. */
void figure_describe(struct figure *figure, const struct report *report, const char *interval);
/* "accuracy on the test split, %" */
void figure_quality_axis(struct text *text, const struct report *report, const char *split);

#endif
