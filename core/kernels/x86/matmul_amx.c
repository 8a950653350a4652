/* bf16 and int8 matrix multiplication with AMX, the tile unit of Sapphire Rapids and later (Intel SDM volume 1, chapter
 * "Programming with Intel AMX").
 *
 * A tile is 16 rows of 64 bytes. 16 tokens by 64 bytes of columns (32 bf16, 64 int8) are one, read with the stride of
 * the activations; 1024 bytes of a panel are one of weights, as they lie; the sums of 16 tokens by a panel are one. One
 * instruction multiplies two of them in 16 cycles. 32 tokens by 2 panels keep 4 tiles of sums: 4 tiles are loaded, in 8
 * cycles each, for 4 multiplications. Up to 16 tokens take 4 panels: 5 loads for 4.
 *
 * A bf16 output is summed in steps of 32 columns from column 0 on: the products of the even and of the odd columns are
 * chains of their own that start at 0, then both are added to the sum (SDM, TDPBF16PS). All numbers of tokens go
 * through tiles, so the order depends on N alone. What is left of the columns is multiplied from copies that end in
 * zeros, what is left of the tokens in tiles with fewer rows: their shapes are loaded once per call for all blocks of
 * 32 tokens and once for the rest, and released at the end, so that nothing of them is saved while the thread does
 * other work. The float arithmetic of int8 is that of kernels_c.c, one rounding per operation. */
#if defined(__x86_64__) || defined(EMULATE_AMX)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <stdbool.h>
#include <string.h>
#if !defined(EMULATE_AMX)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE_ROWS 16
#define ROW_BYTES 64
#define TILE_BYTES (TILE_ROWS * ROW_BYTES)

/* What ldtilecfg reads: palette 1 has 8 tiles. */
struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

union tile_lane {
    float f32;
    int32_t s32;
};

/* The operands, in bytes. */
struct tile_product {
    size_t row_bytes, x_stride, panel_bytes, whole, rest; /* row_bytes = whole + rest; whole in steps of 64 */
    const float *scale_x, *scale_w, *bias;                /* of the block's first token and row; scales: int8 alone */
    struct zero_points zeros;                             /* int8: those from the same token and row on */
    float *y;
    size_t y_stride, tokens, left; /* of the block; rows from its first one on */
    _Alignas(ROW_BYTES) uint8_t tail_x[2][TILE_ROWS][ROW_BYTES], tail_w[4][TILE_BYTES];
    _Alignas(ROW_BYTES) union tile_lane sums[4][TILE_ROWS][PANEL_ROWS];
};

/* gcc's tile intrinsics do not say that they read memory. What was written for them must be there before. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

/* Tiles 0 to 3 are sums, 4 the first 16 tokens. With more than 16 tokens, 5 is the others and 6, 7 are weights: sums
 * 0, 1 belong to the first tokens, 2, 3 to the others. Else 5, 6, 7 are weights and there is a sum for each of 4
 * panels. */
static void tiles_shape(size_t tokens) {
    struct tile_shapes shapes = {.palette = 1};
    uint8_t first = (uint8_t)(tokens < TILE_ROWS ? tokens : TILE_ROWS), second = (uint8_t)(tokens - first);
    for (size_t i = 0; i < 8; i++) {
        shapes.row_bytes[i] = ROW_BYTES;
        shapes.rows[i] = i < 5 ? first : TILE_ROWS;
    }
    if (second) shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = second;
    written();
    _tile_loadconfig(&shapes);
}

/* Tile numbers are part of the instruction. */
#define MULTIPLY(sum, x, w)                                                                                            \
    do {                                                                                                               \
        if (bf16) _tile_dpbf16ps(sum, x, w);                                                                           \
        else _tile_dpbssd(sum, x, w);                                                                                  \
    } while (0)

