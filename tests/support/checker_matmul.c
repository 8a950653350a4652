/* Checks of the multiplications and of conversions to 16 bits. */
#include "checker_case.h"

#include "kernels/half.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Codes in least..127; one case in three uses the extremes alone. */
static void fill_s8(struct check *check, int8_t *q, size_t count, int least) {
    size_t kind = check_below(check, 6);
    for (size_t i = 0; i < count; i++) {
        int code = kind == 0   ? 127
                   : kind == 1 ? (check_below(check, 2) ? 127 : least)
                               : (int)check_below(check, (size_t)(128 - least)) + least;
        q[i] = (int8_t)code;
    }
}

/* Zero points for either side, both or neither; NULL for neither. sums are what goes with them, row_sum any numbers. */
static struct zero_points *take_zeros(struct check *check, struct zero_points *zeros, size_t T, size_t n_padded,
                                      const int8_t *q, size_t whole) {
    size_t sides = check_below(check, 5);
    *zeros = (struct zero_points){0};
    if (sides & 1) {
        int32_t *x = check_take(check, T, sizeof *x), *row_sum = check_take(check, whole, sizeof *x);
        for (size_t t = 0; t < T; t++) x[t] = (int32_t)check_below(check, 256) - 128;
        for (size_t r = 0; r < whole; r++) row_sum[r] = (int32_t)check_below(check, 60000) - 30000;
        zeros->x = x, zeros->row_sum = row_sum;
    }
    if (sides & 2) {
        int32_t *w = check_take(check, whole, sizeof *w), *x_sum = check_take(check, T, sizeof *w);
        for (size_t r = 0; r < whole; r++) w[r] = (int32_t)check_below(check, 256) - 128;
        for (size_t t = 0; t < T; t++) x_sum[t] = 0;
        for (size_t i = 0; i < T * n_padded; i++) x_sum[i / n_padded] += q[i];
        zeros->w = w, zeros->x_sum = x_sum;
    }
    return sides & 3 ? zeros : NULL;
}

#define ROWS_MOST (9 * 16)

/* Rows of 1 to 9 panels, the last one often not whole. */
static size_t odd_rows(struct check *check) {
    size_t panels = check_below(check, 2) ? 1 : 1 + check_below(check, 9);
    return check_below(check, 3) ? panels * 16 : panels * 16 - check_below(check, 16);
}

/* A length such that inputs, weights and outputs fit into the slots. */
static size_t length_for(struct check *check, size_t rows) {
    size_t N = check_length(check);
    return rows > 64 && N > 200 ? N - 200 : N;
}

/* Token t of y against what `expected` holds. */
static bool check_exact(struct check *check, const float *y, size_t t, size_t y_stride, size_t rows,
                        const float *expected) {
    for (size_t r = 0; r < rows; r++)
        if (!check_same(y[t * y_stride + r], expected[r])) {
            check_fail(check, "y[%zu][%zu] is %.9g, expected exactly %.9g", t, r, (double)y[t * y_stride + r],
                       (double)expected[r]);
            return false;
        }
    return true;
}

void check_matmul_s8(struct check *check) {
    size_t T = check_tokens(check), rows = odd_rows(check), n_padded = 4 * length_for(check, rows);
    size_t whole = (rows + 15) / 16 * 16, y_stride = rows + check_below(check, 20);
    if (check_below(check, 40) == 0) T = 33, n_padded = 2400; /* more codes than a variant may copy at a time */
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu rows %zu stride %zu", T, n_padded, rows, y_stride);
    int8_t *q = check_take(check, T * n_padded, 1), *panels = check_take(check, n_padded * whole, 1);
    fill_s8(check, q, T * n_padded, -128);
    fill_s8(check, panels, n_padded * whole, -128);
    struct zero_points points, *zeros = take_zeros(check, &points, T, n_padded, q, whole);
    float *scale_x = check_take(check, T, sizeof *scale_x), *scale_w = check_take(check, whole, sizeof *scale_w),
          *bias = NULL;
    check_fill_f32(check, scale_x, T, check_any_fill(check));
    check_fill_f32(check, scale_w, whole, check_any_fill(check));
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    int32_t *row_negative = check_take(check, whole, sizeof *row_negative),
            *row_total = check_take(check, whole, sizeof *row_total);
    memset(row_negative, 0, whole * sizeof *row_negative);
    memset(row_total, 0, whole * sizeof *row_total);
    for (size_t i = 0; i < n_padded * whole; i++) {
        size_t r = i / (16 * n_padded) * 16 + i / 4 % 16;
        row_negative[r] += panels[i] < 0 ? -panels[i] : 0;
        row_total[r] += panels[i];
    }
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y);
    check->table->matmul_s8(T, n_padded, q, scale_x, panels, scale_w, row_negative, row_total, zeros, bias, y, y_stride,
                            rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        float expected[ROWS_MOST];
        for (size_t r = 0; r < rows; r++) {
            const int8_t *w = panels + r / 16 * 16 * n_padded + r % 16 * 4;
            int64_t sum = 0;
            for (size_t n = 0; n < n_padded; n++) sum += q[t * n_padded + n] * w[n / 4 * 64 + n % 4];
            if (points.x) sum -= (int64_t)points.x[t] * points.row_sum[r];
            if (points.w) sum -= (int64_t)points.w[r] * points.x_sum[t];
            float value = (scale_x[t] * scale_w[r]) * (float)sum;
            expected[r] = bias ? value + bias[r] : value;
        }
        if (!check_exact(check, y, t, y_stride, rows, expected)) return;
    }
}

