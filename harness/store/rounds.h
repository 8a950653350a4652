/* Raw results read back in the shape that comparisons need: medians per round, right answers per item. */
#ifndef ROUNDS_H
#define ROUNDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"
#include "task/paired.h"

enum { ROUND_PHASE_BYTES = 16 };
/* One round of one phase of one cell at one batch size: medians of its samples, without warm-ups. */
struct round_record {
    int64_t cell_id, batch, round;
    char phase[ROUND_PHASE_BYTES]; /* "", "prefill", "decode" */
    double latency_ms, tokens_per_s;
};
struct round_list {
    struct round_record *rounds; /* ordered by cell, phase, batch, round */
    size_t count, capacity;
};
/* All ok timing rounds of a session. */
int rounds_read(struct store *store, int64_t session_id, struct round_list *list);
void rounds_close(struct round_list *list); /* accepts a zeroed list */
/* The rounds of (cell, phase, batch), together in the list; *count 0 when there are none. */
const struct round_record *rounds_find(const struct round_list *list, int64_t cell_id, const char *phase, int64_t batch,
                                       size_t *count);
/* Are two records of the same cell, phase and batch size? */
bool rounds_same(const struct round_record *a, const struct round_record *b);
/* Latencies of the rounds that both have, into x and y (each with room for a_count); returns how many. */
size_t rounds_pair(const struct round_record *a, size_t a_count, const struct round_record *b, size_t b_count,
                   double *x, double *y);

/* Right answers of a build run on the test split. */
struct outcome {
    uint8_t *correct; /* [items] 0 or 1 */
    size_t items;     /* 0: the run has none */
};
int outcome_read(struct store *store, int64_t run_id, struct outcome *outcome); /* E_FORMAT where it is damaged */
void outcome_close(struct outcome *outcome);

/* Any per-item array of a build run, as numbers; *values is NULL where the run has none of that name. Release with
 * memory_release. E_FORMAT where it is damaged. */
int outcome_values(struct store *store, int64_t run_id, const char *name, double **values, size_t *items);

/* The arrays that an estimator reads, of one build run; *items is 0 where one is missing. Close in every case. */
struct outcome_columns {
    double *values[PAIRED_COLUMNS_MAX]; /* [items] each, in the estimator's order */
    size_t items;
};
int outcome_columns_read(struct store *store, int64_t run_id, const struct paired_estimator *estimator,
                         struct outcome_columns *columns);
void outcome_columns_close(struct outcome_columns *columns); /* accepts a zeroed struct */

#endif
