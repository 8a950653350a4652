/* bf16 and int8 matrix multiplication with AMX, the tile unit of Sapphire Rapids and later (Intel SDM volume 1, chapter
 * "Programming with Intel AMX").
 *
 * A tile is 16 rows of 64 bytes. 16 tokens by 64 bytes of columns (32 bf16, 64 int8) are one, read with the stride of
 * the activations; 1024 bytes of a panel are one of weights, as they lie; the sums of 16 tokens by a panel are one. One
 * instruction multiplies two of them in 16 cycles. 32 tokens by 2 panels keep 4 tiles of sums: 4 tiles are loaded, in 8
 * cycles each, for 4 multiplications. Up to 16 tokens take 4 panels: 5 loads for 4.
 *
 * A bf16 output is summed in steps of 32 columns from column 0 on: the products of the even and of the odd columns are
 * chains of their own that start at 0, then both are added to the sum (SDM, TDPBF16PS). All numbers of tokens go
 * through tiles, so the order depends on N alone. What is left of the columns is multiplied from copies that end in
 * zeros, what is left of the tokens in tiles with fewer rows: their shapes are loaded once per call for all blocks of
 * 32 tokens and once for the rest, and released at the end, so that nothing of them is saved while the thread does
 * other work. The float arithmetic of int8 is that of kernels_c.c, one rounding per operation. */
#if defined(__x86_64__) || defined(EMULATE_AMX)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#include <stdbool.h>
#include <string.h>
#if !defined(EMULATE_AMX)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE_ROWS 16
#define ROW_BYTES 64
#define TILE_BYTES (TILE_ROWS * ROW_BYTES)

/* What ldtilecfg reads: palette 1 has 8 tiles. */
struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define SUMS 4 /* tiles of them */

/* 16 lanes, the row of a tile of sums. */
typedef float floats_amx __attribute__((vector_size(ROW_BYTES)));
typedef uint32_t words_amx __attribute__((vector_size(ROW_BYTES)));
typedef int32_t integers_amx __attribute__((vector_size(ROW_BYTES)));

/* Where the sums of a block belong: everything begins with its first token and row. */
struct tile_target {
    const float *scale_x, *scale_w, *bias; /* scales: int8 alone */
    struct zero_points zeros;              /* int8 */
    float *y;
    size_t tokens, left; /* rows from the first one on */
};

/* The operands, in bytes. */
struct tile_product {
    size_t row_bytes, x_stride, panel_bytes, whole, rest; /* row_bytes = whole + rest; whole in steps of 64 */
    size_t y_stride;
    struct tile_target block, before; /* the one that is multiplied; the one whose sums wait, tokens 0: none does */
    size_t before_panels, turn;       /* panels of the latter; which sums are the former's */
    const uint8_t *fetch;             /* what to fetch next, and how many lines per step */
    size_t fetch_lines;
    _Alignas(ROW_BYTES) uint8_t tail_x[2][TILE_ROWS][ROW_BYTES], tail_w[4][TILE_BYTES];
    _Alignas(ROW_BYTES) uint8_t sums[2][SUMS * TILE_BYTES]; /* token by token */
};

/* gcc's tile intrinsics do not say that they read memory. What was written for them must be there before. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

/* Tiles 0 to 3 are sums, 4 the first 16 tokens. With more than 16 tokens, 5 is the others and 6, 7 are weights: sums
 * 0, 1 belong to the first tokens, 2, 3 to the others. Else 5, 6, 7 are weights and there is a sum for each of 4
 * panels. */
static void tiles_shape(size_t tokens) {
    struct tile_shapes shapes = {.palette = 1};
    uint8_t first = (uint8_t)(tokens < TILE_ROWS ? tokens : TILE_ROWS), second = (uint8_t)(tokens - first);
    for (size_t i = 0; i < 8; i++) {
        shapes.row_bytes[i] = ROW_BYTES;
        shapes.rows[i] = i < 5 ? first : TILE_ROWS;
    }
    if (second) shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = second;
    written();
    _tile_loadconfig(&shapes);
}

/* Tile numbers are part of the instruction. */
#define MULTIPLY(sum, x, w)                                                                                            \
    do {                                                                                                               \
        if (bf16) _tile_dpbf16ps(sum, x, w);                                                                           \
        else _tile_dpbssd(sum, x, w);                                                                                  \
    } while (0)

