/* See objective.h. The names are those of the techniques' option `objective`. */
#include "train/objective.h"

#include "base/error.h"
#include "model/model.h"

static const struct {
    const char *name;
    unsigned heads;
} objectives[TRAIN_OBJECTIVES] = {
    [TRAIN_CLASSIFICATION] = {"classification", HEAD_CLASSIFICATION},
    [TRAIN_MASKED_LM] = {"masked_lm", HEAD_MASKED_LM},
    [TRAIN_CAUSAL_LM] = {"causal_lm", HEAD_CAUSAL_LM},
    [TRAIN_REGRESSION] = {"regression", HEAD_CLASSIFICATION},
    [TRAIN_SIMILARITY] = {"similarity", HEAD_NONE},
    [TRAIN_QUESTION_ANSWERING] = {"question_answering", HEAD_SPAN},
};

const char *train_objective_name(enum train_objective objective) {
    CHECK((unsigned)objective < TRAIN_OBJECTIVES, "no objective %d", (int)objective);
    return objectives[objective].name;
}

unsigned train_objective_heads(enum train_objective objective) {
    CHECK((unsigned)objective < TRAIN_OBJECTIVES, "no objective %d", (int)objective);
    return objectives[objective].heads;
}
