/* Optimizers and learning rates against torch and transformers: goldens/optim. */
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

#include "base/error.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "train/optimizer.h"
#include "train/schedule.h"

#define REL 1e-5

static bool present(const char *name) {
    char path[512];
    return golden_path(path, sizeof path, name);
}

static double number_or(const struct json *object, const char *key, double otherwise) {
    return json_member(object, key) ? golden_number(object, key) : otherwise;
}

/* What a setting's members say; its kind is in its name. */
static struct optimizer_settings settings_of(const char *name, const struct json *setting) {
    struct optimizer_settings settings = {.kind = strncmp(name, "sgd", 3) == 0     ? OPTIMIZER_SGD
                                                  : strncmp(name, "adamw", 5) == 0 ? OPTIMIZER_ADAMW
                                                                                   : OPTIMIZER_ADAM_L2};
    const struct json *betas = json_member(setting, "betas"), *nesterov = json_member(setting, "nesterov");
    settings.weight_decay = golden_number(setting, "weight_decay");
    settings.momentum = number_or(setting, "momentum", 0);
    settings.epsilon = number_or(setting, "eps", 1e-8);
    settings.nesterov = nesterov && nesterov->type == JSON_TRUE;
    if (betas) {
        assert_int_equal(json_number(json_item(betas, 0), "beta", &settings.beta1), 0);
        assert_int_equal(json_number(json_item(betas, 1), "beta", &settings.beta2), 0);
    }
    return settings;
}

static void check_state(const struct safetensors *file, const char *name, const char *ending, const float *got,
                        size_t n) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, ending);
    if (!safetensors_find(file, key)) return;
    assert_non_null(got);
    golden_close(key, golden_difference(got, golden_tensor(file, key)->data, n, NULL, 1), REL);
}

static void check_trace(const struct safetensors *file, const char *name, const struct json *setting) {
    struct optimizer_settings settings = settings_of(name, setting);
    struct optimizer optimizer;
    char key[96];
    const struct tensor *grads = golden_tensor(file, "grads");
    size_t steps = grads->shape[0], n = grads->shape[1];
    float *value = calloc(2 * n, sizeof(float)), *gradient = value + n;
    struct trainable trainable = {"p", value, gradient, 1, n, true, false};
    struct trainables trainables = {&trainable, 1, SIZE_MAX};

    memcpy(value, golden_tensor(file, "start")->data, n * sizeof(float));
    assert_int_equal(optimizer_open(&optimizer, &settings, &trainables), 0);
    snprintf(key, sizeof key, "%s.params", name);
    const float *expected = golden_tensor(file, key)->data;
    for (size_t step = 0; step < steps; step++) {
        double norm;
        memcpy(gradient, (const float *)grads->data + step * n, n * sizeof(float));
        assert_int_equal(optimizer_step(&optimizer, golden_number(setting, "lr"), &norm), 0);
        golden_close(key, golden_difference(value, expected + step * n, n, NULL, 1), REL);
    }
    check_state(file, name, "exp_avg", optimizer.items[0].m, n);
    check_state(file, name, "exp_avg_sq", optimizer.items[0].v, n);
    check_state(file, name, "momentum_buffer", optimizer.items[0].m, n);
    optimizer_close(&optimizer);
    free(value);
}

static void test_traces(void **state) {
    struct safetensors file;
    struct json_document document;
    char *text;
    size_t compared = 0;
    (void)state;
    if (!present("optim/traces.safetensors")) skip();
    golden_open(&file, "optim/traces.safetensors");
    golden_json(&document, &text, "optim/schedules.json");
    const struct json *settings = json_member(json_root(&document), "settings");
    for (const struct json *setting = settings->child; setting; setting = setting->next, compared++)
        check_trace(&file, setting->key, setting);
    assert_true(compared > 0);
    json_close(&document);
    memory_release(text);
    safetensors_close(&file);
}

/* "linear_warmup4", "polynomial_warmup4_power2_end0.1". */
static struct schedule schedule_of(const char *name, size_t steps, double peak) {
    static const char *const kinds[] = {[SCHEDULE_CONSTANT] = "constant",
                                        [SCHEDULE_LINEAR] = "linear",
                                        [SCHEDULE_COSINE] = "cosine",
                                        [SCHEDULE_POLYNOMIAL] = "polynomial"};
    struct schedule schedule = {.steps = steps, .peak = peak, .power = 1};
    size_t kind = 0, length = strcspn(name, "_");
    const char *power = strstr(name, "_power"), *end = strstr(name, "_end"), *warmup = strstr(name, "_warmup");
    while (kind < sizeof kinds / sizeof *kinds && (strlen(kinds[kind]) != length || strncmp(kinds[kind], name, length)))
        kind++;
    if (kind == sizeof kinds / sizeof *kinds || !warmup) fail_msg("unknown schedule '%s'", name);
    schedule.kind = (enum schedule_kind)kind;
    schedule.warmup = strtoul(warmup + strlen("_warmup"), NULL, 10);
    if (power) schedule.power = strtod(power + strlen("_power"), NULL);
    if (end) schedule.end_frac = strtod(end + strlen("_end"), NULL);
    return schedule;
}

static void test_schedules(void **state) {
    struct json_document document;
    char *text;
    size_t compared = 0;
    (void)state;
    if (!present("optim/schedules.json")) skip();
    golden_json(&document, &text, "optim/schedules.json");
    const struct json *root = json_root(&document), *rates = json_member(root, "lr_used_by_step");
    for (const struct json *list = rates->child; list; list = list->next) {
        struct schedule schedule =
            schedule_of(list->key, (size_t)golden_number(root, "total_steps"), golden_number(root, "base_lr"));
        for (size_t step = 0; step < list->count; step++) {
            double expected;
            assert_int_equal(json_number(json_item(list, step), "rate", &expected), 0);
            if (!(fabs(schedule_rate(&schedule, step) - expected) <= 1e-9))
                fail_msg("%s: step %zu has rate %.12g, expected %.12g", list->key, step, schedule_rate(&schedule, step),
                         expected);
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
        cmocka_unit_test(test_traces),
        cmocka_unit_test(test_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
