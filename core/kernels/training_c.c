/* The C versions of the kernels that training alone uses: the oracle of the variants, and what runs where there is
 * none. Written as the contracts are; sums of rows in double. */
#include "base/random.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <math.h>

KERNEL_MULTIPLY_F32(multiply_f32_c) {
    for (size_t m = 0; m < M; m++) {
        float *out = y + m * y_stride;
        for (size_t n = 0; !add && n < N; n++) out[n] = 0;
        for (size_t k = 0; k < K; k++) {
            float value = a[m * a_row + k * a_step];
            for (size_t n = 0; n < N; n++) out[n] += value * b[k * b_stride + n];
        }
    }
}

/* 1/(1+e^-x), and 1 minus that through *rest, neither from a difference that cancels. */
static float logistic(float x, float *rest) {
    float e = expf(-fabsf(x)), large = 1.0f / (1.0f + e), small = e * large;
    *rest = x < 0 ? large : small;
    return x < 0 ? small : large;
}

/* With s = 1/(1+e^-2u) the slope is s + x s (1-s) 2u'. Beyond 20 it is 0 or 1 to the last bit; x³ would overflow. */
KERNEL_GELU_TANH_BACKWARD(gelu_tanh_backward_c) {
    for (size_t i = 0; i < count; i++) {
        float at = x[i] < -20.0f ? -20.0f : x[i] > 20.0f ? 20.0f : x[i], square = at * at, rest;
        float s = logistic(1.5957691216f * (at + 0.044715f * square * at), &rest);
        dx[i] = dy[i] * (s + at * s * rest * (1.5957691216f * (1.0f + 0.134145f * square)));
    }
}

KERNEL_SILU_GATE_BACKWARD(silu_gate_backward_c) {
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i], d = dy[i], rest, s = logistic(g, &rest);
        dgate[i] = d * u * (s * (1.0f + g * rest));
        dup[i] = d * (g * s);
    }
}

KERNEL_LAYER_NORM_BACKWARD(layer_norm_backward_c) {
    for (size_t t = 0; t < T; t++) {
        const float *in = x + t * C, *d = dy + t * C;
        double sum = 0, product = 0;
        for (size_t c = 0; c < C; c++) {
            float xhat = (in[c] - mean[t]) * rstd[t], g = gain[c] * d[c];
            sum += g;
            product += (double)g * xhat;
            dgain[c] += d[c] * xhat;
            dbias[c] += d[c];
        }
        float middle = (float)(sum / (double)C), slope = (float)(product / (double)C);
        for (size_t c = 0; c < C; c++)
            dx[t * C + c] = rstd[t] * (gain[c] * d[c] - middle - (in[c] - mean[t]) * rstd[t] * slope);
    }
}

KERNEL_RMS_NORM_BACKWARD(rms_norm_backward_c) {
    for (size_t t = 0; t < T; t++) {
        const float *in = x + t * C, *d = dy + t * C;
        double product = 0;
        for (size_t c = 0; c < C; c++) {
            float xhat = in[c] * rstd[t];
            product += (double)(gain[c] * d[c]) * xhat;
            dgain[c] += d[c] * xhat;
        }
        float slope = (float)(product / (double)C);
        for (size_t c = 0; c < C; c++) dx[t * C + c] = rstd[t] * (gain[c] * d[c] - in[c] * rstd[t] * slope);
    }
}

KERNEL_SOFTMAX_BACKWARD(softmax_backward_c) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) x[i * stride + j] = p[i * stride + j] * scale * (x[i * stride + j] - sum[i]);
}

KERNEL_DROPOUT(dropout_c) {
    for (size_t i = 0; i < count; i += 8) {
        size_t n = count - i < 8 ? count - i : 8;
        uint32_t word[4];
        random_block(seed, stream, (first + i) / 8, word);
        for (size_t j = 0; j < n; j++) {
            keep[i + j] = (uint8_t)((word[j / 2] >> (16 * (j & 1)) & 0xffffu) >= dropped);
            x[i + j] *= keep[i + j] ? scale : 0.0f;
        }
    }
}
