/* Rounding in training. The loops below compile to vector code on every machine: nearest-even comes from adding and
 * taking away 1.5·2²³, at which floats are 1 apart, because a call of rintf for each value would not (llama.cpp's
 * nearest_int does the same).
 */
#include "train/fake_quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "train/train.h"

#define NEAREST_SHIFT 12582912.0f /* 1.5·2²³ */
#define HALF_SMALLEST 0x1p-24f    /* the least scale that f16 holds */
#define INPUT_CODES 127           /* inputs are int8 in every packed format */

/* Round to nearest even. Beyond 2²² the result is coarse, but beyond every code as well; NaN stays NaN. */
static inline float nearest(float value) { return (value + NEAREST_SHIFT) - NEAREST_SHIFT; }

void fake_round(const struct fake_grid *grid, size_t count, const float *x, float *y) {
    float scale = grid->scale, low = (float)(grid->low - grid->zero), high = (float)(grid->high - grid->zero);
    if (scale == 0.0f) {
        memset(y, 0, count * sizeof *y);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        float code = nearest(x[i] / scale);
        code = code < low ? low : code;
        code = code > high ? high : code;
        y[i] = scale * code;
    }
}

double fake_round_backward(const struct fake_grid *grid, size_t count, const float *x, const float *dy, bool add,
                           float *dx) {
    float scale = grid->scale, low = (float)(grid->low - grid->zero), high = (float)(grid->high - grid->zero);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        float ratio = scale == 0.0f ? 0.0f : x[i] / scale, code = nearest(ratio), gradient = dy[i];
        bool below = code<low, above = code> high;
        float slope = below ? low : above ? high : code - ratio;
        sum += (double)gradient * (double)slope;
        if (below || above) gradient = 0.0f;
        if (dx != NULL) dx[i] = add ? dx[i] + gradient : gradient;
    }
    return sum;
}

/* ---- one layer ---------------------------------------------------------------------------------------- */

static int zero_code(const struct weight_format *format) { return (format->code_low + format->code_high + 1) / 2; }

/* Q: the largest code above zero. */
static float code_reach(const struct weight_format *format) { return (float)(format->code_high - zero_code(format)); }

/* Group g of a row: its first column and width. */
static size_t group_columns(const struct fake_quant *fake, size_t g, size_t *begin) {
    size_t N = fake->shape.columns, width = fake->shape.group ? fake->shape.group : N;
    *begin = g * width;
    return N - *begin < width ? N - *begin : width;
}

static struct fake_grid grid_of(const struct fake_quant *fake, size_t row, size_t g) {
    const struct weight_format *format = fake->plan.format;
    size_t at = row * fake->grid.groups + g;
    return (struct fake_grid){.scale = fake->grid.scale[at],
                              .zero = fake->grid.zero ? fake->grid.zero[at] : zero_code(format),
                              .low = format->code_low,
                              .high = format->code_high};
}

static int take_name(struct arena *arena, const char *name, const char *ending, const char **copy) {
    int status = 0;
    void *view;
    size_t length = strlen(name), extra = strlen(ending) + 1;
    TRY(arena_take(arena, &view, length + extra, 1));
    memcpy(view, name, length);
    memcpy((char *)view + length, ending, extra);
    *copy = view;
out:
    return status;
}

static int take_floats(struct arena *arena, float **floats, size_t count) {
    void *view;
    int status = arena_take(arena, &view, count, sizeof(float));
    if (status == 0) *floats = view;
    return status;
}

static int take_arrays(struct fake_quant *fake, const char *name) {
    int status = 0;
    size_t scales = fake->shape.rows * fake->grid.groups, array = size_round_up(scales * sizeof(float), MEMORY_ALIGN);
    void *view;
    TRY(arena_open(&fake->arena, 4 * array + 2 * size_round_up(strlen(name) + 8, MEMORY_ALIGN) + MEMORY_ALIGN));
    TRY(take_floats(&fake->arena, &fake->grid.scale, scales));
    if (!fake->shape.symmetric) {
        TRY(arena_take(&fake->arena, &view, scales, 1));
        fake->grid.zero = view;
    }
    if (fake->plan.weights == FAKE_WEIGHTS_LSQ) {
        TRY(take_floats(&fake->arena, &fake->size, scales));
        TRY(take_floats(&fake->arena, &fake->dsize, scales));
        TRY(take_name(&fake->arena, name, ".step", &fake->size_name));
    }
    if (fake->plan.inputs == FAKE_INPUTS_EMA) {
        TRY(take_floats(&fake->arena, &fake->state, 2));
        TRY(take_name(&fake->arena, name, ".inputs", &fake->state_name));
    }
out:
    return status;
}

