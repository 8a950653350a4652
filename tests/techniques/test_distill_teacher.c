/* distill and its teacher: what it says is computed once and kept, damaged files are noticed, texts that it writes, and
 * students that learn from it; the same bytes from the same seed at any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "distill_stage.h"
#include "kernels/kernels.h"
#include "scratch_file.h"

/* ---- a folder of kept outputs -------------------------------------------------------------------------------- */

static char folder[128];

static void folder_open(void) {
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.60s/shrinklab_distill_XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(folder));
}

/* Its files; the first one's path where asked. */
static size_t folder_files(char path[512]) {
    size_t count = 0;
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        if (path && !count) snprintf(path, 512, "%s/%s", folder, entry->d_name);
        count++;
    }
    closedir(stream);
    return count;
}

static void folder_empty(void) {
    char path[512];
    while (folder_files(path)) assert_int_equal(unlink(path), 0);
}

static void folder_close(void) {
    folder_empty();
    assert_int_equal(rmdir(folder), 0);
}

/* Run on a fresh teacher of the task; leaves the hash of the student and how often the teacher ran. */
static size_t run(enum train_objective objective, const char *const *pairs, bool keep, char hash[65]) {
    struct stage stage;
    stage_open(&stage, objective == TRAIN_CAUSAL_LM ? "gpt2" : "bert", objective, 2, false);
    stage.cache_dir = keep ? folder : NULL;
    stage_must(&stage, &technique_distill, pairs);
    memcpy(hash, stage.hash, 65);
    size_t forwards = stage.forwards;
    stage_close(&stage);
    return forwards;
}

static void test_kept_for_every_objective(void **state) {
    static const struct {
        enum train_objective objective;
        const char *pairs[8];
        size_t files;
    } cases[] = {
        {TRAIN_CLASSIFICATION, {"depth", "1"}, 1},
        {TRAIN_REGRESSION, {"depth", "1"}, 1},
        {TRAIN_SIMILARITY, {"depth", "1"}, 1},
        {TRAIN_QUESTION_ANSWERING, {"depth", "1"}, 1},
        {TRAIN_CAUSAL_LM, {"depth", "1", "teacher_top", "5"}, 1},
        {TRAIN_CAUSAL_LM, {"level", "sequence", "prompt_tokens", "4"}, 1},
        {TRAIN_CAUSAL_LM, {"level", "both", "prompt_tokens", "4", "teacher_top", "5"}, 2},
    };
    (void)state;
    folder_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char without[65], first[65], second[65];
        size_t asked = run(cases[i].objective, cases[i].pairs, false, without);
        assert_true(asked == 96 * cases[i].files);
        assert_true(folder_files(NULL) == 0);
        assert_true(run(cases[i].objective, cases[i].pairs, true, first) == asked);
        assert_true(folder_files(NULL) == cases[i].files);
        assert_true(run(cases[i].objective, cases[i].pairs, true, second) == 0); /* the teacher rests */
        assert_string_equal(first, without);
        assert_string_equal(second, first);
        folder_empty();
    }
    folder_close();
}

/* Other options of the student share the file; whatever changes what the teacher says does not. */
static void test_kept_by_content(void **state) {
    static const char *const plain[] = {"depth", "1", NULL}, *const other[] = {"layers", "[1]", "alpha", "0.9", NULL},
                             *const shorter[] = {"depth", "1", "max_tokens", "9", NULL};
    char hash[65];
    (void)state;
    folder_open();
    assert_true(run(TRAIN_CLASSIFICATION, plain, true, hash) == 96);
    assert_true(run(TRAIN_CLASSIFICATION, other, true, hash) == 0);
    assert_true(folder_files(NULL) == 1);
    assert_true(run(TRAIN_CLASSIFICATION, shorter, true, hash) == 96);
    for (int what = 0; what < 4; what++) {
        struct stage stage;
        stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
        stage.cache_dir = folder;
        if (what == 0) stage.task.base.ids[7]++;
        else if (what == 1) stage.model.parameters[3].value[0] += 0.5f;
        else if (what == 2) stage.task.base.offset[4]++; /* the same ids, cut elsewhere */
        else assert_int_equal(model_set_int8_attention(&stage.model), 0);
        stage_must(&stage, &technique_distill, plain);
        assert_true(stage.forwards == 96);
        stage_close(&stage);
    }
    assert_true(folder_files(NULL) == 6);
    folder_close();
}

