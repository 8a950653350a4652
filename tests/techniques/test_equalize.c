/* What equalize promises: the model computes the same, both sides of a pair get the same ranges, a grid per tensor
 * loses less, a second pass changes nothing, and refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "calibrate/fold.h"
#include "outliers.h"

extern const struct technique technique_equalize, technique_rtn;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void check_ranges(const struct model *model) {
    struct fold_site sites[2 * FOLD_KINDS];
    fold_sites(model, sites);
    for (size_t i = 0; i < 2 * FOLD_KINDS; i++) {
        float first[64], second[64];
        if (sites[i].reason || (sites[i].kind != FOLD_VALUE && sites[i].kind != FOLD_UP)) continue;
        fold_source_absmax(model, &sites[i], first);
        fold_consumer_absmax(model, &sites[i], second);
        for (size_t c = 0; c < sites[i].channels; c++) assert_true(fabsf(first[c] - second[c]) <= 1e-5f * first[c]);
    }
}

static void test_families(void **state) {
    static const struct {
        const char *family;
        double pairs, left;
    } rows[] = {{"bert", 2, 2},  {"distilbert", 2, 2}, {"gpt2", 2, 2},   {"opt", 4, 0},
                {"llama", 4, 0}, {"qwen2", 4, 0},      {"mistral", 4, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct technique_run run;
        struct small_task task;
        float *outputs = NULL;
        outliers_open(&run, &task, rows[i].family, 7);
        outliers_change(&run, &task, &outputs);
        for (int pass = 0; pass < 2; pass++) {
            must(technique_run_stage(&run, &technique_equalize, NULL));
            double change = outliers_change(&run, &task, &outputs);
            double before = technique_run_metric(&run, "channel_precision_before_frac");
            double after = technique_run_metric(&run, "channel_precision_after_frac");
            print_message("%s: precision %g before, %g after, outputs %g\n", rows[i].family, before, after, change);
            assert_true(change <= 1e-5);
            assert_true(technique_run_metric(&run, "pairs_equalized") == rows[i].pairs);
            assert_true(technique_run_metric(&run, "pairs_left") == rows[i].left);
            if (pass == 0) assert_true(after > 1.5 * before);
            else assert_true(fabs(after - before) < 1e-4 * after);
        }
        check_ranges(&run.model);
        free(outputs);
        outliers_close(&run, &task);
    }
}

/* Squared error of rounding the pair's layers by one scale a matrix, relative to their squares. */
static double tensor_error(const struct model *model) {
    double error = 0, size = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        bool pair = linear->role == ROLE_VALUE || linear->role == ROLE_ATTENTION_OUTPUT || linear->role == ROLE_UP ||
                    linear->role == ROLE_DOWN;
        double most = 0, sum = 0, squares = 0;
        if (!pair) continue;
        for (size_t k = 0; k < linear->rows * linear->columns; k++) most = fmax(most, fabs((double)linear->value[k]));
        for (size_t k = 0; k < linear->rows * linear->columns; k++) {
            double w = (double)linear->value[k], d = w - nearbyint(w / most * 127) * most / 127;
            sum += d * d;
            squares += w * w;
        }
        error += sum / squares;
        size += 1;
    }
    return error / size;
}

static void test_rounding(void **state) {
    struct technique_run run;
    struct small_task task;
    (void)state;
    outliers_open(&run, &task, "opt", 7);
    double before = tensor_error(&run.model);
    must(technique_run_stage(&run, &technique_equalize, NULL));
    double after = tensor_error(&run.model);
    print_message("error %g before, %g after\n", before, after);
    assert_true(after < 0.7 * before);
    outliers_close(&run, &task);
}

/* A channel that is all zero on one side stays as it is. */
static void test_zero(void **state) {
    struct technique_run run;
    struct small_task task;
    struct fold_site sites[2 * FOLD_KINDS];
    float row[32];
    (void)state;
    outliers_open(&run, &task, "opt", 7);
    fold_sites(&run.model, sites);
    struct linear *up = &run.model.linears[sites[FOLD_UP].source],
                  *down = &run.model.linears[sites[FOLD_UP].consumer[0]];
    for (size_t r = 0; r < down->rows; r++) down->value[r * down->columns + 5] = 0;
    memcpy(row, up->value + 5 * up->columns, sizeof row);
    must(technique_run_stage(&run, &technique_equalize, NULL));
    assert_memory_equal(row, up->value + 5 * up->columns, sizeof row);
    outliers_close(&run, &task);
}

static void refused(const char *family, const char *const *settings, int code, const char *words) {
    struct technique_run run;
    struct small_task task;
    outliers_open(&run, &task, family, 7);
    assert_int_equal(technique_run_stage(&run, &technique_equalize, settings), code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    outliers_close(&run, &task);
}

static void test_refusals(void **state) {
    static const char *const up[] = {"pairs=[up]", NULL}, *const odd[] = {"pairs=[norm_feed]", NULL};
    struct technique_run run;
    struct small_task task;
    (void)state;
    refused("bert", up, E_UNSUPPORTED, "no pair of a bert model: GELU lets no factor through");
    refused("opt", odd, E_ARGUMENT, "'norm_feed' is neither value nor up");
    outliers_open(&run, &task, "opt", 7);
    must(technique_run_stage(&run, &technique_rtn, NULL));
    assert_int_equal(technique_run_stage(&run, &technique_equalize, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8"));
    outliers_close(&run, &task);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
