/* Shuffled batches: the epoch's permutation is cut into batches, each sorted by length so that the shards it is
 * cut into are alike. Lengths are not gathered across batches: packed batches compute no padding, and batches
 * of one length would not be random draws. All from (seed, epoch), like masks and hidden words from (seed, step).
 *
 * Masked LM (Devlin et al. 2018): of the chosen tokens 80 % become [MASK], 10 % a random id, 10 % stay.
 */
#include "train/batches.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "train/head.h"

static bool predicts_tokens(enum train_objective objective) {
    return objective == TRAIN_MASKED_LM || objective == TRAIN_CAUSAL_LM;
}

size_t batches_cut(const struct train_plan *plan, const struct model_config *config) {
    return plan->max_tokens && plan->max_tokens < config->positions ? plan->max_tokens : config->positions;
}

/* Length in the high half, place in the permutation in the low: sorting is stable by construction. */
static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t length_of(const struct batches *batches, size_t example) {
    size_t length = batches->examples->offset[example + 1] - batches->examples->offset[example];
    return length < batches->cut ? length : batches->cut;
}

static size_t unit_length(const struct batches *batches, size_t unit) {
    size_t length = 0;
    for (size_t i = 0; i < batches->unit; i++) length += length_of(batches, unit * batches->unit + i);
    return length;
}

/* ---- storage ----------------------------------------------------------------------------------------- */

/* The given weights, or count / (classes · count_k), with which every class has the same weight in all; a class
 * without examples gets 1, and so do those that the model has beyond the examples'. */
static void fill_weights(struct batches *batches) {
    const struct examples *examples = batches->examples;
    size_t classes = examples->classes;
    for (size_t k = 0; k < batches->classes; k++) batches->class_weight[k] = 1;
    for (size_t k = 0; k < classes; k++) {
        size_t count = 0;
        for (size_t i = 0; i < examples->count; i++) count += (size_t)examples->label[i] == k;
        double balanced = count ? (double)examples->count / ((double)classes * (double)count) : 1;
        batches->class_weight[k] = (float)(batches->plan->class_weights ? batches->plan->class_weights[k] : balanced);
    }
}

/* Arrays are cut twice: from an arena without memory to learn the size, then in earnest. */
static void *cut(struct arena *arena, bool wanted, size_t count, size_t size) {
    uintptr_t at = (uintptr_t)arena->base + arena->used_bytes;
    if (!wanted) return NULL;
    arena->used_bytes += size_round_up(count * size, MEMORY_ALIGN);
    return (void *)at;
}

static void cut_all(struct batches *batches, struct arena *arena, size_t tokens, bool weights, bool types) {
    enum train_objective objective = batches->plan->objective;
    size_t B = batches->per_batch * batches->unit * batches->copies;
    bool rows = predicts_tokens(objective), answers = objective == TRAIN_QUESTION_ANSWERING;
    batches->order = cut(arena, true, batches->units, sizeof *batches->order);
    batches->slot = cut(arena, true, batches->per_epoch, sizeof *batches->slot);
    batches->keys = cut(arena, true, batches->per_batch, sizeof *batches->keys);
    batches->class_weight = cut(arena, weights, batches->classes, sizeof *batches->class_weight);
    batches->ids = cut(arena, true, tokens, sizeof *batches->ids);
    batches->types = cut(arena, types, tokens, sizeof *batches->types);
    batches->token_label = cut(arena, rows, tokens, sizeof *batches->token_label);
    batches->row = cut(arena, rows, tokens, sizeof *batches->row);
    batches->row_label = cut(arena, rows, tokens, sizeof *batches->row_label);
    batches->offset = cut(arena, true, B + 1, sizeof *batches->offset);
    batches->micro_offset = cut(arena, true, B + 1, sizeof *batches->micro_offset);
    batches->example = cut(arena, true, B, sizeof *batches->example);
    batches->label = cut(arena, objective == TRAIN_CLASSIFICATION, B, sizeof *batches->label);
    batches->start = cut(arena, answers, B, sizeof *batches->start);
    batches->end = cut(arena, answers, B, sizeof *batches->end);
    batches->target =
        cut(arena, objective == TRAIN_REGRESSION || objective == TRAIN_SIMILARITY, B, sizeof *batches->target);
}

static size_t least_one(size_t count) { return count ? count : 1; }

