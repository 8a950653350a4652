/* Attention in 8-bit products: scores from codes of queries and keys, contexts from codes of weights and values.
 *
 * The stages that quantize weights leave what attention multiplies, activations by activations, in f32; in an int8
 * model of short blocks that is a sixth of the time. This stage has it computed as the layers are, and goes with any of
 * them, or with none. Queries, keys and values take a scale per token and head. A value's scale moves into the weight
 * of its key before weights are rounded, to 0..255 steps of the row's largest: heads that rest look at one token that
 * says little, so that steps of plain softmax weights, with values rounded by channel, lose what the others say. On
 * MiniLM-L6 (100 texts of 128 tokens, weights in f32) that way leaves hidden states 5 % off, this one 1 %.
 *
 * Nothing is calibrated, no byte is saved, and only inference changes: training computes attention in f32. Models over
 * a cache, which may hold keys and values in 8 bits, keep theirs.
 *
 * Source: per-token scales and 8-bit P V as in Zhang et al. 2024 (SageAttention), section 3; the values' scales in the
 * weights are ours. */
#include "technique.h"

static int probe(const struct technique_context *context, void *options) {
    int status = 0;
    (void)options;
    if (context->model->int8_attention) FAIL(E_UNSUPPORTED, "attention is in 8-bit products already");
    TRY(model_check_int8_attention(context->model));
out:
    return status;
}

static int foresee(struct technique_context *context, const void *options) {
    (void)options;
    return model_set_int8_attention(context->model);
}

static int apply(struct technique_context *context, void *state, const void *options) {
    (void)state, (void)options;
    return model_set_int8_attention(context->model);
}

extern const struct technique technique_int8_attention;
const struct technique technique_int8_attention = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "int8_attention",
    .summary = "Computes attention of encoders in 8-bit products of codes, whatever the weights are in.",
    .source = "Zhang et al. 2024 (SageAttention), section 3, with the values' scales in the softmax's weights",
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
};
