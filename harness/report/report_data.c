/* Reading one session for the page. All SQL of the table and the headline is here; the sections that list
 * rows as they are (stages, counters, problems) run their own small queries through the same helpers. */
#include "report/report_data.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

int rows_open(struct rows *rows, const struct report *report, const char *sql, int64_t third) {
    int status = 0;
    rows->statement = NULL;
    if (sqlite3_prepare_v2(report->db, sql, -1, &rows->statement, NULL) != SQLITE_OK)
        FAIL(E_FORMAT, "the database cannot be read for a report: %s", sqlite3_errmsg(report->db));
    sqlite3_int64 values[] = {report->session.id, report->experiment_id, third};
    int count = sqlite3_bind_parameter_count(rows->statement);
    for (int i = 0; i < count && i < 3; i++) sqlite3_bind_int64(rows->statement, i + 1, values[i]);
out:
    return status;
}

int rows_next(struct rows *rows, bool *more) {
    int code = sqlite3_step(rows->statement);
    *more = code == SQLITE_ROW;
    if (code == SQLITE_ROW || code == SQLITE_DONE) return 0;
    return error_record(E_IO, __FILE__, __LINE__, "the database cannot be read for a report: %s",
                        sqlite3_errmsg(sqlite3_db_handle(rows->statement)));
}

void rows_close(struct rows *rows) {
    sqlite3_finalize(rows->statement);
    rows->statement = NULL;
}

double rows_real(const struct rows *rows, int column) {
    if (sqlite3_column_type(rows->statement, column) == SQLITE_NULL) return NAN;
    return sqlite3_column_double(rows->statement, column);
}

const char *rows_view(const struct rows *rows, int column) {
    const unsigned char *text = sqlite3_column_text(rows->statement, column);
    return text ? (const char *)text : "";
}

int rows_text(struct rows *rows, int column, struct report *report, const char **text) {
    int status = 0;
    *text = NULL;
    if (sqlite3_column_type(rows->statement, column) == SQLITE_NULL) goto out;
    if (report->string_count == report->string_capacity) {
        size_t capacity = report->string_capacity ? 2 * report->string_capacity : 128;
        void *block = report->strings;
        TRY(memory_resize(&block, capacity, sizeof *report->strings));
        report->strings = block;
        report->string_capacity = capacity;
    }
    char *copy = NULL;
    TRY(memory_string(&copy, rows_view(rows, column)));
    report->strings[report->string_count++] = copy;
    *text = copy;
out:
    return status;
}

