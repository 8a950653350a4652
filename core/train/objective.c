/* See objective.h. The names are those of the techniques' option `objective`. */
#include "train/objective.h"

#include <string.h>

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

int train_objective_find(const char *name, enum train_objective *objective) {
    for (int i = 0; i < TRAIN_OBJECTIVES; i++)
        if (strcmp(objectives[i].name, name) == 0) {
            *objective = (enum train_objective)i;
            return 0;
        }
    return error_record(
        E_NOT_FOUND, __FILE__, __LINE__,
        "unknown objective '%s': there are classification, masked_lm, causal_lm, regression, similarity "
        "and question_answering",
        name);
}

unsigned train_objective_heads(enum train_objective objective) {
    CHECK((unsigned)objective < TRAIN_OBJECTIVES, "no objective %d", (int)objective);
    return objectives[objective].heads;
}
