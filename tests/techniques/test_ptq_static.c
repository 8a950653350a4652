/* What ptq_static promises: layers that multiply in int8 with the ranges it told of, the same bytes each time, less
 * error with finer grids, smoothed inputs and corrected biases, sensitivities that are those of one layer alone, and
 * refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/threads.h"
#include "calibrate/calibrate.h"
#include "outliers.h"
#include "training_stage.h"

extern const struct technique technique_ptq_static, technique_smoothquant, technique_equalize;

#define ALL "examples=48", "sensitivity_examples=48"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* Change of the outputs by a stage, after `first` (NULL: none). */
static double change_by(const char *family, const struct technique *first, const char *const *settings) {
    struct technique_run run;
    struct small_task task;
    float *before = NULL;
    outliers_open(&run, &task, family, 7);
    outliers_change(&run, &task, &before);
    if (first) must(technique_run_stage(&run, first, NULL));
    must(technique_run_stage(&run, &technique_ptq_static, settings));
    double change = outliers_change(&run, &task, &before);
    free(before);
    outliers_close(&run, &task);
    return change;
}

/* ---- ranges ------------------------------------------------------------------------------------------- */

struct extremes {
    const struct model *model;
    double low[32], high[32];
    uint64_t values[32];
};

static int see(void *context, size_t linear, const float *x, size_t T) {
    struct extremes *extremes = context;
    for (size_t i = 0; i < extremes->model->linear_count; i++) {
        if (calibration_leader(extremes->model, i) != linear) continue;
        for (size_t k = 0; k < T * extremes->model->linears[linear].columns; k++) {
            extremes->low[i] = fmin(extremes->low[i], (double)x[k]);
            extremes->high[i] = fmax(extremes->high[i], (double)x[k]);
        }
        extremes->values[i] += T * extremes->model->linears[linear].columns;
    }
    return 0;
}

static void check_ranges(const char *family, bool asymmetric) {
    const char *settings[] = {"calibrator=min_max", asymmetric ? "asymmetric=true" : "asymmetric=false", "examples=48",
                              NULL};
    struct technique_run run;
    struct small_task task;
    static struct extremes extremes;
    struct calibration_visitor visitor = {.input = see, .context = &extremes};
    struct calibration_plan plan = {0};
    size_t told = 0;
    outliers_open(&run, &task, family, 7);
    extremes = (struct extremes){.model = &run.model};
    must(calibration_run(&run.model, &task.examples, &plan, &visitor));
    must(technique_run_stage(&run, &technique_ptq_static, settings));
    for (size_t i = 0; i < run.model.linear_count; i++) {
        const struct linear *linear = &run.model.linears[i];
        const struct activation_quantizer *quantizer = &linear->weight.activation;
        if (linear->block < 0) {
            assert_string_equal(linear->weight.format->name, "f32");
            continue;
        }
        const struct layer_seen *seen = &run.layers[told++];
        double low = extremes.low[i], high = extremes.high[i], reach = fmax(-low, high);
        assert_string_equal(seen->name, linear->name);
        assert_string_equal(seen->format, "int8");
        assert_string_equal(linear->weight.format->name, "int8");
        assert_true(seen->seen_low == low && seen->seen_high == high && seen->values == extremes.values[i]);
        assert_true(seen->low == (asymmetric ? low : -reach) && seen->high == (asymmetric ? high : reach));
        assert_int_equal(quantizer->range, ACTIVATION_STATIC);
        assert_int_equal(quantizer->asymmetric, asymmetric);
        double scale = asymmetric ? (high - low) / 255 : reach / 127;
        assert_true(fabs((double)quantizer->scale - scale) <= 1e-6 * scale);
        if (asymmetric) assert_int_equal(quantizer->zero, (int)nearbyint(-low / scale) - 128);
        assert_true(isnan(seen->error) && isnan(seen->score_lost));
        assert_int_equal(seen->bytes_f32, 4 * linear->rows * linear->columns);
        assert_int_equal(seen->bytes_packed, linear->weight.packed_bytes);
    }
    assert_int_equal(told, run.layer_count);
    assert_true(technique_run_metric(&run, "layers_rounded") == (double)told);
    outliers_close(&run, &task);
}

static void test_ranges(void **state) {
    (void)state;
    check_ranges("bert", true);
    check_ranges("llama", true);
    check_ranges("opt", false);
}

