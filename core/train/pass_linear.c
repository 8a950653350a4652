/* All that a linear layer does in training: its values as panels, the product of a shard, the gradient at its input,
 * and the gradients of its matrix and bias.
 *
 * Nothing else in core/train reads a layer's values or multiplies by them (but for the tiles of a language-model head),
 * so what changes a layer in training, a struct linear_edit, is applied here. A packed layer's values are unpacked when
 * its block is at work, and are gone with the next.
 */
#include "train/pass.h"

#include "base/error.h"
#include "base/threads.h"
#include "train/products.h"

#define PANEL_TILE 64 /* rows or columns of a matrix that one item turns into panels */
#define JOB_ROWS 128  /* rows of a weight gradient in one job */
#define OWN_TOKENS 112
#define ROUND_FLOATS (MEMORY_ALIGN / sizeof(float))

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t tiles_of(size_t count, size_t tile) { return (count + tile - 1) / tile; }

int pass_linears_open(struct pass *pass, const struct linear_edit *edits) {
    int status = 0;
    struct model *model = pass->model;
    void *block;
    TRY(memory_take(&block, model->linear_count, sizeof *pass->linear));
    pass->linear = block;
    for (size_t i = 0; i < model->linear_count; i++) {
        struct pass_linear *own = &pass->linear[i];
        own->linear = &model->linears[i];
        if (edits) own->edit = edits[i];
        own->value = own->linear->value;
        if (!own->value && own->linear->parameter)
            FAIL(E_STATE, "layer '%s' is in its file's own format: open the model editable", own->linear->name);
    }
out:
    return status;
}

static struct pass_linear *of(const struct pass *pass, const struct linear *linear) {
    return &pass->linear[linear - pass->model->linears];
}

bool pass_linear_trained(const struct pass *pass, const struct linear *linear) {
    return linear->parameter && linear->parameter->gradient && !of(pass, linear)->edit.frozen;
}

/* Panels in bf16 are half as large, but for paddings. */
size_t pass_panel_floats(const struct linear *linear) {
    size_t R = linear->rows, N = linear->columns;
    size_t f32 = larger(panels_forward_floats(R, N), panels_backward_floats(R, N));
    size_t bf16 = larger(panels_forward_bf16_count(R, N), panels_backward_bf16_count(R, N));
    return size_round_up(larger(f32, (bf16 + 1) / 2), ROUND_FLOATS);
}

size_t pass_linear_scratch(const struct linear *linear, size_t shard, size_t T) {
    size_t R = linear->rows, N = linear->columns, rows = smaller(R, JOB_ROWS);
    size_t weight = larger(product_weight_scratch(T, rows, N), product_weight_bf16_scratch(T, rows, N));
    return larger(weight, product_bf16_scratch(larger(shard, OWN_TOKENS), larger(R, N)));
}

/* ---- panels -------------------------------------------------------------------------------------------- */

/* Layers first..first+count-1 of the pass, into panels. */
struct preparation {
    struct pass *pass;
    size_t first, count;
    enum panel_direction direction;
};

static void unpack(const struct pass_linear *own, float *value) {
    const struct weight *weight = &own->linear->weight;
    int status = weight->format->unpack(&weight->shape, weight->packed, value);
    CHECK(status == 0, "layer '%s' was checked when it was packed or read", own->linear->name);
}

static void unpack_layers(void *context, size_t begin, size_t end, int worker) {
    const struct preparation *task = context;
    float *value = task->pass->values;
    (void)worker;
    for (size_t i = 0; i < end; i++) {
        struct pass_linear *own = &task->pass->linear[task->first + i];
        if (own->linear->value) continue;
        if (i >= begin) {
            unpack(own, value);
            own->value = value;
        }
        value += size_round_up(own->linear->rows * own->linear->columns, ROUND_FLOATS);
    }
}

static size_t panel_tiles(const struct linear *linear, enum panel_direction direction) {
    return tiles_of(direction == PANELS_FORWARD ? linear->rows : linear->columns, PANEL_TILE);
}

static void panel_tile(const struct pass_linear *own, enum panel_direction direction, bool bf16, size_t tile) {
    size_t R = own->linear->rows, N = own->linear->columns, begin = tile * PANEL_TILE;
    size_t end = smaller(direction == PANELS_FORWARD ? R : N, begin + PANEL_TILE);
    uint16_t *halves = (uint16_t *)(void *)own->panels;
    if (direction == PANELS_FORWARD && bf16) panels_forward_bf16(R, N, own->value, begin, end, halves);
    else if (direction == PANELS_FORWARD) panels_forward(R, N, own->value, begin, end, own->panels);
    else if (bf16) panels_backward_bf16(R, N, own->value, begin, end, halves);
    else panels_backward(R, N, own->value, begin, end, own->panels);
}

static void panel_tiles_body(void *context, size_t begin, size_t end, int worker) {
    const struct preparation *task = context;
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const struct pass_linear *own = &task->pass->linear[task->first];
        size_t tile = item, tiles;
        while (tile >= (tiles = panel_tiles(own->linear, task->direction))) tile -= tiles, own++;
        panel_tile(own, task->direction, task->pass->options.bf16, tile);
    }
}

static void prepare(struct preparation *task, float *panels) {
    struct pass *pass = task->pass;
    size_t tiles = 0;
    bool packed = false;
    for (size_t i = task->first; i < task->first + task->count; i++) {
        struct pass_linear *own = &pass->linear[i];
        own->panels = panels;
        panels += pass_panel_floats(own->linear);
        tiles += panel_tiles(own->linear, task->direction);
        packed = packed || !own->linear->value;
    }
    if (packed) parallel_for(task->count, 1, unpack_layers, task);
    parallel_for(tiles, 1, panel_tiles_body, task);
}

