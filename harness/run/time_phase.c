/* Timing: rounds over all cells in seeded random order, each run a fresh process, under the machine-wide lock.
 *
 * Every cell sees the same inputs: for each batch size, `samples` batches drawn from the test split once per
 * experiment. A round times each cell once, so that drift of the machine hits all alike and ratios to the
 * baseline can be formed round by round.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "measure/statistics.h"
#include "run/lock.h"
#include "run/session.h"

/* A job is one message. Checked before anything of that size is made. */
static int inputs_check(size_t inputs, size_t sequences, size_t tokens) {
    int status = 0;
    size_t words = 16 * inputs + 2 * sequences + tokens;
    if (inputs > TIMING_INPUTS_MAX || words > WIRE_MESSAGE_BYTES_MAX / sizeof(int32_t))
        FAIL(E_LIMIT,
             "measure: %zu samples of %zu sequences in all are more than one timing run is given (%d samples, %zu MiB);"
             " lower samples or batch",
             inputs, sequences, TIMING_INPUTS_MAX, WIRE_MESSAGE_BYTES_MAX >> 20);
out:
    return status;
}

struct timing_inputs {
    struct arena arena;
    struct timing_input *inputs; /* batch sizes one after another, samples each */
    uint32_t *items;             /* the test item of every sequence, in the same order */
    size_t count, sequences;
};

/* Ids of one timed sequence into `ids`: the item's own, or with `fixed` exactly so many, filled up from the items that
 * follow. Returns how many; ids NULL: only count. */
static uint32_t sequence_take(const struct examples *test, uint32_t item, size_t fixed, int32_t *ids) {
    size_t used = 0;
    for (size_t i = item;; i = (i + 1) % test->count) {
        size_t length = test->offset[i + 1] - test->offset[i];
        if (fixed && length > fixed - used) length = fixed - used;
        if (ids && length) memcpy(ids + used, test->ids + test->offset[i], length * sizeof *ids);
        used += length;
        if (!fixed || used == fixed) return (uint32_t)used;
    }
}

static int choose_inputs(struct session *session, struct timing_inputs *out) {
    int status = 0;
    const struct measure_plan *measure = &session->experiment->measure;
    size_t fixed = (size_t)measure->prompt_tokens, samples = (size_t)measure->samples, sequences = 0, tokens = 0,
           at = 0;
    TRY(session_examples(session, SPLIT_TEST));
    const struct examples *test = &session->examples[SPLIT_TEST].examples;
    if (!test->count || !test->offset[test->count]) FAIL(E_FORMAT, "the test split has no items to time");
    for (size_t b = 0; b < measure->batch_count; b++) sequences += measure->batch[b] * samples;
    TRY(inputs_check(measure->batch_count * samples, sequences, 0));
    TRY(memory_take((void **)&out->items, sequences, sizeof *out->items));
    out->sequences = sequences;
    for (size_t b = 0; b < measure->batch_count; b++) {
        uint64_t stream = random_stream("timing", measure->batch[b], 0);
        for (size_t i = 0; i < measure->batch[b] * samples; i++) {
            uint32_t item = (uint32_t)(random_uniform_at(0, stream, i) * (double)test->count);
            out->items[at++] = item;
            tokens += sequence_take(test, item, fixed, NULL);
        }
    }
    out->count = measure->batch_count * samples;
    TRY(inputs_check(out->count, sequences, tokens));
    TRY(arena_open(&out->arena, out->count * (sizeof *out->inputs + 5 * MEMORY_ALIGN) +
                                    (sequences + out->count) * (sizeof(uint32_t) + sizeof(int32_t)) +
                                    tokens * sizeof(int32_t) + 4096));
    TRY(arena_take(&out->arena, (void **)&out->inputs, out->count, sizeof *out->inputs));
    at = 0;
    for (size_t i = 0; i < out->count; i++) {
        size_t batch = measure->batch[i / samples], total = 0;
        uint32_t *offset;
        int32_t *ids, *expected;
        for (size_t s = 0; s < batch; s++) total += sequence_take(test, out->items[at + s], fixed, NULL);
        TRY(arena_take(&out->arena, (void **)&offset, batch + 1, sizeof *offset));
        TRY(arena_take(&out->arena, (void **)&ids, total, sizeof *ids));
        TRY(arena_take(&out->arena, (void **)&expected, batch, sizeof *expected));
        for (size_t s = 0; s < batch; s++) {
            offset[s + 1] = offset[s] + sequence_take(test, out->items[at + s], fixed, ids + offset[s]);
            expected[s] = -1;
        }
        out->inputs[i] = (struct timing_input){batch, ids, offset, expected};
        at += batch;
    }
out:
    return status;
}

