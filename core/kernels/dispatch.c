/* Fills the dispatch table: C versions first, then every variant whose flags are all there, in the order
 * of their list, so that the newest instruction set wins. */
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <string.h>

#define C_FIELD(name, contract) .name = name##_c,
struct kernels kernels = {KERNELS(C_FIELD)};

struct kernel_counters kernel_counters;

void kernels_fill(struct kernels *table, uint32_t flags) {
#define USE_C(name, contract) table->name = name##_c;
    KERNELS(USE_C)
#define USE_VARIANT(name, contract, isa, needs)                                                                        \
    if ((flags & (needs)) == (needs)) table->name = name##_##isa;
    VARIANTS(USE_VARIANT)
    table->flags = flags;
}

void kernels_open(uint32_t mask) { kernels_fill(&kernels, cpu_detect() & mask); }

const char *kernels_variant(const char *kernel, uint32_t flags) {
    const char *variant = NULL;
#define NAME_C(name, contract)                                                                                         \
    if (strcmp(kernel, #name) == 0) variant = #name "_c";
    KERNELS(NAME_C)
#define NAME_VARIANT(name, contract, isa, needs)                                                                       \
    if (strcmp(kernel, #name) == 0 && (flags & (needs)) == (needs)) variant = #name "_" #isa;
    VARIANTS(NAME_VARIANT)
    (void)flags;
    return variant;
}
