/* Checks of the attention kernels. */
#include "checker_case.h"

#include "kernels/half.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void check_pack_f32(struct check *check) {
    size_t N = check_length(check), valid = check_below(check, 3) ? 16 : 1 + check_below(check, 16),
           stride = N + check_below(check, 5);
    snprintf(check->shape, sizeof check->shape, "N %zu valid %zu stride %zu", N, valid, stride);
    float *x = check_take(check, (valid - 1) * stride + N, sizeof *x),
          *panel = check_take(check, N * 16, sizeof *panel);
    for (size_t r = 0; r < valid; r++) check_fill_f32(check, x + r * stride, N, check_any_fill(check));
    check->table->pack_f32(N, x, stride, valid, panel);
    for (size_t i = 0; i < N * 16; i++) {
        float expected = i % 16 < valid ? x[i % 16 * stride + i / 16] : 0.0f;
        if (check_same(panel[i], expected)) continue;
        check_fail(check, "panel[%zu][%zu] is %g, expected %g", i / 16, i % 16, (double)panel[i], (double)expected);
        return;
    }
}

/* Two stretches of keys, one after the other: what the second finds is what the first left. */
struct attend_case {
    size_t T, D, W, n[2], v_stride;
    bool half;
    float *q, *k[2], *v[2]; /* exact values, also of the half case; k as rows (n,D), v as rows (n,W) */
    void *panels[2], *rows[2];
    uint32_t *low[2], *high[2];
};

/* `value` as the kernel gets it: stored at index i, and what it is worth. */
static float store(const struct attend_case *c, void *array, size_t i, float value) {
    if (c->half) {
        uint16_t bits = half_from_float(value);
        ((uint16_t *)array)[i] = bits;
        return half_to_float(bits);
    }
    ((float *)array)[i] = value;
    return value;
}

static void make_case(struct check *check, struct attend_case *c) {
    static const size_t widths[] = {1, 3, 8, 16, 24, 32, 40, 64, 65, 80};
    size_t element = c->half ? sizeof(uint16_t) : sizeof(float);
    c->T = check_tokens(check);
    c->D = widths[check_below(check, sizeof widths / sizeof *widths)];
    c->W = 16 * (1 + check_below(check, 5));
    c->v_stride = c->W + check_below(check, 5);
    double spread = check_below(check, 3) ? 1 : 6; /* of scores: some softmaxes are nearly all one key */
    c->q = check_take(check, c->T * c->D, sizeof(float));
    for (size_t i = 0; i < c->T * c->D; i++)
        c->q[i] = (float)(random_normal(&check->random) * spread / sqrt((double)c->D));
    for (int s = 0; s < 2; s++) {
        size_t n = c->n[s] = check_below(check, 4) ? 1 + check_below(check, 50) : 1 + check_below(check, ATTEND_KEYS);
        c->k[s] = check_take(check, n * c->D, sizeof(float));
        c->v[s] = check_take(check, n * c->W, sizeof(float));
        c->panels[s] = check_take(check, (n + 15) / 16 * 16 * c->D, element); /* lanes beyond n stay canary: NaN */
        c->rows[s] = check_take(check, (n - 1) * c->v_stride + c->W, element);
        for (size_t i = 0; i < n * c->D; i++)
            c->k[s][i] = store(c, c->panels[s], (i / c->D / 16 * c->D + i % c->D) * 16 + i / c->D % 16,
                               (float)random_normal(&check->random));
        for (size_t i = 0; i < n * c->W; i++)
            c->v[s][i] = store(c, c->rows[s], i / c->W * c->v_stride + i % c->W, (float)random_normal(&check->random));
        c->low[s] = check_take(check, 2 * c->T, sizeof(uint32_t));
        c->high[s] = c->low[s] + c->T;
        size_t kind = check_below(check, 3);
        for (size_t t = 0; t < c->T; t++) {
            size_t a = check_below(check, n + 1), b = check_below(check, n + 1);
            c->low[s][t] = kind == 2 ? (uint32_t)a : 0;
            c->high[s][t] = kind == 0 ? (uint32_t)n : (uint32_t)b; /* sometimes below low: nothing is seen */
        }
    }
}

static void run_attend(const struct kernels *table, const struct attend_case *c, size_t T, size_t first, float *top,
                       float *sum, float *y) {
    for (size_t t = 0; t < T; t++) top[t] = -INFINITY, sum[t] = 0;
    memset(y, 0, T * c->W * sizeof *y);
    for (int s = 0; s < 2; s++) {
        const float *q = c->q + first * c->D;
        const uint32_t *low = c->low[s] + first, *high = c->high[s] + first;
        if (c->half)
            table->attend_f16(T, c->D, c->W, c->n[s], q, c->panels[s], c->rows[s], c->v_stride, low, high, top, sum, y);
        else
            table->attend_f32(T, c->D, c->W, c->n[s], q, c->panels[s], c->rows[s], c->v_stride, low, high, top, sum, y);
    }
}

