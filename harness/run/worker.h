/* What runs inside worker processes: building an artifact (stages, scores) and timing one.
 */
#ifndef WORKER_H
#define WORKER_H

#include "config/experiment.h"
#include "run/process.h"
#include "run/record.h"
#include "task/task.h"

/* Everything a build needs, made by the parent before it forks; the child sees it copy-on-write. */
struct build_job {
    const struct experiment *experiment;
    const struct cell *cell;
    const struct task *task;
    const struct tokenizer *tokenizer;
    const char *tokenizer_json;
    const struct examples *split[SPLITS];         /* to score: validation and test */
    const struct examples *training, *unlabelled; /* NULL: no stage that will run needs them, or there are none */
    const char (*prefix_keys)[HASH_HEX];          /* [stage_count + 1]: key of the first n stages */
    const char *cache_dir, *artifact_dir, *uuid;
    const char *baseline; /* the baseline's artifact, to compare predictions with; NULL: none */
    int threads;
};

/* Body for process_fork: context is a struct build_job. Sends MESSAGE_PROGRESS (fraction, text), then
 * MESSAGE_RESULT (a record) or MESSAGE_SKIPPED (reason); a failure is sent by process_fork.
 *
 * The model is taken from the longest prefix of stages that is in the cache, or created; each further stage is
 * applied, saved, and scored on the validation split as the file that was saved. Curves that stages tell of, and the
 * scores that they ask for on the way, go into the record. The last file is the artifact:
 * renamed to the hash of its bytes, opened anew, and scored on the test split. */
int worker_build(void *context, int fd);

/* The model that stages begin with, editable, with the heads that the job's task needs and a head for hidden words
 * where there is text for it. E_UNSUPPORTED when its family has no such head; those of model_open, model_create. */
int build_model_open(struct model *model, const struct build_job *job);

/* The sizes and formats that builds start from, before there is any data: build_start_shape makes a model_shape of them
 * for each who changes it. vocabulary: of a new model. Errors as build_model_open. */
struct build_start {
    struct model_config config;
    struct model pretrained; /* where the experiment has one */
};
int build_start_open(struct build_start *start, const struct experiment *experiment, const struct task *task,
                     size_t vocabulary);
int build_start_shape(const struct build_start *start, struct model *shape);
void build_start_close(struct build_start *start); /* accepts a half-open one */

/* One timed window's input: a batch and the classes that scoring predicted for it. */
struct timing_input {
    size_t batch;
    const int32_t *ids;
    const uint32_t *offset;  /* [batch + 1], from 0 */
    const int32_t *expected; /* [batch]; -1: scoring named no class */
};

enum { TIMING_INPUTS_MAX = 1000000 };

struct timing_job {
    const char *artifact;
    struct process_limits limits;
    int threads;
    uint32_t cpumask;
    enum gemm_backend gemm;
    enum weight_storage storage;
    size_t warmup, samples;
    size_t new_tokens; /* generated after each input, each in a batch of one; 0: forward passes */
    enum cache_type cache;
    const char *const *meters;
    size_t meter_count;
    const struct timing_input *inputs; /* batch sizes one after another, `samples` inputs each */
    size_t input_count;
};
void timing_job_encode(const struct timing_job *job, struct wire_writer *writer);

/* `runexp worker-time`: the whole life of a timing worker; returns its exit code. main_ns: when main began. */
int worker_time(uint64_t main_ns);

#endif
