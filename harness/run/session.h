/* The state of one experiment while it runs; private to harness/run. */
#ifndef SESSION_H
#define SESSION_H

#include "run/progress.h"
#include "run/run.h"
#include "run/worker.h"

enum cell_state { CELL_PENDING, CELL_OK, CELL_FAILED, CELL_SKIPPED };

struct session_cell {
    int64_t id;
    char key[HASH_HEX];
    char (*prefix_keys)[HASH_HEX]; /* [stage_count + 1] */
    enum cell_state state;
    char artifact[4096];
};

struct session {
    struct store *store;
    struct experiment *experiment;
    const struct run_settings *settings;
    struct run_summary *summary;
    struct task task;
    bool task_open;
    char data_key[HASH_HEX]; /* data and pretrained model, as keys know them (keys.h) */
    struct tokenizer *tokenizer;
    char *tokenizer_json;
    struct task_examples examples[SPLITS]; /* to score: validation and test */
    bool examples_open[SPLITS];
    struct task_examples training, unlabelled; /* what stages train on */
    bool training_open, unlabelled_open;
    int cpus; /* threads that builds may use together */
    char *cache_dir, *artifact_dir;
    int cache_lock, artifact_lock; /* on these folders, shared with runs into other databases beside ours; -1: none */
    struct session_cell *cells;    /* [experiment->cell_count] */
    int64_t id, experiment_id;
    bool done; /* it ended before the command was interrupted: nothing is left to do, and the cells have their states */
    uint64_t order_seed;
    struct progress progress;
};

/* Folders, task, keys, rows of experiment, host, build, session and cells; continues an unfinished session of
 * these cells, and finds one that is done. */
int session_open(struct session *session, struct store *store, struct experiment *experiment,
                 const struct run_settings *settings, struct run_summary *summary);
void session_close(struct session *session);
int session_tokenizer(struct session *session);                       /* train it or read it from the cache; once */
int session_examples(struct session *session, enum task_split split); /* tokenize a split to score; once */
/* Tokenize what stages with these needs (enum technique_needs bits) train on, as far as the task has it; once each. */
int session_training(struct session *session, uint32_t needs);

int session_build_cells(struct session *session); /* build_phase.c */
int session_yardsticks(struct session *session);  /* build_phase.c */
int session_time_cells(struct session *session);  /* time_phase.c */

/* Helpers for run records. */
void run_uuid(char text[33]);
void run_timestamp(char text[32]); /* UTC, ISO 8601 with milliseconds */

/* Fill status, reason, signal and exit code of a run from how its worker ended. error_code 0: it sent none. */
void run_ending(struct run_record *run, const struct process *process, const struct process_limits *limits,
                int error_code, const char *error, char *reason, size_t size);

#endif
