/* Weight formats: sizes, bytes, grids against hand-computed values and published error figures, hostile bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "formats/weight.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "packed_weight.h"

#define UNIT 0x1p-24

static void registry_finds_formats_and_backends(void **state) {
    (void)state;
    enum gemm_backend backend;
    assert_string_equal(weight_format_find("int4")->name, "int4");
    assert_null(weight_format_find("int5"));
    assert_int_equal(gemm_backend_find("builtin", &backend), 0);
    assert_int_equal(backend, GEMM_BUILTIN);
#if defined(BACKENDS_NONE)
    assert_int_equal(gemm_backend_find("onednn", &backend), E_UNSUPPORTED);
#else
    assert_int_equal(gemm_backend_find("onednn", &backend), 0);
    assert_int_equal(backend, GEMM_ONEDNN);
#endif
    assert_int_equal(gemm_backend_find("mkl", &backend), E_NOT_FOUND);
    assert_string_equal(gemm_backend_name(GEMM_OPENBLAS), "openblas");
}

/* (rows, columns, group, symmetric) → bytes, computed by hand from the layouts. */
static void sizes_follow_the_layouts(void **state) {
    (void)state;
    static const struct {
        const char *format;
        struct weight_shape shape;
        size_t bytes;
    } rows[] = {
        {"f32", {.rows = 3, .columns = 5}, 60},
        {"int8", {.rows = 1, .columns = 1}, 16 * 64 + 16 * 4},
        {"int8", {.rows = 256, .columns = 256}, 256 * 256 + 256 * 4},
        {"int8", {.rows = 17, .columns = 65}, 32 * 128 + 32 * 4},
        {"int8_affine", {.rows = 17, .columns = 65}, 32 * 128 + 32 * 4 + 32},
        {"int8_groups", {.rows = 16, .columns = 64, .group = 64, .symmetric = true}, 32 + 64 * 16},
        {"int8_groups", {.rows = 16, .columns = 65, .group = 32}, 3 * (48 + 32 * 16)},
        {"int8_groups", {.rows = 33, .columns = 128, .group = 128}, 3 * (48 + 128 * 16)},
        {"int4", {.rows = 16, .columns = 64, .group = 64, .symmetric = true}, 32 + 64 * 8},
        {"int4", {.rows = 16, .columns = 64, .group = 64}, 48 + 64 * 8},
        {"int4", {.rows = 16, .columns = 65, .group = 32, .symmetric = true}, 3 * (32 + 32 * 8)},
        {"int4", {.rows = 33, .columns = 128, .group = 128}, 3 * (48 + 128 * 8)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t bytes;
        assert_int_equal(weight_format_find(rows[i].format)->size_bytes(&rows[i].shape, &bytes), 0);
        assert_int_equal(bytes, rows[i].bytes);
    }
    struct weight_shape shape = {.rows = 256, .columns = 256, .group = 64, .symmetric = true};
    assert_true(weight_bits(weight_format_find("int4"), &shape) == 4.25);
    assert_true(weight_bits(weight_format_find("int8_groups"), &shape) == 8.25);
    shape.symmetric = false;
    assert_true(weight_bits(weight_format_find("int8_groups"), &shape) == 8.375);
    assert_true(weight_bits(weight_format_find("int4"), &shape) == 4.375);
    shape.group = 0;
    assert_true(weight_bits(weight_format_find("int8"), &shape) == 8.125);
    assert_true(weight_bits(weight_format_find("f32"), &shape) == 32);
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *format;
        struct weight_shape shape;
        int code;
    } rows[] = {
        {"f32", {.rows = 0, .columns = 5}, E_SHAPE},
        {"f32", {.rows = 5, .columns = 0}, E_SHAPE},
        {"f32", {.rows = SIZE_MAX / 4, .columns = 16}, E_LIMIT},
        {"int8", {.rows = SIZE_MAX, .columns = SIZE_MAX}, E_LIMIT},
        {"int8", {.rows = 16, .columns = 64, .group = 64}, E_SHAPE},
        {"int8_affine", {.rows = 16, .columns = 64, .group = 64}, E_SHAPE},
        {"int8", {.rows = 16, .columns = 65537}, E_LIMIT},
        {"int8_affine", {.rows = 16, .columns = 32769}, E_LIMIT},
        {"int8_groups", {.rows = 16, .columns = 64}, E_SHAPE},
        {"int8_groups", {.rows = 16, .columns = 64, .group = 256}, E_SHAPE},
        {"int4", {.rows = 16, .columns = 64}, E_SHAPE},
        {"int4", {.rows = 16, .columns = 64, .group = 48}, E_SHAPE},
        {"int4", {.rows = (size_t)1 << 40, .columns = 64, .group = 64}, E_LIMIT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t bytes = 1;
        assert_int_equal(weight_format_find(rows[i].format)->size_bytes(&rows[i].shape, &bytes), rows[i].code);
        assert_int_equal(bytes, 0);
    }
}

static void grids_match_hand_computed_values(void **state) {
    (void)state;
    float w[64] = {[0] = -1.0f, [1] = 0.5f, [2] = 2.0f, [40] = -3.5f}, scale[2];
    uint8_t zero[2];
    struct weight_grid grid = {.scale = scale};
    struct weight_shape shape = {.rows = 1, .columns = 64};
    assert_int_equal(weight_grid_minmax(weight_format_find("int8"), &shape, w, &grid), 0);
    assert_int_equal(grid.groups, 1);
    assert_true(scale[0] == 3.5f / 127);
    shape = (struct weight_shape){.rows = 1, .columns = 64, .group = 32, .symmetric = true};
    assert_int_equal(weight_grid_minmax(weight_format_find("int4"), &shape, w, &grid), 0);
    assert_int_equal(grid.groups, 2);
    assert_true(scale[0] == half_to_float(half_from_float(2.0f / 7)) && scale[1] == 0.5f);
    shape.symmetric = false;
    grid.zero = zero;
    assert_int_equal(weight_grid_minmax(weight_format_find("int4"), &shape, w, &grid), 0);
    /* -1..2 in 15 steps of 0.2 (0.19995 as f16): zero at 5; -3.5..0: the zero point is the last code. */
    assert_true(scale[0] == half_to_float(half_from_float(0.2f)));
    assert_int_equal(zero[0], 5);
    assert_true(scale[1] == half_to_float(half_from_float(3.5f / 15)));
    assert_int_equal(zero[1], 15);
    /* The same ranges in bytes: -1..2 puts zero at code 85 of 0..255. */
    assert_int_equal(weight_grid_minmax(weight_format_find("int8_groups"), &shape, w, &grid), 0);
    assert_true(scale[0] == half_to_float(half_from_float(3.0f / 255)));
    assert_int_equal(zero[0], 85);
    assert_int_equal(zero[1], 255);
    shape.symmetric = true;
    assert_int_equal(weight_grid_minmax(weight_format_find("int8_groups"), &shape, w, &grid), 0);
    assert_true(scale[0] == half_to_float(half_from_float(2.0f / 127)));
    shape = (struct weight_shape){.rows = 1, .columns = 64};
    assert_int_equal(weight_grid_minmax(weight_format_find("int8_affine"), &shape, w, &grid), 0);
    assert_true(scale[0] == 5.5f / 255);
    assert_int_equal(zero[0], 162); /* 3.5 / scale = 162.3 */
    shape.group = 32;
    memset(w, 0, sizeof w);
    assert_int_equal(weight_grid_minmax(weight_format_find("int4"), &shape, w, &grid), 0);
    assert_true(scale[0] == 0 && scale[1] == 0);
    w[33] = NAN;
    assert_int_equal(weight_grid_minmax(weight_format_find("int4"), &shape, w, &grid), E_NUMERIC);
    assert_non_null(strstr(error_text(), "column 33"));
    w[33] = 1e30f;
    assert_int_equal(weight_grid_minmax(weight_format_find("int4"), &shape, w, &grid), E_NUMERIC);
    assert_non_null(strstr(error_text(), "does not fit"));
}

/* Bytes of a small matrix by hand: the layout is a contract with files on disk. */
static void packed_bytes_match_the_diagrams(void **state) {
    (void)state;
    float w[2 * 64] = {0}, scale[2] = {1.0f, 0.5f};
    uint8_t zero[2] = {3, 0}, bytes[16 * 64 + 80], *codes = bytes + 48;
    w[0] = 5, w[6] = -3, w[64 + 9] = 1.25f;
    struct weight_grid grid = {.scale = scale, .groups = 1};
    struct weight_shape shape = {.rows = 2, .columns = 64};
    assert_int_equal(weight_format_find("int8")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal((int8_t)bytes[0], 5);           /* column block 0, row 0, byte 0 */
    assert_int_equal((int8_t)bytes[64 + 2], -3);     /* column 6: block 1, byte 2 */
    assert_int_equal((int8_t)bytes[128 + 4 + 1], 2); /* row 1, column 9: block 2; 2.5 rounds to the even 2 */
    float stored;
    memcpy(&stored, bytes + 16 * 64 + 4, sizeof stored);
    assert_true(stored == 0.5f);
    w[1] = -127.6f;
    assert_int_equal(weight_format_find("int8")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal((int8_t)bytes[1], -127);
    grid.as_torch = true;
    assert_int_equal(weight_format_find("int8")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal((int8_t)bytes[1], -128);
    grid.zero = zero; /* -125 and -128 */
    assert_int_equal(weight_format_find("int8_affine")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal((int8_t)bytes[0], 5 - 125);
    assert_int_equal((int8_t)bytes[1], -128);
    assert_int_equal((int8_t)bytes[128 + 4 + 1], 2 - 128);
    assert_int_equal((int8_t)bytes[16 * 64 + 64], -125); /* after the scales */
    assert_int_equal((int8_t)bytes[16 * 64 + 65], -128);
    w[1] = 0;
    shape = (struct weight_shape){.rows = 2, .columns = 64, .group = 64};
    assert_int_equal(weight_format_find("int8_groups")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal(bytes[2] | bytes[3] << 8, 0x3800);
    assert_int_equal((int8_t)bytes[32], -125);
    assert_int_equal((int8_t)codes[64 + 2], -3 - 125); /* column 6: block 1, byte 2 */
    assert_int_equal((int8_t)codes[128 + 4 + 1], 2 - 128);
    assert_int_equal(weight_format_find("int4")->pack(&shape, w, &grid, bytes), 0);
    assert_int_equal(bytes[0] | bytes[1] << 8, 0x3c00);
    assert_int_equal(bytes[2] | bytes[3] << 8, 0x3800);
    assert_int_equal(bytes[32], 3);
    assert_int_equal(codes[0], 8 | 3 << 4);     /* columns 0 (5 + 3) and 4 (zero point) of row 0 */
    assert_int_equal(codes[2], 3 | 0 << 4);     /* columns 2 and 6: -3 + 3 = 0 */
    assert_int_equal(codes[64 + 4 + 1], 2 | 0); /* row 1, column 9: 1.25 / 0.5 = 2.5 rounds to the even 2 */
}

static void round_trips_stay_on_the_grid(void **state) {
    (void)state;
    static const struct {
        const char *format;
        struct weight_shape shape;
    } rows[] = {
        {"f32", {.rows = 7, .columns = 33}},
        {"int8", {.rows = 1, .columns = 1}},
        {"int8", {.rows = 37, .columns = 129}},
        {"int8_affine", {.rows = 37, .columns = 129}},
        {"int8_groups", {.rows = 5, .columns = 1, .group = 32}},
        {"int8_groups", {.rows = 37, .columns = 129, .group = 32, .symmetric = true}},
        {"int8_groups", {.rows = 33, .columns = 200, .group = 128}},
        {"int4", {.rows = 5, .columns = 1, .group = 32}},
        {"int4", {.rows = 37, .columns = 129, .group = 32, .symmetric = true}},
        {"int4", {.rows = 16, .columns = 256, .group = 64}},
        {"int4", {.rows = 33, .columns = 200, .group = 128}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct weight_format *format = weight_format_find(rows[i].format);
        struct weight_shape shape = rows[i].shape;
        size_t count = shape.rows * shape.columns;
        float *w = normal_new(count, 5 + i), *back = normal_new(count, 99);
        memset(w, 0, shape.columns * sizeof *w / 2); /* half a row of zeros */
        struct weight_grid grid;
        grid_new(&grid, format, &shape, w);
        struct weight weight, again, view;
        assert_int_equal(weight_pack(&weight, format, &shape, w, &grid), 0);
        assert_int_equal(format->unpack(&shape, weight.packed, back), 0);
        for (size_t e = 0; e < count; e++) {
            size_t groups = weight_grid_groups(format, &shape),
                   width = format->has_groups ? shape.group : shape.columns;
            size_t g = groups ? e / shape.columns * groups + e % shape.columns / width : 0;
            /* half a step; a zero point that was itself rounded costs up to one more half at the ends, an f16
             * scale that was rounded down as many codes times 2^-11 of a step */
            double coarse = format->has_groups ? (format->bits == 8 ? 255 : 15) * 0x1p-11 : 0;
            double bound = groups ? (double)grid.scale[g] * ((grid.zero ? 1 : 0.5) + coarse) : 0;
            if (!(fabs((double)back[e] - (double)w[e]) <= bound * (1 + 1e-5)))
                fail_msg("%s row %zu: %g became %g, step %g", format->name, e / shape.columns, (double)w[e],
                         (double)back[e], (double)grid.scale[g]);
            if (w[e] == 0) assert_true(back[e] == 0);
        }
        /* Packing what was unpacked gives the same bytes. */
        assert_int_equal(weight_pack(&again, format, &shape, back, &grid), 0);
        assert_memory_equal(again.packed, weight.packed, weight.packed_bytes);
        assert_int_equal(weight_view(&view, format, &shape, weight.packed, weight.packed_bytes), 0);
        assert_false(view.owns_packed);
        weight_close(&view);
        weight_close(&again);
        weight_close(&weight);
        grid_free(&grid);
        memory_release(w);
        memory_release(back);
    }
}

/* Mean absolute and mean squared error on N(0,1), an independent Monte-Carlo of 6e5 samples. The standard error
 * of the mean over 2^20 samples is 5e-5 for 4 bits, theirs 7e-5; four times both together is 0.4 %. */
static void errors_match_published_figures(void **state) {
    (void)state;
    static const struct {
        const char *format;
        size_t group;
        bool symmetric;
        double mae, mse;
    } rows[] = {
        {"int4", 32, false, .06897, .00652},        {"int4", 64, false, .07817, .00829},
        {"int4", 128, false, .08649, .01009},       {"int4", 64, true, .09122, .01156},
        {"int4", 128, true, .10017, .01375},        {"int8", 0, true, .00552, 4.2e-5},
        {"int8_groups", 128, true, .00552, 4.2e-5},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct weight_shape shape = {
            .rows = 1024, .columns = 1024, .group = rows[i].group, .symmetric = rows[i].symmetric};
        /* int8 has one scale per row: the published figure is for 128 columns. */
        if (!shape.group) shape = (struct weight_shape){.rows = 8192, .columns = 128, .symmetric = true};
        size_t count = shape.rows * shape.columns;
        float *w = normal_new(count, 1), *back = normal_new(1, 1);
        assert_int_equal(memory_resize((void **)&back, count, sizeof *back), 0);
        struct weight weight;
        packed_new(&weight, rows[i].format, shape, w);
        assert_int_equal(weight.format->unpack(&shape, weight.packed, back), 0);
        double absolute = 0, squared = 0;
        for (size_t e = 0; e < count; e++) {
            double error = (double)back[e] - (double)w[e];
            absolute += fabs(error);
            squared += error * error;
        }
        absolute /= (double)count, squared /= (double)count;
        if (fabs(absolute - rows[i].mae) > 0.004 * rows[i].mae || fabs(squared - rows[i].mse) > 0.01 * rows[i].mse)
            fail_msg("%s g%zu symmetric %d: MAE %.5f MSE %.6f, published %.5f %.6f", rows[i].format, rows[i].group,
                     rows[i].symmetric, absolute, squared, rows[i].mae, rows[i].mse);
        weight_close(&weight);
        memory_release(w);
        memory_release(back);
    }
}

static void lying_bytes_are_refused(void **state) {
    (void)state;
    float *w = normal_new(20 * 70, 3);
    struct weight weight, view;
    uint8_t *bytes;

    packed_new(&weight, "int8", (struct weight_shape){.rows = 20, .columns = 70}, w);
    bytes = (uint8_t *)(uintptr_t)weight.packed;
#define REFUSED(text)                                                                                                  \
    do {                                                                                                               \
        assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes), E_FORMAT);      \
        assert_non_null(strstr(error_text(), text));                                                                   \
        assert_null(view.packed);                                                                                      \
    } while (0)
#define CHANGED(place, value, text)                                                                                    \
    do {                                                                                                               \
        uint8_t before = bytes[place];                                                                                 \
        bytes[place] = (value);                                                                                        \
        REFUSED(text);                                                                                                 \
        bytes[place] = before;                                                                                         \
    } while (0)
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes), 0);
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes - 1), E_FORMAT);
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes + 64), E_FORMAT);
    CHANGED(70 / 4 * 64 + 2, 1, "padding");  /* column 70 of row 0 */
    CHANGED(16 * 128 + 4 * 4, 1, "padding"); /* row 20 */
    CHANGED(32 * 128 + 3, 0x7f, "finite");   /* all exponent bits of row 0's scale: its next byte is 0x8c or more */
    weight_close(&weight);

    packed_new(&weight, "int8_affine", (struct weight_shape){.rows = 20, .columns = 70}, w);
    bytes = (uint8_t *)(uintptr_t)weight.packed;
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes), 0);
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes - 32), E_FORMAT);
    CHANGED(70 / 4 * 64 + 2, 1, "padding");
    CHANGED(32 * 128 + 32 * 4 + 20, 1, "zero point of padding row 20");
    weight_close(&weight);

    packed_new(&weight, "int8_groups", (struct weight_shape){.rows = 20, .columns = 70, .group = 32}, w);
    bytes = (uint8_t *)(uintptr_t)weight.packed;
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes), 0);
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes - 1), E_FORMAT);
    CHANGED(1, 0x7c, "finite");
    CHANGED(2 * (48 + 512) + 48 + 1 * 64 + 2, 1, "row 0, column 70 is not 0"); /* of group 2: columns 64.. */
    CHANGED(3 * (48 + 512) + 2 * 4, 1, "padding row 20");
    CHANGED(3 * (48 + 512) + 32 + 4, 1, "padding row 20");
    CHANGED(3 * (48 + 512) + 48 + 4 * 4, 1, "padding in row 20");
    weight_close(&weight);

    packed_new(&weight, "int4", (struct weight_shape){.rows = 20, .columns = 70, .group = 32}, w);
    bytes = (uint8_t *)(uintptr_t)weight.packed;
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, weight.packed_bytes), 0);
    assert_int_equal(weight_view(&view, weight.format, &weight.shape, bytes, 0), E_FORMAT);
    CHANGED(1, 0x7c, "finite");
    CHANGED(32 + 5, 16, "zero point");
    CHANGED(3 * (48 + 256) + 2 * 4, 1, "padding row 20");
    weight_close(&weight);

    packed_new(&weight, "f32", (struct weight_shape){.rows = 20, .columns = 70}, w);
    bytes = (uint8_t *)(uintptr_t)weight.packed;
    ((float *)(uintptr_t)weight.packed)[75] = INFINITY;
    REFUSED("row 1, column 5");
    assert_int_equal(weight_view(&view, weight.format, &(struct weight_shape){.rows = 1, .columns = 1}, bytes + 1, 4),
                     E_FORMAT);
    weight_close(&weight);
    memory_release(w);
}

