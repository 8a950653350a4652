/* The list of what a run trains. */
#include "train/trainable.h"

#include "base/error.h"
#include "base/memory.h"
#include "model/family.h"

int trainables_open(struct trainables *trainables, const struct model *model, bool sparse_tokens,
                    const struct trainable *extra, size_t extra_count) {
    int status = 0;
    void *block;
    const struct parameter *tokens = model_part(model, PART_TOKENS)->weight;

    *trainables = (struct trainables){.tokens = SIZE_MAX};
    TRY(memory_take(&block, model->parameter_count + extra_count, sizeof *trainables->items));
    trainables->items = block;
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        if (!parameter->gradient) continue;
        if (parameter == tokens) trainables->tokens = trainables->count;
        trainables->items[trainables->count++] = (struct trainable){.name = parameter->name,
                                                                    .value = parameter->value,
                                                                    .gradient = parameter->gradient,
                                                                    .rows = parameter->rows,
                                                                    .columns = parameter->columns,
                                                                    .decay = parameter->kind != PARAMETER_VECTOR,
                                                                    .sparse = sparse_tokens && parameter == tokens};
    }
    for (size_t i = 0; i < extra_count; i++) trainables->items[trainables->count++] = extra[i];
out:
    return status;
}

void trainables_close(struct trainables *trainables) {
    memory_release(trainables->items);
    *trainables = (struct trainables){0};
}
