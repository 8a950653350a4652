/* Products over panels in bf16: two steps of the sum lie side by side in panels (KERNEL_MATMUL_BF16), for the gradient
 * of a weight two tokens. Sums of odd length are padded with zeros. */
#include "train/products.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

#define ADD_TOKENS 24 /* of a product that is added: a block that stays in the first-level cache */
#define ADD_COLUMNS 64
#define TURN 64 /* columns that are turned at a time */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }
static size_t even(size_t n) { return size_round_up(n, 2); }

size_t panels_forward_bf16_count(size_t R, size_t N) { return padded(R) * even(N); }
size_t panels_backward_bf16_count(size_t R, size_t N) { return padded(N) * even(R); }

/* pairs[c][2] of two rows of 16 columns. */
static void interleave(const float *first, const float *second, float *pairs) {
    for (size_t c = 0; c < PANEL_ROWS; c++) pairs[2 * c] = first[c], pairs[2 * c + 1] = second[c];
}

void panels_forward_bf16(size_t R, size_t N, const float *w, size_t r_begin, size_t r_end, uint16_t *panels) {
    float turned[TURN * PANEL_ROWS], pairs[TURN * PANEL_ROWS];
    for (size_t r = r_begin; r < r_end; r += PANEL_ROWS)
        for (size_t n = 0, some; n < N; n += some) {
            some = smaller(N - n, TURN);
            kernels.pack_f32(some, w + r * N + n, N, smaller(R - r, PANEL_ROWS), turned);
            if (some % 2) memset(turned + some * PANEL_ROWS, 0, PANEL_ROWS * sizeof *turned);
            for (size_t i = 0; i < some; i += 2)
                interleave(turned + i * PANEL_ROWS, turned + (i + 1) * PANEL_ROWS, pairs + i * PANEL_ROWS);
            kernels.narrow_bf16(even(some) * PANEL_ROWS, pairs, panels + r * even(N) + n * PANEL_ROWS);
        }
}

/* panel[i/2][c][i%2] = x[i][c] for `valid` columns of `rows` rows. */
static void pair_rows(size_t rows, const float *x, size_t stride, size_t valid, uint16_t *panel) {
    float row[2][PANEL_ROWS] = {{0}}, pairs[2 * PANEL_ROWS];
    for (size_t i = 0; i < rows; i += 2, panel += 2 * PANEL_ROWS) {
        memcpy(row[0], x + i * stride, valid * sizeof *x);
        if (i + 1 < rows) memcpy(row[1], x + (i + 1) * stride, valid * sizeof *x);
        else memset(row[1], 0, sizeof row[1]);
        interleave(row[0], row[1], pairs);
        kernels.narrow_bf16(2 * PANEL_ROWS, pairs, panel);
    }
}

void panels_backward_bf16(size_t R, size_t N, const float *w, size_t n_begin, size_t n_end, uint16_t *panels) {
    for (size_t n = n_begin; n < n_end; n += PANEL_ROWS)
        pair_rows(R, w + n, N, smaller(N - n, PANEL_ROWS), panels + n * even(R));
}

/* y(T,R) = or += x(T,n_padded) · panels. */
static void multiply(size_t T, size_t n_padded, size_t R, const uint16_t *x, const uint16_t *panels, bool add, float *y,
                     size_t y_stride) {
    float block[ADD_TOKENS * ADD_COLUMNS];
    if (!add) {
        kernels.matmul_bf16(T, n_padded, x, n_padded, panels, NULL, y, y_stride, R);
        return;
    }
    for (size_t r = 0; r < R; r += ADD_COLUMNS)
        for (size_t t = 0; t < T; t += ADD_TOKENS) {
            size_t tokens = smaller(T - t, ADD_TOKENS), columns = smaller(R - r, ADD_COLUMNS);
            kernels.matmul_bf16(tokens, n_padded, x + t * n_padded, n_padded, panels + r * n_padded, NULL, block,
                                ADD_COLUMNS, columns);
            for (size_t i = 0; i < tokens; i++)
                kernels.add(columns, block + i * ADD_COLUMNS, y + (t + i) * y_stride + r);
        }
}

static size_t halves(size_t count) { return size_round_up(count, 32) / 2; }

size_t product_bf16_scratch(size_t T, size_t columns) { return halves(T * even(columns)); }

static const uint16_t *narrow_rows(size_t T, size_t columns, const float *x, float *scratch) {
    uint16_t *rows = (uint16_t *)(void *)scratch;
    size_t stride = even(columns);
    if (stride == columns) kernels.narrow_bf16(T * columns, x, rows);
    for (size_t t = 0; stride != columns && t < T; t++) {
        kernels.narrow_bf16(columns, x + t * columns, rows + t * stride);
        rows[t * stride + columns] = 0;
    }
    return rows;
}

void product_forward_bf16(size_t T, size_t N, size_t R, const float *x, const uint16_t *panels, const float *bias,
                          float *y, float *scratch) {
    const uint16_t *rows = narrow_rows(T, N, x, scratch);
    kernels.matmul_bf16(T, even(N), rows, even(N), panels, bias, y, R, R);
}

void product_backward_input_bf16(size_t T, size_t N, size_t R, const float *dy, const uint16_t *panels, bool add,
                                 float *dx, float *scratch) {
    multiply(T, even(R), N, narrow_rows(T, R, dy, scratch), panels, add, dx, N);
}

size_t product_weight_bf16_scratch(size_t T, size_t rows, size_t N) {
    return halves(rows * even(T)) + halves(smaller(padded(N), ADD_COLUMNS) * even(T));
}

/* turned[r][t] = dy[t][r] of a job's rows. */
static void turn_rows(size_t T, size_t rows, const float *dy, size_t stride, uint16_t *turned) {
    float panel[TURN * PANEL_ROWS];
    for (size_t t = 0; t < T; t += PANEL_ROWS)
        for (size_t r = 0, some; r < rows; r += some) {
            size_t valid = smaller(T - t, PANEL_ROWS);
            some = smaller(rows - r, TURN);
            kernels.pack_f32(some, dy + t * stride + r, stride, valid, panel);
            for (size_t i = 0; i < some; i++)
                kernels.narrow_bf16(even(valid), panel + i * PANEL_ROWS, turned + (r + i) * even(T) + t);
        }
}

void product_backward_weight_bf16(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin,
                                  size_t end, bool add, float *dw, float *dbias, float *scratch) {
    size_t rows = end - begin;
    uint16_t *turned = (uint16_t *)(void *)scratch, *panels = (uint16_t *)(void *)(scratch + halves(rows * even(T)));
    turn_rows(T, rows, dy + begin, R, turned);
    for (size_t n = 0; n < N; n += ADD_COLUMNS) {
        size_t columns = smaller(N - n, ADD_COLUMNS);
        for (size_t c = 0; c < columns; c += PANEL_ROWS)
            pair_rows(T, x + n + c, N, smaller(columns - c, PANEL_ROWS), panels + c * even(T));
        multiply(rows, even(T), columns, turned, panels, add, dw + begin * N + n, N);
    }
    if (!dbias) return;
    if (!add) memset(dbias + begin, 0, rows * sizeof *dbias);
    for (size_t t = 0; t < T; t++) kernels.add(rows, dy + t * R + begin, dbias + begin);
}
