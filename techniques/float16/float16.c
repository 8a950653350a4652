/* Weights in IEEE half precision: 11 bits of precision, up to 65504.
 *
 * No CPU here multiplies halves: they are widened as they are multiplied, so the gain is in bytes. With `both`,
 * activations are rounded to halves as they enter each layer, as on machines that do; sums stay f32. */
#include "technique_halves.h"

static const struct option float16_options[] = {HALVES_OPTIONS("weights"), OPTION_END};

static const struct weight_format *format_of(const struct halves_options *options) {
    return weight_format_find(strcmp(options->arithmetic, "both") == 0 ? "f16_both" : "f16");
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

extern const struct technique technique_float16;
const struct technique technique_float16 = {
    .abi = TECHNIQUE_ABI,
    .version = 3,
    .name = "float16",
    .summary =
        "Stores weights in IEEE half precision and widens them as they are multiplied, or rounds activations as well.",
    .source = "IEEE 754-2008 binary16",
    .options = float16_options,
    .options_bytes = sizeof(struct halves_options),
    .state_bytes = sizeof(struct rounding_error),
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = technique_report_rounding,
};
