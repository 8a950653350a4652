/* multiply_f32 with NEON: 24 of the 32 registers hold sums. */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <arm_neon.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MULTIPLY(name) name##_neon
#define VEC 4
#define GROUP 4
#define ROWS 6
#define TALL_ROWS 12
typedef float32x4_t columns;

INLINE columns columns_load(const float *x) { return vld1q_f32(x); }
INLINE void columns_store(float *y, columns a) { vst1q_f32(y, a); }
INLINE columns columns_set(float a) { return vdupq_n_f32(a); }
INLINE columns columns_fmadd(columns a, columns b, columns c) { return vfmaq_f32(c, a, b); }
INLINE columns columns_load_first(const float *x, size_t count) {
    float lanes[VEC] = {0};
    memcpy(lanes, x, count * sizeof *x);
    return vld1q_f32(lanes);
}
INLINE void columns_store_first(float *y, size_t count, columns a) {
    float lanes[VEC];
    vst1q_f32(lanes, a);
    memcpy(y, lanes, count * sizeof *y);
}

#include "kernels/vectors/multiply.inc"
#else
typedef int empty_translation_unit;
#endif
