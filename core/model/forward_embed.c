/* What enters the first block: token, type and position embeddings, their norm, and a projection where the embedding
 * is not as wide as the model.
 *
 * A table that serves as the head in 16 bits is rounded alike when it is read, so that a model held in 16 bits is one
 * model, whatever still lies in its file.
 */
#include "model/forward.h"

#include <string.h>

#include "kernels/kernels.h"

#define SOME 256 /* values that are rounded at a time */

/* To 16 bits and back, as what is packed in 16 bits is read. */
static void round_halves(enum weight_storage storage, size_t count, float *x) {
    uint16_t halves[SOME];
    for (size_t i = 0, some; i < count; i += some) {
        some = count - i < SOME ? count - i : SOME;
        if (storage == STORAGE_F16) {
            kernels.narrow_f16(some, x + i, halves);
            kernels.widen_f16(some, halves, x + i);
            continue;
        }
        kernels.narrow_bf16(some, x + i, halves);
        for (size_t j = 0; j < some; j++) {
            uint32_t bits = (uint32_t)halves[j] << 16;
            memcpy(x + i + j, &bits, sizeof bits);
        }
    }
}

static void read_token(const struct forward *forward, size_t t, size_t width, float *out) {
    size_t row = (size_t)forward->batch->ids[t];
    parameter_rows(model_part(forward->model, PART_TOKENS)->weight, row, row + 1, out);
    if (forward->model->storage != STORAGE_F32) round_halves(forward->model->storage, width, out);
}

/* Types, positions and norm, onto what x holds. */
static void finish_row(const struct forward *forward, size_t t, float *x) {
    const struct model *model = forward->model;
    const struct part_view *types = model_part(model, PART_TYPES), *positions = model_part(model, PART_POSITIONS),
                           *norm = model_part(model, PART_EMBEDDING_NORM);
    size_t C = model->config.width;
    if (types->weight) {
        size_t type = forward->batch->token_types ? (size_t)forward->batch->token_types[t] : 0;
        kernels.add(C, types->weight->value + type * C, x);
    }
    if (positions->weight) {
        size_t position = (size_t)forward->position[t] + model->config.position_offset;
        kernels.add(C, positions->weight->value + position * C, x);
    }
    if (norm->weight) forward_norm(&model->config, norm, 1, x, x);
}

static void embed_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    size_t C = forward->model->config.width;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        read_token(forward, t, C, forward->x + t * C);
        finish_row(forward, t, forward->x + t * C);
    }
}

static void read_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    size_t E = config_embedding_width(&forward->model->config);
    (void)worker;
    for (size_t t = begin; t < end; t++) read_token(forward, t, E, forward->embedded + t * E);
}

static void finish_rows(void *context, size_t begin, size_t end, int worker) {
    struct forward *forward = context;
    (void)worker;
    for (size_t t = begin; t < end; t++) finish_row(forward, t, forward->x + t * forward->model->config.width);
}

int forward_embed(struct forward *forward) {
    const struct linear *project = model_part(forward->model, PART_PROJECT_IN)->linear;
    size_t T = forward->batch->tokens, C = forward->model->config.width;
    int status = 0;
    if (!project) {
        forward_run_items(forward, T, 2 * C, embed_rows);
        return 0;
    }
    forward_run_items(forward, T, project->columns, read_rows);
    status = forward_multiply(forward, project, T, forward->embedded, forward->x);
    if (status == 0) forward_run_items(forward, T, 2 * C, finish_rows);
    return status;
}
