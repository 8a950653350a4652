/* Builds: every cell's artifact and scores, from the cache or by a worker, several at once with --jobs.
 *
 * A cell waits while another worker is making the cached prefix it would use, so that expensive stages run
 * once. The parent alone writes to the database, one transaction per run.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/threads.h"
#include "run/foresee.h"
#include "run/session.h"
#include "run/stage_cache.h"

#define JOBS_MAX 64

struct build_slot {
    bool busy;
    struct session *session;
    struct process process;
    size_t cell;
    struct build_job job;
    struct examples views[SPLITS];
    struct record record;
    bool have_result, skipped;
    int error_code;
    char error[600], uuid[33], started_at[32];
    char doing[256]; /* what it last said it was doing */
};

static void on_message(void *context, struct process *process, uint32_t kind, struct wire_reader *reader) {
    struct build_slot *slot = process->owner;
    struct session *session = context;
    const char *label = session->experiment->cells[slot->cell].label;
    if (kind == MESSAGE_PROGRESS) {
        double fraction = wire_get_f64(reader);
        const char *text = wire_get_text(reader);
        double left_s = wire_get_f64(reader);
        if (reader->bad) return;
        snprintf(slot->doing, sizeof slot->doing, "%s", text ? text : "");
        progress_update(&session->progress, label, fraction, slot->doing, left_s);
    } else if (kind == MESSAGE_RESULT) {
        slot->error_code = record_decode(&slot->record, reader);
        if (slot->error_code < 0) snprintf(slot->error, sizeof slot->error, "%s", error_text());
        slot->have_result = slot->error_code == 0;
    } else if (kind == MESSAGE_ERROR || kind == MESSAGE_SKIPPED) {
        if (kind == MESSAGE_ERROR) slot->error_code = -(int)wire_get_u64(reader);
        slot->skipped = kind == MESSAGE_SKIPPED;
        const char *text = wire_get_text(reader);
        snprintf(slot->error, sizeof slot->error, "%s", text ? text : "");
    }
}

/* The longest prefix that the cache could serve, whether it is there or not; 0: none. */
static size_t cacheable_prefix(const struct cell *cell) {
    for (size_t n = cell->stage_count; n > 0; n--)
        if (stage_needs(&cell->stages[n - 1]) & NEEDS_CACHE) return n;
    return 0;
}

/* What the stages need that no cached model makes superfluous. */
static uint32_t needs_ahead(const struct session *session, size_t index) {
    const struct cell *cell = &session->experiment->cells[index];
    uint32_t needs = 0;
    for (size_t n = cell->stage_count; n > 0; n--) {
        uint32_t own = stage_needs(&cell->stages[n - 1]);
        if ((own & NEEDS_CACHE) && stage_cache_has(session->cache_dir, session->cells[index].prefix_keys[n])) break;
        needs |= own;
    }
    return needs;
}

static bool must_wait(const struct session *session, const struct build_slot *slots, size_t slot_count, size_t index) {
    const struct cell *cell = &session->experiment->cells[index];
    for (size_t i = 0; i < slot_count && !cell->is_baseline; i++)
        if (slots[i].busy && slots[i].cell == cell->baseline) return true; /* it is compared with that one's file */
    for (size_t n = 1; n <= cacheable_prefix(cell); n++) {
        if (!(stage_needs(&cell->stages[n - 1]) & NEEDS_CACHE)) continue;
        const char *key = session->cells[index].prefix_keys[n];
        if (stage_cache_has(session->cache_dir, key)) continue;
        for (size_t i = 0; i < slot_count; i++) {
            if (!slots[i].busy) continue;
            const struct cell *other = &session->experiment->cells[slots[i].cell];
            for (size_t m = 1; m <= other->stage_count; m++)
                if (strcmp(session->cells[slots[i].cell].prefix_keys[m], key) == 0) return true;
        }
    }
    return false;
}

