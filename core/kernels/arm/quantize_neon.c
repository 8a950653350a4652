/* Quantization of activations with NEON. */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "matmul_tools.inc"

#include <math.h>

/* As largest_magnitude in integer_c.c: comparison of the bits without sign, where NaN is largest. */
static float largest_magnitude(const float *x, size_t count) {
    const uint32x4_t mask = vdupq_n_u32(0x7fffffff);
    uint32x4_t largest = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        largest = vmaxq_u32(largest, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), mask));
    uint32_t best = vmaxvq_u32(largest);
    for (; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        best = bits > best ? bits : best;
    }
    float value;
    memcpy(&value, &best, sizeof value);
    return value;
}

/* Clamped to ±127 with NaN to -127, then rounded to even. */
INLINE int16x4_t quantize_4(const float *x, float32x4_t step) {
    const float32x4_t most = vdupq_n_f32(127.0f), least = vdupq_n_f32(-127.0f);
    float32x4_t code = vdivq_f32(vld1q_f32(x), step);
    code = vbslq_f32(vcgtq_f32(code, least), code, least);
    code = vbslq_f32(vcltq_f32(code, most), code, most);
    return vmovn_s32(vcvtnq_s32_f32(code));
}

INLINE int8x8_t quantize_8(const float *x, float32x4_t step) {
    return vmovn_s16(vcombine_s16(quantize_4(x, step), quantize_4(x + 4, step)));
}

static void quantize_row(size_t N, const float *x, float step, int8_t *codes) {
    float32x4_t steps = vdupq_n_f32(step);
    size_t n = 0;
    for (; n + 8 <= N; n += 8) vst1_s8(codes + n, quantize_8(x + n, steps));
    if (n == N) return;
    float rest[8] = {0};
    int8_t last[8];
    memcpy(rest, x + n, (N - n) * sizeof *x);
    vst1_s8(last, quantize_8(rest, steps));
    memcpy(codes + n, last, N - n);
}

static int32_t sum_of_codes(const int8_t *codes, size_t count) {
    int32x4_t total = vdupq_n_s32(0);
    size_t n = 0;
    for (; n + 16 <= count; n += 16) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(codes + n)));
    int32_t sum = vaddvq_s32(total);
    for (; n < count; n++) sum += codes[n];
    return sum;
}

KERNEL_QUANTIZE_S8(quantize_s8_neon) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        float step = largest_magnitude(row, N) / 127.0f;
        scale[t] = step;
        if (step == 0.0f) memset(codes, 0, N);
        else quantize_row(N, row, step, codes);
        memset(codes + N, 0, n_padded - N);
        for (size_t g = 0; g < n_padded / G; g++) sums[t * (n_padded / G) + g] = sum_of_codes(codes + g * G, G);
    }
}

KERNEL_RANGE_F32(range_f32_neon) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        float32x4_t least = vdupq_n_f32(0), most = least;
        size_t n = 0;
        for (; n + 4 <= N; n += 4) {
            float32x4_t value = vld1q_f32(row + n);
            least = vminq_f32(least, value); /* NaN wins in both */
            most = vmaxq_f32(most, value);
        }
        low[t] = vminvq_f32(least), high[t] = vmaxvq_f32(most);
        for (; n < N; n++) {
            if (row[n] < low[t] || isnan(row[n])) low[t] = row[n];
            if (row[n] > high[t] || isnan(row[n])) high[t] = row[n];
            if (isnan(row[n])) break;
        }
    }
}

struct affine {
    float32x4_t step, bottom, top;
    int32x4_t zero;
};

INLINE int16x4_t affine_4(const float *x, const struct affine *c, uint32x4_t *ordered) {
    float32x4_t value = vld1q_f32(x), code = vdivq_f32(value, c->step);
    *ordered = vandq_u32(*ordered, vceqq_f32(value, value));
    code = vbslq_f32(vcgtq_f32(code, c->bottom), code, c->bottom);
    code = vbslq_f32(vcltq_f32(code, c->top), code, c->top);
    return vmovn_s32(vaddq_s32(vcvtnq_s32_f32(code), c->zero));
}

INLINE int8x8_t affine_8(const float *x, const struct affine *c, uint32x4_t *ordered) {
    int16x4_t first = affine_4(x, c, ordered);
    return vmovn_s16(vcombine_s16(first, affine_4(x + 4, c, ordered)));
}

KERNEL_QUANTIZE_AFFINE(quantize_affine_neon) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        const struct affine c = {vdupq_n_f32(scale[t]), vdupq_n_f32((float)(least - zero[t])),
                                 vdupq_n_f32((float)(most - zero[t])), vdupq_n_s32(zero[t])};
        uint32x4_t ordered = vdupq_n_u32(UINT32_MAX);
        size_t n = 0;
        for (; n + 8 <= N; n += 8) vst1_s8(codes + n, affine_8(row + n, &c, &ordered));
        if (n < N) {
            float rest[8] = {0};
            int8_t last[8];
            memcpy(rest, row + n, (N - n) * sizeof *rest);
            vst1_s8(last, affine_8(rest, &c, &ordered));
            memcpy(codes + n, last, N - n);
        }
        if (!vminvq_u32(ordered)) scale[t] = NAN;
        memset(codes + N, 0, n_padded - N);
        for (size_t g = 0; g < n_padded / G; g++) sums[t * (n_padded / G) + g] = sum_of_codes(codes + g * G, G);
    }
}
#else
typedef int empty_translation_unit;
#endif
