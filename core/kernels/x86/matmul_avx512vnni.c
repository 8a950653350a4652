/* Integer matrix multiplication with AVX-512 VNNI: dpbusd adds four unsigned-by-signed products to a 32-bit
 * lane exactly, 16 rows at once.
 *
 * s8: x + 128, prepared once for all rows, is the unsigned side, and 128 * Σw, which is given, is subtracted.
 * s8 in groups: w + 128 is the unsigned side (one xor per column block, shared by all tokens of a tile) and x, signed,
 * the broadcast memory operand; 128 * Σx, given group by group, is subtracted. u4: codes are unsigned already. Float
 * arithmetic as in kernels_c.c, one rounding per operation.
 *
 * Tiles are those of the float kernels (matmul_panels.inc): up to 6 tokens by 4 panels keep 24 sums in registers, so
 * that neither loads nor the latency of dpbusd limit it; one token takes 8 panels. Groups take 3 tokens: their totals
 * need as many registers as their sums. */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "matmul_tools.inc"

#include <stdbool.h>

#define TILE_TOKENS_GROUPS 3
#define MANY_TOKENS 24           /* four tiles fetch the next panels a line per step */
#define RAISED_BYTES (64u << 10) /* of x + 128 at a time, on the stack; at least one token of 65536 columns */

/* The operands of a tile, which begin with its first token and row. */
struct tile_vnni {
    size_t n_padded, G, groups;
    bool symmetric;
    const int8_t *q;       /* groups, u4 */
    const uint8_t *raised; /* s8: x + 128 */
    const float *scale_x;
    const int32_t *sums;      /* groups, u4: (tokens,groups) */
    const int32_t *row_total; /* s8: Σw of each row */
    const uint8_t *panel;
    size_t panel_bytes;
    const float *scale_w, *bias;     /* each NULL when there is none */
    const struct zero_points *zeros; /* s8: NULL, or those from token t_first and row r_first on */
    size_t t_first, r_first;
    const int32_t *zero_x;  /* groups: [T], or NULL */
    const float *row_value; /* groups, with zero_x: from row 0 on */
    float *y;
    size_t y_stride, left; /* rows from the first one on */
};

/* 16 sums in the type that dpbusd has inside gcc, which otherwise copies each of them twice per step. */
typedef int32_t sums_vnni __attribute__((vector_size(64)));

INLINE sums_vnni all_sums_vnni(int32_t value) { return (sums_vnni)_mm512_set1_epi32(value); }

/* sum[r] += Σ w[r][b] x[b] over the 4 bytes at x, of which w is the unsigned side. */
INLINE sums_vnni dot_vnni(sums_vnni sum, __m512i w, const int8_t *x) {
    int32_t word;
    memcpy(&word, x, sizeof word);
    return (sums_vnni)_mm512_dpbusd_epi32((__m512i)sum, w, _mm512_set1_epi32(word));
}

INLINE __m512 sums_f32_vnni(sums_vnni sum) { return _mm512_cvtepi32_ps((__m512i)sum); }

/* Results of token t and panel p, or as many as are left when fewer, after adding the bias. */
INLINE void store_vnni(const struct tile_vnni *c, size_t t, size_t p, __m512 value) {
    size_t r = p * PANEL_ROWS, count = c->left - r < PANEL_ROWS ? c->left - r : PANEL_ROWS;
    if (c->bias) value = _mm512_add_ps(value, load_some(c->bias + r, count));
    store_some(c->y + t * c->y_stride + r, count, value);
}

/* ---- s8 ---- */

/* What zero points leave 16 sums to begin with. */
INLINE sums_vnni start_vnni(const struct tile_vnni *c, size_t t, size_t p, sums_vnni sum) {
    const struct zero_points *zeros = c->zeros;
    size_t r = c->r_first + p * PANEL_ROWS;
    __m512i left = (__m512i)sum;
    t += c->t_first;
    if (zeros->x) {
        __m512i row_sum = _mm512_loadu_si512(zeros->row_sum + r);
        left = _mm512_sub_epi32(left, _mm512_mullo_epi32(_mm512_set1_epi32(zeros->x[t]), row_sum));
    }
    if (zeros->w) {
        __m512i zero = _mm512_loadu_si512(zeros->w + r);
        left = _mm512_sub_epi32(left, _mm512_mullo_epi32(_mm512_set1_epi32(zeros->x_sum[t]), zero));
    }
    return (sums_vnni)left;
}

