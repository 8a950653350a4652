/* Parameter values from tensors: mapped views, copies, slices of fused tensors, transposed matrices.
 *
 * Every tensor is found and its shape and type checked before memory is taken. A value that is not finite is
 * refused by the tensor's name: it would spread through every result without a trace of where it came from.
 */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

static int shape_wrong(const struct tensor *tensor, const char *expected) {
    char shape[128] = "";
    size_t length = 0;
    for (size_t i = 0; i < tensor->dimensions && length + 24 < sizeof shape; i++)
        length += (size_t)snprintf(shape + length, sizeof shape - length, "%s%zu", i ? "," : "", tensor->shape[i]);
    return error_record(E_SHAPE, __FILE__, __LINE__, "tensor '%s' has shape [%s] but the config says [%s]",
                        tensor->name, shape, expected);
}

static int place_check(const struct value_place *place, const struct parameter *parameter) {
    int status = 0;
    const struct tensor *tensor = place->tensor;
    char expected[64];

    if (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_F16 && tensor->dtype != DTYPE_BF16)
        FAIL(E_UNSUPPORTED, "tensor '%s' is %s (F32, F16 and BF16 are supported)", tensor->name,
             dtype_name(tensor->dtype));
    if (parameter->kind == PARAMETER_VECTOR) {
        snprintf(expected, sizeof expected, "%zu", place->total);
        if (tensor->dimensions != 1 || tensor->shape[0] != place->total) status = shape_wrong(tensor, expected);
        goto out;
    }
    size_t shape[2] = {place->total, parameter->columns};
    if (place->transposed) shape[0] = parameter->columns, shape[1] = place->total;
    snprintf(expected, sizeof expected, "%zu,%zu", shape[0], shape[1]);
    if (tensor->dimensions != 2 || tensor->shape[0] != shape[0] || tensor->shape[1] != shape[1])
        status = shape_wrong(tensor, expected);
out:
    return status;
}

/* Whether a mapped tensor can serve as the values themselves. */
static bool place_is_view(const struct value_place *place) {
    return place->tensor->dtype == DTYPE_F32 && !place->transposed &&
           (uintptr_t)place->tensor->data % sizeof(float) == 0;
}

/* The part of a tensor that holds `count` elements from element `first` on. */
static struct tensor tensor_part(const struct tensor *tensor, size_t first, size_t count) {
    struct tensor part = *tensor;
    size_t element_bytes = dtype_bytes(tensor->dtype);
    part.data = (const uint8_t *)tensor->data + first * element_bytes;
    part.count = count;
    part.bytes = count * element_bytes;
    part.dimensions = 1;
    part.shape[0] = count;
    return part;
}

static int copy_values(const struct value_place *place, const struct parameter *parameter, float *value) {
    int status = 0;
    size_t rows = parameter->rows, columns = parameter->columns;
    float *line = NULL;
    void *block;

    if (!place->transposed) {
        size_t row = parameter->kind == PARAMETER_VECTOR ? 1 : columns;
        struct tensor part = tensor_part(place->tensor, place->first * row, rows * columns);
        TRY(tensor_to_f32(&part, value));
        goto out;
    }
    TRY(memory_take(&block, rows, sizeof(float)));
    line = block;
    for (size_t n = 0; n < columns; n++) {
        struct tensor part = tensor_part(place->tensor, n * place->total + place->first, rows);
        TRY(tensor_to_f32(&part, line));
        for (size_t r = 0; r < rows; r++) value[r * columns + n] = line[r];
    }
out:
    memory_release(line);
    return status;
}

/* Finite means an exponent that is not all ones. */
static bool all_finite(const float *value, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &value[i], sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return !bad;
}

/* The places of all parameters, in their order. */
struct places {
    struct model *model;
    const struct value_source *source;
    struct value_place *place;
    size_t next;
};

static int place_visit(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct places *places = context;
    const struct parameter *parameter = &places->model->parameters[places->next];
    if (places->next == places->model->parameter_count || strcmp(parameter->name, entry->name) != 0)
        goto out; /* packed: it has no values */
    TRY(places->source->find(places->source->context, entry, &places->place[places->next]));
    TRY(place_check(&places->place[places->next], parameter));
    places->next++;
out:
    return status;
}

int model_read_values(struct model *model, const struct value_source *source, bool editable) {
    int status = 0;
    size_t bytes = 0;
    struct places places = {.model = model, .source = source};
    void *block;

    TRY(memory_take(&block, model->parameter_count, sizeof *places.place));
    places.place = block;
    TRY(layout_walk(&model->config, place_visit, &places));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        const struct value_place *place = &places.place[i];
        size_t row = parameter->kind == PARAMETER_VECTOR ? 1 : parameter->columns;
        if (!editable && place_is_view(place)) /* read-only: editable is false */
            parameter->value = (float *)(uintptr_t)place->tensor->data + place->first * row;
        else bytes += size_round_up(parameter->rows * parameter->columns * sizeof(float), MEMORY_ALIGN);
    }
    TRY(arena_open(&model->arena, bytes));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        size_t count = parameter->rows * parameter->columns;
        if (!parameter->value) {
            TRY(arena_take(&model->arena, &block, count, sizeof(float)));
            parameter->value = block;
            TRY(copy_values(&places.place[i], parameter, block));
        }
        if (!all_finite(parameter->value, count))
            FAIL(E_NUMERIC, "tensor '%s' holds a value that is not finite", places.place[i].tensor->name);
    }
out:
    memory_release(places.place);
    return status;
}