/* One output of matmul_u4, but for the token's scale and the bias: row r of a panel. */
static float grouped_sum(size_t groups, size_t G, bool symmetric, const int8_t *q, const uint8_t *panel, size_t r) {
    size_t header = symmetric ? 32 : 48;
    float total = 0;
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * (header + G * 8);
        int64_t sum = 0, zero = symmetric ? 8 : group[32 + r];
        for (size_t n = 0; n < G; n++) {
            uint8_t pair = group[header + n / 8 * 64 + r * 4 + n % 4];
            sum += q[g * G + n] * ((n % 8 < 4 ? pair & 15 : pair >> 4) - zero);
        }
        uint16_t half;
        memcpy(&half, group + 2 * r, sizeof half);
        total += half_to_float(half) * (float)sum;
    }
    return total;
}

void check_matmul_u4(struct check *check) {
    static const size_t sizes[] = {32, 64, 128};
    size_t T = check_tokens(check), rows = odd_rows(check), panels = (rows + 15) / 16;
    size_t G = sizes[check_below(check, 3)], groups = 1 + check_below(check, 6), n_padded = G * groups;
    size_t y_stride = rows + check_below(check, 20);
    bool symmetric = check_below(check, 2), extreme = check_below(check, 4) == 0;
    size_t header = symmetric ? 32 : 48, group_bytes = header + G * 8, panel_bytes = groups * group_bytes;
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu G %zu symmetric %d rows %zu", T, n_padded, G, symmetric,
             rows);
    int8_t *q = check_take(check, T * n_padded, 1);
    uint8_t *packed = check_take(check, panels * panel_bytes, 1);
    fill_s8(check, q, T * n_padded, -127);
    for (size_t i = 0; i < panels * panel_bytes; i++) {
        size_t at = i % group_bytes;
        packed[i] = at >= 32 && at < header ? (uint8_t)check_below(check, 16)
                    : extreme               ? 0xff
                                            : (uint8_t)check_below(check, 256);
        if (at < 32 && at % 2 == 1)
            packed[i] = (uint8_t)(check_below(check, 2) * 128 + check_below(check, 30) * 4); /* finite halves */
    }
    float *scale_x = check_take(check, T, sizeof *scale_x), *bias = NULL;
    check_fill_f32(check, scale_x, T, FILL_NORMAL);
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    int32_t *sums = check_take(check, T * groups, sizeof *sums);
    memset(sums, 0, T * groups * sizeof *sums);
    for (size_t i = 0; i < T * n_padded; i++) sums[i / G] += q[i];
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y);
    check->table->matmul_u4(T, n_padded, G, symmetric, q, scale_x, sums, packed, bias, y, y_stride, rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        float expected[ROWS_MOST];
        for (size_t r = 0; r < rows; r++) {
            float value =
                scale_x[t] * grouped_sum(groups, G, symmetric, q + t * n_padded, packed + r / 16 * panel_bytes, r % 16);
            expected[r] = bias ? value + bias[r] : value;
        }
        if (!check_exact(check, y, t, y_stride, rows, expected)) return;
    }
}

