/* What techniques foresee of a model's sizes and formats is what they make of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "technique_run.h"
#include "training_stage.h"

extern const struct technique technique_bfloat16, technique_distill, technique_equalize, technique_finetune,
    technique_float16, technique_int8_attention, technique_llm_int8, technique_lora, technique_magnitude,
    technique_null, technique_ptq_dynamic, technique_ptq_static, technique_qat, technique_qlora, technique_rtn;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* Options as given, asked of the sizes alone. */
static int foresee(const struct technique *technique, const char *const *settings, struct model *shape) {
    int status = 0;
    struct option_store store = {0};
    struct examples none = {.classes = shape->config.classes};
    void *options = calloc(1, technique->options_bytes + 1);
    struct technique_context context = {
        .model = shape, .planning = true, .training = &none, .unlabelled = &none, .calibration = &none};
    assert_non_null(options);
    if (technique->options) must(option_defaults(technique->options, options, &store));
    for (; settings && *settings; settings++) {
        char name[64];
        size_t length = strcspn(*settings, "=");
        snprintf(name, sizeof name, "%.*s", (int)length, *settings);
        must(option_set(option_find(technique->options, name), options, *settings + length + 1, &store));
    }
    if (technique->settle) TRY(technique->settle(options));
    if (technique->probe) TRY(technique->probe(&context, options));
    TRY(technique->foresee(&context, options));
out:
    option_store_close(&store);
    free(options);
    return status;
}

static void same_shape(const char *name, const struct model *made, const struct model *foreseen) {
    const struct model_config *a = &made->config, *b = &foreseen->config;
    assert_true(a->layers == b->layers && a->width == b->width && a->heads == b->heads);
    assert_true(a->feed_forward == b->feed_forward && a->head_width == b->head_width);
    assert_true(a->model_heads == b->model_heads && a->classes == b->classes && a->vocabulary == b->vocabulary);
    assert_true(made->int8_attention == foreseen->int8_attention);
    assert_int_equal(made->linear_count, foreseen->linear_count);
    for (size_t i = 0; i < made->linear_count; i++) {
        const struct linear *one = &made->linears[i], *other = &foreseen->linears[i];
        assert_string_equal(one->name, other->name);
        assert_true(one->rows == other->rows && one->columns == other->columns);
        if (!one->value != !other->value || one->weight.format != other->weight.format)
            fail_msg("%s: %s is %s, foreseen as %s", name, one->name, one->weight.format->name,
                     other->weight.format->name);
    }
}

