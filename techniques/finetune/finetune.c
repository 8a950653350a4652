/* finetune: train the model, from random weights or from where an earlier stage left it.
 *
 * What it learns is what the task's data teaches: classes, scores, similarities, answers, next tokens; or hidden
 * (Devlin et al. 2018) or next tokens of the task's unlabelled text, which usually comes first. The trained values
 * depend on the options, data and seed alone, not on the number of threads.
 */
#include "technique_training.h"

struct finetune_options {
    struct train_options train;
};

struct finetune_state {
    struct train_result result;
};

static const struct option options[] = {TRAIN_OPTIONS(struct finetune_options, train, "3", "0.0005"), OPTION_END};

static uint32_t needs_of(const void *opaque) {
    const struct finetune_options *o = opaque;
    return technique_training_needs(&o->train);
}

static int settle(void *opaque) {
    const struct finetune_options *o = opaque;
    return train_options_settle(&o->train);
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct finetune_options *o = opaque;

    TRY(technique_training_probe(context, &o->train));
    for (size_t i = 0; context->model && i < context->model->linear_count; i++)
        if (!context->model->linears[i].value)
            FAIL(E_UNSUPPORTED, "layer '%s' is packed: finetune must come before quantization",
                 context->model->linears[i].name);
out:
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *opaque_options) {
    int status = 0;
    const struct finetune_options *o = opaque_options;
    struct finetune_state *state = opaque;
    struct technique_training training;

    TRY(technique_training_open(&training, context, &o->train));
    TRY(train_run(context->model, training.examples, &training.plan, &training.host, &state->result));
    TRY(technique_training_mark(&training, context->model));
out:
    technique_training_close(&training);
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *opaque_options) {
    const struct finetune_state *state = opaque;
    (void)opaque_options;
    technique_training_report(context, &state->result);
    return 0;
}

const struct technique technique_finetune = {
    .abi = TECHNIQUE_ABI,
    .version = 3,
    .name = "finetune",
    .summary = "Trains the model on what the task's data teaches, or as a language model on its text.",
    .source =
        "AdamW: Loshchilov and Hutter 2019, Algorithm 2; masked LM: Devlin et al. 2018, section 3.1; R-Drop: Wu et "
        "al. 2021, section 2; similarity: "
        "Reimers and Gurevych 2019, section 3",
    .needs = NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT | NEEDS_GRADIENTS | NEEDS_CACHE,
    .options = options,
    .options_bytes = sizeof(struct finetune_options),
    .state_bytes = sizeof(struct finetune_state),
    .needs_of = needs_of,
    .settle = settle,
    .probe = probe,
    .foresee = technique_foresee_same,
    .apply = apply,
    .report = report,
};
