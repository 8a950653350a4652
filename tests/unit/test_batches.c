/* Batches: every example once an epoch, labels for every objective, masks, and micro-batches that are the step's batch
 * in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "small_task.h"
#include "train/batches.h"
#include "train/head.h"

static void open_batches(struct batches *batches, const struct small_task *task, const struct train_plan *plan) {
    struct model_config config = small_config(HEAD_NONE);
    if (batches_open(batches, &task->examples, plan, &config) < 0) fail_msg("%s", error_text());
}

static void test_every_example_once(void **state) {
    enum { COUNT = 4001 };
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    uint8_t *seen = calloc(COUNT, 1);
    size_t mixed = 0, steps = 0;
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.max_tokens = 12;
    small_task_open(&task, TRAIN_CLASSIFICATION, COUNT, 2);
    open_batches(&batches, &task, &plan);
    for (; steps < batches.per_epoch; steps++) {
        size_t before = 0;
        batches_step(&batches, steps);
        assert_int_equal(batches.micros, 1);
        batches_micro(&batches, 0, &micro);
        assert_true(micro.share == 1 && micro.first && micro.step == steps);
        for (size_t i = 0; i < micro.batch.sequences; i++) {
            const struct examples *examples = &task.examples;
            size_t length = micro.batch.offset[i + 1] - micro.batch.offset[i];
            uint32_t example = micro.example[i];
            assert_false(seen[example]++);
            assert_int_equal(micro.label[i], examples->label[example]);
            assert_memory_equal(micro.batch.ids + micro.batch.offset[i], examples->ids + examples->offset[example],
                                length * sizeof(int32_t));
            assert_true(length <= 12 && length >= before); /* sorted within the batch */
            mixed += i + 1 == micro.batch.sequences && length > micro.batch.offset[1];
            before = length;
        }
    }
    for (size_t i = 0; i < COUNT; i++) assert_true(seen[i]);
    assert_true(2 * mixed > steps); /* batches are random draws, not gathered by length */
    batches_close(&batches);
    free(seen);
    small_task_close(&task);
}

static void test_masks(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    size_t words = 0, chosen = 0, masked = 0, kept = 0;
    (void)state;
    small_task_plan(&plan, TRAIN_MASKED_LM);
    small_task_open(&task, TRAIN_MASKED_LM, 3000, 2);
    open_batches(&batches, &task, &plan);
    for (size_t step = 0; step < batches.per_epoch; step++) {
        batches_step(&batches, step);
        batches_micro(&batches, 0, &micro);
        assert_true(micro.rows > 0);
        for (size_t t = 0; t < micro.batch.tokens; t++)
            words += micro.batch.ids[t] >= SMALL_SPECIAL || micro.batch.ids[t] == SMALL_MASK;
        for (size_t i = 0; i < micro.rows; i++) {
            int32_t label = micro.row_label[i], id = micro.batch.ids[micro.row[i]];
            assert_true(label >= SMALL_SPECIAL);
            assert_true(id == SMALL_MASK || id >= SMALL_SPECIAL);
            masked += id == SMALL_MASK;
            kept += id == label;
        }
        chosen += micro.rows;
    }
    assert_true(fabs((double)chosen / (double)words - 0.15) < 0.01);
    assert_true(fabs((double)masked / (double)chosen - 0.8) < 0.03);
    assert_true(fabs((double)kept / (double)chosen - 0.1) < 0.03);
    batches_close(&batches);
    small_task_close(&task);
}

/* A mask fraction under which nothing is drawn still predicts something in every step. */
static void test_one_mask_at_least(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    (void)state;
    small_task_plan(&plan, TRAIN_MASKED_LM);
    plan.mask_frac = 1e-6;
    plan.batch = 2;
    small_task_open(&task, TRAIN_MASKED_LM, 40, 2);
    open_batches(&batches, &task, &plan);
    for (size_t step = 0; step < batches.per_epoch; step++) {
        batches_step(&batches, step);
        batches_micro(&batches, 0, &micro);
        assert_int_equal(micro.rows, 1);
    }
    batches_close(&batches);
    small_task_close(&task);
}

