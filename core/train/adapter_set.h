/* Low-rank updates on chosen layers of a model, and their training: everything else of the model is frozen but, where
 * asked for, the task's own head, which has nothing to keep.
 */
#ifndef ADAPTER_SET_H
#define ADAPTER_SET_H

#include "model/linear_select.h"
#include "train/adapter.h"
#include "train/pass.h"
#include "train/train.h"

struct adapter_set {
    struct adapter *adapters;  /* [linear_count], zeroed where a layer has none */
    bool *adapted;             /* [linear_count] which layers have one */
    struct linear_edit *edits; /* [linear_count], as train_plan takes them */
    struct trainable *items;   /* [item_count] A and B of each */
    bool *frozen;              /* [parameter_count] */
    size_t linear_count, item_count;
};

/* Updates for the layers that `layers` and `skip` select, which must be in the blocks; packed ones may have one, too.
 * heads: enum model_head bits whose pooler, classifier and span layers learn as a whole. The model's parameters keep
 * their places until _close. E_UNSUPPORTED, E_ARGUMENT (rank), E_MEMORY. */
int adapter_set_open(struct adapter_set *set, const struct model *model, const struct option_names *layers,
                     const struct option_names *skip, const struct adapter_plan *plan, unsigned heads);
void adapter_set_close(struct adapter_set *set); /* accepts a zeroed one */

/* train_run with the updates: the plan's edits, frozen and extra are set here. What the host is asked to evaluate is a
 * copy with the updates merged, since a model without them is not what is being trained. */
int adapter_set_train(const struct adapter_set *set, struct model *model, const struct examples *examples,
                      const struct train_plan *plan, const struct train_host *host, struct train_result *result);

/* Values that are trained: of the updates, and of what else is not frozen. */
size_t adapter_set_values(const struct adapter_set *set, const struct model *model);

/* Every adapted layer's f32 values get their update; the model's layers are those that the set was opened for. */
void adapter_set_merge(const struct adapter_set *set, struct model *model);
/* A copy of the model, its adapted layers in f32 with their updates merged. E_MEMORY. */
int adapter_set_merged(const struct adapter_set *set, const struct model *model, struct model *merged);

#endif
