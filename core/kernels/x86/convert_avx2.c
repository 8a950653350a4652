/* Conversions between f32 and 16 or 8 bits with AVX2 and F16C, 8 values at once. */
#if defined(__x86_64__)
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>

#define BYTES_BF16 32
#include "kernels/vectors/convert_bf16.inc"

INLINE __m256 load_half_8(const uint16_t *bits) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)bits)); }

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

INLINE void widen_codes_8(const int8_t *x, __m256 scale, float *y) {
    __m256i codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)x));
    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(codes), scale));
}

KERNEL_WIDEN_S8(widen_s8_avx2) {
    __m256 low = _mm256_loadu_ps(scale), high = _mm256_loadu_ps(scale + 8);
    for (size_t i = 0; i < count; i += 16) {
        widen_codes_8(x + i, low, y + i);
        widen_codes_8(x + i + 8, high, y + i + 8);
    }
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

KERNEL_PAIR_BF16(pair_bf16_avx2) { pair_bf16(K, valid, x, x_stride, panel); }
#else
typedef int empty_translation_unit;
#endif
