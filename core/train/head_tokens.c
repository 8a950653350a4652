/* The language-model heads in training: masked LM (dense, GELU, norm in front), causal LM (a projection in front where
 * the embedding is narrower), over the token table when tied, else over a matrix of their own.
 *
 * Logits of all rows over a large vocabulary would be the largest thing in memory, so rows go through in tiles. Within
 * one, tiles of the vocabulary give their columns of logits; rows give losses and, in place, gradients; stretches of
 * columns give the gradient at the head's input, summed over the vocabulary in order; tiles of the vocabulary again
 * give their rows of the matrix's gradient, to which each tile of rows adds in turn.
 */
#include "train/head.h"

#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/layers.h"
#include "train/products.h"

#define LOGITS_BYTES                                                                                                   \
    (32u << 20) /* of one tile of rows: some hundred rows, so that laying out panels does not count                    \
                 */
#define ROWS_LEAST 16
#define VOCABULARY_TILE 512
#define COLUMN_TILE 32
#define ADD_ROWS 24 /* rows of a product that is added at once: it stays in the first-level cache */

struct tokens_head {
    struct pass *pass;
    const uint32_t *rows;
    size_t count;      /* M */
    size_t V, E, C;    /* E: width of the matrix */
    const float *w;    /* (V,E) */
    const float *bias; /* [V] or NULL */
    float *dw, *dbias; /* or NULL */
    bool add;          /* to dw and dbias */
    /* (M,·); without transform and projection, input is gathered */
    float *gathered, *transformed, *activated, *input, *dinput;
    float *mean, *rstd;
    float *sums; /* [2C] gradients of the transform's norm */
    /* of the tile of rows at work */
    size_t first, tile, tile_most;
    float *logits, *teacher; /* (tile,V); teacher NULL unless it is asked tile by tile */
    /* NULL, or in bf16, columns padded to an even number: input (M,·), and the gradient in `logits` (tile,·) */
    uint16_t *input_halves, *logit_halves;
    double *row_loss;
    float *scratch; /* [workers][scratch_floats] */
    size_t scratch_floats;
    float *loss_scratch;
};

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static bool is_tied(const struct model *model) { return !model_part(model, PART_HEAD)->linear; }

/* ---- what lies in front of the matrix ---------------------------------------------------------------------- */

static void front_forward(struct tokens_head *head) {
    struct pass *pass = head->pass;
    const struct model *model = pass->model;
    const struct linear *transform = model_part(model, PART_HEAD_TRANSFORM)->linear,
                        *project = model_part(model, PART_PROJECT_OUT)->linear;
    const struct part_view *norm = model_part(model, PART_HEAD_NORM);
    size_t M = head->count, C = head->C;
    for (size_t i = 0; i < M; i++)
        memcpy(head->gathered + i * C, pass_hidden(pass) + (size_t)head->rows[i] * C, C * sizeof(float));
    if (transform) {
        pass_own_forward(pass, transform, M, head->gathered, head->transformed);
        kernels.gelu(M * C, head->transformed, head->activated);
        kernels.layer_norm(M, C, head->activated, norm->weight->value, norm->bias->value, model->config.norm_epsilon,
                           head->input, head->mean, head->rstd);
    } else if (project) {
        pass_own_forward(pass, project, M, head->gathered, head->input);
    }
}

static void add_sums(const struct parameter *parameter, const float *sums) {
    if (parameter->gradient) kernels.add(parameter->columns, sums, parameter->gradient);
}

