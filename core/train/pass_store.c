/* What a pass keeps: one arena, cut anew when a batch outgrows it, and how a batch is cut into shards.
 *
 * A block keeps what its backward pass cannot cheaply make again; checkpointing, the blocks' views fall on one place,
 * but for their inputs. Gradients at the outputs of linear layers lie in one place for all blocks in either case.
 */
#include "train/pass.h"

#include "base/error.h"
#include "base/threads.h"
#include "model/layers.h"
#include "train/products.h"

#define SHARD_TOKENS 112 /* enough rows for a multiplication to run near its peak; measured at width 256 */
#define WHOLE_TOKENS 256 /* sequences up to this length go through a block in one piece */

void *pass_cut(struct arena *arena, size_t count, size_t size) {
    uintptr_t at = (uintptr_t)arena->base + arena->used_bytes;
    arena->used_bytes += size_round_up(count * size, MEMORY_ALIGN);
    return (void *)at;
}

float *pass_cut_floats(struct arena *arena, size_t count) { return pass_cut(arena, count, sizeof(float)); }

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* ---- shards -------------------------------------------------------------------------------------------- */

static size_t shards_of(size_t tokens, size_t sequences, size_t longest) {
    size_t shards = (tokens + SHARD_TOKENS / 2) / SHARD_TOKENS;
    if (longest > WHOLE_TOKENS) return (tokens + SHARD_TOKENS - 1) / SHARD_TOKENS;
    if (shards > 1 && shards % 2) shards++; /* an even number shares out evenly */
    return max_size(1, shards < sequences ? shards : sequences);
}

/* Shards end at the first sequence that reaches their share of the tokens; tiles are alike but for the last. */
void pass_cut_shards(struct pass *pass, size_t longest) {
    const struct batch *batch = pass->batch;
    size_t shards = shards_of(batch->tokens, batch->sequences, longest), count = 0, s = 0;
    pass->tiles = longest > WHOLE_TOKENS;
    pass->shard_count = shards;
    if (pass->tiles) return;
    for (size_t i = 0; i < shards && s < batch->sequences; i++) {
        pass->bound[count++] = (uint32_t)s;
        do s++;
        while (s < batch->sequences && (size_t)batch->offset[s] * shards < batch->tokens * (i + 1));
    }
    pass->bound[count] = (uint32_t)batch->sequences;
    pass->shard_count = count;
}

struct shard pass_shard(const struct pass *pass, size_t index, int worker) {
    struct shard shard = {.at = index * SHARD_TOKENS, .worker = worker};
    if (pass->tiles) {
        size_t left = pass->batch->tokens - shard.at;
        shard.T = left < SHARD_TOKENS ? left : SHARD_TOKENS;
        return shard;
    }
    shard.sequence_begin = pass->bound[index];
    shard.sequence_end = pass->bound[index + 1];
    shard.at = pass->batch->offset[shard.sequence_begin];
    shard.T = pass->batch->offset[shard.sequence_end] - shard.at;
    return shard;
}

/* ---- the arena ----------------------------------------------------------------------------------------- */

static void cut_block(struct pass *pass, struct arena *arena, struct pass_block *block) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->tokens_max, C = config->width, F = config->feed_forward;
    size_t A = config->heads * config->head_width, K = config->key_value_heads * config->head_width;
    block->query = pass_cut_floats(arena, T * A);
    block->key = pass_cut_floats(arena, T * K);
    block->value = pass_cut_floats(arena, T * K);
    block->context = pass_cut_floats(arena, T * A);
    block->sum1 = pass_cut_floats(arena, T * C);
    block->sum2 = config->norm_first ? NULL : pass_cut_floats(arena, T * C);
    block->up = pass_cut_floats(arena, T * F);
    block->gate = config->activation == ACTIVATION_SILU_GATED ? pass_cut_floats(arena, T * F) : NULL;
    block->mean1 = config->norm == NORM_LAYER ? pass_cut_floats(arena, T) : NULL;
    block->mean2 = config->norm == NORM_LAYER ? pass_cut_floats(arena, T) : NULL;
    block->rstd1 = pass_cut_floats(arena, T);
    block->rstd2 = pass_cut_floats(arena, T);
    block->keep1 = pass_cut(arena, T * C, 1);
    block->keep2 = pass_cut(arena, T * C, 1);
}

