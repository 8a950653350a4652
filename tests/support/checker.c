/* The checker's machinery: guarded buffers, faults turned into failures, values to fill with, and the
 * checks themselves, one function per kernel. */
#include "checker.h"

#include "base/random.h"
#include "kernels/half.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOTS 12
#define SLOT_BYTES (512u << 10)
#define PAGE 4096u
#define CANARY 0xff  /* as f32 a NaN, as s8 and s32 -1 */
#define UNIT 0x1p-24 /* half a unit in the last place of f32 */

/* A stretch of memory between two pages that may not be touched. Data lies flush against one of them; the
 * rest is canary. */
struct slot {
    uint8_t *base, *data;
    size_t bytes;
};

struct check {
    const struct kernels *table;
    struct checker_report *report;
    struct random random;
    const char *kernel;
    char shape[120]; /* the case in words */
    struct slot slots[SLOTS];
    size_t used;
};

static sigjmp_buf fault_place;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(fault_place, 1);
}

static void fail(struct check *check, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct check *check, const char *format, ...) {
    struct checker_report *report = check->report;
    if (report->failures++) return;
    int used = snprintf(report->first, sizeof report->first, "%s, %s: ", check->kernel, check->shape);
    va_list arguments;
    va_start(arguments, format);
    if (used > 0 && (size_t)used < sizeof report->first)
        vsnprintf(report->first + used, sizeof report->first - (size_t)used, format, arguments);
    va_end(arguments);
}

static void slots_open(struct check *check) {
    for (size_t i = 0; i < SLOTS; i++) {
        uint8_t *base = mmap(NULL, SLOT_BYTES + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) abort();
        if (mprotect(base, PAGE, PROT_NONE) || mprotect(base + PAGE + SLOT_BYTES, PAGE, PROT_NONE)) abort();
        check->slots[i].base = base + PAGE;
    }
}

static void slots_close(struct check *check) {
    for (size_t i = 0; i < SLOTS; i++) munmap(check->slots[i].base - PAGE, SLOT_BYTES + 2 * PAGE);
}

static size_t below(struct check *check, size_t bound) { return (size_t)random_below(&check->random, bound); }

/* `count` elements of `size` bytes, aligned to no more than `size`, all canary. */
static void *take(struct check *check, size_t count, size_t size) {
    struct slot *slot = &check->slots[check->used++];
    slot->bytes = count * size;
    if (check->used > SLOTS || slot->bytes + 256 > SLOT_BYTES) abort();
    /* Flush against the page behind (three times of four), or the page before. */
    slot->data = below(check, 4) ? slot->base + SLOT_BYTES - slot->bytes : slot->base;
    uint8_t *begin = slot->data - slot->base < 256 ? slot->base : slot->data - 256;
    uint8_t *limit = slot->base + SLOT_BYTES, *end = slot->data + slot->bytes;
    end = limit - end < 256 ? limit : end + 256;
    memset(begin, CANARY, (size_t)(end - begin));
    return slot->data;
}

static void check_canaries(struct check *check) {
    for (size_t i = 0; i < check->used; i++) {
        const struct slot *slot = &check->slots[i];
        const uint8_t *begin = slot->data - slot->base < 256 ? slot->base : slot->data - 256;
        const uint8_t *limit = slot->base + SLOT_BYTES, *end = slot->data + slot->bytes;
        end = limit - end < 256 ? limit : end + 256;
        for (const uint8_t *byte = begin; byte < end; byte++)
            if (*byte != CANARY && (byte < slot->data || byte >= slot->data + slot->bytes)) {
                fail(check, "operand %zu: byte %td outside was written", i + 1, byte - slot->data);
                return;
            }
    }
}

/* ---- values ---- */

enum fill { FILL_NORMAL, FILL_SMALL, FILL_HUGE, FILL_DENORMAL, FILL_ZERO, FILL_MIXED, FILLS };

static float value_of(struct check *check, enum fill fill) {
    double normal = random_normal(&check->random);
    switch (fill) {
    case FILL_SMALL: return (float)(normal * 1e-6);
    case FILL_HUGE: return (float)(normal * 1e15);
    case FILL_DENORMAL: return (float)(normal * 1e-41);
    case FILL_ZERO: return below(check, 2) ? 0.0f : -0.0f;
    case FILL_MIXED: return (float)(normal * pow(10, (double)below(check, 12) - 6));
    default: return (float)normal;
    }
}

