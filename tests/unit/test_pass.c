/* Passes of every kind of model: gradients against differences of losses, the same bits at any number of threads and
 * with checkpoints, sums over parts of a batch, and nothing left over from earlier batches. */
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
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "small_training.h"

static const size_t short_ones[] = {5, 1, 13, 8};
static const size_t many[] = {20, 24, 3, 24, 17, 24, 24, 9, 24, 24, 24, 24, 24, 24}; /* several shards */
static const size_t long_ones[] = {260, 7};                                          /* tiles of tokens */
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define SLOPES 3 /* values of each parameter */

static struct pass_options with_dropout(void) {
    return (struct pass_options){.dropout = 0.2, .seed = 11, .step = 3, .scale = 1};
}

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

static float *gradients_of(const struct small_training *training) {
    float *gradients = room(small_training_values(training), sizeof *gradients);
    small_training_gradients(training, gradients);
    return gradients;
}

static void must_equal(const struct small_training *training, const float *expected, const char *what) {
    float *got = gradients_of(training);
    if (memcmp(got, expected, small_training_values(training) * sizeof *got) != 0)
        fail_msg("%s: other bits %s", training->kind->name, what);
    free(got);
}

/* ---- differences ------------------------------------------------------------------------------------------- */

/* Three values of every parameter, in one thread: a pass of 27 tokens is done sooner by one. Dropped elements come from
 * a counter, so repeating a pass repeats them. */
static void check_slopes(const struct small_kind *kind, double (*extra)(struct pass *pass)) {
    struct small_training training;
    struct pass_options options = with_dropout();
    struct random random;
    double worst = 0, scale = 0;
    int before = threads_get();
    threads_set(1);
    small_training_open(&training, kind, short_ones, COUNT(short_ones), 5);
    training.extra = extra;
    struct model *model = &training.model;
    const struct parameter *tokens = model_part(model, PART_TOKENS)->weight;
    small_training_step(&training, &options);
    float *gradients = gradients_of(&training); /* heads write theirs in every loss below */
    random_open(&random, 1, 1);
    for (size_t i = 0, first = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        assert_non_null(parameter->gradient);
        for (size_t k = 0; k < SLOPES; k++) {
            size_t at = (size_t)random_below(&random, parameter->rows * parameter->columns);
            if (parameter == tokens) /* a row that occurs */
                at = (size_t)training.ids[3 + k] * parameter->columns + at % parameter->columns;
            if (parameter == tokens && (int32_t)(at / parameter->columns) == model->config.pad_id) continue;
            double expected = small_training_slope(&training, &options, &parameter->value[at]);
            scale = fmax(scale, fabs(expected));
            worst = fmax(worst, fabs(expected - (double)gradients[first + at]));
        }
        first += parameter->rows * parameter->columns;
    }
    free(gradients);
    assert_true(scale > 0.05);
    if (!(worst <= (kind->kinks ? 3e-2 : 1e-3) * scale))
        fail_msg("%s: off by %g where the largest is %g", kind->name, worst, scale);
    small_training_close(&training);
    threads_set(before);
}

static void test_slopes(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_slopes(&small_kinds[i], NULL);
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

/* All that other losses can be taken of: embeddings, block outputs, queries, keys, values. */
static double weigh_everything(struct pass *pass) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->batch->tokens, A = config->heads * config->head_width,
           K = config->key_value_heads * config->head_width;
    double sum = 0;
    for (int b = -1; b < (int)config->layers; b++)
        sum += weigh(T * config->width, pass_block_output(pass, b), pass_want_block_gradient(pass, b));
    for (size_t b = 0; b < config->layers; b++) {
        sum += weigh(T * A, pass_part(pass, b, PART_QUERY), pass_want_part_gradient(pass, b, PART_QUERY));
        sum += weigh(T * K, pass_part(pass, b, PART_KEY), pass_want_part_gradient(pass, b, PART_KEY));
        sum += weigh(T * K, pass_part(pass, b, PART_VALUE), pass_want_part_gradient(pass, b, PART_VALUE));
    }
    return sum;
}

static void test_slopes_of_other_losses(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_slopes(&small_kinds[i], weigh_everything);
}

/* ---- bits -------------------------------------------------------------------------------------------------- */