/* One output of matmul_s8_groups, but for the token's scale and the bias: row r of a panel. */
static float grouped_bytes(size_t groups, size_t G, bool symmetric, const int8_t *q, const uint8_t *panel, size_t r) {
    size_t header = symmetric ? 32 : 48;
    float total = 0;
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *group = panel + g * (header + G * 16);
        int64_t sum = 0, zero = symmetric ? 0 : (int8_t)group[32 + r];
        for (size_t n = 0; n < G; n++)
            sum += q[g * G + n] * ((int8_t)group[header + n / 4 * 64 + r * 4 + n % 4] - zero);
        uint16_t half;
        memcpy(&half, group + 2 * r, sizeof half);
        total += half_to_float(half) * (float)sum;
    }
    return total;
}

void check_matmul_s8_groups(struct check *check) {
    static const size_t sizes[] = {32, 64, 128};
    size_t T = check_tokens(check), rows = odd_rows(check), panels = (rows + 15) / 16;
    size_t G = sizes[check_below(check, 3)], groups = 1 + check_below(check, 4), n_padded = G * groups;
    size_t y_stride = rows + check_below(check, 20);
    bool symmetric = check_below(check, 2);
    size_t header = symmetric ? 32 : 48, group_bytes = header + G * 16, panel_bytes = groups * group_bytes;
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu G %zu symmetric %d rows %zu", T, n_padded, G, symmetric,
             rows);
    int8_t *q = check_take(check, T * n_padded, 1);
    uint8_t *packed = check_take(check, panels * panel_bytes, 1);
    fill_s8(check, q, T * n_padded, -128);
    fill_s8(check, (int8_t *)packed, panels * panel_bytes, -128);
    for (size_t i = 0; i < panels * panel_bytes; i++)
        if (i % group_bytes < 32)
            packed[i] = (uint8_t)(i % 2 ? check_below(check, 2) * 128 + check_below(check, 30) * 4 /* finite halves */
                                        : check_below(check, 256));
    float *scale_x = check_take(check, T, sizeof *scale_x), *bias = NULL, *row_value = NULL;
    int32_t *zero_x = NULL, *sums = check_take(check, T * groups, sizeof *sums);
    check_fill_f32(check, scale_x, T, FILL_NORMAL);
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    if (check_below(check, 2)) {
        zero_x = check_take(check, T, sizeof *zero_x);
        row_value = check_take(check, panels * 16, sizeof *row_value);
        for (size_t t = 0; t < T; t++) zero_x[t] = (int32_t)check_below(check, 256) - 128;
        check_fill_f32(check, row_value, panels * 16, FILL_NORMAL);
    }
    memset(sums, 0, T * groups * sizeof *sums);
    for (size_t i = 0; i < T * n_padded; i++) sums[i / G] += q[i];
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y);
    check->table->matmul_s8_groups(T, n_padded, G, symmetric, q, scale_x, zero_x, sums, packed, row_value, bias, y,
                                   y_stride, rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        float expected[ROWS_MOST];
        for (size_t r = 0; r < rows; r++) {
            float value = grouped_bytes(groups, G, symmetric, q + t * n_padded, packed + r / 16 * panel_bytes, r % 16);
            if (zero_x) value -= (float)zero_x[t] * row_value[r];
            value *= scale_x[t];
            expected[r] = bias ? value + bias[r] : value;
        }
        if (!check_exact(check, y, t, y_stride, rows, expected)) return;
    }
}

/* A weight of 16 bits: any finite pattern, or a rounded normal value. */
static uint16_t take_bits(struct check *check, bool bf16, size_t kind) {
    if (kind == 0) return (uint16_t)(check_below(check, 65536) & (bf16 ? 0xbfffu : 0xfbffu)); /* no inf, no NaN */
    float value = (float)random_normal(&check->random);
    return bf16 ? bf16_from_float(value) : half_from_float(value);
}

/* A multiplication as the check repeats it in double. */
struct product {
    size_t T, N, rows, x_stride, y_stride;
    const float *x; /* (T,N) */
    const float *w; /* panels [N][16] */
    const float *bias;
    double absolute; /* what each product may lose to underflow */
};

