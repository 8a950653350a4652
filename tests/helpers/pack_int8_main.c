/* pack_int8 MODEL OUT [attention]: write the artifact of a model whose linear layers in the blocks are int8, rounded to
 * nearest with one scale per row: what `rtn bits=8` makes, without an experiment around it; with `attention` its
 * products in 8 bits as well. `make bench-peers` times it. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/model.h"

static int pack(struct model *model, struct linear *linear, const struct weight_format *format) {
    int status = 0;
    struct weight_shape shape = {.rows = linear->rows, .columns = linear->columns, .symmetric = true};
    struct weight_grid grid = {.groups = weight_grid_groups(format, &shape)};
    TRY(memory_take((void **)&grid.scale, linear->rows * grid.groups, sizeof *grid.scale));
    TRY(weight_grid_minmax(format, &shape, linear->value, &grid));
    TRY(linear_pack(model, linear, format, shape.group, shape.symmetric, &grid));
out:
    memory_release(grid.scale);
    return status;
}

int main(int count, char **arguments) {
    int status = 0;
    struct model model = {0};
    bool attention = count == 4 && strcmp(arguments[3], "attention") == 0;
    if (count != 3 + attention) FAIL(E_ARGUMENT, "pack_int8_main MODEL OUT [attention]");
    TRY(model_open(&model, arguments[1], true));
    for (size_t i = 0; i < model.linear_count; i++)
        if (model.linears[i].block >= 0) TRY(pack(&model, &model.linears[i], weight_format_find("int8")));
    if (attention) TRY(model_set_int8_attention(&model));
    TRY(model_save(&model, arguments[2], model.config.model_heads));
out:
    if (status) fprintf(stderr, "pack_int8_main: %s\n", error_text());
    model_close(&model);
    return status != 0;
}
