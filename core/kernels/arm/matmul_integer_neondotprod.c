/* int8 and int4 multiplication with the dot product instructions of Armv8.2 (FEAT_DotProd). */
#if defined(__aarch64__)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include "matmul_tools.inc"

INLINE int32x4_t dot_4(int32x4_t sum, int8x16_t w, int8x16_t x) { return vdotq_s32(sum, w, x); }

#define VARIANT(name) name##_neondotprod
#include "matmul_integer.inc"
#else
typedef int empty_translation_unit;
#endif
