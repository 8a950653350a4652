/* One block in training, forward and backward side by side, on a shard of tokens.
 *
 *   post-norm   y = norm1(x + drop(attention(x)));  next x = norm2(y + drop(feed(y)))
 *   pre-norm    y = x + drop(attention(norm1(x)));  next x = y + drop(feed(norm2(y)))
 *
 * Each way has three steps: what comes before attention, attention by sequences and groups of heads, what comes after.
 * A shard of whole sequences takes all three in one go; where sequences are long, each step is a loop of its own, over
 * tiles of tokens or over sequences and groups.
 */
#include "train/pass.h"

#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/layers.h"

const struct linear *pass_layer(const struct pass *pass, size_t block, enum part part) {
    return block_part(pass->model, block, part)->linear;
}

/* ---- dropout, norms ------------------------------------------------------------------------------------ */

static size_t token_of(const struct shard *shard, size_t row) { return shard->token ? shard->token[row] : row; }

void pass_drop(const struct pass *pass, size_t site, const struct shard *shard, float *x, uint8_t *keep) {
    size_t C = pass->model->config.width, stride = size_round_up(C, 8);
    for (size_t t = 0; pass->options.dropout > 0 && t < shard->T; t++)
        dropout_forward(pass->options.seed, pass->stream[site],
                        (pass->options.first_token + token_of(shard, shard->at + t)) * stride, C, pass->options.dropout,
                        x + (shard->at + t) * C, keep + (shard->at + t) * C);
}

void pass_drop_back(const struct pass *pass, const struct shard *shard, const uint8_t *keep, const float *dy,
                    float *dx) {
    size_t C = pass->model->config.width, at = shard->at * C, count = shard->T * C;
    if (pass->options.dropout > 0) dropout_backward(count, pass->options.dropout, keep + at, dy + at, dx + at);
    else if (dx != dy) memcpy(dx + at, dy + at, count * sizeof *dx);
}

void pass_norm(const struct pass *pass, const struct part_view *norm, const struct shard *shard, const float *x,
               float *y, float *mean, float *rstd) {
    const struct model_config *config = &pass->model->config;
    size_t C = config->width, at = shard->at;
    if (config->norm == NORM_RMS)
        kernels.rms_norm(shard->T, C, x + at * C, norm->weight->value, config->norm_epsilon, y + at * C, rstd + at);
    else
        kernels.layer_norm(shard->T, C, x + at * C, norm->weight->value, norm->bias->value, config->norm_epsilon,
                           y + at * C, mean + at, rstd + at);
}

static float *norm_partial(const struct pass *pass, size_t index, size_t slot) {
    return pass->partial + (4 * index + 2 * slot) * pass->model->config.width;
}

void pass_norm_back(const struct pass *pass, const struct part_view *norm, size_t index, size_t slot,
                    const struct shard *shard, const float *x, const float *mean, const float *rstd, const float *dy,
                    float *dx) {
    const struct model_config *config = &pass->model->config;
    size_t C = config->width, at = shard->at;
    float *partial = norm_partial(pass, index, slot);
    memset(partial, 0, 2 * C * sizeof *partial);
    if (config->norm == NORM_RMS)
        rms_norm_backward(shard->T, C, x + at * C, rstd + at, norm->weight->value, dy + at * C, dx + at * C, partial);
    else
        norm_backward(shard->T, C, x + at * C, mean + at, rstd + at, norm->weight->value, dy + at * C, dx + at * C,
                      partial, partial + C);
}

static void collect(const struct pass *pass, float *gradient, size_t slot, size_t bias, size_t shards) {
    size_t C = pass->model->config.width;
    if (!pass->options.add) memset(gradient, 0, C * sizeof *gradient);
    for (size_t i = 0; i < shards; i++) kernels.add(C, norm_partial(pass, i, slot) + bias * C, gradient);
}

void pass_norm_gradients(struct pass *pass, const struct part_view *norm, size_t slot, size_t shards) {
    if (norm->weight->gradient) collect(pass, norm->weight->gradient, slot, 0, shards);
    if (norm->bias && norm->bias->gradient) collect(pass, norm->bias->gradient, slot, 1, shards);
}

/* ---- attention ----------------------------------------------------------------------------------------- */

