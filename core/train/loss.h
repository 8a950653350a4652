/* Losses over logits with their gradients: cross-entropy and what distillation adds to it.
 *
 * Every function works on whole batches, on all threads, and is bit-identical at any number of them. Losses are in
 * nats. A gradient is `scale` times that of the loss returned, so that the parts of a step that is computed in several
 * passes add up; the loss itself is not scaled. Losses of hidden states are in loss_hidden.h, of attention in
 * loss_attention.h.
 */
#ifndef LOSS_H
#define LOSS_H

#include <stddef.h>
#include <stdint.h>

#define LABEL_IGNORED (-100) /* a row with this label has no cross-entropy */

/* What a batch of logits aims at: (1-alpha) · cross-entropy with the labels + alpha · temperature² · KL(teacher ‖
 * student), both of softmax(logits / temperature) (Hinton, Vinyals and Dean 2015, section 2; the square keeps the
 * gradient's size when the temperature changes). */
struct logit_loss {
    const int32_t *labels;     /* [rows] classes or LABEL_IGNORED; NULL: no row has one */
    const float *class_weight; /* [V] or NULL; the mean is then over the labels' weights, as torch takes it */
    double smoothing;          /* share of the target that is spread over all V classes */
    const float *teacher; /* logits (rows,V), or (rows,teacher_top) with ids; NULL: cross-entropy alone, alpha is 0 */
    double temperature, alpha;
    const uint32_t *teacher_top_id; /* (rows,teacher_top) classes; the teacher's distribution is over these alone */
    size_t teacher_top;             /* at least 1 with ids; 0: the teacher's logits are whole rows */
    const int32_t *counted;         /* [rows] 0: the row has no divergence; NULL: all have */
};

/* Loss of logits (rows,V): the cross-entropy is a mean over the rows that have a label, the divergence over the rows
 * counted (tokens, where rows are tokens: DistilBERT's way). gradient (rows,V) may be NULL or `logits` itself; rows
 * that take no part get 0. *loss is 0 when no row does. E_MEMORY with a teacher alone. */
int loss_logits(const float *logits, size_t rows, size_t V, const struct logit_loss *aim, double scale, float *gradient,
                double *loss);

/* Mean cross-entropy over rows of logits (rows,V) whose label is not -100, with label smoothing spread over all V
 * classes; gradient (rows,V) may be NULL or may be `logits` itself. Returns the mean loss; 0 when no row counts. */
double loss_cross_entropy(const float *logits, const int32_t *labels, size_t rows, size_t V, double smoothing,
                          float *gradient);

/* What start and end logits of question answering aim at; a position outside its sequence is ignored. */
struct span_loss {
    const int32_t *start, *end; /* [B] tokens of the sequence */
    const float *teacher;       /* (T,2) logits or NULL */
    double temperature, alpha;  /* as in struct logit_loss */
};

/* (loss of the start + loss of the end) / 2 of logits (T,2), each as loss_logits with a row per sequence whose classes
 * are its tokens, offset[s]..offset[s+1]-1. gradient (T,2) may be NULL or `logits` itself. E_MEMORY. */
int loss_span(const float *logits, const uint32_t *offset, size_t sequences, const struct span_loss *aim, double scale,
              float *gradient, double *loss);

/* A causal language model predicts the next token: shifted[t] = labels[t+1] inside a sequence, LABEL_IGNORED at its
 * last token. shifted may be labels. Returns how many are not ignored. */
size_t loss_shift_labels(const int32_t *labels, const uint32_t *offset, size_t sequences, int32_t *shifted);

#endif
