/* Dropout with AVX2: Philox4x32-10 (base/random.c) of four blocks at once, 32 elements.
 *
 * Each 32-bit word of a counter sits in a 64-bit lane. Multiplications read the lower halves alone, so what they leave
 * in the upper ones need not be cleared before the end.
 */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define ROUNDS 10
#define BLOCKS 4
#define ELEMENTS 8 /* of a block */

/* Blocks index..index+3 of a stream: bits[b] holds the eight 16-bit numbers of block b. */
INLINE void random_blocks(uint64_t seed, uint64_t stream, uint64_t index, __m128i bits[BLOCKS]) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57),
                  low = _mm256_set1_epi64x(0xFFFFFFFF);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    __m256i c0 = _mm256_add_epi64(_mm256_set1_epi64x((long long)index), _mm256_setr_epi64x(0, 1, 2, 3));
    __m256i c1 = _mm256_srli_epi64(c0, 32), c2 = _mm256_set1_epi64x((long long)stream);
    __m256i c3 = _mm256_srli_epi64(c2, 32);
    for (int round = 0; round < ROUNDS; round++) {
        __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
        c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    __m256i first = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
    __m256i last = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
    __m256i even = _mm256_unpacklo_epi64(first, last), odd = _mm256_unpackhi_epi64(first, last);
    bits[0] = _mm256_castsi256_si128(even);
    bits[1] = _mm256_castsi256_si128(odd);
    bits[2] = _mm256_extracti128_si256(even, 1);
    bits[3] = _mm256_extracti128_si256(odd, 1);
}

KERNEL_DROPOUT(dropout_avx2) {
    size_t i = 0;
    const __m128i limit = _mm_set1_epi16((short)dropped), ones = _mm_set1_epi8(1);
    const __m256 factor = _mm256_set1_ps(scale);
    /* 65536, at which all are dropped, has no 16 bits. */
    for (; dropped <= UINT16_MAX && i + BLOCKS * ELEMENTS <= count; i += BLOCKS * ELEMENTS) {
        __m128i bits[BLOCKS];
        random_blocks(seed, stream, (first + i) / ELEMENTS, bits);
        for (size_t b = 0; b < BLOCKS; b++) {
            size_t at = i + b * ELEMENTS;
            __m128i kept = _mm_cmpeq_epi16(_mm_max_epu16(bits[b], limit), bits[b]);
            __m256 scales = _mm256_and_ps(_mm256_castsi256_ps(_mm256_cvtepi16_epi32(kept)), factor);
            _mm_storel_epi64((__m128i *)(keep + at), _mm_and_si128(_mm_packs_epi16(kept, kept), ones));
            _mm256_storeu_ps(x + at, _mm256_mul_ps(_mm256_loadu_ps(x + at), scales));
        }
    }
    dropout_c(seed, stream, first + i, count - i, dropped, scale, x + i, keep + i);
}
#else
typedef int empty_translation_unit;
#endif
