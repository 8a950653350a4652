/* Statements on the results database, for everything that reads or writes it.
 *
 * A query binds its parameters in order and remembers the first trouble, which the next query_row or query_done
 * reports with the file's name and a remedy; so a row is bound without a check per value.
 *
 *   TRY(query_open(&q, store, "SELECT label FROM cell WHERE experiment_id = ?"));
 *   query_integer(&q, experiment_id);
 *   for (;;) { TRY(query_row(&q, &row)); if (!row) break; … query_get_text(&q, 0) … }
 * out: query_close(&q);
 */
#ifndef QUERY_H
#define QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

struct query {
    struct store *store;
    sqlite3_stmt *statement;
    int bound, code;
};

int query_open(struct query *query, struct store *store, const char *sql);
void query_close(struct query *query); /* accepts a zeroed query */

/* Bind the next parameter. NULL text, NaN and a NULL blob become SQL NULL; texts and blobs are borrowed until the next
 * step has returned. */
void query_text(struct query *query, const char *text);
void query_integer(struct query *query, int64_t number);
void query_real(struct query *query, double number);
void query_blob(struct query *query, const void *bytes, size_t count);

/* Step to the next row; *row is false after the last, and then the query may be bound anew. */
int query_row(struct query *query, bool *row);
/* Run a statement that gives no rows; it may be bound anew afterwards. */
int query_done(struct query *query);
/* Forget rows and parameters, to bind anew before the last row was read. */
void query_reset(struct query *query);

/* Columns of the current row, from 0. Text is never NULL ("" for SQL NULL); NaN for a NULL number. Valid until the
 * next step. */
bool query_is_null(const struct query *query, int column);
const char *query_get_text(const struct query *query, int column);
int64_t query_get_integer(const struct query *query, int column);
double query_get_real(const struct query *query, int column);
const void *query_get_blob(const struct query *query, int column, size_t *count);

/* Statements without parameters and rows. */
int store_execute(struct store *store, const char *sql);
/* A transaction that takes the write lock at once. store_rollback keeps the recorded error. */
int store_begin(struct store *store);
int store_commit(struct store *store);
void store_rollback(struct store *store);

/* Record what SQLite says about `code` as one line with the file and a remedy. */
int store_error(const struct store *store, int code);

/* One step of a migration: schema[v] brings version v to v + 1. Runs in one transaction; returns E_STATE where the
 * database is newer than `to`. Exposed for its test. */
int store_migrate(struct store *store, const char *const *schema, int to);
/* store_open that waits at most timeout_ms for a lock instead of five seconds. */
int store_open_timeout(struct store *store, const char *path, enum store_mode mode, int timeout_ms);

#endif
