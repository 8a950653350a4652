/* Ranges of the observers against ONNX Runtime's calibrators and torch's observers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "calibrate/observer_search.h"
#include "golden_files.h"

/* The fixture's tensors x, m = x·w and y = max(m, 0), batch by batch. */
struct streams {
    struct safetensors file;
    struct json_document info;
    char *text;
    size_t batches, count[3]; /* values of a batch */
    float *values[3];         /* (batches, count) */
};
static const char *const stream_names[] = {"x", "m", "y"};

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static bool streams_open(struct streams *streams) {
    char path[512];
    if (!golden_path(path, sizeof path, "quant/calibration.safetensors")) return false;
    golden_open(&streams->file, "quant/calibration.safetensors");
    golden_json(&streams->info, &streams->text, "quant/info.json");
    const struct tensor *batches = golden_tensor(&streams->file, "batches"), *w = golden_tensor(&streams->file, "w");
    size_t rows = batches->shape[1], N = batches->shape[2], R = w->shape[1];
    const float *x = batches->data, *weights = w->data;
    streams->batches = batches->shape[0];
    for (size_t k = 0; k < 3; k++) {
        streams->count[k] = rows * (k == 0 ? N : R);
        streams->values[k] = malloc(streams->batches * streams->count[k] * sizeof(float));
        assert_non_null(streams->values[k]);
    }
    memcpy(streams->values[0], x, streams->batches * rows * N * sizeof *x);
    for (size_t i = 0; i < streams->batches * rows; i++)
        for (size_t r = 0; r < R; r++) {
            double sum = 0;
            for (size_t n = 0; n < N; n++) sum += (double)x[i * N + n] * (double)weights[n * R + r];
            streams->values[1][i * R + r] = (float)sum;
            streams->values[2][i * R + r] = sum > 0 ? (float)sum : 0.0f;
        }
    return true;
}

static void streams_close(struct streams *streams) {
    for (size_t k = 0; k < 3; k++) free(streams->values[k]);
    json_close(&streams->info);
    memory_release(streams->text);
    safetensors_close(&streams->file);
}

static struct range golden_range(const struct json *calibrator, const char *name) {
    const struct json *pair = json_member(json_member(calibrator, "ranges"), name);
    struct range range;
    assert_non_null(pair);
    must(json_number(json_item(pair, 0), name, &range.low));
    must(json_number(json_item(pair, 1), name, &range.high));
    return range;
}

/* A stream through one observer, batch by batch or all at once, as ONNX Runtime's histograms see it; `bin` is then the
 * width of one of its bins. */
static void observe(const struct streams *streams, size_t stream, const struct observer_plan *plan, bool whole,
                    struct range *range, double *bin) {
    size_t batches = whole ? 1 : streams->batches, count = streams->count[stream] * streams->batches / batches;
    struct observer observer;
    must(observer_open(&observer, plan));
    for (size_t b = 0; b < batches; b++) must(observer_add(&observer, streams->values[stream] + b * count, count));
    must(observer_range(&observer, range));
    *bin = observer.histogram.width;
    observer_close(&observer);
}

static void check(const char *key, const struct observer_plan *plan, bool whole, bool clamp, double bins) {
    struct streams streams = {0};
    if (!streams_open(&streams)) skip();
    const struct json *calibrator = json_member(json_member(json_root(&streams.info), "ort.calibration"), key);
    assert_non_null(calibrator);
    for (size_t k = 0; k < 3; k++) {
        struct range expected = golden_range(calibrator, stream_names[k]), range;
        double bin;
        observe(&streams, k, plan, true, &range, &bin);
        if (!whole) {
            double narrower;
            observe(&streams, k, plan, false, &range, &narrower);
        }
        if (clamp) { /* ONNX Runtime holds a symmetric percentile against what was seen */
            const float *values = streams.values[k];
            double low = 0, high = 0;
            for (size_t i = 0; i < streams.batches * streams.count[k]; i++) {
                low = fmin(low, (double)values[i]);
                high = fmax(high, (double)values[i]);
            }
            range.low = fmax(range.low, low);
            range.high = fmin(range.high, high);
        }
        double tolerance = 1e-4 + bins * bin;
        printf("%s %s: %.6f %.6f, expected %.6f %.6f, within %.6f\n", key, stream_names[k], range.low, range.high,
               expected.low, expected.high, tolerance);
        if (!(fabs(range.low - expected.low) <= tolerance && fabs(range.high - expected.high) <= tolerance))
            fail_msg("%s %s: %.7g..%.7g, expected %.7g..%.7g within %g", key, stream_names[k], range.low, range.high,
                     expected.low, expected.high, tolerance);
    }
    streams_close(&streams);
}

