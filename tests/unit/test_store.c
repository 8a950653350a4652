/* The results database: opening in every state, one transaction per run, resume, cache and comparison rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/memory.h"
#include "store/query.h"
#include "store/rounds.h"
#include "store/store.h"
#include "synthetic_db.h"

static char folder[64], path[96];

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_store_XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/results.db", folder);
    return 0;
}

static int folder_close(void **state) {
    (void)state;
    char command[192];
    snprintf(command, sizeof command, "chmod -R u+rwx %s && rm -rf %s", folder, folder);
    return system(command);
}

static int file_clear(void **state) {
    (void)state;
    char name[128];
    const char *const suffixes[] = {"", "-wal", "-shm"};
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
    if (!strstr(error_text(), "--db PATH") && !strstr(error_text(), "migrate"))
        fail_msg("no remedy in: %s", error_text());
    assert_null(strchr(error_text(), '\n'));
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

static void file_write(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void opens_new_and_again(void **state) {
    (void)state;
    struct store store = {0};
    char deeper[128];
    snprintf(deeper, sizeof deeper, "%s/results/runexp.db", folder);
    for (int i = 0; i < 2; i++) {
        assert_ok(store_open(&store, deeper, STORE_WRITE));
        assert_int_equal((int)number(&store, "PRAGMA user_version"), STORE_VERSION);
        assert_int_equal((int)number(&store, "PRAGMA foreign_keys"), 1);
        assert_int_equal((int)number(&store, "SELECT count(*) FROM session"), 0);
        store_close(&store);
    }
    assert_ok(store_open(&store, deeper, STORE_READ));
    assert_int_equal(store_session_end(&store, 1), E_IO); /* a reader cannot write */
    store_close(&store);
}

static void refuses_what_is_not_ours(void **state) {
    (void)state;
    struct store store = {0};
    assert_refused(store_open(&store, path, STORE_READ), E_IO, "no results database there");
    file_write(path, "this is a text file and not a database, with enough bytes to be taken for a header\n");
    assert_refused(store_open(&store, path, STORE_READ), E_FORMAT, "not a results database");
    assert_refused(store_open(&store, path, STORE_WRITE), E_FORMAT, "not a results database");
    unlink(path);
    file_write(path, "");
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "holds no results");
    unlink(path);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE photos (id INTEGER)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_refused(store_open(&store, path, STORE_WRITE), E_FORMAT, "not one of runexp");
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "holds no results");
    assert_refused(store_open(&store, folder, STORE_WRITE), E_IO, "not a file");
    assert_refused(store_open(&store, "/dev/null/x.db", STORE_WRITE), E_IO, "");
}

static void refuses_other_versions(void **state) {
    (void)state;
    struct store store = {0};
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(store_execute(&store, "PRAGMA user_version = 7"));
    store_close(&store);
    assert_refused(store_open(&store, path, STORE_READ), E_STATE, "has schema version 7, this runexp knows");
    assert_refused(store_open(&store, path, STORE_WRITE), E_STATE, "has schema version 7, this runexp knows");
    file_clear(state);
    /* Ours by its mark, yet without tables: an error, not a crash. */
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA application_id = 0x53484c42; PRAGMA user_version = 2", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_ok(store_open(&store, path, STORE_WRITE));
    bool exists;
    assert_int_equal(store_run_exists(&store, 1, 1, "time", 0, false, &exists), E_FORMAT);
    assert_non_null(strstr(error_text(), "no such table"));
    store_close(&store);
}

static void refuses_read_only(void **state) {
    (void)state;
    struct store store = {0};
    assert_ok(synthetic_database(path));
    chmod(path, 0444);
    assert_refused(store_open(&store, path, STORE_WRITE), E_IO, "read-only");
    assert_ok(store_open(&store, path, STORE_READ));
    store_close(&store);
    chmod(path, 0644);
    chmod(folder, 0555);
    char other[128];
    snprintf(other, sizeof other, "%s/other.db", folder);
    assert_refused(store_open(&store, other, STORE_WRITE), E_IO, "read-only");
    assert_int_not_equal(access(other, F_OK), 0);
    /* Reading from a folder nobody can write to, as somebody who is not the superuser. */
    uid_t user = geteuid();
    if (user != 0 || seteuid(65534) == 0) {
        assert_ok(store_open(&store, path, STORE_READ));
        assert_true(number(&store, "SELECT count(*) FROM run") > 0);
        store_close(&store);
        if (user == 0) assert_int_equal(seteuid(0), 0);
    }
    chmod(folder, 0755);
}