/* x + 128 as unsigned bytes. */
INLINE void raise_vnni(const int8_t *q, size_t count, uint8_t *raised) {
    size_t n = 0;
    for (; n + 64 <= count; n += 64)
        _mm512_storeu_si512(raised + n, _mm512_xor_si512(_mm512_loadu_si512(q + n), _mm512_set1_epi8(-128)));
    for (; n < count; n++) raised[n] = (uint8_t)(q[n] + 128);
}

/* Scale, add the bias and store. */
INLINE void finish_s8_vnni(const size_t tokens, const size_t panels, const struct tile_vnni *c, const sums_vnni *sum) {
    bool whole = c->left >= panels * PANEL_ROWS;
#pragma GCC unroll 24
    for (size_t i = 0; i < tokens * panels; i++) {
        size_t t = i / panels, r = i % panels * PANEL_ROWS;
        __m512 factor = _mm512_mul_ps(_mm512_set1_ps(c->scale_x[t]), _mm512_loadu_ps(c->scale_w + r));
        __m512 value = _mm512_mul_ps(factor, sums_f32_vnni(sum[i]));
        if (whole && c->bias)
            _mm512_storeu_ps(c->y + t * c->y_stride + r, _mm512_add_ps(value, _mm512_loadu_ps(c->bias + r)));
        else if (whole) _mm512_storeu_ps(c->y + t * c->y_stride + r, value);
        else store_vnni(c, t, i % panels, value);
    }
}

/* While lines are fetched every `stride` bytes from `ahead` on, if `fetch`. */
INLINE void tile_s8_vnni(const size_t tokens, const size_t panels, const bool fetch, const struct tile_vnni *c,
                         const char *ahead, size_t stride) {
    const size_t n_padded = c->n_padded, panel_bytes = c->panel_bytes;
    const uint8_t *low = c->raised, *high = low + (tokens > 3 ? 3 * n_padded : 0);
    const uint8_t *place = c->panel, *const end = place + n_padded * PANEL_ROWS;
    size_t fourth = 3 * panel_bytes;
    sums_vnni sum[24];
    HIDE(high);
    HIDE(fourth);
#pragma GCC unroll 24
    for (size_t i = 0; i < tokens * panels; i++)
        sum[i] = (sums_vnni)_mm512_slli_epi32(_mm512_loadu_si512(c->row_total + i % panels * PANEL_ROWS), 7);
#pragma GCC unroll 24
    for (size_t i = 0; i < tokens * panels; i++) sum[i] = -sum[i];
    if (c->zeros)
#pragma GCC unroll 24
        for (size_t i = 0; i < tokens * panels; i++) sum[i] = start_vnni(c, i / panels, i % panels, sum[i]);
    while (place != end) {
        __m512i w[8];
#pragma GCC unroll 8
        for (size_t p = 0; p < panels; p++) w[p] = _mm512_loadu_si512(place + (p == 3 ? fourth : p * panel_bytes));
        if (fetch) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 6
        for (size_t t = 0; t < tokens; t++) {
            int32_t word;
            memcpy(&word, (t < 3 ? low : high) + t % 3 * n_padded, sizeof word);
            __m512i x = _mm512_set1_epi32(word);
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++)
                sum[t * panels + p] = (sums_vnni)_mm512_dpbusd_epi32((__m512i)sum[t * panels + p], x, w[p]);
        }
        low += 4, high += 4;
        place += 4 * PANEL_ROWS;
        if (fetch) ahead = address_after(ahead, stride);
    }
    finish_s8_vnni(tokens, panels, c, sum);
}

/* All tokens by `panels` panels; if `fetch`, while as many that follow in memory are fetched (matmul_panels.inc says
 * why). */
