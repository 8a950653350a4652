/* bf16 matrix multiplication with vdpbf16ps: a lane adds the products of two columns to its row's sum, 16 rows at
 * once; the pair of activations is the broadcast operand. The instruction takes denormals as zeros. */
#if defined(__x86_64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"
#include "matmul_tools.inc"

INLINE __m512 multiply_add_bf16(__m512 sum, __m512i w, const uint16_t *pair) {
    int32_t word;
    memcpy(&word, pair, sizeof word);
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(word));
}

#define MATMUL(name) name##_bf16
#define MATMUL_CONTRACT KERNEL_MATMUL_BF16(matmul_bf16_avx512bf16)
#define INPUT uint16_t
#define WEIGHT uint16_t
#define vec_weight __m512i
#define load_weight(place) _mm512_loadu_si512(place)
#define multiply_add multiply_add_bf16
#define STEP 2
#define PAIRED 0
#define N n_padded
#include "matmul_panels.inc"
#undef N
#else
typedef int empty_translation_unit;
#endif