static void says_when_locked(void **state) {
    (void)state;
    struct store holder = {0}, store = {0};
    assert_ok(store_open(&holder, path, STORE_WRITE));
    assert_ok(store_begin(&holder));
    assert_refused(store_open_timeout(&store, path, STORE_WRITE, 20), E_STATE, "locked by another program");
    assert_ok(store_open(&store, path, STORE_READ)); /* readers go on */
    store_close(&store);
    store_rollback(&holder);
    store_close(&holder);
    assert_ok(store_open_timeout(&store, path, STORE_WRITE, 20));
    store_close(&store);
}

static void rows_are_found_again(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t first, second;
    settings.rounds = 3;
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &first));
    assert_ok(synthetic_store(&store, &settings, &second));
    assert_true(second > first);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM host"), 1);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM build"), 1);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM experiment"), 1);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM cell"), SYNTHETIC_CELLS);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM yardstick"), 3);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM artifact"), 4);
    /* A new kernel is a new row of the same machine. */
    struct host_record host = {.cpu = "Synthetic CPU 9000",
                               .cpu_flags = "avx2",
                               .caches = "L1 32K, L2 512K, L3 32M",
                               .kernel = "6.2.0",
                               .virtual = "kvm",
                               .cores = 2,
                               .memory_bytes = (INT64_C(8) << 30) - 12345};
    int64_t id;
    assert_ok(store_host(&store, &host, &id));
    assert_int_equal((int)number(&store, "SELECT count(*) FROM host"), 2);
    assert_int_equal((int)number(&store, "SELECT count(DISTINCT fingerprint) FROM host"), 1);
    uint64_t seed;
    assert_ok(store_session_order_seed(&store, first, &seed));
    assert_int_equal(seed, 1);
    assert_int_equal(store_session_order_seed(&store, 99, &seed), E_NOT_FOUND);
    assert_int_equal(store_session_end(&store, 99), E_NOT_FOUND);
    size_t known;
    assert_ok(store_yardsticks_known(&store, "wordnet", settings.data_hash, &known));
    assert_int_equal(known, 3);
    store_close(&store);
}

