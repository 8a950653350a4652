/* One block's attention over a batch: two passes over the work, each serial where it is small.
 *
 * First tokens: their queries and keys are turned, and with a cache keys and values are written to it. Then items:
 * every tile of queries of every key/value head of every sequence; the tiles of a sequence are numbered through, so a
 * prefix sum over sequences leads from an item back to its tile.
 */
#include "model/attention.h"

#include "base/threads.h"
#include "kernels/kernels.h"

#define TOKEN_GRAIN 16
#define SERIAL_MULTIPLY_ADDS 262144 /* about 10 µs on one core; waking a thread costs as much */

struct run {
    const struct attention *a;
    uint32_t *tiles; /* [B+1] tiles of queries before sequence i */
    float *scratch;  /* [threads][each] */
    size_t each;
};

static size_t group_of(const struct model_config *config) { return config->heads / config->key_value_heads; }

/* Of one thread. */
static size_t scratch_each(const struct model_config *config, const struct batch *batch,
                           enum attention_arithmetic arithmetic) {
    size_t D = config->head_width, floats = attention_stream_scratch(D, group_of(config));
    for (size_t i = 0; arithmetic != ATTENTION_F32 && i < batch->sequences; i++) {
        size_t t = batch->offset[i + 1] - batch->offset[i];
        size_t needed = arithmetic == ATTENTION_INT8 ? attention_int8_scratch(D, t) : attention_bf16_scratch(D, t);
        if (needed > floats) floats = needed;
    }
    return size_round_up(floats, 16);
}

size_t attention_scratch_floats(const struct model_config *config, const struct batch *batch,
                                enum attention_arithmetic arithmetic, size_t threads) {
    return size_round_up(batch->sequences + 1, 16) + threads * scratch_each(config, batch, arithmetic);
}

static size_t slot_of(const struct batch *batch, size_t sequence) {
    return batch->slot ? batch->slot[sequence] : sequence;
}

/* Where a sequence's first query stands: after what its slot holds. */
static size_t past_of(const struct batch *batch, size_t sequence) {
    return batch->cache ? batch->cache->length[slot_of(batch, sequence)] : 0;
}

/* The last i with bound[i] <= value, where bound rises from 0. */
static size_t find_sequence(const uint32_t *bound, size_t count, size_t value) {
    size_t low = 0, high = count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (bound[middle] <= value) low = middle;
        else high = middle;
    }
    return low;
}

/* Tokens begin..end-1, all of one sequence, whose first is number `at` of its slot. */
static void write_tokens(const struct attention *a, size_t sequence, size_t at, size_t begin, size_t end) {
    size_t D = a->config->head_width;
    for (size_t head = 0; head < a->config->key_value_heads; head++) {
        size_t from = begin * a->key_stride + head * D;
        kv_cache_write(a->batch->cache, a->layer, slot_of(a->batch, sequence), head, at, end - begin, a->key + from,
                       a->value + from, a->key_stride);
    }
}

static void enter_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct run *run = context;
    const struct attention *a = run->a;
    const struct batch *batch = a->batch;
    size_t D = a->config->head_width;
    (void)worker;
    if (a->rotary) {
        const float *table = a->rotary + begin * D;
        if (!a->read)
            rotary_forward(end - begin, a->config->heads, D, a->query_stride, table,
                           a->query + begin * a->query_stride);
        rotary_forward(end - begin, a->config->key_value_heads, D, a->key_stride, table,
                       a->key + begin * a->key_stride);
    }
    if (!batch->cache) return;
    for (size_t i = find_sequence(batch->offset, batch->sequences, begin); begin < end; i++) {
        size_t last = batch->offset[i + 1] < end ? batch->offset[i + 1] : end;
        write_tokens(a, i, past_of(batch, i) + begin - batch->offset[i], begin, last);
        begin = last;
    }
}

