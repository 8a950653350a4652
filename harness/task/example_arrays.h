/* Tokenized examples while they are made: the arrays behind a struct task_examples. Private to harness/task. */
#ifndef EXAMPLE_ARRAYS_H
#define EXAMPLE_ARRAYS_H

#include "task/task.h"

/* What a struct task_examples owns. Any array may be NULL; each is released with the examples. */
struct example_arrays {
    int32_t *ids, *types;
    uint32_t *offset;
    int32_t *label;
    float *target;
    int32_t *start, *end;
};

/* Zeroed arrays for `count` examples of `tokens` ids in all: ids and offset. E_LIMIT: offsets are 32 bits; E_MEMORY. */
int example_arrays_open(struct task_examples *out, size_t count, size_t tokens, struct example_arrays **arrays);
/* Set out->examples to the first `count` of them. classes: 0 where there are no labels. */
void example_arrays_view(struct task_examples *out, size_t count, size_t classes, bool pair);

/* A text of `bytes` bytes, tokenized once and cut into blocks of max_tokens; each begins with the id `begin` (-1:
 * none), which takes one of its places. The last block is what is left, unless that is a single token: nothing can be
 * predicted in it. At most max_blocks (0: all). E_FORMAT when the text has no two tokens. */
int text_blocks_open(struct task_examples *out, const struct tokenizer *tokenizer, const char *text, size_t bytes,
                     int32_t begin, size_t max_tokens, size_t max_blocks);

/* Scores that a correlation is taken with: E_FORMAT with the file's name where they are all the same. */
int scores_vary(const float *scores, size_t count, const char *path);
/* The target of a score that data_score found between low and high: 0..1. */
float score_scale(double score, double low, double high);

#endif