static int start_build(struct session *session, struct build_slot *slot, size_t index, int threads) {
    int status = 0;
    const struct cell *cell = &session->experiment->cells[index];
    const struct limits_plan *limits = &session->experiment->limits;
    *slot = (struct build_slot){.busy = true, .session = session, .cell = index};
    run_uuid(slot->uuid);
    run_timestamp(slot->started_at);
    slot->job = (struct build_job){.experiment = session->experiment,
                                   .cell = cell,
                                   .task = &session->task,
                                   .tokenizer = session->tokenizer,
                                   .tokenizer_json = session->tokenizer_json,
                                   .prefix_keys = (const char(*)[HASH_HEX])session->cells[index].prefix_keys,
                                   .cache_dir = session->cache_dir,
                                   .artifact_dir = session->artifact_dir,
                                   .uuid = slot->uuid,
                                   .threads = threads};
    const struct session_cell *baseline = &session->cells[cell->baseline];
    if (!cell->is_baseline && baseline->state == CELL_OK) slot->job.baseline = baseline->artifact;
    for (int split = 0; split < SPLITS; split++)
        if (session->examples_open[split]) slot->job.split[split] = &session->examples[split].examples;
    if (session->training_open) slot->job.training = &session->training.examples;
    if (session->unlabelled_open) slot->job.unlabelled = &session->unlabelled.examples;
    slot->process.owner = slot;
    TRY(process_fork(&slot->process, &(struct process_limits){limits->wall_s, limits->memory_mb}, worker_build,
                     &slot->job));
out:
    if (status < 0) slot->busy = false;
    return status;
}

/* Behind the reason for which a build was stopped from outside: what it was at, and whether that is lost. */
static void stopped_where(const struct session *session, const struct build_slot *slot, char *reason, size_t size) {
    const struct cell *cell = &session->experiment->cells[slot->cell];
    size_t used = strlen(reason);
    if (slot->error_code || slot->process.end == PROCESS_EXITED) return;
    if (*slot->doing) used += (size_t)snprintf(reason + used, size - used, "; it was at %s", slot->doing);
    for (size_t n = 1; n <= cell->stage_count && used < size; n++)
        if (checkpoint_exists(session->cache_dir, session->cells[slot->cell].prefix_keys[n])) {
            snprintf(reason + used, size - used, "; run again, it goes on from its last checkpoint");
            return;
        }
}

/* Store how a build ended. */
static int finish_build(struct session *session, struct build_slot *slot) {
    int status = 0;
    const struct cell *cell = &session->experiment->cells[slot->cell];
    struct session_cell *state = &session->cells[slot->cell];
    const struct limits_plan *limits = &session->experiment->limits;
    char reason[800] = "", log[2048] = "";
    struct run_record *run = &slot->record.run;
    run->uuid = slot->uuid;
    run->kind = "build";
    run->started_at = slot->started_at;
    run->cell_id = state->id;
    run->session_id = session->id;
    run->wall_ms = (double)(slot->process.ended_ns - slot->process.started_ns) / 1e6;
    run->overhead_ms = NAN;
    run->reason = reason;
    run->log = log;
    if (slot->have_result && slot->process.end == PROCESS_EXITED && slot->process.exit_code == 0) {
        run->status = "ok";
        state->state = CELL_OK;
        snprintf(state->artifact, sizeof state->artifact, "%s", run->artifact->path);
    } else {
        record_close(&slot->record);
        *run = (struct run_record){.uuid = slot->uuid,
                                   .kind = "build",
                                   .started_at = slot->started_at,
                                   .cell_id = state->id,
                                   .session_id = session->id,
                                   .wall_ms = run->wall_ms,
                                   .overhead_ms = NAN,
                                   .reason = reason,
                                   .log = log};
        run->wall_ms = (double)(slot->process.ended_ns - slot->process.started_ns) / 1e6;
        state->state = slot->skipped ? CELL_SKIPPED : CELL_FAILED;
        if (slot->skipped) {
            run->status = "skipped";
            snprintf(reason, sizeof reason, "%s", slot->error);
        } else {
            run_ending(run, &slot->process, &(struct process_limits){limits->wall_s, limits->memory_mb},
                       slot->error_code, slot->error, reason, sizeof reason);
            stopped_where(session, slot, reason, sizeof reason);
        }
        process_log(&slot->process, log, sizeof log);
    }
    char outcome[900];
    snprintf(outcome, sizeof outcome, "%s%s%s", run->status, *reason ? ": " : "", reason);
    if (slot->process.end == PROCESS_INTERRUPTED) goto out; /* it will be run again: not a result */
    TRY(store_run(session->store, run));
    progress_done(&session->progress, cell->label, outcome, run->wall_ms / 1e3);
out:
    record_close(&slot->record);
    process_close(&slot->process);
    slot->busy = false;
    return status;
}

/* Take what this session has already, and what the cache can serve. A build of this session whose file is gone is
 * forgotten with its rounds, so that it can be built and timed again. */
