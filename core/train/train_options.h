/* The options that every technique which trains shows: rows for its option table, and the plan they make. What a
 * technique adds (a teacher, adapters, quantizers) it sets in the plan itself. */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "base/option.h"
#include "train/train.h"

struct train_options {
    const char *objective; /* "task" or a train_objective_name */
    double epochs;
    int64_t steps, batch, micro_batch;
    const char *optimizer;
    double rate, warmup_frac;
    const char *schedule;
    double schedule_power, schedule_end_frac, beta1, beta2, epsilon, momentum;
    bool nesterov;
    double weight_decay, clip_norm, dropout, word_dropout, r_drop, label_smoothing;
    struct option_names class_weights;
    double mask_frac;
    double average_decay;
    int64_t max_tokens, evaluate_steps, patience;
    bool keep_best;
    double checkpoint_s;
    const char *compute;
    bool checkpoint_activations;
};

/* Rows for a table whose options struct S holds a struct train_options as M; EPOCHS and RATE are the technique's
 * defaults, as text. */
#define TRAIN_OPTIONS(S, M, EPOCHS, RATE)                                                                              \
    TRAIN_OPTIONS_LENGTH(S, M, EPOCHS), TRAIN_OPTIONS_OPTIMIZER(S, M, RATE), TRAIN_OPTIONS_LOSS(S, M),                 \
        TRAIN_OPTIONS_RUN(S, M)

