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
#include "run/worker.h"

#define SCORE_BATCH 64
#define PATH_BYTES 4096

struct builder {
    const struct build_job *job;
    int fd;
    struct record record;
    size_t stage; /* of the cell, while one is applied */
    struct model model;
    char checkpoint[PATH_BYTES]; /* path scratch */
};

static void send_progress(struct builder *builder, double fraction, const char *text) {
    struct wire_writer writer = {0};
    wire_put_f64(&writer, fraction);
    wire_put_text(&writer, text);
    wire_send(builder->fd, MESSAGE_PROGRESS, &writer);
    wire_writer_close(&writer);
}

static int technique_progress(void *host, double fraction, const char *text) {
    struct builder *builder = host;
    send_progress(builder, ((double)builder->stage + fraction) / (double)(builder->job->cell->stage_count + 1), text);
    return 0;
}

static void technique_metric(void *host, const char *name, const char *unit, double value) {
    struct builder *builder = host;
    record_metric(&builder->record, name, unit, value, (int)builder->stage);
}

static void prefix_path(const char *cache_dir, const char *key, const char *ending, char path[PATH_BYTES]) {
    snprintf(path, PATH_BYTES, "%s/%s.%s", cache_dir, key, ending);
}

bool worker_prefix_cached(const char *cache_dir, const char *prefix_key) {
    char path[PATH_BYTES];
    prefix_path(cache_dir, prefix_key, "safetensors", path);
    return access(path, R_OK) == 0;
}

/* ---- the cache of models after expensive stages ------------------------------------------------------ */

/* Beside each cached model lies a JSON file with the stages' records, written before the model so that a
 * model that exists has one. */
static int cache_write_stages(struct builder *builder, const char *path) {
    int status = 0;
    char *temporary = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < builder->record.run.stage_count; i++) {
        const struct stage_record *s = &builder->record.stages[i];
        json_t *metrics = json_array();
        for (size_t k = 0; k < builder->record.run.metric_count; k++) {
            const struct metric_record *m = &builder->record.metrics[k];
            if (m->stage != (int)i || !isfinite(m->value)) continue;
            json_array_append_new(metrics,
                                  json_pack("{s:s, s:s, s:f}", "name", m->name, "unit", m->unit, "value", m->value));
        }
        json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:f, s:I, s:I, s:o}", "technique", s->technique,
                                              "version", (int)s->version, "options", s->options, "wall_ms", s->wall_ms,
                                              "linear_bytes", (json_int_t)s->linear_bytes, "total_bytes",
                                              (json_int_t)s->total_bytes, "metrics", metrics));
    }
    TRY(builder->record.status);
    char name[PATH_BYTES + 16];
    snprintf(name, sizeof name, "%s.tmp", path);
    TRY(memory_string(&temporary, name));
    if (json_dump_file(list, temporary, JSON_INDENT(1)) < 0)
        FAIL(E_IO, "%s: cannot write: %s", temporary, strerror(errno));
    if (rename(temporary, path) < 0) FAIL(E_IO, "%s: cannot rename: %s", temporary, strerror(errno));
out:
    memory_release(temporary);
    json_decref(list);
    return status;
}

static int cache_read_stages(struct builder *builder, const char *path) {
    int status = 0;
    json_error_t error;
    json_t *list = json_load_file(path, 0, &error), *item;
    size_t i;
    if (!json_is_array(list)) FAIL(E_FORMAT, "%s: not a list of stages; remove it and run again", path);
    json_array_foreach(list, i, item) {
        const char *technique, *options;
        int version;
        double wall_ms;
        json_int_t linear_bytes, total_bytes;
        json_t *metrics, *metric;
        size_t k;
        if (json_unpack(item, "{s:s, s:i, s:s, s:F, s:I, s:I, s:o}", "technique", &technique, "version", &version,
                        "options", &options, "wall_ms", &wall_ms, "linear_bytes", &linear_bytes, "total_bytes",
                        &total_bytes, "metrics", &metrics) < 0)
            FAIL(E_FORMAT, "%s: stage %zu is malformed; remove the file and run again", path, i);
        struct stage_record s = {technique, options, (uint32_t)version, wall_ms, true, linear_bytes, total_bytes};
        record_stage(&builder->record, &s);
        json_array_foreach(metrics, k, metric) {
            const char *name, *unit;
            double value;
            if (json_unpack(metric, "{s:s, s:s, s:F}", "name", &name, "unit", &unit, "value", &value) == 0)
                record_metric(&builder->record, name, unit, value, (int)i);
        }
    }
    TRY(builder->record.status);
out:
    json_decref(list);
    return status;
}

