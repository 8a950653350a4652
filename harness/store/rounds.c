/* Raw results read back for comparisons (contract: rounds.h).
 *
 * Samples are read once, ordered, and boiled down to one record per (cell, batch, round).
 */
#include "store/rounds.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "measure/statistics.h"
#include "store/query.h"

/* Room for one more element in a growing block. */
static int grow(void **block, size_t count, size_t *capacity, size_t size) {
    int status = 0;
    if (count < *capacity) goto out;
    size_t wanted = *capacity ? 2 * *capacity : 32;
    TRY(memory_resize(block, wanted, size));
    *capacity = wanted;
out:
    return status;
}

/* Close the group of samples gathered for one round. */
static int round_add(struct round_list *list, const struct round_record *group, const double *latency_ms,
                     const double *rate, size_t n) {
    int status = 0;
    void *block = list->rounds;
    if (n == 0) goto out;
    TRY(grow(&block, list->count, &list->capacity, sizeof *list->rounds));
    list->rounds = block;
    struct round_record *round = &list->rounds[list->count++];
    *round = *group;
    round->latency_ms = statistics_median(latency_ms, n);
    round->tokens_per_s = statistics_median(rate, n);
out:
    list->rounds = block;
    return status;
}

bool rounds_same(const struct round_record *a, const struct round_record *b) {
    return a->cell_id == b->cell_id && a->batch == b->batch && strcmp(a->phase, b->phase) == 0;
}

int rounds_read(struct store *store, int64_t session_id, struct round_list *list) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *latency = NULL, *rate = NULL;
    size_t n = 0, latency_capacity = 0, rate_capacity = 0;
    struct round_record group = {0};
    *list = (struct round_list){0};
    TRY(query_open(&q, store,
                   "SELECT r.cell_id, s.batch, r.round, s.latency_ns, s.tokens, s.phase FROM run r JOIN sample s ON"
                   " s.run_id = r.id WHERE r.session_id = ? AND r.kind = 'time' AND r.status = 'ok' AND s.warmup = 0"
                   " AND s.latency_ns > 0 ORDER BY r.cell_id, s.phase, s.batch, r.round, s.ordinal"));
    query_integer(&q, session_id);
    for (;;) {
        struct round_record here = {0};
        TRY(query_row(&q, &row));
        if (row) {
            here = (struct round_record){.cell_id = query_get_integer(&q, 0),
                                         .batch = query_get_integer(&q, 1),
                                         .round = query_get_integer(&q, 2)};
            snprintf(here.phase, sizeof here.phase, "%s", query_get_text(&q, 5));
        }
        if (!row || !rounds_same(&group, &here) || group.round != here.round) {
            TRY(round_add(list, &group, latency, rate, n));
            n = 0;
        }
        if (!row) break;
        group = here;
        TRY(grow(&latency, n, &latency_capacity, sizeof(double)));
        TRY(grow(&rate, n, &rate_capacity, sizeof(double)));
        double ns = query_get_real(&q, 3);
        ((double *)latency)[n] = ns / 1e6;
        ((double *)rate)[n] = query_get_real(&q, 4) / ns * 1e9;
        n++;
    }
out:
    query_close(&q);
    memory_release(latency);
    memory_release(rate);
    return status;
}

void rounds_close(struct round_list *list) {
    memory_release(list->rounds);
    *list = (struct round_list){0};
}

const struct round_record *rounds_find(const struct round_list *list, int64_t cell_id, const char *phase, int64_t batch,
                                       size_t *count) {
    struct round_record wanted = {.cell_id = cell_id, .batch = batch};
    snprintf(wanted.phase, sizeof wanted.phase, "%s", phase);
    size_t first = 0;
    while (first < list->count && !rounds_same(&list->rounds[first], &wanted)) first++;
    size_t end = first;
    while (end < list->count && rounds_same(&list->rounds[end], &wanted)) end++;
    *count = end - first;
    return list->rounds + first;
}