/* Every calibrator works on every family; far too narrow a range shows. */
static void test_calibrators(void **state) {
    static const char *const calibrators[] = {"calibrator=min_max", "calibrator=moving_average",
                                              "calibrator=percentile", "calibrator=entropy", "calibrator=mse"};
    static const char *const families[] = {"bert", "gpt2", "llama"};
    static const char *const narrow[] = {"percentile=80", NULL};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        double most = 0;
        for (size_t i = 0; i < 5; i++) {
            const char *settings[] = {calibrators[i], "bins=512", NULL};
            double change = change_by(families[f], &technique_smoothquant, settings);
            print_message("%s %s: %g\n", families[f], calibrators[i], change);
            assert_true(change > 0 && change < 0.3);
            most = fmax(most, change);
        }
        assert_true(change_by(families[f], &technique_smoothquant, narrow) > 2 * most);
    }
}

/* ---- order -------------------------------------------------------------------------------------------- */

static void test_order(void **state) {
    static const char *const row[] = {"calibrator=min_max", NULL}, *const tensor[] = {"calibrator=min_max",
                                                                                      "granularity=tensor", NULL};
    static const char *const families[] = {"gpt2", "opt", "llama"};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        struct technique_run run;
        struct small_task task;
        double error[2];
        for (size_t i = 0; i < 2; i++) {
            outliers_open(&run, &task, families[f], 7);
            must(technique_run_stage(&run, &technique_ptq_static, i ? tensor : row));
            error[i] = technique_run_metric(&run, "weight_relative_error_frac");
            outliers_close(&run, &task);
        }
        assert_true(error[0] > 0 && error[0] < error[1]);
        double plain = change_by(families[f], NULL, row), smooth = change_by(families[f], &technique_smoothquant, row);
        print_message("%s: outputs change by %g, smoothed %g\n", families[f], plain, smooth);
        assert_true(smooth < 0.5 * plain);
    }
    assert_true(change_by("opt", &technique_equalize, tensor) < change_by("opt", NULL, tensor));
}

static void test_same_bytes(void **state) {
    static const char *const settings[] = {"calibrator=mse",      "bins=256",     "bias_correction=true",
                                           "sensitivity=outputs", "keep_worst=1", NULL};
    char hex[2][HASH_HEX];
    int before = threads_get();
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct technique_run run;
        struct small_task task;
        outliers_open(&run, &task, "bert", 7);
        threads_set(i ? 3 : 1);
        must(technique_run_stage(&run, &technique_ptq_static, settings));
        technique_run_hash(&run, hex[i]);
        outliers_close(&run, &task);
    }
    threads_set(before);
    assert_string_equal(hex[0], hex[1]);
}

/* ---- biases ------------------------------------------------------------------------------------------- */

struct rows {
    size_t linear, count, N;
    float *x;
};

static int gather(void *context, size_t linear, const float *x, size_t T) {
    struct rows *rows = context;
    if (linear != rows->linear) return 0;
    rows->x = realloc(rows->x, (rows->count + T) * rows->N * sizeof *x);
    assert_non_null(rows->x);
    memcpy(rows->x + rows->count * rows->N, x, T * rows->N * sizeof *x);
    rows->count += T;
    return 0;
}

/* Largest mean, over the calibration rows, of what quantizing changed in an output of one layer; of the mean size. */
static double mean_change(bool correct) {
    const char *settings[] = {"layers=[*.layer.1.output.dense]", "calibrator=percentile", "percentile=98",
                              correct ? "bias_correction=true" : "bias_correction=false", NULL};
    struct technique_run run;
    struct small_task task;
    struct calibration_plan plan = {0};
    struct weight_scratch scratch = {0};
    double largest = 0, size = 0;
    outliers_open(&run, &task, "bert", 7);
    struct linear *linear = model_linear_find(&run.model, "bert.encoder.layer.1.output.dense");
    assert_non_null(linear);
    struct rows rows = {.linear = (size_t)(linear - run.model.linears), .N = linear->columns};
    struct calibration_visitor visitor = {.input = gather, .context = &rows};
    must(calibration_run(&run.model, &task.examples, &plan, &visitor));
    size_t R = linear->rows, T = rows.count;
    float *exact = calloc(2 * T * R, sizeof *exact), *quantized = exact + T * R;
    assert_non_null(exact);
    must(model_prepare(&run.model, GEMM_BUILTIN));
    must(weight_matmul(&linear->weight, T, rows.x, linear->bias, exact, &scratch));
    must(technique_run_stage(&run, &technique_ptq_static, settings));
    assert_true(!correct || technique_run_metric(&run, "biases_corrected") == 1);
    must(model_prepare(&run.model, GEMM_BUILTIN));
    must(weight_matmul(&linear->weight, T, rows.x, linear->bias, quantized, &scratch));
    for (size_t r = 0; r < R; r++) {
        double sum = 0;
        for (size_t t = 0; t < T; t++) {
            sum += (double)quantized[t * R + r] - (double)exact[t * R + r];
            size += fabs((double)exact[t * R + r]);
        }
        largest = fmax(largest, fabs(sum) / (double)T);
    }
    size /= (double)(T * R);
    weight_scratch_close(&scratch);
    free(rows.x);
    free(exact);
    outliers_close(&run, &task);
    return largest / size;
}

