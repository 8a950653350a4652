/* See record.h. Encoding and decoding walk the fields in one order, list by list. */
#include "run/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#define LIST_MAX ((uint64_t)10000000)

/* Hand `block` to the record, which releases it at its end. */
static int own(struct record *record, void *block) {
    struct option_store *texts = &record->texts;
    if (texts->count == texts->capacity) {
        size_t capacity = texts->capacity ? texts->capacity * 2 : 64;
        int status = memory_resize((void **)&texts->blocks, capacity, sizeof *texts->blocks);
        if (status < 0) {
            memory_release(block);
            return status;
        }
        texts->capacity = capacity;
    }
    texts->blocks[texts->count++] = block;
    return 0;
}

static const void *own_copy(struct record *record, const void *bytes, size_t count) {
    void *copy = NULL;
    if (record->status < 0) return NULL;
    record->status = memory_take(&copy, count, 1);
    if (record->status < 0) return NULL;
    if (count) memcpy(copy, bytes, count);
    record->status = own(record, copy);
    return record->status < 0 ? NULL : copy;
}

const char *record_text(struct record *record, const char *text) {
    return text ? own_copy(record, text, strlen(text) + 1) : NULL;
}

/* Room for one more element of a list; NULL after an error. */
static void *grow(struct record *record, void **list, size_t *capacity, size_t count, size_t size) {
    if (record->status < 0) return NULL;
    if (count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 32;
        record->status = memory_resize(list, more, size);
        if (record->status < 0) return NULL;
        *capacity = more;
    }
    return (char *)*list + count * size;
}

void record_stage(struct record *record, const struct stage_record *stage) {
    struct stage_record *slot =
        grow(record, (void **)&record->stages, &record->stage_capacity, record->run.stage_count, sizeof *slot);
    if (!slot) return;
    *slot = *stage;
    slot->technique = record_text(record, stage->technique);
    slot->options = record_text(record, stage->options);
    record->run.stage_count++;
}

void record_metric(struct record *record, const char *name, const char *unit, double value, int stage) {
    struct metric_record *slot =
        grow(record, (void **)&record->metrics, &record->metric_capacity, record->run.metric_count, sizeof *slot);
    if (!slot) return;
    *slot = (struct metric_record){record_text(record, name), record_text(record, unit), value, stage};
    record->run.metric_count++;
}

void record_sample(struct record *record, const struct sample_record *sample) {
    struct sample_record *slot =
        grow(record, (void **)&record->samples, &record->sample_capacity, record->run.sample_count, sizeof *slot);
    if (!slot) return;
    *slot = *sample;
    slot->phase = record_text(record, sample->phase);
    record->run.sample_count++;
}

void record_counter(struct record *record, const struct counter_record *counter) {
    struct counter_record *slot =
        grow(record, (void **)&record->counters, &record->counter_capacity, record->run.counter_count, sizeof *slot);
    if (!slot) return;
    *slot = *counter;
    slot->meter = record_text(record, counter->meter);
    slot->name = record_text(record, counter->name);
    slot->unit = record_text(record, counter->unit);
    slot->reason = record_text(record, counter->reason);
    record->run.counter_count++;
}

void record_artifact(struct record *record, const struct artifact_record *artifact) {
    record->artifact = *artifact;
    record->artifact.hash = record_text(record, artifact->hash);
    record->artifact.path = record_text(record, artifact->path);
    record->artifact.executes = record_text(record, artifact->executes);
    record->run.artifact = &record->artifact;
}

void record_outcome(struct record *record, const char *name, enum outcome_type type, size_t items, const void *values) {
    struct outcome_record *slot =
        grow(record, (void **)&record->outcomes, &record->outcome_capacity, record->run.outcome_count, sizeof *slot);
    if (!slot) return;
    *slot = (struct outcome_record){.name = record_text(record, name), .type = type, .items = items};
    slot->values = own_copy(record, values, items * outcome_type_bytes(type));
    record->run.outcome_count++;
}

void record_curve(struct record *record, const struct curve_record *row) {
    struct curve_record *slot =
        grow(record, (void **)&record->curve, &record->curve_capacity, record->run.curve_count, sizeof *slot);
    if (!slot) return;
    *slot = *row;
    record->run.curve_count++;
}

