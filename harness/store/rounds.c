/* Raw results read back for comparisons (contract: rounds.h).
 *
 * Samples are read once, ordered, and boiled down to one record per (cell, batch, round).
 */
#include "store/rounds.h"

#include <stdbool.h>
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
static int round_add(struct round_list *list, int64_t cell_id, int64_t batch, int64_t round, const double *latency_ms,
                     const double *rate, size_t n) {
    int status = 0;
    void *block = list->rounds;
    if (n == 0) goto out;
    TRY(grow(&block, list->count, &list->capacity, sizeof *list->rounds));
    list->rounds = block;
    list->rounds[list->count++] = (struct round_record){.cell_id = cell_id,
                                                        .batch = batch,
                                                        .round = round,
                                                        .latency_ms = statistics_median(latency_ms, n),
                                                        .tokens_per_s = statistics_median(rate, n)};
out:
    list->rounds = block;
    return status;
}

int rounds_read(struct store *store, int64_t session_id, struct round_list *list) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *latency = NULL, *rate = NULL;
    size_t n = 0, latency_capacity = 0, rate_capacity = 0;
    int64_t cell_id = 0, batch = 0, round = 0;
    *list = (struct round_list){0};
    TRY(query_open(&q, store,
                   "SELECT r.cell_id, s.batch, r.round, s.latency_ns, s.tokens FROM run r JOIN sample s ON"
                   " s.run_id = r.id WHERE r.session_id = ? AND r.kind = 'time' AND r.status = 'ok' AND s.warmup = 0"
                   " AND s.latency_ns > 0 ORDER BY r.cell_id, s.batch, r.round, s.ordinal"));
    query_integer(&q, session_id);
    for (;;) {
        TRY(query_row(&q, &row));
        bool same = row && query_get_integer(&q, 0) == cell_id && query_get_integer(&q, 1) == batch &&
                    query_get_integer(&q, 2) == round;
        if (!same) {
            TRY(round_add(list, cell_id, batch, round, latency, rate, n));
            n = 0;
        }
        if (!row) break;
        cell_id = query_get_integer(&q, 0);
        batch = query_get_integer(&q, 1);
        round = query_get_integer(&q, 2);
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

const struct round_record *rounds_find(const struct round_list *list, int64_t cell_id, int64_t batch, size_t *count) {
    size_t first = 0;
    while (first < list->count && (list->rounds[first].cell_id != cell_id || list->rounds[first].batch != batch))
        first++;
    size_t end = first;
    while (end < list->count && list->rounds[end].cell_id == cell_id && list->rounds[end].batch == batch) end++;
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

int outcome_read(struct store *store, int64_t run_id, struct outcome *outcome) {
    int status = 0;
    struct query q = {0};
    bool row;
    void *copy = NULL;
    *outcome = (struct outcome){0};
    TRY(query_open(&q, store, "SELECT correct, items FROM outcome WHERE run_id = ?"));
    query_integer(&q, run_id);
    TRY(query_row(&q, &row));
    if (!row) goto out;
    size_t count;
    const void *bytes = query_get_blob(&q, 0, &count);
    if (count == 0 || (int64_t)count != query_get_integer(&q, 1))
        FAIL(E_FORMAT, "%s: the outcome of run %lld has %zu bytes for %lld items; it is damaged", store->path,
             (long long)run_id, count, (long long)query_get_integer(&q, 1));
    TRY(memory_take(&copy, count, 1));
    memcpy(copy, bytes, count);
    *outcome = (struct outcome){.correct = copy, .items = count};
out:
    query_close(&q);
    return status;
}

void outcome_close(struct outcome *outcome) {
    memory_release(outcome->correct);
    *outcome = (struct outcome){0};
}
