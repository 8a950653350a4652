/* A run's results while they are collected: growing lists behind a struct run_record, and their passage
 * over the wire from worker to parent.
 */
#ifndef RECORD_H
#define RECORD_H

#include "base/option.h"
#include "run/wire.h"
#include "store/store.h"

struct record {
    struct run_record run; /* views of the lists below; complete after record_finish */
    struct artifact_record artifact;
    struct stage_record *stages;
    struct metric_record *metrics;
    struct sample_record *samples;
    struct counter_record *counters;
    struct outcome_record *outcomes;
    struct curve_record *curve;
    struct evaluation_record *evaluations;
    struct layer_record *layers;
    size_t stage_capacity, metric_capacity, sample_capacity, counter_capacity, outcome_capacity, curve_capacity,
        evaluation_capacity, layer_capacity;
    uint64_t main_ns;          /* when the worker's main began, monotonic clock; 0 when it was forked */
    uint64_t work_ns;          /* time spent on the model: load, warm-up, windows */
    struct option_store texts; /* owns every text and array */
    int status;                /* first error of an add call; later adds do nothing */
};

/* Texts are copied. */
void record_stage(struct record *record, const struct stage_record *stage);
void record_metric(struct record *record, const char *name, const char *unit, double value, int stage);
void record_sample(struct record *record, const struct sample_record *sample);
void record_counter(struct record *record, const struct counter_record *counter);
void record_artifact(struct record *record, const struct artifact_record *artifact);
void record_curve(struct record *record, const struct curve_record *row);
void record_evaluation(struct record *record, const struct evaluation_record *row);
void record_layer(struct record *record, const struct layer_record *row);
/* One value per item; copied. */
void record_outcome(struct record *record, const char *name, enum outcome_type type, size_t items, const void *values);
const char *record_text(struct record *record, const char *text); /* a copy that lives as long as the record */
int record_finish(struct record *record); /* set the views in record->run; returns record->status */
void record_close(struct record *record);

void record_encode(const struct record *record, struct wire_writer *writer);
int record_decode(struct record *record, struct wire_reader *reader); /* E_FORMAT; finished on success */

/* Options as a JSON object in table order: {"bits":8,"group":64}; release with memory_release. */
int options_json(const struct option *table, const void *options, char **json);

#endif
