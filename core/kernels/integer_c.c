/* The C versions of the integer kernels: quantization of activations, and multiplication of bytes and nibbles. As in
 * kernels_c.c the float arithmetic has one rounding per operation, in the order that every variant repeats, so that all
 * variants agree bit for bit. */
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <math.h>
#include <string.h>

/* Rows of the panel that starts at row r. */
static size_t rows_of_panel(size_t rows, size_t r) { return rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS; }

/* The largest magnitude compared as bits, so that a NaN wins and reaches the scale instead of vanishing. */
static float largest_magnitude(const float *x, size_t count) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        if (bits > largest) largest = bits;
    }
    float value;
    memcpy(&value, &largest, sizeof value);
    return value;
}

static void sum_groups(size_t n_padded, size_t G, const int8_t *codes, int32_t *sums) {
    for (size_t g = 0; g < n_padded / G; g++) {
        sums[g] = 0;
        for (size_t n = g * G; n < (g + 1) * G; n++) sums[g] += codes[n];
    }
}

KERNEL_QUANTIZE_S8(quantize_s8_c) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        float step = largest_magnitude(row, N) / 127.0f;
        scale[t] = step;
        for (size_t n = 0; n < N; n++) {
            /* A step that underflowed to zero counts as an all-zero token; clamping covers coarse denormal
             * steps and turns NaN into -127 (the scale is NaN then). */
            float code = step == 0.0f ? 0.0f : rintf(row[n] / step);
            code = code > -127.0f ? code : -127.0f;
            codes[n] = (int8_t)(code < 127.0f ? code : 127.0f);
        }
        memset(codes + N, 0, n_padded - N);
        sum_groups(n_padded, G, codes, sums + t * (n_padded / G));
    }
}

KERNEL_RANGE_F32(range_f32_c) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        low[t] = high[t] = 0;
        for (size_t n = 0; n < N; n++) {
            low[t] = row[n] < low[t] ? row[n] : low[t];
            high[t] = row[n] > high[t] ? row[n] : high[t];
        }
        for (size_t n = 0; n < N; n++)
            if (isnan(row[n])) low[t] = high[t] = NAN;
    }
}

KERNEL_QUANTIZE_AFFINE(quantize_affine_c) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride, step = scale[t];
        int8_t *codes = q + t * n_padded;
        float bottom = (float)(least - zero[t]), top = (float)(most - zero[t]);
        for (size_t n = 0; n < N; n++) {
            float code = rintf(row[n] / step);
            code = code > bottom ? code : bottom;
            code = code < top ? code : top;
            codes[n] = (int8_t)((int32_t)code + zero[t]);
            if (isnan(row[n])) scale[t] = NAN;
        }
        memset(codes + N, 0, n_padded - N);
        sum_groups(n_padded, G, codes, sums + t * (n_padded / G));
    }
}

/* What zero points take off the sum of token t and row r. Modulo 2^32, as the variants' registers: what is left fits.
 */
static uint32_t taken_off(const struct zero_points *zeros, size_t t, size_t r) {
    uint32_t off = 0;
    if (zeros && zeros->x) off += (uint32_t)zeros->x[t] * (uint32_t)zeros->row_sum[r];
    if (zeros && zeros->w) off += (uint32_t)zeros->w[r] * (uint32_t)zeros->x_sum[t];
    return off;
}

KERNEL_MATMUL_S8(matmul_s8_c) {
    (void)row_negative, (void)row_total;
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            int32_t sum[PANEL_ROWS] = {0};
            const int8_t *codes = q + t * n_padded, *panel = panels + first * n_padded;
            for (size_t n = 0; n < n_padded; n += 4)
                for (size_t r = 0; r < PANEL_ROWS; r++)
                    for (size_t b = 0; b < 4; b++) sum[r] += codes[n + b] * panel[n * PANEL_ROWS + r * 4 + b];
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) {
                int32_t whole = (int32_t)((uint32_t)sum[r] - taken_off(zeros, t, first + r));
                float value = (scale_x[t] * scale_w[first + r]) * (float)whole;
                y[t * y_stride + first + r] = bias ? value + bias[first + r] : value;
            }
        }
}

/* total[r] += scale[r] * (Σ q c - zero[r] Σ q) of one group of bytes of one token. */
static void add_group_s8(size_t G, int symmetric, const int8_t *q, int32_t q_sum, const uint8_t *group,
                         float total[PANEL_ROWS]) {
    const int8_t *zero = (const int8_t *)group + 32, *codes = symmetric ? zero : zero + PANEL_ROWS;
    for (size_t r = 0; r < PANEL_ROWS; r++) {
        int32_t sum = 0;
        uint16_t half;
        for (size_t n = 0; n < G; n++) sum += codes[n / 4 * 64 + r * 4 + n % 4] * q[n];
        if (!symmetric) sum -= zero[r] * q_sum;
        memcpy(&half, group + 2 * r, sizeof half);
        total[r] += half_to_float(half) * (float)sum;
    }
}

KERNEL_MATMUL_S8_GROUPS(matmul_s8_groups_c) {
    size_t groups = n_padded / G, panel_bytes = panel_s8_groups_bytes(n_padded, G, symmetric);
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            const uint8_t *panel = panels + first / PANEL_ROWS * panel_bytes;
            float total[PANEL_ROWS] = {0};
            for (size_t g = 0; g < groups; g++)
                add_group_s8(G, symmetric, q + t * n_padded + g * G, sums[t * groups + g],
                             panel + g * (panel_bytes / groups), total);
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) {
                if (zero_x) total[r] -= (float)zero_x[t] * row_value[first + r];
                float value = scale_x[t] * total[r];
                y[t * y_stride + first + r] = bias ? value + bias[first + r] : value;
            }
        }
}

/* total[r] += scale[r] * (Σ q c - zero[r] Σ q) of one group of one token. */
static void add_group(size_t G, int symmetric, const int8_t *q, int32_t q_sum, const uint8_t *group,
                      float total[PANEL_ROWS]) {
    const uint8_t *codes = group + (symmetric ? 32 : 48);
    int32_t sum[PANEL_ROWS] = {0};
    for (size_t n = 0; n < G; n += 8)
        for (size_t r = 0; r < PANEL_ROWS; r++)
            for (size_t b = 0; b < 4; b++) {
                uint8_t pair = codes[n * PANEL_ROWS / 2 + r * 4 + b];
                sum[r] += (pair & 15) * q[n + b] + (pair >> 4) * q[n + 4 + b];
            }
    for (size_t r = 0; r < PANEL_ROWS; r++) {
        uint16_t half;
        memcpy(&half, group + 2 * r, sizeof half);
        int32_t zero = symmetric ? 8 : group[32 + r];
        total[r] += half_to_float(half) * (float)(sum[r] - zero * q_sum);
    }
}

KERNEL_MATMUL_U4(matmul_u4_c) {
    size_t groups = n_padded / G, panel_bytes = panel_u4_bytes(n_padded, G, symmetric);
    for (size_t first = 0; first < rows; first += PANEL_ROWS)
        for (size_t t = 0; t < T; t++) {
            const uint8_t *panel = panels + first / PANEL_ROWS * panel_bytes;
            float total[PANEL_ROWS] = {0};
            for (size_t g = 0; g < groups; g++)
                add_group(G, symmetric, q + t * n_padded + g * G, sums[t * groups + g],
                          panel + g * (panel_bytes / groups), total);
            for (size_t r = 0; r < rows_of_panel(rows, first); r++) {
                float value = scale_x[t] * total[r];
                y[t * y_stride + first + r] = bias ? value + bias[first + r] : value;
            }
        }
}
