/* Optimizers: clipping, what decays, rows kept apart against the dense computation bit for bit, memory that rows never
 * seen do not take, the same bits at any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "train/optimizer.h"
#include "train/schedule.h"

static const struct optimizer_settings adamw = {
    .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .clip_norm = 1};

static void test_clipping_and_decay(void **state) {
    float value[6] = {1, 2, 3, 1, 2, 3}, gradient[6] = {30, 0, 40, 0, 0, 0};
    struct trainable items[] = {{"gain", value, gradient, 1, 3, false, false},
                                {"matrix", value + 3, gradient + 3, 3, 1, true, false}};
    struct trainables trainables = {items, 2, SIZE_MAX};
    struct optimizer optimizer;
    double norm;
    (void)state;
    assert_int_equal(optimizer_open(&optimizer, &adamw, &trainables), 0);
    assert_int_equal(optimizer_step(&optimizer, 0, &norm), 0);
    assert_true(norm == 50);
    assert_true(fabsf(optimizer.items[0].m[0] - 0.06f) < 1e-6f);  /* 0.1 · 30/50 */
    assert_true(value[0] == 1 && value[1] == 2 && value[4] == 2); /* rate 0 */
    memset(gradient, 0, sizeof gradient);
    assert_int_equal(optimizer_step(&optimizer, 0.5, &norm), 0);
    assert_true(value[1] == 2 && value[4] == 2.0f * (1 - 0.5f * 0.01f)); /* only the matrix decays */
    float before = value[0];
    gradient[1] = NAN;
    assert_int_equal(optimizer_step(&optimizer, 1, &norm), E_NUMERIC);
    assert_true(value[0] == before && optimizer.step == 2);
    optimizer_close(&optimizer);
}

/* ---- rows kept apart --------------------------------------------------------------------------------- */

#define ROWS 700
#define COLUMNS 90 /* no multiple of a vector; two chunks */
#define STEPS 40

/* A table and a vector beside it, so that both count in the norm. */
struct table {
    float *value, *gradient, *vector, *vector_gradient;
    struct trainable items[2];
    struct trainables trainables;
    struct optimizer optimizer;
};

static void table_open(struct table *table, const struct optimizer_settings *settings, bool sparse) {
    struct random random;
    table->value = calloc(2 * ROWS * COLUMNS + 2 * COLUMNS, sizeof(float));
    table->gradient = table->value + ROWS * COLUMNS;
    table->vector = table->gradient + ROWS * COLUMNS;
    table->vector_gradient = table->vector + COLUMNS;
    random_open(&random, 1, 1);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) table->value[i] = (float)random_normal(&random);
    for (size_t i = 0; i < COLUMNS; i++) table->vector[i] = (float)random_normal(&random);
    table->items[0] = (struct trainable){"bias", table->vector, table->vector_gradient, 1, COLUMNS, false, false};
    table->items[1] = (struct trainable){"table", table->value, table->gradient, ROWS, COLUMNS, true, sparse};
    table->trainables = (struct trainables){table->items, 2, 1};
    assert_int_equal(optimizer_open(&table->optimizer, settings, &table->trainables), 0);
}

static void table_close(struct table *table) {
    optimizer_close(&table->optimizer);
    free(table->value);
}

/* Two micro-batches touch eight rows of the first half; what they do is a function of the step. */
static double table_step(struct table *table, size_t step) {
    int32_t rows[2][4];
    struct random random;
    double norm;
    struct schedule schedule = {.kind = SCHEDULE_LINEAR, .steps = STEPS, .warmup = 5, .peak = 0.3};
    random_open(&random, 2, step);
    memset(table->gradient, 0, ROWS * COLUMNS * sizeof(float));
    for (size_t i = 0; i < 8; i++) rows[i / 4][i % 4] = (int32_t)random_below(&random, ROWS / 2);
    for (size_t micro = 0; micro < 2; micro++) {
        optimizer_touch(&table->optimizer, 1, rows[micro], 4);
        for (size_t i = 0; i < 4 * COLUMNS; i++)
            table->gradient[(size_t)rows[micro][i / COLUMNS] * COLUMNS + i % COLUMNS] += (float)random_normal(&random);
    }
    for (size_t i = 0; i < COLUMNS; i++) table->vector_gradient[i] = (float)random_normal(&random);
    assert_int_equal(optimizer_step(&table->optimizer, schedule_rate(&schedule, step), &norm), 0);
    return norm;
}

static void check_rows_apart(const struct optimizer_settings *settings, bool expected_apart) {
    struct table dense, sparse;
    size_t moved = 0;
    table_open(&dense, settings, false);
    table_open(&sparse, settings, true);
    assert_null(dense.optimizer.items[1].last);
    assert_true((sparse.optimizer.items[1].last != NULL) == expected_apart);
    for (size_t step = 0; step < STEPS; step++) {
        double norm = table_step(&dense, step);
        assert_true(table_step(&sparse, step) == norm);
        if (step == 17) optimizer_settle(&sparse.optimizer);
    }
    for (size_t i = 0; i < ROWS * COLUMNS; i++) moved += dense.value[i] != sparse.value[i];
    /* What waits is the decay alone. */
    assert_true((moved > 0) == (expected_apart && settings->kind == OPTIMIZER_ADAMW));
    optimizer_settle(&sparse.optimizer);
    assert_memory_equal(dense.value, sparse.value, ROWS * COLUMNS * sizeof(float));
    assert_memory_equal(dense.vector, sparse.vector, COLUMNS * sizeof(float));
    assert_memory_equal(dense.optimizer.items[1].m, sparse.optimizer.items[1].m, ROWS * COLUMNS * sizeof(float));
    table_close(&dense);
    table_close(&sparse);
}

