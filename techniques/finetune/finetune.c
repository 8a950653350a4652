/* finetune: train the model, from random weights or from where an earlier stage left it.
 *
 * Two objectives: classification on the task's labelled examples, and masked language modelling (Devlin et
 * al. 2018) on its unlabelled text, which usually comes first. AdamW with linear warm-up and decay, clipping by
 * the global norm. The trained values depend on the options, data and seed alone, not on the number of threads.
 */
#include <stdio.h>
#include <string.h>

#include "technique.h"
#include "train/train.h"

struct finetune_options {
    const char *objective;
    double epochs, rate, warmup_frac, weight_decay, dropout, word_dropout, label_smoothing, mask_frac, clip_norm, beta2;
    int64_t batch, max_tokens;
};

struct finetune_state {
    struct train_result result;
};

#define AT(field) offsetof(struct finetune_options, field)
static const struct option options[] = {
    {"objective", OPTION_CHOICE, "classification", 0, 0, "classification|masked_lm", NULL,
     "What to learn: the task's labels, or tokens hidden in its unlabelled text.", AT(objective)},
    {"epochs", OPTION_REAL, "3", 0.001, 1000, NULL, "epochs", "Passes over the examples; may be a fraction.",
     AT(epochs)},
    {"batch", OPTION_INTEGER, "32", 1, 4096, NULL, "sequences", "Examples per step.", AT(batch)},
    {"rate", OPTION_REAL, "0.0005", 0, 1, NULL, NULL,
     "Peak learning rate: about 5e-4 to 1e-3 from random weights, 2e-5 to 1e-4 for a trained model.", AT(rate)},
    {"warmup_frac", OPTION_REAL, "0.06", 0, 1, NULL, "frac",
     "Share of all steps in which the rate rises from 0; then it falls linearly to 0.", AT(warmup_frac)},
    {"weight_decay", OPTION_REAL, "0.01", 0, 1, NULL, NULL, "AdamW's decoupled decay, on matrices and embeddings only.",
     AT(weight_decay)},
    {"dropout", OPTION_REAL, "0.1", 0, 0.9, NULL, "frac",
     "Share of activations zeroed at the embeddings, the two outputs of each block and the pooled vector.",
     AT(dropout)},
    {"word_dropout", OPTION_REAL, "0", 0, 0.9, NULL, "frac",
     "classification: share of words hidden behind [MASK], drawn anew each step.", AT(word_dropout)},
    {"label_smoothing", OPTION_REAL, "0", 0, 0.9, NULL, "frac", "Share of the target spread over all classes.",
     AT(label_smoothing)},
    {"mask_frac", OPTION_REAL, "0.15", 0.001, 0.9, NULL, "frac",
     "masked_lm: share of tokens to predict; of these 80 % are masked, 10 % replaced at random, 10 % kept.",
     AT(mask_frac)},
    {"clip_norm", OPTION_REAL, "1", 0, 1000, NULL, NULL, "Limit on the gradient's global norm; 0: none.",
     AT(clip_norm)},
    {"beta2", OPTION_REAL, "0.999", 0, 0.99999, NULL, NULL,
     "Decay of AdamW's second moment; 0.98 suits short runs at high rates.", AT(beta2)},
    {"max_tokens", OPTION_INTEGER, "128", 2, 65536, NULL, "tokens",
     "Longer examples are cut; never more than the model's positions.", AT(max_tokens)},
    OPTION_END,
};

static bool is_masked_lm(const struct finetune_options *o) { return strcmp(o->objective, "masked_lm") == 0; }

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    const struct finetune_options *o = opaque;
    unsigned heads = context->model ? context->model->config.model_heads : ~0u;

    if (is_masked_lm(o) && !(heads & HEAD_MASKED_LM)) FAIL(E_UNSUPPORTED, "the model has no masked-LM head");
    if (!is_masked_lm(o) && !(heads & HEAD_CLASSIFICATION)) FAIL(E_UNSUPPORTED, "the model has no classification head");
    for (size_t i = 0; context->model && i < context->model->linear_count; i++)
        if (!context->model->linears[i].value)
            FAIL(E_UNSUPPORTED, "layer '%s' is packed: finetune must come before quantization",
                 context->model->linears[i].name);
out:
    return status;
}

static int observe(void *opaque, const struct train_progress *progress) {
    struct technique_context *context = opaque;
    char text[96];
    if (!context->progress) return 0;
    snprintf(text, sizeof text, "step %zu of %zu, loss %.4f", progress->step, progress->steps, progress->loss);
    return context->progress(context->host, (double)progress->step / (double)progress->steps, text);
}

static int apply(struct technique_context *context, void *opaque, const void *opaque_options) {
    int status = 0;
    const struct finetune_options *o = opaque_options;
    struct finetune_state *state = opaque;
    const struct examples *examples = is_masked_lm(o) ? context->unlabelled : context->training;
    struct train_plan plan;
    struct train_host host = {.context = context, .step = observe};

    if (!examples) FAIL(E_STATE, "%s needs %s", o->objective, is_masked_lm(o) ? "unlabelled text" : "training data");
    train_plan_defaults(&plan);
    plan.objective = is_masked_lm(o) ? TRAIN_MASKED_LM : TRAIN_CLASSIFICATION;
    plan.epochs = o->epochs;
    plan.batch = (size_t)o->batch;
    plan.rate = o->rate;
    plan.warmup_frac = o->warmup_frac;
    plan.weight_decay = o->weight_decay;
    plan.dropout = o->dropout;
    plan.word_dropout = o->word_dropout;
    plan.label_smoothing = o->label_smoothing;
    plan.mask_frac = o->mask_frac;
    plan.clip_norm = o->clip_norm;
    plan.beta2 = o->beta2;
    plan.max_tokens = (size_t)o->max_tokens;
    plan.mask_id = context->mask_id;
    plan.special_ids = context->special_ids;
    plan.seed = context->seed;
    TRY(train_run(context->model, examples, &plan, &host, &state->result));
out:
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *opaque_options) {
    const struct finetune_state *state = opaque;
    const struct train_result *result = &state->result;
    (void)opaque_options;
    context->metric(context->host, "steps", "", (double)result->steps);
    context->metric(context->host, "tokens", "tok", (double)result->tokens);
    context->metric(context->host, "loss_first", "nats", result->loss_first);
    context->metric(context->host, "loss_last", "nats", result->loss_last);
    if (result->seconds > 0)
        context->metric(context->host, "tokens_per_s", "tok/s", (double)result->tokens / result->seconds);
    return 0;
}

const struct technique technique_finetune = {
    .abi = TECHNIQUE_ABI,
    .version = 1,
    .name = "finetune",
    .summary = "Trains the model on the task's labels, or on its unlabelled text as a masked language model.",
    .source = "AdamW: Loshchilov and Hutter 2019, Algorithm 2; masked LM: Devlin et al. 2018, section 3.1",
    .needs = NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT | NEEDS_GRADIENTS | NEEDS_CACHE,
    .options = options,
    .options_bytes = sizeof(struct finetune_options),
    .state_bytes = sizeof(struct finetune_state),
    .probe = probe,
    .apply = apply,
    .report = report,
};
