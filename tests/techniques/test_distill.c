/* distill: what it must equal (finetune with alpha 0, nothing to learn from itself), the students it makes, and what it
 * refuses. */
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
#include "base/hash.h"
#include "base/memory.h"
#include "base/threads.h"
#include "distill_stage.h"
#include "kernels/kernels.h"
#include "model/take_layers.h"
#include "scratch_file.h"

static const enum train_objective objectives[] = {TRAIN_CLASSIFICATION,     TRAIN_REGRESSION, TRAIN_SIMILARITY,
                                                  TRAIN_QUESTION_ANSWERING, TRAIN_MASKED_LM,  TRAIN_CAUSAL_LM};
#define OBJECTIVES (sizeof objectives / sizeof *objectives)

static const char *family_of(enum train_objective objective) { return objective == TRAIN_CAUSAL_LM ? "llama" : "bert"; }

/* alpha 0 and nothing compared: finetune of the same layers, step by step and bit by bit. */
static void test_alpha_0_is_finetune(void **state) {
    static const char *const plain[] = {"dropout", "0.1", "micro_batch", "6", NULL};
    static const char *const taught[] = {"dropout", "0.1", "micro_batch", "6",     "alpha", "0",
                                         "depth",   "2",   "from",        "model", NULL};
    (void)state;
    for (size_t k = 0; k < OBJECTIVES; k++) {
        struct stage one, two;
        stage_open(&one, family_of(objectives[k]), objectives[k], 2, false);
        stage_open(&two, family_of(objectives[k]), objectives[k], 2, false);
        stage_must(&one, &technique_finetune, plain);
        stage_must(&two, &technique_distill, taught);
        assert_true(one.steps == 6 && two.steps == 6 && two.forwards == 0);
        for (size_t i = 0; i < one.steps; i++) assert_true(one.loss[i] == two.loss[i]);
        assert_string_equal(one.hash, two.hash);
        stage_close(&one);
        stage_close(&two);
    }
}

/* A student that is its teacher, asked for nothing but what the teacher says: the loss is 0 in every objective. */
static void nothing_to_learn(enum train_objective objective, const char *const *extra, double tolerance) {
    const char *pairs[32] = {"alpha", "1", "depth", "2", "rate", "0"};
    size_t used = 6;
    struct stage stage;
    while (*extra) pairs[used++] = *extra++;
    stage_open(&stage, family_of(objective), objective, 2, false);
    stage_must(&stage, &technique_distill, pairs);
    assert_true(stage.forwards > 0);
    for (size_t i = 0; i < stage.steps; i++)
        if (!(fabs(stage.loss[i]) <= tolerance))
            fail_msg("%s %s: loss %g", train_objective_name(objective), used > 7 ? pairs[7] : "", stage.loss[i]);
    stage_close(&stage);
}

static void test_nothing_to_learn_from_oneself(void **state) {
    static const char *const none[] = {NULL}, *const top[] = {"teacher_top", "97", NULL};
    (void)state;
    for (size_t k = 0; k < OBJECTIVES; k++) nothing_to_learn(objectives[k], none, 2e-6);
    nothing_to_learn(TRAIN_CAUSAL_LM, top, 2e-6);
}

