/* One weight matrix: its bytes, what is prepared from them, and multiplication on all threads.
 *
 * Multiplication is cut into tiles (a block of tokens by a few panels of 16 rows) over all matrices that
 * share the input, handed to parallel_for. Blocks of tokens are chosen so that their activations stay in a
 * second-level cache while panels stream past; panels per tile so that a tile is worth handing out. Since
 * the kernels sum every output in an order that depends on N alone, neither tiles nor threads can be seen
 * in the result. Integer formats quantize the input once, before the tiles. */
#include "formats/weight.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "formats/onednn.h"
#include "kernels/kernels.h"

#include <string.h>

#define INPUT_BYTES (160u << 10) /* activations of a token block; a second-level cache holds 512 KiB and up */
#define TILE_MULTIPLY_ADDS                                                                                             \
    (256u << 10) /* some 5 to 10 microseconds: hundreds of times the cost of handing out a tile */
#define SERIAL_MULTIPLY_ADDS (128u << 10) /* below this, waking another thread costs more than it saves */
#define SHARED_MOST 8                     /* matrices per weight_matmul_shared call */

int weight_shape_check(const struct weight_format *format, const struct weight_shape *shape) {
    int status = 0;
    const size_t most = (size_t)1 << 40;
    if (shape->rows == 0 || shape->columns == 0)
        FAIL(E_SHAPE, "%s: a weight matrix of %zu rows and %zu columns is empty", format->name, shape->rows,
             shape->columns);
    if (shape->rows > most / shape->columns || shape->rows > 1u << 30 || shape->columns > 1u << 16)
        FAIL(E_LIMIT, "%s: a weight matrix of %zu rows and %zu columns is too large", format->name, shape->rows,
             shape->columns);
    if (format->has_groups && shape->group != 32 && shape->group != 64 && shape->group != 128)
        FAIL(E_SHAPE, "%s: group must be one of 32, 64, 128 (got %zu)", format->name, shape->group);
    if (!format->has_groups && shape->group != 0)
        FAIL(E_SHAPE, "%s has no groups (got a group of %zu)", format->name, shape->group);
out:
    return status;
}

double weight_bits(const struct weight_format *format, const struct weight_shape *shape) {
    size_t bytes;
    if (format->size_bytes(shape, &bytes) < 0) return 0;
    return 8.0 * (double)bytes / ((double)shape->rows * (double)shape->columns);
}

int weight_view(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const void *packed, size_t bytes) {
    int status = 0;
    *weight = (struct weight){0};
    TRY(format->check(shape, packed, bytes));
    weight->format = format;
    weight->shape = *shape;
    weight->packed = packed;
    weight->packed_bytes = bytes;
out:
    return status;
}

int weight_pack(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const float *w, const struct weight_grid *grid) {
    int status = 0;
    size_t bytes;
    void *packed = NULL;
    *weight = (struct weight){0};
    TRY(format->size_bytes(shape, &bytes));
    TRY(memory_take(&packed, bytes, 1));
    TRY(format->pack(shape, w, grid, packed));
    *weight = (struct weight){
        .format = format, .shape = *shape, .packed = packed, .packed_bytes = bytes, .owns_packed = true};
    packed = NULL;
out:
    memory_release(packed);
    return status;
}

static void prepared_close(struct weight *weight) {
    struct weight_prepared *prepared = weight->prepared;
    if (!prepared) return;
    memory_release(prepared->panels);
    memory_release(prepared->scale);
    memory_release(prepared->row_negative);
    onednn_close(prepared->onednn);
    memory_release(prepared);
    weight->prepared = NULL;
    weight->prepared_bytes = 0;
}

int weight_prepare(struct weight *weight, enum gemm_backend backend) {
    int status = 0;
    struct weight_prepared *prepared = weight->prepared;
    const struct weight_execution *execution = weight->format->execution;
    if (prepared && prepared->backend == backend) goto out;
    prepared_close(weight);
    TRY(memory_take(&weight->prepared, 1, sizeof *prepared));
    prepared = weight->prepared;
    prepared->backend = weight->backend = backend;
    if (execution->prepare) TRY(execution->prepare(weight, prepared, &weight->prepared_bytes));
out:
    if (status < 0) prepared_close(weight);
    return status;
}

