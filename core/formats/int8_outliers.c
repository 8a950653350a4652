/* Columns of an int8 layer's input that are multiplied in floating point (LLM.int8(), Dettmers et al. 2022, section 3).
 *
 * The weights stay in eight bits: a column's are dequantized as they are needed, as bitsandbytes has it (TECHNIQUES
 * 2.9), because which columns those are is known only when the input is. Few are, so this is plain C: the same
 * operations on every machine, one rounding each. */
#include "formats/execution.h"
#include "kernels/kernels.h"

/* One token by one panel of 16 rows. */
static void multiply_panel(const uint16_t *columns, size_t count, const float *x, const int8_t *panel,
                           const float *scale, size_t rows, float *y) {
    float sum[PANEL_ROWS] = {0};
    for (size_t i = 0; i < count; i++) {
        size_t n = columns[i];
        const int8_t *codes = panel + n / 4 * 64 + n % 4;
        for (size_t r = 0; r < PANEL_ROWS; r++) sum[r] += x[n] * (float)codes[4 * r];
    }
    for (size_t r = 0; r < rows; r++) y[r] += scale[r] * sum[r];
}

void outliers_multiply(const struct outliers *outliers, const float *x, const struct weight_shape *shape,
                       const int8_t *codes, const float *scale, size_t t_begin, size_t t_end, size_t p_begin,
                       size_t p_end, float *y) {
    size_t R = shape->rows, N = shape->columns, n_padded = size_round_up(N, 64);
    for (size_t t = t_begin; t < t_end; t++) {
        size_t sequence = outliers->sequence[t], count = outliers->count[sequence];
        const uint16_t *columns = outliers->columns + sequence * N;
        for (size_t p = p_begin; count && p < p_end; p++)
            multiply_panel(columns, count, x + t * N, codes + p * 16 * n_padded, scale + p * 16,
                           R - p * 16 < PANEL_ROWS ? R - p * 16 : PANEL_ROWS, y + t * R + p * 16);
    }
}
