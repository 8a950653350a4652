/* What training says when plan, examples and model do not fit, when numbers cease to be finite, and when a loss will
 * not come back. */
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
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_task.h"
#include "train/pass.h"

static void refuse(const struct train_plan *plan, struct model *model, const struct examples *examples, int status,
                   const char *text) {
    int got = train_run(model, examples, plan, NULL, NULL);
    if (got != status || !strstr(error_text(), text))
        fail_msg("expected %s '%s', got %s '%s'", error_name(status), text, error_name(got), error_text());
}

static void test_refuses_data(void **state) {
    struct model model;
    struct small_task task;
    struct train_plan plan, other;
    (void)state;
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    other = plan;
    other.objective = TRAIN_MASKED_LM;
    refuse(&other, &model, &task.examples, E_UNSUPPORTED, "no masked-LM head");
    other.objective = TRAIN_REGRESSION;
    refuse(&other, &model, &task.examples, E_ARGUMENT, "regression needs examples with scores");
    task.examples.target = task.target;
    refuse(&other, &model, &task.examples, E_SHAPE, "one output; the model has 3");
    other.objective = TRAIN_SIMILARITY;
    refuse(&other, &model, &task.examples, E_ARGUMENT, "in pairs");
    other.objective = TRAIN_QUESTION_ANSWERING;
    refuse(&other, &model, &task.examples, E_ARGUMENT, "answers");
    task.base.label[3] = 3;
    refuse(&plan, &model, &task.examples, E_SHAPE, "example 3 has label 3");
    task.base.label[3] = 0;
    task.examples.classes = 4;
    refuse(&plan, &model, &task.examples, E_SHAPE, "have 4 classes but the model has 3");
    task.examples.classes = 3;
    task.base.ids[7] = 97;
    refuse(&plan, &model, &task.examples, E_SHAPE, "token 7 has id 97");
    task.base.ids[7] = 5;
    int32_t *types = calloc(task.examples.offset[64], sizeof *types);
    types[9] = 2;
    task.examples.types = types;
    refuse(&plan, &model, &task.examples, E_SHAPE, "token 9 is of segment 2");
    task.examples.types = NULL;
    free(types);
    task.examples.count = 0;
    refuse(&plan, &model, &task.examples, E_ARGUMENT, "nothing to train on");
    small_task_close(&task);
    model_close(&model);
}

static void test_refuses_plans(void **state) {
    static const double weights[] = {1, -1, 1};
    struct model model;
    struct small_task task;
    struct train_plan plan, bad;
    const struct train_teacher teacher = {0};
    (void)state;
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
#define BAD(member, value, text)                                                                                       \
    do {                                                                                                               \
        bad = plan;                                                                                                    \
        bad.member = (value);                                                                                          \
        refuse(&bad, &model, &task.examples, E_ARGUMENT, text);                                                        \
    } while (0)
    BAD(epochs, 0, "epochs must be");
    BAD(batch, 0, "batch must be");
    BAD(rate, -1, "rate must be");
    BAD(beta2, 1, "beta2 must be");
    BAD(epsilon, 0, "epsilon must be");
    BAD(momentum, 1, "momentum must be");
    BAD(dropout, 1, "dropout must be");
    BAD(r_drop, 101, "r_drop must be");
    BAD(r_drop, 1, "dropout must be above 0");
    BAD(patience, 3, "patience 3 needs evaluate_steps");
    BAD(evaluate_steps, 3, "nothing to evaluate with");
    BAD(class_weights, weights, "class_weights must be");
    bad = plan;
    bad.word_dropout = 0.1;
    bad.mask_id = -1;
    refuse(&bad, &model, &task.examples, E_ARGUMENT, "mask token");
    bad = plan;
    bad.optimizer = OPTIMIZER_SGD;
    bad.nesterov = true;
    bad.momentum = 0;
    refuse(&bad, &model, &task.examples, E_ARGUMENT, "nesterov needs");
    bad = plan;
    bad.balance_classes = true;
    bad.teacher = &teacher;
    bad.micro_batch = 4;
    refuse(&bad, &model, &task.examples, E_UNSUPPORTED, "class weights and a teacher");
    small_task_close(&task);
    model_close(&model);
}

