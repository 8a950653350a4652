/* Between the files of distill: its options, its teacher, and what the teacher says.
 *
 *   distill.c          options, probe, apply, report
 *   distill_student.c  the student from layers of its source, or from scratch
 *   distill_teacher.c  the teacher at work: its logits and states for a batch, and the two hooks of the training loop
 *   distill_outputs.c  its outputs for all examples, computed once
 *   distill_ensemble.c the mean of several teachers' outputs
 *   distill_keep.c     a file of rows by content
 *   distill_losses.c   hidden states and attention
 */
#ifndef DISTILL_H
#define DISTILL_H

#include "technique_training.h"

#include "base/file.h"
#include "base/hash.h"
#include "io/file_map.h"
#include "kernels/kernels.h"
#include "train/loss.h"
#include "train/pass.h"

/* A technique exports its one symbol: these functions are for its own files. */
#pragma GCC visibility push(hidden)

struct distill_options {
    struct train_options train;
    const char *teacher;
    struct option_names ensemble;
    const char *from;
    struct option_names layers;
    int64_t depth, width, heads, feed_forward;
    double temperature, alpha;
    const char *hidden;
    double hidden_weight;
    struct option_names hidden_map;
    const char *attention;
    double attention_weight;
    struct option_names attention_map;
    int64_t relation_heads;
    const char *level;
    int64_t teacher_top, prompt_tokens, beams;
};

/* ---- distill_keep.c ---------------------------------------------------------------------------------------- */

/* `count` rows of `row_bytes`: found on disk, or to be written into `block` and then finished. */
struct kept {
    const uint8_t *rows;
    size_t count, row_bytes;
    bool found;
    uint8_t *block; /* NULL once the rows are those of the file */
    struct file_map map;
    char *path; /* NULL: in memory alone */
    char key[HASH_HEX];
    bool locked, waited; /* this process computes the rows; another one was at it before */
    int lock;
};
/* folder NULL: nothing is kept. A file that is not whole is as good as none. While another process computes the same
 * rows, `waiting` is called time and again; nonzero: E_INTERRUPTED. E_MEMORY, E_LIMIT. */
int distill_kept_open(struct kept *kept, const char *folder, const char key[HASH_HEX], size_t count, size_t row_bytes,
                      int (*waiting)(void *context), void *context);
/* The block is written: keep it, if the disk lets us. */
void distill_kept_finish(struct kept *kept);
void distill_kept_close(struct kept *kept); /* accepts a zeroed one */

/* Hash of all that decides about what a model computes: config, values, packed bytes, how inputs and attention are
 * quantized. E_MEMORY. */
int distill_model_key(const struct model *model, char hex[HASH_HEX]);

/* ---- distill_outputs.c ------------------------------------------------------------------------------------ */

struct teacher {
    struct model *model;
    struct workspace workspace;
    struct pass pass;    /* while hidden states or attention are compared; else zeroed */
    struct batch batch;  /* that went through it last, as it reads it */
    size_t forwards;     /* sequences that went through the teacher */
    const float *hidden; /* (T,C) of the batch that went through last, and its rows, whose logits are asked for */
    const uint32_t *rows;
};

enum output_kind {
    OUTPUT_CLASSES, /* f32 [classes] for each example */
    OUTPUT_SPAN,    /* f32 [2] for each token: start and end logits */
    OUTPUT_COSINE,  /* f32 for each pair of examples: of their embeddings */
    OUTPUT_TOP,     /* u32 [top] best next tokens, f32 [top] their logits, for each token but a sequence's last */
    OUTPUT_TEXT     /* i32 [cut] for each example: its first tokens, and what the teacher writes after them */
};
struct output_task {
    enum output_kind kind;
    const struct examples *examples;
    size_t cut;           /* longer examples are cut to so many tokens; length of a text */
    size_t top;           /* OUTPUT_TOP */
    size_t prompt, beams; /* OUTPUT_TEXT */
};
size_t distill_example_length(const struct output_task *task, size_t example); /* after the cut */
/* What determines a task's outputs, given the teacher's distill_model_key. */
void distill_output_key(const struct output_task *task, const char model_hex[HASH_HEX], char hex[HASH_HEX]);

struct outputs {
    struct kept kept;
    size_t *first; /* [examples + 1] first row of each example */
    float *mean;   /* of several teachers' rows, in place of kept.rows; NULL: there is one teacher */
};
/* From `folder` (NULL: none), or by the teacher, whose model is prepared. progress: nonzero stops it; may be NULL.
 * E_NUMERIC: an output is not finite; E_SHAPE: the examples do not fit the teacher; E_MEMORY, E_INTERRUPTED. */
