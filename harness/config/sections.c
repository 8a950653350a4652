/* Sections of an experiment file: their option tables and what must hold between their values.
 *
 * Each table fills a struct of option types (int64_t, double, text), which is then checked and copied into
 * the plan's own types.
 */
#include "config/sections.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "config/settings.h"
#include "meters/meter.h"
#include "model/kv_cache.h"

/* ---- tables ------------------------------------------------------------------------------------------- */

struct model_settings {
    const char *family, *path;
    int64_t layers, width, heads, key_value_heads, feed_forward, positions, token_types;
    double deviation;
};
#define AT(field) offsetof(struct model_settings, field)
const struct option model_options[] = {
    {"path", OPTION_TEXT, "", 0, 0, NULL, NULL,
     "a pretrained model: Hugging Face directory, GGUF, llama2.c file or artifact; empty: made as the other keys say",
     AT(path)},
    {"family", OPTION_TEXT, "bert", 0, 0, NULL, NULL,
     "architecture: bert, distilbert, gpt2, opt, llama, qwen2, mistral", AT(family)},
    {"layers", OPTION_INTEGER, "2", 1, 1000, NULL, NULL, "transformer blocks", AT(layers)},
    {"width", OPTION_INTEGER, "256", 1, 65536, NULL, NULL, "width of the hidden states", AT(width)},
    {"heads", OPTION_INTEGER, "4", 1, 4096, NULL, NULL, "attention heads; the width is a multiple", AT(heads)},
    {"key_value_heads", OPTION_INTEGER, "0", 0, 4096, NULL, NULL, "key and value heads; 0: as many as heads",
     AT(key_value_heads)},
    {"feed_forward", OPTION_INTEGER, "0", 0, 1048576, NULL, NULL, "inner width of the feed-forward layer; 0: 4 x width",
     AT(feed_forward)},
    {"positions", OPTION_INTEGER, "64", 2, 1048576, NULL, "tokens", "longest sequence", AT(positions)},
    {"token_types", OPTION_INTEGER, "2", 0, 16, NULL, NULL, "segment embeddings", AT(token_types)},
    {"deviation", OPTION_REAL, "0.02", 0, 1, NULL, NULL, "standard deviation of the initial weights", AT(deviation)},
    OPTION_END,
};
#undef AT

#define AT(field) offsetof(struct tokenizer_plan, field)
const struct option tokenizer_options[] = {
    {"path", OPTION_TEXT, "", 0, 0, NULL, NULL,
     "tokenizer.json, vocab.txt, a SentencePiece .model, a GGUF file or a folder; empty: that of the pretrained model",
     AT(path)},
    {"type", OPTION_CHOICE, "bpe", 0, 0, "bpe", NULL, "byte-level BPE, trained on the task's training text", AT(type)},
    {"vocabulary", OPTION_INTEGER, "8192", 261, 1048576, NULL, "entries", "entries, special tokens included",
     AT(vocabulary)},
    {"lower_case", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "fold letters to lower case first", AT(lower_case)},
    {"max_tokens", OPTION_INTEGER, "64", 3, 1048576, NULL, "tokens", "longer texts are cut", AT(max_tokens)},
    OPTION_END,
};
#undef AT

struct measure_settings {
    int64_t rounds, samples, warmup, prompt_tokens, new_tokens;
    const char *cache;
    double confidence;
    struct option_names batch, meters;
};
#define AT(field) offsetof(struct measure_settings, field)
const struct option measure_options[] = {
    {"rounds", OPTION_INTEGER, "10", 0, 1000, NULL, "rounds",
     "timed rounds over all cells, in random order; 0: score, do not time", AT(rounds)},
    {"samples", OPTION_INTEGER, "20", 1, 100000, NULL, "samples", "timed repetitions in a round", AT(samples)},
    {"warmup", OPTION_INTEGER, "5", 0, 100000, NULL, "samples", "repetitions before them, stored and flagged",
     AT(warmup)},
    {"batch", OPTION_NAMES, "[1, 32]", 0, 0, NULL, "sequences", "batch sizes to time; lists show the smallest",
     AT(batch)},
    {"meters", OPTION_NAMES, "[time, rusage, papi]", 0, 0, NULL, NULL, "what to read around each window", AT(meters)},
    {"prompt_tokens", OPTION_INTEGER, "0", 0, 1048576, NULL, "tokens",
     "length of each timed sequence, filled up from the next items; 0: as the items are", AT(prompt_tokens)},
    {"new_tokens", OPTION_INTEGER, "0", 0, 1048576, NULL, "tokens",
     "generate so many tokens after each sequence, prefill and decode timed apart (causal models, batch 1); 0: none",
     AT(new_tokens)},
    {"cache", OPTION_CHOICE, "f32", 0, 0, CACHE_TYPES, NULL, "keys and values of generated texts are kept so",
     AT(cache)},
    {"confidence", OPTION_REAL, "0.95", 0.5, 0.9999, NULL, NULL, "of the intervals", AT(confidence)},
    OPTION_END,
};
#undef AT

