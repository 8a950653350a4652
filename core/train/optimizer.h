/* AdamW over a model's parameters (Loshchilov and Hutter 2019), with clipping by global norm and the
 * linear schedule. State lives in one allocation. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "model/model.h"

struct optimizer {
    struct arena arena;
    float **m, **v;
    size_t step;
    double beta1, beta2, epsilon, weight_decay, clip_norm;
};
int optimizer_open(struct optimizer *optimizer, const struct model *model);
void optimizer_close(struct optimizer *optimizer);
/* One step at `rate` on parameter->gradient. norm: the gradient norm before clipping. E_NUMERIC when it is not finite.
 */
int optimizer_step(struct optimizer *optimizer, struct model *model, double rate, double *norm);

/* Rate of step `step` (0-based) of `steps`: linear warm-up over `warmup` steps, then linear decay to zero. */
double schedule_linear(size_t step, size_t steps, size_t warmup, double peak);

#endif