/* Word dropout hides its share of ordinary tokens behind [MASK] and changes nothing else. */
static void test_hidden_words(void **state) {
    struct small_task task;
    struct train_plan plan, plain;
    struct batches hiding, whole;
    size_t words = 0, hidden = 0;
    (void)state;
    small_task_plan(&plain, TRAIN_CLASSIFICATION);
    plan = plain;
    plan.word_dropout = 0.2;
    small_task_open(&task, TRAIN_CLASSIFICATION, 3000, 2);
    open_batches(&hiding, &task, &plan);
    open_batches(&whole, &task, &plain);
    for (size_t step = 0; step < whole.per_epoch; step++) {
        batches_step(&hiding, step);
        batches_step(&whole, step);
        assert_int_equal(hiding.tokens, whole.tokens);
        for (size_t t = 0; t < whole.tokens; t++) {
            bool changed = hiding.ids[t] != whole.ids[t];
            words += whole.ids[t] >= SMALL_SPECIAL;
            hidden += changed;
            if (changed) assert_true(whole.ids[t] >= SMALL_SPECIAL && hiding.ids[t] == SMALL_MASK);
        }
    }
    double deviation = sqrt(0.2 * 0.8 * (double)words);
    assert_true(fabs((double)hidden - 0.2 * (double)words) < 5 * deviation);
    batches_close(&hiding);
    batches_close(&whole);
    small_task_close(&task);
}

/* R-Drop: each example twice, side by side and never in two passes, in the order of a run without. */
static void test_examples_twice(void **state) {
    struct small_task task;
    struct train_plan plan, plain;
    struct batches twice, once;
    struct train_batch micro;
    (void)state;
    small_task_plan(&plain, TRAIN_CLASSIFICATION);
    plain.batch = 7;
    plan = plain;
    plan.r_drop = 1;
    plan.micro_batch = 3;
    small_task_open(&task, TRAIN_CLASSIFICATION, 40, 2);
    open_batches(&twice, &task, &plan);
    open_batches(&once, &task, &plain);
    assert_int_equal(twice.per_epoch, once.per_epoch);
    for (size_t step = 0; step < once.per_epoch; step++) {
        size_t seen = 0;
        double share = 0;
        batches_step(&twice, step);
        batches_step(&once, step);
        assert_int_equal(twice.tokens, 2 * once.tokens);
        assert_int_equal(twice.sequences, 2 * once.sequences);
        for (size_t m = 0; m < twice.micros; m++) {
            batches_micro(&twice, m, &micro);
            assert_true(micro.batch.sequences % 2 == 0 && micro.batch.sequences <= 6);
            for (size_t s = 0; s < micro.batch.sequences; s++, seen++) {
                uint32_t length = micro.batch.offset[s + 1] - micro.batch.offset[s], from = once.offset[seen / 2];
                assert_int_equal(micro.example[s], once.example[seen / 2]);
                assert_int_equal(micro.label[s], once.label[seen / 2]);
                assert_int_equal(length, once.offset[seen / 2 + 1] - from);
                assert_memory_equal(micro.batch.ids + micro.batch.offset[s], once.ids + from, length * sizeof(int32_t));
            }
            share += micro.share;
        }
        assert_int_equal(seen, twice.sequences);
        assert_true(fabs(share - 1) < 1e-12);
    }
    batches_close(&twice);
    batches_close(&once);
    small_task_close(&task);
}

