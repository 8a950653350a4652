/* See forecast.h. The rule of thumb for what never ran: 6 floating-point operations a parameter and token to
 * train, 2 to score, at 30 GFLOP/s a CPU, 16 tokens an item; two seconds a cell beside that. */
#include "run/forecast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "run/keys.h"
#include "run/stage_cache.h"

#define TOKENS_PER_ITEM 16.0
#define FLOP_PER_S_PER_CPU 30e9
#define CELL_SECONDS 2.0

int forecast_open(struct forecast *forecast, const char *db_path) {
    int status = 0;
    const char *slash = strrchr(db_path, '/');
    *forecast = (struct forecast){0};
    snprintf(forecast->cache_dir, sizeof forecast->cache_dir, "%.*scache", slash ? (int)(slash - db_path + 1) : 0,
             db_path);
    if (access(db_path, F_OK) < 0) goto out;
    TRY(store_open(&forecast->store, db_path, STORE_READ));
    forecast->have_store = true;
out:
    return status;
}

int forecast_experiment(struct forecast *forecast, const struct experiment *experiment) {
    int status = 0;
    struct task task = {0};
    memory_release(forecast->prefix_counted);
    forecast->prefix_counted = NULL;
    TRY(memory_take((void **)&forecast->prefix_counted, experiment->cell_count, sizeof(bool)));
    TRY(experiment->task->open(&task, experiment->task_options));
    TRY(keys_data(experiment, task.data_hash, forecast->data_hash));
    forecast->train_items = (double)task.split[SPLIT_TRAIN].count;
    experiment->task->close(&task);
    forecast->model = experiment->model.config;
    if (experiment->model.path) {
        struct model model = {0};
        TRY(model_open(&model, experiment->model.path, false));
        forecast->model = model.config;
        model_close(&model);
    }
out:
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

static double parameters(const struct model_config *config) {
    double width = (double)config->width;
    return (double)config->layers * (4 * width * width + 2 * width * (double)config->feed_forward);
}

/* Seconds of the training stages that no cache holds and no earlier cell of the plan pays for. */
static double training_seconds(struct forecast *forecast, const struct experiment *experiment,
                               const struct cell *cell) {
    double flop = 0, cpus = threads_available();
    size_t index = (size_t)(cell - experiment->cells);
    for (size_t n = cell->stage_count; n > 0; n--) {
        const struct stage_plan *stage = &cell->stages[n - 1];
        char key[HASH_HEX];
        if (!(stage_needs(stage) & NEEDS_CACHE)) continue;
        if (keys_prefix(experiment, cell, n, forecast->data_hash, key) < 0) continue;
        if (stage_cache_has(forecast->cache_dir, key)) break;
        /* The stages every cell begins with are paid by the first cell of its seed. */
        bool paid = false;
        for (size_t i = 0; n <= cell->prepare_count && i < index && !paid; i++)
            paid = forecast->prefix_counted[i] && experiment->cells[i].seed == cell->seed;
        if (paid) break;
        const struct option *epochs = option_find(stage->technique->options, "epochs");
        double count = 1;
        if (epochs && epochs->type == OPTION_REAL)
            count = *(const double *)(const void *)((const char *)stage->options + epochs->offset);
        if (n == cell->prepare_count) forecast->prefix_counted[index] = true;
        flop += 6 * parameters(&forecast->model) * forecast->train_items * TOKENS_PER_ITEM * count;
    }
    return flop / (FLOP_PER_S_PER_CPU * cpus);
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
    memory_release(forecast->prefix_counted);
    if (forecast->have_store) store_close(&forecast->store);
    *forecast = (struct forecast){0};
}
