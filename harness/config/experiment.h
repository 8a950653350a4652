/* An experiment, read from its file, checked and expanded into cells. Everything a run needs is in here, frozen.
 *
 *   experiment: quickstart                 # required; letters, digits, - and _
 *   description: one line
 *   model: {family: bert, layers: 2, width: 256, heads: 4, feed_forward: 1024, positions: 64}
 *                                          # or a pretrained one: model: {path: models/NAME}
 *   tokenizer: {type: bpe, vocabulary: 8192, lower_case: true}
 *   task: {wordnet: {data: /usr/share/wordnet}}
 *   prepare:                               # stages every cell begins with; the baseline is what they give
 *     - finetune: {epochs: 3}
 *   matrix:                                # product of the axes; the cell with the empty pipeline is always there
 *     pipeline:
 *       - []
 *       - [rtn: {bits: 8}]
 *       - [rtn: {bits: 4, group: [32, 64, 128]}]   # a list where an option takes a scalar becomes an axis
 *       - [magnitude: {sparsity: [0.3, 0.5]}, rtn: {bits: 8}]
 *     threads: [2]                         # also: seed, gemm, storage
 *     zip: {seed: [1, 2], threads: [1, 2]} # axes that advance together
 *     include: [{pipeline: [null: {}], threads: 1}]
 *     exclude: [{threads: 1, gemm: onednn}]
 *   measure: {rounds: 10, samples: 20, warmup: 5, batch: [1, 32], meters: [time, rusage, papi]}
 *   limits: {wall_s: 900, memory_mb: 8192}
 *   plugins: [path.so]
 *
 * Ranges: "1..8" and "64..1024*2" (step or factor after the end: "1..9+2"). Anchors, aliases and merge keys
 * work; keys that begin with a dot are ignored (a place for anchors). Unknown keys, duplicate keys, wrong
 * types, "${...}" substitution, YAML tags: errors with file:line:column. docs/CONFIG.md is the reference.
 */
#ifndef EXPERIMENT_H
#define EXPERIMENT_H

#include <stdbool.h>

#include "base/hash.h"
#include "base/option.h"
#include "config/position.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "task/task.h"
#include "technique.h"

struct stage_plan {
    const struct technique *technique;
    void *options; /* technique->options_bytes, resolved; NULL when it has none */
    struct position at;
};

/* What a stage needs with its options: bits of enum technique_needs. */
uint32_t stage_needs(const struct stage_plan *stage);

struct cell {
    char key[HASH_HEX];        /* of all that can change its result; see plan_key in plan.c */
    const char *label;         /* unique in the experiment, short: "rtn bits=4 group=64"; "baseline" */
    const char *pipeline;      /* "rtn", "magnitude+rtn"; "baseline" for the empty one */
    struct stage_plan *stages; /* prepare stages first; cells of the same pipeline share the array */
    size_t stage_count, prepare_count;
    int threads; /* while timing */
    uint64_t seed;
    enum gemm_backend gemm;
    enum weight_storage storage; /* of f32 matrices that no stage packs, while running */
    bool is_baseline;
    size_t baseline;         /* index of the cell it is compared with: same threads, seed and gemm, empty pipeline */
    const char *skip_reason; /* NULL: to be run */
};

struct model_plan {
    const char *path; /* a Hugging Face directory, a GGUF or llama2.c file, our safetensors; NULL: from scratch */
    struct model_config config; /* with a path: zero until the model is open */
    double deviation;
};
struct tokenizer_plan {
    const char *path; /* "" : the model's own, or trained where the model is from scratch */
    const char *type;
    int64_t vocabulary;
    bool lower_case;
    int64_t max_tokens;
};

struct measure_plan {
    int64_t rounds, samples, warmup;
    int64_t prompt_tokens, new_tokens; /* of each timed sequence; 0: as the items are; no generation */
    enum cache_type cache;             /* of generated texts */
    size_t *batch;                     /* timed batch sizes */
    size_t batch_count;
    const char **meters; /* names, checked against the registry */
    size_t meter_count;
    double confidence; /* 0.95 */
};

struct limits_plan {
    double wall_s;
    int64_t memory_mb;
};

struct experiment {
    const char *name, *description, *path;
    struct position name_at; /* of the name, in the file at `path`; line 0: from --set */
    const char *text;        /* the file as read plus the --set overrides as comments, stored with the results */
    const char *notes;       /* lines, each with its newline, on what was done silently (duplicates dropped); or "" */
    char hash[HASH_HEX];     /* of the resolved experiment: resume continues a session only of the same hash */
    struct model_plan model;
    struct tokenizer_plan tokenizer;
    const struct task_kind *task;
    void *task_options;
    struct measure_plan measure;
    struct limits_plan limits;
    struct cell *cells;
    size_t cell_count;
    struct option_store store;
};

/* Read and expand files. overrides: "path.to.key=value" texts from --set; a path of one word that is no top-level
 * key names the setting of that name in the task, model, tokenizer, measure, limits or matrix ("data=DIR").
 * Plug-ins that the file names are loaded first. Errors carry file:line:column (E_ARGUMENT; E_IO when the file
 * cannot be read); nothing ran. experiment_read expects a file with one document; experiments_read gives one experiment
 * per document ("---"), and an override concerns the documents that know its path. Two with the same experiment name:
 * an error naming both files. On an error nothing needs closing. */
int experiment_read(struct experiment *experiment, const char *path, const char *const *overrides,
                    size_t override_count);
int experiments_read(struct experiment **experiments, size_t *count, const char *const *paths, size_t path_count,
                     const char *const *overrides, size_t override_count);
void experiment_close(struct experiment *experiment); /* accepts a zeroed experiment */
void experiments_close(struct experiment *experiments, size_t count);

/* The built-in experiment tables, for `schema` and `--help`. axis_options: what beside pipelines a matrix varies. */
extern const struct option model_options[], tokenizer_options[], measure_options[], limits_options[], axis_options[];

/* The JSON Schema of experiment files, from the option tables; release with memory_release. */
int schema_print(char **json);

/* Registry of techniques: built in, then loaded plug-ins. NULL-terminated by count. */
const struct technique *technique_find(const char *name);
const struct technique *const *technique_list(size_t *count);
/* Load technique_<name>.so: E_PLUGIN "x.so: technique 'foo' has ABI 7, this runexp needs 3". Loading the same
 * file twice is one load. */
int technique_load(const char *path);
/* Does a technique keep its contract (ABI, name, required hooks, option table)? E_PLUGIN says what is wrong. */
int technique_check(const struct technique *technique, const char *name);

#endif
