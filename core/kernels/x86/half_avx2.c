/* 16-bit weights with AVX2 and F16C: multiplication widens a column of 16 rows as it is read, f16 by vcvtph2ps, bf16 by
 * shifting its bits into the upper half, and goes on as matmul_f32_avx2 does; conversions work on 8 values at once.
 * f16 keeps the order of matmul_f32: each output is one chain of FMAs over n. */
#if defined(__x86_64__)
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE_HALF 6

INLINE __m256 load_half_8(const uint16_t *bits) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)bits)); }

/* Write 16 results, or the first `valid` of them, after adding the bias. */
INLINE void store_row(float *y, size_t valid, const float *bias, __m256 low, __m256 high) {
    if (bias) {
        low = _mm256_add_ps(low, _mm256_loadu_ps(bias));
        high = _mm256_add_ps(high, _mm256_loadu_ps(bias + 8));
    }
    float row[PANEL_ROWS];
    float *place = valid == PANEL_ROWS ? y : row;
    _mm256_storeu_ps(place, low);
    _mm256_storeu_ps(place + 8, high);
    if (valid < PANEL_ROWS) memcpy(y, row, valid * sizeof *y);
}

INLINE void tile_f16(const size_t rows, size_t N, const float *x, size_t x_stride, const uint16_t *panel,
                     const float *bias, float *y, size_t y_stride, size_t valid) {
    __m256 low[TILE_HALF], high[TILE_HALF];
    for (size_t t = 0; t < rows; t++) low[t] = high[t] = _mm256_setzero_ps();
    for (size_t n = 0; n < N; n++) {
        __m256 w_low = load_half_8(panel + n * PANEL_ROWS), w_high = load_half_8(panel + n * PANEL_ROWS + 8);
        for (size_t t = 0; t < rows; t++) {
            __m256 value = _mm256_broadcast_ss(x + t * x_stride + n);
            low[t] = _mm256_fmadd_ps(value, w_low, low[t]);
            high[t] = _mm256_fmadd_ps(value, w_high, high[t]);
        }
    }
    for (size_t t = 0; t < rows; t++) store_row(y + t * y_stride, valid, bias, low[t], high[t]);
}

KERNEL_MATMUL_F16(matmul_f16_avx2) {
    for (size_t t = 0, rows; t < T; t += rows, x += rows * x_stride, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_HALF - 1) / TILE_HALF;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
        case 1: tile_f16(1, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 2: tile_f16(2, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 3: tile_f16(3, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 4: tile_f16(4, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 5: tile_f16(5, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        default: tile_f16(6, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        }
    }
}

/* The two columns of a pair as f32: a bf16 is the upper half of one. */
INLINE __m256 upper_halves(__m256i pair) {
    return _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000u)));
}
INLINE __m256 lower_halves(__m256i pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }

INLINE void tile_bf16(const size_t rows, size_t n_padded, const uint16_t *x, size_t x_stride, const uint16_t *panel,
                      const float *bias, float *y, size_t y_stride, size_t valid) {
    __m256 low[TILE_HALF], high[TILE_HALF];
    for (size_t t = 0; t < rows; t++) low[t] = high[t] = _mm256_setzero_ps();
    for (size_t n = 0; n < n_padded; n += 2) {
        __m256i w_low = _mm256_loadu_si256((const __m256i *)(panel + n * PANEL_ROWS));
        __m256i w_high = _mm256_loadu_si256((const __m256i *)(panel + n * PANEL_ROWS + PANEL_ROWS));
        for (size_t t = 0; t < rows; t++) {
            __m256 even = _mm256_set1_ps(bf16_to_float(x[t * x_stride + n])),
                   odd = _mm256_set1_ps(bf16_to_float(x[t * x_stride + n + 1]));
            low[t] = _mm256_fmadd_ps(odd, upper_halves(w_low), low[t]);
            high[t] = _mm256_fmadd_ps(odd, upper_halves(w_high), high[t]);
            low[t] = _mm256_fmadd_ps(even, lower_halves(w_low), low[t]);
            high[t] = _mm256_fmadd_ps(even, lower_halves(w_high), high[t]);
        }
    }
    for (size_t t = 0; t < rows; t++) store_row(y + t * y_stride, valid, bias, low[t], high[t]);
}

KERNEL_MATMUL_BF16(matmul_bf16_avx2) {
    for (size_t t = 0, rows; t < T; t += rows, x += rows * x_stride, y += rows * y_stride) {
        rows = T - t < 4 ? T - t : 4; /* four tokens leave registers for the widened weights */
        switch (rows) {
        case 1: tile_bf16(1, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 2: tile_bf16(2, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
        case 3: tile_bf16(3, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
        default: tile_bf16(4, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
        }
    }
}

KERNEL_NARROW_F16(narrow_f16_avx2) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 value = _mm256_loadu_ps(x + i);
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
        /* The instruction keeps a NaN's upper bits, half_from_float does not. */
        if (_mm256_movemask_ps(_mm256_cmp_ps(value, value, _CMP_UNORD_Q)))
            for (size_t j = i; j < i + 8; j++) y[j] = half_from_float(x[j]);
    }
    for (; i < count; i++) y[i] = half_from_float(x[i]);
}

KERNEL_WIDEN_F16(widen_f16_avx2) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(y + i, load_half_8(x + i));
    for (; i < count; i++) y[i] = half_to_float(x[i]);
}

/* bf16_from_float in integer arithmetic: add half a step less one, and one more where the result would be odd. */
KERNEL_NARROW_BF16(narrow_bf16_avx2) {
    size_t i = 0;
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7fff);
    for (; i + 8 <= count; i += 8) {
        __m256 value = _mm256_loadu_ps(x + i);
        __m256i bits = _mm256_castps_si256(value), upper = _mm256_srli_epi32(bits, 16);
        __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(half, _mm256_and_si256(upper, one)));
        __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        __m256i result = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet, nan);
        result = _mm256_permute4x64_epi64(_mm256_packus_epi32(result, result), 0x88);
        _mm_storeu_si128((__m128i *)(y + i), _mm256_castsi256_si128(result));
    }
    for (; i < count; i++) y[i] = bf16_from_float(x[i]);
}
#else
typedef int empty_translation_unit;
#endif