/* A number among the fixture's options of a calibrator. */
static double option_of(const char *key, const char *option, double preset) {
    struct json_document info;
    char *text, path[512];
    if (!golden_path(path, sizeof path, "quant/calibration.safetensors")) skip();
    golden_json(&info, &text, "quant/info.json");
    const struct json *options =
        json_member(json_member(json_member(json_root(&info), "ort.calibration"), key), "options");
    double value = json_member(options, option) ? golden_number(options, option) : preset;
    json_close(&info);
    memory_release(text);
    return value;
}

static void test_min_max(void **state) {
    struct observer_plan plan;
    (void)state;
    observer_defaults(&plan, CALIBRATOR_MIN_MAX, false);
    check("min_max", &plan, false, false, 0);
    observer_defaults(&plan, CALIBRATOR_MIN_MAX, true);
    check("min_max_symmetric", &plan, false, false, 0);
}

static void test_moving_average(void **state) {
    struct observer_plan plan;
    (void)state;
    observer_defaults(&plan, CALIBRATOR_MOVING_AVERAGE, false);
    plan.averaging = 0;
    check("min_max_moving_average", &plan, false, false, 0);
}

static void test_percentile(void **state) {
    static const char *const keys[] = {"percentile", "percentile_99"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct observer_plan plan;
        observer_defaults(&plan, CALIBRATOR_PERCENTILE, true);
        plan.bins = (size_t)option_of(keys[i], "num_bins", 2048);
        plan.percentile = option_of(keys[i], "percentile", 99.999);
        check(keys[i], &plan, true, true, 1);
        check(keys[i], &plan, false, true, 1); /* batch by batch, too: the share cut off is the same */
    }
}

/* The candidate with that upper end where it is not cut to what was seen, else with that lower end. */
static double divergence_at(const struct observer *observer, struct range range) {
    const struct histogram *histogram = &observer->histogram;
    double *room = malloc(2 * histogram->bins * sizeof *room), result = NAN;
    assert_non_null(room);
    for (size_t i = observer->plan.quantized_bins / 2; i <= histogram->bins / 2; i++) {
        size_t middle = histogram->bins / 2, end = middle + i + 1 < histogram->bins ? middle + i + 1 : histogram->bins;
        double low = fmax(histogram_edge(histogram, middle - i), (double)histogram->low);
        double high = fmin(histogram_edge(histogram, end), (double)histogram->high);
        if (fabs(low - range.low) < 0.25 * histogram->width && fabs(high - range.high) < 0.25 * histogram->width)
            result = range_divergence(histogram, observer->plan.quantized_bins, i, room);
    }
    free(room);
    return result;
}

/* ONNX Runtime sums its divergences in f32, which leaves ties open: where its range is more than a bin from ours, its
 * divergence must be the same as ours to within rounding of a sum over all bins. */
static void test_entropy(void **state) {
    static const char *const keys[] = {"entropy", "entropy_512_128"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct streams streams = {0};
        struct observer_plan plan;
        observer_defaults(&plan, CALIBRATOR_ENTROPY, false);
        plan.bins = (size_t)option_of(keys[i], "num_bins", 128);
        plan.quantized_bins = (size_t)option_of(keys[i], "num_quantized_bins", 128);
        if (!streams_open(&streams)) skip();
        const struct json *calibrator = json_member(json_member(json_root(&streams.info), "ort.calibration"), keys[i]);
        for (size_t k = 0; k < 3; k++) {
            struct range expected = golden_range(calibrator, stream_names[k]), range;
            struct observer observer;
            must(observer_open(&observer, &plan));
            must(observer_add(&observer, streams.values[k], streams.batches * streams.count[k]));
            must(observer_range(&observer, &range));
            double bin = observer.histogram.width + 1e-4, ours = divergence_at(&observer, range);
            double theirs = divergence_at(&observer, expected);
            printf("%s %s: %.6f %.6f (%.8f), expected %.6f %.6f (%.8f)\n", keys[i], stream_names[k], range.low,
                   range.high, ours, expected.low, expected.high, theirs);
            bool near = fabs(range.low - expected.low) <= bin && fabs(range.high - expected.high) <= bin;
            if (!near && !(fabs(theirs - ours) <= (double)FLT_EPSILON * (double)plan.bins * ours))
                fail_msg("%s %s: %.7g..%.7g, expected %.7g..%.7g", keys[i], stream_names[k], range.low, range.high,
                         expected.low, expected.high);
            observer_close(&observer);
        }
        streams_close(&streams);
    }
}

/* ---- torch -------------------------------------------------------------------------------------------- */

struct torch_inputs {
    struct safetensors file;
    struct json_document info;
    char *text;
    const float *x;
    size_t rows, N;
};

static bool torch_open(struct torch_inputs *torch) {
    char path[512];
    if (!golden_path(path, sizeof path, "quant/torch.safetensors")) return false;
    golden_open(&torch->file, "quant/inputs.safetensors");
    golden_json(&torch->info, &torch->text, "quant/info.json");
    const struct tensor *x = golden_tensor(&torch->file, "x");
    torch->x = x->data;
    torch->rows = x->shape[0];
    torch->N = x->shape[1];
    return true;
}

