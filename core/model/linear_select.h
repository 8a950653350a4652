/* Which linear layers a technique edits: the meaning of the options `layers` and `skip` everywhere.
 *
 * An item is a role ("query", "up"), or a glob over the layer's name ("*.layer.0.*"). No `layers` at all: every
 * linear layer of the blocks (not pooler and heads). `skip` is applied after that. Layers of a head that is set aside
 * (model_set_aside) are never meant.
 */
#ifndef LINEAR_SELECT_H
#define LINEAR_SELECT_H

#include "base/option.h"
#include "model/model.h"

bool linear_selected(const struct linear *linear, const struct option_names *layers, const struct option_names *skip);

/* 0 when every item matches a layer of the model and at least one layer is left; else E_UNSUPPORTED, naming the
 * item. A technique calls it in probe. */
int linear_selection_check(const struct model *model, const struct option_names *layers,
                           const struct option_names *skip);
/* The same where `skip` goes by another name ("keep"). */
int linear_selection_check_as(const struct model *model, const struct option_names *layers,
                              const struct option_names *skip, const char *skip_name);

#endif
