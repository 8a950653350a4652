/* Inverted dropout (Srivastava et al. 2014) from counter-based random numbers: eight elements share one block
 * of 128 random bits, 16 bits each, so an element's fate is a function of (seed, stream, its index) alone.
 */
#include "model/layers.h"

#include "kernels/kernels.h"

static uint32_t threshold(double rate) { return (uint32_t)(rate * 65536.0 + 0.5); }

static float kept_scale(double rate) { return (float)(65536.0 / (65536.0 - (double)threshold(rate))); }

void dropout_forward(uint64_t seed, uint64_t stream, uint64_t first, size_t count, double rate, float *x,
                     uint8_t *keep) {
    kernels.dropout(seed, stream, first, count, threshold(rate), kept_scale(rate), x, keep);
}

void dropout_backward(size_t count, double rate, const uint8_t *keep, const float *dy, float *dx) {
    float scale = kept_scale(rate);
    for (size_t i = 0; i < count; i++) dx[i] = dy[i] * (keep[i] ? scale : 0.0f);
}