/* Packed teachers of the same bytes that quantize their inputs in other ways say other things. */
static void test_inputs_of_packed_teachers(void **state) {
    static const struct activation_quantizer ways[] = {
        {.range = ACTIVATION_PER_TOKEN},
        {.range = ACTIVATION_PER_TENSOR},
        {.range = ACTIVATION_PER_TENSOR, .asymmetric = true},
        {.range = ACTIVATION_PER_TENSOR, .asymmetric = true, .reduced = true},
        {.range = ACTIVATION_PER_TOKEN, .outlier = 0.5f},
        {.range = ACTIVATION_STATIC, .scale = 0.02f},
        {.range = ACTIVATION_STATIC, .scale = 0.01f},
        {.range = ACTIVATION_STATIC, .scale = 0.01f, .asymmetric = true, .zero = 3},
    };
    const struct weight_format *format = weight_format_find("int8");
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    (void)state;
    folder_open();
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        struct model teacher;
        struct stage stage;
        char path[128];
        assert_int_equal(model_create(&teacher, &config, 1, 0.1), 0);
        for (size_t i = 0; i < teacher.linear_count; i++) {
            struct linear *linear = &teacher.linears[i];
            struct weight_shape shape = {linear->rows, linear->columns, 0, true};
            float scale[64];
            struct weight_grid grid = {.scale = scale, .groups = 1};
            assert_true(linear->rows <= 64);
            assert_int_equal(weight_grid_minmax(format, &shape, linear->value, &grid), 0);
            assert_int_equal(linear_pack(&teacher, linear, format, 0, true, &grid), 0);
            assert_int_equal(linear_set_activation(&teacher, linear, &ways[k]), 0);
        }
        scratch_file(path, ".safetensors", "");
        assert_int_equal(model_save(&teacher, path, HEAD_CLASSIFICATION), 0);
        model_close(&teacher);
        const char *const pairs[] = {"teacher", path, "from", "model", "steps", "1", NULL};
        stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
        stage.cache_dir = folder;
        stage_must(&stage, &technique_distill, pairs);
        if (stage.forwards != 96) fail_msg("way %zu was taken from the cache", k);
        stage_close(&stage);
        scratch_remove(path);
    }
    folder_close();
}

static void test_damaged_files(void **state) {
    static const char *const pairs[] = {"depth", "1", NULL};
    char expected[65], hash[65], path[512], *bytes;
    size_t count, whole;
    (void)state;
    folder_open();
    run(TRAIN_CLASSIFICATION, pairs, true, expected);
    assert_true(folder_files(path) == 1);
    assert_int_equal(file_read(path, 1 << 24, &bytes, &whole), 0);
    for (int damage = 0; damage < 5; damage++) {
        FILE *file = fopen(path, "wb");
        count = damage == 0 ? 0 : damage == 1 ? whole / 2 : damage == 2 ? whole - 1 : whole;
        if (damage == 3) bytes[whole / 2] ^= 1;                 /* one bit of a logit */
        if (damage == 4) bytes[whole / 2] ^= 1, bytes[20] ^= 1; /* of the key: a foreign file */
        assert_true(fwrite(bytes, 1, count, file) == count && fclose(file) == 0);
        assert_true(run(TRAIN_CLASSIFICATION, pairs, true, hash) == 96);
        assert_string_equal(hash, expected);
        assert_true(run(TRAIN_CLASSIFICATION, pairs, true, hash) == 0); /* mended */
        assert_string_equal(hash, expected);
    }
    memory_release(bytes);
    folder_close();
}

/* A process that holds the lock of the rows at `path`, in which it has begun to compute them, and writes them (moves
 * them there from `from`) after a while; from NULL: it does nothing until it is killed. */