static void resumes(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t session, unfinished;
    bool exists;
    settings.rounds = 1;
    settings.finished = false;
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &session));
    assert_ok(store_session_unfinished(&store, 1, 1, 1, 0xffffffff, &unfinished));
    assert_int_equal(unfinished, session);
    assert_ok(store_run_exists(&store, 1 + SYNTHETIC_FAILED, session, "build", 0, false, &exists));
    assert_false(exists);
    assert_ok(store_run_exists(&store, 1 + SYNTHETIC_FAILED, session, "build", 0, true, &exists));
    assert_true(exists);
    assert_ok(store_run_exists(&store, 1, session, "time", 0, false, &exists));
    assert_true(exists);
    /* The failed run is replaced, with all that hangs on it; the ok one is not. */
    struct run_record again = {.uuid = "again",
                               .kind = "build",
                               .status = "ok",
                               .cell_id = 1 + SYNTHETIC_FAILED,
                               .session_id = session,
                               .overhead_ms = NAN};
    double runs = number(&store, "SELECT count(*) FROM run");
    assert_ok(store_execute(&store, "INSERT INTO curve SELECT id, 0, 1, 1, 1, 1, 1 FROM run WHERE cell_id = 5;"
                                    "INSERT INTO evaluation SELECT id, 0, 1, 'accuracy', 1 FROM run WHERE cell_id = 5;"
                                    "INSERT INTO layer (run_id, stage, ordinal, layer, format, bytes_f32, bytes_packed)"
                                    " SELECT id, 0, 0, 'up', 'int8', 4, 1 FROM run WHERE cell_id = 5"));
    assert_ok(store_run(&store, &again));
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run"), (int)runs);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM curve u JOIN run r ON r.id = u.run_id"
                                         " WHERE r.cell_id = 5"),
                     0);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM layer l JOIN run r ON r.id = l.run_id"
                                         " WHERE r.cell_id = 5"),
                     0);
    again.uuid = "once more";
    assert_int_equal(store_run(&store, &again), E_STATE);
    assert_ok(store_session_end(&store, session));
    assert_ok(store_session_unfinished(&store, 1, 1, 1, 0xffffffff, &unfinished));
    assert_int_equal(unfinished, 0);
    /* Other kernels do not go on with it, and nobody once a later session is what reports show. */
    assert_ok(store_execute(&store, "UPDATE session SET ended_at = NULL"));
    assert_ok(store_session_unfinished(&store, 1, 1, 1, 0, &unfinished));
    assert_int_equal(unfinished, 0);
    assert_ok(store_session_unfinished(&store, 1, 1, 1, 0xffffffff, &unfinished));
    assert_int_equal(unfinished, session);
    settings.finished = true;
    int64_t later;
    assert_ok(synthetic_store(&store, &settings, &later));
    assert_true(later > session);
    assert_ok(store_session_unfinished(&store, 1, 1, 1, 0xffffffff, &unfinished));
    assert_int_equal(unfinished, 0);
    store_close(&store);
}

static void run_is_whole_or_absent(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t session;
    settings.rounds = 1;
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &session));
    double runs = number(&store, "SELECT count(*) FROM run"), samples = number(&store, "SELECT count(*) FROM sample");
    /* The second sample repeats the key of the first: refused, and nothing of the run stays. */
    struct sample_record twice[] = {{.batch = 1, .latency_ns = 5}, {.batch = 1, .latency_ns = 6}};
    struct run_record run = {.uuid = "torn",
                             .kind = "time",
                             .status = "ok",
                             .cell_id = 1,
                             .session_id = session,
                             .round = 50,
                             .samples = twice,
                             .sample_count = 2};
    assert_int_equal(store_run(&store, &run), E_STATE);
    struct metric_record stray = {"accuracy", "frac", 0.5, 3};
    run.sample_count = 0;
    run.metrics = &stray;
    run.metric_count = 1;
    assert_int_equal(store_run(&store, &run), E_ARGUMENT);
    run.metric_count = 0;
    struct curve_record step = {.stage = 0, .step = 1};
    run.curve = &step;
    run.curve_count = 1;
    assert_int_equal(store_run(&store, &run), E_ARGUMENT);
    run.curve_count = 0;
    struct evaluation_record score = {0, 1, "accuracy", 1};
    run.evaluations = &score;
    run.evaluation_count = 1;
    assert_int_equal(store_run(&store, &run), E_ARGUMENT);
    run.evaluation_count = 0;
    struct layer_record layer = {.stage = 0, .layer = "up", .format = "int8"};
    run.layers = &layer;
    run.layer_count = 1;
    assert_int_equal(store_run(&store, &run), E_ARGUMENT);
    run.layer_count = 0;
    run.cell_id = 4711; /* no such cell */
    assert_int_equal(store_run(&store, &run), E_STATE);
    run.cell_id = 1;
    run.status = "splendid";
    assert_int_equal(store_run(&store, &run), E_STATE);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run"), (int)runs);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM sample"), (int)samples);
    store_close(&store);
}

