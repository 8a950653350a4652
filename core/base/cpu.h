/* What this CPU can execute, as flags that a mask can switch off (`--cpumask`). */
#ifndef CPU_H
#define CPU_H

#include <stdint.h>

enum cpu_flag {
    CPU_AVX2 = 1u << 0,   /* AVX2, FMA and F16C together */
    CPU_AVX512 = 1u << 1, /* AVX-512 F, BW, DQ, VL */
    CPU_AVX512VNNI = 1u << 2,
    CPU_AVX512BF16 = 1u << 3,
    CPU_AMX_INT8 = 1u << 4,
    CPU_AMX_BF16 = 1u << 5,
    CPU_AVXVNNI = 1u << 6,
    CPU_NEON = 1u << 7,      /* aarch64: Advanced SIMD, which every one has */
    CPU_DOTPROD = 1u << 8,   /* aarch64: FEAT_DotProd */
    CPU_SLOW_BF16 = 1u << 9, /* AVX512BF16 whose products take two cycles: slower than as many FMAs */
};

uint32_t cpu_detect(void);   /* what CPU and operating system offer; asks the latter for the use of AMX tiles */
const char *cpu_model(void); /* "AMD EPYC" from the CPU itself; "unknown" elsewhere */
void cpu_flags_text(uint32_t flags, char *text, unsigned long size); /* "avx2 avx512", "none" */

#endif