#define TRAIN_OPTION(S, M, FIELD, TYPE, PRESET, LOW, HIGH, CHOICES, UNIT, HELP)                                        \
    { #FIELD, TYPE, PRESET, LOW, HIGH, CHOICES, UNIT, HELP, offsetof(S, M.FIELD) }

#define TRAIN_OPTIONS_LENGTH(S, M, EPOCHS)                                                                             \
    TRAIN_OPTION(S, M, objective, OPTION_CHOICE, "task", 0, 0,                                                         \
                 "task|classification|regression|similarity|question_answering|masked_lm|causal_lm", NULL,             \
                 "What to learn: what the task's data teaches, or hidden or next tokens of its text."),                \
        TRAIN_OPTION(S, M, epochs, OPTION_REAL, EPOCHS, 0.001, 1000, NULL, "epochs",                                   \
                     "Passes over the examples; may be a fraction."),                                                  \
        TRAIN_OPTION(S, M, steps, OPTION_INTEGER, "0", 0, 1e9, NULL, "steps",                                          \
                     "Steps to take instead of epochs; 0: epochs."),                                                   \
        TRAIN_OPTION(S, M, batch, OPTION_INTEGER, "32", 1, 65536, NULL, "sequences",                                   \
                     "Examples per step (of pairs, both count)."),                                                     \
        TRAIN_OPTION(S, M, micro_batch, OPTION_INTEGER, "0", 0, 65536, NULL, "sequences",                              \
                     "Examples per pass, whose gradients add up to the step's: less memory; 0: all at once."),         \
        TRAIN_OPTION(S, M, max_tokens, OPTION_INTEGER, "0", 0, 65536, NULL, "tokens",                                  \
                     "Longer examples are cut; 0: as the tokenizer's max_tokens and the model's positions have them.")

#define TRAIN_OPTIONS_OPTIMIZER(S, M, RATE)                                                                            \
    TRAIN_OPTION(S, M, rate, OPTION_REAL, RATE, 0, 10, NULL, NULL,                                                     \
                 "Peak learning rate: about 5e-4 to 1e-3 from random weights, 2e-5 to 1e-4 for a trained model."),     \
        TRAIN_OPTION(S, M, warmup_frac, OPTION_REAL, "0.06", 0, 1, NULL, "frac",                                       \
                     "Share of all steps in which the rate rises from 0."),                                            \
        TRAIN_OPTION(S, M, schedule, OPTION_CHOICE, "linear", 0, 0, "constant|linear|cosine|polynomial", NULL,         \
                     "How the rate falls after the warm-up; linear and cosine end at 0."),                             \
        TRAIN_OPTION(S, M, schedule_power, OPTION_REAL, "2", 0, 100, NULL, NULL,                                       \
                     "polynomial: the rate falls as (1 - t)^power."),                                                  \
        TRAIN_OPTION(S, M, schedule_end_frac, OPTION_REAL, "0", 0, 1, NULL, "frac",                                    \
                     "polynomial: what the rate ends with, of its peak."),                                             \
        TRAIN_OPTION(S, M, optimizer, OPTION_CHOICE, "adamw", 0, 0, "adamw|adam_l2|sgd", NULL,                         \
                     "adam_l2 adds the decay to the gradient; sgd has momentum."),                                     \
        TRAIN_OPTION(S, M, beta1, OPTION_REAL, "0.9", 0, 0.99999, NULL, NULL,                                          \
                     "adamw, adam_l2: decay of the first moment."),                                                    \
        TRAIN_OPTION(S, M, beta2, OPTION_REAL, "0.999", 0, 0.99999, NULL, NULL,                                        \
                     "adamw, adam_l2: decay of the second moment; 0.98 suits short runs at high rates."),              \
        TRAIN_OPTION(S, M, epsilon, OPTION_REAL, "1e-08", 1e-30, 1, NULL, NULL,                                        \
                     "adamw, adam_l2: added to the root of the second moment."),                                       \
        TRAIN_OPTION(S, M, momentum, OPTION_REAL, "0.9", 0, 0.99999, NULL, NULL,                                       \
                     "sgd: share of the last change in the next one."),                                                \
        TRAIN_OPTION(S, M, nesterov, OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,                                        \
                     "sgd: look ahead along the momentum."),                                                           \
        TRAIN_OPTION(S, M, weight_decay, OPTION_REAL, "0.01", 0, 10, NULL, NULL, "Decay of matrices and embeddings."), \
        TRAIN_OPTION(S, M, clip_norm, OPTION_REAL, "1", 0, 1e9, NULL, NULL,                                            \
                     "Limit on the gradient's global norm; 0: none.")

#define TRAIN_OPTIONS_LOSS(S, M)                                                                                       \
    TRAIN_OPTION(S, M, dropout, OPTION_REAL, "-1", -1, 0.9, NULL, "frac",                                              \
                 "Share of activations zeroed at the embeddings, the two outputs of each block and the pooled "        \
                 "vector; -1: 0.1, but none in families that were trained without (Llama, Mistral, Qwen2)."),          \
        TRAIN_OPTION(S, M, word_dropout, OPTION_REAL, "0", 0, 0.9, NULL, "frac",                                       \
                     "Share of words hidden behind [MASK], drawn anew each step; not of language models."),            \
        TRAIN_OPTION(S, M, r_drop, OPTION_REAL, "0", 0, 100, NULL, NULL,                                               \
                     "classification: weight of how far two passes of an example, each with a dropout of its own, "    \
                     "are apart (R-Drop), in twice the time; 0: one pass."),                                           \
        TRAIN_OPTION(S, M, label_smoothing, OPTION_REAL, "0", 0, 0.9, NULL, "frac",                                    \
                     "Share of the target spread over all classes or tokens."),                                        \
        TRAIN_OPTION(S, M, class_weights, OPTION_NAMES, "[]", 0, 0, NULL, NULL,                                        \
                     "classification: a weight for each class, or balanced: the same for every class in all."),        \
        TRAIN_OPTION(                                                                                                  \
            S, M, mask_frac, OPTION_REAL, "0.15", 0.001, 0.9, NULL, "frac",                                            \
            "masked_lm: share of tokens to predict; of these 80 % are masked, 10 % replaced at random, 10 % kept.")

#define TRAIN_OPTIONS_RUN(S, M)                                                                                        \
    TRAIN_OPTION(S, M, average_decay, OPTION_REAL, "0", 0, 0.99999, NULL, NULL,                                        \
                 "Decay a step of a moving average of the weights, scored and kept in their place; 0: none."),         \
        TRAIN_OPTION(S, M, evaluate_steps, OPTION_INTEGER, "0", 0, 1e9, NULL, "steps",                                 \
                     "Score the validation split after every so many steps and at the end; 0: never."),                \
        TRAIN_OPTION(S, M, patience, OPTION_INTEGER, "0", 0, 1000000, NULL, "evaluations",                             \
                     "Stop after so many evaluations in a row that were not better than the best; 0: never."),         \
        TRAIN_OPTION(S, M, keep_best, OPTION_BOOLEAN, "true", 0, 0, NULL, NULL,                                        \
                     "End with the model of the best evaluation, where there are any."),                               \
        TRAIN_OPTION(S, M, checkpoint_s, OPTION_REAL, "600", 0, 1e9, NULL, "s",                                        \
                     "Time between two checkpoints, from which a killed run goes on to the same bits."),               \
        TRAIN_OPTION(S, M, checkpoint_activations, OPTION_BOOLEAN, "false", 0, 0, NULL, NULL,                          \
                     "Compute blocks again on the way back: less memory, a third more time, the same bits."),          \
        TRAIN_OPTION(S, M, compute, OPTION_CHOICE, "f32", 0, 0, "f32|bf16", NULL,                                      \
                     "bf16: products of rounded values with f32 sums and f32 weights; sooner where the CPU has bf16.")

/* What `objective` means where the task's data teaches `task`. */
enum train_objective train_options_objective(const struct train_options *options, enum train_objective task);

/* E_ARGUMENT: options that do not go together, whatever the model and the task. */
int train_options_settle(const struct train_options *options);

/* E_UNSUPPORTED: the task's data teaches something else than what is to be learnt from it, options are set that this
 * has no use for, or the model (NULL: any) lacks the head. */
int train_options_check(const struct train_options *options, enum train_objective task, const struct model *model);

/* E_UNSUPPORTED: class_weights are not as many as `classes`. */
int train_options_check_classes(const struct train_options *options, size_t classes);
/* Whether classes count unlike each other, by numbers or balanced. */
bool train_options_weigh_classes(const struct train_options *options);

/* Whether its text is trained on, and not what the task's data teaches. */
bool train_options_read_text(const struct train_options *options);

/* The share that the option asks for, of a model with this configuration. */
double train_options_dropout(const struct train_options *options, const struct model_config *config);

/* A plan from the options, but for the dropout that a family has, ids of the tokenizer, seed and folder. weights: the
 * class weights that it refers to, to be released with memory_release after the plan; NULL where there are none.
 * Errors of train_options_settle and train_options_check_classes; E_MEMORY. */
int train_options_plan(const struct train_options *options, enum train_objective objective, size_t classes,
                       struct train_plan *plan, double **weights);

#endif
