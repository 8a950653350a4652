/* See answer_windows.h.
 *
 * Every question is tokenized once with its whole context; windows are cut from those ids, so a word has the same
 * tokens in each window. Windows of like length run together, unpadded.
 */
#include "task/answer_windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

enum { PAIR_GRAIN = 16 };

/* ---- pairs -------------------------------------------------------------------------------------------- */

struct pair_job {
    struct answer_pair *pairs;
    const struct tokenizer *tokenizer;
    const char *const *questions, *const *contexts;
    size_t closing; /* special tokens behind the context */
};

/* How many special tokens stand behind the second text: those have empty offsets, a letter has not. */
static int closing_count(const struct tokenizer *tokenizer, size_t *closing) {
    int status = 0;
    struct encoding encoding = {.with_offsets = true};
    TRY(tokenizer_append_pair(tokenizer, "x", "x", 0, false, &encoding, NULL));
    *closing = 0;
    while (*closing < encoding.count && encoding.end[encoding.count - 1 - *closing] == 0) ++*closing;
out:
    encoding_close(&encoding);
    return status;
}

static void pair_close(struct answer_pair *pair) {
    encoding_close(&pair->encoding);
    memory_release(pair->types);
    *pair = (struct answer_pair){0};
}

static int pair_encode(const struct pair_job *job, size_t item) {
    int status = 0;
    struct answer_pair *pair = &job->pairs[item];
    struct encoding frame = {0};
    pair_close(pair);
    pair->encoding.with_offsets = true;
    TRY(tokenizer_append_pair(job->tokenizer, job->questions[item], "", 0, false, &frame, NULL));
    TRY(tokenizer_append_pair(job->tokenizer, job->questions[item], job->contexts[item], 0, false, &pair->encoding,
                              &pair->types));
    pair->context = frame.count - job->closing;
    pair->after = pair->encoding.count - job->closing;
    pair->encoded = true;
out:
    encoding_close(&frame);
    return status;
}

static void pairs_encode(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    for (size_t i = begin; i < end; i++) (void)pair_encode(context, i); /* one that failed stays not encoded */
}

/* ---- windows ------------------------------------------------------------------------------------------ */

/* The windows of one pair, appended where `windows` is not NULL; *count grows. */
static int pair_cut(const struct answer_pair *pair, size_t item, const char *question, size_t max_tokens, size_t stride,
                    struct answer_window *windows, size_t *count) {
    int status = 0;
    size_t around = pair->encoding.count - (pair->after - pair->context);
    if (pair->after == pair->context) goto out; /* nothing in it could be an answer */
    if (around >= max_tokens)
        FAIL(
            E_LIMIT,
            "the question '%.60s%s' and what stands around it take %zu tokens: a window of %zu has no room for context",
            question, strlen(question) > 60 ? "..." : "", around, max_tokens);
    size_t room = max_tokens - around, step = stride < room ? stride : room;
    for (size_t from = pair->context;; from += step) {
        size_t to = pair->after - from > room ? from + room : pair->after;
        if (windows)
            windows[*count] =
                (struct answer_window){(uint32_t)item, (uint32_t)from, (uint32_t)to, (uint32_t)(around + to - from)};
        ++*count;
        if (to == pair->after) break;
    }
out:
    return status;
}

/* By length, then by place. */
static int window_compare(const void *a, const void *b) {
    const struct answer_window *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    if (x->pair != y->pair) return x->pair < y->pair ? -1 : 1;
    return (x->from > y->from) - (x->from < y->from);
}

static int windows_cut(struct answer_windows *windows, const char *const *questions, size_t max_tokens, size_t stride) {
    int status = 0;
    void *block = NULL;
    size_t count = 0;
    for (size_t i = 0; i < windows->pair_count; i++)
        TRY(pair_cut(&windows->pairs[i], i, questions[i], max_tokens, stride, NULL, &count));
    TRY(memory_take(&block, count, sizeof *windows->windows));
    windows->windows = block;
    for (size_t i = 0; i < windows->pair_count; i++)
        TRY(pair_cut(&windows->pairs[i], i, questions[i], max_tokens, stride, windows->windows,
                     &windows->window_count));
    qsort(windows->windows, count, sizeof *windows->windows, window_compare);
    windows->longest = count ? windows->windows[count - 1].length : 1;
out:
    return status;
}

int answer_windows_open(struct answer_windows *windows, const struct tokenizer *tokenizer, const char *const *questions,
                        const char *const *contexts, size_t count, size_t max_tokens, size_t stride) {
    int status = 0;
    void *block = NULL;
    struct pair_job job = {.tokenizer = tokenizer, .questions = questions, .contexts = contexts};
    *windows = (struct answer_windows){0};
    if (stride == 0) FAIL(E_ARGUMENT, "the stride of windows must be at least 1");
    if (count >= UINT32_MAX) FAIL(E_LIMIT, "%zu questions are too many", count);
    TRY(closing_count(tokenizer, &job.closing));
    TRY(memory_take(&block, count, sizeof *windows->pairs));
    windows->pairs = job.pairs = block;
    windows->pair_count = count;
    parallel_for(count, PAIR_GRAIN, pairs_encode, &job);
    for (size_t i = 0; i < count; i++) /* errors are recorded per thread: meet this one again in ours */
        if (!windows->pairs[i].encoded) TRY(pair_encode(&job, i));
    TRY(windows_cut(windows, questions, max_tokens, stride));
out:
    if (status < 0) answer_windows_close(windows);
    return status;
}

