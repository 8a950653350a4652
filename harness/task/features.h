/* Bags of words as sparse rows, weighted by TF-IDF: the input of the classical yardsticks.
 *
 * A word is a run of two or more letters, digits, underscores or bytes >= 0x80, in lower case; with pairs,
 * each two neighbouring words count as a feature of their own. Weight: (1 + ln tf) * (ln((1+n)/(1+df)) + 1),
 * then each row is scaled to unit length. df comes from the texts that the vocabulary was fitted to.
 */
#ifndef FEATURES_H
#define FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "task/task.h"

struct vocabulary {
    struct vocabulary_word {
        const char *text; /* view of a fitted text, any case; NULL: a free slot */
        uint32_t length, id;
    } * words;
    size_t word_slots;
    struct vocabulary_pair {
        uint64_t key; /* ids of both words; UINT64_MAX: a free slot */
        uint32_t id;
    } * pairs;
    size_t pair_slots;
    size_t word_count, count; /* features: words first come first numbered, pairs among them */
    float *idf;               /* [count] */
    uint32_t *frequency;      /* [capacity]: texts that hold the feature */
    size_t capacity;
    bool with_pairs;
};

/* Sparse rows: row i is index/value [begin[i], begin[i+1]), by ascending index. */
struct sparse {
    size_t rows, columns;
    size_t *begin;
    uint32_t *index;
    float *value;
};

/* Number the features of `texts`, which must outlive the vocabulary. E_MEMORY. */
int vocabulary_open(struct vocabulary *vocabulary, const struct task_text *texts, bool with_pairs);
void vocabulary_close(struct vocabulary *vocabulary); /* accepts a zeroed struct */

/* Rows of any texts; unknown features are left out. E_MEMORY. */
int sparse_open(struct sparse *sparse, const struct vocabulary *vocabulary, const struct task_text *texts);
void sparse_close(struct sparse *sparse); /* accepts a zeroed struct */

#endif
