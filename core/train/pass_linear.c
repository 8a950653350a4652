/* All that a linear layer does in training: its values as panels, the product of a shard, the gradient at its input,
 * and the gradients of its matrix and bias.
 *
 * Nothing else in core/train reads a layer's values or multiplies by them (but for the tiles of a language-model head),
 * so what changes a layer in training, a struct linear_edit, is applied here. Values that a layer does not hold, of
 * packed layers and of those seen through a quantizer, are made when its block is at work, and are gone with the next.
 */
#include "train/pass.h"

#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "train/adapter.h"
#include "train/fake_quant.h"
#include "train/products.h"

#define PANEL_TILE 64    /* rows or columns of a matrix that one item turns into panels */
#define JOB_ROWS 128     /* rows of a weight gradient in one job, */
#define JOB_ROWS_BF16 96 /* in bf16: whole blocks of the kernels, which end together on two or four threads */
#define OWN_TOKENS 112
#define ROUND_TOKENS 16 /* tokens whose input one item rounds */
#define PAIR_TOKENS 64  /* tokens whose input one item pairs: even */
#define USES_MOST 7     /* linear layers of a block */
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
        if (own->linear->block < 0 && (own->edit.adapter || own->edit.fake))
            FAIL(E_UNSUPPORTED, "layer '%s' is outside the blocks: only layers inside are edited", own->linear->name);
        if (!own->value && own->edit.fake)
            FAIL(E_UNSUPPORTED, "layer '%s' is packed already: there is nothing to quantize", own->linear->name);
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

size_t pass_linear_scratch(const struct pass *pass, const struct linear *linear, size_t shard, size_t T) {
    const struct linear_edit *edit = &of(pass, linear)->edit;
    size_t R = linear->rows, N = linear->columns, rows = smaller(R, JOB_ROWS);
    size_t weight = larger(product_weight_scratch(T, rows, N), product_turned_bf16_scratch(T, rows));
    size_t product = product_bf16_scratch(larger(shard, OWN_TOKENS), larger(R, N));
    if (edit->fake) weight += rows * N, product += shard * N;
    if (edit->adapter) product = larger(product, adapter_scratch(edit->adapter, T));
    return larger(weight, product);
}