static int cache_store(struct builder *builder, size_t stages) {
    int status = 0;
    const char *key = builder->job->prefix_keys[stages];
    prefix_path(builder->job->cache_dir, key, "json", builder->checkpoint);
    TRY(cache_write_stages(builder, builder->checkpoint));
    prefix_path(builder->job->cache_dir, key, "safetensors", builder->checkpoint);
    TRY(model_save(&builder->model, builder->checkpoint, builder->job->task->kind->heads | HEAD_MASKED_LM));
out:
    return status;
}

/* A new model of the pretrained one's shape with a classification head; what both have is copied, the head is random.
 */
static int add_classifier(struct model *model, const struct model *pretrained, size_t classes, uint64_t seed) {
    int status = 0;
    struct model_config config = pretrained->config;
    config.classes = classes;
    config.model_heads = HEAD_CLASSIFICATION;
    TRY(model_create(model, &config, seed, 0.02));
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *own = &model->parameters[i], *other = model_parameter(pretrained, own->name);
        if (other && other->rows == own->rows && other->columns == own->columns)
            memcpy(own->value, other->value, own->rows * own->columns * sizeof *own->value);
    }
out:
    return status;
}

/* The pretrained model of the experiment, with the head that the task needs. */
static int open_pretrained(struct builder *builder) {
    int status = 0;
    const struct build_job *job = builder->job;
    const char *path = job->experiment->model.path;
    struct model pretrained = {0};
    unsigned heads = job->task->kind->heads;
    TRY(model_open(&pretrained, path, true));
    if (heads == HEAD_CLASSIFICATION && !(pretrained.config.model_heads & heads)) {
        TRY(add_classifier(&builder->model, &pretrained, job->task->classes, job->cell->seed));
        goto out;
    }
    if ((pretrained.config.model_heads & heads) != heads)
        FAIL(E_UNSUPPORTED, "%s: a %s model lacks the head that the task %s needs", path, pretrained.config.family,
             job->task->kind->name);
    builder->model = pretrained;
    pretrained = (struct model){0};
out:
    model_close(&pretrained);
    return status;
}

/* Open the longest cached prefix, or create the model. *stages: how many stages are already in it. */
static int start_model(struct builder *builder, size_t *stages) {
    int status = 0;
    const struct build_job *job = builder->job;
    const struct cell *cell = job->cell;
    for (size_t n = cell->stage_count; n > 0; n--) {
        if (!(cell->stages[n - 1].technique->needs & NEEDS_CACHE)) continue;
        if (!worker_prefix_cached(job->cache_dir, job->prefix_keys[n])) continue;
        prefix_path(job->cache_dir, job->prefix_keys[n], "json", builder->checkpoint);
        TRY(cache_read_stages(builder, builder->checkpoint));
        if (builder->record.run.stage_count != n)
            FAIL(E_FORMAT, "%s: has %zu stages, expected %zu; remove it and run again", builder->checkpoint,
                 builder->record.run.stage_count, n);
        prefix_path(job->cache_dir, job->prefix_keys[n], "safetensors", builder->checkpoint);
        TRY(model_open(&builder->model, builder->checkpoint, true));
        *stages = n;
        goto out;
    }
    if (job->experiment->model.path) {
        TRY(open_pretrained(builder));
    } else {
        struct model_config config = job->experiment->model.config;
        config.vocabulary = tokenizer_vocabulary(job->tokenizer);
        config.classes = job->task->classes;
        TRY(model_create(&builder->model, &config, cell->seed, job->experiment->model.deviation));
    }
    if (job->tokenizer_json) TRY(model_set_metadata(&builder->model, "tokenizer", job->tokenizer_json));
    *stages = 0;
out:
    return status;
}

/* ---- stages, files, scores ---------------------------------------------------------------------------- */

