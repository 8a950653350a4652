/* The C versions of the attention kernels: the oracle of the variants, and what runs where there is none.
 *
 * One row at a time, in the plainest form of the contract. The two element types share a body through a macro whose
 * argument reads one element. */
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <math.h>
#include <string.h>

KERNEL_PACK_F32(pack_f32_c) {
    memset(panel, 0, N * PANEL_ROWS * sizeof *panel);
    for (size_t r = 0; r < valid; r++)
        for (size_t i = 0; i < N; i++) panel[i * PANEL_ROWS + r] = x[r * x_stride + i];
}

/* Scores become weights 2^(s-top) in place; returns the factor for what was summed under the old maximum. */
static float weigh(size_t count, float *score, float *top, float *sum) {
    float largest = *top, added = 0;
    for (size_t j = 0; j < count; j++)
        if (score[j] > largest) largest = score[j];
    float factor = exp2f(*top - largest);
    for (size_t j = 0; j < count; j++) {
        score[j] = exp2f(score[j] - largest);
        added += score[j];
    }
    *top = largest;
    *sum = *sum * factor + added;
    return factor;
}

#define ATTEND_BODY(read)                                                                                              \
    float score[ATTEND_KEYS];                                                                                          \
    (void)n;                                                                                                           \
    for (size_t t = 0; t < T; t++, q += D, y += W) {                                                                   \
        if (low[t] >= high[t]) continue;                                                                               \
        for (size_t j = low[t]; j < high[t]; j++) {                                                                    \
            float product = 0;                                                                                         \
            for (size_t d = 0; d < D; d++)                                                                             \
                product += q[d] * read(k[(j / PANEL_ROWS * D + d) * PANEL_ROWS + j % PANEL_ROWS]);                     \
            score[j - low[t]] = product;                                                                               \
        }                                                                                                              \
        float factor = weigh(high[t] - low[t], score, top + t, sum + t);                                               \
        for (size_t w = 0; w < W; w++) y[w] *= factor;                                                                 \
        for (size_t j = low[t]; j < high[t]; j++)                                                                      \
            for (size_t w = 0; w < W; w++) y[w] += score[j - low[t]] * read(v[j * v_stride + w]);                      \
    }

#define READ_F32(value) (value)
KERNEL_ATTEND_F32(attend_f32_c){ATTEND_BODY(READ_F32)} KERNEL_ATTEND_F16(attend_f16_c) { ATTEND_BODY(half_to_float) }
