/* The report: gnuplot figures and one self-contained HTML page per experiment, from the results database.
 *
 *   OUT_DIR/<experiment>/index.html   the page: inline SVG, CSS and script, nothing fetched from elsewhere
 *   OUT_DIR/<experiment>/FIGURE.svg   each figure, with the FIGURE.gp and FIGURE.dat that redraw it
 *   OUT_DIR/index.html                links each page, when several experiments were asked for
 *
 * A page is written beside the old one and replaces it in one step, so a reader never sees half a report.
 * Without gnuplot the page is still written, with the tables and a line that says why there are no figures.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stddef.h>

/* Write the newest session of one experiment, or of every experiment in the database when `experiment` is
 * NULL. index_path receives the page to open (the page of the only experiment, or OUT_DIR/index.html).
 * Errors: E_NOT_FOUND no such experiment, or nothing in the database yet (the text says what to do); E_IO;
 * E_FORMAT for an experiment name that is not a file name; those of store_open. */
int report_write(const char *db_path, const char *experiment, const char *out_dir, char *index_path, size_t size);

/* The same for several experiments by name; count 0: all of them. */
int report_write_some(const char *db_path, const char *const *experiments, size_t count, const char *out_dir,
                      char *index_path, size_t size);

#endif
