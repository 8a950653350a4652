/* The low-rank update of one layer: two thin products each way, over panels as the layer's own (train/products.h).
 *
 * s scales the (T,r) arrays between the products, so that the panels are those of A and B themselves. What backward
 * keeps is (T,r); the dropped input is made again where it is needed, since the dropout is a function of the place.
 */
#include "train/adapter.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "model/layers.h"
#include "train/products.h"
#include "train/trainable.h"

#define DROP_TOKENS 32  /* tokens whose dropped input lies in scratch at once */
#define TILE_COLUMNS 64 /* columns of the dropped input likewise; product_backward_weight takes as many at a time */
#define TILE_ROWS 128   /* rows of dy that one product turns */
#define MERGE_ROWS 16   /* rows that one thread merges at a time */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* ---- storage ------------------------------------------------------------------------------------------ */

static int take_floats(struct arena *arena, float **floats, size_t count) {
    void *view;
    int status = arena_take(arena, &view, count, sizeof(float));
    if (status == 0) *floats = view;
    return status;
}

static int take_name(struct arena *arena, const char *name, const char *ending, const char **copy) {
    int status = 0;
    void *view;
    size_t length = strlen(name), extra = strlen(ending) + 1;
    TRY(arena_take(arena, &view, length + extra, 1));
    memcpy(view, name, length);
    memcpy((char *)view + length, ending, extra);
    *copy = view;
out:
    return status;
}

int adapter_open(struct adapter *adapter, const char *name, size_t R, size_t N, const struct adapter_plan *plan) {
    int status = 0;
    size_t r = plan->rank, bytes = 0;
    size_t counts[] = {r * N,
                       R * r,
                       r * N,
                       R * r,
                       panels_forward_floats(r, N),
                       panels_forward_floats(R, r),
                       panels_backward_floats(R, r),
                       panels_backward_floats(r, N)};
    float **floats[] = {&adapter->a,    &adapter->b,  &adapter->da,      &adapter->db,
                        &adapter->down, &adapter->up, &adapter->up_back, &adapter->down_back};
    const size_t arrays = sizeof counts / sizeof *counts;

    *adapter = (struct adapter){.rows = R, .columns = N, .rank = r, .dropout = plan->dropout, .seed = plan->seed};
    if (r < 1 || r > smaller(R, N))
        FAIL(E_ARGUMENT, "%s: the rank must be 1 to %zu, the smaller of its sides (got %zu)", name, smaller(R, N), r);
    adapter->scale = (float)(plan->alpha / (plan->rank_stabilized ? sqrt((double)r) : (double)r));
    adapter->site = random_stream(name, 0, 0);
    for (size_t i = 0; i < arrays; i++) bytes += size_round_up(counts[i] * sizeof(float), MEMORY_ALIGN);
    bytes += 2 * size_round_up(strlen(name) + sizeof ".lora_A", MEMORY_ALIGN);
    TRY(arena_open(&adapter->arena, bytes));
    for (size_t i = 0; i < arrays; i++) TRY(take_floats(&adapter->arena, floats[i], counts[i]));
    TRY(take_name(&adapter->arena, name, ".lora_A", &adapter->a_name));
    TRY(take_name(&adapter->arena, name, ".lora_B", &adapter->b_name));
    struct random random;
    random_open(&random, plan->seed, random_stream("adapter", adapter->site, 0));
    double bound = 1.0 / sqrt((double)N);
    for (size_t i = 0; i < r * N; i++) adapter->a[i] = (float)(bound * (2 * random_uniform(&random) - 1));
out:
    if (status < 0) adapter_close(adapter);
    return status;
}

void adapter_close(struct adapter *adapter) {
    arena_close(&adapter->arena);
    memory_release(adapter->hidden);
    *adapter = (struct adapter){0};
}

void adapter_trainables(const struct adapter *adapter, struct trainable *items) {
    size_t r = adapter->rank;
    items[0] = (struct trainable){.name = adapter->a_name,
                                  .value = adapter->a,
                                  .gradient = adapter->da,
                                  .rows = r,
                                  .columns = adapter->columns,
                                  .decay = true};
    items[1] = (struct trainable){.name = adapter->b_name,
                                  .value = adapter->b,
                                  .gradient = adapter->db,
                                  .rows = adapter->rows,
                                  .columns = r,
                                  .decay = true};
}

int adapter_reserve(struct adapter *adapter, size_t tokens) {
    int status = 0;
    void *block;
    if (tokens <= adapter->tokens) goto out;
    TRY(memory_take_raw(&block, 2 * adapter->rank * tokens, sizeof(float)));
    memory_release(adapter->hidden);
    adapter->hidden = block;
    adapter->dhidden = adapter->hidden + adapter->rank * tokens;
    adapter->tokens = tokens;
out:
    return status;
}

