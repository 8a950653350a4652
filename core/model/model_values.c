/* Parameter values from tensors: mapped views, copies, slices of fused tensors, transposed matrices.
 *
 * Every tensor is found and its shape and type checked before memory is taken. Matrices of a model that nobody edits
 * stay in the file when they are not f32: their rows are decoded where they are needed. A value that is not finite is
 * refused by the tensor's name: it would spread through every result without a trace of where it came from.
 */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "io/file_map.h"

#define TILE_VALUES (64u << 10) /* f32 values of a tile: a quarter of a megabyte, for a second-level cache */

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
    bool vector = parameter->kind == PARAMETER_VECTOR;
    char expected[64];

    if (!dtype_is_real(tensor->dtype))
        FAIL(E_UNSUPPORTED, "tensor '%s' is %s, which is not supported (only F32, F16, BF16 and ggml's block types)",
             tensor->name, dtype_name(tensor->dtype));
    if ((vector || place->transposed) && !dtype_bytes(tensor->dtype))
        FAIL(E_UNSUPPORTED, "tensor '%s' is %s; only matrices may be in blocks", tensor->name,
             dtype_name(tensor->dtype));
    if (place->interleaved && (vector || place->transposed || place->interleaved % 2))
        FAIL(E_UNSUPPORTED, "tensor '%s': interleaved rotary pairs are not supported here", tensor->name);
    if (vector) {
        snprintf(expected, sizeof expected, "%zu", place->total);
        if (tensor->dimensions != 1 || tensor->shape[0] != place->total) status = shape_wrong(tensor, expected);
        goto out;
    }
    size_t shape[2] = {place->total, parameter->columns};
    if (place->transposed) shape[0] = parameter->columns, shape[1] = place->total;
    snprintf(expected, sizeof expected, "%zu,%zu", shape[0], shape[1]);
    /* ggml's own writer drops trailing dimensions of 1: one row is then a vector. */
    if (tensor->dimensions == 1 && shape[0] == 1 && tensor->shape[0] == shape[1] && !place->transposed) goto out;
    if (tensor->dimensions != 2 || tensor->shape[0] != shape[0] || tensor->shape[1] != shape[1])
        status = shape_wrong(tensor, expected);
out:
    return status;
}

/* Whether a mapped tensor can serve as the values themselves. */
static bool place_is_view(const struct value_place *place) {
    return place->tensor->dtype == DTYPE_F32 && !place->transposed && !place->interleaved &&
           (uintptr_t)place->tensor->data % sizeof(float) == 0;
}

/* Whether the values can stay in the mapped tensor until they are needed: matrices that are multiplied, and the token
 * embedding, which is read by rows. */
static bool place_is_rows(const struct model *model, const struct value_place *place,
                          const struct parameter *parameter) {
    return !place->transposed &&
           (parameter->kind == PARAMETER_MATRIX || parameter == model_part(model, PART_TOKENS)->weight);
}

void place_rows(const struct value_place *place, size_t begin, size_t end, float *out) {
    size_t columns = place->tensor->shape[place->tensor->dimensions - 1], D = place->interleaved;
    if (!D) {
        tensor_rows_to_f32(place->tensor, place->first + begin, place->first + end, out);
        return;
    }
    for (size_t row = begin; row < end; row++, out += columns) {
        size_t half = row % D / (D / 2), pair = row % D % (D / 2);
        size_t stored = place->first + row / D * D + 2 * pair + half;
        tensor_rows_to_f32(place->tensor, stored, stored + 1, out);
    }
}

/* The part of a plain tensor that holds `count` elements from element `first` on. */
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

bool values_finite(const float *value, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) { /* finite: an exponent that is not all ones */
        uint32_t bits;
        memcpy(&bits, &value[i], sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return !bad;
}

/* One matrix copied in tiles of rows, or looked through where it is there already. */
struct copying {
    const struct value_place *place;
    size_t columns;
    float *value;
    bool fill;
    int bad; /* some value is not finite */
};

static void copy_tile(void *context, size_t begin, size_t end, int worker) {
    struct copying *copying = context;
    float *out = copying->value + begin * copying->columns;
    (void)worker;
    if (copying->fill) place_rows(copying->place, begin, end, out);
    if (!values_finite(out, (end - begin) * copying->columns)) __atomic_store_n(&copying->bad, 1, __ATOMIC_RELAXED);
}

static int copy_transposed(const struct value_place *place, const struct parameter *parameter, float *value) {
    int status = 0;
    size_t rows = parameter->rows, columns = parameter->columns;
    void *line = NULL;
    TRY(memory_take(&line, rows, sizeof(float)));
    for (size_t n = 0; n < columns; n++) {
        struct tensor part = tensor_part(place->tensor, n * place->total + place->first, rows);
        TRY(tensor_to_f32(&part, line));
        for (size_t r = 0; r < rows; r++) value[r * columns + n] = ((float *)line)[r];
    }
out:
    memory_release(line);
    return status;
}

/* Values that are copied (`fill`) or mapped, checked to be finite. */
static int take_values(const struct value_place *place, const struct parameter *parameter, bool fill) {
    int status = 0;
    size_t rows = parameter->rows, columns = parameter->columns;
    struct copying copying = {place, columns, parameter->value, fill, 0};
    if (fill && parameter->kind == PARAMETER_VECTOR) {
        struct tensor part = tensor_part(place->tensor, place->first, columns);
        TRY(tensor_to_f32(&part, parameter->value));
        copying.fill = false;
    } else if (fill && place->transposed) {
        TRY(copy_transposed(place, parameter, parameter->value));
        copying.fill = false;
    }
    parallel_for(rows, TILE_VALUES / columns + 1, copy_tile, &copying);
    if (copying.bad) FAIL(E_NUMERIC, "tensor '%s' holds a value that is not finite", place->tensor->name);
out:
    return status;
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
    places.place = model->places = block;
    TRY(layout_walk(&model->config, place_visit, &places));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        const struct value_place *place = &places.place[i];
        size_t row = parameter->kind == PARAMETER_VECTOR ? 1 : parameter->columns;
        if (!editable && place_is_view(place)) /* read-only: editable is false */
            parameter->value = (float *)(uintptr_t)place->tensor->data + place->first * row;
        else if (!editable && place_is_rows(model, place, parameter)) parameter->place = place;
        else bytes += size_round_up(parameter->rows * parameter->columns * sizeof(float), MEMORY_ALIGN);
    }
    TRY(arena_open_raw(&model->arena, bytes));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        bool fill = !parameter->value;
        if (parameter->place) continue; /* looked at when it is prepared */
        if (fill) {
            TRY(arena_take(&model->arena, &block, parameter->rows * parameter->columns, sizeof(float)));
            parameter->value = block;
        }
        TRY(take_values(&places.place[i], parameter, fill));
    }
    /* All was copied: the file's pages would stay a second copy. */
    for (size_t i = 0; editable && i < model->parameter_count; i++)
        file_map_forget(places.place[i].tensor->data, places.place[i].tensor->bytes);
out:
    return status;
}
