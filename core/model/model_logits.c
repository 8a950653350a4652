/* Vocabulary logits and likelihoods of chosen tokens, and sentence embeddings.
 *
 * The head reads some rows of a pass's hidden states: masked LM transforms them (dense, GELU, norm), OPT-350M projects
 * them to the embedding's width; then one multiplication by the token embedding or the head's own matrix. Likelihoods
 * need a row of logits only until its largest, its target's and its sum are known, so rows go through in tiles whose
 * logits stay within a few megabytes.
 */
#include "model/family.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#define TILE_BYTES (16u << 20) /* logits of one tile: rows enough for a multiplication to run near its peak */
#define TILE_ROWS_MOST 256

/* Grow the workspace's block for the head; what it held is lost. */
static int head_room(struct workspace *workspace, size_t floats, float **room) {
    int status = 0;
    size_t bytes;
    TRY(size_multiply(floats, sizeof(float), &bytes));
    if (bytes > workspace->head_bytes) {
        memory_release(workspace->head);
        workspace->head = NULL;
        workspace->head_bytes = 0;
        TRY(memory_take(&workspace->head, bytes, 1));
        workspace->head_bytes = bytes;
    }
    *room = workspace->head;
out:
    return status;
}

/* Floats of room that head_logits needs beside the logits: rows, and what the head's own layers make of them, which may
 * be as wide as the embedding. */
static size_t room_floats(const struct model_config *config, size_t count) {
    size_t C = config->width, E = config_embedding_width(config);
    return count * (C + (E > C ? E : C));
}

/* out (count,V) from rows of hidden. */
static int head_logits(const struct model *model, const float *hidden, const uint32_t *rows, size_t count, float *room,
                       struct workspace *workspace, float *out) {
    int status = 0;
    const struct part_view *transform = model_part(model, PART_HEAD_TRANSFORM),
                           *norm = model_part(model, PART_HEAD_NORM), *project = model_part(model, PART_PROJECT_OUT);
    const struct parameter *bias = model_part(model, PART_HEAD_BIAS)->weight;
    const struct weight *head = model_head_weight(model);
    size_t C = model->config.width;
    float *gathered = room, *other = room + count * C;
    const float *x = hidden;

    if (rows) {
        for (size_t i = 0; i < count; i++) memcpy(gathered + i * C, hidden + rows[i] * C, C * sizeof(float));
        x = gathered;
    }
    if (transform->linear) {
        TRY(weight_matmul(&transform->linear->weight, count, x, transform->linear->bias, other, &workspace->scratch));
        kernels.gelu(count * C, other, other);
        kernels.layer_norm(count, C, other, norm->weight->value, norm->bias->value, model->config.norm_epsilon, other,
                           NULL, NULL);
        x = other;
    }
    if (project->linear) {
        TRY(weight_matmul(&project->linear->weight, count, x, NULL, other, &workspace->scratch));
        x = other;
    }
    TRY(weight_matmul(head, count, x, bias ? bias->value : NULL, out, &workspace->scratch));
out:
    return status;
}

static int check_head(const struct model *model) {
    int status = 0;
    if (!model->prepared) FAIL(E_STATE, "the model is not prepared: call model_prepare after the last edit");
    if (!model_head_weight(model)) FAIL(E_UNSUPPORTED, "the model has no language-model head (masked LM or causal LM)");
out:
    return status;
}

int model_logits(const struct model *model, const float *hidden, const uint32_t *rows, size_t count,
                 struct workspace *workspace, float *out) {
    int status = 0;
    float *room;
    TRY(check_head(model));
    TRY(head_room(workspace, room_floats(&model->config, count), &room));
    TRY(head_logits(model, hidden, rows, count, room, workspace, out));
out:
    return status;
}

/* Rows of logits to likelihoods. */
struct scoring {
    float *logits; /* (rows,V), overwritten */
    size_t V;
    const int32_t *target; /* [rows] */
    float *nll;
    int32_t *best; /* or NULL */
};

/* -log softmax: with p = softmax(x), Σ exp(x - max) is 1/p[best], which keeps nll exact where p[target] underflows. */
static void score_rows(void *context, size_t begin, size_t end, int worker) {
    const struct scoring *scoring = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float *x = scoring->logits + i * scoring->V, most = x[0], wanted;
        int32_t target = scoring->target[i];
        size_t best = 0;
        if (target < 0 && !scoring->best) continue;
        for (size_t v = 0; v < scoring->V; v++) most = x[v] > most ? x[v] : most;
        while (best + 1 < scoring->V && x[best] != most) best++;
        if (scoring->best) scoring->best[i] = (int32_t)best;
        if (target < 0) continue;
        wanted = x[target];
        kernels.softmax(1, scoring->V, scoring->V, 1.0f, x);
        scoring->nll[i] = (float)((double)most - (double)wanted - log((double)x[best]));
    }
}

int model_token_nll(const struct model *model, const float *hidden, const uint32_t *rows, const int32_t *target,
                    size_t count, struct workspace *workspace, float *nll, int32_t *best) {
    int status = 0;
    size_t V = model->config.vocabulary, C = model->config.width, tile = TILE_BYTES / (V * sizeof(float));
    float *room;

    TRY(check_head(model));
    for (size_t i = 0; i < count; i++)
        if (target[i] < -1 || (target[i] >= 0 && (size_t)target[i] >= V))
            FAIL(E_SHAPE, "target %zu is %d, outside the vocabulary of %zu", i, target[i], V);
    if (tile < 16) tile = 16;
    if (tile > TILE_ROWS_MOST) tile = TILE_ROWS_MOST;
    if (tile > count) tile = count;
    TRY(head_room(workspace, room_floats(&model->config, tile) + tile * V, &room));
    memset(nll, 0, count * sizeof *nll);
    for (size_t at = 0; at < count; at += tile) {
        size_t n = count - at < tile ? count - at : tile;
        float *logits = room + room_floats(&model->config, tile);
        struct scoring scoring = {logits, V, target + at, nll + at, best ? best + at : NULL};
        TRY(head_logits(model, rows ? hidden : hidden + at * C, rows ? rows + at : NULL, n, room, workspace, logits));
        parallel_for(n, 1, score_rows, &scoring);
    }
out:
    return status;
}
