/* Databases of older versions become ones of today, in one transaction. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "store/query.h"
#include "store/rounds.h"
#include "store/store.h"

static char folder[64], path[96];

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_migrations_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/results.db", folder);
    return 0;
}

static int folder_close(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static int file_clear(void **state) {
    (void)state;
    char name[128];
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
    error_clear();
    return 0;
}

static void assert_ok(int status) {
    if (status < 0) fail_msg("%s: %s (%s)", error_name(status), error_text(), error_origin());
}

static void assert_refused(int status, int code, const char *words) {
    assert_int_equal(status, code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in: %s", words, error_text());
}

static double number(struct store *store, const char *sql) {
    struct query q = {0};
    bool row;
    assert_ok(query_open(&q, store, sql));
    assert_ok(query_row(&q, &row));
    double value = row ? query_get_real(&q, 0) : NAN;
    query_close(&q);
    return value;
}

/* A database of an old version with what `rows` inserts. */
static void old_database(const char *schema_path, const char *rows) {
    sqlite3 *db;
    char *schema = NULL;
    size_t bytes;
    assert_ok(file_read(schema_path, 1 << 20, &schema, &bytes));
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, schema, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA application_id = 0x53484c42", NULL, NULL, NULL), SQLITE_OK);
    if (sqlite3_exec(db, rows, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s", sqlite3_errmsg(db));
    sqlite3_close(db);
    memory_release(schema);
}

/* The tables of versions 3 and 4 are there, empty, and can be filled. */
static void check_new_tables(struct store *store) {
    assert_int_equal((int)number(store, "PRAGMA user_version"), STORE_VERSION);
    assert_int_equal((int)number(store, "SELECT count(*) FROM curve"), 0);
    assert_ok(store_execute(store, "INSERT INTO stage (run_id, ordinal, technique, version, options, wall_ms, cached)"
                                   " VALUES (1, 0, 'finetune', 1, '{}', 1, 0);"
                                   "INSERT INTO curve VALUES (1, 0, 1, 0.5, 1e-3, 2, 0.25);"
                                   "INSERT INTO evaluation VALUES (1, 0, 1, 'accuracy', 0.75)"));
    assert_ok(store_execute(store, "INSERT INTO layer VALUES (1, 0, 0, 'up', 'int8', -1, 2, -3, 4, -5, 0.5, '[1,2]',"
                                   " 'divergence_nats', 0.25, NULL, 400, 100)"));
    assert_true(number(store, "SELECT high FROM layers WHERE technique = 'finetune' AND layer = 'up'") == 2);
    assert_true(number(store, "SELECT loss FROM training WHERE technique = 'finetune' AND value = 0.75") == 0.5);
}

/* A database of version 1, with a run and its outcome, read as one of today. */
static void migrates_version_1(void **state) {
    (void)state;
    struct store store = {0};
    size_t bytes;
    double *values;
    old_database(
        "tests/support/schema_1.sql",
        "PRAGMA user_version = 1;"
        "INSERT INTO host VALUES (1, 'f', 'cpu', '', 2, '', 1, 'k', NULL, NULL);"
        "INSERT INTO build VALUES (1, 'f', '1', 'c', 0, 'release', 'gcc', '', '', NULL);"
        "INSERT INTO experiment VALUES (1, 'old', 'h', 'p', '', '', 'wordnet', 'd', '{}', 'accuracy', 1, NULL);"
        "INSERT INTO session VALUES (1, 1, 1, 1, 't', 't', 'c', 0, '', 0, '', 1, 1, 1, 0, 1, NULL);"
        "INSERT INTO cell VALUES (1, 1, 'k', 'baseline', 0, 'baseline', '{}', 1, 1, 'builtin', 1, 'k');"
        "INSERT INTO run VALUES (1, 'u', 1, 1, 'build', 0, 0, 'ok', '', NULL, 0, NULL, 't', 1, NULL, NULL, '');"
        "INSERT INTO run VALUES (2, 'v', 1, 1, 'time', 0, 0, 'ok', '', NULL, 0, NULL, 't', 1, NULL, NULL, '');"
        "INSERT INTO metric VALUES (1, 1, NULL, 'accuracy', 'frac', 0.5);"
        "INSERT INTO sample VALUES (2, 1, 0, 0, 0, 2e6, 10);"
        "INSERT INTO outcome VALUES (1, 2, x'0100', x'0300000004000000', x'0000803f00000040');");
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "schema version 1");
    assert_ok(store_open(&store, path, STORE_WRITE));
    check_new_tables(&store);
    assert_ok(outcome_values(&store, 1, "predicted", &values, &bytes));
    assert_int_equal(bytes, 2);
    assert_true(values[0] == 3 && values[1] == 4);
    memory_release(values);
    assert_ok(outcome_values(&store, 1, "nll", &values, &bytes));
    assert_true(values[0] == 1 && values[1] == 2);
    memory_release(values);
    assert_ok(store_compare(&store, 1, 0.95));
    assert_true(number(&store, "SELECT metric_value FROM result") == 0.5);
    assert_true(number(&store, "SELECT latency_ms_median FROM result") == 2);
    assert_true(number(&store, "SELECT metric_unit = 'frac' AND storage = 'f32' FROM result") == 1);
    assert_true(number(&store, "SELECT metric_difference FROM result") == 0);
    store_close(&store);
}

/* The same of version 2, which had phases of samples and outcomes by name. */
static void migrates_version_2(void **state) {
    (void)state;
    struct store store = {0};
    old_database(
        "tests/support/schema_2.sql",
        "PRAGMA user_version = 2;"
        "INSERT INTO host VALUES (1, 'f', 'cpu', '', 2, '', 1, 'k', NULL, NULL);"
        "INSERT INTO build VALUES (1, 'f', '1', 'c', 0, 'release', 'gcc', '', '', NULL);"
        "INSERT INTO experiment VALUES (1, 'old', 'h', 'p', '', '', 'wordnet', 'd', '{}', 'accuracy', 1, NULL,"
        " 'frac', 'accuracy');"
        "INSERT INTO session VALUES (1, 1, 1, 1, 't', 't', 'c', 0, '', 0, '', 1, 1, 1, 0, 1, NULL);"
        "INSERT INTO cell VALUES (1, 1, 'k', 'baseline', 0, 'baseline', '{}', 1, 1, 'builtin', 1, 'k', 'f32');"
        "INSERT INTO run VALUES (1, 'u', 1, 1, 'build', 0, 0, 'ok', '', NULL, 0, NULL, 't', 1, NULL, NULL, '');"
        "INSERT INTO metric VALUES (1, 1, NULL, 'accuracy', 'frac', 0.5);");
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "schema version 2");
    assert_ok(store_open(&store, path, STORE_WRITE));
    check_new_tables(&store);
    assert_true(number(&store, "SELECT metric_value FROM result") == 0.5);
    store_close(&store);
    assert_ok(store_open(&store, path, STORE_WRITE)); /* once is enough */
    assert_int_equal((int)number(&store, "SELECT count(*) FROM curve"), 1);
    store_close(&store);
}

