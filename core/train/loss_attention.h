/* Losses that make a student attend as its teacher does, with their gradients.
 *
 * Both compare, head by head and sequence by sequence, the products a·bᵀ/√D of two sets of vectors: queries and keys
 * for attention itself, values with values (or queries with queries, keys with keys) for the relations of MiniLM. What
 * is compared has one number per pair of tokens, so student and teacher may differ in width as long as they have
 * equally many heads. Nothing of size t×t is kept: a tile of rows is made, compared and forgotten.
 */
#ifndef LOSS_ATTENTION_H
#define LOSS_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum attention_loss {
    /* Mean square of the scores before the softmax; entries at or below -100 on a side are 0 on that side (TinyBERT:
     * Jiao et al. 2020, equation 7, and its implementation's rule for masked places). */
    ATTENTION_SCORES,
    /* KL(softmax of the teacher's row ‖ softmax of the student's) (MiniLM: Wang et al. 2020, equations 5 to 7; v2: Wang
     * et al. 2021, section 3.1). */
    ATTENTION_RELATION
};

#define ATTENTION_MASKED (-100.0f) /* scores at or below it count as masked */

/* Mean square over count scores with the rule above; the gradient is `scale` times that of the loss and is added; NULL:
 * not wanted. In the calling thread. */
double loss_attention_scores(size_t count, const float *student, const float *teacher, double scale, float *gradient);

/* The vectors of one model for a batch of T tokens: a (T, a_heads·D), b (T, b_heads·D), dense rows; head h of a meets
 * head h / (a_heads / b_heads) of b, as in grouped queries. b may be a. */
struct attention_side {
    const float *a, *b;
    size_t a_heads, b_heads, D;
};

struct attention_task {
    enum attention_loss kind;
    struct attention_side student, teacher; /* equally many a_heads */
    const uint32_t *offset;                 /* [sequences+1] */
    size_t sequences;
    bool causal;   /* a row sees itself and the tokens before it */
    size_t window; /* causal: of these the last `window`; 0: all */
};

/* Each row's loss is a mean over the tokens it sees (scores) or their divergence (relation); the result is the mean of
 * the rows of all heads and sequences. da (T, a_heads·D) and db of the student are added to, `scale` times; both NULL:
 * not wanted; db is da where b is a. E_MEMORY. */
int loss_attention(const struct attention_task *task, double scale, float *da, float *db, double *loss);

#endif
