/* Training: objectives, the loop over shuffled, packed batches, evaluation with the best kept, and checkpoints.
 *
 * The backward pass of each layer stands beside its forward pass in model/. Everything is cut into tiles that do not
 * depend on the number of threads, and every random draw is a function of (seed, step, place), so the trained values
 * are bit-identical at any number of threads and after a resume.
 *
 * A step is one update from `batch` sequences. It is computed in micro-batches, whole sequences each; a gradient is
 * the sum over them, each weighed by its share, so it is that of one pass up to rounding.
 */
#ifndef TRAIN_H
#define TRAIN_H

#include "model/model.h"
#include "text/examples.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/trainable.h"

struct pass;        /* train/pass.h */
struct linear_edit; /* train/pass.h */
struct logit_loss;  /* train/loss.h */
struct span_loss;

enum train_compute { TRAIN_F32, TRAIN_BF16 };

/* A micro-batch: sequences of a step, packed. Tokens may be masked or hidden already; arrays that the objective has
 * no use for are NULL. */
struct train_batch {
    struct batch batch;
    const uint32_t *example;    /* [B] which of the examples each sequence is */
    const int32_t *label;       /* classification: [B] */
    const float *target;        /* regression: [B]; similarity: [B/2], sequences 2i and 2i+1 are pair i */
    const int32_t *start, *end; /* question answering: [B] first and last token of the answer, within the sequence */
    const uint32_t *row;        /* language models: [rows] tokens of the batch at which something is predicted */
    const int32_t *row_label;   /* [rows] what should be */
    size_t rows;
    size_t step, first_sequence, first_token; /* of its step's batch */
    double share;                             /* of the step's loss: what its loss and gradients are multiplied by */
    double token_share;                       /* of the step's tokens: the same for losses that are means over tokens */
    bool first; /* of its step: gradients are overwritten; in later ones they are added to */
};

/* A teacher (distillation): adds to an objective without the loop knowing how. Both functions may be NULL and return 0
 * or a negative status, which ends training. */
struct train_teacher {
    void *context;
    /* Before the forward pass. May fill the teacher's fields of `logits` (for the batch's B sequences, or for its
     * `rows`) or `span`, and may put other labels there and other targets in place of the batch's. What it points to
     * must stay until the next call. */
    int (*targets)(void *context, struct train_batch *batch, struct logit_loss *logits, struct span_loss *span);
    /* Between head and backward: adds its mean loss over the micro-batch to *loss, and gradients (times batch->share)
     * through pass_want_block_gradient, pass_want_part_gradient, and to the plan's extra trainables. A mean over tokens
     * takes batch->token_share, and adds to *loss what batch->share will make of it. */
    int (*losses)(void *context, const struct train_batch *batch, struct pass *pass, double *loss);
};

/* Bytes that passes change without a gradient (running ranges of a quantizer): kept with the best values and in
 * checkpoints. */
struct train_state {
    const char *name;
    void *bytes;
    size_t count;
};

struct train_plan {
    enum train_objective objective;
    double epochs;      /* may be a fraction; unless `steps` says how many */
    size_t steps;       /* 0: as many as epochs are */
    size_t batch;       /* sequences per step; of similarity too, which rounds down to whole pairs (at least one) */
    size_t micro_batch; /* sequences per pass; 0: the whole batch */

    enum optimizer_kind optimizer;
    double rate;        /* peak learning rate */
    double warmup_frac; /* of all steps: linear from 0 */
    enum schedule_kind schedule;
    double schedule_power, schedule_end_frac; /* polynomial only */
    double beta1, beta2, epsilon;             /* adamw, adam_l2 */
    double momentum;                          /* sgd */
    bool nesterov;
    double weight_decay; /* on matrices and embeddings only */
    double clip_norm;    /* gradient norm limit; 0: none */