void record_evaluation(struct record *record, const struct evaluation_record *row) {
    struct evaluation_record *slot = grow(record, (void **)&record->evaluations, &record->evaluation_capacity,
                                          record->run.evaluation_count, sizeof *slot);
    if (!slot) return;
    *slot = *row;
    slot->metric = record_text(record, row->metric);
    record->run.evaluation_count++;
}

void record_layer(struct record *record, const struct layer_record *row) {
    struct layer_record *slot =
        grow(record, (void **)&record->layers, &record->layer_capacity, record->run.layer_count, sizeof *slot);
    if (!slot) return;
    *slot = *row;
    slot->layer = record_text(record, row->layer);
    slot->format = record_text(record, row->format);
    slot->histogram = record_text(record, row->histogram);
    slot->error_name = record_text(record, row->error_name);
    record->run.layer_count++;
}

int record_finish(struct record *record) {
    record->run.stages = record->stages;
    record->run.metrics = record->metrics;
    record->run.samples = record->samples;
    record->run.counters = record->counters;
    record->run.outcomes = record->outcomes;
    record->run.curve = record->curve;
    record->run.evaluations = record->evaluations;
    record->run.layers = record->layers;
    return record->status;
}

void record_close(struct record *record) {
    memory_release(record->stages);
    memory_release(record->metrics);
    memory_release(record->samples);
    memory_release(record->counters);
    memory_release(record->outcomes);
    memory_release(record->curve);
    memory_release(record->evaluations);
    memory_release(record->layers);
    option_store_close(&record->texts);
    *record = (struct record){0};
}

#define LAYER_NUMBERS 8

static void put_i64(struct wire_writer *writer, int64_t value) { wire_put_u64(writer, (uint64_t)value); }
static int64_t get_i64(struct wire_reader *reader) { return (int64_t)wire_get_u64(reader); }

void record_encode(const struct record *record, struct wire_writer *writer) {
    const struct run_record *run = &record->run;
    wire_put_u64(writer, record->main_ns);
    wire_put_u64(writer, record->work_ns);
    put_i64(writer, run->peak_rss_bytes);
    wire_put_u64(writer, run->artifact != NULL);
    if (run->artifact) {
        wire_put_text(writer, run->artifact->hash);
        wire_put_text(writer, run->artifact->path);
        wire_put_text(writer, run->artifact->executes);
        put_i64(writer, run->artifact->bytes);
        put_i64(writer, run->artifact->linear_bytes);
        put_i64(writer, run->artifact->linear_f32_bytes);
        wire_put_f64(writer, run->artifact->bits_per_weight);
    }
    wire_put_u64(writer, run->stage_count);
    for (size_t i = 0; i < run->stage_count; i++) {
        const struct stage_record *s = &record->stages[i];
        wire_put_text(writer, s->technique);
        wire_put_text(writer, s->options);
        wire_put_u64(writer, s->version);
        wire_put_f64(writer, s->wall_ms);
        wire_put_u64(writer, s->cached);
        put_i64(writer, s->linear_bytes);
        put_i64(writer, s->total_bytes);
    }
    wire_put_u64(writer, run->metric_count);
    for (size_t i = 0; i < run->metric_count; i++) {
        const struct metric_record *m = &record->metrics[i];
        wire_put_text(writer, m->name);
        wire_put_text(writer, m->unit);
        wire_put_f64(writer, m->value);
        put_i64(writer, m->stage);
    }
    wire_put_u64(writer, run->sample_count);
    for (size_t i = 0; i < run->sample_count; i++) {
        const struct sample_record *s = &record->samples[i];
        put_i64(writer, s->batch);
        put_i64(writer, s->ordinal);
        put_i64(writer, s->tokens);
        wire_put_u64(writer, (uint64_t)s->warmup | (uint64_t)s->outlier << 1);
        wire_put_f64(writer, s->latency_ns);
        wire_put_text(writer, s->phase);
    }
    wire_put_u64(writer, run->counter_count);
    for (size_t i = 0; i < run->counter_count; i++) {
        const struct counter_record *c = &record->counters[i];
        wire_put_text(writer, c->meter);
        wire_put_text(writer, c->name);
        wire_put_text(writer, c->unit);
        wire_put_text(writer, c->reason);
        put_i64(writer, c->batch);
        wire_put_f64(writer, c->value);
        wire_put_f64(writer, c->enabled_ns);
        wire_put_f64(writer, c->running_ns);
    }
    wire_put_u64(writer, run->outcome_count);
    for (size_t i = 0; i < run->outcome_count; i++) {
        const struct outcome_record *o = &record->outcomes[i];
        wire_put_text(writer, o->name);
        wire_put_u64(writer, o->type);
        wire_put_bytes(writer, o->values, o->items * outcome_type_bytes(o->type));
    }
    wire_put_u64(writer, run->curve_count);
    for (size_t i = 0; i < run->curve_count; i++) {
        const struct curve_record *c = &record->curve[i];
        put_i64(writer, c->stage);
        put_i64(writer, c->step);
        wire_put_f64(writer, c->loss);
        wire_put_f64(writer, c->rate);
        wire_put_f64(writer, c->gradient_norm);
        wire_put_f64(writer, c->seconds);
    }
    wire_put_u64(writer, run->evaluation_count);
    for (size_t i = 0; i < run->evaluation_count; i++) {
        const struct evaluation_record *e = &record->evaluations[i];
        put_i64(writer, e->stage);
        put_i64(writer, e->step);
        wire_put_text(writer, e->metric);
        wire_put_f64(writer, e->value);
    }
    wire_put_u64(writer, run->layer_count);
    for (size_t i = 0; i < run->layer_count; i++) {
        const struct layer_record *l = &record->layers[i];
        const double numbers[LAYER_NUMBERS] = {
            l->low, l->high, l->seen_low, l->seen_high, l->histogram_low, l->histogram_width, l->error, l->score_lost};
        put_i64(writer, l->stage);
        put_i64(writer, l->bytes_f32);
        put_i64(writer, l->bytes_packed);
        wire_put_text(writer, l->layer);
        wire_put_text(writer, l->format);
        wire_put_text(writer, l->histogram);
        wire_put_text(writer, l->error_name);
        for (size_t k = 0; k < LAYER_NUMBERS; k++) wire_put_f64(writer, numbers[k]);
    }
    wire_put_u64(writer, 0x656e64); /* "end": a check that both sides walked the same fields */
}

