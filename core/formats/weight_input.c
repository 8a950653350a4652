/* Conversion of a product's input, once for all matrices that take it alike.
 *
 * Symmetric 8-bit activations per token take one pass (quantize_s8). Other grids are chosen first, from the range of
 * each token, joined over a sequence where one scale serves it, or given; then all tokens are rounded to theirs.
 * Outliers are found sequence by sequence, and the rest of each token quantized without them. */
#include "formats/weight_input.h"

#include "base/threads.h"
#include "kernels/kernels.h"

#include <math.h>
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
    float *rounded;
    struct outliers *outliers;
    const uint32_t *offset; /* of sequences; NULL: one token each */
    float *rows;            /* (threads,N) a token without its outliers */
};

struct input_plan input_plan_of(const struct weight *weight) {
    struct input_plan plan = {.activation = weight->activation};
    const struct weight_execution *execution = weight->format->execution;
    if (execution->input) execution->input(&weight->shape, &plan.n_padded, &plan.group);
    if (execution->rounds_to_f16) plan.f16 = true, plan.n_padded = weight->shape.columns;
    return plan;
}

bool input_plan_same(const struct input_plan *a, const struct input_plan *b) {
    return a->n_padded == b->n_padded && a->group == b->group && a->f16 == b->f16 &&
           activation_same(&a->activation, &b->activation);
}

/* What quantize_s8 does by itself. */
static bool is_plain(const struct activation_quantizer *activation) {
    return activation->range == ACTIVATION_PER_TOKEN && !activation->asymmetric && !activation->reduced &&
           activation->outlier == 0.0f;
}

static size_t codes_bytes(const struct input_plan *plan, size_t T) { return size_round_up(T * plan->n_padded, 64); }
static size_t tokens_bytes(size_t T) { return size_round_up(T * 4, 64); } /* a number for each */

/* The struct, and per sequence, of which there may be one per token, a count and N columns; rows for each thread. */
static size_t outliers_bytes(size_t T, size_t N) {
    return size_round_up(sizeof(struct outliers), 64) + 2 * tokens_bytes(T) +
           size_round_up(T * N * sizeof(uint16_t), 64) + size_round_up((size_t)threads_get() * N * sizeof(float), 64);
}

