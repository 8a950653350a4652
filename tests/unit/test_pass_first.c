/* A last block that is computed for first tokens alone, against the whole block: the same loss bit for bit and the same
 * gradients up to rounding, at any number of threads, with checkpoints, in parts, beside other losses; and whole where
 * it must be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_training.h"
#include "train/adapter.h"

static const size_t one[] = {9};
static const size_t many[] = {20, 24, 1, 24, 17, 24, 24, 9, 24, 24, 2, 24, 24, 24}; /* several shards, two tiles */
static const size_t small_ones[] = {1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4};
static const size_t long_ones[] = {7, 260, 1}; /* tiles of tokens */
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct shape {
    const size_t *lengths;
    size_t count;
} shapes[] = {{one, COUNT(one)}, {many, COUNT(many)}, {small_ones, COUNT(small_ones)}, {long_ones, COUNT(long_ones)}};

static bool reads_first(const struct small_kind *kind) {
    return kind->objective == SMALL_CLASSIFY || kind->objective == SMALL_REGRESS;
}

static struct pass_options with_dropout(bool first) {
    return (struct pass_options){
        .dropout = 0.2, .seed = 11, .step = 3, .first_token = 40, .scale = 0.7, .first = first};
}

static float *gradients_of(const struct small_training *training) {
    float *gradients = calloc(small_training_values(training), sizeof *gradients);
    assert_non_null(gradients);
    small_training_gradients(training, gradients);
    return gradients;
}

static void must_equal(const struct small_training *training, const float *expected, const char *what) {
    float *got = gradients_of(training);
    if (memcmp(got, expected, small_training_values(training) * sizeof *got) != 0)
        fail_msg("%s: other bits %s", training->kind->name, what);
    free(got);
}

/* Every parameter's gradient within `share` of the largest of them, and a millionth of the largest of all: the key's
 * bias moves no softmax, so that its gradient is nothing but what rounding leaves of larger ones. */
static void must_be_near(const struct small_training *training, const float *expected, double share) {
    float *all = gradients_of(training), *got = all;
    double floor = 0;
    for (size_t i = 0; i < small_training_values(training); i++) floor = fmax(floor, 1e-6 * fabs((double)expected[i]));
    for (size_t i = 0; i < training->model.parameter_count; i++) {
        const struct parameter *parameter = &training->model.parameters[i];
        size_t count = parameter->rows * parameter->columns;
        double largest = 0, worst = 0;
        if (!parameter->gradient) continue;
        for (size_t k = 0; k < count; k++) {
            assert_true(isfinite(got[k]));
            largest = fmax(largest, fabs((double)expected[k]));
            worst = fmax(worst, fabs((double)expected[k] - (double)got[k]));
        }
        if (worst > share * largest + floor)
            fail_msg("%s, %s: off by %g where the largest is %g", training->kind->name, parameter->name, worst,
                     largest);
        got += count, expected += count;
    }
    free(all);
}

/* The whole block's loss and gradients, then those of first tokens alone. */
static void check(const struct small_kind *kind, const struct shape *shape, double (*extra)(struct pass *pass)) {
    struct small_training training;
    struct pass_options whole = with_dropout(false), options = with_dropout(true);
    int before = threads_get();
    small_training_open(&training, kind, shape->lengths, shape->count, 6);
    training.extra = extra;
    threads_set(1);
    double loss = small_training_step(&training, &whole);
    float *expected = gradients_of(&training);
    assert_false(training.pass.first);
    assert_true(small_training_step(&training, &options) == loss);
    assert_true(training.pass.first);
    must_be_near(&training, expected, 1e-5);
    float *first = gradients_of(&training);
    threads_set(3);
    options.checkpoint = true;
    if (!extra) {
        assert_true(small_training_step(&training, &options) == loss);
        must_equal(&training, first, "with checkpoints, at three threads");
    }
    options.checkpoint = false;
    assert_true(small_training_step(&training, &options) == loss);
    must_equal(&training, first, "at three threads");
    threads_set(before);
    small_training_step(&training, &whole); /* nothing stays */
    must_equal(&training, expected, "of the whole block, afterwards");
    options.add = true;
    small_training_step(&training, &options);
    for (size_t i = 0; i < small_training_values(&training); i++) expected[i] *= 2;
    must_be_near(&training, expected, 2e-5);
    free(first);
    free(expected);
    small_training_close(&training);
}

static void test_first_tokens(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        for (size_t k = 0; reads_first(&small_kinds[i]) && k < COUNT(shapes); k++)
            check(&small_kinds[i], &shapes[k], NULL);
}

/* A sum of x with weights that are all over the place; they are its gradient. */
static double weigh(size_t count, const float *x, float *gradient) {
    double sum = 0;
    assert_non_null(gradient);
    for (size_t i = 0; i < count; i++) {
        float weight = 0.01f * sinf(0.37f * (float)i);
        sum += (double)(weight * x[i]);
        gradient[i] += weight;
    }
    return sum;
}