static enum fill any_fill(struct check *check) { return (enum fill)(below(check, 2) ? 0 : below(check, FILLS)); }

static void fill_f32(struct check *check, float *x, size_t count, enum fill fill) {
    for (size_t i = 0; i < count; i++) x[i] = value_of(check, fill);
}

/* Rows with NaN between their ends and the stride. */
static float *take_rows(struct check *check, size_t rows, size_t columns, size_t stride, enum fill fill) {
    float *x = take(check, (rows - 1) * stride + columns, sizeof *x);
    for (size_t t = 0; t < rows; t++) fill_f32(check, x + t * stride, columns, fill);
    return x;
}

/* Codes in -127..127; one case in three uses the extremes alone. */
static void fill_s8(struct check *check, int8_t *q, size_t count) {
    size_t kind = below(check, 6);
    for (size_t i = 0; i < count; i++) {
        int code = kind == 0 ? 127 : kind == 1 ? (below(check, 2) ? 127 : -127) : (int)below(check, 255) - 127;
        q[i] = (int8_t)code;
    }
}

static size_t odd_tokens(struct check *check) {
    static const size_t tokens[] = {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 25, 33};
    return tokens[below(check, sizeof tokens / sizeof *tokens)];
}

static size_t odd_length(struct check *check) { return below(check, 3) ? 1 + below(check, 70) : 1 + below(check, 400); }

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The same bits, or both NaN. */
static bool same(float a, float b) { return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b)); }

static double gamma_of(size_t n) { return (double)n * UNIT / (1 - (double)n * UNIT); }

/* What lies in y between its rows must still be canary. */
static void check_gaps(struct check *check, const float *y, size_t T, size_t stride, size_t valid) {
    for (size_t t = 0; t + 1 < T; t++)
        for (size_t r = valid; r < stride; r++)
            if (bits_of(y[t * stride + r]) != 0xffffffffu) {
                fail(check, "y[%zu][%zu] was written, valid is %zu", t, r, valid);
                return;
            }
}

/* ---- one function per kernel ---- */

static void check_matmul_f32(struct check *check) {
    size_t T = odd_tokens(check), N = odd_length(check), valid = below(check, 3) ? 16 : 1 + below(check, 16);
    size_t x_stride = N + below(check, 5), y_stride = valid + below(check, 20);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu valid %zu strides %zu %zu", T, N, valid, x_stride,
             y_stride);
    float *x = take_rows(check, T, N, x_stride, any_fill(check));
    float *panel = take(check, N * 16, sizeof *panel), *bias = NULL;
    fill_f32(check, panel, N * 16, any_fill(check));
    if (below(check, 2)) fill_f32(check, bias = take(check, 16, sizeof *bias), 16, FILL_NORMAL);
    float *y = take(check, (T - 1) * y_stride + valid, sizeof *y), *alone = take(check, valid, sizeof *alone);
    check->table->matmul_f32(T, N, x, x_stride, panel, bias, y, y_stride, valid);
    check_gaps(check, y, T, y_stride, valid);
    for (size_t t = 0; t < T; t++) {
        check->table->matmul_f32(1, N, x + t * x_stride, x_stride, panel, bias, alone, y_stride, valid);
        for (size_t r = 0; r < valid; r++) {
            double sum = bias ? (double)bias[r] : 0, magnitude = fabs(sum);
            for (size_t n = 0; n < N; n++) {
                double product = (double)x[t * x_stride + n] * (double)panel[n * 16 + r];
                sum += product;
                magnitude += fabs(product);
            }
            double got = (double)y[t * y_stride + r], bound = gamma_of(N + 2) * magnitude + (double)(N + 2) * 0x1p-149;
            if (!(fabs(got - sum) <= bound)) {
                fail(check, "y[%zu][%zu] is %g, expected %g within %g", t, r, got, sum, bound);
                return;
            }
            if (!same(alone[r], y[t * y_stride + r])) {
                fail(check, "y[%zu][%zu] is %g in the batch, %g alone", t, r, got, (double)alone[r]);
                return;
            }
        }
    }
}

