/* The AMX kernels on any CPU: their source is compiled here a second time over functions that do what Intel's SDM says
 * of each tile instruction (volume 2, LDTILECFG, TILELOADD, TDPBF16PS, TDPBSSD, ...), and goes through the same
 * checker. What the CPU would answer with #GP or #UD is recorded as a fault: a shape that palette 1 does not allow,
 * tiles that do not fit each other, tiles in use without a configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "checker.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

#define TILES 8
#define ROWS_MOST 16
#define BYTES_MOST 64

static struct {
    bool configured;
    size_t rows[TILES], row_bytes[TILES];
    uint8_t data[TILES][ROWS_MOST][BYTES_MOST];
    const char *fault; /* the first one */
} tiles;

static bool refuse(bool wrong, const char *fault) {
    if (wrong && !tiles.fault) tiles.fault = fault;
    return wrong;
}

static void emulated_release(void) {
    tiles.configured = false;
    memset(tiles.rows, 0, sizeof tiles.rows);
    memset(tiles.row_bytes, 0, sizeof tiles.row_bytes);
    memset(tiles.data, 0, sizeof tiles.data);
}

/* Bytes 0 palette, 1 start row, 16..31 bytes per row of 8 tiles, 48..55 their rows; all others must be zero. */
static void emulated_loadconfig(const void *config) {
    uint8_t bytes[64];
    memcpy(bytes, config, sizeof bytes);
    emulated_release();
    if (bytes[0] == 0) return; /* the state after a release */
    if (refuse(bytes[0] != 1, "#GP: palette")) return;
    if (refuse(bytes[1] != 0, "start row that is not 0")) return;
    for (size_t i = 2; i < 64; i++)
        if ((i < 16 || (i >= 32 && i < 48) || i >= 56) && refuse(bytes[i] != 0, "#GP: reserved byte")) return;
    for (size_t t = 0; t < TILES; t++) {
        size_t row_bytes = bytes[16 + 2 * t] + 256u * bytes[17 + 2 * t], rows = bytes[48 + t];
        if (refuse(row_bytes > BYTES_MOST || rows > ROWS_MOST, "#GP: tile too large")) return;
        if (refuse((row_bytes == 0) != (rows == 0), "#GP: tile with rows or columns alone")) return;
        tiles.row_bytes[t] = row_bytes;
        tiles.rows[t] = rows;
    }
    tiles.configured = true;
}

static bool usable(int tile) {
    return !refuse(!tiles.configured, "#UD: tiles are not configured") &&
           !refuse(tile < 0 || tile >= TILES || !tiles.rows[tile], "#UD: tile is not configured");
}

static void emulated_zero(int tile) {
    if (usable(tile)) memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}

static void emulated_loadd(int tile, const void *base, size_t stride) {
    if (!usable(tile)) return;
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
    for (size_t r = 0; r < tiles.rows[tile]; r++)
        memcpy(tiles.data[tile][r], (const uint8_t *)base + r * stride, tiles.row_bytes[tile]);
}

static void emulated_stored(int tile, void *base, size_t stride) {
    if (!usable(tile)) return;
    for (size_t r = 0; r < tiles.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles.data[tile][r], tiles.row_bytes[tile]);
}

/* sum (M,N) += a (M,K) b (K,N) in 32-bit places. */
static bool fitting(int sum, int a, int b) {
    if (!usable(sum) || !usable(a) || !usable(b)) return false;
    return !refuse(sum == a || sum == b || a == b, "#UD: a tile twice") &&
           !refuse(tiles.row_bytes[sum] % 4 || tiles.row_bytes[a] % 4 || tiles.row_bytes[b] % 4,
                   "#UD: part of a place") &&
           !refuse(tiles.rows[sum] != tiles.rows[a], "#UD: rows of sums and tokens") &&
           !refuse(tiles.row_bytes[sum] != tiles.row_bytes[b], "#UD: columns of sums and weights") &&
           !refuse(tiles.row_bytes[a] / 4 != tiles.rows[b], "#UD: inner sizes");
}

/* DAZ: a denormal is a zero of its sign. */
static float without_denormal(float value) { return fabsf(value) < FLT_MIN ? copysignf(0, value) : value; }

/* a b + c, one rounding to nearest even, DAZ and FTZ. As in SSE a result is tiny when it is below FLT_MIN after
 * rounding with an unbounded exponent, which 32 more in the exponent stand for. */
static float fused(float a, float b, float c) {
    a = without_denormal(a), b = without_denormal(b), c = without_denormal(c);
    float result = fmaf(a, b, c);
    if (!(fabsf(result) <= FLT_MIN)) return result;
    return fabsf(fmaf(a * 0x1p32f, b, c * 0x1p32f)) < FLT_MIN * 0x1p32f ? copysignf(0, result) : result;
}

