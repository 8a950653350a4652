/* See progress.h. */
#include "run/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "run/process.h"

void progress_open(struct progress *progress, bool quiet) {
    *progress = (struct progress){.terminal = isatty(STDERR_FILENO) == 1, .quiet = quiet};
}

void progress_phase(struct progress *progress, const char *phase, size_t total) {
    progress->done = 0;
    progress->seconds = 0;
    progress->total = total;
    progress->started_ns = clock_ns();
    progress->drawn_ns = 0;
    snprintf(progress->phase, sizeof progress->phase, "%s", phase);
}

void progress_time(double seconds, char *text, size_t size) {
    if (!isfinite(seconds)) {
        snprintf(text, size, "?");
        return;
    }
    double whole = ceil(seconds);
    if (whole >= 3600) snprintf(text, size, "%.0fh%02.0fm", floor(whole / 3600), floor(fmod(whole, 3600) / 60));
    else if (whole >= 60) snprintf(text, size, "%.0fm%02.0fs", floor(whole / 60), fmod(whole, 60));
    else snprintf(text, size, "%.0fs", whole);
}

/* What is left of all items, of which the current one is `current` done: as those before it took. Where the current
 * one knows better (left_s), that counts for it, and the others are "N more" until one of them has ended. */
static void time_left(const struct progress *progress, double current, double left_s, char *text, size_t size) {
    double done = (double)progress->done + current, elapsed = (double)(clock_ns() - progress->started_ns) / 1e9;
    size_t others = progress->total > progress->done + 1 ? progress->total - progress->done - 1 : 0;
    if (!isfinite(left_s)) {
        progress_time(done < 0.02 ? NAN : elapsed / done * ((double)progress->total - done), text, size);
        return;
    }
    if (progress->done) left_s += (double)others * progress->seconds / (double)progress->done;
    progress_time(left_s, text, size);
    size_t used = strlen(text);
    if (others && !progress->done) snprintf(text + used, size - used, " and %zu more", others);
}

static void clear_line(struct progress *progress) {
    if (progress->line_open) fputs("\r\033[K", stderr);
    progress->line_open = false;
}

void progress_update(struct progress *progress, const char *item, double fraction, const char *text, double left_s) {
    uint64_t now = clock_ns();
    uint64_t pause = progress->terminal ? 250000000u : 15000000000u;
    if (progress->quiet || now - progress->drawn_ns < pause) return;
    if (!progress->terminal && progress->drawn_ns == 0) { /* the first plain line comes after a pause */
        progress->drawn_ns = now;
        return;
    }
    progress->drawn_ns = now;
    char left[48];
    time_left(progress, fraction, left_s, left, sizeof left);
    if (progress->terminal) clear_line(progress);
    fprintf(stderr, "[%zu/%zu] %s %s %3.0f%% %s  eta %s", progress->done + 1, progress->total, progress->phase, item,
            100 * fraction, text, left);
    if (progress->terminal) progress->line_open = true;
    else fputc('\n', stderr);
    fflush(stderr);
}

void progress_done(struct progress *progress, const char *item, const char *outcome, double seconds) {
    progress->done++;
    progress->seconds += seconds;
    if (progress->quiet) return;
    char left[48];
    time_left(progress, 0, NAN, left, sizeof left);
    clear_line(progress);
    if (!progress->terminal || strcmp(outcome, "ok") != 0 || seconds > 1)
        fprintf(stderr, "[%zu/%zu] %s %s: %s (%.1f s), eta %s\n", progress->done, progress->total, progress->phase,
                item, outcome, seconds, left);
    fflush(stderr);
}

void progress_close(struct progress *progress) { clear_line(progress); }
