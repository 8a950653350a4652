/* One micro-batch: what each objective asks of a head, and the teacher between the passes. */
#include "base/error.h"
#include "train/head.h"
#include "train/train_run.h"

/* What the heads aim at beside the batch's own targets. */
struct aims {
    struct logit_loss logits;
    struct span_loss span;
};
typedef int head_function(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss);

static int classes(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss) {
    (void)micro;
    return head_classify(pass, &aims->logits, loss);
}

static int tokens(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss) {
    return head_tokens(pass, micro->row, micro->rows, &aims->logits, loss);
}

static int score(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss) {
    (void)aims;
    return head_regress(pass, micro->target, loss);
}

static int cosine(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss) {
    (void)aims;
    return head_similarity(pass, micro->target, loss);
}

static int span(struct pass *pass, const struct train_batch *micro, const struct aims *aims, double *loss) {
    (void)micro;
    return head_span(pass, &aims->span, loss);
}

static head_function *const heads[TRAIN_OBJECTIVES] = {
    [TRAIN_CLASSIFICATION] = classes, [TRAIN_MASKED_LM] = tokens,  [TRAIN_CAUSAL_LM] = tokens,
    [TRAIN_REGRESSION] = score,       [TRAIN_SIMILARITY] = cosine, [TRAIN_QUESTION_ANSWERING] = span,
};

/* Losses of a teacher may be of any token. */
static bool reads_first(const struct train_plan *plan) {
    return (plan->objective == TRAIN_CLASSIFICATION || plan->objective == TRAIN_REGRESSION) &&
           !(plan->teacher && plan->teacher->losses);
}

int train_micro(struct training *training, size_t index, double *share, double *loss) {
    int status = 0;
    const struct train_plan *plan = training->plan;
    const struct train_teacher *teacher = plan->teacher;
    struct train_batch micro;

    batches_micro(&training->batches, index, &micro);
    optimizer_touch(&training->optimizer, training->trainables.tokens, micro.batch.ids, micro.batch.tokens);
    struct aims aims = {.logits = {.labels = micro.row_label ? micro.row_label : micro.label,
                                   .class_weight = training->batches.class_weight,
                                   .smoothing = plan->label_smoothing,
                                   .agreement = plan->r_drop},
                        .span = {.start = micro.start, .end = micro.end}};
    struct pass_options options = {.dropout = plan->dropout,
                                   .seed = plan->seed,
                                   .step = micro.step,
                                   .first_sequence = micro.first_sequence,
                                   .first_token = micro.first_token,
                                   .scale = micro.share,
                                   .add = !micro.first,
                                   .first = reads_first(plan),
                                   .checkpoint = plan->checkpoint_activations,
                                   .bf16 = plan->compute == TRAIN_BF16};
    if (teacher && teacher->targets) TRY(teacher->targets(teacher->context, &micro, &aims.logits, &aims.span));
    TRY(pass_forward(&training->pass, &micro.batch, &options));
    TRY(heads[plan->objective](&training->pass, &micro, &aims, loss));
    if (teacher && teacher->losses) TRY(teacher->losses(teacher->context, &micro, &training->pass, loss));
    TRY(train_not_finite_forward(training, *loss));
    TRY(pass_backward(&training->pass));
    *share = micro.share;
out:
    return status;
}