static float part_bf16(int tile, size_t row, size_t place, size_t part) {
    uint16_t bits;
    memcpy(&bits, &tiles.data[tile][row][4 * place + 2 * part], sizeof bits);
    return bf16_to_float(bits);
}

/* Even and odd columns are chains of their own from 0 on, then they are added, then the sum. */
static void emulated_dpbf16ps(int sum, int a, int b) {
    if (!fitting(sum, a, b)) return;
    for (size_t m = 0; m < tiles.rows[sum]; m++)
        for (size_t n = 0; n < tiles.row_bytes[sum] / 4; n++) {
            float chain[2] = {0, 0}, total;
            for (size_t k = 0; k < tiles.row_bytes[a] / 4; k++)
                for (size_t part = 0; part < 2; part++)
                    chain[part] = fused(part_bf16(a, m, k, part), part_bf16(b, k, n, part), chain[part]);
            memcpy(&total, &tiles.data[sum][m][4 * n], sizeof total);
            total = fused(1, total, fused(1, chain[0], chain[1]));
            memcpy(&tiles.data[sum][m][4 * n], &total, sizeof total);
        }
}

static void emulated_dpbssd(int sum, int a, int b) {
    if (!fitting(sum, a, b)) return;
    for (size_t m = 0; m < tiles.rows[sum]; m++)
        for (size_t n = 0; n < tiles.row_bytes[sum] / 4; n++) {
            uint32_t total; /* sums wrap around */
            memcpy(&total, &tiles.data[sum][m][4 * n], sizeof total);
            for (size_t k = 0; k < tiles.row_bytes[a] / 4; k++)
                for (size_t part = 0; part < 4; part++)
                    total +=
                        (uint32_t)((int8_t)tiles.data[a][m][4 * k + part] * (int8_t)tiles.data[b][k][4 * n + part]);
            memcpy(&tiles.data[sum][m][4 * n], &total, sizeof total);
        }
}

#define EMULATE_AMX
#define _tile_loadconfig emulated_loadconfig
#define _tile_release emulated_release
#define _tile_zero emulated_zero
#define _tile_loadd emulated_loadd
#define _tile_stored emulated_stored
#define _tile_dpbf16ps emulated_dpbf16ps
#define _tile_dpbssd emulated_dpbssd
#define matmul_bf16_amx emulated_matmul_bf16
#define matmul_s8_amx emulated_matmul_s8
KERNEL_MATMUL_BF16(emulated_matmul_bf16);
KERNEL_MATMUL_S8(emulated_matmul_s8);
#include "../../core/kernels/x86/matmul_amx.c"

static KERNEL_MATMUL_BF16(watched_matmul_bf16) {
    emulated_matmul_bf16(T, n_padded, x, x_stride, weights, bias, y, y_stride, rows);
    refuse(tiles.configured, "tiles were not released");
}
static KERNEL_MATMUL_S8(watched_matmul_s8) {
    emulated_matmul_s8(T, n_padded, q, scale_x, panels, scale_w, row_negative, row_total, zeros, bias, y, y_stride,
                       rows);
    refuse(tiles.configured, "tiles were not released");
}

static void check_emulated(const char *kernel) {
    struct kernels table;
    struct checker_report report;
    kernels_fill(&table, 0);
    table.matmul_bf16 = watched_matmul_bf16;
    table.matmul_s8 = watched_matmul_s8;
    tiles.fault = NULL;
    checker_run(&table, kernel, 200, checker_seed(), &report);
    printf("emulated AMX, %s: %zu cases, seed %llu\n", kernel, report.cases, (unsigned long long)report.seed);
    if (report.failures) fail_msg("%zu of %zu cases failed; first: %s", report.failures, report.cases, report.first);
    if (tiles.fault) fail_msg("the CPU would have stopped: %s", tiles.fault);
    assert_true(report.cases > 0);
}

static void bf16_keeps_the_contract(void **state) { (void)state, check_emulated("matmul_bf16"); }
static void s8_keeps_the_contract(void **state) { (void)state, check_emulated("matmul_s8"); }

/* ---- the model itself ---- */

static void configure(const uint8_t (*changes)[2], size_t count) {
    uint8_t config[64] = {1};
    for (size_t t = 0; t < 3; t++) config[16 + 2 * t] = 64, config[48 + t] = 16;
    for (size_t i = 0; i < count; i++) config[changes[i][0]] = changes[i][1];
    tiles.fault = NULL;
    emulated_loadconfig(config);
}