static void builds_are_served_from_cache(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t first, second, run_id;
    char artifact[128], found[128], hash[65], sql[512];
    const char *key = "0000000000000000000000000000000000000000000000000000000000000000";
    settings.rounds = 1;
    snprintf(artifact, sizeof artifact, "%s/artifact.bin", folder);
    file_write(artifact, "12345678");
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &first));
    for (int i = 0; i < SYNTHETIC_CELLS; i++) settings.status[i] = NULL;
    settings.rounds = 0;
    assert_ok(synthetic_store(&store, &settings, &second));
    snprintf(sql, sizeof sql,
             "UPDATE cell SET key = '%s' WHERE id = 2; UPDATE artifact SET path = '%s', bytes = 9"
             " WHERE id = 2",
             key, artifact);
    assert_ok(store_execute(&store, sql));
    assert_ok(store_build_cached(&store, key, &run_id, found, sizeof found, hash));
    assert_int_equal(run_id, 0); /* the size is another */
    assert_ok(store_execute(&store, "UPDATE artifact SET bytes = 8 WHERE id = 2"));
    assert_ok(store_build_cached(&store, key, &run_id, found, sizeof found, hash));
    assert_true(run_id > 0);
    assert_string_equal(found, artifact);
    assert_int_equal(strlen(hash), 64);
    assert_ok(store_run_copy(&store, run_id, 2, second, "copy"));
    assert_int_equal(store_run_copy(&store, run_id, 2, second, "copy2"), E_STATE);
    assert_int_equal(store_run_copy(&store, 4711, 3, second, "copy3"), E_NOT_FOUND);
    int64_t source = run_id;
    /* Found beside the database where the stored path leads nowhere. */
    snprintf(sql, sizeof sql, "%s/artifacts", folder);
    assert_int_equal(mkdir(sql, 0777), 0);
    snprintf(found, sizeof found, "%s/artifacts/%s.safetensors", folder, hash);
    assert_int_equal(rename(artifact, found), 0);
    assert_ok(store_build_cached(&store, key, &run_id, sql, sizeof sql, hash));
    assert_true(run_id > 0);
    assert_string_equal(sql, found);
    assert_int_equal(unlink(found), 0);
    assert_ok(store_build_cached(&store, key, &run_id, sql, sizeof sql, hash));
    assert_int_equal(run_id, 0);
    /* What is forgotten takes its rows with it, and only in that session. */
    double all = number(&store, "SELECT count(*) FROM run");
    assert_ok(store_runs_forget(&store, 2, second));
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run"), (int)all - 1);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run WHERE uuid = 'copy'"), 0);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM stage WHERE run_id NOT IN (SELECT id FROM run)"), 0);
    assert_ok(store_run_copy(&store, source, 2, second, "copy"));
    assert_int_equal((int)number(&store, "SELECT count(*) FROM stage JOIN run ON run.id = run_id WHERE uuid = 'copy'"
                                         " AND cached = 1"),
                     2);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM metric m JOIN run r ON r.id = m.run_id JOIN stage s ON"
                                         " s.id = m.stage_id WHERE r.uuid = 'copy' AND s.run_id = r.id"),
                     6);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM metric m JOIN run r ON r.id = m.run_id"
                                         " WHERE r.uuid = 'copy'"),
                     10);
    assert_int_equal(
        (int)number(&store,
                    "SELECT items FROM outcome JOIN run ON run.id = run_id WHERE uuid = 'copy' AND name = 'correct'"),
        SYNTHETIC_ITEMS);
    /* The curve came along, with the same steps. */
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run r JOIN curve u ON u.run_id = r.id JOIN run o ON"
                                         " o.cell_id = 2 AND o.kind = 'build' AND o.uuid <> 'copy' JOIN curve v ON"
                                         " v.run_id = o.id AND v.stage = u.stage AND v.step = u.step AND v.loss ="
                                         " u.loss AND v.seconds = u.seconds WHERE r.uuid = 'copy'"),
                     SYNTHETIC_STEPS);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM evaluation e JOIN run r ON r.id = e.run_id"
                                         " WHERE r.uuid = 'copy' AND e.metric = 'accuracy'"),
                     3);
    /* So did what the second stage told of layers. */
    assert_int_equal((int)number(&store, "SELECT count(*) FROM run r JOIN layer l ON l.run_id = r.id JOIN run o ON"
                                         " o.cell_id = 2 AND o.kind = 'build' AND o.uuid <> 'copy' JOIN layer k ON"
                                         " k.run_id = o.id AND k.layer = l.layer AND k.low = l.low AND k.histogram ="
                                         " l.histogram AND k.error = l.error WHERE r.uuid = 'copy'"),
                     SYNTHETIC_LAYERS);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM layers WHERE technique = 'rtn' AND layer = 'block.1.up'"
                                         " AND score_lost > 0 AND json_array_length(histogram) = 64"
                                         " AND high <= seen_high AND format = 'int8'"),
                     (int)number(&store, "SELECT count(DISTINCT run_id) FROM layer"));
    store_close(&store);
}

