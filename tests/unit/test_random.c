/* Philox against Random123's known answers; streams, moments, permutations; threads: every item once,
 * the same chunks at any thread count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/random.h"
#include "base/threads.h"

/* kat_vectors of Random123 1.09, philox4x32 10 */
static void philox_known_answers(void **state) {
    (void)state;
    static const struct {
        uint64_t index, stream, seed;
        uint32_t words[4];
    } row[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x85a308d3243f6a88, 0x0370734413198a2e, 0x299f31d0a4093822, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        uint32_t words[4];
        random_block(row[i].seed, row[i].stream, row[i].index, words);
        assert_memory_equal(words, row[i].words, sizeof words);
    }
}

static void reader_follows_the_blocks(void **state) {
    (void)state;
    struct random random;
    uint32_t words[4];
    random_open(&random, 5, 6);
    for (uint64_t index = 0; index < 3; index++) {
        random_block(5, 6, index, words);
        for (int i = 0; i < 4; i++) assert_int_equal(random_u32(&random), words[i]);
    }
    random_open(&random, 5, 6);
    for (uint64_t i = 0; i < 101; i++) {
        double expected = random_uniform(&random);
        assert_true(random_uniform_at(5, 6, i) == expected);
        assert_true(expected >= 0 && expected < 1);
    }
}

static void streams_differ_in_every_argument(void **state) {
    (void)state;
    uint64_t base = random_stream("dropout", 1, 2);
    assert_true(base == random_stream("dropout", 1, 2));
    assert_true(base != random_stream("dropouT", 1, 2));
    assert_true(base != random_stream("dropout", 2, 1));
    assert_true(base != random_stream("dropout", 1, 3));
    assert_true(base != random_stream("dropout", 0, 2));
}

static void moments_are_right(void **state) {
    (void)state;
    enum { COUNT = 40000 };
    struct random random;
    double sum = 0, squares = 0, fourth = 0, uniform = 0;
    random_open(&random, 1, 2);
    for (int i = 0; i < COUNT; i++) {
        double x = random_normal(&random);
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        uniform += random_uniform(&random);
    }
    /* five standard errors: 1/sqrt(n), sqrt(2/n), sqrt(96/n), sqrt(1/12/n) */
    assert_true(fabs(sum / COUNT) < 5 / sqrt(COUNT));
    assert_true(fabs(squares / COUNT - 1) < 5 * sqrt(2.0 / COUNT));
    assert_true(fabs(fourth / COUNT - 3) < 5 * sqrt(96.0 / COUNT));
    assert_true(fabs(uniform / COUNT - 0.5) < 5 * sqrt(1 / 12.0 / COUNT));
}

