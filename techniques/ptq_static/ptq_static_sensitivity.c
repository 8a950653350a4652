/* How much the model's output suffers when one layer alone is quantized: with the outputs of the f32 model on a few
 * calibration examples beside it,
 *   classes        mean KL divergence of the classes' probabilities, nats
 *   causal LM      mean KL divergence of the next token's probabilities after up to four tokens of each example, nats
 *   else           squared error of what heads read, or of spans' logits, relative to the squares of these
 * and, with sensitivity: task, the task's metric on its validation split, when the host can give it.
 */
#include "ptq_static.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

#define ROWS_EACH 4             /* tokens of an example whose next token is looked at */
#define VALUES_MOST (64u << 20) /* floats of outputs that are kept: 256 MiB */

enum outputs_kind { OUTPUTS_CLASSES, OUTPUTS_WORDS, OUTPUTS_SCORES, OUTPUTS_SPANS, OUTPUTS_HIDDEN };

struct outputs {
    enum outputs_kind kind;
    float *values; /* of the f32 model, in order */
    size_t row, count, capacity;
    size_t at;                /* while they are compared */
    double difference, scale; /* sums */
    size_t rows;
    float *room; /* logits of one example's rows */
    bool full;   /* no more are kept */
    bool compare;
};

static enum outputs_kind kind_of(const struct model *model) {
    unsigned heads = model->config.model_heads;
    if (heads & HEAD_CLASSIFICATION) return model->config.classes > 1 ? OUTPUTS_CLASSES : OUTPUTS_SCORES;
    if (heads & HEAD_SPAN) return OUTPUTS_SPANS;
    return heads & HEAD_CAUSAL_LM ? OUTPUTS_WORDS : OUTPUTS_HIDDEN;
}

/* KL divergence of softmax(b) from softmax(a). */
static double divergence(size_t count, const float *a, const float *b) {
    double most_a = -INFINITY, most_b = -INFINITY, sum_a = 0, sum_b = 0, result = 0;
    for (size_t i = 0; i < count; i++) {
        most_a = fmax(most_a, (double)a[i]);
        most_b = fmax(most_b, (double)b[i]);
    }
    for (size_t i = 0; i < count; i++) {
        sum_a += exp((double)a[i] - most_a);
        sum_b += exp((double)b[i] - most_b);
    }
    for (size_t i = 0; i < count; i++) {
        double log_a = (double)a[i] - most_a - log(sum_a), log_b = (double)b[i] - most_b - log(sum_b);
        result += exp(log_a) * (log_a - log_b);
    }
    return fmax(result, 0);
}

static int keep(struct outputs *outputs, const float *values, size_t count) {
    int status = 0;
    void *block = outputs->values;
    if (outputs->count + count > outputs->capacity) {
        size_t capacity = 2 * outputs->capacity + count;
        TRY(memory_resize(&block, capacity, sizeof(float)));
        outputs->values = block;
        outputs->capacity = capacity;
    }
    memcpy(outputs->values + outputs->count, values, count * sizeof(float));
    outputs->count += count;
out:
    return status;
}

static void compare(struct outputs *outputs, const float *values, size_t count) {
    const float *exact = outputs->values + outputs->at;
    bool probabilities = outputs->kind == OUTPUTS_CLASSES || outputs->kind == OUTPUTS_WORDS;
    if (outputs->at + count > outputs->count) return; /* not reached: the examples are the same */
    outputs->at += count;
    for (size_t i = 0; probabilities && i < count; i += outputs->row) {
        outputs->difference += divergence(outputs->row, exact + i, values + i);
        outputs->rows++;
    }
    for (size_t i = 0; !probabilities && i < count; i++) {
        double difference = (double)exact[i] - (double)values[i];
        outputs->difference += difference * difference;
        outputs->scale += (double)exact[i] * (double)exact[i];
    }
}

static int take(struct outputs *outputs, const float *values, size_t count) {
    if (outputs->compare) compare(outputs, values, count);
    return outputs->compare ? 0 : keep(outputs, values, count);
}

/* The next token after up to ROWS_EACH tokens, evenly spaced, the last among them. */
static int take_words(struct outputs *outputs, const struct model *view, const struct batch *batch,
                      struct workspace *workspace, const float *hidden) {
    int status = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        size_t length = batch->offset[i + 1] - batch->offset[i], count = length < ROWS_EACH ? length : ROWS_EACH;
        uint32_t rows[ROWS_EACH];
        for (size_t k = 0; k < count; k++) rows[k] = batch->offset[i] + (uint32_t)((k + 1) * length / count) - 1;
        if (!outputs->compare) outputs->full |= outputs->count + count * outputs->row > VALUES_MOST;
        if (outputs->compare ? outputs->at == outputs->count : outputs->full) break;
        TRY(model_logits(view, hidden, rows, count, workspace, outputs->room));
        TRY(take(outputs, outputs->room, count * outputs->row));
    }
out:
    return status;
}

