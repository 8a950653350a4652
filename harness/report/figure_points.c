/* Pareto frontier by one sweep over the points in order of x; label places by greedy choice: for each point the
 * place that collides least with markers and with the numbers placed before it, in pixels of the panel that the
 * scripts draw. Greedy is enough: with ten to thirty points a free neighbour place nearly always exists. */
#include "report/figure_points.h"

#include <math.h>
#include <stdlib.h>

/* The plot's panel in the scripts, in pixels, and the size of a two-digit number in it. */
enum { PANEL_WIDTH = 560, PANEL_HEIGHT = 400, NUMBER_WIDTH = 16, NUMBER_HEIGHT = 12, MARKER = 6, PLACES = 8 };

/* Offsets of the number's centre, right first; the same as dx and dy in plots/quality_*.gp (characters there). */
static const double place_dx[PLACES] = {14, 13, 0, -13, -14, -13, 0, 13};
static const double place_dy[PLACES] = {0, 11, 14, 11, 0, -11, -14, -11};

static int by_x(const void *left, const void *right) {
    const struct figure_point *a = left, *b = right;
    if (a->x != b->x) return a->x < b->x ? -1 : 1;
    return a->cell->number - b->cell->number;
}

void figure_points_frontier(struct figure_point *points, size_t count, bool higher_is_better) {
    double sign = higher_is_better ? 1 : -1;
    double best = -INFINITY;
    qsort(points, count, sizeof *points, by_x);
    for (size_t i = 0; i < count;) {
        size_t top = i, end = i; /* among equal x only the best y can be on the frontier */
        bool found = false;
        for (; end < count && points[end].x == points[i].x; end++) {
            points[end].frontier = false;
            if (points[end].cell->simulated) continue;
            if (!found || sign * points[end].y > sign * points[top].y) top = end;
            found = true;
        }
        if (found && sign * points[top].y > best) {
            points[top].frontier = true;
            best = sign * points[top].y;
        }
        i = end;
    }
}

static double overlap(double distance, double reach) { return fabs(distance) < reach ? reach - fabs(distance) : 0; }

void figure_points_place(struct figure_point *points, size_t count, bool log_x) {
    double x_min = INFINITY, x_max = -INFINITY, y_min = INFINITY, y_max = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        x_min = fmin(x_min, points[i].x), x_max = fmax(x_max, points[i].x);
        y_min = fmin(y_min, points[i].y_lo), y_max = fmax(y_max, points[i].y_hi);
    }
    double span_x = log_x ? log(x_max / x_min) : x_max - x_min, span_y = y_max - y_min;
#define AT_X(p) (span_x > 0 ? PANEL_WIDTH * (log_x ? log((p).x / x_min) : (p).x - x_min) / span_x : 0)
#define BAR_Y(p, end) (span_y > 0 ? PANEL_HEIGHT * ((p).end - y_min) / span_y : 0)
#define AT_Y(p) BAR_Y(p, y)
    for (size_t i = 0; i < count; i++) {
        double least = INFINITY;
        for (int place = 0; place < PLACES; place++) {
            double x = AT_X(points[i]) + place_dx[place], y = AT_Y(points[i]) + place_dy[place];
            double cost = 0.01 * place + (place % 2 == 0 ? 30 : 0);    /* straight beside or above lies on a bar */
            if (points[i].frontier && place_dx[place] > 0) cost += 40; /* the frontier's line leaves to the right */
            for (size_t j = 0; j < count; j++) {
                if (j == i) continue;
                double marker_x = AT_X(points[j]), marker_y = AT_Y(points[j]);
                cost += overlap(x - marker_x, NUMBER_WIDTH / 2 + MARKER) *
                        overlap(y - marker_y, NUMBER_HEIGHT / 2 + MARKER);
                if (y > BAR_Y(points[j], y_lo) && y < BAR_Y(points[j], y_hi))
                    cost += 4 * overlap(x - marker_x, NUMBER_WIDTH / 2);
                if (j > i) continue;
                double number_x = marker_x + place_dx[points[j].place], number_y = marker_y + place_dy[points[j].place];
                cost += 2 * overlap(x - number_x, NUMBER_WIDTH) * overlap(y - number_y, NUMBER_HEIGHT);
            }
            if (cost < least) least = cost, points[i].place = place;
        }
    }
#undef AT_X
#undef AT_Y
#undef BAR_Y
}
