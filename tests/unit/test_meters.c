/* Meters, validated on known work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "meters/meter.h"

#define VALUES 64

struct window {
    const struct meter *meter;
    void *state;
    struct meter_value values[VALUES];
    size_t count;
};

static void window_open(struct window *window, const char *name) {
    memset(window, 0, sizeof *window);
    for (size_t i = 0; meters[i]; i++)
        if (strcmp(meters[i]->name, name) == 0) window->meter = meters[i];
    assert_non_null(window->meter);
    assert_int_equal(window->meter->abi, METER_ABI);
    window->state = calloc(1, window->meter->state_bytes);
    if (window->meter->open) assert_int_equal(window->meter->open(window->state), 0);
}

static void window_close(struct window *window) {
    if (window->meter->close) window->meter->close(window->state);
    free(window->state);
}

static void window_start(struct window *window) { assert_int_equal(window->meter->start(window->state), 0); }

static void window_stop(struct window *window) {
    assert_int_equal(window->meter->stop(window->state), 0);
    window->count = window->meter->read(window->state, window->values, VALUES);
    assert_in_range(window->count, 1, VALUES);
}

static const struct meter_value *reading(const struct window *window, const char *name) {
    for (size_t i = 0; i < window->count; i++)
        if (strcmp(window->values[i].name, name) == 0) return &window->values[i];
    fail_msg("no reading named %s", name);
    return NULL;
}

static double clock_seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void all_readings_have_value_or_reason(void **state) {
    (void)state;
    size_t known = 0;
    for (size_t i = 0; meters[i]; i++, known++) {
        struct window window;
        window_open(&window, meters[i]->name);
        window_start(&window);
        window_stop(&window);
        for (size_t k = 0; k < window.count; k++) {
            const struct meter_value *value = &window.values[k];
            assert_true(value->name[0] && value->unit[0]);
            assert_true(isnan(value->value) == (value->reason[0] != 0));
            assert_true(value->running_ns <= value->enabled_ns);
            for (size_t j = 0; j < k; j++) assert_string_not_equal(value->name, window.values[j].name);
        }
        struct meter_value two[2];
        assert_true(meters[i]->read(window.state, two, 1) == 1); /* capacity is respected */
        window_close(&window);
    }
    assert_int_equal(known, 3);
}

static void time_covers_a_sleep(void **state) {
    (void)state;
    struct window window;
    window_open(&window, "time");
    window_start(&window);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    window_stop(&window);
    assert_true(reading(&window, "window_ns")->value >= 20e6);
    window_close(&window);
}

/* The process's own processor clock brackets what rusage may report (which counts in steps of up to 10 ms). */
static void rusage_sees_processor_time(void **state) {
    (void)state;
    struct window window;
    window_open(&window, "rusage");
    double outer = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
    window_start(&window);
    double begin = clock_seconds(CLOCK_PROCESS_CPUTIME_ID), end = begin;
    for (volatile unsigned k = 0; end - begin < 0.05; k++)
        if (k % 1000 == 0) end = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
    window_stop(&window);
    outer = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - outer;
    double spent = reading(&window, "user_ns")->value + reading(&window, "system_ns")->value;
    assert_true(spent >= 0.05e9 - 10e6);
    assert_true(spent <= outer * 1e9 + 10e6);
    window_close(&window);
}

static void rusage_sees_faults(void **state) {
    (void)state;
    const size_t bytes = (size_t)64 << 20;
    struct window window;
    window_open(&window, "rusage");
    window_start(&window);
    char *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(block != MAP_FAILED);
    madvise(block, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096) block[i] = 1;
    window_stop(&window);
    munmap(block, bytes);
    assert_true(reading(&window, "minor_faults")->value >= (double)(bytes / 4096));
    window_close(&window);
}

static void software_events_are_exact(void **state) {
    (void)state;
    struct window window;
    kernel_counters.multiply_adds += 11; /* before: not counted */
    window_open(&window, "papi");
    kernel_counters.multiply_adds += 5;
    for (uint64_t round = 1; round <= 3; round++) {
        window_start(&window);
        kernel_counters.multiply_adds += 1000000007 * round;
        kernel_counters.weight_bytes += 4096 * round;
        kernel_counters.tokens += 17 * round;
        window_stop(&window);
        kernel_counters.tokens += 1; /* between windows: not counted */
        assert_true(reading(&window, "multiply_adds")->value == 1000000007.0 * (double)round);
        assert_true(reading(&window, "weight_bytes")->value == 4096.0 * (double)round);
        assert_true(reading(&window, "tokens")->value == 17.0 * (double)round);
    }
    window_close(&window);
}

/* A worker is forked from a process that may have used PAPI before. */
static void papi_survives_a_fork(void **state) {
    (void)state;
    struct window window;
    window_open(&window, "papi");
    window_close(&window);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct window again;
        memset(&again, 0, sizeof again);
        again.meter = window.meter;
        again.state = calloc(1, again.meter->state_bytes);
        int bad = again.meter->open(again.state) != 0;
        bad |= again.meter->start(again.state) != 0;
        kernel_counters.tokens += 23;
        bad |= again.meter->stop(again.state) != 0;
        again.count = again.meter->read(again.state, again.values, VALUES);
        bad |= reading(&again, "tokens")->value != 23.0;
        again.meter->close(again.state);
        _exit(bad);
    }
    int code = -1;
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_int_equal(code, 0);
}

/* Where there are hardware counters: work on two threads counts about twice that on one. */
static void spin(void *context, size_t begin, size_t end, int worker) {
    (void)context, (void)worker;
    for (size_t i = begin; i < end; i++)
        for (volatile int k = 0; k < 100000; k++)
            ;
}

static void hardware_counts_all_threads(void **state) {
    (void)state;
    struct window window;
    int threads = threads_get();
    threads_set(2);
    parallel_for(64, 1, spin, NULL); /* the pool exists before the meter opens */
    window_open(&window, "papi");
    window_start(&window);
    parallel_for(64, 1, spin, NULL);
    window_stop(&window);
    const struct meter_value *instructions = reading(&window, "instructions");
    char reason[sizeof instructions->reason];
    snprintf(reason, sizeof reason, "%s", instructions->reason);
    double counted = instructions->value;
    window_close(&window);
    threads_set(threads);
    if (isnan(counted)) {
        print_message("skipped: no hardware counters: %s\n", reason);
        skip();
    }
    /* Each of the 6.4 million rounds takes at least a load, an addition, a store and a branch. */
    assert_true(counted >= 64 * 100000 * 3.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_readings_have_value_or_reason), cmocka_unit_test(time_covers_a_sleep),
        cmocka_unit_test(rusage_sees_processor_time),        cmocka_unit_test(rusage_sees_faults),
        cmocka_unit_test(software_events_are_exact),         cmocka_unit_test(papi_survives_a_fork),
        cmocka_unit_test(hardware_counts_all_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