void weight_close(struct weight *weight) {
    prepared_close(weight);
    if (weight->owns_packed) memory_release((void *)(size_t)weight->packed);
    *weight = (struct weight){0};
}

void weight_scratch_close(struct weight_scratch *scratch) {
    memory_release(scratch->block);
    *scratch = (struct weight_scratch){0};
}

const float *panel_bias(const float *bias, size_t rows, size_t panel, float buffer[16], size_t *valid) {
    *valid = rows - panel * 16 < 16 ? rows - panel * 16 : 16;
    if (!bias || *valid == 16) return bias ? bias + panel * 16 : NULL;
    memset(buffer, 0, 16 * sizeof *buffer);
    memcpy(buffer, bias + panel * 16, *valid * sizeof *buffer);
    return buffer;
}

/* One matrix's part of a product: its input, how it is cut, and where its tiles start in the common count. */
struct part {
    const struct weight *weight;
    const float *bias;
    float *y;
    struct weight_input input;
    size_t n_padded, group; /* of the quantized input; 0: none */
    size_t block_tokens, blocks, tile_panels, panel_tiles, first_tile;
};

struct product {
    struct part parts[SHARED_MOST];
    size_t count, T, N;
    const float *x;
};

static void cut_part(struct part *part, size_t T) {
    const struct weight *weight = part->weight;
    size_t N = weight->shape.columns, panels = panels_of(weight->shape.rows);
    size_t token_bytes = part->n_padded ? part->n_padded : N * sizeof(float);
    /* Multiples of 12 suit the tiles of all kernels (4, 6, 8, 12) well enough; blocks are then made even. */
    size_t most = INPUT_BYTES / token_bytes / 12 * 12;
    if (most < 12) most = 12;
    part->blocks = (T + most - 1) / most;
    part->block_tokens = (T + part->blocks - 1) / part->blocks;
    part->tile_panels = TILE_MULTIPLY_ADDS / (part->block_tokens * 16 * N);
    /* OpenBLAS packs its operands in every call, so its tiles are larger: 128 rows. */
    if (!part->n_padded && weight->backend == GEMM_OPENBLAS) part->tile_panels = 8;
    if (part->tile_panels < 1) part->tile_panels = 1;
    if (part->tile_panels > panels) part->tile_panels = panels;
    part->panel_tiles = (panels + part->tile_panels - 1) / part->tile_panels;
}

static void multiply_tiles(void *context, size_t begin, size_t end, int worker) {
    const struct product *product = context;
    (void)worker;
    for (size_t tile = begin; tile < end; tile++) {
        size_t i = product->count - 1;
        while (product->parts[i].first_tile > tile) i--;
        const struct part *part = &product->parts[i];
        size_t block = (tile - part->first_tile) / part->panel_tiles,
               slice = (tile - part->first_tile) % part->panel_tiles;
        size_t t_begin = block * part->block_tokens, t_end = t_begin + part->block_tokens;
        size_t p_begin = slice * part->tile_panels, p_end = p_begin + part->tile_panels;
        size_t panels = panels_of(part->weight->shape.rows);
        part->weight->format->execution->multiply(part->weight, &part->input, t_begin,
                                                  t_end < product->T ? t_end : product->T, p_begin,
                                                  p_end < panels ? p_end : panels, part->bias, part->y);
    }
}

struct quantization {
    const float *x;
    size_t N, n_padded, group;
    int8_t *q;
    float *scale;
    int32_t *sums;
};

static void quantize_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct quantization *z = context;
    (void)worker;
    kernels.quantize_s8(end - begin, z->N, z->x + begin * z->N, z->N, z->n_padded, z->group, z->q + begin * z->n_padded,
                        z->scale + begin, z->sums + begin * (z->n_padded / z->group));
}

static void run(size_t count, size_t grain, bool serial, parallel_body *body, void *context) {
    if (serial) body(context, 0, count, 0);
    else parallel_for(count, grain, body, context);
}

