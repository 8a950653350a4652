/* Answers as spans of a text: questions with their contexts as windows of tokens, and the best span over a model's
 * start and end logits (Devlin et al. 2018, section 4.2).
 *
 * A window is the question, then as much of the context as fits, in the tokenizer's form of two texts:
 * [CLS] question [SEP] context [SEP]. A longer context gives several windows.
 */
#ifndef ANSWER_WINDOWS_H
#define ANSWER_WINDOWS_H

#include "model/model.h"
#include "task/task.h"
#include "text/tokenizer.h"

struct answer_pair {
    struct encoding encoding; /* question and whole context, with offsets */
    int32_t *types;           /* [encoding.count] */
    size_t context, after;    /* the context is tokens context .. after-1 */
    bool encoded;
};
struct answer_window {
    uint32_t pair, from, to, length; /* context tokens from .. to-1 of the pair; tokens of the window in all */
};
struct answer_windows {
    struct answer_pair *pairs; /* [pair_count] */
    struct answer_window *windows;
    size_t pair_count, window_count, longest;
};

/* A window holds at most max_tokens, and begins `stride` context tokens after the one before (at most a window's own
 * context, so that none is passed over). On all threads; the same at any number. E_UNSUPPORTED: the tokenizer has no
 * form for two texts; E_LIMIT names a question that leaves its context no room; E_MEMORY. */
int answer_windows_open(struct answer_windows *windows, const struct tokenizer *tokenizer, const char *const *questions,
                        const char *const *contexts, size_t count, size_t max_tokens, size_t stride);
void answer_windows_close(struct answer_windows *windows); /* accepts a zeroed struct */

/* Windows as examples to train on, by pair and place: answers [pair_count] are bytes begin .. end-1 of the contexts.
 * start and end are the first and last token of an answer that lies whole in the window, else -1. Windows of a pair
 * whose answer is empty (begin == end: unknown) are left out. E_FORMAT when none remain; E_LIMIT, E_MEMORY. */
struct answer_span;
int answer_windows_examples(const struct answer_windows *windows, const struct answer_span *answers,
                            struct task_examples *out);

/* Where an answer is in its context: `start` in characters (Unicode code points) as the file gives it, or "" to look
 * for the text alone. Its place is the occurrence of `answer` nearest to that. begin == end when it does not occur. */
void answer_locate(const char *context, const char *answer, const char *start, struct answer_span *span);

struct answer_span {
    uint32_t begin, end; /* bytes of the context; both 0 where it has no tokens */
    float score;         /* start logit + end logit; -INFINITY for none */
};
/* The best span of each pair, spans [pair_count]: start <= end, at most max_answer_tokens, best over its
 * windows. Does not depend on `batch`, how many windows run together. E_UNSUPPORTED: no such head; E_NUMERIC: logits
 * that are not finite. */
int answer_spans_find(const struct answer_windows *windows, const struct model *model, size_t batch,
                      size_t max_answer_tokens, struct answer_span *spans);

#endif
