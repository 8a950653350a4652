/* See session.h: what is fixed before anything runs. */
#include "run/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "machine.h"
#include "run/keys.h"
#include "run/stage_cache.h"

void run_uuid(char text[33]) {
    uint8_t bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        uint64_t words[2] = {clock_ns(), (uint64_t)getpid()};
        memcpy(bytes, words, sizeof bytes);
    }
    for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

void run_timestamp(char text[32]) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t used = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + used, 32 - used, ".%03ldZ", now.tv_nsec / 1000000);
}

void run_ending(struct run_record *run, const struct process *process, const struct process_limits *limits,
                int error_code, const char *error, char *reason, size_t size) {
    run->signal = process->signal;
    run->exit_code = process->exit_code;
    run->status = "failed";
    if (process->end == PROCESS_TIMEOUT) {
        run->status = "timeout";
        snprintf(reason, size, "passed the wall-time limit of %g s (limits.wall_s)", limits->wall_s);
    } else if (process->end == PROCESS_INTERRUPTED) {
        run->status = "interrupted";
        snprintf(reason, size, "interrupted by the user");
    } else if (process->end == PROCESS_SIGNALLED) {
        run->status = "crashed";
        snprintf(reason, size, "killed by signal %d (%s)%s", process->signal, strsignal(process->signal),
                 process->signal == 9 ? "; perhaps the system ran out of memory" : "");
    } else if (error_code == E_MEMORY) {
        run->status = "oom";
        snprintf(reason, size, "%s (memory limit %lld MB, limits.memory_mb)", error, (long long)limits->memory_mb);
    } else if (error_code) snprintf(reason, size, "%s", error);
    else snprintf(reason, size, "the worker ended with exit code %d and no result", process->exit_code);
    run->reason = reason;
}

/* ---- folders ------------------------------------------------------------------------------------------ */

static int make_folder(const char *path) {
    int status = 0;
    if (mkdir(path, 0777) < 0 && errno != EEXIST) FAIL(E_IO, "%s: cannot create the folder: %s", path, strerror(errno));
out:
    return status;
}

/* Can files be made here? Asked before anything runs: a model that trained for an hour must have its place. */
static int folder_try(const char *path) {
    int status = 0, file = -1;
    char name[4200];
    struct stat about;
    snprintf(name, sizeof name, "%s/writable.tmp", path);
    /* A superuser may write anywhere; a folder marked read-only for everybody is respected all the same. */
    if (stat(path, &about) == 0 && (about.st_mode & 0222) == 0)
        FAIL(E_IO, "%s: the folder is read-only; make it writable (chmod u+w) or give --db PATH", path);
    file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0 || write(file, "\n", 1) != 1)
        FAIL(E_IO, "%s: cannot be written to (%s); mend that or give --db PATH", path, strerror(errno));
out:
    if (file >= 0) {
        close(file);
        unlink(name);
    }
    return status;
}

static int folder_beside(const char *db_path, const char *name, char **path) {
    int status = 0;
    char text[4096];
    path_beside(db_path, name, text, sizeof text);
    TRY(make_folder(text));
    TRY(folder_try(text));
    TRY(memory_string(path, text));
out:
    return status;
}

/* Half-written files of workers that were killed. Only where no other run has the folder: it may be writing them. */
static void remove_leftovers(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strstr(entry->d_name, ".tmp")) continue;
        char name[4096 + 300];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        unlink(name);
    }
    closedir(folder);
}

/* Our place among the runs that use a folder. Whoever is alone there first removes what the dead left behind. */
static int folder_share(const char *path) {
    int lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) return -1;
    if (flock(lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) remove_leftovers(path);
    flock(lock, LOCK_SH);
    return lock;
}

static void folder_leave(const char *path, int *lock) {
    if (*lock < 0) return;
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0) remove_leftovers(path);
    close(*lock);
    *lock = -1;
}

/* ---- keys ---------------------------------------------------------------------------------------------- */

