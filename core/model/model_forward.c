/* Inference: one packed batch through embeddings, blocks and heads, over weights in their storage formats.
 *
 * Per block there are four multiplications (query, key and value share one, as do up and gate) and the attention
 * between them. A residual sum is followed at once by the norm of what comes next, by the product that made it, while
 * its rows are in a cache.
 */
#include "model/forward.h"

#include <string.h>

#include "base/error.h"
#include "kernels/kernels.h"
#include "model/layers.h"

/* Elements (or multiply-adds / 8) below which a parallel region costs more than it saves: about 10 µs of work
 * on one core. */
#define SERIAL_ELEMENTS 32768
#define GRAIN_ELEMENTS 8192

void workspace_close(struct workspace *workspace) {
    arena_close(&workspace->arena);
    weight_scratch_close(&workspace->scratch);
    memory_release(workspace->head);
    memset(workspace, 0, sizeof *workspace);
}

/* ---- checks ------------------------------------------------------------------------------------------ */

static int check_cache(const struct model *model, const struct batch *batch) {
    int status = 0;
    const struct model_config *config = &model->config;
    const struct kv_cache *cache = batch->cache;

    if (!cache) goto out;
    if (!config->causal) FAIL(E_UNSUPPORTED, "a %s model has no use for a cache of keys and values", config->family);
    if (cache->layers != config->layers || cache->key_value_heads != config->key_value_heads ||
        cache->head_width != config->head_width)
        FAIL(E_SHAPE, "the cache is of another model (%zu layers of %zux%zu)", cache->layers, cache->key_value_heads,
             cache->head_width);
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t slot = batch->slot ? batch->slot[i] : i, length = batch->offset[i + 1] - batch->offset[i];
        if (slot >= cache->slots) FAIL(E_SHAPE, "sequence %zu asks for slot %zu of %zu", i, slot, cache->slots);
        if (cache->length[slot] + length > cache->capacity)
            FAIL(E_LIMIT, "slot %zu holds %u tokens and has no room for %zu more (of %zu)", slot, cache->length[slot],
                 length, cache->capacity);
        for (size_t j = 0; j < i; j++)
            if ((batch->slot ? batch->slot[j] : j) == slot)
                FAIL(E_SHAPE, "sequences %zu and %zu share slot %zu", j, i, slot);
    }
out:
    return status;
}

static int check_ids(const struct model_config *config, const struct batch *batch) {
    int status = 0;
    size_t types = config->token_types ? config->token_types : 1;
    for (size_t t = 0; t < batch->tokens; t++) {
        if (batch->ids[t] < 0 || (size_t)batch->ids[t] >= config->vocabulary)
            FAIL(E_SHAPE,
                 "token %zu has id %d outside the model's vocabulary of %zu: is the tokenizer another model's?", t,
                 batch->ids[t], config->vocabulary);
        if (batch->token_types && (batch->token_types[t] < 0 || (size_t)batch->token_types[t] >= types))
            FAIL(E_SHAPE, "token %zu has type %d but the model has %zu", t, batch->token_types[t], types);
    }
out:
    return status;
}

int model_check_batch(const struct model *model, const struct batch *batch) {
    int status = 0;
    const struct model_config *config = &model->config;

    if (!batch->sequences || !batch->tokens) FAIL(E_SHAPE, "the batch is empty");
    if (batch->offset[0] != 0 || batch->offset[batch->sequences] != batch->tokens)
        FAIL(E_SHAPE, "offsets run from %u to %u but the batch has %zu tokens", batch->offset[0],
             batch->offset[batch->sequences], batch->tokens);
    for (size_t i = 0; i < batch->sequences; i++) {
        if (batch->offset[i + 1] <= batch->offset[i]) FAIL(E_SHAPE, "sequence %zu is empty", i);
    }
    TRY(check_cache(model, batch));
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t length = (size_t)batch->offset[i + 1] - batch->offset[i];
        if (batch->cache) length += batch->cache->length[batch->slot ? batch->slot[i] : i];
        if (length > config->positions)
            FAIL(E_SHAPE, "sequence %zu has %zu tokens but the model has %zu positions", i, length, config->positions);
    }
    TRY(check_ids(config, batch));
out:
    return status;
}

/* ---- workspace --------------------------------------------------------------------------------------- */

