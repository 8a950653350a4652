/* See worker.h: the build worker. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "run/curve.h"
#include "run/foresee.h"
#include "run/layer_record.h"
#include "run/stage_cache.h"
#include "run/stage_clock.h"
#include "run/worker.h"

#define SCORE_BATCH 64
#define EVALUATION_BATCH 16 /* beside a model that trains memory counts; results do not depend on it */

struct builder {
    const struct build_job *job;
    int fd;
    struct record record;
    size_t stage; /* of the cell, while one is applied */
    struct model model;
    struct curve curve; /* of the stage, as are the next two */
    struct checkpoint_folder checkpoint;
    struct stage_clock clock;
    double item_s; /* that scoring an item took after the last stage; NaN: none was applied */
};

static void send_progress(struct builder *builder, double fraction, const char *text, double left_s) {
    struct wire_writer writer = {0};
    wire_put_f64(&writer, fraction);
    wire_put_text(&writer, text);
    wire_put_f64(&writer, left_s);
    wire_send(builder->fd, MESSAGE_PROGRESS, &writer);
    wire_writer_close(&writer);
}

/* ---- what a technique may ask of its host -------------------------------------------------------------- */

static int technique_progress(void *host, double fraction, const char *text) {
    struct builder *builder = host;
    const struct cell *cell = builder->job->cell;
    char line[256];
    snprintf(line, sizeof line, "%s: %s", cell->stages[builder->stage].technique->name, text);
    send_progress(builder, ((double)builder->stage + fraction) / (double)(cell->stage_count + 1), line,
                  stage_clock_left(&builder->clock, fraction, (double)clock_ns() / 1e9));
    return 0;
}

static void technique_metric(void *host, const char *name, const char *unit, double value) {
    struct builder *builder = host;
    if (!name || !*name) {
        if (builder->record.status == 0)
            builder->record.status = error_record(E_PLUGIN, __FILE__, __LINE__, "told of a metric without a name");
        return;
    }
    record_metric(&builder->record, name, unit, value, (int)builder->stage);
}

static void technique_step(void *host, const struct train_progress *progress) {
    struct builder *builder = host;
    curve_step(&builder->curve, progress);
}

static void technique_layer(void *host, const struct technique_layer *layer) {
    struct builder *builder = host;
    record_layer_told(&builder->record, (int)builder->stage, layer);
}

/* Score a model that may be in training. Always with the builtin product over f32, whatever the cell is timed with:
 * what is decided by the score must not depend on that. */
static int technique_evaluate(void *host, const struct model *model, double *value, bool *higher_is_better) {
    int status = 0;
    struct builder *builder = host;
    const struct build_job *job = builder->job;
    const struct task_kind *kind = job->task->kind;
    struct model view = {0};
    struct task_result result = {0};
    bool found = false;
    TRY(model_view(&view, model, kind->heads));
    TRY(model_prepare(&view, GEMM_BUILTIN));
    struct task_scoring scoring = {.task = job->task,
                                   .split = SPLIT_VALIDATION,
                                   .model = &view,
                                   .tokenizer = job->tokenizer,
                                   .examples = job->split[SPLIT_VALIDATION],
                                   .max_tokens = (size_t)job->experiment->tokenizer.max_tokens,
                                   .batch = EVALUATION_BATCH};
    TRY(kind->score(&scoring, &result));
    for (size_t i = 0; i < result.metric_count; i++)
        if (strcmp(result.metrics[i].name, kind->primary_metric) == 0) {
            *value = result.metrics[i].value;
            found = true;
        }
    if (!found) FAIL(E_STATE, "the task %s gave no %s", kind->name, kind->primary_metric);
    *higher_is_better = kind->higher_is_better;
    curve_score(&builder->curve, *value);
out:
    task_result_close(&result);
    model_close(&view);
    if (status < 0) error_prefix(status, "evaluation");
    return status;
}

/* ---- where a build starts ------------------------------------------------------------------------------ */

