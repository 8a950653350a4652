/* See stage_clock.h. */
#include "run/stage_clock.h"

#include <math.h>

#define FRACTION_MIN 0.01
#define SECONDS_MIN 2

void stage_clock_start(struct stage_clock *clock) { *clock = (struct stage_clock){0}; }

double stage_clock_left(struct stage_clock *clock, double fraction, double now_s) {
    if (!clock->started || fraction <= clock->from) *clock = (struct stage_clock){true, fraction, now_s};
    double done = fraction - clock->from, taken_s = now_s - clock->from_s;
    if (done <= 0 || taken_s <= 0 || (done < FRACTION_MIN && taken_s < SECONDS_MIN)) return NAN;
    return taken_s / done * (1 - fraction);
}
