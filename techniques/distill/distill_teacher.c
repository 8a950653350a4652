/* The teacher during training: what it says of the batch at hand.
 *
 * Outputs that depend on the example alone were computed before (distill_outputs.c) and are gathered here; language
 * models whose input changes from step to step, or whose logits are too many to keep, are asked anew. Regression and
 * similarity have one number to aim at, and alpha·(s-t)² + (1-alpha)·(s-y)² has the gradient of one square against
 * alpha·t + (1-alpha)·y, so there the targets themselves are mixed.
 */
#include "distill.h"

#include <string.h>

static int grow(void *room, size_t *have, size_t count) {
    void *block = *(void **)room;
    int status = 0;
    if (count <= *have) return 0;
    TRY(memory_resize(&block, count, sizeof(float)));
    *(void **)room = block;
    *have = count;
out:
    return status;
}

static const float *row_of(const struct distill_state *state, size_t row) {
    const struct outputs *outputs = &state->outputs;
    const void *rows = outputs->mean ? (const void *)outputs->mean : outputs->kept.rows;
    return (const float *)rows + row * (outputs->kept.row_bytes / sizeof(float));
}

/* Vocabulary logits of some of the batch's rows, as head_tokens asks for them. */
static int give_rows(void *context, size_t first, size_t count, float *out) {
    struct teacher *teacher = context;
    return model_logits(teacher->model, teacher->hidden, teacher->rows + first, count, &teacher->workspace, out);
}

/* The batch as the teacher reads it, which may know no segments where its student does. */
static const struct batch *batch_of(struct teacher *teacher, const struct train_batch *batch) {
    teacher->batch = batch->batch;
    if (teacher->model->config.token_types < 2) teacher->batch.token_types = NULL;
    return &teacher->batch;
}

/* The batch through the teacher, layer by layer: once for its targets and its losses. */
static int run_pass(struct distill_state *state, const struct train_batch *batch) {
    int status = 0;
    static const struct pass_options plain = {.scale = 1};
    if (state->ran) goto out;
    TRY(pass_forward(&state->teacher.pass, batch_of(&state->teacher, batch), &plain));
    state->teacher.forwards += batch->batch.sequences;
    state->ran = true;
out:
    return status;
}

/* Through the teacher, so that its vocabulary logits can be asked for. */
static int run_tokens(struct distill_state *state, const struct train_batch *batch, struct logit_loss *loss) {
    int status = 0;
    struct teacher *teacher = &state->teacher;
    struct model_output output;
    if (state->compares) {
        TRY(run_pass(state, batch));
        teacher->hidden = pass_hidden(&teacher->pass);
    } else {
        TRY(model_forward(teacher->model, batch_of(teacher, batch), NULL, &teacher->workspace, &output));
        teacher->hidden = output.hidden;
        teacher->forwards += batch->batch.sequences;
    }
    teacher->rows = batch->row;
    loss->teacher_rows = give_rows;
    loss->teacher_context = teacher;
out:
    return status;
}

/* The kept rows of each sequence's example, `floats` numbers each. */
static int gather(struct distill_state *state, const struct train_batch *batch, size_t floats) {
    int status = 0;
    const size_t *first = state->outputs.first;
    size_t used = 0;
    for (size_t s = 0; s < batch->batch.sequences; s++) used += first[batch->example[s] + 1] - first[batch->example[s]];
    TRY(grow(&state->logits, &state->logits_room, used * floats));
    used = 0;
    for (size_t s = 0; s < batch->batch.sequences; s++) {
        size_t row = first[batch->example[s]], count = first[batch->example[s] + 1] - row;
        memcpy(state->logits + used * floats, row_of(state, row), count * floats * sizeof(float));
        used += count;
    }
out:
    return status;
}

/* Numbers to aim at in place of the batch's: alpha of the teacher's, the rest its own. */
static int mix_targets(struct distill_state *state, struct train_batch *batch, size_t count) {
    int status = 0;
    double alpha = state->options->alpha;
    TRY(gather(state, batch, 1));
    for (size_t i = 0; i < count; i++)
        state->logits[i] = (float)(alpha * (double)state->logits[i] + (1 - alpha) * (double)batch->target[i]);
    batch->target = state->logits;
out:
    return status;
}