/* Copy `count` text columns from `first` on into the fields that `fields` points to. */
static int rows_texts(struct rows *rows, int first, struct report *report, const char **const *fields, int count) {
    int status = 0;
    for (int i = 0; i < count; i++) TRY(rows_text(rows, first + i, report, fields[i]));
out:
    return status;
}
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* The newest session that has runs, with its host and build. */
static int session_load(struct report *report, const char *experiment) {
    static const char sql[] =
        "SELECT s.id, e.id, s.rounds, s.samples, s.warmup, s.load_average, s.timing_valid, e.higher_is_better,"
        " h.cores, h.memory_bytes, b.dirty, s.host_id, s.build_id,"
        " s.started_at, s.ended_at, s.command, s.cpu_flags_used, s.warnings, s.timing_note,"
        " printf('%#x', s.cpumask), CAST(s.order_seed AS TEXT),"
        " e.name, e.hash, e.path, e.description, e.text, e.task, e.data_hash, e.model, e.primary_metric,"
        " h.cpu, h.cpu_flags, h.caches, h.kernel, h.governor, h.virtual,"
        " b.version, b.git_commit, b.mode, b.compiler, b.flags, b.blas, b.onednn"
        " FROM newest_session n JOIN session s ON s.id = n.session_id JOIN experiment e ON e.id = s.experiment_id"
        " JOIN host h ON h.id = s.host_id JOIN build b ON b.id = s.build_id WHERE n.experiment = ?";
    int status = 0;
    bool more = false;
    struct report_session *s = &report->session;
    struct rows rows = {0};
    TRY(rows_open(&rows, report, sql, 0));
    sqlite3_bind_text(rows.statement, 1, experiment, -1, SQLITE_TRANSIENT);
    TRY(rows_next(&rows, &more));
    if (!more)
        FAIL(E_NOT_FOUND, "experiment '%s' has no results in this database; `runexp list` shows what there is",
             experiment);
    s->id = sqlite3_column_int64(rows.statement, 0);
    report->experiment_id = sqlite3_column_int64(rows.statement, 1);
    s->rounds = rows_real(&rows, 2);
    s->samples = rows_real(&rows, 3);
    s->warmup = rows_real(&rows, 4);
    s->load_average = rows_real(&rows, 5);
    s->timing_valid = rows_real(&rows, 6) != 0;
    report->higher_is_better = rows_real(&rows, 7) != 0;
    report->cores = rows_real(&rows, 8);
    report->memory_bytes = rows_real(&rows, 9);
    report->dirty = rows_real(&rows, 10) != 0;
    report->host_id = sqlite3_column_int64(rows.statement, 11);
    report->build_id = sqlite3_column_int64(rows.statement, 12);
    const char **const fields[] = {
        &s->started_at,  &s->ended_at,         &s->command,      &s->cpu_flags_used, &s->warnings,
        &s->timing_note, &s->cpumask,          &s->order_seed,   &report->name,      &report->hash,
        &report->path,   &report->description, &report->config,  &report->task,      &report->data_hash,
        &report->model,  &report->metric,      &report->cpu,     &report->cpu_flags, &report->caches,
        &report->kernel, &report->governor,    &report->virtual, &report->version,   &report->commit,
        &report->mode,   &report->compiler,    &report->flags,   &report->blas,      &report->onednn,
    };
    TRY(rows_texts(&rows, 13, report, fields, COUNT(fields)));
out:
    rows_close(&rows);
    return status;
}

static int batches_load(struct report *report) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    TRY(rows_open(&rows, report,
                  "SELECT DISTINCT batch FROM comparison WHERE session_id = ?1 AND name = 'latency_ms' ORDER BY batch",
                  0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        void *block = report->batch;
        TRY(memory_resize(&block, report->batch_count + 1, sizeof *report->batch));
        report->batch = block;
        report->batch[report->batch_count++] = sqlite3_column_int64(rows.statement, 0);
    }
out:
    rows_close(&rows);
    return status;
}

static const struct report_estimate absent = {NAN, NAN, NAN, NAN, NAN, NULL};

