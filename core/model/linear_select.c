/* Roles are compared whole, names by fnmatch, where * also matches dots. */
#include "model/linear_select.h"

#include <fnmatch.h>
#include <string.h>

#include "base/error.h"

static bool item_matches(const char *item, const struct linear *linear) {
    return strcmp(item, linear_role_name(linear->role)) == 0 || fnmatch(item, linear->name, 0) == 0;
}

static bool any_matches(const struct option_names *items, const struct linear *linear) {
    for (size_t i = 0; i < items->count; i++)
        if (item_matches(items->items[i], linear)) return true;
    return false;
}

bool linear_selected(const struct linear *linear, const struct option_names *layers, const struct option_names *skip) {
    bool wanted = layers->count == 0 ? linear->block >= 0 : any_matches(layers, linear);
    return wanted && !linear->aside && !any_matches(skip, linear);
}

/* edits: these are to be edited, so one that means nothing but layers set aside means none. */
static int items_check(const struct model *model, const struct option_names *items, const char *option, bool edits) {
    int status = 0;
    for (size_t i = 0; i < items->count; i++) {
        bool found = false;
        for (size_t l = 0; l < model->linear_count && !found; l++)
            found = !(edits && model->linears[l].aside) && item_matches(items->items[i], &model->linears[l]);
        if (!found)
            FAIL(E_UNSUPPORTED, "%s: '%s' is neither a role nor a pattern of a layer's name; a layer here: %s (%s)",
                 option, items->items[i], model->linear_count > 0 ? model->linears[0].name : "none",
                 model->linear_count > 0 ? linear_role_name(model->linears[0].role) : "none");
    }
out:
    return status;
}

int linear_selection_check_as(const struct model *model, const struct option_names *layers,
                              const struct option_names *skip, const char *skip_name) {
    int status = 0;
    TRY(items_check(model, layers, "layers", true));
    TRY(items_check(model, skip, skip_name, false));
    for (size_t l = 0; l < model->linear_count; l++)
        if (linear_selected(&model->linears[l], layers, skip)) return 0;
    FAIL(E_UNSUPPORTED, "layers and %s leave no layer to edit", skip_name);
out:
    return status;
}

int linear_selection_check(const struct model *model, const struct option_names *layers,
                           const struct option_names *skip) {
    return linear_selection_check_as(model, layers, skip, "skip");
}