/* A stage of the run that is being read, and a step of it. */
static bool place_read(struct record *record, struct wire_reader *reader, int *stage, int64_t *step) {
    int64_t index = get_i64(reader);
    *step = get_i64(reader);
    if (index < 0 || index >= (int64_t)record->run.stage_count || *step < 0) reader->bad = true;
    *stage = reader->bad ? 0 : (int)index;
    return !reader->bad;
}

static void curve_decode(struct record *record, struct wire_reader *reader) {
    uint64_t count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct curve_record c = {0};
        if (!place_read(record, reader, &c.stage, &c.step)) return;
        c.loss = wire_get_f64(reader);
        c.rate = wire_get_f64(reader);
        c.gradient_norm = wire_get_f64(reader);
        c.seconds = wire_get_f64(reader);
        record_curve(record, &c);
    }
    count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct evaluation_record e = {0};
        if (!place_read(record, reader, &e.stage, &e.step)) return;
        e.metric = wire_get_text(reader);
        e.value = wire_get_f64(reader);
        if (!e.metric) reader->bad = true;
        else record_evaluation(record, &e);
    }
}

static void layers_decode(struct record *record, struct wire_reader *reader) {
    uint64_t count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct layer_record l = {0};
        double *const numbers[LAYER_NUMBERS] = {
            &l.low, &l.high, &l.seen_low, &l.seen_high, &l.histogram_low, &l.histogram_width, &l.error, &l.score_lost};
        if (!place_read(record, reader, &l.stage, &l.bytes_f32)) return;
        l.bytes_packed = get_i64(reader);
        l.layer = wire_get_text(reader);
        l.format = wire_get_text(reader);
        l.histogram = wire_get_text(reader);
        l.error_name = wire_get_text(reader);
        for (size_t k = 0; k < LAYER_NUMBERS; k++) *numbers[k] = wire_get_f64(reader);
        if (!l.layer || !l.format) reader->bad = true;
        if (!reader->bad) record_layer(record, &l);
    }
}