void pass_attend(const struct pass *pass, size_t b, size_t sequence, size_t head, bool backward, int worker) {
    const struct model_config *config = &pass->model->config;
    const struct pass_block *block = &pass->block[b];
    bool single = pass->first && b + 1 == config->layers; /* query */
    size_t D = config->head_width, first = pass->batch->offset[sequence];
    struct attention_train attention = {.t = pass->batch->offset[sequence + 1] - first,
                                        .group = config->heads / config->key_value_heads,
                                        .D = D,
                                        .q_stride = config->heads * D,
                                        .k_stride = config->key_value_heads * D,
                                        .causal = config->causal,
                                        .window = config->window,
                                        .queries = single ? 1 : 0};
    size_t q = (single ? sequence : first) * attention.q_stride + head * attention.group * D,
           k = first * attention.k_stride + head * D;
    float *scratch = pass_scratch(pass, worker);
    if (!backward)
        attention_train_forward(&attention, block->query + q, block->key + k, block->value + k, block->context + q,
                                scratch);
    else
        attention_train_backward(&attention, block->query + q, block->key + k, block->value + k, block->context + q,
                                 pass->dcontext + q, pass->dquery + q, pass->dkey + k, pass->dvalue + k, NULL, scratch);
}

static void attend_shard(const struct pass *pass, size_t b, const struct shard *shard, bool backward) {
    for (size_t s = shard->sequence_begin; s < shard->sequence_end; s++)
        for (size_t head = 0; head < pass->model->config.key_value_heads; head++)
            pass_attend(pass, b, s, head, backward, shard->worker);
}