/* Fill in the classes that this cell's scoring predicted. */
static int expect_classes(struct session *session, struct timing_inputs *inputs, size_t cell) {
    int status = 0;
    int32_t *predicted = NULL;
    size_t count = 0, at = 0;
    bool classifies = session->task.kind->objective == TRAIN_CLASSIFICATION;
    if (!classifies || session->experiment->measure.prompt_tokens) return 0; /* no classes to compare */
    TRY(store_predicted(session->store, session->cells[cell].id, session->id, &predicted, &count));
    for (size_t i = 0; i < inputs->count; i++) {
        int32_t *expected = (int32_t *)inputs->inputs[i].expected;
        for (size_t s = 0; s < inputs->inputs[i].batch; s++, at++) {
            if (inputs->items[at] >= count)
                FAIL(E_FORMAT,
                     "stored predictions are shorter than the test split; remove the database or choose another --db");
            expected[s] = predicted[inputs->items[at]];
        }
    }
out:
    memory_release(predicted);
    return status;
}

struct timing_reply {
    struct record record;
    bool have_result;
    int error_code;
    char error[600];
};

static void on_message(void *context, struct process *process, uint32_t kind, struct wire_reader *reader) {
    struct timing_reply *reply = context;
    (void)process;
    if (kind == MESSAGE_RESULT) {
        reply->error_code = record_decode(&reply->record, reader);
        reply->have_result = reply->error_code == 0;
        if (reply->error_code < 0) snprintf(reply->error, sizeof reply->error, "%s", error_text());
    } else if (kind == MESSAGE_ERROR) {
        reply->error_code = -(int)wire_get_u64(reader);
        const char *text = wire_get_text(reader);
        snprintf(reply->error, sizeof reply->error, "%s", text ? text : "");
    }
}

static bool same_kind(const struct sample_record *a, const struct sample_record *b) {
    return a->batch == b->batch && strcmp(a->phase ? a->phase : "", b->phase ? b->phase : "") == 0;
}

/* Flag outliers among the samples of each batch size and phase; warm-ups are left out. Samples of a kind lie together.
 */
static int flag_outliers(struct record *record) {
    int status = 0;
    double *values = NULL;
    bool *flags = NULL;
    size_t count = record->run.sample_count;
    TRY(memory_take((void **)&values, count, sizeof *values));
    TRY(memory_take((void **)&flags, count, sizeof *flags));
    for (size_t from = 0; from < count;) {
        size_t to = from, n = 0;
        while (to < count && same_kind(&record->samples[to], &record->samples[from])) to++;
        /* Per token: the inputs differ in length. */
        for (size_t i = from; i < to; i++)
            if (!record->samples[i].warmup)
                values[n++] = record->samples[i].latency_ns / (double)record->samples[i].tokens;
        statistics_outliers(values, n, flags);
        n = 0;
        for (size_t i = from; i < to; i++)
            if (!record->samples[i].warmup) record->samples[i].outlier = flags[n++];
        from = to;
    }
out:
    memory_release(values);
    memory_release(flags);
    return status;
}

