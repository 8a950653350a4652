/* A model seen through another one: the same values, prepared and run by itself.
 *
 * Scoring a model in the middle of its training must leave that model's buffers, panels and gradients alone, and a copy
 * of all values would double its memory. A view has tables of its own and borrows every value; preparing it makes
 * panels that belong to the view and go with it.
 */
#include "model/family.h"

#include <string.h>

#include "base/error.h"

/* Layers whose format, or promise, is not that of plain f32 values, as an artifact would list them. */
static int view_packed(const struct model *model, unsigned heads, struct packed_entry **entries, size_t *count) {
    int status = 0;
    void *block;
    *count = 0;
    TRY(memory_take(&block, model->linear_count, sizeof **entries));
    *entries = block;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        if ((linear->heads && !(linear->heads & heads)) || (linear->parameter && !linear->simulated)) continue;
        struct weight_shape shape = linear->weight.shape;
        if (linear->parameter) shape = (struct weight_shape){linear->rows, linear->columns, 0, true};
        (*entries)[(*count)++] = (struct packed_entry){
            .name = linear->name,
            .format = linear->parameter ? weight_format_find("f32") : linear->weight.format,
            .shape = shape,
            .simulated = linear->simulated,
        };
    }
out:
    return status;
}

int model_view(struct model *view, const struct model *model, unsigned heads) {
    int status = 0;
    struct packed_entry *packed = NULL;
    size_t packed_count = 0;

    memset(view, 0, sizeof *view);
    view->config = model->config;
    view->config.model_heads &= heads;
    view->int8_attention = model->int8_attention;
    TRY(view_packed(model, view->config.model_heads, &packed, &packed_count));
    TRY(model_layout(view, packed, packed_count));
    for (size_t i = 0; i < view->parameter_count; i++) {
        const struct parameter *parameter = model_parameter(model, view->parameters[i].name);
        if (!parameter) FAIL(E_STATE, "'%s' has no values to look at", view->parameters[i].name);
        view->parameters[i].value = parameter->value;
        view->parameters[i].place = parameter->place;
    }
    for (size_t i = 0; i < view->linear_count; i++) {
        struct linear *linear = &view->linears[i];
        if (linear->parameter) continue;
        for (size_t k = 0; k < model->linear_count; k++) {
            const struct weight *weight = &model->linears[k].weight;
            if (strcmp(model->linears[k].name, linear->name) != 0) continue;
            TRY(weight_view(&linear->weight, weight->format, &weight->shape, weight->packed, weight->packed_bytes));
            linear->weight.simulated = linear->simulated;
            linear->weight.activation = weight->activation;
        }
    }
    model_bind(view);
out:
    memory_release(packed);
    if (status < 0) model_close(view);
    return status;
}