static void turn(const struct pass *pass, const struct shard *shard, bool backward, float *query, float *key) {
    const struct model_config *config = &pass->model->config;
    size_t D = config->head_width, A = config->heads * D, K = config->key_value_heads * D, at = shard->at;
    void (*rotate)(size_t, size_t, size_t, size_t, const float *, float *) =
        backward ? rotary_backward : rotary_forward;
    if (!pass->rotary) return;
    rotate(shard->T, config->heads, D, A, pass->rotary + at * D, query + at * A);
    rotate(shard->T, config->key_value_heads, D, K, pass->rotary + at * D, key + at * K);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void forward_before(const struct pass *pass, size_t b, const struct shard *shard) {
    const struct pass_block *block = &pass->block[b];
    const float *input = block->x;
    if (pass->model->config.norm_first) {
        pass_norm(pass, block_part(pass->model, b, PART_ATTENTION_NORM), shard, block->x, pass->attention_input,
                  block->mean1, block->rstd1);
        input = pass->attention_input;
    }
    pass_multiply(pass, pass_layer(pass, b, PART_QUERY), shard, input, block->query);
    pass_multiply(pass, pass_layer(pass, b, PART_KEY), shard, input, block->key);
    pass_multiply(pass, pass_layer(pass, b, PART_VALUE), shard, input, block->value);
    turn(pass, shard, false, block->query, block->key);
}

/* sum = x + drop(linear(input)). */
static void forward_residual(const struct pass *pass, const struct linear *linear, size_t site,
                             const struct shard *shard, const float *input, const float *x, float *sum, uint8_t *keep) {
    size_t C = pass->model->config.width;
    pass_multiply(pass, linear, shard, input, sum);
    pass_drop(pass, site, shard, sum, keep);
    kernels.add(shard->T * C, x + shard->at * C, sum + shard->at * C);
}

static void forward_active(const struct pass *pass, const struct pass_block *block, const struct shard *shard) {
    size_t F = pass->model->config.feed_forward, at = shard->at * F;
    activation_forward(pass->model->config.activation, shard->T * F, block->up + at,
                       block->gate ? block->gate + at : NULL, pass->active + at);
}

void pass_block_after(const struct pass *pass, size_t b, const struct shard *shard, const float *x, float *next) {
    const struct model *model = pass->model;
    const struct pass_block *block = &pass->block[b];
    const struct part_view *norm1 = block_part(model, b, PART_ATTENTION_NORM),
                           *norm2 = block_part(model, b, PART_FEED_FORWARD_NORM);
    bool first = model->config.norm_first;

    forward_residual(pass, pass_layer(pass, b, PART_ATTENTION_OUTPUT), 2 * b + 1, shard, block->context, x, block->sum1,
                     block->keep1);
    if (first) pass_norm(pass, norm2, shard, block->sum1, pass->feed_input, block->mean2, block->rstd2);
    else pass_norm(pass, norm1, shard, block->sum1, pass->feed_input, block->mean1, block->rstd1);
    if (block->gate) pass_multiply(pass, pass_layer(pass, b, PART_GATE), shard, pass->feed_input, block->gate);
    pass_multiply(pass, pass_layer(pass, b, PART_UP), shard, pass->feed_input, block->up);
    forward_active(pass, block, shard);
    forward_residual(pass, pass_layer(pass, b, PART_DOWN), 2 * b + 2, shard, pass->active,
                     first ? block->sum1 : pass->feed_input, first ? next : block->sum2, block->keep2);
    if (!first) pass_norm(pass, norm2, shard, block->sum2, next, block->mean2, block->rstd2);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

static float *wanted(const struct pass *pass, size_t index) { return pass->wanted[index] ? pass->want[index] : NULL; }

void pass_add_wanted(const struct pass *pass, size_t index, const struct shard *shard, size_t width, float *dx) {
    const float *gradient = wanted(pass, index);
    if (gradient) kernels.add(shard->T * width, gradient + shard->at * width, dx + shard->at * width);
}

/* From the gradient at the block's output to those at the down, up and gate layers' outputs; dx becomes the gradient at
 * the residual sum after attention, dcontext that at the attention's output. */
void pass_block_after_back(const struct pass *pass, size_t index, size_t b, const struct shard *shard, float *dx) {
    const struct model *model = pass->model;
    const struct pass_block *block = &pass->block[b];
    const struct part_view *norm1 = block_part(model, b, PART_ATTENTION_NORM),
                           *norm2 = block_part(model, b, PART_FEED_FORWARD_NORM);
    size_t at = shard->at, T = shard->T, C = model->config.width, F = model->config.feed_forward;
    bool first = model->config.norm_first;
    float *dinput = first ? pass->dnorm : dx;

    if (first) pass_norm(pass, norm2, shard, block->sum1, pass->feed_input, block->mean2, block->rstd2);
    else {
        pass_norm(pass, norm1, shard, block->sum1, pass->feed_input, block->mean1, block->rstd1);
        pass_norm_back(pass, norm2, index, 1, shard, block->sum2, block->mean2, block->rstd2, dx, dx);
    }
    pass_drop_back(pass, shard, block->keep2, dx, pass->ddown);
    forward_active(pass, block, shard);
    pass_multiply_back(pass, pass_layer(pass, b, PART_DOWN), shard, pass->ddown, pass->active, false, pass->dup);
    activation_backward(model->config.activation, T * F, block->up + at * F, block->gate ? block->gate + at * F : NULL,
                        pass->dup + at * F, pass->dup + at * F, block->gate ? pass->dgate + at * F : NULL);
    pass_multiply_back(pass, pass_layer(pass, b, PART_UP), shard, pass->dup, pass->feed_input, !first, dinput);
    if (block->gate)
        pass_multiply_back(pass, pass_layer(pass, b, PART_GATE), shard, pass->dgate, pass->feed_input, true, dinput);
    if (first) {
        pass_norm_back(pass, norm2, index, 1, shard, block->sum1, block->mean2, block->rstd2, dinput, dinput);
        kernels.add(T * C, dinput + at * C, dx + at * C);
    } else {
        pass_norm_back(pass, norm1, index, 0, shard, block->sum1, block->mean1, block->rstd1, dx, dx);
    }
    pass_drop_back(pass, shard, block->keep1, dx, pass->doutput);
    pass_multiply_back(pass, pass_layer(pass, b, PART_ATTENTION_OUTPUT), shard, pass->doutput, block->context, false,
                       pass->dcontext);
}

/* From the gradients at query, key and value to that at the block's input. */
static void backward_before(const struct pass *pass, size_t index, size_t b, const struct shard *shard) {
    const struct model *model = pass->model;
    const struct model_config *config = &model->config;
    const struct pass_block *block = &pass->block[b];
    const struct part_view *norm = block_part(model, b, PART_ATTENTION_NORM);
    size_t at = shard->at, T = shard->T, C = config->width, part = config->layers + 1 + 3 * b;
    size_t A = config->heads * config->head_width, K = config->key_value_heads * config->head_width;
    bool first = config->norm_first;
    float *dx = pass->dhidden, *dinput = first ? pass->dnorm : dx;
    const float *input = first ? pass->attention_input : block->x;

    pass_add_wanted(pass, part, shard, A, pass->dquery);
    pass_add_wanted(pass, part + 1, shard, K, pass->dkey);
    pass_add_wanted(pass, part + 2, shard, K, pass->dvalue);
    turn(pass, shard, true, pass->dquery, pass->dkey);
    if (first) pass_norm(pass, norm, shard, block->x, pass->attention_input, block->mean1, block->rstd1);
    pass_multiply_back(pass, pass_layer(pass, b, PART_QUERY), shard, pass->dquery, input, !first, dinput);
    pass_multiply_back(pass, pass_layer(pass, b, PART_KEY), shard, pass->dkey, input, true, dinput);
    pass_multiply_back(pass, pass_layer(pass, b, PART_VALUE), shard, pass->dvalue, input, true, dinput);
    if (!first) return;
    pass_norm_back(pass, norm, index, 0, shard, block->x, block->mean1, block->rstd1, dinput, dinput);
    kernels.add(T * C, dinput + at * C, dx + at * C);
}

/* ---- loops --------------------------------------------------------------------------------------------- */

static void forward_after(const struct pass *pass, const struct shard *shard) {
    pass_block_after(pass, pass->at_block, shard, pass->block[pass->at_block].x, pass->block[pass->at_block + 1].x);
}

static void before_shards(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        forward_before(pass, pass->at_block, &shard);
        if (pass->tiles) continue;
        attend_shard(pass, pass->at_block, &shard, false);
        forward_after(pass, &shard);
    }
}

static void after_shards(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        forward_after(pass, &shard);
    }
}

