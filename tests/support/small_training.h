/* Small models of every kind that trains, each with an objective and a batch with labels, all from seeds. */
#ifndef SMALL_TRAINING_H
#define SMALL_TRAINING_H

#include "train/head.h"

enum small_objective { SMALL_CLASSIFY, SMALL_REGRESS, SMALL_TOKENS, SMALL_SPAN, SMALL_SIMILAR };

struct small_kind {
    const char *name, *family;
    enum small_objective objective;
    size_t key_value_heads, embedding_width, window, vocabulary; /* 0: the plain ones */
    enum model_pooling pooling;
    bool post_norm, untied, kinks; /* kinks: ReLU, whose slope jumps under a difference */
};
extern const struct small_kind small_kinds[];
extern const size_t small_kind_count;

struct small_training {
    const struct small_kind *kind;
    struct model model;
    struct pass pass;
    struct batch batch;
    int32_t *ids, *types, *labels, *end; /* labels: classes [B], starts [B] or ids [count]; end [B] */
    float *target;                       /* [B] */
    uint32_t *offset, *rows;
    size_t count;     /* of rows */
    double agreement; /* of struct logit_loss */
    /* NULL, or a further loss of what the pass holds after the head, with its gradient where the pass wants it. */
    double (*extra)(struct pass *pass);
};

/* Two layers of width 32, vocabulary 97 where the kind has no other, positions as many as the longest of `lengths` asks
 * for. Gains and biases are not trivial; gradients are open for all heads. */
void small_training_open(struct small_training *training, const struct small_kind *kind, const size_t *lengths,
                         size_t count, uint64_t seed);
void small_training_close(struct small_training *training);
/* forward and head; then backward. The test fails on an error. */
double small_training_loss(struct small_training *training, const struct pass_options *options);
double small_training_step(struct small_training *training, const struct pass_options *options);
/* The derivative of the loss by one value, from differences at five points. */
double small_training_slope(struct small_training *training, const struct pass_options *options, float *value);
/* All gradients one behind the other: small_training_values floats. */
size_t small_training_values(const struct small_training *training);
void small_training_gradients(const struct small_training *training, float *out);

#endif
