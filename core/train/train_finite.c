/* When a loss or a gradient ceases to be finite: where it began. The forward pass is searched in its order, from the
 * embeddings on; gradients in theirs, from the last layer back.
 */
#include <math.h>
#include <stdio.h>

#include "base/error.h"
#include "train/train_run.h"

/* A loss this many times those of the first steps (or of a model that knows nothing), for so many steps in a row, will
 * not come back. */
#define ABOVE_FACTOR 10
#define ABOVE_STEPS 50

#define PLACE_BYTES 256

static int give_up(const struct training *training, const char *what, double value, const char *place) {
    const struct train_plan *plan = training->plan;
    return error_record(E_NUMERIC, __FILE__, __LINE__,
                        "training diverged at step %llu of %zu: the %s is %g%s; lower rate (now %g), raise warmup_frac "
                        "(now %g) or set clip_norm (now %g)%s",
                        (unsigned long long)training->tally.steps + 1, training->schedule.steps, what, value, place,
                        plan->rate, plan->warmup_frac, plan->clip_norm,
                        plan->compute == TRAIN_BF16 ? ", or compute in f32" : "");
}

/* The linear layer of a part of a block, for its name. */
static const char *part_name(const struct training *training, size_t block, enum part part) {
    return block_part(training->model, block, part)->linear->name;
}

static void place_in_block(const struct training *training, size_t b, size_t T, char *place) {
    static const enum part parts[] = {PART_QUERY, PART_KEY, PART_VALUE};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const struct linear *linear = block_part(training->model, b, parts[i])->linear;
        const float *out = pass_part(&training->pass, b, parts[i]);
        if (!out || values_finite(out, T * linear->rows)) continue;
        snprintf(place, PLACE_BYTES, ", first in the output of %s", part_name(training, b, parts[i]));
        return;
    }
    snprintf(place, PLACE_BYTES, ", first in the output of block %zu", b);
}

/* Values first: what is not finite there makes everything behind it so. */
static bool place_in_values(const struct training *training, char *place) {
    for (size_t i = 0; i < training->model->parameter_count; i++) {
        const struct parameter *parameter = &training->model->parameters[i];
        if (!parameter->value || values_finite(parameter->value, parameter->rows * parameter->columns)) continue;
        snprintf(place, PLACE_BYTES, ", and the values of %s are not finite", parameter->name);
        return true;
    }
    return false;
}

int train_not_finite_forward(const struct training *training, double loss) {
    const struct pass *pass = &training->pass;
    size_t T = pass->batch->tokens, C = training->model->config.width, L = training->model->config.layers;
    char place[PLACE_BYTES] = ", first in the head";
    if (isfinite(loss)) return 0;
    if (place_in_values(training, place)) return give_up(training, "loss", loss, place);
    for (size_t i = 0; i <= L; i++) {
        if (values_finite(pass_block_output(pass, (int)i - 1), T * C)) continue;
        if (i == 0) snprintf(place, sizeof place, ", first in the embeddings");
        else place_in_block(training, i - 1, T, place);
        return give_up(training, "loss", loss, place);
    }
    if (!values_finite(pass_hidden(pass), T * C)) snprintf(place, sizeof place, ", first in the final norm");
    return give_up(training, "loss", loss, place);
}

int train_not_finite_backward(const struct training *training, double norm) {
    char place[PLACE_BYTES] = "";
    for (size_t i = training->trainables.count; i-- > 0 && !*place;) {
        const struct trainable *trainable = &training->trainables.items[i];
        if (!values_finite(trainable->gradient, trainable->rows * trainable->columns))
            snprintf(place, sizeof place, ", first in the gradient of %s", trainable->name);
    }
    return give_up(training, "gradient norm", norm, place);
}

double train_chance(const struct training *training) {
    const struct examples *examples = training->examples;
    size_t count = training->plan->objective == TRAIN_SIMILARITY ? examples->count / 2 : examples->count;
    double squares = 0;
    switch (training->plan->objective) {
    case TRAIN_CLASSIFICATION: return log((double)training->model->config.classes);
    case TRAIN_MASKED_LM:
    case TRAIN_CAUSAL_LM: return log((double)training->model->config.vocabulary);
    case TRAIN_QUESTION_ANSWERING: return log((double)training->batches.cut);
    default:
        for (size_t i = 0; i < count; i++) squares += (double)examples->target[i] * (double)examples->target[i];
        return squares / (double)count;
    }
}

int train_check_loss(struct training *training, double loss) {
    struct train_tally *tally = &training->tally;
    double usual = fmax(tally->first_sum / LOSS_FIRST_STEPS, training->chance);
    if (tally->steps < LOSS_FIRST_STEPS || loss <= ABOVE_FACTOR * usual) tally->above = 0;
    else tally->above++;
    if (tally->above < ABOVE_STEPS) return 0;
    return give_up(training, "loss", loss, ", and has been above ten times its first values for fifty steps");
}
