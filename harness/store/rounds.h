/* Raw results read back in the shape that comparisons need: medians per round, right answers per item. */
#ifndef ROUNDS_H
#define ROUNDS_H

#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

/* One round of one cell at one batch size: medians of its samples, without warm-ups. */
struct round_record {
    int64_t cell_id, batch, round;
    double latency_ms, tokens_per_s;
};
struct round_list {
    struct round_record *rounds; /* ordered by cell, batch, round */
    size_t count, capacity;
};
/* All ok timing rounds of a session. */
int rounds_read(struct store *store, int64_t session_id, struct round_list *list);
void rounds_close(struct round_list *list); /* accepts a zeroed list */
/* The rounds of (cell, batch), together in the list; *count 0 when there are none. */
const struct round_record *rounds_find(const struct round_list *list, int64_t cell_id, int64_t batch, size_t *count);
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

#endif