INLINE void tokens_s8_vnni(const size_t panels, const bool fetch, size_t T, struct tile_vnni c) {
    size_t share = 0, stride = share_stride(T, panels * c.panel_bytes, c.n_padded / 4, &share);
    const char *ahead = address_after(c.panel, panels * c.panel_bytes);
    for (size_t t = 0, tokens; t < T; t += tokens) {
        tokens = even_share(T - t, TILE_TOKENS);
        switch (tokens) {
        case 1: tile_s8_vnni(1, panels, fetch, &c, ahead, stride); break;
        case 2: tile_s8_vnni(2, panels, fetch, &c, ahead, stride); break;
        case 3: tile_s8_vnni(3, panels, fetch, &c, ahead, stride); break;
        case 4: tile_s8_vnni(4, panels, fetch, &c, ahead, stride); break;
        case 5: tile_s8_vnni(5, panels, fetch, &c, ahead, stride); break;
        default: tile_s8_vnni(6, panels, fetch, &c, ahead, stride); break;
        }
        c.raised += tokens * c.n_padded;
        c.scale_x += tokens;
        c.t_first += tokens;
        c.y += tokens * c.y_stride;
        ahead = address_after(ahead, share);
    }
}

static void panels_s8_vnni(size_t T, size_t rows, struct tile_vnni c) {
    for (size_t r = 0, panels; r < rows; r += panels * PANEL_ROWS) {
        c.left = rows - r;
        panels = c.left > 3 * PANEL_ROWS ? 4 : c.left > PANEL_ROWS ? 2 : 1;
        if (T == 1 && c.left > 7 * PANEL_ROWS) panels = 8;
        switch (panels) {
        case 1: tokens_s8_vnni(1, false, T, c); break;
        case 2: tokens_s8_vnni(2, false, T, c); break;
        case 4:
            if (T >= MANY_TOKENS) tokens_s8_vnni(4, true, T, c);
            else tokens_s8_vnni(4, false, T, c);
            break;
        default: tile_s8_vnni(1, 8, false, &c, NULL, 0); break;
        }
        c.panel += panels * c.panel_bytes;
        c.y += panels * PANEL_ROWS;
        c.r_first += panels * PANEL_ROWS;
        c.row_total += panels * PANEL_ROWS;
        c.scale_w += panels * PANEL_ROWS;
        if (c.bias) c.bias += panels * PANEL_ROWS;
    }
}

KERNEL_MATMUL_S8(matmul_s8_avx512vnni) {
    uint8_t raised[RAISED_BYTES];
    size_t most = RAISED_BYTES / n_padded;
    (void)row_negative;
    if (most >= TILE_TOKENS) most -= most % TILE_TOKENS;
    for (size_t t = 0, tokens; t < T; t += tokens) {
        tokens = T - t < most ? T - t : most;
        raise_vnni(q + t * n_padded, tokens * n_padded, raised);
        panels_s8_vnni(tokens, rows,
                       (struct tile_vnni){.n_padded = n_padded,
                                          .raised = raised,
                                          .scale_x = scale_x + t,
                                          .row_total = row_total,
                                          .panel = (const uint8_t *)panels,
                                          .panel_bytes = n_padded * PANEL_ROWS,
                                          .scale_w = scale_w,
                                          .zeros = zeros,
                                          .t_first = t,
                                          .bias = bias,
                                          .y = y + t * y_stride,
                                          .y_stride = y_stride});
    }
}

/* ---- groups and u4 ---- */

INLINE __m512 load_zero_vnni(const uint8_t *bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes)));
}

/* All integers stay below 2^24 (128*15*127), so f32 holds them and their differences exactly, and a symmetric panel's
 * 8 Σx may be taken off before the conversion. */
