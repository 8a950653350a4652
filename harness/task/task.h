/* The contract of a task: data read from files, split, tokenized and scored.
 *
 * A task is opened from its options, loads its text once, and scores a model by per-item results, so
 * that comparisons with the baseline are paired.
 */
#ifndef TASK_H
#define TASK_H

#include <stdbool.h>

#include "base/hash.h"
#include "base/option.h"
#include "model/model.h"
#include "text/examples.h"
#include "text/tokenizer.h"
#include "train/objective.h"

struct task_text {
    size_t count;
    const char *const *text; /* zero-terminated */
    const int32_t *label;    /* NULL for unlabelled text */
    /* Where they were read, for messages; NULL where that is not known. */
    const char *path;
    const uint32_t *line;  /* of each, or of `texts_per_line` together */
    size_t texts_per_line; /* 0: 1 */
};
/* "file:line" of one text, as far as known: "file", or "text 7 of the data". */
void task_text_place(const struct task_text *texts, size_t item, char *place, size_t size);

enum task_split { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLIT_UNLABELLED, SPLITS };
const char *task_split_option(enum task_split split); /* the option that names its file: "train" */

/* A number beside the task's own metrics: what a trivial or classical method reaches on the same split. */
struct task_yardstick {
    char name[48];
    double accuracy_frac;
    uint8_t *correct; /* [test count], owned by the caller's free */
};

struct task {
    const struct task_kind *kind;
    const char *const *class_names; /* [classes] */
    size_t classes;
    struct task_text split[SPLITS]; /* the unlabelled split holds all text for masked language modelling */
    char data_hash[HASH_HEX];       /* of the bytes read */
    void *owned;
};

/* Results of scoring one split: an array per kind of outcome with one value an item, and numbers over all items. Which
 * arrays there must be follows from the kind's estimator (task/paired.h). Names and units are literals. */
enum { TASK_ITEMS_MAX = 16, TASK_METRICS_MAX = 24 };
enum item_type { ITEM_U8, ITEM_I32, ITEM_F32 };
struct task_result {
    size_t count;
    struct task_items {
        const char *name;
        enum item_type type;
        void *values; /* [count] */
    } items[TASK_ITEMS_MAX];
    size_t item_count;
    struct task_metric {
        const char *name, *unit;
        double value;
    } metrics[TASK_METRICS_MAX];
    size_t metric_count;
};
/* A zeroed array of result->count values, owned by the result. E_MEMORY. */
int task_result_items(struct task_result *result, const char *name, enum item_type type, void **values);
void task_result_metric(struct task_result *result, const char *name, const char *unit, double value);
void task_result_close(struct task_result *result); /* accepts a zeroed result */

/* What is scored, and with what. */
struct task_scoring {
    const struct task *task;
    enum task_split split;
    const struct model *model;    /* prepared */
    const struct model *baseline; /* prepared: also tell how far the predictions moved; NULL: do not */
    const struct tokenizer *tokenizer;
    const struct examples *examples; /* the split's texts as ids */
    size_t max_tokens, batch;        /* longest sequence; sequences that run together */
};

struct task_examples;

/* How long training examples may be. */
struct task_lengths {
    size_t max_tokens; /* of texts and blocks, as the experiment's tokenizer section says */
    size_t positions;  /* of the model: nothing may be longer */
};
static inline size_t task_longest(const struct task_lengths *lengths) {
    return lengths->max_tokens < lengths->positions ? lengths->max_tokens : lengths->positions;
}

