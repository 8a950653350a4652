/* Forward and backward through embeddings and blocks (see pass.h for how the work is cut).
 *
 * The gradient runs backward in one (T,C) stream `dx`; what a linear layer's weight gradient needs, its input
 * and the gradient at its output, stays where the two passes left it.
 */
#include "train/pass.h"

#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/layers.h"

#define SHARD_TOKENS 112 /* enough rows for a multiplication to run near its peak; measured at width 256 */
#define JOB_ROWS 128     /* rows of a weight gradient in one job */
#define EMBEDDING_ROWS 2048

/* ---- storage ---------------------------------------------------------------------------------------- */

static void *cut(struct arena *arena, size_t count, size_t size) {
    uintptr_t at = (uintptr_t)arena->base + arena->used_bytes;
    arena->used_bytes += size_round_up(count * size, MEMORY_ALIGN);
    return (void *)at;
}

static float *cut_floats(struct arena *arena, size_t count) { return cut(arena, count, sizeof(float)); }

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static size_t shards_of(size_t tokens, size_t sequences) {
    size_t shards = (tokens + SHARD_TOKENS / 2) / SHARD_TOKENS;
    if (shards > 1 && shards % 2) shards++; /* an even number shares out evenly */
    return max_size(1, shards < sequences ? shards : sequences);
}

static void cut_block(struct pass *pass, struct arena *arena, struct pass_block *block) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->tokens_max, C = config->width, A = config->heads * config->head_width;
    float **wide[] = {&block->up, &block->active, &block->dup};
    float **body[] = {&block->sum1, &block->y1, &block->sum2, &block->doutput, &block->ddown};
    float **attention[] = {&block->query,  &block->key,  &block->value, &block->context,
                           &block->dquery, &block->dkey, &block->dvalue};
    float **token[] = {&block->mean1, &block->rstd1, &block->mean2, &block->rstd2};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) *wide[i] = cut_floats(arena, T * config->feed_forward);
    for (size_t i = 0; i < sizeof body / sizeof *body; i++) *body[i] = cut_floats(arena, T * C);
    for (size_t i = 0; i < sizeof attention / sizeof *attention; i++) *attention[i] = cut_floats(arena, T * A);
    for (size_t i = 0; i < sizeof token / sizeof *token; i++) *token[i] = cut_floats(arena, T);
    block->probabilities = cut_floats(arena, config->heads * pass->squares_max);
    block->keep1 = cut(arena, T * C, 1);
    block->keep2 = cut(arena, T * C, 1);
}

static void cut_heads(struct pass *pass, struct arena *arena) {
    const struct model_config *config = &pass->model->config;
    size_t B = pass->sequences_max, C = config->width, M = pass->rows_max;
    size_t vocabulary_tiles = (config->vocabulary + HEAD_VOCABULARY_TILE - 1) / HEAD_VOCABULARY_TILE;
    float **sequence[] = {&pass->first, &pass->pooled, &pass->dropped, &pass->dpooled, &pass->dfirst};
    float **row[] = {&pass->gathered, &pass->transformed, &pass->activated, &pass->normed, &pass->dnormed};
    for (size_t i = 0; i < sizeof sequence / sizeof *sequence; i++) *sequence[i] = cut_floats(arena, B * C);
    pass->keep_pooled = cut(arena, B * C, 1);
    pass->logits = cut_floats(arena, max_size(B * config->classes, M * config->vocabulary));
    pass->row = cut(arena, M, sizeof *pass->row);
    pass->row_label = cut(arena, M, sizeof *pass->row_label);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) *row[i] = cut_floats(arena, M * C);
    pass->mean = cut_floats(arena, M);
    pass->rstd = cut_floats(arena, M);
    pass->dnormed_partial = cut_floats(arena, vocabulary_tiles * M * C);
}