static void test_next_tokens(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    (void)state;
    small_task_plan(&plan, TRAIN_CAUSAL_LM);
    small_task_open(&task, TRAIN_CAUSAL_LM, 64, 2);
    open_batches(&batches, &task, &plan);
    batches_step(&batches, 3);
    batches_micro(&batches, 0, &micro);
    assert_int_equal(micro.rows, micro.batch.tokens - micro.batch.sequences);
    for (size_t i = 0, s = 0; i < micro.rows; i++) {
        while (micro.row[i] >= micro.batch.offset[s + 1]) s++;
        assert_true(micro.row[i] + 1 < micro.batch.offset[s + 1]); /* no sequence's last token, nor over its end */
        assert_int_equal(micro.row_label[i], micro.batch.ids[micro.row[i] + 1]);
    }
    batches_close(&batches);
    small_task_close(&task);
}

static void test_pairs_stay_together(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    size_t seen = 0;
    (void)state;
    small_task_plan(&plan, TRAIN_SIMILARITY);
    plan.batch = 11; /* five pairs */
    plan.micro_batch = 5;
    small_task_open(&task, TRAIN_SIMILARITY, 126, 2);
    for (size_t i = 0; i < 63; i++) task.target[i] = (float)i; /* to tell them apart */
    open_batches(&batches, &task, &plan);
    assert_int_equal(batches.per_epoch, 13);
    for (size_t step = 0; step < batches.per_epoch; step++) {
        batches_step(&batches, step);
        assert_int_equal(batches.micros, (batches.sequences / 2 + 1) / 2);
        for (size_t i = 0; i < batches.micros; i++) {
            batches_micro(&batches, i, &micro);
            assert_int_equal(micro.batch.sequences % 2, 0);
            assert_true(micro.share == (double)micro.batch.sequences / (double)batches.sequences);
            for (size_t s = 0; s < micro.batch.sequences; s += 2, seen++) {
                assert_int_equal(micro.example[s] % 2, 0);
                assert_int_equal(micro.example[s + 1], micro.example[s] + 1);
                assert_true(micro.target[s / 2] == (float)(micro.example[s] / 2));
            }
        }
    }
    assert_int_equal(seen, 63);
    batches_close(&batches);
    small_task_close(&task);
}

/* Answers that are not in the window, or behind the cut, point at the first token. */
static void test_answers(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    struct train_batch micro;
    size_t kept = 0, lost = 0;
    (void)state;
    small_task_plan(&plan, TRAIN_QUESTION_ANSWERING);
    plan.max_tokens = 8;
    small_task_open(&task, TRAIN_QUESTION_ANSWERING, 200, 2);
    for (size_t i = 0; i < 200; i += 5) task.start[i] = task.end[i] = -1;
    open_batches(&batches, &task, &plan);
    for (size_t step = 0; step < batches.per_epoch; step++) {
        batches_step(&batches, step);
        batches_micro(&batches, 0, &micro);
        for (size_t s = 0; s < micro.batch.sequences; s++) {
            uint32_t example = micro.example[s];
            bool there = task.end[example] >= 0 && task.end[example] < 8;
            assert_int_equal(micro.start[s], there ? task.start[example] : 0);
            assert_int_equal(micro.end[s], there ? task.end[example] : 0);
            kept += there;
            lost += !there;
        }
    }
    assert_true(kept > 50 && lost > 50);
    batches_close(&batches);
    small_task_close(&task);
}