INLINE void tile_u4_vnni(const size_t tokens, const size_t panels, const struct tile_vnni *c) {
    const __m512i nibble = _mm512_set1_epi8(15);
    const size_t n_padded = c->n_padded, header = c->symmetric ? 32 : 48, panel_bytes = c->panel_bytes;
    const uint8_t *group = c->panel;
    __m512 total[12];
#pragma GCC unroll 12
    for (size_t i = 0; i < tokens * panels; i++) total[i] = _mm512_setzero_ps();
    for (size_t g = 0; g < c->groups; g++, group += panel_bytes / c->groups) {
        const uint8_t *codes = group + header;
        const int8_t *q = c->q + g * c->G;
        sums_vnni sum[12];
#pragma GCC unroll 12
        for (size_t i = 0; i < tokens * panels; i++)
            sum[i] = all_sums_vnni(c->symmetric ? -8 * c->sums[i / panels * c->groups + g] : 0);
        for (size_t n = 0; n < c->G; n += 8, codes += 64) {
            __m512i w[8];
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++)
                w[p] = _mm512_and_si512(_mm512_loadu_si512(codes + p * panel_bytes), nibble);
#pragma GCC unroll 12
            for (size_t i = 0; i < tokens * panels; i++)
                sum[i] = dot_vnni(sum[i], w[i % panels], q + i / panels * n_padded + n);
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++)
                w[p] = _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(codes + p * panel_bytes), 4), nibble);
#pragma GCC unroll 12
            for (size_t i = 0; i < tokens * panels; i++)
                sum[i] = dot_vnni(sum[i], w[i % panels], q + i / panels * n_padded + n + 4);
        }
#pragma GCC unroll 12
        for (size_t i = 0; i < tokens * panels; i++) {
            const uint8_t *scales = group + i % panels * panel_bytes;
            __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scales));
            __m512 difference = sums_f32_vnni(sum[i]);
            if (!c->symmetric) {
                __m512 x_sum = _mm512_set1_ps((float)c->sums[i / panels * c->groups + g]);
                difference = _mm512_sub_ps(difference, _mm512_mul_ps(load_zero_vnni(scales + 32), x_sum));
            }
            total[i] = _mm512_add_ps(total[i], _mm512_mul_ps(scale, difference));
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < tokens * panels; i++)
        store_vnni(c, i / panels, i % panels, _mm512_mul_ps(_mm512_set1_ps(c->scale_x[i / panels]), total[i]));
}

/* As add_group_s8 in integer_c.c; integers stay below 2^23, so f32 holds them. w + 128 is the unsigned side. */
INLINE void tile_groups_vnni(const size_t tokens, const size_t panels, const struct tile_vnni *c) {
    const __m512i offset = _mm512_set1_epi8(-128);
    const size_t n_padded = c->n_padded, header = c->symmetric ? 32 : 48, panel_bytes = c->panel_bytes;
    const uint8_t *group = c->panel;
    __m512 total[12];
#pragma GCC unroll 12
    for (size_t i = 0; i < tokens * panels; i++) total[i] = _mm512_setzero_ps();
    for (size_t g = 0; g < c->groups; g++, group += panel_bytes / c->groups) {
        const uint8_t *codes = group + header;
        const int8_t *q = c->q + g * c->G;
        sums_vnni sum[12];
#pragma GCC unroll 12
        for (size_t i = 0; i < tokens * panels; i++) sum[i] = all_sums_vnni(-128 * c->sums[i / panels * c->groups + g]);
        for (size_t n = 0; n < c->G; n += 4, codes += 64) {
            __m512i w[8];
#pragma GCC unroll 8
            for (size_t p = 0; p < panels; p++)
                w[p] = _mm512_xor_si512(_mm512_loadu_si512(codes + p * panel_bytes), offset);
#pragma GCC unroll 12
            for (size_t i = 0; i < tokens * panels; i++)
                sum[i] = dot_vnni(sum[i], w[i % panels], q + i / panels * n_padded + n);
        }
#pragma GCC unroll 12
        for (size_t i = 0; i < tokens * panels; i++) {
            const uint8_t *scales = group + i % panels * panel_bytes;
            __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scales));
            __m512 difference = sums_f32_vnni(sum[i]);
            if (!c->symmetric) {
                __m512 x_sum = _mm512_set1_ps((float)c->sums[i / panels * c->groups + g]);
                __m512i zero = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(scales + 32)));
                difference = _mm512_sub_ps(difference, _mm512_mul_ps(_mm512_cvtepi32_ps(zero), x_sum));
            }
            total[i] = _mm512_add_ps(total[i], _mm512_mul_ps(scale, difference));
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < tokens * panels; i++) {
        size_t t = i / panels, p = i % panels;
        if (c->zero_x) {
            __m512 row_value = _mm512_loadu_ps(c->row_value + c->r_first + p * PANEL_ROWS);
            __m512 zero = _mm512_set1_ps((float)c->zero_x[c->t_first + t]);
            total[i] = _mm512_sub_ps(total[i], _mm512_mul_ps(zero, row_value));
        }
        store_vnni(c, t, p, _mm512_mul_ps(_mm512_set1_ps(c->scale_x[t]), total[i]));
    }
}