static void check_quantize_s8(struct check *check) {
    static const size_t sizes[] = {4, 16, 32, 64, 128};
    size_t T = odd_tokens(check), N = odd_length(check), G = sizes[below(check, 5)];
    size_t n_padded = (N + G - 1) / G * G + (below(check, 4) ? 0 : G), x_stride = N + below(check, 5);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu padded %zu G %zu", T, N, n_padded, G);
    float *x = take_rows(check, T, N, x_stride, any_fill(check));
    for (size_t t = 0; t < T; t++) {
        float *row = x + t * x_stride;
        switch (below(check, 12)) {
        case 0: memset(row, 0, N * sizeof *row); break;
        case 1: row[below(check, N)] = NAN; break;
        case 2: row[below(check, N)] = -INFINITY; break;
        case 3: /* exact ties */
            for (size_t n = 0; n < N; n++) row[n] = (float)((int)below(check, 253) - 126) + 0.5f;
            row[below(check, N)] = 127.0f;
            break;
        case 4: /* ties up to rounding, where x * (1 / step) and x / step differ */
            for (size_t n = 0; n < N; n++) row[n] = ((float)((int)below(check, 253) - 126) + 0.5f) * 0.0123f;
            row[below(check, N)] = 127.0f * 0.0123f;
            break;
        default: break;
        }
    }
    int8_t *q = take(check, T * n_padded, 1);
    float *scale = take(check, T, sizeof *scale);
    int32_t *sums = take(check, T * (n_padded / G), sizeof *sums);
    check->table->quantize_s8(T, N, x, x_stride, n_padded, G, q, scale, sums);
    for (size_t t = 0; t < T; t++) {
        float largest = 0;
        for (size_t n = 0; n < N; n++) {
            float magnitude = fabsf(x[t * x_stride + n]);
            if (!(magnitude <= largest)) largest = isnan(largest) ? largest : magnitude;
        }
        float step = largest / 127.0f;
        if (!same(scale[t], step)) {
            fail(check, "scale[%zu] is %g, expected %g", t, (double)scale[t], (double)step);
            return;
        }
        for (size_t g = 0; g < n_padded / G; g++) {
            int32_t sum = 0;
            for (size_t n = g * G; n < (g + 1) * G; n++) {
                float exact = n < N && step != 0.0f ? nearbyintf(x[t * x_stride + n] / step) : 0.0f;
                int expected = isnan(exact) ? -127 : exact > 127 ? 127 : exact < -127 ? -127 : (int)exact;
                sum += expected;
                if (q[t * n_padded + n] == expected) continue;
                fail(check, "q[%zu][%zu] is %d, expected %d", t, n, q[t * n_padded + n], expected);
                return;
            }
            if (sums[t * (n_padded / G) + g] == sum) continue;
            fail(check, "sums[%zu][%zu] is %d, expected %d", t, g, sums[t * (n_padded / G) + g], sum);
            return;
        }
    }
}

/* Compare y with what `expected` holds, and each row with the same row multiplied alone (in `alone`). */
static bool check_exact(struct check *check, const float *y, size_t t, size_t y_stride, size_t valid,
                        const float *expected) {
    for (size_t r = 0; r < valid; r++)
        if (!same(y[t * y_stride + r], expected[r])) {
            fail(check, "y[%zu][%zu] is %.9g, expected exactly %.9g", t, r, (double)y[t * y_stride + r],
                 (double)expected[r]);
            return false;
        }
    return true;
}

static void check_matmul_s8(struct check *check) {
    size_t T = odd_tokens(check), n_padded = 4 * odd_length(check), valid = below(check, 3) ? 16 : 1 + below(check, 16);
    size_t y_stride = valid + below(check, 20);
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu valid %zu stride %zu", T, n_padded, valid, y_stride);
    int8_t *q = take(check, T * n_padded, 1), *panel = take(check, n_padded * 16, 1);
    fill_s8(check, q, T * n_padded);
    fill_s8(check, panel, n_padded * 16);
    float *scale_x = take(check, T, sizeof *scale_x), *scale_w = take(check, 16, sizeof *scale_w), *bias = NULL;
    fill_f32(check, scale_x, T, any_fill(check));
    fill_f32(check, scale_w, 16, any_fill(check));
    if (below(check, 2)) fill_f32(check, bias = take(check, 16, sizeof *bias), 16, FILL_NORMAL);
    int32_t *row_negative = take(check, 16, sizeof *row_negative);
    memset(row_negative, 0, 16 * sizeof *row_negative);
    for (size_t i = 0; i < n_padded * 16; i++) row_negative[i / 4 % 16] += panel[i] < 0 ? -panel[i] : 0;
    float *y = take(check, (T - 1) * y_stride + valid, sizeof *y);
    check->table->matmul_s8(T, n_padded, q, scale_x, panel, scale_w, row_negative, bias, y, y_stride, valid);
    check_gaps(check, y, T, y_stride, valid);
    for (size_t t = 0; t < T; t++) {
        float expected[16];
        for (size_t r = 0; r < valid; r++) {
            int64_t sum = 0;
            for (size_t n = 0; n < n_padded; n++) sum += q[t * n_padded + n] * panel[n / 4 * 64 + r * 4 + n % 4];
            float value = (scale_x[t] * scale_w[r]) * (float)sum;
            expected[r] = bias ? value + bias[r] : value;
        }
        if (!check_exact(check, y, t, y_stride, valid, expected)) return;
    }
}

