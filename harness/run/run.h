/* Running experiments: sessions, resume, builds, timing rounds, exit status. */
#ifndef RUN_H
#define RUN_H

#include "config/experiment.h"
#include "store/store.h"

struct run_settings {
    const char *db_path;
    const char *command; /* as typed, stored with the session */
    int jobs;            /* builds at once; timing is never shared */
    uint32_t cpumask;
    bool quiet;         /* no progress */
    bool retry_failed;  /* build again what failed in the session that is continued */
    bool fresh;         /* do not continue an unfinished session */
    bool no_timing;     /* builds and scores only */
    bool timing_marked; /* this build's timings are not to be trusted: stored with timing_valid 0 */
};

struct run_summary {
    size_t cells, ok, failed, skipped;
    size_t kept; /* of those failed: before, in the session that was continued */
    bool interrupted;
    bool done; /* nothing ran: it had ended before the same command was interrupted in another experiment */
};

/* Run one experiment to its end, or until interrupted. A failed cell is no error of this function.
 * E_IO, E_STATE for the database; E_INTERRUPTED. The process must not have started threads. */
int experiment_run(struct store *store, struct experiment *experiment, const struct run_settings *settings,
                   struct run_summary *summary);

/* Set by the signal handlers that run_catch_signals installs for SIGINT and SIGTERM. */
extern volatile int run_interrupted;
void run_catch_signals(void);

/* Code versions, for cell keys: SHA-256 of the sources of core and scoring; of a technique's own sources, or
 * of its plug-in file. */
const char *code_hash_core(void);
int code_hash_technique(const struct technique *technique, char hash[HASH_HEX]);

#endif
