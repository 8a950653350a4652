/* Checkpoints: a run that was stopped or killed at any step ends with the bits of one that was not; a disk that is full
 * loses nothing; damaged files are refused and those of other runs left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_task.h"
#include "train/checkpoint.h"
#include "train/pass.h"

static char folder[] = "/tmp/test_train_resume_XXXXXX";
static char path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/training.checkpoint", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* ---- a run that can be stopped ------------------------------------------------------------------------- */

#define STEPS 12

struct host {
    size_t stop_at, kill_at, first_step;
    size_t full_at, room_at; /* the disk is full from one step to another */
    double loss[STEPS + 1];
    size_t *scored;
};

static void file_limit(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static int take_step(void *opaque, const struct train_progress *progress) {
    struct host *host = opaque;
    if (!host->first_step) host->first_step = progress->step;
    host->loss[progress->step] = progress->loss;
    if (progress->step == host->kill_at) _exit(77);
    if (progress->step == host->full_at) file_limit(5000);
    if (progress->step == host->room_at) file_limit(RLIM_INFINITY);
    return progress->step == host->stop_at;
}

/* Better until step 6, worse from then on. */
static int take_score(void *opaque, const struct model *model, double *score, bool *higher_is_better) {
    (void)model;
    struct host *host = opaque;
    double at = (double)++*host->scored;
    *score = at <= 3 ? at : 6 - at;
    *higher_is_better = true;
    return 0;
}

/* What a quantizer does with running ranges: changes from step to step, without a gradient. */
static float range[2];
static int run_range(void *opaque, const struct train_batch *batch, struct pass *pass, double *loss) {
    (void)opaque;
    (void)batch;
    range[0] = 0.9f * range[0] + 0.1f * pass_hidden(pass)[3];
    *loss += 0;
    return 0;
}

static const struct train_teacher teacher = {NULL, NULL, run_range};
static const struct train_state states[] = {{"range", range, sizeof range}};

static void make_plan(struct train_plan *plan) {
    small_task_plan(plan, TRAIN_CLASSIFICATION);
    plan->steps = STEPS;
    plan->micro_batch = 10;
    plan->dropout = 0.1;
    plan->word_dropout = 0.1;
    plan->r_drop = 0.5;
    plan->weight_decay = 0.5; /* rows that never occur move, too */
    plan->evaluate_steps = 2;
    plan->keep_best = true;
    plan->teacher = &teacher;
    plan->states = states;
    plan->state_count = 1;
}

struct outcome {
    struct host host;
    struct train_result result;
    char hash[65];
    float range;
    int status;
};

/* `scored`: evaluations of the whole run, over all its processes. */
static void run(const struct train_plan *plan, size_t *scored, struct outcome *outcome) {
    struct model model;
    struct small_task task;
    struct train_host host = {&outcome->host, take_step, take_score};
    size_t none = 0;
    outcome->host.scored = scored ? scored : &none;
    range[0] = 0;
    small_task_model(&model, "bert", plan->objective, 5);
    small_task_open(&task, plan->objective, 60, 2);
    /* Words above 60 never occur. */
    for (size_t t = 0; t < task.examples.offset[60]; t++)
        if (task.base.ids[t] > 60) task.base.ids[t] = SMALL_SPECIAL + task.base.ids[t] % 50;
    outcome->status = train_run(&model, &task.examples, plan, &host, &outcome->result);
    small_model_hash(&model, outcome->hash);
    outcome->range = range[0];
    small_task_close(&task);
    model_close(&model);
}

static struct outcome whole_run(const struct train_plan *plan) {
    struct train_plan plain = *plan;
    struct outcome whole = {0};
    plain.checkpoint_dir = NULL;
    run(&plain, NULL, &whole);
    assert_int_equal(whole.status, 0);
    assert_true(whole.result.best_step == 6 && whole.result.checkpoints == 0);
    return whole;
}

static void check_same(const struct outcome *whole, const struct outcome *again, size_t from) {
    if (again->status < 0) fail_msg("%s", error_text());
    assert_int_equal(again->host.first_step, from + 1);
    assert_int_equal(again->result.steps_resumed, from);
    assert_string_equal(again->hash, whole->hash);
    assert_memory_equal(again->host.loss + from + 1, whole->host.loss + from + 1, (STEPS - from) * sizeof(double));
    assert_true(again->result.loss_first == whole->result.loss_first);
    assert_true(again->result.loss_last == whole->result.loss_last);
    assert_true(again->result.best_step == whole->result.best_step && again->result.tokens == whole->result.tokens);
    assert_true(again->range == whole->range);
}

static void test_goes_on_after_a_stop(void **state) {
    static const enum optimizer_kind kinds[] = {OPTIMIZER_ADAMW, OPTIMIZER_ADAM_L2, OPTIMIZER_SGD};
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct train_plan plan;
        make_plan(&plan);
        plan.optimizer = kinds[k];
        plan.average_decay = k == 0 ? 0.9 : 0; /* joined after 10 steps, which is later than the best */
        plan.keep_best = k != 0;
        struct outcome whole = whole_run(&plan);
        plan.checkpoint_dir = folder;
        for (size_t stop = 1; stop < STEPS; stop += 2) { /* not where an evaluation is due */
            struct outcome stopped = {.host = {.stop_at = stop}}, again = {0};
            size_t scored = 0;
            unlink(path);
            run(&plan, &scored, &stopped);
            assert_int_equal(stopped.status, E_INTERRUPTED);
            run(&plan, &scored, &again);
            check_same(&whole, &again, stop);
        }
    }
}

