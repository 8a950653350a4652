/* The three products of a linear layer in training, each on one tile in one thread.
 *
 *   forward          y(T,R)  = x(T,N) · w(R,N)ᵀ + bias
 *   backward_input   dx(T,N) = dy(T,R) · w(R,N)
 *   backward_weight  dw(R,N) = dy(T,R)ᵀ · x(T,N)
 *
 * The matrix is laid out as panels once per step, all tiles of tokens share them; they serve kernels.matmul_f32 (or
 * matmul_bf16). Of the gradient of a weight both operands are new, so in f32 they are multiplied where they lie. Every
 * output is one sum in an order that depends on the length of the sum alone, so results depend neither on how tokens
 * and rows are cut nor on threads. The bf16 versions round their inputs to bf16 and sum in f32.
 */
#ifndef PRODUCTS_H
#define PRODUCTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Floats of panels for a matrix (R,N): [ceil(R/16)][N][16], and [ceil(N/16)][R][16]. */
size_t panels_forward_floats(size_t R, size_t N);
size_t panels_backward_floats(size_t R, size_t N);

/* Rows r_begin..r_end-1 of w (R,N) into their places in `panels`, which is all of the matrix's; r_begin is a multiple
 * of 16, and r_end too unless it is R. Rows past R are zero. */
void panels_forward(size_t R, size_t N, const float *w, size_t r_begin, size_t r_end, float *panels);
/* The same for columns n_begin..n_end-1. */
void panels_backward(size_t R, size_t N, const float *w, size_t n_begin, size_t n_end, float *panels);

/* y(T,R) from x(T,N), panels_forward and bias[R], which may be NULL. */
void product_forward(size_t T, size_t N, size_t R, const float *x, const float *panels, const float *bias, float *y);
/* dx(T,N) from dy(T,R) and panels_backward, added to dx when `add`. */
void product_backward_input(size_t T, size_t N, size_t R, const float *dy, const float *panels, bool add, float *dx);

/* Floats of scratch of product_backward_weight for a job of `rows` rows; with 0, scratch may be NULL. */
size_t product_weight_scratch(size_t T, size_t rows, size_t N);
/* Rows begin..end-1 of dw(R,N) and, unless NULL, of dbias[R] = Σ_t dy, from x(T,N) and dy(T,R): whole sums over T in
 * token order, added to what is there when `add`. */
void product_backward_weight(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin, size_t end,
                             bool add, float *dw, float *dbias, float *scratch);

/* ---- in bf16: as above, with x, dy and w rounded to bf16 and f32 sums (dbias: of dy unrounded) ---------------- */

/* Elements of panels: [ceil(R/16)][ceil(N/2)][16][2], and [ceil(N/16)][ceil(R/2)][16][2]. */
size_t panels_forward_bf16_count(size_t R, size_t N);
size_t panels_backward_bf16_count(size_t R, size_t N);
void panels_forward_bf16(size_t R, size_t N, const float *w, size_t r_begin, size_t r_end, uint16_t *panels);
void panels_backward_bf16(size_t R, size_t N, const float *w, size_t n_begin, size_t n_end, uint16_t *panels);

/* Floats of scratch for T rows of input of this many columns: N forward, R backward. As the others, enough for fewer
 * rows and columns, too. */
size_t product_bf16_scratch(size_t T, size_t columns);
void product_forward_bf16(size_t T, size_t N, size_t R, const float *x, const uint16_t *panels, const float *bias,
                          float *y, float *scratch);
void product_backward_input_bf16(size_t T, size_t N, size_t R, const float *dy, const uint16_t *panels, bool add,
                                 float *dx, float *scratch);

/* Panels of an input, for product_backward_weight_panels_bf16: what panels_backward_bf16 would make of x (T,N), of its
 * rows t_begin..t_end-1; t_begin is even, and t_end too unless it is T. */
void panels_rows_bf16(size_t T, size_t N, const float *x, size_t t_begin, size_t t_end, uint16_t *panels);
/* As product_backward_weight over panels of x. Its scratch, in floats, for `rows` rows: */
size_t product_turned_bf16_scratch(size_t T, size_t rows);
void product_backward_weight_panels_bf16(size_t T, size_t N, size_t R, const uint16_t *panels, const float *dy,
                                         size_t begin, size_t end, bool add, float *dw, float *dbias, float *scratch);

size_t product_weight_bf16_scratch(size_t T, size_t rows, size_t N);
void product_backward_weight_bf16(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin,
                                  size_t end, bool add, float *dw, float *dbias, float *scratch);

#endif
