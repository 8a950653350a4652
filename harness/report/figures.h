/* The figures of a page: data files from the database, drawn by gnuplot with the scripts of plots/. */
#ifndef FIGURES_H
#define FIGURES_H

#include <stdbool.h>
#include <stddef.h>

#include "report/report_data.h"
#include "report/report_text.h"

#define FIGURES_MAX 24
#define FIGURE_ARGUMENTS 6

struct figure {
    char stem[64];   /* FILE.svg, FILE.dat */
    char script[32]; /* name in plots/, without .gp */
    char title[160];
    const char *caption;                     /* how to read it, one or two sentences */
    struct text arguments[FIGURE_ARGUMENTS]; /* after .dat and .svg on gnuplot's command line */
    bool drawn;
    char problem[256]; /* why it was not drawn; "" otherwise */
};

struct figures {
    struct figure items[FIGURES_MAX];
    size_t count;
    char note[256]; /* one line when nothing could be drawn (gnuplot or the scripts are missing); "" otherwise */
};

/* Write every .dat, copy the scripts and draw into `directory`. Missing gnuplot, missing scripts and a figure that
 * gnuplot refuses are not errors: they are told in note and problem. */
int figures_write(struct figures *figures, const struct report *report, const char *directory);
void figures_close(struct figures *figures);

/* Append the SVG file of a drawn figure for use inside the page: its ids made unique, its grey turned into the
 * page's text colour, tool tips of gnuplot removed. `name`: accessible name. */
int figure_inline(struct text *page, const char *directory, const struct figure *figure);

/* The directory of the .gp scripts: $PLOTS_DIR, ./plots, beside the executable's prefix (../share/shrinklab/plots),
 * or in the source tree of a program in build/MODE. E_NOT_FOUND names these places. */
int plots_directory(char *path, size_t size);

#endif