static void test_nothing_to_compare_with_oneself(void **state) {
    static const char *const compared[][8] = {
        {"hidden", "cosine"},
        {"hidden", "mse"},
        {"hidden", "mse", "hidden_map", "[0, 1]"},
        {"attention", "scores"},
        {"attention", "value_relation", "attention_map", "even"},
        {"attention", "minilm"},
        {"attention", "qkv_relation", "relation_heads", "8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof compared / sizeof *compared; i++) {
        nothing_to_learn(TRAIN_CLASSIFICATION, compared[i], 5e-6);
        nothing_to_learn(TRAIN_CAUSAL_LM, compared[i], 5e-6);
    }
}

/* Compared with other layers there is a loss, and training lowers it. */
static void test_comparisons_are_learnt(void **state) {
    static const char *const compared[][8] = {
        {"hidden", "cosine", "hidden_weight", "100"},
        {"hidden", "mse", "hidden_weight", "100"},
        {"hidden", "mse", "hidden_weight", "100", "width", "16"}, /* through a projection */
        {"hidden", "cosine", "hidden_weight", "100", "width", "16"},
        {"attention", "scores", "attention_weight", "100"},
        {"attention", "value_relation", "attention_weight", "1000"},
        {"attention", "minilm", "attention_weight", "1000"},
        {"attention", "qkv_relation", "attention_weight", "1000"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof compared / sizeof *compared; i++)
        for (int causal = 0; causal < 2; causal++) {
            const char *pairs[32] = {"epochs", "16", "depth", "1"};
            struct stage stage;
            enum train_objective objective = causal ? TRAIN_CAUSAL_LM : TRAIN_CLASSIFICATION;
            memcpy(pairs + 4, compared[i], sizeof compared[i]);
            stage_open(&stage, causal ? "gpt2" : "bert", objective, 4, false);
            stage_must(&stage, &technique_distill, pairs);
            if (!(stage.loss[stage.steps - 1] < 0.75 * stage.loss[0]))
                fail_msg("%s %s (%d): from %g to %g", pairs[4], pairs[5], causal, stage.loss[0],
                         stage.loss[stage.steps - 1]);
            stage_close(&stage);
        }
}

/* One pass or several: the same gradients up to rounding, also of what is a mean over tokens. */
static void test_micro_batches(void **state) {
    static const char *const whole[] = {"depth", "1",         "hidden",    "mse",       "width", "16",    "heads",
                                        "2",     "attention", "scores",    "optimizer", "sgd",   "steps", "3",
                                        "rate",  "0.2",       "clip_norm", "0",         NULL};
    const char *parts[32];
    struct stage one, two;
    (void)state;
    memcpy(parts, whole, sizeof whole);
    parts[18] = "micro_batch";
    parts[19] = "3";
    parts[20] = NULL;
    stage_open(&one, "bert", TRAIN_CLASSIFICATION, 2, false);
    stage_open(&two, "bert", TRAIN_CLASSIFICATION, 2, false);
    stage_must(&one, &technique_distill, whole);
    stage_must(&two, &technique_distill, parts);
    assert_true(fabs(one.loss[0] - two.loss[0]) <= 1e-5 * one.loss[0]);
    for (size_t i = 0; i < one.model.parameter_count; i++)
        for (size_t j = 0; j < one.model.parameters[i].rows * one.model.parameters[i].columns; j++)
            assert_true(fabsf(one.model.parameters[i].value[j] - two.model.parameters[i].value[j]) <= 2e-5f);
    stage_close(&one);
    stage_close(&two);
}

/* ---- students ------------------------------------------------------------------------------------------------- */

static void test_students(void **state) {
    static const char *const listed[] = {"layers", "[3, 1]", "steps", "1", "rate", "0", NULL};
    static const char *const narrow[] = {"width", "16", "steps", "1", NULL};
    static const char *const same_heads[] = {"width", "16", "heads", "2", "feed_forward", "40", "steps", "1", NULL};
    static const char *const scratch[] = {"from", "scratch", "depth", "3", "width", "48", "steps", "1", NULL};
    struct stage stage;
    (void)state;
    stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 4, false);
    struct model expected;
    char hash[65];
    assert_int_equal(model_take_layers(&expected, &stage.model, NULL, (const size_t[]){3, 1}, 2), 0);
    small_model_hash(&expected, hash);
    model_close(&expected);
    stage_must(&stage, &technique_distill, listed);
    assert_string_equal(stage.hash, hash); /* rate 0: the layers as they were */
    assert_true(stage.depth == 2 && stage.model.config.layers == 2);
    assert_string_equal(model_metadata(&stage.model, "tokenizer"), "words");
    stage_close(&stage);

    stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 4, false);
    stage_must(&stage, &technique_distill, narrow);
    assert_true(stage.depth == 2 && stage.width == 16 && stage.heads == 1 && stage.feed_forward == 24);
    assert_true(stage.model.config.width == 16 && stage.model.config.heads == 1);
    stage_must(&stage, &technique_distill, scratch); /* wider and deeper than its teacher */
    assert_true(stage.model.config.layers == 3 && stage.model.config.width == 48 && stage.model.config.heads == 3);
    assert_string_equal(model_metadata(&stage.model, "tokenizer"), "words");
    stage_close(&stage);

    stage_open(&stage, "llama", TRAIN_CAUSAL_LM, 3, false);
    stage_must(&stage, &technique_distill, same_heads);
    assert_true(stage.depth == 2 && stage.model.config.heads == 2 && stage.model.config.head_width == 8 &&
                stage.model.config.feed_forward == 40);
    stage_close(&stage);
}