static void after_shards_back(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        pass_add_wanted(pass, pass->at_block + 1, &shard, pass->model->config.width, pass->dhidden);
        pass_block_after_back(pass, i, pass->at_block, &shard, pass->dhidden);
        if (pass->tiles) continue;
        attend_shard(pass, pass->at_block, &shard, true);
        backward_before(pass, i, pass->at_block, &shard);
    }
}

static void before_shards_back(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        backward_before(pass, i, pass->at_block, &shard);
    }
}

/* Items: each group of heads of each sequence. */
static void attend_items(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    size_t heads = pass->model->config.key_value_heads;
    for (size_t i = begin; i < end; i++) pass_attend(pass, pass->at_block, i / heads, i % heads, false, worker);
}

static void attend_items_back(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    size_t heads = pass->model->config.key_value_heads;
    for (size_t i = begin; i < end; i++) pass_attend(pass, pass->at_block, i / heads, i % heads, true, worker);
}

void pass_block_forward(struct pass *pass, size_t block) {
    size_t items = pass->batch->sequences * pass->model->config.key_value_heads;
    pass->at_block = block;
    pass_prepare_block(pass, block, PANELS_FORWARD);
    if (pass->first && block + 1 == pass->model->config.layers) {
        pass_first_forward(pass);
        return;
    }
    parallel_for(pass->shard_count, 1, before_shards, pass);
    if (!pass->tiles) return;
    parallel_for(items, 1, attend_items, pass);
    parallel_for(pass->shard_count, 1, after_shards, pass);
}

void pass_block_backward(struct pass *pass, size_t b) {
    const struct pass_block *block = &pass->block[b];
    size_t items = pass->batch->sequences * pass->model->config.key_value_heads;
    const float *input = pass->model->config.norm_first ? pass->attention_input : block->x;
    const struct linear_use uses[] = {
        {pass_layer(pass, b, PART_UP), pass->feed_input, pass->dup},
        {pass_layer(pass, b, PART_DOWN), pass->active, pass->ddown},
        {pass_layer(pass, b, PART_QUERY), input, pass->dquery},
        {pass_layer(pass, b, PART_KEY), input, pass->dkey},
        {pass_layer(pass, b, PART_VALUE), input, pass->dvalue},
        {pass_layer(pass, b, PART_ATTENTION_OUTPUT), block->context, pass->doutput},
        {pass_layer(pass, b, PART_GATE), pass->feed_input, pass->dgate},
    };
    size_t count = sizeof uses / sizeof *uses - (block->gate ? 0 : 1);

    pass->at_block = b;
    pass_prepare_block(pass, b, PANELS_BACKWARD);
    if (pass->first && b + 1 == pass->model->config.layers) {
        pass_first_backward(pass);
        return;
    }
    parallel_for(pass->shard_count, 1, after_shards_back, pass);
    if (pass->tiles) {
        parallel_for(items, 1, attend_items_back, pass);
        parallel_for(pass->shard_count, 1, before_shards_back, pass);
    }
    pass_weight_gradients(pass, pass->batch->tokens, uses, count, pass->options.add);
    pass_norm_gradients(pass, block_part(pass->model, b, PART_ATTENTION_NORM), 0, pass->shard_count);
    pass_norm_gradients(pass, block_part(pass->model, b, PART_FEED_FORWARD_NORM), 1, pass->shard_count);
}
