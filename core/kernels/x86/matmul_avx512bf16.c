/* bf16 matrix multiplication with vdpbf16ps: a lane adds the products of two columns to its row's sum, 16 rows at
 * once; the pair of activations is the broadcast operand. The instruction takes denormals as zeros. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE_BF16 12

INLINE __m512bh broadcast_pair(const uint16_t *pair) {
    int32_t word;
    memcpy(&word, pair, sizeof word);
    return (__m512bh)_mm512_set1_epi32(word);
}

INLINE void tile_bf16(const size_t rows, size_t n_padded, const uint16_t *x, size_t x_stride, const uint16_t *panel,
                      const float *bias, float *y, size_t y_stride, size_t valid) {
    __m512 sum[TILE_BF16];
    for (size_t t = 0; t < rows; t++) sum[t] = _mm512_setzero_ps();
    for (size_t n = 0; n < n_padded; n += 2) {
        __m512bh w = (__m512bh)_mm512_loadu_si512(panel + n * PANEL_ROWS);
        for (size_t t = 0; t < rows; t++) sum[t] = _mm512_dpbf16_ps(sum[t], w, broadcast_pair(x + t * x_stride + n));
    }
    __mmask16 mask = (__mmask16)((1u << valid) - 1);
    for (size_t t = 0; t < rows; t++) {
        if (bias) sum[t] = _mm512_add_ps(sum[t], _mm512_loadu_ps(bias));
        _mm512_mask_storeu_ps(y + t * y_stride, mask, sum[t]);
    }
}

KERNEL_MATMUL_BF16(matmul_bf16_avx512bf16) {
    for (size_t t = 0, rows; t < T; t += rows, x += rows * x_stride, y += rows * y_stride) {
        size_t tiles = (T - t + TILE_BF16 - 1) / TILE_BF16;
        rows = (T - t + tiles - 1) / tiles;
        switch (rows) {
#define TILE_CASE(count)                                                                                               \
    case count: tile_bf16(count, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
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
        default: tile_bf16(12, n_padded, x, x_stride, panel, bias, y, y_stride, valid); break;
        }
    }
}
#undef TILE_CASE
#else
typedef int empty_translation_unit;
#endif
