/* What a model weighs and what a forward pass over it costs. */
#include "model/family.h"
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

uint64_t model_attention_pairs(const struct model_config *config, const struct batch *batch) {
    uint64_t pairs = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        uint64_t t = batch->offset[i + 1] - batch->offset[i], start = 0, window = config->window;
        if (!config->causal) {
            pairs += t * t;
            continue;
        }
        if (batch->cache) start = batch->cache->length[batch->slot ? batch->slot[i] : i];
        if (!window || start + t <= window) {
            pairs += t * start + t * (t + 1) / 2;
            continue;
        }
        for (uint64_t j = start + 1; j <= start + t; j++) pairs += j < window ? j : window;
    }
    return pairs;
}

uint64_t model_multiply_adds(const struct model *model, const struct batch *batch) {
    const struct model_config *config = &model->config;
    uint64_t total = 0;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        uint64_t count = linear->rows * linear->columns;
        if (linear->block >= 0 || linear->role == ROLE_PROJECT_IN || linear->role == ROLE_SPAN)
            total += count * batch->tokens;
        else if (linear->role == ROLE_POOLER || linear->role == ROLE_CLASSIFIER) total += count * batch->sequences;
    }
    return total + 2 * model_attention_pairs(config, batch) * config->layers * config->heads * config->head_width;
}
