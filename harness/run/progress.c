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
    progress->total = total;
    progress->started_ns = clock_ns();
    progress->drawn_ns = 0;
    snprintf(progress->phase, sizeof progress->phase, "%s", phase);
}

/* "2m10s", "45s"; "?" before anything is known. */
static void time_left(const struct progress *progress, double current, char *text, size_t size) {
    double done = (double)progress->done + current, elapsed = (double)(clock_ns() - progress->started_ns) / 1e9;
    if (done < 0.02) {
        snprintf(text, size, "?");
        return;
    }
    double left = elapsed / done * ((double)progress->total - done);
    if (left >= 60) snprintf(text, size, "%dm%02ds", (int)(left / 60), (int)fmod(left, 60));
    else snprintf(text, size, "%ds", (int)ceil(left));
}

static void clear_line(struct progress *progress) {
    if (progress->line_open) fputs("\r\033[K", stderr);
    progress->line_open = false;
}

void progress_update(struct progress *progress, const char *item, double fraction, const char *text) {
    uint64_t now = clock_ns();
    uint64_t pause = progress->terminal ? 250000000u : 15000000000u;
    if (progress->quiet || now - progress->drawn_ns < pause) return;
    if (!progress->terminal && progress->drawn_ns == 0) { /* the first plain line comes after a pause */
        progress->drawn_ns = now;
        return;
    }
    progress->drawn_ns = now;
    char left[32];
    time_left(progress, fraction, left, sizeof left);
    if (progress->terminal) clear_line(progress);
    fprintf(stderr, "[%zu/%zu] %s %s %3.0f%% %s  eta %s", progress->done + 1, progress->total, progress->phase, item,
            100 * fraction, text, left);
    if (progress->terminal) progress->line_open = true;
    else fputc('\n', stderr);
    fflush(stderr);
}

void progress_done(struct progress *progress, const char *item, const char *outcome, double seconds) {
    progress->done++;
    if (progress->quiet) return;
    char left[32];
    time_left(progress, 0, left, sizeof left);
    clear_line(progress);
    if (!progress->terminal || strcmp(outcome, "ok") != 0 || seconds > 1)
        fprintf(stderr, "[%zu/%zu] %s %s: %s (%.1f s), eta %s\n", progress->done, progress->total, progress->phase,
                item, outcome, seconds, left);
    fflush(stderr);
}

void progress_close(struct progress *progress) { clear_line(progress); }
