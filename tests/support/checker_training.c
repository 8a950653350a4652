/* Checks of the kernels that training alone uses, value by value or row by row. */
#include "checker_case.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Half of them where the functions bend, the others of any size. */
static float *take_arguments(struct check *check, size_t count) {
    float *x = check_take(check, count, sizeof *x);
    check_fill_f32(check, x, count, check_any_fill(check));
    for (size_t i = 0; i < count; i += 2) x[i] = (float)(random_uniform(&check->random) * 24 - 12);
    return x;
}

static double logistic(double x) { return 1 / (1 + exp(-x)); }

void check_gelu_tanh_backward(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    bool in_place = check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *dy = check_take(check, count, sizeof *dy),
          *dx = check_take(check, count, sizeof *dx);
    check_fill_f32(check, dy, count, FILL_NORMAL);
    if (in_place) memcpy(dx, dy, count * sizeof *dx);
    check->table->gelu_tanh_backward(count, x, in_place ? dx : dy, dx);
    for (size_t i = 0; i < count; i++) {
        double at = fmax(-100, fmin(100, (double)x[i])), steep = 2 * sqrt(2 / M_PI);
        double s = logistic(steep * (at + 0.044715 * at * at * at)),
               rest = logistic(-steep * (at + 0.044715 * at * at * at));
        double exact = (double)dy[i] * (s + at * s * rest * steep * (1 + 3 * 0.044715 * at * at));
        double bound = 2e-6 * fabs((double)dy[i]) + 0x1p-149;
        if (fabs((double)dx[i] - exact) <= bound) continue;
        check_fail(check, "gelu_tanh'(%.9g) times %g is %.9g, expected %.9g", (double)x[i], (double)dy[i],
                   (double)dx[i], exact);
        return;
    }
}

/* exp errs by 2^-22 and is kept above 2^-127, some roundings come on top: 2^-20 of the magnitudes of what is added. */
void check_silu_gate_backward(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0, place = check_below(check, 3);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %zu", count, place);
    float *gate = take_arguments(check, count), *up = check_take(check, count, sizeof *up),
          *dy = check_take(check, count, sizeof *dy), *dgate = check_take(check, count, sizeof *dgate),
          *dup = check_take(check, count, sizeof *dup);
    const float *from = dy;
    check_fill_f32(check, up, count, FILL_NORMAL);
    check_fill_f32(check, dy, count, FILL_NORMAL);
    if (place == 1) from = memcpy(dgate, dy, count * sizeof *dgate);
    if (place == 2) from = memcpy(dup, dy, count * sizeof *dup);
    check->table->silu_gate_backward(count, gate, up, from, dgate, dup);
    for (size_t i = 0; i < count; i++) {
        double g = (double)gate[i], d = (double)dy[i], both = d * (double)up[i], s = logistic(g), rest = logistic(-g);
        double first = both * s * (1 + g * rest), second = d * g * s, least = 0x1p-126 * (1 + fabs(g));
        double first_bound = fabs(both) * (0x1p-20 * s * (1 + fabs(g) * rest) + least) + 0x1p-148;
        double second_bound = fabs(d) * (0x1p-20 * s * fabs(g) + least) + 0x1p-148;
        if (fabs((double)dgate[i] - first) <= first_bound && fabs((double)dup[i] - second) <= second_bound) continue;
        check_fail(check, "gate %.9g up %.9g dy %.9g give dgate %.9g dup %.9g, expected %.9g %.9g", g, (double)up[i], d,
                   (double)dgate[i], (double)dup[i], first, second);
        return;
    }
}

/* ---- norms ---- */

struct norm_case {
    size_t T, C;
    bool rms, in_place;
    float *x, *mean, *rstd, *gain, *dy, *dx, *dgain, *dbias, *gain_before, *bias_before;
};