static int serve_from_store(struct session *session, size_t index, bool *served) {
    int status = 0;
    struct session_cell *state = &session->cells[index];
    const struct cell *cell = &session->experiment->cells[index];
    char hash[HASH_HEX], uuid[33], actual[HASH_HEX];
    bool exists;
    int64_t run_id = 0;
    *served = false;
    if (cell->skip_reason) {
        char started_at[32];
        run_uuid(uuid);
        run_timestamp(started_at);
        struct run_record run = {.uuid = uuid,
                                 .kind = "build",
                                 .status = "skipped",
                                 .reason = cell->skip_reason,
                                 .log = "",
                                 .started_at = started_at,
                                 .cell_id = state->id,
                                 .session_id = session->id,
                                 .overhead_ms = NAN};
        TRY(store_run(session->store, &run));
        state->state = CELL_SKIPPED;
        *served = true;
        goto out;
    }
    TRY(store_run_exists(session->store, state->id, session->id, "build", 0, false, &exists));
    TRY(store_build_cached(session->store, state->key, &run_id, state->artifact, sizeof state->artifact, hash));
    if (run_id) {
        TRY(hash_file(state->artifact, actual));
        if (strcmp(actual, hash) != 0) { /* the file was changed: build it again */
            unlink(state->artifact);
            run_id = 0;
        }
    }
    if (!run_id) {
        if (exists) TRY(store_runs_forget(session->store, state->id, session->id));
        /* What failed in the session that is continued is not repeated unless asked. */
        char ended[16];
        TRY(store_run_status(session->store, state->id, session->id, "build", 0, ended));
        if (*ended && strcmp(ended, "ok") != 0 && !session->settings->retry_failed) {
            state->state = strcmp(ended, "skipped") == 0 ? CELL_SKIPPED : CELL_FAILED;
            session->summary->kept += state->state == CELL_FAILED;
            *served = true;
        }
        goto out;
    }
    if (!exists) {
        run_uuid(uuid);
        TRY(store_run_copy(session->store, run_id, state->id, session->id, uuid));
    }
    state->state = CELL_OK;
    *served = true;
out:
    return status;
}

/* Read through the cached models that pending cells would begin from, each once. What is damaged goes: its stages run
 * again, and what they need is known before workers start. */
static int cache_check(struct session *session, const size_t *pending, size_t count) {
    int status = 0;
    const char **known = NULL;
    size_t known_count = 0;
    TRY(memory_take((void **)&known, count, sizeof *known));
    for (size_t p = 0; p < count; p++) {
        const struct cell *cell = &session->experiment->cells[pending[p]];
        bool whole = false;
        for (size_t n = cell->stage_count; n > 0 && !whole; n--) {
            const char *key = session->cells[pending[p]].prefix_keys[n];
            if (!(stage_needs(&cell->stages[n - 1]) & NEEDS_CACHE) || !stage_cache_has(session->cache_dir, key))
                continue;
            for (size_t k = 0; k < known_count && !whole; k++) whole = strcmp(known[k], key) == 0;
            if (whole) break;
            TRY(stage_cache_check(session->cache_dir, key, n, &whole));
            if (whole) known[known_count++] = key;
            else log_line(LOG_WARN, "%s/%s: the cached model was damaged; it is made again", session->cache_dir, key);
        }
    }
out:
    memory_release(known);
    return status;
}

int session_build_cells(struct session *session) {
    int status = 0;
    const struct experiment *e = session->experiment;
    struct build_slot *slots = NULL;
    size_t slot_count = (size_t)(session->settings->jobs < JOBS_MAX ? session->settings->jobs : JOBS_MAX);
    size_t *pending = NULL, pending_count = 0, running = 0, done = 0;
    bool *started = NULL;
    TRY(memory_take((void **)&slots, slot_count, sizeof *slots));
    TRY(memory_take((void **)&pending, e->cell_count, sizeof *pending));
    TRY(memory_take((void **)&started, e->cell_count, sizeof *started));
    TRY(session_tokenizer(session));
    TRY(foresee_cells(session->experiment, &session->task, session->tokenizer));
    for (size_t i = 0; i < e->cell_count; i++) {
        bool served;
        TRY(serve_from_store(session, i, &served));
        if (!served) pending[pending_count++] = i;
    }
    if (!pending_count) goto out;
    TRY(cache_check(session, pending, pending_count));
    /* Tokenizing in the parent, before workers share it. */
    TRY(session_examples(session, SPLIT_VALIDATION));
    TRY(session_examples(session, SPLIT_TEST));
    for (size_t i = 0; i < pending_count; i++) TRY(session_training(session, needs_ahead(session, pending[i])));
    int threads = session->cpus / (int)slot_count;
    if (threads < 1) threads = 1;
    progress_phase(&session->progress, "build", pending_count);
    while (done < pending_count) {
        struct process *live[JOBS_MAX], *ended;
        size_t live_count = 0;
        for (size_t s = 0; s < slot_count && !run_interrupted; s++) {
            if (slots[s].busy) continue;
            for (size_t p = 0; p < pending_count; p++) {
                if (started[p] || must_wait(session, slots, slot_count, pending[p])) continue;
                TRY(start_build(session, &slots[s], pending[p], threads));
                started[p] = true;
                running++;
                break;
            }
        }
        if (run_interrupted && !running) FAIL(E_INTERRUPTED, "interrupted");
        for (size_t s = 0; s < slot_count; s++)
            if (slots[s].busy) live[live_count++] = &slots[s].process;
        TRY(process_wait(live, live_count, &run_interrupted, on_message, session, &ended));
        if (!ended) continue;
        TRY(finish_build(session, ended->owner));
        running--;
        done++;
    }
    if (run_interrupted) FAIL(E_INTERRUPTED, "interrupted");
out:
    for (size_t s = 0; slots && s < slot_count; s++)
        if (slots[s].busy) {
            process_close(&slots[s].process);
            record_close(&slots[s].record);
        }
    memory_release(slots);
    memory_release(pending);
    memory_release(started);
    return status;
}

