/* stories260K from its llama2.c file: greedy texts and likelihoods of 8192 tokens, in both protocols of the goldens.
 * Needs ../shared/data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "real_text.h"

#define MODEL "../shared/data/models/stories260K/stories260K.bin"
#define WINDOW 512
#define TOGETHER 4 /* windows of one pass */

static void greedy_texts_are_the_reference(void **state) {
    struct real_text real;
    (void)state;
    if (!real_text_open(&real, "stories260K", MODEL, STORAGE_F32)) skip();
    real_text_check_greedy(&real, CACHE_F32, 1e-3);
    real_text_check_greedy(&real, CACHE_F16, 0.05);
    real_text_close(&real);
}

/* Windows of ids as they are: each id is asked for the next one of its window. Or behind a BOS: each for itself. */
static void check_protocol(struct real_text *real, const char *name, bool bos) {
    const struct json *root = json_root(&real->document), *nll = json_member(root, "nll");
    const struct json *sums = json_member(json_member(nll, name), "window_nll_sum"), *expected = sums->child;
    const struct tensor *ids = golden_tensor(&real->tensors, "nll.ids");
    int32_t *inputs = calloc(TOGETHER * WINDOW, sizeof *inputs), *targets = calloc(TOGETHER * WINDOW, sizeof *targets);
    float *each = calloc(TOGETHER * WINDOW, sizeof *each);
    double total = 0;
    assert_int_equal(ids->count, sums->count * WINDOW);
    for (size_t w = 0; w < sums->count; w += TOGETHER) {
        size_t windows = sums->count - w < TOGETHER ? sums->count - w : TOGETHER;
        for (size_t i = 0; i < windows * WINDOW; i++) {
            const int32_t *id = (const int32_t *)ids->data + w * WINDOW + i;
            bool first = i % WINDOW == 0, last = (i + 1) % WINDOW == 0;
            inputs[i] = !bos ? id[0] : first ? (int32_t)golden_number(root, "bos_id") : id[-1];
            targets[i] = bos ? id[0] : last ? -1 : id[1];
        }
        real_text_nll(real, windows, WINDOW, inputs, targets, each);
        for (size_t i = 0; i < windows; i++, expected = expected->next) {
            double sum, got = real_text_sum(each + i * WINDOW, WINDOW);
            assert_int_equal(json_number(expected, "window_nll_sum", &sum), 0);
            if (!(fabs(got - sum) <= 1e-4 * sum))
                fail_msg("%s, window %zu: %.5f, expected %.5f", name, w + i, got, sum);
            total += got;
        }
    }
    total /= (double)(sums->count * (bos ? WINDOW : WINDOW - 1));
    assert_true(fabs(total - golden_number(json_member(nll, name), "mean_nll")) <= 1e-4);
    free(inputs), free(targets), free(each);
}

static void likelihoods_are_the_reference(void **state) {
    struct real_text real;
    (void)state;
    if (!real_text_open(&real, "stories260K", MODEL, STORAGE_F32)) skip();
    check_protocol(&real, "no_bos", false);
    check_protocol(&real, "bos", true);
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