static void test_rounding(void **state) {
    static const struct {
        const struct technique *technique;
        const char *settings[4];
    } cases[] = {
        {&technique_null, {NULL}},
        {&technique_magnitude, {"sparsity=0.5"}},
        {&technique_rtn, {NULL}},
        {&technique_rtn, {"bits=4", "layers=[*]", "skip=[query]"}},
        {&technique_ptq_dynamic, {"granularity=group"}},
        {&technique_ptq_dynamic, {"symmetric=false", "keep=[up]"}},
        {&technique_llm_int8, {"layers=[value]"}},
        {&technique_float16, {"arithmetic=both", "keep=[down]"}},
        {&technique_bfloat16, {NULL}},
        {&technique_int8_attention, {NULL}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct technique_run run;
        struct model shape;
        technique_run_open(&run, 3);
        must(model_shape(&shape, &run.model.config));
        must(technique_run_stage(&run, cases[i].technique, cases[i].settings));
        must(foresee(cases[i].technique, cases[i].settings, &shape));
        same_shape(cases[i].technique->name, &run.model, &shape);
        model_close(&shape);
        technique_run_close(&run);
    }
}

static void test_training(void **state) {
    static const struct {
        const struct technique *technique;
        const char *settings[6];
    } cases[] = {
        {&technique_finetune, {"steps=1"}},
        {&technique_lora, {"steps=1", "layers=[]"}},
        {&technique_qat, {"steps=1", "skip=[key]"}},
        {&technique_qat, {"steps=1", "bits=4", "group=32"}},
        {&technique_qlora, {"steps=1", "bits=8", "layers=[query, up]"}},
        {&technique_qlora, {"steps=1", "merge=f32", "bits=8"}},
        {&technique_distill, {"steps=1", "alpha=0", "depth=1", "width=16"}},
        {&technique_distill, {"steps=1", "alpha=0", "layers=[1, 1, 0]", "feed_forward=32"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model model, shape;
        struct small_task task;
        small_task_model(&model, "bert", TRAIN_CLASSIFICATION, 1);
        small_task_open(&task, TRAIN_CLASSIFICATION, 40, 2);
        struct training_stage stage = {.technique = cases[i].technique, .model = &model, .task = &task};
        must(model_shape(&shape, &model.config));
        must(training_stage_run(&stage, cases[i].settings));
        must(foresee(cases[i].technique, cases[i].settings, &shape));
        same_shape(cases[i].technique->name, &model, &shape);
        model_close(&shape);
        model_close(&model);
        small_task_close(&task);
    }
}

/* What is packed already is known of, and what only work will show is not made up. */
static void test_order(void **state) {
    static const char *const query[] = {"layers=[query]", "bits=8", NULL}, *const four[] = {"bits=8", NULL},
                             *const merged[] = {"merge=f32", "bits=8", NULL}, *const worst[] = {"keep_worst=1", NULL};
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    struct model shape;
    (void)state;
    must(model_shape(&shape, &config));
    assert_int_equal(foresee(&technique_ptq_static, worst, &shape), E_STATE);
    must(foresee(&technique_rtn, query, &shape));
    assert_int_equal(foresee(&technique_rtn, four, &shape), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "query is packed as int8 already"));
    assert_int_equal(foresee(&technique_magnitude, NULL, &shape), E_UNSUPPORTED);
    assert_int_equal(foresee(&technique_qlora, merged, &shape), E_STATE); /* query's values are in no file yet */
    must(foresee(&technique_ptq_static, (const char *const[]){"keep=[query]", NULL}, &shape));
    for (size_t i = 0; i < shape.linear_count; i++)
        assert_true(!shape.linears[i].value == (shape.linears[i].block >= 0));
    assert_int_equal(foresee(&technique_equalize, NULL, &shape), E_UNSUPPORTED);
    model_close(&shape);
}

/* Heads that are carried along and left out of the result: no pattern means them, naming them says so, and skipping
 * them is fine. */
static void test_aside(void **state) {
    static const char *const all[] = {"layers=[*]", NULL}, *const head[] = {"layers=[head_transform]", NULL},
                             *const skipped[] = {"layers=[*]", "skip=[cls.*]", NULL};
    struct model_config config = small_config(HEAD_CLASSIFICATION | HEAD_MASKED_LM);
    (void)state;
    for (int aside = 0; aside < 2; aside++) {
        struct model shape;
        size_t packed = 0, values = 0, left;
        must(model_shape(&shape, &config));
        left = shape.linear_count - (size_t)aside;
        model_set_aside(&shape, aside ? HEAD_CLASSIFICATION : HEAD_CLASSIFICATION | HEAD_MASKED_LM);
        for (size_t i = 0; i < shape.parameter_count; i++) values += shape.parameters[i].aside;
        assert_int_equal(values, aside ? 5 : 0); /* weight and bias, norm's two, the vocabulary's bias */
        must(foresee(&technique_rtn, aside ? skipped : all, &shape));
        for (size_t i = 0; i < shape.linear_count; i++) packed += !shape.linears[i].value;
        assert_int_equal(packed, left);
        assert_int_equal(foresee(&technique_rtn, head, &shape), E_UNSUPPORTED);
        assert_non_null(strstr(error_text(), aside ? "'head_transform' is neither" : "packed as int8 already"));
        model_close(&shape);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
