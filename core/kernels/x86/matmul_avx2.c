/* Integer matrix multiplication with AVX2, FMA and F16C.
 *
 * s8: without VNNI the instruction is unsigned by signed bytes to saturated pairs (maddubs). Where w is
 * negative, x is complemented: |w| * ~x = w x - |w|, and Σ|w| over those places is known per row (row_negative).
 * That costs one xor, which runs on any port, where sign(x, w) would fight for the multipliers. Pairs reach
 * -2*127*128 = -32512, so nothing saturates; nor does it where x is -128, whose complement is 127.
 * u4: codes are unsigned already; a pair reaches 2*15*127 = 3810, so eight pairs fit into 16 bits and are
 * widened once per 32 columns.
 * Tokens are dealt evenly over tiles (7 = 4+3, not 6+1), because small tiles wait for the FMA latency. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "integer_avx2.inc"

#define TILE_S8 4
#define TILE_U4 4

/* What zero points leave the sums of eight rows to begin with. */
INLINE __m256i start_s8(const struct zero_points *zeros, size_t t, size_t r, __m256i sum) {
    if (zeros->x) {
        __m256i row_sum = load_bytes(zeros->row_sum + r);
        sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32(zeros->x[t]), row_sum));
    }
    if (zeros->w) {
        __m256i zero = load_bytes(zeros->w + r);
        sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32(zeros->x_sum[t]), zero));
    }
    return sum;
}

/* Four columns of eight rows: Σ |w| (x or ~x) added to `sum`. */
INLINE __m256i dot_s8(__m256i sum, __m256i magnitude, __m256i negative, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(x, negative));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE void tile_s8(const size_t rows, size_t n_padded, const int8_t *q, const float *scale_x, const int8_t *panel,
                    const float *scale_w, const int32_t *row_negative, const struct zero_points *zeros, size_t t_first,
                    size_t r_first, const float *bias, float *y, size_t y_stride, size_t left) {
    __m256i low[TILE_S8], high[TILE_S8];
    for (size_t t = 0; t < rows; t++) {
        low[t] = load_bytes(row_negative), high[t] = load_bytes(row_negative + 8);
        if (!zeros) continue;
        low[t] = start_s8(zeros, t_first + t, r_first, low[t]);
        high[t] = start_s8(zeros, t_first + t, r_first + 8, high[t]);
    }
    for (size_t n = 0; n < n_padded; n += 4) {
        __m256i w_low = load_bytes(panel + n * PANEL_ROWS), w_high = load_bytes(panel + n * PANEL_ROWS + 32);
        __m256i n_low = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w_low);
        __m256i n_high = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w_high);
        __m256i m_low = _mm256_abs_epi8(w_low), m_high = _mm256_abs_epi8(w_high);
        for (size_t t = 0; t < rows; t++) {
            __m256i x = broadcast_4(q + t * n_padded + n);
            low[t] = dot_s8(low[t], m_low, n_low, x);
            high[t] = dot_s8(high[t], m_high, n_high, x);
        }
    }
    for (size_t t = 0; t < rows; t++) {
        __m256 step = _mm256_set1_ps(scale_x[t]);
        __m256 y_low = _mm256_mul_ps(_mm256_mul_ps(step, _mm256_loadu_ps(scale_w)), _mm256_cvtepi32_ps(low[t]));
        __m256 y_high = _mm256_mul_ps(_mm256_mul_ps(step, _mm256_loadu_ps(scale_w + 8)), _mm256_cvtepi32_ps(high[t]));
        store_row(y + t * y_stride, left, bias, y_low, y_high);
    }
}

#define TILE_CASE(count)                                                                                               \
    case count:                                                                                                        \
        tile_s8(count, n_padded, q, scale_x, panel, scale_w, row_negative, zeros, t, r_first, bias, y, y_stride,       \
                left);                                                                                                 \
        break;

/* All tokens by one panel, whose first row is row r_first of the zero points. */
INLINE void tokens_s8(size_t T, size_t n_padded, const int8_t *q, const float *scale_x, const int8_t *panel,
                      const float *scale_w, const int32_t *row_negative, const struct zero_points *zeros,
                      size_t r_first, const float *bias, float *y, size_t y_stride, size_t left) {
    for (size_t t = 0, tokens; t < T; t += tokens, q += tokens * n_padded, scale_x += tokens, y += tokens * y_stride) {
        tokens = tile_tokens(T - t, TILE_S8);
        switch (tokens) {
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
        }
    }
}

KERNEL_MATMUL_S8(matmul_s8_avx2) {
    (void)row_total;
    for (size_t r = 0; r < rows; r += PANEL_ROWS)
        tokens_s8(T, n_padded, q, scale_x, panels + r * n_padded, scale_w + r, row_negative + r, zeros, r,
                  bias ? bias + r : NULL, y + r, y_stride, rows - r);
}
#undef TILE_CASE

