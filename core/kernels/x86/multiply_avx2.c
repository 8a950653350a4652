/* multiply_f32 with AVX2 and FMA. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MULTIPLY(name) name##_avx2
#define VEC 8
#define GROUP 2
#define ROWS 6
#define TALL_ROWS 12
typedef __m256 columns;

INLINE columns columns_load(const float *x) { return _mm256_loadu_ps(x); }
INLINE void columns_store(float *y, columns a) { _mm256_storeu_ps(y, a); }
INLINE columns columns_set(float a) { return _mm256_set1_ps(a); }
INLINE columns columns_fmadd(columns a, columns b, columns c) { return _mm256_fmadd_ps(a, b, c); }
INLINE __m256i columns_first(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE columns columns_load_first(const float *x, size_t count) { return _mm256_maskload_ps(x, columns_first(count)); }
INLINE void columns_store_first(float *y, size_t count, columns a) { _mm256_maskstore_ps(y, columns_first(count), a); }

#include "kernels/vectors/multiply.inc"
#else
typedef int empty_translation_unit;
#endif
