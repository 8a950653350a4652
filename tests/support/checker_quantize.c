/* Checks of the quantization of activations. */
#include "checker_case.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Zeros, NaN, infinities and ties of the grid `step` among the rows of x. */
static void plant(struct check *check, float *row, size_t N, float step, bool reach) {
    switch (check_below(check, 12)) {
    case 0: memset(row, 0, N * sizeof *row); break;
    case 1: row[check_below(check, N)] = NAN; break;
    case 2: row[check_below(check, N)] = -INFINITY; break;
    case 3: /* exact ties */
        for (size_t n = 0; n < N; n++) row[n] = (float)((int)check_below(check, 253) - 126) + 0.5f;
        if (reach) row[check_below(check, N)] = 127.0f;
        break;
    case 4: /* ties up to rounding, where x * (1 / step) and x / step differ */
        for (size_t n = 0; n < N; n++) row[n] = ((float)((int)check_below(check, 253) - 126) + 0.5f) * step;
        if (reach) row[check_below(check, N)] = 127.0f * step;
        break;
    default: break;
    }
}

/* The sums of token t over groups of G codes. */
static bool check_sums(struct check *check, size_t n_padded, size_t G, const int8_t *q, const int32_t *sums, size_t t) {
    for (size_t g = 0; g < n_padded / G; g++) {
        int32_t sum = 0;
        for (size_t n = g * G; n < (g + 1) * G; n++) sum += q[t * n_padded + n];
        if (sums[t * (n_padded / G) + g] == sum) continue;
        check_fail(check, "sums[%zu][%zu] is %d, expected %d", t, g, sums[t * (n_padded / G) + g], sum);
        return false;
    }
    return true;
}

static const size_t group_sizes[] = {4, 16, 32, 64, 128};

void check_quantize_s8(struct check *check) {
    size_t T = check_tokens(check), N = check_length(check), G = group_sizes[check_below(check, 5)];
    size_t n_padded = (N + G - 1) / G * G + (check_below(check, 4) ? 0 : G), x_stride = N + check_below(check, 5);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu padded %zu G %zu", T, N, n_padded, G);
    float *x = check_take_rows(check, T, N, x_stride, check_any_fill(check));
    for (size_t t = 0; t < T; t++) plant(check, x + t * x_stride, N, 0.0123f, true);
    int8_t *q = check_take(check, T * n_padded, 1);
    float *scale = check_take(check, T, sizeof *scale);
    int32_t *sums = check_take(check, T * (n_padded / G), sizeof *sums);
    check->table->quantize_s8(T, N, x, x_stride, n_padded, G, q, scale, sums);
    for (size_t t = 0; t < T; t++) {
        float largest = 0;
        for (size_t n = 0; n < N; n++) {
            float magnitude = fabsf(x[t * x_stride + n]);
            if (!(magnitude <= largest)) largest = isnan(largest) ? largest : magnitude;
        }
        float step = largest / 127.0f;
        if (!check_same(scale[t], step)) {
            check_fail(check, "scale[%zu] is %g, expected %g", t, (double)scale[t], (double)step);
            return;
        }
        for (size_t n = 0; n < n_padded; n++) {
            float exact = n < N && step != 0.0f ? nearbyintf(x[t * x_stride + n] / step) : 0.0f;
            int expected = isnan(exact) ? -127 : exact > 127 ? 127 : exact < -127 ? -127 : (int)exact;
            if (q[t * n_padded + n] == expected) continue;
            check_fail(check, "q[%zu][%zu] is %d, expected %d", t, n, q[t * n_padded + n], expected);
            return;
        }
        if (!check_sums(check, n_padded, G, q, sums, t)) return;
    }
}

void check_range_f32(struct check *check) {
    size_t T = check_tokens(check), N = check_length(check), x_stride = N + check_below(check, 5);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu", T, N);
    float *x = check_take_rows(check, T, N, x_stride, check_any_fill(check));
    float *low = check_take(check, T, sizeof *low), *high = check_take(check, T, sizeof *high);
    size_t sign = check_below(check, 4); /* of all values, in one case out of two */
    for (size_t t = 0; t < T; t++) {
        plant(check, x + t * x_stride, N, 0.0123f, true);
        for (size_t n = 0; sign < 2 && n < N; n++) x[t * x_stride + n] = copysignf(x[t * x_stride + n], sign ? 1 : -1);
    }
    check->table->range_f32(T, N, x, x_stride, low, high);
    for (size_t t = 0; t < T; t++) {
        double least = 0, most = 0;
        bool nan = false;
        for (size_t n = 0; n < N; n++) {
            least = fmin(least, (double)x[t * x_stride + n]), most = fmax(most, (double)x[t * x_stride + n]);
            nan |= isnan(x[t * x_stride + n]);
        }
        if (nan ? isnan(low[t]) && isnan(high[t]) : (double)low[t] == least && (double)high[t] == most) continue;
        check_fail(check, "range of token %zu is %g to %g, expected %g to %g%s", t, (double)low[t], (double)high[t],
                   least, most, nan ? ", or NaN" : "");
        return;
    }
}

void check_quantize_affine(struct check *check) {
    size_t T = check_tokens(check), N = check_length(check), G = group_sizes[check_below(check, 5)];
    size_t n_padded = (N + G - 1) / G * G + (check_below(check, 4) ? 0 : G), x_stride = N + check_below(check, 5);
    int least = check_below(check, 2) ? -128 : -(int)check_below(check, 128);
    int most = check_below(check, 2) ? 127 : (int)check_below(check, 128);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu padded %zu G %zu codes %d to %d", T, N, n_padded, G, least,
             most);
    float *x = check_take_rows(check, T, N, x_stride, check_any_fill(check));
    int8_t *q = check_take(check, T * n_padded, 1);
    float *scale = check_take(check, T, sizeof *scale), steps[80];
    int32_t *zero = check_take(check, T, sizeof *zero), *sums = check_take(check, T * (n_padded / G), sizeof *sums);
    for (size_t t = 0; t < T; t++) {
        static const float some[] = {1.0f, 0.0123f, 1e-30f, 3e10f, INFINITY, NAN};
        steps[t] = scale[t] = some[check_below(check, 20) < 18 ? check_below(check, 4) : 4 + check_below(check, 2)];
        zero[t] = least + (int32_t)check_below(check, (size_t)(most - least + 1));
        plant(check, x + t * x_stride, N, steps[t], false);
    }
    check->table->quantize_affine(T, N, x, x_stride, n_padded, G, scale, zero, least, most, q, sums);
    for (size_t t = 0; t < T; t++) {
        bool nan = isnan(steps[t]);
        for (size_t n = 0; n < n_padded; n++) {
            float value = n < N ? x[t * x_stride + n] : 0;
            double code = (double)nearbyintf(value / steps[t]) + zero[t];
            int expected = n >= N ? 0 : isnan(code) || code < least ? least : code > most ? most : (int)code;
            nan |= isnan(value);
            if (q[t * n_padded + n] == expected) continue;
            check_fail(check, "q[%zu][%zu] is %d, expected %d", t, n, q[t * n_padded + n], expected);
            return;
        }
        if (nan ? !isnan(scale[t]) : !check_same(scale[t], steps[t])) {
            check_fail(check, "scale[%zu] is %g, expected %g", t, (double)scale[t],
                       nan ? (double)NAN : (double)steps[t]);
            return;
        }
        if (!check_sums(check, n_padded, G, q, sums, t)) return;
    }
}