#define AT(field) offsetof(struct limits_plan, field)
const struct option limits_options[] = {
    {"wall_s", OPTION_REAL, "14400", 0.1, 1e7, NULL, "s", "wall time of one run; it is killed after that", AT(wall_s)},
    {"memory_mb", OPTION_INTEGER, "8192", 16, 1e9, NULL, "MiB", "memory of one run", AT(memory_mb)},
    OPTION_END,
};
#undef AT

#define AT(field) offsetof(struct axis_settings, field)
const struct option axis_options[] = {
    {"threads", OPTION_INTEGER, "0", 0, 1024, NULL, "threads", "threads while timing; 0: the CPUs at hand",
     AT(threads)},
    {"seed", OPTION_INTEGER, "1", 0, 9007199254740992.0, NULL, NULL, "seed of weights, order and dropout", AT(seed)},
    {"gemm", OPTION_CHOICE, "builtin", 0, 0, "builtin|openblas|onednn", NULL, "what multiplies f32 weights", AT(gemm)},
    {"storage", OPTION_CHOICE, "f32", 0, 0, "f32|f16|bf16", NULL, "how f32 matrices are held while running",
     AT(storage)},
    OPTION_END,
};
#undef AT

/* What sentence encoders are run with; a longer text of a pretrained model is cut there unless max_tokens says more. */
enum { PRETRAINED_MAX_TOKENS = 256 };

/* ---- sections ----------------------------------------------------------------------------------------- */

/* The place of a key's value, or of the whole section. */
static const struct position *value_at(const struct node *map, const char *key, const struct position *at) {
    const struct node *node = node_find(map, key);
    return node != NULL ? &node->at : at;
}

int section_model(struct experiment *experiment, const struct node *node, const struct position *at) {
    int status = 0;
    struct model_settings settings = {0};
    struct model_config *config = &experiment->model.config;
    if (node == NULL) FAIL_AT(at, "model is required, for example model: {family: bert, layers: 2, width: 256}");
    TRY(settings_read(model_options, &settings, node, "model", &node->at, &experiment->store));
    if (*settings.path) {
        for (size_t i = 0; i < node->count; i++)
            if (strcmp(node->keys[i]->text, "path") != 0 && node->keys[i]->text[0] != '.')
                FAIL_AT(&node->keys[i]->at, "model: %s says how to make a model, but path names one that exists",
                        node->keys[i]->text);
        experiment->model.path = settings.path;
        goto out;
    }
    status = model_config_family(config, settings.family);
    if (status < 0) {
        error_prefix(status, "family");
        position_prefix(status, value_at(node, "family", &node->at), "model");
        status = E_ARGUMENT;
        goto out;
    }
    config->layers = (size_t)settings.layers;
    config->width = (size_t)settings.width;
    config->heads = (size_t)settings.heads;
    config->key_value_heads = (size_t)(settings.key_value_heads > 0 ? settings.key_value_heads : settings.heads);
    config->head_width = config->width / config->heads;
    config->feed_forward = (size_t)(settings.feed_forward > 0 ? settings.feed_forward : 4 * settings.width);
    config->positions = (size_t)settings.positions;
    config->token_types = (size_t)settings.token_types;
    experiment->model.deviation = settings.deviation;
    /* What the tokenizer and the task will fill in must not fail the check. */
    struct model_config trial = *config;
    trial.vocabulary = 1024;
    trial.classes = 2;
    status = model_config_check(&trial);
    if (status < 0) {
        position_prefix(status, &node->at, "model");
        status = E_ARGUMENT;
    }
out:
    return status;
}