static void cut_ends(struct pass *pass, struct arena *arena) {
    const struct model *model = pass->model;
    size_t T = pass->tokens_max, C = model->config.width, E = config_embedding_width(&model->config);
    bool layer = model->config.norm == NORM_LAYER, projected = model_part(model, PART_PROJECT_IN)->linear;
    bool norm0 = model_part(model, PART_EMBEDDING_NORM)->weight, final = model_part(model, PART_FINAL_NORM)->weight;
    pass->embedded = projected ? pass_cut_floats(arena, T * E) : NULL;
    pass->dembedded = projected ? pass_cut_floats(arena, T * E) : NULL;
    pass->sum0 = norm0 ? pass_cut_floats(arena, T * C) : NULL;
    pass->mean0 = norm0 && layer ? pass_cut_floats(arena, T) : NULL;
    pass->rstd0 = norm0 ? pass_cut_floats(arena, T) : NULL;
    pass->keep0 = pass_cut(arena, T * C, 1);
    pass->hidden = final ? pass_cut_floats(arena, T * C) : NULL;
    pass->mean_final = final && layer ? pass_cut_floats(arena, T) : NULL;
    pass->rstd_final = final ? pass_cut_floats(arena, T) : NULL;
    pass->dhidden = pass_cut_floats(arena, T * C);
}

static void cut_work(struct pass *pass, struct arena *arena) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->tokens_max, C = config->width, F = config->feed_forward;
    size_t A = config->heads * config->head_width, K = config->key_value_heads * config->head_width;
    pass->attention_input = config->norm_first ? pass_cut_floats(arena, T * C) : NULL;
    pass->feed_input = pass_cut_floats(arena, T * C);
    pass->active = pass_cut_floats(arena, T * F);
    pass->dquery = pass_cut_floats(arena, T * A);
    pass->dkey = pass_cut_floats(arena, T * K);
    pass->dvalue = pass_cut_floats(arena, T * K);
    pass->dcontext = pass_cut_floats(arena, T * A);
    pass->doutput = pass_cut_floats(arena, T * C);
    pass->dup = pass_cut_floats(arena, T * F);
    pass->dgate = config->activation == ACTIVATION_SILU_GATED ? pass_cut_floats(arena, T * F) : NULL;
    pass->ddown = pass_cut_floats(arena, T * C);
    pass->dnorm = config->norm_first ? pass_cut_floats(arena, T * C) : NULL;
    pass->first_input = pass_cut_floats(arena, pass->sequences_max * C);
    pass->first_output = pass_cut_floats(arena, pass->sequences_max * C);
    pass->first_gradient = pass_cut_floats(arena, pass->sequences_max * C);
}

/* Room for the panels of any block, for values that its layers do not hold, for a rounded input or one in bf16, and for
 * the panels of any layer outside but the language-model head, whose panels are made tile by tile. */
static void cut_matrices(struct pass *pass, struct arena *arena) {
    const struct model *model = pass->model;
    size_t panels = 0, values = 0, own = 0, rounded = 0, input = 0, block_panels = 0, block_values = 0;
    int block = -1;
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        size_t count = linear->rows * linear->columns;
        if (pass->bf16_cut && linear->role != ROLE_HEAD)
            input = max_size(input, panels_backward_bf16_count(pass->tokens_max, linear->columns));
        if (linear->block != block) block = linear->block, block_panels = block_values = 0;
        if (linear->block < 0) {
            if (linear->role != ROLE_HEAD) own = max_size(own, pass_panel_floats(linear));
            if (!linear->value) values = max_size(values, count);
            continue;
        }
        block_panels += pass_panel_floats(linear);
        if (pass_makes_values(pass, linear)) block_values += size_round_up(count, MEMORY_ALIGN / sizeof(float));
        if (pass->linear[i].edit.fake) rounded = max_size(rounded, linear->columns);
        panels = max_size(panels, block_panels);
        values = max_size(values, block_values);
    }
    pass->panels = pass_cut_floats(arena, panels);
    pass->values = pass_cut_floats(arena, values);
    pass->own_panels = pass_cut_floats(arena, own);
    pass->rounded = pass_cut_floats(arena, pass->tokens_max * rounded);
    pass->input_panels = pass_cut(arena, input, sizeof(uint16_t));
}