/* One row in double. A score is off by at most γ times the sum of its products' sizes; that difference, ln 2 of it, is
 * a relative error of its weight, and so is the rounding of score minus maximum. Weights, factor and sums add a few
 * roundings each; a weight below the smallest normal number may be 0. */
static bool row_is_right(struct check *check, const struct attend_case *c, size_t t, float top, float sum,
                         const float *y) {
    double largest = -INFINITY, error = 0, scores[2][ATTEND_KEYS], total = 0, seen = 0;
    for (int s = 0; s < 2; s++)
        for (size_t j = c->low[s][t]; j < c->high[s][t]; j++) {
            double score = 0, magnitude = 0;
            for (size_t d = 0; d < c->D; d++) {
                double product = (double)c->q[t * c->D + d] * (double)c->k[s][j * c->D + d];
                score += product, magnitude += fabs(product);
            }
            scores[s][j] = score;
            largest = fmax(largest, score);
            error = fmax(error, check_gamma(c->D + 4) * magnitude);
            seen++;
        }
    if (!(fabs((double)top - largest) <= error) && !(seen == 0 && isinf(top))) {
        check_fail(check, "top[%zu] is %g, expected %g within %g", t, (double)top, largest, error);
        return false;
    }
    if (seen == 0) {
        if (sum == 0 && y[0] == 0) return true;
        check_fail(check, "row %zu sees nothing but has sum %g", t, (double)sum);
        return false;
    }
    for (int s = 0; s < 2; s++)
        for (size_t j = c->low[s][t]; j < c->high[s][t]; j++) total += exp2(scores[s][j] - largest);
    double relative = 4 * error + check_gamma((size_t)seen + 32) * 2;
    if (!(fabs((double)sum * exp2((double)top - largest) / total - 1) <= relative)) {
        check_fail(check, "sum[%zu] is %.9g, expected %.9g", t, (double)sum, total);
        return false;
    }
    for (size_t w = 0; w < c->W; w++) {
        double exact = 0, magnitude = 0, got = (double)y[w] / (double)sum;
        for (int s = 0; s < 2; s++)
            for (size_t j = c->low[s][t]; j < c->high[s][t]; j++) {
                double product = exp2(scores[s][j] - largest) / total * (double)c->v[s][j * c->W + w];
                exact += product, magnitude += fabs(product);
            }
        double bound = 2 * relative * magnitude + seen * 8 * 0x1p-126;
        if (fabs(got - exact) <= bound) continue;
        check_fail(check, "y[%zu][%zu] / sum is %.9g, expected %.9g within %g", t, w, got, exact, bound);
        return false;
    }
    return true;
}

static void check_attend(struct check *check, bool half) {
    struct attend_case c = {.half = half};
    make_case(check, &c);
    snprintf(check->shape, sizeof check->shape, "T %zu D %zu W %zu keys %zu %zu stride %zu", c.T, c.D, c.W, c.n[0],
             c.n[1], c.v_stride);
    float *state = check_take(check, 2 * c.T, sizeof *state), *y = check_take(check, c.T * c.W, sizeof *y),
          alone_state[2];
    float alone[80];
    run_attend(check->table, &c, c.T, 0, state, state + c.T, y);
    for (size_t t = 0; t < c.T; t++) {
        if (!row_is_right(check, &c, t, state[t], state[c.T + t], y + t * c.W)) return;
        run_attend(check->table, &c, 1, t, alone_state, alone_state + 1, alone);
        if (check_same(alone_state[0], state[t]) && check_same(alone_state[1], state[c.T + t]) &&
            memcmp(alone, y + t * c.W, c.W * sizeof *alone) == 0)
            continue;
        check_fail(check, "row %zu gets other bits alone than among %zu", t, c.T);
        return;
    }
}

void check_attend_f32(struct check *check) { check_attend(check, false); }
void check_attend_f16(struct check *check) { check_attend(check, true); }

/* Rows of scores for softmax_s8 or softmax_bf16, one of which may hold a NaN. */
struct weights_case {
    size_t rows, n, stride, bad; /* bad: the row with a NaN; rows: none */
    bool half;
    float *score, *was, *inverse, *scale;
    void *weight, *alone;
};

static void make_weights_case(struct check *check, struct weights_case *c) {
    size_t element = c->half ? sizeof(uint16_t) : 1;
    double spread = check_below(check, 3) ? 3 : 60;
    c->rows = check_tokens(check);
    c->n = check_below(check, 4) ? 1 + check_below(check, 70) : 1 + check_below(check, 600);
    c->stride = (c->n + 15) / 16 * 16 + 16 * check_below(check, 2);
    c->bad = check_below(check, 4) ? c->rows : check_below(check, c->rows);
    snprintf(check->shape, sizeof check->shape, "rows %zu n %zu stride %zu spread %g", c->rows, c->n, c->stride,
             spread);
    c->score = check_take(check, c->rows * c->stride, sizeof(float));
    c->was = check_take(check, c->rows * c->stride, sizeof(float));
    c->inverse = check_take(check, c->stride, sizeof(float));
    c->scale = check_take(check, c->rows, sizeof(float));
    c->weight = check_take(check, c->rows * c->stride, element);
    c->alone = check_take(check, c->stride, element);
    for (size_t i = 0; i < c->rows * c->stride; i++)
        if (i % c->stride < c->n) c->score[i] = (float)(random_normal(&check->random) * spread);
    for (size_t j = 0; j < c->stride; j++)
        c->inverse[j] = j >= c->n ? 0 : c->half ? 1 : (float)exp(random_normal(&check->random));
    if (c->bad < c->rows) c->score[c->bad * c->stride + check_below(check, c->n)] = check_below(check, 2) ? NAN : -NAN;
    memcpy(c->was, c->score, c->rows * c->stride * sizeof(float));
}