/* Add the products of one step: tokens at x (and the others at x_second), panels at w. */
INLINE void tiles_step(const bool bf16, const size_t halves, const size_t panels, const uint8_t *x,
                       const uint8_t *x_second, size_t x_stride, const uint8_t *w, size_t panel_bytes) {
    _tile_loadd(4, x, x_stride);
    if (halves == 2) {
        _tile_loadd(6, w, ROW_BYTES);
        MULTIPLY(0, 4, 6);
        _tile_loadd(5, x_second, x_stride);
        MULTIPLY(2, 5, 6);
        if (panels == 1) return;
        _tile_loadd(7, w + panel_bytes, ROW_BYTES);
        MULTIPLY(1, 4, 7);
        MULTIPLY(3, 5, 7);
        return;
    }
    _tile_loadd(5, w, ROW_BYTES);
    MULTIPLY(0, 4, 5);
    if (panels == 1) return;
    _tile_loadd(6, w + panel_bytes, ROW_BYTES);
    MULTIPLY(1, 4, 6);
    if (panels == 2) return;
    _tile_loadd(7, w + 2 * panel_bytes, ROW_BYTES);
    MULTIPLY(2, 4, 7);
    if (panels == 3) return;
    _tile_loadd(5, w + 3 * panel_bytes, ROW_BYTES);
    MULTIPLY(3, 4, 5);
}

INLINE floats_amx floats_at(const float *place) {
    floats_amx value;
    memcpy(&value, place, sizeof value);
    return value;
}
INLINE words_amx words_at(const void *place) {
    words_amx value;
    memcpy(&value, place, sizeof value);
    return value;
}

/* Write the results of tokens begin..end-1 of the block that waits, `count` rows from row r of a panel on: 16, or what
 * the last panel has. What zero points take off is taken modulo 2^32: what is left fits. */
INLINE void finish_panel(const bool bf16, const bool zeros, const size_t width, const struct tile_product *c,
                         const struct tile_target *before, size_t begin, size_t end, size_t r, const size_t count) {
    const uint8_t *sum = c->sums[1 - c->turn] + (begin * width + r / PANEL_ROWS) * ROW_BYTES;
    float *y = before->y + begin * c->y_stride + r;
    const float *scale_x = before->scale_x;
    floats_amx scale_w = {0}, bias = {0};
    if (!bf16) scale_w = floats_at(before->scale_w + r);
    if (before->bias) memcpy(&bias, before->bias + r, count * sizeof *y);
    for (size_t t = begin; t < end; t++, sum += width * ROW_BYTES, y += c->y_stride) {
        floats_amx value;
        if (bf16) {
            memcpy(&value, sum, sizeof value);
        } else {
            words_amx codes = words_at(sum);
            if (zeros && before->zeros.x) codes -= (uint32_t)before->zeros.x[t] * words_at(before->zeros.row_sum + r);
            if (zeros && before->zeros.w) codes -= (uint32_t)before->zeros.x_sum[t] * words_at(before->zeros.w + r);
            value = (scale_x[t] * scale_w) * __builtin_convertvector((integers_amx)codes, floats_amx);
        }
        if (before->bias) value += bias;
        memcpy(y, &value, count * sizeof *y);
    }
}

/* The same of all its panels, which are whole. */
INLINE void finish_tokens(const bool bf16, const size_t width, const size_t panels, const struct tile_product *c,
                          const struct tile_target *before, size_t begin, size_t end) {
    for (size_t r = 0; r < panels * PANEL_ROWS; r += PANEL_ROWS)
        if (!bf16 && (before->zeros.x || before->zeros.w))
            finish_panel(bf16, true, width, c, before, begin, end, r, PANEL_ROWS);
        else finish_panel(bf16, false, width, c, before, begin, end, r, PANEL_ROWS);
}

/* All of the block that waits, if one does. */
static void finish_before(const bool bf16, struct tile_product *c) {
    const size_t width = c->before.tokens > TILE_ROWS ? 2 : 4;
    for (size_t r = 0; c->before.tokens && r < c->before_panels * PANEL_ROWS; r += PANEL_ROWS) {
        size_t left = c->before.left - r;
        finish_panel(bf16, true, width, c, &c->before, 0, c->before.tokens, r, left < PANEL_ROWS ? left : PANEL_ROWS);
    }
    c->before.tokens = 0;
}