/* Stopped right before an evaluation, or killed, it goes on from the last checkpoint that was due. */
static void test_goes_on_after_a_kill(void **state) {
    struct train_plan plan;
    (void)state;
    make_plan(&plan);
    struct outcome whole = whole_run(&plan);
    plan.checkpoint_dir = folder;
    plan.checkpoint_s = 0;
    for (size_t kill = 2; kill <= STEPS; kill += 5) {
        struct outcome killed = {.host = {.kill_at = kill}}, again = {0};
        unlink(path);
        pid_t child = fork();
        if (child == 0) {
            run(&plan, NULL, &killed);
            _exit(0);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_int_equal(WEXITSTATUS(how), 77);
        size_t scored = (kill - 1) / 2;
        run(&plan, &scored, &again);
        check_same(&whole, &again, kill - 1);
        assert_int_equal(again.result.checkpoints, STEPS - kill);
    }
    struct outcome stopped = {.host = {.stop_at = 8}}, again = {0};
    size_t scored = 0;
    unlink(path);
    run(&plan, &scored, &stopped);
    assert_int_equal(stopped.status, E_INTERRUPTED);
    run(&plan, &scored, &again);
    check_same(&whole, &again, 7);
}

/* One that patience ended, or that was over, is over. */
static void test_an_ended_run_stays_ended(void **state) {
    struct train_plan plan;
    struct outcome first = {0}, again = {0};
    (void)state;
    make_plan(&plan);
    plan.patience = 2; /* after step 10 */
    plan.checkpoint_dir = folder;
    plan.checkpoint_s = 0;
    unlink(path);
    run(&plan, NULL, &first);
    assert_true(first.result.steps == 10);
    size_t scored = 4;
    run(&plan, &scored, &again);
    assert_true(again.status == 0 && again.result.steps_resumed == 9 && again.result.steps == 10);
    assert_string_equal(first.hash, again.hash);
}

/* ---- a full disk ---------------------------------------------------------------------------------------- */

static char *contents(const char *file, size_t *count) {
    char *bytes;
    if (file_read(file, 1 << 26, &bytes, count) < 0) fail_msg("%s", error_text());
    return bytes;
}

static size_t occurrences(const char *text, const char *word) {
    size_t count = 0;
    for (; (text = strstr(text, word)); text += strlen(word)) count++;
    return count;
}

static void test_a_full_disk_loses_nothing(void **state) {
    struct train_plan plan;
    struct outcome stopped = {.host = {.full_at = 5, .stop_at = 7}}, again = {0},
                   recovered = {.host = {.full_at = 4, .room_at = 8}};
    size_t scored = 0, bytes;
    char log[80];
    (void)state;
    make_plan(&plan);
    struct outcome whole = whole_run(&plan);
    plan.checkpoint_dir = folder;
    plan.checkpoint_s = 0;
    unlink(path);
    snprintf(log, sizeof log, "%s/log", folder);
    int standard = dup(STDERR_FILENO), file = open(log, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDERR_FILENO);
    signal(SIGXFSZ, SIG_IGN);
    run(&plan, &scored, &stopped);
    file_limit(RLIM_INFINITY);
    dup2(standard, STDERR_FILENO);
    char *said = contents(log, &bytes);
    assert_int_equal(stopped.status, E_INTERRUPTED);
    assert_int_equal(occurrences(said, "warning"), 1); /* of three failures */
    assert_non_null(strstr(said, "step 5: no checkpoint could be written"));
    assert_non_null(strstr(said, path));
    assert_non_null(strstr(said, strerror(EFBIG)));
    memory_release(said);
    unlink(log);
    scored = 2;
    run(&plan, &scored, &again);
    check_same(&whole, &again, 4); /* the last good one */
    unlink(path);
    dup2(file, STDERR_FILENO);
    run(&plan, NULL, &recovered);
    dup2(standard, STDERR_FILENO);
    assert_true(recovered.status == 0 && recovered.result.checkpoints_failed == 4 && recovered.result.checkpoints == 7);
    assert_string_equal(recovered.hash, whole.hash);
    close(file);
    close(standard);
    snprintf(log, sizeof log, "%s.tmp", path);
    assert_int_equal(access(log, F_OK), -1);
}

/* ---- files that cannot be gone on from -------------------------------------------------------------------- */

static void write_file(const char *file, const char *bytes, size_t count) {
    FILE *out = fopen(file, "wb");
    assert_true(out && fwrite(bytes, 1, count, out) == count && fclose(out) == 0);
}

static void test_damaged_files_are_refused(void **state) {
    struct train_plan plan;
    struct outcome stopped = {.host = {.stop_at = 3}};
    size_t count;
    (void)state;
    make_plan(&plan);
    plan.checkpoint_dir = folder;
    unlink(path);
    run(&plan, NULL, &stopped);
    char *good = contents(path, &count);
    const size_t places[] = {0, 30, 100, 2000, count / 2, count - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct outcome again = {0};
        good[places[i]] ^= 1;
        write_file(path, good, count);
        good[places[i]] ^= 1;
        run(&plan, NULL, &again);
        assert_int_equal(again.status, E_FORMAT);
        assert_non_null(strstr(error_text(), path));
        assert_non_null(strstr(error_text(), "delete it to start this training anew"));
    }
    const size_t lengths[] = {0, 50, 500, count - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct outcome again = {0};
        write_file(path, good, lengths[i]);
        run(&plan, NULL, &again);
        assert_int_equal(again.status, E_FORMAT);
    }
    write_file(path, good, count);
    memory_release(good);
    struct outcome again = {0};
    size_t scored = 1;
    run(&plan, &scored, &again);
    assert_true(again.status == 0 && again.result.steps_resumed == 3);
}

static void test_other_runs_start_anew(void **state) {
    struct train_plan plan, others[7];
    struct outcome stopped = {.host = {.stop_at = 3}};
    const double weights[] = {1, 2, 3};
    size_t count;
    (void)state;
    make_plan(&plan);
    plan.checkpoint_dir = folder;
    unlink(path);
    run(&plan, NULL, &stopped);
    char *good = contents(path, &count);
    for (size_t i = 0; i < 7; i++) others[i] = plan;
    others[0].rate *= 2;
    others[1].seed++;
    others[2].steps++;
    others[3].identity = "another teacher";
    others[4].class_weights = weights;
    others[4].micro_batch = 0;
    others[4].teacher = NULL;
    others[5].objective = TRAIN_REGRESSION; /* other data, other model */
    others[5].r_drop = 0;
    others[6].r_drop = 0.6;
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < 7; i++) {
        struct outcome again = {.host = {.stop_at = 1}};
        others[i].checkpoint_s = 1e9;
        write_file(path, good, count);
        run(&others[i], NULL, &again);
        assert_int_equal(again.status, E_INTERRUPTED);
        assert_int_equal(again.host.first_step, 1);
    }
    log_set_level(LOG_WARN);
    memory_release(good);
}

