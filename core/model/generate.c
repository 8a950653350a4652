/* One token after another: the pass over the cache, greedy and sampled decoding. Beam search is in generate_beam.c. */
#include "model/generate_private.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

void generate_defaults(struct generate_options *options) {
    *options = (struct generate_options){.new_tokens = 128, .top_p = 1, .length_penalty = 1, .cache = CACHE_F32};
}

bool generation_ends(const struct generate_options *options, int32_t id) {
    for (size_t i = 0; options->end && i < options->end_count; i++)
        if (options->end[i] == id) return true;
    return false;
}

int generation_pass(struct generation *generation, const int32_t *ids, size_t sequences, size_t count) {
    int status = 0;
    struct batch batch = {.sequences = sequences,
                          .tokens = sequences * count,
                          .ids = ids,
                          .cache = &generation->cache,
                          .read = READ_LAST};
    struct model_output output;
    uint32_t *offset = NULL;
    void *block;

    TRY(memory_take(&block, sequences + 1, sizeof *offset));
    offset = block;
    for (size_t i = 0; i < sequences; i++) offset[i + 1] = (uint32_t)((i + 1) * count);
    batch.offset = offset;
    TRY(model_forward(generation->model, &batch, NULL, generation->workspace, &output));
    TRY(model_logits(generation->model, output.hidden, NULL, sequences, generation->workspace, generation->logits));
out:
    memory_release(offset);
    return status;
}

static int check_options(const struct model *model, size_t prompt_tokens, const struct generate_options *options) {
    int status = 0;
    size_t positions = model->config.positions, beams = options->beams;

    if (!(model->config.model_heads & HEAD_CAUSAL_LM))
        FAIL(E_UNSUPPORTED, "a %s model without a causal language-model head writes no text", model->config.family);
    if (!prompt_tokens) FAIL(E_ARGUMENT, "the prompt is empty");
    if (!options->new_tokens) FAIL(E_ARGUMENT, "new_tokens is 0");
    if (prompt_tokens > positions || options->new_tokens > positions - prompt_tokens)
        FAIL(E_SHAPE, "a prompt of %zu tokens and %zu new ones exceed the model's %zu positions", prompt_tokens,
             options->new_tokens, positions);
    if (!(options->temperature >= 0 && isfinite(options->temperature)))
        FAIL(E_ARGUMENT, "temperature is %g", options->temperature);
    if (!(options->top_p > 0 && options->top_p <= 1)) FAIL(E_ARGUMENT, "top_p is %g, not in 0..1", options->top_p);
    if (!isfinite(options->length_penalty)) FAIL(E_ARGUMENT, "length_penalty is not finite");
    if (beams > 1 && options->temperature > 0) FAIL(E_ARGUMENT, "beam search does not sample: temperature must be 0");
    if (beams > 1 && beams > model->config.vocabulary / (2 + options->end_count))
        FAIL(E_ARGUMENT, "%zu beams over a vocabulary of %zu", beams, model->config.vocabulary);
out:
    return status;
}

static int generate_one(struct generation *generation, const int32_t *prompt, size_t prompt_tokens,
                        struct generated *out) {
    int status = 0;
    const struct generate_options *options = generation->options;
    size_t V = generation->model->config.vocabulary;
    void *block;

    TRY(memory_take(&block, options->new_tokens, sizeof *out->ids));
    out->ids = block;
    for (size_t i = 0; i < options->new_tokens && !out->ended; i++) {
        double logprob;
        if (i == 0) TRY(generation_pass(generation, prompt, 1, prompt_tokens));
        else TRY(generation_pass(generation, out->ids + i - 1, 1, 1));
        int32_t id = choose_token(options, i, V, generation->logits, generation->heap, &logprob);
        out->ids[out->count++] = id;
        out->sum_logprob += logprob;
        out->ended = generation_ends(options, id);
        if (options->token) options->token(options->context, i, id);
    }
    out->score = out->sum_logprob / pow((double)out->count, options->length_penalty);
out:
    return status;
}

int generate(const struct model *model, const int32_t *prompt, size_t prompt_tokens,
             const struct generate_options *options, struct workspace *workspace, struct generated *out,
             size_t *count) {
    int status = 0;
    size_t beams = options->beams > 1 ? options->beams : 1, V = model->config.vocabulary;
    struct generation generation = {.model = model, .options = options, .workspace = workspace};
    void *block;

    *count = 0;
    memset(out, 0, beams * sizeof *out);
    TRY(check_options(model, prompt_tokens, options));
    TRY(kv_cache_open(&generation.cache, model, beams, prompt_tokens + options->new_tokens, options->cache));
    TRY(memory_take(&block, beams * V, sizeof *generation.logits));
    generation.logits = block;
    TRY(memory_take(&block, V, sizeof *generation.heap));
    generation.heap = block;
    if (beams > 1) {
        TRY(generate_beams(&generation, prompt, prompt_tokens, out, count));
    } else {
        TRY(generate_one(&generation, prompt, prompt_tokens, out));
        *count = 1;
    }
out:
    if (status < 0) generated_close(out, beams);
    kv_cache_close(&generation.cache);
    memory_release(generation.logits);
    memory_release(generation.heap);
    return status;
}

void generated_close(struct generated *generated, size_t count) {
    for (size_t i = 0; i < count; i++) {
        memory_release(generated[i].ids);
        generated[i] = (struct generated){0};
    }
}
