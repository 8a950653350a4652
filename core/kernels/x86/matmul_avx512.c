/* f32, f16 and bf16 matrix multiplication with AVX-512, activations in f32: one register holds the 16 rows of a panel's
 * column, x is broadcast from its row-major place, so only weights are ever packed. Each output is one chain of FMAs
 * over n. f16 and bf16 differ in the load alone. */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "matmul_tools.inc"

INLINE __m512 multiply_add_f32(__m512 sum, __m512 w, const float *x) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*x), w, sum);
}

#define MATMUL(name) name##_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_F32(matmul_f32_avx512)
#define INPUT float
#define WEIGHT float
#define vec_weight __m512
#define load_weight(place) _mm512_loadu_ps(place)
#define multiply_add multiply_add_f32
#define STEP 1
#define PAIRED 0
#include "matmul_panels.inc"

#define MATMUL(name) name##_f16
#define MATMUL_CONTRACT KERNEL_MATMUL_F16(matmul_f16_avx512)
#define INPUT float
#define WEIGHT uint16_t
#define vec_weight __m512
#define load_weight(place) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(place)))
#define multiply_add multiply_add_f32
#define STEP 1
#define PAIRED 1
#include "matmul_panels.inc"

#define MATMUL(name) name##_bf16_f32
#define MATMUL_CONTRACT KERNEL_MATMUL_BF16_F32(matmul_bf16_f32_avx512)
#define INPUT float
#define WEIGHT uint16_t
#define vec_weight __m512
#define load_weight(place)                                                                                             \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(place))), 16))
#define multiply_add multiply_add_f32
#define STEP 1
#define PAIRED 1
#include "matmul_panels.inc"

#else
typedef int empty_translation_unit;
#endif