bool pass_makes_values(const struct pass *pass, const struct linear *linear) {
    return !linear->value || of(pass, linear)->edit.fake;
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

/* Items of a layer's values: a packed layer is one, a quantizer has tiles of rows. */
static size_t value_tiles(const struct pass_linear *own) {
    if (!own->linear->value) return 1;
    return own->edit.fake ? tiles_of(own->linear->rows, PANEL_TILE) : 0;
}

static void value_tiles_body(void *context, size_t begin, size_t end, int worker) {
    const struct preparation *task = context;
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const struct pass_linear *own = &task->pass->linear[task->first];
        size_t tile = item, tiles;
        while (tile >= (tiles = value_tiles(own))) tile -= tiles, own++;
        size_t first = tile * PANEL_TILE, N = own->linear->columns;
        if (own->edit.fake)
            fake_quant_rows(own->edit.fake, own->linear->value, first, smaller(own->linear->rows, first + PANEL_TILE),
                            own->made + first * N);
        else unpack(own, own->made);
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
    float *values = pass->values;
    size_t tiles = 0, made = 0;
    for (size_t i = task->first; i < task->first + task->count; i++) {
        struct pass_linear *own = &pass->linear[i];
        own->panels = panels;
        panels += pass_panel_floats(own->linear);
        tiles += panel_tiles(own->linear, task->direction);
        if (!pass_makes_values(pass, own->linear)) continue;
        own->value = own->made = values;
        values += size_round_up(own->linear->rows * own->linear->columns, ROUND_FLOATS);
        made += value_tiles(own);
    }
    parallel_for(made, 1, value_tiles_body, task);
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
    const struct linear_edit *edit = &own->edit;
    size_t R = linear->rows, N = linear->columns, T = shard->T;
    float *scratch = pass_scratch(pass, shard->worker);
    const float *input = x += shard->at * N;
    y += shard->at * R;
    if (edit->fake && edit->fake->plan.inputs != FAKE_INPUTS_NONE) {
        fake_quant_input(edit->fake, T, x, scratch);
        input = scratch;
        scratch += T * N;
    }
    if (!pass->options.bf16) product_forward(T, N, R, input, own->panels, linear->bias, y);
    else product_forward_bf16(T, N, R, input, halves_of(own), linear->bias, y, scratch);
    if (edit->adapter) adapter_forward(edit->adapter, shard->at, T, x, y, pass_scratch(pass, shard->worker));
}

void pass_multiply_back(const struct pass *pass, const struct linear *linear, const struct shard *shard,
                        const float *dy, const float *x, bool add, float *dx) {
    const struct pass_linear *own = of(pass, linear);
    const struct linear_edit *edit = &own->edit;
    size_t R = linear->rows, N = linear->columns, T = shard->T;
    float *scratch = pass_scratch(pass, shard->worker), *to = dx += shard->at * N;
    bool masked = edit->fake && edit->fake->plan.inputs == FAKE_INPUTS_EMA;
    dy += shard->at * R;
    if (masked) to = scratch, scratch += T * N;
    if (!pass->options.bf16) product_backward_input(T, N, R, dy, own->panels, add && !masked, to);
    else product_backward_input_bf16(T, N, R, dy, halves_of(own), add && !masked, to, scratch);
    if (masked) {
        fake_quant_input_gradient(edit->fake, T, x + shard->at * N, to);
        if (add) kernels.add(T * N, to, dx);
        else memcpy(dx, to, T * N * sizeof *dx);
    }
    if (edit->adapter) adapter_backward(edit->adapter, shard->at, T, dy, dx, pass_scratch(pass, shard->worker));
}

static uint16_t *input_halves(const struct pass *pass) { return (uint16_t *)(void *)pass->input_panels; }

/* ---- gradients of matrices and biases ------------------------------------------------------------------- */

struct weight_jobs {
    struct pass *pass;
    const struct linear_use *uses;
    size_t T;
    bool add;
};

static size_t job_rows(const struct pass *pass) { return pass->options.bf16 ? JOB_ROWS_BF16 : JOB_ROWS; }

/* Jobs of a matrix: tiles of its rows, then those of its low-rank update. */
static size_t matrix_jobs(const struct pass *pass, const struct linear *linear) {
    return pass_linear_trained(pass, linear) ? tiles_of(linear->rows, job_rows(pass)) : 0;
}
static size_t jobs_of(const struct pass *pass, const struct linear *linear) {
    return matrix_jobs(pass, linear) + (of(pass, linear)->edit.adapter ? ADAPTER_JOBS : 0);
}

static void weight_job(const struct weight_jobs *jobs, const struct linear_use *use, size_t tile, float *scratch) {
    const struct pass *pass = jobs->pass;
    const struct linear *linear = use->linear;
    const struct fake_quant *fake = of(pass, linear)->edit.fake;
    size_t R = linear->rows, N = linear->columns, begin = tile * job_rows(pass),
           rows = smaller(R - begin, job_rows(pass));
    float *dw = linear->parameter->gradient + begin * N, *dq = dw;
    float *dbias = linear->bias_parameter ? linear->bias_parameter->gradient + begin : NULL;
    const float *dy = use->dy + begin;
    if (fake && !fake_quant_passes(fake)) {
        dq = scratch;
        scratch += rows * N;
        if (jobs->add) memset(dq, 0, rows * N * sizeof *dq);
    }
    if (pass->options.bf16)
        product_backward_weight_panels_bf16(jobs->T, N, R, input_halves(pass), dy, 0, rows, jobs->add, dq, dbias,
                                            scratch);
    else product_backward_weight(jobs->T, N, R, use->x, dy, 0, rows, jobs->add, dq, dbias, scratch);
    if (dq != dw)
        fake_quant_gradient(fake, linear->value, begin, begin + rows, dq, jobs->add, linear->parameter->gradient);
}

static void weight_jobs_body(void *context, size_t begin, size_t end, int worker) {
    const struct weight_jobs *jobs = context;
    for (size_t item = begin; item < end; item++) {
        const struct linear_use *use = jobs->uses;
        size_t tile = item, tiles;
        while (tile >= (tiles = jobs_of(jobs->pass, use->linear))) tile -= tiles, use++;
        size_t matrix = matrix_jobs(jobs->pass, use->linear);
        float *scratch = pass_scratch(jobs->pass, worker);
        if (tile < matrix) weight_job(jobs, use, tile, scratch);
        else
            adapter_gradient(of(jobs->pass, use->linear)->edit.adapter, tile - matrix, jobs->T, use->x, use->dy,
                             jobs->add, scratch);
    }
}

static void run_together(struct pass *pass, size_t T, const struct linear_use *uses, size_t count, bool add) {
    struct weight_jobs jobs = {pass, uses, T, add};
    size_t total = 0;
    for (size_t i = 0; i < count; i++) total += jobs_of(pass, uses[i].linear);
    parallel_for(total, 1, weight_jobs_body, &jobs);
}

static void pair_input(void *context, size_t begin, size_t end, int worker) {
    const struct weight_jobs *jobs = context;
    (void)worker;
    panels_rows_bf16(jobs->T, jobs->uses->linear->columns, jobs->uses->x, begin, end, input_halves(jobs->pass));
}

/* In bf16 the layers that share an input share its panels; `uses` is put in their order. */
static void run_jobs(struct pass *pass, size_t T, struct linear_use *uses, size_t count, bool add) {
    if (!pass->options.bf16) {
        run_together(pass, T, uses, count, add);
        return;
    }
    for (size_t first = 0, end; first < count; first = end) {
        struct weight_jobs jobs = {pass, uses + first, T, add};
        bool trained = false;
        end = first;
        for (size_t i = first; i < count; i++) {
            struct linear_use use = uses[i];
            if (use.x != uses[first].x) continue;
            trained = trained || pass_linear_trained(pass, use.linear);
            uses[i] = uses[end], uses[end++] = use;
        }
        if (trained) parallel_for(T, PAIR_TOKENS, pair_input, &jobs);
        run_together(pass, T, uses + first, end - first, add);
    }
}

/* The quantizer of a layer's input. */
static const struct fake_quant *input_quantizer(const struct pass *pass, const struct linear *linear) {
    const struct fake_quant *fake = of(pass, linear)->edit.fake;
    return fake && fake->plan.inputs != FAKE_INPUTS_NONE && pass_linear_trained(pass, linear) ? fake : NULL;
}

struct rounding {
    const struct fake_quant *fake;
    const float *x;
    float *rounded;
};

static void round_tokens(void *context, size_t begin, size_t end, int worker) {
    const struct rounding *task = context;
    size_t N = task->fake->shape.columns;
    (void)worker;
    fake_quant_input(task->fake, end - begin, task->x + begin * N, task->rounded + begin * N);
}

/* Layers that saw a rounded input: it is made again, once for those that share it. */
static void run_rounded_jobs(struct pass *pass, size_t T, const struct linear_use *uses, size_t count, bool add) {
    bool done[USES_MOST] = {false};
    for (size_t i = 0; i < count; i++) {
        const struct fake_quant *fake = input_quantizer(pass, uses[i].linear);
        struct rounding task = {fake, uses[i].x, pass->rounded};
        struct linear_use shared[USES_MOST];
        size_t sharing = 0;
        if (!fake || done[i]) continue;
        for (size_t j = i; j < count; j++) {
            const struct fake_quant *other = input_quantizer(pass, uses[j].linear);
            if (!other || done[j] || uses[j].x != uses[i].x) continue;
            if (other != fake && (other->plan.inputs | fake->plan.inputs) != FAKE_INPUTS_DYNAMIC) continue;
            done[j] = true;
            shared[sharing++] = (struct linear_use){uses[j].linear, pass->rounded, uses[j].dy};
        }
        parallel_for(T, ROUND_TOKENS, round_tokens, &task);
        run_jobs(pass, T, shared, sharing, add);
    }
}

void pass_weight_gradients(struct pass *pass, size_t T, const struct linear_use *uses, size_t count, bool add) {
    struct linear_use plain[USES_MOST] = {{NULL, NULL, NULL}};
    size_t plain_count = 0;
    CHECK(count <= USES_MOST, "%zu uses", count);
    for (size_t i = 0; i < count; i++)
        if (!input_quantizer(pass, uses[i].linear)) plain[plain_count++] = uses[i];
    run_jobs(pass, T, plain, plain_count, add);
    if (plain_count < count) run_rounded_jobs(pass, T, uses, count, add);
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
    if (task->back) pass_multiply_back(task->pass, task->linear, &rows, task->in, NULL, task->add, task->out);
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

/* ---- edits --------------------------------------------------------------------------------------------- */

static void prepare_adapters(void *context, size_t begin, size_t end, int worker) {
    const struct pass *pass = context;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        if (pass->linear[i].edit.adapter)
            adapter_prepare(pass->linear[i].edit.adapter, pass->options.step, pass->options.first_token,
                            pass->options.bf16);
}

int pass_edits_begin(struct pass *pass) {
    int status = 0;
    size_t count = pass->model->linear_count, adapters = 0;
    for (size_t i = 0; i < count; i++) {
        const struct linear_edit *edit = &pass->linear[i].edit;
        if (edit->adapter) TRY(adapter_reserve(edit->adapter, pass->tokens_max));
        if (edit->fake) fake_quant_begin(edit->fake, pass->options.step);
        adapters += edit->adapter != NULL;
    }
    if (adapters) parallel_for(count, 1, prepare_adapters, pass);
out:
    return status;
}

const float *pass_own_values(struct pass *pass, const struct linear *linear) {
    struct pass_linear *own = of(pass, linear);
    if (linear->value) return linear->value;
    unpack(own, pass->values);
    return pass->values;
}