static void take_norm(struct check *check, struct norm_case *n) {
    float **rows[] = {&n->x, &n->dy, &n->dx};
    float **columns[] = {&n->gain, &n->dgain, &n->dbias, &n->gain_before, &n->bias_before};
    for (size_t i = 0; i < 3; i++) *rows[i] = check_take(check, n->T * n->C, sizeof(float));
    for (size_t i = 0; i < 5; i++) *columns[i] = check_take(check, n->C, sizeof(float));
    n->mean = check_take(check, n->T, sizeof(float)), n->rstd = check_take(check, n->T, sizeof(float));
    enum fill fill = check_below(check, 3) ? FILL_NORMAL : FILL_MIXED;
    check_fill_f32(check, n->x, n->T * n->C, FILL_NORMAL);
    check_fill_f32(check, n->dy, n->T * n->C, fill);
    check_fill_f32(check, n->gain, n->C, FILL_NORMAL);
    check_fill_f32(check, n->gain_before, n->C, fill);
    check_fill_f32(check, n->bias_before, n->C, fill);
    for (size_t t = 0; t < n->T; t++) {
        n->mean[t] = (float)random_normal(&check->random);
        n->rstd[t] = (float)(0.1 + random_uniform(&check->random));
    }
    memcpy(n->dgain, n->gain_before, n->C * sizeof(float));
    memcpy(n->dbias, n->bias_before, n->C * sizeof(float));
    if (n->in_place) memcpy(n->dx, n->dy, n->T * n->C * sizeof(float));
}

/* xhat has two roundings, g one; sums of C terms add theirs, a few operations follow. */
static void check_norm_row(struct check *check, const struct norm_case *n, size_t t) {
    const float *x = n->x + t * n->C, *dy = n->dy + t * n->C;
    double C = (double)n->C, center = n->rms ? 0 : (double)n->mean[t], factor = (double)n->rstd[t];
    double plain = 0, product = 0, plain_size = 0, product_size = 0;
    for (size_t c = 0; c < n->C; c++) {
        double g = (double)n->gain[c] * (double)dy[c], xhat = ((double)x[c] - center) * factor;
        plain += g, plain_size += fabs(g);
        product += g * xhat, product_size += fabs(g * xhat);
    }
    for (size_t c = 0; c < n->C; c++) {
        double g = (double)n->gain[c] * (double)dy[c], xhat = ((double)x[c] - center) * factor;
        double middle = n->rms ? 0 : plain / C, slope = product / C, exact = factor * (g - middle - xhat * slope);
        double sums = (n->rms ? 0 : check_gamma(n->C + 3) * plain_size / C) +
                      fabs(xhat) * check_gamma(n->C + 5) * product_size / C;
        double bound = factor * (sums + 8 * UNIT * (fabs(g) + fabs(middle) + fabs(xhat * slope))) + 0x1p-140;
        double got = (double)n->dx[t * n->C + c];
        if (fabs(got - exact) <= bound) continue;
        check_fail(check, "dx[%zu][%zu] is %.9g, expected %.9g", t, c, got, exact);
        return;
    }
}

static void check_norm_columns(struct check *check, const struct norm_case *n) {
    for (size_t c = 0; c < n->C; c++) {
        double gain = (double)n->gain_before[c], bias = (double)n->bias_before[c];
        double gain_size = fabs(gain), bias_size = fabs(bias);
        for (size_t t = 0; t < n->T; t++) {
            double center = n->rms ? 0 : (double)n->mean[t], dy = (double)n->dy[t * n->C + c];
            double term = dy * ((double)n->x[t * n->C + c] - center) * (double)n->rstd[t];
            gain += term, gain_size += fabs(term);
            bias += dy, bias_size += fabs(dy);
        }
        if (n->rms) bias = (double)n->bias_before[c];
        double bound = check_gamma(n->T + 4);
        if (fabs((double)n->dgain[c] - gain) <= bound * gain_size + 0x1p-140 &&
            fabs((double)n->dbias[c] - bias) <= (n->rms ? 0 : bound * bias_size + 0x1p-140))
            continue;
        check_fail(check, "dgain[%zu] dbias are %.9g %.9g, expected %.9g %.9g", c, (double)n->dgain[c],
                   (double)n->dbias[c], gain, bias);
        return;
    }
}

