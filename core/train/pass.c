/* A pass from end to end (see pass.h for how the work is cut).
 *
 * The gradient runs back in one (T,C) stream, dhidden, that a head has written; what a linear layer's weight gradient
 * needs, its input and the gradient at its output, stays where the two ways left it until the block is done.
 */
#include "train/pass.h"

#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"

static size_t wants_of(const struct model *model) { return 4 * model->config.layers + 1; }

int pass_open(struct pass *pass, struct model *model, const struct linear_edit *edits) {
    int status = 0;
    void *block;
    size_t L = model->config.layers, V = model->config.vocabulary;

    memset(pass, 0, sizeof *pass);
    pass->model = model;
    TRY(memory_take(&block, L + 1, sizeof *pass->block));
    pass->block = block;
    TRY(memory_take(&block, 2 * L + 2, sizeof *pass->stream));
    pass->stream = block;
    TRY(memory_take(&block, wants_of(model), sizeof *pass->want));
    pass->want = block;
    TRY(memory_take(&block, wants_of(model), sizeof *pass->want_floats));
    pass->want_floats = block;
    TRY(memory_take(&block, wants_of(model), sizeof *pass->wanted));
    pass->wanted = block;
    TRY(memory_take(&block, (V + 63) / 64, sizeof *pass->touched));
    pass->touched = block;
    TRY(memory_take(&block, V, sizeof *pass->touched_ids));
    pass->touched_ids = block;
    TRY(pass_linears_open(pass, edits));
out:
    if (status < 0) pass_close(pass);
    return status;
}

void pass_close(struct pass *pass) {
    arena_close(&pass->arena);
    arena_close(&pass->head_room);
    for (size_t i = 0; pass->want && i < wants_of(pass->model); i++) memory_release(pass->want[i]);
    memory_release(pass->want);
    memory_release(pass->want_floats);
    memory_release(pass->wanted);
    memory_release(pass->block);
    memory_release(pass->stream);
    memory_release(pass->linear);
    memory_release(pass->touched);
    memory_release(pass->touched_ids);
    memset(pass, 0, sizeof *pass);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void place_tokens(struct pass *pass) {
    const struct batch *batch = pass->batch;
    for (size_t s = 0; s < batch->sequences; s++)
        for (uint32_t t = batch->offset[s]; t < batch->offset[s + 1]; t++)
            pass->position[t] = (int32_t)(t - batch->offset[s]);
}

static void final_shards(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        pass_norm(pass, model_part(pass->model, PART_FINAL_NORM), &shard, pass->block[pass->model->config.layers].x,
                  pass->hidden, pass->mean_final, pass->rstd_final);
    }
}

/* Gradients of heads start at zero, because each head of a pass adds to them; the large ones, the token table and a
 * head's own matrix, are overwritten by the first that comes. */
static void clear_heads(struct pass *pass) {
    static const enum part parts[] = {PART_PROJECT_OUT,    PART_POOLER,    PART_CLASSIFIER, PART_SPAN,
                                      PART_HEAD_TRANSFORM, PART_HEAD_NORM, PART_HEAD_BIAS};
    pass->tokens_stale = pass->head_stale = !pass->options.add;
    for (size_t i = 0; !pass->options.add && i < sizeof parts / sizeof *parts; i++) {
        const struct part_view *part = model_part(pass->model, parts[i]);
        struct parameter *both[] = {part->weight, part->bias};
        if (part->linear && !pass_linear_trained(pass, part->linear)) continue;
        for (size_t j = 0; j < 2; j++)
            if (both[j] && both[j]->gradient)
                memset(both[j]->gradient, 0, both[j]->rows * both[j]->columns * sizeof(float));
    }
}

