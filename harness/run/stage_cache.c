/* See stage_cache.h. */
#include "run/stage_cache.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"

static void cache_path(char path[CACHE_PATH], const char *cache_dir, const char *key, const char *ending) {
    snprintf(path, CACHE_PATH, "%s/%s.%s", cache_dir, key, ending);
}

bool stage_cache_has(const char *cache_dir, const char *key) {
    char path[CACHE_PATH];
    cache_path(path, cache_dir, key, "safetensors");
    if (access(path, R_OK) != 0) return false;
    cache_path(path, cache_dir, key, "json");
    return access(path, R_OK) == 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* A number that may be missing: JSON has no word for one that is not finite. */
static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *metrics_of(const struct record *record, int stage) {
    json_t *metrics = json_array();
    for (size_t k = 0; k < record->run.metric_count; k++) {
        const struct metric_record *m = &record->metrics[k];
        if (m->stage != stage || !isfinite(m->value)) continue;
        json_array_append_new(metrics,
                              json_pack("{s:s, s:s, s:f}", "name", m->name, "unit", m->unit, "value", m->value));
    }
    return metrics;
}

/* [step, loss, rate, gradient norm, seconds] each. */
static json_t *curve_of(const struct record *record, int stage) {
    json_t *rows = json_array();
    for (size_t k = 0; k < record->run.curve_count; k++) {
        const struct curve_record *c = &record->curve[k];
        if (c->stage != stage) continue;
        json_array_append_new(rows, json_pack("[I, o, o, o, o]", (json_int_t)c->step, number(c->loss), number(c->rate),
                                              number(c->gradient_norm), number(c->seconds)));
    }
    return rows;
}

static json_t *evaluations_of(const struct record *record, int stage) {
    json_t *rows = json_array();
    for (size_t k = 0; k < record->run.evaluation_count; k++) {
        const struct evaluation_record *e = &record->evaluations[k];
        if (e->stage != stage) continue;
        json_array_append_new(rows, json_pack("[I, s, o]", (json_int_t)e->step, e->metric, number(e->value)));
    }
    return rows;
}

static json_t *text_or_null(const char *text) { return text ? json_string(text) : json_null(); }

/* [layer, format, histogram, error name, bytes in f32, packed bytes, eight numbers] each. */
static json_t *layers_of(const struct record *record, int stage) {
    json_t *rows = json_array();
    for (size_t k = 0; k < record->run.layer_count; k++) {
        const struct layer_record *l = &record->layers[k];
        if (l->stage != stage) continue;
        json_array_append_new(rows, json_pack("[s, s, o, o, I, I, o, o, o, o, o, o, o, o]", l->layer, l->format,
                                              text_or_null(l->histogram), text_or_null(l->error_name),
                                              (json_int_t)l->bytes_f32, (json_int_t)l->bytes_packed, number(l->low),
                                              number(l->high), number(l->seen_low), number(l->seen_high),
                                              number(l->histogram_low), number(l->histogram_width), number(l->error),
                                              number(l->score_lost)));
    }
    return rows;
}

/* model_hash: of the model's file; kept with the last stage. */
static int stages_write(const struct record *record, const char *path, const char *model_hash) {
    int status = 0;
    struct file_replace file = {.file = -1};
    char *text = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < record->run.stage_count; i++) {
        const struct stage_record *s = &record->stages[i];
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:s, s:f, s:I, s:I, s:o, s:o, s:o, s:o}", "technique", s->technique, "version",
                            (int)s->version, "options", s->options, "wall_ms", s->wall_ms, "linear_bytes",
                            (json_int_t)s->linear_bytes, "total_bytes", (json_int_t)s->total_bytes, "metrics",
                            metrics_of(record, (int)i), "curve", curve_of(record, (int)i), "evaluations",
                            evaluations_of(record, (int)i), "layers", layers_of(record, (int)i)));
    }
    json_object_set_new(json_array_get(list, json_array_size(list) - 1), "model", json_string(model_hash));
    text = json_dumps(list, JSON_COMPACT);
    if (!text || json_array_size(list) != record->run.stage_count) FAIL(E_MEMORY, "out of memory");
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, text, strlen(text)));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    free(text);
    json_decref(list);
    return status;
}

