/* Perplexity of a text under a causal language model, by two protocols whose names are those of the metrics:
 *
 *   perplexity          "perplexity_windows": the whole text as one row of tokens, cut into windows of `window` that do
 *                       not overlap; the last, shorter one is left out; the first token of a window is context only
 *                       (the protocol of GPTQ and most quantization papers)
 *   perplexity_rolling  "perplexity_rolling": each step sees `window` tokens and scores its last `stride`, so that
 * every token but the first has a context of at least window - stride where the text has that many
 *
 * With `bos` a window begins with the tokenizer's begin token, which stands before the window's own tokens, so that
 * the first of those is scored too. Items are windows: the sum of their tokens' nats and how many they are.
 */
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "task/data_table.h"
#include "task/example_arrays.h"
#include "task/task_kinds.h"

enum {
    LOGITS_ROWS = 64,   /* vocabulary logits held at once while two models are compared */
    WINDOW_USUAL = 512, /* tokens, where a model has so many positions */
};

struct perplexity_options {
    const char *data, *test, *validation, *train;
    int64_t window, stride, max_windows, agreement_tokens, max_train;
    bool bos;
};
#define AT(field) offsetof(struct perplexity_options, field)
#define COMMON_OPTIONS                                                                                                 \
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the text", AT(data)},                                   \
        {"test", OPTION_TEXT, "test.txt", 0, 0, NULL, NULL, "file to score", AT(test)},                                \
        {"validation",  OPTION_TEXT, "", 0, 0, NULL, NULL, "file to score after each stage; empty: none",              \
         AT(validation)},                                                                                              \
        {"train", OPTION_TEXT, "", 0, 0, NULL, NULL, "file to train on, in blocks of max_tokens", AT(train)},          \
        {"max_train",  OPTION_INTEGER, "0", 0, 1e9, NULL, "blocks", "train on the first blocks only; 0: all",          \
         AT(max_train)},                                                                                               \
        {"window",  OPTION_INTEGER,                                                                                    \
         "0",       0,                                                                                                 \
         1048576,   NULL,                                                                                              \
         "tokens",  "length of a window; 0: 512, or the model's positions where they are fewer",                       \
         AT(window)},                                                                                                  \
        {"max_windows",  OPTION_INTEGER, "0", 0, 1e9, NULL, "windows", "score the first windows only; 0: all",         \
         AT(max_windows)},                                                                                             \
        {"bos", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL, "begin each window with the begin token", AT(bos)}, {       \
        "agreement_tokens", OPTION_INTEGER, "4096", 0, 1e9, NULL, "tokens",                                            \
            "compare whole distributions with the baseline on the windows that begin within so many tokens",           \
            AT(agreement_tokens)                                                                                       \
    }
static const struct option window_options[] = {COMMON_OPTIONS, OPTION_END};
static const struct option rolling_options[] = {COMMON_OPTIONS,
                                                {"stride", OPTION_INTEGER, "0", 0, 1048576, NULL, "tokens",
                                                 "tokens scored in a step; 0: half a window", AT(stride)},
                                                OPTION_END};
#undef AT

struct perplexity {
    struct perplexity_options options;
    char *text[SPLITS], *lines[SPLITS]; /* whole, and cut into lines with zeros between */
    size_t bytes[SPLITS];
    const char **line_list[SPLITS];
    char *path[SPLITS];
};

/* Lines with more than blanks in them are the texts that timing runs. */
static int lines_cut(struct task *task, enum task_split split, const char *path) {
    int status = 0;
    struct perplexity *owned = task->owned;
    size_t count = 0, room = 1;
    TRY(memory_string_n(&owned->lines[split], owned->text[split], owned->bytes[split]));
    for (size_t i = 0; i < owned->bytes[split]; i++) room += owned->text[split][i] == '\n';
    TRY(memory_take((void **)&owned->line_list[split], room, sizeof(char *)));
    for (char *at = owned->lines[split]; *at;) {
        size_t length = strcspn(at, "\n");
        char *next = at + length + (at[length] == '\n');
        at[length] = 0;
        if (at[strspn(at, " \t\r")]) owned->line_list[split][count++] = at;
        at = next;
    }
    if (count == 0) FAIL(E_FORMAT, "%s: the text has no lines", path);
    task->split[split] =
        (struct task_text){.count = count, .text = owned->line_list[split], .path = owned->path[split]};
out:
    return status;
}

static int split_open(struct task *task, enum task_split split, const char *file, struct hash *hash) {
    int status = 0;
    struct perplexity *owned = task->owned;
    char path[PATH_MAX];
    if (!file || !*file) return 0;
    TRY(data_file_find(path, sizeof path, owned->options.data, task_split_option(split), file));
    TRY(memory_string(&owned->path[split], path));
    TRY(data_text_file(path, &owned->text[split], &owned->bytes[split], hash));
    TRY(lines_cut(task, split, path));
out:
    return status;
}

