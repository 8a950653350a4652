/* int8 and int4 multiplication with the first NEON, which multiplies bytes to 16 bits: four products are summed in 32,
 * because a pair of them may be 2*128*128 = 32768. */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "matmul_tools.inc"

INLINE int32x4_t dot_4(int32x4_t sum, int8x16_t w, int8x16_t x) {
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}

#define VARIANT(name) name##_neon
#include "matmul_integer.inc"
#else
typedef int empty_translation_unit;
#endif