static void cut_all(struct pass *pass, struct arena *arena) {
    const struct model_config *config = &pass->model->config;
    size_t T = pass->tokens_max, B = pass->sequences_max, C = config->width, L = config->layers;
    pass->position = cut(arena, T, sizeof *pass->position);
    pass->shard = cut(arena, pass->shards_max + 1, sizeof *pass->shard);
    pass->square = cut(arena, B + 1, sizeof *pass->square);
    pass->stream = cut(arena, 2 * L + 2, sizeof *pass->stream);
    pass->touched = cut(arena, T, sizeof *pass->touched);
    pass->embedded = cut_floats(arena, T * C);
    pass->mean0 = cut_floats(arena, T);
    pass->rstd0 = cut_floats(arena, T);
    pass->keep0 = cut(arena, T * C, 1);
    pass->dx = cut_floats(arena, T * C);
    pass->dcontext = cut_floats(arena, T * config->heads * config->head_width);
    pass->partial = cut_floats(arena, pass->shards_max * (2 * L + 1) * 2 * C);
    pass->scratch_floats = size_round_up(attention_scratch(pass->longest_max, config->head_width, true), 16);
    pass->scratch = cut_floats(arena, pass->worker_count * pass->scratch_floats);
    for (size_t i = 0; i <= L; i++) {
        pass->block[i].x = cut_floats(arena, T * C);
        if (i < L) cut_block(pass, arena, &pass->block[i]);
    }
    cut_heads(pass, arena);
}

/* Room for this batch; grown by half as much again, so that it settles within a few batches. */
static int pass_reserve(struct pass *pass, const struct batch *batch, size_t squares, size_t longest, size_t rows) {
    int status = 0;
    struct arena measure = {0};
    size_t workers = (size_t)threads_get(), shards = shards_of(batch->tokens, batch->sequences);

    if (pass->arena.base && batch->tokens <= pass->tokens_max && batch->sequences <= pass->sequences_max &&
        squares <= pass->squares_max && rows <= pass->rows_max && longest <= pass->longest_max &&
        workers <= pass->worker_count && shards <= pass->shards_max)
        goto out;
    pass->tokens_max = max_size(pass->tokens_max, batch->tokens + batch->tokens / 2);
    pass->sequences_max = max_size(pass->sequences_max, batch->sequences);
    pass->squares_max = max_size(pass->squares_max, squares + squares / 2);
    pass->rows_max = max_size(pass->rows_max, rows + rows / 2);
    pass->longest_max = max_size(pass->longest_max, longest + longest / 2);
    pass->worker_count = max_size(pass->worker_count, workers);
    pass->shards_max = max_size(pass->shards_max, shards + shards / 2 + 1);
    arena_close(&pass->arena);
    pass->touched_all = true; /* the list of touched rows is lost */
    cut_all(pass, &measure);
    TRY(arena_open(&pass->arena, measure.used_bytes));
    cut_all(pass, &pass->arena);
out:
    return status;
}

static const enum part job_parts[] = {PART_UP, PART_DOWN, PART_QUERY, PART_KEY, PART_VALUE, PART_ATTENTION_OUTPUT};
#define JOB_PARTS (sizeof job_parts / sizeof *job_parts)

int pass_open(struct pass *pass, struct model *model) {
    int status = 0;
    void *block;
    size_t jobs = 0, L = model->config.layers;

    memset(pass, 0, sizeof *pass);
    pass->model = model;
    pass->touched_all = true;
    TRY(memory_take(&block, L + 1, sizeof *pass->block));
    pass->block = block;
    for (size_t i = 0; i < JOB_PARTS; i++)
        jobs += (block_part(model, 0, job_parts[i])->linear->rows + JOB_ROWS - 1) / JOB_ROWS;
    TRY(memory_take(&block, jobs * L, sizeof *pass->job));
    pass->job = block;
    for (size_t b = 0; b < L; b++)
        for (size_t i = 0; i < JOB_PARTS; i++) {
            size_t rows = block_part(model, b, job_parts[i])->linear->rows;
            for (size_t begin = 0; begin < rows; begin += JOB_ROWS) {
                size_t end = begin + JOB_ROWS < rows ? begin + JOB_ROWS : rows;
                pass->job[pass->job_count++] =
                    (struct weight_job){(uint32_t)b, job_parts[i], (uint32_t)begin, (uint32_t)end};
            }
        }
out:
    if (status < 0) pass_close(pass);
    return status;
}