/* Attention in 8-bit products, which an earlier stage asked for, is the student's too, whatever it starts as; as after
 * finetune. */
static void test_keeps_attention(void **state) {
    static const char *const starts[] = {"teacher", "model", "scratch"};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof starts / sizeof *starts; i++) {
        const char *const pairs[] = {"depth", "1", "from", starts[i / 2], "rate", "0", NULL};
        struct stage stage;
        stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
        if (i % 2) assert_int_equal(model_set_int8_attention(&stage.model), 0);
        stage_must(&stage, &technique_distill, pairs);
        assert_int_equal(stage.model.int8_attention, i % 2);
        stage_close(&stage);
    }
}

/* A teacher by path; the student from it, or from what the stage finds. */
static void test_teacher_by_path(void **state) {
    char path[128], hash[65];
    struct stage teacher, stage;
    (void)state;
    stage_open(&teacher, "bert", TRAIN_CLASSIFICATION, 4, true);
    scratch_file(path, ".safetensors", "");
    assert_int_equal(model_save(&teacher.model, path, HEAD_CLASSIFICATION), 0);
    const char *const found[] = {"teacher", path, "from", "model", "depth", "2", "alpha", "1", "epochs", "6", NULL};
    const char *const taken[] = {"teacher", path, "depth", "4", "rate", "0", "steps", "1", "alpha", "1", NULL};
    stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
    double before = stage_judge(&stage);
    stage_must(&stage, &technique_distill, found);
    assert_true(stage.forwards == 96 && stage.model.config.layers == 2);
    assert_true(stage_judge(&stage) < 0.8 * before); /* without a label */
    stage_must(&stage, &technique_distill, taken);
    small_model_hash(&teacher.model, hash);
    assert_string_equal(stage.hash, hash);
    assert_true(fabs(stage.loss[0]) < 2e-6);
    scratch_remove(path);
    stage_close(&stage);
    stage_close(&teacher);
}

