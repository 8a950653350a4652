/* f32 and 8-bit multiplication by oneDNN with weights packed once: the one place that knows its C API, which differs
 * between 2.x and 3.x (private to formats/). */
#ifndef ONEDNN_H
#define ONEDNN_H

#include <stddef.h>
#include <stdint.h>

struct onednn;

/* Copy w (R,N) into the library's object; *bytes: what its packed copy takes. E_UNSUPPORTED without oneDNN. */
int onednn_open(struct onednn **onednn, size_t R, size_t N, const float *w, size_t *bytes);
/* The same of 8-bit weights in int8's panels (formats/int8.c), which must outlive the object. */
int onednn_open_s8(struct onednn **onednn, size_t R, size_t n_padded, const int8_t *panels, size_t *bytes);
void onednn_close(struct onednn *onednn); /* NULL is fine */

/* y(T,R) = x(T,N) · wᵀ + bias on the library's own threads. Calls on one object exclude each other. */
int onednn_matmul(struct onednn *onednn, size_t T, const float *x, const float *bias, float *y);

/* sums(T,R) = Σ q(T,n_padded) · w, exact, of an object of onednn_open_s8. */
int onednn_matmul_s8(struct onednn *onednn, size_t T, const int8_t *q, int32_t *sums);

/* "oneDNN 2.6.3 (avx2)", or "" without it. */
const char *onednn_library(void);

#endif