struct task_kind {
    const char *name; /* "wordnet" */
    const char *summary;
    const char *primary_metric; /* "accuracy" */
    const char *primary_unit;   /* "frac" */
    bool higher_is_better;
    const char *estimator; /* of the primary metric from per-item results: a name of task/paired.h */
    const struct option *options;
    size_t options_bytes;
    int (*open)(struct task *task,
                const void *options); /* E_IO names the file and the package or path that would help */
    void (*close)(struct task *task);
    unsigned heads; /* enum model_head bits that the task's model needs */
    /* Refuse options that no model of so many positions can be scored with, before anything runs. NULL: any. */
    int (*fits)(const struct task *task, size_t positions);
    /* Score a split that has items. result is zeroed. */
    int (*score)(const struct task_scoring *scoring, struct task_result *result);
    /* Whether a pretrained folder asks for what the task does otherwise; the error names file and field. NULL: nothing
     * of a folder but its model and tokenizer concerns the task. */
    int (*check_folder)(const char *path);
    enum train_objective objective; /* what its training split teaches */
    /* The training split, which has items, as examples of the objective. NULL: its texts one by one, with their labels.
     */
    int (*training)(const struct task *task, const struct tokenizer *tokenizer, const struct task_lengths *lengths,
                    struct task_examples *out);
};
extern const struct task_kind *const task_kinds[]; /* NULL-terminated */
const struct task_kind *task_kind_find(const char *name);

/* Tokenize one split as [CLS] text [SEP], cut to max_tokens; free with task_examples_close. */
struct task_examples {
    struct examples examples;
    void *owned;
};
int task_examples_open(struct task_examples *out, const struct task *task, enum task_split split,
                       const struct tokenizer *tokenizer, size_t max_tokens);
void task_examples_close(struct task_examples *examples); /* accepts a zeroed struct */

/* The training split as examples of task->kind->objective; E_NOT_FOUND where there is none, E_FORMAT, E_LIMIT,
 * E_UNSUPPORTED (a tokenizer without what the task needs), E_MEMORY. */
int task_training_open(struct task_examples *out, const struct task *task, const struct tokenizer *tokenizer,
                       const struct task_lengths *lengths);
/* Ids alone, to learn hidden or next tokens from: the unlabelled split, or what a language-modelling task trains on. */
int task_unlabelled_open(struct task_examples *out, const struct task *task, const struct tokenizer *tokenizer,
                         const struct task_lengths *lengths);
bool task_has_unlabelled(const struct task *task);

/* Per-item outcome of classification. */
struct task_scores {
    size_t count;
    uint8_t *correct;   /* [count] */
    int32_t *predicted; /* [count] */
    float *nll;         /* [count] nats of the true class */
    double accuracy_frac, macro_f1, matthews, mean_nll, f1_positive;
};
/* Score a prepared model on labelled examples, in packed batches of at most `batch` sequences sorted by length
 * (results are in the examples' order). */
int task_score(const struct model *model, const struct examples *examples, size_t batch, struct task_scores *scores);
/* The class logits of all examples, (count, classes), computed in such batches; release with memory_release. */
int task_logits(const struct model *model, const struct examples *examples, size_t batch, float **logits);
/* The score function of classification tasks. */
int task_classification_score(const struct task_scoring *scoring, struct task_result *result);
/* How far a distribution moved: nats of KL(softmax(theirs) || softmax(own)), and whether both name the same first. */
double task_divergence(const float *theirs, const float *own, size_t count, bool *same_first);

/* The ids of one text with what the tokenizer puts around it, cut to max_tokens keeping a closing [SEP]: replaces what
 * `encoding` holds. */
int task_encode(const struct tokenizer *tokenizer, const char *text, size_t max_tokens, struct encoding *encoding);
void task_scores_close(struct task_scores *scores);

/* Majority class, linear classifier on TF-IDF words, and on words and pairs of words, trained on the
 * train split and scored on the test split. Deterministic. yardsticks has room for 3. */
int task_yardsticks(const struct task *task, struct task_yardstick *yardsticks, size_t *count);
void task_yardsticks_close(struct task_yardstick *yardsticks, size_t count);

/* Exact two-sided McNemar test (binomial) of paired outcomes: only_a items right under a alone, only_b
 * under b alone. p in 0..1. */
double task_mcnemar(const uint8_t *a, const uint8_t *b, size_t count, size_t *only_a, size_t *only_b);

#endif
