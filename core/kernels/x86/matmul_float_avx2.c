/* f32, f16 and bf16 matrix multiplication with AVX2, FMA and F16C. x is broadcast from its row-major place, so only
 * weights are ever packed. f32 and f16: each output is one chain of FMAs over n. bf16 is split into its two columns by
 * a shift and a mask, for CPUs without the instruction. */
#if defined(__x86_64__)
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Tokens of the next tile when `left` remain: dealt evenly (7 = 4+3, not 6+1). */
INLINE size_t even_share(size_t left, size_t most) {
    size_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* Write 16 results, or the first `valid` of them, after adding the bias. */
INLINE void store_row(float *y, size_t valid, const float *bias, __m256 low, __m256 high) {
    float shift[PANEL_ROWS] = {0}, row[PANEL_ROWS];
    if (valid >= PANEL_ROWS) {
        _mm256_storeu_ps(y, bias ? _mm256_add_ps(low, _mm256_loadu_ps(bias)) : low);
        _mm256_storeu_ps(y + 8, bias ? _mm256_add_ps(high, _mm256_loadu_ps(bias + 8)) : high);
        return;
    }
    if (bias) {
        memcpy(shift, bias, valid * sizeof *bias);
        low = _mm256_add_ps(low, _mm256_loadu_ps(shift));
        high = _mm256_add_ps(high, _mm256_loadu_ps(shift + 8));
    }
    _mm256_storeu_ps(row, low);
    _mm256_storeu_ps(row + 8, high);
    memcpy(y, row, valid * sizeof *y);
}

#define MATMUL(name) name##_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_F32(matmul_f32_avx2)
#define WEIGHT float
#define PAIRED 0
#define load_weight(place) _mm256_loadu_ps(place)
#include "matmul_panels_avx2.inc"

#define MATMUL(name) name##_f16
#define MATMUL_CONTRACT KERNEL_MATMUL_F16(matmul_f16_avx2)
#define WEIGHT uint16_t
#define PAIRED 1
#define load_weight(place) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(place)))
#include "matmul_panels_avx2.inc"

#define MATMUL(name) name##_bf16_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_BF16_F32(matmul_bf16_f32_avx2)
#define WEIGHT uint16_t
#define PAIRED 1
#define load_weight(place)                                                                                             \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(place))), 16))
#include "matmul_panels_avx2.inc"

/* The two columns of a pair as f32: a bf16 is the upper half of one. */
INLINE __m256 upper_halves(__m256i pair) {
    return _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000u)));
}
INLINE __m256 lower_halves(__m256i pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }

INLINE void tile_bf16(const size_t tokens, size_t n_padded, const uint16_t *x, size_t x_stride, const uint16_t *panel,
                      const float *bias, float *y, size_t y_stride, size_t valid) {
    __m256 low[4], high[4];
    for (size_t t = 0; t < tokens; t++) low[t] = high[t] = _mm256_setzero_ps();
    for (size_t n = 0; n < n_padded; n += 2) {
        __m256i w_low = _mm256_loadu_si256((const __m256i *)(panel + n * PANEL_ROWS));
        __m256i w_high = _mm256_loadu_si256((const __m256i *)(panel + n * PANEL_ROWS + PANEL_ROWS));
        for (size_t t = 0; t < tokens; t++) {
            __m256 even = _mm256_set1_ps(bf16_to_float(x[t * x_stride + n])),
                   odd = _mm256_set1_ps(bf16_to_float(x[t * x_stride + n + 1]));
            low[t] = _mm256_fmadd_ps(odd, upper_halves(w_low), low[t]);
            high[t] = _mm256_fmadd_ps(odd, upper_halves(w_high), high[t]);
            low[t] = _mm256_fmadd_ps(even, lower_halves(w_low), low[t]);
            high[t] = _mm256_fmadd_ps(even, lower_halves(w_high), high[t]);
        }
    }
    for (size_t t = 0; t < tokens; t++) store_row(y + t * y_stride, valid, bias, low[t], high[t]);
}

#define MATMUL_BF16 matmul_bf16_avx2
#include "kernels/vectors/matmul_bf16.inc"
#else
typedef int empty_translation_unit;
#endif
