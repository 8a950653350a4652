/* Tokenized examples: what tasks hand to training, calibration and scoring. All views are borrowed.
 *
 * ids of all examples lie end to end; example i is ids[offset[i] .. offset[i+1]).
 */
#ifndef EXAMPLES_H
#define EXAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct examples {
    size_t count;
    const int32_t *ids;
    const uint32_t *offset; /* [count + 1] */
    const int32_t *label;   /* [count] class; NULL for unlabelled text */
    size_t classes;         /* 0 for unlabelled text */
};

#endif
