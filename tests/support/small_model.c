#include "small_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"

struct model_config small_config(unsigned heads) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, "bert"), 0);
    config.layers = 2;
    config.width = 32;
    config.heads = config.key_value_heads = 2;
    config.head_width = 16;
    config.feed_forward = 48;
    config.vocabulary = 97;
    config.positions = 24;
    config.classes = 3;
    config.model_heads = heads;
    return config;
}

void small_model(struct model *model, unsigned heads, uint64_t seed) {
    struct model_config config = small_config(heads);
    if (model_create(model, &config, seed, 0.2) < 0) fail_msg("%s", error_text());
}

void small_batch_new(struct small_batch *batch, const struct model_config *config, const size_t *lengths, size_t count,
                     uint64_t seed) {
    struct random random;
    size_t T = 0;
    for (size_t i = 0; i < count; i++) T += lengths[i];
    batch->ids = calloc(T, sizeof(int32_t));
    batch->types = calloc(T, sizeof(int32_t));
    batch->masked = calloc(T, sizeof(int32_t));
    batch->classes = calloc(count, sizeof(int32_t));
    batch->offset = calloc(count + 1, sizeof(uint32_t));
    random_open(&random, seed, random_stream("small_batch", 0, 0));
    for (size_t i = 0; i < count; i++) {
        batch->offset[i + 1] = batch->offset[i] + (uint32_t)lengths[i];
        batch->classes[i] = (int32_t)random_below(&random, config->classes);
    }
    for (size_t t = 0; t < T; t++) {
        batch->ids[t] = (int32_t)random_below(&random, config->vocabulary);
        batch->types[t] = (int32_t)random_below(&random, config->token_types);
        batch->masked[t] = random_below(&random, 3) ? -100 : (int32_t)random_below(&random, config->vocabulary);
    }
    batch->batch = (struct batch){
        .sequences = count, .tokens = T, .ids = batch->ids, .offset = batch->offset, .token_types = batch->types};
}

void small_batch_free(struct small_batch *batch) {
    free(batch->ids);
    free(batch->types);
    free(batch->masked);
    free(batch->classes);
    free(batch->offset);
}

/* [CLS], 3 to 14 words, [SEP]. A word's class is its id modulo the number of classes; most words of an example
 * are of its label's class. */
void small_examples_new(struct small_examples *examples, const struct model_config *config, size_t count,
                        uint64_t seed) {
    struct random random;
    size_t used = 0, words = config->vocabulary - SMALL_SPECIAL;
    examples->ids = calloc(count * 16, sizeof(int32_t));
    examples->label = calloc(count, sizeof(int32_t));
    examples->offset = calloc(count + 1, sizeof(uint32_t));
    random_open(&random, seed, random_stream("small_examples", 0, 0));
    for (size_t i = 0; i < count; i++) {
        size_t length = 3 + (size_t)random_below(&random, 12), label = (size_t)random_below(&random, config->classes);
        examples->label[i] = (int32_t)label;
        examples->ids[used++] = 1;
        for (size_t j = 0; j < length; j++) {
            size_t word = (size_t)random_below(&random, words);
            if (random_below(&random, 4)) word = word / config->classes * config->classes + label;
            examples->ids[used++] = (int32_t)(SMALL_SPECIAL + (word < words ? word : label));
        }
        examples->ids[used++] = 2;
        examples->offset[i + 1] = (uint32_t)used;
    }
    examples->examples = (struct examples){.count = count,
                                           .ids = examples->ids,
                                           .offset = examples->offset,
                                           .label = examples->label,
                                           .classes = config->classes};
}

void small_examples_free(struct small_examples *examples) {
    free(examples->ids);
    free(examples->label);
    free(examples->offset);
}

void small_model_hash(const struct model *model, char hex[65]) {
    struct hash hash;
    hash_open(&hash);
    for (size_t i = 0; i < model->parameter_count; i++)
        hash_update(&hash, model->parameters[i].value,
                    model->parameters[i].rows * model->parameters[i].columns * sizeof(float));
    hash_close(&hash, hex);
}
