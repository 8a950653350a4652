/* Products over panels in bf16: two steps of the sum lie side by side in panels (KERNEL_MATMUL_BF16), for the gradient
 * of a weight two tokens. Sums of odd length are padded with zeros. */
#include "train/products.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

#define ADD_TOKENS 32 /* of a product that is added: a block that stays in the first-level cache */
#define ADD_COLUMNS 64
#define TURN 64 /* columns that are turned at a time */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t padded(size_t n) { return size_round_up(n, PANEL_ROWS); }
static size_t even(size_t n) { return size_round_up(n, 2); }

size_t panels_forward_bf16_count(size_t R, size_t N) { return padded(R) * even(N); }
size_t panels_backward_bf16_count(size_t R, size_t N) { return padded(N) * even(R); }

/* 16 rows of bf16, two columns of a row side by side, are transposed as if each two were one f32. */
void panels_forward_bf16(size_t R, size_t N, const float *w, size_t r_begin, size_t r_end, uint16_t *panels) {
    _Alignas(64) uint16_t rows[PANEL_ROWS * TURN];
    for (size_t r = r_begin; r < r_end; r += PANEL_ROWS)
        for (size_t n = 0, some; n < N; n += some) {
            size_t valid = smaller(R - r, PANEL_ROWS);
            some = smaller(N - n, TURN);
            for (size_t i = 0; i < valid; i++) {
                kernels.narrow_bf16(some, w + (r + i) * N + n, rows + i * TURN);
                if (some % 2) rows[i * TURN + some] = 0;
            }
            kernels.pack_f32(even(some) / 2, (const float *)(const void *)rows, TURN / 2, valid,
                             (float *)(void *)(panels + r * even(N) + n * PANEL_ROWS));
        }
}

void panels_backward_bf16(size_t R, size_t N, const float *w, size_t n_begin, size_t n_end, uint16_t *panels) {
    for (size_t n = n_begin; n < n_end; n += PANEL_ROWS)
        kernels.pair_bf16(R, smaller(N - n, PANEL_ROWS), w + n, N, panels + n * even(R));
}

void panels_rows_bf16(size_t T, size_t N, const float *x, size_t t_begin, size_t t_end, uint16_t *panels) {
    for (size_t n = 0; n < N; n += PANEL_ROWS)
        kernels.pair_bf16(t_end - t_begin, smaller(N - n, PANEL_ROWS), x + t_begin * N + n, N,
                          panels + n * even(T) + t_begin * PANEL_ROWS);
}

/* y(T,R) = or += x(T,n_padded) · panels. */
static void multiply(size_t T, size_t n_padded, size_t R, const uint16_t *x, size_t x_stride, const uint16_t *panels,
                     bool add, float *y, size_t y_stride) {
    float block[ADD_TOKENS * ADD_COLUMNS];
    if (!add) {
        kernels.matmul_bf16(T, n_padded, x, x_stride, panels, NULL, y, y_stride, R);
        return;
    }
    for (size_t r = 0; r < R; r += ADD_COLUMNS)
        for (size_t t = 0; t < T; t += ADD_TOKENS) {
            size_t tokens = smaller(T - t, ADD_TOKENS), columns = smaller(R - r, ADD_COLUMNS);
            kernels.matmul_bf16(tokens, n_padded, x + t * x_stride, x_stride, panels + r * n_padded, NULL, block,
                                ADD_COLUMNS, columns);
            for (size_t i = 0; i < tokens; i++)
                kernels.add(columns, block + i * ADD_COLUMNS, y + (t + i) * y_stride + r);
        }
}

/* Row stride of an input of n columns. Rows at a multiple of half a kilobyte from each other would all lie in a few
 * sets of the first-level cache, so they get a line more. */
static size_t spread(size_t n) { return even(n) + (even(n) % 256 ? 0 : 32); }

/* At least what `spread` says of n columns or fewer: that falls where n leaves a multiple of 256. */
static size_t spread_most(size_t n) { return even(n) + 32; }

static size_t halves(size_t count) { return size_round_up(count, 32) / 2; }

size_t product_bf16_scratch(size_t T, size_t columns) { return halves(T * spread_most(columns)); }

