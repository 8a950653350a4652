/* Heads over sequences: classification and regression by the first token, question answering over all tokens,
 * similarity of pooled sentences. Their matrices are small; what is worth sharing out is done by pass_own_*.
 */
#include "train/head.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/layers.h"

int head_room(struct pass *pass, size_t bytes) {
    int status = 0;
    if (bytes > pass->head_room.capacity_bytes) {
        arena_close(&pass->head_room);
        TRY(arena_open_raw(&pass->head_room, bytes));
    }
    pass->head_room.used_bytes = 0;
out:
    return status;
}

/* ---- classification and regression ----------------------------------------------------------------------- */

/* (B,·): first tokens, pooler before and after its activation and dropout, logits and their gradient in place. */
struct pooled {
    const struct linear *pooler, *classifier;
    size_t B, C, K;
    float *first, *pooled, *dropped, *logits, *dpooled, *scratch;
    uint8_t *keep;
    double *row_loss;
};

static bool pooler_is_relu(const struct model *model) {
    return ((const struct parts *)model->family_state)->family->pooler_relu;
}

/* Dropout of the pooled rows is drawn by the sequence's place in its step. */
static void drop_pooled(const struct pass *pass, struct pooled *head) {
    size_t stride = size_round_up(head->C, 8), site = 2 * pass->model->config.layers + 1;
    memcpy(head->dropped, head->pooled, head->B * head->C * sizeof(float));
    for (size_t s = 0; pass->options.dropout > 0 && s < head->B; s++)
        dropout_forward(pass->options.seed, pass->stream[site], (pass->options.first_sequence + s) * stride, head->C,
                        pass->options.dropout, head->dropped + s * head->C, head->keep + s * head->C);
}

static void cut_pooled(struct pooled *head, struct arena *arena, size_t scratch) {
    size_t B = head->B, C = head->C;
    head->first = pass_cut_floats(arena, B * C);
    head->pooled = pass_cut_floats(arena, B * C);
    head->dropped = pass_cut_floats(arena, B * C);
    head->dpooled = pass_cut_floats(arena, B * C);
    head->keep = pass_cut(arena, B * C, 1);
    head->logits = pass_cut_floats(arena, B * head->K);
    head->row_loss = pass_cut(arena, B, sizeof *head->row_loss);
    head->scratch = pass_cut_floats(arena, scratch);
}

static int check_pooled(const struct model *model) {
    if (model_part(model, PART_CLASSIFIER)->linear) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "the model has no classification head");
}

static int pooled_forward(struct pass *pass, size_t scratch, struct pooled *head) {
    int status = 0;
    const struct model *model = pass->model;
    struct arena measure = {0};
    size_t B = pass->batch->sequences, C = model->config.width;

    *head = (struct pooled){.pooler = model_part(model, PART_POOLER)->linear,
                            .classifier = model_part(model, PART_CLASSIFIER)->linear,
                            .B = B,
                            .C = C,
                            .K = model->config.classes};
    cut_pooled(head, &measure, scratch);
    TRY(head_room(pass, measure.used_bytes));
    cut_pooled(head, &pass->head_room, scratch);
    for (size_t s = 0; s < B; s++)
        memcpy(head->first + s * C, pass_hidden(pass) + pass->batch->offset[s] * C, C * sizeof(float));
    pass_own_forward(pass, head->pooler, B, head->first, head->pooled);
    for (size_t i = 0; i < B * C; i++)
        head->pooled[i] = pooler_is_relu(model) ? fmaxf(head->pooled[i], 0) : tanhf(head->pooled[i]);
    drop_pooled(pass, head);
    pass_own_forward(pass, head->classifier, B, head->dropped, head->logits);
out:
    return status;
}

/* From the gradient in `logits`. */
static void pooled_backward(struct pass *pass, struct pooled *head) {
    size_t B = head->B, C = head->C;
    pass_own_backward(pass, head->classifier, B, head->dropped, head->logits, true, false, head->dpooled);
    if (pass->options.dropout > 0)
        dropout_backward(B * C, pass->options.dropout, head->keep, head->dpooled, head->dpooled);
    for (size_t i = 0; i < B * C; i++) {
        float y = head->pooled[i];
        head->dpooled[i] *= pooler_is_relu(pass->model) ? (y > 0 ? 1.0f : 0.0f) : 1.0f - y * y;
    }
    pass_own_backward(pass, head->pooler, B, head->first, head->dpooled, true, false, head->dropped);
    for (size_t s = 0; s < B; s++) kernels.add(C, head->dropped + s * C, pass->dhidden + pass->batch->offset[s] * C);
}