static void run_weights(const struct kernels *table, const struct weights_case *c, size_t rows, float *score,
                        void *weight, float *scale) {
    if (c->half) table->softmax_bf16(rows, c->n, c->stride, score, weight, scale);
    else table->softmax_s8(rows, c->n, c->stride, score, c->inverse, weight, scale);
}

/* One row against double arithmetic. p is within 2^-16: a code is off by half a step and 255 times that, a bf16 by half
 * of its last place as well. */
static bool weights_are_right(struct check *check, const struct weights_case *c, size_t row) {
    const float *score = c->was + row * c->stride;
    double top = -INFINITY, total = 0, unit = c->half ? 1 : 255;
    for (size_t j = 0; j < c->n; j++) top = fmax(top, (double)score[j]);
    for (size_t j = 0; j < c->n; j++) total += unit * exp2((double)score[j] - top) * (double)c->inverse[j];
    for (size_t j = 0; j < c->stride; j++) {
        double p = j < c->n ? unit * exp2((double)score[j] - top) : 0, got, slack;
        if (c->half) {
            got = (double)bf16_to_float(((uint16_t *)c->weight)[row * c->stride + j]);
            slack = p * (0x1p-8 + 0x1p-16) + 0x1p-125;
        } else {
            got = ((int8_t *)c->weight)[row * c->stride + j] + 128;
            slack = j < c->n ? 0.5 + 255 * 0x1p-16 : 0;
        }
        if (fabs(got - p) <= slack) continue;
        check_fail(check, "weight[%zu][%zu] is %g, expected %g", row, j, got, p);
        return false;
    }
    if (fabs((double)c->scale[row] * total - 1) <= 0x1p-15) return true;
    check_fail(check, "scale[%zu] is %.9g, expected %.9g", row, (double)c->scale[row], 1 / total);
    return false;
}

static void check_weights(struct check *check, bool half) {
    struct weights_case c = {.half = half};
    size_t element = half ? sizeof(uint16_t) : 1;
    make_weights_case(check, &c);
    run_weights(check->table, &c, c.rows, c.score, c.weight, c.scale);
    for (size_t row = 0; row < c.rows; row++) {
        float alone_scale;
        if (row == c.bad) {
            if (isnan(c.scale[row])) continue;
            check_fail(check, "scale[%zu] is %g and not NaN", row, (double)c.scale[row]);
            return;
        }
        if (!weights_are_right(check, &c, row)) return;
        memcpy(c.score, c.was + row * c.stride, c.stride * sizeof *c.score);
        run_weights(check->table, &c, 1, c.score, c.alone, &alone_scale);
        if (check_same(alone_scale, c.scale[row]) &&
            memcmp(c.alone, (char *)c.weight + row * c.stride * element, c.stride * element) == 0)
            continue;
        check_fail(check, "row %zu gets other bits alone than among %zu", row, c.rows);
        return;
    }
}

void check_softmax_s8(struct check *check) { check_weights(check, false); }
void check_softmax_bf16(struct check *check) { check_weights(check, true); }

void check_panel_sums_s8(struct check *check) {
    size_t n_padded = (check_length(check) + 3) / 4 * 4, count = 1 + check_below(check, 4),
           kind = check_below(check, 3);
    snprintf(check->shape, sizeof check->shape, "columns %zu panels %zu kind %zu", n_padded, count, kind);
    int8_t *panels = check_take(check, count * n_padded * 16, 1);
    int32_t *total = check_take(check, count * 16, sizeof *total),
            *negative = check_take(check, count * 16, sizeof *negative);
    for (size_t i = 0; i < count * n_padded * 16; i++)
        panels[i] = (int8_t)(kind == 0 ? -127 : kind == 1 ? 127 : (int)check_below(check, 255) - 127);
    check->table->panel_sums_s8(n_padded, count, panels, total, negative);
    for (size_t r = 0; r < count * 16; r++) {
        int32_t sum = 0, below = 0;
        for (size_t n = 0; n < n_padded; n++) {
            int32_t code = panels[r / 16 * 16 * n_padded + n / 4 * 64 + r % 16 * 4 + n % 4];
            sum += code;
            if (code < 0) below -= code;
        }
        if (total[r] == sum && negative[r] == below) continue;
        check_fail(check, "row %zu: sums %d and %d, expected %d and %d", r, total[r], negative[r], sum, below);
        return;
    }
}
