/* Conversions from f32 to bf16 with AVX-512, 16 values at once. */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/half.h"
#include "kernels/variants.h"

#define BYTES_BF16 64
#include "kernels/vectors/convert_bf16.inc"

typedef uint16_t halves_bf16 __attribute__((vector_size(32)));

KERNEL_NARROW_BF16(narrow_bf16_avx512) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        halves_bf16 result = __builtin_convertvector(round_bf16(load_bf16(x + i)) >> 16, halves_bf16);
        memcpy(y + i, &result, sizeof result);
    }
    for (; i < count; i++) y[i] = bf16_from_float(x[i]);
}

KERNEL_PAIR_BF16(pair_bf16_avx512) { pair_bf16(K, valid, x, x_stride, panel); }
#else
typedef int empty_translation_unit;
#endif
