/* Losses between hidden states of a student and a teacher, with their gradients.
 *
 * Rows are tokens. A gradient is `scale` times that of the loss returned and is added to what is there, because several
 * losses may meet in one buffer; NULL: not wanted. On all threads, bit-identical at any number of them.
 */
#ifndef LOSS_HIDDEN_H
#define LOSS_HIDDEN_H

#include <stdbool.h>
#include <stddef.h>

/* Mean over rows of 1 - cos(student, teacher), both (rows,C) (DistilBERT: Sanh et al. 2019, section 2). A row of zeros
 * has cosine 0 and no gradient. */
double loss_cosine(size_t rows, size_t C, const float *student, const float *teacher, double scale, float *gradient);

/* Mean square of student - teacher over all rows·C elements (TinyBERT: Jiao et al. 2020, equation 8). */
double loss_mean_square(size_t rows, size_t C, const float *student, const float *teacher, double scale,
                        float *gradient);

/* projected(rows,R) = student(rows,N) · weight(R,N)ᵀ: what a narrower student's states are compared through. */
void projection_forward(size_t rows, size_t N, size_t R, const float *student, const float *weight, float *projected);

/* From the gradient at `projected`: dstudent (rows,N) is added to, dweight (R,N) overwritten or added to. */
void projection_backward(size_t rows, size_t N, size_t R, const float *student, const float *weight,
                         const float *dprojected, float *dstudent, bool add, float *dweight);

#endif