/* Cut `count` floats from the arena; unlike arena_take, nothing is zeroed. With no base it measures. */
static float *cut(struct arena *arena, size_t count) {
    uintptr_t at = (uintptr_t)arena->base + arena->used_bytes;
    arena->used_bytes += size_round_up(count * sizeof(float), MEMORY_ALIGN);
    return (float *)at;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* Is there a token that nobody reads? All hidden states are of all tokens. */
static bool reads_some(const struct forward *forward) { return forward->batch->read != READ_ALL && !forward->hidden; }

static void cut_all(struct forward *forward, struct arena *arena) {
    const struct model_config *config = &forward->model->config;
    size_t T = forward->batch->tokens, B = forward->batch->sequences, C = config->width;
    size_t A = config->heads * config->head_width, K = config->key_value_heads * config->head_width;
    size_t from, attention_end;

    arena->used_bytes = 0;
    forward->position = (int32_t *)(void *)cut(arena, T);
    forward->read = reads_some(forward) ? (uint32_t *)(void *)cut(arena, B) : NULL;
    forward->rotary = config->position == POSITION_ROTARY ? cut(arena, T * config->head_width) : NULL;
    forward->x = cut(arena, T * C);
    forward->y = cut(arena, T * C);
    from = arena->used_bytes;
    forward->query = cut(arena, T * A);
    forward->key = cut(arena, T * K);
    forward->value = cut(arena, T * K);
    forward->context = cut(arena, T * A);
    attention_end = arena->used_bytes;
    arena->used_bytes = from;
    forward->embedded = cut(arena, T * config_embedding_width(config));
    attention_end = max_size(attention_end, arena->used_bytes);
    arena->used_bytes = from;
    forward->up = cut(arena, T * config->feed_forward);
    forward->gate = config->activation == ACTIVATION_SILU_GATED ? cut(arena, T * config->feed_forward) : NULL;
    arena->used_bytes = max_size(attention_end, arena->used_bytes);
    forward->first = cut(arena, B * C);
    forward->pooled = cut(arena, B * C);
    forward->logits = cut(arena, B * config->classes);
    forward->span = cut(arena, config->model_heads & HEAD_SPAN ? 2 * T : 0);
    forward->attention = cut(arena, forward->attention_floats);
}

static int workspace_cut(struct forward *forward) {
    int status = 0;
    struct arena measure = {0}, *arena = &forward->workspace->arena;
    const struct model_config *config = &forward->model->config;
    enum attention_arithmetic arithmetic = ATTENTION_F32;

    for (size_t block = 0; block < config->layers; block++) {
        enum attention_arithmetic each = forward_arithmetic(forward->model, block);
        if (each > arithmetic) arithmetic = each;
    }
    forward->attention_floats = attention_scratch_floats(config, forward->batch, arithmetic, (size_t)threads_get());
    cut_all(forward, &measure);
    if (measure.used_bytes > arena->capacity_bytes) {
        arena_close(arena);
        TRY(arena_open(arena, measure.used_bytes + measure.used_bytes / 4));
    }
    cut_all(forward, arena);
    forward->workspace->tokens = forward->batch->tokens;
    forward->workspace->sequences = forward->batch->sequences;
out:
    return status;
}

/* ---- the pass ---------------------------------------------------------------------------------------- */

void forward_run_items(struct forward *forward, size_t count, size_t elements_each, parallel_body *body) {
    size_t grain = max_size(1, GRAIN_ELEMENTS / max_size(1, elements_each));
    if (count * elements_each <= SERIAL_ELEMENTS) body(forward, 0, count, 0);
    else parallel_for(count, grain, body, forward);
}

int forward_multiply(struct forward *forward, const struct linear *linear, size_t T, const float *x, float *y) {
    if (forward->tap) forward->tap->input(forward->tap->context, linear, x, T);
    return weight_matmul(&linear->weight, T, x, linear->bias, y, &forward->workspace->scratch);
}

void forward_norm(const struct model_config *config, const struct part_view *norm, size_t T, const float *x, float *y) {
    if (config->norm == NORM_RMS)
        kernels.rms_norm(T, config->width, x, norm->weight->value, config->norm_epsilon, y, NULL);
    else
        kernels.layer_norm(T, config->width, x, norm->weight->value, norm->bias->value, config->norm_epsilon, y, NULL,
                           NULL);
}

static void norm_rows(void *context, size_t begin, size_t end) {
    const struct forward *forward = context;
    const struct model_config *config = &forward->model->config;
    float *x = forward->x + begin * config->width, *y = forward->y + begin * config->width;
    if (forward->norm) forward_norm(config, forward->norm, end - begin, x, config->norm_first ? y : x);
}

static void sum_rows(void *context, size_t begin, size_t end) {
    const struct forward *forward = context;
    size_t C = forward->model->config.width;
    kernels.add((end - begin) * C, forward->y + begin * C, forward->x + begin * C);
    norm_rows(context, begin, end);
}

int forward_residual(struct forward *forward, const struct linear *linear, const float *x, const struct part_view *norm,
                     const struct linear *next) {
    struct weight_epilogue epilogue = {.rows = sum_rows,
                                       .context = forward,
                                       .next = next ? &next->weight : NULL,
                                       .next_x = forward->model->config.norm_first ? forward->y : forward->x};
    const struct weight *weight = &linear->weight;
    const float *bias = linear->bias;
    float *y = forward->y;
    forward->norm = norm;
    if (forward->tap) forward->tap->input(forward->tap->context, linear, x, forward->T);
    return weight_matmul_then(&weight, &bias, &y, 1, forward->T, x, &epilogue, &forward->workspace->scratch);
}

static void first_norm(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    norm_rows(context, begin, end);
}

static void keep_hidden(struct forward *forward, size_t state) {
    size_t count = forward->T * forward->model->config.width;
    if (forward->hidden) memcpy(forward->hidden + state * count, forward->x, count * sizeof(float));
}

static void rotary_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    size_t D = forward->model->config.head_width;
    (void)worker;
    const struct model_config *config = &forward->model->config;
    rotary_table(end - begin, D, forward->position + begin, config->rotary_base, &config->rotary_scaling,
                 forward->rotary + begin * D);
}

