/* Weights in bfloat16: 8 bits of precision, f32's range.
 *
 * With `both`, activations are rounded to bfloat16 as they enter each layer and the CPU's own instruction multiplies
 * where it has one; sums stay f32. Attention of encoders is computed alike where query, key and value are. With
 * `weights`, they are widened and activations stay f32: less error, less speed.
 */
#include "technique_halves.h"

static const struct option bfloat16_options[] = {HALVES_OPTIONS("both"), OPTION_END};

static const struct weight_format *format_of(const struct halves_options *options) {
    return weight_format_find(strcmp(options->arithmetic, "both") == 0 ? "bf16" : "bf16_weights");
}

static int probe(const struct technique_context *context, void *options) {
    return halves_probe(context, format_of(options), options);
}

static int foresee(struct technique_context *context, const void *options) {
    return halves_foresee(context, format_of(options), options);
}

static int apply(struct technique_context *context, void *state, const void *options) {
    return halves_apply(context, state, format_of(options), options);
}

extern const struct technique technique_bfloat16;
const struct technique technique_bfloat16 = {
    .abi = TECHNIQUE_ABI,
    .version = 4,
    .name = "bfloat16",
    .summary = "Stores weights in bfloat16 and multiplies them, and attention in encoders, in bfloat16, or in f32.",
    .source = "bfloat16 as in Kalamkar et al. 2019, section 3",
    .options = bfloat16_options,
    .options_bytes = sizeof(struct halves_options),
    .state_bytes = sizeof(struct rounding_error),
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = technique_report_rounding,
};
