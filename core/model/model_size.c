/* What a model weighs and what a forward pass over it costs. */
#include "model/family.h"
#include "model/forward.h"
#include "model/kv_cache.h"

#include <string.h>

void model_size(const struct model *model, struct model_size *size) {
    uint64_t weights = 0;
    memset(size, 0, sizeof *size);
    for (size_t i = 0; i < model->parameter_count; i++)
        size->total_bytes += model->parameters[i].rows * model->parameters[i].columns * sizeof(float);
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        uint64_t count = linear->rows * linear->columns;
        uint64_t bytes = linear->parameter ? count * sizeof(float) : linear->weight.packed_bytes;
        if (!linear->parameter) size->total_bytes += bytes;
        if (linear->block < 0) continue;
        weights += count;
        size->linear_bytes += bytes;
        size->linear_f32_bytes += count * sizeof(float);
    }
    if (weights) size->bits_per_weight = 8.0 * (double)size->linear_bytes / (double)weights;
}

/* Keys that a query sees whose sequence has t tokens so far, its own included. */
static uint64_t keys_seen(const struct model_config *config, uint64_t t) {
    return config->window && t > config->window ? config->window : t;
}

uint64_t model_attention_pairs(const struct model_config *config, const struct batch *batch, bool one_each) {
    uint64_t pairs = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        uint64_t t = batch->offset[i + 1] - batch->offset[i], start = 0, window = config->window;
        if (batch->cache) start = batch->cache->length[batch->slot ? batch->slot[i] : i];
        if (!config->causal) pairs += one_each ? t : t * t;
        else if (one_each) pairs += keys_seen(config, batch->read == READ_FIRST ? start + 1 : start + t);
        else if (!window || start + t <= window) pairs += t * start + t * (t + 1) / 2;
        else
            for (uint64_t j = start + 1; j <= start + t; j++) pairs += keys_seen(config, j);
    }
    return pairs;
}

uint64_t model_attention_work(const struct model_config *config, const struct batch *batch, bool some) {
    uint64_t pairs = model_attention_pairs(config, batch, false) * (config->layers - some);
    if (some) pairs += model_attention_pairs(config, batch, true);
    return 2 * pairs * config->heads * config->head_width;
}

/* In the last block only keys and values are of all tokens, where one of each sequence is read. */
static size_t rows_of(const struct model *model, const struct linear *linear, const struct batch *batch) {
    bool last = linear->block + 1 == (int)model->config.layers;
    bool all = batch->read == READ_ALL || forward_reads_late(model) || !last || linear->role == ROLE_KEY ||
               linear->role == ROLE_VALUE;
    return all ? batch->tokens : batch->sequences;
}

uint64_t model_multiply_adds(const struct model *model, const struct batch *batch) {
    const struct model_config *config = &model->config;
    uint64_t total = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        uint64_t count = linear->rows * linear->columns;
        if (linear->block >= 0) total += count * rows_of(model, linear, batch);
        else if (linear->role == ROLE_PROJECT_IN) total += count * batch->tokens;
        else if (linear->role == ROLE_SPAN) total += batch->read == READ_ALL ? count * batch->tokens : 0;
        else if (linear->role == ROLE_POOLER || linear->role == ROLE_CLASSIFIER)
            total += batch->read == READ_LAST ? 0 : count * batch->sequences;
    }
    return total + model_attention_work(config, batch, batch->read != READ_ALL && !forward_reads_late(model));
}