int pass_forward(struct pass *pass, const struct batch *batch, const struct pass_options *options) {
    int status = 0;
    const struct model_config *config = &pass->model->config;
    size_t longest = 0;

    TRY(model_check_batch(pass->model, batch));
    if (batch->cache) FAIL(E_ARGUMENT, "a batch that is trained on has no cache");
    for (size_t s = 0; s < batch->sequences; s++) {
        size_t t = batch->offset[s + 1] - batch->offset[s];
        longest = t > longest ? t : longest;
    }
    TRY(pass_reserve(pass, batch, longest, options));
    pass->batch = batch;
    pass->options = *options;
    pass->first = pass_first_possible(pass);
    TRY(pass_edits_begin(pass));
    for (size_t i = 0; i < 2 * config->layers + 2; i++) pass->stream[i] = random_stream("dropout", options->step, i);
    memset(pass->wanted, 0, wants_of(pass->model) * sizeof *pass->wanted);
    place_tokens(pass);
    pass_cut_shards(pass, longest);
    clear_heads(pass);
    pass_embed_forward(pass);
    for (size_t b = 0; b < config->layers; b++) pass_block_forward(pass, b);
    if (pass->hidden) parallel_for(pass->shard_count, 1, final_shards, pass);
    memset(pass->dhidden, 0, batch->tokens * config->width * sizeof *pass->dhidden);
out:
    return status;
}

const float *pass_hidden(const struct pass *pass) {
    return pass->hidden ? pass->hidden : pass->block[pass->model->config.layers].x;
}

const float *pass_block_output(const struct pass *pass, int block) { return pass->block[block + 1].x; }

const float *pass_part(const struct pass *pass, size_t block, enum part part) {
    const struct pass_block *kept = &pass->block[block];
    if (pass->options.checkpoint) return NULL;
    if (pass->first && part == PART_QUERY && block + 1 == pass->model->config.layers) return NULL;
    return part == PART_QUERY ? kept->query : part == PART_KEY ? kept->key : kept->value;
}

/* ---- backward ------------------------------------------------------------------------------------------ */

static float *want(struct pass *pass, size_t index, size_t width) {
    size_t count = pass->batch->tokens * width;
    void *block;
    if (pass->wanted[index]) return pass->want[index];
    if (count > pass->want_floats[index]) {
        memory_release(pass->want[index]);
        pass->want[index] = NULL;
        pass->want_floats[index] = 0;
        if (memory_take_raw(&block, count, sizeof(float)) < 0) return NULL;
        pass->want[index] = block;
        pass->want_floats[index] = count;
    }
    memset(pass->want[index], 0, count * sizeof(float));
    pass->wanted[index] = true;
    return pass->want[index];
}

float *pass_want_block_gradient(struct pass *pass, int block) {
    return want(pass, (size_t)(block + 1), pass->model->config.width);
}

float *pass_want_part_gradient(struct pass *pass, size_t block, enum part part) {
    const struct model_config *config = &pass->model->config;
    size_t first = config->layers + 1 + 3 * block;
    size_t heads = part == PART_QUERY ? config->heads : config->key_value_heads;
    return want(pass, first + (part == PART_QUERY ? 0 : part == PART_KEY ? 1 : 2), heads * config->head_width);
}

static void final_shards_back(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        pass_norm_back(pass, model_part(pass->model, PART_FINAL_NORM), i, 0, &shard,
                       pass->block[pass->model->config.layers].x, pass->mean_final, pass->rstd_final, pass->dhidden,
                       pass->dhidden);
    }
}

/* A head's own matrix that no head of this pass wrote. */
static void clear_untouched_head(struct pass *pass) {
    const struct linear *head = model_part(pass->model, PART_HEAD)->linear;
    if (pass->head_stale && head && pass_linear_trained(pass, head))
        memset(head->parameter->gradient, 0, head->rows * head->columns * sizeof(float));
}

int pass_backward(struct pass *pass) {
    size_t L = pass->model->config.layers;
    clear_untouched_head(pass);
    if (pass->hidden) {
        parallel_for(pass->shard_count, 1, final_shards_back, pass);
        pass_norm_gradients(pass, model_part(pass->model, PART_FINAL_NORM), 0, pass->shard_count);
    }
    for (size_t b = L; b-- > 0;) {
        /* The last block's values are still there. Its output is made again where it was: the same bits. */
        if (pass->options.checkpoint && b + 1 < L) pass_block_forward(pass, b);
        pass_block_backward(pass, b);
    }
    pass_embed_backward(pass);
    return 0;
}
