/* int8 in groups with AVX2: pairs of products as in matmul_avx2.c, |w| by x or ~x, where Σ|w| over the negative w is
 * gathered along the way, once for all tokens of a tile: stored per group it would cost as much memory as the scales.
 */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "integer_avx2.inc"

#define TILE_GROUPS 4

/* The operands of a tile, which begin with its first token and row. */
struct tile {
    size_t n_padded, G, groups;
    int symmetric;
    const int8_t *q;
    const float *scale_x;
    const int32_t *zero_x, *sums;
    const uint8_t *panel;
    const float *row_value, *bias;
    float *y;
    size_t y_stride, left;
};

/* The integers of one group for a tile of tokens: Σ q c into sum[t][half]. */
INLINE void group_sums(const size_t tokens, const struct tile *c, const int8_t *q, const uint8_t *codes,
                       __m256i sum[TILE_GROUPS][2]) {
    const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi16(1), bytes = _mm256_set1_epi8(1);
    __m256i negative[2] = {zero, zero}; /* -Σ|w| in pairs: at most 32 steps of -256 */
    for (size_t t = 0; t < tokens; t++) sum[t][0] = sum[t][1] = zero;
    for (size_t n = 0; n < c->G; n += 4, codes += 64) {
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            __m256i w = load_bytes(codes + 32 * half), below = _mm256_cmpgt_epi8(zero, w);
            __m256i magnitude = _mm256_abs_epi8(w);
            negative[half] = _mm256_add_epi16(negative[half], _mm256_maddubs_epi16(bytes, _mm256_and_si256(w, below)));
#pragma GCC unroll 4
            for (size_t t = 0; t < tokens; t++) {
                __m256i x = _mm256_xor_si256(broadcast_4(q + t * c->n_padded + n), below);
                __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, x), ones);
                sum[t][half] = _mm256_add_epi32(sum[t][half], pairs);
            }
        }
    }
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; half++) {
        __m256i whole = _mm256_madd_epi16(negative[half], ones);
        for (size_t t = 0; t < tokens; t++) sum[t][half] = _mm256_sub_epi32(sum[t][half], whole);
    }
}

/* As add_group_s8 in integer_c.c; integers stay below 2^23, so f32 holds them. */
INLINE void tile_groups(const size_t tokens, const struct tile *c) {
    const size_t header = c->symmetric ? 32 : 48;
    const uint8_t *group = c->panel;
    __m256 total[TILE_GROUPS][2];
    for (size_t t = 0; t < tokens; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < c->groups; g++, group += header + c->G * PANEL_ROWS) {
        __m256i sum[TILE_GROUPS][2];
        group_sums(tokens, c, c->q + g * c->G, group + header, sum);
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            __m256 scale = load_half_8(group + 16 * half);
            __m256i zero = _mm256_setzero_si256();
            if (!c->symmetric) zero = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(group + 32 + 8 * half)));
            for (size_t t = 0; t < tokens; t++) {
                __m256i off = _mm256_mullo_epi32(zero, _mm256_set1_epi32(c->sums[t * c->groups + g]));
                __m256 whole = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[t][half], off));
                total[t][half] = _mm256_add_ps(total[t][half], _mm256_mul_ps(scale, whole));
            }
        }
    }
    for (size_t t = 0; t < tokens; t++) {
        __m256 step = _mm256_set1_ps(c->scale_x[t]);
        if (c->zero_x) {
            __m256 zero = _mm256_set1_ps((float)c->zero_x[t]);
            total[t][0] = _mm256_sub_ps(total[t][0], _mm256_mul_ps(zero, _mm256_loadu_ps(c->row_value)));
            total[t][1] = _mm256_sub_ps(total[t][1], _mm256_mul_ps(zero, _mm256_loadu_ps(c->row_value + 8)));
        }
        store_row(c->y + t * c->y_stride, c->left, c->bias, _mm256_mul_ps(step, total[t][0]),
                  _mm256_mul_ps(step, total[t][1]));
    }
}

/* All tokens by one panel. */
INLINE void tokens_groups(size_t T, struct tile c) {
    for (size_t t = 0, tokens; t < T; t += tokens) {
        tokens = tile_tokens(T - t, TILE_GROUPS);
        switch (tokens) {
        case 1: tile_groups(1, &c); break;
        case 2: tile_groups(2, &c); break;
        case 3: tile_groups(3, &c); break;
        default: tile_groups(4, &c); break;
        }
        c.q += tokens * c.n_padded;
        c.scale_x += tokens;
        if (c.zero_x) c.zero_x += tokens;
        c.sums += tokens * c.groups;
        c.y += tokens * c.y_stride;
    }
}

KERNEL_MATMUL_S8_GROUPS(matmul_s8_groups_avx2) {
    size_t panel_bytes = panel_s8_groups_bytes(n_padded, G, symmetric);
    for (size_t r = 0; r < rows; r += PANEL_ROWS)
        tokens_groups(T, (struct tile){.n_padded = n_padded,
                                       .G = G,
                                       .groups = n_padded / G,
                                       .symmetric = symmetric,
                                       .q = q,
                                       .scale_x = scale_x,
                                       .zero_x = zero_x,
                                       .sums = sums,
                                       .panel = panels + r / PANEL_ROWS * panel_bytes,
                                       .row_value = zero_x ? row_value + r : NULL,
                                       .bias = bias ? bias + r : NULL,
                                       .y = y + r,
                                       .y_stride = y_stride,
                                       .left = rows - r});
}
#else
typedef int empty_translation_unit;
#endif