void pass_prepare_block(struct pass *pass, size_t block, enum panel_direction direction) {
    struct preparation task = {.pass = pass, .direction = direction};
    size_t count = pass->model->linear_count;
    while (task.first < count && pass->model->linears[task.first].block != (int)block) task.first++;
    while (task.first + task.count < count && pass->model->linears[task.first + task.count].block == (int)block)
        task.count++;
    prepare(&task, pass->panels);
}

/* ---- products ------------------------------------------------------------------------------------------ */

static const uint16_t *halves_of(const struct pass_linear *own) { return (const uint16_t *)(const void *)own->panels; }

void pass_multiply(const struct pass *pass, const struct linear *linear, const struct shard *shard, const float *x,
                   float *y) {
    const struct pass_linear *own = of(pass, linear);
    size_t R = linear->rows, N = linear->columns, T = shard->T;
    x += shard->at * N;
    y += shard->at * R;
    if (!pass->options.bf16) product_forward(T, N, R, x, own->panels, linear->bias, y);
    else product_forward_bf16(T, N, R, x, halves_of(own), linear->bias, y, pass_scratch(pass, shard->worker));
}

void pass_multiply_back(const struct pass *pass, const struct linear *linear, const struct shard *shard,
                        const float *dy, bool add, float *dx) {
    const struct pass_linear *own = of(pass, linear);
    size_t R = linear->rows, N = linear->columns, T = shard->T;
    dy += shard->at * R;
    dx += shard->at * N;
    if (!pass->options.bf16) product_backward_input(T, N, R, dy, own->panels, add, dx);
    else product_backward_input_bf16(T, N, R, dy, halves_of(own), add, dx, pass_scratch(pass, shard->worker));
}

/* ---- gradients of matrices and biases ------------------------------------------------------------------- */

struct weight_jobs {
    struct pass *pass;
    const struct linear_use *uses;
    size_t T;
    bool add;
};

/* Jobs of a matrix: tiles of its rows. */
static size_t jobs_of(const struct pass *pass, const struct linear *linear) {
    return pass_linear_trained(pass, linear) ? tiles_of(linear->rows, JOB_ROWS) : 0;
}

static void weight_job(const struct weight_jobs *jobs, const struct linear_use *use, size_t tile, float *scratch) {
    const struct linear *linear = use->linear;
    size_t begin = tile * JOB_ROWS, end = smaller(linear->rows, begin + JOB_ROWS);
    void (*product)(size_t, size_t, size_t, const float *, const float *, size_t, size_t, bool, float *, float *,
                    float *) = jobs->pass->options.bf16 ? product_backward_weight_bf16 : product_backward_weight;
    product(jobs->T, linear->columns, linear->rows, use->x, use->dy, begin, end, jobs->add, linear->parameter->gradient,
            linear->bias_parameter ? linear->bias_parameter->gradient : NULL, scratch);
}

static void weight_jobs_body(void *context, size_t begin, size_t end, int worker) {
    const struct weight_jobs *jobs = context;
    for (size_t item = begin; item < end; item++) {
        const struct linear_use *use = jobs->uses;
        size_t tile = item, tiles;
        while (tile >= (tiles = jobs_of(jobs->pass, use->linear))) tile -= tiles, use++;
        weight_job(jobs, use, tile, pass_scratch(jobs->pass, worker));
    }
}

void pass_weight_gradients(struct pass *pass, size_t T, const struct linear_use *uses, size_t count, bool add) {
    struct weight_jobs jobs = {pass, uses, T, add};
    size_t total = 0;
    for (size_t i = 0; i < count; i++) total += jobs_of(pass, uses[i].linear);
    parallel_for(total, 1, weight_jobs_body, &jobs);
}

/* ---- layers outside the blocks -------------------------------------------------------------------------- */

struct own_product {
    const struct pass *pass;
    const struct linear *linear;
    const float *in;
    float *out;
    bool back, add;
};

static void own_tiles(void *context, size_t begin, size_t end, int worker) {
    const struct own_product *task = context;
    struct shard rows = {.at = begin, .T = end - begin, .worker = worker};
    if (task->back) pass_multiply_back(task->pass, task->linear, &rows, task->in, task->add, task->out);
    else pass_multiply(task->pass, task->linear, &rows, task->in, task->out);
}

void pass_own_forward(struct pass *pass, const struct linear *linear, size_t T, const float *x, float *y) {
    struct preparation task = {pass, (size_t)(linear - pass->model->linears), 1, PANELS_FORWARD};
    struct own_product product = {.pass = pass, .linear = linear, .in = x, .out = y};
    prepare(&task, pass->own_panels);
    parallel_for(T, OWN_TOKENS, own_tiles, &product);
}

void pass_own_backward(struct pass *pass, const struct linear *linear, size_t T, const float *x, const float *dy,
                       bool add_gradient, bool add_input, float *dx) {
    struct preparation task = {pass, (size_t)(linear - pass->model->linears), 1, PANELS_BACKWARD};
    struct own_product product = {.pass = pass, .linear = linear, .in = dy, .out = dx, .back = true, .add = add_input};
    struct linear_use use = {linear, x, dy};
    pass_weight_gradients(pass, T, &use, 1, add_gradient);
    if (!dx) return;
    prepare(&task, pass->own_panels);
    parallel_for(T, OWN_TOKENS, own_tiles, &product);
}

const float *pass_own_values(struct pass *pass, const struct linear *linear) {
    struct pass_linear *own = of(pass, linear);
    if (linear->value) return linear->value;
    unpack(own, pass->values);
    return pass->values;
}
