/* Conversions between f32 and 16 or 8 bits with NEON, and rows turned into panels. */
#if defined(__aarch64__)
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <arm_neon.h>

#define BYTES_BF16 16
#include "kernels/vectors/convert_bf16.inc"

KERNEL_NARROW_F16(narrow_f16_neon) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        float32x4_t value = vld1q_f32(x + i);
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(value)));
        /* The instruction keeps a NaN's upper bits, half_from_float does not. */
        if (!vminvq_u32(vceqq_f32(value, value)))
            for (size_t j = i; j < i + 4; j++) y[j] = half_from_float(x[j]);
    }
    for (; i < count; i++) y[i] = half_from_float(x[i]);
}

KERNEL_WIDEN_F16(widen_f16_neon) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
    for (; i < count; i++) y[i] = half_to_float(x[i]);
}

INLINE void widen_words(int16x4_t words, const float *scale, float *y) {
    vst1q_f32(y, vmulq_f32(vcvtq_f32_s32(vmovl_s16(words)), vld1q_f32(scale)));
}

KERNEL_WIDEN_S8(widen_s8_neon) {
    for (size_t i = 0; i < count; i += 8) {
        const float *by = scale + i % 16;
        int16x8_t words = vmovl_s8(vld1_s8(x + i));
        widen_words(vget_low_s16(words), by, y + i);
        widen_words(vget_high_s16(words), by + 4, y + i + 4);
    }
}

KERNEL_NARROW_BF16(narrow_bf16_neon) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        words_bf16 rounded = round_bf16(load_bf16(x + i));
        vst1_u16(y + i, vshrn_n_u32((uint32x4_t)rounded, 16));
    }
    for (; i < count; i++) y[i] = bf16_from_float(x[i]);
}

KERNEL_PAIR_BF16(pair_bf16_neon) { pair_bf16(K, valid, x, x_stride, panel); }

/* Four rows by four columns. */
INLINE void transpose_4(float32x4_t row[4]) {
    float32x4x2_t even = vzipq_f32(row[0], row[2]), odd = vzipq_f32(row[1], row[3]);
    float32x4x2_t first = vzipq_f32(even.val[0], odd.val[0]), last = vzipq_f32(even.val[1], odd.val[1]);
    row[0] = first.val[0], row[1] = first.val[1], row[2] = last.val[0], row[3] = last.val[1];
}

KERNEL_PACK_F32(pack_f32_neon) {
    size_t whole = N - N % 4;
    for (size_t part = 0; part < PANEL_ROWS; part += 4) {
        const float *from = x + part * x_stride;
        size_t rows = valid <= part ? 0 : valid - part < 4 ? valid - part : 4;
        float *to = panel + part;
        for (size_t n = 0; n < whole; n += 4) {
            float32x4_t row[4];
            for (size_t r = 0; r < 4; r++) row[r] = r < rows ? vld1q_f32(from + r * x_stride + n) : vdupq_n_f32(0.0f);
            transpose_4(row);
            for (size_t i = 0; i < 4; i++) vst1q_f32(to + (n + i) * PANEL_ROWS, row[i]);
        }
        for (size_t n = whole; n < N; n++)
            for (size_t r = 0; r < 4; r++) to[n * PANEL_ROWS + r] = r < rows ? from[r * x_stride + n] : 0.0f;
    }
}

/* Four bytes of each of 16 rows lie side by side. */
KERNEL_PANEL_SUMS_S8(panel_sums_s8_neon) {
    for (size_t p = 0; p < count; p++, total += PANEL_ROWS, negative += PANEL_ROWS) {
        int32x4_t sum[4], below[4];
        for (size_t i = 0; i < 4; i++) sum[i] = below[i] = vdupq_n_s32(0);
        for (size_t n = 0; n < n_padded; n += 4)
            for (size_t i = 0; i < 4; i++, panels += 16) {
                int8x16_t codes = vld1q_s8(panels), less = vmaxq_s8(vnegq_s8(codes), vdupq_n_s8(0));
                sum[i] = vpadalq_s16(sum[i], vpaddlq_s8(codes));
                below[i] = vpadalq_s16(below[i], vpaddlq_s8(less));
            }
        for (size_t i = 0; i < 4; i++) {
            vst1q_s32(total + 4 * i, sum[i]);
            vst1q_s32(negative + 4 * i, below[i]);
        }
    }
}
#else
typedef int empty_translation_unit;
#endif