/* Open the longest cached prefix, or the model before any stage. *stages: how many stages are already in it. */
static int start_model(struct builder *builder, size_t *stages) {
    int status = 0;
    const struct build_job *job = builder->job;
    *stages = 0;
    for (size_t n = job->cell->stage_count; n > 0; n--) {
        if (!(stage_needs(&job->cell->stages[n - 1]) & NEEDS_CACHE)) continue;
        if (!stage_cache_has(job->cache_dir, job->prefix_keys[n])) continue;
        TRY(stage_cache_read(job->cache_dir, job->prefix_keys[n], n, &builder->record, &builder->model));
        *stages = n;
        goto out;
    }
    TRY(build_model_open(&builder->model, job));
out:
    return status;
}

/* ---- stages, files, scores ---------------------------------------------------------------------------- */

/* What a technique told of its stage under the name of a score is put under the technique's own: it cannot grade
 * itself.
 */
static void names_keep_apart(struct builder *builder, const char *score, int stage) {
    char name[160];
    for (size_t k = 0; stage >= 0 && k < builder->record.run.metric_count; k++) {
        struct metric_record *told = &builder->record.metrics[k];
        if (told->stage != stage || !told->name || strcmp(told->name, score) != 0) continue;
        snprintf(name, sizeof name, "%s: %s", builder->record.stages[stage].technique, score);
        told->name = record_text(&builder->record, name);
    }
}

static void record_scores(struct builder *builder, const struct task_result *result, int stage) {
    for (size_t i = 0; i < result->metric_count; i++) {
        names_keep_apart(builder, result->metrics[i].name, stage);
        record_metric(&builder->record, result->metrics[i].name, result->metrics[i].unit, result->metrics[i].value,
                      stage);
    }
}

static int open_prepared(struct model *model, const char *path, const struct cell *cell) {
    int status = 0;
    TRY(model_open(model, path, false));
    TRY(model_prepare_as(model, cell->gemm, cell->storage));
out:
    return status;
}

/* Save the model as it stands to `path`, open that file as a user would, and score it on a split, if that has items. */
static int save_and_score(struct builder *builder, const char *path, bool save, enum task_split split,
                          struct task_result *result, struct model_size *size, bool *simulated) {
    int status = 0;
    struct model artifact = {0}, baseline = {0};
    const struct build_job *job = builder->job;
    if (save) TRY(model_save(&builder->model, path, job->task->kind->heads));
    TRY(open_prepared(&artifact, path, job->cell));
    struct task_scoring scoring = {.task = job->task,
                                   .split = split,
                                   .model = &artifact,
                                   .tokenizer = job->tokenizer,
                                   .examples = job->split[split],
                                   .max_tokens = (size_t)job->experiment->tokenizer.max_tokens,
                                   .batch = SCORE_BATCH};
    if (split == SPLIT_TEST && job->baseline) {
        TRY(open_prepared(&baseline, job->baseline, &job->experiment->cells[job->cell->baseline]));
        scoring.baseline = &baseline;
    }
    if (job->task->split[split].count) TRY(job->task->kind->score(&scoring, result));
    model_size(&artifact, size);
    *simulated = false;
    for (size_t i = 0; i < artifact.linear_count; i++) *simulated |= artifact.linears[i].simulated;
out:
    model_close(&artifact);
    model_close(&baseline);
    return status;
}

/* The stages applied so far, as stored in the artifact: what was done to it, without times. */
static int describe_stages(struct builder *builder) {
    int status = 0;
    char *text = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < builder->record.run.stage_count; i++) {
        const struct stage_record *s = &builder->record.stages[i];
        json_array_append_new(list, json_pack("{s:s, s:i, s:s}", "technique", s->technique, "version", (int)s->version,
                                              "options", s->options));
    }
    text = json_dumps(list, JSON_COMPACT);
    if (!text) FAIL(E_MEMORY, "out of memory");
    TRY(model_set_metadata(&builder->model, "stages", text));
out:
    free(text);
    json_decref(list);
    return status;
}

