/* The heads that read a whole pass: pooler and classifier over the first token, span logits over every token. The
 * language-model heads are in model_logits.c: their callers choose the tokens. */
#include "model/forward.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

static int forward_classes(struct forward *forward, const float *hidden, struct model_output *output) {
    int status = 0;
    const struct model *model = forward->model;
    const struct linear *pooler = model_part(model, PART_POOLER)->linear,
                        *classifier = model_part(model, PART_CLASSIFIER)->linear;
    bool relu = ((const struct parts *)model->family_state)->family->pooler_relu;
    size_t B = forward->batch->sequences, C = model->config.width;

    if (!pooler || forward->batch->read == READ_LAST) goto out;
    for (size_t i = 0; i < B; i++)
        memcpy(forward->first + i * C, hidden + (forward->read ? i : forward->batch->offset[i]) * C, C * sizeof(float));
    TRY(forward_multiply(forward, pooler, B, forward->first, forward->pooled));
    for (size_t i = 0; i < B * C; i++)
        forward->pooled[i] = relu ? fmaxf(forward->pooled[i], 0) : tanhf(forward->pooled[i]);
    output->pooled = forward->pooled;
    if (!classifier) goto out;
    TRY(forward_multiply(forward, classifier, B, forward->pooled, forward->logits));
    output->logits = forward->logits;
out:
    return status;
}

int forward_heads(struct forward *forward, struct model_output *output) {
    int status = 0;
    const struct linear *span = model_part(forward->model, PART_SPAN)->linear;

    TRY(forward_classes(forward, output->hidden, output));
    if (!span || forward->batch->read != READ_ALL) goto out;
    TRY(forward_multiply(forward, span, forward->batch->tokens, output->hidden, forward->span));
    output->span = forward->span;
out:
    return status;
}
