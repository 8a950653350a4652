/* The part of cmocka that our tests use, written anew for cross builds, where Debian offers cmocka only through a
 * second package architecture. Same names, same printed lines (tools/run_tests.sh counts them); tests run in one
 * process, a failed assertion leaves the test by longjmp. Not here: mocks, expectations, allocation checks. */
#ifndef OWN_CMOCKA_H
#define OWN_CMOCKA_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

typedef void CMUnitTestFunction(void **state);
typedef int CMFixtureFunction(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction *test;
    CMFixtureFunction *setup, *teardown;
    void *initial_state;
};

#define cmocka_unit_test(f)                                                                                            \
    { #f, f, NULL, NULL, NULL }
#define cmocka_unit_test_setup(f, setup)                                                                               \
    { #f, f, setup, NULL, NULL }
#define cmocka_unit_test_teardown(f, teardown)                                                                         \
    { #f, f, NULL, teardown, NULL }
#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                                            \
    { #f, f, setup, teardown, NULL }
#define cmocka_unit_test_prestate(f, state)                                                                            \
    { #f, f, NULL, NULL, state }

#define cmocka_run_group_tests(tests, setup, teardown)                                                                 \
    own_cmocka_run(tests, sizeof(tests) / sizeof *(tests), setup, teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown) cmocka_run_group_tests(tests, setup, teardown)
int own_cmocka_run(const struct CMUnitTest *tests, size_t count, CMFixtureFunction *setup, CMFixtureFunction *teardown);

/* Both leave the running test. */
_Noreturn void own_cmocka_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void own_cmocka_skip(void);

void own_cmocka_truth(int truth, const char *text, const char *file, int line);
void own_cmocka_numbers(uint64_t a, uint64_t b, int want_equal, const char *file, int line);
void own_cmocka_range(uint64_t value, uint64_t low, uint64_t high, const char *file, int line);
void own_cmocka_strings(const char *a, const char *b, int want_equal, const char *file, int line);
void own_cmocka_memory(const void *a, const void *b, size_t count, int want_equal, const char *file, int line);

#define OWN_CMOCKA_NUMBER(value) ((uint64_t)(value))
#define assert_true(c) own_cmocka_truth((c) ? 1 : 0, #c, __FILE__, __LINE__)
#define assert_false(c) own_cmocka_truth((c) ? 0 : 1, "!(" #c ")", __FILE__, __LINE__)
#define assert_null(p) own_cmocka_truth((p) == NULL, #p " is NULL", __FILE__, __LINE__)
#define assert_non_null(p) own_cmocka_truth((p) != NULL, #p " is not NULL", __FILE__, __LINE__)
#define assert_ptr_equal(a, b)                                                                                         \
    own_cmocka_truth((const void *)(uintptr_t)(a) == (const void *)(uintptr_t)(b), #a " is " #b, __FILE__, __LINE__)
#define assert_ptr_not_equal(a, b)                                                                                     \
    own_cmocka_truth((const void *)(uintptr_t)(a) != (const void *)(uintptr_t)(b), #a " is not " #b, __FILE__, __LINE__)
#define assert_int_equal(a, b) own_cmocka_numbers(OWN_CMOCKA_NUMBER(a), OWN_CMOCKA_NUMBER(b), 1, __FILE__, __LINE__)
#define assert_int_not_equal(a, b) own_cmocka_numbers(OWN_CMOCKA_NUMBER(a), OWN_CMOCKA_NUMBER(b), 0, __FILE__, __LINE__)
#define assert_in_range(v, low, high)                                                                                  \
    own_cmocka_range(OWN_CMOCKA_NUMBER(v), OWN_CMOCKA_NUMBER(low), OWN_CMOCKA_NUMBER(high), __FILE__, __LINE__)
#define assert_string_equal(a, b) own_cmocka_strings(a, b, 1, __FILE__, __LINE__)
#define assert_string_not_equal(a, b) own_cmocka_strings(a, b, 0, __FILE__, __LINE__)
#define assert_memory_equal(a, b, count) own_cmocka_memory(a, b, count, 1, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, count) own_cmocka_memory(a, b, count, 0, __FILE__, __LINE__)
#define fail() own_cmocka_fail(__FILE__, __LINE__, "Failure!")
#define fail_msg(...) own_cmocka_fail(__FILE__, __LINE__, __VA_ARGS__)
#define skip() own_cmocka_skip()

void print_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