size_t rounds_pair(const struct round_record *a, size_t a_count, const struct round_record *b, size_t b_count,
                   double *x, double *y) {
    size_t pairs = 0;
    for (size_t i = 0, j = 0; i < a_count; i++) {
        while (j < b_count && b[j].round < a[i].round) j++;
        if (j == b_count || b[j].round != a[i].round) continue;
        x[pairs] = a[i].latency_ms;
        y[pairs++] = b[j].latency_ms;
    }
    return pairs;
}

/* The array `name` of a run; *bytes NULL where there is none. It stays valid until the query is closed. */
static int array_find(struct query *q, struct store *store, int64_t run_id, const char *name, const void **bytes,
                      size_t *items, size_t *element_bytes, bool *real) {
    int status = 0;
    bool row;
    *bytes = NULL;
    *items = 0;
    TRY(query_open(q, store, "SELECT data, items, type FROM outcome WHERE run_id = ? AND name = ?"));
    query_integer(q, run_id);
    query_text(q, name);
    TRY(query_row(q, &row));
    if (!row) goto out;
    size_t count;
    const char *type = query_get_text(q, 2);
    *element_bytes = strcmp(type, "u8") == 0 ? 1 : 4;
    *real = strcmp(type, "f32") == 0;
    const void *found = query_get_blob(q, 0, &count);
    int64_t promised = query_get_integer(q, 1);
    if (promised <= 0 || count != (size_t)promised * *element_bytes)
        FAIL(E_FORMAT, "%s: the outcome of run %lld has %zu bytes for %lld items; it is damaged", store->path,
             (long long)run_id, count, (long long)promised);
    *bytes = found;
    *items = (size_t)promised;
out:
    return status;
}

int outcome_read(struct store *store, int64_t run_id, struct outcome *outcome) {
    int status = 0;
    struct query q = {0};
    const void *bytes;
    void *copy = NULL;
    size_t items, element_bytes = 1;
    bool real = false;
    *outcome = (struct outcome){0};
    TRY(array_find(&q, store, run_id, "correct", &bytes, &items, &element_bytes, &real));
    if (!bytes || element_bytes != 1) goto out;
    TRY(memory_take(&copy, items, 1));
    memcpy(copy, bytes, items);
    *outcome = (struct outcome){.correct = copy, .items = items};
out:
    query_close(&q);
    return status;
}

int outcome_values(struct store *store, int64_t run_id, const char *name, double **values, size_t *items) {
    int status = 0;
    struct query q = {0};
    const void *bytes;
    void *block = NULL;
    size_t element_bytes = 1;
    bool real = false;
    *values = NULL;
    TRY(array_find(&q, store, run_id, name, &bytes, items, &element_bytes, &real));
    if (!bytes) goto out;
    TRY(memory_take(&block, *items, sizeof **values));
    *values = block;
    for (size_t i = 0; i < *items; i++) {
        const char *at = (const char *)bytes + i * element_bytes;
        float number;
        int32_t whole;
        if (element_bytes == 1) {
            (*values)[i] = *(const uint8_t *)at;
        } else if (real) {
            memcpy(&number, at, sizeof number);
            (*values)[i] = (double)number;
        } else {
            memcpy(&whole, at, sizeof whole);
            (*values)[i] = whole;
        }
    }
out:
    query_close(&q);
    return status;
}

void outcome_close(struct outcome *outcome) {
    memory_release(outcome->correct);
    *outcome = (struct outcome){0};
}

int outcome_columns_read(struct store *store, int64_t run_id, const struct paired_estimator *estimator,
                         struct outcome_columns *columns) {
    int status = 0;
    *columns = (struct outcome_columns){0};
    for (size_t i = 0; i < estimator->column_count; i++) {
        size_t count = 0;
        TRY(outcome_values(store, run_id, estimator->columns[i], &columns->values[i], &count));
        if (!columns->values[i] || (i > 0 && count != columns->items)) {
            columns->items = 0;
            goto out;
        }
        columns->items = count;
    }
out:
    return status;
}

void outcome_columns_close(struct outcome_columns *columns) {
    for (size_t i = 0; i < PAIRED_COLUMNS_MAX; i++) memory_release(columns->values[i]);
    *columns = (struct outcome_columns){0};
}
