/* A view of a model gives what its file gives, sees changed values when it is made anew, and leaves the model alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/family.h"
#include "scratch_file.h"
#include "small_model.h"

enum { SEQUENCES = 3, TOKENS = 9, CLASSES_MAX = 16 };

static void logits_of(struct model *model, float *logits) {
    static const int32_t ids[TOKENS] = {1, 7, 2, 1, 9, 11, 2, 1, 2};
    static const uint32_t offset[SEQUENCES + 1] = {0, 3, 7, 9};
    struct batch batch = {.sequences = SEQUENCES, .tokens = TOKENS, .ids = ids, .offset = offset};
    struct workspace workspace = {0};
    struct model_output output;
    assert_int_equal(model_prepare(model, GEMM_BUILTIN), 0);
    if (model_forward(model, &batch, NULL, &workspace, &output) < 0) fail_msg("%s", error_text());
    memcpy(logits, output.logits, SEQUENCES * model->config.classes * sizeof *logits);
    workspace_close(&workspace);
}

/* The logits of a view, and of the file that saving would give. */
static void check_view(const struct model *model) {
    struct model view, file;
    char path[128];
    float seen[SEQUENCES * CLASSES_MAX], expected[SEQUENCES * CLASSES_MAX];
    size_t bytes = SEQUENCES * model->config.classes * sizeof(float);
    scratch_file(path, ".safetensors", "");
    assert_int_equal(model_save(model, path, HEAD_CLASSIFICATION), 0);
    assert_int_equal(model_open(&file, path, false), 0);
    logits_of(&file, expected);
    if (model_view(&view, model, HEAD_CLASSIFICATION) < 0) fail_msg("%s", error_text());
    assert_int_equal(view.config.model_heads, HEAD_CLASSIFICATION);
    assert_null(model_part(&view, PART_HEAD_TRANSFORM)->linear);
    logits_of(&view, seen);
    assert_memory_equal(seen, expected, bytes);
    for (size_t i = 0; i < view.linear_count; i++)
        assert_int_equal(view.linears[i].simulated, file.linears[i].simulated);
    model_close(&view);
    model_close(&file);
    scratch_remove(path);
}

static struct model small(void) {
    struct model model;
    struct model_config config = small_config(HEAD_CLASSIFICATION | HEAD_MASKED_LM);
    if (model_create(&model, &config, 4, 0.3) < 0) fail_msg("%s", error_text());
    return model;
}

static void a_view_sees_the_values_of_now(void **state) {
    (void)state;
    struct model model = small();
    check_view(&model);
    for (size_t i = 0; i < model.parameter_count; i++)
        for (size_t k = 0; k < model.parameters[i].rows * model.parameters[i].columns; k++)
            model.parameters[i].value[k] *= 1.25f;
    check_view(&model);
    model_close(&model);
}

static void a_view_changes_nothing(void **state) {
    (void)state;
    struct model model = small(), view;
    float before[SEQUENCES * CLASSES_MAX], after[SEQUENCES * CLASSES_MAX], seen[SEQUENCES * CLASSES_MAX];
    assert_int_equal(model_gradients_open(&model, HEAD_CLASSIFICATION), 0);
    const float *gradient = model.parameters[0].gradient;
    size_t bytes = model.arena.used_bytes;
    void *values = malloc(bytes);
    assert_non_null(values);
    memcpy(values, model.arena.base, bytes);
    logits_of(&model, before);
    const void *panels = model.linears[0].weight.prepared;
    assert_int_equal(model_view(&view, &model, HEAD_CLASSIFICATION), 0);
    logits_of(&view, seen);
    assert_ptr_not_equal(view.linears[0].weight.prepared, panels);
    assert_ptr_equal(view.parameters[0].value, model.parameters[0].value);
    model_close(&view);
    assert_ptr_equal(model.linears[0].weight.prepared, panels);
    assert_ptr_equal(model.parameters[0].gradient, gradient);
    assert_memory_equal(values, model.arena.base, bytes);
    logits_of(&model, after);
    assert_memory_equal(before, after, SEQUENCES * model.config.classes * sizeof(float));
    free(values);
    model_close(&model);
}

static void packed_and_simulated_layers_are_seen(void **state) {
    (void)state;
    struct model model = small();
    const struct weight_format *format = weight_format_find("int8");
    struct linear *linear = &model.linears[0];
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
    grid.scale = calloc(linear->rows * grid.groups, sizeof *grid.scale);
    assert_non_null(grid.scale);
    assert_int_equal(weight_grid_minmax(format, &shape, linear->value, &grid), 0);
    assert_int_equal(linear_pack(&model, linear, format, 0, true, &grid), 0);
    model.linears[1].simulated = model.linears[1].weight.simulated = true;
    check_view(&model);
    free(grid.scale);
    model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_view_sees_the_values_of_now),
                                       cmocka_unit_test(a_view_changes_nothing),
                                       cmocka_unit_test(packed_and_simulated_layers_are_seen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