void pass_close(struct pass *pass) {
    arena_close(&pass->arena);
    memory_release(pass->block);
    memory_release(pass->job);
    memset(pass, 0, sizeof *pass);
}

/* ---- one shard -------------------------------------------------------------------------------------- */

/* A shard's tokens and sequences. */
struct shard {
    size_t sequence_begin, sequence_end, at, T;
};

static struct shard shard_of(const struct pass *pass, size_t index) {
    struct shard shard = {.sequence_begin = pass->shard[index], .sequence_end = pass->shard[index + 1]};
    shard.at = pass->batch->offset[shard.sequence_begin];
    shard.T = pass->batch->offset[shard.sequence_end] - shard.at;
    return shard;
}

static void drop(const struct pass *pass, size_t site, const struct shard *shard, float *x, uint8_t *keep) {
    size_t C = pass->model->config.width, stride = size_round_up(C, 8);
    for (size_t t = 0; pass->dropout > 0 && t < shard->T; t++)
        dropout_forward(pass->seed, pass->stream[site], (shard->at + t) * stride, C, pass->dropout, x + t * C,
                        keep + t * C);
}

static void drop_back(const struct pass *pass, const struct shard *shard, const uint8_t *keep, const float *dy,
                      float *dx) {
    size_t count = shard->T * pass->model->config.width;
    if (pass->dropout > 0) dropout_backward(count, pass->dropout, keep, dy, dx);
    else memcpy(dx, dy, count * sizeof *dx);
}

static void apply(const struct part_view *part, size_t T, const float *x, float *y) {
    const struct linear *linear = part->linear;
    linear_forward(T, linear->columns, linear->rows, x, linear->value, linear->bias, y);
}

static void unapply(const struct part_view *part, size_t T, const float *dy, bool add, float *dx) {
    const struct linear *linear = part->linear;
    linear_backward_input(T, linear->columns, linear->rows, dy, linear->value, add, dx);
}

static void attend(struct pass *pass, const struct pass_block *block, const struct shard *shard, bool backward,
                   int worker) {
    const struct model_config *config = &pass->model->config;
    size_t H = config->heads, D = config->head_width, A = H * D;
    float *scratch = pass->scratch + (size_t)worker * pass->scratch_floats;
    for (size_t s = shard->sequence_begin; s < shard->sequence_end; s++)
        for (size_t h = 0; h < H; h++) {
            size_t first = pass->batch->offset[s], t = pass->batch->offset[s + 1] - first, at = first * A + h * D;
            float *probabilities = block->probabilities + H * pass->square[s] + h * t * t;
            if (!backward)
                attention_forward(t, D, A, block->query + at, block->key + at, block->value + at, block->context + at,
                                  probabilities, scratch);
            else
                attention_backward(t, D, A, block->query + at, block->key + at, block->value + at, probabilities,
                                   pass->dcontext + at, block->dquery + at, block->dkey + at, block->dvalue + at,
                                   scratch);
        }
}