static struct technique_context stage_context(struct builder *builder, uint32_t needs) {
    const struct build_job *job = builder->job;
    struct tokenizer_special special = tokenizer_special(job->tokenizer);
    return (struct technique_context){
        .model = &builder->model,
        .objective = job->task->kind->objective,
        .training = needs & NEEDS_TRAINING_DATA ? job->training : NULL,
        .unlabelled = needs & NEEDS_UNLABELLED_TEXT ? job->unlabelled : NULL,
        .calibration = needs & NEEDS_CALIBRATION_DATA ? job->training : NULL,
        .seed = job->cell->seed,
        .mask_id = special.mask,
        .special_ids = stage_special_ids(&special),
        .cache_dir = job->cache_dir,
        .checkpoint_dir = *builder->checkpoint.path ? builder->checkpoint.path : NULL,
        .metric = technique_metric,
        .progress = technique_progress,
        .step = technique_step,
        .evaluate = job->task->split[SPLIT_VALIDATION].count ? technique_evaluate : NULL,
        .layer = technique_layer,
        .host = builder,
    };
}

/* What was applied, what that cost and what it told, as stage `builder->stage` of the record. */
static int record_applied(struct builder *builder, const struct technique *technique, const void *options,
                          uint64_t began_ns) {
    int status = 0;
    char *json = NULL;
    struct model_size size;
    TRY(builder->record.status);
    TRY(options_json(technique->options, options, &json));
    model_size(&builder->model, &size);
    record_stage(&builder->record, &(struct stage_record){technique->name, json, technique->version,
                                                          (double)(clock_ns() - began_ns) / 1e6, false,
                                                          (int64_t)size.linear_bytes, (int64_t)size.total_bytes});
    TRY(curve_record(&builder->curve, &builder->record, (int)builder->stage, builder->job->task->kind->primary_metric));
    TRY(builder->record.status);
    TRY(describe_stages(builder));
out:
    memory_release(json);
    return status;
}

/* Run the technique itself on the model. */
static int technique_apply(struct builder *builder, const struct technique *technique, void *options, uint32_t needs,
                           bool *skipped) {
    int status = 0;
    void *state = NULL;
    bool opened = false;
    struct technique_context context = stage_context(builder, needs);
    error_clear();
    model_set_aside(&builder->model, builder->job->task->kind->heads); /* others are for stages that train them */
    if (technique->state_bytes) TRY(memory_take(&state, 1, technique->state_bytes));
    const char *missing = stage_missing(needs, &builder->model, builder->job->training, builder->job->unlabelled);
    if (missing) {
        *skipped = true;
        FAIL(E_UNSUPPORTED, "needs %s", missing);
    }
    status = technique->settle ? technique->settle(options) : 0;
    if (status == 0 && technique->probe) status = technique->probe(&context, options);
    *skipped = status == E_UNSUPPORTED;
    TRY(status);
    if (technique->open) TRY(technique->open(&context, state, options));
    opened = true;
    TRY(technique->apply(&context, state, options));
    if (technique->report) TRY(technique->report(&context, state, options));
out:
    if (status < 0 && !*error_text())
        status = error_record(status < E_INTERRUPTED ? E_PLUGIN : status, __FILE__, __LINE__,
                              "ended with code %d and no message", status);
    if (opened && technique->close) technique->close(state);
    memory_release(state);
    return status;
}

/* Apply one stage, save its model to `path` and score it. *skipped: the technique cannot run here; the reason is in
 * the error text. */
static int apply_stage(struct builder *builder, const char *path, bool *skipped) {
    int status = 0;
    const struct build_job *job = builder->job;
    const struct stage_plan *plan = &job->cell->stages[builder->stage];
    const struct technique *technique = plan->technique;
    const char *key = job->prefix_keys[builder->stage + 1];
    uint32_t needs = stage_needs(plan);
    void *options = NULL;
    uint64_t began = clock_ns();
    struct task_result scores = {0};
    struct model_size size;
    bool simulated;
    *skipped = false;
    stage_clock_start(&builder->clock);
    if (needs & NEEDS_CACHE) checkpoint_folder_open(&builder->checkpoint, job->cache_dir, key);
    TRY(curve_open(&builder->curve, *builder->checkpoint.path ? builder->checkpoint.path : NULL));
    if (technique->options_bytes) {
        TRY(memory_take(&options, 1, technique->options_bytes));
        memcpy(options, plan->options, technique->options_bytes);
    }
    TRY(technique_apply(builder, technique, options, needs, skipped));
    TRY(record_applied(builder, technique, options, began));
    uint64_t scored = clock_ns();
    TRY(save_and_score(builder, path, true, SPLIT_VALIDATION, &scores, &size, &simulated));
    builder->item_s = (double)(clock_ns() - scored) / 1e9 / (double)job->task->split[SPLIT_VALIDATION].count;
    record_scores(builder, &scores, (int)builder->stage);
    builder->record.stages[builder->stage].total_bytes = (int64_t)size.total_bytes;
    if (needs & NEEDS_CACHE)
        TRY(stage_cache_write(job->cache_dir, key, &builder->record, &builder->model,
                              job->task->kind->heads | HEAD_MASKED_LM));
out:
    if (status < 0) error_prefix(status, "%s", technique->name);
    curve_close(&builder->curve);
    /* A stage that ended is done with its checkpoints, also where it can never succeed; what a full disk or too little
     * memory stopped goes on from them. */
    checkpoint_folder_close(&builder->checkpoint, status == 0 || *skipped || status == E_NUMERIC);
    task_result_close(&scores);
    memory_release(options);
    return status;
}