static void test_biases(void **state) {
    (void)state;
    double plain = mean_change(false), corrected = mean_change(true);
    print_message("mean of outputs: moved by %g, corrected %g\n", plain, corrected);
    assert_true(plain > 1e-3);
    assert_true(corrected < 1e-6);
}

/* ---- sensitivity -------------------------------------------------------------------------------------- */

/* Mean KL divergence of the classes' probabilities. */
static double divergence(const float *a, const float *b, size_t count, size_t classes) {
    double sum = 0;
    for (size_t i = 0; i < count; i += classes) {
        double total_a = 0, total_b = 0;
        for (size_t k = 0; k < classes; k++) total_a += exp((double)a[i + k]), total_b += exp((double)b[i + k]);
        for (size_t k = 0; k < classes; k++) {
            double p = exp((double)a[i + k]) / total_a, q = exp((double)b[i + k]) / total_b;
            sum += p * log(p / q);
        }
    }
    return sum / (double)(count / classes);
}

static int loss_of(void *host, const struct model *model, double *value, bool *higher_is_better) {
    *value = training_stage_loss(model, host);
    *higher_is_better = false;
    return 0;
}

static int no_split(void *host, const struct model *model, double *value, bool *higher_is_better) {
    (void)host, (void)model, (void)value, (void)higher_is_better;
    return error_record(E_STATE, __FILE__, __LINE__, "no validation split");
}

/* What was told of each layer is what quantizing that layer alone does. */
static void test_sensitivity(void **state) {
    static const char *const all[] = {"sensitivity=task", "calibrator=min_max", ALL, NULL};
    struct technique_run run;
    struct small_task task;
    struct layer_seen told[32];
    size_t count, values;
    (void)state;
    outliers_open(&run, &task, "bert", 7);
    run.evaluate = loss_of;
    run.evaluate_host = &task.examples;
    float *before = training_stage_outputs(&run.model, &task.examples, task.examples.count, &values);
    double loss = training_stage_loss(&run.model, &task.examples), most = 0;
    must(technique_run_stage(&run, &technique_ptq_static, all));
    count = run.layer_count;
    assert_int_equal(count, 12);
    memcpy(told, run.layers, sizeof told);
    for (size_t i = 0; i < count; i++) most = fmax(most, told[i].error);
    assert_true(technique_run_metric(&run, "layer_error_most") == most);
    outliers_close(&run, &task);
    for (size_t i = 0; i < count; i += 5) {
        char layers[128];
        snprintf(layers, sizeof layers, "layers=[%.95s]", told[i].name);
        const char *one[] = {layers, "calibrator=min_max", "examples=48", NULL};
        outliers_open(&run, &task, "bert", 7);
        must(technique_run_stage(&run, &technique_ptq_static, one));
        assert_int_equal(run.layer_count, 1);
        float *after = training_stage_outputs(&run.model, &task.examples, task.examples.count, &values);
        double expected = divergence(before, after, values, 3);
        double lost = training_stage_loss(&run.model, &task.examples) - loss;
        print_message("%s: divergence %g, loss %g\n", told[i].name, told[i].error, told[i].score_lost);
        assert_true(told[i].error > 0 && fabs(told[i].error - expected) <= 1e-3 * expected + 1e-9);
        assert_true(fabs(told[i].score_lost - lost) <= 1e-6);
        free(after);
        outliers_close(&run, &task);
    }
    free(before);
}