static int time_cell(struct session *session, struct timing_inputs *inputs, size_t index, int64_t round,
                     int64_t position) {
    int status = 0;
    const struct experiment *e = session->experiment;
    const struct cell *cell = &e->cells[index];
    struct session_cell *state = &session->cells[index];
    struct timing_reply reply = {0};
    struct process process = {.log_fd = -1}, *ended = NULL, *list[1] = {&process};
    struct wire_writer writer = {0};
    char uuid[33], started_at[32], reason[800] = "", log[2048] = "";
    struct process_limits limits = {e->limits.wall_s, e->limits.memory_mb};
    struct timing_job job = {.artifact = state->artifact,
                             .limits = limits,
                             .threads = cell->threads,
                             .cpumask = session->settings->cpumask,
                             .gemm = cell->gemm,
                             .storage = cell->storage,
                             .warmup = (size_t)e->measure.warmup,
                             .samples = (size_t)e->measure.samples,
                             .new_tokens = (size_t)e->measure.new_tokens,
                             .cache = e->measure.cache,
                             .meters = e->measure.meters,
                             .meter_count = e->measure.meter_count,
                             .inputs = inputs->inputs,
                             .input_count = inputs->count};
    TRY(expect_classes(session, inputs, index));
    timing_job_encode(&job, &writer);
    run_uuid(uuid);
    run_timestamp(started_at);
    TRY(process_exec(&process, &limits, "worker-time", &writer));
    while (!ended) TRY(process_wait(list, 1, &run_interrupted, on_message, &reply, &ended));
    if (process.end == PROCESS_INTERRUPTED) FAIL(E_INTERRUPTED, "interrupted");
    struct run_record *run = &reply.record.run;
    bool ok = reply.have_result && process.end == PROCESS_EXITED && process.exit_code == 0;
    if (ok) TRY(flag_outliers(&reply.record));
    else {
        record_close(&reply.record);
        run_ending(run, &process, &limits, reply.error_code, reply.error, reason, sizeof reason);
        process_log(&process, log, sizeof log);
        state->state = CELL_FAILED;
    }
    if (ok) run->status = "ok";
    run->uuid = uuid;
    run->kind = "time";
    run->started_at = started_at;
    run->cell_id = state->id;
    run->session_id = session->id;
    run->round = round;
    run->position = position;
    run->reason = reason;
    run->log = log;
    run->wall_ms = (double)(process.ended_ns - process.started_ns) / 1e6;
    /* What the harness adds: everything from start to here but the process's start and the work itself. */
    uint64_t start_ns = reply.record.main_ns > process.started_ns ? reply.record.main_ns - process.started_ns : 0;
    run->overhead_ms = ok ? run->wall_ms - (double)(start_ns + reply.record.work_ns) / 1e6 : NAN;
    TRY(store_run(session->store, run));
    progress_done(&session->progress, cell->label, ok ? "ok" : reason, run->wall_ms / 1e3);
out:
    wire_writer_close(&writer);
    record_close(&reply.record);
    process_close(&process);
    return status;
}

static void say_waiting(void *context) {
    struct session *session = context;
    if (!session->settings->quiet) fprintf(stderr, "waiting: another runexp on this machine is in a timed window\n");
}

int session_time_cells(struct session *session) {
    int status = 0;
    const struct experiment *e = session->experiment;
    struct timing_inputs inputs = {0};
    uint32_t *order = NULL;
    size_t todo = 0;
    int lock = -1;
    TRY(memory_take((void **)&order, e->cell_count, sizeof *order));
    for (size_t i = 0; i < e->cell_count; i++)
        todo += session->cells[i].state == CELL_OK ? (size_t)e->measure.rounds : 0;
    if (!todo) goto out;
    TRY(choose_inputs(session, &inputs));
    TRY(lock_timing(&lock, say_waiting, session));
    progress_phase(&session->progress, "time", todo);
    for (int64_t round = 0; round < e->measure.rounds; round++) {
        random_permutation(session->order_seed, random_stream("round", (uint64_t)round, 0), order, e->cell_count);
        for (size_t k = 0; k < e->cell_count; k++) {
            size_t i = order[k];
            bool exists;
            if (session->cells[i].state != CELL_OK) continue;
            if (run_interrupted) FAIL(E_INTERRUPTED, "interrupted");
            TRY(store_run_exists(session->store, session->cells[i].id, session->id, "time", round, false, &exists));
            if (exists) {
                session->progress.done++;
                continue;
            }
            TRY(time_cell(session, &inputs, i, round, (int64_t)k));
        }
    }
out:
    lock_release(&lock);
    arena_close(&inputs.arena);
    memory_release(inputs.items);
    memory_release(order);
    return status;
}
