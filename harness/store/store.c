/* Opening the results database: who may be opened, in which state, and what to do where it may not.
 *
 * A file is ours when its application_id says so; an SQLite file of somebody else is refused before anything is
 * written to it, even its journal mode. Identity is checked, then WAL is switched on, then the schema is brought
 * to the newest version in one transaction. WAL lets reports read while a run writes; where a file system cannot
 * give it (no shared memory), the default journal serves with full synchronisation instead.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "store/query.h"

extern const char store_schema[], store_migrate_2[], store_migrate_3[], store_migrate_4[];

enum { APPLICATION_ID = 0x53484c42, BUSY_TIMEOUT_MS = 5000 }; /* "SHLB" */

/* schema[v] brings version v to v + 1, the last one with the views; schema.sql is always the newest, so a new database
 * starts from it. */
static const char *const migrations[STORE_VERSION] = {store_schema, store_migrate_2, store_migrate_3, store_migrate_4};

static int read_number(struct store *store, const char *sql, int64_t *number) {
    int status = 0;
    struct query q = {0};
    bool row;
    TRY(query_open(&q, store, sql));
    TRY(query_row(&q, &row));
    *number = row ? query_get_integer(&q, 0) : 0;
out:
    query_close(&q);
    return status;
}

int store_migrate(struct store *store, const char *const *schema, int to) {
    int status = 0;
    int64_t version = 0;
    char sql[96];
    TRY(store_begin(store));
    TRY(read_number(store, "PRAGMA user_version", &version));
    if (version > to)
        FAIL(E_STATE, "%s: has schema version %lld, this runexp knows %d; use the newer runexp or give --db PATH",
             store->path, (long long)version, to);
    for (int64_t v = version; v < to; v++) {
        if (v > 0 || schema[0]) TRY(store_execute(store, schema[v]));
        /* schema[0] creates the newest version at once. */
        if (v == 0) break;
    }
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d; PRAGMA application_id = %d", to, (int)APPLICATION_ID);
    if (version < to) TRY(store_execute(store, sql));
    TRY(store_commit(store));
out:
    if (status < 0) store_rollback(store);
    return status;
}

/* The folder of `path`, made when it is the only thing missing. */
static int folder_make(const char *path) {
    int status = 0;
    char *folder = NULL;
    struct stat info;
    const char *slash = strrchr(path, '/');
    TRY(memory_string_n(&folder, slash ? path : ".", slash && slash > path ? (size_t)(slash - path) : 1));
    if (stat(folder, &info) == 0) {
        if (!S_ISDIR(info.st_mode)) FAIL(E_IO, "%s: %s is not a folder; give --db PATH", path, folder);
        /* A superuser may write anywhere; a folder marked read-only for everybody is respected all the same. */
        if (access(folder, W_OK) != 0 || (info.st_mode & 0222) == 0)
            if (access(path, F_OK) != 0)
                FAIL(E_IO, "%s: the folder %s is read-only; make it writable or give --db PATH", path, folder);
    } else if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        FAIL(E_IO, "%s: the folder %s cannot be made (%s); make it or give --db PATH", path, folder, strerror(errno));
    }
out:
    memory_release(folder);
    return status;
}

/* Is the file there, a file, and allowed to be used in this way? */
static int file_check(const char *path, enum store_mode mode, bool *exists) {
    int status = 0;
    struct stat info;
    *exists = stat(path, &info) == 0;
    if (!*exists && mode == STORE_READ)
        FAIL(E_IO, "%s: no results database there (%s); run an experiment first or give --db PATH", path,
             strerror(errno));
    if (!*exists) {
        TRY(folder_make(path));
        goto out;
    }
    if (!S_ISREG(info.st_mode)) FAIL(E_IO, "%s: not a file; give --db PATH", path);
    if (access(path, R_OK) != 0)
        FAIL(E_IO, "%s: cannot be read (%s); change its permissions or give --db PATH", path, strerror(errno));
    if (mode == STORE_WRITE && (access(path, W_OK) != 0 || (info.st_mode & 0222) == 0))
        FAIL(E_IO, "%s: read-only; make it writable (chmod u+w) or give --db PATH", path);
    if (mode == STORE_WRITE) TRY(folder_make(path));
out:
    return status;
}

/* A WAL database in a folder without write permission cannot get its shared-memory file; when nothing is pending in
 * the log it may be read as immutable. */