static void place_tokens(struct forward *forward) {
    const struct batch *batch = forward->batch;
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t start = batch->cache ? batch->cache->length[batch->slot ? batch->slot[i] : i] : 0;
        for (uint32_t t = batch->offset[i]; t < batch->offset[i + 1]; t++)
            forward->position[t] = (int32_t)(start + t - batch->offset[i]);
        if (forward->read) forward->read[i] = batch->read == READ_FIRST ? batch->offset[i] : batch->offset[i + 1] - 1;
    }
    if (forward->rotary) /* a sine costs some twenty times an addition */
        forward_run_items(forward, batch->tokens, 20 * forward->model->config.head_width, rotary_rows);
}

static void grow_cache(const struct batch *batch) {
    for (size_t i = 0; batch->cache && i < batch->sequences; i++)
        kv_cache_grow(batch->cache, batch->slot ? batch->slot[i] : i, batch->offset[i + 1] - batch->offset[i]);
}

static int forward_pass(const struct model *model, const struct batch *batch, const struct model_tap *tap,
                        struct workspace *workspace, float *hidden, struct model_output *output) {
    int status = 0;
    struct forward forward = {.model = model, .batch = batch, .tap = tap, .workspace = workspace, .hidden = hidden};
    const struct model_config *config = &model->config;

    memset(output, 0, sizeof *output);
    if (!model->prepared) FAIL(E_STATE, "the model is not prepared: call model_prepare after the last edit");
    TRY(model_check_batch(model, batch));
    TRY(workspace_cut(&forward));
    forward.T = batch->tokens;
    forward.read_late = forward_reads_late(model);
    workspace->scratch.offset = batch->offset;
    workspace->scratch.sequences = batch->sequences;
    place_tokens(&forward);
    TRY(forward_embed(&forward));
    keep_hidden(&forward, 0);
    forward.norm = block_part(model, 0, PART_ATTENTION_NORM);
    if (config->norm_first) forward_run_items(&forward, batch->tokens, 2 * config->width, first_norm);
    for (forward.block = 0; forward.block < config->layers; forward.block++) {
        TRY(forward_block(&forward));
        keep_hidden(&forward, forward.block + 1);
    }
    grow_cache(batch);
    output->hidden = config->norm_first && config->final_norm ? forward.y : forward.x;
    workspace->scratch.offset = NULL; /* heads read single tokens */
    TRY(forward_heads(&forward, output));
    kernel_counters.tokens += batch->tokens;
    kernel_counters.multiply_adds += model_attention_work(config, batch, forward.read != NULL && !forward.read_late);
out:
    workspace->scratch.offset = NULL;
    return status;
}

int model_forward(const struct model *model, const struct batch *batch, const struct model_tap *tap,
                  struct workspace *workspace, struct model_output *output) {
    return forward_pass(model, batch, tap, workspace, NULL, output);
}

int model_hidden_states(const struct model *model, const struct batch *batch, struct workspace *workspace, float *out) {
    struct model_output output;
    return forward_pass(model, batch, NULL, workspace, out, &output);
}
