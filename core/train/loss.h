/* Losses over logits with their gradients: cross-entropy, and what distillation adds to it.
 *
 * Logits become their gradient where they lie. Every function works on whole rows, on all threads, and is bit-identical
 * at any number of them. Losses are means in nats; a gradient is `scale` times that of the loss returned, so that the
 * parts of a step that is computed in several passes add up. Losses of hidden states are in loss_hidden.h, of attention
 * in loss_attention.h.
 */
#ifndef LOSS_H
#define LOSS_H

#include <stddef.h>
#include <stdint.h>

#define LABEL_IGNORED (-100) /* torch's ignore_index: a row with this label has no cross-entropy */

/* Cross-entropy with labels, or with a teacher's logits, or both:
 *
 *   ce = Σ_i [(1-s) w[y_i] nll_i(y_i) + s/V Σ_c w[c] nll_i(c)] / Σ_i w[y_i]      over rows with a label
 *   kl = T² mean_i Σ_c p_i(c) (log p_i(c) - log q_i(c))                          over rows that count
 *   loss = alpha kl + (1-alpha) ce with a teacher, ce without
 *
 * s smoothing, w class weights, p the teacher's and q the model's probabilities at temperature T (Hinton, Vinyals and
 * Dean 2015, section 2; T² keeps the gradient's size when T changes). Where rows are tokens, kl is a mean over tokens,
 * as DistilBERT takes it. */
struct logit_loss {
    const int32_t *labels;     /* [rows], LABEL_IGNORED: none; NULL with alpha 1 */
    const float *class_weight; /* [V] or NULL: all 1 */
    double smoothing;
    const float *teacher; /* (rows,V) logits, or (rows,teacher_top); NULL: no teacher */
    double temperature, alpha;
    const uint32_t *teacher_top_id; /* (rows,teacher_top): the teacher's probability is shared out among these; NULL */
    size_t teacher_top;
    const int32_t *counted; /* [rows] 0: the row has no kl; NULL: all have */
    /* Instead of `teacher`, where (rows,V) would be too large to hold: writes the teacher's logits of rows
     * first..first+count-1 to out (count,V); 0 or a negative status. Only head_tokens asks. */
    int (*teacher_rows)(void *context, size_t first, size_t count, float *out);
    void *teacher_context;
    double agreement; /* above 0: rows 2i and 2i+1 are one example, and head_classify adds loss_agreement */
};

/* Mean loss of logits (rows,V), which become their gradient; rows that take no part get 0. *loss is 0 when no row takes
 * part. E_MEMORY. */
int loss_logits(float *logits, size_t rows, size_t V, const struct logit_loss *aim, double scale, double *loss);

/* How far two passes of an example with dropouts of their own are apart (R-Drop: Wu et al. 2021, section 2), weighed
 * as the cross-entropy of the same rows is:
 *
 *   weight Σ_i w[y_i] ½ [KL(p_2i ‖ p_2i+1) + KL(p_2i+1 ‖ p_2i)] / Σ_i w[y_i]
 *
 * The paper adds the two cross-entropies up where loss_logits takes their mean, so its alpha is twice this weight.
 * logits (2·pairs,V); labels [2·pairs], equal in pairs and in 0..V-1; class_weight [V] or NULL: all 1. Writes `scale`
 * times the gradient to gradient (2·pairs,V) and returns the loss in nats. */
double loss_agreement(const float *logits, size_t pairs, size_t V, const int32_t *labels, const float *class_weight,
                      double weight, double scale, float *gradient);

/* What start and end logits of question answering aim at; a position outside its sequence is ignored. */
struct span_loss {
    const int32_t *start, *end; /* [B] tokens of the sequence */
    const float *teacher;       /* (T,2) logits or NULL */
    double temperature, alpha;  /* as in struct logit_loss */
};

/* (loss of the start + loss of the end) / 2 of logits (T,2), which become their gradient; each as loss_logits with a
 * row per sequence whose classes are its tokens, offset[s]..offset[s+1]-1. E_MEMORY. */
int loss_span(float *logits, const uint32_t *offset, size_t sequences, const struct span_loss *aim, double scale,
              double *loss);

/* A causal language model predicts the next token: shifted[t] = labels[t+1] inside a sequence, LABEL_IGNORED at its
 * last token. shifted may be labels. Returns how many are not ignored. */
size_t loss_shift_labels(const int32_t *labels, const uint32_t *offset, size_t sequences, int32_t *shifted);

/* ---- in tiles of rows ---------------------------------------------------------------------------------------- */

/* Labels and ids lie in 0..V-1 or are ignored, and there is something to aim at. E_SHAPE, E_ARGUMENT. */
int logit_loss_check(const struct logit_loss *loss, size_t rows, size_t V);
/* What the means divide by. */
struct logit_means {
    double weight;  /* Σ_i w[y_i] */
    double classes; /* Σ_c w[c] */
    size_t rows;    /* that have a kl */
};
void logit_loss_means(const struct logit_loss *loss, size_t rows, size_t V, struct logit_means *means);
/* Floats of scratch per worker of logit_loss_rows. */
size_t logit_loss_scratch(const struct logit_loss *loss, size_t V);
/* Share of rows first..first+count-1 in the loss; logits (count,V) of these rows become their gradients times `scale`.
 * row_loss [count] is overwritten. */
double logit_loss_rows(const struct logit_loss *loss, const struct logit_means *means, size_t first, size_t count,
                       size_t V, double scale, float *logits, double *row_loss, float *scratch);

#endif
