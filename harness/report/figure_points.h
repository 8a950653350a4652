/* The points of a scatter figure: Pareto frontier and where the number of each point is written. */
#ifndef FIGURE_POINTS_H
#define FIGURE_POINTS_H

#include <stdbool.h>
#include <stddef.h>

#include "report/report_data.h"

struct figure_point {
    const struct report_cell *cell;
    double x, x_lo, x_hi; /* less is better */
    double y, y_lo, y_hi; /* better in the direction of the report's metric */
    int place;            /* 0..7: right, then counter-clockwise in steps of 45 degrees */
    bool frontier;        /* executed as stored, and no other such point is better in one and as good in the other */
};

/* Sort the points by x and mark the frontier. Simulated points are never on it: what they stand for is not executed. */
void figure_points_frontier(struct figure_point *points, size_t count, bool higher_is_better);

/* Choose `place` so that numbers avoid markers and each other. log_x: the axis is logarithmic (x > 0). */
void figure_points_place(struct figure_point *points, size_t count, bool log_x);

#endif
