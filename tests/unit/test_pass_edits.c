/* Layers that are not trained: frozen ones keep what their gradients hold, packed ones multiply the values that they
 * unpack to, and all others get the bits that they get anyway. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/kernels.h"
#include "small_training.h"

static const size_t lengths[] = {20, 24, 3, 24, 17, 24, 24, 9};
#define SEQUENCES (sizeof lengths / sizeof *lengths)
#define SENTINEL 7.5f

static const struct pass_options options = {.dropout = 0.1, .seed = 1, .scale = 1};

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

/* ---- frozen ------------------------------------------------------------------------------------------------ */

static void fill(struct parameter *parameter) {
    for (size_t i = 0; i < parameter->rows * parameter->columns; i++) parameter->gradient[i] = SENTINEL;
}

/* In the trained model all gradients; in the other, every third layer's are left alone. */
static void check_frozen(const struct small_kind *kind) {
    struct small_training trained, other;
    small_training_open(&trained, kind, lengths, SEQUENCES, 3);
    small_training_open(&other, kind, lengths, SEQUENCES, 3);
    size_t layers = other.model.linear_count;
    struct linear_edit *edits = room(layers, sizeof *edits);
    bool *frozen = room(other.model.parameter_count, sizeof *frozen);
    for (size_t i = 0; i < layers; i += 3) {
        const struct linear *linear = &other.model.linears[i];
        edits[i].frozen = true;
        frozen[linear->parameter - other.model.parameters] = true;
        if (linear->bias_parameter) frozen[linear->bias_parameter - other.model.parameters] = true;
    }
    pass_close(&other.pass);
    must(pass_open(&other.pass, &other.model, edits));
    for (size_t i = 0; i < other.model.parameter_count; i++)
        if (frozen[i]) fill(&other.model.parameters[i]);
    double loss = small_training_step(&trained, &options);
    assert_true(small_training_step(&other, &options) == loss);
    for (size_t i = 0; i < other.model.parameter_count; i++) {
        const struct parameter *a = &trained.model.parameters[i], *b = &other.model.parameters[i];
        size_t bytes = a->rows * a->columns * sizeof(float);
        if (!frozen[i]) assert_memory_equal(a->gradient, b->gradient, bytes);
        for (size_t j = 0; frozen[i] && j < a->rows * a->columns; j++)
            if (b->gradient[j] != SENTINEL) fail_msg("%s: %s is trained", kind->name, b->name);
    }
    free(edits);
    free(frozen);
    small_training_close(&trained);
    small_training_close(&other);
}

static void test_frozen(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_frozen(&small_kinds[i]);
}

/* Parameters without a gradient are left out; what is left gets the same bits. */
static void check_without_gradients(const struct small_kind *kind) {
    struct small_training trained, other;
    small_training_open(&trained, kind, lengths, SEQUENCES, 3);
    small_training_open(&other, kind, lengths, SEQUENCES, 3);
    for (size_t i = 0; i < other.model.parameter_count; i += 2) other.model.parameters[i].gradient = NULL;
    double loss = small_training_step(&trained, &options);
    assert_true(small_training_step(&other, &options) == loss);
    for (size_t i = 1; i < other.model.parameter_count; i += 2) {
        const struct parameter *a = &trained.model.parameters[i], *b = &other.model.parameters[i];
        const struct linear *of_bias = NULL;
        for (size_t j = 0; j < other.model.linear_count; j++)
            if (other.model.linears[j].bias_parameter == b) of_bias = &other.model.linears[j];
        if (of_bias && !of_bias->parameter->gradient) continue; /* a bias goes with its matrix */
        if (memcmp(a->gradient, b->gradient, a->rows * a->columns * sizeof(float)) != 0)
            fail_msg("%s: %s differs", kind->name, a->name);
    }
    small_training_close(&trained);
    small_training_close(&other);
}

static void test_without_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_without_gradients(&small_kinds[i]);
}

/* ---- packed ------------------------------------------------------------------------------------------------ */

/* Round every layer of the blocks of both models to int8; the second model holds the rounded values as f32. */
static void pack(struct model *packed, struct model *plain) {
    const struct weight_format *format = weight_format_find("int8");
    for (size_t i = 0; i < packed->linear_count; i++) {
        struct linear *linear = &packed->linears[i];
        struct weight_shape shape = {linear->rows, linear->columns, 0, true};
        struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
        if (linear->block < 0) continue;
        grid.scale = room(linear->rows * grid.groups, sizeof(float));
        must(weight_grid_minmax(format, &shape, linear->value, &grid));
        must(linear_pack(packed, linear, format, 0, true, &grid));
        must(format->unpack(&shape, linear->weight.packed, plain->linears[i].value));
        free(grid.scale);
    }
}

static void check_packed(const struct small_kind *kind) {
    struct small_training packed, plain;
    small_training_open(&packed, kind, lengths, SEQUENCES, 3);
    small_training_open(&plain, kind, lengths, SEQUENCES, 3);
    pass_close(&packed.pass);
    pack(&packed.model, &plain.model);
    must(pass_open(&packed.pass, &packed.model, NULL));
    double loss = small_training_step(&plain, &options);
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        struct pass_options again = options;
        again.checkpoint = checkpoint;
        assert_true(small_training_step(&packed, &again) == loss);
        for (size_t i = 0; i < packed.model.parameter_count; i++) {
            const struct parameter *a = &packed.model.parameters[i], *b = model_parameter(&plain.model, a->name);
            bool bias_of_packed = false;
            for (size_t j = 0; j < packed.model.linear_count; j++)
                bias_of_packed |= packed.model.linears[j].bias_parameter == a && !packed.model.linears[j].parameter;
            if (!bias_of_packed) assert_memory_equal(a->gradient, b->gradient, a->rows * a->columns * sizeof(float));
        }
    }
    small_training_close(&packed);
    small_training_close(&plain);
}

static void test_packed(void **state) {
    (void)state;
    for (size_t i = 0; i < small_kind_count; i++) check_packed(&small_kinds[i]);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_without_gradients),
        cmocka_unit_test(test_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
