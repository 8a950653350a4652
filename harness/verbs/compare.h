/* What the ways to compare share (private to compare.c and compare_seeds.c). */
#ifndef COMPARE_H
#define COMPARE_H

#include <math.h>

#include "measure/statistics.h"
#include "store/rounds.h"
#include "task/paired.h"
#include "verbs/lookup.h"
#include "verbs/table.h"

/* A cell of one session. */
struct side {
    struct cell_place place;
    int64_t run; /* its ok build run, or 0 */
    char metric[64], data[80];
    const struct paired_estimator *estimator; /* of its primary metric; NULL: one this program does not know */
    struct round_list rounds;                 /* of its session */
};

/* Fill what is stored of side->place. */
int compare_side(struct store *store, struct side *side);
/* Did both score the same items by a metric that can be paired? */
bool compare_alike(const struct side *a, const struct side *b);

static inline struct interval compare_plain(double estimate) {
    return (struct interval){.estimate = estimate, .lo = NAN, .hi = NAN};
}
void compare_row(struct table *table, const char *cell, const char *metric, double a, double b, const char *how,
                 struct interval change, double p_value, const char *note);

/* compare_seeds.c: two sets of cells that differ by their seed (SEED_ANY in both words), seed by seed. E_NOT_FOUND;
 * E_ARGUMENT: fewer than two seeds in common. */
int compare_seeds(struct table *table, struct store *store, const char *label, const char *a, const char *b);

#endif