static void forward_block(struct pass *pass, size_t b, const struct shard *shard, int worker) {
    const struct model *model = pass->model;
    const struct pass_block *block = &pass->block[b];
    const struct part_view *norm1 = block_part(model, b, PART_ATTENTION_NORM),
                           *norm2 = block_part(model, b, PART_FEED_FORWARD_NORM);
    size_t at = shard->at, T = shard->T, C = model->config.width, F = model->config.feed_forward,
           A = model->config.heads * model->config.head_width;
    float epsilon = model->config.norm_epsilon;
    const float *x = block->x + at * C;

    apply(block_part(model, b, PART_QUERY), T, x, block->query + at * A);
    apply(block_part(model, b, PART_KEY), T, x, block->key + at * A);
    apply(block_part(model, b, PART_VALUE), T, x, block->value + at * A);
    attend(pass, block, shard, false, worker);
    apply(block_part(model, b, PART_ATTENTION_OUTPUT), T, block->context + at * A, block->sum1 + at * C);
    drop(pass, 2 * b + 1, shard, block->sum1 + at * C, block->keep1 + at * C);
    residual_norm_forward(T, C, x, block->sum1 + at * C, norm1->weight->value, norm1->bias->value, epsilon,
                          block->y1 + at * C, block->mean1 + at, block->rstd1 + at);
    apply(block_part(model, b, PART_UP), T, block->y1 + at * C, block->up + at * F);
    kernels.gelu(T * F, block->up + at * F, block->active + at * F);
    apply(block_part(model, b, PART_DOWN), T, block->active + at * F, block->sum2 + at * C);
    drop(pass, 2 * b + 2, shard, block->sum2 + at * C, block->keep2 + at * C);
    residual_norm_forward(T, C, block->y1 + at * C, block->sum2 + at * C, norm2->weight->value, norm2->bias->value,
                          epsilon, pass->block[b + 1].x + at * C, block->mean2 + at, block->rstd2 + at);
}

static void forward_shards(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    const struct model *model = pass->model;
    const struct part_view *norm = model_part(model, PART_EMBEDDING_NORM);
    const int32_t *types = pass->batch->token_types;
    size_t C = model->config.width;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = shard_of(pass, i);
        size_t at = shard.at;
        embedding_forward(shard.T, C, pass->batch->ids + at, types ? types + at : NULL, pass->position + at,
                          model_part(model, PART_TOKENS)->weight->value, model_part(model, PART_TYPES)->weight->value,
                          model_part(model, PART_POSITIONS)->weight->value, pass->embedded + at * C);
        kernels.layer_norm(shard.T, C, pass->embedded + at * C, norm->weight->value, norm->bias->value,
                           model->config.norm_epsilon, pass->block[0].x + at * C, pass->mean0 + at, pass->rstd0 + at);
        drop(pass, 0, &shard, pass->block[0].x + at * C, pass->keep0 + at * C);
        for (size_t b = 0; b < model->config.layers; b++) forward_block(pass, b, &shard, worker);
    }
}

/* The shard's own sums of the gradients of norm n: gain, then bias. */
static float *norm_partial(const struct pass *pass, size_t shard, size_t n) {
    return pass->partial + (shard * (2 * pass->model->config.layers + 1) + n) * 2 * pass->model->config.width;
}

static void backward_norm(struct pass *pass, size_t index, size_t n, const struct part_view *norm,
                          const struct shard *shard, const float *sum, const float *mean, const float *rstd) {
    size_t C = pass->model->config.width, at = shard->at;
    float *partial = norm_partial(pass, index, n), *dx = pass->dx + at * C;
    memset(partial, 0, 2 * C * sizeof *partial);
    norm_backward(shard->T, C, sum + at * C, mean + at, rstd + at, norm->weight->value, dx, dx, partial, partial + C);
}

static void backward_block(struct pass *pass, size_t index, size_t b, const struct shard *shard, int worker) {
    const struct model *model = pass->model;
    const struct pass_block *block = &pass->block[b];
    size_t at = shard->at, T = shard->T, C = model->config.width, F = model->config.feed_forward,
           A = model->config.heads * model->config.head_width;
    float *dx = pass->dx + at * C;

    backward_norm(pass, index, 2 * b + 2, block_part(model, b, PART_FEED_FORWARD_NORM), shard, block->sum2,
                  block->mean2, block->rstd2);
    drop_back(pass, shard, block->keep2 + at * C, dx, block->ddown + at * C);
    unapply(block_part(model, b, PART_DOWN), T, block->ddown + at * C, false, block->dup + at * F);
    kernels.gelu_backward(T * F, block->up + at * F, block->dup + at * F, block->dup + at * F);
    unapply(block_part(model, b, PART_UP), T, block->dup + at * F, true, dx);
    backward_norm(pass, index, 2 * b + 1, block_part(model, b, PART_ATTENTION_NORM), shard, block->sum1, block->mean1,
                  block->rstd1);
    drop_back(pass, shard, block->keep1 + at * C, dx, block->doutput + at * C);
    unapply(block_part(model, b, PART_ATTENTION_OUTPUT), T, block->doutput + at * C, false, pass->dcontext + at * A);
    attend(pass, block, shard, true, worker);
    unapply(block_part(model, b, PART_QUERY), T, block->dquery + at * A, true, dx);
    unapply(block_part(model, b, PART_KEY), T, block->dkey + at * A, true, dx);
    unapply(block_part(model, b, PART_VALUE), T, block->dvalue + at * A, true, dx);
}