static int take_batch(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                      const struct model_output *output, double fraction) {
    struct outputs *outputs = context;
    (void)fraction;
    switch (outputs->kind) {
    case OUTPUTS_CLASSES:
    case OUTPUTS_SCORES: return take(outputs, output->logits, batch->sequences * outputs->row);
    case OUTPUTS_SPANS: return take(outputs, output->span, batch->tokens * outputs->row);
    case OUTPUTS_WORDS: return take_words(outputs, view, batch, workspace, output->hidden);
    case OUTPUTS_HIDDEN: break;
    }
    return take(outputs, output->hidden, batch->tokens * outputs->row);
}

static int outputs_open(struct outputs *outputs, const struct model *model) {
    int status = 0;
    const struct model_config *config = &model->config;
    void *block;
    *outputs = (struct outputs){.kind = kind_of(model)};
    switch (outputs->kind) {
    case OUTPUTS_CLASSES:
    case OUTPUTS_SCORES: outputs->row = config->classes; break;
    case OUTPUTS_SPANS: outputs->row = 2; break;
    case OUTPUTS_WORDS: outputs->row = config->vocabulary; break;
    case OUTPUTS_HIDDEN: outputs->row = config->width; break;
    }
    if (outputs->kind == OUTPUTS_WORDS) {
        TRY(memory_take(&block, ROWS_EACH * outputs->row, sizeof(float)));
        outputs->room = block;
    }
out:
    return status;
}

static void outputs_close(struct outputs *outputs) {
    memory_release(outputs->values);
    memory_release(outputs->room);
}

/* ---- layers ------------------------------------------------------------------------------------------- */

/* The task's metric; NaN, and no further question, where it cannot be had. */
static int score_of(struct ptq_static *work, const struct model *model, bool *asked, double *score,
                    bool *higher_is_better) {
    const struct technique_context *context = work->context;
    *score = NAN;
    if (!*asked) return 0;
    int status = context->evaluate(context->host, model, score, higher_is_better);
    if (status != E_STATE) return status;
    log_line(LOG_INFO, "ptq_static: sensitivity by outputs alone: %s", error_text());
    *asked = false;
    *score = NAN;
    return 0;
}

/* One layer alone, in a view of the model. */
static int measure_layer(struct ptq_static *work, const struct calibration_plan *plan, struct outputs *outputs,
                         struct ptq_static_layer *layer, bool *asked) {
    int status = 0;
    struct technique_context *context = work->context;
    struct calibration_visitor visitor = {.batch = take_batch, .context = outputs};
    struct model one = {0};
    double score;
    bool higher = true;

    TRY(model_view(&one, context->model, context->model->config.model_heads));
    TRY(ptq_static_pack(work, &one, layer, NULL));
    outputs->at = outputs->rows = 0;
    outputs->difference = outputs->scale = 0;
    TRY(calibration_run(&one, context->calibration, plan, &visitor));
    if (outputs->rows) layer->error = outputs->difference / (double)outputs->rows;
    else layer->error = outputs->scale > 0 ? outputs->difference / outputs->scale : 0;
    TRY(score_of(work, &one, asked, &score, &higher));
    layer->score_lost = higher ? work->score - score : score - work->score;
out:
    model_close(&one);
    return status;
}

/* Worse first: by the score lost where it is known, then by the error, then as they stand in the model. */
static bool is_worse(const struct ptq_static_layer *a, const struct ptq_static_layer *b) {
    if (a->score_lost > b->score_lost) return true;
    if (a->score_lost < b->score_lost) return false;
    return a->error > b->error;
}

static void keep_worst(struct ptq_static *work) {
    for (int64_t n = 0; n < work->options->keep_worst; n++) {
        struct ptq_static_layer *worst = NULL;
        for (size_t i = 0; i < work->layer_count; i++)
            if (!work->layers[i].kept && (!worst || is_worse(&work->layers[i], worst))) worst = &work->layers[i];
        if (!worst) break;
        worst->kept = true;
        work->kept++;
    }
}

int ptq_static_measure(struct ptq_static *work) {
    int status = 0;
    struct technique_context *context = work->context;
    struct outputs outputs = {0};
    struct calibration_plan plan = work->plan;
    struct calibration_visitor visitor = {.batch = take_batch, .context = &outputs};
    bool asked = strcmp(work->options->sensitivity, "task") == 0, higher;

    if (asked && !context->evaluate)
        log_line(LOG_INFO, "ptq_static: sensitivity by outputs alone: no validation split");
    asked = asked && context->evaluate;
    plan.examples = (size_t)work->options->sensitivity_examples;
    TRY(outputs_open(&outputs, context->model));
    bool nats = outputs.kind == OUTPUTS_CLASSES || outputs.kind == OUTPUTS_WORDS;
    work->error_name = nats ? "divergence_nats" : "output_error_frac";
    work->error_unit = nats ? "nats" : "frac";
    TRY(calibration_run(context->model, context->calibration, &plan, &visitor));
    outputs.compare = true;
    TRY(score_of(work, context->model, &asked, &work->score, &higher));
    for (size_t i = 0; i < work->layer_count; i++) {
        TRY(ptq_static_progress(work, (double)i / (double)work->layer_count,
                                context->model->linears[work->layers[i].linear].name));
        TRY(measure_layer(work, &plan, &outputs, &work->layers[i], &asked));
    }
    keep_worst(work);
out:
    outputs_close(&outputs);
    return status;
}