static void front_backward(struct tokens_head *head) {
    struct pass *pass = head->pass;
    const struct model *model = pass->model;
    const struct linear *transform = model_part(model, PART_HEAD_TRANSFORM)->linear,
                        *project = model_part(model, PART_PROJECT_OUT)->linear;
    const struct part_view *norm = model_part(model, PART_HEAD_NORM);
    size_t M = head->count, C = head->C;
    const float *drows = head->dinput;
    if (transform) {
        memset(head->sums, 0, 2 * C * sizeof *head->sums);
        norm_backward(M, C, head->activated, head->mean, head->rstd, norm->weight->value, head->dinput, head->dinput,
                      head->sums, head->sums + C);
        add_sums(norm->weight, head->sums);
        add_sums(norm->bias, head->sums + C);
        kernels.gelu_backward(M * C, head->transformed, head->dinput, head->dinput);
        pass_own_backward(pass, transform, M, head->gathered, head->dinput, true, false, head->activated);
        drows = head->activated;
    } else if (project) {
        pass_own_backward(pass, project, M, head->gathered, head->dinput, true, false, head->activated);
        drows = head->activated;
    }
    for (size_t i = 0; i < M; i++) kernels.add(C, drows + i * C, pass->dhidden + (size_t)head->rows[i] * C);
}

/* ---- the matrix -------------------------------------------------------------------------------------------- */

static float *worker_scratch(const struct tokens_head *head, int worker) {
    return head->scratch + (size_t)worker * head->scratch_floats;
}

static size_t even(size_t n) { return size_round_up(n, 2); }

/* Row i of x (·,columns) in bf16, with a zero where the columns are odd. */
static void narrow_row(size_t i, size_t columns, const float *x, uint16_t *halves) {
    uint16_t *row = halves + i * even(columns);
    row[even(columns) - 1] = 0;
    kernels.narrow_bf16(columns, x + i * columns, row);
}

static void logit_columns(void *context, size_t begin, size_t end, int worker) {
    const struct tokens_head *head = context;
    size_t E = head->E, n = end - begin;
    float *panels = worker_scratch(head, worker), *out = head->logits + begin;
    const float *bias = head->bias ? head->bias + begin : NULL;
    if (!head->input_halves) {
        panels_forward(n, E, head->w + begin * E, 0, n, panels);
        kernels.matmul_f32(head->tile, E, head->input + head->first * E, E, panels, bias, out, head->V, n);
        return;
    }
    uint16_t *halves = (uint16_t *)(void *)panels;
    panels_forward_bf16(n, E, head->w + begin * E, 0, n, halves);
    kernels.matmul_bf16(head->tile, even(E), head->input_halves + head->first * even(E), even(E), halves, bias, out,
                        head->V, n);
}

/* Rows from..from+m-1 of the tile, tokens v..v+K-1 of the vocabulary: their part of dinput's columns. */
static void input_part(const struct tokens_head *head, size_t from, size_t m, size_t v, size_t K, size_t begin,
                       size_t n, const float *panels, float *product) {
    if (!head->logit_halves) {
        kernels.matmul_f32(m, K, head->logits + from * head->V + v, head->V, panels + begin * K, NULL, product,
                           COLUMN_TILE, n);
        return;
    }
    const uint16_t *halves = (const uint16_t *)(const void *)panels + begin * even(K);
    kernels.matmul_bf16(m, even(K), head->logit_halves + from * even(head->V) + v, even(head->V), halves, NULL, product,
                        COLUMN_TILE, n);
}

/* Columns begin..end-1 of dinput = dlogits · w. */
static void input_columns(void *context, size_t begin, size_t end, int worker) {
    const struct tokens_head *head = context;
    size_t V = head->V, E = head->E, n = end - begin;
    float *panels = worker_scratch(head, worker), product[ADD_ROWS * COLUMN_TILE];
    float *out = head->dinput + head->first * E + begin;
    for (size_t i = 0; i < head->tile; i++) memset(out + i * E, 0, n * sizeof *out);
    for (size_t v = 0; v < V; v += VOCABULARY_TILE) {
        size_t K = smaller(V - v, VOCABULARY_TILE);
        if (!head->logit_halves) panels_backward(K, E, head->w + v * E, begin, end, panels);
        else panels_backward_bf16(K, E, head->w + v * E, begin, end, (uint16_t *)(void *)panels);
        for (size_t i = 0; i < head->tile; i += ADD_ROWS) {
            size_t m = smaller(head->tile - i, ADD_ROWS);
            input_part(head, i, m, v, K, begin, n, panels, product);
            for (size_t j = 0; j < m; j++) kernels.add(n, product + j * COLUMN_TILE, out + (i + j) * E);
        }
    }
}