/* Quantize the input for every part that asks; parts with the same padding and groups share one copy. */
static int quantize_inputs(struct product *product, struct weight_scratch *scratch) {
    int status = 0;
    size_t T = product->T, bytes = 0, used = 0;
    for (size_t i = 0; i < product->count; i++) {
        const struct part *part = &product->parts[i];
        if (part->n_padded)
            bytes += size_round_up(T * part->n_padded, 64) + size_round_up(T * 4, 64) +
                     size_round_up(T * (part->n_padded / part->group) * 4, 64);
    }
    if (bytes > scratch->bytes) {
        TRY(memory_resize(&scratch->block, bytes, 1));
        scratch->bytes = bytes;
    }
    for (size_t i = 0; i < product->count; i++) {
        struct part *part = &product->parts[i];
        if (!part->n_padded) continue;
        size_t same = 0;
        while (product->parts[same].n_padded != part->n_padded || product->parts[same].group != part->group) same++;
        if (same < i) {
            part->input = product->parts[same].input;
            continue;
        }
        struct quantization z = {.x = product->x, .N = product->N, .n_padded = part->n_padded, .group = part->group};
        uint8_t *place = (uint8_t *)scratch->block + used;
        z.q = (int8_t *)place;
        z.scale = (float *)(void *)(place += size_round_up(T * part->n_padded, 64));
        z.sums = (int32_t *)(void *)(place += size_round_up(T * 4, 64));
        place += size_round_up(T * (part->n_padded / part->group) * 4, 64);
        used = (size_t)(place - (uint8_t *)scratch->block);
        run(T, 16, T * product->N < SERIAL_MULTIPLY_ADDS, quantize_tokens, &z);
        part->input.q = z.q, part->input.scale = z.scale, part->input.sums = z.sums;
    }
out:
    return status;
}

int weight_matmul_shared(const struct weight *const *weights, const float *const *biases, float *const *y, size_t count,
                         size_t T, const float *x, struct weight_scratch *scratch) {
    int status = 0;
    struct product product = {.T = T, .x = x};
    size_t tiles = 0, multiply_adds = 0, weight_bytes = 0;
    if (count < 1 || count > SHARED_MOST)
        FAIL(E_ARGUMENT, "1 to %d matrices share an input (got %zu)", SHARED_MOST, count);
    if (T == 0) goto out;
    product.N = weights[0]->shape.columns;
    for (size_t i = 0; i < count; i++) {
        const struct weight *weight = weights[i];
        const struct weight_prepared *prepared = weight->prepared;
        const float *bias = biases ? biases[i] : NULL;
        if (!prepared) FAIL(E_STATE, "weight_prepare must come before weight_matmul");
        if (weight->shape.columns != product.N)
            FAIL(E_SHAPE, "matrices that share an input have %zu and %zu columns", product.N, weight->shape.columns);
        multiply_adds += T * weight->shape.rows * product.N;
        weight_bytes += weight->packed_bytes;
        if (prepared->onednn) {
            TRY(onednn_matmul(prepared->onednn, T, x, bias, y[i]));
            continue;
        }
        struct part *part = &product.parts[product.count++];
        *part = (struct part){.weight = weight, .bias = bias, .y = y[i], .input.x = x, .first_tile = tiles};
        if (weight->format->execution->input)
            weight->format->execution->input(&weight->shape, &part->n_padded, &part->group);
        cut_part(part, T);
        tiles += part->blocks * part->panel_tiles;
    }
    TRY(quantize_inputs(&product, scratch));
    if (tiles) run(tiles, 1, multiply_adds < SERIAL_MULTIPLY_ADDS, multiply_tiles, &product);
    __atomic_fetch_add(&kernel_counters.multiply_adds, multiply_adds, __ATOMIC_RELAXED);
    __atomic_fetch_add(&kernel_counters.weight_bytes, weight_bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&kernel_counters.tokens, T, __ATOMIC_RELAXED);
out:
    return status;
}

int weight_matmul(const struct weight *weight, size_t T, const float *x, const float *bias, float *y,
                  struct weight_scratch *scratch) {
    return weight_matmul_shared(&weight, &bias, &y, 1, T, x, scratch);
}
