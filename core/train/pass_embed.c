/* Embeddings in training: token, type and position rows, their norm, a projection where the table is narrower than the
 * model; and the scatter of the gradient.
 *
 * Tokens are sorted by id, so that each row of the table is one sum in token order by one thread, and rows that do not
 * occur are not touched: neither read nor written, whatever the vocabulary. What a step wrote is remembered, so that
 * the next one clears just that, and an optimizer can leave the rest alone.
 */
#include "train/pass.h"

#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/layers.h"

#define ROW_TILE 64 /* rows of a table, or rows that occur, of one item */

/* ---- forward ------------------------------------------------------------------------------------------- */

static void read_tokens(const struct pass *pass, const struct shard *shard, float *out) {
    const struct parameter *tokens = model_part(pass->model, PART_TOKENS)->weight;
    for (size_t t = shard->at; t < shard->at + shard->T; t++) {
        size_t id = (size_t)pass->batch->ids[t];
        parameter_rows(tokens, id, id + 1, out + t * tokens->columns);
    }
}

static void read_shards(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        read_tokens(pass, &shard, pass->embedded);
    }
}

/* Where token rows, or their projection, are completed. */
static float *complete(const struct pass *pass) { return pass->sum0 ? pass->sum0 : pass->block[0].x; }

static void add_types_and_positions(const struct pass *pass, const struct shard *shard, float *x) {
    const struct model *model = pass->model;
    const struct parameter *types = model_part(model, PART_TYPES)->weight,
                           *positions = model_part(model, PART_POSITIONS)->weight;
    size_t C = model->config.width;
    for (size_t t = shard->at; t < shard->at + shard->T; t++) {
        size_t type = pass->batch->token_types ? (size_t)pass->batch->token_types[t] : 0;
        if (types) kernels.add(C, types->value + type * C, x + t * C);
        size_t position = (size_t)pass->position[t] + model->config.position_offset;
        if (positions) kernels.add(C, positions->value + position * C, x + t * C);
    }
}

static void complete_shards(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    const struct model_config *config = &pass->model->config;
    size_t D = config->head_width;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        if (pass->rotary)
            rotary_table(shard.T, D, pass->position + shard.at, config->rotary_base, &config->rotary_scaling,
                         pass->rotary + shard.at * D);
        if (!pass->embedded) read_tokens(pass, &shard, complete(pass));
        add_types_and_positions(pass, &shard, complete(pass));
        if (pass->sum0)
            pass_norm(pass, model_part(pass->model, PART_EMBEDDING_NORM), &shard, pass->sum0, pass->block[0].x,
                      pass->mean0, pass->rstd0);
        pass_drop(pass, 0, &shard, pass->block[0].x, pass->keep0);
    }
}

