/* Passes with low-rank updates and with quantizers, for every kind of model: what changes nothing, gradients against
 * differences and against models that hold the changed values, and bits that depend on neither threads nor checkpoints.
 */
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
#include "train/adapter_set.h"
#include "train/fake_quant.h"

static const size_t lengths[] = {7, 12, 3, 9};
#define SEQUENCES (sizeof lengths / sizeof *lengths)

static const struct option_names none = {NULL, 0};

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
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

/* With gradients that hold nothing. */
static void reopen(struct small_training *training, const struct linear_edit *edits) {
    for (size_t i = 0; i < training->model.parameter_count; i++) {
        const struct parameter *parameter = &training->model.parameters[i];
        memset(parameter->gradient, 0, parameter->rows * parameter->columns * sizeof(float));
    }
    pass_close(&training->pass);
    must(pass_open(&training->pass, &training->model, edits));
}

/* ---- low-rank updates -------------------------------------------------------------------------------------- */

static void open_set(struct adapter_set *set, const struct small_training *training, double dropout, bool trained) {
    struct adapter_plan plan = {.rank = 3, .alpha = 4, .dropout = dropout, .seed = 9};
    must(adapter_set_open(set, &training->model, &none, &none, &plan, 0));
    for (size_t i = 0; i < set->linear_count; i++) {
        struct adapter *adapter = &set->adapters[i];
        set->edits[i].frozen = false; /* here the layers themselves have gradients as well */
        for (size_t j = 0; trained && set->adapted[i] && j < adapter->rows * adapter->rank; j++)
            adapter->b[j] = 0.3f * sinf((float)(j + 7 * i));
    }
}

/* B = 0: the loss and every gradient have the bits of the model without updates. */
static void check_start(const struct small_kind *kind) {
    struct small_training training;
    struct pass_options options = {.dropout = 0.1, .seed = 1, .scale = 1};
    struct adapter_set set;
    small_training_open(&training, kind, lengths, SEQUENCES, 3);
    double loss = small_training_step(&training, &options);
    float *plain = gradients_of(&training);
    open_set(&set, &training, 0, false);
    reopen(&training, set.edits);
    assert_true(small_training_step(&training, &options) == loss);
    float *with = gradients_of(&training);
    assert_memory_equal(plain, with, small_training_values(&training) * sizeof(float));
    free(plain), free(with);
    adapter_set_close(&set);
    small_training_close(&training);
}

static void test_start(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_start(&small_kinds[i]);
}

static void check_update_slopes(const struct small_kind *kind, double dropout) {
    struct small_training training;
    struct pass_options options = {.seed = 1, .scale = 1};
    struct adapter_set set;
    struct random random;
    double worst = 0, scale = 0;
    small_training_open(&training, kind, lengths, SEQUENCES, 5);
    open_set(&set, &training, dropout, true);
    reopen(&training, set.edits);
    small_training_step(&training, &options);
    random_open(&random, 1, 1);
    for (size_t i = 0; i < set.item_count; i++) {
        size_t at = (size_t)random_below(&random, set.items[i].rows * set.items[i].columns);
        double got = (double)set.items[i].gradient[at];
        double expected = small_training_slope(&training, &options, &set.items[i].value[at]);
        scale = fmax(scale, fabs(expected));
        worst = fmax(worst, fabs(expected - got));
    }
    assert_true(scale > 0.01);
    /* Losses are right to a millionth or so, and are a 256th apart. */
    if (!(worst <= (kind->kinks ? 1e-1 : 1e-3) * scale + 1e-4))
        fail_msg("%s: off by %g where the largest is %g", kind->name, worst, scale);
    adapter_set_close(&set);
    small_training_close(&training);
}

static void test_update_slopes(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        check_update_slopes(&small_kinds[i], i % 2 ? 0.2 : 0);
    }
}

/* What heads read, of the model with updates beside its layers and with updates merged. */
static void check_merged(const struct small_kind *kind) {
    struct small_training training;
    struct pass_options options = {.seed = 1, .scale = 1};
    struct adapter_set set;
    struct model merged;
    struct pass pass;
    double worst = 0, scale = 0;
    small_training_open(&training, kind, lengths, SEQUENCES, 3);
    open_set(&set, &training, 0, true);
    reopen(&training, set.edits);
    must(pass_forward(&training.pass, &training.batch, &options));
    must(adapter_set_merged(&set, &training.model, &merged));
    must(pass_open(&pass, &merged, NULL));
    must(pass_forward(&pass, &training.batch, &options));
    for (size_t i = 0; i < training.batch.tokens * merged.config.width; i++) {
        double beside = (double)pass_hidden(&training.pass)[i], inside = (double)pass_hidden(&pass)[i];
        worst = fmax(worst, fabs(beside - inside));
        scale = fmax(scale, fabs(inside));
    }
    if (!(worst <= 1e-4 * scale)) fail_msg("%s: %g of %g", kind->name, worst, scale);
    pass_close(&pass);
    model_close(&merged);
    adapter_set_close(&set);
    small_training_close(&training);
}

