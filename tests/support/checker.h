/* Checks compute kernels against their contracts, after dav1d's checkasm: odd sizes, unaligned buffers,
 * hostile fills, extreme values, guard pages behind and before every buffer.
 *
 * Integer and elementwise kernels must agree bit for bit with arithmetic that the checker does itself;
 * float kernels must stay within bounds derived from their length (docs/KERNELS.md). Every multiplication is
 * also repeated token by token: a batch must not change a row's bits. A kernel that touches memory outside
 * its operands is caught by a page fault or by a changed canary. */
#ifndef CHECKER_H
#define CHECKER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct checker_report {
    uint64_t seed;
    size_t cases, failures;
    char first[240]; /* the first failure in words */
};

/* Run `cases` random cases of one kernel of `table` ("matmul_f32"), or of all when `kernel` is NULL. The
 * report starts from zero. Not for several threads at once (it catches SIGSEGV and SIGBUS meanwhile). */
void checker_run(const struct kernels *table, const char *kernel, size_t cases, uint64_t seed,
                 struct checker_report *report);

/* CHECKER_SEED from the environment, or a fixed number. */
uint64_t checker_seed(void);

#endif
