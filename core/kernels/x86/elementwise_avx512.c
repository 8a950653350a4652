/* GELU, softmax, layer norm, addition and AdamW with AVX-512: the vector operations that the shared bodies
 * in elementwise.inc and training.inc are written with. Where the CPU has none, the tests compile this file over an
 * emulation (EMULATE_AVX512). */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define VARIANT(name) name##_avx512
#define VEC 16
typedef __m512 vec;

INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void vec_store(float *y, vec a) { _mm512_storeu_ps(y, a); }
INLINE vec vec_set(float a) { return _mm512_set1_ps(a); }
INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
/* 1 / a of 2^-126 < a < 2^126 within 2^-23: an estimate of 14 bits and one step of Newton's, a third of a division. */
INLINE vec vec_reciprocal(vec a) {
#if defined(EMULATE_AVX512)
    return _mm512_div_ps(_mm512_set1_ps(1.0f), a);
#else
    __m512 estimate = _mm512_rcp14_ps(a);
    return _mm512_mul_ps(estimate, _mm512_fnmadd_ps(a, estimate, _mm512_set1_ps(2.0f)));
#endif
}
INLINE vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
INLINE vec vec_fmadd(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_fnmadd(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
/* With a NaN in b the result is b. */
INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_abs(vec a) { return _mm512_abs_ps(a); }
INLINE vec vec_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec vec_times_power_of_2(vec a, vec n) { return _mm512_scalef_ps(a, n); }

/* 0 where x < limit, else a. */
INLINE vec vec_zero_below(vec a, vec x, vec limit) {
    return _mm512_maskz_mov_ps((__mmask16)~_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), a);
}

INLINE vec vec_select_negative(vec x, vec negative, vec otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(0.0f), _CMP_LT_OQ), otherwise, negative);
}

/* Reductions happen once per row; the compiler makes shuffles of these loops. */
INLINE float vec_reduce_add(vec a) {
    float lanes[VEC];
    vec_store(lanes, a);
    for (int width = VEC / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

INLINE float vec_reduce_max(vec a) {
    float lanes[VEC];
    vec_store(lanes, a);
    for (int width = VEC / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] = lanes[lane] > lanes[lane + width] ? lanes[lane] : lanes[lane + width];
    return lanes[0];
}

#include "elementwise.inc"
#include "training.inc"
#undef INLINE
#undef VARIANT
#undef VEC
#else
typedef int empty_translation_unit;
#endif