static void model_refuses_what_the_cpu_refuses(void **state) {
    (void)state;
    static const uint8_t wrong[][2] = {{0, 2},  {1, 1},  {2, 1},   {15, 1}, {16, 65}, {17, 1},
                                       {16, 0}, {32, 1}, {48, 17}, {48, 0}, {56, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        configure(&wrong[i], 1);
        if (!tiles.fault) fail_msg("byte %d with %d was accepted", wrong[i][0], wrong[i][1]);
    }
    /* Each for the product 0 += 1 2 of 16 by 64 by 16: rows of the sums, of the weights, columns of either; a tile that
     * has no shape; and one that is named twice. */
    static const uint8_t unfit[][2] = {{48, 15}, {50, 15}, {16, 60}, {18, 60}};
    for (size_t i = 0; i < sizeof unfit / sizeof *unfit; i++) {
        configure(&unfit[i], 1);
        assert_null(tiles.fault);
        emulated_dpbssd(0, 1, 2);
        if (!tiles.fault) fail_msg("a product with byte %d %d was accepted", unfit[i][0], unfit[i][1]);
    }
    configure(NULL, 0);
    emulated_dpbssd(0, 1, 2);
    assert_null(tiles.fault);
    emulated_dpbssd(0, 1, 1);
    assert_non_null(tiles.fault);
    configure(NULL, 0);
    emulated_zero(3);
    assert_non_null(tiles.fault);
    configure(NULL, 0);
    emulated_release();
    emulated_zero(0);
    assert_non_null(tiles.fault);
    emulated_release();
}

/* One output of one row: `pairs` products of pairs x[k] w[k], with `before` in the sum. */
static float one_output(size_t pairs, const float (*x)[2], const float (*w)[2], float before) {
    uint16_t a[32] = {0}, b[16][2] = {{0}};
    const uint8_t shape[][2] = {{48, 1}, {49, 1}, {16, 4}, {20, 4}};
    for (size_t k = 0; k < pairs; k++)
        for (size_t part = 0; part < 2; part++) {
            a[2 * k + part] = bf16_from_float(x[k][part]);
            b[k][part] = bf16_from_float(w[k][part]);
            assert_true(bf16_to_float(a[2 * k + part]) == x[k][part] && bf16_to_float(b[k][part]) == w[k][part]);
        }
    configure(shape, 4);
    emulated_loadd(0, &before, sizeof before);
    emulated_loadd(1, a, sizeof a);
    emulated_loadd(2, b, sizeof b[0]);
    emulated_dpbf16ps(0, 1, 2);
    emulated_stored(0, &before, sizeof before);
    assert_null(tiles.fault);
    emulated_release();
    return before;
}

static void model_sums_as_documented(void **state) {
    (void)state;
    static const float ones[2][2] = {{1, 1}, {1, 1}};
    /* One chain would lose each 1 against 2^24; the odd one holds two. */
    assert_true(one_output(2, (const float[2][2]){{0x1p24f, 1}, {1, 1}}, ones, 0) == 0x1p24f + 2);
    /* The chains are added to each other before the sum: 2^24 + (1 + 1), not (2^24 + 1) + 1. */
    assert_true(one_output(1, (const float[1][2]){{1, 1}}, ones, 0x1p24f) == 0x1p24f + 2);
    /* A product is not rounded to f32 before it is added: 2^128 - 2^127. */
    assert_true(one_output(2, (const float[2][2]){{-0x1p127f, 0}, {0x1p100f, 0}},
                           (const float[2][2]){{1, 0}, {0x1p28f, 0}}, 0) == 0x1p127f);
    /* Denormal operands and sums are zeros; FLT_MIN is none, nor what rounds to it. */
    assert_true(one_output(1, (const float[1][2]){{0x1p-127f, 0}}, (const float[1][2]){{0x1p127f, 0}}, 0) == 0);
    assert_true(one_output(1, (const float[1][2]){{0x1p-64f, 0}}, (const float[1][2]){{0x1p-63f, 0}}, 0) == 0);
    assert_true(one_output(1, (const float[1][2]){{0x1p-63f, 0}}, (const float[1][2]){{0x1p-63f, 0}}, 0) == FLT_MIN);
    assert_true(one_output(1, ones, ones, 0x1p-127f) == 2);
    assert_true(fused(0x1p-75f, -0x1p-75f, FLT_MIN) == 0 && fused(0x1p-76f, -0x1p-75f, FLT_MIN) == FLT_MIN);
    assert_true(isnan(one_output(1, (const float[1][2]){{INFINITY, 0}}, (const float[1][2]){{0, 0}}, 0)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_refuses_what_the_cpu_refuses),
        cmocka_unit_test(model_sums_as_documented),
        cmocka_unit_test(bf16_keeps_the_contract),
        cmocka_unit_test(s8_keeps_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
