/* Small look-ups that running and planning need (contracts: store.h). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "store/query.h"

int store_run_status(struct store *store, int64_t cell_id, int64_t session_id, const char *kind, int64_t round,
                     char status_text[16]) {
    int status = 0;
    struct query query = {0};
    bool row;
    status_text[0] = 0;
    TRY(query_open(&query, store,
                   "SELECT status FROM run WHERE cell_id = ? AND session_id = ? AND kind = ? AND round = ?"));
    query_integer(&query, cell_id);
    query_integer(&query, session_id);
    query_text(&query, kind);
    query_integer(&query, round);
    TRY(query_row(&query, &row));
    if (row) snprintf(status_text, 16, "%s", query_get_text(&query, 0));
out:
    query_close(&query);
    return status;
}

int store_predicted(struct store *store, int64_t cell_id, int64_t session_id, int32_t **predicted, size_t *count) {
    int status = 0;
    struct query query = {0};
    bool row;
    *predicted = NULL;
    TRY(query_open(&query, store,
                   "SELECT o.items, o.data FROM outcome o JOIN run r ON r.id = o.run_id WHERE r.cell_id = ? AND "
                   "r.session_id = ? AND r.kind = 'build' AND r.status = 'ok' AND o.name = 'predicted'"));
    query_integer(&query, cell_id);
    query_integer(&query, session_id);
    TRY(query_row(&query, &row));
    if (!row) FAIL(E_NOT_FOUND, "%s: no stored predictions of cell %lld", store->path, (long long)cell_id);
    size_t bytes;
    const void *blob = query_get_blob(&query, 1, &bytes);
    if (query_get_integer(&query, 0) < 0 || bytes != (size_t)query_get_integer(&query, 0) * sizeof **predicted)
        FAIL(E_FORMAT, "%s: the stored predictions of cell %lld are damaged", store->path, (long long)cell_id);
    TRY(memory_take((void **)predicted, bytes, 1));
    memcpy(*predicted, blob, bytes);
    *count = bytes / sizeof **predicted;
out:
    query_close(&query);
    return status;
}

int store_run_seconds(struct store *store, const char *cell_key, const char *kind, double *seconds) {
    int status = 0;
    struct query query = {0};
    bool row;
    *seconds = NAN;
    TRY(query_open(&query, store,
                   "SELECT avg(r.wall_ms) / 1000 FROM run r JOIN cell c ON c.id = r.cell_id WHERE r.status = 'ok' "
                   "AND r.wall_ms > 0 AND r.kind = ?1 AND (?2 IS NULL OR c.key = ?2)"));
    query_text(&query, kind);
    query_text(&query, cell_key);
    TRY(query_row(&query, &row));
    if (row) *seconds = query_get_real(&query, 0);
out:
    query_close(&query);
    return status;
}