void answer_windows_close(struct answer_windows *windows) {
    for (size_t i = 0; i < windows->pair_count; i++) pair_close(&windows->pairs[i]);
    memory_release(windows->pairs);
    memory_release(windows->windows);
    *windows = (struct answer_windows){0};
}

/* ---- spans -------------------------------------------------------------------------------------------- */

/* Buffers of one batch: ids, segments and offsets of its windows end to end. */
struct window_batch {
    int32_t *ids, *types;
    uint32_t *offset;
    struct workspace workspace;
};

static int window_batch_open(struct window_batch *out, size_t batch, size_t longest) {
    int status = 0;
    void *block;
    size_t tokens;
    TRY(size_multiply(batch, longest, &tokens));
    TRY(memory_take(&block, tokens, sizeof *out->ids));
    out->ids = block;
    TRY(memory_take(&block, tokens, sizeof *out->types));
    out->types = block;
    TRY(memory_take(&block, batch + 1, sizeof *out->offset));
    out->offset = block;
out:
    return status;
}

static void window_batch_close(struct window_batch *batch) {
    workspace_close(&batch->workspace);
    memory_release(batch->ids);
    memory_release(batch->types);
    memory_release(batch->offset);
}

/* Copy tokens begin..end-1 of a pair to *used. */
static void tokens_copy(struct window_batch *batch, const struct answer_pair *pair, size_t begin, size_t end,
                        uint32_t *used) {
    memcpy(batch->ids + *used, pair->encoding.ids + begin, (end - begin) * sizeof *batch->ids);
    memcpy(batch->types + *used, pair->types + begin, (end - begin) * sizeof *batch->types);
    *used += (uint32_t)(end - begin);
}

/* The best span of one window, whose logits are span (length,2), against the pair's best so far. Tokens that stand for
 * no byte of the context begin and end no answer. */
static int window_answer(const struct answer_window *window, const struct answer_pair *pair, const float *span,
                         size_t max_answer_tokens, struct answer_span *best) {
    int status = 0;
    const uint32_t *begin = pair->encoding.begin, *end = pair->encoding.end;
    const float *logits = span + 2 * pair->context; /* of the window's first context token */
    size_t count = window->to - window->from;
    for (size_t s = 0; s < count; s++)
        if (!isfinite(logits[2 * s]) || !isfinite(logits[2 * s + 1]))
            FAIL(E_NUMERIC, "the model's logits of question %u are not finite", window->pair + 1);
    for (size_t s = 0; s < count; s++) {
        size_t first = window->from + s, limit = count - s < max_answer_tokens ? count : s + max_answer_tokens;
        if (begin[first] == end[first]) continue;
        for (size_t e = s; e < limit; e++) {
            size_t last = window->from + e;
            float score = logits[2 * s] + logits[2 * e + 1];
            if (begin[last] == end[last] || !(score > best->score)) continue;
            *best = (struct answer_span){begin[first], end[last], score};
        }
    }
out:
    return status;
}

static int batch_answer(const struct answer_windows *windows, size_t begin, size_t end, const struct model *model,
                        struct window_batch *batch, size_t max_answer_tokens, struct answer_span *spans) {
    int status = 0;
    uint32_t used = 0;
    struct model_output output = {0};
    for (size_t i = begin; i < end; i++) {
        const struct answer_window *window = &windows->windows[i];
        const struct answer_pair *pair = &windows->pairs[window->pair];
        tokens_copy(batch, pair, 0, pair->context, &used);
        tokens_copy(batch, pair, window->from, window->to, &used);
        tokens_copy(batch, pair, pair->after, pair->encoding.count, &used);
        batch->offset[i - begin + 1] = used;
    }
    struct batch packed = {.sequences = end - begin,
                           .tokens = used,
                           .ids = batch->ids,
                           .offset = batch->offset,
                           .token_types = model->config.token_types > 1 ? batch->types : NULL};
    TRY(model_forward(model, &packed, NULL, &batch->workspace, &output));
    if (!output.span) FAIL(E_UNSUPPORTED, "the model has no head for the start and end of answers");
    for (size_t i = begin; i < end; i++) {
        const struct answer_window *window = &windows->windows[i];
        TRY(window_answer(window, &windows->pairs[window->pair], output.span + 2 * (size_t)batch->offset[i - begin],
                          max_answer_tokens, &spans[window->pair]));
    }
out:
    return status;
}

int answer_spans_find(const struct answer_windows *windows, const struct model *model, size_t batch,
                      size_t max_answer_tokens, struct answer_span *spans) {
    int status = 0;
    struct window_batch buffers = {0};
    size_t count = windows->window_count;
    if (batch == 0) FAIL(E_ARGUMENT, "a scoring batch needs at least one sequence");
    if (batch > count) batch = count ? count : 1;
    for (size_t i = 0; i < windows->pair_count; i++) spans[i] = (struct answer_span){0, 0, -INFINITY};
    TRY(window_batch_open(&buffers, batch, windows->longest));
    for (size_t begin = 0; begin < count; begin += batch) {
        size_t end = begin + batch < count ? begin + batch : count;
        TRY(batch_answer(windows, begin, end, model, &buffers, max_answer_tokens, spans));
    }
out:
    window_batch_close(&buffers);
    return status;
}
