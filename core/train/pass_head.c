/* The heads in training: loss, gradients of their parameters, and the gradient at the body's output.
 *
 * The masked-LM head is computed on the predicted positions alone. Its decoder is the token embedding: tiles
 * of the vocabulary each give their logits, later their rows of the embedding's gradient and their share of
 * the gradient at the head's input; shares are summed in the order of the tiles.
 */
#include "train/pass.h"

#include <math.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"
#include "model/layers.h"
#include "train/loss.h"

static void linear_gradients(const struct linear *linear, size_t T, const float *x, const float *dy) {
    linear_backward_weight(T, linear->columns, linear->rows, x, dy, 0, linear->rows, linear->parameter->gradient,
                           linear->bias_parameter->gradient);
}

void pass_classify(struct pass *pass, const int32_t *labels, double smoothing, double *loss) {
    const struct model *model = pass->model;
    const struct linear *pooler = model_part(model, PART_POOLER)->linear,
                        *classifier = model_part(model, PART_CLASSIFIER)->linear;
    size_t B = pass->batch->sequences, C = model->config.width, K = model->config.classes;
    const float *hidden = pass->block[model->config.layers].x;

    for (size_t s = 0; s < B; s++) memcpy(pass->first + s * C, hidden + pass->batch->offset[s] * C, C * sizeof(float));
    linear_forward(B, C, C, pass->first, pooler->value, pooler->bias, pass->pooled);
    for (size_t i = 0; i < B * C; i++) pass->pooled[i] = tanhf(pass->pooled[i]);
    memcpy(pass->dropped, pass->pooled, B * C * sizeof(float));
    if (pass->dropout > 0)
        dropout_forward(pass->seed, pass->stream[2 * model->config.layers + 1], 0, B * C, pass->dropout, pass->dropped,
                        pass->keep_pooled);
    linear_forward(B, C, K, pass->dropped, classifier->value, classifier->bias, pass->logits);
    *loss = loss_cross_entropy(pass->logits, labels, B, K, smoothing, pass->logits);
    linear_gradients(classifier, B, pass->dropped, pass->logits);
    linear_backward_input(B, C, K, pass->logits, classifier->value, false, pass->dpooled);
    if (pass->dropout > 0) dropout_backward(B * C, pass->dropout, pass->keep_pooled, pass->dpooled, pass->dpooled);
    for (size_t i = 0; i < B * C; i++) pass->dpooled[i] *= 1.0f - pass->pooled[i] * pass->pooled[i];
    linear_gradients(pooler, B, pass->first, pass->dpooled);
    linear_backward_input(B, C, C, pass->dpooled, pooler->value, false, pass->dfirst);
    for (size_t s = 0; s < B; s++)
        memcpy(pass->dx + pass->batch->offset[s] * C, pass->dfirst + s * C, C * sizeof(float));
}

/* Logits of one tile of the vocabulary. */
static void decode_tiles(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    const float *tokens = model_part(pass->model, PART_TOKENS)->weight->value,
                *bias = model_part(pass->model, PART_HEAD_BIAS)->weight->value;
    size_t C = pass->model->config.width, V = pass->model->config.vocabulary, M = pass->rows;
    (void)worker;
    for (size_t i = 0; i < M; i++) memcpy(pass->logits + i * V + begin, bias + begin, (end - begin) * sizeof(float));
    gemm_f32(false, true, M, end - begin, C, 1.0f, pass->normed, C, tokens + begin * C, C, 1.0f, pass->logits + begin,
             V);
}

/* From the gradient of the logits, in place in `logits`: rows begin..end-1 of the embedding's gradient and of the
 * decoder's bias, and this tile's share of the gradient of `normed`. */
static void decode_back_tiles(void *context, size_t begin, size_t end, int worker) {
    struct pass *pass = context;
    const struct parameter *tokens = model_part(pass->model, PART_TOKENS)->weight;
    float *dbias = model_part(pass->model, PART_HEAD_BIAS)->weight->gradient;
    size_t C = pass->model->config.width, V = pass->model->config.vocabulary, M = pass->rows, n = end - begin;
    const float *dlogits = pass->logits + begin;
    (void)worker;
    gemm_f32(true, false, n, C, M, 1.0f, dlogits, V, pass->normed, C, 0.0f, tokens->gradient + begin * C, C);
    gemm_f32(false, false, M, C, n, 1.0f, dlogits, V, tokens->value + begin * C, C, 0.0f,
             pass->dnormed_partial + begin / HEAD_VOCABULARY_TILE * M * C, C);
    memset(dbias + begin, 0, n * sizeof *dbias);
    for (size_t i = 0; i < M; i++) kernels.add(n, dlogits + i * V, dbias + begin);
}

static void clear(const struct parameter *parameter) {
    if (parameter) memset(parameter->gradient, 0, parameter->rows * parameter->columns * sizeof(float));
}

void pass_masked(struct pass *pass, double smoothing, double *loss) {
    const struct model *model = pass->model;
    const struct linear *transform = model_part(model, PART_HEAD_TRANSFORM)->linear;
    const struct part_view *norm = model_part(model, PART_HEAD_NORM);
    size_t C = model->config.width, V = model->config.vocabulary, M = pass->rows;
    size_t tiles = (V + HEAD_VOCABULARY_TILE - 1) / HEAD_VOCABULARY_TILE;
    const float *hidden = pass->block[model->config.layers].x;

    clear(norm->weight);
    clear(norm->bias);
    if (M == 0) { /* nothing to predict: every gradient of the head is zero */
        clear(transform->parameter);
        clear(transform->bias_parameter);
        clear(model_part(model, PART_HEAD_BIAS)->weight);
        *loss = 0;
        return;
    }
    for (size_t i = 0; i < M; i++) memcpy(pass->gathered + i * C, hidden + (size_t)pass->row[i] * C, C * sizeof(float));
    linear_forward(M, C, C, pass->gathered, transform->value, transform->bias, pass->transformed);
    kernels.gelu(M * C, pass->transformed, pass->activated);
    kernels.layer_norm(M, C, pass->activated, norm->weight->value, norm->bias->value, model->config.norm_epsilon,
                       pass->normed, pass->mean, pass->rstd);
    parallel_for(V, HEAD_VOCABULARY_TILE, decode_tiles, pass);
    *loss = loss_cross_entropy(pass->logits, pass->row_label, M, V, smoothing, pass->logits);
    parallel_for(V, HEAD_VOCABULARY_TILE, decode_back_tiles, pass);
    memcpy(pass->dnormed, pass->dnormed_partial, M * C * sizeof(float));
    for (size_t i = 1; i < tiles; i++) kernels.add(M * C, pass->dnormed_partial + i * M * C, pass->dnormed);
    norm_backward(M, C, pass->activated, pass->mean, pass->rstd, norm->weight->value, pass->dnormed, pass->dnormed,
                  norm->weight->gradient, norm->bias->gradient);
    kernels.gelu_backward(M * C, pass->transformed, pass->dnormed, pass->dnormed);
    linear_gradients(transform, M, pass->gathered, pass->dnormed);
    linear_backward_input(M, C, C, pass->dnormed, transform->value, false, pass->gathered);
    for (size_t i = 0; i < M; i++)
        memcpy(pass->dx + (size_t)pass->row[i] * C, pass->gathered + i * C, C * sizeof(float));
}