static void below_is_in_range_and_even(void **state) {
    (void)state;
    struct random random;
    int seen[7] = {0};
    random_open(&random, 3, 4);
    for (int i = 0; i < 7000; i++) {
        uint64_t value = random_below(&random, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++) assert_in_range(seen[i], 1000 - 5 * 30, 1000 + 5 * 30);
    assert_int_equal(random_below(&random, 1), 0);
    for (int i = 0; i < 100; i++) assert_true(random_below(&random, (1ull << 63) + 1) <= 1ull << 63);
}

static void permutation_holds_each_once(void **state) {
    (void)state;
    uint32_t order[500], again[500], other[500];
    int seen[500] = {0};
    random_permutation(9, 1, order, 500);
    random_permutation(9, 1, again, 500);
    random_permutation(9, 2, other, 500);
    for (int i = 0; i < 500; i++) seen[order[i]]++;
    for (int i = 0; i < 500; i++) assert_int_equal(seen[i], 1);
    assert_memory_equal(order, again, sizeof order);
    assert_memory_not_equal(order, other, sizeof order);
    random_permutation(9, 1, order, 0);
}

/* ---- threads ---- */
enum { ITEMS = 1003, GRAIN = 7 };
struct visit {
    atomic_int seen[ITEMS];
    atomic_int wrong;
    int threads;
};

static void visit_body(void *context, size_t begin, size_t end, int worker) {
    struct visit *visit = context;
    size_t expected_end = begin + GRAIN < ITEMS ? begin + GRAIN : ITEMS;
    if (begin % GRAIN || end != expected_end || worker < 0 || worker >= visit->threads) visit->wrong++;
    for (size_t i = begin; i < end; i++) visit->seen[i]++;
}

static void every_item_once_in_fixed_chunks(void **state) {
    (void)state;
    int before = threads_get();
    assert_true(before >= 1);
    for (int threads = 1; threads <= 5; threads++) {
        static struct visit visit;
        memset(&visit, 0, sizeof visit);
        visit.threads = threads;
        threads_set(threads);
        assert_int_equal(threads_get(), threads);
        parallel_for(ITEMS, GRAIN, visit_body, &visit);
        assert_int_equal(visit.wrong, 0);
        for (int i = 0; i < ITEMS; i++) assert_int_equal(visit.seen[i], 1);
        parallel_for(0, GRAIN, visit_body, &visit);
        assert_int_equal(visit.wrong, 0);
    }
    threads_set(before);
}

struct nest {
    atomic_int items, wrong;
};
struct inner {
    struct nest *nest;
    int worker;
};

static void inner_body(void *context, size_t begin, size_t end, int worker) {
    struct inner *inner = context;
    if (worker != inner->worker) inner->nest->wrong++;
    inner->nest->items += (int)(end - begin);
}

static void outer_body(void *context, size_t begin, size_t end, int worker) {
    for (size_t i = begin; i < end; i++) {
        struct inner inner = {context, worker};
        parallel_for(10, 1, inner_body, &inner);
    }
}

static void nested_loops_stay_on_their_worker(void **state) {
    (void)state;
    int before = threads_get();
    struct nest nest = {0, 0};
    threads_set(3);
    for (int i = 0; i < 20; i++) parallel_for(20, 1, outer_body, &nest);
    parallel_for(1, 1, outer_body, &nest);
    assert_int_equal(nest.wrong, 0);
    assert_int_equal(nest.items, 20 * 20 * 10 + 10);
    threads_set(before);
}

struct ended {
    atomic_int begun, ends, early;
    int least; /* begun when an end comes: all but those that other threads took and are about to begin */
};

static void begin_body(void *context, size_t begin, size_t end, int worker) {
    struct ended *ended = context;
    (void)end, (void)worker;
    ended->begun++;
    for (volatile size_t i = 0; i < 2000 * (begin % 7); i++) {
    }
}

static void count_end(void *context) {
    struct ended *ended = context;
    ended->early += ended->begun < ended->least;
    ended->ends++;
}

static void ends_come_when_no_chunk_is_left(void **state) {
    (void)state;
    int before = threads_get();
    for (int threads = 1; threads <= 4; threads++) {
        threads_set(threads);
        for (int chunks = 1; chunks < 60; chunks += 7) {
            struct ended ended = {.least = chunks - (threads - 1)};
            parallel_for_then((size_t)chunks, 1, begin_body, count_end, &ended);
            assert_int_equal(ended.begun, chunks);
            assert_int_equal(ended.early, 0);
            assert_true(ended.ends >= 1 && ended.ends <= threads && ended.ends <= chunks);
        }
    }
    threads_set(before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(reader_follows_the_blocks),
        cmocka_unit_test(streams_differ_in_every_argument),
        cmocka_unit_test(moments_are_right),
        cmocka_unit_test(below_is_in_range_and_even),
        cmocka_unit_test(permutation_holds_each_once),
        cmocka_unit_test(every_item_once_in_fixed_chunks),
        cmocka_unit_test(nested_loops_stay_on_their_worker),
        cmocka_unit_test(ends_come_when_no_chunk_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
