/* int8_groups: codes in groups of 32, 64 or 128 columns, each with an f16 scale and, when asymmetric, a zero point per
 * row: value = scale * (code - zero), zero 0 when symmetric. A panel holds 16 rows, group by group, scales and zeros
 * right before the codes they apply to (KERNEL_MATMUL_S8_GROUPS), so one stream is read. Codes beyond the columns are
 * 0, as the input's are there. */
#include "base/error.h"
#include "base/memory.h"
#include "formats/execution.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* Sizes that follow from a shape. */
struct layout {
    size_t groups, header_bytes, group_bytes, panel_bytes;
};

static struct layout layout_of(const struct weight_shape *shape) {
    struct layout layout = {.groups = (shape->columns + shape->group - 1) / shape->group,
                            .header_bytes = shape->symmetric ? 32 : 48};
    layout.group_bytes = layout.header_bytes + shape->group * 16;
    layout.panel_bytes = layout.groups * layout.group_bytes;
    return layout;
}

/* Where group g of row r's panel begins, and code n of row i in it. */
static size_t group_place(const struct layout *layout, size_t r, size_t g) {
    return r / 16 * layout->panel_bytes + g * layout->group_bytes;
}
static size_t code_place(const struct layout *layout, size_t i, size_t n) {
    return layout->header_bytes + n / 4 * 64 + i * 4 + n % 4;
}

static size_t columns_of(const struct weight_shape *shape, size_t g) {
    size_t left = shape->columns - g * shape->group;
    return left < shape->group ? left : shape->group;
}

static float scale_of(const uint8_t *group, size_t i) {
    uint16_t half;
    memcpy(&half, group + 2 * i, sizeof half);
    return half_to_float(half);
}

static int groups_size_bytes(const struct weight_shape *shape, size_t *bytes) {
    int status = 0;
    *bytes = 0;
    TRY(weight_shape_check(&format_int8_groups, shape));
    *bytes = panels_of(shape->rows) * layout_of(shape).panel_bytes;
out:
    return status;
}

/* One group of one row into its place. */
static int pack_group(const struct layout *layout, const float *w, size_t count, float scale, int zero, bool symmetric,
                      uint8_t *group, size_t i) {
    int status = 0;
    uint16_t half = half_from_float(scale);
    float step = half_to_float(half), least = symmetric ? -127.0f : -128.0f;
    if (!isfinite(step)) FAIL(E_NUMERIC, "scale %g does not fit into 16 bits", (double)scale);
    memcpy(group + 2 * i, &half, sizeof half);
    if (!symmetric) group[32 + i] = (uint8_t)(int8_t)zero;
    for (size_t n = 0; n < count; n++) {
        float code = (float)zero;
        if (step != 0.0f) code += rintf(w[n] / step);
        if (isnan(code)) FAIL(E_NUMERIC, "weight in column %zu of the group is not a number", n);
        code = code > least ? code : least;
        group[code_place(layout, i, n)] = (uint8_t)(int8_t)(code < 127.0f ? code : 127.0f);
    }
out:
    return status;
}

static int groups_pack(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed) {
    int status = 0;
    size_t bytes, N = shape->columns;
    TRY(groups_size_bytes(shape, &bytes));
    struct layout layout = layout_of(shape);
    if (!grid || grid->groups != layout.groups || !grid->zero != shape->symmetric)
        FAIL(E_ARGUMENT, "int8_groups takes %zu scales per row, with zero points exactly when asymmetric",
             layout.groups);
    memset(packed, 0, bytes);
    for (size_t r = 0; r < shape->rows; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            size_t at = r * layout.groups + g;
            status = pack_group(&layout, w + r * N + g * shape->group, columns_of(shape, g), grid->scale[at],
                                grid->zero ? grid->zero[at] - 128 : 0, shape->symmetric,
                                (uint8_t *)packed + group_place(&layout, r, g), r % 16);
            if (status < 0) {
                error_prefix(status, "row %zu, group %zu", r, g);
                goto out;
            }
        }
out:
    return status;
}

static int groups_unpack(const struct weight_shape *shape, const void *packed, float *w) {
    struct layout layout = layout_of(shape);
    for (size_t r = 0; r < shape->rows; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            const uint8_t *group = (const uint8_t *)packed + group_place(&layout, r, g);
            float scale = scale_of(group, r % 16);
            int zero = shape->symmetric ? 0 : (int8_t)group[32 + r % 16];
            for (size_t n = 0; n < columns_of(shape, g); n++)
                w[r * shape->columns + g * shape->group + n] =
                    scale * (float)((int8_t)group[code_place(&layout, r % 16, n)] - zero);
        }
    return 0;
}