/* The queries of a run that has one for each sequence. */
static void turn_read(const struct attention *a) {
    size_t D = a->config->head_width;
    for (size_t i = 0; a->rotary && a->read && i < a->batch->sequences; i++)
        rotary_forward(1, a->config->heads, D, a->query_stride, a->rotary + a->read[i] * D,
                       a->query + i * a->query_stride);
}

/* `count` queries at q, the first of which stands at `at` among the keys. */
static void attend_tile(const struct attention *a, const struct attention_keys *keys, size_t count, const float *q,
                        size_t at, float *context, float *scratch) {
    const struct model_config *config = a->config;
    size_t D = config->head_width, width = config->heads * D;
    switch (a->arithmetic) {
    case ATTENTION_INT8: attention_int8(count, D, q, a->query_stride, keys, context, width, scratch); break;
    case ATTENTION_BF16: attention_bf16(count, D, q, a->query_stride, keys, context, width, scratch); break;
    case ATTENTION_F32:
        attention_stream(count, group_of(config), D, q, a->query_stride, keys, at, config->causal, config->window,
                         context, width, scratch);
        break;
    }
}

static void attend_item(const struct run *run, size_t sequence, size_t tile, size_t head, float *scratch) {
    const struct attention *a = run->a;
    const struct batch *batch = a->batch;
    size_t D = a->config->head_width, group = group_of(a->config), most = attention_tile(group);
    size_t first = batch->offset[sequence], t = batch->offset[sequence + 1] - first, skip = tile * most;
    size_t past = past_of(batch, sequence), width = a->config->heads * D;
    struct attention_keys keys = {.k = a->key + first * a->key_stride + head * D,
                                  .v = a->value + first * a->key_stride + head * D,
                                  .stride = a->key_stride,
                                  .count = t};
    if (batch->cache) keys = kv_cache_keys(batch->cache, a->layer, slot_of(batch, sequence), head, past + t);
    size_t row = a->read ? sequence : first + skip, count = t - skip < most ? t - skip : most;
    attend_tile(a, &keys, a->read ? 1 : count, a->query + row * a->query_stride + head * group * D,
                a->read ? past + a->read[sequence] - first : past + skip, a->context + row * width + head * group * D,
                scratch);
}

/* Items of a sequence: tile by tile, its heads inside. */
static void attend_items(void *context, size_t begin, size_t end, int worker) {
    const struct run *run = context;
    size_t heads = run->a->config->key_value_heads;
    for (size_t i = begin; i < end; i++) {
        size_t tile = i / heads, sequence = find_sequence(run->tiles, run->a->batch->sequences, tile);
        attend_item(run, sequence, tile - run->tiles[sequence], i % heads, run->scratch + (size_t)worker * run->each);
    }
}

void attention_run(const struct attention *a) {
    const struct batch *batch = a->batch;
    size_t group = group_of(a->config), most = attention_tile(group), pairs = 0;
    struct run run = {.a = a, .tiles = (uint32_t *)(void *)a->scratch};
    run.scratch = a->scratch + size_round_up(batch->sequences + 1, 16);
    run.each = scratch_each(a->config, batch, a->arithmetic);

    run.tiles[0] = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t t = batch->offset[i + 1] - batch->offset[i];
        size_t queries = a->read ? 1 : t;
        run.tiles[i + 1] = run.tiles[i] + (uint32_t)((queries + most - 1) / most);
        pairs += queries * (past_of(batch, i) + t);
    }
    if (a->rotary || batch->cache) {
        if (batch->tokens <= TOKEN_GRAIN) enter_tokens(&run, 0, batch->tokens, 0);
        else parallel_for(batch->tokens, TOKEN_GRAIN, enter_tokens, &run);
    }
    turn_read(a);
    size_t items = run.tiles[batch->sequences] * a->config->key_value_heads;
    if (2 * pairs * a->config->heads * a->config->head_width <= SERIAL_MULTIPLY_ADDS) attend_items(&run, 0, items, 0);
    else parallel_for(items, 1, attend_items, &run);
}
