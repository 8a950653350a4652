#include "padded_rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

/* What a padded row leaves in a block. */
struct state {
    double *x, *query, *weight, *context, *sum1, *y, *up, *active, *sum2; /* weight (H,t): attention */
};

struct padded {
    struct pass *pass;
    const struct model *model;
    size_t C, F, H, D, L;
    double **gradient; /* like model->parameters */
    struct state *block;
    double *embedded, *hidden, *dx, *work; /* of the row at work */
};

/* ---- layers, for one row --------------------------------------------------------------------------------- */

static void affine(const struct linear *linear, const double *x, double *y) {
    for (size_t r = 0; r < linear->rows; r++) {
        y[r] = (double)linear->bias[r];
        for (size_t n = 0; n < linear->columns; n++) y[r] += (double)linear->value[r * linear->columns + n] * x[n];
    }
}

static double *gradient_of(const struct padded *padded, const struct parameter *parameter) {
    return padded->gradient[parameter - padded->model->parameters];
}

/* dx += dy · W. */
static void affine_back(const struct padded *padded, const struct linear *linear, const double *x, const double *dy,
                        double *dx) {
    double *dw = gradient_of(padded, linear->parameter), *db = gradient_of(padded, linear->bias_parameter);
    for (size_t r = 0; r < linear->rows; r++) {
        db[r] += dy[r];
        for (size_t n = 0; n < linear->columns; n++) {
            dw[r * linear->columns + n] += dy[r] * x[n];
            dx[n] += dy[r] * (double)linear->value[r * linear->columns + n];
        }
    }
}

static void moments(const struct padded *padded, const double *x, double *mean, double *rstd) {
    double squares = 0;
    *mean = 0;
    for (size_t c = 0; c < padded->C; c++) *mean += x[c] / (double)padded->C;
    for (size_t c = 0; c < padded->C; c++) squares += (x[c] - *mean) * (x[c] - *mean);
    *rstd = 1 / sqrt(squares / (double)padded->C + (double)padded->model->config.norm_epsilon);
}

static void norm(const struct padded *padded, const struct part_view *part, const double *x, double *y) {
    double mean, rstd;
    moments(padded, x, &mean, &rstd);
    for (size_t c = 0; c < padded->C; c++)
        y[c] = (x[c] - mean) * rstd * (double)part->weight->value[c] + (double)part->bias->value[c];
}

static void norm_back(const struct padded *padded, const struct part_view *part, const double *x, double *dx) {
    double mean, rstd, plain = 0, product = 0, C = (double)padded->C;
    double *dgain = gradient_of(padded, part->weight), *dbias = gradient_of(padded, part->bias);
    moments(padded, x, &mean, &rstd);
    for (size_t c = 0; c < padded->C; c++) {
        double hat = (x[c] - mean) * rstd;
        dgain[c] += dx[c] * hat;
        dbias[c] += dx[c];
        dx[c] *= (double)part->weight->value[c];
        plain += dx[c] / C;
        product += dx[c] * hat / C;
    }
    for (size_t c = 0; c < padded->C; c++) dx[c] = rstd * (dx[c] - plain - (x[c] - mean) * rstd * product);
}

static double normal_share(double x) { return 0.5 * (1 + erf(x / sqrt(2))); }
static double normal_density(double x) { return exp(-0.5 * x * x) / sqrt(2 * acos(-1)); }

/* Key or value of real token j, head h. */
static const float *real_row(const struct padded *padded, size_t block, enum part part, size_t token, size_t head) {
    return pass_part(padded->pass, block, part) + token * padded->C + head * padded->D;
}
static float *real_gradient(const struct padded *padded, size_t block, enum part part, size_t token, size_t head) {
    float *gradient = pass_want_part_gradient(padded->pass, block, part);
    assert_non_null(gradient);
    return gradient + token * padded->C + head * padded->D;
}

static double dot(size_t n, const double *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * (double)b[i];
    return sum;
}