static int open_immutable(struct store *store) {
    int status = 0;
    char *uri = NULL;
    void *block = NULL;
    size_t length = strlen(store->path);
    TRY(memory_take(&block, 3 * length + 32, 1));
    uri = block;
    memcpy(uri, "file:", 5);
    char *end = uri + 5;
    for (const char *p = store->path; *p; p++) {
        if (strchr("%?#", *p)) end += sprintf(end, "%%%02x", (unsigned)(unsigned char)*p);
        else *end++ = *p;
    }
    memcpy(end, "?immutable=1", sizeof "?immutable=1");
    sqlite3_close(store->db);
    store->db = NULL;
    int code = sqlite3_open_v2(uri, &store->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    if (code != SQLITE_OK) TRY(store_error(store, code));
out:
    memory_release(block);
    return status;
}

static bool log_pending(const char *path) {
    char *name = NULL;
    struct stat info;
    void *block = NULL;
    size_t length = strlen(path);
    if (memory_take(&block, length + 5, 1) < 0) return true;
    name = block;
    memcpy(name, path, length);
    memcpy(name + length, "-wal", 5);
    bool pending = stat(name, &info) == 0 && info.st_size > 0;
    memory_release(block);
    return pending;
}

static int open_reader(struct store *store) {
    int status = 0;
    int64_t version = 0, application = 0;
    int code = sqlite3_open_v2(store->path, &store->db, SQLITE_OPEN_READONLY, NULL);
    if (code != SQLITE_OK) TRY(store_error(store, code));
    sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);
    status = read_number(store, "PRAGMA user_version", &version);
    if (status < 0 && (sqlite3_errcode(store->db) & 0xff) == SQLITE_CANTOPEN && !log_pending(store->path)) {
        TRY(open_immutable(store));
        TRY(read_number(store, "PRAGMA user_version", &version));
    }
    if (status < 0) goto out;
    TRY(read_number(store, "PRAGMA application_id", &application));
    if (version == 0 && application == 0)
        FAIL(E_STATE, "%s: holds no results of runexp; run an experiment first or give --db PATH", store->path);
    if (application != APPLICATION_ID)
        FAIL(E_FORMAT, "%s: an SQLite database, but not one of runexp; give --db PATH", store->path);
    if (version > STORE_VERSION)
        FAIL(E_STATE, "%s: has schema version %lld, this runexp knows %d; use the newer runexp or give --db PATH",
             store->path, (long long)version, STORE_VERSION);
    if (version < STORE_VERSION)
        FAIL(E_STATE, "%s: has schema version %lld, this runexp reads %d; run any experiment into it to migrate it",
             store->path, (long long)version, STORE_VERSION);
out:
    return status;
}

static int open_writer(struct store *store, int timeout_ms) {
    int status = 0;
    int64_t version = 0, application = 0, objects = 0;
    struct query q = {0};
    bool row;
    int code = sqlite3_open_v2(store->path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (code != SQLITE_OK) TRY(store_error(store, code));
    sqlite3_busy_timeout(store->db, timeout_ms);
    TRY(read_number(store, "PRAGMA application_id", &application));
    TRY(read_number(store, "PRAGMA user_version", &version));
    TRY(read_number(store, "SELECT count(*) FROM sqlite_master", &objects));
    if (application != APPLICATION_ID && (application != 0 || version != 0 || objects != 0))
        FAIL(E_FORMAT, "%s: an SQLite database, but not one of runexp; give --db PATH", store->path);
    if (version > STORE_VERSION)
        FAIL(E_STATE, "%s: has schema version %lld, this runexp knows %d; use the newer runexp or give --db PATH",
             store->path, (long long)version, STORE_VERSION);
    if (sqlite3_db_readonly(store->db, "main") == 1) TRY(store_error(store, SQLITE_READONLY));
    TRY(query_open(&q, store, "PRAGMA journal_mode = WAL"));
    TRY(query_row(&q, &row));
    const char *mode = row ? query_get_text(&q, 0) : "";
    const char *pragmas = strcmp(mode, "wal") == 0 ? "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON"
                                                   : "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";
    query_close(&q);
    TRY(store_execute(store, pragmas));
    TRY(store_migrate(store, migrations, STORE_VERSION));
out:
    query_close(&q);
    return status;
}

int store_open_timeout(struct store *store, const char *path, enum store_mode mode, int timeout_ms) {
    int status = 0;
    bool exists = true;
    *store = (struct store){.read_only = mode == STORE_READ};
    TRY(memory_string(&store->path, path));
    TRY(file_check(path, mode, &exists));
    TRY(mode == STORE_READ ? open_reader(store) : open_writer(store, timeout_ms));
    /* A hostile schema may name functions in views and triggers: only harmless ones may run. */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
out:
    if (status < 0) {
        store_close(store);
        struct stat info;
        if (!exists && stat(path, &info) == 0 && info.st_size == 0) unlink(path);
    }
    return status;
}

int store_open(struct store *store, const char *path, enum store_mode mode) {
    return store_open_timeout(store, path, mode, BUSY_TIMEOUT_MS);
}

void store_close(struct store *store) {
    sqlite3_close(store->db);
    memory_release(store->path);
    *store = (struct store){0};
}
