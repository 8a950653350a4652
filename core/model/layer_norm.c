/* Layer norm with the residual sum in front of it (Ba et al. 2016), its gradient, and that of rms norm (Zhang and
 * Sennrich 2019): rows of the kernels. */
#include "model/layers.h"

#include "kernels/kernels.h"

void residual_norm_forward(size_t T, size_t C, const float *x, float *sum, const float *gain, const float *bias,
                           float epsilon, float *y, float *mean, float *rstd) {
    for (size_t t = 0; t < T; t++) kernels.add(C, x + t * C, sum + t * C);
    kernels.layer_norm(T, C, sum, gain, bias, epsilon, y, mean, rstd);
}

void norm_backward(size_t T, size_t C, const float *x, const float *mean, const float *rstd, const float *gain,
                   const float *dy, float *dx, float *dgain, float *dbias) {
    kernels.layer_norm_backward(T, C, x, mean, rstd, gain, dy, dx, dgain, dbias);
}

void rms_norm_backward(size_t T, size_t C, const float *x, const float *rstd, const float *gain, const float *dy,
                       float *dx, float *dgain) {
    kernels.rms_norm_backward(T, C, x, rstd, gain, dy, dx, dgain);
}