    double dropout; /* on embeddings, each block's two outputs and the pooled vector; 0: none */
    double label_smoothing;
    double word_dropout;         /* not of language models: share of ordinary tokens replaced by [MASK] in each step */
    double r_drop;               /* classification: each example goes through twice, with dropouts of its own, and this
                                  * weighs how far the two are apart (loss_agreement); 0: once */
    bool balance_classes;        /* weigh class k by count / (classes · count_k) */
    const double *class_weights; /* [classes of the examples], or NULL */
    double mask_frac;            /* masked LM: fraction of tokens to predict (80 % [MASK], 10 % random, 10 % kept) */
    int32_t mask_id;             /* [MASK]; -1: the tokenizer has none */
    int32_t special_ids;         /* ids below this are never masked nor drawn */
    size_t max_tokens;           /* longer examples are cut; 0: to the model's positions alone */

    double average_decay; /* per step, of a moving average of the weights that is scored and kept in place of the last
                           * step's; 0: none */

    size_t evaluate_steps; /* evaluate after every so many steps and at the end; 0: never */
    size_t patience;       /* stop after so many evaluations in a row that did not better the best; 0: never */
    bool keep_best;        /* end with the values of the best evaluation instead of the last ones */

    /* Checkpoints, in FOLDER/training.checkpoint, also when the host stops the run. A run of the same plan, examples
     * and first values goes on from there, to the same bits. One that cannot be written (a full disk) leaves the last
     * one in place and is said once in the log. */
    const char *checkpoint_dir; /* an existing folder; NULL: none */
    double checkpoint_s;        /* seconds between two; 0: after every step */

    enum train_compute compute;  /* BF16: products in bf16 with f32 sums and f32 master weights */
    bool checkpoint_activations; /* keep only block inputs and compute the rest again: less memory, a third more time */

    const struct train_teacher *teacher; /* NULL: none */
    const struct linear_edit *edits;     /* as pass_open; NULL: none */
    const bool *frozen;                  /* [parameter_count] true: no gradient, not moved; NULL: all are trained */
    const struct trainable *extra;       /* what learns beside the model's parameters */
    size_t extra_count;
    const struct train_state *states; /* what else changes from step to step */
    size_t state_count;
    const char *identity; /* of what else decides about the result (a teacher's hash): a checkpoint of a run with
                           * another one is not gone on from; NULL: nothing does */
    uint64_t seed;
};
/* AdamW 0.9/0.999/1e-8, decay 0.01, momentum 0.9, clip 1, linear after a warm-up of 0.06, batch 32, one epoch, f32. */
void train_plan_defaults(struct train_plan *plan);

/* Who watches. Every function may be NULL. */
struct train_host {
    void *context;
    /* After every step; nonzero: stop with E_INTERRUPTED. */
    int (*step)(void *context, const struct train_progress *progress);
    /* A score of the model as it stands, whose values may be read and not changed. 0 or a negative status. */
    int (*evaluate)(void *context, const struct model *model, double *score, bool *higher_is_better);
};

struct train_result {
    size_t steps, tokens;         /* taken, those of a checkpoint included */
    size_t steps_planned;         /* steps < steps_planned: patience ended it */
    size_t steps_resumed;         /* that a checkpoint brought */
    double loss_first, loss_last; /* means over the first 10 and the last 50 steps */
    double seconds;               /* times before a resumption included */
    size_t best_step;             /* of the best evaluation; 0: there was none */
    double best_score;
    size_t checkpoints, checkpoints_failed; /* written, and not, by this process */
};

/* Train the model in place. E_NUMERIC when losses or gradients are not finite or stay far above the first ones: the
 * text names the step, the layer where it began, and advice. E_ARGUMENT, E_SHAPE: plan, examples and model do not fit
 * together; E_UNSUPPORTED: the model lacks the head; E_FORMAT: a damaged checkpoint; E_MEMORY, E_INTERRUPTED. host and
 * result may be NULL. After an error the model's values are between two steps. */
int train_run(struct model *model, const struct examples *examples, const struct train_plan *plan,
              const struct train_host *host, struct train_result *result);

#endif