static void narrow_inputs(void *context, size_t begin, size_t end, int worker) {
    const struct tokens_head *head = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) narrow_row(i, head->E, head->input, head->input_halves);
}

static void narrow_logits(void *context, size_t begin, size_t end, int worker) {
    const struct tokens_head *head = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) narrow_row(i, head->V, head->logits, head->logit_halves);
}

static void weight_rows(void *context, size_t begin, size_t end, int worker) {
    const struct tokens_head *head = context;
    for (size_t i = 0; !head->dw && i < head->tile; i++)
        kernels.add(end - begin, head->logits + i * head->V + begin, head->dbias + begin);
    if (!head->dw) return;
    void (*product)(size_t, size_t, size_t, const float *, const float *, size_t, size_t, bool, float *, float *,
                    float *) = head->logit_halves ? product_backward_weight_bf16 : product_backward_weight;
    product(head->tile, head->E, head->V, head->input + head->first * head->E, head->logits, begin, end, head->add,
            head->dw, head->dbias, worker_scratch(head, worker));
}

/* ---- room -------------------------------------------------------------------------------------------------- */

/* Of one worker: the panels of a tile of the vocabulary, or what its weight gradient takes. */
static size_t scratch_f32(size_t rows, size_t E) {
    size_t panels = larger(panels_forward_floats(VOCABULARY_TILE, E), panels_backward_floats(VOCABULARY_TILE, E));
    return larger(panels, product_weight_scratch(rows, VOCABULARY_TILE, E));
}
static size_t scratch_bf16(size_t rows, size_t E) {
    size_t halves =
        larger(panels_forward_bf16_count(VOCABULARY_TILE, E), panels_backward_bf16_count(VOCABULARY_TILE, E));
    return larger(halves / 2, product_weight_bf16_scratch(rows, VOCABULARY_TILE, E));
}

static void cut(struct tokens_head *head, struct arena *arena, const struct logit_loss *labels) {
    const struct model *model = head->pass->model;
    size_t M = head->count, C = head->C, E = head->E, workers = (size_t)threads_get();
    bool transform = model_part(model, PART_HEAD_TRANSFORM)->linear,
         front = transform || model_part(model, PART_PROJECT_OUT)->linear;
    bool bf16 = head->pass->options.bf16;
    head->scratch_floats = bf16 ? scratch_bf16(head->tile_most, E) : scratch_f32(head->tile_most, E);
    head->scratch_floats = size_round_up(head->scratch_floats, MEMORY_ALIGN / sizeof(float));
    head->gathered = pass_cut_floats(arena, M * C);
    head->transformed = transform ? pass_cut_floats(arena, M * C) : NULL;
    head->activated = front ? pass_cut_floats(arena, M * C) : NULL;
    head->input = front ? pass_cut_floats(arena, M * E) : head->gathered;
    head->dinput = pass_cut_floats(arena, M * E);
    head->mean = pass_cut_floats(arena, M);
    head->rstd = pass_cut_floats(arena, M);
    head->sums = pass_cut_floats(arena, 2 * C);
    head->logits = pass_cut_floats(arena, head->tile_most * head->V);
    head->teacher =
        labels->teacher_rows && labels->alpha > 0 ? pass_cut_floats(arena, head->tile_most * head->V) : NULL;
    head->input_halves = bf16 ? pass_cut(arena, M * even(E), sizeof(uint16_t)) : NULL;
    head->logit_halves = bf16 ? pass_cut(arena, head->tile_most * even(head->V), sizeof(uint16_t)) : NULL;
    head->row_loss = pass_cut(arena, head->tile_most, sizeof *head->row_loss);
    head->scratch = pass_cut_floats(arena, workers * head->scratch_floats);
    head->loss_scratch = pass_cut_floats(arena, workers * logit_loss_scratch(labels, head->V));
}