/* Attention of the row to real tokens first..first+t-1. */
static void attend(const struct padded *padded, size_t b, size_t first, size_t t) {
    struct state *state = &padded->block[b];
    size_t D = padded->D;
    memset(state->context, 0, padded->C * sizeof(double));
    for (size_t h = 0; h < padded->H; h++) {
        double *weight = state->weight + h * t, sum = 0;
        for (size_t j = 0; j < t; j++) {
            const float *key = real_row(padded, b, PART_KEY, first + j, h);
            weight[j] = exp(dot(D, state->query + h * D, key) / sqrt((double)D));
            sum += weight[j];
        }
        for (size_t j = 0; j < t; j++) weight[j] /= sum;
        for (size_t j = 0; j < t; j++)
            for (size_t d = 0; d < D; d++)
                state->context[h * D + d] += weight[j] * (double)real_row(padded, b, PART_VALUE, first + j, h)[d];
    }
}

/* From dcontext: dquery, and what keys and values of real tokens get. */
static void attend_back(const struct padded *padded, size_t b, size_t first, size_t t, const double *dcontext,
                        double *dquery) {
    const struct state *state = &padded->block[b];
    size_t D = padded->D;
    memset(dquery, 0, padded->C * sizeof(double));
    for (size_t h = 0; h < padded->H; h++) {
        const double *weight = state->weight + h * t, *dy = dcontext + h * D, *query = state->query + h * D;
        double mean = 0;
        for (size_t j = 0; j < t; j++) mean += weight[j] * dot(D, dy, real_row(padded, b, PART_VALUE, first + j, h));
        for (size_t j = 0; j < t; j++) {
            const float *key = real_row(padded, b, PART_KEY, first + j, h);
            float *dkey = real_gradient(padded, b, PART_KEY, first + j, h),
                  *dvalue = real_gradient(padded, b, PART_VALUE, first + j, h);
            double score = weight[j] * (dot(D, dy, real_row(padded, b, PART_VALUE, first + j, h)) - mean);
            for (size_t d = 0; d < D; d++) {
                dquery[h * D + d] += score * (double)key[d] / sqrt((double)D);
                dkey[d] += (float)(score * query[d] / sqrt((double)D));
                dvalue[d] += (float)(weight[j] * dy[d]);
            }
        }
    }
}

/* ---- a row through the model ------------------------------------------------------------------------------- */

static const struct linear *layer(const struct padded *padded, size_t b, enum part part) {
    return block_part(padded->model, b, part)->linear;
}

static void embed(const struct padded *padded, size_t id, size_t type, size_t position) {
    const struct parameter *types = model_part(padded->model, PART_TYPES)->weight;
    for (size_t c = 0, C = padded->C; c < C; c++) {
        padded->embedded[c] = (double)model_part(padded->model, PART_TOKENS)->weight->value[id * C + c] +
                              (double)model_part(padded->model, PART_POSITIONS)->weight->value[position * C + c];
        if (types) padded->embedded[c] += (double)types->value[type * C + c];
    }
    norm(padded, model_part(padded->model, PART_EMBEDDING_NORM), padded->embedded, padded->block[0].x);
}

static void forward(const struct padded *padded, size_t first, size_t t) {
    for (size_t b = 0; b < padded->L; b++) {
        struct state *state = &padded->block[b];
        affine(layer(padded, b, PART_QUERY), state->x, state->query);
        attend(padded, b, first, t);
        affine(layer(padded, b, PART_ATTENTION_OUTPUT), state->context, state->sum1);
        for (size_t c = 0; c < padded->C; c++) state->sum1[c] += state->x[c];
        norm(padded, block_part(padded->model, b, PART_ATTENTION_NORM), state->sum1, state->y);
        affine(layer(padded, b, PART_UP), state->y, state->up);
        for (size_t f = 0; f < padded->F; f++) state->active[f] = state->up[f] * normal_share(state->up[f]);
        affine(layer(padded, b, PART_DOWN), state->active, state->sum2);
        for (size_t c = 0; c < padded->C; c++) state->sum2[c] += state->y[c];
        norm(padded, block_part(padded->model, b, PART_FEED_FORWARD_NORM), state->sum2,
             b + 1 < padded->L ? padded->block[b + 1].x : padded->hidden);
    }
}

