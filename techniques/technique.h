/* The contract of a technique: a plug-in that edits a model.
 *
 * One directory per technique, one exported symbol `const struct technique technique_<name>`, everything
 * else static. A technique includes this header and core headers, never another technique nor a harness
 * header. The same source builds as technique_<name>.so and loads with --plugin.
 * docs/ADDING_A_TECHNIQUE.md walks through techniques/_template/.
 */
#ifndef TECHNIQUE_H
#define TECHNIQUE_H

#include "base/error.h"
#include "base/log.h"
#include "base/option.h"
#include "calibrate/histogram.h"
#include "model/model.h"
#include "text/examples.h"
#include "train/objective.h"

#define TECHNIQUE_ABI 5u /* raised whenever this header changes its layout */

/* What the harness must provide; it refuses with the reason where it cannot. */
enum technique_needs {
    NEEDS_TRAINING_DATA = 1u << 0,    /* context->training: examples of context->objective */
    NEEDS_UNLABELLED_TEXT = 1u << 1,  /* context->unlabelled: ids alone */
    NEEDS_CALIBRATION_DATA = 1u << 2, /* context->calibration */
    NEEDS_GRADIENTS = 1u << 3,        /* an editable f32 model: no packed layers */
    NEEDS_CACHE = 1u << 4,            /* expensive: the harness caches the model after this stage */
};

/* What a stage that quantizes found out about one layer: stored, drawn and exported. NaN: not known. */
struct technique_layer {
    const char *name;               /* of the layer */
    const char *format;             /* that it has after the stage: "int8", or "f32" where it was kept */
    double low, high;               /* range chosen for its input */
    const struct histogram *inputs; /* that the range was chosen from; NULL: none */
    double error;                   /* of the model's output when this layer alone is quantized */
    const char *error_name;         /* "divergence_nats"; NULL: error is NaN */
    double score_lost;              /* of the task's primary metric, likewise; above 0 is worse */
    uint64_t bytes_f32, bytes_packed;
};

/* All pointers are valid until close returns. Functions are called from the thread that called apply. */
struct technique_context {
    struct model *model;
    enum train_objective objective; /* what the task's training data teaches */

    const struct examples *training, *unlabelled, *calibration; /* NULL unless needed */
    uint64_t seed;
    int32_t mask_id, special_ids; /* of the tokenizer, for masked language modelling */
    /* Nothing runs yet: the model has sizes and formats and no values (core: model_shape), there are no data, folders
     * nor listeners, and evaluate is there where it will be. What cannot be known so is not checked now. */
    bool planning;
    const char *cache_dir;      /* shared by all runs: name files by a hash of what determines them, write to
                                 * NAME.tmp and rename. NULL: nothing may be kept */
    const char *checkpoint_dir; /* of stages with NEEDS_CACHE: a folder of this stage and what came before it, model,
                                 * data, seed and options included. It outlives a worker that was killed and is removed
                                 * once the stage is done. NULL: there is none */
    /* An extra number with the result. name: "loss_last", unit: "nats"; "" for none. */
    void (*metric)(void *host, const char *name, const char *unit, double value);
    /* Progress 0..1 with a short text; nonzero: stop with E_INTERRUPTED. NULL: nobody listens. */
    int (*progress)(void *host, double fraction, const char *text);
    /* A step of training was taken: stored as a row of the stage's curve. Steps rise; one that was told before
     * (training resumed from a checkpoint) takes the place of that row and of all after it. NULL: nobody listens. */
    void (*step)(void *host, const struct train_progress *progress);
    /* The task's primary metric of a model as it stands, on the validation split; stored with the last step that was
     * told, unless the stage tells of none. The model (context->model, or a student of its own) may be in the middle of
     * training: its values are read, not changed, and what was prepared of it is left alone. E_STATE: it cannot be
     * told; E_MEMORY, E_NUMERIC. NULL: cannot be asked, for the task has no validation split. */
    int (*evaluate)(void *host, const struct model *model, double *value, bool *higher_is_better);
    /* Once for each layer that the stage looked at, in the model's order; everything is copied. NULL: nobody listens.
     */
    void (*layer)(void *host, const struct technique_layer *layer);
    void *host;
};

struct technique {
    uint32_t abi;                 /* TECHNIQUE_ABI. Required, first. */
    uint32_t version;             /* raise when results change: part of every cell's key */
    const char *name;             /* as in YAML. Required. */
    const char *summary;          /* one sentence. Required. */
    const char *source;           /* paper and equation, or "none" */
    uint32_t needs;               /* enum technique_needs bits: all that any options call for */
    const struct option *options; /* ends with OPTION_END; NULL: none */
    size_t options_bytes;         /* sizeof the options struct */
    size_t state_bytes;           /* the harness allocates it zeroed and frees it */

    /* Which of `needs` these options call for, so that data nobody reads is not made nor missed. Optional: all. */
    uint32_t (*needs_of)(const void *options);
    /* Do these options go together, whatever the model? 0, or E_UNSUPPORTED or E_ARGUMENT with the reason in the error
     * text, which names the options. Asked when the experiment is planned, of a copy, and before probe: a cell whose
     * stage has the reason is planned as a skip, a pipeline of which every cell has one is refused. May set
     * options by others (group 64 where bits is 4): what they say after settle and probe is stored. Optional. */
    int (*settle)(void *options);
    /* Can this run here, with these options on this model? 0, or E_UNSUPPORTED with the reason in the
     * error text: the cell is skipped. May also set options by the model. Of techniques that have foresee, it is also
     * asked before anything runs (context->planning): a cell with such a stage is planned as a skip. Optional. */
    int (*probe)(const struct technique_context *context, void *options);
    /* While planning, after a probe that said yes, of the options as that left them: make of context->model's sizes and
     * formats what apply will make of them, so that later stages can be asked. technique_foresee_same where they stay.
     * Negative: cannot be told before it has run. Optional: likewise. */
    int (*foresee)(struct technique_context *context, const void *options);
    int (*open)(struct technique_context *context, void *state, const void *options);  /* Optional. */
    int (*apply)(struct technique_context *context, void *state, const void *options); /* Required. */
    int (*report)(struct technique_context *context, void *state,
                  const void *options); /* Optional: calls context->metric. */
    void (*close)(void *state);         /* Optional. */
};

/* For `struct technique`.foresee: values change, sizes and formats do not. */
static inline int technique_foresee_same(struct technique_context *context, const void *options) {
    (void)context, (void)options;
    return 0;
}

#endif