/* Token t of y against sums in double, and against `alone`, the same token multiplied by itself. */
static bool check_token(struct check *check, const struct product *c, const float *y, const float *alone, size_t t) {
    for (size_t r = 0; r < c->rows; r++) {
        double sum = c->bias ? (double)c->bias[r] : 0, magnitude = fabs(sum), absolute = 0;
        for (size_t n = 0; n < c->N; n++) {
            double a = (double)c->x[t * c->N + n], b = (double)c->w[(r / 16 * c->N + n) * 16 + r % 16];
            sum += a * b, magnitude += fabs(a * b);
            absolute += c->absolute * (1 + fabs(a) + fabs(b));
        }
        double got = (double)y[t * c->y_stride + r];
        double bound = check_gamma(c->N + 2) * magnitude + absolute + (double)(c->N + 2) * 0x1p-149;
        if (!(fabs(got - sum) <= bound)) {
            check_fail(check, "y[%zu][%zu] is %g, expected %g within %g", t, r, got, sum, bound);
            return false;
        }
        if (!check_same(alone[r], y[t * c->y_stride + r])) {
            check_fail(check, "y[%zu][%zu] is %g in the batch, %g alone", t, r, got, (double)alone[r]);
            return false;
        }
    }
    return true;
}

void check_matmul_f32(struct check *check) {
    size_t T = check_tokens(check), rows = odd_rows(check), N = length_for(check, rows), panels = (rows + 15) / 16;
    size_t x_stride = N + check_below(check, 5), y_stride = rows + check_below(check, 20);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu rows %zu strides %zu %zu", T, N, rows, x_stride, y_stride);
    float *x = check_take_rows(check, T, N, x_stride, check_any_fill(check)), *bias = NULL;
    float *w = check_take(check, panels * N * 16, sizeof *w), *dense = check_take(check, T * N, sizeof *w);
    check_fill_f32(check, w, panels * N * 16, check_any_fill(check));
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y), *alone = check_take(check, rows, sizeof *y);
    for (size_t t = 0; t < T; t++) memcpy(dense + t * N, x + t * x_stride, N * sizeof *x);
    struct product c = {T, N, rows, x_stride, y_stride, dense, w, bias, 0};
    check->table->matmul_f32(T, N, x, x_stride, w, bias, y, y_stride, rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        check->table->matmul_f32(1, N, x + t * x_stride, x_stride, w, bias, alone, y_stride, rows);
        if (!check_token(check, &c, y, alone, t)) return;
    }
}

static float widened(uint16_t bits, bool bf16) { return bf16 ? bf16_to_float(bits) : half_to_float(bits); }

static void check_widened(struct check *check, bool bf16, KERNEL_MATMUL_F16((*matmul))) {
    size_t T = check_tokens(check), rows = odd_rows(check), N = length_for(check, rows), panels = (rows + 15) / 16;
    size_t x_stride = N + check_below(check, 5), y_stride = rows + check_below(check, 20), kind = check_below(check, 3);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu rows %zu strides %zu %zu", T, N, rows, x_stride, y_stride);
    float *x = check_take_rows(check, T, N, x_stride, check_any_fill(check)), *bias = NULL;
    uint16_t *panel = check_take(check, panels * N * 16, sizeof *panel);
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y), *alone = check_take(check, rows, sizeof *y);
    float *w = check_take(check, panels * N * 16, sizeof *w), *dense = check_take(check, T * N, sizeof *w);
    for (size_t i = 0; i < panels * N * 16; i++) {
        size_t r = i / (N * 16) * 16 + i % 16, n = i / 16 % N; /* w: panels one behind the other */
        w[i] = widened(panel[paired_place(rows, N, r, n)] = take_bits(check, bf16, kind), bf16);
    }
    for (size_t t = 0; t < T; t++) memcpy(dense + t * N, x + t * x_stride, N * sizeof *x);
    struct product c = {T, N, rows, x_stride, y_stride, dense, w, bias, 0};
    matmul(T, N, x, x_stride, panel, bias, y, y_stride, rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        matmul(1, N, x + t * x_stride, x_stride, panel, bias, alone, y_stride, rows);
        if (!check_token(check, &c, y, alone, t)) return;
    }
}

void check_matmul_f16(struct check *check) { check_widened(check, false, check->table->matmul_f16); }
void check_matmul_bf16_f32(struct check *check) { check_widened(check, true, check->table->matmul_bf16_f32); }

