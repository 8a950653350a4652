#include "small_training.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"

const struct small_kind small_kinds[] = {
    {.name = "bert classification", .family = "bert", .objective = SMALL_CLASSIFY},
    {.name = "bert regression", .family = "bert", .objective = SMALL_REGRESS},
    {.name = "bert masked LM", .family = "bert", .objective = SMALL_TOKENS},
    {.name = "bert span", .family = "bert", .objective = SMALL_SPAN},
    {.name = "bert similarity", .family = "bert", .objective = SMALL_SIMILAR},
    {.name = "bert similarity of first tokens", .family = "bert", .objective = SMALL_SIMILAR, .pooling = POOLING_FIRST},
    {.name = "bert similarity of last tokens", .family = "bert", .objective = SMALL_SIMILAR, .pooling = POOLING_LAST},
    {.name = "distilbert classification", .family = "distilbert", .objective = SMALL_CLASSIFY, .kinks = true},
    {.name = "distilbert span", .family = "distilbert", .objective = SMALL_SPAN},
    {.name = "gpt2", .family = "gpt2", .objective = SMALL_TOKENS},
    {.name = "opt", .family = "opt", .objective = SMALL_TOKENS, .kinks = true},
    {.name = "opt post-norm projected",
     .family = "opt",
     .objective = SMALL_TOKENS,
     .embedding_width = 20,
     .post_norm = true,
     .kinks = true},
    {.name = "llama", .family = "llama", .objective = SMALL_TOKENS, .key_value_heads = 2, .untied = true},
    {.name = "qwen2", .family = "qwen2", .objective = SMALL_TOKENS, .key_value_heads = 1},
    {.name = "mistral",
     .family = "mistral",
     .objective = SMALL_TOKENS,
     .key_value_heads = 2,
     .window = 4,
     .untied = true},
};
const size_t small_kind_count = sizeof small_kinds / sizeof *small_kinds;

static void *room(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    assert_non_null(block);
    return block;
}

static unsigned head_of(const struct small_kind *kind, bool causal) {
    switch (kind->objective) {
    case SMALL_CLASSIFY:
    case SMALL_REGRESS: return HEAD_CLASSIFICATION;
    case SMALL_TOKENS: return causal ? HEAD_CAUSAL_LM : HEAD_MASKED_LM;
    case SMALL_SPAN: return HEAD_SPAN;
    case SMALL_SIMILAR: return HEAD_NONE;
    }
    return HEAD_NONE;
}

static void make_model(struct model *model, const struct small_kind *kind, size_t longest, uint64_t seed) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, kind->family), 0);
    config.layers = 2;
    config.width = 32;
    config.heads = 4;
    config.key_value_heads = kind->key_value_heads ? kind->key_value_heads : 4;
    config.head_width = 8;
    config.feed_forward = 48;
    config.vocabulary = kind->vocabulary ? kind->vocabulary : 97;
    config.positions = longest;
    config.classes = kind->objective == SMALL_REGRESS ? 1 : 3;
    config.embedding_width = kind->embedding_width;
    config.window = kind->window;
    config.pooling = kind->pooling;
    if (config.rotary_base > 0) config.rotary_base = 100;
    if (kind->post_norm) config.norm_first = config.final_norm = false;
    config.tied = !kind->untied;
    config.model_heads = head_of(kind, config.causal);
    if (model_create(model, &config, seed, 0.2) < 0) fail_msg("%s: %s", kind->name, error_text());
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        struct random random;
        random_open(&random, seed, i);
        for (size_t k = 0; parameter->kind == PARAMETER_VECTOR && k < parameter->columns; k++)
            parameter->value[k] += (float)(0.2 * random_normal(&random));
    }
}