static void check_matmul_u4(struct check *check) {
    static const size_t sizes[] = {32, 64, 128};
    size_t T = odd_tokens(check), G = sizes[below(check, 3)], groups = 1 + below(check, 6), n_padded = G * groups;
    size_t valid = below(check, 3) ? 16 : 1 + below(check, 16), y_stride = valid + below(check, 20);
    int symmetric = (int)below(check, 2);
    size_t header = symmetric ? 32 : 48, group_bytes = header + G * 8;
    snprintf(check->shape, sizeof check->shape, "T %zu N %zu G %zu symmetric %d valid %zu", T, n_padded, G, symmetric,
             valid);
    int8_t *q = take(check, T * n_padded, 1);
    uint8_t *panel = take(check, groups * group_bytes, 1);
    fill_s8(check, q, T * n_padded);
    bool extreme = below(check, 4) == 0;
    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < group_bytes; i++) {
            uint8_t *byte = panel + g * group_bytes + i;
            *byte = i >= 32 && i < header ? (uint8_t)below(check, 16) : extreme ? 0xff : (uint8_t)below(check, 256);
            if (i < 32 && i % 2 == 1)
                *byte = (uint8_t)(below(check, 2) * 128 + below(check, 30) * 4); /* finite halves */
        }
    float *scale_x = take(check, T, sizeof *scale_x), *bias = NULL;
    fill_f32(check, scale_x, T, FILL_NORMAL);
    if (below(check, 2)) fill_f32(check, bias = take(check, 16, sizeof *bias), 16, FILL_NORMAL);
    int32_t *sums = take(check, T * groups, sizeof *sums);
    memset(sums, 0, T * groups * sizeof *sums);
    for (size_t i = 0; i < T * n_padded; i++) sums[i / G] += q[i];
    float *y = take(check, (T - 1) * y_stride + valid, sizeof *y);
    check->table->matmul_u4(T, n_padded, G, symmetric, q, scale_x, sums, panel, bias, y, y_stride, valid);
    check_gaps(check, y, T, y_stride, valid);
    for (size_t t = 0; t < T; t++) {
        float expected[16];
        for (size_t r = 0; r < valid; r++) {
            float total = 0;
            for (size_t g = 0; g < groups; g++) {
                const uint8_t *group = panel + g * group_bytes;
                int64_t sum = 0, zero = symmetric ? 8 : group[32 + r];
                for (size_t n = 0; n < G; n++) {
                    uint8_t pair = group[header + n / 8 * 64 + r * 4 + n % 4];
                    sum += q[t * n_padded + g * G + n] * ((n % 8 < 4 ? pair & 15 : pair >> 4) - zero);
                }
                uint16_t half;
                memcpy(&half, group + 2 * r, sizeof half);
                total += half_to_float(half) * (float)sum;
            }
            float value = scale_x[t] * total;
            expected[r] = bias ? value + bias[r] : value;
        }
        if (!check_exact(check, y, t, y_stride, valid, expected)) return;
    }
}

static double normal_cumulative(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }

static float *take_arguments(struct check *check, size_t count) {
    float *x = take(check, count, sizeof *x);
    fill_f32(check, x, count, any_fill(check));
    for (size_t i = 0; i < count; i += 2) x[i] = (float)(random_uniform(&check->random) * 24 - 12);
    return x;
}