/* The sequence of a batch that holds a token. */
static size_t sequence_of(const struct batch *batch, uint32_t token) {
    size_t low = 0, high = batch->sequences;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (batch->offset[middle] <= token) low = middle;
        else high = middle;
    }
    return low;
}

/* The best next tokens at the rows of the batch. */
static int gather_top(struct distill_state *state, const struct train_batch *batch, struct logit_loss *loss) {
    int status = 0;
    size_t top = (size_t)state->options->teacher_top;
    TRY(grow(&state->logits, &state->logits_room, batch->rows * top));
    TRY(grow(&state->ids, &state->ids_room, batch->rows * top));
    for (size_t i = 0; i < batch->rows; i++) {
        size_t s = sequence_of(&batch->batch, batch->row[i]), example = batch->example[s];
        const float *row = row_of(state, state->outputs.first[example] + batch->row[i] - batch->batch.offset[s]);
        memcpy(state->ids + i * top, row, top * sizeof(uint32_t));
        memcpy(state->logits + i * top, row + top, top * sizeof(float));
    }
    loss->teacher_top = top;
    loss->teacher_top_id = state->ids;
out:
    return status;
}

/* In a text that the teacher wrote, what it was given to begin with is not learnt. */
static int ignore_prompts(struct distill_state *state, struct train_batch *batch, struct logit_loss *loss) {
    int status = 0;
    TRY(grow(&state->labels, &state->labels_room, batch->rows));
    for (size_t i = 0; i < batch->rows; i++) {
        size_t s = sequence_of(&batch->batch, batch->row[i]);
        size_t next = batch->row[i] + 1 - batch->batch.offset[s];
        bool given = next < state->prompt[batch->example[s]];
        state->labels[i] = given ? LABEL_IGNORED : batch->row_label[i];
    }
    batch->row_label = loss->labels = state->labels;
out:
    return status;
}

int distill_targets(void *context, struct train_batch *batch, struct logit_loss *loss, struct span_loss *span) {
    int status = 0;
    struct distill_state *state = context;
    const struct distill_options *o = state->options;

    state->ran = false;
    if (state->prompt) TRY(ignore_prompts(state, batch, loss));
    if (!state->aims) goto out;
    switch (state->objective) {
    case TRAIN_CLASSIFICATION: TRY(gather(state, batch, state->teacher.model->config.classes)); break;
    case TRAIN_QUESTION_ANSWERING: TRY(gather(state, batch, 2)); break;
    case TRAIN_REGRESSION: TRY(mix_targets(state, batch, batch->batch.sequences)); goto out;
    case TRAIN_SIMILARITY: TRY(mix_targets(state, batch, batch->batch.sequences / 2)); goto out;
    case TRAIN_MASKED_LM: TRY(run_tokens(state, batch, loss)); break;
    case TRAIN_CAUSAL_LM:
        if (o->teacher_top) TRY(gather_top(state, batch, loss));
        else TRY(run_tokens(state, batch, loss));
        break;
    case TRAIN_OBJECTIVES: break;
    }
    if (state->objective == TRAIN_QUESTION_ANSWERING) {
        span->teacher = state->logits;
        span->temperature = o->temperature;
        span->alpha = o->alpha;
    } else {
        if (!loss->teacher_rows) loss->teacher = state->logits;
        loss->temperature = o->temperature;
        loss->alpha = o->alpha;
    }
out:
    return status;
}

int distill_losses(void *context, const struct train_batch *batch, struct pass *pass, double *loss) {
    int status = 0;
    struct distill_state *state = context;
    if (!state->compares) goto out;
    TRY(run_pass(state, batch));
    if (state->hidden_map.count) TRY(distill_hidden_losses(state, batch, pass, loss));
    if (state->attention_map.count) TRY(distill_attention_losses(state, batch, pass, loss));
out:
    return status;
}
