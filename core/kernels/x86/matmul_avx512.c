/* f32 and f16 matrix multiplication with AVX-512: one register holds the 16 rows of a panel's column, a tile of up
 * to 12 tokens keeps 12 accumulators in flight (FMA latency 4, two per cycle: 8 are needed), and the FMA
 * takes x as a broadcast memory operand. Each output is one chain of FMAs over n. f16 differs in the load alone. */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <string.h>
#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE_F32 12

INLINE void tile_f32_avx512(const size_t rows, size_t N, const float *x, size_t x_stride, const float *panel,
                            const float *bias, float *y, size_t y_stride, size_t valid) {
    __m512 sum[TILE_F32];
    for (size_t t = 0; t < rows; t++) sum[t] = _mm512_setzero_ps();
    for (size_t n = 0; n < N; n++) {
        __m512 w = _mm512_loadu_ps(panel + n * PANEL_ROWS);
        for (size_t t = 0; t < rows; t++) sum[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[t * x_stride + n]), w, sum[t]);
    }
    for (size_t t = 0; t < rows; t++) {
        if (bias) sum[t] = _mm512_add_ps(sum[t], _mm512_loadu_ps(bias));
        if (valid == PANEL_ROWS) {
            _mm512_storeu_ps(y + t * y_stride, sum[t]);
        } else {
            float row[PANEL_ROWS];
            _mm512_storeu_ps(row, sum[t]);
            memcpy(y + t * y_stride, row, valid * sizeof *y);
        }
    }
}

KERNEL_MATMUL_F32(matmul_f32_avx512) {
    for (size_t t = 0, rows; t < T; t += rows, x += rows * x_stride, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_F32 - 1) / TILE_F32;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
#define TILE_CASE(count)                                                                                               \
    case count: tile_f32_avx512(count, N, x, x_stride, panel, bias, y, y_stride, valid); break;
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
            TILE_CASE(7)
            TILE_CASE(8)
            TILE_CASE(9)
            TILE_CASE(10)
            TILE_CASE(11)
        default: tile_f32_avx512(12, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        }
    }
}
#undef TILE_CASE

INLINE void tile_f16_avx512(const size_t rows, size_t N, const float *x, size_t x_stride, const uint16_t *panel,
                            const float *bias, float *y, size_t y_stride, size_t valid) {
    __m512 sum[TILE_F32];
    for (size_t t = 0; t < rows; t++) sum[t] = _mm512_setzero_ps();
    for (size_t n = 0; n < N; n++) {
        __m512 w = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(panel + n * PANEL_ROWS)));
        for (size_t t = 0; t < rows; t++) sum[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[t * x_stride + n]), w, sum[t]);
    }
    for (size_t t = 0; t < rows; t++) {
        if (bias) sum[t] = _mm512_add_ps(sum[t], _mm512_loadu_ps(bias));
        if (valid == PANEL_ROWS) {
            _mm512_storeu_ps(y + t * y_stride, sum[t]);
        } else {
            float row[PANEL_ROWS];
            _mm512_storeu_ps(row, sum[t]);
            memcpy(y + t * y_stride, row, valid * sizeof *y);
        }
    }
}

KERNEL_MATMUL_F16(matmul_f16_avx512) {
    for (size_t t = 0, rows; t < T; t += rows, x += rows * x_stride, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_F32 - 1) / TILE_F32;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
#define TILE_CASE(count)                                                                                               \
    case count: tile_f16_avx512(count, N, x, x_stride, panel, bias, y, y_stride, valid); break;
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
            TILE_CASE(7)
            TILE_CASE(8)
            TILE_CASE(9)
            TILE_CASE(10)
            TILE_CASE(11)
        default: tile_f16_avx512(12, N, x, x_stride, panel, bias, y, y_stride, valid); break;
        }
    }
}
#undef INLINE
#undef TILE_CASE
#undef TILE_F32
#else
typedef int empty_translation_unit;
#endif