int fake_quant_open(struct fake_quant *fake, const char *name, const struct fake_quant_plan *plan, size_t R, size_t N,
                    const float *w) {
    int status = 0;
    size_t bytes;
    const struct weight_format *format = plan->format;

    *fake = (struct fake_quant){.plan = *plan, .step = UINT64_MAX};
    fake->shape =
        (struct weight_shape){R, N, format->has_groups ? plan->group : 0, plan->symmetric || !format->has_asymmetric};
    if (format->code_high == 0) FAIL(E_UNSUPPORTED, "%s has no grid to learn for", format->name);
    if (plan->weights == FAKE_WEIGHTS_LSQ && !fake->shape.symmetric)
        FAIL(E_UNSUPPORTED, "learned steps (lsq) are for symmetric grids");
    TRY(format->size_bytes(&fake->shape, &bytes));
    fake->grid.groups = weight_grid_groups(format, &fake->shape);
    TRY(take_arrays(fake, name));
    for (size_t i = 0; fake->size && i < R * fake->grid.groups; i++) {
        size_t begin, width = group_columns(fake, i % fake->grid.groups, &begin);
        const float *group = w + i / fake->grid.groups * N + begin;
        double sum = 0;
        for (size_t n = 0; n < width; n++) sum += fabs((double)group[n]);
        if (!isfinite(sum)) FAIL(E_NUMERIC, "a weight in row %zu is not finite", i / fake->grid.groups);
        fake->size[i] = (float)(sum / (double)width);
    }
out:
    if (status < 0) fake_quant_close(fake);
    return status;
}

void fake_quant_close(struct fake_quant *fake) {
    arena_close(&fake->arena);
    *fake = (struct fake_quant){0};
}

bool fake_quant_trainable(const struct fake_quant *fake, struct trainable *item) {
    if (!fake->size) return false;
    *item = (struct trainable){.name = fake->size_name,
                               .value = fake->size,
                               .gradient = fake->dsize,
                               .rows = fake->shape.rows,
                               .columns = fake->grid.groups};
    return true;
}

bool fake_quant_state(const struct fake_quant *fake, struct train_state *state) {
    if (!fake->state) return false;
    *state = (struct train_state){fake->state_name, fake->state, 2 * sizeof *fake->state};
    return true;
}

/* ---- weights ------------------------------------------------------------------------------------------ */

/* The learned scale: 2m/√Q as the format stores it, never 0, so that the values that saturate can pull it back. */
static float learned_scale(const struct fake_quant *fake, float size) {
    const struct weight_format *format = fake->plan.format;
    float least = format->has_groups ? HALF_SMALLEST : FLT_MIN, scale = 2.0f * size / sqrtf(code_reach(format));
    scale = weight_stored_scale(format, scale);
    return scale < least ? least : scale;
}

/* The grid of rows begin..end-1. */
static void make_grid(const struct fake_quant *fake, const float *w, size_t begin, size_t end) {
    size_t groups = fake->grid.groups, first = begin * groups, count = (end - begin) * groups;
    struct weight_shape rows = fake->shape;
    struct weight_grid part = {.scale = fake->grid.scale + first, .groups = groups};
    if (fake->grid.zero) part.zero = fake->grid.zero + first;
    rows.rows = end - begin;
    for (size_t i = first; fake->size && i < first + count; i++)
        fake->grid.scale[i] = learned_scale(fake, fake->size[i]);
    if (fake->size || weight_grid_minmax(fake->plan.format, &rows, w + begin * rows.columns, &part) == 0) return;
    error_clear(); /* whoever looks at the loss says what diverged */
    for (size_t i = 0; i < count; i++) part.scale[i] = NAN;
}

void fake_quant_grid(const struct fake_quant *fake, const float *w) { make_grid(fake, w, 0, fake->shape.rows); }