/* Add the products of one step: tokens at x (and the others at x_second), panels at w. */
INLINE void tiles_step(const bool bf16, const size_t halves, const size_t panels, const uint8_t *x,
                       const uint8_t *x_second, size_t x_stride, const uint8_t *w, size_t panel_bytes) {
    _tile_loadd(4, x, x_stride);
    if (halves == 2) {
        _tile_loadd(6, w, ROW_BYTES);
        MULTIPLY(0, 4, 6);
        _tile_loadd(5, x_second, x_stride);
        MULTIPLY(2, 5, 6);
        if (panels == 1) return;
        _tile_loadd(7, w + panel_bytes, ROW_BYTES);
        MULTIPLY(1, 4, 7);
        MULTIPLY(3, 5, 7);
        return;
    }
    _tile_loadd(5, w, ROW_BYTES);
    MULTIPLY(0, 4, 5);
    if (panels == 1) return;
    _tile_loadd(6, w + panel_bytes, ROW_BYTES);
    MULTIPLY(1, 4, 6);
    if (panels == 2) return;
    _tile_loadd(7, w + 2 * panel_bytes, ROW_BYTES);
    MULTIPLY(2, 4, 7);
    if (panels == 3) return;
    _tile_loadd(5, w + 3 * panel_bytes, ROW_BYTES);
    MULTIPLY(3, 4, 5);
}

/* What zero points take off the sums of one token in one panel, modulo 2^32: what is left fits. */
INLINE void take_off(const struct zero_points *zeros, size_t t, size_t row, union tile_lane *sum) {
    for (size_t r = 0; zeros->x && r < PANEL_ROWS; r++)
        sum[r].s32 = (int32_t)((uint32_t)sum[r].s32 - (uint32_t)zeros->x[t] * (uint32_t)zeros->row_sum[row + r]);
    for (size_t r = 0; zeros->w && r < PANEL_ROWS; r++)
        sum[r].s32 = (int32_t)((uint32_t)sum[r].s32 - (uint32_t)zeros->w[row + r] * (uint32_t)zeros->x_sum[t]);
}

/* Write the results of one token in one panel, or as many as are left when fewer. */
INLINE void finish_row(const bool bf16, const union tile_lane *sum, float scale_x, const float *scale_w,
                       const float *bias, size_t left, float *y) {
    float value[PANEL_ROWS];
    for (size_t r = 0; r < PANEL_ROWS; r++) value[r] = bf16 ? sum[r].f32 : (scale_x * scale_w[r]) * (float)sum[r].s32;
    if (left >= PANEL_ROWS) {
        for (size_t r = 0; r < PANEL_ROWS; r++) y[r] = bias ? value[r] + bias[r] : value[r];
    } else {
        for (size_t r = 0; r < left; r++) y[r] = bias ? value[r] + bias[r] : value[r];
    }
}

/* The tokens of a block by up to 2 (halves 2) or 4 panels. */
INLINE void tiles_block(const bool bf16, const size_t halves, const size_t panels, struct tile_product *c,
                        const uint8_t *x, const uint8_t *w) {
    const size_t width = halves == 2 ? 2 : 4; /* sums per half */
    const uint8_t *second = halves == 2 ? x + TILE_ROWS * c->x_stride : NULL;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t n = 0; n < c->whole; n += ROW_BYTES)
        tiles_step(bf16, halves, panels, x + n, halves == 2 ? second + n : NULL, c->x_stride, w + n * TILE_ROWS,
                   c->panel_bytes);
    if (c->rest) {
        for (size_t p = 0; p < panels; p++)
            memcpy(c->tail_w[p], w + p * c->panel_bytes + c->whole * TILE_ROWS, c->rest * TILE_ROWS);
        written();
        tiles_step(bf16, halves, panels, c->tail_x[0][0], c->tail_x[1][0], ROW_BYTES, c->tail_w[0], TILE_BYTES);
    }
    /* Whole panels of plain sums need no second look. */
    bool direct = bf16 && !c->bias && c->left >= panels * PANEL_ROWS;
    size_t stride = direct ? c->y_stride * sizeof *c->y : ROW_BYTES;
#define PLACE(i)                                                                                                       \
    (direct ? (void *)(c->y + (i) / width * TILE_ROWS * c->y_stride + (i) % width * PANEL_ROWS) : (void *)c->sums[i])
    _tile_stored(0, PLACE(0), stride);
    if (panels > 1) _tile_stored(1, PLACE(1), stride);
    if (halves == 2 || panels > 2) _tile_stored(2, PLACE(2), stride);
    if (halves == 2 ? panels > 1 : panels > 3) _tile_stored(3, PLACE(3), stride);
