/* What a stage tells of a layer becomes rows: histograms thinned to what can be drawn, unknown numbers left out; kept
 * with a model in the stage cache. */
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
#include "run/layer_record.h"
#include "run/stage_cache.h"
#include "small_model.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* `bins` bins of the whole numbers around zero, one value each but for the first, which has `first`. */
static void fill(struct histogram *histogram, size_t bins, size_t first) {
    must(histogram_open(histogram, bins));
    for (size_t i = 0; i < bins; i++) {
        float value = (float)i - (float)(bins / 2);
        for (size_t k = 0; k < (i ? 1 : first); k++) must(histogram_add(histogram, &value, 1, NULL, NULL));
    }
}

static void tell(struct record *record, const struct histogram *histogram, const char *name) {
    record_layer_told(record, 0,
                      &(struct technique_layer){.name = name,
                                                .format = "int8",
                                                .low = -2,
                                                .high = 3,
                                                .inputs = histogram,
                                                .error = NAN,
                                                .score_lost = 0.25,
                                                .bytes_f32 = 8,
                                                .bytes_packed = 2});
}

static void test_told(void **state) {
    struct record record = {0};
    struct histogram small, large, zeros;
    static const float nothing[5] = {0};
    (void)state;
    fill(&small, 4, 3);
    fill(&large, 1000, 1);
    must(histogram_open(&zeros, 4));
    must(histogram_add(&zeros, nothing, 5, NULL, NULL));
    tell(&record, &small, "small");
    tell(&record, &large, "large");
    tell(&record, &zeros, "zeros");
    tell(&record, NULL, "none");
    tell(&record, NULL, NULL); /* left out */
    must(record_finish(&record));
    assert_int_equal(record.run.layer_count, 4);
    const struct layer_record *layer = record.run.layers;
    assert_string_equal(layer[0].histogram, "[3,1,1,1]");
    assert_true(layer[0].histogram_low == -2 && layer[0].histogram_width == 1);
    assert_true(layer[0].seen_low == -2 && layer[0].seen_high == 1 && layer[0].low == -2 && layer[0].high == 3);
    assert_true(isnan(layer[0].error) && layer[0].score_lost == 0.25 && layer[0].bytes_packed == 2);
    /* Four of a thousand bins together: 250 of them. */
    size_t commas = 0, fours = 0;
    for (const char *at = layer[1].histogram; *at; at++) commas += *at == ',', fours += *at == '4';
    assert_true(commas == 249 && fours == 250);
    assert_true(layer[1].histogram_low == -500 && layer[1].histogram_width == 4);
    assert_null(layer[2].histogram);
    assert_true(layer[2].seen_low == 0 && layer[2].seen_high == 0);
    assert_null(layer[3].histogram);
    assert_true(isnan(layer[3].seen_low));
    record_close(&record);
    histogram_close(&small);
    histogram_close(&large);
    histogram_close(&zeros);
}

static void test_cached(void **state) {
    struct record record = {0}, back = {0};
    struct model model, opened = {0};
    struct histogram histogram;
    char folder[] = "/tmp/test_layer_record_XXXXXX", command[96];
    (void)state;
    assert_non_null(mkdtemp(folder));
    fill(&histogram, 4, 2);
    record_stage(&record, &(struct stage_record){"ptq_static", "{}", 1, 5, false, 10, 20});
    tell(&record, &histogram, "block.0.up");
    tell(&record, NULL, "block.0.down");
    must(record_finish(&record));
    small_model(&model, HEAD_CLASSIFICATION, 1);
    must(stage_cache_write(folder, "key", &record, &model, HEAD_CLASSIFICATION));
    must(stage_cache_read(folder, "key", 1, &back, &opened));
    must(record_finish(&back));
    assert_int_equal(back.run.layer_count, 2);
    const struct layer_record *layer = back.run.layers;
    assert_string_equal(layer[0].layer, "block.0.up");
    assert_string_equal(layer[0].format, "int8");
    assert_string_equal(layer[0].histogram, "[2,1,1,1]");
    assert_true(layer[0].low == -2 && layer[0].high == 3 && layer[0].seen_low == -2 && layer[0].seen_high == 1);
    assert_true(layer[0].histogram_low == -2 && layer[0].histogram_width == 1 && layer[0].score_lost == 0.25);
    assert_true(isnan(layer[0].error) && layer[0].bytes_f32 == 8 && layer[0].bytes_packed == 2);
    assert_null(layer[1].histogram);
    assert_true(isnan(layer[1].seen_high));
    model_close(&model);
    model_close(&opened);
    record_close(&record);
    record_close(&back);
    histogram_close(&histogram);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_told), cmocka_unit_test(test_cached)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