int head_classify(struct pass *pass, const struct logit_loss *labels, double *loss) {
    int status = 0;
    struct pooled head;
    struct logit_means means;
    size_t B = pass->batch->sequences, K = pass->model->config.classes;
    size_t scratch = (size_t)threads_get() * logit_loss_scratch(labels, K);
    bool agree = labels->agreement > 0;
    double apart = 0;

    TRY(check_pooled(pass->model));
    TRY(logit_loss_check(labels, B, K));
    TRY(pooled_forward(pass, scratch + (agree ? B * K : 0), &head));
    logit_loss_means(labels, B, K, &means);
    if (agree)
        apart = loss_agreement(head.logits, B / 2, K, labels->labels, labels->class_weight, labels->agreement,
                               pass->options.scale, head.scratch + scratch);
    *loss = logit_loss_rows(labels, &means, 0, B, K, pass->options.scale, head.logits, head.row_loss, head.scratch);
    *loss += apart;
    if (agree) kernels.add(B * K, head.scratch + scratch, head.logits);
    pooled_backward(pass, &head);
out:
    return status;
}

int head_regress(struct pass *pass, const float *target, double *loss) {
    int status = 0;
    struct pooled head;
    double sum = 0, B = (double)pass->batch->sequences;

    TRY(check_pooled(pass->model));
    if (pass->model->config.classes != 1)
        FAIL(E_UNSUPPORTED, "regression needs a head of one output (the model has %zu classes)",
             pass->model->config.classes);
    TRY(pooled_forward(pass, 0, &head));
    for (size_t s = 0; s < head.B; s++) {
        double off = (double)head.logits[s] - (double)target[s];
        sum += off * off;
        head.logits[s] = (float)(2 * off * pass->options.scale / B);
    }
    *loss = sum / B;
    pooled_backward(pass, &head);
out:
    return status;
}

/* ---- question answering ---------------------------------------------------------------------------------- */

int head_span(struct pass *pass, const struct span_loss *span, double *loss) {
    int status = 0;
    const struct linear *linear = model_part(pass->model, PART_SPAN)->linear;
    size_t T = pass->batch->tokens;
    float *logits;

    if (!linear) FAIL(E_UNSUPPORTED, "the model has no span head (question answering)");
    TRY(head_room(pass, 2 * T * sizeof *logits));
    logits = pass_cut_floats(&pass->head_room, 2 * T);
    pass_own_forward(pass, linear, T, pass_hidden(pass), logits);
    TRY(loss_span(logits, pass->batch->offset, pass->batch->sequences, span, pass->options.scale, loss));
    pass_own_backward(pass, linear, T, pass_hidden(pass), logits, true, true, pass->dhidden);
out:
    return status;
}

/* ---- similarity ------------------------------------------------------------------------------------------ */

static double dot(size_t n, const float *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* d cos(u,v)/du times `factor`, shared out over the tokens whose mean u is. */
static void cosine_back(struct pass *pass, size_t sequence, const float *u, const float *v, double cosine,
                        double lengths, double factor, float *du) {
    size_t C = pass->model->config.width, from, to;
    double squares = dot(C, u, u);
    model_pooled_tokens(pass->model, pass->batch, sequence, &from, &to);
    for (size_t c = 0; c < C; c++)
        du[c] = (float)(factor / (double)(to - from) * ((double)v[c] / lengths - (double)u[c] * cosine / squares));
    for (size_t t = from; t < to; t++) kernels.add(C, du, pass->dhidden + t * C);
}

int head_similarity(struct pass *pass, const float *target, double *loss) {
    int status = 0;
    size_t B = pass->batch->sequences, C = pass->model->config.width, pairs = B / 2;
    float *pooled;
    double sum = 0;

    if (B % 2) FAIL(E_SHAPE, "similarity needs pairs of sequences (the batch has %zu)", B);
    TRY(head_room(pass, (B + 1) * C * sizeof *pooled));
    pooled = pass_cut_floats(&pass->head_room, (B + 1) * C);
    model_pool(pass->model, pass->batch, pass_hidden(pass), false, pooled);
    for (size_t i = 0; i < pairs; i++) {
        const float *u = pooled + 2 * i * C, *v = u + C;
        double lengths = sqrt(dot(C, u, u) * dot(C, v, v)), cosine = lengths > 0 ? dot(C, u, v) / lengths : 0;
        double off = cosine - (double)target[i], factor = 2 * off * pass->options.scale / (double)pairs;
        sum += off * off;
        if (!(lengths > 0)) continue;
        cosine_back(pass, 2 * i, u, v, cosine, lengths, factor, pooled + B * C);
        cosine_back(pass, 2 * i + 1, v, u, cosine, lengths, factor, pooled + B * C);
    }
    *loss = sum / (double)pairs;
out:
    return status;
}
