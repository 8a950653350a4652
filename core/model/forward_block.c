/* One block: attention, feed-forward layers, and the residual sums and norms around them, as the config says.
 *
 *   post-norm   x = norm(x + attention(x));  x = norm(x + feed(x))
 *   pre-norm    x = x + attention(norm(x));  x = x + feed(norm(x)), where y holds the norm already
 */
#include "model/forward.h"

#include "base/error.h"
#include "kernels/kernels.h"

/* ---- attention ---------------------------------------------------------------------------------------- */

static int forward_attention(struct forward *forward, const float *input) {
    int status = 0;
    const struct model *model = forward->model;
    static const enum part parts[] = {PART_QUERY, PART_KEY, PART_VALUE};
    const struct weight *weights[3];
    const float *biases[3];
    float *outputs[] = {forward->query, forward->key, forward->value};
    size_t T = forward->batch->tokens, D = model->config.head_width;
    struct attention attention = {.config = &model->config,
                                  .batch = forward->batch,
                                  .layer = forward->block,
                                  .rotary = forward->rotary,
                                  .query = forward->query,
                                  .key = forward->key,
                                  .value = forward->value,
                                  .query_stride = model->config.heads * D,
                                  .key_stride = model->config.key_value_heads * D,
                                  .context = forward->context,
                                  .scratch = forward->attention};

    for (size_t i = 0; i < 3; i++) {
        const struct linear *linear = block_part(model, forward->block, parts[i])->linear;
        if (forward->tap) forward->tap->input(forward->tap->context, linear, input, T);
        weights[i] = &linear->weight;
        biases[i] = linear->bias;
    }
    TRY(weight_matmul_shared(weights, biases, outputs, 3, T, input, &forward->workspace->scratch));
    attention_run(&attention);
    TRY(forward_multiply(forward, block_part(model, forward->block, PART_ATTENTION_OUTPUT)->linear, T, forward->context,
                         forward->y));
out:
    return status;
}

/* ---- feed-forward layers ------------------------------------------------------------------------------- */

static void activate_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    size_t F = forward->model->config.feed_forward, count = (end - begin) * F;
    float *up = forward->up + begin * F;
    (void)worker;
    switch (forward->model->config.activation) {
    case ACTIVATION_GELU_ERF: kernels.gelu(count, up, up); break;
    case ACTIVATION_GELU_TANH: kernels.gelu_tanh(count, up, up); break;
    case ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++) up[i] = up[i] > 0 ? up[i] : 0;
        break;
    case ACTIVATION_SILU_GATED: kernels.silu_gate(count, forward->gate + begin * F, up, up); break;
    }
}

static int forward_feed(struct forward *forward, const float *input) {
    int status = 0;
    const struct linear *up = block_part(forward->model, forward->block, PART_UP)->linear,
                        *gate = block_part(forward->model, forward->block, PART_GATE)->linear,
                        *down = block_part(forward->model, forward->block, PART_DOWN)->linear;
    size_t T = forward->batch->tokens;

    if (gate) {
        const struct weight *weights[] = {&gate->weight, &up->weight};
        const float *biases[] = {gate->bias, up->bias};
        float *outputs[] = {forward->gate, forward->up};
        if (forward->tap) forward->tap->input(forward->tap->context, gate, input, T);
        if (forward->tap) forward->tap->input(forward->tap->context, up, input, T);
        TRY(weight_matmul_shared(weights, biases, outputs, 2, T, input, &forward->workspace->scratch));
    } else {
        TRY(forward_multiply(forward, up, T, input, forward->up));
    }
    forward_run_items(forward, T, forward->model->config.feed_forward, activate_rows);
    TRY(forward_multiply(forward, down, T, forward->up, forward->y));
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
    const struct part_view *attention = block_part(forward->model, forward->block, PART_ATTENTION_NORM),
                           *feed = block_part(forward->model, forward->block, PART_FEED_FORWARD_NORM);
    bool first = forward->model->config.norm_first;
    const float *input = first ? forward->y : forward->x;

    TRY(forward_attention(forward, input));
    forward_residual(forward, first ? feed : attention, true);
    TRY(forward_feed(forward, input));
    forward_residual(forward, first ? norm_after(forward) : feed, true);
out:
    return status;
}