INLINE void target_skip_panels(struct tile_target *block, size_t panels) {
    block->y += panels * PANEL_ROWS;
    block->left -= panels * PANEL_ROWS;
    if (block->scale_w) block->scale_w += panels * PANEL_ROWS;
    if (block->bias) block->bias += panels * PANEL_ROWS;
    if (block->zeros.x) block->zeros.row_sum += panels * PANEL_ROWS;
    if (block->zeros.w) block->zeros.w += panels * PANEL_ROWS;
}

INLINE void target_skip_tokens(struct tile_target *block, size_t tokens, size_t y_stride) {
    block->y += tokens * y_stride;
    if (block->scale_x) block->scale_x += tokens;
    if (block->zeros.x) block->zeros.x += tokens;
    if (block->zeros.w) block->zeros.x_sum += tokens;
}

/* Bring the next lines of what follows in memory into the second-level cache. */
INLINE void fetch_lines(struct tile_product *c) {
    for (size_t line = 0; line < c->fetch_lines; line++, c->fetch += ROW_BYTES) __builtin_prefetch(c->fetch, 0, 2);
}

/* The tokens of a block by up to 2 (halves 2) or 4 panels. Tiles are multiplied beside everything else, so between its
 * steps the sums of the block before, if it was as large, are finished. */
INLINE void tiles_block(const bool bf16, const size_t halves, const size_t panels, struct tile_product *c,
                        const uint8_t *x, const uint8_t *w) {
    const size_t width = SUMS / halves, x_stride = c->x_stride, panel_bytes = c->panel_bytes;
    const uint8_t *second = x + TILE_ROWS * x_stride, *const end = x + c->whole, *const rest = w + c->whole * TILE_ROWS;
    size_t waiting = c->before.tokens, done = 0, share = (waiting * ROW_BYTES + c->whole - 1) / (c->whole | 1);
    if (c->before_panels != panels || waiting != c->block.tokens || c->before.left < panels * PANEL_ROWS) {
        finish_before(bf16, c);
        waiting = 0;
    }
    const struct tile_target before = c->before;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; x < end; x += ROW_BYTES, second += ROW_BYTES, w += TILE_BYTES) {
        tiles_step(bf16, halves, panels, x, second, x_stride, w, panel_bytes);
        fetch_lines(c);
        size_t some = waiting - done < share ? waiting - done : share;
        if (some) finish_tokens(bf16, width, panels, c, &before, done, done + some);
        done += some;
    }
    if (done < waiting) finish_tokens(bf16, width, panels, c, &before, done, waiting);
    if (c->rest) {
        for (size_t p = 0; p < panels; p++) memcpy(c->tail_w[p], rest + p * panel_bytes, c->rest * TILE_ROWS);
        written();
        tiles_step(bf16, halves, panels, c->tail_x[0][0], c->tail_x[1][0], ROW_BYTES, c->tail_w[0], TILE_BYTES);
    }
    /* Whole panels of plain sums need no second look. */
    bool direct = bf16 && !c->block.bias && c->block.left >= panels * PANEL_ROWS;
    size_t stride = direct ? c->y_stride * sizeof(float) : width * ROW_BYTES;
    uint8_t *place = direct ? (uint8_t *)c->block.y : c->sums[c->turn];
#define PLACE(i) (place + (i) / width * TILE_ROWS * stride + (i) % width * ROW_BYTES)
    _tile_stored(0, PLACE(0), stride);
    if (panels > 1) _tile_stored(1, PLACE(1), stride);
    if (halves == 2 || panels > 2) _tile_stored(2, PLACE(2), stride);
    if (halves == 2 ? panels > 1 : panels > 3) _tile_stored(3, PLACE(3), stride);
#undef PLACE
    c->before.tokens = 0;
    if (direct) return;
    c->before = c->block;
    c->before_panels = panels;
    c->turn = 1 - c->turn;
}

/* Panels that one block takes at a time. */
INLINE size_t panels_at_once(size_t tokens, size_t left) {
    size_t panels = (left + PANEL_ROWS - 1) / PANEL_ROWS, most = tokens > TILE_ROWS ? 2 : 4;
    return panels < most ? panels : most;
}