static int cell_keys(struct session *session, size_t index) {
    int status = 0;
    const struct cell *cell = &session->experiment->cells[index];
    struct session_cell *state = &session->cells[index];
    TRY(memory_take((void **)&state->prefix_keys, cell->stage_count + 1, sizeof *state->prefix_keys));
    for (size_t n = 0; n <= cell->stage_count; n++)
        TRY(keys_prefix(session->experiment, cell, n, session->data_key, state->prefix_keys[n]));
    TRY(keys_cell(session->experiment, cell, session->data_key, state->key));
out:
    return status;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static int class_names(const struct task *task, char **text) {
    int status = 0;
    json_t *list = json_array();
    for (size_t i = 0; i < task->classes; i++) json_array_append_new(list, json_string(task->class_names[i]));
    *text = json_dumps(list, JSON_COMPACT);
    if (!*text) FAIL(E_MEMORY, "out of memory");
out:
    json_decref(list);
    return status;
}

/* What the database says of the model: its config, or where it came from. */
static int model_text(const struct experiment *experiment, const struct model_config *config, char **text) {
    int status = 0;
    json_t *object = NULL;
    char *dumped = NULL;
    if (!experiment->model.path) return model_config_print(config, text);
    object = json_pack("{s:s}", "path", experiment->model.path);
    dumped = json_dumps(object, JSON_COMPACT);
    if (!dumped) FAIL(E_MEMORY, "out of memory");
    TRY(memory_string(text, dumped));
out:
    free(dumped);
    json_decref(object);
    return status;
}

static int insert_experiment(struct session *session) {
    int status = 0;
    const struct experiment *e = session->experiment;
    char *classes = NULL, *model = NULL;
    struct model_config config = e->model.config;
    config.classes = session->task.classes;
    TRY(class_names(&session->task, &classes));
    TRY(model_text(e, &config, &model));
    struct experiment_record record = {.name = e->name,
                                       .hash = e->hash,
                                       .path = e->path,
                                       .description = e->description ? e->description : "",
                                       .text = e->text,
                                       .task = e->task->name,
                                       .data_hash = session->task.data_hash,
                                       .model = model,
                                       .primary_metric = e->task->primary_metric,
                                       .primary_unit = e->task->primary_unit,
                                       .estimator = e->task->estimator,
                                       .classes = classes,
                                       .higher_is_better = e->task->higher_is_better};
    TRY(store_experiment(session->store, &record, &session->experiment_id));
out:
    free(classes);
    memory_release(model);
    return status;
}

/* [{"technique":"rtn","options":{…}}] as requested, numbers as options_json writes them; memory_release it. */
static int requested_options(const struct cell *cell, char **text) {
    static const char form[] = "%s{\"technique\":\"%s\",\"options\":%s}";
    int status = 0;
    void *block = NULL;
    size_t used = 0;
    char *json = NULL;
    TRY(memory_take(&block, 3, 1));
    ((char *)block)[used++] = '[';
    for (size_t i = 0; i < cell->stage_count; i++) {
        const char *name = cell->stages[i].technique->name;
        TRY(options_json(cell->stages[i].technique->options, cell->stages[i].options, &json));
        size_t size = sizeof form + strlen(name) + strlen(json);
        TRY(memory_resize(&block, used + size + 2, 1));
        used += (size_t)snprintf((char *)block + used, size, form, i ? "," : "", name, json);
        memory_release(json);
        json = NULL;
    }
    memcpy((char *)block + used, "]", 2);
    *text = block;
    block = NULL;
out:
    memory_release(block);
    memory_release(json);
    return status;
}

static int insert_cells(struct session *session) {
    int status = 0;
    char *options = NULL;
    for (size_t i = 0; i < session->experiment->cell_count; i++) {
        const struct cell *cell = &session->experiment->cells[i];
        TRY(requested_options(cell, &options));
        struct cell_record record = {.experiment_id = session->experiment_id,
                                     .key = session->cells[i].key,
                                     .label = cell->label,
                                     .pipeline = cell->pipeline,
                                     .options = options,
                                     .gemm = gemm_backend_name(cell->gemm),
                                     .storage = weight_storage_name(cell->storage),
                                     .baseline_key = session->cells[cell->baseline].key,
                                     .ordinal = (int64_t)i,
                                     .threads = cell->threads,
                                     .seed = cell->seed,
                                     .is_baseline = cell->is_baseline};
        TRY(store_cell(session->store, &record, &session->cells[i].id));
        memory_release(options);
        options = NULL;
    }
out:
    memory_release(options);
    return status;
}

/* Whether a session is one of these very cells: a model or a plug-in that was changed since makes others. *built: how
 * many of them were built in it; their states are what came of that. */
static int own_cells(struct session *session, int64_t id, bool *own, size_t *built) {
    int status = 0;
    size_t all;
    char ended[16];
    *built = 0;
    for (size_t i = 0; i < session->experiment->cell_count; i++) {
        struct session_cell *cell = &session->cells[i];
        TRY(store_run_status(session->store, cell->id, id, "build", 0, ended));
        *built += *ended != 0;
        cell->state = strcmp(ended, "ok") == 0 ? CELL_OK : CELL_SKIPPED;
    }
    TRY(store_session_built(session->store, id, &all));
    *own = all == *built;
out:
    return status;
}

/* A session to go on with, or one that is done (its cells then have their states); session->id 0: neither. */
static int find_session(struct session *session, int64_t host_id, int64_t build_id) {
    int status = 0;
    const struct run_settings *settings = session->settings;
    size_t count = session->experiment->cell_count, built = 0;
    bool own = true;
    TRY(store_session_unfinished(session->store, session->experiment_id, host_id, build_id, settings->cpumask,
                                 &session->id));
    if (session->id) {
        TRY(own_cells(session, session->id, &own, &built));
    } else {
        TRY(store_session_done(session->store, session->experiment_id, host_id, build_id, settings->cpumask,
                               settings->command, &session->id));
        if (session->id) TRY(own_cells(session, session->id, &own, &built));
        session->done = session->id && own && built == count;
        if (!session->done) session->id = 0;
    }
    if (!own) session->id = 0;
    for (size_t i = 0; i < count && !session->done; i++) session->cells[i].state = CELL_PENDING;
out:
    return status;
}

static int begin_session(struct session *session) {
    int status = 0;
    const struct run_settings *settings = session->settings;
    const struct measure_plan *measure = &session->experiment->measure;
    struct machine machine = {0};
    int64_t host_id, build_id;
    char flags[128];
    TRY(machine_open(&machine));
    TRY(store_host(session->store, &machine.host, &host_id));
    TRY(store_build(session->store, &machine.build, &build_id));
    if (!settings->fresh) {
        TRY(find_session(session, host_id, build_id));
        if (session->id && !session->done)
            TRY(store_session_order_seed(session->store, session->id, &session->order_seed));
        if (session->id) goto out;
    }
    session->order_seed = random_stream("order", clock_ns(), (uint64_t)getpid()) >> 1;
    cpu_flags_text(kernels.flags, flags, sizeof flags);
    struct session_record record = {.experiment_id = session->experiment_id,
                                    .host_id = host_id,
                                    .build_id = build_id,
                                    .command = settings->command,
                                    .cpu_flags_used = flags,
                                    .warnings = machine.warnings,
                                    .timing_note = settings->timing_marked ? "a debug, sanitizer or dirty build" : "",
                                    .cpumask = settings->cpumask,
                                    .load_average = machine.load_average,
                                    .order_seed = session->order_seed,
                                    .rounds = measure->rounds,
                                    .samples = measure->samples,
                                    .warmup = measure->warmup,
                                    .timing_valid = !settings->timing_marked};
    TRY(store_session_begin(session->store, &record, &session->id));
out:
    machine_close(&machine);
    return status;
}

/* ---- text ---------------------------------------------------------------------------------------------- */

int session_tokenizer(struct session *session) {
    int status = 0;
    const struct tokenizer_plan *plan = &session->experiment->tokenizer;
    const struct task_text *text = &session->task.split[SPLIT_UNLABELLED];
    char path[4200], hex[HASH_HEX];
    struct hash hash;
    size_t bytes;
    if (session->tokenizer) goto out;
    if (session->experiment->model.path || *plan->path) {
        TRY(tokenizer_open(&session->tokenizer, *plan->path ? plan->path : session->experiment->model.path));
        goto out;
    }
    if (!text->count) text = &session->task.split[SPLIT_TRAIN];
    hash_open(&hash);
    hash_text(&hash, plan->type);
    hash_number(&hash, (uint64_t)plan->vocabulary);
    hash_number(&hash, plan->lower_case);
    hash_text(&hash, session->task.data_hash);
    hash_text(&hash, code_hash_core());
    hash_close(&hash, hex);
    snprintf(path, sizeof path, "%s/tokenizer-%s.json", session->cache_dir, hex);
    if (access(path, R_OK) == 0 && tokenizer_load(&session->tokenizer, path) < 0) {
        log_line(LOG_WARN, "%s; it is made again", error_text());
        session->tokenizer = NULL;
    }
    if (!session->tokenizer) {
        TRY(tokenizer_train_bpe(&session->tokenizer, text->text, text->count, (size_t)plan->vocabulary,
                                plan->lower_case));
        TRY(tokenizer_save(session->tokenizer, path));
    }
    TRY(tokenizer_print(session->tokenizer, &session->tokenizer_json, &bytes));
out:
    return status;
}

/* The positions of the model that the experiment begins with: no sequence may be longer. */
static int session_positions(const struct session *session, size_t *positions) {
    int status = 0;
    struct model model = {0};
    *positions = session->experiment->model.config.positions;
    if (session->experiment->model.path) {
        if (session->task.kind->check_folder) TRY(session->task.kind->check_folder(session->experiment->model.path));
        TRY(model_open(&model, session->experiment->model.path, false));
        *positions = model.config.positions;
    }
out:
    model_close(&model);
    return status;
}

static int task_fits(const struct session *session) {
    int status = 0;
    size_t positions;
    if (!session->task.kind->fits) goto out;
    TRY(session_positions(session, &positions));
    TRY(session->task.kind->fits(&session->task, positions));
out:
    return status;
}

int session_examples(struct session *session, enum task_split split) {
    int status = 0;
    struct task_lengths lengths = {(size_t)session->experiment->tokenizer.max_tokens, 0};
    if (session->examples_open[split] || !session->task.split[split].count) goto out;
    TRY(session_tokenizer(session));
    TRY(session_positions(session, &lengths.positions));
    TRY(task_examples_open(&session->examples[split], &session->task, split, session->tokenizer,
                           task_longest(&lengths)));
    session->examples_open[split] = true;
out:
    return status;
}

int session_training(struct session *session, uint32_t needs) {
    int status = 0;
    struct task_lengths lengths = {(size_t)session->experiment->tokenizer.max_tokens, 0};
    bool training = needs & (NEEDS_TRAINING_DATA | NEEDS_CALIBRATION_DATA) && !session->training_open &&
                    session->task.split[SPLIT_TRAIN].count;
    bool unlabelled = needs & NEEDS_UNLABELLED_TEXT && !session->unlabelled_open && task_has_unlabelled(&session->task);
    if (!training && !unlabelled) goto out;
    TRY(session_tokenizer(session));
    TRY(session_positions(session, &lengths.positions));
    if (training) {
        status = task_training_open(&session->training, &session->task, session->tokenizer, &lengths);
        if (status < 0) {
            error_prefix(status, "training data");
            goto out;
        }
        session->training_open = true;
    }
    if (unlabelled) {
        TRY(task_unlabelled_open(&session->unlabelled, &session->task, session->tokenizer, &lengths));
        session->unlabelled_open = true;
    }
out:
    return status;
}

/* ---- open, close --------------------------------------------------------------------------------------- */

int session_open(struct session *session, struct store *store, struct experiment *experiment,
                 const struct run_settings *settings, struct run_summary *summary) {
    int status = 0;
    *session = (struct session){.store = store,
                                .experiment = experiment,
                                .settings = settings,
                                .summary = summary,
                                .cache_lock = -1,
                                .artifact_lock = -1};
    progress_open(&session->progress, settings->quiet);
    session->cpus = threads_available();
    threads_set(1); /* the parent forks: it must not have threads */
    TRY(folder_beside(settings->db_path, "cache", &session->cache_dir));
    TRY(folder_beside(settings->db_path, "artifacts", &session->artifact_dir));
    session->cache_lock = folder_share(session->cache_dir);
    session->artifact_lock = folder_share(session->artifact_dir);
    checkpoints_forget(session->cache_dir);
    TRY(experiment->task->open(&session->task, experiment->task_options));
    session->task_open = true;
    TRY(task_fits(session));
    TRY(keys_data(experiment, session->task.data_hash, session->data_key));
    TRY(memory_take((void **)&session->cells, experiment->cell_count, sizeof *session->cells));
    for (size_t i = 0; i < experiment->cell_count; i++) TRY(cell_keys(session, i));
    TRY(insert_experiment(session));
    TRY(insert_cells(session));
    TRY(begin_session(session));
out:
    return status;
}

void session_close(struct session *session) {
    progress_close(&session->progress);
    for (size_t i = 0; session->cells && i < session->experiment->cell_count; i++)
        memory_release(session->cells[i].prefix_keys);
    memory_release(session->cells);
    for (int split = 0; split < SPLITS; split++)
        if (session->examples_open[split]) task_examples_close(&session->examples[split]);
    if (session->training_open) task_examples_close(&session->training);
    if (session->unlabelled_open) task_examples_close(&session->unlabelled);
    tokenizer_free(session->tokenizer);
    memory_release(session->tokenizer_json);
    if (session->task_open) session->experiment->task->close(&session->task);
    folder_leave(session->cache_dir, &session->cache_lock);
    folder_leave(session->artifact_dir, &session->artifact_lock);
    memory_release(session->cache_dir);
    memory_release(session->artifact_dir);
    *session = (struct session){0};
}
