/* What smoothquant promises: the model computes the same, rounding costs less, auto is at least as good as any one
 * alpha and as leaving an input alone, the same bytes each time, and refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/threads.h"
#include "calibrate/fold.h"
#include "outliers.h"

extern const struct technique technique_smoothquant, technique_rtn;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static double smooth(const char *family, const char *const *settings, double *before, double *inputs) {
    struct technique_run run;
    struct small_task task;
    float *outputs = NULL;
    outliers_open(&run, &task, family, 7);
    outliers_change(&run, &task, &outputs);
    must(technique_run_stage(&run, &technique_smoothquant, settings));
    double change = outliers_change(&run, &task, &outputs);
    if (!(change <= 1e-5)) fail_msg("%s: outputs changed by %g", family, change);
    double after = technique_run_metric(&run, "rounding_error_after_frac");
    if (before) *before = technique_run_metric(&run, "rounding_error_before_frac");
    if (inputs) *inputs = technique_run_metric(&run, "inputs_smoothed");
    free(outputs);
    outliers_close(&run, &task);
    return after;
}

/* Every family: outputs stay, the error of rounding falls. */
static void test_families(void **state) {
    static const struct {
        const char *family;
        double inputs; /* of two blocks */
        double gain;   /* error after, of that before, at most */
    } rows[] = {{"bert", 2, 0.6},  {"distilbert", 2, 0.6}, {"gpt2", 6, 0.3},   {"opt", 8, 0.3},
                {"llama", 8, 0.3}, {"qwen2", 8, 0.3},      {"mistral", 8, 0.3}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double before, inputs, after = smooth(rows[i].family, NULL, &before, &inputs);
        print_message("%s: error %g before, %g after, %g inputs\n", rows[i].family, before, after, inputs);
        assert_true(inputs == rows[i].inputs);
        assert_true(after > 0 && after < rows[i].gain * before);
    }
}

static void test_auto(void **state) {
    static const char *const automatic[] = {"auto=true", NULL};
    static const char *const alphas[][2] = {{"alpha=0.1", NULL}, {"alpha=0.5", NULL}, {"alpha=0.85", NULL}};
    static const char *const families[] = {"bert", "llama"};
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        double before, best = smooth(families[f], automatic, &before, NULL);
        assert_true(best <= before);
        for (size_t i = 0; i < 3; i++) assert_true(best <= smooth(families[f], alphas[i], NULL, NULL) * (1 + 1e-9));
    }
}

/* The paper's sites alone; alpha 0 and 1 are the formula's ends. */
static void test_sites(void **state) {
    static const char *const norms[] = {"sites=[norm_attention, norm_feed]", NULL}, *const up[] = {"sites=[up]", NULL};
    double inputs;
    (void)state;
    smooth("llama", norms, NULL, &inputs);
    assert_true(inputs == 4);
    smooth("opt", up, NULL, &inputs);
    assert_true(inputs == 2);
}

/* alpha 1 makes every channel's largest magnitude 1; alpha 0 makes every column's. alpha 0.5 makes them alike. */
static void test_formula(void **state) {
    static const char *const settings[][3] = {{"alpha=0", "sites=[norm_feed]", NULL},
                                              {"alpha=0.5", "sites=[norm_feed]", NULL},
                                              {"alpha=1", "sites=[norm_feed]", NULL}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct technique_run run;
        struct small_task task;
        struct fold_site sites[2 * FOLD_KINDS];
        float before[64], after[64];
        outliers_open(&run, &task, "opt", 7);
        fold_sites(&run.model, sites);
        const struct fold_site *site = &sites[FOLD_NORM_FEED];
        fold_consumer_absmax(&run.model, site, before);
        must(technique_run_stage(&run, &technique_smoothquant, settings[i]));
        fold_consumer_absmax(&run.model, site, after);
        for (size_t c = 0; c < site->channels; c++) {
            /* s = after/before; x's maximum before is s^(1/alpha)·w^(1/alpha - 1) */
            if (i == 0) assert_true(fabsf(after[c] - 1) < 1e-5f);
            if (i == 1) { /* both sides now have sqrt(x·w), so x = after²/before */
                double input = (double)after[c] * (double)after[c] / (double)before[c];
                assert_true(input > (c % 8 == 3 ? 15 : 0.5) && input < (c % 8 == 3 ? 120 : 6));
            }
            if (i == 2) assert_true(after[c] / before[c] > (c % 8 == 3 ? 15 : 0.5f));
        }
        outliers_close(&run, &task);
    }
}

static void test_same_bytes(void **state) {
    static const char *const settings[] = {"auto=true", "examples=20", NULL};
    char hex[2][65];
    int before = threads_get();
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct technique_run run;
        struct small_task task;
        outliers_open(&run, &task, "llama", 7);
        threads_set(i ? 3 : 1);
        must(technique_run_stage(&run, &technique_smoothquant, settings));
        small_model_hash(&run.model, hex[i]);
        outliers_close(&run, &task);
    }
    threads_set(before);
    assert_string_equal(hex[0], hex[1]);
}

static void refused(const char *family, const char *const *settings, int code, const char *words) {
    struct technique_run run;
    struct small_task task;
    outliers_open(&run, &task, family, 7);
    assert_int_equal(technique_run_stage(&run, &technique_smoothquant, settings), code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    outliers_close(&run, &task);
}

static void test_refusals(void **state) {
    static const char *const norms[] = {"sites=[norm_attention]", NULL}, *const up[] = {"sites=[up]", NULL},
                             *const odd[] = {"sites=[down]", NULL};
    struct technique_run run;
    struct small_task task;
    (void)state;
    refused("bert", norms, E_UNSUPPORTED, "of a bert model can be smoothed: the norm's output");
    refused("gpt2", up, E_UNSUPPORTED, "GELU lets no factor through");
    refused("gpt2", odd, E_ARGUMENT, "'down' is none of");
    outliers_open(&run, &task, "opt", 7);
    must(technique_run_stage(&run, &technique_rtn, NULL));
    assert_int_equal(technique_run_stage(&run, &technique_smoothquant, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "move factors before quantizing"));
    outliers_close(&run, &task);
}

/* Whichever allocation fails, the stage ends with that error. */
static void test_memory(void **state) {
    static const char *const settings[] = {"auto=true", "examples=8", NULL};
    (void)state;
    for (long n = 1;; n += n / 6 + 1) {
        struct technique_run run;
        struct small_task task;
        outliers_open(&run, &task, "opt", 7);
        run.fail_after = n;
        int status = technique_run_stage(&run, &technique_smoothquant, settings);
        bool reached = run.allocations >= n;
        assert_int_equal(status, reached ? E_MEMORY : 0);
        outliers_close(&run, &task);
        if (!reached) break;
        assert_true(n < 100000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_auto),       cmocka_unit_test(test_sites),
        cmocka_unit_test(test_formula),  cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