INLINE void tiles_any(const bool bf16, struct tile_product *c, const uint8_t *x, const uint8_t *w) {
    size_t panels = panels_at_once(c->block.tokens, c->block.left);
    for (size_t t = 0; c->rest && t < c->block.tokens; t++)
        memcpy(c->tail_x[t / TILE_ROWS][t % TILE_ROWS], x + t * c->x_stride + c->whole, c->rest);
    if (c->block.tokens > TILE_ROWS) {
        if (panels == 2) tiles_block(bf16, 2, 2, c, x, w);
        else tiles_block(bf16, 2, 1, c, x, w);
        return;
    }
    switch (panels) {
    case 1: tiles_block(bf16, 1, 1, c, x, w); break;
    case 2: tiles_block(bf16, 1, 2, c, x, w); break;
    case 3: tiles_block(bf16, 1, 3, c, x, w); break;
    default: tiles_block(bf16, 1, 4, c, x, w); break;
    }
}

/* The tokens of `first` and as many again, `blocks` times, by its rows. A few panels meet all tokens before the next
 * ones do, which meanwhile come from memory: each block fetches its share of them. */
INLINE void tiles_blocks(const bool bf16, struct tile_product *c, struct tile_target first, size_t blocks,
                         const uint8_t *x, const uint8_t *w) {
    size_t tokens = first.tokens, panels = panels_at_once(tokens, first.left), steps = c->whole / ROW_BYTES;
    tiles_shape(tokens);
    c->fetch_lines = steps ? (panels * c->panel_bytes / ROW_BYTES + steps * blocks - 1) / (steps * blocks) : 0;
    for (;;) {
        panels = panels_at_once(tokens, first.left);
        c->fetch = w + panels * c->panel_bytes;
        for (size_t i = 0; i < blocks; i++) {
            c->block = first;
            target_skip_tokens(&c->block, i * tokens, c->y_stride);
            tiles_any(bf16, c, x + i * tokens * c->x_stride, w);
        }
        if (first.left <= panels * PANEL_ROWS) break;
        target_skip_panels(&first, panels);
        w += panels * c->panel_bytes;
    }
}

INLINE void tiles_multiply(const bool bf16, size_t T, size_t row_bytes, const uint8_t *x, size_t x_stride,
                           const float *scale_x, const uint8_t *panels, const float *scale_w,
                           const struct zero_points *zeros, const float *bias, float *y, size_t y_stride, size_t rows) {
    struct tile_product c;
    struct tile_target target = {.scale_x = scale_x, .scale_w = scale_w, .bias = bias, .y = y, .left = rows};
    size_t blocks = T / (2 * TILE_ROWS), whole = blocks * 2 * TILE_ROWS;
    if (zeros) target.zeros = *zeros;
    c.x_stride = x_stride;
    c.panel_bytes = row_bytes * PANEL_ROWS;
    c.rest = row_bytes % ROW_BYTES;
    c.whole = row_bytes - c.rest;
    c.y_stride = y_stride;
    c.before.tokens = c.before_panels = c.turn = 0;
    if (c.rest) {
        memset(c.tail_x, 0, sizeof c.tail_x);
        memset(c.tail_w, 0, sizeof c.tail_w);
    }
    target.tokens = 2 * TILE_ROWS;
    if (blocks) tiles_blocks(bf16, &c, target, blocks, x, panels);
    target.tokens = T - whole;
    target_skip_tokens(&target, whole, y_stride);
    if (target.tokens) tiles_blocks(bf16, &c, target, 1, x + whole * x_stride, panels);
    finish_before(bf16, &c);
    _tile_release();
}

KERNEL_MATMUL_BF16(matmul_bf16_amx) {
    tiles_multiply(true, T, n_padded * sizeof *x, (const uint8_t *)x, x_stride * sizeof *x, NULL,
                   (const uint8_t *)weights, NULL, NULL, bias, y, y_stride, rows);
}

KERNEL_MATMUL_S8(matmul_s8_amx) {
    (void)row_negative, (void)row_total;
    tiles_multiply(false, T, n_padded, (const uint8_t *)q, n_padded, scale_x, (const uint8_t *)panels, scale_w, zeros,
                   bias, y, y_stride, rows);
}
#undef MULTIPLY
#undef INLINE
#else
typedef int empty_translation_unit;
#endif
