/* GELU, softmax, norms, addition and AdamW with NEON: the vector operations that the shared bodies in
 * elementwise.inc and training.inc are written with. */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))
#define VARIANT(name) name##_neon
#define VEC 4
typedef float32x4_t vec;

INLINE vec vec_load(const float *x) { return vld1q_f32(x); }
INLINE void vec_store(float *y, vec a) { vst1q_f32(y, a); }
INLINE vec vec_set(float a) { return vdupq_n_f32(a); }
INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
INLINE vec vec_reciprocal(vec a) { return vdivq_f32(vdupq_n_f32(1.0f), a); }
INLINE vec vec_sqrt(vec a) { return vsqrtq_f32(a); }
INLINE vec vec_fmadd(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
INLINE vec vec_fnmadd(vec a, vec b, vec c) { return vfmsq_f32(c, a, b); }
/* With a NaN in either the result is b. */
INLINE vec vec_min(vec a, vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE vec vec_max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE vec vec_abs(vec a) { return vabsq_f32(a); }
INLINE vec vec_round(vec a) { return vrndnq_f32(a); }

/* a * 2^n for whole n in -126..127. */
INLINE vec vec_times_power_of_2(vec a, vec n) {
    int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

/* 0 where x < limit, else a. */
INLINE vec vec_zero_below(vec a, vec x, vec limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, limit)));
}

INLINE vec vec_select_negative(vec x, vec negative, vec otherwise) {
    return vbslq_f32(vcltq_f32(x, vdupq_n_f32(0.0f)), negative, otherwise);
}

INLINE float vec_reduce_add(vec a) { return vaddvq_f32(a); }
INLINE float vec_reduce_max(vec a) { return vmaxvq_f32(a); }

#include "kernels/vectors/elementwise.inc"
#include "kernels/vectors/training.inc"
#else
typedef int empty_translation_unit;
#endif