static void wrong_grids_are_refused(void **state) {
    (void)state;
    float *w = normal_new(16 * 64, 3), scale[16];
    uint8_t zero[16] = {0};
    struct weight weight;
    for (size_t i = 0; i < 16; i++) scale[i] = 0.1f;
    struct weight_grid grid = {.scale = scale, .zero = zero, .groups = 1};
    struct weight_shape shape = {.rows = 16, .columns = 64}, grouped = {.rows = 16, .columns = 64, .group = 64};
    const struct weight_format *int8 = weight_format_find("int8"), *int4 = weight_format_find("int4");
    assert_int_equal(weight_pack(&weight, int8, &shape, w, &grid), E_ARGUMENT);
    assert_null(weight.packed);
    zero[7] = 16;
    assert_int_equal(weight_pack(&weight, int4, &grouped, w, &grid), E_ARGUMENT);
    zero[7] = 0, scale[3] = 1e9f;
    assert_int_equal(weight_pack(&weight, int4, &grouped, w, &grid), E_NUMERIC);
    assert_non_null(strstr(error_text(), "row 3"));
    scale[3] = 0.1f, grid.zero = NULL;
    assert_int_equal(weight_pack(&weight, int4, &grouped, w, &grid), E_ARGUMENT);
    grid.groups = 2, grid.zero = zero;
    assert_int_equal(weight_pack(&weight, int4, &grouped, w, &grid), E_ARGUMENT);
    grid = (struct weight_grid){.scale = scale, .groups = 1}, w[5] = NAN;
    assert_int_equal(weight_pack(&weight, int8, &shape, w, &grid), E_NUMERIC);
    memory_release(w);
}

