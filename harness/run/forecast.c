/* See forecast.h. The rule of thumb for what never ran: 6 floating-point operations a parameter and token to train, at
 * half of the rate that products reach here (measured for some milliseconds), 16 tokens an item; two seconds a cell
 * beside that. */
#include "run/forecast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "machine_peaks.h"
#include "run/foresee.h"
#include "run/keys.h"
#include "run/stage_cache.h"

#define TOKENS_PER_ITEM 16.0
#define FLOP_PER_S 30e9 /* of a CPU, where it cannot be measured */
#define PEAK_SIDE 384
#define PEAK_SECONDS 0.02
#define TRAINING_SHARE 0.5
#define CELL_SECONDS 2.0

int forecast_open(struct forecast *forecast, const char *db_path) {
    int status = 0;
    *forecast = (struct forecast){0};
    path_beside(db_path, "cache", forecast->cache_dir, sizeof forecast->cache_dir);
    if (access(db_path, F_OK) < 0) goto out;
    TRY(store_open(&forecast->store, db_path, STORE_READ));
    forecast->have_store = true;
out:
    return status;
}

/* Cells that cannot run. A tokenizer that is trained here is not made for a plan. */
static int foresee(struct experiment *experiment, const struct task *task) {
    const char *path = *experiment->tokenizer.path ? experiment->tokenizer.path : experiment->model.path;
    struct tokenizer *tokenizer = NULL;
    if (path && tokenizer_open(&tokenizer, path) < 0) {
        error_clear(); /* told of when it is run */
        tokenizer = NULL;
    }
    int status = foresee_cells(experiment, task, tokenizer);
    tokenizer_free(tokenizer);
    return status;
}

int forecast_experiment(struct forecast *forecast, struct experiment *experiment) {
    int status = 0;
    struct task task = {0};
    forecast->paid_count = 0;
    TRY(experiment->task->open(&task, experiment->task_options));
    TRY(keys_data(experiment, task.data_hash, forecast->data_hash));
    forecast->train_items = (double)task.split[SPLIT_TRAIN].count;
    TRY(foresee(experiment, &task));
    forecast->model = experiment->model.config;
    if (experiment->model.path) {
        struct model model = {0};
        if (experiment->task->check_folder) TRY(experiment->task->check_folder(experiment->model.path));
        TRY(model_open(&model, experiment->model.path, false));
        forecast->model = model.config;
        model_close(&model);
    }
    if (experiment->task->fits) TRY(experiment->task->fits(&task, forecast->model.positions));
out:
    if (task.kind) experiment->task->close(&task);
    return status;
}

bool forecast_cached(void *host, const struct experiment *experiment, const struct cell *cell) {
    struct forecast *forecast = host;
    char key[HASH_HEX], path[4096], hash[HASH_HEX];
    int64_t run_id = 0;
    if (!forecast->have_store || keys_cell(experiment, cell, forecast->data_hash, key) < 0) return false;
    if (store_build_cached(&forecast->store, key, &run_id, path, sizeof path, hash) < 0) return false;
    return run_id != 0;
}

static double parameters(const struct model_config *config, double layers) {
    double width = (double)config->width;
    return layers * (4 * width * width + 2 * width * (double)config->feed_forward);
}

/* Measured on one thread: two would wait for each other where another program keeps a CPU. */
static double training_speed(struct forecast *forecast) {
    int threads = threads_get();
    double peak;
    if (forecast->training_flop_per_s > 0) return forecast->training_flop_per_s;
    threads_set(1);
    if (peak_matmul("f32", GEMM_BUILTIN, PEAK_SIDE, PEAK_SECONDS, &peak) < 0) peak = FLOP_PER_S / TRAINING_SHARE;
    threads_set(threads);
    forecast->training_flop_per_s = TRAINING_SHARE * peak * threads;
    return forecast->training_flop_per_s;
}

