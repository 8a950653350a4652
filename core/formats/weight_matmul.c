/* Multiplication of weights on all threads.
 *
 * A product is cut into tiles, a block of tokens by a few panels of 16 rows, over all matrices that share the input,
 * handed to parallel_for block by block. Blocks are chosen so that their activations stay in a second-level cache
 * while panels stream past; panels per tile so that a tile is worth handing out and the threads end together. Since
 * the kernels sum every output in an order that depends on N alone, neither tiles nor threads can be seen in the
 * result. Integer formats quantize the input once, before the tiles; bf16 rounds it.
 *
 * An epilogue follows while data is hot: activations on each tile, whole rows once a block's last tile is done, by the
 * thread that did it and by those that find no tile left to begin, so that a norm needs no parallel region of its own.
 * The next product's input is converted there as well, into one of two places that take turns: the other holds this
 * product's. */
#include "formats/weight.h"

#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "formats/onednn.h"
#include "formats/weight_input.h"
#include "kernels/kernels.h"

#define INPUT_BYTES (256u << 10) /* activations of a token block; a second-level cache holds 512 KiB and up */
#define BLOCK_TOKENS 96          /* a block is no larger, so that threads share the whole-row work at its end */
#define TILE_LEAST (64u << 10)   /* multiply-adds: about a microsecond, ten times the cost of handing out a tile */
#define TILE_MOST (5u << 18)     /* some 25 microseconds: what a thread may wait for the last one */
#define TILES_STEP 32            /* tokens of a tile in a CPU's tile unit, */
#define TILES_BLOCK 64           /* a block of theirs: fewer read each weight more often, more were slower, */
#define TILES_FASTER 8           /* and how many times faster it is, as 8-bit products with VNNI nearly are */
#define ROWS_GRAIN 8             /* tokens of whole-row work that a thread takes at a time */
#define ROWS_WAIT 1000           /* pauses, some 50 microseconds: how long a thread waits for such work */
#define SERIAL_MULTIPLY_ADDS (128u << 10) /* below this, waking another thread costs more than it saves */
#define SHARED_MOST 8                     /* matrices per product */
#define LIBRARY_TOKENS 8                  /* fewer are ours, also where a library multiplies codes */

/* One matrix's part of a product: its input, and how its panels are cut. */
struct part {
    const struct weight *weight;
    const float *bias;
    float *y;
    struct weight_input input;
    struct input_plan plan;                      /* how the input is converted */
    size_t panels, tile_panels, tiles, tile_end; /* tiles per block of tokens; where they end in the block */
};

/* An input converted ahead: what for, and where, in front of the converted rows. */
struct ready {
    struct input_plan plan;
    struct weight_input input;
};

struct product {
    struct part parts[SHARED_MOST];
    size_t count, T, N;
    const float *x;
    size_t block_tokens, blocks, block_tiles;
    const struct weight_epilogue *epilogue; /* NULL: none */
    bool gated;                             /* the tiles of part 0 cover part 1 as well */
    bool dealt;                             /* each thread has one tile of every part, and takes them in turn */
    int32_t *left, *begun;                  /* [blocks] tiles not done yet, tokens whose whole-row work was begun;
                                               NULL: there is none */
    struct ready *next;                     /* to be converted block by block; NULL: nothing */
};

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

/* ---- cutting ---- */

static bool by_tiles(const struct part *part) {
    return (kernels.flags & part->weight->format->execution->tiles_flag) != 0;
}

static void cut_tokens(struct product *product) {
    size_t token_bytes = product->N * sizeof(float), most = INPUT_BYTES / token_bytes, step = 1;
    most = smaller(most < 12 ? 12 : most, BLOCK_TOKENS);
    for (size_t i = 0; i < product->count; i++)
        if (by_tiles(&product->parts[i])) step = TILES_STEP, most = TILES_BLOCK;
    product->blocks = divide_up(product->T, most);
    product->block_tokens = size_round_up(divide_up(product->T, product->blocks), step);
    product->blocks = divide_up(product->T, product->block_tokens);
}

