/* Objectives: each reads what a pass_forward left, computes its loss over the batch, and adds its gradient to
 * pass->dhidden and to the gradients of the head's own parameters, all times options.scale. Several may follow one
 * pass_forward.
 *
 * Losses are means over what counts in this batch, in nats or squares, not scaled. E_UNSUPPORTED: the model has no such
 * head; E_SHAPE: a label that it does not have; E_MEMORY. Deterministic at any number of threads.
 */
#ifndef HEAD_H
#define HEAD_H

#include "train/loss.h"
#include "train/pass.h"

/* Class of each sequence: B rows, V the model's classes. */
int head_classify(struct pass *pass, const struct logit_loss *labels, double *loss);
/* A model of one class: mean over sequences of (logit - target)²; target [B]. */
int head_regress(struct pass *pass, const float *target, double *loss);
/* Token ids (masked or causal language model) at chosen tokens: rows [count] index the batch's tokens, at most as many
 * as those. Rows go through in tiles, so that no more than 32 MiB of logits are held. */
int head_tokens(struct pass *pass, const uint32_t *rows, size_t count, const struct logit_loss *labels, double *loss);
/* Question answering: start and end logits of every token, as loss_span. */
int head_span(struct pass *pass, const struct span_loss *span, double *loss);
/* Sentence similarity: mean over pairs of (cos(u, v) - target)², where u and v are the mean hidden rows of sequences 2i
 * and 2i+1 (Reimers and Gurevych 2019). target [B/2]. */
int head_similarity(struct pass *pass, const float *target, double *loss);

/* ---- between the files of the heads ---------------------------------------------------------------------- */

/* Room for the buffers of one head at a time, to be cut from pass->head_room by pass_cut. */
int head_room(struct pass *pass, size_t bytes);

#endif
