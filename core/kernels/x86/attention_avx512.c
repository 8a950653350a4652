/* The attend kernels with AVX-512: a vector is a panel of 16 keys, a tile 12 rows. Where the CPU has none, the tests
 * compile this file over an emulation (EMULATE_AVX512). */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <string.h>
#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define TILE 12
/* rows, panels of scores at a time (chains of FMAs: rows times panels), vectors of y at a time (likewise; 24 registers
 * hold them) */
#define TILE_CASES(X)                                                                                                  \
    X(1, 8, 4)                                                                                                         \
    X(2, 4, 4)                                                                                                         \
    X(3, 4, 4)                                                                                                         \
    X(4, 2, 4)                                                                                                         \
    X(5, 2, 4)                                                                                                         \
    X(6, 2, 4)                                                                                                         \
    X(7, 2, 2)                                                                                                         \
    X(8, 2, 2)                                                                                                         \
    X(9, 2, 2)                                                                                                         \
    X(10, 2, 2)                                                                                                        \
    X(11, 2, 2)                                                                                                        \
    X(12, 2, 2)

typedef __m512 wide;

INLINE wide wide_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE wide wide_load_half(const uint16_t *x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x)); }
INLINE void wide_store(float *y, wide a) { _mm512_storeu_ps(y, a); }
INLINE wide wide_set(float a) { return _mm512_set1_ps(a); }
INLINE wide wide_add(wide a, wide b) { return _mm512_add_ps(a, b); }
INLINE wide wide_sub(wide a, wide b) { return _mm512_sub_ps(a, b); }
INLINE wide wide_mul(wide a, wide b) { return _mm512_mul_ps(a, b); }
INLINE wide wide_max(wide a, wide b) { return _mm512_max_ps(a, b); }
INLINE wide wide_fmadd(wide a, wide b, wide c) { return _mm512_fmadd_ps(a, b, c); }
INLINE float wide_first(wide a) { return _mm_cvtss_f32(_mm512_castps512_ps128(a)); }

INLINE __m256 upper_half(wide a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }

INLINE float wide_sum(wide a) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), upper_half(a));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

INLINE float wide_largest(wide a) {
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), upper_half(a));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

INLINE wide wide_round(wide a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* a 2^n of an integer n from -126 to 0. */
INLINE wide wide_scale(wide a, wide n) { return _mm512_scalef_ps(a, n); }

/* 0 where x < limit, else a. */
INLINE wide wide_zero_below(wide a, wide x, float limit) {
    return _mm512_maskz_mov_ps((__mmask16)~_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), a);
}

#include "kernels/vectors/exp2.inc"

#define ELEMENT float
#define ELEMENT_LOAD wide_load
#define ATTEND(name) attend_##name##_f32_avx512
#include "kernels/vectors/attention.inc"
#undef ELEMENT
#undef ELEMENT_LOAD
#undef ATTEND

#define ELEMENT uint16_t
#define ELEMENT_LOAD wide_load_half
#define ATTEND(name) attend_##name##_f16_avx512
#include "kernels/vectors/attention.inc"
#undef ELEMENT
#undef ELEMENT_LOAD
#undef ATTEND

/* Nearest-even of 0 to 255, less 128. */
INLINE void wide_store_codes(int8_t *code, wide a) {
    __m512i steps = _mm512_sub_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(128));
    _mm_storeu_si128((__m128i *)code, _mm512_cvtsepi32_epi8(steps));
}

/* Nearest-even of what is no NaN, or a NaN that need not stay one. */
INLINE void wide_store_bf16(uint16_t *weight, wide a) {
    __m512i bits = _mm512_castps_si512(a), even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256((__m256i *)weight, _mm512_cvtsepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

#define SOFTMAX(name) softmax_##name##_s8_avx512
#define WEIGHT int8_t
#define TOP 255.0f
#define STORE wide_store_codes
#define FACTOR(j) wide_load(factor + (j))
#define NOTHING -128
#include "kernels/vectors/softmax_weights.inc"

#define SOFTMAX(name) softmax_##name##_bf16_avx512
#define WEIGHT uint16_t
#define TOP 1.0f
#define STORE wide_store_bf16
#define FACTOR(j) wide_set(1)
#define NOTHING 0
#include "kernels/vectors/softmax_weights.inc"

KERNEL_SOFTMAX_S8(softmax_s8_avx512) { softmax_run_s8_avx512(rows, n, stride, score, inverse, code, scale); }
KERNEL_SOFTMAX_BF16(softmax_bf16_avx512) { softmax_run_bf16_avx512(rows, n, stride, score, NULL, weight, scale); }

KERNEL_ATTEND_F32(attend_f32_avx512) {
    (void)n;
    attend_run_f32_avx512(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}
KERNEL_ATTEND_F16(attend_f16_avx512) {
    (void)n;
    attend_run_f16_avx512(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}
#undef INLINE
#undef LANES
#undef TILE
#undef TILE_CASES
#else
typedef int empty_translation_unit;
#endif