static const uint16_t *narrow_rows(size_t T, size_t columns, const float *x, float *scratch) {
    uint16_t *rows = (uint16_t *)(void *)scratch;
    size_t stride = spread(columns);
    if (stride == columns) kernels.narrow_bf16(T * columns, x, rows);
    for (size_t t = 0; stride != columns && t < T; t++) {
        kernels.narrow_bf16(columns, x + t * columns, rows + t * stride);
        if (columns % 2) rows[t * stride + columns] = 0;
    }
    return rows;
}

void product_forward_bf16(size_t T, size_t N, size_t R, const float *x, const uint16_t *panels, const float *bias,
                          float *y, float *scratch) {
    const uint16_t *rows = narrow_rows(T, N, x, scratch);
    kernels.matmul_bf16(T, even(N), rows, spread(N), panels, bias, y, R, R);
}

void product_backward_input_bf16(size_t T, size_t N, size_t R, const float *dy, const uint16_t *panels, bool add,
                                 float *dx, float *scratch) {
    multiply(T, even(R), N, narrow_rows(T, R, dy, scratch), spread(R), panels, add, dx, N);
}

size_t product_turned_bf16_scratch(size_t T, size_t rows) { return halves(rows * spread_most(T)); }

size_t product_weight_bf16_scratch(size_t T, size_t rows, size_t N) {
    return product_turned_bf16_scratch(T, rows) + halves(smaller(padded(N), ADD_COLUMNS) * even(T));
}

/* turned[r][t] = dy[t][r] of a job's rows. */
static void turn_rows(size_t T, size_t rows, const float *dy, size_t stride, uint16_t *turned) {
    float panel[TURN * PANEL_ROWS];
    uint16_t narrow[TURN * PANEL_ROWS];
    for (size_t t = 0; t < T; t += PANEL_ROWS)
        for (size_t r = 0, some; r < rows; r += some) {
            size_t valid = smaller(T - t, PANEL_ROWS), count = even(valid);
            some = smaller(rows - r, TURN);
            kernels.pack_f32(some, dy + t * stride + r, stride, valid, panel);
            kernels.narrow_bf16(some * PANEL_ROWS, panel, narrow);
            uint16_t *to = turned + r * spread(T) + t;
            for (size_t i = 0; i < some; i++, to += spread(T))
                if (count == PANEL_ROWS) memcpy(to, narrow + i * PANEL_ROWS, PANEL_ROWS * sizeof *to);
                else memcpy(to, narrow + i * PANEL_ROWS, count * sizeof *to);
        }
}

static void sum_rows(size_t T, size_t R, const float *dy, size_t rows, bool add, float *dbias) {
    if (!add) memset(dbias, 0, rows * sizeof *dbias);
    for (size_t t = 0; t < T; t++) kernels.add(rows, dy + t * R, dbias);
}

void product_backward_weight_panels_bf16(size_t T, size_t N, size_t R, const uint16_t *panels, const float *dy,
                                         size_t begin, size_t end, bool add, float *dw, float *dbias, float *scratch) {
    uint16_t *turned = (uint16_t *)(void *)scratch;
    turn_rows(T, end - begin, dy + begin, R, turned);
    multiply(end - begin, even(T), N, turned, spread(T), panels, add, dw + begin * N, N);
    if (dbias) sum_rows(T, R, dy + begin, end - begin, add, dbias + begin);
}

void product_backward_weight_bf16(size_t T, size_t N, size_t R, const float *x, const float *dy, size_t begin,
                                  size_t end, bool add, float *dw, float *dbias, float *scratch) {
    size_t rows = end - begin;
    uint16_t *turned = (uint16_t *)(void *)scratch,
             *panels = (uint16_t *)(void *)(scratch + product_turned_bf16_scratch(T, rows));
    turn_rows(T, rows, dy + begin, R, turned);
    for (size_t n = 0; n < N; n += ADD_COLUMNS) {
        size_t columns = smaller(N - n, ADD_COLUMNS);
        for (size_t c = 0; c < columns; c += PANEL_ROWS)
            kernels.pair_bf16(T, smaller(columns - c, PANEL_ROWS), x + n + c, N, panels + c * even(T));
        multiply(rows, even(T), columns, turned, spread(T), panels, add, dw + begin * N + n, N);
    }
    if (dbias) sum_rows(T, R, dy + begin, rows, add, dbias + begin);
}
