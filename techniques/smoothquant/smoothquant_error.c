/* See smoothquant.h. Rows of a layer are taken in tiles; errors of tiles are added up in their order, so that the sum
 * does not depend on the number of threads.
 */
#include "smoothquant.h"

#include <math.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/gemm.h"

#define TILE 64
#define FLOOR 1e-5f /* of weights' maxima and of factors, as in the reference code */

int smoothquant_factors(const struct model *model, const struct smoothquant_site *site, double alpha, float *factor) {
    int status = 0;
    size_t count = site->fold.channels;
    void *block = NULL;
    TRY(memory_take(&block, 2 * count, sizeof(float)));
    float *inputs = block, *weights = inputs + count;
    fold_channel_absmax(model, &site->fold, site->columns, inputs);
    if (alpha >= 0) fold_consumer_absmax(model, &site->fold, weights);
    for (size_t i = 0; i < count; i++) {
        factor[i] = 1;
        if (alpha < 0 || !(inputs[i] > 0)) continue;
        double weight = (double)fmaxf(weights[i], FLOOR);
        factor[i] = fmaxf((float)(pow((double)inputs[i], alpha) / pow(weight, 1 - alpha)), FLOOR);
    }
out:
    memory_release(block);
    return status;
}

struct product {
    const struct linear *linear;
    const float *x, *rounded; /* (T,N) */
    const float *columns;     /* [N] factor of each column */
    size_t T;
    float *room;          /* (workers, TILE·N + T·TILE) */
    double *error, *size; /* per tile */
};

static float round_to(float value, float scale) { return scale > 0 ? nearbyintf(value / scale) * scale : 0; }

static void multiply_tile(void *context, size_t begin, size_t end, int worker) {
    const struct product *product = context;
    size_t N = product->linear->columns, T = product->T, R = end - begin;
    const float *w = product->linear->value + begin * N;
    float *weights = product->room + (size_t)worker * (TILE * N + T * TILE), *y = weights + TILE * N;
    double error = 0, size = 0;
    for (size_t r = 0; r < R; r++) {
        float most = 0;
        for (size_t n = 0; n < N; n++) most = fmaxf(most, fabsf(w[r * N + n] * product->columns[n]));
        for (size_t n = 0; n < N; n++) weights[r * N + n] = round_to(w[r * N + n] * product->columns[n], most / 127);
    }
    gemm_f32(false, true, T, R, N, 1, product->x, N, w, N, 0, y, R);
    for (size_t i = 0; i < T * R; i++) size += (double)y[i] * (double)y[i];
    gemm_f32(false, true, T, R, N, 1, product->rounded, N, weights, N, -1, y, R);
    for (size_t i = 0; i < T * R; i++) error += (double)y[i] * (double)y[i];
    product->error[begin / TILE] = error;
    product->size[begin / TILE] = size;
}

int smoothquant_error(const struct model *model, const struct smoothquant_site *site, const float *factor,
                      double *error, double *size) {
    int status = 0;
    size_t N = site->fold.columns, T = site->seen < SMOOTHQUANT_ROWS ? (size_t)site->seen : SMOOTHQUANT_ROWS;
    size_t most_tiles = 0;
    void *block = NULL, *room = NULL, *sums = NULL;
    float reach = 0;

    for (size_t k = 0; k < site->fold.consumers; k++) {
        size_t tiles = (model->linears[site->fold.consumer[k]].rows + TILE - 1) / TILE;
        most_tiles = tiles > most_tiles ? tiles : most_tiles;
    }
    TRY(memory_take(&block, (T + 1) * N, sizeof(float)));
    TRY(memory_take(&room, (size_t)threads_get() * (TILE * N + T * TILE), sizeof(float)));
    TRY(memory_take(&sums, 2 * most_tiles, sizeof(double)));
    float *columns = block, *rounded = columns + N;
    for (size_t n = 0; n < N; n++) {
        columns[n] = factor[fold_channel(model, &site->fold, n)];
        reach = fmaxf(reach, site->columns[n] / columns[n]);
    }
    for (size_t i = 0; i < T * N; i++) rounded[i] = round_to(site->rows[i] / columns[i % N], reach / 127);
    *error = *size = 0;
    for (size_t k = 0; k < site->fold.consumers; k++) {
        struct product product = {.linear = &model->linears[site->fold.consumer[k]],
                                  .x = site->rows,
                                  .rounded = rounded,
                                  .columns = columns,
                                  .T = T,
                                  .room = room,
                                  .error = sums,
                                  .size = (double *)sums + most_tiles};
        parallel_for(product.linear->rows, TILE, multiply_tile, &product);
        for (size_t tile = 0; tile * TILE < product.linear->rows; tile++) {
            *error += product.error[tile];
            *size += product.size[tile];
        }
    }
out:
    memory_release(block);
    memory_release(room);
    memory_release(sums);
    return status;
}