/* What a killed writer left is written over; moments of words that never occurred are not in the file. */
static void test_files(void **state) {
    struct train_plan plan;
    struct outcome stopped = {.host = {.stop_at = 3}};
    char temporary[80];
    struct stat info, dense;
    (void)state;
    make_plan(&plan);
    plan.checkpoint_dir = folder;
    unlink(path);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    write_file(temporary, "left behind", 11);
    run(&plan, NULL, &stopped);
    assert_int_equal(access(temporary, F_OK), -1);
    assert_int_equal(stat(path, &info), 0);
    plan.optimizer = OPTIMIZER_ADAM_L2; /* whose decay reaches every row */
    unlink(path);
    run(&plan, NULL, &stopped);
    assert_int_equal(stat(path, &dense), 0);
    assert_true(dense.st_size - info.st_size >= 2 * 30 * 32 * 4);
    plan.checkpoint_dir = "/nonexistent/folder";
    plan.optimizer = OPTIMIZER_ADAMW;
    stopped = (struct outcome){.host = {.stop_at = 3}};
    log_set_level(LOG_ERROR);
    run(&plan, NULL, &stopped);
    log_set_level(LOG_WARN);
    assert_int_equal(stopped.status, E_INTERRUPTED); /* trained all the same */
}

static void test_parts(void **state) {
    int32_t first[4] = {1, 2, 3, 4}, got[4] = {0};
    uint32_t only[4] = {0, 7, 7, 0}, got_only[4] = {0};
    bool there = false, got_there = true, found;
    float late = 5, got_late = 0;
    char identity[HASH_HEX];
    (void)state;
    hash_bytes("one", 3, identity);
    const struct checkpoint_part out[] = {
        {only, 4, 4, NULL, NULL}, {&there, 1, 1, NULL, NULL}, {first, 4, 4, only, NULL}, {&late, 1, 4, NULL, &there}};
    const struct checkpoint_part in[] = {{got_only, 4, 4, NULL, NULL},
                                         {&got_there, 1, 1, NULL, NULL},
                                         {got, 4, 4, got_only, NULL},
                                         {&got_late, 1, 4, NULL, &got_there}};
    unlink(path);
    assert_int_equal(checkpoint_read(path, identity, in, 4, &found), 0);
    assert_false(found);
    assert_int_equal(checkpoint_write(path, identity, out, 4), 0);
    assert_int_equal(checkpoint_read(path, identity, in, 4, &found), 0);
    assert_true(found && !got_there && got_late == 0);
    assert_true(got[0] == 0 && got[1] == 2 && got[2] == 3 && got[3] == 0);
    there = true;
    assert_int_equal(checkpoint_write(path, identity, out, 4), 0);
    assert_int_equal(checkpoint_read(path, identity, in, 4, &found), 0);
    assert_true(found && got_late == 5);
    assert_int_equal(checkpoint_read(path, identity, in, 3, &found), E_FORMAT); /* bytes too many */
    const struct checkpoint_part more[] = {in[0], in[1], in[2], in[3], {got, 1, 4, NULL, NULL}};
    assert_int_equal(checkpoint_read(path, identity, more, 5, &found), E_FORMAT); /* too few */
    for (long n = 1; n <= 2; n++) {
        memory_fail_after(n);
        assert_int_equal(checkpoint_write(path, identity, out, 4), E_MEMORY);
        memory_fail_after(0);
    }
    memory_fail_after(1);
    assert_int_equal(checkpoint_read(path, identity, in, 4, &found), E_MEMORY);
    memory_fail_after(0);
    assert_int_equal(checkpoint_read(path, identity, in, 4, &found), 0); /* what was there is there */
    assert_true(found);
}

int main(void) {
    kernels_open(test_cpu_mask());
#ifdef M_PERTURB
    mallopt(M_PERTURB, 0x55); /* what a run left in memory must not help the one that goes on from its checkpoint */
#endif
    log_set_level(LOG_WARN);
    threads_set(1); /* so little work is done sooner by one, and the test forks */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on_after_a_stop),
        cmocka_unit_test(test_goes_on_after_a_kill),
        cmocka_unit_test(test_an_ended_run_stays_ended),
        cmocka_unit_test(test_a_full_disk_loses_nothing),
        cmocka_unit_test(test_damaged_files_are_refused),
        cmocka_unit_test(test_other_runs_start_anew),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
