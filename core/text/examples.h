/* Tokenized examples: what tasks hand to training, calibration and scoring. All views are borrowed.
 *
 * ids of all examples lie end to end; example i is ids[offset[i] .. offset[i+1]). Which of the other arrays there are
 * depends on what is learnt (train/objective.h); those that do not apply are NULL.
 */
#ifndef EXAMPLES_H
#define EXAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct examples {
    size_t count;
    const int32_t *ids;
    const uint32_t *offset; /* [count + 1] */
    const int32_t *types;   /* as ids: which of two texts a token belongs to (0, 1); NULL: all 0 */
    const int32_t *label;   /* [count] class */
    size_t classes;         /* 0 where there are no labels */
    bool pair;              /* examples 2i and 2i+1 belong together: they must stay in one batch; count is even */
    const float *target;    /* [count], or with pair [count/2]: a score, in 0..1 where the data has a range */
    /* [count] position in the example, from 0, of the answer's first and last token; both -1: the answer is not in this
     * window (Devlin et al. 2018 then teach token 0, [CLS], as both). */
    const int32_t *start, *end;
};

#endif