static void test_merged(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_merged(&small_kinds[i]);
}

/* Loss, and gradients of everything that learns, have the same bits at any number of threads, with checkpoints, and of
 * a batch that came in place of a longer one. */
static void check_same_bits(struct small_training *training, const struct trainable *items, size_t count,
                            struct pass_options options) {
    int before = threads_get();
    size_t values = small_training_values(training), extra = 0;
    for (size_t i = 0; i < count; i++) extra += items[i].rows * items[i].columns;
    threads_set(1);
    double loss = small_training_step(training, &options);
    float *first = gradients_of(training), *more = room(extra, sizeof *more), *at = more;
    for (size_t i = 0; i < count; at += items[i].rows * items[i].columns, i++)
        memcpy(at, items[i].gradient, items[i].rows * items[i].columns * sizeof *at);
    for (int variant = 0; variant < 3; variant++) {
        threads_set(variant + 1);
        options.checkpoint = variant == 2;
        assert_true(small_training_step(training, &options) == loss);
        float *again = gradients_of(training);
        assert_memory_equal(first, again, values * sizeof *again);
        free(again);
        at = more;
        for (size_t i = 0; i < count; at += items[i].rows * items[i].columns, i++)
            assert_memory_equal(at, items[i].gradient, items[i].rows * items[i].columns * sizeof *at);
    }
    threads_set(before);
    free(first), free(more);
}

static void test_update_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            static const size_t many[] = {20, 24, 3, 24, 17, 24, 24, 9, 24, 24};
            struct small_training training;
            struct adapter_set set;
            small_training_open(&training, &small_kinds[i], many, sizeof many / sizeof *many, 3);
            open_set(&set, &training, 0.1, true);
            reopen(&training, set.edits);
            check_same_bits(&training, set.items, set.item_count,
                            (struct pass_options){.dropout = 0.1, .seed = 1, .scale = 1, .bf16 = bf16});
            adapter_set_close(&set);
            small_training_close(&training);
        }
}

/* ---- quantizers -------------------------------------------------------------------------------------------- */

struct quantized {
    struct small_training training;
    struct fake_quant *fakes;
    struct linear_edit *edits;
    struct trainable *items;
    size_t count;
};

/* On the layers of the blocks that have a role in `roles` (bits), or all of them with ~0. */
static void open_quantized(struct quantized *all, const struct small_kind *kind, unsigned roles, const char *format,
                           enum fake_weights weights, enum fake_inputs inputs) {
    struct fake_quant_plan plan = {.format = weight_format_find(format),
                                   .group = strcmp(format, "int4") == 0 ? 32 : 0,
                                   .symmetric = true,
                                   .weights = weights,
                                   .inputs = inputs,
                                   .decay = 0.9};
    *all = (struct quantized){0};
    small_training_open(&all->training, kind, lengths, SEQUENCES, 3);
    struct model *model = &all->training.model;
    all->fakes = room(model->linear_count, sizeof *all->fakes);
    all->edits = room(model->linear_count, sizeof *all->edits);
    all->items = room(model->linear_count, sizeof *all->items);
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->block < 0 || !(roles >> linear->role & 1)) continue;
        must(fake_quant_open(&all->fakes[i], linear->name, &plan, linear->rows, linear->columns, linear->value));
        all->edits[i].fake = &all->fakes[i];
        all->count += fake_quant_trainable(&all->fakes[i], &all->items[all->count]);
    }
    reopen(&all->training, all->edits);
}

static void close_quantized(struct quantized *all) {
    for (size_t i = 0; i < all->training.model.linear_count; i++) fake_quant_close(&all->fakes[i]);
    free(all->fakes), free(all->edits), free(all->items);
    small_training_close(&all->training);
}

/* A gradient of one pass, or of two in which sums go on from the first one's. */
static void assert_passes(float got, float once, bool twice, float largest) {
    if (!twice) assert_true(got == once);
    else assert_true(fabsf(got - 2 * once) <= 1e-5f * largest);
}

static float largest_of(size_t count, const float *values) {
    float largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(values[i]));
    return largest;
}

/* Weights alone, inputs being left as they are or only observed: loss and gradients are those of a model that holds the
 * rounded weights, bit for bit; with learned steps what these gradients become is fake_quant_gradient's. */