size_t input_bytes(const struct input_plan *plan, size_t T, size_t N) {
    if (!plan->n_padded) return 0;
    if (plan->f16) return size_round_up(T * plan->n_padded * sizeof(float), 64);
    if (!plan->group) return size_round_up(T * plan->n_padded * sizeof(uint16_t), 64);
    return codes_bytes(plan, T) + (is_plain(&plan->activation) ? 1 : 3) * tokens_bytes(T) +
           size_round_up(T * (plan->n_padded / plan->group) * 4, 64) +
           (plan->activation.outlier > 0 ? outliers_bytes(T, N) : 0);
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

/* Through a few halves at a time. */
static void f16_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    uint16_t halves[256];
    (void)worker;
    for (size_t i = begin * c->N, some; i < end * c->N; i += some) {
        some = end * c->N - i < 256 ? end * c->N - i : 256;
        kernels.narrow_f16(some, c->x + i, halves);
        kernels.widen_f16(some, halves, c->rounded + i);
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

/* ---- outliers ---- */

/* The columns of tokens begin..end-1 in which one reaches the threshold: how many. */
static size_t find_columns(const struct conversion *c, size_t begin, size_t end, float *reach, uint16_t *columns) {
    size_t count = 0;
    memset(reach, 0, c->N * sizeof *reach);
    for (size_t t = begin; t < end; t++)
        for (size_t n = 0; n < c->N; n++) {
            float size = fabsf(c->x[t * c->N + n]);
            reach[n] = size > reach[n] ? size : reach[n];
        }
    for (size_t n = 0; n < c->N; n++)
        if (reach[n] >= c->plan->activation.outlier) columns[count++] = (uint16_t)n;
    return count;
}

/* Codes of token t: the scale from the values below the threshold, the codes of the columns 0. */
static void quantize_rest(const struct conversion *c, size_t t, const uint16_t *columns, size_t count, float *row) {
    size_t n_padded = c->plan->n_padded, group = c->plan->group;
    int8_t *codes = c->q + t * n_padded;
    int32_t *sums = c->sums + t * (n_padded / group);
    memcpy(row, c->x + t * c->N, c->N * sizeof *row);
    for (size_t i = 0; i < count; i++)
        if (fabsf(row[columns[i]]) >= c->plan->activation.outlier) row[columns[i]] = 0;
    kernels.quantize_s8(1, c->N, row, c->N, n_padded, group, codes, c->scale + t, sums);
    for (size_t i = 0; i < count; i++) {
        sums[columns[i] / group] -= codes[columns[i]];
        codes[columns[i]] = 0;
    }
}

static void outlier_sequences(void *context, size_t begin, size_t end, int worker) {
    const struct conversion *c = context;
    float *row = c->rows + (size_t)worker * c->N;
    for (size_t i = begin; i < end; i++) {
        size_t first = c->offset ? c->offset[i] : i, last = c->offset ? c->offset[i + 1] : i + 1;
        uint16_t *columns = c->outliers->columns + i * c->N;
        size_t count = find_columns(c, first, last, row, columns);
        c->outliers->count[i] = (uint32_t)count;
        for (size_t t = first; t < last; t++) {
            c->outliers->sequence[t] = (uint32_t)i;
            quantize_rest(c, t, columns, count, row);
        }
    }
}

/* Everything that input_bytes counts for outliers, from `place` on. */
static struct outliers *cut_outliers(struct conversion *c, size_t T, uint8_t *place) {
    struct outliers *outliers = (struct outliers *)(void *)place;
    place += size_round_up(sizeof *outliers, 64);
    outliers->N = c->N;
    outliers->count = (uint32_t *)(void *)place;
    outliers->sequence = (uint32_t *)(void *)(place + tokens_bytes(T));
    outliers->columns = (uint16_t *)(void *)(place + 2 * tokens_bytes(T));
    c->rows = (float *)(void *)(place + 2 * tokens_bytes(T) + size_round_up(T * c->N * sizeof(uint16_t), 64));
    return outliers;
}

/* ---- grids ---- */

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

static void run(size_t count, size_t grain, bool serial, parallel_body *body, void *context) {
    if (serial) body(context, 0, count, 0);
    else parallel_for(count, grain, body, context);
}

/* Scale and zero point of every token. */
static void choose_grids(struct conversion *c, size_t T, const uint32_t *offset, size_t sequences, bool serial) {
    const struct activation_quantizer *activation = &c->plan->activation;
    if (activation->range == ACTIVATION_STATIC) {
        for (size_t t = 0; t < T; t++) c->scale[t] = activation->scale, c->zero[t] = activation->zero;
        return;
    }
    run(T, 16, serial, range_tokens, c);
    if (activation->range == ACTIVATION_PER_TENSOR && offset)
        for (size_t i = 0; i < sequences; i++) join_tokens(c, offset[i], offset[i + 1]);
    else
        for (size_t t = 0; t < T; t++) join_tokens(c, t, t + 1);
}

void input_convert(const struct input_plan *plan, size_t T, size_t N, const float *x, const uint32_t *offset,
                   size_t sequences, bool serial, void *place, struct weight_input *input) {
    uint8_t *numbers = (uint8_t *)place + codes_bytes(plan, T);
    size_t sums_bytes = plan->group ? size_round_up(T * (plan->n_padded / plan->group) * 4, 64) : 0;
    struct conversion c = {.plan = plan, .x = x, .N = N, .q = place, .bf16 = place, .rounded = place};
    if (!plan->n_padded) return;
    if (plan->f16) {
        run(T, 16, serial, f16_tokens, &c);
        input->x = c.rounded;
        return;
    }
    if (!plan->group) {
        run(T, 16, serial, bf16_tokens, &c);
        input->bf16 = c.bf16;
        return;
    }
    c.scale = (float *)(void *)numbers;
    input->q = c.q;
    input->scale = c.scale;
    if (is_plain(&plan->activation)) {
        c.sums = (int32_t *)(void *)(numbers + tokens_bytes(T));
        run(T, 16, serial, plain_tokens, &c);
    } else if (plan->activation.outlier > 0) {
        c.sums = (int32_t *)(void *)(numbers + tokens_bytes(T));
        c.offset = offset;
        c.outliers = cut_outliers(&c, T, numbers + 3 * tokens_bytes(T) + sums_bytes);
        run(offset ? sequences : T, offset ? 1 : 16, serial, outlier_sequences, &c);
        input->outliers = c.outliers;
    } else {
        c.zero = (int32_t *)(void *)(numbers + tokens_bytes(T));
        c.high = (float *)(void *)(numbers + 2 * tokens_bytes(T));
        c.sums = (int32_t *)(void *)(numbers + 3 * tokens_bytes(T));
        activation_codes(&plan->activation, &c.least, &c.most);
        choose_grids(&c, T, offset, sequences, serial);
        run(T, 16, serial, affine_tokens, &c);
        if (plan->activation.asymmetric) input->zero = c.zero;
    }
    input->sums = c.sums;
}

bool input_by_rows(const struct input_plan *plan) {
    return plan->n_padded && !plan->f16 && (!plan->group || is_plain(&plan->activation));
}

void input_place(const struct input_plan *plan, size_t T, void *place, struct weight_input *input) {
    uint8_t *numbers = (uint8_t *)place + codes_bytes(plan, T);
    if (!plan->group) {
        input->bf16 = place;
        return;
    }
    input->q = place;
    input->scale = (const float *)(void *)numbers;
    input->sums = (const int32_t *)(void *)(numbers + tokens_bytes(T));
}

/* The places are input_place's, whose owner asks. */
void input_convert_rows(const struct input_plan *plan, size_t N, const float *x, size_t begin, size_t end,
                        const struct weight_input *input) {
    struct conversion c = {.plan = plan, .x = x, .N = N};
    if (!plan->group) {
        c.bf16 = (uint16_t *)(uintptr_t)input->bf16;
        bf16_tokens(&c, begin, end, 0);
        return;
    }
    c.q = (int8_t *)(uintptr_t)input->q;
    c.scale = (float *)(uintptr_t)input->scale;
    c.sums = (int32_t *)(uintptr_t)input->sums;
    plain_tokens(&c, begin, end, 0);
}
