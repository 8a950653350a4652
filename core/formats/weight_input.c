/* Conversion of a product's input, once for all matrices that take it alike.
 *
 * Symmetric 8-bit activations per token take one pass (quantize_s8). Other grids are chosen first, from the range of
 * each token, joined over a sequence where one scale serves it, or given; then all tokens are rounded to theirs. */
#include "formats/weight_input.h"

#include "base/threads.h"
#include "kernels/kernels.h"

#include <string.h>

struct conversion {
    const struct input_plan *plan;
    const float *x;
    size_t N;
    int least, most;
    int8_t *q;
    float *scale; /* [T]; before that the low end of the range */
    float *high;  /* [T] the high end */
    int32_t *zero, *sums;
    uint16_t *bf16;
};

bool input_plan_same(const struct input_plan *a, const struct input_plan *b) {
    return a->n_padded == b->n_padded && a->group == b->group && activation_same(&a->activation, &b->activation);
}

/* What quantize_s8 does by itself. */
static bool is_plain(const struct activation_quantizer *activation) {
    return activation->range == ACTIVATION_PER_TOKEN && !activation->asymmetric && !activation->reduced;
}

static size_t codes_bytes(const struct input_plan *plan, size_t T) { return size_round_up(T * plan->n_padded, 64); }
static size_t tokens_bytes(size_t T) { return size_round_up(T * 4, 64); } /* a number for each */

size_t input_bytes(const struct input_plan *plan, size_t T) {
    if (!plan->n_padded) return 0;
    if (!plan->group) return size_round_up(T * plan->n_padded * sizeof(uint16_t), 64);
    return codes_bytes(plan, T) + (is_plain(&plan->activation) ? 1 : 3) * tokens_bytes(T) +
           size_round_up(T * (plan->n_padded / plan->group) * 4, 64);
}

static void plain_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    size_t n_padded = c->plan->n_padded, group = c->plan->group;
    (void)worker;
    kernels.quantize_s8(end - begin, c->N, c->x + begin * c->N, c->N, n_padded, group, c->q + begin * n_padded,
                        c->scale + begin, c->sums + begin * (n_padded / group));
}

static void bf16_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    size_t n_padded = c->plan->n_padded;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        kernels.narrow_bf16(c->N, c->x + t * c->N, c->bf16 + t * n_padded);
        memset(c->bf16 + t * n_padded + c->N, 0, (n_padded - c->N) * sizeof *c->bf16);
    }
}

static void range_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    (void)worker;
    kernels.range_f32(end - begin, c->N, c->x + begin * c->N, c->N, c->scale + begin, c->high + begin);
}

static void affine_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    size_t n_padded = c->plan->n_padded, group = c->plan->group;
    (void)worker;
    kernels.quantize_affine(end - begin, c->N, c->x + begin * c->N, c->N, n_padded, group, c->scale + begin,
                            c->zero + begin, c->least, c->most, c->q + begin * n_padded,
                            c->sums + begin * (n_padded / group));
}

/* One grid for tokens begin..end-1, whose ranges are known. */
static void join_tokens(const struct conversion *c, size_t begin, size_t end) {
    float low = c->scale[begin], high = c->high[begin], scale;
    int32_t zero;
    for (size_t t = begin + 1; t < end; t++) { /* a NaN stays, and wins */
        if (!(c->scale[t] >= low)) low = low != low ? low : c->scale[t];
        if (!(c->high[t] <= high)) high = high != high ? high : c->high[t];
    }
    activation_grid(&c->plan->activation, low, high, &scale, &zero);
    for (size_t t = begin; t < end; t++) c->scale[t] = scale, c->zero[t] = zero;
}

static void run(size_t count, bool serial, parallel_body *body, void *context) {
    if (serial) body(context, 0, count, 0);
    else parallel_for(count, 16, body, context);
}

/* Scale and zero point of every token. */
static void choose_grids(struct conversion *c, size_t T, const uint32_t *offset, size_t sequences, bool serial) {
    const struct activation_quantizer *activation = &c->plan->activation;
    if (activation->range == ACTIVATION_STATIC) {
        for (size_t t = 0; t < T; t++) c->scale[t] = activation->scale, c->zero[t] = activation->zero;
        return;
    }
    run(T, serial, range_tokens, c);
    if (activation->range == ACTIVATION_PER_TENSOR && offset)
        for (size_t i = 0; i < sequences; i++) join_tokens(c, offset[i], offset[i + 1]);
    else
        for (size_t t = 0; t < T; t++) join_tokens(c, t, t + 1);
}

void input_convert(const struct input_plan *plan, size_t T, size_t N, const float *x, const uint32_t *offset,
                   size_t sequences, bool serial, void *place, struct weight_input *input) {
    uint8_t *numbers = (uint8_t *)place + codes_bytes(plan, T);
    struct conversion c = {.plan = plan, .x = x, .N = N, .q = place, .bf16 = place};
    if (!plan->n_padded) return;
    if (!plan->group) {
        run(T, serial, bf16_tokens, &c);
        input->bf16 = c.bf16;
        return;
    }
    c.scale = (float *)(void *)numbers;
    input->q = c.q;
    input->scale = c.scale;
    if (is_plain(&plan->activation)) {
        c.sums = (int32_t *)(void *)(numbers + tokens_bytes(T));
        run(T, serial, plain_tokens, &c);
    } else {
        c.zero = (int32_t *)(void *)(numbers + tokens_bytes(T));
        c.high = (float *)(void *)(numbers + 2 * tokens_bytes(T));
        c.sums = (int32_t *)(void *)(numbers + 3 * tokens_bytes(T));
        activation_codes(&plan->activation, &c.least, &c.most);
        choose_grids(&c, T, offset, sequences, serial);
        run(T, serial, affine_tokens, &c);
        if (plan->activation.asymmetric) input->zero = c.zero;
    }
    input->sums = c.sums;
}
