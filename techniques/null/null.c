/* Does nothing. Its cell measures the harness: whatever differs from the baseline there is noise or overhead,
 * and how often its interval excludes 1 is the false-alarm rate of every other comparison.
 */
#include "technique.h"

static int apply(struct technique_context *context, void *state, const void *options) {
    (void)context;
    (void)state;
    (void)options;
    return 0;
}

extern const struct technique technique_null;
const struct technique technique_null = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "null",
    .summary = "Leaves the model alone; measures the harness itself.",
    .source = "none",
    .foresee = technique_foresee_same,
    .apply = apply,
};