void fake_quant_rows(const struct fake_quant *fake, const float *w, size_t begin, size_t end, float *out) {
    size_t N = fake->shape.columns;
    make_grid(fake, w, begin, end);
    for (size_t r = begin; r < end; r++)
        for (size_t g = 0; g < fake->grid.groups; g++) {
            struct fake_grid grid = grid_of(fake, r, g);
            size_t first, width = group_columns(fake, g, &first);
            fake_round(&grid, width, w + r * N + first, out + (r - begin) * N + first);
        }
}

bool fake_quant_passes(const struct fake_quant *fake) { return fake->plan.weights == FAKE_WEIGHTS_ABSMAX; }

void fake_quant_gradient(const struct fake_quant *fake, const float *w, size_t begin, size_t end, const float *dq,
                         bool add, float *dw) {
    size_t N = fake->shape.columns;
    float reach = code_reach(fake->plan.format), ratio = 2.0f / sqrtf(reach); /* of scale to m */
    for (size_t r = begin; r < end; r++)
        for (size_t g = 0; g < fake->grid.groups; g++) {
            struct fake_grid grid = grid_of(fake, r, g);
            size_t first, width = group_columns(fake, g, &first), at = r * fake->grid.groups + g;
            const float *upstream = dq + (r - begin) * N + first;
            double step = fake_round_backward(&grid, width, w + r * N + first, upstream, add, dw + r * N + first);
            float gradient = (float)(step * (double)ratio / sqrt((double)width * (double)reach));
            fake->dsize[at] = add ? fake->dsize[at] + gradient : gradient;
        }
}

/* ---- inputs ------------------------------------------------------------------------------------------- */

void fake_quant_begin(struct fake_quant *fake, uint64_t step) {
    float *average = fake->state;
    if (step == fake->step) return;
    fake->step = step;
    if (!average) return;
    float seen = average[1], keep = (float)fake->plan.decay;
    if (average[0] == 0.0f) average[0] = seen;
    else if (seen > 0.0f) average[0] = keep * average[0] + (1.0f - keep) * seen;
    average[1] = 0.0f;
}

static float largest_magnitude(size_t count, const float *x) {
    float largest = 0.0f;
    for (size_t i = 0; i < count; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    return largest;
}

static struct fake_grid input_grid(float largest) {
    return (struct fake_grid){.scale = largest / INPUT_CODES, .low = -INPUT_CODES, .high = INPUT_CODES};
}

/* Raise what the step has seen; the result does not depend on the order of the calls. */
static void observe(const struct fake_quant *fake, float largest) {
    float *seen = &fake->state[1], old;
    __atomic_load(seen, &old, __ATOMIC_RELAXED);
    while (largest > old &&
           !__atomic_compare_exchange(seen, &old, &largest, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* Are inputs rounded by the average in this step? */
static bool averaged(const struct fake_quant *fake) {
    return fake->step >= fake->plan.start_step && fake->state[0] > 0.0f;
}

void fake_quant_input(const struct fake_quant *fake, size_t T, const float *x, float *out) {
    size_t N = fake->shape.columns;
    if (fake->plan.inputs == FAKE_INPUTS_EMA) observe(fake, largest_magnitude(T * N, x));
    if (fake->plan.inputs == FAKE_INPUTS_DYNAMIC) {
        for (size_t t = 0; t < T; t++) {
            struct fake_grid grid = input_grid(largest_magnitude(N, x + t * N));
            fake_round(&grid, N, x + t * N, out + t * N);
        }
    } else if (fake->plan.inputs == FAKE_INPUTS_EMA && averaged(fake)) {
        struct fake_grid grid = input_grid(fake->state[0]);
        fake_round(&grid, T * N, x, out);
    } else if (out != x) memcpy(out, x, T * N * sizeof *out);
}

void fake_quant_input_gradient(const struct fake_quant *fake, size_t T, const float *x, float *dx) {
    if (fake->plan.inputs != FAKE_INPUTS_EMA || !averaged(fake)) return;
    struct fake_grid grid = input_grid(fake->state[0]);
    fake_round_backward(&grid, T * fake->shape.columns, x, dx, false, dx);
}