/* Version 3 had no layers; its curves stay. */
static void migrates_version_3(void **state) {
    (void)state;
    struct store store = {0};
    old_database(
        "tests/support/schema_3.sql",
        "PRAGMA user_version = 3;"
        "INSERT INTO host VALUES (1, 'f', 'cpu', '', 2, '', 1, 'k', NULL, NULL);"
        "INSERT INTO build VALUES (1, 'f', '1', 'c', 0, 'release', 'gcc', '', '', NULL);"
        "INSERT INTO experiment VALUES (1, 'old', 'h', 'p', '', '', 'wordnet', 'd', '{}', 'accuracy', 1, NULL,"
        " 'frac', 'accuracy');"
        "INSERT INTO session VALUES (1, 1, 1, 1, 't', 't', 'c', 0, '', 0, '', 1, 1, 1, 0, 1, NULL);"
        "INSERT INTO cell VALUES (1, 1, 'k', 'baseline', 0, 'baseline', '{}', 1, 1, 'builtin', 1, 'k', 'f32');"
        "INSERT INTO run VALUES (1, 'u', 1, 1, 'build', 0, 0, 'ok', '', NULL, 0, NULL, 't', 1, NULL, NULL, '');"
        "INSERT INTO run VALUES (2, 'v', 1, 1, 'time', 0, 0, 'ok', '', NULL, 0, NULL, 't', 1, NULL, NULL, '');"
        "INSERT INTO metric VALUES (1, 1, NULL, 'accuracy', 'frac', 0.5);"
        "INSERT INTO curve VALUES (2, 0, 7, 0.125, 1e-3, 2, 0.25);");
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "schema version 3");
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_true(number(&store, "SELECT loss FROM curve WHERE run_id = 2 AND step = 7") == 0.125);
    assert_ok(store_execute(&store, "DELETE FROM curve"));
    check_new_tables(&store);
    assert_true(number(&store, "SELECT metric_value FROM result") == 0.5);
    store_close(&store);
}

static void migrates_step_by_step(void **state) {
    (void)state;
    struct store store = {0};
    const char *const one[] = {"CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y", "ALTER TABLE a ADD COLUMN z"};
    const char *const broken[] = {"", "", "", "ALTER TABLE a ADD COLUMN w", "nonsense"};
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(store_execute(&store, "CREATE TABLE a (x); PRAGMA user_version = 1"));
    assert_ok(store_migrate(&store, one, 3));
    assert_int_equal((int)number(&store, "PRAGMA user_version"), 3);
    assert_ok(store_execute(&store, "INSERT INTO a (x, y, z) VALUES (1, 2, 3)"));
    assert_ok(store_migrate(&store, one, 3));
    /* A step that fails undoes the steps before it. */
    assert_int_equal(store_migrate(&store, broken, 5), E_FORMAT);
    assert_int_equal((int)number(&store, "PRAGMA user_version"), 3);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM pragma_table_info('a')"), 3);
    store_close(&store);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(migrates_version_1, file_clear),
                                       cmocka_unit_test_setup(migrates_version_2, file_clear),
                                       cmocka_unit_test_setup(migrates_version_3, file_clear),
                                       cmocka_unit_test_setup(migrates_step_by_step, file_clear)};
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