static void failed_allocations_leave_nothing(void **state) {
    (void)state;
    float *w = normal_new(40 * 70, 3), *y = normal_new(40 * 3, 1);
    struct weight_grid grid;
    struct weight_shape shape = {.rows = 40, .columns = 70};
    grid_new(&grid, weight_format_find("int8"), &shape, w);
    for (long n = 1;; n++) {
        struct weight weight;
        struct weight_scratch scratch = {0};
        memory_fail_after(n);
        int status = weight_pack(&weight, weight_format_find("int8"), &shape, w, &grid);
        if (status == 0) status = weight_prepare(&weight, GEMM_BUILTIN);
        if (status == 0) status = weight_matmul(&weight, 3, w, NULL, y, &scratch);
        memory_fail_after(0);
        weight_scratch_close(&scratch);
        weight_close(&weight);
        if (status == 0) {
            assert_true(n > 4);
            break;
        }
        assert_int_equal(status, E_MEMORY);
    }
    grid_free(&grid);
    memory_release(w);
    memory_release(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registry_finds_formats_and_backends),
        cmocka_unit_test(sizes_follow_the_layouts),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(grids_match_hand_computed_values),
        cmocka_unit_test(packed_bytes_match_the_diagrams),
        cmocka_unit_test(round_trips_stay_on_the_grid),
        cmocka_unit_test(errors_match_published_figures),
        cmocka_unit_test(lying_bytes_are_refused),
        cmocka_unit_test(wrong_grids_are_refused),
        cmocka_unit_test(failed_allocations_leave_nothing),
    };
    return cmocka_run_group_tests(tests, open_kernels, NULL);
}
