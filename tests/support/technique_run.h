/* A small random model and one technique run on it as the harness would, for technique tests. */
#ifndef TECHNIQUE_RUN_H
#define TECHNIQUE_RUN_H

#include "base/hash.h"
#include "technique.h"

struct technique_run {
    struct model model;
    struct option_store store;
    void *options;                      /* resolved, after probe */
    const struct examples *calibration; /* what a stage gets; NULL: nothing */
    /* As in struct technique_context; host is `evaluate_host`. NULL: the task cannot be asked. */
    int (*evaluate)(void *host, const struct model *model, double *value, bool *higher_is_better);
    void *evaluate_host;
    long fail_after;  /* allocations of a stage, from probe on, until the first that fails; 0: none does */
    long allocations; /* that it asked for, where fail_after is set */
    struct metric_seen {
        char name[48], unit[16];
        double value;
    } metrics[16];
    size_t metric_count;
    struct layer_seen {
        char name[96], format[16];
        double low, high, seen_low, seen_high, error, score_lost;
        uint64_t values, bytes_f32, bytes_packed; /* values: in its histogram */
    } layers[32];
    size_t layer_count;
};

/* A BERT of 2 blocks, width 64, feed-forward 128 (or as given), 3 classes: function of seed. */
void technique_run_open(struct technique_run *run, uint64_t seed);
void technique_run_open_sized(struct technique_run *run, uint64_t seed, size_t feed_forward);
/* Probe, open, apply, report, close with "name=value" texts (NULL-terminated) over the defaults. Returns the first
 * status that is not 0. May be called again for a further stage. */
int technique_run_stage(struct technique_run *run, const struct technique *technique, const char *const *settings);
void technique_run_close(struct technique_run *run);

double technique_run_metric(const struct technique_run *run, const char *name); /* NaN when absent */
/* logits[4*3] of four fixed sequences. */
void technique_run_logits(struct technique_run *run, float logits[12]);
/* SHA-256 of the artifact. */
void technique_run_hash(const struct technique_run *run, char hex[HASH_HEX]);
/* Sum of squared differences of two logit arrays. */
double logits_distance(const float a[12], const float b[12]);

#endif
