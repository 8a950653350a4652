/* The attend kernels with AVX2, FMA and F16C (a vector is half a panel, a tile 6 rows), and the transposition of rows
 * into panels. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define TILE 6
/* rows, panels of scores at a time, vectors of y at a time: 12 registers hold sums */
#define TILE_CASES(X)                                                                                                  \
    X(1, 4, 8)                                                                                                         \
    X(2, 2, 4)                                                                                                         \
    X(3, 2, 4)                                                                                                         \
    X(4, 1, 2)                                                                                                         \
    X(5, 1, 2)                                                                                                         \
    X(6, 1, 2)

typedef __m256 wide;

INLINE wide wide_load(const float *x) { return _mm256_loadu_ps(x); }
INLINE wide wide_load_half(const uint16_t *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
INLINE void wide_store(float *y, wide a) { _mm256_storeu_ps(y, a); }
INLINE wide wide_set(float a) { return _mm256_set1_ps(a); }
INLINE wide wide_add(wide a, wide b) { return _mm256_add_ps(a, b); }
INLINE wide wide_sub(wide a, wide b) { return _mm256_sub_ps(a, b); }
INLINE wide wide_mul(wide a, wide b) { return _mm256_mul_ps(a, b); }
INLINE wide wide_max(wide a, wide b) { return _mm256_max_ps(a, b); }
INLINE wide wide_fmadd(wide a, wide b, wide c) { return _mm256_fmadd_ps(a, b, c); }
INLINE float wide_first(wide a) { return _mm256_cvtss_f32(a); }

INLINE float wide_sum(wide a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

INLINE float wide_largest(wide a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

INLINE wide wide_round(wide a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* a 2^n of an integer n from -126 to 0. */
INLINE wide wide_scale(wide a, wide n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

/* 0 where x < limit, else a. */
INLINE wide wide_zero_below(wide a, wide x, float limit) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), a);
}

#include "kernels/vectors/exp2.inc"

#define ELEMENT float
#define ELEMENT_LOAD wide_load
#define ATTEND(name) attend_##name##_f32_avx2
#include "kernels/vectors/attention.inc"
#undef ELEMENT
#undef ELEMENT_LOAD
#undef ATTEND

#define ELEMENT uint16_t
#define ELEMENT_LOAD wide_load_half
#define ATTEND(name) attend_##name##_f16_avx2
#include "kernels/vectors/attention.inc"

/* Nearest-even of 0 to 255, less 128. */
INLINE void wide_store_codes(int8_t *code, wide a) {
    __m256i steps = _mm256_sub_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(128));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(steps), _mm256_extracti128_si256(steps, 1));
    _mm_storel_epi64((__m128i *)code, _mm_packs_epi16(words, words));
}

/* Nearest-even of what is no NaN, or a NaN that need not stay one. */
INLINE void wide_store_bf16(uint16_t *weight, wide a) {
    __m256i bits = _mm256_castps_si256(a), even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
    bits = _mm256_srli_epi32(bits, 16);
    __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    _mm_storeu_si128((__m128i *)weight, halves);
}

#define SOFTMAX(name) softmax_##name##_s8_avx2
#define WEIGHT int8_t
#define TOP 255.0f
#define STORE wide_store_codes
#define FACTOR(j) wide_load(factor + (j))
#define NOTHING -128
#include "kernels/vectors/softmax_weights.inc"

#define SOFTMAX(name) softmax_##name##_bf16_avx2
#define WEIGHT uint16_t
#define TOP 1.0f
#define STORE wide_store_bf16
#define FACTOR(j) wide_set(1)
#define NOTHING 0
#include "kernels/vectors/softmax_weights.inc"

KERNEL_SOFTMAX_S8(softmax_s8_avx2) { softmax_run_s8_avx2(rows, n, stride, score, inverse, code, scale); }
KERNEL_SOFTMAX_BF16(softmax_bf16_avx2) { softmax_run_bf16_avx2(rows, n, stride, score, NULL, weight, scale); }

/* a plus the four bytes of each lane of b, which as unsigned or signed numbers of 7 bits fit pairs of 16. */
INLINE __m256i add_bytes(__m256i a, __m256i b) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), b);
    return _mm256_add_epi32(a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

KERNEL_PANEL_SUMS_S8(panel_sums_s8_avx2) {
    const __m256i zero = _mm256_setzero_si256();
    for (size_t p = 0; p < count; p++, total += PANEL_ROWS, negative += PANEL_ROWS) {
        __m256i sum[2] = {zero, zero}, below[2] = {zero, zero};
        for (size_t n = 0; n < n_padded; n += 4)
            for (size_t half = 0; half < 2; half++, panels += 32) {
                __m256i codes = _mm256_loadu_si256((const __m256i *)panels);
                sum[half] = add_bytes(sum[half], codes);
                below[half] = add_bytes(below[half], _mm256_max_epi8(_mm256_sub_epi8(zero, codes), zero));
            }
        for (size_t half = 0; half < 2; half++) {
            _mm256_storeu_si256((__m256i *)(total + 8 * half), sum[half]);
            _mm256_storeu_si256((__m256i *)(negative + 8 * half), below[half]);
        }
    }
}

KERNEL_ATTEND_F32(attend_f32_avx2) {
    (void)n;
    attend_run_f32_avx2(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}
KERNEL_ATTEND_F16(attend_f16_avx2) {
    (void)n;
    attend_run_f16_avx2(T, D, W, q, k, v, v_stride, low, high, top, sum, y);
}

/* Columns of 8 rows: pairs, then fours, then halves of 128 bits change places. */
INLINE void transpose_8(__m256 row[8]) {
    __m256 pair[8], four[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        four[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        four[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        four[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        four[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        row[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        row[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
}

KERNEL_PACK_F32(pack_f32_avx2) {
    size_t whole = N - N % 8;
    for (size_t half = 0; half < PANEL_ROWS; half += 8) {
        const float *from = x + half * x_stride;
        size_t rows = valid <= half ? 0 : valid - half < 8 ? valid - half : 8;
        float *to = panel + half;
        for (size_t n = 0; n < whole; n += 8) {
            __m256 row[8];
            for (size_t r = 0; r < 8; r++)
                row[r] = r < rows ? _mm256_loadu_ps(from + r * x_stride + n) : _mm256_setzero_ps();
            transpose_8(row);
            for (size_t i = 0; i < 8; i++) _mm256_storeu_ps(to + (n + i) * PANEL_ROWS, row[i]);
        }
        for (size_t n = whole; n < N; n++)
            for (size_t r = 0; r < 8; r++) to[n * PANEL_ROWS + r] = r < rows ? from[r * x_stride + n] : 0.0f;
    }
}
#else
typedef int empty_translation_unit;
#endif
