/* Weights in 16 bits or in ggml's blocks, back to f32: what model files hold, not what is multiplied here.
 *
 * Each function takes a stretch of whole blocks and gives their values in order, rounded exactly as ggml's
 * reference does (products of the scales first, one rounding per operation), on every instruction set alike:
 * the variants are one source (dequantize.inc) built with different flags, without contraction. Block layouts
 * are drawn in dequantize.inc. Bytes need no alignment.
 */
#ifndef DEQUANTIZE_H
#define DEQUANTIZE_H

#include <stddef.h>
#include <stdint.h>

/* name, values per block, bytes per block */
#define DEQUANTIZE_TYPES(X)                                                                                            \
    X(f16, 1, 2)                                                                                                       \
    X(bf16, 1, 2)                                                                                                      \
    X(q8_0, 32, 34)                                                                                                    \
    X(q4_0, 32, 18)                                                                                                    \
    X(q4_1, 32, 20)                                                                                                    \
    X(q5_0, 32, 22)                                                                                                    \
    X(q5_1, 32, 24)                                                                                                    \
    X(iq4_nl, 32, 18)                                                                                                  \
    X(q2_k, 256, 84)                                                                                                   \
    X(q3_k, 256, 110)                                                                                                  \
    X(q4_k, 256, 144)                                                                                                  \
    X(q5_k, 256, 176)                                                                                                  \
    X(q6_k, 256, 210)

#define DEQUANTIZE_ENUM(name, values, bytes) DEQUANTIZE_##name,
enum dequantize_type { DEQUANTIZE_TYPES(DEQUANTIZE_ENUM) DEQUANTIZE_COUNT };
#undef DEQUANTIZE_ENUM

/* out[blocks * values per block] from blocks * bytes per block. */
typedef void dequantize_function(size_t blocks, const uint8_t *bytes, float *out);

/* The functions of one instruction set, by type. */
extern dequantize_function *const dequantize_c[DEQUANTIZE_COUNT];
extern dequantize_function *const dequantize_avx2[DEQUANTIZE_COUNT];
extern dequantize_function *const dequantize_avx512[DEQUANTIZE_COUNT];

/* The best one that `flags` (base/cpu.h) allow; callers pass kernels.flags. */
dequantize_function *dequantize_find(enum dequantize_type type, uint32_t flags);

#endif
