/* AdamW and the linear schedule against torch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "train/optimizer.h"

#define REL 1e-5

static bool present(const char *name) {
    char path[512];
    return golden_path(path, sizeof path, name);
}

static void check_state(const struct safetensors *file, const char *name, const char *ending, const float *got,
                        size_t n) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, ending);
    golden_close(key, golden_difference(got, golden_tensor(file, key)->data, n, NULL, 1), REL);
}

static void check_trace(const char *name) {
    struct safetensors file;
    struct json_document document;
    struct optimizer optimizer;
    char *text, key[64];
    golden_open(&file, "optim/traces.safetensors");
    golden_json(&document, &text, "optim/schedules.json");
    const struct json *setting = json_member(json_member(json_root(&document), "settings"), name);
    const struct tensor *grads = golden_tensor(&file, "grads");
    size_t steps = grads->shape[0], n = grads->shape[1];
    float *value = calloc(2 * n, sizeof(float)), *gradient = value + n;
    struct parameter parameter = {"p", PARAMETER_MATRIX, 1, n, value, gradient, NULL};
    struct model model = {.parameters = &parameter, .parameter_count = 1};

    memcpy(value, golden_tensor(&file, "start")->data, n * sizeof(float));
    assert_int_equal(optimizer_open(&optimizer, &model), 0);
    optimizer.clip_norm = 0;
    optimizer.epsilon = golden_number(setting, "eps");
    optimizer.weight_decay = golden_number(setting, "weight_decay");
    assert_int_equal(json_number(json_item(json_member(setting, "betas"), 0), "beta", &optimizer.beta1), 0);
    assert_int_equal(json_number(json_item(json_member(setting, "betas"), 1), "beta", &optimizer.beta2), 0);
    snprintf(key, sizeof key, "%s.params", name);
    const float *expected = golden_tensor(&file, key)->data;
    for (size_t step = 0; step < steps; step++) {
        double norm;
        memcpy(gradient, (const float *)grads->data + step * n, n * sizeof(float));
        assert_int_equal(optimizer_step(&optimizer, &model, golden_number(setting, "lr"), &norm), 0);
        golden_close(key, golden_difference(value, expected + step * n, n, NULL, 1), REL);
    }
    check_state(&file, name, "exp_avg", optimizer.m[0], n);
    check_state(&file, name, "exp_avg_sq", optimizer.v[0], n);
    optimizer_close(&optimizer);
    free(value);
    json_close(&document);
    memory_release(text);
    safetensors_close(&file);
}

static void test_adamw_traces(void **state) {
    (void)state;
    if (!present("optim/traces.safetensors")) skip();
    check_trace("adamw");
    check_trace("adamw_beta95");
}

static void test_linear_schedule(void **state) {
    struct json_document document;
    char *text;
    (void)state;
    if (!present("optim/schedules.json")) skip();
    golden_json(&document, &text, "optim/schedules.json");
    const struct json *root = json_root(&document), *rates = json_member(root, "lr_used_by_step");
    size_t steps = (size_t)golden_number(root, "total_steps"), compared = 0;
    double peak = golden_number(root, "base_lr");
    for (const struct json *list = rates->child; list; list = list->next) {
        unsigned warmup;
        if (sscanf(list->key, "linear_warmup%u", &warmup) != 1) continue;
        for (size_t step = 0; step < list->count; step++) {
            double expected;
            assert_int_equal(json_number(json_item(list, step), "rate", &expected), 0);
            assert_true(fabs(schedule_linear(step, steps, warmup, peak) - expected) <= 1e-9);
            compared++;
        }
    }
    assert_true(compared > 0);
    json_close(&document);
    memory_release(text);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_traces),
        cmocka_unit_test(test_linear_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
