/* Records survive the wire whole, and every truncation of one is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/memory.h"
#include "run/record.h"

static void fill(struct record *record) {
    struct artifact_record artifact = {"abc", "/x/abc.safetensors", "packed", 100, 50, 200, 8.125};
    struct stage_record stage = {"rtn", "{\"bits\":8}", 1, 12.5, false, 50, 100};
    struct sample_record sample = {32, 7, 400, true, false, 1.5e6, "prefill"};
    struct counter_record counter = {"papi", "PAPI_TOT_INS", "events", "disabled", 1, NAN, NAN, NAN};
    const uint8_t correct[3] = {1, 0, 1};
    const int32_t predicted[3] = {4, -5, 6};
    const float nll[3] = {0.25f, 2, 3};
    record_artifact(record, &artifact);
    record_stage(record, &stage);
    record_metric(record, "accuracy", "frac", 0.9, -1);
    record_metric(record, "accuracy", "frac", 0.8, 0);
    record_sample(record, &sample);
    record_counter(record, &counter);
    record_outcome(record, "correct", OUTCOME_U8, 3, correct);
    record_outcome(record, "predicted", OUTCOME_I32, 3, predicted);
    record_outcome(record, "nll", OUTCOME_F32, 3, nll);
    record_curve(record, &(struct curve_record){0, 12, 0.5, 1e-3, NAN, 3.5});
    record_evaluation(record, &(struct evaluation_record){0, 12, "accuracy", 0.75});
    record_layer(record, &(struct layer_record){.layer = "up",
                                                .format = "int8",
                                                .low = -1,
                                                .high = 2,
                                                .seen_low = -3,
                                                .seen_high = 4,
                                                .histogram = "[1,2]",
                                                .histogram_low = -5,
                                                .histogram_width = 6,
                                                .error = 0.5,
                                                .score_lost = NAN,
                                                .bytes_f32 = 400,
                                                .bytes_packed = 100});
    record->work_ns = 77;
    assert_int_equal(record_finish(record), 0);
}

static void test_round_trip(void **state) {
    (void)state;
    struct record record = {0}, copy = {0};
    struct wire_writer writer = {0};
    fill(&record);
    record_encode(&record, &writer);
    struct wire_reader reader = {.bytes = writer.bytes, .count = writer.count};
    assert_int_equal(record_decode(&copy, &reader), 0);
    assert_int_equal(reader.at, reader.count);
    assert_int_equal(copy.work_ns, 77);
    assert_string_equal(copy.run.artifact->hash, "abc");
    assert_true(copy.run.artifact->bits_per_weight == 8.125);
    assert_int_equal(copy.run.stage_count, 1);
    assert_string_equal(copy.run.stages[0].options, "{\"bits\":8}");
    assert_int_equal(copy.run.metric_count, 2);
    assert_int_equal(copy.run.metrics[1].stage, 0);
    assert_true(copy.run.samples[0].warmup && !copy.run.samples[0].outlier);
    assert_true(isnan(copy.run.counters[0].value));
    assert_string_equal(copy.run.counters[0].reason, "disabled");
    assert_string_equal(copy.run.samples[0].phase, "prefill");
    assert_int_equal(copy.run.outcome_count, 3);
    assert_string_equal(copy.run.outcomes[1].name, "predicted");
    assert_int_equal(copy.run.outcomes[1].items, 3);
    assert_int_equal(((const int32_t *)copy.run.outcomes[1].values)[1], -5);
    assert_true(((const float *)copy.run.outcomes[2].values)[2] == 3);
    assert_int_equal(copy.run.curve_count, 1);
    assert_int_equal(copy.run.curve[0].step, 12);
    assert_true(copy.run.curve[0].loss == 0.5 && copy.run.curve[0].rate == 1e-3 && copy.run.curve[0].seconds == 3.5);
    assert_true(isnan(copy.run.curve[0].gradient_norm));
    assert_int_equal(copy.run.evaluation_count, 1);
    assert_string_equal(copy.run.evaluations[0].metric, "accuracy");
    assert_true(copy.run.evaluations[0].step == 12 && copy.run.evaluations[0].value == 0.75);
    assert_int_equal(copy.run.layer_count, 1);
    const struct layer_record *layer = copy.run.layers;
    assert_string_equal(layer->layer, "up");
    assert_string_equal(layer->format, "int8");
    assert_string_equal(layer->histogram, "[1,2]");
    assert_null(layer->error_name);
    assert_true(layer->low == -1 && layer->high == 2 && layer->seen_low == -3 && layer->seen_high == 4);
    assert_true(layer->histogram_low == -5 && layer->histogram_width == 6 && layer->error == 0.5);
    assert_true(isnan(layer->score_lost) && layer->bytes_f32 == 400 && layer->bytes_packed == 100);
    record_close(&record);
    record_close(&copy);
    wire_writer_close(&writer);
}

static void test_truncations(void **state) {
    (void)state;
    struct record record = {0};
    struct wire_writer writer = {0};
    fill(&record);
    record_encode(&record, &writer);
    for (size_t cut = 0; cut < writer.count; cut++) {
        struct record copy = {0};
        struct wire_reader reader = {.bytes = writer.bytes, .count = cut};
        assert_int_equal(record_decode(&copy, &reader), E_FORMAT);
        record_close(&copy);
    }
    record_close(&record);
    wire_writer_close(&writer);
}

static void test_lying_stage(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++) { /* no stage 5 exists, nor one before the first */
        struct record record = {0}, copy = {0};
        struct wire_writer writer = {0};
        if (kind == 0) record_metric(&record, "loss", "nats", 1, 5);
        if (kind == 1) record_curve(&record, &(struct curve_record){.stage = 5, .step = 1});
        if (kind == 2) record_evaluation(&record, &(struct evaluation_record){5, 1, "accuracy", 1});
        if (kind == 3) record_curve(&record, &(struct curve_record){.stage = -1, .step = 1});
        if (kind == 4) record_layer(&record, &(struct layer_record){.stage = 5, .layer = "up", .format = "int8"});
        assert_int_equal(record_finish(&record), 0);
        record_encode(&record, &writer);
        struct wire_reader reader = {.bytes = writer.bytes, .count = writer.count};
        assert_int_equal(record_decode(&copy, &reader), E_FORMAT);
        record_close(&record);
        record_close(&copy);
        wire_writer_close(&writer);
    }
}

/* Options are stored as people write them, and read back as the same numbers. */
static void test_options(void **state) {
    (void)state;
    static const struct option table[] = {{"share", OPTION_REAL, "0", 0, 1, NULL, NULL, "", 0},
                                          {"rate", OPTION_REAL, "0", 0, 1, NULL, NULL, "", sizeof(double)},
                                          OPTION_END};
    const double written[] = {0.06, 99.999}, sum[] = {0.1 + 0.2, 0.5};
    char *json;
    assert_int_equal(options_json(table, written, &json), 0);
    assert_string_equal(json, "{\"share\":0.06,\"rate\":99.999}");
    memory_release(json);
    assert_int_equal(options_json(table, sum, &json), 0);
    assert_string_equal(json, "{\"share\":0.30000000000000004,\"rate\":0.5}");
    memory_release(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_lying_stage),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