int stage_cache_write(const char *cache_dir, const char *key, const struct record *record, const struct model *model,
                      unsigned heads) {
    int status = 0;
    char path[CACHE_PATH], hash[HASH_HEX];
    cache_path(path, cache_dir, key, "safetensors");
    TRY(model_save(model, path, heads));
    TRY(hash_file(path, hash));
    cache_path(path, cache_dir, key, "json");
    TRY(stages_write(record, path, hash));
out:
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static double number_at(const json_t *row, size_t at) {
    const json_t *value = json_array_get(row, at);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void metrics_read(struct record *record, const json_t *metrics, int stage) {
    const json_t *metric;
    size_t k;
    json_array_foreach(metrics, k, metric) {
        const char *name, *unit;
        double value;
        if (json_unpack((json_t *)metric, "{s:s, s:s, s:F}", "name", &name, "unit", &unit, "value", &value) == 0)
            record_metric(record, name, unit, value, stage);
    }
}

static void curve_read(struct record *record, const json_t *rows, int stage) {
    const json_t *row;
    size_t k;
    json_array_foreach(rows, k, row) {
        record_curve(record,
                     &(struct curve_record){stage, json_integer_value(json_array_get(row, 0)), number_at(row, 1),
                                            number_at(row, 2), number_at(row, 3), number_at(row, 4)});
    }
}

static void evaluations_read(struct record *record, const json_t *rows, int stage) {
    const json_t *row;
    size_t k;
    json_array_foreach(rows, k, row) {
        const char *metric = json_string_value(json_array_get(row, 1));
        if (metric)
            record_evaluation(record, &(struct evaluation_record){stage, json_integer_value(json_array_get(row, 0)),
                                                                  metric, number_at(row, 2)});
    }
}

static void layers_read(struct record *record, const json_t *rows, int stage) {
    const json_t *row;
    size_t k;
    json_array_foreach(rows, k, row) {
        struct layer_record l = {.stage = stage,
                                 .layer = json_string_value(json_array_get(row, 0)),
                                 .format = json_string_value(json_array_get(row, 1)),
                                 .histogram = json_string_value(json_array_get(row, 2)),
                                 .error_name = json_string_value(json_array_get(row, 3)),
                                 .bytes_f32 = json_integer_value(json_array_get(row, 4)),
                                 .bytes_packed = json_integer_value(json_array_get(row, 5)),
                                 .low = number_at(row, 6),
                                 .high = number_at(row, 7),
                                 .seen_low = number_at(row, 8),
                                 .seen_high = number_at(row, 9),
                                 .histogram_low = number_at(row, 10),
                                 .histogram_width = number_at(row, 11),
                                 .error = number_at(row, 12),
                                 .score_lost = number_at(row, 13)};
        if (l.layer && l.format) record_layer(record, &l);
    }
}

static int stages_read(struct record *record, const char *path, size_t stages) {
    int status = 0;
    json_error_t error;
    json_t *list = json_load_file(path, 0, &error), *item;
    size_t i;
    if (!json_is_array(list)) FAIL(E_FORMAT, "%s: not a list of stages; run again", path);
    if (json_array_size(list) != stages)
        FAIL(E_FORMAT, "%s: has %zu stages, expected %zu; run again", path, json_array_size(list), stages);
    json_array_foreach(list, i, item) {
        const char *technique, *options;
        int version;
        double wall_ms;
        json_int_t linear_bytes, total_bytes;
        json_t *metrics, *curve, *evaluations, *layers;
        if (json_unpack(item, "{s:s, s:i, s:s, s:F, s:I, s:I, s:o, s:o, s:o, s:o}", "technique", &technique, "version",
                        &version, "options", &options, "wall_ms", &wall_ms, "linear_bytes", &linear_bytes,
                        "total_bytes", &total_bytes, "metrics", &metrics, "curve", &curve, "evaluations", &evaluations,
                        "layers", &layers) < 0)
            FAIL(E_FORMAT, "%s: stage %zu is malformed; run again", path, i);
        struct stage_record s = {technique, options, (uint32_t)version, wall_ms, true, linear_bytes, total_bytes};
        record_stage(record, &s);
        metrics_read(record, metrics, (int)i);
        curve_read(record, curve, (int)i);
        evaluations_read(record, evaluations, (int)i);
        layers_read(record, layers, (int)i);
    }
    TRY(record->status);
out:
    json_decref(list);
    return status;
}

int stage_cache_read(const char *cache_dir, const char *key, size_t stages, struct record *record,
                     struct model *model) {
    int status = 0;
    char path[CACHE_PATH];
    cache_path(path, cache_dir, key, "json");
    TRY(stages_read(record, path, stages));
    cache_path(path, cache_dir, key, "safetensors");
    TRY(model_open(model, path, true));
out:
    return status;
}

/* Is the model's file the one that its JSON was written for? Entries of older versions do not say: those can be opened,
 * or not. */
static int model_check(const char *json_path, const char *model_path) {
    int status = 0;
    json_error_t error;
    struct model model = {0};
    char actual[HASH_HEX];
    json_t *list = json_load_file(json_path, 0, &error);
    const char *hash = json_string_value(json_object_get(json_array_get(list, json_array_size(list) - 1), "model"));
    if (!hash) {
        TRY(model_open(&model, model_path, false));
        goto out;
    }
    TRY(hash_file(model_path, actual));
    if (strcmp(actual, hash) != 0) FAIL(E_FORMAT, "%s: not the file that was written", model_path);
out:
    model_close(&model);
    json_decref(list);
    return status;
}

int stage_cache_check(const char *cache_dir, const char *key, size_t stages, bool *whole) {
    int status = 0;
    char json_path[CACHE_PATH], model_path[CACHE_PATH];
    struct record record = {0};
    *whole = false;
    if (!stage_cache_has(cache_dir, key)) goto out;
    cache_path(json_path, cache_dir, key, "json");
    cache_path(model_path, cache_dir, key, "safetensors");
    status = stages_read(&record, json_path, stages);
    if (status == 0) status = model_check(json_path, model_path);
    *whole = status == 0;
    if (status == 0 || status == E_MEMORY) goto out;
    status = 0;
    unlink(json_path);
    unlink(model_path);
out:
    record_close(&record);
    return status;
}