static void backward(const struct padded *padded, size_t first, size_t t) {
    double *dx = padded->dx, *dup = padded->work, *dcontext = dup + padded->F, *dquery = dcontext + padded->C;
    for (size_t b = padded->L; b-- > 0;) {
        const struct state *state = &padded->block[b];
        norm_back(padded, block_part(padded->model, b, PART_FEED_FORWARD_NORM), state->sum2, dx);
        memset(dup, 0, padded->F * sizeof *dup);
        affine_back(padded, layer(padded, b, PART_DOWN), state->active, dx, dup);
        for (size_t f = 0; f < padded->F; f++)
            dup[f] *= normal_share(state->up[f]) + state->up[f] * normal_density(state->up[f]);
        affine_back(padded, layer(padded, b, PART_UP), state->y, dup, dx);
        norm_back(padded, block_part(padded->model, b, PART_ATTENTION_NORM), state->sum1, dx);
        memset(dcontext, 0, padded->C * sizeof *dcontext);
        affine_back(padded, layer(padded, b, PART_ATTENTION_OUTPUT), state->context, dx, dcontext);
        attend_back(padded, b, first, t, dcontext, dquery);
        affine_back(padded, layer(padded, b, PART_QUERY), state->x, dquery, dx);
    }
    norm_back(padded, model_part(padded->model, PART_EMBEDDING_NORM), padded->embedded, dx);
}

static void add_row(const struct padded *padded, const struct parameter *table, size_t row) {
    for (size_t c = 0; table && c < padded->C; c++) gradient_of(padded, table)[row * padded->C + c] += padded->dx[c];
}

/* ---- the batch --------------------------------------------------------------------------------------------- */

static void padded_open(struct padded *padded, struct pass *pass) {
    const struct model *model = pass->model;
    *padded = (struct padded){.pass = pass,
                              .model = model,
                              .C = model->config.width,
                              .F = model->config.feed_forward,
                              .H = model->config.heads,
                              .D = model->config.head_width,
                              .L = model->config.layers};
    padded->gradient = room(model->parameter_count, sizeof *padded->gradient);
    for (size_t i = 0; i < model->parameter_count; i++)
        padded->gradient[i] = room(model->parameters[i].rows * model->parameters[i].columns, sizeof(double));
    padded->block = room(padded->L, sizeof *padded->block);
    for (size_t b = 0; b < padded->L; b++) {
        struct state *state = &padded->block[b];
        double **rows[] = {&state->x, &state->query, &state->context, &state->sum1, &state->y, &state->sum2};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = room(padded->C, sizeof(double));
        state->up = room(padded->F, sizeof(double));
        state->active = room(padded->F, sizeof(double));
        state->weight = room(padded->H * model->config.positions, sizeof(double));
    }
    padded->embedded = room(padded->C, sizeof(double));
    padded->hidden = room(padded->C, sizeof(double));
    padded->dx = room(padded->C, sizeof(double));
    padded->work = room(padded->F + 2 * padded->C, sizeof(double));
}

/* Adds what was gathered to the model's gradients. */
static void padded_close(struct padded *padded) {
    for (size_t i = 0; i < padded->model->parameter_count; i++) {
        const struct parameter *parameter = &padded->model->parameters[i];
        for (size_t j = 0; j < parameter->rows * parameter->columns; j++)
            parameter->gradient[j] += (float)padded->gradient[i][j];
        free(padded->gradient[i]);
    }
    for (size_t b = 0; b < padded->L; b++) {
        struct state *state = &padded->block[b];
        double *rows[] = {state->x, state->query, state->weight, state->context, state->sum1,
                          state->y, state->up,    state->active, state->sum2};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) free(rows[i]);
    }
    free(padded->gradient);
    free(padded->block);
    free(padded->embedded);
    free(padded->hidden);
    free(padded->dx);
    free(padded->work);
}

