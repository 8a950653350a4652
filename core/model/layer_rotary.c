/* Rotary positions, half-rotated: (x1, x2) of a head becomes (x1 cos - x2 sin, x2 cos + x1 sin).
 *
 * The angle is a product of two f32 numbers, frequency and position, rounded to f32 as Hugging Face does: at position
 * 2000 an angle is off by up to 1e-4 from the exact one, and models were trained with just those angles. */
#include "model/layers.h"

#include <math.h>

#include "base/error.h"

/* transformers' modeling_rope_utils, in its order of f32 operations. */
float rotary_frequency(size_t D, size_t i, float base, const struct rotary_scaling *scaling) {
    float frequency = 1.0f / powf(base, (float)(2 * i) / (float)D);
    if (!scaling || scaling->factor == 0) return frequency;
    if (scaling->original == 0) return frequency / scaling->factor;
    float wave = 6.28318530717958648f / frequency;
    if (wave > scaling->original / scaling->low) return frequency / scaling->factor;
    if (wave < scaling->original / scaling->high) return frequency;
    float smooth = (scaling->original / wave - scaling->low) / (scaling->high - scaling->low);
    return (1 - smooth) * frequency / scaling->factor + smooth * frequency;
}

void rotary_table(size_t T, size_t D, const int32_t *position, float base, const struct rotary_scaling *scaling,
                  float *table) {
    size_t half = D / 2;
    CHECK(D % 2 == 0, "the head width is %zu", D);
    for (size_t i = 0; i < half; i++) {
        float frequency = rotary_frequency(D, i, base, scaling);
        for (size_t t = 0; t < T; t++) {
            float angle = (float)position[t] * frequency;
            table[t * D + i] = cosf(angle);
            table[t * D + half + i] = sinf(angle);
        }
    }
}

void rotary_forward(size_t T, size_t heads, size_t D, size_t stride, const float *table, float *x) {
    size_t half = D / 2;
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < heads; h++) {
            const float *restrict cosine = table + t * D, *restrict sine = cosine + half;
            float *restrict first = x + t * stride + h * D, *restrict second = first + half;
            for (size_t i = 0; i < half; i++) {
                float a = first[i], b = second[i];
                first[i] = a * cosine[i] - b * sine[i];
                second[i] = b * cosine[i] + a * sine[i];
            }
        }
}

/* A rotation's transpose turns by the opposite angle. */
void rotary_backward(size_t T, size_t heads, size_t D, size_t stride, const float *table, float *dx) {
    size_t half = D / 2;
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < heads; h++) {
            const float *restrict cosine = table + t * D, *restrict sine = cosine + half;
            float *restrict first = dx + t * stride + h * D, *restrict second = first + half;
            for (size_t i = 0; i < half; i++) {
                float a = first[i], b = second[i];
                first[i] = a * cosine[i] + b * sine[i];
                second[i] = b * cosine[i] - a * sine[i];
            }
        }
}
