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
#define SHIFT 12582912.0f /* 1.5·2²³, where floats are 1 apart */
#define FLOOR 1e-5f       /* of weights' maxima and of factors, as in the reference code */

void smoothquant_factors(const struct smoothquant_site *site, double alpha, float *factor) {
    for (size_t i = 0; i < site->fold.channels; i++) {
        double input = (double)site->inputs[i], weight = (double)fmaxf(site->weights[i], FLOOR);
        factor[i] = 1;
        if (alpha >= 0 && input > 0) factor[i] = fmaxf((float)(pow(input, alpha) / pow(weight, 1 - alpha)), FLOOR);
    }
}

/* Of int8 for magnitudes up to `most`. */
static float scale_of(float most) { return most > 0 ? most / 127 : 1; }

struct product {
    const struct linear *linear;
    const float *x, *rounded; /* (T,N) */
    const float *columns;     /* [N] factor of each column */
    size_t T;
    float *room;          /* (workers, TILE·N + T·TILE) */
    double *error, *size; /* per tile */
};

/* The nearest multiple of scale (halves to even), |value| being at most 127 of them; a sum that compiles to vector code
 * where a call of nearbyintf would not. */
static inline float round_to(float value, float scale) { return ((value / scale + SHIFT) - SHIFT) * scale; }

static void multiply_tile(void *context, size_t begin, size_t end, int worker) {
    const struct product *product = context;
    size_t N = product->linear->columns, T = product->T, R = end - begin;
    const float *w = product->linear->value + begin * N;
    float *weights = product->room + (size_t)worker * (TILE * N + T * TILE), *y = weights + TILE * N;
    double error = 0, size = 0;
    for (size_t r = 0; r < R; r++) {
        float *row = weights + r * N, most = 0, scale;
        for (size_t n = 0; n < N; n++) {
            row[n] = w[r * N + n] * product->columns[n];
            most = fabsf(row[n]) > most ? fabsf(row[n]) : most;
        }
        scale = scale_of(most);
        for (size_t n = 0; n < N; n++) row[n] = round_to(row[n], scale);
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
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n++)
            rounded[t * N + n] = round_to(site->rows[t * N + n] / columns[n], scale_of(reach));
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
