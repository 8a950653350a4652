/* Inference: one packed batch through the encoder, over weights in their storage formats.
 *
 * What a token gets never depends on its neighbours in the batch: linear layers sum in an order that depends
 * on N alone, attention works per sequence and head, everything else per row. Work is cut per item, so results
 * are bit-identical at any number of threads; pieces too small to be worth waking a thread run in this one.
 * Per block there are four multiplications and, at batch 1, nothing else that leaves the calling thread.
 */
#include "model/family.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"
#include "model/layers.h"

/* Elements (or multiply-adds / 8) below which a parallel region costs more than it saves: about 10 µs of work
 * on one core. */
#define SERIAL_ELEMENTS 32768
#define GRAIN_ELEMENTS 8192

struct forward {
    const struct model *model;
    const struct batch *batch;
    const struct model_tap *tap;
    struct workspace *workspace;
    int32_t *position;                    /* [T] */
    float *x, *y;                         /* (T,C) */
    float *query, *key, *value, *context; /* (T,A) with A = H·D; `up` lies over them */
    float *up;                            /* (T,F) */
    float *first, *pooled, *logits;       /* (B,C), (B,C), (B,classes) */
    float *attention;                     /* per worker */
    size_t attention_floats, squares;     /* scratch of one worker; Σ t² */
    const struct part_view *norm;         /* of the residual sum at work */
    float *hidden;                        /* NULL or (L+1,T,C) to be written */
};

void workspace_close(struct workspace *workspace) {
    arena_close(&workspace->arena);
    weight_scratch_close(&workspace->scratch);
    memset(workspace, 0, sizeof *workspace);
}

static int check_batch(const struct model *model, const struct batch *batch, size_t *longest, size_t *squares) {
    int status = 0;
    const struct model_config *config = &model->config;

    if (!batch->sequences || !batch->tokens) FAIL(E_SHAPE, "the batch is empty");
    if (batch->offset[0] != 0 || batch->offset[batch->sequences] != batch->tokens)
        FAIL(E_SHAPE, "offsets run from %u to %u but the batch has %zu tokens", batch->offset[0],
             batch->offset[batch->sequences], batch->tokens);
    *longest = *squares = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t length = (size_t)batch->offset[i + 1] - batch->offset[i];
        if (batch->offset[i + 1] <= batch->offset[i]) FAIL(E_SHAPE, "sequence %zu is empty", i);
        if (length > config->positions)
            FAIL(E_SHAPE, "sequence %zu has %zu tokens but the model has %zu positions", i, length, config->positions);
        if (length > *longest) *longest = length;
        *squares += length * length;
    }
    for (size_t t = 0; t < batch->tokens; t++) {
        if (batch->ids[t] < 0 || (size_t)batch->ids[t] >= config->vocabulary)
            FAIL(E_SHAPE, "token %zu has id %d outside the vocabulary of %zu", t, batch->ids[t], config->vocabulary);
        if (batch->token_types && (batch->token_types[t] < 0 || (size_t)batch->token_types[t] >= config->token_types))
            FAIL(E_SHAPE, "token %zu has type %d but the model has %zu", t, batch->token_types[t], config->token_types);
    }
out:
    return status;
}

