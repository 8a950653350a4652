/* Results databases made through the store's own functions, for tests of whatever reads them.
 *
 * One call stores one session of an experiment with six cells: a baseline, int8, int4, magnitude pruning that
 * executes simulated, one that failed and one that was skipped; ten rounds of twenty samples (and five warm-ups) at
 * two batch sizes, stages and the first one's curve, counters with and without a value, per-item outcomes and three
 * yardsticks. All numbers are functions of the settings, so that two sessions with equal settings but another
 * `noise_seed` are an A/A pair and any change can be planted alone.
 */
#ifndef SYNTHETIC_DB_H
#define SYNTHETIC_DB_H

#include "store/store.h"

enum synthetic_cell {
    SYNTHETIC_BASELINE,
    SYNTHETIC_INT8,
    SYNTHETIC_INT4,
    SYNTHETIC_PRUNED,
    SYNTHETIC_FAILED,
    SYNTHETIC_SKIPPED,
    SYNTHETIC_CELLS
};
enum {
    SYNTHETIC_ITEMS = 4000,
    SYNTHETIC_BATCHES = 2,
    SYNTHETIC_CLASSES = 8,
    SYNTHETIC_STEPS = 120,
    SYNTHETIC_LAYERS = 8
};

struct synthetic {
    const char *name;                        /* experiment name */
    const char *cpu;                         /* another name is another host */
    uint64_t noise_seed;                     /* of the timing noise */
    double noise_frac;                       /* standard deviation of a round's drift, e.g. 0.01 */
    double drift_factor;                     /* all latencies of the session, e.g. 1.2: a slower day */
    double latency_factor[SYNTHETIC_CELLS];  /* planted slowdown of one cell */
    double bytes_factor[SYNTHETIC_CELLS];    /* planted growth of one artifact */
    double accuracy_change[SYNTHETIC_CELLS]; /* planted change as a fraction of items, e.g. -0.02 */
    const char *status[SYNTHETIC_CELLS]; /* of the build run: "ok", "failed", …; NULL: the cell has no run at all */
    const char *data_hash;
    int64_t rounds, samples, warmup;
    bool timing_valid, finished;
};

/* The settings of a plain session called "synthetic". */
struct synthetic synthetic_defaults(void);

/* Store one session (and its experiment, host, build and cells where new), and its comparison rows. */
int synthetic_store(struct store *store, const struct synthetic *settings, int64_t *session_id);

/* A fresh database at `path` with one plain session. */
int synthetic_database(const char *path);

/* Labels of the cells, by enum synthetic_cell. */
extern const char *const synthetic_labels[SYNTHETIC_CELLS];

#endif
