/* The cpu mask that tests run under: CPUMASK in the environment (make test-san sets 0 and all), else all features. */
#ifndef CPU_MASK_H
#define CPU_MASK_H

#include <stdint.h>

uint32_t test_cpu_mask(void);

#endif