static void perplexity_close(struct task *task) {
    struct perplexity *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) {
        memory_release(owned->text[i]);
        memory_release(owned->lines[i]);
        memory_release(owned->line_list[i]);
        memory_release(owned->path[i]);
    }
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int perplexity_open(struct task *task, const void *context, const struct task_kind *kind) {
    int status = 0;
    struct hash hash;
    *task = (struct task){.kind = kind};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct perplexity)));
    struct perplexity *owned = task->owned;
    owned->options = *(const struct perplexity_options *)context;
    if (owned->options.window == 1) FAIL(E_ARGUMENT, "window 1 has no token with one before it: at least 2, or 0");
    if (owned->options.window && owned->options.stride > owned->options.window - owned->options.bos)
        FAIL(E_ARGUMENT, "stride %lld is longer than window %lld%s", (long long)owned->options.stride,
             (long long)owned->options.window, owned->options.bos ? " without its begin token" : "");
    TRY(split_open(task, SPLIT_TRAIN, owned->options.train, &hash));
    TRY(split_open(task, SPLIT_VALIDATION, owned->options.validation, &hash));
    TRY(split_open(task, SPLIT_TEST, owned->options.test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) perplexity_close(task);
    return status;
}
static int windows_open(struct task *task, const void *options) {
    return perplexity_open(task, options, &task_perplexity);
}
static int rolling_open(struct task *task, const void *options) {
    return perplexity_open(task, options, &task_perplexity_rolling);
}

/* Window and stride in tokens under a model of so many positions, which settles what the task does not say. */
static int lengths_settle(const struct task *task, size_t positions, size_t *window, size_t *stride) {
    int status = 0;
    const struct perplexity_options *o = &((const struct perplexity *)task->owned)->options;
    bool rolling = task->kind == &task_perplexity_rolling;
    *window = o->window ? (size_t)o->window : positions < WINDOW_USUAL ? positions : WINDOW_USUAL;
    if (*window < 2) FAIL(E_SHAPE, "a model of %zu positions has no window to score", positions);
    /* A window's last token is predicted only, and the begin token stands beside `window` others unless it rolls. */
    if (*window - (rolling || !o->bos) > positions)
        FAIL(E_SHAPE, "window %zu is longer than the model's %zu positions; lower the task's `window`", *window,
             positions);
    *stride = o->stride ? (size_t)o->stride : *window > 2 ? *window / 2 : 1;
    if (rolling && *stride > *window - o->bos)
        FAIL(E_ARGUMENT, "stride %zu is longer than window %zu%s", *stride, *window,
             o->bos ? " without its begin token" : "");
out:
    return status;
}

static int perplexity_fits(const struct task *task, size_t positions) {
    size_t window, stride;
    return lengths_settle(task, positions, &window, &stride);
}