static void backward_shards(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    size_t C = pass->model->config.width;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = shard_of(pass, i);
        float *dx = pass->dx + shard.at * C;
        for (size_t b = pass->model->config.layers; b-- > 0;) backward_block(pass, i, b, &shard, worker);
        drop_back(pass, &shard, pass->keep0 + shard.at * C, dx, dx);
        backward_norm(pass, i, 0, model_part(pass->model, PART_EMBEDDING_NORM), &shard, pass->embedded, pass->mean0,
                      pass->rstd0);
    }
}

/* ---- gradients of parameters ------------------------------------------------------------------------- */

static void weight_jobs(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct weight_job *job = &pass->job[i];
        const struct pass_block *block = &pass->block[job->block];
        const struct linear *linear = block_part(pass->model, job->block, (enum part)job->part)->linear;
        const float *x = NULL, *dy = NULL;
        switch ((enum part)job->part) {
        case PART_QUERY: x = block->x, dy = block->dquery; break;
        case PART_KEY: x = block->x, dy = block->dkey; break;
        case PART_VALUE: x = block->x, dy = block->dvalue; break;
        case PART_ATTENTION_OUTPUT: x = block->context, dy = block->doutput; break;
        case PART_UP: x = block->y1, dy = block->dup; break;
        default: x = block->active, dy = block->ddown; break;
        }
        linear_backward_weight(pass->batch->tokens, linear->columns, linear->rows, x, dy, job->begin, job->end,
                               linear->parameter->gradient, linear->bias_parameter->gradient);
    }
}

static void norm_gradients(struct pass *pass) {
    const struct model *model = pass->model;
    size_t C = model->config.width;
    for (size_t n = 0; n <= 2 * model->config.layers; n++) {
        const struct part_view *norm =
            n == 0 ? model_part(model, PART_EMBEDDING_NORM)
                   : block_part(model, (n - 1) / 2, n % 2 ? PART_ATTENTION_NORM : PART_FEED_FORWARD_NORM);
        memset(norm->weight->gradient, 0, C * sizeof(float));
        memset(norm->bias->gradient, 0, C * sizeof(float));
        for (size_t i = 0; i < pass->shard_count; i++) {
            const float *partial = norm_partial(pass, i, n);
            kernels.add(C, partial, norm->weight->gradient);
            kernels.add(C, partial + C, norm->bias->gradient);
        }
    }
}

/* Items: tiles of the token table, then one of the position table and one of the type table. */
static void embedding_jobs(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    const struct model_config *config = &pass->model->config;
    size_t T = pass->batch->tokens, C = config->width, V = config->vocabulary;
    size_t tiles = (V + EMBEDDING_ROWS - 1) / EMBEDDING_ROWS;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        if (i < tiles) {
            size_t from = i * EMBEDDING_ROWS, to = from + EMBEDDING_ROWS < V ? from + EMBEDDING_ROWS : V;
            embedding_backward(T, C, pass->batch->ids, pass->dx, from, to, config->pad_id,
                               model_part(pass->model, PART_TOKENS)->weight->gradient);
        } else if (i == tiles) {
            float *gradient = model_part(pass->model, PART_POSITIONS)->weight->gradient;
            memset(gradient, 0, config->positions * C * sizeof *gradient);
            embedding_backward(T, C, pass->position, pass->dx, 0, config->positions, -1, gradient);
        } else {
            float *gradient = model_part(pass->model, PART_TYPES)->weight->gradient;
            memset(gradient, 0, config->token_types * C * sizeof *gradient);
            embedding_backward(T, C, pass->batch->token_types, pass->dx, 0, config->token_types, -1, gradient);
        }
    }
}