static void torch_close(struct torch_inputs *torch) {
    json_close(&torch->info);
    memory_release(torch->text);
    safetensors_close(&torch->file);
}

static const struct json *torch_result(const struct torch_inputs *torch, const char *name) {
    const struct json *observers = json_member(json_root(&torch->info), "torch.observers");
    const struct json *result = json_member(json_member(observers, "result"), name);
    assert_non_null(result);
    return result;
}

/* x in four parts along its rows, of which torch.chunk makes the last one shorter. */
static void observe_torch(const struct torch_inputs *torch, struct observer *observer,
                          const struct observer_plan *plan) {
    size_t part = (torch->rows + 3) / 4;
    must(observer_open(observer, plan));
    for (size_t row = 0; row < torch->rows; row += part) {
        size_t rows = torch->rows - row < part ? torch->rows - row : part;
        must(observer_add(observer, torch->x + row * torch->N, rows * torch->N));
    }
}

static void check_torch(const char *name, const struct observer_plan *plan) {
    struct torch_inputs torch;
    struct observer observer;
    struct range range;
    if (!torch_open(&torch)) skip();
    const struct json *result = torch_result(&torch, name);
    double low = golden_number(result, "min"), high = golden_number(result, "max");
    observe_torch(&torch, &observer, plan);
    must(observer_range(&observer, &range));
    if (plan->symmetric) {
        assert_true(range.high == fmax(-low, high) && range.low == -range.high);
        assert_true(fabs(range.high / 127.5 - golden_number(result, "scale")) < 1e-6);
    } else {
        assert_true(fabs(range.low - low) <= 1e-5 * fabs(low) && fabs(range.high - high) <= 1e-5 * fabs(high));
        assert_true(fabs((range.high - range.low) / 255 - golden_number(result, "scale")) < 1e-6);
        assert_true(nearbyint(-range.low * 255 / (range.high - range.low)) == golden_number(result, "zero_point"));
    }
    observer_close(&observer);
    torch_close(&torch);
}

static void test_torch(void **state) {
    struct observer_plan plan;
    (void)state;
    observer_defaults(&plan, CALIBRATOR_MIN_MAX, false);
    check_torch("min_max.u8", &plan);
    observer_defaults(&plan, CALIBRATOR_MIN_MAX, true);
    check_torch("min_max.s8_symmetric", &plan);
    observer_defaults(&plan, CALIBRATOR_MOVING_AVERAGE, false);
    check_torch("moving_average.u8", &plan);
}

/* What rounding x to 256 levels costs. */
static double cost(const struct torch_inputs *torch, double scale, double zero) {
    double sum = 0;
    for (size_t i = 0; i < torch->rows * torch->N; i++) {
        double code = fmin(fmax(nearbyint((double)torch->x[i] / scale) + zero, 0), 255);
        double error = (code - zero) * scale - (double)torch->x[i];
        sum += error * error;
    }
    return sum / (double)(torch->rows * torch->N);
}

#define FEW_VALUES 16384 /* fewer are */

/* On the values themselves, the range of least error is at least as good as the whole, which may be the best there is,
 * and as the one that torch's HistogramObserver found. Of few values bins hide more than that: then within what they
 * hide. */
static void test_torch_histogram(void **state) {
    struct torch_inputs torch;
    struct observer observer;
    struct observer_plan plan;
    struct range range;
    (void)state;
    if (!torch_open(&torch)) skip();
    const struct json *whole = torch_result(&torch, "min_max.u8"), *best = torch_result(&torch, "histogram.u8");
    observer_defaults(&plan, CALIBRATOR_MSE, false);
    observe_torch(&torch, &observer, &plan);
    must(observer_range(&observer, &range));
    double scale = (range.high - range.low) / 255, zero = nearbyint(-range.low / scale);
    double ours = cost(&torch, scale, zero);
    double theirs = cost(&torch, golden_number(best, "scale"), golden_number(best, "zero_point"));
    double naive = cost(&torch, golden_number(whole, "scale"), golden_number(whole, "zero_point"));
    double foreseen = range_error(&observer.histogram, range, 256);
    printf("error: ours %.6g (foreseen %.6g, range %.4f..%.4f), torch %.6g, whole range %.6g\n", ours, foreseen,
           range.low, range.high, theirs, naive);
    assert_true(fabs(foreseen - ours) < 0.05 * ours);
    double hidden = torch.rows * torch.N < FEW_VALUES ? fabs(foreseen - ours) : 0;
    assert_true(ours <= naive * 1.005 + hidden && ours <= theirs * 1.001 + hidden);
    observer_close(&observer);
    torch_close(&torch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_min_max), cmocka_unit_test(test_moving_average), cmocka_unit_test(test_percentile),
        cmocka_unit_test(test_entropy), cmocka_unit_test(test_torch),          cmocka_unit_test(test_torch_histogram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