/* Denormal operands and sums may count as zeros (vdpbf16ps): 2^-126 times the other operand per product. */
void check_matmul_bf16(struct check *check) {
    size_t T = check_tokens(check), rows = odd_rows(check), N = (length_for(check, rows) + 1) / 2 * 2;
    size_t panels = (rows + 15) / 16, x_stride = N + check_below(check, 5), y_stride = rows + check_below(check, 20);
    size_t kind = check_below(check, 3);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu rows %zu strides %zu %zu", T, N, rows, x_stride, y_stride);
    enum fill fill = check_any_fill(check);
    uint16_t *x = check_take(check, (T - 1) * x_stride + N, sizeof *x);
    uint16_t *panel = check_take(check, panels * N * 16, sizeof *x);
    float *bias = NULL;
    if (check_below(check, 2)) check_fill_f32(check, bias = check_take(check, rows, sizeof *bias), rows, FILL_NORMAL);
    float *y = check_take(check, (T - 1) * y_stride + rows, sizeof *y), *alone = check_take(check, rows, sizeof *y);
    float *w = check_take(check, panels * N * 16, sizeof *w), *dense = check_take(check, T * N, sizeof *w);
    check_fill_f32(check, dense, T * N, fill);
    for (size_t i = 0; i < T * N; i++)
        dense[i] = bf16_to_float(x[i / N * x_stride + i % N] = bf16_from_float(dense[i]));
    for (size_t i = 0; i < panels * N * 16; i++)
        w[i / 32 * 32 + i % 2 * 16 + i % 32 / 2] = bf16_to_float(panel[i] = take_bits(check, true, kind));
    struct product c = {T, N, rows, x_stride, y_stride, dense, w, bias, 0x1p-126};
    check->table->matmul_bf16(T, N, x, x_stride, panel, bias, y, y_stride, rows);
    check_gaps(check, y, T, y_stride, rows);
    for (size_t t = 0; t < T; t++) {
        check->table->matmul_bf16(1, N, x + t * x_stride, x_stride, panel, bias, alone, y_stride, rows);
        if (!check_token(check, &c, y, alone, t)) return;
    }
}

/* Any bits at all, and values around each rounding boundary. */
static float *take_patterns(struct check *check, size_t count) {
    float *x = check_take(check, count, sizeof *x);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = random_u32(&check->random);
        size_t kind = check_below(check, 4);
        if (kind == 0) bits = (bits & 0xffff0000u) | (0x7fffu + (uint32_t)check_below(check, 3)); /* ties of bf16 */
        if (kind == 1) bits = (bits & 0x8fffe000u) | 0x30000000u | (0xfffu + (uint32_t)check_below(check, 3));
        memcpy(x + i, &bits, sizeof bits);
    }
    return x;
}

static void check_narrow(struct check *check, void (*narrow)(size_t, const float *, uint16_t *),
                         uint16_t (*expected)(float)) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    float *x = take_patterns(check, count);
    uint16_t *y = check_take(check, count, sizeof *y);
    narrow(count, x, y);
    for (size_t i = 0; i < count; i++)
        if (y[i] != expected(x[i])) {
            check_fail(check, "%.9g became %04x, expected %04x", (double)x[i], y[i], expected(x[i]));
            return;
        }
}

void check_narrow_f16(struct check *check) { check_narrow(check, check->table->narrow_f16, half_from_float); }
void check_narrow_bf16(struct check *check) { check_narrow(check, check->table->narrow_bf16, bf16_from_float); }

void check_pair_bf16(struct check *check) {
    size_t K = check_length(check), valid = check_below(check, 3) ? 16 : 1 + check_below(check, 16),
           stride = valid + check_below(check, 5), count = (K + 1) / 2 * 32;
    snprintf(check->shape, sizeof check->shape, "K %zu valid %zu stride %zu", K, valid, stride);
    float *x = take_patterns(check, (K - 1) * stride + valid);
    uint16_t *panel = check_take(check, count, sizeof *panel);
    memset(panel, 0xff, count * sizeof *panel);
    check->table->pair_bf16(K, valid, x, stride, panel);
    for (size_t i = 0; i < count; i++) {
        size_t k = i / 32 * 2 + i % 2, c = i % 32 / 2;
        uint16_t expected = k < K && c < valid ? bf16_from_float(x[k * stride + c]) : 0;
        if (panel[i] == expected) continue;
        check_fail(check, "row %zu, column %zu is %04x, expected %04x", k, c, panel[i], expected);
        return;
    }
}