/* Panels per tile: among the multiples of 2 or 4 that kernels like, the one whose tiles end soonest on the threads at
 * hand, the larger of equals. */
static void cut_panels(const struct product *product, struct part *part) {
    size_t tokens = smaller(product->T, product->block_tokens), threads = (size_t)threads_get();
    size_t panel_adds = tokens * 16 * product->N, step = tokens > 2 ? 4 : 2, best = SIZE_MAX;
    if (by_tiles(part) || (part->plan.group && kernels.flags & CPU_AVX512VNNI))
        panel_adds =
            divide_up(panel_adds, smaller(tokens, TILES_FASTER)); /* of few, reading the weights takes longer */
    size_t least = divide_up(TILE_LEAST, panel_adds * product->count);
    least = smaller(size_round_up(least, step), size_round_up(part->panels, step));
    size_t most = TILE_MOST / panel_adds / step * step;
    /* OpenBLAS packs its operands in every call, so its tiles are larger: 128 rows. */
    if (part->weight->backend == GEMM_OPENBLAS && part->weight->format == &format_f32 && least < 8) least = 8;
    for (size_t width = least; width == least || width <= smaller(most, part->panels); width += step) {
        size_t rounds = divide_up(divide_up(part->panels, width) * product->blocks, threads);
        if (rounds * width > best) continue;
        best = rounds * width;
        part->tile_panels = width;
    }
    part->tiles = divide_up(part->panels, part->tile_panels);
}

/* ---- one tile ---- */

static void activate(enum weight_activation activation, float *y, size_t count) {
    switch (activation) {
    case WEIGHT_GELU: kernels.gelu(count, y, y); break;
    case WEIGHT_GELU_TANH: kernels.gelu_tanh(count, y, y); break;
    case WEIGHT_RELU:
        for (size_t i = 0; i < count; i++) y[i] = y[i] > 0 ? y[i] : 0;
        break;
    case WEIGHT_PLAIN:
    case WEIGHT_SILU_GATE: break;
    }
}

/* Tokens and rows of a product's result get their activation. */
static void activate_tile(const struct product *product, const struct part *part, size_t t_begin, size_t t_end,
                          size_t r_begin, size_t r_end) {
    enum weight_activation activation = product->epilogue->activation;
    size_t R = part->weight->shape.rows;
    if (activation == WEIGHT_PLAIN) return;
    for (size_t t = t_begin; t < t_end; t++) {
        float *y = part->y + t * R + r_begin;
        if (product->gated)
            kernels.silu_gate(r_end - r_begin, y, product->parts[1].y + t * R + r_begin,
                              product->parts[1].y + t * R + r_begin);
        else activate(activation, y, r_end - r_begin);
    }
}

static void multiply_tile(const struct product *product, size_t block, size_t tile) {
    const struct part *part = product->parts;
    if (product->dealt) part += tile % product->count;
    else
        while (tile >= part->tile_end) part++;
    size_t slice = product->dealt ? tile / product->count : tile - (part->tile_end - part->tiles);
    size_t R = part->weight->shape.rows;
    size_t t_begin = block * product->block_tokens, t_end = smaller(t_begin + product->block_tokens, product->T);
    size_t p_begin = slice * part->tile_panels, p_end = smaller(p_begin + part->tile_panels, part->panels);
    for (const struct part *each = part; each <= part + product->gated; each++)
        each->weight->format->execution->multiply(each->weight, &each->input, t_begin, t_end, p_begin, p_end,
                                                  each->bias, each->y);
    if (product->epilogue) activate_tile(product, part, t_begin, t_end, p_begin * 16, smaller(p_end * 16, R));
}

