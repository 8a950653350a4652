/* A tiny BERT, batches and learnable examples for it, all from seeds. */
#ifndef SMALL_MODEL_H
#define SMALL_MODEL_H

#include "model/model.h"
#include "text/examples.h"

#define SMALL_SPECIAL 5 /* [PAD] [CLS] [SEP] [MASK] [UNK] are ids 0..4 */
#define SMALL_MASK 3

/* 2 layers of width 32, 2 heads, 3 classes, vocabulary 97, 24 positions. */
struct model_config small_config(unsigned heads);
void small_model(struct model *model, unsigned heads, uint64_t seed); /* or the test fails */

/* Sequences of the given lengths with random ids and token types. */
struct small_batch {
    int32_t *ids, *types, *classes, *masked; /* classes [B]; masked [T]: -100 but for about a third */
    uint32_t *offset;
    struct batch batch;
};
void small_batch_new(struct small_batch *batch, const struct model_config *config, const size_t *lengths, size_t count,
                     uint64_t seed);
void small_batch_free(struct small_batch *batch);

/* Labelled examples whose label can be read off their words: learnable within a few dozen steps. */
struct small_examples {
    int32_t *ids, *label;
    uint32_t *offset;
    struct examples examples;
};
void small_examples_new(struct small_examples *examples, const struct model_config *config, size_t count,
                        uint64_t seed);
void small_examples_free(struct small_examples *examples);

/* SHA-256 over all parameters' bytes, as hexadecimal. */
void small_model_hash(const struct model *model, char hex[65]);

#endif
