/* What a user's words mean in a results database: experiments, sessions and cells by name.
 *
 * A cell is "LABEL" where that is unique among the newest sessions, "EXPERIMENT/LABEL", or six digits or more of its
 * key; "@N" after any of them (or after an experiment) means session N instead of the newest.
 */
#ifndef LOOKUP_H
#define LOOKUP_H

#include <stdint.h>

#include "store/store.h"

/* Where a table is empty. E_NOT_FOUND names the nearest experiment, or says that there is none. */
int lookup_experiment(struct store *store, const char *name);

/* "EXPERIMENT", "EXPERIMENT@N" or "N". *session 0 and status 0 when the words are no session. */
int lookup_session(struct store *store, const char *words, int64_t *session);

struct cell_place {
    int64_t cell, session;
};
/* E_NOT_FOUND with the nearest label; E_ARGUMENT names the candidates when several cells fit. */
int lookup_cell(struct store *store, const char *words, struct cell_place *place);

/* The cells of one label at every seed, by seed: "LABEL seed=*" or "EXPERIMENT/LABEL seed=*", "@N" after it as above.
 */
#define SEED_ANY "seed=*"
#define SEEDS_MOST 64
struct seed_places {
    struct seed_place {
        struct cell_place place;
        uint64_t seed;
    } cells[SEEDS_MOST];
    size_t count;
};
/* E_NOT_FOUND; E_ARGUMENT where a seed fits several cells; E_LIMIT. */
int lookup_seeds(struct store *store, const char *words, struct seed_places *places);

#endif
