/* Checks of the kernels that work value by value or row by row. */
#include "checker_case.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static double normal_cumulative(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }

static float *take_arguments(struct check *check, size_t count) {
    float *x = check_take(check, count, sizeof *x);
    check_fill_f32(check, x, count, check_any_fill(check));
    for (size_t i = 0; i < count; i += 2) x[i] = (float)(random_uniform(&check->random) * 24 - 12);
    return x;
}

void check_gelu(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    bool in_place = check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *y = check_take(check, count, sizeof *y);
    if (in_place) memcpy(y, x, count * sizeof *y);
    check->table->gelu(count, in_place ? y : x, y);
    for (size_t i = 0; i < count; i++) {
        double exact = (double)x[i] * normal_cumulative((double)x[i]), bound = 1e-6 * fmax(1, fabs((double)x[i]));
        if (fabs((double)y[i] - exact) <= bound) continue;
        check_fail(check, "gelu(%.9g) is %.9g, expected %.9g", (double)x[i], (double)y[i], exact);
        return;
    }
}

void check_gelu_backward(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    bool in_place = check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *dy = check_take(check, count, sizeof *dy),
          *dx = check_take(check, count, sizeof *dx);
    check_fill_f32(check, dy, count, FILL_NORMAL);
    if (in_place) memcpy(dx, dy, count * sizeof *dx);
    check->table->gelu_backward(count, x, in_place ? dx : dy, dx);
    for (size_t i = 0; i < count; i++) {
        double at = (double)x[i], density = exp(-0.5 * at * at) / sqrt(2 * M_PI);
        double exact = (double)dy[i] * (normal_cumulative(at) + at * density);
        double bound = 2e-6 * fabs((double)dy[i]) + 0x1p-149;
        if (fabs((double)dx[i] - exact) <= bound) continue;
        check_fail(check, "gelu'(%.9g) times %g is %.9g, expected %.9g", at, (double)dy[i], (double)dx[i], exact);
        return;
    }
}

void check_softmax(struct check *check) {
    size_t rows = 1 + check_below(check, 6), n = check_length(check), stride = n + check_below(check, 5);
    float scale = check_below(check, 3) ? 0.125f : (float)(random_uniform(&check->random) * 4);
    snprintf(check->shape, sizeof check->shape, "rows %zu n %zu stride %zu scale %g", rows, n, stride, (double)scale);
    float *x = check_take(check, (rows - 1) * stride + n, sizeof *x), *copy = check_take(check, rows * n, sizeof *copy);
    double spread = check_below(check, 3) ? 8 : 400;
    bool masked = check_below(check, 3) == 0;
    for (size_t i = 0; i < rows * n; i++) {
        copy[i] = (float)(random_normal(&check->random) * spread);
        if (masked && i % n && check_below(check, 3) == 0) copy[i] = -INFINITY;
        x[i / n * stride + i % n] = copy[i];
    }
    check->table->softmax(rows, n, stride, scale == 0 ? 1 : scale, x);
    scale = scale == 0 ? 1 : scale;
    check_gaps(check, x, rows, stride, n);
    for (size_t i = 0; i < rows; i++) {
        double largest = -INFINITY, sum = 0, magnitude = 0;
        for (size_t j = 0; j < n; j++) {
            double value = (double)(copy[i * n + j] * scale); /* the product as f32 rounds it */
            largest = fmax(largest, value);
            if (isfinite(value)) magnitude = fmax(magnitude, fabs(value));
        }
        for (size_t j = 0; j < n; j++) sum += exp((double)(copy[i * n + j] * scale) - largest);
        for (size_t j = 0; j < n; j++) {
            double exact = exp((double)(copy[i * n + j] * scale) - largest) / sum, got = (double)x[i * stride + j];
            /* the difference of two values up to `magnitude` is rounded, e^x takes it as a relative error; the
             * sum adds n roundings, the polynomial a few; what is below the smallest normal number may be 0 */
            double bound = exact * ((2 * magnitude + (double)n + 16) * UNIT * 2) + (double)FLT_MIN;
            if (fabs(got - exact) <= bound) continue;
            check_fail(check, "softmax[%zu][%zu] is %.9g, expected %.9g", i, j, got, exact);
            return;
        }
    }
}

