/* The last block of an encoder of which only first tokens are read: a classifier's pooled rows.
 *
 * Behind attention, the block works on one row per sequence, where whole blocks have a row per token: row r of query,
 * context, sums and the feed-forward layers belongs to the first token of sequence r. Keys and values are of every
 * token, and so is the gradient that runs on to the block before. What is dropped is drawn by the tokens' places, so
 * the rows are those of the whole block bit for bit.
 */
#include "train/pass.h"

#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"

#define TILE_ROWS 12 /* first tokens of one item: two tiles of a multiplication */

/* Edits see every row of a layer's input: running ranges, sums over tokens. */
static bool edited(const struct pass *pass, size_t block) {
    for (size_t i = 0; i < pass->model->linear_count; i++)
        if (pass->model->linears[i].block == (int)block && (pass->linear[i].edit.adapter || pass->linear[i].edit.fake))
            return true;
    return false;
}

bool pass_first_possible(const struct pass *pass) {
    const struct model_config *config = &pass->model->config;
    return pass->options.first && config->layers && !config->norm_first && !config->causal &&
           config->position != POSITION_ROTARY && !pass->hidden && !edited(pass, config->layers - 1);
}

/* An even number shares out evenly. */
size_t pass_first_tiles(size_t sequences) {
    size_t tiles = (sequences + TILE_ROWS - 1) / TILE_ROWS;
    return tiles > 1 && tiles % 2 ? tiles + 1 : tiles;
}

static struct shard tile_of(const struct pass *pass, size_t index, int worker) {
    size_t B = pass->batch->sequences, tiles = pass_first_tiles(B), begin = index * B / tiles;
    size_t end = (index + 1) * B / tiles;
    return (struct shard){.at = begin,
                          .T = end - begin,
                          .sequence_begin = begin,
                          .sequence_end = end,
                          .worker = worker,
                          .token = pass->batch->offset};
}

static void gather(const struct pass *pass, const struct shard *tile, const float *x, float *rows) {
    size_t C = pass->model->config.width;
    for (size_t r = tile->at; r < tile->at + tile->T; r++)
        memcpy(rows + r * C, x + tile->token[r] * C, C * sizeof *rows);
}

static void attend(const struct pass *pass, const struct shard *tile, bool backward) {
    for (size_t s = tile->sequence_begin; s < tile->sequence_end; s++)
        for (size_t head = 0; head < pass->model->config.key_value_heads; head++)
            pass_attend(pass, pass->at_block, s, head, backward, tile->worker);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void keys_and_values(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    const struct pass_block *block = &pass->block[pass->at_block];
    size_t C = pass->model->config.width;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        pass_multiply(pass, pass_layer(pass, pass->at_block, PART_KEY), &shard, block->x, block->key);
        pass_multiply(pass, pass_layer(pass, pass->at_block, PART_VALUE), &shard, block->x, block->value);
        memset(block[1].x + shard.at * C, 0, shard.T * C * sizeof(float));
    }
}

static void rows_forward(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    const struct pass_block *block = &pass->block[pass->at_block];
    size_t C = pass->model->config.width;
    for (size_t i = begin; i < end; i++) {
        struct shard tile = tile_of(pass, i, worker);
        gather(pass, &tile, block->x, pass->first_input);
        pass_multiply(pass, pass_layer(pass, pass->at_block, PART_QUERY), &tile, pass->first_input, block->query);
        attend(pass, &tile, false);
        pass_block_after(pass, pass->at_block, &tile, pass->first_input, pass->first_output);
        for (size_t r = tile.at; r < tile.at + tile.T; r++)
            memcpy(block[1].x + tile.token[r] * C, pass->first_output + r * C, C * sizeof(float));
    }
}

void pass_first_forward(struct pass *pass) {
    parallel_for(pass->shard_count, 1, keys_and_values, pass);
    parallel_for(pass_first_tiles(pass->batch->sequences), 1, rows_forward, pass);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

static void rows_backward(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    size_t C = pass->model->config.width;
    const float *wanted = pass->wanted[pass->at_block + 1] ? pass->want[pass->at_block + 1] : NULL;
    for (size_t i = begin; i < end; i++) {
        struct shard tile = tile_of(pass, i, worker);
        gather(pass, &tile, pass->dhidden, pass->first_gradient);
        for (size_t r = tile.at; wanted && r < tile.at + tile.T; r++)
            kernels.add(C, wanted + tile.token[r] * C, pass->first_gradient + r * C);
        pass_block_after_back(pass, i, pass->at_block, &tile, pass->first_gradient);
        attend(pass, &tile, true);
        pass_multiply_back(pass, pass_layer(pass, pass->at_block, PART_QUERY), &tile, pass->dquery, pass->first_input,
                           true, pass->first_gradient);
    }
}

/* To the gradient at every token of the block's input: what came through keys and values, and first tokens' own. */
static void tokens_backward(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    const struct model_config *config = &pass->model->config;
    const struct pass_block *block = &pass->block[pass->at_block];
    const uint32_t *offset = pass->batch->offset;
    size_t C = config->width, K = config->key_value_heads * config->head_width;
    size_t part = config->layers + 1 + 3 * pass->at_block;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        pass_add_wanted(pass, part + 1, &shard, K, pass->dkey);
        pass_add_wanted(pass, part + 2, &shard, K, pass->dvalue);
        pass_multiply_back(pass, pass_layer(pass, pass->at_block, PART_KEY), &shard, pass->dkey, block->x, false,
                           pass->dhidden);
        pass_multiply_back(pass, pass_layer(pass, pass->at_block, PART_VALUE), &shard, pass->dvalue, block->x, true,
                           pass->dhidden);
        for (size_t s = 0; s < pass->batch->sequences; s++)
            if (offset[s] >= shard.at && offset[s] < shard.at + shard.T)
                kernels.add(C, pass->first_gradient + s * C, pass->dhidden + offset[s] * C);
    }
}

void pass_first_backward(struct pass *pass) {
    size_t b = pass->at_block, B = pass->batch->sequences, tiles = pass_first_tiles(B);
    const struct pass_block *block = &pass->block[b];
    const struct linear_use of_tokens[] = {
        {pass_layer(pass, b, PART_KEY), block->x, pass->dkey},
        {pass_layer(pass, b, PART_VALUE), block->x, pass->dvalue},
    };
    const struct linear_use of_rows[] = {
        {pass_layer(pass, b, PART_UP), pass->feed_input, pass->dup},
        {pass_layer(pass, b, PART_DOWN), pass->active, pass->ddown},
        {pass_layer(pass, b, PART_QUERY), pass->first_input, pass->dquery},
        {pass_layer(pass, b, PART_ATTENTION_OUTPUT), block->context, pass->doutput},
        {pass_layer(pass, b, PART_GATE), pass->feed_input, pass->dgate},
    };
    size_t count = sizeof of_rows / sizeof *of_rows - (block->gate ? 0 : 1);
    parallel_for(tiles, 1, rows_backward, pass);
    parallel_for(pass->shard_count, 1, tokens_backward, pass);
    pass_weight_gradients(pass, pass->batch->tokens, of_tokens, sizeof of_tokens / sizeof *of_tokens,
                          pass->options.add);
    pass_weight_gradients(pass, B, of_rows, count, pass->options.add);
    pass_norm_gradients(pass, block_part(pass->model, b, PART_ATTENTION_NORM), 0, tiles);
    pass_norm_gradients(pass, block_part(pass->model, b, PART_FEED_FORWARD_NORM), 1, tiles);
}
