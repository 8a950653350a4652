/* Integer matrix multiplication with AVX-512 VNNI: dpbusd adds four unsigned-by-signed products to a 32-bit
 * lane exactly, 16 rows at once.
 *
 * s8: w + 128 (one xor per column block, shared by all tokens of a tile) is the unsigned side and x, signed,
 * the broadcast memory operand; 128 * Σx is subtracted at the end, the same for every row.
 * u4: codes are unsigned already. Float arithmetic as in kernels_c.c, one rounding per operation. */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <string.h>
#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE_VNNI 8

INLINE __m512i broadcast_4_vnni(const int8_t *bytes) {
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
}

INLINE void store_row_vnni(float *y, size_t valid, const float *bias, __m512 value) {
    if (bias) value = _mm512_add_ps(value, _mm512_loadu_ps(bias));
    if (valid == PANEL_ROWS) {
        _mm512_storeu_ps(y, value);
    } else {
        float row[PANEL_ROWS];
        _mm512_storeu_ps(row, value);
        memcpy(y, row, valid * sizeof *y);
    }
}

static int32_t sum_of_codes_vnni(const int8_t *q, size_t count) {
    __m512i total = _mm512_setzero_si512();
    size_t n = 0;
    for (; n + 64 <= count; n += 64) total = _mm512_dpbusd_epi32(total, _mm512_set1_epi8(1), _mm512_loadu_si512(q + n));
    int32_t lanes[16], sum = 0;
    _mm512_storeu_si512(lanes, total);
    for (int lane = 0; lane < 16; lane++) sum += lanes[lane];
    for (; n < count; n++) sum += q[n];
    return sum;
}

INLINE void tile_s8_vnni(const size_t rows, size_t n_padded, const int8_t *q, const float *scale_x, const int8_t *panel,
                         const float *scale_w, const float *bias, float *y, size_t y_stride, size_t valid) {
    const __m512i offset = _mm512_set1_epi8(-128);
    __m512i sum[TILE_VNNI];
    for (size_t t = 0; t < rows; t++) sum[t] = _mm512_set1_epi32(-128 * sum_of_codes_vnni(q + t * n_padded, n_padded));
    for (size_t n = 0; n < n_padded; n += 4) {
        __m512i w = _mm512_xor_si512(_mm512_loadu_si512(panel + n * PANEL_ROWS), offset);
        for (size_t t = 0; t < rows; t++)
            sum[t] = _mm512_dpbusd_epi32(sum[t], w, broadcast_4_vnni(q + t * n_padded + n));
    }
    for (size_t t = 0; t < rows; t++) {
        __m512 factor = _mm512_mul_ps(_mm512_set1_ps(scale_x[t]), _mm512_loadu_ps(scale_w));
        store_row_vnni(y + t * y_stride, valid, bias, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(sum[t])));
    }
}

KERNEL_MATMUL_S8(matmul_s8_avx512vnni) {
    (void)row_negative;
    for (size_t t = 0, rows; t < T; t += rows, q += rows * n_padded, scale_x += rows, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_VNNI - 1) / TILE_VNNI;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
#define TILE_CASE(count)                                                                                               \
    case count: tile_s8_vnni(count, n_padded, q, scale_x, panel, scale_w, bias, y, y_stride, valid); break;
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
            TILE_CASE(7)
        default: tile_s8_vnni(8, n_padded, q, scale_x, panel, scale_w, bias, y, y_stride, valid); break;
        }
    }
}
#undef TILE_CASE

INLINE __m512 load_zero_vnni(const uint8_t *bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes)));
}

INLINE void tile_u4_vnni(const size_t rows, size_t n_padded, size_t G, int symmetric, const int8_t *q,
                         const float *scale_x, const int32_t *sums, const uint8_t *panel, const float *bias, float *y,
                         size_t y_stride, size_t valid) {
    const __m512i nibble = _mm512_set1_epi8(15);
    size_t groups = n_padded / G;
    __m512 total[TILE_VNNI];
    for (size_t t = 0; t < rows; t++) total[t] = _mm512_setzero_ps();
    for (size_t g = 0; g < groups; g++) {
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)panel));
        __m512 zero = symmetric ? _mm512_set1_ps(8.0f) : load_zero_vnni(panel + 32);
        panel += symmetric ? 32 : 48;
        __m512i sum[TILE_VNNI];
        for (size_t t = 0; t < rows; t++) sum[t] = _mm512_setzero_si512();
        for (size_t n = g * G; n < (g + 1) * G; n += 8, panel += 64) {
            __m512i codes = _mm512_loadu_si512(panel);
            __m512i first = _mm512_and_si512(codes, nibble),
                    last = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
            for (size_t t = 0; t < rows; t++) {
                sum[t] = _mm512_dpbusd_epi32(sum[t], first, broadcast_4_vnni(q + t * n_padded + n));
                sum[t] = _mm512_dpbusd_epi32(sum[t], last, broadcast_4_vnni(q + t * n_padded + n + 4));
            }
        }
        /* The integers stay below 2^24 (128*15*127), so f32 holds them and their difference exactly. */
        for (size_t t = 0; t < rows; t++) {
            __m512 shift = _mm512_mul_ps(zero, _mm512_set1_ps((float)sums[t * groups + g]));
            __m512 difference = _mm512_sub_ps(_mm512_cvtepi32_ps(sum[t]), shift);
            total[t] = _mm512_add_ps(total[t], _mm512_mul_ps(scale, difference));
        }
    }
    for (size_t t = 0; t < rows; t++)
        store_row_vnni(y + t * y_stride, valid, bias, _mm512_mul_ps(_mm512_set1_ps(scale_x[t]), total[t]));
}

KERNEL_MATMUL_U4(matmul_u4_avx512vnni) {
    size_t groups = n_padded / G;
    for (size_t t = 0, rows; t < T;
         t += rows, q += rows * n_padded, scale_x += rows, sums += rows * groups, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_VNNI - 1) / TILE_VNNI;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
#define TILE_CASE(count)                                                                                               \
    case count: tile_u4_vnni(count, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, valid); break;
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
            TILE_CASE(7)
        default: tile_u4_vnni(8, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, valid); break;
        }
    }
}
#undef TILE_CASE
#undef INLINE
#undef TILE_VNNI
#else
typedef int empty_translation_unit;
#endif