static void check_bits(const struct small_kind *kind, const size_t *lengths, size_t count) {
    struct small_training training;
    struct pass_options options = with_dropout();
    int before = threads_get();
    small_training_open(&training, kind, lengths, count, 6);
    threads_set(1);
    double loss = small_training_step(&training, &options);
    float *first = gradients_of(&training);
    options.step++;
    assert_true(small_training_loss(&training, &options) != loss); /* other elements are dropped */
    options.step--;
    threads_set(3);
    options.checkpoint = true;
    assert_true(small_training_step(&training, &options) == loss);
    must_equal(&training, first, "with checkpoints, at three threads");
    threads_set(before);
    free(first);
    small_training_close(&training);
}

/* Tiles of tokens are the same for all heads: each family has them once. */
static void test_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        check_bits(&small_kinds[i], many, COUNT(many));
        if (i == 0 || strcmp(small_kinds[i].family, small_kinds[i - 1].family) != 0 || small_kinds[i].post_norm)
            check_bits(&small_kinds[i], long_ones, COUNT(long_ones));
    }
}

/* In bf16 the inputs of every product are rounded by up to 2^-9, and gradients are off by about as much; the bits do
 * not depend on threads or checkpoints either. */
static void check_bf16(const struct small_kind *kind) {
    struct small_training training;
    struct pass_options options = with_dropout();
    double squares = 0, off = 0;
    int before = threads_get();
    small_training_open(&training, kind, many, COUNT(many), 6);
    small_training_step(&training, &options);
    float *exact = gradients_of(&training);
    options.bf16 = true;
    threads_set(1);
    double loss = small_training_step(&training, &options);
    float *rounded = gradients_of(&training);
    threads_set(2);
    options.checkpoint = true;
    assert_true(small_training_step(&training, &options) == loss);
    must_equal(&training, rounded, "in bf16 at two threads");
    threads_set(before);
    for (size_t i = 0; i < small_training_values(&training); i++) {
        squares += (double)exact[i] * (double)exact[i];
        off += pow((double)exact[i] - (double)rounded[i], 2);
    }
    double share = sqrt(off / squares);
    if (!(share > 1e-4 && share < 0.05)) fail_msg("%s: bf16 is off by %g", kind->name, share);
    free(exact);
    free(rounded);
    small_training_close(&training);
}

static void test_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_bf16(&small_kinds[i]);
}

/* ---- sums -------------------------------------------------------------------------------------------------- */

/* What the batch's mean divides by, of sequences begin..end-1. */
static double weight_of(const struct small_training *training, size_t begin, size_t end) {
    size_t count = 0;
    if (training->kind->objective == SMALL_SIMILAR) return (double)(end - begin) / 2;
    if (training->kind->objective != SMALL_TOKENS) return (double)(end - begin);
    for (size_t i = 0; i < training->count; i++)
        count += training->rows[i] >= training->offset[begin] && training->rows[i] < training->offset[end] &&
                 training->labels[i] != LABEL_IGNORED;
    return (double)count;
}

/* Sequences begin..end-1 of `whole`, on the same pass. */
static void cut_part(struct small_training *part, const struct small_training *whole, size_t begin, size_t end,
                     uint32_t *offset, uint32_t *rows) {
    size_t at = whole->offset[begin], first = 0;
    for (size_t s = begin; s <= end; s++) offset[s - begin] = whole->offset[s] - whole->offset[begin];
    part->batch = (struct batch){.sequences = end - begin,
                                 .tokens = whole->offset[end] - at,
                                 .ids = whole->ids + at,
                                 .offset = offset,
                                 .token_types = whole->batch.token_types ? whole->types + at : NULL};
    part->count = 0;
    for (size_t i = 0; i < whole->count; i++) {
        if (whole->rows[i] < at) first++;
        else if (whole->rows[i] < whole->offset[end]) rows[part->count++] = whole->rows[i] - (uint32_t)at;
    }
    part->rows = rows;
    part->target = whole->target + (whole->kind->objective == SMALL_SIMILAR ? begin / 2 : begin);
    part->labels = whole->labels + (whole->kind->objective == SMALL_TOKENS ? first : begin);
    part->end = whole->end + begin;
}

