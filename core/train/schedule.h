/* The learning rate of every step: a linear warm-up from 0, then constant, linear, cosine or polynomial decay. */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <stddef.h>

enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_POLYNOMIAL };

struct schedule {
    enum schedule_kind kind;
    size_t steps, warmup; /* warmup: of the steps, those in which the rate rises */
    double peak;
    double power, end_frac; /* polynomial: from peak to end_frac·peak along (1 - t)^power */
};

/* Rate of step `step` (0-based): peak·step/warmup while step < warmup, so the first rate of a warm-up is 0; from
 * `steps` on what the decay ends with. As transformers' get_*_schedule_with_warmup. */
double schedule_rate(const struct schedule *schedule, size_t step);

#endif
