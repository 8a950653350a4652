/* What the files of smoothquant share. */
#ifndef SMOOTHQUANT_H
#define SMOOTHQUANT_H

#include "calibrate/fold.h"
#include "base/random.h"

#pragma GCC visibility push(hidden)

enum { SMOOTHQUANT_ROWS = 128 }; /* of an input that are kept to measure errors on */

/* One input that can be smoothed, and what was seen of it. */
struct smoothquant_site {
    struct fold_site fold;
    float *columns;       /* [N] largest magnitudes */
    float *inputs;        /* [channels] of these, and */
    float *weights;       /* [channels] of the columns that read them: when it is smoothed */
    float *rows;          /* (ROWS,N) a sample of its rows, each as likely as any */
    uint64_t seen;        /* rows */
    struct random random; /* that chooses them */
    double alpha;         /* chosen; -1: none, left as it is */
};

/* factor[channels] of equation 4: max|x|^alpha / max|w|^(1-alpha); 1 for a channel that was never above zero. alpha -1:
 * all 1. */
void smoothquant_factors(const struct smoothquant_site *site, double alpha, float *factor);

/* Squared error of the products of the site's layers on its sample when inputs x/factor and weights w·factor are
 * rounded to int8, inputs by one scale for all (the largest magnitude seen), weights by one a row; *size: squares of
 * the products themselves. On all threads. E_MEMORY. */
int smoothquant_error(const struct model *model, const struct smoothquant_site *site, const float *factor,
                      double *error, double *size);

#pragma GCC visibility pop

#endif