static void compares(void **state) {
    (void)state;
    struct store store = {0};
    assert_ok(synthetic_database(path));
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_int_equal((int)number(&store, "SELECT count(*) FROM result"), 4);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM timing"), 8);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM problem"), 2);
    /* int8 was made 0.55 of the baseline's time: drift cancels, so the interval is narrow and holds it. */
    double estimate = number(&store, "SELECT latency_ratio FROM result WHERE cell = 'rtn bits=8'");
    double lo = number(&store, "SELECT latency_ratio_lo FROM result WHERE cell = 'rtn bits=8'");
    double hi = number(&store, "SELECT latency_ratio_hi FROM result WHERE cell = 'rtn bits=8'");
    assert_true(lo < estimate && estimate < hi && lo < 0.55 && 0.55 < hi && hi - lo < 0.03);
    double ms = number(&store, "SELECT latency_ms_median FROM result WHERE is_baseline");
    assert_true(ms > 1.9 && ms < 2.4);
    double rate = number(&store, "SELECT tokens_per_s FROM result WHERE is_baseline");
    assert_true(fabs(rate * ms / 1000 / 16 - 1) < 0.02);
    assert_int_equal((int)number(&store, "SELECT latency_ratio FROM result WHERE is_baseline"), 1);
    assert_int_equal((int)number(&store, "SELECT n FROM comparison WHERE name = 'latency_ratio' AND cell_id = 2 AND"
                                         " batch = 32"),
                     10);
    /* int4 loses about a point, significantly; against the majority class the baseline is far ahead. */
    double loss = number(&store, "SELECT metric_difference FROM result WHERE cell = 'rtn bits=4 group=64'");
    assert_true(loss < -0.003 && loss > -0.03);
    double p = number(&store, "SELECT metric_p_value FROM result WHERE cell = 'rtn bits=4 group=64'");
    assert_true(p >= 0 && p < 0.05);
    assert_true(number(&store, "SELECT estimate FROM comparison WHERE name = 'vs_majority' AND cell_id = 1") > 0.6);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM comparison WHERE name LIKE 'vs_%'"), 12);
    assert_int_equal((int)number(&store, "SELECT count(*) FROM counter WHERE value IS NULL AND reason = ''"), 0);
    assert_true(number(&store, "SELECT count(*) FROM counter WHERE value IS NULL") > 0);
    /* Again: the same rows. */
    double sum = number(&store, "SELECT total(estimate) + total(lo) + total(hi) FROM comparison");
    assert_ok(store_compare(&store, 1, 0.95));
    assert_true(sum == number(&store, "SELECT total(estimate) + total(lo) + total(hi) FROM comparison"));
    /* A damaged outcome is named. */
    assert_ok(store_execute(&store, "UPDATE outcome SET items = 17 WHERE run_id = 1"));
    assert_int_equal(store_compare(&store, 1, 0.95), E_FORMAT);
    assert_true(sum == number(&store, "SELECT total(estimate) + total(lo) + total(hi) FROM comparison"));
    assert_int_equal(store_compare(&store, 1, 1.5), E_ARGUMENT);
    store_close(&store);
}

/* Two cells by hand, each without one of five rounds: warm-ups and failed rounds do not count, pairs are formed by
 * round. */