static void check_gelu(struct check *check) {
    size_t count = below(check, 40) ? odd_length(check) : 0;
    bool in_place = below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *y = take(check, count, sizeof *y);
    if (in_place) memcpy(y, x, count * sizeof *y);
    check->table->gelu(count, in_place ? y : x, y);
    for (size_t i = 0; i < count; i++) {
        double exact = (double)x[i] * normal_cumulative((double)x[i]), bound = 1e-6 * fmax(1, fabs((double)x[i]));
        if (fabs((double)y[i] - exact) <= bound) continue;
        fail(check, "gelu(%.9g) is %.9g, expected %.9g", (double)x[i], (double)y[i], exact);
        return;
    }
}

static void check_gelu_backward(struct check *check) {
    size_t count = below(check, 40) ? odd_length(check) : 0;
    bool in_place = below(check, 2);
    snprintf(check->shape, sizeof check->shape, "count %zu in place %d", count, in_place);
    float *x = take_arguments(check, count), *dy = take(check, count, sizeof *dy), *dx = take(check, count, sizeof *dx);
    fill_f32(check, dy, count, FILL_NORMAL);
    if (in_place) memcpy(dx, dy, count * sizeof *dx);
    check->table->gelu_backward(count, x, in_place ? dx : dy, dx);
    for (size_t i = 0; i < count; i++) {
        double at = (double)x[i], density = exp(-0.5 * at * at) / sqrt(2 * M_PI);
        double exact = (double)dy[i] * (normal_cumulative(at) + at * density);
        double bound = 2e-6 * fabs((double)dy[i]) + 0x1p-149;
        if (fabs((double)dx[i] - exact) <= bound) continue;
        fail(check, "gelu'(%.9g) times %g is %.9g, expected %.9g", at, (double)dy[i], (double)dx[i], exact);
        return;
    }
}

static void check_softmax(struct check *check) {
    size_t rows = 1 + below(check, 6), n = odd_length(check), stride = n + below(check, 5);
    float scale = below(check, 3) ? 0.125f : (float)(random_uniform(&check->random) * 4);
    snprintf(check->shape, sizeof check->shape, "rows %zu n %zu stride %zu scale %g", rows, n, stride, (double)scale);
    float *x = take(check, (rows - 1) * stride + n, sizeof *x), *copy = take(check, rows * n, sizeof *copy);
    double spread = below(check, 3) ? 8 : 400;
    bool masked = below(check, 3) == 0;
    for (size_t i = 0; i < rows * n; i++) {
        copy[i] = (float)(random_normal(&check->random) * spread);
        if (masked && i % n && below(check, 3) == 0) copy[i] = -INFINITY;
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
            fail(check, "softmax[%zu][%zu] is %.9g, expected %.9g", i, j, got, exact);
            return;
        }
    }
}

static void check_layer_norm(struct check *check) {
    size_t T = 1 + below(check, 5), C = odd_length(check);
    bool in_place = below(check, 2), statistics = below(check, 2);
    float eps = below(check, 2) ? 1e-5f : 1e-12f;
    snprintf(check->shape, sizeof check->shape, "T %zu C %zu in place %d", T, C, in_place);
    float *x = take(check, T * C, sizeof *x), *y = take(check, T * C, sizeof *y);
    float *gain = take(check, C, sizeof *gain), *bias = take(check, C, sizeof *bias);
    float *mean = take(check, T, sizeof *mean), *rstd = take(check, T, sizeof *rstd);
    double shift = below(check, 3) ? 0 : 30, spread = below(check, 4) ? 1 : 1e-3;
    for (size_t i = 0; i < T * C; i++) x[i] = (float)(shift + spread * random_normal(&check->random));
    fill_f32(check, gain, C, FILL_NORMAL);
    fill_f32(check, bias, C, FILL_NORMAL);
    if (in_place) memcpy(y, x, T * C * sizeof *y);
    check->table->layer_norm(T, C, in_place ? y : x, gain, bias, eps, y, statistics ? mean : NULL,
                             statistics ? rstd : NULL);
    for (size_t t = 0; t < T; t++) {
        double sum = 0, squares = 0, magnitude = 0;
        for (size_t c = 0; c < C; c++) sum += (double)x[t * C + c], magnitude += fabs((double)x[t * C + c]);
        double center = sum / (double)C, center_error = gamma_of(C + 2) * magnitude / (double)C;
        for (size_t c = 0; c < C; c++) squares += pow((double)x[t * C + c] - center, 2);
        double variance = squares / (double)C, factor = 1 / sqrt(variance + (double)eps);
        /* error of the variance: its own roundings, and twice the mean's error (squared: the mean minimises it) */
        double variance_error = gamma_of(C + 8) * (variance + (double)eps) + center_error * center_error +
                                4 * UNIT * sqrt(variance) * (magnitude / (double)C);
        double factor_error = factor * (0.5 * variance_error * factor * factor * 1.5 + 4 * UNIT);
        if (statistics &&
            (!(fabs((double)mean[t] - center) <= center_error) || !(fabs((double)rstd[t] - factor) <= factor_error))) {
            fail(check, "mean %g rstd %g of token %zu, expected %g %g", (double)mean[t], (double)rstd[t], t, center,
                 factor);
            return;
        }
        for (size_t c = 0; c < C; c++) {
            double deviation = (double)x[t * C + c] - center, g = fabs((double)gain[c]);
            double exact = deviation * factor * (double)gain[c] + (double)bias[c], got = (double)y[t * C + c];
            double bound = g * (factor * (center_error + UNIT * (fabs(deviation) + center_error)) +
                                fabs(deviation) * factor_error + 4 * UNIT * fabs(deviation) * factor) +
                           4 * UNIT * (fabs((double)bias[c]) + fabs(exact)) + 1e-12;
            if (fabs(got - exact) <= bound * 1.01) continue;
            fail(check, "y[%zu][%zu] is %.9g, expected %.9g within %g", t, c, got, exact, bound);
            return;
        }
    }
}