/* Scratch of one worker: attention over the longest sequence, or one tile of a weight gradient. */
static size_t scratch_floats(const struct pass *pass) {
    const struct model *model = pass->model;
    const struct model_config *config = &model->config;
    struct attention_train attention = {.t = pass->longest_max,
                                        .group = config->heads / config->key_value_heads,
                                        .D = config->head_width,
                                        .q_stride = config->heads * config->head_width,
                                        .k_stride = config->key_value_heads * config->head_width};
    size_t most = attention_train_scratch(&attention), whole = pass->longest_max;
    /* A shard of whole sequences ends with the one that reaches its share, at most half as large again as a tile or, of
     * few sequences, as long as they are. */
    if (whole > WHOLE_TOKENS) whole = WHOLE_TOKENS;
    size_t shard = max_size(SHARD_TOKENS + SHARD_TOKENS / 2, whole) + whole;
    for (size_t i = 0; i < model->linear_count; i++)
        most = max_size(most, pass_linear_scratch(pass, &model->linears[i], shard, pass->tokens_max));
    return size_round_up(most, MEMORY_ALIGN / sizeof(float));
}

static void cut_all(struct pass *pass, struct arena *arena) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->tokens_max, C = config->width, L = config->layers, kept = 0;
    arena->used_bytes = 0;
    pass->position = pass_cut(arena, T, sizeof *pass->position);
    pass->rotary = config->position == POSITION_ROTARY ? pass_cut_floats(arena, T * config->head_width) : NULL;
    pass->bound = pass_cut(arena, pass->shards_max + 1, sizeof *pass->bound);
    pass->token_order = pass_cut(arena, T, sizeof *pass->token_order);
    cut_ends(pass, arena);
    cut_work(pass, arena);
    cut_matrices(pass, arena);
    pass->partial = pass_cut_floats(arena, pass->shards_max * 4 * C);
    pass->scratch = pass_cut_floats(arena, pass->worker_count * pass->scratch_floats);
    for (size_t i = 0; i <= L; i++) pass->block[i].x = pass_cut_floats(arena, T * C);
    for (size_t i = 0; i < L; i++) {
        size_t before = arena->used_bytes;
        cut_block(pass, arena, &pass->block[i]);
        kept = max_size(kept, arena->used_bytes);
        if (pass->checkpoint_cut) arena->used_bytes = before;
    }
    arena->used_bytes = kept;
}

int pass_reserve(struct pass *pass, const struct batch *batch, size_t longest, const struct pass_options *options) {
    int status = 0;
    struct arena measure = {0};
    size_t workers = (size_t)threads_get(), B = batch->sequences;
    size_t shards = max_size(shards_of(batch->tokens, B, longest), pass_first_tiles(B));

    if (pass->arena.base && batch->tokens <= pass->tokens_max && longest <= pass->longest_max &&
        workers <= pass->worker_count && shards <= pass->shards_max && B <= pass->sequences_max &&
        options->checkpoint == pass->checkpoint_cut && options->bf16 <= pass->bf16_cut)
        goto out;
    pass->tokens_max = max_size(pass->tokens_max, batch->tokens);
    pass->sequences_max = max_size(pass->sequences_max, B);
    pass->longest_max = max_size(pass->longest_max, longest);
    pass->worker_count = max_size(pass->worker_count, workers);
    pass->shards_max = max_size(pass->shards_max, shards);
    pass->checkpoint_cut = options->checkpoint;
    pass->bf16_cut = pass->bf16_cut || options->bf16;
    arena_close(&pass->arena);
    pass->scratch_floats = scratch_floats(pass);
    cut_all(pass, &measure);
    TRY(arena_open_raw(&pass->arena, measure.used_bytes));
    cut_all(pass, &pass->arena);
out:
    return status;
}

float *pass_scratch(const struct pass *pass, int worker) {
    return pass->scratch + (size_t)worker * pass->scratch_floats;
}
