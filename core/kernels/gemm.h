/* General f32 matrix multiplication with operands in plain row-major storage, in one thread.
 *
 * The training passes and attention use it inside parallel_for bodies, over tiles whose size does not
 * depend on the number of threads. Backed by OpenBLAS (cblas_sgemm); built with BACKENDS=none, by a
 * plain C loop.
 */
#ifndef GEMM_H
#define GEMM_H

#include <stdbool.h>
#include <stddef.h>

/* c(M,N) = alpha * op(a)(M,K) · op(b)(K,N) + beta * c; op transposes when its flag is set. lda, ldb, ldc
 * are row strides in elements of the stored (untransposed) matrices. */
void gemm_f32(bool transpose_a, bool transpose_b, size_t M, size_t N, size_t K, float alpha, const float *a, size_t lda,
              const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* Name, version and core type of the library: "OpenBLAS 0.3.21 (Haswell)", or "C". */
const char *gemm_library(void);

#endif