/* Of what is there: keys and values of the last block, its output at first tokens, all of the block before. */
static double weigh_others(struct pass *pass) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->batch->tokens, C = config->width, last = config->layers - 1;
    double sum = weigh(T * C, pass_block_output(pass, 0), pass_want_block_gradient(pass, 0));
    const float *output = pass_block_output(pass, (int)last);
    float *gradient = pass_want_block_gradient(pass, (int)last);
    for (size_t s = 0; s < pass->batch->sequences; s++) {
        size_t at = pass->batch->offset[s] * C;
        sum += weigh(C, output + at, gradient + at);
    }
    sum += weigh(T * C, pass_part(pass, last, PART_KEY), pass_want_part_gradient(pass, last, PART_KEY));
    sum += weigh(T * C, pass_part(pass, last, PART_VALUE), pass_want_part_gradient(pass, last, PART_VALUE));
    return sum;
}

static void test_other_losses(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        for (size_t k = 1; reads_first(&small_kinds[i]) && k < COUNT(shapes); k += 2)
            check(&small_kinds[i], &shapes[k], weigh_others);
}

/* In bf16 rows are rounded one by one as well, and the order of sums is all that differs. */
static void test_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        struct small_training training;
        struct pass_options whole = with_dropout(false), options = with_dropout(true);
        if (!reads_first(&small_kinds[i])) continue;
        small_training_open(&training, &small_kinds[i], many, COUNT(many), 6);
        whole.bf16 = options.bf16 = true;
        double loss = small_training_step(&training, &whole);
        float *expected = gradients_of(&training);
        assert_true(small_training_step(&training, &options) == loss);
        must_be_near(&training, expected, 0.02);
        free(expected);
        small_training_close(&training);
    }
}

/* Other tokens' outputs are zeros: nothing of an earlier batch is read by mistake. */
static void test_other_outputs_are_zero(void **state) {
    (void)state;
    struct small_training training;
    struct pass_options whole = with_dropout(false), options = with_dropout(true);
    small_training_open(&training, &small_kinds[0], many, COUNT(many), 6);
    small_training_loss(&training, &whole);
    small_training_loss(&training, &options);
    size_t C = training.model.config.width;
    assert_null(pass_part(&training.pass, 1, PART_QUERY));
    assert_non_null(pass_part(&training.pass, 0, PART_QUERY));
    for (size_t s = 0; s < training.batch.sequences; s++)
        for (size_t t = training.offset[s]; t < training.offset[s + 1]; t++) {
            double sum = 0;
            for (size_t c = 0; c < C; c++) sum += fabs((double)pass_hidden(&training.pass)[t * C + c]);
            assert_true(t == training.offset[s] ? sum > 0 : sum == 0);
        }
    small_training_close(&training);
}

/* Models whose last block is not of this kind are computed whole. */
static void test_whole_where_it_must_be(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        struct small_training training;
        struct pass_options whole = with_dropout(false), options = with_dropout(true);
        const struct small_kind *kind = &small_kinds[i];
        if (strcmp(kind->family, "bert") == 0 || strcmp(kind->family, "distilbert") == 0) continue;
        small_training_open(&training, kind, many, 4, 6);
        small_training_step(&training, &whole);
        float *expected = gradients_of(&training);
        small_training_step(&training, &options);
        assert_false(training.pass.first);
        must_equal(&training, expected, "of a whole block");
        free(expected);
        small_training_close(&training);
    }
}

/* A low-rank update in the last block sees every token; one in another block does not matter. */
static void test_edits(void **state) {
    (void)state;
    for (size_t block = 0; block < 2; block++) {
        struct small_training training;
        struct pass_options options = with_dropout(true);
        struct adapter adapter;
        struct adapter_plan plan = {.rank = 3, .alpha = 4, .seed = 9};
        small_training_open(&training, &small_kinds[0], many, COUNT(many), 6);
        const struct linear *linear = block_part(&training.model, block, PART_VALUE)->linear;
        struct linear_edit *edits = calloc(training.model.linear_count, sizeof *edits);
        assert_int_equal(adapter_open(&adapter, "a", linear->rows, linear->columns, &plan), 0);
        edits[linear - training.model.linears].adapter = &adapter;
        pass_close(&training.pass);
        assert_int_equal(pass_open(&training.pass, &training.model, edits), 0);
        small_training_step(&training, &options);
        assert_int_equal(training.pass.first, block == 0);
        free(edits);
        small_training_close(&training);
        adapter_close(&adapter);
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_tokens),
        cmocka_unit_test(test_other_losses),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_other_outputs_are_zero),
        cmocka_unit_test(test_whole_where_it_must_be),
        cmocka_unit_test(test_edits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
