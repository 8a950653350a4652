/* See run.h: one experiment from session to verdict. */
#include "run/run.h"

#include <signal.h>

#include "base/error.h"
#include "run/session.h"

volatile int run_interrupted;

static void on_signal(int signal_number) {
    (void)signal_number;
    run_interrupted = 1;
}

void run_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk */
}

int experiment_run(struct store *store, struct experiment *experiment, const struct run_settings *settings,
                   struct run_summary *summary) {
    int status = 0;
    struct session session;
    TRY(session_open(&session, store, experiment, settings, summary));
    summary->done = session.done;
    if (session.done) goto out;
    TRY(session_build_cells(&session));
    TRY(session_yardsticks(&session));
    if (!settings->no_timing) TRY(session_time_cells(&session));
    TRY(store_compare(store, session.id, experiment->measure.confidence));
    TRY(store_session_end(store, session.id));
out:
    summary->interrupted = status == E_INTERRUPTED;
    for (size_t i = 0; session.cells && i < experiment->cell_count; i++) {
        summary->cells++;
        summary->ok += session.cells[i].state == CELL_OK;
        summary->failed += session.cells[i].state == CELL_FAILED;
        summary->skipped += session.cells[i].state == CELL_SKIPPED;
    }
    session_close(&session);
    return status;
}
