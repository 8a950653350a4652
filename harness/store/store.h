/* The results database: open, migrate, write one transaction per run, read back for resume and reports.
 *
 * SQLite with STRICT tables, foreign keys, WAL, busy timeout, and `user_version` migrations. The schema is
 * schema.sql beside this file (embedded at build time). All strings are copied by SQLite; records are plain
 * structs that the caller owns.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

#define STORE_VERSION 4

struct store {
    sqlite3 *db;
    char *path;
    bool read_only;
};

enum store_mode { STORE_READ, STORE_WRITE }; /* STORE_WRITE creates file and schema where absent */
/* STORE_WRITE makes the file's folder too when only that is missing; STORE_READ also reads a database that lies in a
 * folder nobody can write to. One line per trouble: "results/runexp.db: read-only; …", "… has schema version 7, this
 * runexp knows 1; …", "… is locked by another runexp; …", "… is not a database". E_IO, E_STATE, E_FORMAT. */
int store_open(struct store *store, const char *path, enum store_mode mode);
void store_close(struct store *store); /* accepts a zeroed store */

struct host_record {
    const char *cpu, *cpu_flags, *caches, *kernel, *governor, *virtual;
    int cores;
    int64_t memory_bytes;
};
struct build_record {
    const char *version, *commit, *mode, *compiler, *flags, *blas, *onednn;
    bool dirty;
};
struct experiment_record {
    const char *name, *hash, *path, *description, *text, *task, *data_hash, *model, *primary_metric, *classes;
    const char *primary_unit, *estimator; /* NULL: "", "accuracy" */
    bool higher_is_better;
};
struct session_record {
    int64_t experiment_id, host_id, build_id;
    const char *command, *cpu_flags_used, *warnings, *timing_note;
    uint32_t cpumask;
    double load_average;
    uint64_t order_seed;
    int64_t rounds, samples, warmup;
    bool timing_valid;
};
struct cell_record {
    int64_t experiment_id;
    const char *key, *label, *pipeline, *options, *gemm, *baseline_key, *storage; /* storage NULL: f32 */
    int64_t ordinal, threads;
    uint64_t seed;
    bool is_baseline;
};

struct metric_record {
    const char *name, *unit;
    double value;
    int stage;
}; /* stage: index, or -1; NaN is stored as NULL */
struct stage_record {
    const char *technique, *options;
    uint32_t version;
    double wall_ms;
    bool cached;
    int64_t linear_bytes, total_bytes;
};
struct sample_record {
    int64_t batch, ordinal, tokens;
    bool warmup, outlier;
    double latency_ns;
    const char *phase; /* NULL: the whole, see schema.sql */
};
struct counter_record {
    const char *meter, *name, *unit, *reason;
    int64_t batch;
    double value, enabled_ns, running_ns;
}; /* NaN: NULL */
struct artifact_record {
    const char *hash, *path, *executes;
    int64_t bytes, linear_bytes, linear_f32_bytes;
    double bits_per_weight;
};

/* A step of a stage that trains; numbers that are not finite are stored as NULL. */
struct curve_record {
    int stage; /* index */
    int64_t step;
    double loss, rate, gradient_norm, seconds;
};
/* A score on the validation split in the middle of a stage. */
struct evaluation_record {
    int stage;
    int64_t step;
    const char *metric;
    double value;
};

/* A layer as a stage that quantizes found it; numbers that are not finite are stored as NULL. */
struct layer_record {
    int stage; /* index */
    const char *layer, *format;
    double low, high, seen_low, seen_high;
    const char *histogram; /* counts of equal bins as a JSON list; NULL: none */
    double histogram_low, histogram_width;
    const char *error_name; /* NULL: none */
    double error, score_lost;
    int64_t bytes_f32, bytes_packed;
};

enum outcome_type { OUTCOME_U8, OUTCOME_I32, OUTCOME_F32 };
static inline size_t outcome_type_bytes(enum outcome_type type) { return type == OUTCOME_U8 ? 1 : 4; }
/* One value per item of the test split. */
struct outcome_record {
    const char *name; /* "correct", "nll", … */
    enum outcome_type type;
    size_t items;
    const void *values;
};

