/* Every implementation of every kernel, declared through the contract macros (private to kernels/ and
 * its tests). A new variant is one row in X86_VARIANTS or ARM_VARIANTS; dispatch.c does the rest. Rows of one kernel go
 * from the oldest instruction set to the newest: the last one that the flags allow is used. */
#ifndef VARIANTS_H
#define VARIANTS_H

#include "base/cpu.h"
#include "kernels/kernels.h"

#define NEEDS_AVX2 CPU_AVX2
#define NEEDS_AVX512 (CPU_AVX2 | CPU_AVX512)
#define NEEDS_AVX512BF16 (CPU_AVX2 | CPU_AVX512 | CPU_AVX512BF16)
#define NEEDS_AVX512VNNI (CPU_AVX2 | CPU_AVX512 | CPU_AVX512VNNI)
#define NEEDS_AMX_BF16 (CPU_AVX2 | CPU_AVX512 | CPU_AMX_BF16)
#define NEEDS_AMX_INT8 (CPU_AVX2 | CPU_AVX512 | CPU_AMX_INT8)

/* kernel, contract, instruction set (the suffix), flags that it needs */
#define X86_VARIANTS(X)                                                                                                \
    X(matmul_f32, KERNEL_MATMUL_F32, avx2, NEEDS_AVX2)                                                                 \
    X(matmul_f32, KERNEL_MATMUL_F32, avx512, NEEDS_AVX512)                                                             \
    X(matmul_f16, KERNEL_MATMUL_F16, avx2, NEEDS_AVX2)                                                                 \
    X(matmul_f16, KERNEL_MATMUL_F16, avx512, NEEDS_AVX512)                                                             \
    X(matmul_bf16_f32, KERNEL_MATMUL_BF16_F32, avx2, NEEDS_AVX2)                                                       \
    X(matmul_bf16_f32, KERNEL_MATMUL_BF16_F32, avx512, NEEDS_AVX512)                                                   \
    X(matmul_bf16, KERNEL_MATMUL_BF16, avx2, NEEDS_AVX2)                                                               \
    X(matmul_bf16, KERNEL_MATMUL_BF16, avx512, NEEDS_AVX512)                                                           \
    X(matmul_bf16, KERNEL_MATMUL_BF16, avx512bf16, NEEDS_AVX512BF16)                                                   \
    X(matmul_bf16, KERNEL_MATMUL_BF16, avx512, NEEDS_AVX512 | CPU_SLOW_BF16)                                           \
    X(matmul_bf16, KERNEL_MATMUL_BF16, amx, NEEDS_AMX_BF16)                                                            \
    X(narrow_f16, KERNEL_NARROW_F16, avx2, NEEDS_AVX2)                                                                 \
    X(widen_f16, KERNEL_WIDEN_F16, avx2, NEEDS_AVX2)                                                                   \
    X(widen_s8, KERNEL_WIDEN_S8, avx2, NEEDS_AVX2)                                                                     \
    X(narrow_bf16, KERNEL_NARROW_BF16, avx2, NEEDS_AVX2)                                                               \
    X(narrow_bf16, KERNEL_NARROW_BF16, avx512, NEEDS_AVX512)                                                           \
    X(narrow_bf16, KERNEL_NARROW_BF16, avx512bf16, NEEDS_AVX512BF16)                                                   \
    X(pair_bf16, KERNEL_PAIR_BF16, avx2, NEEDS_AVX2)                                                                   \
    X(pair_bf16, KERNEL_PAIR_BF16, avx512, NEEDS_AVX512)                                                               \
    X(pair_bf16, KERNEL_PAIR_BF16, avx512bf16, NEEDS_AVX512BF16)                                                       \
    X(quantize_s8, KERNEL_QUANTIZE_S8, avx2, NEEDS_AVX2)                                                               \
    X(quantize_s8, KERNEL_QUANTIZE_S8, avx512, NEEDS_AVX512)                                                           \
    X(range_f32, KERNEL_RANGE_F32, avx2, NEEDS_AVX2)                                                                   \
    X(quantize_affine, KERNEL_QUANTIZE_AFFINE, avx2, NEEDS_AVX2)                                                       \
    X(matmul_s8, KERNEL_MATMUL_S8, avx2, NEEDS_AVX2)                                                                   \
    X(matmul_s8, KERNEL_MATMUL_S8, avx512vnni, NEEDS_AVX512VNNI)                                                       \
    X(matmul_s8, KERNEL_MATMUL_S8, amx, NEEDS_AMX_INT8)                                                                \
    X(matmul_s8_groups, KERNEL_MATMUL_S8_GROUPS, avx2, NEEDS_AVX2)                                                     \
    X(matmul_s8_groups, KERNEL_MATMUL_S8_GROUPS, avx512vnni, NEEDS_AVX512VNNI)                                         \
    X(matmul_u4, KERNEL_MATMUL_U4, avx2, NEEDS_AVX2)                                                                   \
    X(matmul_u4, KERNEL_MATMUL_U4, avx512vnni, NEEDS_AVX512VNNI)                                                       \
    X(gelu, KERNEL_GELU, avx2, NEEDS_AVX2)                                                                             \
    X(gelu, KERNEL_GELU, avx512, NEEDS_AVX512)                                                                         \
    X(gelu_tanh, KERNEL_GELU_TANH, avx2, NEEDS_AVX2)                                                                   \
    X(gelu_tanh, KERNEL_GELU_TANH, avx512, NEEDS_AVX512)                                                               \
    X(silu_gate, KERNEL_SILU_GATE, avx2, NEEDS_AVX2)                                                                   \
    X(silu_gate, KERNEL_SILU_GATE, avx512, NEEDS_AVX512)                                                               \
    X(gelu_backward, KERNEL_GELU_BACKWARD, avx2, NEEDS_AVX2)                                                           \
    X(gelu_backward, KERNEL_GELU_BACKWARD, avx512, NEEDS_AVX512)                                                       \
    X(pack_f32, KERNEL_PACK_F32, avx2, NEEDS_AVX2)                                                                     \
    X(attend_f32, KERNEL_ATTEND_F32, avx2, NEEDS_AVX2)                                                                 \
    X(attend_f32, KERNEL_ATTEND_F32, avx512, NEEDS_AVX512)                                                             \
    X(attend_f16, KERNEL_ATTEND_F16, avx2, NEEDS_AVX2)                                                                 \
    X(attend_f16, KERNEL_ATTEND_F16, avx512, NEEDS_AVX512)                                                             \
    X(softmax_s8, KERNEL_SOFTMAX_S8, avx2, NEEDS_AVX2)                                                                 \
    X(softmax_s8, KERNEL_SOFTMAX_S8, avx512, NEEDS_AVX512)                                                             \
    X(softmax_bf16, KERNEL_SOFTMAX_BF16, avx2, NEEDS_AVX2)                                                             \
    X(softmax_bf16, KERNEL_SOFTMAX_BF16, avx512, NEEDS_AVX512)                                                         \
    X(panel_sums_s8, KERNEL_PANEL_SUMS_S8, avx2, NEEDS_AVX2)                                                           \
    X(softmax, KERNEL_SOFTMAX, avx2, NEEDS_AVX2)                                                                       \
    X(softmax, KERNEL_SOFTMAX, avx512, NEEDS_AVX512)                                                                   \
    X(layer_norm, KERNEL_LAYER_NORM, avx2, NEEDS_AVX2)                                                                 \
    X(layer_norm, KERNEL_LAYER_NORM, avx512, NEEDS_AVX512)                                                             \
    X(rms_norm, KERNEL_RMS_NORM, avx2, NEEDS_AVX2)                                                                     \
    X(rms_norm, KERNEL_RMS_NORM, avx512, NEEDS_AVX512)                                                                 \
    X(add, KERNEL_ADD, avx2, NEEDS_AVX2)                                                                               \
    X(add, KERNEL_ADD, avx512, NEEDS_AVX512)                                                                           \
    X(adamw, KERNEL_ADAMW, avx2, NEEDS_AVX2)                                                                           \
    X(adamw, KERNEL_ADAMW, avx512, NEEDS_AVX512)                                                                       \
    X(multiply_f32, KERNEL_MULTIPLY_F32, avx2, NEEDS_AVX2)                                                             \
    X(multiply_f32, KERNEL_MULTIPLY_F32, avx512, NEEDS_AVX512)                                                         \
    X(gelu_tanh_backward, KERNEL_GELU_TANH_BACKWARD, avx2, NEEDS_AVX2)                                                 \
    X(gelu_tanh_backward, KERNEL_GELU_TANH_BACKWARD, avx512, NEEDS_AVX512)                                             \
    X(silu_gate_backward, KERNEL_SILU_GATE_BACKWARD, avx2, NEEDS_AVX2)                                                 \
    X(silu_gate_backward, KERNEL_SILU_GATE_BACKWARD, avx512, NEEDS_AVX512)                                             \
    X(layer_norm_backward, KERNEL_LAYER_NORM_BACKWARD, avx2, NEEDS_AVX2)                                               \
    X(layer_norm_backward, KERNEL_LAYER_NORM_BACKWARD, avx512, NEEDS_AVX512)                                           \
    X(rms_norm_backward, KERNEL_RMS_NORM_BACKWARD, avx2, NEEDS_AVX2)                                                   \
    X(rms_norm_backward, KERNEL_RMS_NORM_BACKWARD, avx512, NEEDS_AVX512)                                               \
    X(softmax_backward, KERNEL_SOFTMAX_BACKWARD, avx2, NEEDS_AVX2)                                                     \
    X(softmax_backward, KERNEL_SOFTMAX_BACKWARD, avx512, NEEDS_AVX512)                                                 \
    X(dropout, KERNEL_DROPOUT, avx2, NEEDS_AVX2)

