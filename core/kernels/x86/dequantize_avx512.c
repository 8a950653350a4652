/* dequantize.inc in vectors of 16, with F16C for the scales. */
#if defined(__x86_64__)
#include "kernels/dequantize.h"

#include <immintrin.h>
#include <string.h>

static inline float half_at(const uint8_t *bytes) {
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return _cvtsh_ss(half);
}

static void f16_avx512(size_t blocks, const uint8_t *bytes, float *out) {
    size_t i = 0;
    for (; i + 16 <= blocks; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(bytes + 2 * i))));
    for (; i < blocks; i++) out[i] = half_at(bytes + 2 * i);
}

#define F16_ROW
#define VARIANT(name) name##_avx512
#define HALF half_at
#include "kernels/dequantize.inc"
#else
typedef int empty_translation_unit;
#endif