static void check_rounded_weights(const struct small_kind *kind, enum fake_weights weights, enum fake_inputs inputs) {
    struct quantized all;
    struct small_training plain;
    struct pass_options options = {.dropout = 0.1, .seed = 1, .scale = 1};
    open_quantized(&all, kind, ~0u, "int4", weights, inputs);
    small_training_open(&plain, kind, lengths, SEQUENCES, 3);
    for (size_t i = 0; i < plain.model.linear_count; i++)
        if (all.edits[i].fake)
            fake_quant_rows(&all.fakes[i], all.training.model.linears[i].value, 0, plain.model.linears[i].rows,
                            plain.model.linears[i].value);
    for (int add = 0; add < 2; add++) {
        options.add = add;
        assert_true(small_training_step(&all.training, &options) == small_training_step(&plain, &options));
        options.add = false;
        for (size_t i = 0; !add && i < plain.model.parameter_count; i++) {
            const struct parameter *a = &plain.model.parameters[i], *b = &all.training.model.parameters[i];
            bool rounded = false;
            for (size_t l = 0; l < plain.model.linear_count; l++)
                rounded |= all.edits[l].fake && plain.model.linears[l].parameter == a;
            if (!rounded) assert_memory_equal(a->gradient, b->gradient, a->rows * a->columns * sizeof(float));
        }
        if (add) small_training_step(&plain, &options); /* of one pass; below it is added to itself */
        for (size_t i = 0; i < plain.model.linear_count; i++) {
            const struct linear *linear = &plain.model.linears[i], *own = &all.training.model.linears[i];
            size_t count = linear->rows * linear->columns;
            if (!all.edits[i].fake) continue;
            float *expected = room(count, sizeof *expected);
            memcpy(expected, linear->parameter->gradient, count * sizeof *expected);
            if (weights == FAKE_WEIGHTS_LSQ) {
                size_t steps = linear->rows * all.fakes[i].grid.groups;
                float *got = room(steps, sizeof *got);
                memcpy(got, all.fakes[i].dsize, steps * sizeof *got);
                fake_quant_gradient(&all.fakes[i], own->value, 0, linear->rows, expected, false, expected);
                for (size_t j = 0; j < steps; j++)
                    assert_passes(got[j], all.fakes[i].dsize[j], add, largest_of(steps, all.fakes[i].dsize));
                memcpy(all.fakes[i].dsize, got, steps * sizeof *got);
                free(got);
            }
            float largest = largest_of(count, expected);
            for (size_t j = 0; j < count; j++) assert_passes(own->parameter->gradient[j], expected[j], add, largest);
            free(expected);
        }
    }
    small_training_close(&plain);
    close_quantized(&all);
}

static void test_rounded_weights(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) {
        check_rounded_weights(&small_kinds[i], FAKE_WEIGHTS_ABSMAX, FAKE_INPUTS_EMA);
        check_rounded_weights(&small_kinds[i], FAKE_WEIGHTS_LSQ, FAKE_INPUTS_NONE);
    }
}

/* Gradients of weights by differences of whole grid steps: a weight on its int8 grid moves there and nowhere else,
 * while the rounded inputs of its layer stay. Only the layers of one role are quantized in one block, so that no other
 * input can tip over. The inputs are coarse, so that a gradient from the unrounded ones would show. */
static void check_grid_slopes(const struct small_kind *kind, enum linear_role role, enum fake_inputs inputs) {
    struct quantized all;
    struct pass_options options = {.step = 5, .seed = 1, .scale = 1};
    double worst = 0, largest = 0;
    open_quantized(&all, kind, 1u << role, "int8", FAKE_WEIGHTS_ABSMAX, inputs);
    struct model *model = &all.training.model;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!all.edits[i].fake) continue;
        if (linear->block != 1) {
            all.edits[i].fake = NULL;
            continue;
        }
        fake_quant_rows(&all.fakes[i], linear->value, 0, linear->rows, linear->value); /* onto the grid */
        if (inputs == FAKE_INPUTS_EMA) all.fakes[i].state[0] = 40;                     /* steps of a third */
    }
    reopen(&all.training, all.edits);
    small_training_step(&all.training, &options);
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (!all.edits[i].fake) continue;
        for (size_t k = 0; k < 5; k++) {
            size_t row = k * 5 % linear->rows, at = row * linear->columns + k * 11 % linear->columns;
            float kept = linear->value[at], step = 4 * all.fakes[i].grid.scale[row], reach = 0;
            for (size_t n = 0; n < linear->columns; n++)
                reach = fmaxf(reach, fabsf(linear->value[row * linear->columns + n]));
            if (fabsf(kept) + step >= reach) continue; /* it would change the grid */
            double got = (double)linear->parameter->gradient[at];
            linear->value[at] = kept + step;
            double above = small_training_loss(&all.training, &options);
            linear->value[at] = kept - step;
            double below = small_training_loss(&all.training, &options);
            linear->value[at] = kept;
            double expected = (above - below) / (2 * (double)step);
            worst = fmax(worst, fabs(expected - got));
            largest = fmax(largest, fabs(expected));
        }
    }
    assert_true(largest > 1e-3);
    if (!(worst <= 1e-2 * largest)) fail_msg("%s: off by %g where the largest is %g", kind->name, worst, largest);
    close_quantized(&all);
}

