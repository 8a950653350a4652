/* The arrays that a training run takes for a model with low-rank updates. */
#include "train/adapter_set.h"

#include <string.h>

#include "base/error.h"

#define TASK_HEADS (HEAD_CLASSIFICATION | HEAD_POOLER | HEAD_SPAN) /* language-model heads came with the model */

static int take_all(struct adapter_set *set, const struct model *model) {
    int status = 0;
    void *block;
    TRY(memory_take(&block, model->linear_count, sizeof *set->adapters));
    set->adapters = block;
    TRY(memory_take(&block, model->linear_count, sizeof *set->edits));
    set->edits = block;
    TRY(memory_take(&block, 2 * model->linear_count, sizeof *set->items));
    set->items = block;
    TRY(memory_take(&block, model->linear_count, sizeof *set->adapted));
    set->adapted = block;
    TRY(memory_take(&block, model->parameter_count, sizeof *set->frozen));
    set->frozen = block;
    set->linear_count = model->linear_count;
out:
    return status;
}

int adapter_set_open(struct adapter_set *set, const struct model *model, const struct option_names *layers,
                     const struct option_names *skip, const struct adapter_plan *plan, unsigned heads) {
    int status = 0;
    *set = (struct adapter_set){0};
    TRY(take_all(set, model));
    memset(set->frozen, true, model->parameter_count * sizeof *set->frozen);
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        bool learns = linear->heads & heads & TASK_HEADS && linear->parameter;
        set->edits[i].frozen = !learns;
        if (learns) set->frozen[linear->parameter - model->parameters] = false;
        if (learns && linear->bias_parameter) set->frozen[linear->bias_parameter - model->parameters] = false;
        if (!linear_selected(linear, layers, skip)) continue;
        if (linear->block < 0)
            FAIL(E_UNSUPPORTED, "%s is outside the blocks: low-rank updates are for layers inside", linear->name);
        TRY(adapter_open(&set->adapters[i], linear->name, linear->rows, linear->columns, plan));
        set->edits[i].adapter = &set->adapters[i];
        set->adapted[i] = true;
        adapter_trainables(&set->adapters[i], set->items + set->item_count);
        set->item_count += 2;
    }
out:
    if (status < 0) adapter_set_close(set);
    return status;
}

void adapter_set_close(struct adapter_set *set) {
    for (size_t i = 0; i < set->linear_count; i++) adapter_close(&set->adapters[i]);
    memory_release(set->adapters);
    memory_release(set->edits);
    memory_release(set->items);
    memory_release(set->frozen);
    memory_release(set->adapted);
    *set = (struct adapter_set){0};
}

size_t adapter_set_values(const struct adapter_set *set, const struct model *model) {
    size_t values = 0;
    for (size_t i = 0; i < set->item_count; i++) values += set->items[i].rows * set->items[i].columns;
    for (size_t i = 0; i < model->parameter_count; i++)
        if (!set->frozen[i]) values += model->parameters[i].rows * model->parameters[i].columns;
    return values;
}

/* ---- training ----------------------------------------------------------------------------------------- */

struct watched {
    const struct adapter_set *set;
    const struct train_host *host;
};

static int watch_step(void *opaque, const struct train_progress *progress) {
    const struct watched *watched = opaque;
    return watched->host->step(watched->host->context, progress);
}

static int watch_evaluate(void *opaque, const struct model *model, double *score, bool *higher_is_better) {
    int status = 0;
    const struct watched *watched = opaque;
    struct model merged = {0};
    TRY(adapter_set_merged(watched->set, model, &merged));
    TRY(watched->host->evaluate(watched->host->context, &merged, score, higher_is_better));
out:
    model_close(&merged);
    return status;
}

int adapter_set_train(const struct adapter_set *set, struct model *model, const struct examples *examples,
                      const struct train_plan *plan, const struct train_host *host, struct train_result *result) {
    struct watched watched = {set, host};
    struct train_host own = {.context = &watched,
                             .step = host && host->step ? watch_step : NULL,
                             .evaluate = host && host->evaluate ? watch_evaluate : NULL};
    struct train_plan with = *plan;
    with.edits = set->edits;
    with.frozen = set->frozen;
    with.extra = set->items;
    with.extra_count = set->item_count;
    return train_run(model, examples, &with, &own, result);
}

/* ---- merging ------------------------------------------------------------------------------------------ */

void adapter_set_merge(const struct adapter_set *set, struct model *model) {
    for (size_t i = 0; i < set->linear_count; i++)
        if (set->adapted[i]) adapter_merge(&set->adapters[i], model->linears[i].value);
}

int adapter_set_merged(const struct adapter_set *set, const struct model *model, struct model *merged) {
    int status = model_copy(merged, model, set->adapted);
    if (status == 0) adapter_set_merge(set, merged);
    return status;
}