/* Cut `count` floats from the arena; unlike arena_take, nothing is zeroed. */
static float *cut(struct arena *arena, size_t count) {
    float *view = (float *)(void *)(arena->base + arena->used_bytes);
    arena->used_bytes += size_round_up(count * sizeof(float), MEMORY_ALIGN);
    return view;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static int workspace_cut(struct forward *forward, size_t longest) {
    int status = 0;
    const struct model_config *config = &forward->model->config;
    struct arena *arena = &forward->workspace->arena;
    size_t T = forward->batch->tokens, B = forward->batch->sequences, C = config->width, F = config->feed_forward,
           A = config->heads * config->head_width;
    size_t middle = max_size(4 * size_round_up(T * A, 16), T * F);
    size_t scratch = size_round_up(attention_scratch(longest, config->head_width, false), 16);
    size_t floats = T + 2 * T * C + middle + 2 * B * C + B * config->classes + scratch * (size_t)threads_get();
    size_t bytes = floats * sizeof(float) + 16 * MEMORY_ALIGN;

    if (bytes > arena->capacity_bytes) {
        arena_close(arena);
        TRY(arena_open(arena, bytes + bytes / 4));
    }
    arena->used_bytes = 0;
    forward->position = (int32_t *)(void *)cut(arena, T);
    forward->x = cut(arena, T * C);
    forward->y = cut(arena, T * C);
    forward->up = forward->query = cut(arena, middle);
    forward->key = forward->query + size_round_up(T * A, 16);
    forward->value = forward->key + size_round_up(T * A, 16);
    forward->context = forward->value + size_round_up(T * A, 16);
    forward->first = cut(arena, B * C);
    forward->pooled = cut(arena, B * C);
    forward->logits = cut(arena, B * config->classes);
    forward->attention = cut(arena, scratch * (size_t)threads_get());
    forward->attention_floats = scratch;
    forward->workspace->tokens = T;
    forward->workspace->sequences = B;
out:
    return status;
}

/* Run the body here when the whole is small, else on all threads; either way the items are independent. */
static void run(size_t count, size_t elements_each, parallel_body *body, struct forward *forward) {
    size_t grain = max_size(1, GRAIN_ELEMENTS / max_size(1, elements_each));
    if (count * elements_each <= SERIAL_ELEMENTS) body(forward, 0, count, 0);
    else parallel_for(count, grain, body, forward);
}

static void embed_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    const struct model *model = forward->model;
    const struct part_view *norm = model_part(model, PART_EMBEDDING_NORM);
    const int32_t *types = forward->batch->token_types;
    size_t C = model->config.width;
    float *x = forward->x + begin * C;
    (void)worker;
    embedding_forward(end - begin, C, forward->batch->ids + begin, types ? types + begin : NULL,
                      forward->position + begin, model_part(model, PART_TOKENS)->weight->value,
                      model_part(model, PART_TYPES)->weight->value, model_part(model, PART_POSITIONS)->weight->value,
                      x);
    kernels.layer_norm(end - begin, C, x, norm->weight->value, norm->bias->value, model->config.norm_epsilon, x, NULL,
                       NULL);
}

/* Items are (sequence, head) pairs. */
static void attend(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    const struct model_config *config = &forward->model->config;
    size_t H = config->heads, D = config->head_width, A = H * D;
    float *scratch = forward->attention + (size_t)worker * forward->attention_floats;
    for (size_t i = begin; i < end; i++) {
        const uint32_t *offset = forward->batch->offset + i / H;
        size_t at = offset[0] * A + i % H * D;
        attention_forward(offset[1] - offset[0], D, A, forward->query + at, forward->key + at, forward->value + at,
                          forward->context + at, NULL, scratch);
    }
}

static void activate_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    size_t F = forward->model->config.feed_forward;
    (void)worker;
    for (size_t t = begin; t < end; t++) kernels.gelu(F, forward->up + t * F, forward->up + t * F);
}

static void residual_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    const struct part_view *norm = forward->norm;
    size_t C = forward->model->config.width;
    float *x = forward->x + begin * C;
    (void)worker;
    residual_norm_forward(end - begin, C, forward->y + begin * C, x, norm->weight->value, norm->bias->value,
                          forward->model->config.norm_epsilon, x, NULL, NULL);
}

static int multiply(struct forward *forward, const struct linear *linear, size_t T, const float *x, float *y) {
    if (forward->tap) forward->tap->input(forward->tap->context, linear, x, T);
    return weight_matmul(&linear->weight, T, x, linear->bias, y, &forward->workspace->scratch);
}

static int forward_block(struct forward *forward, size_t block) {
    int status = 0;
    const struct model *model = forward->model;
    const struct model_config *config = &model->config;
    const struct linear *in[] = {block_part(model, block, PART_QUERY)->linear,
                                 block_part(model, block, PART_KEY)->linear,
                                 block_part(model, block, PART_VALUE)->linear};
    const struct weight *weights[] = {&in[0]->weight, &in[1]->weight, &in[2]->weight};
    const float *biases[] = {in[0]->bias, in[1]->bias, in[2]->bias};
    float *outputs[] = {forward->query, forward->key, forward->value};
    size_t T = forward->batch->tokens, items = forward->batch->sequences * config->heads;

    for (size_t i = 0; forward->tap && i < 3; i++) forward->tap->input(forward->tap->context, in[i], forward->x, T);
    TRY(weight_matmul_shared(weights, biases, outputs, 3, T, forward->x, &forward->workspace->scratch));
    run(items, max_size(1, forward->squares * config->head_width / 4 / forward->batch->sequences), attend, forward);
    TRY(multiply(forward, block_part(model, block, PART_ATTENTION_OUTPUT)->linear, T, forward->context, forward->y));
    forward->norm = block_part(model, block, PART_ATTENTION_NORM);
    run(T, 2 * config->width, residual_rows, forward);
    TRY(multiply(forward, block_part(model, block, PART_UP)->linear, T, forward->x, forward->up));
    run(T, config->feed_forward, activate_rows, forward);
    TRY(multiply(forward, block_part(model, block, PART_DOWN)->linear, T, forward->up, forward->y));
    forward->norm = block_part(model, block, PART_FEED_FORWARD_NORM);
    run(T, 2 * config->width, residual_rows, forward);
out:
    return status;
}

