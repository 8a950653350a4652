/* AdamW over a model's parameters (Loshchilov and Hutter 2019), with clipping by global norm and the
 * linear schedule. State lives in one allocation. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "model/model.h"

/* adam_l2 adds decay·value to the gradient (Kingma and Ba 2015, as torch's Adam does); adamw decays apart from it. */
enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_ADAM_L2, OPTIMIZER_SGD };

struct optimizer_chunk {
    uint32_t parameter;
    size_t begin, end;
};

struct optimizer {
    struct arena arena;
    float **m, **v;                 /* per parameter; NULL for those that have no gradient and are left alone */
    struct optimizer_chunk *chunks; /* fixed pieces of the parameters, the unit of parallel work */
    double *partial;                /* [chunk_count] sums of squares */
    size_t chunk_count;
    size_t step;
    double beta1, beta2, epsilon, weight_decay, clip_norm; /* defaults 0.9, 0.999, 1e-8, 0.01, 1; clip_norm 0: none */
};
/* State for the parameters whose gradient is set now. E_MEMORY. */
int optimizer_open(struct optimizer *optimizer, const struct model *model);
void optimizer_close(struct optimizer *optimizer);
/* One step at `rate` on parameter->gradient. norm: the gradient norm before clipping, summed in a fixed order.
 * Weight decay moves parameters with two dimensions only. E_NUMERIC when the norm is not finite: nothing moved. */
int optimizer_step(struct optimizer *optimizer, struct model *model, double rate, double *norm);

#endif