void check_widen_f16(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    uint16_t *x = check_take(check, count, sizeof *x);
    float *y = check_take(check, count, sizeof *y);
    for (size_t i = 0; i < count; i++) x[i] = (uint16_t)random_u32(&check->random);
    check->table->widen_f16(count, x, y);
    for (size_t i = 0; i < count; i++)
        if (!check_same(y[i], half_to_float(x[i]))) {
            check_fail(check, "%04x became %.9g, expected %.9g", x[i], (double)y[i], (double)half_to_float(x[i]));
            return;
        }
}

void check_widen_s8(struct check *check) {
    size_t count = check_below(check, 40) ? check_length(check) / 16 * 16 : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    int8_t *x = check_take(check, count, sizeof *x);
    float *scale = check_take(check, 16, sizeof *scale), *y = check_take(check, count, sizeof *y);
    for (size_t i = 0; i < count; i++) x[i] = (int8_t)random_u32(&check->random);
    for (size_t i = 0; i < 16; i++) scale[i] = (float)random_normal(&check->random);
    check->table->widen_s8(count, x, scale, y);
    for (size_t i = 0; i < count; i++)
        if (!check_same(y[i], (float)x[i] * scale[i % 16])) {
            check_fail(check, "%d at %zu became %.9g", x[i], i, (double)y[i]);
            return;
        }
}

/* y[m][n] of multiply_f32 and the sum of magnitudes, in double. */
static double exact_multiply(size_t K, const float *a, size_t a_step, const float *b, size_t b_stride, double start,
                             double *magnitude) {
    double sum = start;
    *magnitude = fabs(start);
    for (size_t k = 0; k < K; k++) {
        double product = (double)a[k * a_step] * (double)b[k * b_stride];
        sum += product;
        *magnitude += fabs(product);
    }
    return sum;
}

void check_multiply_f32(struct check *check) {
    static const size_t longer[] = {255, 256, 257, 511, 520, 600};
    size_t M = check_tokens(check), N = check_length(check) % 150 + 1, K = check_length(check);
    if (check_below(check, 6) == 0) K = longer[check_below(check, 6)];
    bool turned = check_below(check, 2), add = check_below(check, 2);
    size_t a_stride = (turned ? M : K) + check_below(check, 5), b_stride = N + check_below(check, 5),
           y_stride = N + check_below(check, 5);
    size_t a_row = turned ? 1 : a_stride, a_step = turned ? a_stride : 1;
    enum fill fill = check_any_fill(check);
    snprintf(check->shape, sizeof check->shape, "M %zu N %zu K %zu turned %d add %d strides %zu %zu %zu", M, N, K,
             turned, add, a_stride, b_stride, y_stride);
    float *a = check_take_rows(check, turned ? K : M, turned ? M : K, a_stride, fill);
    float *b = check_take_rows(check, K, N, b_stride, fill == FILL_HUGE ? FILL_NORMAL : fill);
    float *y = check_take(check, (M - 1) * y_stride + N, sizeof *y), *before = check_take(check, M * N, sizeof *y),
          *alone = check_take(check, N, sizeof *y);
    check_fill_f32(check, before, M * N, fill);
    for (size_t m = 0; add && m < M; m++) memcpy(y + m * y_stride, before + m * N, N * sizeof *y);
    check->table->multiply_f32(M, N, K, a, a_row, a_step, b, b_stride, add, y, y_stride);
    check_gaps(check, y, M, y_stride, N);
    for (size_t m = 0; m < M; m++) {
        size_t from = check_below(check, N), count = 1 + check_below(check, N - from); /* some columns of a row alone */
        memcpy(alone, before + m * N, N * sizeof *alone);
        check->table->multiply_f32(1, count, K, a + m * a_row, a_row, a_step, b + from, b_stride, add, alone + from, N);
        for (size_t n = 0; n < N; n++) {
            double magnitude, got = (double)y[m * y_stride + n];
            double exact = exact_multiply(K, a + m * a_row, a_step, b + n, b_stride,
                                          add ? (double)before[m * N + n] : 0, &magnitude);
            double bound = check_gamma(K + 2) * magnitude + (double)(K + 2) * 0x1p-149;
            if (!(fabs(got - exact) <= bound)) {
                check_fail(check, "y[%zu][%zu] is %.9g, expected %.9g", m, n, got, exact);
                return;
            }
            if (n < from || n >= from + count || check_same(y[m * y_stride + n], alone[n])) continue;
            check_fail(check, "y[%zu][%zu] is %.9g, alone %.9g", m, n, got, (double)alone[n]);
            return;
        }
    }
}