static void record_scores(struct builder *builder, const struct task_result *result, int stage) {
    for (size_t i = 0; i < result->metric_count; i++)
        record_metric(&builder->record, result->metrics[i].name, result->metrics[i].unit, result->metrics[i].value,
                      stage);
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

static const char *needs_missing(const struct builder *builder, uint32_t needs) {
    const struct build_job *job = builder->job;
    if ((needs & NEEDS_TRAINING_DATA) && !job->split[SPLIT_TRAIN])
        return "training data, which this task does not have";
    if ((needs & NEEDS_UNLABELLED_TEXT) && !job->split[SPLIT_UNLABELLED])
        return "unlabelled text, which this task does not have";
    if (needs & NEEDS_GRADIENTS)
        for (size_t i = 0; i < builder->model.linear_count; i++)
            if (!builder->model.linears[i].value)
                return "an f32 model to train; an earlier stage has packed it: move this stage before it";
    return NULL;
}

/* Apply one stage. *skipped: the technique cannot run here; the reason is in the error text. */
static int apply_stage(struct builder *builder, const char *path, bool *skipped) {
    int status = 0;
    const struct build_job *job = builder->job;
    const struct stage_plan *plan = &job->cell->stages[builder->stage];
    const struct technique *technique = plan->technique;
    void *options = NULL, *state = NULL;
    char *json = NULL;
    bool opened = false;
    uint64_t began = clock_ns();
    struct tokenizer_special special = tokenizer_special(job->tokenizer);
    struct technique_context context = {
        .model = &builder->model,
        .training = job->split[SPLIT_TRAIN],
        .validation = job->split[SPLIT_VALIDATION],
        .unlabelled = job->split[SPLIT_UNLABELLED],
        .calibration = job->split[SPLIT_TRAIN],
        .seed = job->cell->seed,
        .mask_id = special.mask,
        .special_ids = 5,
        .metric = technique_metric,
        .progress = technique_progress,
        .host = builder,
    };
    struct task_result scores = {0};
    *skipped = false;
    if (technique->options_bytes) {
        TRY(memory_take(&options, 1, technique->options_bytes));
        memcpy(options, plan->options, technique->options_bytes);
    }
    if (technique->state_bytes) TRY(memory_take(&state, 1, technique->state_bytes));
    const char *missing = needs_missing(builder, technique->needs);
    if (missing) {
        *skipped = true;
        FAIL(E_UNSUPPORTED, "%s needs %s", technique->name, missing);
    }
    if (technique->probe) {
        status = technique->probe(&context, options);
        *skipped = status == E_UNSUPPORTED;
        TRY(status);
    }
    if (technique->open) TRY(technique->open(&context, state, options));
    opened = true;
    TRY(technique->apply(&context, state, options));
    if (technique->report) TRY(technique->report(&context, state, options));
    if (builder->record.status < 0) TRY(builder->record.status);
    TRY(options_json(technique->options, options, &json));

    struct model_size size;
    model_size(&builder->model, &size);
    struct stage_record stage = {technique->name,
                                 json,
                                 technique->version,
                                 (double)(clock_ns() - began) / 1e6,
                                 false,
                                 (int64_t)size.linear_bytes,
                                 (int64_t)size.total_bytes};
    record_stage(&builder->record, &stage);
    TRY(builder->record.status);
    TRY(describe_stages(builder));
    bool simulated;
    TRY(save_and_score(builder, path, true, SPLIT_VALIDATION, &scores, &size, &simulated));
    record_scores(builder, &scores, (int)builder->stage);
    builder->record.stages[builder->stage].total_bytes = (int64_t)size.total_bytes;
    if (technique->needs & NEEDS_CACHE) TRY(cache_store(builder, builder->stage + 1));
out:
    if (status < 0) error_prefix(status, "%s", technique->name);
    if (opened && technique->close) technique->close(state);
    task_result_close(&scores);
    memory_release(json);
    memory_release(options);
    memory_release(state);
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
    char hash[HASH_HEX], named[PATH_BYTES];
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
    struct builder builder = {.job = context, .fd = fd};
    const struct build_job *job = context;
    struct wire_writer writer = {0};
    size_t stages = 0;
    bool saved = false;
    char path[PATH_BYTES];
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
    send_progress(&builder, (double)job->cell->stage_count / (double)(job->cell->stage_count + 1), "scoring");
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
