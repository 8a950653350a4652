/* A training run at work, shared by the files of the loop. Private to core/train.
 *
 * train.c is the loop, train_check.c what must hold before it, train_micro.c one micro-batch, train_finite.c what is
 * said when numbers are not finite, train_average.c the moving average of the weights, train_resume.c what is kept: the
 * best values and checkpoints.
 */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "base/hash.h"
#include "train/batches.h"
#include "train/checkpoint.h"
#include "train/pass.h"
#include "train/train.h"

#define LOSS_FIRST_STEPS 10 /* the reported first and last losses are means over so many steps */
#define LOSS_LAST_STEPS 50

/* All that changes from step to step beside values and moments; part of a checkpoint as it is. */
struct train_tally {
    uint64_t steps, tokens; /* taken */
    double seconds;         /* spent until the checkpoint */
    double first_sum, last[LOSS_LAST_STEPS];
    uint64_t above; /* steps in a row whose loss was far above the first ones' */
    double best_score;
    uint64_t best_step, unbettered; /* unbettered: evaluations since the best */
    uint64_t scored;                /* evaluations made */
    uint64_t averaged;              /* times that values joined the average */
};

struct training {
    struct model *model;
    const struct examples *examples;
    const struct train_plan *plan;
    const struct train_host *host;
    struct batches batches;
    struct pass pass;
    struct trainables trainables;
    struct optimizer optimizer;
    struct schedule schedule;
    double chance; /* train_chance */
    struct train_tally tally;
    bool best_kept; /* `best` holds the values of the best evaluation */
    void *best;     /* values of all trainables, then the plan's states */
    float *average; /* of all trainables, end to end; NULL: none is wanted */
    size_t average_bytes;
    bool average_present; /* something has joined it */
    double started_s;     /* when this process began, less what earlier ones spent */
    struct checkpoint_part *parts;
    size_t part_count;
    char *checkpoint_path; /* NULL: none is wanted */
    char identity[HASH_HEX];
    double checkpointed_s;
    size_t checkpoints, checkpoints_failed;
    bool checkpoint_failing; /* the last one could not be written, and that was said */
};

double train_now_s(void);

/* Plan and examples fit each other and the model. E_ARGUMENT, E_SHAPE, E_UNSUPPORTED. */
int train_check(const struct model *model, const struct examples *examples, const struct train_plan *plan,
                const struct train_host *host);

/* Forward, head, teacher and backward of the micro-batch `index` of the step at hand: its loss, not weighed by its
 * share, and gradients. */
int train_micro(struct training *training, size_t index, double *share, double *loss);

/* E_NUMERIC with a text that says where numbers ceased to be finite, and what to do. After a forward pass; and after a
 * backward pass. what: "loss", "gradient norm". */
int train_not_finite_forward(const struct training *training, double loss);
int train_not_finite_backward(const struct training *training, double norm);
/* Loss of a model that knows nothing: even odds, or 0 for every score. */
double train_chance(const struct training *training);
/* E_NUMERIC when losses stay far above those of the first steps. */
int train_check_loss(struct training *training, double loss);

/* The moving average of the weights; nothing where the plan wants none. */
int train_average_open(struct training *training); /* E_MEMORY */
void train_average_close(struct training *training);
void train_average_join(struct training *training); /* after each step; it takes what it needs */
/* Exchange values and average, once something has joined it; a second call undoes the first. */
void train_average_swap(struct training *training);

/* Room for the best values and a run's identity; goes on from its checkpoint where there is one. */
int train_resume_open(struct training *training);
void train_resume_close(struct training *training);
void train_best_keep(struct training *training);    /* the values as they are now */
void train_best_restore(struct training *training); /* those that were kept last */
/* Write a checkpoint. One that cannot be written is said once in the log; the last good one stays and training goes on.
 */
void train_checkpoint(struct training *training);

#endif
