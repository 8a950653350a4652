/* Running a model over calibration examples and showing what enters each linear layer.
 *
 * Which examples: the first of a permutation that the seed draws, in batches of whole examples. The model itself is
 * left alone: what runs is a view of it, with the builtin products, whose results do not depend on the number of
 * threads. All tokens of an example are seen in every layer, also where a task reads one of them.
 *
 * Layers that get the same input (query, key, value; gate, up) are shown it once, under the first one's index.
 */
#ifndef CALIBRATE_H
#define CALIBRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "text/examples.h"

struct calibration_plan {
    size_t examples;   /* at most these many; 0: all */
    size_t batch;      /* examples at a time, fewer where they are long; 0: 16 */
    size_t max_tokens; /* of an example, cut there; 0: the model's positions */
    uint64_t seed;
};

/* What is called; each may be NULL. A result other than 0 ends the run and is its result. */
struct calibration_visitor {
    /* x (T,N): the input of model->linears[linear], and of all whose leader that is. Valid during the call. */
    int (*input)(void *context, size_t linear, const float *x, size_t T);
    /* After a batch's pass: what came out, and the workspace for model_logits. fraction: of all batches, done. */
    int (*batch)(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                 const struct model_output *output, double fraction);
    void *context;
};

/* Index of the first linear layer of the block that gets the same input; the layer's own where it has one of its own.
 */
size_t calibration_leader(const struct model *model, size_t linear);

/* Examples that a plan takes, in order: [*count] indices. Release with memory_release. E_MEMORY; E_ARGUMENT: there are
 * none. */
int calibration_choose(const struct examples *examples, const struct calibration_plan *plan, uint32_t **chosen,
                       size_t *count);

/* E_ARGUMENT: no examples; E_SHAPE: examples that the model cannot read; E_MEMORY, and what visitors return. */
int calibration_run(const struct model *model, const struct examples *examples, const struct calibration_plan *plan,
                    const struct calibration_visitor *visitor);

/* ---- what may be kept of inputs, channel by channel ---- */

/* most[N] = max(most, |x|) over the rows of x (T,N). On all threads. */
void channel_absmax(size_t T, size_t N, const float *x, float *most);
/* sum[N] += Σ over the rows of x (T,N), in row order. On all threads. */
void channel_add(size_t T, size_t N, const float *x, double *sum);

#endif