/* The parts' gradients, each times its share, added up, are the whole's, dropout included. */
static void check_parts(const struct small_kind *kind) {
    static const size_t bounds[] = {0, 2, 4, 10, 14};
    struct small_training whole, part;
    struct pass_options options = with_dropout();
    uint32_t offset[COUNT(many) + 1], *rows;
    double sum = 0, largest = 0, worst = 0;
    small_training_open(&whole, kind, many, COUNT(many), 7);
    for (size_t s = 0; s < COUNT(many); s++) whole.labels[s] = kind->objective == SMALL_SPAN ? 1 : whole.labels[s];
    rows = room(whole.batch.tokens, sizeof *rows);
    size_t values = small_training_values(&whole);
    double loss = small_training_step(&whole, &options);
    float *expected = gradients_of(&whole);
    for (size_t i = 0; i + 1 < COUNT(bounds); i++) {
        part = whole;
        cut_part(&part, &whole, bounds[i], bounds[i + 1], offset, rows);
        options.add = i > 0;
        options.first_token = whole.offset[bounds[i]];
        options.first_sequence = bounds[i];
        options.scale = weight_of(&whole, bounds[i], bounds[i + 1]) / weight_of(&whole, 0, COUNT(many));
        sum += options.scale * small_training_step(&part, &options);
        whole.pass = part.pass;
    }
    float *got = gradients_of(&whole);
    for (size_t i = 0; i < values; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        worst = fmax(worst, fabs((double)expected[i] - (double)got[i]));
    }
    assert_true(fabs(sum - loss) < 1e-5 * fabs(loss));
    if (!(worst <= 1e-5 * largest)) fail_msg("%s: parts are off by %g of %g", kind->name, worst, largest);
    free(expected);
    free(got);
    free(rows);
    small_training_close(&whole);
}

static void test_parts(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_parts(&small_kinds[i]);
}

/* Gradients are cleared row by row between batches: nothing of another batch may stay. */
static void check_forgets(const struct small_kind *kind) {
    struct small_training training;
    struct pass_options options = with_dropout();
    small_training_open(&training, kind, short_ones, COUNT(short_ones), 8);
    small_training_step(&training, &options);
    float *first = gradients_of(&training);
    for (size_t t = 0; t < training.batch.tokens; t++) training.ids[t] = (training.ids[t] + 31) % 97;
    small_training_step(&training, &options);
    float *other = gradients_of(&training);
    assert_memory_not_equal(first, other, small_training_values(&training) * sizeof *first);
    for (size_t t = 0; t < training.batch.tokens; t++) training.ids[t] = (training.ids[t] + 97 - 31) % 97;
    small_training_step(&training, &options);
    must_equal(&training, first, "after another batch");
    free(first);
    free(other);
    small_training_close(&training);
}

static void test_forgets(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_forgets(&small_kinds[i]);
}

/* ---- token rows -------------------------------------------------------------------------------------------- */

/* The rows named are those with a gradient: what occurs without the padding id, or all under a tied head. */
static void check_token_rows(const struct small_kind *kind) {
    struct small_training training;
    struct pass_options options = with_dropout();
    const int32_t *ids;
    size_t count;
    small_training_open(&training, kind, short_ones, COUNT(short_ones), 9);
    const struct parameter *tokens = model_part(&training.model, PART_TOKENS)->weight;
    small_training_step(&training, &options);
    bool tied = kind->objective == SMALL_TOKENS && !kind->untied;
    assert_int_equal(pass_token_rows(&training.pass, &ids, &count), !tied);
    for (size_t row = 0; row < tokens->rows && !tied; row++) {
        bool occurs = false, named = false, moved = false;
        for (size_t t = 0; t < training.batch.tokens; t++)
            occurs |= training.ids[t] == (int32_t)row && training.ids[t] != training.model.config.pad_id;
        for (size_t i = 0; i < count; i++) named |= ids[i] == (int32_t)row;
        for (size_t c = 0; c < tokens->columns; c++) moved |= tokens->gradient[row * tokens->columns + c] != 0;
        assert_int_equal(named, occurs);
        assert_true(named || !moved);
    }
    for (size_t i = 1; i < count; i++) assert_true(ids[i - 1] < ids[i]);
    small_training_close(&training);
}

static void test_token_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_token_rows(&small_kinds[i]);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slopes),     cmocka_unit_test(test_slopes_of_other_losses),
        cmocka_unit_test(test_bits),       cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_parts),      cmocka_unit_test(test_forgets),
        cmocka_unit_test(test_token_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