/* Whether an earlier cell pays for the stages with this key; from now on one does. */
static bool is_paid(struct forecast *forecast, const char key[HASH_HEX]) {
    void *block = forecast->paid;
    for (size_t i = 0; i < forecast->paid_count; i++)
        if (memcmp(forecast->paid[i], key, HASH_HEX) == 0) return true;
    if (forecast->paid_count == forecast->paid_room) {
        size_t room = 2 * forecast->paid_room + 16;
        if (memory_resize(&block, room, HASH_HEX) < 0) return false; /* counted twice, then */
        forecast->paid = block;
        forecast->paid_room = room;
    }
    memcpy(forecast->paid[forecast->paid_count++], key, HASH_HEX);
    return false;
}

/* NULL: the technique has no option of that name. */
static const struct option *stage_option(const struct stage_plan *stage, const char *name) {
    return stage->technique->options ? option_find(stage->technique->options, name) : NULL;
}

/* A number among a stage's options; `missing` where there is none of that name. */
static double stage_number(const struct stage_plan *stage, const char *name, double missing) {
    const struct option *option = stage_option(stage, name);
    const char *at = option ? (const char *)stage->options + option->offset : NULL;
    if (option && option->type == OPTION_REAL) return *(const double *)(const void *)at;
    if (option && option->type == OPTION_INTEGER) return (double)*(const int64_t *)(const void *)at;
    return missing;
}

/* Layers of the model after a stage that says how many it takes: which ones, or a depth (0: half). */
static double layers_after(const struct stage_plan *stage, double layers) {
    const struct option *which = stage_option(stage, "layers");
    double depth = stage_number(stage, "depth", -1);
    if (depth < 0) return layers;
    if (which && which->type == OPTION_NAMES) {
        const struct option_names *names = (const void *)((const char *)stage->options + which->offset);
        if (names->count) return (double)names->count;
    }
    return depth > 0 ? depth : ceil(layers / 2);
}

/* Items that a training stage goes through. */
static double trained_items(const struct forecast *forecast, const struct stage_plan *stage) {
    double steps = stage_number(stage, "steps", 0), items = stage_number(stage, "epochs", 1) * forecast->train_items;
    if (steps > 0) items = steps * stage_number(stage, "batch", 1);
    return stage_number(stage, "r_drop", 0) > 0 ? 2 * items : items;
}

/* Seconds of the training stages that no cache holds and no earlier cell of the plan pays for. */
static double training_seconds(struct forecast *forecast, const struct experiment *experiment,
                               const struct cell *cell) {
    double flop = 0, layers = (double)forecast->model.layers;
    for (size_t n = 0; n < cell->stage_count; n++) {
        const struct stage_plan *stage = &cell->stages[n];
        char key[HASH_HEX];
        layers = layers_after(stage, layers);
        if (!(stage_needs(stage) & NEEDS_CACHE)) continue;
        if (keys_prefix(experiment, cell, n + 1, forecast->data_hash, key) < 0) continue;
        if (stage_cache_has(forecast->cache_dir, key)) flop = 0; /* nor do those before it run */
        else if (!is_paid(forecast, key))
            flop += 6 * parameters(&forecast->model, layers) * trained_items(forecast, stage) * TOKENS_PER_ITEM;
    }
    return flop > 0 ? flop / training_speed(forecast) : 0;
}

double forecast_seconds(void *host, const struct experiment *experiment, const struct cell *cell) {
    struct forecast *forecast = host;
    char key[HASH_HEX];
    double build = NAN, timing = NAN;
    if (keys_cell(experiment, cell, forecast->data_hash, key) < 0) return NAN;
    if (forecast->have_store) {
        if (store_run_seconds(&forecast->store, key, "build", &build) < 0) build = NAN;
        if (store_run_seconds(&forecast->store, key, "time", &timing) < 0) timing = NAN;
        if (isnan(timing) && store_run_seconds(&forecast->store, NULL, "time", &timing) < 0) timing = NAN;
    }
    if (forecast_cached(forecast, experiment, cell)) build = 0;
    if (isnan(build)) build = CELL_SECONDS + training_seconds(forecast, experiment, cell);
    if (isnan(timing)) timing = 0.25;
    return build + timing * (double)experiment->measure.rounds;
}

void forecast_close(struct forecast *forecast) {
    memory_release(forecast->paid);
    if (forecast->have_store) store_close(&forecast->store);
    *forecast = (struct forecast){0};
}
