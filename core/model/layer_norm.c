/* Layer norm with the residual sum in front of it (Ba et al. 2016), its gradient, and that of rms norm (Zhang and
 * Sennrich 2019).
 *
 *   xhat = (x - mean) · rstd,  y = gain · xhat + bias
 *   dx = rstd · (g - mean(g) - xhat · mean(g · xhat)),  g = gain · dy
 *
 * and without mean, mean(g) and bias for rms norm.
 *
 * Row sums run in eight fixed lanes, so that a compiler can use vectors without changing the order.
 */
#include "model/layers.h"

#include "kernels/kernels.h"

#define LANES 8

void residual_norm_forward(size_t T, size_t C, const float *x, float *sum, const float *gain, const float *bias,
                           float epsilon, float *y, float *mean, float *rstd) {
    for (size_t t = 0; t < T; t++) kernels.add(C, x + t * C, sum + t * C);
    kernels.layer_norm(T, C, sum, gain, bias, epsilon, y, mean, rstd);
}

static float sum_lanes(const float *lane) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

void norm_backward(size_t T, size_t C, const float *x, const float *mean, const float *rstd, const float *gain,
                   const float *dy, float *dx, float *dgain, float *dbias) {
    for (size_t t = 0; t < T; t++) {
        const float *xt = x + t * C, *dyt = dy + t * C;
        float *dxt = dx + t * C, m = mean[t], s = rstd[t];
        float plain[LANES] = {0}, product[LANES] = {0};
        size_t c = 0;
        for (; c + LANES <= C; c += LANES)
            for (size_t i = 0; i < LANES; i++) {
                float g = gain[c + i] * dyt[c + i], xhat = (xt[c + i] - m) * s;
                plain[i] += g;
                product[i] += g * xhat;
                dgain[c + i] += dyt[c + i] * xhat;
                dbias[c + i] += dyt[c + i];
            }
        for (size_t i = 0; c < C; c++, i++) {
            float g = gain[c] * dyt[c], xhat = (xt[c] - m) * s;
            plain[i] += g;
            product[i] += g * xhat;
            dgain[c] += dyt[c] * xhat;
            dbias[c] += dyt[c];
        }
        float mean_plain = sum_lanes(plain) / (float)C, mean_product = sum_lanes(product) / (float)C;
        for (c = 0; c < C; c++) dxt[c] = s * (gain[c] * dyt[c] - mean_plain - (xt[c] - m) * s * mean_product);
    }
}

void rms_norm_backward(size_t T, size_t C, const float *x, const float *rstd, const float *gain, const float *dy,
                       float *dx, float *dgain) {
    for (size_t t = 0; t < T; t++) {
        const float *xt = x + t * C, *dyt = dy + t * C;
        float *dxt = dx + t * C, s = rstd[t], product[LANES] = {0};
        for (size_t c = 0; c < C; c++) {
            float xhat = xt[c] * s;
            product[c % LANES] += gain[c] * dyt[c] * xhat;
            dgain[c] += dyt[c] * xhat;
        }
        float mean_product = sum_lanes(product) / (float)C;
        for (size_t c = 0; c < C; c++) dxt[c] = s * (gain[c] * dyt[c] - xt[c] * s * mean_product);
    }
}