static void keep_hidden(struct forward *forward, size_t state) {
    size_t count = forward->batch->tokens * forward->model->config.width;
    if (forward->hidden) memcpy(forward->hidden + state * count, forward->x, count * sizeof(float));
}

static int forward_heads(struct forward *forward, struct model_output *output) {
    int status = 0;
    const struct model *model = forward->model;
    const struct linear *pooler = model_part(model, PART_POOLER)->linear,
                        *classifier = model_part(model, PART_CLASSIFIER)->linear;
    size_t B = forward->batch->sequences, C = model->config.width;

    if (!pooler) goto out;
    for (size_t i = 0; i < B; i++)
        memcpy(forward->first + i * C, forward->x + forward->batch->offset[i] * C, C * sizeof(float));
    TRY(multiply(forward, pooler, B, forward->first, forward->pooled));
    for (size_t i = 0; i < B * C; i++) forward->pooled[i] = tanhf(forward->pooled[i]);
    output->pooled = forward->pooled;
    if (!classifier) goto out;
    TRY(multiply(forward, classifier, B, forward->pooled, forward->logits));
    output->logits = forward->logits;
out:
    return status;
}

static int forward_run(const struct model *model, const struct batch *batch, const struct model_tap *tap,
                       struct workspace *workspace, float *hidden, struct model_output *output) {
    int status = 0;
    struct forward forward = {.model = model, .batch = batch, .tap = tap, .workspace = workspace, .hidden = hidden};
    const struct model_config *config = &model->config;
    size_t longest = 0;

    memset(output, 0, sizeof *output);
    if (!model->prepared) FAIL(E_STATE, "the model is not prepared: call model_prepare after the last edit");
    TRY(check_batch(model, batch, &longest, &forward.squares));
    TRY(workspace_cut(&forward, longest));
    for (size_t i = 0; i < batch->sequences; i++)
        for (uint32_t t = batch->offset[i]; t < batch->offset[i + 1]; t++)
            forward.position[t] = (int32_t)(t - batch->offset[i]);
    run(batch->tokens, 2 * config->width, embed_rows, &forward);
    keep_hidden(&forward, 0);
    for (size_t block = 0; block < config->layers; block++) {
        TRY(forward_block(&forward, block));
        keep_hidden(&forward, block + 1);
    }
    output->hidden = forward.x;
    TRY(forward_heads(&forward, output));
    kernel_counters.tokens += batch->tokens;
    kernel_counters.multiply_adds += 2 * forward.squares * config->layers * config->heads * config->head_width;
out:
    return status;
}

int model_forward(const struct model *model, const struct batch *batch, const struct model_tap *tap,
                  struct workspace *workspace, struct model_output *output) {
    return forward_run(model, batch, tap, workspace, NULL, output);
}

int model_hidden_states(const struct model *model, const struct batch *batch, struct workspace *workspace, float *out) {
    struct model_output output;
    return forward_run(model, batch, NULL, workspace, out, &output);
}

int model_logits(const struct model *model, const float *hidden, const uint32_t *rows, size_t count,
                 struct workspace *workspace, float *out) {
    int status = 0;
    const struct part_view *transform = model_part(model, PART_HEAD_TRANSFORM),
                           *norm = model_part(model, PART_HEAD_NORM), *bias = model_part(model, PART_HEAD_BIAS);
    size_t C = model->config.width, V = model->config.vocabulary;
    float *block = NULL, *gathered, *x;
    void *taken;

    if (!transform->linear) FAIL(E_UNSUPPORTED, "the model has no masked-LM head");
    TRY(memory_take(&taken, 2 * count * C, sizeof(float)));
    block = taken;
    gathered = block;
    x = block + count * C;
    for (size_t i = 0; i < count; i++) memcpy(gathered + i * C, hidden + (rows ? rows[i] : i) * C, C * sizeof(float));
    TRY(weight_matmul(&transform->linear->weight, count, gathered, transform->linear->bias, x, &workspace->scratch));
    for (size_t i = 0; i < count; i++) kernels.gelu(C, x + i * C, x + i * C);
    kernels.layer_norm(count, C, x, norm->weight->value, norm->bias->value, model->config.norm_epsilon, x, NULL, NULL);
    for (size_t i = 0; i < count; i++) memcpy(out + i * V, bias->weight->value, V * sizeof(float));
    gemm_f32(false, true, count, V, C, 1.0f, x, C, model_part(model, PART_TOKENS)->weight->value, C, 1.0f, out, V);
out:
    memory_release(block);
    return status;
}
