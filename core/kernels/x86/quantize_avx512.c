/* Quantization of activations with AVX-512.
 *
 * The contract's code is nearest-even(x / step) of the correctly rounded quotient. A division of 16 values takes as
 * long as ten other instructions, so x is multiplied by 1 / step: two more roundings, 2^-23 of a quotient of at most
 * 127.5. Only where the product lies that close to halfway between two codes could the code differ; there, in a vector
 * of several thousand, the division is done after all. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define SHORT 256 /* columns up to which 16 tokens stay in the first-level cache and reductions are worth sharing */
#define NEAR_HALF 0.49995f /* 127.5 * 2^-23 = 1.5e-5 below a half, and more */

/* As largest_magnitude in integer_c.c: integer comparison of the bits without sign. */
INLINE __m512i largest_bits(const float *x, size_t count) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 16 <= count; i += 16)
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_loadu_si512(x + i), mask));
    if (i < count) {
        __mmask16 rest = (__mmask16)((1u << (count - i)) - 1);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_maskz_loadu_epi32(rest, x + i), mask));
    }
    return largest;
}

INLINE float largest_magnitude(const float *x, size_t count) {
    int32_t bits = _mm512_reduce_max_epi32(largest_bits(x, count));
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE __m512i max_or_sum(bool sum, __m512i a, __m512i b) {
    return sum ? _mm512_add_epi32(a, b) : _mm512_max_epi32(a, b);
}

/* Lane i: all lanes of part[i] together. Pairs, then fours share a vector's lanes of 128 bits, which then change
 * places. */
INLINE __m512i reduce_16(bool sum, __m512i part[16]) {
    for (int i = 0; i < 16; i += 2)
        part[i] =
            max_or_sum(sum, _mm512_unpacklo_epi32(part[i], part[i + 1]), _mm512_unpackhi_epi32(part[i], part[i + 1]));
    for (int i = 0; i < 16; i += 4)
        part[i] =
            max_or_sum(sum, _mm512_unpacklo_epi64(part[i], part[i + 2]), _mm512_unpackhi_epi64(part[i], part[i + 2]));
    for (int i = 0; i < 16; i += 8)
        part[i] = max_or_sum(sum, _mm512_shuffle_i32x4(part[i], part[i + 4], 0x88),
                             _mm512_shuffle_i32x4(part[i], part[i + 4], 0xdd));
    return max_or_sum(sum, _mm512_shuffle_i32x4(part[0], part[8], 0x88), _mm512_shuffle_i32x4(part[0], part[8], 0xdd));
}

struct steps {
    __m512 step, inverse;
    bool exact; /* 1 / step can be had */
};

INLINE __m512i divide(__m512 value, const struct steps *c) {
    __m512 code = _mm512_div_ps(value, c->step);
    code = _mm512_min_ps(_mm512_max_ps(code, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));
    return _mm512_cvtps_epi32(code);
}

INLINE __m512i quantize_16(__m512 value, const struct steps *c) {
    __m512 code = _mm512_mul_ps(value, c->inverse);
    __m512 whole = _mm512_roundscale_ps(code, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __mmask16 near =
        _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_sub_ps(code, whole)), _mm512_set1_ps(NEAR_HALF), _CMP_GE_OQ);
    if (__builtin_expect(near != 0 || !c->exact, 0)) return divide(value, c);
    return _mm512_cvtps_epi32(whole);
}

/* Codes of columns begin..end-1; columns from N on are 0. Returns their sum, lane by lane. */
INLINE __m512i quantize_group(const float *x, size_t begin, size_t end, size_t N, const struct steps *c,
                              int8_t *codes) {
    __m512i sum = _mm512_setzero_si512();
    size_t n = begin, whole = end < N ? end : N;
    for (; n + 16 <= whole; n += 16) {
        __m512i code = quantize_16(_mm512_loadu_ps(x + n), c);
        sum = _mm512_add_epi32(sum, code);
        _mm_storeu_si128((__m128i *)(codes + n), _mm512_cvtepi32_epi8(code));
    }
    for (; n < end; n += 16) {
        __mmask16 here = (__mmask16)(end - n < 16 ? (1u << (end - n)) - 1 : 0xffff), real = 0;
        if (n < N) real = (__mmask16)(N - n < 16 ? here & ((1u << (N - n)) - 1) : here);
        __m512i code = _mm512_maskz_mov_epi32(real, quantize_16(_mm512_maskz_loadu_ps(real, x + n), c));
        sum = _mm512_add_epi32(sum, code);
        _mm_mask_storeu_epi8(codes + n, here, _mm512_cvtepi32_epi8(code));
    }
    return sum;
}

INLINE bool invertible(float step) { return step >= 1e-30f && step <= 1e30f; }

/* 16 short tokens whose codes are one group: steps of all at once, and sums. */
INLINE void quantize_16_tokens(size_t N, const float *x, size_t x_stride, size_t n_padded, int8_t *q, float *scale,
                               int32_t *sums) {
    __m512i part[16];
    float inverse[16];
    for (size_t t = 0; t < 16; t++) part[t] = largest_bits(x + t * x_stride, N);
    __m512 steps = _mm512_div_ps(_mm512_castsi512_ps(reduce_16(false, part)), _mm512_set1_ps(127.0f));
    _mm512_storeu_ps(scale, steps);
    _mm512_storeu_ps(inverse, _mm512_div_ps(_mm512_set1_ps(1.0f), steps));
    for (size_t t = 0; t < 16; t++) {
        struct steps c = {_mm512_set1_ps(scale[t]), _mm512_set1_ps(inverse[t]), invertible(scale[t])};
        part[t] = quantize_group(x + t * x_stride, 0, n_padded, scale[t] == 0.0f ? 0 : N, &c, q + t * n_padded);
    }
    _mm512_storeu_si512(sums, reduce_16(true, part));
}

KERNEL_QUANTIZE_S8(quantize_s8_avx512) {
    size_t t = 0;
    for (; N <= SHORT && G == n_padded && t + 16 <= T; t += 16)
        quantize_16_tokens(N, x + t * x_stride, x_stride, n_padded, q + t * n_padded, scale + t, sums + t);
    for (; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        float step = largest_magnitude(row, N) / 127.0f, inverse = 1.0f / step;
        struct steps c = {_mm512_set1_ps(step), _mm512_set1_ps(inverse), invertible(step)};
        scale[t] = step;
        for (size_t g = 0; g < n_padded / G; g++)
            sums[t * (n_padded / G) + g] =
                _mm512_reduce_add_epi32(quantize_group(row, g * G, (g + 1) * G, step == 0.0f ? 0 : N, &c, codes));
    }
}
#else
typedef int empty_translation_unit;
#endif
