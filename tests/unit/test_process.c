/* Worker processes: results come through, and a crash, a hang, an exhausted memory or garbage on the wire
 * is told apart from them. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/memory.h"
#include "run/process.h"

struct seen {
    int results, errors, code;
    uint64_t value;
    char text[200];
};

static void on_message(void *context, struct process *process, uint32_t kind, struct wire_reader *reader) {
    struct seen *seen = context;
    (void)process;
    if (kind == MESSAGE_RESULT) {
        seen->results++;
        seen->value = wire_get_u64(reader);
    } else if (kind == MESSAGE_ERROR) {
        seen->errors++;
        seen->code = -(int)wire_get_u64(reader);
        const char *text = wire_get_text(reader);
        snprintf(seen->text, sizeof seen->text, "%s", text ? text : "");
    }
}

static volatile int never, at_once = 1;

static void run(int (*body)(void *, int), struct process_limits limits, const volatile int *interrupted,
                struct process *process, struct seen *seen) {
    struct process *ended = NULL, *list[1] = {process};
    *process = (struct process){0};
    *seen = (struct seen){0};
    assert_int_equal(process_fork(process, &limits, body, NULL), 0);
    while (!ended) assert_int_equal(process_wait(list, 1, interrupted, on_message, seen, &ended), 0);
}

static int answer(void *context, int fd) {
    struct wire_writer writer = {0};
    (void)context;
    wire_put_u64(&writer, 42);
    int status = wire_send(fd, MESSAGE_RESULT, &writer);
    wire_writer_close(&writer);
    return status;
}
static int crash(void *context, int fd) {
    (void)context, (void)fd;
    signal(SIGABRT, SIG_DFL);
    abort();
}
static int hang(void *context, int fd) {
    (void)context, (void)fd;
    for (;;) pause();
    return 0;
}
static int give_up(void *context, int fd) {
    int status = 0;
    (void)context, (void)fd;
    FAIL(E_NUMERIC, "the loss is not finite at step 3");
out:
    return status;
}
/* Leaves a process behind that holds the pipe, and says who it is. */
static int leave_behind(void *context, int fd) {
    struct wire_writer writer = {0};
    (void)context;
    pid_t left = fork();
    if (left == 0)
        for (;;) pause();
    wire_put_u64(&writer, (uint64_t)left);
    int status = wire_send(fd, MESSAGE_RESULT, &writer);
    wire_writer_close(&writer);
    return status;
}
static int leave_behind_and_hang(void *context, int fd) {
    return leave_behind(context, fd) < 0 ? -1 : hang(context, fd);
}
static int hang_up_and_hang(void *context, int fd) {
    close(fd);
    return hang(context, fd);
}
static int garbage(void *context, int fd) {
    uint8_t bytes[64];
    (void)context;
    memset(bytes, 0xfe, sizeof bytes);
    if (write(fd, bytes, sizeof bytes) != sizeof bytes) return E_IO;
    for (;;) pause();
}
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static int eat_memory(void *context, int fd) {
    int status = 0;
    (void)context, (void)fd;
    for (int i = 0; i < 4096; i++) {
        void *block;
        TRY(memory_take(&block, 1 << 20, 1));
        memset(block, 1, 1 << 20);
    }
out:
    return status;
}
#endif

static void test_result(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(answer, (struct process_limits){0}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_EXITED);
    assert_int_equal(process.exit_code, 0);
    assert_int_equal(seen.results, 1);
    assert_int_equal(seen.value, 42);
    process_close(&process);
}

static void test_crash(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(crash, (struct process_limits){0}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_SIGNALLED);
    assert_int_equal(process.signal, SIGABRT);
    assert_int_equal(seen.results, 0);
    process_close(&process);
}

static void test_hang(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(hang, (struct process_limits){.wall_s = 0.2}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_TIMEOUT);
    process_close(&process);
}