/* Zero the token gradient where the last pass wrote; a masked-LM head overwrites all of it instead. */
static void clear_embedding_gradient(struct pass *pass, bool overwritten) {
    const struct parameter *tokens = model_part(pass->model, PART_TOKENS)->weight;
    size_t C = tokens->columns, T = pass->batch->tokens;
    if (!overwritten && pass->touched_all) memset(tokens->gradient, 0, tokens->rows * C * sizeof(float));
    for (size_t i = 0; !overwritten && !pass->touched_all && i < pass->touched_count; i++)
        memset(tokens->gradient + (size_t)pass->touched[i] * C, 0, C * sizeof(float));
    memcpy(pass->touched, pass->batch->ids, T * sizeof *pass->touched);
    pass->touched_count = T;
    pass->touched_all = overwritten;
}

/* ---- the pass --------------------------------------------------------------------------------------- */

/* Shards end at the first sequence that reaches their share of the tokens. */
static void cut_shards(struct pass *pass) {
    const struct batch *batch = pass->batch;
    size_t shards = shards_of(batch->tokens, batch->sequences), count = 0, s = 0;
    for (size_t i = 0; i < shards && s < batch->sequences; i++) {
        pass->shard[count++] = (uint32_t)s;
        do s++;
        while (s < batch->sequences && (size_t)batch->offset[s] * shards < batch->tokens * (i + 1));
    }
    pass->shard[count] = (uint32_t)batch->sequences;
    pass->shard_count = count;
}

int pass_run(struct pass *pass, const struct batch *batch, const int32_t *labels, const struct pass_options *options,
             double *loss) {
    int status = 0;
    const struct model_config *config = &pass->model->config;
    bool masked = options->objective == TRAIN_MASKED_LM;
    size_t squares = 0, longest = 0, rows = 0, tiles;

    for (size_t s = 0; s < batch->sequences; s++) {
        size_t t = batch->offset[s + 1] - batch->offset[s];
        squares += t * t;
        longest = max_size(longest, t);
    }
    for (size_t t = 0; masked && t < batch->tokens; t++) rows += labels[t] != -100;
    TRY(pass_reserve(pass, batch, squares, longest, rows));
    pass->batch = batch;
    pass->seed = options->seed;
    pass->dropout = options->dropout;
    pass->square[0] = 0;
    for (size_t s = 0; s < batch->sequences; s++) {
        size_t t = batch->offset[s + 1] - batch->offset[s];
        pass->square[s + 1] = pass->square[s] + t * t;
        for (size_t i = 0; i < t; i++) pass->position[batch->offset[s] + i] = (int32_t)i;
    }
    for (size_t i = 0; i < 2 * config->layers + 2; i++) pass->stream[i] = random_stream("dropout", options->step, i);
    pass->rows = 0;
    for (size_t t = 0; masked && t < batch->tokens; t++)
        if (labels[t] != -100) pass->row[pass->rows] = (int32_t)t, pass->row_label[pass->rows++] = labels[t];
    cut_shards(pass);

    parallel_for(pass->shard_count, 1, forward_shards, pass);
    memset(pass->dx, 0, batch->tokens * config->width * sizeof(float));
    clear_embedding_gradient(pass, masked && pass->rows);
    if (masked) pass_masked(pass, options->smoothing, loss);
    else pass_classify(pass, labels, options->smoothing, loss);
    parallel_for(pass->shard_count, 1, backward_shards, pass);
    parallel_for(pass->job_count, 1, weight_jobs, pass);
    tiles = (config->vocabulary + EMBEDDING_ROWS - 1) / EMBEDDING_ROWS;
    parallel_for(tiles + 2, 1, embedding_jobs, pass);
    norm_gradients(pass);
out:
    return status;
}