#undef PLACE
    if (direct) return;
    for (size_t t = 0; t < c->tokens; t++)
        for (size_t p = 0; p < panels; p++) {
            union tile_lane *sum = c->sums[t / TILE_ROWS * width + p][t % TILE_ROWS];
            if (!bf16) take_off(&c->zeros, t, p * PANEL_ROWS, sum);
            finish_row(bf16, sum, bf16 ? 0 : c->scale_x[t], bf16 ? NULL : c->scale_w + p * PANEL_ROWS,
                       c->bias ? c->bias + p * PANEL_ROWS : NULL, c->left - p * PANEL_ROWS,
                       c->y + t * c->y_stride + p * PANEL_ROWS);
        }
}

/* A block of up to 32 tokens by all panels; scale_w, bias and y advance from panel to panel. */
INLINE void tiles_panels(const bool bf16, size_t rows, struct tile_product *c, const uint8_t *x, const uint8_t *w) {
    for (size_t t = 0; c->rest && t < c->tokens; t++)
        memcpy(c->tail_x[t / TILE_ROWS][t % TILE_ROWS], x + t * c->x_stride + c->whole, c->rest);
    for (size_t r = 0, panels; r < rows; r += panels * PANEL_ROWS, w += panels * c->panel_bytes) {
        c->left = rows - r;
        panels = (c->left + PANEL_ROWS - 1) / PANEL_ROWS;
        if (c->tokens > TILE_ROWS) {
            panels = panels < 2 ? panels : 2;
            if (panels == 2) tiles_block(bf16, 2, 2, c, x, w);
            else tiles_block(bf16, 2, 1, c, x, w);
        } else {
            panels = panels < 4 ? panels : 4;
            switch (panels) {
            case 1: tiles_block(bf16, 1, 1, c, x, w); break;
            case 2: tiles_block(bf16, 1, 2, c, x, w); break;
            case 3: tiles_block(bf16, 1, 3, c, x, w); break;
            default: tiles_block(bf16, 1, 4, c, x, w); break;
            }
        }
        c->y += panels * PANEL_ROWS;
        if (c->scale_w) c->scale_w += panels * PANEL_ROWS;
        if (c->bias) c->bias += panels * PANEL_ROWS;
        if (c->zeros.x) c->zeros.row_sum += panels * PANEL_ROWS;
        if (c->zeros.w) c->zeros.w += panels * PANEL_ROWS;
    }
}

INLINE void tiles_multiply(const bool bf16, size_t T, size_t row_bytes, const uint8_t *x, size_t x_stride,
                           const float *scale_x, const uint8_t *panels, const float *scale_w,
                           const struct zero_points *zeros, const float *bias, float *y, size_t y_stride, size_t rows) {
    struct tile_product c;
    c.x_stride = x_stride;
    c.panel_bytes = row_bytes * PANEL_ROWS;
    c.rest = row_bytes % ROW_BYTES;
    c.whole = row_bytes - c.rest;
    c.y_stride = y_stride;
    if (c.rest) {
        memset(c.tail_x, 0, sizeof c.tail_x);
        memset(c.tail_w, 0, sizeof c.tail_w);
    }
    for (size_t t = 0, shaped = 0; t < T; t += shaped) {
        c.tokens = T - t < 2 * TILE_ROWS ? T - t : 2 * TILE_ROWS;
        if (c.tokens != shaped) tiles_shape(shaped = c.tokens);
        c.scale_x = bf16 ? NULL : scale_x + t;
        c.scale_w = scale_w;
        c.bias = bias;
        c.zeros = (struct zero_points){0};
        if (zeros) c.zeros = *zeros;
        if (c.zeros.x) c.zeros.x += t;
        if (c.zeros.w) c.zeros.x_sum += t;
        c.y = y + t * y_stride;
        tiles_panels(bf16, rows, &c, x + t * x_stride, panels);
    }
    _tile_release();
}

KERNEL_MATMUL_BF16(matmul_bf16_amx) {
    tiles_multiply(true, T, n_padded * sizeof *x, (const uint8_t *)x, x_stride * sizeof *x, NULL,
                   (const uint8_t *)weights, NULL, NULL, bias, y, y_stride, rows);
}

KERNEL_MATMUL_S8(matmul_s8_amx) {
    (void)row_negative;
    tiles_multiply(false, T, n_padded, (const uint8_t *)q, n_padded, scale_x, (const uint8_t *)panels, scale_w, zeros,
                   bias, y, y_stride, rows);
}
#undef MULTIPLY
#undef INLINE
#else
typedef int empty_translation_unit;
#endif
