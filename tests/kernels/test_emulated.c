/* The AVX-512 and VNNI kernels on a CPU that has neither: their source files are compiled here a second time
 * over SIMDe, which computes each instruction in C, under names of their own, and go through the same checker.
 * Skipped where libsimde-dev is not installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "checker.h"
#include "kernels/kernels.h"

#if __has_include(<simde/x86/avx512.h>)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

/* What SIMDe 0.7.4 leaves out of what the kernels use, in halves of 256 bits. */
static inline simde__m512 emulated_join(simde__m256 low, simde__m256 high) {
    return simde_mm512_insertf32x8(simde_mm512_castps256_ps512(low), high, 1);
}
static inline simde__m512 emulated_cvtepi32_ps(simde__m512i a) {
    return emulated_join(simde_mm256_cvtepi32_ps(simde_mm512_castsi512_si256(a)),
                         simde_mm256_cvtepi32_ps(simde_mm512_extracti64x4_epi64(a, 1)));
}
static inline simde__m512 emulated_cvtph_ps(simde__m256i a) {
    return emulated_join(simde_mm256_cvtph_ps(simde_mm256_castsi256_si128(a)),
                         simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(a, 1)));
}
static inline simde__m512i emulated_cvtepu8_epi32(simde__m128i a) {
    simde__m512i low = simde_mm512_castsi256_si512(simde_mm256_cvtepu8_epi32(a));
    return simde_mm512_inserti64x4(low, simde_mm256_cvtepu8_epi32(simde_mm_srli_si128(a, 8)), 1);
}
static inline simde__m512i emulated_cvtepu16_epi32(simde__m256i a) {
    simde__m512i low = simde_mm512_castsi256_si512(simde_mm256_cvtepu16_epi32(simde_mm256_castsi256_si128(a)));
    return simde_mm512_inserti64x4(low, simde_mm256_cvtepu16_epi32(simde_mm256_extracti128_si256(a, 1)), 1);
}
static inline simde__m512i emulated_cvtepi8_epi32(simde__m128i a) {
    simde__m512i low = simde_mm512_castsi256_si512(simde_mm256_cvtepi8_epi32(a));
    return simde_mm512_inserti64x4(low, simde_mm256_cvtepi8_epi32(simde_mm_srli_si128(a, 8)), 1);
}
static inline simde__m512i emulated_cvtps_epi32(simde__m512 a) {
    simde__m512i low = simde_mm512_castsi256_si512(simde_mm256_cvtps_epi32(simde_mm512_castps512_ps256(a)));
    simde__m512 high =
        simde_mm512_castpd_ps(simde_mm512_castpd256_pd512(simde_mm512_extractf64x4_pd(simde_mm512_castps_pd(a), 1)));
    return simde_mm512_inserti64x4(low, simde_mm256_cvtps_epi32(simde_mm512_castps512_ps256(high)), 1);
}
static inline simde__m512 emulated_maskz_loadu_ps(unsigned mask, const float *x) {
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = mask >> i & 1 ? x[i] : 0;
    return simde_mm512_loadu_ps(lanes);
}
static inline void emulated_mask_storeu_ps(float *y, unsigned mask, simde__m512 a) {
    float lanes[16];
    simde_mm512_storeu_ps(lanes, a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) y[i] = lanes[i];
}
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif
#ifndef __mmask16
#define __mmask16 simde__mmask16
#endif

#define EMULATE_AVX512
#define matmul_f32_avx512 emulated_matmul_f32
#define matmul_f16_avx512 emulated_matmul_f16
#define matmul_bf16_f32_avx512 emulated_matmul_bf16_f32
#define matmul_s8_avx512vnni emulated_matmul_s8
#define matmul_u4_avx512vnni emulated_matmul_u4
#define matmul_s8_groups_avx512vnni emulated_matmul_s8_groups
#define gelu_avx512 emulated_gelu
#define gelu_tanh_avx512 emulated_gelu_tanh
#define silu_gate_avx512 emulated_silu_gate
#define gelu_backward_avx512 emulated_gelu_backward
#define attend_f32_avx512 emulated_attend_f32
#define attend_f16_avx512 emulated_attend_f16
#define softmax_s8_avx512 emulated_softmax_s8
#define softmax_bf16_avx512 emulated_softmax_bf16
#define softmax_avx512 emulated_softmax
#define layer_norm_avx512 emulated_layer_norm
#define rms_norm_avx512 emulated_rms_norm
#define add_avx512 emulated_add
#define adamw_avx512 emulated_adamw
#define multiply_f32_avx512 emulated_multiply_f32
#define gelu_tanh_backward_avx512 emulated_gelu_tanh_backward
#define silu_gate_backward_avx512 emulated_silu_gate_backward
#define layer_norm_backward_avx512 emulated_layer_norm_backward
#define rms_norm_backward_avx512 emulated_rms_norm_backward
#define softmax_backward_avx512 emulated_softmax_backward
#include "../../core/kernels/x86/attention_avx512.c"
#include "../../core/kernels/x86/elementwise_avx512.c"
#include "../../core/kernels/x86/matmul_avx512.c"
#include "../../core/kernels/x86/matmul_avx512vnni.c"
#include "../../core/kernels/x86/multiply_avx512.c"

static void emulated_versions_keep_the_contract(void **state) {
    (void)state;
    struct kernels table;
    struct checker_report report;
    kernels_fill(&table, 0);
    table.matmul_f32 = emulated_matmul_f32;
    table.matmul_f16 = emulated_matmul_f16;
    table.matmul_bf16_f32 = emulated_matmul_bf16_f32;
    table.matmul_s8 = emulated_matmul_s8;
    table.matmul_u4 = emulated_matmul_u4;
    table.matmul_s8_groups = emulated_matmul_s8_groups;
    table.gelu = emulated_gelu;
    table.gelu_tanh = emulated_gelu_tanh;
    table.silu_gate = emulated_silu_gate;
    table.gelu_backward = emulated_gelu_backward;
    table.attend_f32 = emulated_attend_f32;
    table.attend_f16 = emulated_attend_f16;
    table.softmax_s8 = emulated_softmax_s8;
    table.softmax_bf16 = emulated_softmax_bf16;
    table.softmax = emulated_softmax;
    table.layer_norm = emulated_layer_norm;
    table.rms_norm = emulated_rms_norm;
    table.add = emulated_add;
    table.adamw = emulated_adamw;
    table.multiply_f32 = emulated_multiply_f32;
    table.gelu_tanh_backward = emulated_gelu_tanh_backward;
    table.silu_gate_backward = emulated_silu_gate_backward;
    table.layer_norm_backward = emulated_layer_norm_backward;
    table.rms_norm_backward = emulated_rms_norm_backward;
    table.softmax_backward = emulated_softmax_backward;
    checker_run(&table, NULL, 60, checker_seed(), &report);
    printf("emulated AVX-512: %zu cases, seed %llu\n", report.cases, (unsigned long long)report.seed);
    if (report.failures) fail_msg("%zu of %zu cases failed; first: %s", report.failures, report.cases, report.first);
    assert_true(report.cases > 0);
}
#else
static void emulated_versions_keep_the_contract(void **state) {
    (void)state;
    printf("skipped: SIMDe (libsimde-dev) is not installed\n");
    skip();
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(emulated_versions_keep_the_contract)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