/* The worst are kept, and nothing changes where all are. */
static void test_keep_worst(void **state) {
    static const char *const families[] = {"bert", "llama"};
    static const char *const two[] = {"keep_worst=2", NULL}, *const all[] = {"keep_worst=99", NULL};
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct technique_run run;
        struct small_task task;
        float *before = NULL;
        double kept = INFINITY, others = 0;
        outliers_open(&run, &task, families[f], 7);
        must(technique_run_stage(&run, &technique_ptq_static, two));
        for (size_t i = 0; i < run.layer_count; i++) {
            const struct layer_seen *seen = &run.layers[i];
            bool is_kept = strcmp(seen->format, "f32") == 0;
            assert_string_equal(model_linear_find(&run.model, seen->name)->weight.format->name, seen->format);
            assert_true(isnan(seen->score_lost));
            if (is_kept) kept = fmin(kept, seen->error);
            else others = fmax(others, seen->error);
        }
        assert_true(others > 0 && kept >= others && technique_run_metric(&run, "layers_kept") == 2);
        outliers_close(&run, &task);
        outliers_open(&run, &task, families[f], 7);
        outliers_change(&run, &task, &before);
        run.evaluate = no_split; /* sensitivity then goes by outputs */
        must(technique_run_stage(&run, &technique_ptq_static, all));
        assert_true(outliers_change(&run, &task, &before) == 0);
        assert_true(technique_run_metric(&run, "layers_rounded") == 0);
        free(before);
        outliers_close(&run, &task);
    }
}

static void test_no_split(void **state) {
    static const char *const settings[] = {"sensitivity=task", NULL};
    struct technique_run run;
    struct small_task task;
    (void)state;
    outliers_open(&run, &task, "gpt2", 7);
    run.evaluate = no_split;
    must(technique_run_stage(&run, &technique_ptq_static, settings));
    for (size_t i = 0; i < run.layer_count; i++)
        assert_true(run.layers[i].error > 0 && isnan(run.layers[i].score_lost));
    outliers_close(&run, &task);
}

/* ---- refusals ----------------------------------------------------------------------------------------- */

static void refused(const char *family, const char *const *settings, int code, const char *words) {
    struct technique_run run;
    struct small_task task;
    outliers_open(&run, &task, family, 7);
    assert_int_equal(technique_run_stage(&run, &technique_ptq_static, settings), code);
    if (!strstr(error_text(), words)) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    outliers_close(&run, &task);
}

static void test_refusals(void **state) {
    static const char *const bins[] = {"bins=64", NULL}, *const odd[] = {"bins=2049", NULL},
                             *const keep[] = {"keep=[nobody]", NULL}, *const head[] = {"layers=[head]", NULL},
                             *const none[] = {"layers=[down]", "keep=[down]", NULL};
    struct technique_run run;
    struct small_task task;
    struct examples no_examples = {0};
    (void)state;
    refused("bert", bins, E_ARGUMENT, "quantized_bins must be at most bins, 64 (got 128)");
    refused("bert", odd, E_ARGUMENT, "must be even");
    refused("bert", keep, E_UNSUPPORTED, "keep: 'nobody'");
    refused("bert", none, E_UNSUPPORTED, "layers and keep leave no layer");
    refused("llama", head, E_UNSUPPORTED, "what enters lm_head is not seen in calibration");
    outliers_open(&run, &task, "bert", 7);
    must(technique_run_stage(&run, &technique_ptq_static, NULL));
    assert_int_equal(technique_run_stage(&run, &technique_ptq_static, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8 already"));
    outliers_close(&run, &task);
    outliers_open(&run, &task, "bert", 7);
    run.calibration = &no_examples;
    assert_int_equal(technique_run_stage(&run, &technique_ptq_static, NULL), E_ARGUMENT);
    assert_non_null(strstr(error_text(), "no examples to calibrate on"));
    outliers_close(&run, &task);
}

/* Whichever allocation fails, the stage ends with that error. */
static void test_memory(void **state) {
    static const char *const settings[] = {
        "calibrator=entropy", "bins=256", "sensitivity=outputs", "sensitivity_examples=4", "bias_correction=true",
        "examples=8",         NULL};
    (void)state;
    for (long n = 1;; n += n / 6 + 1) {
        struct technique_run run;
        struct small_task task;
        outliers_open(&run, &task, "opt", 7);
        run.fail_after = n;
        int status = technique_run_stage(&run, &technique_ptq_static, settings);
        bool reached = run.allocations >= n;
        assert_int_equal(status, reached ? E_MEMORY : 0);
        outliers_close(&run, &task);
        if (!reached) break;
        assert_true(n < 100000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),     cmocka_unit_test(test_calibrators), cmocka_unit_test(test_order),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_biases),      cmocka_unit_test(test_sensitivity),
        cmocka_unit_test(test_keep_worst), cmocka_unit_test(test_no_split),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
