/* How long a stage will still take, from how far it has come. */
#ifndef STAGE_CLOCK_H
#define STAGE_CLOCK_H

#include <stdbool.h>

/* A stage that resumes begins at a fraction above 0: only what this process did is timed. One that tells the same
 * fraction again and again prepares (a teacher's outputs, say): what that takes says nothing of the rest. */
struct stage_clock {
    bool started;
    double from, from_s; /* the first fraction that was told, and when last */
};
void stage_clock_start(struct stage_clock *clock);
/* Seconds left at a fraction 0..1 told at now_s; NaN while too little is known: the first 1 % or 2 s. */
double stage_clock_left(struct stage_clock *clock, double fraction, double now_s);

#endif
