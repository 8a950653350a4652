/* The regression gate: results of one session in the shape that is accepted, stored in git and judged against.
 *
 * gate_collect.c reads them from the database, gate_file.c writes and reads results/baselines/<experiment>.json,
 * gate_judge.c compares two of them and states one verdict per cell and rule. Cells are matched by label, since the
 * key of a cell changes with the code that the gate is to watch.
 */
#ifndef GATE_H
#define GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "measure/statistics.h"
#include "store/store.h"
#include "verbs/table.h"

struct gate_timing {
    int64_t batch;
    struct interval latency_ms, ratio; /* ratio: paired, to the baseline of the same session */
};
struct gate_cell {
    char *label, *status, *reason; /* status: "ok", "skipped", "failed", …, "missing" */
    char *artifact, *executes;     /* "" where there is none */
    bool is_baseline;
    int64_t threads, size_bytes;
    double metric;    /* NaN where there is none */
    uint8_t *correct; /* [items] 0 or 1 */
    size_t items;     /* 0: not scored as right or wrong item by item */
    struct gate_timing *timings;
    size_t timing_count;
};
struct gate_results {
    char *experiment, *hash, *data_hash, *metric, *host, *cpu, *commit, *started_at, *timing_note;
    bool dirty, timing_valid, finished;
    bool lower_is_better; /* the metric, as perplexity is */
    struct gate_cell *cells;
    size_t cell_count;
};
void gate_results_close(struct gate_results *results); /* accepts zeroed results */

/* The newest session of the experiment; E_NOT_FOUND when it has no results. */
int gate_collect(struct store *store, const char *experiment, struct gate_results *results);

/* "folder/experiment.json" into path; E_ARGUMENT for a name that is no plain word. */
int gate_path(const char *folder, const char *experiment, char *path, size_t size);
/* Replace the file as a whole, making the folder where only that is missing. */
int gate_write(const char *path, const struct gate_results *results);
/* E_NOT_FOUND when there is no such file, E_FORMAT with its name where it is not what gate_write writes. */
int gate_read(const char *path, struct gate_results *results);

struct gate_rules {
    bool quality, bytes, latency; /* which rules gate */
    double quality_floor_points;  /* a loss must exceed it … */
    double quality_p;             /* … and McNemar's p lie below this */
    double bytes_tolerance_pct, latency_tolerance_pct;
};
struct gate_rules gate_rules_default(void); /* all rules; 0.5 points, p 0.01, 0.1 %, 5 % */

enum gate_verdict { GATE_OK, GATE_NOTE, GATE_IMPROVEMENT, GATE_IMPOSSIBLE, GATE_REGRESSION, GATE_VERDICTS };
struct gate_tally {
    size_t count[GATE_VERDICTS];
};
extern const char *const gate_columns[]; /* of the verdict table, for table_open */
/* One line of the table; counts it. */
void gate_line(struct table *table, struct gate_tally *tally, enum gate_verdict verdict, const char *experiment,
               const char *cell, const char *rule, double accepted, double newest, double change, const char *detail);
/* Lines for every cell and rule, counted in *tally. */
void gate_judge(const struct gate_results *accepted, const struct gate_results *newest, const struct gate_rules *rules,
                struct table *table, struct gate_tally *tally);
/* The exit code: a regression outweighs what could not be judged. */
int gate_exit_code(const struct gate_tally *tally);

#endif