int section_tokenizer(struct experiment *experiment, const struct node *node, const struct position *at) {
    int status = 0;
    struct tokenizer_plan *plan = &experiment->tokenizer;
    TRY(settings_read(tokenizer_options, plan, node, "tokenizer", at, &experiment->store));
    if (experiment->model.path) {
        if (node_find(node, "max_tokens") == NULL) plan->max_tokens = PRETRAINED_MAX_TOKENS;
        goto out;
    }
    if (node_find(node, "max_tokens") == NULL && plan->max_tokens > (int64_t)experiment->model.config.positions)
        plan->max_tokens = (int64_t)experiment->model.config.positions;
    if (plan->max_tokens > (int64_t)experiment->model.config.positions)
        FAIL_AT(value_at(node, "max_tokens", at), "tokenizer: max_tokens %lld is more than the model's %zu positions",
                (long long)plan->max_tokens, experiment->model.config.positions);
    experiment->model.config.vocabulary = (size_t)plan->vocabulary;
out:
    return status;
}

int named_options(const struct node *node, const char *what, const struct node **name, const struct node **options) {
    int status = 0;
    *options = NULL;
    if (node_is_empty(node)) FAIL_AT(&node->at, "%s is empty; write NAME or NAME: {options}", what);
    if (node->type == NODE_SCALAR) {
        *name = node;
    } else if (node->type == NODE_MAP && node->count == 1) {
        *name = node->keys[0];
        *options = node->items[0];
    } else if (node->type == NODE_MAP) {
        FAIL_AT(&node->at, "%s is a map of %zu names; write one NAME: {options}", what, node->count);
    } else {
        FAIL_AT(&node->at, "%s must be NAME or NAME: {options}, not a list", what);
    }
out:
    return status;
}

/* A model from scratch gets the head that the task scores; its family must have one. */
static int task_head(struct experiment *experiment, const struct position *at) {
    int status = 0;
    struct model_config *config = &experiment->model.config;
    config->model_heads = experiment->task->heads;
    struct model_config trial = *config;
    trial.vocabulary = 1024;
    trial.classes = 2;
    status = model_config_check(&trial);
    if (status < 0)
        FAIL_AT(at, "task: %s needs a head that the model's family %s has not", experiment->task->name, config->family);
out:
    return status;
}

int section_task(struct experiment *experiment, const struct node *node, const struct position *at) {
    int status = 0;
    const struct node *name, *options;
    const char *names[65];
    size_t count = 0;
    if (node == NULL) FAIL_AT(at, "task is required, for example task: {wordnet: {}}");
    TRY(named_options(node, "task", &name, &options));
    experiment->task = task_kind_find(name->text);
    if (experiment->task == NULL) {
        while (count < 64 && task_kinds[count] != NULL) {
            names[count] = task_kinds[count]->name;
            count++;
        }
        names[count] = NULL;
        TRY(unknown_word(&name->at, NULL, "task", name->text, names));
    }
    if (experiment->task->options_bytes > 0)
        TRY(store_take(&experiment->store, 1, experiment->task->options_bytes, &experiment->task_options));
    TRY(settings_read(experiment->task->options, experiment->task_options, options, name->text, &name->at,
                      &experiment->store));
    if (!experiment->model.path) TRY(task_head(experiment, &name->at));
out:
    return status;
}

static int measure_batches(struct experiment *experiment, const struct option_names *names, const struct node *node,
                           const struct position *at) {
    int status = 0;
    struct measure_plan *plan = &experiment->measure;
    const struct node *list = node_find(node, "batch");
    void *block;
    if (names->count == 0) FAIL_AT(value_at(node, "batch", at), "measure: batch is empty; give at least one size");
    TRY(store_take(&experiment->store, names->count, sizeof *plan->batch, &block));
    plan->batch = block;
    for (size_t i = 0; i < names->count; i++) {
        char *end;
        const struct position *where = list == NULL ? at : list->type == NODE_LIST ? &list->items[i]->at : &list->at;
        unsigned long long size = strtoull(names->items[i], &end, 10);
        if (names->items[i][0] < '0' || names->items[i][0] > '9' || *end != '\0' || size < 1 || size > 65536)
            FAIL_AT(where, "measure: batch must be whole numbers in 1..65536 (got %s)", names->items[i]);
        for (size_t j = 0; j < i; j++)
            if (plan->batch[j] == size) FAIL_AT(where, "measure: batch %llu is there twice", size);
        plan->batch[i] = (size_t)size;
    }
    plan->batch_count = names->count;
out:
    return status;
}

