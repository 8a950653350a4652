/* One block: attention, feed-forward layers, and the residual sums and norms around them, as the config says.
 *
 *   post-norm   x = norm(x + attention(x));  x = norm(x + feed(x))
 *   pre-norm    x = x + attention(norm(x));  x = x + feed(norm(x)), where y holds the norm already
 *
 * Where one token of each sequence is read, the last block goes on with those alone once it has keys and values of all;
 * or at its end, when a layer of it quantizes all tokens of a sequence to one grid.
 * Activations, sums and norms are done by the products, on blocks of tokens that are still in a cache.
 */
#include "model/forward.h"

#include <string.h>

#include "base/error.h"

/* ---- attention ---------------------------------------------------------------------------------------- */

bool forward_reads_late(const struct model *model) {
    for (size_t i = 0; i < model->linear_count; i++)
        if (model->linears[i].block + 1 == (int)model->config.layers &&
            activation_joins(&model->linears[i].weight.activation))
            return true;
    return false;
}

enum attention_arithmetic forward_arithmetic(const struct model *model, size_t block) {
    static const enum part parts[] = {PART_QUERY, PART_KEY, PART_VALUE};
    const struct model_config *config = &model->config;
    if (config->causal || config->heads != config->key_value_heads) return ATTENTION_F32;
    if (model->int8_attention) return ATTENTION_INT8;
    for (size_t i = 0; i < 3; i++)
        if (!weight_rounds_to_bf16(&block_part(model, block, parts[i])->linear->weight)) return ATTENTION_F32;
    return ATTENTION_BF16;
}

/* From here on x and y hold the rows that are read, one for each sequence. Tokens rise, so rows move forward only. */
static void keep_read(struct forward *forward) {
    size_t C = forward->model->config.width;
    for (size_t i = 0; i < forward->batch->sequences; i++) {
        memmove(forward->x + i * C, forward->x + forward->read[i] * C, C * sizeof(float));
        if (forward->model->config.norm_first)
            memmove(forward->y + i * C, forward->y + forward->read[i] * C, C * sizeof(float));
    }
    forward->T = forward->batch->sequences;
    forward->workspace->scratch.offset = NULL;
}

static int forward_attention(struct forward *forward, const float *input) {
    int status = 0;
    const struct model *model = forward->model;
    static const enum part parts[] = {PART_QUERY, PART_KEY, PART_VALUE};
    const struct weight *weights[3];
    const float *biases[3];
    float *outputs[] = {forward->query, forward->key, forward->value};
    bool narrow = forward->read && !forward->read_late && forward->block + 1 == model->config.layers;
    size_t T = forward->T, D = model->config.head_width, first = narrow ? 1 : 0;
    struct attention attention = {.config = &model->config,
                                  .batch = forward->batch,
                                  .layer = forward->block,
                                  .arithmetic = forward_arithmetic(model, forward->block),
                                  .rotary = forward->rotary,
                                  .query = forward->query,
                                  .key = forward->key,
                                  .value = forward->value,
                                  .query_stride = model->config.heads * D,
                                  .key_stride = model->config.key_value_heads * D,
                                  .read = narrow ? forward->read : NULL,
                                  .context = forward->context,
                                  .scratch = forward->attention};

    for (size_t i = 0; i < 3; i++) {
        const struct linear *linear = block_part(model, forward->block, parts[i])->linear;
        if (forward->tap && i >= first) forward->tap->input(forward->tap->context, linear, input, T);
        weights[i] = &linear->weight;
        biases[i] = linear->bias;
    }
    TRY(weight_matmul_shared(weights + first, biases + first, outputs + first, 3 - first, T, input,
                             &forward->workspace->scratch));
    if (narrow) {
        keep_read(forward);
        TRY(forward_multiply(forward, block_part(model, forward->block, PART_QUERY)->linear, forward->T, input,
                             forward->query));
    }
    attention_run(&attention);
out:
    return status;
}

/* ---- feed-forward layers ------------------------------------------------------------------------------- */

static const enum weight_activation activations[] = {
    [ACTIVATION_GELU_ERF] = WEIGHT_GELU,
    [ACTIVATION_GELU_TANH] = WEIGHT_GELU_TANH,
    [ACTIVATION_RELU] = WEIGHT_RELU,
    [ACTIVATION_SILU_GATED] = WEIGHT_SILU_GATE,
};

static int forward_feed(struct forward *forward, const float *input) {
    int status = 0;
    const struct linear *up = block_part(forward->model, forward->block, PART_UP)->linear,
                        *gate = block_part(forward->model, forward->block, PART_GATE)->linear;
    struct weight_epilogue epilogue = {.activation = activations[forward->model->config.activation]};
    const struct weight *weights[2];
    const float *biases[2];
    float *outputs[2];
    size_t T = forward->T, count = 0;

    if (gate) {
        if (forward->tap) forward->tap->input(forward->tap->context, gate, input, T);
        weights[count] = &gate->weight, biases[count] = gate->bias, outputs[count++] = forward->gate;
    }
    if (forward->tap) forward->tap->input(forward->tap->context, up, input, T);
    weights[count] = &up->weight, biases[count] = up->bias, outputs[count++] = forward->up;
    epilogue.next = &block_part(forward->model, forward->block, PART_DOWN)->linear->weight;
    epilogue.next_x = forward->up;
    TRY(weight_matmul_then(weights, biases, outputs, count, T, input, &epilogue, &forward->workspace->scratch));
out:
    return status;
}

/* ---- the block ----------------------------------------------------------------------------------------- */

/* What a pre-norm model norms after a block: the next one's input, or the last one's output. */
static const struct part_view *norm_after(const struct forward *forward) {
    const struct model *model = forward->model;
    if (forward->block + 1 < model->config.layers) return block_part(model, forward->block + 1, PART_ATTENTION_NORM);
    return model->config.final_norm ? model_part(model, PART_FINAL_NORM) : NULL;
}

int forward_block(struct forward *forward) {
    int status = 0;
    const struct model *model = forward->model;
    const struct part_view *attention = block_part(model, forward->block, PART_ATTENTION_NORM),
                           *feed = block_part(model, forward->block, PART_FEED_FORWARD_NORM);
    const struct linear *output = block_part(model, forward->block, PART_ATTENTION_OUTPUT)->linear,
                        *down = block_part(model, forward->block, PART_DOWN)->linear;
    bool first = model->config.norm_first;
    const float *input = first ? forward->y : forward->x;
    const struct linear *next = NULL;
    if (forward->block + 1 < model->config.layers)
        next =
            block_part(model, forward->block + 1, PART_VALUE)->linear; /* the last block may not ask for all queries */

    TRY(forward_attention(forward, input));
    TRY(forward_residual(forward, output, forward->context, first ? feed : attention,
                         block_part(model, forward->block, PART_UP)->linear));
    TRY(forward_feed(forward, input));
    TRY(forward_residual(forward, down, forward->up, first ? norm_after(forward) : feed, next));
    if (forward->read && forward->read_late && forward->block + 1 == model->config.layers) keep_read(forward);
out:
    return status;
}
