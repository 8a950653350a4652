/* GELU, softmax, layer norm, addition and AdamW with AVX2 and FMA: the vector operations that the shared
 * bodies in elementwise.inc and training.inc are written with. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define VARIANT(name) name##_avx2
#define VEC 8
typedef __m256 vec;

INLINE vec vec_load(const float *x) { return _mm256_loadu_ps(x); }
INLINE void vec_store(float *y, vec a) { _mm256_storeu_ps(y, a); }
INLINE vec vec_set(float a) { return _mm256_set1_ps(a); }
INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
INLINE vec vec_reciprocal(vec a) { return _mm256_div_ps(_mm256_set1_ps(1.0f), a); }
INLINE vec vec_sqrt(vec a) { return _mm256_sqrt_ps(a); }
INLINE vec vec_fmadd(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec vec_fnmadd(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
/* With a NaN in b the result is b. */
INLINE vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vec_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vec vec_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* a * 2^n for whole n in -126..127. */
INLINE vec vec_times_power_of_2(vec a, vec n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

/* 0 where x < limit, else a. */
INLINE vec vec_zero_below(vec a, vec x, vec limit) { return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), a); }

INLINE vec vec_select_negative(vec x, vec negative, vec otherwise) { return _mm256_blendv_ps(otherwise, negative, x); }

INLINE float vec_reduce_add(vec a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

INLINE float vec_reduce_max(vec a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

#include "kernels/vectors/elementwise.inc"
#include "kernels/vectors/training.inc"
#else
typedef int empty_translation_unit;
#endif