static void test_rows_apart_are_the_dense_result(void **state) {
    struct optimizer_settings settings = adamw;
    (void)state;
    check_rows_apart(&settings, true);
    settings.weight_decay = 0;
    settings.kind = OPTIMIZER_ADAM_L2;
    check_rows_apart(&settings, true);
    settings.weight_decay = 0.05;
    check_rows_apart(&settings, false); /* decay reaches every row through its moments */
    settings = (struct optimizer_settings){.kind = OPTIMIZER_SGD, .momentum = 0.9, .nesterov = true, .clip_norm = 1};
    check_rows_apart(&settings, true);
    settings.weight_decay = 0.05;
    check_rows_apart(&settings, false);
}

static size_t resident_bytes(const void *block, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0;
    for (uintptr_t at = (uintptr_t)block / page * page; at < (uintptr_t)block + bytes; at += page) {
        unsigned char in = 0;
        assert_int_equal(mincore((void *)at, page, &in), 0);
        count += in & 1;
    }
    return count * page;
}

/* A table as large as MiniLM's, of which three rows occur. */
static void test_rows_never_seen_take_no_memory(void **state) {
    enum { V = 30522, C = 384 };
    static const int32_t rows[] = {101, 20000, 102};
    void *value, *gradient;
    struct optimizer optimizer;
    double norm;
    (void)state;
    assert_int_equal(memory_take_lazy(&value, V * C, sizeof(float)), 0);
    assert_int_equal(memory_take_lazy(&gradient, V * C, sizeof(float)), 0);
    struct trainable trainable = {"tokens", value, gradient, V, C, true, true};
    struct trainables trainables = {&trainable, 1, 0};
    assert_int_equal(optimizer_open(&optimizer, &adamw, &trainables), 0);
    for (size_t step = 0; step < 5; step++) {
        optimizer_touch(&optimizer, 0, rows, 3);
        for (size_t i = 0; i < 3; i++) ((float *)gradient)[rows[i] * C + 1] = 1;
        assert_int_equal(optimizer_step(&optimizer, 0.1, &norm), 0);
    }
    const size_t few = 64 << 10, rows_bytes = V * sizeof(uint32_t);
    assert_true(resident_bytes(value, V * C * sizeof(float)) <= few);
    assert_true(resident_bytes(gradient, V * C * sizeof(float)) <= few);
    assert_true(resident_bytes(optimizer.sparse.base, optimizer.sparse.used_bytes) <= 2 * few + rows_bytes);
    assert_true(((float *)value)[101 * C + 1] < -0.1f);
    optimizer_close(&optimizer);
    memory_release(value);
    memory_release(gradient);
}

static void test_same_bits_at_any_thread_count(void **state) {
    struct table tables[3];
    int before = threads_get();
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        struct table *table = &tables[threads - 1];
        threads_set(threads);
        table_open(table, &adamw, threads != 2);
        for (size_t step = 0; step < STEPS; step++) table_step(table, step);
        optimizer_settle(&table->optimizer);
    }
    threads_set(before);
    for (int i = 1; i < 3; i++) assert_memory_equal(tables[0].value, tables[i].value, ROWS * COLUMNS * sizeof(float));
    for (int i = 0; i < 3; i++) table_close(&tables[i]);
}

static void test_out_of_memory(void **state) {
    struct table table;
    struct optimizer optimizer;
    (void)state;
    table_open(&table, &adamw, true);
    for (long n = 1; n <= 2; n++) {
        memory_fail_after(n);
        assert_int_equal(optimizer_open(&optimizer, &adamw, &table.trainables), E_MEMORY);
        memory_fail_after(0);
    }
    memory_fail_after(1); /* the list of missed decays */
    double norm;
    table.vector_gradient[0] = 1;
    assert_int_equal(optimizer_step(&table.optimizer, 0.1, &norm), E_MEMORY);
    memory_fail_after(0);
    assert_int_equal(table.optimizer.step, 0);
    table_close(&table);
}

static void test_edges_of_schedules(void **state) {
    struct schedule linear = {.kind = SCHEDULE_LINEAR, .steps = 10, .warmup = 2, .peak = 1};
    struct schedule cosine = {.kind = SCHEDULE_COSINE, .steps = 10, .warmup = 0, .peak = 2};
    struct schedule polynomial = {
        .kind = SCHEDULE_POLYNOMIAL, .steps = 10, .warmup = 0, .peak = 2, .power = 2, .end_frac = 0.25};
    (void)state;
    assert_true(schedule_rate(&linear, 0) == 0 && schedule_rate(&linear, 1) == 0.5 && schedule_rate(&linear, 2) == 1);
    assert_true(schedule_rate(&linear, 10) == 0 && schedule_rate(&linear, 99) == 0);
    assert_true(schedule_rate(&cosine, 0) == 2 && fabs(schedule_rate(&cosine, 99)) < 1e-15);
    assert_true(schedule_rate(&polynomial, 10) == 0.5);
    linear.steps = 1; /* as long as its warm-up */
    linear.warmup = 1;
    assert_true(schedule_rate(&linear, 0) == 0 && schedule_rate(&linear, 1) == 1);
    linear.warmup = 0;
    assert_true(schedule_rate(&linear, 0) == 1);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clipping_and_decay),
        cmocka_unit_test(test_rows_apart_are_the_dense_result),
        cmocka_unit_test(test_rows_never_seen_take_no_memory),
        cmocka_unit_test(test_same_bits_at_any_thread_count),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_edges_of_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
