/* The schedules of transformers (optimization.py, get_{constant,linear,cosine,polynomial_decay}_schedule_with_warmup),
 * with t = (step - warmup) / (steps - warmup) after the warm-up:
 *
 *   linear 1 - t      cosine (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, half a period)
 *   polynomial end + (1 - end)·(1 - t)^power
 */
#include "train/schedule.h"

#include <math.h>

double schedule_rate(const struct schedule *schedule, size_t step) {
    size_t warmup = schedule->warmup, steps = schedule->steps > warmup ? schedule->steps : warmup + 1;
    if (step < warmup) return schedule->peak * (double)step / (double)warmup;
    double t = step < steps ? (double)(step - warmup) / (double)(steps - warmup) : 1;
    switch (schedule->kind) {
    case SCHEDULE_LINEAR: return schedule->peak * (1 - t);
    case SCHEDULE_COSINE: return schedule->peak * 0.5 * (1 + cos(acos(-1.0) * t));
    case SCHEDULE_POLYNOMIAL:
        return schedule->peak * (schedule->end_frac + (1 - schedule->end_frac) * pow(1 - t, schedule->power));
    default: return schedule->peak;
    }
}