#define NEEDS_NEONDOTPROD (CPU_NEON | CPU_DOTPROD)

#define ARM_VARIANTS(X)                                                                                                \
    X(matmul_f32, KERNEL_MATMUL_F32, neon, CPU_NEON)                                                                   \
    X(matmul_f16, KERNEL_MATMUL_F16, neon, CPU_NEON)                                                                   \
    X(matmul_bf16_f32, KERNEL_MATMUL_BF16_F32, neon, CPU_NEON)                                                         \
    X(matmul_bf16, KERNEL_MATMUL_BF16, neon, CPU_NEON)                                                                 \
    X(narrow_f16, KERNEL_NARROW_F16, neon, CPU_NEON)                                                                   \
    X(widen_f16, KERNEL_WIDEN_F16, neon, CPU_NEON)                                                                     \
    X(widen_s8, KERNEL_WIDEN_S8, neon, CPU_NEON)                                                                       \
    X(narrow_bf16, KERNEL_NARROW_BF16, neon, CPU_NEON)                                                                 \
    X(pair_bf16, KERNEL_PAIR_BF16, neon, CPU_NEON)                                                                     \
    X(quantize_s8, KERNEL_QUANTIZE_S8, neon, CPU_NEON)                                                                 \
    X(range_f32, KERNEL_RANGE_F32, neon, CPU_NEON)                                                                     \
    X(quantize_affine, KERNEL_QUANTIZE_AFFINE, neon, CPU_NEON)                                                         \
    X(matmul_s8, KERNEL_MATMUL_S8, neon, CPU_NEON)                                                                     \
    X(matmul_s8, KERNEL_MATMUL_S8, neondotprod, NEEDS_NEONDOTPROD)                                                     \
    X(matmul_s8_groups, KERNEL_MATMUL_S8_GROUPS, neon, CPU_NEON)                                                       \
    X(matmul_s8_groups, KERNEL_MATMUL_S8_GROUPS, neondotprod, NEEDS_NEONDOTPROD)                                       \
    X(matmul_u4, KERNEL_MATMUL_U4, neon, CPU_NEON)                                                                     \
    X(matmul_u4, KERNEL_MATMUL_U4, neondotprod, NEEDS_NEONDOTPROD)                                                     \
    X(gelu, KERNEL_GELU, neon, CPU_NEON)                                                                               \
    X(gelu_tanh, KERNEL_GELU_TANH, neon, CPU_NEON)                                                                     \
    X(silu_gate, KERNEL_SILU_GATE, neon, CPU_NEON)                                                                     \
    X(gelu_backward, KERNEL_GELU_BACKWARD, neon, CPU_NEON)                                                             \
    X(pack_f32, KERNEL_PACK_F32, neon, CPU_NEON)                                                                       \
    X(attend_f32, KERNEL_ATTEND_F32, neon, CPU_NEON)                                                                   \
    X(attend_f16, KERNEL_ATTEND_F16, neon, CPU_NEON)                                                                   \
    X(softmax_s8, KERNEL_SOFTMAX_S8, neon, CPU_NEON)                                                                   \
    X(softmax_bf16, KERNEL_SOFTMAX_BF16, neon, CPU_NEON)                                                               \
    X(panel_sums_s8, KERNEL_PANEL_SUMS_S8, neon, CPU_NEON)                                                             \
    X(softmax, KERNEL_SOFTMAX, neon, CPU_NEON)                                                                         \
    X(layer_norm, KERNEL_LAYER_NORM, neon, CPU_NEON)                                                                   \
    X(rms_norm, KERNEL_RMS_NORM, neon, CPU_NEON)                                                                       \
    X(add, KERNEL_ADD, neon, CPU_NEON)                                                                                 \
    X(adamw, KERNEL_ADAMW, neon, CPU_NEON)                                                                             \
    X(multiply_f32, KERNEL_MULTIPLY_F32, neon, CPU_NEON)                                                               \
    X(gelu_tanh_backward, KERNEL_GELU_TANH_BACKWARD, neon, CPU_NEON)                                                   \
    X(silu_gate_backward, KERNEL_SILU_GATE_BACKWARD, neon, CPU_NEON)                                                   \
    X(layer_norm_backward, KERNEL_LAYER_NORM_BACKWARD, neon, CPU_NEON)                                                 \
    X(rms_norm_backward, KERNEL_RMS_NORM_BACKWARD, neon, CPU_NEON)                                                     \
    X(softmax_backward, KERNEL_SOFTMAX_BACKWARD, neon, CPU_NEON)

/* Those of the machine that is compiled for. */
#if defined(__x86_64__)
#define VARIANTS X86_VARIANTS
#elif defined(__aarch64__)
#define VARIANTS ARM_VARIANTS
#else
#define VARIANTS(X)
#endif

#define VARIANT_DECLARE_C(name, contract) contract(name##_c);
KERNELS(VARIANT_DECLARE_C)
#undef VARIANT_DECLARE_C
#define VARIANT_DECLARE(name, contract, isa, needs) contract(name##_##isa);
VARIANTS(VARIANT_DECLARE)
#undef VARIANT_DECLARE

#endif