void check_layer_norm(struct check *check) {
    size_t T = 1 + check_below(check, 5), C = check_length(check);
    bool in_place = check_below(check, 2), statistics = check_below(check, 2);
    float eps = check_below(check, 2) ? 1e-5f : 1e-12f;
    snprintf(check->shape, sizeof check->shape, "T %zu C %zu in place %d", T, C, in_place);
    float *x = check_take(check, T * C, sizeof *x), *y = check_take(check, T * C, sizeof *y);
    float *gain = check_take(check, C, sizeof *gain), *bias = check_take(check, C, sizeof *bias);
    float *mean = check_take(check, T, sizeof *mean), *rstd = check_take(check, T, sizeof *rstd);
    double shift = check_below(check, 3) ? 0 : 30, spread = check_below(check, 4) ? 1 : 1e-3;
    for (size_t i = 0; i < T * C; i++) x[i] = (float)(shift + spread * random_normal(&check->random));
    check_fill_f32(check, gain, C, FILL_NORMAL);
    check_fill_f32(check, bias, C, FILL_NORMAL);
    if (in_place) memcpy(y, x, T * C * sizeof *y);
    check->table->layer_norm(T, C, in_place ? y : x, gain, bias, eps, y, statistics ? mean : NULL,
                             statistics ? rstd : NULL);
    for (size_t t = 0; t < T; t++) {
        double sum = 0, squares = 0, magnitude = 0;
        for (size_t c = 0; c < C; c++) sum += (double)x[t * C + c], magnitude += fabs((double)x[t * C + c]);
        double center = sum / (double)C, center_error = check_gamma(C + 2) * magnitude / (double)C;
        for (size_t c = 0; c < C; c++) squares += pow((double)x[t * C + c] - center, 2);
        double variance = squares / (double)C, factor = 1 / sqrt(variance + (double)eps);
        /* error of the variance: its own roundings, and twice the mean's error (squared: the mean minimises it) */
        double variance_error = check_gamma(C + 8) * (variance + (double)eps) + center_error * center_error +
                                4 * UNIT * sqrt(variance) * (magnitude / (double)C);
        double factor_error = factor * (0.5 * variance_error * factor * factor * 1.5 + 4 * UNIT);
        if (statistics &&
            (!(fabs((double)mean[t] - center) <= center_error) || !(fabs((double)rstd[t] - factor) <= factor_error))) {
            check_fail(check, "mean %g rstd %g of token %zu, expected %g %g", (double)mean[t], (double)rstd[t], t,
                       center, factor);
            return;
        }
        for (size_t c = 0; c < C; c++) {
            double deviation = (double)x[t * C + c] - center, g = fabs((double)gain[c]);
            double exact = deviation * factor * (double)gain[c] + (double)bias[c], got = (double)y[t * C + c];
            double bound = g * (factor * (center_error + UNIT * (fabs(deviation) + center_error)) +
                                fabs(deviation) * factor_error + 4 * UNIT * fabs(deviation) * factor) +
                           4 * UNIT * (fabs((double)bias[c]) + fabs(exact)) + 1e-12;
            if (fabs(got - exact) <= bound * 1.01) continue;
            check_fail(check, "y[%zu][%zu] is %.9g, expected %.9g within %g", t, c, got, exact, bound);
            return;
        }
    }
}

void check_add(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    float *x = check_take(check, count, sizeof *x), *y = check_take(check, count, sizeof *y),
          *before = check_take(check, count, sizeof *y);
    check_fill_f32(check, x, count, check_any_fill(check));
    check_fill_f32(check, before, count, check_any_fill(check));
    memcpy(y, before, count * sizeof *y);
    check->table->add(count, x, y);
    for (size_t i = 0; i < count; i++)
        if (!check_same(y[i], before[i] + x[i])) {
            check_fail(check, "y[%zu] is %g, expected %g", i, (double)y[i], (double)(before[i] + x[i]));
            return;
        }
}

void check_adamw(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    float *p = check_take(check, count, sizeof *p), *grad = check_take(check, count, sizeof *p),
          *m = check_take(check, count, sizeof *p);
    float *v = check_take(check, count, sizeof *p), *before = check_take(check, count * 3, sizeof *p);
    check_fill_f32(check, p, count, FILL_NORMAL);
    check_fill_f32(check, grad, count, check_any_fill(check));
    check_fill_f32(check, m, count, FILL_NORMAL);
    check_fill_f32(check, v, count, FILL_NORMAL);
    for (size_t i = 0; i < count; i++) {
        if (fabsf(grad[i]) > 1e6f) grad[i] = 1e6f;
        v[i] = fabsf(v[i]);
        before[3 * i] = p[i], before[3 * i + 1] = m[i], before[3 * i + 2] = v[i];
    }
    const float rate = 1e-2f, b1 = 0.9f, b2 = 0.999f, eps = 1e-8f, decay = 0.1f, scale = 0.5f;
    float correction1 = 1 - powf(b1, 3), correction2 = 1 - powf(b2, 3);
    check->table->adamw(count, p, grad, scale, m, v, rate, b1, b2, eps, decay, correction1, correction2);
    float step = rate / correction1, shrink = 1.0f - rate * decay, root = sqrtf(correction2);
    for (size_t i = 0; i < count; i++) {
        float g = grad[i] * scale, first = b1 * before[3 * i + 1] + (1.0f - b1) * g;
        float second = b2 * before[3 * i + 2] + (1.0f - b2) * (g * g);
        float expected = before[3 * i] * shrink - step * first / (sqrtf(second) / root + eps);
        /* and the formula itself, in double, loosely */
        double exact = (double)before[3 * i] * (1 - 1e-3) -
                       1e-2 / (double)correction1 * (double)first / (sqrt((double)second / (double)correction2) + 1e-8);
        if (check_same(p[i], expected) && check_same(m[i], first) && check_same(v[i], second) &&
            fabs((double)p[i] - exact) <= 1e-5 * (1 + fabs(exact)))
            continue;
        check_fail(check, "p[%zu] m v are %.9g %.9g %.9g, expected %.9g %.9g %.9g", i, (double)p[i], (double)m[i],
                   (double)v[i], (double)expected, (double)first, (double)second);
        return;
    }
}