static int measure_meters(struct experiment *experiment, const struct option_names *names, const struct node *node,
                          const struct position *at) {
    int status = 0;
    struct measure_plan *plan = &experiment->measure;
    const struct node *list = node_find(node, "meters");
    const char *known[65];
    size_t count = 0;
    void *block;
    while (count < 64 && meters[count] != NULL) {
        known[count] = meters[count]->name;
        count++;
    }
    known[count] = NULL;
    TRY(store_take(&experiment->store, names->count, sizeof *plan->meters, &block));
    plan->meters = block;
    for (size_t i = 0; i < names->count; i++) {
        const struct position *where = list == NULL ? at : list->type == NODE_LIST ? &list->items[i]->at : &list->at;
        bool found = false;
        for (size_t j = 0; j < count && !found; j++) found = strcmp(known[j], names->items[i]) == 0;
        if (!found) TRY(unknown_word(where, "measure", "meter", names->items[i], known));
        for (size_t j = 0; j < i; j++)
            if (strcmp(plan->meters[j], names->items[i]) == 0)
                FAIL_AT(where, "measure: meter '%s' is there twice", names->items[i]);
        plan->meters[i] = names->items[i];
    }
    plan->meter_count = names->count;
out:
    return status;
}

/* Timing comes after all building: what no model of this experiment can be timed with is refused before. Those of a
 * pretrained model are known once it is opened. */
static int measure_fits(const struct experiment *experiment, const struct node *node, const struct position *at) {
    int status = 0;
    const struct model_config *config = &experiment->model.config;
    const struct measure_plan *plan = &experiment->measure;
    if (experiment->model.path) goto out;
    if (plan->new_tokens > 0 && !(config->model_heads & HEAD_CAUSAL_LM))
        FAIL_AT(value_at(node, "new_tokens", at), "measure: new_tokens needs a model that writes text, this one is %s",
                config->family);
    if (plan->prompt_tokens + plan->new_tokens > (int64_t)config->positions)
        FAIL_AT(value_at(node, plan->prompt_tokens ? "prompt_tokens" : "new_tokens", at),
                "measure: %lld tokens are more than the model's %zu positions",
                (long long)(plan->prompt_tokens + plan->new_tokens), config->positions);
out:
    return status;
}

int section_measure(struct experiment *experiment, const struct node *node, const struct position *at) {
    int status = 0;
    struct measure_settings settings = {0};
    const struct position *here = node != NULL ? &node->at : at;
    TRY(settings_read(measure_options, &settings, node, "measure", here, &experiment->store));
    experiment->measure.rounds = settings.rounds;
    experiment->measure.samples = settings.samples;
    experiment->measure.warmup = settings.warmup;
    experiment->measure.confidence = settings.confidence;
    experiment->measure.prompt_tokens = settings.prompt_tokens;
    experiment->measure.new_tokens = settings.new_tokens;
    experiment->measure.cache = cache_type_find(settings.cache);
    TRY(measure_batches(experiment, &settings.batch, node, here));
    TRY(measure_meters(experiment, &settings.meters, node, here));
    if (settings.new_tokens > 0 && (experiment->measure.batch_count != 1 || experiment->measure.batch[0] != 1))
        FAIL_AT(value_at(node, "new_tokens", here),
                "measure: new_tokens generates one text at a time: write batch: [1]");
    TRY(measure_fits(experiment, node, here));
out:
    return status;
}

int section_limits(struct experiment *experiment, const struct node *node, const struct position *at) {
    return settings_read(limits_options, &experiment->limits, node, "limits", at, &experiment->store);
}
