/* Question answering as transformers trains it: the softmax runs over padding, too, whose rows attend to the real
 * tokens and get hidden states, logits and gradients of their own. Our batches have no padding; here its rows go beside
 * a pass through a post-norm encoder (BERT, DistilBERT), one by one, in double and in plain loops. What they add to
 * keys and values of real tokens enters the pass by pass_want_part_gradient. */
#ifndef PADDED_ROWS_H
#define PADDED_ROWS_H

#include "golden_family.h"
#include "train/head.h"

/* Loss of the batch after a pass_forward, and all gradients, by a pass_backward: (ce of start + ce of end) / 2 over all
 * T positions of the golden's `start_positions` and `end_positions`, those beyond T ignored. */
double padded_span(struct pass *pass, const struct golden_family *family, const struct golden_batch *batch);

#endif