void check_gelu_tanh(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    bool in_place = check_below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *y = check_take(check, count, sizeof *y);
    if (in_place) memcpy(y, x, count * sizeof *y);
    check->table->gelu_tanh(count, in_place ? y : x, y);
    for (size_t i = 0; i < count; i++) {
        double at = (double)x[i], u = sqrt(2 / M_PI) * (at + 0.044715 * at * at * at);
        double exact = 0.5 * at * (1 + tanh(u)), bound = 1e-6 * fmax(1, fabs(at));
        if (fabs((double)y[i] - exact) <= bound) continue;
        check_fail(check, "gelu_tanh(%.9g) is %.9g, expected %.9g", at, (double)y[i], exact);
        return;
    }
}

void check_silu_gate(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0, place = check_below(check, 3);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %zu", count, place);
    float *gate = take_arguments(check, count), *up = check_take(check, count, sizeof *up);
    check_fill_f32(check, up, count, check_any_fill(check));
    float *y = check_take(check, count, sizeof *y);
    const float *from_gate = gate, *from_up = up;
    if (place == 1) from_gate = memcpy(y, gate, count * sizeof *y);
    if (place == 2) from_up = memcpy(y, up, count * sizeof *y);
    check->table->silu_gate(count, from_gate, from_up, y);
    for (size_t i = 0; i < count; i++) {
        double g = (double)gate[i], u = (double)up[i], exact = g / (1 + exp(-g)) * u;
        double bound = 0x1p-20 * fabs(exact) + 0x1p-126 * fabs(g * u) + 0x1p-149 * (1 + fabs(u));
        if (fabs((double)y[i] - exact) <= bound) continue;
        check_fail(check, "silu(%.9g) times %.9g is %.9g, expected %.9g", g, u, (double)y[i], exact);
        return;
    }
}

/* The sum of squares errs by γ relatively, its root by half of that; a few roundings more. */
void check_rms_norm(struct check *check) {
    size_t T = 1 + check_below(check, 5), C = check_length(check);
    bool in_place = check_below(check, 2), statistics = check_below(check, 2);
    float eps = check_below(check, 2) ? 1e-5f : 1e-6f;
    snprintf(check->shape, sizeof check->shape, "T %zu C %zu in place %d", T, C, in_place);
    float *x = check_take(check, T * C, sizeof *x), *y = check_take(check, T * C, sizeof *y);
    float *gain = check_take(check, C, sizeof *gain), *rstd = check_take(check, T, sizeof *rstd);
    double spread = check_below(check, 4) ? 1 : check_below(check, 2) ? 1e-3 : 1e4;
    for (size_t i = 0; i < T * C; i++) x[i] = (float)(spread * random_normal(&check->random));
    check_fill_f32(check, gain, C, FILL_NORMAL);
    if (in_place) memcpy(y, x, T * C * sizeof *y);
    check->table->rms_norm(T, C, in_place ? y : x, gain, eps, y, statistics ? rstd : NULL);
    for (size_t t = 0; t < T; t++) {
        double squares = 0;
        for (size_t c = 0; c < C; c++) squares += (double)x[t * C + c] * (double)x[t * C + c];
        double factor = 1 / sqrt(squares / (double)C + (double)eps), relative = 0.5 * check_gamma(C + 4) + 6 * UNIT;
        if (statistics && !(fabs((double)rstd[t] - factor) <= relative * factor)) {
            check_fail(check, "rstd of token %zu is %.9g, expected %.9g", t, (double)rstd[t], factor);
            return;
        }
        for (size_t c = 0; c < C; c++) {
            double exact = (double)x[t * C + c] * factor * (double)gain[c], got = (double)y[t * C + c];
            if (fabs(got - exact) <= (relative + 3 * UNIT) * fabs(exact) + 0x1p-148) continue;
            check_fail(check, "y[%zu][%zu] is %.9g, expected %.9g", t, c, got, exact);
            return;
        }
    }
}