/* ---- merging ------------------------------------------------------------------------------------------ */

struct merge {
    const struct adapter *adapter;
    float *w;
};

static void merge_rows(void *context, size_t begin, size_t end, int worker) {
    const struct merge *merge = context;
    const struct adapter *adapter = merge->adapter;
    size_t N = adapter->columns, r = adapter->rank;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        for (size_t n = 0; n < N; n += TILE_COLUMNS) {
            size_t width = smaller(N - n, TILE_COLUMNS);
            float sum[TILE_COLUMNS] = {0}, *row = merge->w + i * N + n;
            for (size_t k = 0; k < r; k++)
                for (size_t j = 0; j < width; j++) sum[j] += adapter->b[i * r + k] * adapter->a[k * N + n + j];
            for (size_t j = 0; j < width; j++) row[j] += adapter->scale * sum[j];
        }
}

void adapter_merge(const struct adapter *adapter, float *w) {
    struct merge merge = {adapter, w};
    parallel_for(adapter->rows, MERGE_ROWS, merge_rows, &merge);
}

/* ---- the pass ----------------------------------------------------------------------------------------- */

static uint16_t *as_bf16(float *panels) { return (uint16_t *)(void *)panels; }

void adapter_prepare(struct adapter *adapter, uint64_t step, size_t first_token, bool bf16) {
    size_t R = adapter->rows, N = adapter->columns, r = adapter->rank;
    adapter->bf16 = bf16;
    adapter->first_token = first_token;
    adapter->stream = random_stream("adapter dropout", adapter->site, step);
    if (bf16) {
        panels_forward_bf16(r, N, adapter->a, 0, r, as_bf16(adapter->down));
        panels_forward_bf16(R, r, adapter->b, 0, R, as_bf16(adapter->up));
        panels_backward_bf16(R, r, adapter->b, 0, r, as_bf16(adapter->up_back));
        panels_backward_bf16(r, N, adapter->a, 0, N, as_bf16(adapter->down_back));
    } else {
        panels_forward(r, N, adapter->a, 0, r, adapter->down);
        panels_forward(R, r, adapter->b, 0, R, adapter->up);
        panels_backward(R, r, adapter->b, 0, r, adapter->up_back);
        panels_backward(r, N, adapter->a, 0, N, adapter->down_back);
    }
}

/* Scratch of the dropped input of DROP_TOKENS tokens, and of one row's record of what was kept. */
static size_t drop_scratch(const struct adapter *adapter, size_t T) {
    if (adapter->dropout <= 0) return 0;
    return smaller(T, DROP_TOKENS) * adapter->columns + (adapter->columns + sizeof(float) - 1) / sizeof(float);
}

size_t adapter_scratch(const struct adapter *adapter, size_t T) {
    size_t R = adapter->rows, N = adapter->columns, r = adapter->rank, rows = smaller(R, TILE_ROWS);
    size_t tokens = drop_scratch(adapter, T) + product_bf16_scratch(T, larger(larger(R, N), r));
    size_t inputs = larger(product_weight_scratch(T, r, N), product_weight_bf16_scratch(T, r, N));
    size_t outputs = larger(product_weight_scratch(T, rows, r), product_weight_bf16_scratch(T, rows, r));
    if (adapter->dropout > 0) inputs += (T + r + 1) * TILE_COLUMNS;
    return larger(tokens, larger(inputs, outputs));
}

/* y(T,to) = x(T,from) times panels, added when `add`. The layout of panels is the same both ways, so one product serves
 * all four. */
static void multiply(const struct adapter *adapter, size_t T, size_t from, size_t to, const float *x, float *panels,
                     bool add, float *y, float *scratch) {
    if (adapter->bf16) product_backward_input_bf16(T, to, from, x, as_bf16(panels), add, y, scratch);
    else product_backward_input(T, to, from, x, panels, add, y);
}

static void scale_rows(size_t count, float scale, float *x) {
    for (size_t i = 0; i < count; i++) x[i] *= scale;
}

/* Dropout of columns n..n+width-1 of one token's row, in place. It is linear in the row, so it serves gradients too. */
static void drop_row(const struct adapter *adapter, size_t token, size_t n, size_t width, float *row, uint8_t *keep) {
    size_t stride = size_round_up(adapter->columns, 8);
    dropout_forward(adapter->seed, adapter->stream, (adapter->first_token + token) * stride + n, width,
                    adapter->dropout, row, keep);
}

