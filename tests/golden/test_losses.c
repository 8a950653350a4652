/* Cross-entropy against torch. */
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
#include "train/loss.h"

#define REL 1e-5

static bool present(const char *name) {
    char path[512];
    return golden_path(path, sizeof path, name);
}

static void check_loss(const char *name, double smoothing) {
    struct safetensors arrays;
    struct json_document values;
    char *text, key[64];
    golden_open(&arrays, "losses/arrays.safetensors");
    golden_json(&values, &text, "losses/values.json");
    const struct tensor *logits = golden_tensor(&arrays, "ce.logits"), *target = golden_tensor(&arrays, "ce.target");
    size_t rows = logits->shape[0], V = logits->shape[1];
    double expected = golden_number(json_member(json_root(&values), "values"), name);
    float *gradient = calloc(rows * V, sizeof(float));

    double plain = loss_cross_entropy(logits->data, target->data, rows, V, smoothing, NULL);
    double loss = loss_cross_entropy(logits->data, target->data, rows, V, smoothing, gradient);
    assert_true(fabs(plain - expected) <= REL * fabs(expected));
    assert_true(fabs(loss - expected) <= REL * fabs(expected));
    snprintf(key, sizeof key, "%s.grad.logits", name);
    golden_close(key, golden_difference(gradient, golden_tensor(&arrays, key)->data, rows * V, NULL, 1), REL);
    memcpy(gradient, logits->data, rows * V * sizeof(float)); /* in place */
    assert_true(loss_cross_entropy(gradient, target->data, rows, V, smoothing, gradient) == loss);
    golden_close(key, golden_difference(gradient, golden_tensor(&arrays, key)->data, rows * V, NULL, 1), REL);
    free(gradient);
    json_close(&values);
    memory_release(text);
    safetensors_close(&arrays);
}

static void test_cross_entropy(void **state) {
    (void)state;
    if (!present("losses/arrays.safetensors")) skip();
    check_loss("ce.mean", 0);
}

static void test_label_smoothing(void **state) {
    (void)state;
    if (!present("losses/arrays.safetensors")) skip();
    check_loss("ce.smooth0.1", 0.1);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_label_smoothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
