/* How the input of a layer in 8 bits (int8, int8_affine, int8_groups) is quantized: value = scale * (code - zero), with
 * codes in signed bytes.
 *
 *   range                 one scale for                     chosen
 *   ACTIVATION_PER_TOKEN  each token                        as it comes
 *   ACTIVATION_PER_TENSOR all tokens of one sequence        as they come
 *   ACTIVATION_STATIC     everything                        beforehand, from calibration data
 *
 * "Per tensor" elsewhere means a whole batch with its padding. Here a batch's result must not depend on who shares it,
 * so a sequence is a tensor of its own, which is what others compute for a batch of one. In generation a sequence's
 * tokens are those of one call: the prompt, then token by token.
 *
 * Unsigned codes of others, 0..255, are ours plus 128 (0..127: plus 64). Zeroed, the struct is what layers have that no
 * technique asked otherwise: per token, symmetric, 8 bits.
 */
#ifndef ACTIVATION_H
#define ACTIVATION_H

#include <stdbool.h>
#include <stdint.h>

enum activation_range { ACTIVATION_PER_TOKEN, ACTIVATION_PER_TENSOR, ACTIVATION_STATIC };

struct activation_quantizer {
    enum activation_range range;
    bool asymmetric; /* a zero point, else zero is code 0 */
    bool reduced;    /* 7 bits: what kernels that saturate need, ours do not; torch's and ONNX Runtime's reduce_range */
    float scale;     /* of ACTIVATION_STATIC, > 0 and finite; else 0 */
    int32_t zero;    /* of ACTIVATION_STATIC when asymmetric, one of the codes; else 0 */
    /* LLM.int8() (Dettmers et al. 2022): columns in which some token of the sequence reaches this magnitude are left
     * out of the codes and multiplied in floating point; 0: none are. int8 with plain 8-bit activations per token only,
     * where values that reach it do not count for their token's scale either. */
    float outlier;
};

/* The codes: -127..127, asymmetric -128..127; 7 bits: -63..63, asymmetric -64..63. */
void activation_codes(const struct activation_quantizer *quantizer, int *least, int *most);

/* Scale and zero point for values between low and high, of which the grid takes min(0,low) and max(0,high):
 *   asymmetric  scale = (high - low) / (most - least); zero = least + nearest-even(-low / scale), clamped to the codes
 *               (as ONNX's DynamicQuantizeLinear)
 *   symmetric   scale = max(-low, high) / most; zero = 0
 * A scale of 0 becomes 1; NaN or infinite ranges give such scales. */
void activation_grid(const struct activation_quantizer *quantizer, float low, float high, float *scale, int32_t *zero);

/* Tokens of a sequence share something: a scale, or the columns that are left out. */
bool activation_joins(const struct activation_quantizer *quantizer);

/* E_ARGUMENT: a threshold of outliers that is negative or that these activations cannot have, a static scale that is
 * not positive and finite, a zero point that is no code, or either of them where the range is not static. */
int activation_check(const struct activation_quantizer *quantizer);

bool activation_same(const struct activation_quantizer *a, const struct activation_quantizer *b);

/* "token", "tensor", "static"; find: E_NOT_FOUND. */
const char *activation_range_name(enum activation_range range);
int activation_range_find(const char *name, enum activation_range *range);

#endif