static void check_add(struct check *check) {
    size_t count = below(check, 40) ? odd_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    float *x = take(check, count, sizeof *x), *y = take(check, count, sizeof *y),
          *before = take(check, count, sizeof *y);
    fill_f32(check, x, count, any_fill(check));
    fill_f32(check, before, count, any_fill(check));
    memcpy(y, before, count * sizeof *y);
    check->table->add(count, x, y);
    for (size_t i = 0; i < count; i++)
        if (!same(y[i], before[i] + x[i])) {
            fail(check, "y[%zu] is %g, expected %g", i, (double)y[i], (double)(before[i] + x[i]));
            return;
        }
}

static void check_adamw(struct check *check) {
    size_t count = below(check, 40) ? odd_length(check) : 0;
    snprintf(check->shape, sizeof check->shape, "count %zu", count);
    float *p = take(check, count, sizeof *p), *grad = take(check, count, sizeof *p), *m = take(check, count, sizeof *p);
    float *v = take(check, count, sizeof *p), *before = take(check, count * 3, sizeof *p);
    fill_f32(check, p, count, FILL_NORMAL);
    fill_f32(check, grad, count, any_fill(check));
    fill_f32(check, m, count, FILL_NORMAL);
    fill_f32(check, v, count, FILL_NORMAL);
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
        if (same(p[i], expected) && same(m[i], first) && same(v[i], second) &&
            fabs((double)p[i] - exact) <= 1e-5 * (1 + fabs(exact)))
            continue;
        fail(check, "p[%zu] m v are %.9g %.9g %.9g, expected %.9g %.9g %.9g", i, (double)p[i], (double)m[i],
             (double)v[i], (double)expected, (double)first, (double)second);
        return;
    }
}

static const struct {
    const char *name;
    void (*run)(struct check *check);
} checks[] = {
#define CHECK_ROW(name, contract) {#name, check_##name},
    KERNELS(CHECK_ROW)};

/* One case; in its own function because siglongjmp comes back to it. */
static void run_case(struct check *check, void (*run)(struct check *check)) {
    if (sigsetjmp(fault_place, 1)) {
        fail(check, "touched memory outside its operands (page fault)");
        return;
    }
    check->used = 0;
    run(check);
    check_canaries(check);
}

void checker_run(const struct kernels *table, const char *kernel, size_t cases, uint64_t seed,
                 struct checker_report *report) {
    struct check check = {.table = table, .report = report};
    struct sigaction action = {.sa_handler = on_fault}, segv, bus;
    *report = (struct checker_report){.seed = seed};
    slots_open(&check);
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (kernel && strcmp(kernel, checks[i].name) != 0) continue;
        check.kernel = checks[i].name;
        random_open(&check.random, seed, random_stream(checks[i].name, 0, 0));
        for (size_t c = 0; c < cases; c++, report->cases++) run_case(&check, checks[i].run);
    }
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    slots_close(&check);
}

uint64_t checker_seed(void) {
    const char *text = getenv("CHECKER_SEED");
    return text ? strtoull(text, NULL, 10) : 20240607;
}
