/* Progress on standard error: one redrawn line with an estimate of the time left on a terminal, plain lines
 * elsewhere. Counts only work that will run. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    bool terminal, quiet;
    size_t done, total;
    double seconds; /* that the items took which are done */
    uint64_t started_ns, drawn_ns;
    bool line_open;
    char phase[32];
};

void progress_open(struct progress *progress, bool quiet);
void progress_phase(struct progress *progress, const char *phase, size_t total);
/* Something is under way: fraction 0..1 of the current item, and what it is; left_s: seconds that it will still take
 * (NaN: unknown). Redraws at most four times a second. */
void progress_update(struct progress *progress, const char *item, double fraction, const char *text, double left_s);
/* "45s", "2m10s", "3h05m"; "?" for NaN. */
void progress_time(double seconds, char *text, size_t size);
/* One item ended: prints its line (on a terminal only when `outcome` is not "ok"). */
void progress_done(struct progress *progress, const char *item, const char *outcome, double seconds);
void progress_close(struct progress *progress); /* clears the redrawn line */

#endif