/* ---- refusals ------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    static const struct {
        enum train_objective objective;
        int status;
        const char *error, *pairs[8];
    } cases[] = {
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "layers: layer 4 does not exist: there are 4", {"layers", "[0, 4]"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "layers: layers are whole numbers", {"layers", "[first]"}},
        {TRAIN_CLASSIFICATION, E_ARGUMENT, "contradict", {"layers", "[0, 1]", "depth", "3"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "depth 5 is more than the 4", {"depth", "5"}},
        {TRAIN_CLASSIFICATION, E_ARGUMENT, "from: scratch", {"from", "scratch", "layers", "[0]"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "width 64 cannot be taken from a model of width 32", {"width", "64"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "heads 4 cannot be taken from a model of heads 2", {"heads", "4"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "feed_forward 96 cannot be taken", {"feed_forward", "96"}},
        {TRAIN_CLASSIFICATION,
         E_UNSUPPORTED,
         "leave out micro_batch",
         {"class_weights", "[balanced]", "micro_batch", "4"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "width 17", {"width", "17"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "hidden_map must be auto", {"hidden", "mse", "hidden_map", "[0]"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "hidden_map: layer 9", {"hidden", "mse", "hidden_map", "[0, 9]"}},
        {TRAIN_CLASSIFICATION,
         E_UNSUPPORTED,
         "the student has 1 and the teacher 2",
         {"attention", "scores", "width", "16"}},
        {TRAIN_CLASSIFICATION,
         E_UNSUPPORTED,
         "relation_heads 5",
         {"attention", "value_relation", "relation_heads", "5"}},
        {TRAIN_CLASSIFICATION,
         E_ARGUMENT,
         "checkpoint_activations",
         {"attention", "scores", "checkpoint_activations", "true"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "level: sequence is of causal", {"level", "sequence"}},
        {TRAIN_CLASSIFICATION, E_UNSUPPORTED, "teacher_top is of causal", {"teacher_top", "4"}},
        {TRAIN_CAUSAL_LM, E_UNSUPPORTED, "teacher_top 98", {"teacher_top", "98"}},
        {TRAIN_CAUSAL_LM, E_UNSUPPORTED, "prompt_tokens 24", {"level", "both", "prompt_tokens", "24"}},
        {TRAIN_CLASSIFICATION, E_IO, "/nowhere", {"teacher", "/nowhere"}},
        {TRAIN_CLASSIFICATION, E_IO, "/nowhere", {"ensemble", "/nowhere"}},
        {TRAIN_CLASSIFICATION, E_ARGUMENT, "nothing of an ensemble", {"ensemble", "/nowhere", "alpha", "0"}},
        {TRAIN_CAUSAL_LM, E_UNSUPPORTED, "learn from one teacher", {"ensemble", "/nowhere"}},
    };
    char before[65];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stage stage;
        stage_open(&stage, family_of(cases[i].objective), cases[i].objective, 4, false);
        small_model_hash(&stage.model, before);
        int status = stage_run(&stage, &technique_distill, cases[i].pairs);
        if (status != cases[i].status || !strstr(error_text(), cases[i].error))
            fail_msg("%s: %d, %s", cases[i].error, status, error_text());
        assert_string_equal(stage.hash, before);
        stage_close(&stage);
    }
}

/* Another vocabulary, fewer positions, another head: the teacher does not fit, and is told by name. */
static void test_refuses_foreign_teachers(void **state) {
    static const char *const errors[] = {"vocabulary has 50 tokens and the student's 97", "has 12 positions",
                                         "no classification head", "has 4 classes and the student 3"};
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct model_config config = small_config(HEAD_CLASSIFICATION);
        struct model teacher;
        struct stage stage;
        char path[128];
        if (i == 0) config.vocabulary = 50;
        if (i == 1) config.positions = 12;
        if (i == 2) config.model_heads = HEAD_MASKED_LM;
        if (i == 3) config.classes = 4;
        assert_int_equal(model_create(&teacher, &config, 1, 0.1), 0);
        scratch_file(path, ".safetensors", "");
        assert_int_equal(model_save(&teacher, path, config.model_heads), 0);
        model_close(&teacher);
        const char *const pairs[] = {"teacher", path, "from", "model", NULL};
        const char *const member[] = {"ensemble", path, NULL};
        stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
        assert_int_equal(stage_run(&stage, &technique_distill, pairs), E_UNSUPPORTED);
        if (!strstr(error_text(), errors[i])) fail_msg("%s", error_text());
        assert_int_equal(stage_run(&stage, &technique_distill, member), E_UNSUPPORTED);
        if (!strstr(error_text(), errors[i]) || !strstr(error_text(), path)) fail_msg("%s", error_text());
        stage_close(&stage);
        scratch_remove(path);
    }
}

/* Stopped, or out of memory anywhere: the model is what it was. */
static void test_failures_leave_the_model(void **state) {
    static const char *const pairs[] = {"hidden", "mse", "width", "16", "steps", "1", NULL};
    struct stage stage;
    char before[65];
    int status;
    (void)state;
    stage_open(&stage, "bert", TRAIN_CLASSIFICATION, 2, false);
    small_model_hash(&stage.model, before);
    stage.stop = 1;
    assert_int_equal(stage_run(&stage, &technique_distill, pairs), E_INTERRUPTED);
    assert_string_equal(stage.hash, before);
    stage.stop = 0;
    do {
        stage.fail_after++;
        status = stage_run(&stage, &technique_distill, pairs);
        if (status < 0) assert_string_equal(stage.hash, before);
    } while (status < 0);
    assert_true(stage.fail_after > 20 && stage.model.config.width == 16);
    stage_close(&stage);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* nothing here is large enough to be shared out */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alpha_0_is_finetune),
        cmocka_unit_test(test_nothing_to_learn_from_oneself),
        cmocka_unit_test(test_nothing_to_compare_with_oneself),
        cmocka_unit_test(test_comparisons_are_learnt),
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_students),
        cmocka_unit_test(test_keeps_attention),
        cmocka_unit_test(test_teacher_by_path),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refuses_foreign_teachers),
        cmocka_unit_test(test_failures_leave_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
