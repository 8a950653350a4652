/* Objectives: each reads what a pass_forward left, computes its loss over the batch, and adds its gradient to
 * pass->dhidden and to the gradients of the head's own parameters, all times options.scale. Several may follow one
 * pass_forward.
 *
 * Losses are means over what counts in this batch, in nats or squares, not scaled. E_UNSUPPORTED: the model has no such
 * head; E_SHAPE: a label that it does not have; E_MEMORY. Deterministic at any number of threads.
 */
#ifndef HEAD_H
#define HEAD_H

#include "train/pass.h"

#define LABEL_IGNORED (-100) /* torch's ignore_index */

/* Cross-entropy with labels, or with a teacher's logits, or both:
 *
 *   ce = Σ_i [(1-s) w[y_i] nll_i(y_i) + s/V Σ_c w[c] nll_i(c)] / Σ_i w[y_i]      over rows with a label
 *   kl = T² mean_i Σ_c p_i(c) (log p_i(c) - log q_i(c))                          over all rows
 *   loss = alpha kl + (1-alpha) ce with a teacher, ce without
 *
 * s smoothing, w class weights, p the teacher's and q the model's probabilities at temperature T (Hinton et al. 2015).
 */
struct logit_loss {
    const int32_t *labels;     /* [rows], LABEL_IGNORED: none; NULL with alpha 1 */
    const float *class_weight; /* [V] or NULL: all 1 */
    double smoothing;
    const float *teacher; /* (rows,V) logits, or (rows,teacher_top); NULL: no teacher */
    double temperature, alpha;
    const uint32_t *teacher_top_id; /* (rows,teacher_top): the teacher's probability is shared out among these; NULL */
    size_t teacher_top;
};

/* Class of each sequence: B rows, V the model's classes. */
int head_classify(struct pass *pass, const struct logit_loss *labels, double *loss);
/* A model of one class: mean over sequences of (logit - target)²; target [B]. */
int head_regress(struct pass *pass, const float *target, double *loss);
/* Token ids (masked or causal language model) at chosen tokens: rows [count] index the batch's tokens, at most as many
 * as those. Rows go through in tiles, so that no more than 32 MiB of logits are held. */
int head_tokens(struct pass *pass, const uint32_t *rows, size_t count, const struct logit_loss *labels, double *loss);
/* Question answering: (ce of start + ce of end) / 2, each over a sequence's own tokens, meaned over the sequences where
 * the label, a place in the sequence, lies within it. start, end [B]. */
int head_span(struct pass *pass, const int32_t *start, const int32_t *end, double *loss);
/* Sentence similarity: mean over pairs of (cos(u, v) - target)², where u and v are the mean hidden rows of sequences 2i
 * and 2i+1 (Reimers and Gurevych 2019). target [B/2]. */
int head_similarity(struct pass *pass, const float *target, double *loss);

/* ---- between the files of the heads ---------------------------------------------------------------------- */

/* Room for the buffers of one head at a time, to be cut from pass->head_room by pass_cut. */
int head_room(struct pass *pass, size_t bytes);
/* The labels of a loss lie in 0..V-1 or are ignored. */
int logit_loss_check(const struct logit_loss *loss, size_t rows, size_t V);
/* What the means divide by. */
struct logit_means {
    double weight;  /* Σ_i w[y_i] */
    double classes; /* Σ_c w[c] */
    size_t rows;
};
void logit_loss_means(const struct logit_loss *loss, size_t rows, size_t V, struct logit_means *means);
/* Floats of scratch per worker of logit_loss_rows. */
size_t logit_loss_scratch(const struct logit_loss *loss, size_t V);
/* Share of rows first..first+count-1 in the loss; logits (count,V) of these rows become their gradients times `scale`.
 * row_loss [count] is overwritten. */
double logit_loss_rows(const struct logit_loss *loss, const struct logit_means *means, size_t first, size_t count,
                       size_t V, double scale, float *logits, double *row_loss, float *scratch);

#endif