int distill_outputs_open(struct outputs *outputs, struct teacher *teacher, const struct output_task *task,
                         const char *folder, int (*progress)(void *context, size_t done, size_t all), void *context);
void distill_outputs_close(struct outputs *outputs); /* accepts a zeroed one */

/* ---- distill_ensemble.c ----------------------------------------------------------------------------------- */

/* Teachers of more than one voice: the outputs of `outputs`, which are of numbers alone, become the mean of theirs and
 * those of the models at `paths`, one of which is open at a time. *forwards grows by the sequences that went through
 * them. Errors as distill_outputs_open and model_open. */
int distill_ensemble_open(struct outputs *outputs, const struct option_names *paths, const struct output_task *task,
                          const char *folder, int (*progress)(void *context, size_t done, size_t all), void *context,
                          size_t *forwards);

/* ---- distill_student.c ------------------------------------------------------------------------------------ */

/* The student's sizes from its source's. E_ARGUMENT, E_SHAPE: they do not fit together. */
int distill_student_config(const struct model_config *source, const struct distill_options *options,
                           struct model_config *config);
/* The same, and whether the source can give them. */
int distill_student_check(const struct model_config *source, const struct distill_options *options,
                          struct model_config *config);
int distill_student_open(struct model *student, const struct model *source, const struct distill_options *options,
                         uint64_t seed);
/* Layer numbers below `limit` from texts: layers [names->count]. E_ARGUMENT names the option. */
int distill_layer_list(const struct option_names *names, const char *option, size_t limit, size_t *layers);

/* ---- distill_losses.c -------------------------------------------------------------------------------------- */

struct layer_pair {
    int student, teacher; /* blocks; -1: embeddings */
};
struct layer_map {
    struct layer_pair *pairs;
    size_t count;
};
/* names: auto, last, even, or a block of the teacher for each of the student's. */
int distill_layer_map_open(struct layer_map *map, const struct option_names *names, const char *option,
                           bool even_by_default, bool embeddings, size_t student, size_t teacher);
void distill_layer_map_close(struct layer_map *map); /* accepts a zeroed one */

/* (teacher's width, student's width) f32, learnt beside the model; absent where they are equal. */
struct projection {
    struct trainable learnt;
    float *block; /* value and gradient */
    float *room;  /* projected states and their gradient */
    size_t room_tokens;
};
int distill_projection_open(struct projection *projection, size_t student, size_t teacher);
void distill_projection_close(struct projection *projection); /* accepts a zeroed one */

struct distill_state {
    const struct distill_options *options;
    enum train_objective objective;
    struct train_result result;
    struct model found;  /* what the stage found, while the student stands in its place */
    struct model opened; /* a teacher given by path */
    struct teacher teacher;
    bool aims;                         /* at what the teacher says: alpha is above 0 */
    bool compares;                     /* hidden states or attention: the teacher runs at each step */
    bool ran;                          /* teacher.pass holds the batch at hand */
    struct outputs outputs;            /* what the teacher says of all examples; none where it is asked at each step */
    struct outputs texts;              /* what it wrote; none unless the student learns from that */
    struct examples written;           /* the same as examples */
    uint32_t *written_offset, *prompt; /* [examples + 1]; [examples] tokens of each that were given to it */
    struct projection projection;
    struct layer_map hidden_map, attention_map;
    /* Room for the targets of a batch. */
    float *logits;
    uint32_t *ids;
    int32_t *labels;
    size_t logits_room, ids_room, labels_room;
};

/* Add the loss of a batch that went through both passes, and its gradients. */
int distill_hidden_losses(struct distill_state *state, const struct train_batch *batch, struct pass *student,
                          double *loss);
int distill_attention_losses(struct distill_state *state, const struct train_batch *batch, struct pass *student,
                             double *loss);
/* E_UNSUPPORTED: the two cannot be compared head by head. */
int distill_attention_check(const struct distill_options *options, const struct model_config *student,
                            const struct model_config *teacher);

/* ---- distill_teacher.c ---------------------------------------------------------------------------------------- */

/* The hooks of struct train_teacher; context: the state. */
int distill_targets(void *context, struct train_batch *batch, struct logit_loss *loss, struct span_loss *span);
int distill_losses(void *context, const struct train_batch *batch, struct pass *pass, double *loss);

#pragma GCC visibility pop

#endif
