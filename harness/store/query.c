/* Statements with sticky errors, and the one place where SQLite's codes become messages (contract: query.h). */
#include "store/query.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

int store_error(const struct store *store, int code) {
    int status = 0;
    const char *path = store->path ? store->path : "database";
    const char *said = store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(code);
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        FAIL(E_STATE, "%s: locked by another program; let it end (another runexp, an open sqlite3), or give --db PATH",
             path);
    case SQLITE_READONLY: FAIL(E_IO, "%s: read-only; make it writable or give --db PATH", path);
    case SQLITE_NOTADB: FAIL(E_FORMAT, "%s: not a results database (not SQLite); move it away or give --db PATH", path);
    case SQLITE_CORRUPT:
        FAIL(E_FORMAT, "%s: damaged (%s); move it away and run again, or recover it with `sqlite3 FILE .recover`", path,
             said);
    case SQLITE_FULL: FAIL(E_IO, "%s: cannot be written, the disk is full; free some space", path);
    case SQLITE_IOERR: FAIL(E_IO, "%s: cannot be read or written (%s); see to its disk and its limits", path, said);
    case SQLITE_CANTOPEN:
        FAIL(E_IO, "%s: cannot be opened (%s); check the path and its permissions, or give --db PATH", path, said);
    case SQLITE_NOMEM: FAIL(E_MEMORY, "%s: out of memory in SQLite", path);
    case SQLITE_CONSTRAINT: FAIL(E_STATE, "%s: refused by the schema (%s)", path, said);
    case SQLITE_ERROR: FAIL(E_FORMAT, "%s: not the expected tables (%s)", path, said);
    default: FAIL(E_IO, "%s: %s", path, said);
    }
out:
    return status;
}

int query_open(struct query *query, struct store *store, const char *sql) {
    *query = (struct query){.store = store};
    int code = sqlite3_prepare_v2(store->db, sql, -1, &query->statement, NULL);
    return code == SQLITE_OK ? 0 : store_error(store, code);
}

void query_close(struct query *query) {
    sqlite3_finalize(query->statement);
    *query = (struct query){0};
}

static void remember(struct query *query, int code) {
    if (code != SQLITE_OK && query->code == SQLITE_OK) query->code = code;
}

void query_text(struct query *query, const char *text) {
    remember(query, sqlite3_bind_text(query->statement, ++query->bound, text, -1, SQLITE_STATIC));
}

void query_integer(struct query *query, int64_t number) {
    remember(query, sqlite3_bind_int64(query->statement, ++query->bound, number));
}

void query_real(struct query *query, double number) {
    int at = ++query->bound;
    remember(query, isnan(number) ? sqlite3_bind_null(query->statement, at)
                                  : sqlite3_bind_double(query->statement, at, number));
}

void query_blob(struct query *query, const void *bytes, size_t count) {
    remember(query, sqlite3_bind_blob64(query->statement, ++query->bound, bytes, count, SQLITE_STATIC));
}

void query_reset(struct query *query) {
    sqlite3_reset(query->statement);
    sqlite3_clear_bindings(query->statement);
    query->bound = 0;
    query->code = SQLITE_OK;
}

int query_row(struct query *query, bool *row) {
    *row = false;
    int code = query->code != SQLITE_OK ? query->code : sqlite3_step(query->statement);
    if (code == SQLITE_ROW) {
        *row = true;
        return 0;
    }
    int status = code == SQLITE_DONE ? 0 : store_error(query->store, code);
    query_reset(query);
    return status;
}

int query_done(struct query *query) {
    bool row;
    int status = query_row(query, &row);
    if (row) query_reset(query);
    return status;
}

bool query_is_null(const struct query *query, int column) {
    return sqlite3_column_type(query->statement, column) == SQLITE_NULL;
}

const char *query_get_text(const struct query *query, int column) {
    const unsigned char *text = sqlite3_column_text(query->statement, column);
    return text ? (const char *)text : "";
}

int64_t query_get_integer(const struct query *query, int column) {
    return sqlite3_column_int64(query->statement, column);
}

double query_get_real(const struct query *query, int column) {
    return query_is_null(query, column) ? NAN : sqlite3_column_double(query->statement, column);
}

const void *query_get_blob(const struct query *query, int column, size_t *count) {
    const void *bytes = sqlite3_column_blob(query->statement, column);
    *count = bytes ? (size_t)sqlite3_column_bytes(query->statement, column) : 0;
    return bytes;
}

int store_execute(struct store *store, const char *sql) {
    int code = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : store_error(store, code);
}

int store_begin(struct store *store) { return store_execute(store, "BEGIN IMMEDIATE"); }

int store_commit(struct store *store) { return store_execute(store, "COMMIT"); }

void store_rollback(struct store *store) {
    if (!sqlite3_get_autocommit(store->db)) sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}