static void test_grid_slopes(void **state) {
    static const enum linear_role roles[] = {ROLE_QUERY, ROLE_KEY, ROLE_VALUE, ROLE_ATTENTION_OUTPUT,
                                             ROLE_UP,    ROLE_DOWN};
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        for (size_t r = 0; !small_kinds[i].kinks && r < sizeof roles / sizeof *roles; r++)
            check_grid_slopes(&small_kinds[i], roles[r], (i + r) % 2 ? FAKE_INPUTS_EMA : FAKE_INPUTS_DYNAMIC);
}

/* Inputs far beyond the average's range are clipped, and nothing flows back through them: of what lies only before the
 * down layer, nothing has a gradient. */
static void check_clipped(const struct small_kind *kind) {
    for (int clipped = 0; clipped < 2; clipped++) {
        struct quantized all;
        struct pass_options options = {.step = 5, .seed = 1, .scale = 1};
        double sum = 0;
        open_quantized(&all, kind, 1u << ROLE_DOWN, "int8", FAKE_WEIGHTS_ABSMAX, FAKE_INPUTS_EMA);
        struct model *model = &all.training.model;
        for (size_t i = 0; i < model->linear_count; i++)
            if (all.edits[i].fake) all.fakes[i].state[0] = clipped ? 1e-20f : 100;
        small_training_step(&all.training, &options);
        for (size_t i = 0; i < model->linear_count; i++) {
            const struct linear *linear = &model->linears[i];
            for (size_t j = 0; linear->role == ROLE_UP && j < linear->rows * linear->columns; j++)
                sum += fabs((double)linear->parameter->gradient[j]);
        }
        assert_true(clipped ? sum == 0 : sum > 0);
        close_quantized(&all);
    }
}

static void test_clipped(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        if (!small_kinds[i].kinks) check_clipped(&small_kinds[i]); /* ReLU has zeros, which are never clipped */
}

static void test_quantizer_bits(void **state) {
    static const enum fake_inputs inputs[] = {FAKE_INPUTS_NONE, FAKE_INPUTS_DYNAMIC, FAKE_INPUTS_EMA};
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++)
        for (size_t k = 0; k < 3; k++) {
            struct quantized all;
            struct pass_options options = {.dropout = 0.1, .seed = 1, .step = 5, .scale = 1};
            open_quantized(&all, &small_kinds[i], ~0u, "int4", FAKE_WEIGHTS_LSQ, inputs[k]);
            for (size_t j = 0; inputs[k] == FAKE_INPUTS_EMA && j < all.training.model.linear_count; j++)
                if (all.edits[j].fake) all.fakes[j].state[0] = 1;
            check_same_bits(&all.training, all.items, all.count, options);
            close_quantized(&all);
        }
}

/* ---- what cannot be edited --------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    struct small_training training;
    struct adapter_set set;
    struct fake_quant fake = {0};
    (void)state;
    small_training_open(&training, &small_kinds[0], lengths, SEQUENCES, 3);
    struct model *model = &training.model;
    open_set(&set, &training, 0, false);
    size_t outside = 0, inside = 0;
    while (model->linears[outside].block >= 0) outside++;
    while (model->linears[inside].block < 0) inside++;
    pass_close(&training.pass);
    set.edits[outside].adapter = set.edits[inside].adapter;
    assert_int_equal(pass_open(&training.pass, model, set.edits), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "outside the blocks"));
    set.edits[outside].adapter = NULL;
    set.edits[outside].fake = &fake;
    assert_int_equal(pass_open(&training.pass, model, set.edits), E_UNSUPPORTED);
    set.edits[outside].fake = NULL;
    reopen(&training, set.edits);
    adapter_set_close(&set);
    small_training_close(&training);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* so little work is done sooner by one */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),       cmocka_unit_test(test_update_slopes),   cmocka_unit_test(test_merged),
        cmocka_unit_test(test_update_bits), cmocka_unit_test(test_rounded_weights), cmocka_unit_test(test_grid_slopes),
        cmocka_unit_test(test_clipped),     cmocka_unit_test(test_quantizer_bits),  cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
