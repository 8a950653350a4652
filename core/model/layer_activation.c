/* Activations between the feed-forward layers, and their gradients.
 *
 *   GELU       x Φ(x)                  dx = dy (Φ(x) + x φ(x))
 *   GELU tanh  x s, s = 1/(1+e^(-2u))  dx = dy (s + x s (1-s) 2u'),  2u = 1.5957691 (x + 0.044715 x³)
 *   ReLU       max(x, 0)               dx = dy where x > 0
 *   SwiGLU     g s(g) up               dg = dy up s (1 + g (1-s)),  dup = dy g s   (Shazeer 2020)
 */
#include "model/layers.h"

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

void activation_backward(enum model_activation activation, size_t count, const float *up, const float *gate,
                         const float *dactive, float *dup, float *dgate) {
    switch (activation) {
    case ACTIVATION_GELU_ERF: kernels.gelu_backward(count, up, dactive, dup); break;
    case ACTIVATION_GELU_TANH: kernels.gelu_tanh_backward(count, up, dactive, dup); break;
    case ACTIVATION_SILU_GATED: kernels.silu_gate_backward(count, gate, up, dactive, dgate, dup); break;
    case ACTIVATION_RELU:
        for (size_t i = 0; i < count; i++) dup[i] = up[i] > 0 ? dactive[i] : 0;
        break;
    }
}
