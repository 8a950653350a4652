/* Quantization of activations with AVX2. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load_bytes(const void *bytes) { return _mm256_loadu_si256((const __m256i *)bytes); }

/* As largest_magnitude in integer_c.c: integer comparison of the bits without sign. */
static float largest_magnitude(const float *x, size_t count) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= count; i += 8) largest = _mm256_max_epi32(largest, _mm256_and_si256(load_bytes(x + i), mask));
    int32_t lanes[8], best = 0;
    _mm256_storeu_si256((__m256i *)lanes, largest);
    for (int lane = 0; lane < 8; lane++) best = lanes[lane] > best ? lanes[lane] : best;
    for (; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        best = bits > best ? bits : best;
    }
    float value;
    memcpy(&value, &best, sizeof value);
    return value;
}

INLINE __m256i quantize_8(const float *x, __m256 step) {
    __m256 code = _mm256_div_ps(_mm256_loadu_ps(x), step);
    code = _mm256_min_ps(_mm256_max_ps(code, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(code);
}

/* 32 values to 32 codes; the packs work in 128-bit halves, the permutation puts the fours back in order. */
INLINE __m256i quantize_32(const float *x, __m256 step) {
    __m256i low = _mm256_packs_epi32(quantize_8(x, step), quantize_8(x + 8, step));
    __m256i high = _mm256_packs_epi32(quantize_8(x + 16, step), quantize_8(x + 24, step));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE int32_t sum_of_codes(const int8_t *q, size_t count) {
    __m256i total = _mm256_setzero_si256();
    size_t n = 0;
    for (; n + 32 <= count; n += 32) {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_bytes(q + n));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    int32_t sum = _mm_cvtsi128_si32(half);
    for (; n < count; n++) sum += q[n];
    return sum;
}

KERNEL_QUANTIZE_S8(quantize_s8_avx2) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        float step = largest_magnitude(row, N) / 127.0f;
        scale[t] = step;
        if (step == 0.0f) {
            memset(codes, 0, n_padded);
            memset(sums + t * (n_padded / G), 0, n_padded / G * sizeof *sums);
            continue;
        }
        __m256 steps = _mm256_set1_ps(step);
        size_t n = 0;
        for (; n + 32 <= N; n += 32) _mm256_storeu_si256((__m256i *)(codes + n), quantize_32(row + n, steps));
        if (n < N) {
            float rest[32] = {0};
            int8_t rest_codes[32];
            memcpy(rest, row + n, (N - n) * sizeof *rest);
            _mm256_storeu_si256((__m256i *)rest_codes, quantize_32(rest, steps));
            memcpy(codes + n, rest_codes, N - n);
        }
        memset(codes + N, 0, n_padded - N);
        for (size_t g = 0; g < n_padded / G; g++) sums[t * (n_padded / G) + g] = sum_of_codes(codes + g * G, G);
    }
}

/* The range of one row, zero included; *nan: it holds one. */
INLINE void range_row(const float *x, size_t count, float *low, float *high, int *nan) {
    __m256 least = _mm256_setzero_ps(), most = least, unordered = least;
    float lanes[24];
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 value = _mm256_loadu_ps(x + i);
        least = _mm256_min_ps(value, least);
        most = _mm256_max_ps(value, most);
        unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    }
    _mm256_storeu_ps(lanes, least);
    _mm256_storeu_ps(lanes + 8, most);
    *nan = _mm256_movemask_ps(unordered) != 0;
    *low = *high = 0;
    for (int lane = 0; lane < 8; lane++) {
        *low = lanes[lane] < *low ? lanes[lane] : *low;
        *high = lanes[8 + lane] > *high ? lanes[8 + lane] : *high;
    }
    for (; i < count; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
        *nan |= x[i] != x[i];
    }
}

KERNEL_RANGE_F32(range_f32_avx2) {
    for (size_t t = 0; t < T; t++) {
        int nan;
        range_row(x + t * x_stride, N, &low[t], &high[t], &nan);
        if (nan) low[t] = high[t] = NAN;
    }
}

struct affine {
    __m256 step, bottom, top;
    __m256i zero;
};

INLINE __m256i affine_8(const float *x, const struct affine *c, __m256 *unordered) {
    __m256 value = _mm256_loadu_ps(x), code = _mm256_div_ps(value, c->step);
    *unordered = _mm256_or_ps(*unordered, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    code = _mm256_min_ps(_mm256_max_ps(code, c->bottom), c->top);
    return _mm256_add_epi32(_mm256_cvtps_epi32(code), c->zero);
}

INLINE __m256i affine_32(const float *x, const struct affine *c, __m256 *unordered) {
    __m256i low = _mm256_packs_epi32(affine_8(x, c, unordered), affine_8(x + 8, c, unordered));
    __m256i high = _mm256_packs_epi32(affine_8(x + 16, c, unordered), affine_8(x + 24, c, unordered));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

KERNEL_QUANTIZE_AFFINE(quantize_affine_avx2) {
    for (size_t t = 0; t < T; t++) {
        const float *row = x + t * x_stride;
        int8_t *codes = q + t * n_padded;
        const struct affine c = {_mm256_set1_ps(scale[t]), _mm256_set1_ps((float)(least - zero[t])),
                                 _mm256_set1_ps((float)(most - zero[t])), _mm256_set1_epi32(zero[t])};
        __m256 unordered = _mm256_setzero_ps();
        size_t n = 0;
        for (; n + 32 <= N; n += 32) _mm256_storeu_si256((__m256i *)(codes + n), affine_32(row + n, &c, &unordered));
        if (n < N) {
            float rest[32] = {0};
            int8_t rest_codes[32];
            memcpy(rest, row + n, (N - n) * sizeof *rest);
            _mm256_storeu_si256((__m256i *)rest_codes, affine_32(rest, &c, &unordered));
            memcpy(codes + n, rest_codes, N - n);
        }
        if (_mm256_movemask_ps(unordered)) scale[t] = NAN;
        memset(codes + N, 0, n_padded - N);
        for (size_t g = 0; g < n_padded / G; g++) sums[t * (n_padded / G) + g] = sum_of_codes(codes + g * G, G);
    }
}
#else
typedef int empty_translation_unit;
#endif
