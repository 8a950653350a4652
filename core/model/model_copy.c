/* Copying a model in memory: the layout again from the config, then the values, so that nothing of the copy points into
 * the original. Layers that are packed stay so, their bytes copied, or become f32 values again where the caller asks.
 */
#include "model/family.h"

#include <string.h>

#include "base/error.h"

static bool stays_packed(const struct model *model, size_t linear, const bool *unpack) {
    return !model->linears[linear].parameter && !(unpack && unpack[linear]);
}

/* What model_layout must know beyond the config: packed layers, and f32 ones that promise a saving. */
static int list_packed(const struct model *model, const bool *unpack, struct packed_entry **entries, size_t *count) {
    int status = 0;
    void *block;
    TRY(memory_take(&block, model->linear_count, sizeof **entries));
    *entries = block;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        bool packed = stays_packed(model, i, unpack);
        if (!packed && !linear->simulated) continue;
        (*entries)[(*count)++] = (struct packed_entry){
            .name = linear->name,
            .format = packed ? linear->weight.format : weight_format_find("f32"),
            .shape = {linear->rows, linear->columns, linear->weight.shape.group, linear->weight.shape.symmetric},
            .simulated = linear->simulated};
    }
out:
    return status;
}

static int copy_values(struct model *copy, const struct model *model) {
    int status = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < copy->parameter_count; i++)
        bytes += size_round_up(copy->parameters[i].rows * copy->parameters[i].columns * sizeof(float), MEMORY_ALIGN);
    TRY(arena_open_raw(&copy->arena, bytes));
    for (size_t i = 0; i < copy->parameter_count; i++) {
        struct parameter *parameter = &copy->parameters[i];
        const struct parameter *from = model_parameter(model, parameter->name);
        void *view;
        TRY(arena_take(&copy->arena, &view, parameter->rows * parameter->columns, sizeof(float)));
        parameter->value = view;
        if (from) parameter_rows(from, 0, from->rows, parameter->value);
    }
out:
    return status;
}

/* The layers that have no parameter in the original. */
static int copy_packed(struct model *copy, const struct model *model) {
    int status = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &copy->linears[i];
        const struct weight *weight = &model->linears[i].weight;
        void *block = NULL;
        if (model->linears[i].parameter) continue;
        if (linear->parameter) {
            TRY(weight->format->unpack(&weight->shape, weight->packed, linear->parameter->value));
            continue;
        }
        TRY(memory_take_raw(&block, weight->packed_bytes, 1));
        memcpy(block, weight->packed, weight->packed_bytes);
        linear->weight = (struct weight){.format = weight->format,
                                         .shape = weight->shape,
                                         .packed = block,
                                         .packed_bytes = weight->packed_bytes,
                                         .owns_packed = true,
                                         .activation = weight->activation,
                                         .simulated = weight->simulated};
    }
out:
    return status;
}

int model_copy(struct model *copy, const struct model *model, const bool *unpack) {
    int status = 0;
    struct packed_entry *packed = NULL;
    size_t packed_count = 0;

    *copy = (struct model){.config = model->config, .editable = true, .int8_attention = model->int8_attention};
    TRY(list_packed(model, unpack, &packed, &packed_count));
    TRY(model_layout(copy, packed, packed_count));
    TRY(copy_values(copy, model));
    TRY(copy_packed(copy, model));
    model_bind(copy);
    for (size_t i = 0; i < model->metadata_count; i++)
        TRY(model_set_metadata(copy, model->metadata[i].key, model->metadata[i].value));
out:
    memory_release(packed);
    if (status < 0) model_close(copy);
    return status;
}
