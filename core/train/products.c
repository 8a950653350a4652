/* Products over panels in f32. */
#include "train/products.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

/* A product that is added goes through a block of this size, which stays in the first-level cache. */
#define ADD_TOKENS 24
#define ADD_COLUMNS 64

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }

size_t panels_forward_floats(size_t R, size_t N) { return padded(R) * N; }
size_t panels_backward_floats(size_t R, size_t N) { return padded(N) * R; }

void panels_forward(size_t R, size_t N, const float *w, size_t r_begin, size_t r_end, float *panels) {
    for (size_t r = r_begin; r < r_end; r += PANEL_ROWS)
        kernels.pack_f32(N, w + r * N, N, smaller(R - r, PANEL_ROWS), panels + r * N);
}

/* panel[i][c] = x[i][c] for `valid` columns of `rows` rows. */
static void copy_panel(size_t rows, const float *x, size_t stride, size_t valid, float *panel) {
    for (size_t i = 0; i < rows; i++, panel += PANEL_ROWS) {
        memcpy(panel, x + i * stride, valid * sizeof *panel);
        memset(panel + valid, 0, (PANEL_ROWS - valid) * sizeof *panel);
    }
}

void panels_backward(size_t R, size_t N, const float *w, size_t n_begin, size_t n_end, float *panels) {
    for (size_t n = n_begin; n < n_end; n += PANEL_ROWS)
        copy_panel(R, w + n, N, smaller(N - n, PANEL_ROWS), panels + n * R);
}

void product_forward(size_t T, size_t N, size_t R, const float *x, const float *panels, const float *bias, float *y) {
    kernels.matmul_f32(T, N, x, N, panels, bias, y, R, R);
}

/* y(T,R) += x(T,N) · panels. */
static void add_product(size_t T, size_t N, size_t R, const float *x, const float *panels, float *y, size_t y_stride) {
    float block[ADD_TOKENS * ADD_COLUMNS];
    for (size_t r = 0; r < R; r += ADD_COLUMNS)
        for (size_t t = 0; t < T; t += ADD_TOKENS) {
            size_t tokens = smaller(T - t, ADD_TOKENS), columns = smaller(R - r, ADD_COLUMNS);
            kernels.matmul_f32(tokens, N, x + t * N, N, panels + r * N, NULL, block, ADD_COLUMNS, columns);
            for (size_t i = 0; i < tokens; i++)
                kernels.add(columns, block + i * ADD_COLUMNS, y + (t + i) * y_stride + r);
        }
}

void product_backward_input(size_t T, size_t N, size_t R, const float *dy, const float *panels, bool add, float *dx) {
    if (add) add_product(T, R, N, dy, panels, dx, N);
    else kernels.matmul_f32(T, R, dy, R, panels, NULL, dx, N, N);
}

/* multiply_f32 reads both operands where they lie. */
size_t product_weight_scratch(size_t T, size_t rows, size_t N) {
    (void)T, (void)rows, (void)N;
    return 0;
}

void product_backward_weight(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin, size_t end,
                             bool add, float *dw, float *dbias, float *scratch) {
    size_t rows = end - begin;
    (void)scratch;
    kernels.multiply_f32(rows, N, T, dy + begin, 1, R, x, N, add, dw + begin * N, N);
    if (!dbias) return;
    if (!add) memset(dbias + begin, 0, rows * sizeof *dbias);
    for (size_t t = 0; t < T; t++) kernels.add(rows, dy + t * R + begin, dbias + begin);
}
