/* See cmocka.h beside this. */
#include "own_cmocka/cmocka.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum outcome { OUTCOME_OK, OUTCOME_FAILED, OUTCOME_SKIPPED };

static jmp_buf leave;
static int running;         /* a test may be left */
static void *running_state; /* of that test; not a local, which longjmp may forget */

_Noreturn void own_cmocka_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("[  ERROR   ] --- ");
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n[   LINE   ] --- %s:%d: error: Failure!\n", file, line);
    fflush(stdout);
    if (!running) __builtin_trap();
    longjmp(leave, OUTCOME_FAILED);
}

_Noreturn void own_cmocka_skip(void) {
    if (!running) __builtin_trap();
    longjmp(leave, OUTCOME_SKIPPED);
}

void own_cmocka_truth(int truth, const char *text, const char *file, int line) {
    if (!truth) own_cmocka_fail(file, line, "%s", text);
}

void own_cmocka_numbers(uint64_t a, uint64_t b, int want_equal, const char *file, int line) {
    if ((a == b) != (want_equal != 0))
        own_cmocka_fail(file, line, "%#llx %s %#llx", (unsigned long long)a,
                        want_equal ? "!=" : "==", (unsigned long long)b);
}

void own_cmocka_range(uint64_t value, uint64_t low, uint64_t high, const char *file, int line) {
    if (value < low || value > high)
        own_cmocka_fail(file, line, "%llu is not within %llu-%llu", (unsigned long long)value, (unsigned long long)low,
                        (unsigned long long)high);
}

void own_cmocka_strings(const char *a, const char *b, int want_equal, const char *file, int line) {
    if ((strcmp(a, b) == 0) != (want_equal != 0))
        own_cmocka_fail(file, line, "\"%s\" %s \"%s\"", a, want_equal ? "!=" : "==", b);
}

void own_cmocka_memory(const void *a, const void *b, size_t count, int want_equal, const char *file, int line) {
    if ((memcmp(a, b, count) == 0) == (want_equal != 0)) return;
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < count; i++)
        if (x[i] != y[i]) own_cmocka_fail(file, line, "byte %zu is %#04x, not %#04x", i, x[i], y[i]);
    own_cmocka_fail(file, line, "%zu equal bytes", count);
}

void print_message(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

void print_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

static enum outcome run_one(const struct CMUnitTest *test, void *group_state) {
    running_state = test->initial_state ? test->initial_state : group_state;
    running = 1;
    volatile enum outcome outcome = OUTCOME_OK; /* written after setjmp */
    switch (setjmp(leave)) {
    case OUTCOME_OK:
        if (test->setup && test->setup(&running_state) != 0) own_cmocka_fail(__FILE__, __LINE__, "the setup failed");
        test->test(&running_state);
        break;
    case OUTCOME_SKIPPED: outcome = OUTCOME_SKIPPED; break;
    default: outcome = OUTCOME_FAILED; break;
    }
    running = 0;
    if (test->teardown && test->teardown(&running_state) != 0) outcome = OUTCOME_FAILED;
    return outcome;
}

int own_cmocka_run(const struct CMUnitTest *tests, size_t count, CMFixtureFunction *setup,
                   CMFixtureFunction *teardown) {
    static const char *const labels[] = {"[       OK ]", "[  FAILED  ]", "[  SKIPPED ]"};
    size_t counts[3] = {0};
    void *state = NULL;
    printf("[==========] Running %zu test(s).\n", count);
    if (setup && setup(&state) != 0) {
        printf("[  FAILED  ] the group's setup\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        printf("[ RUN      ] %s\n", tests[i].name);
        fflush(stdout);
        enum outcome outcome = run_one(tests + i, state);
        counts[outcome]++;
        printf("%s %s\n", labels[outcome], tests[i].name);
    }
    if (teardown && teardown(&state) != 0) counts[OUTCOME_FAILED]++;
    printf("[==========] %zu test(s) run.\n", count);
    fflush(stdout);
    return counts[OUTCOME_FAILED] != 0;
}