struct run_record {
    const char *uuid, *kind, *status, *reason, *log, *started_at;
    int64_t cell_id, session_id, round, position;
    int signal, exit_code;                  /* signal 0: none */
    double wall_ms, overhead_ms;            /* NaN: NULL */
    int64_t peak_rss_bytes;                 /* 0: NULL */
    const struct artifact_record *artifact; /* NULL: none */
    const struct stage_record *stages;
    size_t stage_count;
    const struct metric_record *metrics;
    size_t metric_count;
    const struct sample_record *samples;
    size_t sample_count;
    const struct counter_record *counters;
    size_t counter_count;
    const struct outcome_record *outcomes;
    size_t outcome_count;
    const struct curve_record *curve;
    size_t curve_count;
    const struct evaluation_record *evaluations;
    size_t evaluation_count;
    const struct layer_record *layers; /* of a stage: in order */
    size_t layer_count;
};

/* Find or insert; *id is the row. E_IO with SQLite's message. */
int store_host(struct store *store, const struct host_record *record, int64_t *id);
int store_build(struct store *store, const struct build_record *record, int64_t *id);
int store_experiment(struct store *store, const struct experiment_record *record, int64_t *id);
int store_cell(struct store *store, const struct cell_record *record, int64_t *id);

/* A session of this experiment, host, build and cpu mask that was interrupted (ended_at NULL), or 0. One that a later
 * session of an experiment of that name has overtaken is left as it is: reports show the newest, and what is continued
 * must be what they show. */
int store_session_unfinished(struct store *store, int64_t experiment_id, int64_t host_id, int64_t build_id,
                             uint32_t cpumask, int64_t *id);
/* The newest session of this experiment, host, build and cpu mask, where it ended with nothing failed and the same
 * command was interrupted later, in another of its experiments, which is still the newest of its name: that command is
 * gone on with, and this one of its experiments is done. Else 0. */
int store_session_done(struct store *store, int64_t experiment_id, int64_t host_id, int64_t build_id, uint32_t cpumask,
                       const char *command, int64_t *id);
/* How many cells were built in a session, whatever came of it. */
int store_session_built(struct store *store, int64_t session_id, size_t *count);
int store_session_begin(struct store *store, const struct session_record *record, int64_t *id);
int store_session_end(struct store *store, int64_t session_id);
int store_session_order_seed(struct store *store, int64_t session_id, uint64_t *order_seed);

/* Commit one run with everything that belongs to it, in one transaction. An older run of the same
 * (cell, session, kind, round) whose status is not ok is replaced. */
int store_run(struct store *store, const struct run_record *record);
/* Remove all runs of a cell in a session, its build and its rounds: what they are about is gone. */
int store_runs_forget(struct store *store, int64_t cell_id, int64_t session_id);
/* Is there an ok (or, with any_status, any) run? For resume. */
int store_run_exists(struct store *store, int64_t cell_id, int64_t session_id, const char *kind, int64_t round,
                     bool any_status, bool *exists);
/* The newest ok build run of the cell key with this data hash, of any session, whose artifact file still exists with
 * its stored size, where it was or in artifacts/ beside the database; 0 when none. To serve stages and scores from
 * cache, store_run_copy repeats that run's rows under a new session with stage.cached = 1. */
int store_build_cached(struct store *store, const char *cell_key, int64_t *run_id, char *artifact_path, size_t size,
                       char artifact_hash[65]);
int store_run_copy(struct store *store, int64_t run_id, int64_t cell_id, int64_t session_id, const char *uuid);

/* The status of a run ("ok", "failed", …), or "" when there is none. */
int store_run_status(struct store *store, int64_t cell_id, int64_t session_id, const char *kind, int64_t round,
                     char status_text[16]);
/* The classes that the session's build run of a cell predicted for the test split; release with memory_release.
 * E_NOT_FOUND. */
int store_predicted(struct store *store, int64_t cell_id, int64_t session_id, int32_t **predicted, size_t *count);
/* Mean wall time in seconds of earlier ok runs of a kind: of this cell key, or with NULL of any cell; NaN: none. */
int store_run_seconds(struct store *store, const char *cell_key, const char *kind, double *seconds);

int store_yardstick(struct store *store, const char *task, const char *data_hash, const char *name,
                    double accuracy_frac, const uint8_t *correct, size_t items);
int store_yardsticks_known(struct store *store, const char *task, const char *data_hash, size_t *count);

/* Recompute the comparison rows of a session from its stored samples and outcomes (see harness/measure/statistics.h).
 */
int store_compare(struct store *store, int64_t session_id, double confidence);

#endif