/* Score the finished file on the test split and name it by its hash. */
static int finish_artifact(struct builder *builder, const char *path, bool save) {
    int status = 0;
    static const enum outcome_type outcome_types[] = {
        [ITEM_U8] = OUTCOME_U8, [ITEM_I32] = OUTCOME_I32, [ITEM_F32] = OUTCOME_F32};
    struct task_result scores = {0};
    struct model_size size;
    bool simulated;
    char hash[HASH_HEX], named[CACHE_PATH];
    struct stat info;
    TRY(save_and_score(builder, path, save, SPLIT_TEST, &scores, &size, &simulated));
    record_scores(builder, &scores, -1);
    for (size_t i = 0; i < scores.item_count; i++)
        record_outcome(&builder->record, scores.items[i].name, outcome_types[scores.items[i].type], scores.count,
                       scores.items[i].values);
    TRY(hash_file(path, hash));
    if (stat(path, &info) < 0) FAIL(E_IO, "%s: %s", path, strerror(errno));
    snprintf(named, sizeof named, "%s/%s.safetensors", builder->job->artifact_dir, hash);
    if (rename(path, named) < 0) FAIL(E_IO, "%s: cannot rename to %s: %s", path, named, strerror(errno));
    struct artifact_record artifact = {.hash = hash,
                                       .path = named,
                                       .executes = simulated ? "simulated" : "packed",
                                       .bytes = info.st_size,
                                       .linear_bytes = (int64_t)size.linear_bytes,
                                       .linear_f32_bytes = (int64_t)size.linear_f32_bytes,
                                       .bits_per_weight = size.bits_per_weight};
    record_artifact(&builder->record, &artifact);
out:
    task_result_close(&scores);
    return status;
}

int worker_build(void *context, int fd) {
    int status = 0;
    struct builder builder = {.job = context, .fd = fd, .item_s = NAN};
    const struct build_job *job = context;
    struct wire_writer writer = {0};
    size_t stages = 0;
    bool saved = false;
    char path[CACHE_PATH];
    threads_set(job->threads);
    snprintf(path, sizeof path, "%s/%s.tmp", job->artifact_dir, job->uuid);
    TRY(start_model(&builder, &stages));
    for (builder.stage = stages; builder.stage < job->cell->stage_count; builder.stage++) {
        bool skipped;
        status = apply_stage(&builder, path, &skipped);
        if (status < 0 && skipped) {
            wire_put_text(&writer, error_text());
            status = wire_send(fd, MESSAGE_SKIPPED, &writer);
            goto out;
        }
        TRY(status);
        saved = true;
    }
    send_progress(&builder, (double)job->cell->stage_count / (double)(job->cell->stage_count + 1), "scoring",
                  builder.item_s * (double)job->task->split[SPLIT_TEST].count);
    if (!saved) TRY(describe_stages(&builder));
    TRY(finish_artifact(&builder, path, !saved));
    TRY(record_finish(&builder.record));
    record_encode(&builder.record, &writer);
    TRY(wire_send(fd, MESSAGE_RESULT, &writer));
out:
    unlink(path);
    wire_writer_close(&writer);
    record_close(&builder.record);
    model_close(&builder.model);
    return status;
}