/* Position i of sequence b: a real token's hidden row, or a padded one sent through the model. */
static void hidden_row(const struct padded *padded, const struct golden_family *family,
                       const struct golden_batch *batch, size_t b, size_t i, double *hidden) {
    size_t first = batch->offset[b], t = batch->offset[b + 1] - first, at = b * batch->T_padded + i;
    const int32_t *ids = golden_tensor(&family->io, "padded.input_ids")->data;
    const struct tensor *types = safetensors_find(&family->io, "padded.token_type_ids");
    const float *real = pass_hidden(padded->pass) + (first + i) * padded->C;
    for (size_t c = 0; i < t && c < padded->C; c++) hidden[c] = (double)real[c];
    if (i < t) return;
    embed(padded, (size_t)ids[at], types ? (size_t)((const int32_t *)types->data)[at] : 0, i);
    forward(padded, first, t);
    memcpy(hidden, padded->hidden, padded->C * sizeof *hidden);
}

/* The gradient in dx of such a row, into the pass or through the model. */
static void hidden_row_back(const struct padded *padded, const struct golden_family *family,
                            const struct golden_batch *batch, size_t b, size_t i) {
    size_t first = batch->offset[b], t = batch->offset[b + 1] - first, at = b * batch->T_padded + i;
    const int32_t *ids = golden_tensor(&family->io, "padded.input_ids")->data;
    const struct tensor *types = safetensors_find(&family->io, "padded.token_type_ids");
    for (size_t c = 0; i < t && c < padded->C; c++)
        padded->pass->dhidden[(first + i) * padded->C + c] += (float)padded->dx[c];
    if (i < t) return;
    backward(padded, first, t);
    if (ids[at] != padded->model->config.pad_id)
        add_row(padded, model_part(padded->model, PART_TOKENS)->weight, (size_t)ids[at]);
    add_row(padded, model_part(padded->model, PART_POSITIONS)->weight, i);
    add_row(padded, model_part(padded->model, PART_TYPES)->weight,
            types ? (size_t)((const int32_t *)types->data)[at] : 0);
}

/* Half the mean loss of one side over logits (B,T,2); their gradients in place. */
static double side_loss(const struct golden_batch *batch, const int32_t *label, double *logits) {
    size_t T = batch->T_padded, count = 0;
    double loss = 0;
    for (size_t b = 0; b < batch->B; b++) count += label[b] >= 0 && (size_t)label[b] < T;
    for (size_t b = 0; b < batch->B; b++) {
        double *z = logits + b * T * 2, sum = 0;
        bool counts = label[b] >= 0 && (size_t)label[b] < T;
        for (size_t i = 0; i < T; i++) sum += exp(z[2 * i]);
        if (counts) loss += 0.5 * (log(sum) - z[2 * (size_t)label[b]]) / (double)count;
        for (size_t i = 0; i < T; i++)
            z[2 * i] = counts ? 0.5 * (exp(z[2 * i]) / sum - (i == (size_t)label[b])) / (double)count : 0;
    }
    return loss;
}

double padded_span(struct pass *pass, const struct golden_family *family, const struct golden_batch *batch) {
    const struct linear *span = model_part(pass->model, PART_SPAN)->linear;
    size_t T = batch->T_padded;
    struct padded padded;
    padded_open(&padded, pass);
    double *logits = room(batch->B * T * 2, sizeof *logits), *hidden = room(padded.C, sizeof *hidden), loss;
    for (size_t i = 0; i < batch->B * T; i++) {
        hidden_row(&padded, family, batch, i / T, i % T, hidden);
        affine(span, hidden, logits + 2 * i);
    }
    loss = side_loss(batch, golden_tensor(&family->io, "padded.start_positions")->data, logits);
    loss += side_loss(batch, golden_tensor(&family->io, "padded.end_positions")->data, logits + 1);
    for (size_t i = 0; i < batch->B * T; i++) { /* forward again: the states are this row's */
        hidden_row(&padded, family, batch, i / T, i % T, hidden);
        memset(padded.dx, 0, padded.C * sizeof *padded.dx);
        affine_back(&padded, span, hidden, logits + 2 * i, padded.dx);
        hidden_row_back(&padded, family, batch, i / T, i % T);
    }
    if (pass_backward(pass) < 0) fail_msg("%s", error_text());
    padded_close(&padded);
    free(logits);
    free(hidden);
    return loss;
}