static void compares_by_hand(void **state) {
    (void)state;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t session;
    settings.rounds = 0;
    assert_ok(store_open(&store, path, STORE_WRITE));
    assert_ok(synthetic_store(&store, &settings, &session));
    /* Baseline and int8: 0 is a round that timed out; the three pairs have the ratios 1/2, 1, 2. */
    const double ms[2][5] = {{10, 0, 20, 40, 40}, {5, 7, 20, 80, 0}};
    for (int64_t cell = 0; cell < 2; cell++) {
        for (int64_t round = 0; round < 5; round++) {
            bool lost = ms[cell][round] == 0;
            double ns = lost ? 1e6 : ms[cell][round] * 1e6;
            char uuid[32];
            snprintf(uuid, sizeof uuid, "hand %d %d", (int)cell, (int)round);
            struct sample_record samples[] = {
                {.batch = 1, .ordinal = 0, .tokens = 8, .latency_ns = 9e9, .warmup = true},
                {.batch = 1, .ordinal = 1, .tokens = 8, .latency_ns = 9e9, .warmup = true},
                {.batch = 1, .ordinal = 2, .tokens = 8, .latency_ns = ns * 0.9},
                {.batch = 1, .ordinal = 3, .tokens = 8, .latency_ns = ns},
                {.batch = 1, .ordinal = 4, .tokens = 8, .latency_ns = ns * 50, .outlier = true}};
            struct run_record run = {.uuid = uuid,
                                     .kind = "time",
                                     .status = lost ? "timeout" : "ok",
                                     .cell_id = cell + 1,
                                     .session_id = session,
                                     .round = round,
                                     .samples = samples,
                                     .sample_count = 5};
            assert_ok(store_run(&store, &run));
        }
    }
    assert_ok(store_compare(&store, session, 0.95));
    assert_true(number(&store, "SELECT latency_ms_median FROM timing WHERE is_baseline") == 30);
    assert_true(number(&store, "SELECT latency_ms_median FROM timing WHERE NOT is_baseline") == 13.5);
    assert_true(number(&store, "SELECT rounds FROM timing WHERE NOT is_baseline") == 4);
    assert_true(fabs(number(&store, "SELECT latency_ratio FROM timing WHERE NOT is_baseline") - 1) < 1e-12);
    assert_true(fabs(number(&store, "SELECT tokens_per_s FROM result WHERE cell = 'rtn bits=8'") - 5400.0 / 7) < 1e-9);
    store_close(&store);
}

static void survives_lack_of_memory(void **state) {
    (void)state;
    struct store store = {0};
    assert_ok(synthetic_database(path));
    assert_ok(store_open(&store, path, STORE_WRITE));
    long allocations;
    memory_fail_after(0);
    assert_ok(store_compare(&store, 1, 0.95));
    allocations = memory_count();
    assert_true(allocations > 10);
    for (long n = 1; n <= allocations; n += n < 12 ? 1 : 7) {
        memory_fail_after(n);
        int status = store_compare(&store, 1, 0.95);
        memory_fail_after(0);
        assert_int_equal(status, E_MEMORY);
    }
    assert_int_equal((int)number(&store, "SELECT count(*) FROM timing"), 8);
    store_close(&store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(opens_new_and_again, file_clear),
        cmocka_unit_test_setup(refuses_what_is_not_ours, file_clear),
        cmocka_unit_test_setup(refuses_other_versions, file_clear),
        cmocka_unit_test_setup(refuses_read_only, file_clear),
        cmocka_unit_test_setup(says_when_locked, file_clear),
        cmocka_unit_test_setup(rows_are_found_again, file_clear),
        cmocka_unit_test_setup(resumes, file_clear),
        cmocka_unit_test_setup(run_is_whole_or_absent, file_clear),
        cmocka_unit_test_setup(builds_are_served_from_cache, file_clear),
        cmocka_unit_test_setup(compares, file_clear),
        cmocka_unit_test_setup(compares_by_hand, file_clear),
        cmocka_unit_test_setup(survives_lack_of_memory, file_clear),
    };
    return cmocka_run_group_tests_name("store", tests, folder_open, folder_close);
}
