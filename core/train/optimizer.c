/* AdamW with clipping by the global norm (Loshchilov and Hutter 2019; torch's clip_grad_norm_: factor
 * min(1, limit / (norm + 1e-6))).
 *
 * Parameters are cut into fixed chunks: the norm is the sum of the chunks' sums in chunk order, so it is the
 * same at any number of threads, and with it every updated value.
 */
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#define CHUNK 32768

int optimizer_open(struct optimizer *optimizer, const struct model *model) {
    int status = 0;
    size_t bytes, chunks = 0, state = 0, count = model->parameter_count, used = 0;
    void *view;

    memset(optimizer, 0, sizeof *optimizer);
    optimizer->beta1 = 0.9;
    optimizer->beta2 = 0.999;
    optimizer->epsilon = 1e-8;
    optimizer->weight_decay = 0.01;
    optimizer->clip_norm = 1;
    for (size_t i = 0; i < count; i++) {
        size_t values = model->parameters[i].rows * model->parameters[i].columns;
        if (!model->parameters[i].gradient) continue;
        chunks += (values + CHUNK - 1) / CHUNK;
        state += 2 * size_round_up(values * sizeof(float), MEMORY_ALIGN);
    }
    bytes = state + 2 * size_round_up(count * sizeof(float *), MEMORY_ALIGN) +
            size_round_up(chunks * sizeof *optimizer->chunks, MEMORY_ALIGN) +
            size_round_up(chunks * sizeof *optimizer->partial, MEMORY_ALIGN);
    TRY(arena_open(&optimizer->arena, bytes));
    TRY(arena_take(&optimizer->arena, &view, count, sizeof(float *)));
    optimizer->m = view;
    TRY(arena_take(&optimizer->arena, &view, count, sizeof(float *)));
    optimizer->v = view;
    TRY(arena_take(&optimizer->arena, &view, chunks, sizeof *optimizer->chunks));
    optimizer->chunks = view;
    TRY(arena_take(&optimizer->arena, &view, chunks, sizeof *optimizer->partial));
    optimizer->partial = view;
    optimizer->chunk_count = chunks;
    for (size_t i = 0; i < count; i++) {
        size_t values = model->parameters[i].rows * model->parameters[i].columns;
        if (!model->parameters[i].gradient) continue;
        TRY(arena_take(&optimizer->arena, &view, values, sizeof(float)));
        optimizer->m[i] = view;
        TRY(arena_take(&optimizer->arena, &view, values, sizeof(float)));
        optimizer->v[i] = view;
        for (size_t begin = 0; begin < values; begin += CHUNK)
            optimizer->chunks[used++] =
                (struct optimizer_chunk){(uint32_t)i, begin, begin + CHUNK < values ? begin + CHUNK : values};
    }
out:
    if (status < 0) optimizer_close(optimizer);
    return status;
}

void optimizer_close(struct optimizer *optimizer) {
    arena_close(&optimizer->arena);
    memset(optimizer, 0, sizeof *optimizer);
}

struct update {
    struct optimizer *optimizer;
    struct model *model;
    float scale, rate, correction1, correction2;
};

static void sum_squares(void *context, size_t begin, size_t end, int worker) {
    struct update *update = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct optimizer_chunk *chunk = &update->optimizer->chunks[i];
        const float *g = update->model->parameters[chunk->parameter].gradient + chunk->begin;
        size_t count = chunk->end - chunk->begin, j = 0;
        double lane[4] = {0};
        for (; j + 4 <= count; j += 4)
            for (size_t k = 0; k < 4; k++) lane[k] += (double)g[j + k] * (double)g[j + k];
        for (; j < count; j++) lane[0] += (double)g[j] * (double)g[j];
        update->optimizer->partial[i] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    }
}

static void move(void *context, size_t begin, size_t end, int worker) {
    struct update *update = context;
    const struct optimizer *optimizer = update->optimizer;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct optimizer_chunk *chunk = &optimizer->chunks[i];
        const struct parameter *parameter = &update->model->parameters[chunk->parameter];
        size_t at = chunk->begin;
        float decay = parameter->kind == PARAMETER_VECTOR ? 0.0f : (float)optimizer->weight_decay;
        kernels.adamw(chunk->end - at, parameter->value + at, parameter->gradient + at, update->scale,
                      optimizer->m[chunk->parameter] + at, optimizer->v[chunk->parameter] + at, update->rate,
                      optimizer->beta1, optimizer->beta2, (float)optimizer->epsilon, decay, update->correction1,
                      update->correction2);
    }
}

int optimizer_step(struct optimizer *optimizer, struct model *model, double rate, double *norm) {
    int status = 0;
    double sum = 0, t = (double)(optimizer->step + 1);
    struct update update = {.optimizer = optimizer, .model = model, .scale = 1, .rate = (float)rate};

    parallel_for(optimizer->chunk_count, 1, sum_squares, &update);
    for (size_t i = 0; i < optimizer->chunk_count; i++) sum += optimizer->partial[i];
    *norm = sqrt(sum);
    if (!isfinite(*norm)) FAIL(E_NUMERIC, "the gradient's norm is %g", *norm);
    if (optimizer->clip_norm > 0 && *norm + 1e-6 > optimizer->clip_norm)
        update.scale = (float)(optimizer->clip_norm / (*norm + 1e-6));
    update.correction1 = (float)(1 - pow(optimizer->beta1, t));
    update.correction2 = (float)(1 - pow(optimizer->beta2, t));
    parallel_for(optimizer->chunk_count, 1, move, &update);
    optimizer->step++;
out:
    return status;
}