void adapter_forward(const struct adapter *adapter, size_t first, size_t T, const float *x, float *y, float *scratch) {
    size_t R = adapter->rows, N = adapter->columns, r = adapter->rank;
    float *hidden = adapter->hidden + first * r, *rest = scratch + drop_scratch(adapter, T);
    if (adapter->dropout > 0) {
        uint8_t *keep = (uint8_t *)(scratch + smaller(T, DROP_TOKENS) * N);
        for (size_t t = 0; t < T; t += DROP_TOKENS) {
            size_t tokens = smaller(T - t, DROP_TOKENS);
            memcpy(scratch, x + t * N, tokens * N * sizeof *scratch);
            for (size_t i = 0; i < tokens; i++) drop_row(adapter, first + t + i, 0, N, scratch + i * N, keep);
            multiply(adapter, tokens, N, r, scratch, adapter->down, false, hidden + t * r, rest);
        }
    } else multiply(adapter, T, N, r, x, adapter->down, false, hidden, rest);
    scale_rows(T * r, adapter->scale, hidden);
    multiply(adapter, T, r, R, hidden, adapter->up, true, y, rest);
}

void adapter_backward(const struct adapter *adapter, size_t first, size_t T, const float *dy, float *dx,
                      float *scratch) {
    size_t R = adapter->rows, N = adapter->columns, r = adapter->rank;
    float *dhidden = adapter->dhidden + first * r, *rest = scratch + drop_scratch(adapter, T);
    multiply(adapter, T, R, r, dy, adapter->up_back, false, dhidden, rest);
    scale_rows(T * r, adapter->scale, dhidden);
    if (adapter->dropout <= 0) {
        multiply(adapter, T, r, N, dhidden, adapter->down_back, true, dx, rest);
        return;
    }
    uint8_t *keep = (uint8_t *)(scratch + smaller(T, DROP_TOKENS) * N);
    for (size_t t = 0; t < T; t += DROP_TOKENS) {
        size_t tokens = smaller(T - t, DROP_TOKENS);
        multiply(adapter, tokens, r, N, dhidden + t * r, adapter->down_back, false, scratch, rest);
        for (size_t i = 0; i < tokens; i++) {
            drop_row(adapter, first + t + i, 0, N, scratch + i * N, keep);
            for (size_t n = 0; n < N; n++) dx[(t + i) * N + n] += scratch[i * N + n];
        }
    }
}

/* Rows begin..end-1 of dw(R,N) from x(T,N), dy(T,R). */
static void weight_product(const struct adapter *adapter, size_t T, size_t N, size_t R, const float *x, const float *dy,
                           size_t begin, size_t end, bool add, float *dw, float *scratch) {
    if (adapter->bf16) product_backward_weight_bf16(T, N, R, x, dy, begin, end, add, dw, NULL, scratch);
    else product_backward_weight(T, N, R, x, dy, begin, end, add, dw, NULL, scratch);
}

/* da from the dropped input, a tile of columns at a time. */
static void dropped_gradient(const struct adapter *adapter, size_t T, const float *x, bool add, float *scratch) {
    size_t N = adapter->columns, r = adapter->rank;
    float *tile = scratch, *sum = tile + T * TILE_COLUMNS, *rest = sum + (r + 1) * TILE_COLUMNS;
    uint8_t *keep = (uint8_t *)(sum + r * TILE_COLUMNS);
    for (size_t n = 0; n < N; n += TILE_COLUMNS) {
        size_t width = smaller(N - n, TILE_COLUMNS);
        for (size_t t = 0; t < T; t++) {
            memcpy(tile + t * width, x + t * N + n, width * sizeof *tile);
            drop_row(adapter, t, n, width, tile + t * width, keep);
        }
        weight_product(adapter, T, width, r, tile, adapter->dhidden, 0, r, false, sum, rest);
        for (size_t k = 0; k < r; k++)
            for (size_t j = 0; j < width; j++) {
                float *to = adapter->da + k * N + n + j;
                *to = add ? *to + sum[k * width + j] : sum[k * width + j];
            }
    }
}

void adapter_gradient(const struct adapter *adapter, size_t job, size_t T, const float *x, const float *dy, bool add,
                      float *scratch) {
    size_t R = adapter->rows, N = adapter->columns, r = adapter->rank;
    if (job == 0 && adapter->dropout > 0) dropped_gradient(adapter, T, x, add, scratch);
    else if (job == 0) weight_product(adapter, T, N, r, x, adapter->dhidden, 0, r, add, adapter->da, scratch);
    else
        for (size_t begin = 0; begin < R; begin += TILE_ROWS)
            weight_product(adapter, T, r, R, adapter->hidden, dy, begin, smaller(begin + TILE_ROWS, R), add,
                           adapter->db, scratch);
}
