/* Pipelines as written, expanded over the lists and ranges among their options.
 *
 *   [magnitude: {sparsity: [0.3, 0.5]}, rtn: {bits: 8}]   gives two pipelines of two stages
 */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "config/experiment.h"
#include "config/settings.h"

/* The options of a stage that the file gave, in its order: what labels show and exclude compares. */
struct stage_given {
    const struct option **options;
    size_t count;
};

struct pipeline {
    struct stage_plan *stages; /* all memory is the experiment's store */
    struct stage_given *given;
    size_t count;
    const char *name;  /* "magnitude+rtn"; "baseline" when empty */
    const char *label; /* "magnitude sparsity=0.3 + rtn bits=8" */
    struct position at;
    const char *impossible; /* "rtn: 8 bits are symmetric only": options of a stage that do not go together; or NULL */
};

struct pipelines {
    struct pipeline *items; /* memory_release */
    size_t count, capacity;
};

enum pipeline_use {
    PIPELINE_SINGLE, /* prepare: one value per option */
    PIPELINE_AXES,   /* lists and ranges expand */
    PIPELINE_MATCH,  /* exclude: as AXES, and required options may be missing */
};

#define PIPELINES_MAX 100000

/* Append what `node`, one pipeline (a list of stages), expands to. who: "prepare", "pipeline". Where none of it has
 * options that go together, that is an error with the place of the stage; PIPELINE_MATCH does not ask. */
int pipeline_read(struct pipelines *pipelines, struct experiment *experiment, struct document *document,
                  const struct node *node, enum pipeline_use use, const char *who);
void pipelines_close(struct pipelines *pipelines);

/* Do the stages agree in number, technique and every option that the pattern gives? */
bool pipeline_matches(const struct pipeline *pattern, const struct pipeline *pipeline);

/* option_print into memory of the store. */
int option_text(const struct option *option, const void *target, struct option_store *store, const char **text);

#endif