static int groups_check(const struct weight_shape *shape, const void *packed, size_t bytes) {
    int status = 0;
    size_t expected;
    TRY(groups_size_bytes(shape, &expected));
    struct layout layout = layout_of(shape);
    if (bytes != expected)
        FAIL(E_FORMAT, "int8_groups weights (%zu,%zu) in groups of %zu take %zu bytes (got %zu)", shape->rows,
             shape->columns, shape->group, expected, bytes);
    for (size_t r = 0; r < panels_of(shape->rows) * 16; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            const uint8_t *group = (const uint8_t *)packed + group_place(&layout, r, g);
            float scale = scale_of(group, r % 16);
            if (!isfinite(scale)) FAIL(E_FORMAT, "int8_groups scale of row %zu, group %zu is not finite", r, g);
            if (r >= shape->rows && (scale != 0.0f || (!shape->symmetric && group[32 + r % 16])))
                FAIL(E_FORMAT, "int8_groups scale or zero point of padding row %zu is not 0", r);
            for (size_t n = r < shape->rows ? columns_of(shape, g) : 0; n < shape->group; n++)
                if (group[code_place(&layout, r % 16, n)])
                    FAIL(E_FORMAT, "int8_groups padding in row %zu, column %zu is not 0", r, g * shape->group + n);
        }
out:
    return status;
}

static void groups_input(const struct weight_shape *shape, size_t *n_padded, size_t *group) {
    *n_padded = size_round_up(shape->columns, shape->group);
    *group = shape->group;
}

/* What an input's zero point takes off each row: the sum of its values, in the order of the groups. */
static int groups_prepare(const struct weight *weight, struct weight_prepared *prepared, size_t *bytes) {
    int status = 0;
    const struct weight_shape *shape = &weight->shape;
    struct layout layout = layout_of(shape);
    size_t rows = panels_of(shape->rows) * 16;
    TRY(memory_take((void **)&prepared->row_value, rows, sizeof(float)));
    for (size_t r = 0; r < rows; r++)
        for (size_t g = 0; g < layout.groups; g++) {
            const uint8_t *group = (const uint8_t *)weight->packed + group_place(&layout, r, g);
            int zero = shape->symmetric ? 0 : (int8_t)group[32 + r % 16], sum = 0;
            for (size_t n = 0; n < columns_of(shape, g); n++)
                sum += (int8_t)group[code_place(&layout, r % 16, n)] - zero;
            prepared->row_value[r] += scale_of(group, r % 16) * (float)sum;
        }
    *bytes = rows * sizeof(float);
out:
    return status;
}

static void groups_multiply(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                            size_t p_begin, size_t p_end, const float *bias, float *y) {
    const struct weight_shape *shape = &weight->shape;
    struct layout layout = layout_of(shape);
    const struct weight_prepared *prepared = weight->prepared;
    size_t R = shape->rows, n_padded = layout.groups * shape->group;
    size_t r_begin = p_begin * 16, r_end = p_end * 16 < R ? p_end * 16 : R;
    kernels.matmul_s8_groups(
        t_end - t_begin, n_padded, shape->group, shape->symmetric, input->q + t_begin * n_padded,
        input->scale + t_begin, input->zero ? input->zero + t_begin : NULL, input->sums + t_begin * layout.groups,
        (const uint8_t *)weight->packed + p_begin * layout.panel_bytes, prepared->row_value + r_begin,
        bias ? bias + r_begin : NULL, y + t_begin * R + r_begin, R, r_end - r_begin);
}

static const struct weight_execution groups_execution = {
    .input = groups_input, .prepare = groups_prepare, .multiply = groups_multiply};

const struct weight_format format_int8_groups = {
    .name = "int8_groups",
    .summary = "8-bit integers in groups with f16 scales, integer arithmetic",
    .executes = EXECUTES_PACKED,
    .bits = 8,
    .code_low = -128,
    .code_high = 127,
    .has_groups = true,
    .has_asymmetric = true,
    .quantizes_input = true,
    .size_bytes = groups_size_bytes,
    .pack = groups_pack,
    .unpack = groups_unpack,
    .check = groups_check,
    .execution = &groups_execution,
};
