/* multiply_f32 with AVX-512. Where the CPU has none, the tests compile this file over an emulation (EMULATE_AVX512). */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <stdbool.h>
#include <string.h>
#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define MULTIPLY(name) name##_avx512
#define VEC 16
#define GROUP 4
#define ROWS 6
#define TALL_ROWS 12
typedef __m512 columns;

INLINE columns columns_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void columns_store(float *y, columns a) { _mm512_storeu_ps(y, a); }
INLINE columns columns_set(float a) { return _mm512_set1_ps(a); }
INLINE columns columns_fmadd(columns a, columns b, columns c) { return _mm512_fmadd_ps(a, b, c); }
INLINE __mmask16 columns_first(size_t count) { return (__mmask16)((1u << count) - 1); }
INLINE columns columns_load_first(const float *x, size_t count) {
    return _mm512_maskz_loadu_ps(columns_first(count), x);
}
INLINE void columns_store_first(float *y, size_t count, columns a) {
    _mm512_mask_storeu_ps(y, columns_first(count), a);
}

#include "kernels/vectors/multiply.inc"
#undef INLINE
#undef MULTIPLY
#undef VEC
#undef GROUP
#undef ROWS
#undef TALL_ROWS
#else
typedef int empty_translation_unit;
#endif
