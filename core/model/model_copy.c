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

/* What the original does not have, in heads of the copy alone, is filled by seed. */
static int copy_values(struct model *copy, const struct model *model, uint64_t seed, double deviation) {
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
        else parameter_fill(copy, parameter, seed, deviation);
    }
out:
    return status;
}

/* The layers that have no parameter in the original. */
static int copy_packed(struct model *copy, const struct model *model) {
    int status = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = model->linears[i].parameter ? NULL : model_linear_find(copy, model->linears[i].name);
        const struct weight *weight = &model->linears[i].weight;
        void *block = NULL;
        if (!linear) continue;
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

/* Into a copy that has its config. */
static int copy_all(struct model *copy, const struct model *model, const bool *unpack, uint64_t seed,
                    double deviation) {
    int status = 0;
    struct packed_entry *packed = NULL;
    size_t packed_count = 0;

    TRY(list_packed(model, unpack, &packed, &packed_count));
    TRY(model_layout(copy, packed, packed_count));
    TRY(copy_values(copy, model, seed, deviation));
    TRY(copy_packed(copy, model));
    model_bind(copy);
    for (size_t i = 0; i < model->metadata_count; i++)
        TRY(model_set_metadata(copy, model->metadata[i].key, model->metadata[i].value));
out:
    memory_release(packed);
    if (status < 0) model_close(copy);
    return status;
}

int model_copy(struct model *copy, const struct model *model, const bool *unpack) {
    *copy = (struct model){.config = model->config, .editable = true, .int8_attention = model->int8_attention};
    return copy_all(copy, model, unpack, 0, 0);
}

int model_copy_heads(struct model *copy, const struct model *model, unsigned heads, size_t classes, uint64_t seed,
                     double deviation) {
    *copy = (struct model){.config = model->config, .editable = true, .int8_attention = model->int8_attention};
    copy->config.model_heads = heads;
    if (heads & ~model->config.model_heads & HEAD_CLASSIFICATION) copy->config.classes = classes;
    int status = model_config_check(&copy->config);
    return status < 0 ? status : copy_all(copy, model, NULL, seed, deviation);
}
