/* Cells from matrix points: order, baselines, labels, keys, and what cannot run here.
 *
 * Every setting (threads, seed, gemm; not storage) gets a baseline before its first cell, whether the matrix lists the
 * empty pipeline or not, because every comparison is against it. Cells with equal keys would measure the same
 * thing twice: dropped with a note, or refused where include asks for one outright.
 */
#include "plan/plan.h"

#include <sched.h>
#include <stdarg.h>
#include <string.h>

#include "base/memory.h"
#include "config/settings.h"
#include "plan/matrix.h"
#include "plan/text_index.h"

/* ---- keys --------------------------------------------------------------------------------------------- */

static int hash_options(struct hash *hash, const struct option *table, const void *options) {
    int status = 0;
    char text[512];
    void *block = NULL;
    for (const struct option *option = table; option != NULL && option->name != NULL; option++) {
        size_t length = option_print(option, options, text, sizeof text);
        hash_text(hash, option->name);
        if (length < sizeof text) {
            hash_text(hash, text);
            continue;
        }
        memory_release(block);
        TRY(memory_take(&block, length + 1, 1));
        option_print(option, options, block, length + 1);
        hash_text(hash, block);
    }
out:
    memory_release(block);
    return status;
}

static void hash_real(struct hash *hash, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    hash_number(hash, bits);
}

/* Vocabulary and classes follow from tokenizer, task and data, and are known only once those are open. */
static void hash_model(struct hash *hash, const struct model_plan *model) {
    const struct model_config *c = &model->config;
    const size_t sizes[] = {c->layers,     c->width,        c->heads,     c->key_value_heads,
                            c->head_width, c->feed_forward, c->positions, c->token_types};
    hash_text(hash, c->family);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) hash_number(hash, sizes[i]);
    hash_number(hash, (uint64_t)c->norm);
    hash_number(hash, c->norm_first);
    hash_number(hash, c->causal);
    hash_number(hash, (uint64_t)c->activation);
    hash_number(hash, (uint64_t)c->position);
    hash_real(hash, (double)c->norm_epsilon);
    hash_real(hash, model->deviation);
}

/* What stands before the first stage, then the stages. */
static int hash_prefix(struct hash *hash, const struct experiment *experiment, const struct cell *cell, size_t stages,
                       const char *data_hash) {
    int status = 0;
    hash_text(hash, "shrinklab cell 1");
    hash_text(hash, experiment->model.path ? "pretrained" : "from scratch"); /* its bytes are part of data_hash */
    hash_model(hash, &experiment->model);
    hash_text(hash, experiment->tokenizer.type);
    hash_number(hash, (uint64_t)experiment->tokenizer.vocabulary);
    hash_number(hash, experiment->tokenizer.lower_case);
    hash_number(hash, (uint64_t)experiment->tokenizer.max_tokens);
    hash_text(hash, experiment->task->name);
    TRY(hash_options(hash, experiment->task->options, experiment->task_options));
    hash_text(hash, data_hash);
    hash_number(hash, cell->seed);
    hash_number(hash, stages);
    for (size_t s = 0; s < stages; s++) {
        const struct stage_plan *stage = &cell->stages[s];
        hash_text(hash, stage->technique->name);
        hash_number(hash, stage->technique->version);
        TRY(hash_options(hash, stage->technique->options, stage->options));
    }
out:
    return status;
}

int plan_prefix_key(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                    char key[HASH_HEX]) {
    struct hash hash;
    CHECK(stages <= cell->stage_count, "%zu of %zu stages", stages, cell->stage_count);
    hash_open(&hash);
    int status = hash_prefix(&hash, experiment, cell, stages, data_hash);
    hash_close(&hash, key);
    return status;
}

int plan_cell_key(const struct experiment *experiment, const struct cell *cell, const char *data_hash,
                  char key[HASH_HEX]) {
    struct hash hash;
    hash_open(&hash);
    int status = hash_prefix(&hash, experiment, cell, cell->stage_count, data_hash);
    hash_number(&hash, (uint64_t)cell->threads);
    hash_text(&hash, gemm_backend_name(cell->gemm));
    hash_text(&hash, weight_storage_name(cell->storage));
    hash_close(&hash, key);
    return status;
}

/* ---- cells -------------------------------------------------------------------------------------------- */

/* Prepare stages and the pipeline's in one array, made once per pipeline. */
struct full_stages {
    struct stage_plan *stages;
    size_t count;
};

struct builder {
    struct experiment *experiment;
    struct matrix matrix;
    struct pipelines prepare; /* exactly one */
    struct full_stages *full; /* beside matrix.pipelines; the last one is the baseline's */
    struct text_index keys, settings;
    size_t capacity; /* of experiment->cells */
    size_t dropped;
    const char *dropped_label;
    struct position dropped_at;
    int cpus;
};

