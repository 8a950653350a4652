/* Quick peaks of this machine, for `doctor`: a context for measured speeds, not a benchmark. */
#ifndef MACHINE_PEAKS_H
#define MACHINE_PEAKS_H

#include "formats/weight.h"

/* Best multiply-adds*2 per second of weight_matmul at side³ on threads_get() threads, within about `seconds`.
 * E_MEMORY, or E_UNSUPPORTED where the backend is not built in. */
int peak_matmul(const char *format, enum gemm_backend backend, size_t side, double seconds, double *operations_per_s);

/* Best bytes per second of reading `bytes` of memory on threads_get() threads, within about `seconds`. E_MEMORY. */
int peak_read(size_t bytes, double seconds, double *bytes_per_s);

#endif
