/* Activations between the feed-forward layers, and their gradients.
 *
 *   GELU       x Φ(x)                  dx = dy (Φ(x) + x φ(x))
 *   GELU tanh  x s, s = 1/(1+e^(-2u))  dx = dy (s + x s (1-s) 2u'),  2u = 1.5957691 (x + 0.044715 x³)
 *   ReLU       max(x, 0)               dx = dy where x > 0
 *   SwiGLU     g s(g) up               dg = dy up s (1 + g (1-s)),  dup = dy g s   (Shazeer 2020)
 */
#include "model/layers.h"

#include <math.h>

#include "kernels/kernels.h"

void activation_forward(enum model_activation activation, size_t count, const float *up, const float *gate,
                        float *active) {
    switch (activation) {
    case ACTIVATION_GELU_ERF: kernels.gelu(count, up, active); break;
    case ACTIVATION_GELU_TANH: kernels.gelu_tanh(count, up, active); break;
    case ACTIVATION_SILU_GATED: kernels.silu_gate(count, gate, up, active); break;
    case ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++) active[i] = up[i] > 0 ? up[i] : 0;
        break;
    }
}

static float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

static void gelu_tanh_backward(size_t count, const float *x, const float *dy, float *dx) {
    for (size_t i = 0; i < count; i++) {
        float square = x[i] * x[i], s = logistic(1.5957691216f * (x[i] + 0.044715f * square * x[i]));
        float slope = 1.5957691216f * (1.0f + 0.134145f * square);
        dx[i] = dy[i] * (s + x[i] * s * (1.0f - s) * slope);
    }
}

static void silu_gate_backward(size_t count, const float *gate, const float *up, const float *dy, float *dgate,
                               float *dup) {
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], s = logistic(g), d = dy[i], u = up[i];
        dgate[i] = d * u * s * (1.0f + g * (1.0f - s));
        dup[i] = d * g * s;
    }
}

void activation_backward(enum model_activation activation, size_t count, const float *up, const float *gate,
                         const float *dactive, float *dup, float *dgate) {
    switch (activation) {
    case ACTIVATION_GELU_ERF: kernels.gelu_backward(count, up, dactive, dup); break;
    case ACTIVATION_GELU_TANH: gelu_tanh_backward(count, up, dactive, dup); break;
    case ACTIVATION_SILU_GATED: silu_gate_backward(count, gate, up, dactive, dgate, dup); break;
    case ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++) dup[i] = up[i] > 0 ? dactive[i] : 0;
        break;
    }
}
