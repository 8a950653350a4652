/* The data files of the figures: one function per figure, each adding what the page will draw. Private to figures.c. */
#ifndef FIGURE_DATA_H
#define FIGURE_DATA_H

#include "report/figures.h"

/* Each appends zero or more figures with their arguments to `figures` and writes STEM.dat into the directory. */
int figure_quality_bytes(struct figures *figures, const struct report *report, const char *directory);
int figure_quality_latency(struct figures *figures, const struct report *report, const char *directory);
int figure_latency_distribution(struct figures *figures, const struct report *report, const char *directory);
int figure_stage_waterfall(struct figures *figures, const struct report *report, const char *directory);

#endif