/* ---- yardsticks: computed once per data set, by a worker ------------------------------------------------ */

#define YARDSTICKS_MAX 8

static int yardstick_body(void *context, int fd) {
    int status = 0;
    struct session *session = context;
    struct task_yardstick yardsticks[YARDSTICKS_MAX] = {0};
    size_t count = 0, items = session->task.split[SPLIT_TEST].count;
    struct wire_writer writer = {0};
    threads_set(session->cpus);
    TRY(task_yardsticks(&session->task, yardsticks, &count));
    wire_put_u64(&writer, count);
    for (size_t i = 0; i < count; i++) {
        wire_put_text(&writer, yardsticks[i].name);
        wire_put_f64(&writer, yardsticks[i].accuracy_frac);
        wire_put_bytes(&writer, yardsticks[i].correct, items);
    }
    TRY(wire_send(fd, MESSAGE_RESULT, &writer));
out:
    task_yardsticks_close(yardsticks, count);
    wire_writer_close(&writer);
    return status;
}

struct yardstick_reply {
    struct session *session;
    int status;
};

static void on_yardsticks(void *context, struct process *process, uint32_t kind, struct wire_reader *reader) {
    struct yardstick_reply *reply = context;
    struct session *session = reply->session;
    (void)process;
    if (kind == MESSAGE_ERROR) {
        int code = -(int)wire_get_u64(reader);
        const char *text = wire_get_text(reader);
        reply->status = error_record(code, __FILE__, __LINE__, "yardsticks: %s", text ? text : "");
    }
    if (kind != MESSAGE_RESULT) return;
    uint64_t count = wire_get_u64(reader);
    for (uint64_t i = 0; i < count && i < YARDSTICKS_MAX && reply->status == 0; i++) {
        const char *name = wire_get_text(reader);
        double accuracy_frac = wire_get_f64(reader);
        size_t items;
        const uint8_t *correct = wire_get_bytes(reader, &items);
        if (reader->bad || items != session->task.split[SPLIT_TEST].count) {
            reply->status = error_record(E_FORMAT, __FILE__, __LINE__, "yardsticks: malformed result");
            return;
        }
        reply->status = store_yardstick(session->store, session->experiment->task->name, session->task.data_hash, name,
                                        accuracy_frac, correct, items);
    }
}

int session_yardsticks(struct session *session) {
    int status = 0;
    size_t known;
    struct process process = {.log_fd = -1}, *ended = NULL, *list[1] = {&process};
    struct yardstick_reply reply = {session, 0};
    if (session->task.classes < 2 || !session->task.split[SPLIT_TRAIN].count ||
        !session->task.split[SPLIT_VALIDATION].count)
        goto out; /* they are classifiers that need training */
    TRY(store_yardsticks_known(session->store, session->experiment->task->name, session->task.data_hash, &known));
    if (known) goto out;
    progress_phase(&session->progress, "yardsticks", 1);
    TRY(process_fork(&process, &(struct process_limits){session->experiment->limits.wall_s, 0}, yardstick_body,
                     session));
    while (!ended) TRY(process_wait(list, 1, &run_interrupted, on_yardsticks, &reply, &ended));
    if (process.end == PROCESS_INTERRUPTED) FAIL(E_INTERRUPTED, "interrupted");
    TRY(reply.status);
    progress_done(&session->progress, "linear classifiers", process.end == PROCESS_EXITED ? "ok" : "failed",
                  (double)(process.ended_ns - process.started_ns) / 1e9);
out:
    process_close(&process);
    return status;
}