int batches_open(struct batches *batches, const struct examples *examples, const struct train_plan *plan,
                 const struct model_config *config) {
    int status = 0;
    size_t longest = 0, tokens;
    struct arena measure = {0};
    bool weights = plan->objective == TRAIN_CLASSIFICATION && (plan->balance_classes || plan->class_weights);
    bool types = examples->types && config->token_types > 1;

    *batches = (struct batches){.examples = examples, .plan = plan, .epoch = SIZE_MAX};
    batches->cut = batches_cut(plan, config);
    batches->vocabulary = config->vocabulary;
    batches->classes = config->classes;
    batches->unit = plan->objective == TRAIN_SIMILARITY ? 2 : 1;
    batches->copies = plan->r_drop > 0 ? 2 : 1;
    batches->units = examples->count / batches->unit;
    batches->per_batch = least_one(plan->batch / batches->unit);
    if (batches->per_batch > batches->units) batches->per_batch = least_one(batches->units);
    batches->per_micro = plan->micro_batch ? least_one(plan->micro_batch / batches->unit) : batches->per_batch;
    batches->per_epoch = (batches->units + batches->per_batch - 1) / batches->per_batch;
    for (size_t i = 0; i < examples->count; i++)
        if (length_of(batches, i) > longest) longest = length_of(batches, i);
    TRY(size_multiply(longest, batches->per_batch * batches->unit * batches->copies, &tokens));
    cut_all(batches, &measure, tokens, weights, types);
    TRY(arena_open(&batches->arena, measure.used_bytes));
    cut_all(batches, &batches->arena, tokens, weights, types);
    if (weights) fill_weights(batches);
out:
    if (status < 0) batches_close(batches);
    return status;
}

void batches_close(struct batches *batches) {
    arena_close(&batches->arena);
    *batches = (struct batches){0};
}

/* ---- drawing ----------------------------------------------------------------------------------------- */

static void start_epoch(struct batches *batches, size_t epoch) {
    size_t count = batches->units, window = batches->per_batch;
    uint64_t seed = batches->plan->seed;

    random_permutation(seed, random_stream("order", epoch, 0), batches->order, count);
    for (size_t begin = 0; begin < count; begin += window) {
        size_t n = count - begin < window ? count - begin : window;
        /* The low half is the unit itself: the permutation decides which window it falls into. */
        for (size_t i = 0; i < n; i++) {
            uint32_t unit = batches->order[begin + i];
            batches->keys[i] = (uint64_t)unit_length(batches, unit) << 32 | unit;
        }
        qsort(batches->keys, n, sizeof *batches->keys, compare_keys);
        for (size_t i = 0; i < n; i++) batches->order[begin + i] = (uint32_t)batches->keys[i];
    }
    random_permutation(seed, random_stream("batches", epoch, 0), batches->slot, batches->per_epoch);
    batches->epoch = epoch;
}

/* Choose tokens to predict; at least one where any may be chosen. */
static void mask_tokens(struct batches *batches) {
    const struct train_plan *plan = batches->plan;
    size_t T = batches->tokens, chosen = 0, candidates = 0;
    struct random random;

    random_open(&random, plan->seed, random_stream("mask", batches->step, 0));
    for (size_t t = 0; t < T; t++) {
        batches->token_label[t] = LABEL_IGNORED;
        candidates += batches->ids[t] >= plan->special_ids;
    }
    size_t forced = candidates ? (size_t)random_below(&random, candidates) : 0, seen = 0;
    for (size_t round = 0; round < 2 && !chosen && candidates; round++) {
        seen = 0;
        for (size_t t = 0; t < T; t++) {
            if (batches->ids[t] < plan->special_ids) continue;
            bool take = round ? seen == forced : random_uniform(&random) < plan->mask_frac;
            seen++;
            if (!take) continue;
            double fate = random_uniform(&random);
            batches->token_label[t] = batches->ids[t];
            if (fate < 0.8) batches->ids[t] = plan->mask_id;
            else if (fate < 0.9)
                batches->ids[t] =
                    plan->special_ids + (int32_t)random_below(&random, batches->vocabulary - (size_t)plan->special_ids);
            chosen++;
        }
    }
}

/* Every token but a sequence's last predicts the one after it. */
static void shift_tokens(struct batches *batches) {
    for (size_t s = 0; s < batches->sequences; s++) {
        size_t last = batches->offset[s + 1] - 1;
        for (size_t t = batches->offset[s]; t < last; t++) batches->token_label[t] = batches->ids[t + 1];
        batches->token_label[last] = LABEL_IGNORED;
    }
}

/* Word dropout: hide tokens from a model in training, so that it cannot lean on one telling word. */
static void hide_words(struct batches *batches) {
    const struct train_plan *plan = batches->plan;
    struct random random;
    random_open(&random, plan->seed, random_stream("word dropout", batches->step, 0));
    for (size_t t = 0; t < batches->tokens; t++)
        if (batches->ids[t] >= plan->special_ids && random_uniform(&random) < plan->word_dropout)
            batches->ids[t] = plan->mask_id;
}