/* 32 columns of one group: pairs of products are summed in 16 bits, then widened into sum[rows][2]. */
INLINE void block_u4(const size_t rows, const uint8_t *codes, const int8_t *q, size_t n_padded, __m256i (*sum)[2]) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i low[TILE_U4], high[TILE_U4];
    for (size_t t = 0; t < rows; t++) low[t] = high[t] = _mm256_setzero_si256();
        /* Unrolled, the four steps would need more registers than there are. */
#pragma GCC unroll 1
    for (size_t i = 0; i < 4; i++) {
        __m256i c_low = load_bytes(codes + 64 * i), c_high = load_bytes(codes + 64 * i + 32);
        __m256i w_low = _mm256_and_si256(c_low, nibble), w_high = _mm256_and_si256(c_high, nibble);
        for (size_t t = 0; t < rows; t++) {
            __m256i x = broadcast_4(q + t * n_padded + 8 * i);
            low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(w_low, x));
            high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(w_high, x));
        }
        w_low = _mm256_and_si256(_mm256_srli_epi16(c_low, 4), nibble);
        w_high = _mm256_and_si256(_mm256_srli_epi16(c_high, 4), nibble);
        for (size_t t = 0; t < rows; t++) {
            __m256i x = broadcast_4(q + t * n_padded + 8 * i + 4);
            low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(w_low, x));
            high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(w_high, x));
        }
    }
    for (size_t t = 0; t < rows; t++) {
        sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(low[t], ones));
        sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(high[t], ones));
    }
}

INLINE __m256 load_zero_8(const uint8_t *bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes)));
}

/* total + scale * (sum - zero * x_sum). All three integers stay below 2^24 (128*15*127), so f32 holds them exactly. */
INLINE __m256 add_group(__m256 total, __m256 scale, __m256i sum, __m256 zero, __m256 x_sum) {
    __m256 difference = _mm256_sub_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(zero, x_sum));
    return _mm256_add_ps(total, _mm256_mul_ps(scale, difference));
}

INLINE void tile_u4(const size_t rows, size_t n_padded, size_t G, int symmetric, const int8_t *q, const float *scale_x,
                    const int32_t *sums, const uint8_t *panel, const float *bias, float *y, size_t y_stride,
                    size_t left) {
    size_t groups = n_padded / G;
    __m256 total[TILE_U4][2];
    for (size_t t = 0; t < rows; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < groups; g++) {
        __m256 scale_low = load_half_8(panel), scale_high = load_half_8(panel + 16);
        __m256 zero_low = _mm256_set1_ps(8.0f), zero_high = zero_low;
        panel += 32;
        if (!symmetric) {
            zero_low = load_zero_8(panel);
            zero_high = load_zero_8(panel + 8);
            panel += 16;
        }
        __m256i sum[TILE_U4][2];
        for (size_t t = 0; t < rows; t++) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
        for (size_t n = 0; n < G; n += 32, panel += 256) block_u4(rows, panel, q + g * G + n, n_padded, sum);
        for (size_t t = 0; t < rows; t++) {
            __m256 x_sum = _mm256_set1_ps((float)sums[t * groups + g]);
            total[t][0] = add_group(total[t][0], scale_low, sum[t][0], zero_low, x_sum);
            total[t][1] = add_group(total[t][1], scale_high, sum[t][1], zero_high, x_sum);
        }
    }
    for (size_t t = 0; t < rows; t++) {
        __m256 step = _mm256_set1_ps(scale_x[t]);
        store_row(y + t * y_stride, left, bias, _mm256_mul_ps(step, total[t][0]), _mm256_mul_ps(step, total[t][1]));
    }
}

INLINE void tokens_u4(size_t T, size_t n_padded, size_t G, int symmetric, const int8_t *q, const float *scale_x,
                      const int32_t *sums, const uint8_t *panel, const float *bias, float *y, size_t y_stride,
                      size_t left) {
    size_t groups = n_padded / G;
    for (size_t t = 0, tokens; t < T;
         t += tokens, q += tokens * n_padded, scale_x += tokens, sums += tokens * groups, y += tokens * y_stride) {
        tokens = tile_tokens(T - t, TILE_U4);
        switch (tokens) {
        case 1: tile_u4(1, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, left); break;
        case 2: tile_u4(2, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, left); break;
        case 3: tile_u4(3, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, left); break;
        default: tile_u4(4, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, left); break;
        }
    }
}

KERNEL_MATMUL_U4(matmul_u4_avx2) {
    size_t panel_bytes = panel_u4_bytes(n_padded, G, symmetric);
    for (size_t r = 0; r < rows; r += PANEL_ROWS, panels += panel_bytes)
        tokens_u4(T, n_padded, G, symmetric, q, scale_x, sums, panels, bias ? bias + r : NULL, y + r, y_stride,
                  rows - r);
}
#else
typedef int empty_translation_unit;
#endif
