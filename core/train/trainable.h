/* What training moves: arrays of values, each with its gradient. A model's parameters come first, then whatever else
 * learns: low-rank updates, quantizer steps, projections of a loss. */
#ifndef TRAINABLE_H
#define TRAINABLE_H

#include "model/model.h"

struct trainable {
    const char *name;        /* borrowed; for errors and checkpoints */
    float *value, *gradient; /* (rows, columns), borrowed */
    size_t rows, columns;
    bool decay;  /* weight decay applies: matrices and embeddings, not gains, biases or steps */
    bool sparse; /* rows that were never touched have no gradient: neither it nor their moments are read or written */
};

struct trainables {
    struct trainable *items;
    size_t count;
    size_t tokens; /* which of them is the token embedding; SIZE_MAX: none */
};

/* Those parameters of the model that have a gradient now, in the model's order, then `extra`. The token embedding is
 * marked sparse when `sparse_tokens`: no head reads it, so look-ups alone give it gradients. E_MEMORY. */
int trainables_open(struct trainables *trainables, const struct model *model, bool sparse_tokens,
                    const struct trainable *extra, size_t extra_count);
void trainables_close(struct trainables *trainables); /* accepts a zeroed one */

#endif
