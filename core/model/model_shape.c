/* A model that is its sizes and formats alone: what techniques are asked about before any values exist.
 *
 * Values are there and are zero: memory that is only read takes none, so that sizes of any model are looked at for free
 * and no technique needs code of its own for models without values.
 */
#include <string.h>

#include "base/error.h"
#include "model/family.h"

int model_shape(struct model *model, const struct model_config *config) {
    return model_blank(model, config, arena_open_lazy);
}

void linear_shape_packed(struct linear *linear, const struct weight_format *format) {
    linear->value = NULL;
    linear->parameter = NULL;
    linear->weight = (struct weight){.format = format, .shape = {linear->rows, linear->columns, 0, true}};
}
