/* One training pass: loss and gradients of a packed batch. Private to core/train.
 *
 * The batch is cut into shards of whole sequences, about 112 tokens each whatever the machine. A shard goes
 * through all blocks forward, and later backward, without meeting another: one parallel region each way. Then
 * every weight gradient is one job, summed over all tokens in a single multiplication, so its value does not
 * depend on how many threads there are. Between the two, the head sees the whole batch.
 */
#ifndef PASS_H
#define PASS_H

#include "model/family.h"
#include "train/train.h"

/* What the backward pass needs of one block, and what it leaves for the weight gradients. (T,·) each. */
struct pass_block {
    float *x;                                /* (T,C) input; of block L: the body's output */
    float *query, *key, *value, *context;    /* (T,A) */
    float *sum1, *mean1, *rstd1, *y1;        /* residual sum and norm after attention */
    float *up, *active;                      /* (T,F) before and after the activation */
    float *sum2, *mean2, *rstd2;             /* after the feed-forward layers */
    float *probabilities;                    /* Σ over sequences of H·t² */
    uint8_t *keep1, *keep2;                  /* (T,C) dropout */
    float *dquery, *dkey, *dvalue, *doutput; /* gradients at the outputs of the linear layers */
    float *dup, *ddown;
};

struct weight_job {
    uint32_t block, part, begin, end;
};

struct pass {
    struct model *model;
    struct arena arena;
    struct pass_block *block; /* [L+1] */
    struct weight_job *job;
    size_t job_count;
    size_t tokens_max, sequences_max, squares_max, rows_max, longest_max; /* what the arena is cut for */
    size_t shards_max, worker_count;

    int32_t *position; /* [T] */
    uint32_t *shard;   /* [shards+1] first sequence of each */
    size_t *square;    /* [B+1] Σ t² of the sequences before */
    float *embedded, *mean0, *rstd0, *dx, *dcontext;
    uint8_t *keep0;
    float *partial;   /* [shards][2L+1][2][C] norm gradients */
    uint64_t *stream; /* [2L+2] dropout: embeddings, each block's two outputs, the pooled vector */
    float *scratch;   /* [workers][scratch_floats] */
    size_t scratch_floats;
    int32_t *touched; /* embedding rows that the last pass wrote */
    size_t touched_count;
    bool touched_all;
    /* heads: (B,·) for classification, (rows,·) for masked LM */
    float *first, *pooled, *dropped, *logits, *dpooled, *dfirst;
    uint8_t *keep_pooled;
    int32_t *row, *row_label; /* [rows] token of each prediction, and its label */
    float *gathered, *transformed, *activated, *normed, *mean, *rstd, *dnormed, *dnormed_partial;

    /* of the batch at work */
    const struct batch *batch;
    size_t shard_count, rows;
    double dropout;
    uint64_t seed;
};

struct pass_options {
    enum train_objective objective;
    double dropout, smoothing;
    uint64_t seed, step;
};

/* The model must have its gradients open; it may not change its layout until pass_close. */
int pass_open(struct pass *pass, struct model *model);
void pass_close(struct pass *pass); /* accepts a zeroed pass */
/* Loss in nats and all gradients (overwritten) of one batch. labels: [B] classes, or [T] ids with -100 ignored.
 * The batch was checked. E_MEMORY. */
int pass_run(struct pass *pass, const struct batch *batch, const int32_t *labels, const struct pass_options *options,
             double *loss);

/* pass_head.c: loss and gradients of a head, and dx (T,C) at the body's output. */
void pass_classify(struct pass *pass, const int32_t *labels, double smoothing, double *loss);
void pass_masked(struct pass *pass, double smoothing, double *loss);

#define HEAD_VOCABULARY_TILE 1024

#endif