/* All outputs of tokens begin..end-1 are there. */
static void finish_rows(const struct product *product, size_t begin, size_t end) {
    const struct weight_epilogue *epilogue = product->epilogue;
    if (epilogue->rows) epilogue->rows(epilogue->context, begin, end);
    if (product->next)
        input_convert_rows(&product->next->plan, epilogue->next->shape.columns, epilogue->next_x, begin, end,
                           &product->next->input);
}

/* All outputs of a block are there; other threads may be at its rows as well. */
static void finish_block(const struct product *product, size_t block) {
    size_t begin = block * product->block_tokens, end = smaller(begin + product->block_tokens, product->T);
    for (;;) {
        size_t first = begin + (size_t)__atomic_fetch_add(&product->begun[block], ROWS_GRAIN, __ATOMIC_RELAXED);
        if (first >= end) return;
        finish_rows(product, first, smaller(first + ROWS_GRAIN, end));
    }
}

static void multiply_tiles(void *context, size_t begin, size_t end, int worker) {
    const struct product *product = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t block = i / product->block_tiles;
        multiply_tile(product, block, i % product->block_tiles);
        if (product->left && __atomic_sub_fetch(&product->left[block], 1, __ATOMIC_ACQ_REL) == 0)
            finish_block(product, block);
    }
}

/* No tile is left to begin: help with the rows of blocks whose last tiles are done, or are about to be. */
static void help_finish(void *context) {
    const struct product *product = context;
    for (size_t block = 0; block < product->blocks; block++) {
        if ((size_t)__atomic_load_n(&product->begun[block], __ATOMIC_RELAXED) >= product->block_tokens) continue;
        for (int waited = 0; __atomic_load_n(&product->left[block], __ATOMIC_ACQUIRE) > 0; waited++) {
            if (waited == ROWS_WAIT) return; /* that thread was stopped, and will do it */
            threads_pause();
        }
        finish_block(product, block);
    }
}

/* The whole epilogue of some tokens, for products that a library computed. */
static void finish_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct product *product = context;
    (void)worker;
    for (size_t i = 0; i < (product->gated ? 1 : product->count); i++)
        activate_tile(product, &product->parts[i], begin, end, 0, product->parts[i].weight->shape.rows);
    if (product->epilogue->rows) product->epilogue->rows(product->epilogue->context, begin, end);
}

static void run(size_t count, size_t grain, bool serial, parallel_body *body, void *context) {
    if (serial) body(context, 0, count, 0);
    else parallel_for(count, grain, body, context);
}

/* ---- the input ---- */

/* What was converted ahead of rows x; NULL: nothing. */
static const struct ready *ready_input(const struct weight_scratch *scratch, const float *x, size_t T) {
    return scratch->ahead_x == x && scratch->ahead_T == T ? scratch->ahead[1 - scratch->turn].block : NULL;
}

/* Room for what this product's epilogue is to convert, if that goes row by row. */
static int take_next(struct product *product, struct weight_scratch *scratch) {
    int status = 0;
    const struct weight_epilogue *epilogue = product->epilogue;
    size_t T = product->T, head = size_round_up(sizeof(struct ready), 64), bytes;
    if (!epilogue || !epilogue->next) goto out;
    struct input_plan plan = input_plan_of(epilogue->next);
    if (!input_by_rows(&plan)) goto out;
    bytes = head + input_bytes(&plan, T, epilogue->next->shape.columns);
    if (bytes > scratch->ahead[scratch->turn].bytes) {
        TRY(memory_resize(&scratch->ahead[scratch->turn].block, bytes, 1));
        scratch->ahead[scratch->turn].bytes = bytes;
    }
    product->next = scratch->ahead[scratch->turn].block;
    *product->next = (struct ready){.plan = plan};
    input_place(&plan, T, (uint8_t *)product->next + head, &product->next->input);
out:
    return status;
}

