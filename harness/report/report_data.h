/* What one page shows: the newest session of an experiment, read from the database in one go.
 *
 * Absent numbers are NaN, absent texts are NULL or "". The texts are owned by the report and freed at once.
 */
#ifndef REPORT_DATA_H
#define REPORT_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

/* A row of `comparison`. */
struct report_estimate {
    double estimate, lo, hi, p_value, n; /* n: NaN when the row is absent */
    const char *method;
};

/* One cell at one batch size. */
struct report_timing {
    struct report_estimate latency_ms, ratio, tokens_per_s;
};

struct report_cell {
    int64_t id, run_id; /* run_id: its build run, 0 when there is none */
    int number;         /* 1, 2, …: the name of the cell in figures and tables */
    int series;         /* cells of the same pipeline share colour and marker; 0 is the baseline */
    const char *label, *pipeline, *options, *key, *baseline_key, *gemm, *seed;
    int64_t threads;
    bool is_baseline;
    const char *status; /* of the build run; "not run" when there is none */
    const char *reason;
    bool ok;
    double failed_rounds; /* timing runs that did not end ok */
    double quality, peak_rss_bytes;
    struct report_estimate difference; /* of quality, paired with the baseline */
    bool has_artifact, simulated;
    double file_bytes, linear_bytes, linear_f32_bytes, bits_per_weight;
    const char *artifact_hash;
    struct report_timing *timing;         /* [report.batch_count] */
    struct report_timing prefill, decode; /* of generation, up to the first token and after it */
};

/* One stage of an ok build run, as applied. Quality is that of the validation split, in the metric's own unit. */
struct report_stage {
    const struct report_cell *cell;
    int64_t id;
    int ordinal;
    bool shared; /* the same as the baseline's stage at this place, and so are all before it */
    bool cached;
    const char *technique, *options;
    double wall_ms, linear_bytes, total_bytes, quality;
    double linear_bytes_before, quality_before; /* after the stage before; NaN for the first */
};

struct report_session {
    int64_t id;
    const char *started_at, *ended_at, *command, *cpu_flags_used, *warnings, *timing_note, *cpumask, *order_seed;
    double load_average, rounds, samples, warmup;
    bool timing_valid;
};

struct report {
    sqlite3 *db; /* borrowed */
    int64_t experiment_id, host_id, build_id;
    const char *name, *hash, *path, *description, *config, *task, *data_hash, *model, *metric, *metric_unit;
    bool higher_is_better;
    struct report_session session;
    const char *cpu, *cpu_flags, *caches, *kernel, *governor, *virtual;
    double cores, memory_bytes;
    const char *version, *commit, *mode, *compiler, *flags, *blas, *onednn;
    bool dirty;
    double test_items;
    int64_t *batch; /* [batch_count], ascending */
    size_t batch_count;
    bool has_phases;           /* prefill and decode were timed apart */
    struct report_cell *cells; /* [cell_count] in the order of the plan */
    size_t cell_count;
    struct report_stage *stages; /* [stage_count] by cell, then ordinal */
    size_t stage_count;
    size_t ok_count, skipped_count, failed_count, not_run_count, simulated_count;
    const struct report_cell *baseline; /* the first one; NULL when it has no result */
    size_t baseline_count;
    double quality_scale; /* 100 for a fraction, shown as percent */
    char **strings;       /* owned texts */
    size_t string_count, string_capacity;
};

/* E_NOT_FOUND where the experiment has no session with results; E_FORMAT, E_IO with SQLite's message. */
int report_load(struct report *report, sqlite3 *db, const char *experiment);
void report_close(struct report *report); /* accepts a zeroed or half-loaded report */

/* The cell a cell is compared with (its own baseline_key), or NULL. */
const struct report_cell *report_baseline_of(const struct report *report, const struct report_cell *cell);

/* Rows of a query whose only parameters are ?1 = session id, ?2 = experiment id, ?3 = a number of the caller. */
struct rows {
    sqlite3_stmt *statement;
};
int rows_open(struct rows *rows, const struct report *report, const char *sql, int64_t third);
int rows_next(struct rows *rows, bool *more);
void rows_close(struct rows *rows);
double rows_real(const struct rows *rows, int column);      /* NaN for NULL */
const char *rows_view(const struct rows *rows, int column); /* "" for NULL; until the next rows_next */
int rows_text(struct rows *rows, int column, struct report *report, const char **text); /* a copy; NULL for NULL */

#endif