/* Blocks as windows are scored: begun by the begin token where `bos` asks for it. */
static int perplexity_training(const struct task *task, const struct tokenizer *tokenizer,
                               const struct task_lengths *lengths, struct task_examples *out) {
    int status = 0;
    const struct perplexity *owned = task->owned;
    int32_t begin = owned->options.bos ? tokenizer_special(tokenizer).begin : -1;
    if (owned->options.bos && begin < 0) FAIL(E_UNSUPPORTED, "bos: the tokenizer has no begin token");
    status = text_blocks_open(out, tokenizer, owned->text[SPLIT_TRAIN], owned->bytes[SPLIT_TRAIN], begin,
                              task_longest(lengths), (size_t)owned->options.max_train);
    if (status == E_FORMAT || status == E_LIMIT) error_prefix(status, "%s", owned->path[SPLIT_TRAIN]);
out:
    return status;
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

/* One window: text tokens begin..end-1, of which `scored` and later are predicted. */
struct window {
    size_t begin, end, scored;
};

struct scorer {
    const struct task_scoring *scoring;
    const struct perplexity *task;
    struct encoding text;
    int32_t bos;           /* -1: none */
    size_t window, stride; /* tokens */
    struct window *windows;
    size_t count, longest;
    struct workspace own, theirs;
    int32_t *ids, *target;
    uint32_t *rows;
    float *nll, *logits, *other_logits;
};

static int windows_make(struct scorer *s) {
    int status = 0;
    const struct perplexity_options *o = &s->task->options;
    bool rolling = s->scoring->task->kind == &task_perplexity_rolling;
    size_t tokens = s->text.count, window = s->window, step = rolling ? s->stride : window;
    size_t own = s->bos >= 0 && window > 1 ? window - (rolling ? 1 : 0) : window, most = tokens / step + 2;
    TRY(memory_take((void **)&s->windows, most, sizeof *s->windows));
    for (size_t done = 0; done < tokens && s->count < most;) {
        struct window *w = &s->windows[s->count];
        size_t end = rolling ? (done == 0 ? own : done + step) : done + window;
        if (end > tokens && !rolling) break;
        if (end > tokens) end = tokens;
        *w = (struct window){rolling && end > own ? end - own : rolling ? 0 : done, end, done};
        if (w->scored == w->begin && s->bos < 0) w->scored++; /* nothing stands before the first token */
        done = end;
        if (w->scored < w->end) s->count++;
    }
    if (o->max_windows && s->count > (size_t)o->max_windows) s->count = (size_t)o->max_windows;
    if (s->count == 0)
        FAIL(E_FORMAT, "%s: %zu token%s, too few for one window of %zu", s->task->path[s->scoring->split], tokens,
             tokens == 1 ? "" : "s", window);
    s->longest = window + 1;
out:
    return status;
}

static int scorer_open(struct scorer *s) {
    int status = 0;
    enum task_split split = s->scoring->split;
    const struct tokenizer *tokenizer = s->scoring->tokenizer;
    size_t vocabulary = s->scoring->model->config.vocabulary;
    TRY(tokenizer_append(tokenizer, s->task->text[split], s->task->bytes[split], false, false, &s->text));
    s->bos = s->task->options.bos ? tokenizer_special(tokenizer).begin : -1;
    if (s->task->options.bos && s->bos < 0) FAIL(E_UNSUPPORTED, "bos: the tokenizer has no begin token");
    TRY(lengths_settle(s->scoring->task, s->scoring->model->config.positions, &s->window, &s->stride));
    TRY(windows_make(s));
    TRY(memory_take((void **)&s->ids, s->longest, sizeof *s->ids));
    TRY(memory_take((void **)&s->target, s->longest, sizeof *s->target));
    TRY(memory_take((void **)&s->rows, s->longest, sizeof *s->rows));
    TRY(memory_take((void **)&s->nll, s->longest, sizeof *s->nll));
    if (!s->scoring->baseline) goto out;
    TRY(memory_take((void **)&s->logits, LOGITS_ROWS * vocabulary, sizeof *s->logits));
    TRY(memory_take((void **)&s->other_logits, LOGITS_ROWS * vocabulary, sizeof *s->other_logits));
out:
    return status;
}

static void scorer_close(struct scorer *s) {
    encoding_close(&s->text);
    workspace_close(&s->own);
    workspace_close(&s->theirs);
    memory_release(s->windows);
    memory_release(s->ids);
    memory_release(s->target);
    memory_release(s->rows);
    memory_release(s->nll);
    memory_release(s->logits);
    memory_release(s->other_logits);
}

struct divergence_job {
    const float *theirs, *own;
    size_t vocabulary;
    double kl[LOGITS_ROWS];
    bool same[LOGITS_ROWS];
};
static void divergence_body(void *context, size_t begin, size_t end, int worker) {
    struct divergence_job *job = context;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        job->kl[i] = task_divergence(job->theirs + i * job->vocabulary, job->own + i * job->vocabulary, job->vocabulary,
                                     &job->same[i]);
}

/* Compare the distributions of both models at `count` rows of one window. */
static int window_compare(struct scorer *s, const struct batch *batch, const float *hidden, size_t count, float *kl,
                          float *same) {
    int status = 0;
    struct model_output output = {0};
    struct divergence_job job = {s->other_logits, s->logits, s->scoring->model->config.vocabulary, {0}, {0}};
    double kl_sum = 0, same_sum = 0;
    TRY(model_forward(s->scoring->baseline, batch, NULL, &s->theirs, &output));
    for (size_t from = 0; from < count; from += LOGITS_ROWS) {
        size_t rows = count - from < LOGITS_ROWS ? count - from : LOGITS_ROWS;
        TRY(model_logits(s->scoring->model, hidden, s->rows + from, rows, &s->own, s->logits));
        TRY(model_logits(s->scoring->baseline, output.hidden, s->rows + from, rows, &s->theirs, s->other_logits));
        parallel_for(rows, 1, divergence_body, &job);
        for (size_t i = 0; i < rows; i++) {
            kl_sum += job.kl[i];
            same_sum += job.same[i];
        }
    }
    *kl = (float)(kl_sum / (double)count);
    *same = (float)(same_sum / (double)count);
out:
    return status;
}

/* Nats of one window's scored tokens; kl and same (or NULL) of its agreement with the baseline. */
static int window_score(struct scorer *s, const struct window *w, float *nats, float *tokens, float *kl, float *same) {
    int status = 0;
    size_t used = 0, count = 0, shift = s->bos >= 0;
    struct model_output output = {0};
    double sum = 0;
    if (shift) s->ids[used++] = s->bos;
    for (size_t t = w->begin; t + 1 < w->end || (t < w->end && used == 0); t++) s->ids[used++] = s->text.ids[t];
    for (size_t t = w->scored; t < w->end; t++) {
        s->rows[count] = (uint32_t)(t - w->begin + shift - 1);
        s->target[count++] = s->text.ids[t];
    }
    uint32_t offset[2] = {0, (uint32_t)used};
    struct batch batch = {.sequences = 1, .tokens = used, .ids = s->ids, .offset = offset};
    TRY(model_forward(s->scoring->model, &batch, NULL, &s->own, &output));
    TRY(model_token_nll(s->scoring->model, output.hidden, s->rows, s->target, count, &s->own, s->nll, NULL));
    for (size_t i = 0; i < count; i++) sum += (double)s->nll[i];
    if (!isfinite(sum)) FAIL(E_NUMERIC, "the model's probabilities of token %zu and later are not finite", w->scored);
    *nats = (float)sum;
    *tokens = (float)count;
    if (kl) TRY(window_compare(s, &batch, output.hidden, count, kl, same));
out:
    return status;
}

static int perplexity_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    struct scorer s = {.scoring = scoring, .task = scoring->task->owned};
    float *nats, *tokens, *kl = NULL, *same = NULL;
    double nats_sum = 0, tokens_sum = 0, kl_sum = 0, same_sum = 0, compared = 0;
    TRY(scorer_open(&s));
    result->count = s.count;
    TRY(task_result_items(result, "nll", ITEM_F32, (void **)&nats));
    TRY(task_result_items(result, "tokens", ITEM_F32, (void **)&tokens));
    size_t limit = scoring->baseline ? (size_t)s.task->options.agreement_tokens : 0;
    if (limit) {
        TRY(task_result_items(result, "kl_nats", ITEM_F32, (void **)&kl));
        TRY(task_result_items(result, "same_top1_frac", ITEM_F32, (void **)&same));
    }
    for (size_t i = 0; i < s.count; i++) {
        bool compare = s.windows[i].begin < limit;
        TRY(window_score(&s, &s.windows[i], &nats[i], &tokens[i], compare ? &kl[i] : NULL, compare ? &same[i] : NULL));
        nats_sum += (double)nats[i];
        tokens_sum += (double)tokens[i];
        if (compare) {
            kl_sum += (double)kl[i] * (double)tokens[i];
            same_sum += (double)same[i] * (double)tokens[i];
            compared += (double)tokens[i];
        } else if (limit) {
            kl[i] = same[i] = NAN;
        }
    }
    task_result_metric(result, scoring->task->kind->primary_metric, "", exp(nats_sum / tokens_sum));
    task_result_metric(result, "mean_nll", "nats", nats_sum / tokens_sum);
    task_result_metric(result, "scored_tokens", "tokens", tokens_sum);
    task_result_metric(result, "window_tokens", "tokens", (double)s.window);
    if (compared > 0) {
        task_result_metric(result, "kl_to_baseline", "nats", kl_sum / compared);
        task_result_metric(result, "same_top1_as_baseline", "frac", same_sum / compared);
    }
out:
    scorer_close(&s);
    return status;
}

const struct task_kind task_perplexity = {
    .name = "perplexity",
    .summary = "perplexity of a text in windows that do not overlap (GPTQ's protocol)",
    .primary_metric = "perplexity_windows",
    .primary_unit = "",
    .higher_is_better = false,
    .estimator = "perplexity",
    .options = window_options,
    .options_bytes = sizeof(struct perplexity_options),
    .open = windows_open,
    .close = perplexity_close,
    .heads = HEAD_CAUSAL_LM,
    .fits = perplexity_fits,
    .score = perplexity_score,
    .objective = TRAIN_CAUSAL_LM,
    .training = perplexity_training,
};

const struct task_kind task_perplexity_rolling = {
    .name = "perplexity_rolling",
    .summary = "perplexity of a text with a rolling context",
    .primary_metric = "perplexity_rolling",
    .primary_unit = "",
    .higher_is_better = false,
    .estimator = "perplexity",
    .options = rolling_options,
    .options_bytes = sizeof(struct perplexity_options),
    .open = rolling_open,
    .close = perplexity_close,
    .heads = HEAD_CAUSAL_LM,
    .fits = perplexity_fits,
    .score = perplexity_score,
    .objective = TRAIN_CAUSAL_LM,
    .training = perplexity_training,
};