/* The next product may take what this one converted, and nothing older. */
static void pass_next(const struct product *product, struct weight_scratch *scratch) {
    scratch->ahead_x = NULL;
    if (!product->next) return;
    scratch->ahead_x = product->epilogue->next_x;
    scratch->ahead_T = product->T;
    scratch->turn = 1 - scratch->turn;
}

static bool whole_rows(const struct product *product) {
    return product->epilogue && (product->epilogue->rows || product->next);
}

/* Convert the input for every part that asks; parts that ask the same share one copy. Also takes the counters of
 * blocks, which lie first in the scratch. */
static int convert_inputs(struct product *product, struct weight_scratch *scratch) {
    int status = 0;
    size_t T = product->T, used = 0, bytes = 0;
    bool rows = whole_rows(product);
    bool serial = T * product->N < SERIAL_MULTIPLY_ADDS;
    const struct ready *ready = ready_input(scratch, product->x, T);
    if (rows) used = bytes = size_round_up(2 * product->blocks * sizeof(int32_t), 64);
    for (size_t i = 0; i < product->count; i++) bytes += input_bytes(&product->parts[i].plan, T, product->N);
    if (bytes > scratch->bytes) {
        TRY(memory_resize(&scratch->block, bytes, 1));
        scratch->bytes = bytes;
    }
    if (rows) product->left = scratch->block, product->begun = product->left + product->blocks;
    for (size_t i = 0; i < product->count; i++) {
        struct part *part = &product->parts[i];
        size_t same = 0;
        if (!part->plan.n_padded) continue;
        if (ready && input_plan_same(&ready->plan, &part->plan)) {
            part->input = ready->input;
            continue;
        }
        while (!input_plan_same(&product->parts[same].plan, &part->plan)) same++;
        if (same < i) {
            part->input = product->parts[same].input;
            continue;
        }
        input_convert(&part->plan, T, product->N, product->x, scratch->offset, scratch->sequences, serial,
                      (uint8_t *)scratch->block + used, &part->input);
        used += input_bytes(&part->plan, T, product->N);
    }
out:
    return status;
}

/* ---- the product ---- */

static int check_product(const struct weight *const *weights, size_t count, const struct weight_epilogue *epilogue) {
    int status = 0;
    if (count < 1 || count > SHARED_MOST)
        FAIL(E_ARGUMENT, "1 to %d matrices share an input (got %zu)", SHARED_MOST, count);
    for (size_t i = 0; i < count; i++) {
        if (!weights[i]->prepared) FAIL(E_STATE, "weight_prepare must come before weight_matmul");
        if (weights[i]->shape.columns != weights[0]->shape.columns)
            FAIL(E_SHAPE, "matrices that share an input have %zu and %zu columns", weights[0]->shape.columns,
                 weights[i]->shape.columns);
    }
    if (epilogue && epilogue->activation == WEIGHT_SILU_GATE &&
        (count != 2 || weights[0]->shape.rows != weights[1]->shape.rows))
        FAIL(E_SHAPE, "a gated product takes two matrices of one shape");
out:
    return status;
}

/* Multiply what has tiles: parts of formats and of backends that work tile by tile. */
static int run_tiles(struct product *product, struct weight_scratch *scratch, size_t multiply_adds) {
    int status = 0;
    size_t end = 0;
    cut_tokens(product);
    product->dealt = product->blocks == 1 && !product->gated;
    for (size_t i = 0; i < product->count; i++) {
        struct part *part = &product->parts[i];
        cut_panels(product, part);
        product->dealt = product->dealt && part->tiles == (size_t)threads_get();
        if (!(product->gated && i == 1)) end += part->tiles;
        part->tile_end = end;
    }
    product->block_tiles = end;
    TRY(take_next(product, scratch));
    TRY(convert_inputs(product, scratch));
    for (size_t b = 0; product->left && b < product->blocks; b++)
        product->left[b] = (int32_t)end, product->begun[b] = 0;
    if (multiply_adds < SERIAL_MULTIPLY_ADDS) multiply_tiles(product, 0, end * product->blocks, 0);
    else parallel_for_then(end * product->blocks, 1, multiply_tiles, product->left ? help_finish : NULL, product);
out:
    return status;
}

