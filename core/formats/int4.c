/* int4: codes 0..15 in groups of 32, 64 or 128 columns, each with an f16 scale and, when asymmetric, a zero
 * point per row: value = scale * (code - zero), zero 8 when symmetric. A panel holds 16 rows, group by group,
 * scales and zeros right before the codes they apply to (KERNEL_MATMUL_U4), so one stream is read. The last
 * group is padded with the zero point, whose value is 0. */
#include "base/error.h"
#include "base/memory.h"
#include "formats/execution.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* Sizes and places that follow from a shape. */
struct layout {
    size_t groups, header_bytes, group_bytes, panel_bytes;
};

static struct layout layout_of(const struct weight_shape *shape) {
    struct layout layout = {.groups = (shape->columns + shape->group - 1) / shape->group,
                            .header_bytes = shape->symmetric ? 32 : 48};
    layout.group_bytes = layout.header_bytes + shape->group * 8;
    layout.panel_bytes = layout.groups * layout.group_bytes;
    return layout;
}

/* Byte of code (row i of the panel, column n of the group) after the header, and the shift of its nibble. */
static size_t code_place(size_t i, size_t n, int *shift) {
    *shift = n % 8 < 4 ? 0 : 4;
    return n / 8 * 64 + i * 4 + n % 4;
}

static int int4_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    *bytes = 0;
    TRY(weight_shape_check(&format_int4, shape));
    *bytes = panels_of(shape->rows) * layout_of(shape).panel_bytes;
out:
    return status;
}

/* One group of one row into its place. */
static int pack_group(const float *w, size_t count, size_t group, float scale, int zero, bool stored_zero,
                      uint8_t *bytes, size_t i, size_t header_bytes) {
    int status = 0;
    uint16_t half = half_from_float(scale);
    float step = half_to_float(half);
    if (!isfinite(step)) FAIL(E_NUMERIC, "scale %g does not fit into 16 bits", (double)scale);
    memcpy(bytes + 2 * i, &half, sizeof half);
    if (stored_zero) bytes[32 + i] = (uint8_t)zero;
    for (size_t n = 0; n < group; n++) {
        float code = (float)zero;
        if (n < count && step != 0.0f) code += rintf(w[n] / step);
        if (isnan(code)) FAIL(E_NUMERIC, "weight in column %zu of the group is not a number", n);
        code = code > 0.0f ? code : 0.0f;
        code = code < 15.0f ? code : 15.0f;
        int shift;
        size_t place = header_bytes + code_place(i, n, &shift);
        bytes[place] = (uint8_t)(bytes[place] | (uint8_t)code << shift);
    }
out:
    return status;
}

static int int4_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    int status = 0;
    size_t bytes, R = shape->rows, N = shape->columns, G = shape->group;
    TRY(int4_size_bytes(shape, &bytes));
    struct layout layout = layout_of(shape);
    if (!grid || grid->groups != layout.groups || !grid->zero != shape->symmetric)
        FAIL(E_ARGUMENT, "int4 takes %zu scales per row, with zero points exactly when asymmetric", layout.groups);
    memset(packed, 0, bytes);
    for (size_t r = 0; r < R; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            int zero = shape->symmetric ? 8 : grid->zero[r * layout.groups + g];
            if (zero > 15) FAIL(E_ARGUMENT, "zero point of row %zu, group %zu is %d; zeros are 0..15", r, g, zero);
            size_t count = N - g * G < G ? N - g * G : G;
            uint8_t *place = (uint8_t *)packed + r / 16 * layout.panel_bytes + g * layout.group_bytes;
            status = pack_group(w + r * N + g * G, count, G, grid->scale[r * layout.groups + g], zero,
                                !shape->symmetric, place, r % 16, layout.header_bytes);
            if (status < 0) {
                error_prefix(status, "row %zu, group %zu", r, g);
                goto out;
            }
        }
out:
    return status;
}

static int int4_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    size_t R = shape->rows, N = shape->columns, G = shape->group;
    struct layout layout = layout_of(shape);
    for (size_t r = 0; r < R; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            const uint8_t *place = (const uint8_t *)packed + r / 16 * layout.panel_bytes + g * layout.group_bytes;
            uint16_t half;
            memcpy(&half, place + r % 16 * 2, sizeof half);
            float scale = half_to_float(half);
            int zero = shape->symmetric ? 8 : place[32 + r % 16];
            for (size_t n = 0; n < G && g * G + n < N; n++) {
                int shift;
                size_t byte = layout.header_bytes + code_place(r % 16, n, &shift);
                w[r * N + g * G + n] = scale * (float)((place[byte] >> shift & 15) - zero);
            }
        }
    return 0;
}

static int int4_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    int status = 0;
    size_t expected;
    TRY(int4_size_bytes(shape, &expected));
    struct layout layout = layout_of(shape);
    if (bytes != expected)
        FAIL(E_FORMAT, "int4 weights (%zu,%zu) in groups of %zu take %zu bytes (got %zu)", shape->rows, shape->columns,
             shape->group, expected, bytes);
    for (size_t p = 0; p < panels_of(shape->rows); p++)
        for (size_t g = 0; g < layout.groups; g++)
            for (size_t i = 0; i < 16; i++) {
                const uint8_t *place = (const uint8_t *)packed + p * layout.panel_bytes + g * layout.group_bytes;
                uint16_t half;
                memcpy(&half, place + 2 * i, sizeof half);
                size_t r = p * 16 + i;
                if (!isfinite(half_to_float(half)))
                    FAIL(E_FORMAT, "int4 scale of row %zu, group %zu is not finite", r, g);
                if (r >= shape->rows && half) FAIL(E_FORMAT, "int4 scale of padding row %zu is not 0", r);
                if (!shape->symmetric && place[32 + i] > 15)
                    FAIL(E_FORMAT, "int4 zero point of row %zu, group %zu is %d; zeros are 0..15", r, g, place[32 + i]);
            }
out:
    return status;
}

static void int4_input(const struct weight_shape *shape, size_t *n_padded, size_t *group) {
    *n_padded = size_round_up(shape->columns, shape->group);
    *group = shape->group;
}

static void int4_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                          size_t p_begin, size_t p_end, const float *bias, float *y) {
    const struct weight_shape *shape = &weight->shape;
    struct layout layout = layout_of(shape);
    size_t R = shape->rows, n_padded = layout.groups * shape->group;
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    kernels.matmul_u4(t_end - t_begin, n_padded, shape->group, shape->symmetric, input->q + t_begin * n_padded,
                      input->scale + t_begin, input->sums + t_begin * layout.groups,
                      (const uint8_t *)weight->packed + p_begin * layout.panel_bytes, bias ? bias + r_begin : NULL,
                      y + t_begin * R + r_begin, R, r_end - r_begin);
}

static const struct weight_execution int4_execution = {.input = int4_input, .multiply = int4_multiply};

const struct weight_format format_int4 = {
    .name = "int4",
    .summary = "4-bit integers in groups with f16 scales, integer arithmetic",
    .executes = EXECUTES_PACKED,
    .bits = 4,
    .code_low = 0,
    .code_high = 15,
    .has_groups = true,
    .has_asymmetric = true,
    .size_bytes = int4_size_bytes,
    .pack = int4_pack,
    .unpack = int4_unpack,
    .check = int4_check,
    .execution = &int4_execution,
};