enum kind { KIND_U4, KIND_GROUPS };

INLINE void tile_vnni(const enum kind kind, const size_t tokens, const size_t panels, const struct tile_vnni *c) {
    if (kind == KIND_U4) tile_u4_vnni(tokens, panels, c);
    else tile_groups_vnni(tokens, panels, c);
}

/* All tokens by `panels` panels. */
INLINE void tokens_vnni(const enum kind kind, const size_t panels, size_t T, struct tile_vnni c) {
    for (size_t t = 0, tokens; t < T; t += tokens) {
        tokens = even_share(T - t, TILE_TOKENS_GROUPS);
        if (tokens == 1) tile_vnni(kind, 1, panels, &c);
        else if (tokens == 2) tile_vnni(kind, 2, panels, &c);
        else tile_vnni(kind, 3, panels, &c);
        c.q += tokens * c.n_padded;
        c.scale_x += tokens;
        c.sums += tokens * c.groups;
        c.t_first += tokens;
        c.y += tokens * c.y_stride;
    }
}

INLINE void panels_vnni(const enum kind kind, size_t T, size_t rows, struct tile_vnni c) {
    for (size_t r = 0, panels; r < rows; r += panels * PANEL_ROWS) {
        c.left = rows - r;
        panels = c.left > 3 * PANEL_ROWS ? 4 : c.left > PANEL_ROWS ? 2 : 1;
        if (T == 1 && c.left > 7 * PANEL_ROWS) panels = 8;
        switch (panels) {
        case 1: tokens_vnni(kind, 1, T, c); break;
        case 2: tokens_vnni(kind, 2, T, c); break;
        case 4: tokens_vnni(kind, 4, T, c); break;
        default: tile_vnni(kind, 1, 8, &c); break;
        }
        c.panel += panels * c.panel_bytes;
        c.y += panels * PANEL_ROWS;
        c.r_first += panels * PANEL_ROWS;
        if (c.bias) c.bias += panels * PANEL_ROWS;
    }
}

KERNEL_MATMUL_U4(matmul_u4_avx512vnni) {
    panels_vnni(KIND_U4, T, rows,
                (struct tile_vnni){.n_padded = n_padded,
                                   .G = G,
                                   .groups = n_padded / G,
                                   .symmetric = symmetric,
                                   .q = q,
                                   .scale_x = scale_x,
                                   .sums = sums,
                                   .panel = panels,
                                   .panel_bytes = panel_u4_bytes(n_padded, G, symmetric),
                                   .bias = bias,
                                   .y = y,
                                   .y_stride = y_stride});
}

KERNEL_MATMUL_S8_GROUPS(matmul_s8_groups_avx512vnni) {
    panels_vnni(KIND_GROUPS, T, rows,
                (struct tile_vnni){.n_padded = n_padded,
                                   .G = G,
                                   .groups = n_padded / G,
                                   .symmetric = symmetric,
                                   .q = q,
                                   .scale_x = scale_x,
                                   .sums = sums,
                                   .zero_x = zero_x,
                                   .row_value = row_value,
                                   .panel = panels,
                                   .panel_bytes = panel_s8_groups_bytes(n_padded, G, symmetric),
                                   .bias = bias,
                                   .y = y,
                                   .y_stride = y_stride});
}
#else
typedef int empty_translation_unit;
#endif
