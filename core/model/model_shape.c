/* A model that is its sizes and formats alone: what techniques are asked about before any values exist.
 *
 * Values are there and are zero: memory that is only read takes none, so that sizes of any model are looked at for free
 * and no technique needs code of its own for models without values.
 */
#include <string.h>

#include "base/error.h"
#include "model/family.h"

int model_shape(struct model *model, const struct model_config *config) {
    int status = 0;
    size_t bytes = 0;
    void *view;

    memset(model, 0, sizeof *model);
    TRY(model_config_check(config));
    model->config = *config;
    model->editable = true;
    TRY(model_layout(model, NULL, 0));
    for (size_t i = 0; i < model->parameter_count; i++)
        bytes += size_round_up(model->parameters[i].rows * model->parameters[i].columns * sizeof(float), MEMORY_ALIGN);
    TRY(arena_open_lazy(&model->arena, bytes));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        TRY(arena_take(&model->arena, &view, parameter->rows * parameter->columns, sizeof(float)));
        parameter->value = view;
    }
    model_bind(model);
out:
    if (status < 0) model_close(model);
    return status;
}

void linear_shape_packed(struct linear *linear, const struct weight_format *format) {
    linear->value = NULL;
    linear->parameter = NULL;
    linear->weight = (struct weight){.format = format, .shape = {linear->rows, linear->columns, 0, true}};
}