/* Append one example to the step's batch. */
static void append(struct batches *batches, size_t example) {
    const struct examples *examples = batches->examples;
    size_t length = length_of(batches, example), from = examples->offset[example], s = batches->sequences++;
    memcpy(batches->ids + batches->tokens, examples->ids + from, length * sizeof *batches->ids);
    if (batches->types)
        memcpy(batches->types + batches->tokens, examples->types + from, length * sizeof *batches->types);
    batches->tokens += length;
    batches->offset[s + 1] = (uint32_t)batches->tokens;
    batches->example[s] = (uint32_t)example;
    if (batches->label) batches->label[s] = examples->label[example];
    if (batches->target) batches->target[s / batches->unit] = examples->target[example / batches->unit];
    if (batches->start) { /* an answer that is not there, or was cut off: the first token stands for none */
        bool there = examples->start[example] >= 0 && examples->end[example] >= examples->start[example] &&
                     (size_t)examples->end[example] < length;
        batches->start[s] = there ? examples->start[example] : 0;
        batches->end[s] = there ? examples->end[example] : 0;
    }
}

/* What sequences begin..end-1 weigh in the step's loss. */
static double weight_of(const struct batches *batches, size_t begin, size_t end) {
    double weight = 0;
    if (batches->token_label) {
        for (size_t t = batches->offset[begin]; t < batches->offset[end]; t++)
            weight += batches->token_label[t] != LABEL_IGNORED;
    } else {
        for (size_t s = begin; s < end; s++)
            weight += batches->class_weight ? (double)batches->class_weight[batches->label[s]] : 1;
    }
    return weight;
}

void batches_step(struct batches *batches, size_t step) {
    const struct train_plan *plan = batches->plan;
    size_t epoch = step / batches->per_epoch, begin, count;

    if (epoch != batches->epoch) start_epoch(batches, epoch);
    begin = batches->slot[step % batches->per_epoch] * batches->per_batch;
    count = batches->units - begin < batches->per_batch ? batches->units - begin : batches->per_batch;
    batches->step = step;
    batches->sequences = batches->tokens = 0;
    batches->offset[0] = 0;
    for (size_t i = 0; i < count * batches->unit; i++)
        for (size_t copy = 0; copy < batches->copies; copy++)
            append(batches, batches->order[begin + i / batches->unit] * batches->unit + i % batches->unit);
    if (plan->objective == TRAIN_MASKED_LM) mask_tokens(batches);
    else if (plan->objective == TRAIN_CAUSAL_LM) shift_tokens(batches);
    else if (plan->word_dropout > 0) hide_words(batches);
    batches->micros = (count + batches->per_micro - 1) / batches->per_micro;
    batches->weight = weight_of(batches, 0, batches->sequences);
}

void batches_micro(struct batches *batches, size_t index, struct train_batch *micro) {
    size_t size = batches->per_micro * batches->unit * batches->copies, begin = index * size;
    size_t end = batches->sequences - begin < size ? batches->sequences : begin + size;
    size_t at = batches->offset[begin], T = batches->offset[end] - at;

    for (size_t s = begin; s <= end; s++) batches->micro_offset[s - begin] = batches->offset[s] - (uint32_t)at;
    *micro = (struct train_batch){.batch = {.sequences = end - begin,
                                            .tokens = T,
                                            .ids = batches->ids + at,
                                            .offset = batches->micro_offset,
                                            .token_types = batches->types ? batches->types + at : NULL},
                                  .example = batches->example + begin,
                                  .label = batches->label ? batches->label + begin : NULL,
                                  .target = batches->target ? batches->target + begin / batches->unit : NULL,
                                  .start = batches->start ? batches->start + begin : NULL,
                                  .end = batches->end ? batches->end + begin : NULL,
                                  .step = batches->step,
                                  .first_sequence = begin,
                                  .first_token = at,
                                  .first = index == 0};
    for (size_t t = 0; batches->token_label && t < T; t++) {
        if (batches->token_label[at + t] == LABEL_IGNORED) continue;
        batches->row[micro->rows] = (uint32_t)t;
        batches->row_label[micro->rows++] = batches->token_label[at + t];
    }
    micro->row = batches->row;
    micro->row_label = batches->row_label;
    micro->token_share = (double)T / (double)batches->tokens;
    micro->share = batches->weight > 0 ? weight_of(batches, begin, end) / batches->weight : 0;
}
