/* See cpu_mask.h. */
#include "cpu_mask.h"

#include <stdlib.h>

uint32_t test_cpu_mask(void) {
    const char *text = getenv("CPUMASK");
    return text && *text ? (uint32_t)strtoul(text, NULL, 0) : UINT32_MAX;
}
