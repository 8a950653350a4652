/* The table of verbs (contract: verbs.h). */
#include "verbs/verbs.h"

#include <string.h>

#include "base/error.h"
#include "base/option.h"

const struct verb verbs[] = {
    {"run", "run experiments: build, score, time, store, report (the default verb)", "[options] CONFIG…", verb_run},
    {"plan", "print what a run would do: cells, what is cached, an estimate of time", "[options] CONFIG…", verb_plan},
    {"list", "list experiments, sessions or cells with their status",
     "[experiments|sessions|cells] [EXPERIMENT] [options]", verb_list},
    {"show", "show everything stored about one cell or experiment", "CELL|EXPERIMENT [options]", verb_show},
    {"compare", "compare two cells, over all seeds (seed=*), or two sessions: paired tests, 95 % intervals",
     "A B [options]", verb_compare},
    {"regress", "compare the newest results with the accepted baseline, or accept them",
     "[accept] [EXPERIMENT…] [options]", verb_regress},
    {"export", "write the result view, one row per cell", "[EXPERIMENT…] [options]", verb_export},
    {"convert", "write a model, or what a cell made, as a Hugging Face folder", "MODEL|CELL FOLDER [options]",
     verb_convert},
    {"report", "draw the figures and write the page of experiments", "[EXPERIMENT…] [options]", verb_report},
    {"doctor", "say what this machine can measure and what spoils it", "[options]", verb_doctor},
    {"techniques", "list the techniques, or show one with its options", "[NAME[,OPTION]] [options]", verb_techniques},
    {"meters", "list the meters, or what one of them reads here", "[NAME] [options]", verb_meters},
    {"schema", "print the JSON Schema of experiment files", "", verb_schema},
    {NULL, NULL, NULL, NULL},
};

const struct verb *verb_find(const char *name) {
    for (const struct verb *verb = verbs; verb->name; verb++)
        if (strcmp(verb->name, name) == 0) return verb;
    return NULL;
}

const char *verb_nearest(const char *name) {
    const char *names[sizeof verbs / sizeof *verbs];
    size_t count = 0;
    for (const struct verb *verb = verbs; verb->name; verb++) names[count++] = verb->name;
    names[count] = NULL;
    return word_nearest(names, name);
}

int verb_exit_code(int status) {
    if (status >= 0) return status;
    return status == E_INTERRUPTED ? EXIT_INTERRUPTED : EXIT_USAGE;
}