static void test_micro_batches_are_the_batch(void **state) {
    static const enum train_objective objectives[] = {TRAIN_CLASSIFICATION, TRAIN_MASKED_LM, TRAIN_CAUSAL_LM};
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct small_task task;
        struct train_plan plan;
        struct batches batches;
        struct train_batch micro;
        small_task_plan(&plan, objectives[k]);
        plan.micro_batch = 5;
        plan.balance_classes = true;
        small_task_open(&task, objectives[k], 50, 2);
        int32_t *types = calloc(task.examples.offset[50], sizeof *types);
        for (size_t t = 0; t < task.examples.offset[50]; t++) types[t] = (int32_t)(t % 2);
        task.examples.types = types;
        open_batches(&batches, &task, &plan);
        for (size_t step = 0; step < 8; step++) { /* of an epoch's four batches the last has two examples */
            size_t tokens = 0, sequences = 0, rows = 0;
            double share = 0;
            batches_step(&batches, step);
            assert_int_equal(batches.micros, (batches.sequences + 4) / 5);
            for (size_t i = 0; i < batches.micros; i++) {
                batches_micro(&batches, i, &micro);
                assert_true(micro.first == (i == 0) && micro.batch.offset[0] == 0);
                assert_int_equal(micro.first_token, tokens);
                assert_int_equal(micro.first_sequence, sequences);
                assert_memory_equal(micro.batch.ids, batches.ids + tokens, micro.batch.tokens * sizeof(int32_t));
                assert_memory_equal(micro.example, batches.example + sequences,
                                    micro.batch.sequences * sizeof(uint32_t));
                for (size_t s = 0; s < micro.batch.sequences; s++) {
                    size_t from = task.examples.offset[micro.example[s]], at = micro.batch.offset[s];
                    assert_memory_equal(micro.batch.token_types + at, types + from,
                                        (micro.batch.offset[s + 1] - at) * sizeof *types);
                }
                for (size_t r = 0; r < micro.rows; r++)
                    assert_int_equal(micro.row_label[r], batches.token_label[tokens + micro.row[r]]);
                tokens += micro.batch.tokens;
                sequences += micro.batch.sequences;
                rows += micro.rows;
                share += micro.share;
            }
            assert_true(tokens == batches.tokens && sequences == batches.sequences && fabs(share - 1) < 1e-12);
            if (batches.token_label) assert_true((double)rows == batches.weight);
        }
        batches_close(&batches);
        small_task_close(&task);
        free(types);
    }
}

/* Without max_tokens only the model's positions cut. */
static void test_whole_examples(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.max_tokens = 0;
    plan.batch = 64;
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    open_batches(&batches, &task, &plan);
    batches_step(&batches, 0);
    assert_int_equal(batches.tokens, task.examples.offset[64]);
    batches_close(&batches);
    small_task_close(&task);
}

/* Every class has the same weight in all; given weights are taken as they are. */
static void test_class_weights(void **state) {
    struct small_task task;
    struct train_plan plan;
    struct batches batches;
    const double given[] = {1, 0.5, 3};
    double count[3] = {0};
    (void)state;
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.balance_classes = true;
    small_task_open(&task, TRAIN_CLASSIFICATION, 90, 2);
    for (size_t i = 0; i < 90; i++) task.base.label[i] = i < 60 ? 0 : i < 80 ? 1 : 2;
    for (size_t i = 0; i < 90; i++) count[task.base.label[i]]++;
    open_batches(&batches, &task, &plan);
    for (size_t k = 0; k < 3; k++) assert_true(fabs(count[k] * (double)batches.class_weight[k] - 30) < 1e-5);
    batches_close(&batches);
    plan.class_weights = given;
    open_batches(&batches, &task, &plan);
    for (size_t k = 0; k < 3; k++) assert_true((double)batches.class_weight[k] == given[k]);
    batches_close(&batches);
    task.examples.classes = 2; /* of the model's three */
    for (size_t i = 0; i < 90; i++) task.base.label[i] %= 2;
    open_batches(&batches, &task, &plan);
    assert_true(batches.class_weight[1] == 0.5f && batches.class_weight[2] == 1);
    batches_close(&batches);
    small_task_close(&task);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_example_once),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_one_mask_at_least),
        cmocka_unit_test(test_hidden_words),
        cmocka_unit_test(test_examples_twice),
        cmocka_unit_test(test_next_tokens),
        cmocka_unit_test(test_pairs_stay_together),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_micro_batches_are_the_batch),
        cmocka_unit_test(test_whole_examples),
        cmocka_unit_test(test_class_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
