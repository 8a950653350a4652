/* dequantize.inc in vectors of 8, with F16C for the scales. */
#if defined(__x86_64__)
#include "kernels/dequantize.h"

#include <immintrin.h>
#include <string.h>

static inline float half_at(const uint8_t *bytes) {
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return _cvtsh_ss(half);
}

static void f16_avx2(size_t blocks, const uint8_t *bytes, float *out) {
    size_t i = 0;
    for (; i + 8 <= blocks; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(bytes + 2 * i))));
    for (; i < blocks; i++) out[i] = half_at(bytes + 2 * i);
}

#define F16_ROW
#define VARIANT(name) name##_avx2
#define HALF half_at
#include "kernels/dequantize.inc"
#else
typedef int empty_translation_unit;
#endif
