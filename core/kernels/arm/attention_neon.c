/* The attend kernels, and the softmax whose weights go into 8-bit or bf16 products, with NEON: a vector is a quarter of
 * a panel, a tile 6 rows. The bodies are those of the other instruction sets. */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 4
#define TILE 6
/* rows, panels of scores at a time, vectors of y at a time: up to 24 of 32 registers hold sums */
#define TILE_CASES(X)                                                                                                  \
    X(1, 4, 8)                                                                                                         \
    X(2, 2, 8)                                                                                                         \
    X(3, 1, 8)                                                                                                         \
    X(4, 1, 4)                                                                                                         \
    X(5, 1, 4)                                                                                                         \
    X(6, 1, 4)

typedef float32x4_t wide;

INLINE wide wide_load(const float *x) { return vld1q_f32(x); }
INLINE wide wide_load_half(const uint16_t *x) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x))); }
INLINE void wide_store(float *y, wide a) { vst1q_f32(y, a); }
INLINE wide wide_set(float a) { return vdupq_n_f32(a); }
INLINE wide wide_add(wide a, wide b) { return vaddq_f32(a, b); }
INLINE wide wide_sub(wide a, wide b) { return vsubq_f32(a, b); }
INLINE wide wide_mul(wide a, wide b) { return vmulq_f32(a, b); }
/* With a NaN in either the result is b. */
INLINE wide wide_max(wide a, wide b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE wide wide_fmadd(wide a, wide b, wide c) { return vfmaq_f32(c, a, b); }
INLINE wide wide_round(wide a) { return vrndnq_f32(a); }
INLINE float wide_first(wide a) { return vgetq_lane_f32(a, 0); }
INLINE float wide_sum(wide a) { return vaddvq_f32(a); }
INLINE float wide_largest(wide a) { return vmaxvq_f32(a); }

/* a 2^n of an integer n from -126 to 0. */
INLINE wide wide_scale(wide a, wide n) {
    int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

/* 0 where x < limit, else a. */
INLINE wide wide_zero_below(wide a, wide x, float limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, vdupq_n_f32(limit))));
}

#include "kernels/vectors/exp2.inc"

#define ELEMENT float
#define ELEMENT_LOAD wide_load
#define ATTEND(name) attend_##name##_f32_neon
#include "kernels/vectors/attention.inc"
#undef ELEMENT
#undef ELEMENT_LOAD
#undef ATTEND

#define ELEMENT uint16_t
#define ELEMENT_LOAD wide_load_half
#define ATTEND(name) attend_##name##_f16_neon
#include "kernels/vectors/attention.inc"

/* Nearest-even of 0 to 255, less 128. */
INLINE void wide_store_codes(int8_t *code, wide a) {
    int32x4_t steps = vsubq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(128));
    int16x4_t words = vqmovn_s32(steps);
    int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
    memcpy(code, &four, sizeof four);
}

/* Nearest-even of what is no NaN, or a NaN that need not stay one. */
INLINE void wide_store_bf16(uint16_t *weight, wide a) {
    uint32x4_t bits = vreinterpretq_u32_f32(a), even = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    vst1_u16(weight, vshrn_n_u32(vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7fff))), 16));
}

#define SOFTMAX(name) softmax_##name##_s8_neon
#define WEIGHT int8_t
#define TOP 255.0f
#define STORE wide_store_codes
#define FACTOR(j) wide_load(factor + (j))
#define NOTHING -128
#include "kernels/vectors/softmax_weights.inc"

#define SOFTMAX(name) softmax_##name##_bf16_neon
#define WEIGHT uint16_t
#define TOP 1.0f
#define STORE wide_store_bf16
#define FACTOR(j) wide_set(1.0f)
#define NOTHING 0
#include "kernels/vectors/softmax_weights.inc"

KERNEL_ATTEND_F32(attend_f32_neon) {
    (void)n;
    attend_run_f32_neon(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}
KERNEL_ATTEND_F16(attend_f16_neon) {
    (void)n;
    attend_run_f16_neon(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}
KERNEL_SOFTMAX_S8(softmax_s8_neon) { softmax_run_s8_neon(rows, n, stride, score, inverse, code, scale); }
KERNEL_SOFTMAX_BF16(softmax_bf16_neon) { softmax_run_bf16_neon(rows, n, stride, score, NULL, weight, scale); }
#else
typedef int empty_translation_unit;
#endif