static int tokens_open(struct tokens_head *head, struct pass *pass, const uint32_t *rows, size_t count,
                       const struct logit_loss *labels) {
    int status = 0;
    const struct model *model = pass->model;
    const struct parameter *bias = model_part(model, PART_HEAD_BIAS)->weight;
    const struct linear *own = model_part(model, PART_HEAD)->linear;
    const struct parameter *matrix = own ? own->parameter : model_part(model, PART_TOKENS)->weight;
    struct arena measure = {0};

    *head = (struct tokens_head){.pass = pass,
                                 .rows = rows,
                                 .count = count,
                                 .V = model->config.vocabulary,
                                 .E = config_embedding_width(&model->config),
                                 .C = model->config.width};
    if (!(model->config.model_heads & (HEAD_MASKED_LM | HEAD_CAUSAL_LM)))
        FAIL(E_UNSUPPORTED, "the model has no language-model head (masked LM or causal LM)");
    if (count > pass->batch->tokens) FAIL(E_SHAPE, "%zu rows of %zu tokens", count, pass->batch->tokens);
    for (size_t i = 0; i < count; i++)
        if (rows[i] >= pass->batch->tokens)
            FAIL(E_SHAPE, "row %zu is token %u of %zu", i, rows[i], pass->batch->tokens);
    TRY(logit_loss_check(labels, count, head->V));
    head->tile_most = smaller(count, larger(ROWS_LEAST, LOGITS_BYTES / (head->V * sizeof(float))));
    cut(head, &measure, labels);
    TRY(head_room(pass, measure.used_bytes));
    cut(head, &pass->head_room, labels);
    head->w = own ? pass_own_values(pass, own) : matrix->value;
    if (!head->w) FAIL(E_STATE, "'%s' is in its file's own format: open the model editable", matrix->name);
    head->bias = bias ? bias->value : NULL;
    head->dw = own && !pass_linear_trained(pass, own) ? NULL : matrix->gradient;
    head->dbias = bias ? bias->gradient : NULL;
    head->add = !(own ? pass->head_stale : pass->tokens_stale);
out:
    return status;
}

/* The matrix's gradient holds this pass's from now on. */
static void matrix_written(struct tokens_head *head) {
    struct pass *pass = head->pass;
    head->add = true;
    if (!is_tied(pass->model)) {
        pass->head_stale = false;
        return;
    }
    pass->tokens_stale = false;
    pass->touched_all = true;
}

/* Loss and gradient of the tile's logits. */
static int tile_loss(struct tokens_head *head, const struct logit_loss *labels, const struct logit_means *means,
                     double *loss) {
    int status = 0;
    struct logit_loss own = *labels;
    size_t first = head->first;
    if (head->teacher) {
        TRY(labels->teacher_rows(labels->teacher_context, first, head->tile, head->teacher));
        own.teacher = head->teacher;
        own.labels = labels->labels ? labels->labels + first : NULL;
        own.counted = labels->counted ? labels->counted + first : NULL;
        first = 0; /* of what `own` holds */
    }
    *loss += logit_loss_rows(&own, means, first, head->tile, head->V, head->pass->options.scale, head->logits,
                             head->row_loss, head->loss_scratch);
out:
    return status;
}

int head_tokens(struct pass *pass, const uint32_t *rows, size_t count, const struct logit_loss *labels, double *loss) {
    int status = 0;
    struct tokens_head head;
    struct logit_means means;

    *loss = 0;
    TRY(tokens_open(&head, pass, rows, count, labels));
    if (!count) goto out;
    logit_loss_means(labels, count, head.V, &means);
    front_forward(&head);
    if (head.input_halves) parallel_for(count, ROWS_LEAST, narrow_inputs, &head);
    for (head.first = 0; head.first < count; head.first += head.tile) {
        head.tile = smaller(count - head.first, head.tile_most);
        parallel_for(head.V, VOCABULARY_TILE, logit_columns, &head);
        TRY(tile_loss(&head, labels, &means, loss));
        if (head.logit_halves) parallel_for(head.tile, 1, narrow_logits, &head);
        parallel_for(head.E, COLUMN_TILE, input_columns, &head);
        if (head.dw || head.dbias) parallel_for(head.V, VOCABULARY_TILE, weight_rows, &head);
        if (head.dw) matrix_written(&head);
    }
    front_backward(&head);
out:
    return status;
}
