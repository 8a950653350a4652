/* McNemar's exact test, TF-IDF rows, the linear classifier, and the yardsticks made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "small_wordnet.h"
#include "task/features.h"
#include "task/linear_svm.h"
#include "task/task.h"

/* p of `left` items right under a alone and `right` under b alone, among others on which both agree. */
static double mcnemar(size_t left, size_t right) {
    size_t count = left + right + 10, only_a = 0, only_b = 0;
    uint8_t *a = calloc(count, 1), *b = calloc(count, 1);
    for (size_t i = 0; i < left; i++) a[i] = 1;
    for (size_t i = left; i < left + right; i++) b[i] = 1;
    for (size_t i = left + right; i < left + right + 5; i++) a[i] = b[i] = 1;
    double p = task_mcnemar(a, b, count, &only_a, &only_b);
    assert_int_equal(only_a, left);
    assert_int_equal(only_b, right);
    free(a);
    free(b);
    return p;
}

/* Expected values: exact rational sums of binomial coefficients. */
static void mcnemar_is_exact(void **state) {
    (void)state;
    static const struct {
        size_t left, right;
        double p;
    } rows[] = {{1, 9, 0.021484375},
                {0, 5, 0.0625},
                {950, 1050, 0.026824146240280695},
                {300, 700, 1.7665678007950136e-37},
                {19500, 20500, 5.875981550362565e-07},
                {7, 8, 1},
                {3, 3, 1},
                {0, 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double p = mcnemar(rows[i].left, rows[i].right);
        if (fabs(p - rows[i].p) > 1e-9 * rows[i].p)
            fail_msg("%zu against %zu: p %.17g, expected %.17g", rows[i].left, rows[i].right, p, rows[i].p);
        assert_true(p == mcnemar(rows[i].right, rows[i].left));
    }
}

static void rows_hold_tf_idf(void **state) {
    (void)state;
    const char *const train[] = {"Red red apple", "green apple", "a b c"}, *const other[] = {"apple RED unknown"};
    const struct task_text texts = {.count = 3, .text = train}, more = {.count = 1, .text = other};
    struct vocabulary vocabulary;
    struct sparse rows, test;
    assert_int_equal(vocabulary_open(&vocabulary, &texts, false), 0);
    assert_int_equal(vocabulary.count, 3);
    assert_int_equal(sparse_open(&rows, &vocabulary, &texts), 0);
    assert_int_equal(rows.begin[3], 4);
    assert_int_equal(rows.begin[2], 4); /* one-letter words are none */
    double red = (1 + log(2)) * (log(4.0 / 2) + 1), apple = log(4.0 / 3) + 1, length = sqrt(red * red + apple * apple);
    assert_true(fabs((double)rows.value[0] - red / length) < 1e-6);
    assert_true(fabs((double)rows.value[1] - apple / length) < 1e-6);
    assert_int_equal(sparse_open(&test, &vocabulary, &more), 0);
    assert_int_equal(test.begin[1], 2);
    sparse_close(&test);
    sparse_close(&rows);
    vocabulary_close(&vocabulary);
    assert_int_equal(vocabulary_open(&vocabulary, &texts, true), 0);
    assert_int_equal(vocabulary.count, 6); /* and "red red", "red apple", "green apple" */
    assert_int_equal(sparse_open(&test, &vocabulary, &more), 0);
    assert_int_equal(test.begin[1], 2); /* "apple red" was never seen */
    sparse_close(&test);
    vocabulary_close(&vocabulary);
}

/* Tables grow past their first size without losing or confusing a feature. */
static void many_words_keep_their_numbers(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static char text[COUNT][32];
    static const char *views[COUNT];
    for (int i = 0; i < COUNT; i++) {
        snprintf(text[i], sizeof text[i], "word%d next%d", i, i / 2);
        views[i] = text[i];
    }
    const struct task_text texts = {.count = COUNT, .text = views};
    struct vocabulary vocabulary;
    struct sparse rows;
    assert_int_equal(vocabulary_open(&vocabulary, &texts, true), 0);
    assert_int_equal(vocabulary.count, COUNT + COUNT / 2 + COUNT);
    assert_int_equal(sparse_open(&rows, &vocabulary, &texts), 0);
    for (int i = 0; i < COUNT; i++) assert_int_equal(rows.begin[i + 1] - rows.begin[i], 3);
    sparse_close(&rows);
    vocabulary_close(&vocabulary);
}

/* Two rows e1 (class 0) and e2 (class 1), C = 1: by symmetry w = (a, -a) and no bias, the objective is
 * a*a + 2*C*(1-a)*(1-a), and its optimum a = 2/3. */
static void machine_finds_the_optimum(void **state) {
    (void)state;
    size_t begin[] = {0, 1, 2};
    uint32_t index[] = {0, 1};
    float value[] = {1, 1};
    const int32_t label[] = {0, 1};
    const struct sparse rows = {.rows = 2, .columns = 2, .begin = begin, .index = index, .value = value};
    double valid[SVM_COSTS][2][2], test[SVM_COSTS][2][2];
    assert_int_equal(svm_decide(&rows, label, 2, &rows, &rows, &valid[0][0][0], &test[0][0][0]), 0);
    assert_true(svm_costs[SVM_COSTS - 1] == 1.0);
    assert_true(fabs(valid[SVM_COSTS - 1][0][0] - 2.0 / 3) < 0.1);
    assert_true(fabs(valid[SVM_COSTS - 1][0][1] + 2.0 / 3) < 0.1);
    assert_true(fabs(valid[SVM_COSTS - 1][1][1] - 2.0 / 3) < 0.1);
    assert_memory_equal(valid, test, sizeof valid);
}

static int small_open(struct task *task, size_t per_class) {
    char folder[] = "/tmp/test_yardsticks.XXXXXX", command[64];
    const struct task_kind *kind = task_kind_find("wordnet");
    struct option_store store = {0};
    uint64_t options[8] = {0};
    assert_non_null(mkdtemp(folder));
    assert_int_equal(small_wordnet_write(folder, per_class, 20), 0);
    assert_int_equal(option_defaults(kind->options, options, &store), 0);
    assert_int_equal(option_set(option_find(kind->options, "data"), options, folder, &store), 0);
    int status = kind->open(task, options);
    option_store_close(&store);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    return status;
}

static void yardsticks_rank_as_they_should(void **state) {
    (void)state;
    struct task task;
    struct task_yardstick one[3], two[3];
    size_t count = 0;
    assert_int_equal(small_open(&task, 100), 0);
    size_t items = task.split[SPLIT_TEST].count;
    int threads = threads_get();
    threads_set(1);
    assert_int_equal(task_yardsticks(&task, one, &count), 0);
    assert_int_equal(count, 3);
    threads_set(2);
    assert_int_equal(task_yardsticks(&task, two, &count), 0);
    threads_set(threads);
    for (size_t i = 0; i < 3; i++) {
        size_t right = 0;
        for (size_t k = 0; k < items; k++) right += one[i].correct[k];
        assert_true(fabs(one[i].accuracy_frac - (double)right / (double)items) < 1e-12);
        assert_memory_equal(one[i].correct, two[i].correct, items);
    }
    assert_true(one[0].accuracy_frac < 0.3);
    assert_true(one[1].accuracy_frac > 0.8); /* nine in ten glosses hold a telling word */
    assert_true(one[2].accuracy_frac > 0.8);
    assert_true(one[1].accuracy_frac < 1);
    task_yardsticks_close(one, 3);
    task_yardsticks_close(two, 3);
    task.kind->close(&task);
}

/* The cost is the one that validation prefers, here not the first, and it matters. */
static void cost_is_chosen_on_validation(void **state) {
    (void)state;
    struct task task;
    struct task_yardstick yardsticks[3];
    struct vocabulary vocabulary;
    struct sparse rows[3];
    size_t count = 0, best = 0;
    assert_int_equal(small_open(&task, 40), 0);
    assert_int_equal(vocabulary_open(&vocabulary, &task.split[SPLIT_TRAIN], true), 0);
    for (int s = SPLIT_TRAIN; s <= SPLIT_TEST; s++)
        assert_int_equal(sparse_open(&rows[s], &vocabulary, &task.split[s]), 0);
    size_t valid_rows = rows[1].rows, test_rows = rows[2].rows, classes = task.classes;
    double *valid = calloc(SVM_COSTS * classes * valid_rows, sizeof *valid), best_right = -1;
    double *test = calloc(SVM_COSTS * classes * test_rows, sizeof *test);
    assert_int_equal(svm_decide(&rows[0], task.split[0].label, classes, &rows[1], &rows[2], valid, test), 0);
    uint8_t *correct = calloc(SVM_COSTS * test_rows, 1);
    for (size_t c = 0; c < SVM_COSTS; c++) {
        double right = 0;
        for (int s = SPLIT_VALIDATION; s <= SPLIT_TEST; s++)
            for (size_t i = 0; i < rows[s].rows; i++) {
                const double *decision = (s == SPLIT_TEST ? test : valid) + c * classes * rows[s].rows + i;
                size_t said = 0;
                for (size_t k = 1; k < classes; k++)
                    if (decision[k * rows[s].rows] > decision[said * rows[s].rows]) said = k;
                bool hit = (int32_t)said == task.split[s].label[i];
                if (s == SPLIT_TEST) correct[c * test_rows + i] = hit;
                else right += hit;
            }
        if (right > best_right) {
            best_right = right;
            best = c;
        }
    }
    assert_true(best > 0);
    assert_memory_not_equal(correct, correct + best * test_rows, test_rows);
    assert_int_equal(task_yardsticks(&task, yardsticks, &count), 0);
    assert_memory_equal(yardsticks[2].correct, correct + best * test_rows, test_rows);
    task_yardsticks_close(yardsticks, count);
    free(correct);
    free(test);
    free(valid);
    for (int s = 0; s < 3; s++) sparse_close(&rows[s]);
    vocabulary_close(&vocabulary);
    task.kind->close(&task);
}

static void every_failed_allocation_is_survived(void **state) {
    (void)state;
    struct task task;
    struct task_yardstick yardsticks[3];
    size_t count = 0;
    assert_int_equal(small_open(&task, 100), 0);
    for (int s = 0; s < SPLITS; s++)
        if (task.split[s].count > 30) task.split[s].count = 30;
    memory_fail_after(0);
    assert_int_equal(task_yardsticks(&task, yardsticks, &count), 0);
    long allocations = memory_count();
    task_yardsticks_close(yardsticks, count);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int status = task_yardsticks(&task, yardsticks, &count);
        memory_fail_after(0);
        assert_int_equal(status, E_MEMORY);
        assert_int_equal(count, 0);
    }
    task.kind->close(&task);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mcnemar_is_exact),
        cmocka_unit_test(rows_hold_tf_idf),
        cmocka_unit_test(many_words_keep_their_numbers),
        cmocka_unit_test(machine_finds_the_optimum),
        cmocka_unit_test(yardsticks_rank_as_they_should),
        cmocka_unit_test(cost_is_chosen_on_validation),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