static void finish_codes(void *context, size_t begin, size_t end, int worker) {
    const struct part *part = context;
    (void)worker;
    part->weight->format->execution->finish(part->weight, &part->input, begin, end, part->bias, part->y);
}

/* Parts whose codes a library multiplies: its sums lie in y until they are scaled. */
static int run_library(struct product *product, struct weight_scratch *scratch) {
    int status = 0;
    TRY(convert_inputs(product, scratch));
    for (size_t i = 0; i < product->count; i++) {
        struct part *part = &product->parts[i];
        const struct weight_prepared *prepared = part->weight->prepared;
        TRY(onednn_matmul_s8(prepared->onednn, product->T, part->input.q, (int32_t *)(void *)part->y));
        parallel_for(product->T, 16, finish_codes, part);
    }
out:
    return status;
}

int weight_matmul_then(const struct weight *const *weights, const float *const *biases, float *const *y, size_t count,
                       size_t T, const float *x, const struct weight_epilogue *epilogue,
                       struct weight_scratch *scratch) {
    int status = 0;
    struct product tiled = {.T = T, .x = x, .epilogue = epilogue}, all = tiled, codes = {.T = T, .x = x};
    size_t multiply_adds = 0, weight_bytes = 0, library = 0;
    TRY(check_product(weights, count, epilogue));
    if (T == 0) goto out;
    tiled.N = codes.N = weights[0]->shape.columns;
    for (size_t i = 0; i < count; i++) {
        const struct weight *weight = weights[i];
        const struct weight_prepared *prepared = weight->prepared;
        struct part part = {.weight = weight, .bias = biases ? biases[i] : NULL, .y = y[i], .input.x = x};
        part.panels = panels_of(weight->shape.rows);
        part.plan = input_plan_of(weight);
        multiply_adds += T * weight->shape.rows * tiled.N;
        weight_bytes += weight->packed_bytes;
        all.parts[all.count++] = part;
        if (!prepared->onednn || (part.plan.n_padded && T < LIBRARY_TOKENS)) {
            tiled.parts[tiled.count++] = part;
            continue;
        }
        library++;
        if (part.plan.n_padded) codes.parts[codes.count++] = part;
        else TRY(onednn_matmul(prepared->onednn, T, x, part.bias, part.y));
    }
    if (codes.count) TRY(run_library(&codes, scratch));
    all.gated = epilogue && epilogue->activation == WEIGHT_SILU_GATE;
    if (library) tiled.epilogue = NULL;
    else tiled.gated = all.gated;
    if (tiled.count) TRY(run_tiles(&tiled, scratch, multiply_adds));
    if (library && epilogue) run(T, 16, multiply_adds < SERIAL_MULTIPLY_ADDS, finish_tokens, &all);
    pass_next(&tiled, scratch);
    __atomic_fetch_add(&kernel_counters.multiply_adds, multiply_adds, __ATOMIC_RELAXED);
    __atomic_fetch_add(&kernel_counters.weight_bytes, weight_bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&kernel_counters.tokens, T, __ATOMIC_RELAXED);
out:
    if (status < 0) scratch->ahead_x = NULL;
    return status;
}

int weight_matmul_shared(const struct weight *const *weights, const float *const *biases, float *const *y, size_t count,
                         size_t T, const float *x, struct weight_scratch *scratch) {
    return weight_matmul_then(weights, biases, y, count, T, x, NULL, scratch);
}

int weight_matmul(const struct weight *weight, size_t T, const float *x, const float *bias, float *y,
                  struct weight_scratch *scratch) {
    return weight_matmul_then(&weight, &bias, &y, 1, T, x, NULL, scratch);
}
