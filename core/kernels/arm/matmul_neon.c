/* f32, f16 and bf16 matrix multiplication with NEON, x is broadcast from its row-major place, so only
 * weights are ever packed. */
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

/* Of 16 rows and two columns each, 4 rows: a column is the upper or the lower half of every word. */
INLINE float32x4_t upper_halves(uint32x4_t pair) {
    return vreinterpretq_f32_u32(vandq_u32(pair, vdupq_n_u32(0xffff0000u)));
}
INLINE float32x4_t lower_halves(uint32x4_t pair) { return vreinterpretq_f32_u32(vshlq_n_u32(pair, 16)); }

INLINE void tile_bf16(const size_t tokens, size_t n_padded, const uint16_t *x, size_t x_stride, const uint16_t *panel,
                      const float *bias, float *y, size_t y_stride, size_t valid) {
    float32x4_t sum[16];
    for (size_t i = 0; i < tokens * 4; i++) sum[i] = vdupq_n_f32(0.0f);
    for (size_t n = 0; n < n_padded; n += 2, panel += 2 * PANEL_ROWS) {
        uint32x4_t w[4];
        for (size_t part = 0; part < 4; part++) w[part] = vreinterpretq_u32_u16(vld1q_u16(panel + 8 * part));
        for (size_t t = 0; t < tokens; t++) {
            float32x4_t even = vdupq_n_f32(bf16_to_float(x[t * x_stride + n])),
                        odd = vdupq_n_f32(bf16_to_float(x[t * x_stride + n + 1]));
            for (size_t part = 0; part < 4; part++) {
                sum[t * 4 + part] = vfmaq_f32(sum[t * 4 + part], odd, upper_halves(w[part]));
                sum[t * 4 + part] = vfmaq_f32(sum[t * 4 + part], even, lower_halves(w[part]));
            }
        }
    }
    for (size_t t = 0; t < tokens; t++) store_row(y + t * y_stride, valid, bias, sum + 4 * t);
}

#define MATMUL_BF16 matmul_bf16_neon
#include "kernels/vectors/matmul_bf16.inc"
#else
typedef int empty_translation_unit;
#endif
