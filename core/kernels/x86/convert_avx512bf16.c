/* Conversions from f32 to bf16 by vcvtneps2bf16 and vcvtne2ps2bf16, which round as narrow_bf16 has it but for
 * denormals, which they take as zeros: vectors that hold one are rounded in integer arithmetic. */
#if defined(__x86_64__)
#include "kernels/half.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))
#define BYTES_BF16 64
#define PAIR_ROWS pair_rows_avx512bf16
INLINE void PAIR_ROWS(const float *even, const float *odd, uint16_t *panel);
#include "kernels/vectors/convert_bf16.inc"

#define DENORMAL 0x20 /* for vfpclassps */

INLINE bool any_denormal(__m512 a) { return _mm512_fpclass_ps_mask(a, DENORMAL) != 0; }

KERNEL_NARROW_BF16(narrow_bf16_avx512bf16) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m512 value = _mm512_loadu_ps(x + i);
        __m256i result = (__m256i)_mm512_cvtneps_pbh(value);
        if (any_denormal(value)) result = _mm512_cvtepi32_epi16((__m512i)(round_bf16(load_bf16(x + i)) >> 16));
        _mm256_storeu_si256((__m256i *)(void *)(y + i), result);
    }
    for (; i < count; i++) y[i] = bf16_from_float(x[i]);
}

INLINE void PAIR_ROWS(const float *even, const float *odd, uint16_t *panel) {
    static const uint16_t turns[2 * PANEL_ROWS] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512 low = _mm512_loadu_ps(even), high = _mm512_loadu_ps(odd);
    __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low); /* of low first */
    if (any_denormal(low) || any_denormal(high)) pair_rows_bf16(even, odd, panel);
    else _mm512_storeu_si512(panel, _mm512_permutexvar_epi16(_mm512_loadu_si512(turns), halves));
}

KERNEL_PAIR_BF16(pair_bf16_avx512bf16) { pair_bf16(K, valid, x, x_stride, panel); }
#else
typedef int empty_translation_unit;
#endif