/* The process is gone, or a zombie that nobody waits for. */
static bool is_gone(pid_t pid) {
    char name[64], text[256] = "";
    for (int tries = 0; tries < 200; tries++, usleep(10000)) {
        snprintf(name, sizeof name, "/proc/%d/stat", (int)pid);
        FILE *file = fopen(name, "r");
        if (!file) return true;
        const char *line = fgets(text, sizeof text, file);
        fclose(file);
        if (!line || strstr(text, ") Z ")) return true;
    }
    return false;
}

static void test_left_behind(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(leave_behind, (struct process_limits){.wall_s = 20}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_EXITED);
    assert_int_equal(seen.results, 1);
    assert_true(is_gone((pid_t)seen.value));
    process_close(&process);
    run(leave_behind_and_hang, (struct process_limits){.wall_s = 0.2}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_TIMEOUT);
    assert_int_equal(seen.results, 1);
    assert_true(is_gone((pid_t)seen.value));
    process_close(&process);
}

static void test_hang_up(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(hang_up_and_hang, (struct process_limits){.wall_s = 0.2}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_TIMEOUT);
    process_close(&process);
}

static void test_failure(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(give_up, (struct process_limits){0}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_EXITED);
    assert_int_equal(process.exit_code, 1);
    assert_int_equal(seen.code, E_NUMERIC);
    assert_string_equal(seen.text, "the loss is not finite at step 3");
    process_close(&process);
}

static void test_garbage(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(garbage, (struct process_limits){.wall_s = 20}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_SIGNALLED);
    assert_int_equal(seen.results, 0);
    process_close(&process);
}

static void test_interrupt(void **state) {
    (void)state;
    struct process process;
    struct seen seen;
    run(hang, (struct process_limits){0}, &at_once, &process, &seen);
    assert_int_equal(process.end, PROCESS_INTERRUPTED);
    process_close(&process);
}

static void test_memory(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: sanitizers reserve more memory than any limit\n");
    skip();
#else
    struct process process;
    struct seen seen;
    run(eat_memory, (struct process_limits){.memory_mb = 512}, &never, &process, &seen);
    assert_int_equal(process.end, PROCESS_EXITED);
    assert_int_equal(seen.code, E_MEMORY);
    process_close(&process);
#endif
}

static void test_log(void **state) {
    (void)state;
    struct process process = {0};
    struct process *ended = NULL, *list[1] = {&process};
    struct seen seen = {0};
    char text[32];
    assert_int_equal(process_fork(&process, &(struct process_limits){0}, give_up, NULL), 0);
    while (!ended) process_wait(list, 1, &never, on_message, &seen, &ended);
    process_log(&process, text, sizeof text);
    assert_string_equal(text, "");
    process_close(&process);
}

/* A program that ends before it reads its job, which no pipe holds whole: an end like any other. */
static void test_unread_job(void **state) {
    (void)state;
    static char bytes[1 << 20];
    struct process process = {.log_fd = -1}, *ended = NULL, *list[1] = {&process};
    struct seen seen = {0};
    struct wire_writer job = {0};
    wire_put_bytes(&job, bytes, sizeof bytes);
    assert_int_equal(process_exec(&process, &(struct process_limits){.wall_s = 20}, "die", &job), 0);
    while (!ended) assert_int_equal(process_wait(list, 1, &never, on_message, &seen, &ended), 0);
    assert_int_equal(process.end, PROCESS_EXITED);
    assert_int_equal(process.exit_code, 7);
    wire_writer_close(&job);
    process_close(&process);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "die") == 0) return 7;
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_result),  cmocka_unit_test(test_crash),      cmocka_unit_test(test_hang),
        cmocka_unit_test(test_failure), cmocka_unit_test(test_garbage),    cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_memory),  cmocka_unit_test(test_log),        cmocka_unit_test(test_left_behind),
        cmocka_unit_test(test_hang_up), cmocka_unit_test(test_unread_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