static pid_t other_process(const char *path, const char *from) {
    char lock[600], ready;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child) {
        assert_true(read(pipes[0], &ready, 1) == 1);
        close(pipes[0]), close(pipes[1]);
        return child;
    }
    snprintf(lock, sizeof lock, "%s.lock", path);
    int file = open(lock, O_RDWR | O_CREAT, 0600);
    if (file < 0 || flock(file, LOCK_EX) != 0 || write(pipes[1], "x", 1) != 1) _exit(1);
    if (!from) {
        alarm(60); /* a test that fails first leaves nobody behind who holds its output */
        pause();
    }
    usleep(300000);
    if (rename(from, path) != 0) _exit(1);
    _exit(0);
}

/* What another process is at is waited for, unless it ends without it; and the wait can be stopped. */
static void test_waits_for_another_process(void **state) {
    static const char *const pairs[] = {"depth", "1", NULL};
    char expected[65], hash[65], path[512], aside[600];
    int ended;
    (void)state;
    folder_open();
    run(TRAIN_CLASSIFICATION, pairs, true, expected);
    assert_true(folder_files(path) == 1); /* the lock is gone */
    snprintf(aside, sizeof aside, "%.100s.aside", folder);
    assert_int_equal(rename(path, aside), 0);
    pid_t other = other_process(path, aside);
    assert_true(run(TRAIN_CLASSIFICATION, pairs, true, hash) == 0);
    assert_string_equal(hash, expected);
    assert_true(waitpid(other, &ended, 0) == other && ended == 0);
    folder_empty();

    struct stage stage;
    other = other_process(path, NULL);
    stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
    stage.cache_dir = folder;
    stage.stop = 1;
    assert_int_equal(stage_run(&stage, &technique_distill, pairs), E_INTERRUPTED);
    assert_true(stage.forwards == SIZE_MAX);
    stage_close(&stage);
    snprintf(aside, sizeof aside, "%s.lock", path);
    assert_int_equal(access(aside, F_OK), 0); /* who gave up leaves the other's lock alone */
    kill(other, SIGKILL);
    assert_true(waitpid(other, &ended, 0) == other);
    assert_true(run(TRAIN_CLASSIFICATION, pairs, true, hash) == 96);
    assert_string_equal(hash, expected);
    assert_true(folder_files(NULL) == 1);
    folder_close();
}

/* A folder that nothing can be written to: the stage goes on without it. */
static void test_nothing_can_be_kept(void **state) {
    static const char *const pairs[] = {"depth", "1", NULL};
    char expected[65], hash[65];
    (void)state;
    run(TRAIN_CLASSIFICATION, pairs, false, expected);
    snprintf(folder, sizeof folder, "/proc/no_such_folder");
    assert_true(run(TRAIN_CLASSIFICATION, pairs, true, hash) == 96);
    assert_string_equal(hash, expected);
}

/* A teacher's own greedy words surprise it less than any others on average, and what it was given is not learnt: with
 * one word to write after eleven, a student that is its teacher has the loss of that word alone. */
static void test_prompts_are_not_learnt(void **state) {
    static const char *const pairs[] = {"level", "sequence", "prompt_tokens", "11", "max_tokens", "12",
                                        "depth", "2",        "rate",          "0",  NULL};
    struct stage stage;
    (void)state;
    stage_open(&stage, "gpt2", TRAIN_CAUSAL_LM, 2, false);
    stage.task.examples.count = 40;
    for (uint32_t i = 0; i <= 40; i++) stage.task.base.offset[i] = 12 * i; /* none shorter than the prompt */
    stage_must(&stage, &technique_distill, pairs);
    assert_true(stage.loss[0] < 3.5); /* words at random: log 97 = 4.57 */
    stage_close(&stage);
}

/* Examples in two segments, which a BERT tells apart and a DistilBERT does not know, as teacher of itself and of a BERT
 * that is compared with it layer by layer. */
