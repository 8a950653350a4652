/* bf16 matrix multiplication with AVX-512 but without vdpbf16ps, or where that takes two cycles (CPU_SLOW_BF16): the
 * weights' pairs are split by shift and mask into two registers of f32, which serve all tokens of a tile; activations
 * are widened once per tile. Each output is one chain of FMAs over the columns in their order, so nothing but f32's
 * rounding happens to the sums. Tiles, fetching and why: matmul_panels.inc. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "matmul_tools.inc"

#define WIDE_COLUMNS 4096 /* of a tile's activations, widened at a time: 96 KiB on the stack */

/* The operands of a tile. */
struct tile_bf16 {
    size_t n_padded, columns; /* in all, and of this stretch */
    const float *x;           /* (tokens,columns) */
    const uint16_t *panel;    /* from the stretch's first column on */
    const char *ahead;        /* a line is fetched every `stride` bytes of it in each step; NULL: none */
    size_t stride;
    bool begins, ends; /* sums begin at 0, else in y; the bias is added */
    const float *bias;
    float *y;
    size_t y_stride, left; /* rows from the first one on */
};

INLINE void widen_16(const uint16_t *x, float *y) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    _mm512_storeu_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
}

static void widen(const uint16_t *x, size_t count, float *y) {
    size_t n = 0;
    for (; n + 16 <= count; n += 16) widen_16(x + n, y + n);
    if (n < count) {
        uint16_t rest[16] = {0};
        float wide[16];
        memcpy(rest, x + n, (count - n) * sizeof *rest);
        widen_16(rest, wide);
        memcpy(y + n, wide, (count - n) * sizeof *wide);
    }
}

INLINE size_t rows_of(const struct tile_bf16 *c, size_t p) {
    return c->left - p * PANEL_ROWS < PANEL_ROWS ? c->left - p * PANEL_ROWS : PANEL_ROWS;
}

INLINE void tile_bf16(const size_t tokens, const size_t panels, const struct tile_bf16 *c) {
    const __m512i upper = _mm512_set1_epi32((int32_t)0xffff0000u);
    const size_t panel_stride = c->n_padded * PANEL_ROWS, x_stride = c->columns;
    const float *low = c->x, *high = c->x + (tokens > 3 ? 3 * x_stride : 0);
    const uint16_t *w_place = c->panel, *const w_end = c->panel + c->columns * PANEL_ROWS;
    const char *ahead = c->ahead;
    size_t fourth = 3 * panel_stride;
    __m512 sum[24];
    HIDE(high);
    HIDE(fourth);
#pragma GCC unroll 24
    for (size_t i = 0; i < tokens * panels; i++) {
        const float *from = c->y + i / panels * c->y_stride + i % panels * PANEL_ROWS;
        sum[i] = c->begins ? _mm512_setzero_ps() : load_some(from, rows_of(c, i % panels));
    }
    while (w_place != w_end) {
        __m512 w[8];
#pragma GCC unroll 8
        for (size_t p = 0; p < panels; p++)
            w[p] = _mm512_castsi512_ps(_mm512_slli_epi32(
                _mm512_loadu_si512(w_place + p / 4 * 4 * panel_stride + (p % 4 == 3 ? fourth : p % 4 * panel_stride)),
                16));
        if (ahead) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 6
        for (size_t t = 0; t < tokens; t++) {
            __m512 x = _mm512_set1_ps((t < 3 ? low : high)[t % 3 * x_stride]);
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++) sum[t * panels + p] = _mm512_fmadd_ps(x, w[p], sum[t * panels + p]);
        }
#pragma GCC unroll 8
        for (size_t p = 0; p < panels; p++)
            w[p] = _mm512_castsi512_ps(_mm512_and_si512(
                _mm512_loadu_si512(w_place + p / 4 * 4 * panel_stride + (p % 4 == 3 ? fourth : p % 4 * panel_stride)),
                upper));
#pragma GCC unroll 6
        for (size_t t = 0; t < tokens; t++) {
            __m512 x = _mm512_set1_ps((t < 3 ? low : high)[t % 3 * x_stride + 1]);
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++) sum[t * panels + p] = _mm512_fmadd_ps(x, w[p], sum[t * panels + p]);
        }
        low += 2, high += 2;
        w_place += 2 * PANEL_ROWS;
        if (ahead) ahead = address_after(ahead, c->stride);
    }
#pragma GCC unroll 24
    for (size_t i = 0; i < tokens * panels; i++) {
        size_t p = i % panels, count = rows_of(c, p);
        if (c->ends && c->bias) sum[i] = _mm512_add_ps(sum[i], load_some(c->bias + p * PANEL_ROWS, count));
        store_some(c->y + i / panels * c->y_stride + p * PANEL_ROWS, count, sum[i]);
    }
}

/* Columns of all tokens by `panels` panels, widening each tile's x (uint16, stride x_stride) first. */
INLINE void tokens_bf16(const size_t panels, size_t T, const uint16_t *x, size_t x_stride, struct tile_bf16 c,
                        size_t share) {
    float wide[TILE_TOKENS * WIDE_COLUMNS];
    c.x = wide;
    if (panels == 8) { /* one token */
        widen(x, c.columns, wide);
        tile_bf16(1, 8, &c);
        return;
    }
    for (size_t t = 0, tokens; t < T; t += tokens) {
        tokens = even_share(T - t, TILE_TOKENS);
        for (size_t i = 0; i < tokens; i++) widen(x + i * x_stride, c.columns, wide + i * c.columns);
        switch (tokens) {
        case 1: tile_bf16(1, panels, &c); break;
        case 2: tile_bf16(2, panels, &c); break;
        case 3: tile_bf16(3, panels, &c); break;
        case 4: tile_bf16(4, panels, &c); break;
        case 5: tile_bf16(5, panels, &c); break;
        default: tile_bf16(6, panels, &c); break;
        }
        x += tokens * x_stride;
        c.y += tokens * c.y_stride;
        if (c.ahead) c.ahead = address_after(c.ahead, share);
    }
}

KERNEL_MATMUL_BF16(matmul_bf16_avx512) {
    for (size_t r = 0, panels; r < rows; r += panels * PANEL_ROWS) {
        struct tile_bf16 c = {.n_padded = n_padded, .bias = bias ? bias + r : NULL, .y = y + r, .y_stride = y_stride};
        c.left = rows - r;
        panels = c.left > 3 * PANEL_ROWS ? 4 : c.left > PANEL_ROWS ? 2 : 1;
        if (T == 1 && c.left > 7 * PANEL_ROWS) panels = 8;
        for (size_t n = 0; n < n_padded; n += c.columns) {
            size_t share = 0;
            c.columns = n_padded - n < WIDE_COLUMNS ? n_padded - n : WIDE_COLUMNS;
            c.panel = weights + r * n_padded + n * PANEL_ROWS;
            c.begins = n == 0;
            c.ends = n + c.columns == n_padded;
            if (panels == 4 && T > 3 * TILE_TOKENS) {
                size_t bytes = 4 * n_padded * PANEL_ROWS * sizeof *weights;
                c.stride = share_stride(T, bytes, n_padded / 2, &share);
                c.ahead = address_after(weights + r * n_padded, bytes);
            }
            switch (panels) {
            case 1: tokens_bf16(1, T, x + n, x_stride, c, share); break;
            case 2: tokens_bf16(2, T, x + n, x_stride, c, share); break;
            case 4: tokens_bf16(4, T, x + n, x_stride, c, share); break;
            default: tokens_bf16(8, T, x + n, x_stride, c, share); break;
            }
        }
    }
}
#else
typedef int empty_translation_unit;
#endif