void pass_embed_forward(struct pass *pass) {
    if (pass->embedded) {
        parallel_for(pass->shard_count, 1, read_shards, pass);
        pass_own_forward(pass, model_part(pass->model, PART_PROJECT_IN)->linear, pass->batch->tokens, pass->embedded,
                         complete(pass));
    }
    parallel_for(pass->shard_count, 1, complete_shards, pass);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

static void norm_shards_back(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    size_t C = pass->model->config.width;
    for (size_t i = begin; i < end; i++) {
        struct shard shard = pass_shard(pass, i, worker);
        if (pass->wanted[0]) kernels.add(shard.T * C, pass->want[0] + shard.at * C, pass->dhidden + shard.at * C);
        pass_drop_back(pass, &shard, pass->keep0, pass->dhidden, pass->dhidden);
        if (pass->sum0)
            pass_norm_back(pass, model_part(pass->model, PART_EMBEDDING_NORM), i, 0, &shard, pass->sum0, pass->mean0,
                           pass->rstd0, pass->dhidden, pass->dhidden);
    }
}

static int compare_orders(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t id_of(uint64_t order) { return (size_t)(order >> 32); }

/* Sorted by id, then by place. Tokens of the padding id are left out: their look-up has no gradient. Returns how many
 * there are. */
static size_t sort_tokens(struct pass *pass) {
    size_t count = 0;
    for (size_t t = 0; t < pass->batch->tokens; t++)
        if (pass->batch->ids[t] != pass->model->config.pad_id)
            pass->token_order[count++] = (uint64_t)(uint32_t)pass->batch->ids[t] << 32 | t;
    qsort(pass->token_order, count, sizeof *pass->token_order, compare_orders);
    return count;
}

void pass_tokens_clear(struct pass *pass) {
    const struct parameter *tokens = model_part(pass->model, PART_TOKENS)->weight;
    size_t V = tokens->rows, E = tokens->columns;
    for (size_t row = 0; row < V; row++)
        if (pass->touched_all || pass->touched[row / 64] >> row % 64 & 1)
            memset(tokens->gradient + row * E, 0, E * sizeof(float));
    memset(pass->touched, 0, (V + 63) / 64 * sizeof *pass->touched);
    pass->touched_all = pass->tokens_stale = false;
}

static void list_touched(struct pass *pass, size_t sorted) {
    size_t V = pass->model->config.vocabulary;
    for (size_t i = 0; i < sorted; i++) {
        size_t id = id_of(pass->token_order[i]);
        pass->touched[id / 64] |= (uint64_t)1 << id % 64;
    }
    pass->touched_count = 0;
    for (size_t word = 0; word < (V + 63) / 64; word++)
        for (uint64_t bits = pass->touched[word], bit = 0; bits; bits >>= 1, bit++)
            if (bits & 1) pass->touched_ids[pass->touched_count++] = (int32_t)(word * 64 + bit);
}

struct scatter {
    const struct pass *pass;
    const float *dtokens; /* (T,E) */
    size_t sorted;
};

/* Sorted tokens begin..end-1: runs of one id that begin here, to their ends. */
static void token_runs(void *context, size_t begin, size_t end, int worker) {
    const struct scatter *scatter = context;
    const uint64_t *order = scatter->pass->token_order;
    const struct parameter *tokens = model_part(scatter->pass->model, PART_TOKENS)->weight;
    size_t E = tokens->columns, i = begin;
    (void)worker;
    while (i < end && i > 0 && id_of(order[i]) == id_of(order[i - 1])) i++;
    while (i < end) {
        size_t id = id_of(order[i]);
        for (; i < scatter->sorted && id_of(order[i]) == id; i++)
            kernels.add(E, scatter->dtokens + (size_t)(uint32_t)order[i] * E, tokens->gradient + id * E);
    }
}

static void token_gradients(struct pass *pass) {
    struct scatter scatter = {.pass = pass, .dtokens = pass->embedded ? pass->dembedded : pass->dhidden};
    if (!model_part(pass->model, PART_TOKENS)->weight->gradient) return;
    if (pass->tokens_stale) pass_tokens_clear(pass);
    scatter.sorted = sort_tokens(pass);
    list_touched(pass, scatter.sorted);
    parallel_for(scatter.sorted, ROW_TILE, token_runs, &scatter);
}

static void table_rows(const struct pass *pass, const struct parameter *table, const int32_t *index, size_t offset,
                       size_t begin, size_t end) {
    size_t C = table->columns;
    if (!pass->options.add) memset(table->gradient + begin * C, 0, (end - begin) * C * sizeof(float));
    for (size_t t = 0; t < pass->batch->tokens; t++) {
        size_t row = (index ? (size_t)index[t] : 0) + offset;
        if (row >= begin && row < end) kernels.add(C, pass->dhidden + t * C, table->gradient + row * C);
    }
}

static void position_rows(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    (void)worker;
    table_rows(pass, model_part(pass->model, PART_POSITIONS)->weight, pass->position,
               pass->model->config.position_offset, begin, end);
}

void pass_embed_backward(struct pass *pass) {
    const struct model *model = pass->model;
    const struct linear *project = model_part(model, PART_PROJECT_IN)->linear;
    const struct parameter *positions = model_part(model, PART_POSITIONS)->weight,
                           *types = model_part(model, PART_TYPES)->weight;
    parallel_for(pass->shard_count, 1, norm_shards_back, pass);
    if (pass->sum0) pass_norm_gradients(pass, model_part(model, PART_EMBEDDING_NORM), 0, pass->shard_count);
    if (project)
        pass_own_backward(pass, project, pass->batch->tokens, pass->embedded, pass->dhidden, pass->options.add, false,
                          pass->dembedded);
    token_gradients(pass);
    if (positions && positions->gradient) parallel_for(positions->rows, ROW_TILE, position_rows, pass);
    if (types && types->gradient) table_rows(pass, types, pass->batch->token_types, 0, 0, types->rows);
}

bool pass_token_rows(const struct pass *pass, const int32_t **ids, size_t *count) {
    *ids = pass->touched_all ? NULL : pass->touched_ids;
    *count = pass->touched_all ? 0 : pass->touched_count;
    return !pass->touched_all;
}
