/* f32, f16 and bf16 matrix multiplication with NEON, activations in f32, and f16 widened. x is broadcast from its
 * row-major place, so only weights are ever packed. */
#if defined(__aarch64__)
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "matmul_tools.inc"

#define MATMUL(name) name##_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_F32(matmul_f32_neon)
#define WEIGHT float
#define PAIRED 0
#define load_weight(place) vld1q_f32(place)
#include "matmul_panels.inc"

INLINE float32x4_t load_half_4(const uint16_t *bits) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits))); }

#define MATMUL(name) name##_f16
#define MATMUL_CONTRACT KERNEL_MATMUL_F16(matmul_f16_neon)
#define WEIGHT uint16_t
#define PAIRED 1
#define load_weight(place) load_half_4(place)
#include "matmul_panels.inc"

/* A bf16 is the upper half of an f32. */
INLINE float32x4_t load_bf16_4(const uint16_t *bits) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits), 16)); }

#define MATMUL(name) name##_bf16_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_BF16_F32(matmul_bf16_f32_neon)
#define WEIGHT uint16_t
#define PAIRED 1
#define load_weight(place) load_bf16_4(place)
#include "matmul_panels.inc"

KERNEL_WIDEN_F16(widen_f16_neon) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) vst1q_f32(y + i, load_half_4(x + i));
    for (; i < count; i++) y[i] = half_to_float(x[i]);
}
#else
typedef int empty_translation_unit;
#endif