static void test_teacher_without_segments(void **state) {
    static int32_t types[24 * 96];
    char path[128], hash[2][65];
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) types[i] = (int32_t)(i / 7 % 2);
    for (size_t i = 0; i < 2; i++) {
        static const char *const pairs[] = {"depth", "1", NULL};
        struct stage stage;
        stage_open(&stage, "distilbert", TRAIN_QUESTION_ANSWERING, 2, false);
        if (i) stage.task.examples.types = types;
        scratch_file(path, ".safetensors", "");
        assert_int_equal(model_save(&stage.model, path, HEAD_SPAN), 0);
        stage_must(&stage, &technique_distill, pairs);
        memcpy(hash[i], stage.hash, 65);
        stage_close(&stage);
        if (!i) scratch_remove(path);
    }
    assert_string_equal(hash[1], hash[0]);
    const char *const pairs[] = {"teacher", path, "from", "model", "hidden", "cosine", NULL};
    struct stage stage;
    stage_open(&stage, "bert", TRAIN_QUESTION_ANSWERING, 2, false);
    stage.task.examples.types = types;
    stage_must(&stage, &technique_distill, pairs);
    stage_close(&stage);
    scratch_remove(path);
}

/* ---- several teachers ------------------------------------------------------------------------------------------ */

/* Two models of the objective's own kind, which disagree. */
static void two_teachers(enum train_objective objective, char one[128], char two[128]) {
    struct stage stage;
    stage_open(&stage, "bert", objective, 2, true);
    scratch_file(one, ".safetensors", "");
    assert_int_equal(model_save(&stage.model, one, train_objective_heads(objective)), 0);
    for (size_t i = 0; i < stage.model.parameter_count; i++)
        for (size_t k = 0; k < stage.model.parameters[i].rows * stage.model.parameters[i].columns; k++)
            stage.model.parameters[i].value[k] *= k % 2 ? 1.2f : 0.8f;
    scratch_file(two, ".safetensors", "");
    assert_int_equal(model_save(&stage.model, two, train_objective_heads(objective)), 0);
    stage_close(&stage);
}

/* The mean of a teacher and itself is what it says; that of two is neither's, and has no order. Each is asked once. */
static void test_ensemble(void **state) {
    static const enum train_objective objectives[] = {TRAIN_CLASSIFICATION, TRAIN_REGRESSION, TRAIN_SIMILARITY,
                                                      TRAIN_QUESTION_ANSWERING};
    (void)state;
    folder_open();
    for (size_t i = 0; i < sizeof objectives / sizeof *objectives; i++) {
        char one[128], two[128], list[300], hash[6][65];
        two_teachers(objectives[i], one, two);
        snprintf(list, sizeof list, "[%s, %s]", one, two);
        const char *const runs[6][12] = {
            {"teacher", one, "from", "model"},
            {"teacher", two, "from", "model"},
            {"teacher", one, "from", "model", "ensemble", one},
            {"teacher", one, "from", "model", "ensemble", two},
            {"teacher", two, "from", "model", "ensemble", one},
            {"teacher", one, "from", "model", "ensemble", list}, /* one counts twice */
        };
        static const size_t asked[] = {96, 96, 0, 0, 0, 0};
        for (size_t k = 0; k < 6; k++) assert_true(run(objectives[i], runs[k], true, hash[k]) == asked[k]);
        assert_string_equal(hash[2], hash[0]);
        assert_string_equal(hash[4], hash[3]);
        assert_string_not_equal(hash[3], hash[0]);
        assert_string_not_equal(hash[3], hash[1]);
        assert_string_not_equal(hash[5], hash[3]);
        assert_true(folder_files(NULL) == 2);
        folder_empty();
        assert_true(run(objectives[i], runs[3], true, hash[5]) == 192);
        assert_string_equal(hash[5], hash[3]);
        folder_empty();
        scratch_remove(one);
        scratch_remove(two);
    }
    folder_close();
}