static void check_norm_backward(struct check *check, bool rms) {
    struct norm_case n = {.T = 1 + check_below(check, 5), .C = check_length(check), .rms = rms};
    n.in_place = check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "T %zu C %zu in place %d", n.T, n.C, n.in_place);
    take_norm(check, &n);
    const float *dy = n.in_place ? n.dx : n.dy;
    if (rms) check->table->rms_norm_backward(n.T, n.C, n.x, n.rstd, n.gain, dy, n.dx, n.dgain);
    else check->table->layer_norm_backward(n.T, n.C, n.x, n.mean, n.rstd, n.gain, dy, n.dx, n.dgain, n.dbias);
    for (size_t t = 0; t < n.T; t++) check_norm_row(check, &n, t);
    check_norm_columns(check, &n);
}

void check_layer_norm_backward(struct check *check) { check_norm_backward(check, false); }
void check_rms_norm_backward(struct check *check) { check_norm_backward(check, true); }

void check_softmax_backward(struct check *check) {
    size_t rows = 1 + check_below(check, 6), n = check_length(check), stride = n + check_below(check, 5);
    float scale = (float)random_uniform(&check->random);
    snprintf(check->shape, sizeof check->shape, "rows %zu n %zu stride %zu", rows, n, stride);
    float *p = check_take_rows(check, rows, n, stride, check_any_fill(check));
    float *sum = check_take(check, rows, sizeof *sum), *before = check_take(check, rows * n, sizeof *before),
          *x = check_take(check, (rows - 1) * stride + n, sizeof *x);
    check_fill_f32(check, sum, rows, FILL_NORMAL);
    check_fill_f32(check, before, rows * n, check_any_fill(check));
    for (size_t i = 0; i < rows; i++) memcpy(x + i * stride, before + i * n, n * sizeof *x);
    check->table->softmax_backward(rows, n, stride, scale, p, sum, x);
    check_gaps(check, x, rows, stride, n);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            float expected = p[i * stride + j] * scale * (before[i * n + j] - sum[i]), got = x[i * stride + j];
            if (check_same(got, expected)) continue;
            check_fail(check, "x[%zu][%zu] is %.9g, expected %.9g", i, j, (double)got, (double)expected);
            return;
        }
}

static uint32_t drawn_at(uint64_t seed, uint64_t stream, uint64_t block, size_t i) {
    uint32_t word[4];
    random_block(seed, stream, block + i / 8, word);
    return i % 2 ? word[i % 8 / 2] >> 16 : word[i % 8 / 2] & UINT16_MAX;
}

/* Element by element. Seeds and streams of any bits, indices around the carry into their upper word as well, limits
 * that an element just reaches or misses. */
void check_dropout(struct check *check) {
    static const uint32_t ends[] = {0, 1, 32768, 65535, 65536};
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    uint64_t seed = (uint64_t)random_u32(&check->random) << 32 | random_u32(&check->random),
             stream = (uint64_t)random_u32(&check->random) << 32 | random_u32(&check->random);
    uint64_t block = check_below(check, 2) ? UINT32_MAX - check_below(check, 12)
                                           : (uint64_t)check_below(check, 4) << 40 | random_u32(&check->random);
    uint32_t dropped = ends[check_below(check, 5)];
    float scale = (float)(1 + random_uniform(&check->random));
    if (check_below(check, 2)) dropped = (uint32_t)check_below(check, 65537);
    else if (count && check_below(check, 2))
        dropped = drawn_at(seed, stream, block, check_below(check, count)) + (uint32_t)check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu first %llu dropped %u", count, (unsigned long long)block * 8,
             dropped);
    float *before = check_take(check, count, sizeof *before), *x = check_take(check, count, sizeof *x);
    uint8_t *keep = check_take(check, count, 1);
    check_fill_f32(check, before, count, check_any_fill(check));
    memcpy(x, before, count * sizeof *x);
    check->table->dropout(seed, stream, block * 8, count, dropped, scale, x, keep);
    for (size_t i = 0; i < count; i++) {
        bool kept = drawn_at(seed, stream, block, i) >= dropped;
        float expected = before[i] * (kept ? scale : 0.0f);
        if (keep[i] == kept && memcmp(&x[i], &expected, sizeof expected) == 0) continue;
        check_fail(check, "x[%zu] is %.9g and keep %d, expected %.9g and %d", i, (double)x[i], keep[i],
                   (double)expected, kept);
        return;
    }
}