/* Every cell of the plan, with its build run of this session where there is one. */
static int cells_load(struct report *report) {
    static const char sql[] =
        "SELECT c.id, r.id, c.threads, c.is_baseline, r.status = 'ok', a.bytes, a.linear_bytes, a.linear_f32_bytes,"
        " a.bits_per_weight, a.executes = 'simulated',"
        " (SELECT m.value FROM metric m WHERE m.run_id = r.id AND m.stage_id IS NULL AND m.name = e.primary_metric"
        "   AND r.status = 'ok'),"
        " (SELECT MAX(t.peak_rss_bytes) FROM run t WHERE t.cell_id = c.id AND t.session_id = ?1 AND t.kind = 'time'"
        "   AND t.status = 'ok'),"
        " (SELECT COUNT(*) FROM run t WHERE t.cell_id = c.id AND t.session_id = ?1 AND t.kind = 'time'"
        "   AND t.status <> 'ok'),"
        " c.label, c.pipeline, c.options, c.key, c.baseline_key, c.gemm, CAST(c.seed AS TEXT),"
        " coalesce(r.status, 'not run'), coalesce(r.reason, 'no run of this cell in the session'), a.hash"
        " FROM cell c JOIN experiment e ON e.id = c.experiment_id"
        " LEFT JOIN run r ON r.cell_id = c.id AND r.session_id = ?1 AND r.kind = 'build'"
        "   AND r.round = (SELECT MAX(x.round) FROM run x WHERE x.cell_id = c.id AND x.session_id = ?1 AND x.kind = "
        "'build')"
        " LEFT JOIN artifact a ON a.id = r.artifact_id"
        " WHERE c.experiment_id = ?2 ORDER BY c.ordinal, c.id";
    int status = 0;
    bool more = false;
    size_t capacity = 0;
    struct rows rows = {0};
    TRY(rows_open(&rows, report, sql, 0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        if (report->cell_count == capacity) {
            capacity = capacity ? 2 * capacity : 32;
            void *block = report->cells;
            TRY(memory_resize(&block, capacity, sizeof *report->cells));
            report->cells = block;
        }
        struct report_cell *cell = &report->cells[report->cell_count++];
        *cell = (struct report_cell){.id = sqlite3_column_int64(rows.statement, 0),
                                     .run_id = sqlite3_column_int64(rows.statement, 1),
                                     .number = (int)report->cell_count,
                                     .threads = sqlite3_column_int64(rows.statement, 2),
                                     .is_baseline = rows_real(&rows, 3) != 0,
                                     .ok = rows_real(&rows, 4) == 1,
                                     .file_bytes = rows_real(&rows, 5),
                                     .linear_bytes = rows_real(&rows, 6),
                                     .linear_f32_bytes = rows_real(&rows, 7),
                                     .bits_per_weight = rows_real(&rows, 8),
                                     .has_artifact = !isnan(rows_real(&rows, 5)),
                                     .simulated = rows_real(&rows, 9) == 1,
                                     .quality = rows_real(&rows, 10),
                                     .peak_rss_bytes = rows_real(&rows, 11),
                                     .failed_rounds = rows_real(&rows, 12),
                                     .difference = absent,
                                     .prefill = {absent, absent, absent},
                                     .decode = {absent, absent, absent}};
        const char **const fields[] = {&cell->label,        &cell->pipeline,     &cell->options, &cell->key,
                                       &cell->baseline_key, &cell->gemm,         &cell->seed,    &cell->status,
                                       &cell->reason,       &cell->artifact_hash};
        TRY(rows_texts(&rows, 13, report, fields, COUNT(fields)));
        void *timing = NULL;
        TRY(memory_take(&timing, report->batch_count, sizeof *cell->timing));
        cell->timing = timing;
        for (size_t b = 0; b < report->batch_count; b++)
            cell->timing[b] = (struct report_timing){absent, absent, absent};
    }
out:
    rows_close(&rows);
    return status;
}

/* Where a row of `comparison` belongs; NULL when the page does not show it in the table. */
static struct report_estimate *estimate_of(struct report *report, struct report_cell *cell, const char *name,
                                           int64_t batch) {
    if (strcmp(name, "metric_difference") == 0) return &cell->difference;
    struct {
        const char *name;
        struct report_estimate *target;
    } const phases[] = {{"prefill_ms", &cell->prefill.latency_ms},
                        {"prefill_ratio", &cell->prefill.ratio},
                        {"prefill_tokens_per_s", &cell->prefill.tokens_per_s},
                        {"decode_ms", &cell->decode.latency_ms},
                        {"decode_ratio", &cell->decode.ratio},
                        {"decode_tokens_per_s", &cell->decode.tokens_per_s}};
    for (int i = 0; i < COUNT(phases); i++)
        if (strcmp(name, phases[i].name) == 0) {
            report->has_phases = true;
            return phases[i].target;
        }
    for (size_t b = 0; b < report->batch_count; b++) {
        if (report->batch[b] != batch) continue;
        if (strcmp(name, "latency_ms") == 0) return &cell->timing[b].latency_ms;
        if (strcmp(name, "latency_ratio") == 0) return &cell->timing[b].ratio;
        if (strcmp(name, "tokens_per_s") == 0) return &cell->timing[b].tokens_per_s;
    }
    return NULL;
}

static int comparisons_load(struct report *report) {
    int status = 0;
    bool more = false;
    size_t at = 0;
    struct rows rows = {0};
    TRY(rows_open(&rows, report,
                  "SELECT k.cell_id, k.batch, k.estimate, k.lo, k.hi, k.p_value, k.n, k.name, k.method"
                  " FROM comparison k JOIN cell c ON c.id = k.cell_id WHERE k.session_id = ?1 AND c.experiment_id = ?2 "
                  "ORDER BY c.ordinal, c.id",
                  0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        int64_t id = sqlite3_column_int64(rows.statement, 0);
        while (at < report->cell_count && report->cells[at].id != id) at++;
        if (at == report->cell_count) break;
        struct report_estimate *target =
            estimate_of(report, &report->cells[at], rows_view(&rows, 7), sqlite3_column_int64(rows.statement, 1));
        if (!target) continue;
        *target = (struct report_estimate){rows_real(&rows, 2), rows_real(&rows, 3), rows_real(&rows, 4),
                                           rows_real(&rows, 5), rows_real(&rows, 6), NULL};
        TRY(rows_text(&rows, 8, report, &target->method));
    }
out:
    rows_close(&rows);
    return status;
}

/* The unit of the primary metric and how many items were scored. */
static int quality_load(struct report *report) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    TRY(rows_open(
        &rows, report,
        "SELECT m.unit, (SELECT MAX(o.items) FROM outcome o JOIN run q ON q.id = o.run_id WHERE q.session_id = ?1),"
        " (SELECT MAX(k.n) FROM comparison k WHERE k.session_id = ?1 AND k.name = 'metric_difference')"
        " FROM metric m JOIN run r ON r.id = m.run_id JOIN experiment e ON e.id = ?2"
        " WHERE r.session_id = ?1 AND m.name = e.primary_metric AND m.stage_id IS NULL LIMIT 1",
        0));
    TRY(rows_next(&rows, &more));
    report->test_items = NAN;
    if (more) {
        TRY(rows_text(&rows, 0, report, &report->metric_unit));
        report->test_items = rows_real(&rows, 1);
        if (isnan(report->test_items)) report->test_items = rows_real(&rows, 2);
    }
    report->quality_scale = report->metric_unit && strcmp(report->metric_unit, "frac") == 0 ? 100 : 1;
out:
    rows_close(&rows);
    return status;
}

/* Is `stage` (the newest of the list) the baseline's own stage, with nothing different before it? */
static bool stage_shared(const struct report *report, const struct report_stage *stage) {
    if (!report->baseline || stage->cell == report->baseline) return false;
    if (stage->ordinal > 0 && !(stage > report->stages && stage[-1].cell == stage->cell && stage[-1].shared))
        return false;
    for (size_t i = 0; i < report->stage_count; i++) {
        const struct report_stage *other = &report->stages[i];
        if (other->cell == report->baseline && other->ordinal == stage->ordinal)
            return strcmp(other->technique, stage->technique) == 0 && strcmp(other->options, stage->options) == 0;
    }
    return false;
}

/* Stages with their quality; the baseline is the first ok cell of the plan, so its stages are read before others'. */
static int stages_load(struct report *report) {
    static const char sql[] =
        "SELECT c.id, g.id, g.ordinal, g.cached, g.wall_ms, g.linear_bytes, g.total_bytes,"
        " (SELECT m.value FROM metric m WHERE m.stage_id = g.id AND m.run_id = r.id AND m.name = e.primary_metric),"
        " g.technique, g.options FROM stage g JOIN run r ON r.id = g.run_id JOIN cell c ON c.id = r.cell_id"
        " JOIN experiment e ON e.id = c.experiment_id"
        " WHERE r.session_id = ?1 AND c.experiment_id = ?2 AND r.kind = 'build' AND r.status = 'ok'"
        " ORDER BY c.is_baseline DESC, c.ordinal, c.id, r.round, g.ordinal";
    int status = 0;
    bool more = false;
    size_t capacity = 0;
    struct rows rows = {0};
    TRY(rows_open(&rows, report, sql, 0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        const struct report_cell *cell = NULL;
        for (size_t i = 0; i < report->cell_count && !cell; i++)
            if (report->cells[i].id == sqlite3_column_int64(rows.statement, 0)) cell = &report->cells[i];
        if (!cell) continue;
        if (report->stage_count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            void *block = report->stages;
            TRY(memory_resize(&block, capacity, sizeof *report->stages));
            report->stages = block;
        }
        struct report_stage *stage = &report->stages[report->stage_count++];
        *stage = (struct report_stage){.cell = cell,
                                       .id = sqlite3_column_int64(rows.statement, 1),
                                       .ordinal = sqlite3_column_int(rows.statement, 2),
                                       .cached = rows_real(&rows, 3) == 1,
                                       .wall_ms = rows_real(&rows, 4),
                                       .linear_bytes = rows_real(&rows, 5),
                                       .total_bytes = rows_real(&rows, 6),
                                       .quality = rows_real(&rows, 7),
                                       .technique = "",
                                       .options = "",
                                       .linear_bytes_before = NAN,
                                       .quality_before = NAN};
        TRY(rows_text(&rows, 8, report, &stage->technique));
        TRY(rows_text(&rows, 9, report, &stage->options));
        if (stage > report->stages && stage[-1].cell == cell) {
            stage->linear_bytes_before = stage[-1].linear_bytes;
            stage->quality_before = stage[-1].quality;
        }
        stage->shared = stage_shared(report, stage);
    }
out:
    rows_close(&rows);
    return status;
}

/* Numbers of cells by outcome, the baseline, and one series per distinct pipeline in order of appearance. */
static void cells_count(struct report *report) {
    int series = 0;
    for (size_t i = 0; i < report->cell_count; i++) {
        struct report_cell *cell = &report->cells[i];
        if (cell->ok) report->ok_count++;
        else if (strcmp(cell->status, "skipped") == 0) report->skipped_count++;
        else if (cell->run_id == 0) report->not_run_count++;
        else report->failed_count++;
        if (cell->ok && cell->simulated) report->simulated_count++;
        if (cell->is_baseline && cell->ok) {
            if (!report->baseline) report->baseline = cell;
            report->baseline_count++;
        }
        if (cell->is_baseline) continue;
        for (size_t j = 0; j < i && !cell->series; j++)
            if (!report->cells[j].is_baseline && strcmp(report->cells[j].pipeline, cell->pipeline) == 0)
                cell->series = report->cells[j].series;
        if (!cell->series) cell->series = ++series;
    }
}

int report_load(struct report *report, sqlite3 *db, const char *experiment) {
    int status = 0;
    *report = (struct report){.db = db};
    TRY(session_load(report, experiment));
    TRY(batches_load(report));
    TRY(cells_load(report));
    TRY(comparisons_load(report));
    TRY(quality_load(report));
    cells_count(report);
    TRY(stages_load(report));
out:
    return status;
}

void report_close(struct report *report) {
    for (size_t i = 0; i < report->cell_count; i++) memory_release(report->cells[i].timing);
    for (size_t i = 0; i < report->string_count; i++) memory_release(report->strings[i]);
    memory_release(report->cells);
    memory_release(report->stages);
    memory_release(report->strings);
    memory_release(report->batch);
    *report = (struct report){0};
}

const struct report_cell *report_baseline_of(const struct report *report, const struct report_cell *cell) {
    for (size_t i = 0; i < report->cell_count; i++)
        if (report->cells[i].ok && report->cells[i].is_baseline &&
            strcmp(report->cells[i].key, cell->baseline_key) == 0)
            return &report->cells[i];
    return NULL;
}
