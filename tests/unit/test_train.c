/* Training: the same bits at any number of threads, batches, learning, and the errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_model.h"
#include "train/batches.h"
#include "train/train.h"

#define BOTH (HEAD_CLASSIFICATION | HEAD_MASKED_LM)

static struct train_plan small_plan(enum train_objective objective) {
    struct train_plan plan;
    train_plan_defaults(&plan);
    plan.objective = objective;
    plan.batch = 16;
    plan.epochs = 1;
    plan.rate = 3e-3;
    plan.dropout = 0.1;
    plan.mask_id = SMALL_MASK;
    plan.special_ids = SMALL_SPECIAL;
    plan.max_tokens = 12;
    plan.seed = 4;
    return plan;
}

static void train_hash(enum train_objective objective, int threads, uint64_t seed, char hex[65]) {
    struct model model;
    struct small_examples examples;
    struct train_plan plan = small_plan(objective);
    struct train_result result;
    int before = threads_get();
    plan.seed = seed;
    plan.batch = 64; /* several shards */
    small_model(&model, BOTH, 5);
    small_examples_new(&examples, &model.config, 64 * 20, 2);
    threads_set(threads);
    if (train_run(&model, &examples.examples, &plan, NULL, &result) < 0) fail_msg("%s", error_text());
    threads_set(before);
    assert_int_equal(result.steps, 20);
    small_model_hash(&model, hex);
    small_examples_free(&examples);
    model_close(&model);
}

static void test_same_bits_at_any_thread_count(void **state) {
    char one[65], two[65], three[65], other[65];
    (void)state;
    static const enum train_objective objectives[] = {TRAIN_CLASSIFICATION, TRAIN_MASKED_LM};
    for (size_t i = 0; i < sizeof objectives / sizeof *objectives; i++) {
        train_hash(objectives[i], 1, 4, one);
        train_hash(objectives[i], 2, 4, two);
        train_hash(objectives[i], 3, 4, three);
        train_hash(objectives[i], 2, 5, other);
        assert_string_equal(one, two);
        assert_string_equal(one, three);
        assert_string_not_equal(one, other);
    }
}

static void test_learns(void **state) {
    struct model model;
    struct small_examples examples;
    struct train_plan plan = small_plan(TRAIN_CLASSIFICATION);
    struct train_result result;
    (void)state;
    small_model(&model, BOTH, 5);
    small_examples_new(&examples, &model.config, 1200, 2);
    plan.epochs = 4;
    plan.rate = 2e-3;
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), 0);
    assert_int_equal(result.steps, 300);
    assert_true(result.loss_last < 0.6 * result.loss_first);
    assert_null(model.parameters[0].gradient);
    plan.objective = TRAIN_MASKED_LM;
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), 0);
    assert_true(result.loss_last < 0.95 * result.loss_first);
    small_examples_free(&examples);
    model_close(&model);
}

static void test_batches(void **state) {
    struct model_config config = small_config(BOTH);
    struct small_examples examples;
    struct train_plan plan = small_plan(TRAIN_CLASSIFICATION);
    struct batches batches;
    enum { COUNT = 4001 };
    uint8_t *seen = calloc(COUNT, 1);
    size_t mixed = 0, steps = 0;
    (void)state;
    small_examples_new(&examples, &config, COUNT, 2);
    /* The first word of each example is made its number, so that it can be told in a batch. */
    for (int32_t i = 0; i < COUNT; i++) examples.ids[examples.offset[i]] = i;
    assert_int_equal(batches_open(&batches, &examples.examples, &plan, 12), 0);
    for (; steps < batches.per_epoch; steps++) {
        size_t before = 0;
        batches_step(&batches, steps, config.vocabulary);
        for (size_t i = 0; i < batches.batch.sequences; i++) {
            size_t length = batches.offset[i + 1] - batches.offset[i];
            int32_t example = batches.ids[batches.offset[i]];
            assert_false(seen[example]++);
            assert_int_equal(batches.labels[i], examples.label[example]);
            assert_true(length <= 12 && length >= before); /* sorted within the batch */
            mixed += i + 1 == batches.batch.sequences && length > batches.offset[1];
            before = length;
        }
    }
    for (size_t i = 0; i < COUNT; i++) assert_true(seen[i]);
    assert_true(2 * mixed > steps); /* batches are random draws, not gathered by length */
    batches_close(&batches);
    free(seen);
    small_examples_free(&examples);
}