static void test_says_where_numbers_end(void **state) {
    struct model model;
    struct small_task task;
    struct train_plan plan;
    struct linear *linear;
    (void)state;
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    linear = model_linear_find(&model, "bert.encoder.layer.1.attention.self.query");
    linear->value[3] = NAN;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "step 1 of 4: the loss is");
    assert_non_null(strstr(error_text(), "values of bert.encoder.layer.1.attention.self.query.weight are not finite"));
    assert_non_null(strstr(error_text(), "lower rate (now 0.002)"));
    model_close(&model);
    /* Finite values whose products are not. */
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    linear = model_linear_find(&model, "bert.encoder.layer.1.attention.self.key");
    for (size_t i = 0; i < linear->rows * linear->columns; i++) linear->value[i] = 3e38f;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "first in the output of bert.encoder.layer.1.attention.self.key");
    model_close(&model);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    linear = model_linear_find(&model, "bert.encoder.layer.0.output.dense");
    for (size_t i = 0; i < linear->rows * linear->columns; i++) linear->value[i] = i % 2 ? 3e38f : -3e38f;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "first in the output of block 0");
    model_close(&model);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    linear = model_linear_find(&model, "classifier");
    for (size_t i = 0; i < linear->rows * linear->columns; i++) linear->value[i] = i % 2 ? 3e38f : -3e38f;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "first in the head");
    model_close(&model);
    small_task_close(&task);
}

/* A gradient that overflows although the loss does not, told by a teacher's gradient. */
static int overflow(void *opaque, const struct train_batch *batch, struct pass *pass, double *loss) {
    (void)opaque;
    (void)loss;
    if (batch->step == 2) pass_want_block_gradient(pass, 0)[1] = INFINITY;
    return 0;
}

static void test_says_where_gradients_end(void **state) {
    struct model model;
    struct small_task task;
    struct train_plan plan;
    char before[65], after[65];
    (void)state;
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.steps = 2;
    assert_int_equal(train_run(&model, &task.examples, &plan, NULL, NULL), 0);
    small_model_hash(&model, before);
    model_close(&model);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    struct train_teacher teacher = {NULL, NULL, overflow};
    plan.steps = 0;
    plan.schedule = SCHEDULE_CONSTANT;
    plan.teacher = &teacher;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "step 3 of 4: the gradient norm is");
    assert_non_null(strstr(error_text(), "first in the gradient of bert.encoder.layer.0."));
    small_model_hash(&model, after);
    plan.steps = 2; /* beside the same teacher, for whom all tokens of the last block are computed */
    model_close(&model);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    assert_int_equal(train_run(&model, &task.examples, &plan, NULL, NULL), 0);
    small_model_hash(&model, before);
    assert_string_equal(before, after); /* the model is as two steps left it */
    model_close(&model);
    small_task_close(&task);
}

/* Finite, but never to come back. */
static int raise_loss(void *opaque, const struct train_batch *batch, struct pass *pass, double *loss) {
    (void)opaque;
    (void)pass;
    if (batch->step >= 20) *loss += 1000;
    return 0;
}

static void test_stops_when_the_loss_stays_high(void **state) {
    struct model model;
    struct small_task task;
    struct train_plan plan;
    struct train_teacher teacher = {NULL, NULL, raise_loss};
    (void)state;
    small_task_open(&task, TRAIN_CLASSIFICATION, 64, 2);
    small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 5);
    small_task_plan(&plan, TRAIN_CLASSIFICATION);
    plan.steps = 100;
    plan.teacher = &teacher;
    refuse(&plan, &model, &task.examples, E_NUMERIC, "step 70 of 100");
    assert_non_null(strstr(error_text(), "ten times its first values"));
    model_close(&model);
    small_task_close(&task);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* so little work is done sooner by one */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_data),
        cmocka_unit_test(test_refuses_plans),
        cmocka_unit_test(test_says_where_numbers_end),
        cmocka_unit_test(test_says_where_gradients_end),
        cmocka_unit_test(test_stops_when_the_loss_stays_high),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