int record_decode(struct record *record, struct wire_reader *reader) {
    int status = 0;
    record->main_ns = wire_get_u64(reader);
    record->work_ns = wire_get_u64(reader);
    record->run.peak_rss_bytes = get_i64(reader);
    if (wire_get_u64(reader)) {
        struct artifact_record a = {0};
        a.hash = wire_get_text(reader);
        a.path = wire_get_text(reader);
        a.executes = wire_get_text(reader);
        a.bytes = get_i64(reader);
        a.linear_bytes = get_i64(reader);
        a.linear_f32_bytes = get_i64(reader);
        a.bits_per_weight = wire_get_f64(reader);
        if (!a.hash || !a.path || !a.executes) reader->bad = true;
        else record_artifact(record, &a);
    }
    uint64_t count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct stage_record s = {0};
        s.technique = wire_get_text(reader);
        s.options = wire_get_text(reader);
        s.version = (uint32_t)wire_get_u64(reader);
        s.wall_ms = wire_get_f64(reader);
        s.cached = wire_get_u64(reader) != 0;
        s.linear_bytes = get_i64(reader);
        s.total_bytes = get_i64(reader);
        record_stage(record, &s);
    }
    count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        const char *name = wire_get_text(reader), *unit = wire_get_text(reader);
        double value = wire_get_f64(reader);
        int64_t stage = get_i64(reader);
        if (!name || stage < -1 || stage >= (int64_t)record->run.stage_count) reader->bad = true;
        else record_metric(record, name, unit, value, (int)stage);
    }
    count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct sample_record s = {0};
        s.batch = get_i64(reader);
        s.ordinal = get_i64(reader);
        s.tokens = get_i64(reader);
        uint64_t flags = wire_get_u64(reader);
        s.warmup = flags & 1;
        s.outlier = flags & 2;
        s.latency_ns = wire_get_f64(reader);
        s.phase = wire_get_text(reader);
        record_sample(record, &s);
    }
    count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        struct counter_record c = {0};
        c.meter = wire_get_text(reader);
        c.name = wire_get_text(reader);
        c.unit = wire_get_text(reader);
        c.reason = wire_get_text(reader);
        c.batch = get_i64(reader);
        c.value = wire_get_f64(reader);
        c.enabled_ns = wire_get_f64(reader);
        c.running_ns = wire_get_f64(reader);
        record_counter(record, &c);
    }
    count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < LIST_MAX && !reader->bad; i++) {
        const char *name = wire_get_text(reader);
        uint64_t type = wire_get_u64(reader);
        size_t bytes;
        const void *values = wire_get_bytes(reader, &bytes);
        if (!name || type > OUTCOME_F32 || bytes % outcome_type_bytes((enum outcome_type)type)) reader->bad = true;
        if (!reader->bad)
            record_outcome(record, name, (enum outcome_type)type, bytes / outcome_type_bytes((enum outcome_type)type),
                           values);
    }
    curve_decode(record, reader);
    layers_decode(record, reader);
    if (wire_get_u64(reader) != 0x656e64 || reader->bad) FAIL(E_FORMAT, "a worker's result is malformed");
    TRY(record_finish(record));
out:
    return status;
}

int options_json(const struct option *table, const void *options, char **json) {
    int status = 0;
    json_t *object = json_object();
    char *dumped = NULL, digits[32];
    size_t precision = 15; /* what people write survives; more only where a number needs it to read back the same */
    *json = NULL;
    if (!object) FAIL(E_MEMORY, "out of memory");
    for (const struct option *option = table; option && option->name; option++) {
        const char *at = (const char *)options + option->offset;
        json_t *value = NULL;
        switch (option->type) {
        case OPTION_INTEGER: value = json_integer((json_int_t) * (const int64_t *)(const void *)at); break;
        case OPTION_REAL: {
            double real = *(const double *)(const void *)at;
            snprintf(digits, sizeof digits, "%.15g", real);
            if (strtod(digits, NULL) != real) precision = 17;
            value = json_real(real);
            break;
        }
        case OPTION_BOOLEAN: value = json_boolean(*(const bool *)at); break;
        case OPTION_CHOICE:
        case OPTION_PATH:
        case OPTION_TEXT: {
            const char *text = *(const char *const *)(const void *)at;
            value = text ? json_string(text) : json_null();
            break;
        }
        case OPTION_PATHS:
        case OPTION_NAMES: {
            const struct option_names *names = (const void *)at;
            value = json_array();
            for (size_t i = 0; value && i < names->count; i++)
                json_array_append_new(value, json_string(names->items[i]));
            break;
        }
        }
        if (!value || json_object_set_new(object, option->name, value) < 0) FAIL(E_MEMORY, "out of memory");
    }
    dumped = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(precision));
    if (!dumped) FAIL(E_MEMORY, "out of memory");
    TRY(memory_string(json, dumped));
out:
    free(dumped);
    json_decref(object);
    return status;
}
