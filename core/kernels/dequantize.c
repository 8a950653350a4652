/* The C versions of dequantize.h, and the choice between variants. */
#include "kernels/dequantize.h"

#include <string.h>

#include "kernels/half.h"
#include "kernels/variants.h"

static inline float half_at(const uint8_t *bytes) {
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half_to_float(half);
}

#define VARIANT(name) name##_c
#define HALF half_at
#include "kernels/dequantize.inc"

dequantize_function *dequantize_find(enum dequantize_type type, uint32_t flags) {
#if defined(__x86_64__)
    if ((flags & NEEDS_AVX512) == NEEDS_AVX512) return dequantize_avx512[type];
    if ((flags & NEEDS_AVX2) == NEEDS_AVX2) return dequantize_avx2[type];
#endif
    (void)flags;
    return dequantize_c[type];
}