static int cpus_here(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1024;
    return CPU_COUNT(&set);
}

static int text_format(struct option_store *store, const char **text, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int text_format(struct option_store *store, const char **text, const char *format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return store_text(store, buffer, text);
}

static int stages_join(struct builder *builder, const struct pipeline *pipeline, struct full_stages *full) {
    int status = 0;
    const struct pipeline *prepare = &builder->prepare.items[0];
    size_t own = pipeline != NULL ? pipeline->count : 0;
    void *block;
    full->count = prepare->count + own;
    TRY(store_take(&builder->experiment->store, full->count, sizeof *full->stages, &block));
    full->stages = block;
    for (size_t s = 0; s < prepare->count; s++) full->stages[s] = prepare->stages[s];
    for (size_t s = 0; s < own; s++) full->stages[prepare->count + s] = pipeline->stages[s];
out:
    return status;
}

/* Why no cell of this setting can run on this machine; NULL when it can. */
static int setting_skip(struct builder *builder, const struct axis_settings *setting, enum gemm_backend *gemm,
                        const char **reason) {
    int status = 0;
    struct option_store *store = &builder->experiment->store;
    *reason = NULL;
    for (*gemm = GEMM_BUILTIN; *gemm < GEMM_ONEDNN && strcmp(gemm_backend_name(*gemm), setting->gemm) != 0;)
        *gemm = (enum gemm_backend)(*gemm + 1);
    enum gemm_backend found;
    if (gemm_backend_find(setting->gemm, &found) < 0) TRY(store_text(store, error_text(), reason));
    else if (setting->threads > builder->cpus)
        TRY(text_format(store, reason, "%lld threads, but this process may use %d CPUs", (long long)setting->threads,
                        builder->cpus));
    error_clear();
out:
    return status;
}

/* Append the cell unless one with its key is there. */
static int cell_add(struct builder *builder, const struct cell *cell, const struct pipeline *pipeline,
                    const struct position *include) {
    int status = 0;
    struct experiment *experiment = builder->experiment;
    size_t found;
    bool fresh;
    const char *key;
    TRY(store_text(&experiment->store, cell->key, &key));
    TRY(text_index_put(&builder->keys, key, experiment->cell_count, &found, &fresh));
    if (!fresh) {
        if (include != NULL)
            FAIL_AT(include, "include: the cell '%s' is in the matrix already", experiment->cells[found].label);
        if (builder->dropped++ == 0) {
            builder->dropped_label = cell->label;
            builder->dropped_at = pipeline->at;
        }
        goto out;
    }
    if (experiment->cell_count == builder->capacity) {
        void *cells = experiment->cells;
        size_t capacity = builder->capacity == 0 ? 64 : 2 * builder->capacity;
        TRY(memory_resize(&cells, capacity, sizeof *experiment->cells));
        experiment->cells = cells;
        builder->capacity = capacity;
    }
    experiment->cells[experiment->cell_count++] = *cell;
out:
    return status;
}

static enum weight_storage storage_find(const char *name) {
    enum weight_storage storage = STORAGE_F32;
    while (storage < STORAGE_BF16 && strcmp(weight_storage_name(storage), name) != 0)
        storage = (enum weight_storage)(storage + 1);
    return storage;
}

static int point_build(struct builder *builder, const struct matrix_point *point) {
    int status = 0;
    struct experiment *experiment = builder->experiment;
    const struct pipeline *pipeline = &builder->matrix.pipelines.items[point->pipeline];
    const struct full_stages *base = &builder->full[builder->matrix.pipelines.count];
    const char *name;
    size_t baseline;
    bool fresh;
    TRY(text_format(&experiment->store, &name, "%lld %lld %s", (long long)point->setting.threads,
                    (long long)point->setting.seed, point->setting.gemm));
    TRY(text_index_put(&builder->settings, name, experiment->cell_count, &baseline, &fresh));
    struct cell cell = {.prepare_count = builder->prepare.items[0].count,
                        .threads = (int)point->setting.threads,
                        .seed = (uint64_t)point->setting.seed,
                        .storage = storage_find(point->setting.storage),
                        .baseline = baseline};
    if (fresh) {
        TRY(setting_skip(builder, &point->setting, &cell.gemm, &cell.skip_reason));
        cell.label = cell.pipeline = "baseline";
        cell.stages = base->stages;
        cell.stage_count = base->count;
        cell.is_baseline = true;
        TRY(plan_cell_key(experiment, &cell, "", cell.key));
        TRY(cell_add(builder, &cell, pipeline, NULL));
        cell.is_baseline = false;
    } else {
        cell.gemm = experiment->cells[baseline].gemm;
        cell.skip_reason = experiment->cells[baseline].skip_reason;
    }
    if (pipeline->count > 0) {
        struct full_stages *full = &builder->full[point->pipeline];
        if (full->stages == NULL) TRY(stages_join(builder, pipeline, full));
        cell.label = pipeline->label;
        cell.pipeline = pipeline->name;
        cell.stages = full->stages;
        cell.stage_count = full->count;
        if (cell.skip_reason == NULL) cell.skip_reason = pipeline->impossible;
        TRY(plan_cell_key(experiment, &cell, "", cell.key));
        TRY(cell_add(builder, &cell, pipeline, point->include));
    } else if (!fresh && cell.storage != experiment->cells[baseline].storage) {
        /* The same model held otherwise: compared with the baseline, which has the storage that is named first. */
        cell.label = cell.pipeline = "unchanged";
        cell.stages = base->stages;
        cell.stage_count = base->count;
        TRY(plan_cell_key(experiment, &cell, "", cell.key));
        TRY(cell_add(builder, &cell, pipeline, point->include));
    } else if (point->include != NULL && !fresh) {
        FAIL_AT(point->include, "include: the cell 'baseline' is in the matrix already");
    }
out:
    return status;
}

/* Where settings differ between cells, labels say which; then what is still equal gets a number. */
static int labels_finish(struct experiment *experiment) {
    int status = 0;
    bool threads = false, seed = false, gemm = false, storage = false;
    struct text_index labels = {0};
    for (size_t i = 1; i < experiment->cell_count; i++) {
        threads |= experiment->cells[i].threads != experiment->cells[0].threads;
        seed |= experiment->cells[i].seed != experiment->cells[0].seed;
        gemm |= experiment->cells[i].gemm != experiment->cells[0].gemm;
        storage |= experiment->cells[i].storage != experiment->cells[0].storage;
    }
    for (size_t i = 0; i < experiment->cell_count; i++) {
        struct cell *cell = &experiment->cells[i];
        char tail[120];
        int used = 0;
        size_t found;
        bool fresh;
        void *block;
        tail[0] = '\0';
        if (threads) used += snprintf(tail + used, sizeof tail - (size_t)used, " threads=%d", cell->threads);
        if (seed)
            used += snprintf(tail + used, sizeof tail - (size_t)used, " seed=%llu", (unsigned long long)cell->seed);
        if (gemm) used += snprintf(tail + used, sizeof tail - (size_t)used, " gemm=%s", gemm_backend_name(cell->gemm));
        if (storage)
            snprintf(tail + used, sizeof tail - (size_t)used, " storage=%s", weight_storage_name(cell->storage));
        size_t bytes = strlen(cell->label) + strlen(tail) + 24;
        TRY(store_take(&experiment->store, bytes, 1, &block));
        snprintf(block, bytes, "%s%s", cell->label, tail);
        TRY(text_index_put(&labels, block, i, &found, &fresh));
        if (!fresh) {
            size_t length = strlen(block);
            for (size_t n = 2; !fresh; n++) {
                snprintf((char *)block + length, bytes - length, " #%zu", n);
                TRY(text_index_put(&labels, block, i, &found, &fresh));
            }
        }
        cell->label = block;
    }
out:
    text_index_close(&labels);
    return status;
}

int plan_expand(struct experiment *experiment, struct document *document, const struct position *at) {
    int status = 0;
    struct builder builder = {.experiment = experiment, .cpus = cpus_here()};
    struct node none = {.type = NODE_LIST, .text = "", .at = *at};
    const struct node *prepare = node_find(document->root, "prepare");
    void *block = NULL;
    if (node_is_empty(prepare)) prepare = &none;
    TRY(pipeline_read(&builder.prepare, experiment, document, prepare, PIPELINE_SINGLE, "prepare"));
    TRY(matrix_read(&builder.matrix, experiment, document, node_find(document->root, "matrix")));
    TRY(memory_take(&block, builder.matrix.pipelines.count + 1, sizeof *builder.full));
    builder.full = block;
    TRY(stages_join(&builder, NULL, &builder.full[builder.matrix.pipelines.count]));
    for (size_t i = 0; i < builder.matrix.count; i++) TRY(point_build(&builder, &builder.matrix.points[i]));
    if (experiment->cell_count > CELLS_MAX)
        FAIL_AT(at, "%zu cells with the baselines; at most %d are allowed", experiment->cell_count, CELLS_MAX);
    TRY(labels_finish(experiment));
    if (builder.dropped > 0)
        TRY(text_format(&experiment->store, &experiment->notes,
                        "%s:%zu:%zu: %zu duplicate cell%s dropped, the first: %s\n", builder.dropped_at.file,
                        builder.dropped_at.line, builder.dropped_at.column, builder.dropped,
                        builder.dropped == 1 ? "" : "s", builder.dropped_label));
out:
    memory_release(block);
    text_index_close(&builder.keys);
    text_index_close(&builder.settings);
    pipelines_close(&builder.prepare);
    matrix_close(&builder.matrix);
    return status;
}