static void make_batch(struct small_training *training, const size_t *lengths, size_t count, uint64_t seed) {
    const struct model_config *config = &training->model.config;
    struct random random;
    size_t T = 0;
    for (size_t i = 0; i < count; i++) T += lengths[i];
    random_open(&random, seed, random_stream("small_training", 0, 0));
    training->ids = room(T, sizeof(int32_t));
    training->types = room(T, sizeof(int32_t));
    training->labels = room(T + count, sizeof(int32_t));
    training->end = room(count, sizeof(int32_t));
    training->target = room(count, sizeof(float));
    training->offset = room(count + 1, sizeof(uint32_t));
    training->rows = room(T, sizeof(uint32_t));
    for (size_t t = 0; t < T; t++) {
        training->ids[t] = (int32_t)random_below(&random, config->vocabulary);
        training->types[t] = config->token_types ? (int32_t)random_below(&random, config->token_types) : 0;
    }
    if (config->pad_id >= 0) training->ids[T / 2] = config->pad_id; /* its look-up gets no gradient */
    for (size_t s = 0; s < count; s++) {
        training->offset[s + 1] = training->offset[s] + (uint32_t)lengths[s];
        training->target[s] = (float)random_normal(&random);
        training->end[s] = (int32_t)random_below(&random, lengths[s]);
        training->labels[s] = training->kind->objective == SMALL_SPAN
                                  ? (int32_t)random_below(&random, lengths[s] + 1) /* one past it is ignored */
                                  : (int32_t)random_below(&random, config->classes);
    }
    for (size_t t = 0; training->kind->objective == SMALL_TOKENS && t < T; t++) {
        if (random_below(&random, 3) == 0) continue;
        training->rows[training->count] = (uint32_t)t;
        training->labels[training->count++] =
            random_below(&random, 5) ? (int32_t)random_below(&random, config->vocabulary) : LABEL_IGNORED;
    }
    training->batch = (struct batch){.sequences = count,
                                     .tokens = T,
                                     .ids = training->ids,
                                     .offset = training->offset,
                                     .token_types = config->token_types ? training->types : NULL};
}

void small_training_open(struct small_training *training, const struct small_kind *kind, const size_t *lengths,
                         size_t count, uint64_t seed) {
    size_t longest = 24;
    memset(training, 0, sizeof *training);
    training->kind = kind;
    for (size_t i = 0; i < count; i++) longest = lengths[i] > longest ? lengths[i] : longest;
    make_model(&training->model, kind, longest, seed);
    make_batch(training, lengths, count, seed);
    if (model_gradients_open(&training->model, training->model.config.model_heads) < 0 ||
        pass_open(&training->pass, &training->model, NULL) < 0)
        fail_msg("%s: %s", kind->name, error_text());
}

void small_training_close(struct small_training *training) {
    pass_close(&training->pass);
    model_close(&training->model);
    free(training->ids);
    free(training->types);
    free(training->labels);
    free(training->end);
    free(training->target);
    free(training->offset);
    free(training->rows);
}

static int run_head(struct small_training *training, double *loss) {
    struct pass *pass = &training->pass;
    struct logit_loss labels = {.labels = training->labels, .smoothing = 0.1, .agreement = training->agreement};
    struct span_loss span = {.start = training->labels, .end = training->end};
    switch (training->kind->objective) {
    case SMALL_CLASSIFY: return head_classify(pass, &labels, loss);
    case SMALL_REGRESS: return head_regress(pass, training->target, loss);
    case SMALL_TOKENS: return head_tokens(pass, training->rows, training->count, &labels, loss);
    case SMALL_SPAN: return head_span(pass, &span, loss);
    case SMALL_SIMILAR: return head_similarity(pass, training->target, loss);
    }
    return E_ARGUMENT;
}

double small_training_loss(struct small_training *training, const struct pass_options *options) {
    double loss = 0;
    if (pass_forward(&training->pass, &training->batch, options) < 0 || run_head(training, &loss) < 0)
        fail_msg("%s: %s", training->kind->name, error_text());
    return training->extra ? loss + training->extra(&training->pass) : loss;
}

double small_training_step(struct small_training *training, const struct pass_options *options) {
    double loss = small_training_loss(training, options);
    if (pass_backward(&training->pass) < 0) fail_msg("%s: %s", training->kind->name, error_text());
    return loss;
}

static double loss_at(struct small_training *training, const struct pass_options *options, float *value, float offset) {
    float kept = *value;
    *value = kept + offset;
    double loss = small_training_loss(training, options);
    *value = kept;
    return loss;
}

/* The error falls with the fourth power of the step. */
double small_training_slope(struct small_training *training, const struct pass_options *options, float *value) {
    const float step = 1.0f / 256;
    double near = loss_at(training, options, value, step) - loss_at(training, options, value, -step),
           far = loss_at(training, options, value, 2 * step) - loss_at(training, options, value, -2 * step);
    return (8 * near - far) / (12 * (double)step);
}

size_t small_training_values(const struct small_training *training) {
    size_t values = 0;
    for (size_t i = 0; i < training->model.parameter_count; i++)
        if (training->model.parameters[i].gradient)
            values += training->model.parameters[i].rows * training->model.parameters[i].columns;
    return values;
}

void small_training_gradients(const struct small_training *training, float *out) {
    for (size_t i = 0; i < training->model.parameter_count; i++) {
        const struct parameter *parameter = &training->model.parameters[i];
        size_t count = parameter->rows * parameter->columns;
        if (!parameter->gradient) continue;
        memcpy(out, parameter->gradient, count * sizeof *out);
        out += count;
    }
}