/* Two teachers' mean logits are the targets: a student at rate 0 has the divergence from them that they imply. */
static void test_ensemble_is_the_mean(void **state) {
    char one[128], two[128];
    double loss[3];
    (void)state;
    two_teachers(TRAIN_REGRESSION, one, two);
    const char *const runs[3][14] = {
        {"teacher", one, "from", "model", "alpha", "1", "rate", "0"},
        {"teacher", two, "from", "model", "alpha", "1", "rate", "0"},
        {"teacher", one, "from", "model", "alpha", "1", "rate", "0", "ensemble", two},
    };
    for (size_t k = 0; k < 3; k++) {
        struct stage stage;
        stage_open(&stage, "bert", TRAIN_REGRESSION, 2, false);
        stage_must(&stage, &technique_distill, runs[k]);
        loss[k] = stage.loss_first;
        stage_close(&stage);
    }
    /* (s - (a+b)/2)^2 lies below the mean of (s-a)^2 and (s-b)^2, by the mean of ((a-b)/2)^2. */
    assert_true(loss[2] < (loss[0] + loss[1]) / 2 - 1e-6);
    scratch_remove(one);
    scratch_remove(two);
}

/* ---- the same bytes --------------------------------------------------------------------------------------------- */

static void test_same_bytes(void **state) {
    static const char *const pairs[][20] = {
        {"depth", "1", "dropout", "0.1", "hidden", "cosine", "attention", "value_relation"},
        {"width", "16", "hidden", "mse", "alpha", "0.7", "word_dropout", "0.1"},
        {"depth", "1", "alpha", "0.5"},
        {"depth", "1", "teacher_top", "3"},
        {"depth", "1", "level", "both", "prompt_tokens", "3", "beams", "2"},
    };
    char one[65], again[65], two[65];
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        enum train_objective objective = i < 2 ? TRAIN_CLASSIFICATION : TRAIN_CAUSAL_LM;
        threads_set(1);
        run(objective, pairs[i], false, one);
        run(objective, pairs[i], false, again);
        threads_set(2);
        run(objective, pairs[i], false, two);
        threads_set(1);
        assert_string_equal(one, again);
        assert_string_equal(one, two);
    }
}

/* ---- learning ------------------------------------------------------------------------------------------------- */

/* From the teacher alone, without a label, a student gets most of the way from nothing to its teacher. */
static void learns(enum train_objective objective, const char *const *pairs, double share) {
    struct stage stage;
    const char *nothing[] = {"from", "scratch", "depth", "1", "rate", "0", "steps", "1", NULL};
    stage_open(&stage, objective == TRAIN_CAUSAL_LM ? "gpt2" : "bert", objective, 2, true);
    double teacher = stage_judge(&stage);
    stage_must(&stage, &technique_distill, pairs);
    double student = stage_judge(&stage);
    stage_close(&stage);
    stage_open(&stage, objective == TRAIN_CAUSAL_LM ? "gpt2" : "bert", objective, 2, true);
    stage_must(&stage, &technique_distill, nothing);
    double random = stage_judge(&stage);
    stage_close(&stage);
    if (!(random - student > share * (random - teacher)))
        fail_msg("%s: teacher %g, student %g, untrained %g", train_objective_name(objective), teacher, student, random);
}

static void test_students_learn(void **state) {
    static const char *const pairs[] = {"from", "scratch", "depth", "1", "alpha", "1", "epochs", "20", NULL};
    static const char *const top[] = {"from",   "scratch", "depth",       "1", "alpha", "1",
                                      "epochs", "20",      "teacher_top", "8", NULL};
    static const char *const texts[] = {"from",   "scratch", "depth",         "1", "level", "sequence",
                                        "epochs", "20",      "prompt_tokens", "2", NULL};
    (void)state;
    learns(TRAIN_CLASSIFICATION, pairs, 0.5);
    learns(TRAIN_QUESTION_ANSWERING, pairs, 0.2);
    learns(TRAIN_REGRESSION, pairs, 0.5);
    learns(TRAIN_CAUSAL_LM, pairs, 0.5);
    learns(TRAIN_CAUSAL_LM, top, 0.5);
    learns(TRAIN_CAUSAL_LM, texts, 0.5);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_for_every_objective),
        cmocka_unit_test(test_kept_by_content),
        cmocka_unit_test(test_inputs_of_packed_teachers),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_waits_for_another_process),
        cmocka_unit_test(test_nothing_can_be_kept),
        cmocka_unit_test(test_prompts_are_not_learnt),
        cmocka_unit_test(test_teacher_without_segments),
        cmocka_unit_test(test_ensemble),
        cmocka_unit_test(test_ensemble_is_the_mean),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_students_learn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