static void test_masks(void **state) {
    struct model_config config = small_config(BOTH);
    struct small_examples examples;
    struct train_plan plan = small_plan(TRAIN_MASKED_LM);
    struct batches batches;
    size_t words = 0, chosen = 0, masked = 0, kept = 0;
    (void)state;
    small_examples_new(&examples, &config, 3000, 2);
    assert_int_equal(batches_open(&batches, &examples.examples, &plan, 24), 0);
    for (size_t step = 0; step < batches.per_epoch; step++) {
        batches_step(&batches, step, config.vocabulary);
        size_t here = 0;
        for (size_t t = 0; t < batches.batch.tokens; t++) {
            int32_t label = batches.labels[t], id = batches.ids[t];
            words += label != -100 || id >= SMALL_SPECIAL;
            if (label == -100) continue;
            assert_true(label >= SMALL_SPECIAL);
            assert_true(id == SMALL_MASK || id >= SMALL_SPECIAL);
            here++;
            masked += id == SMALL_MASK;
            kept += id == label;
        }
        assert_true(here > 0);
        chosen += here;
    }
    assert_true(fabs((double)chosen / (double)words - 0.15) < 0.01);
    assert_true(fabs((double)masked / (double)chosen - 0.8) < 0.03);
    assert_true(fabs((double)kept / (double)chosen - 0.1) < 0.03);
    batches_close(&batches);
    small_examples_free(&examples);
}

static int stop_at_three(void *context, const struct train_progress *progress) {
    (void)context;
    assert_int_equal(progress->steps, 4);
    return progress->step == 3;
}

/* Word dropout hides its share of ordinary tokens behind [MASK] and changes nothing else. */
static void test_hidden_words(void **state) {
    struct model_config config = small_config(BOTH);
    struct small_examples examples;
    struct train_plan plan = small_plan(TRAIN_CLASSIFICATION), plain = plan;
    struct batches hiding, whole;
    size_t words = 0, hidden = 0;
    (void)state;
    small_examples_new(&examples, &config, 3000, 2);
    plan.word_dropout = 0.2;
    plan.mask_id = plain.mask_id = 3;
    plan.special_ids = plain.special_ids = 5;
    assert_int_equal(batches_open(&hiding, &examples.examples, &plan, 24), 0);
    assert_int_equal(batches_open(&whole, &examples.examples, &plain, 24), 0);
    for (size_t step = 0; step < whole.per_epoch; step++) {
        batches_step(&hiding, step, config.vocabulary);
        batches_step(&whole, step, config.vocabulary);
        assert_int_equal(hiding.batch.tokens, whole.batch.tokens);
        for (size_t t = 0; t < whole.batch.tokens; t++) {
            bool changed = hiding.ids[t] != whole.ids[t];
            words += whole.ids[t] >= 5;
            hidden += changed;
            if (changed) assert_true(whole.ids[t] >= 5 && hiding.ids[t] == 3);
        }
    }
    double deviation = sqrt(0.2 * 0.8 * (double)words);
    assert_true(fabs((double)hidden - 0.2 * (double)words) < 5 * deviation);
    batches_close(&hiding);
    batches_close(&whole);
    small_examples_free(&examples);
}

static void test_errors(void **state) {
    struct model model;
    struct small_examples examples;
    struct train_plan plan = small_plan(TRAIN_CLASSIFICATION), bad;
    struct train_host host = {.step = stop_at_three};
    struct train_result result;
    (void)state;
    small_model(&model, HEAD_CLASSIFICATION, 5);
    small_examples_new(&examples, &model.config, 64, 2);
    assert_int_equal(train_run(&model, &examples.examples, &plan, &host, &result), E_INTERRUPTED);
    assert_non_null(strstr(error_text(), "step 3 of 4"));
    bad = plan;
    bad.objective = TRAIN_MASKED_LM;
    assert_int_equal(train_run(&model, &examples.examples, &bad, NULL, &result), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "masked-LM head"));
    examples.label[3] = 3;
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), E_SHAPE);
    assert_non_null(strstr(error_text(), "example 3 has label 3"));
    examples.label[3] = 0;
    examples.ids[7] = 97;
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), E_SHAPE);
    assert_non_null(strstr(error_text(), "token 7 has id 97"));
    examples.ids[7] = 5;
    examples.examples.count = 0;
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), E_ARGUMENT);
    examples.examples.count = 64;
    model.parameters[0].value[32] = INFINITY; /* of a token that occurs */
    assert_int_equal(train_run(&model, &examples.examples, &plan, NULL, &result), E_NUMERIC);
    assert_non_null(strstr(error_text(), "step 1 of 4"));
    assert_non_null(strstr(error_text(), "lower rate"));
    small_examples_free(&examples);
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_at_any_thread_count),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_hidden_words),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
