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

#define IGNORED (-100)

/* Length in the high half, place in the permutation in the low: sorting is stable by construction. */
static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t length_of(const struct batches *batches, uint32_t example) {
    size_t length = batches->examples->offset[example + 1] - batches->examples->offset[example];
    return length < batches->cut ? length : batches->cut;
}

int batches_open(struct batches *batches, const struct examples *examples, const struct train_plan *plan, size_t cut) {
    int status = 0;
    size_t tokens_max = 0, bytes;
    bool masked = plan->objective == TRAIN_MASKED_LM;
    void *view;

    memset(batches, 0, sizeof *batches);
    batches->examples = examples;
    batches->plan = plan;
    batches->cut = cut;
    if (examples->count == 0) FAIL(E_ARGUMENT, "there is nothing to train on: the task gave no examples");
    for (size_t i = 0; i < examples->count; i++) {
        size_t length = length_of(batches, (uint32_t)i);
        if (length > tokens_max) tokens_max = length;
    }
    tokens_max *= plan->batch;
    batches->per_epoch = (examples->count + plan->batch - 1) / plan->batch;
    bytes = examples->count * sizeof(uint32_t) + batches->per_epoch * sizeof(uint32_t) +
            2 * tokens_max * sizeof(int32_t) + (plan->batch + 1) * sizeof(uint32_t) + plan->batch * sizeof(uint64_t) +
            8 * MEMORY_ALIGN;
    TRY(arena_open(&batches->arena, bytes));
    TRY(arena_take(&batches->arena, &view, examples->count, sizeof(uint32_t)));
    batches->order = view;
    TRY(arena_take(&batches->arena, &view, batches->per_epoch, sizeof(uint32_t)));
    batches->slot = view;
    TRY(arena_take(&batches->arena, &view, tokens_max, sizeof(int32_t)));
    batches->ids = view;
    TRY(arena_take(&batches->arena, &view, masked ? tokens_max : plan->batch, sizeof(int32_t)));
    batches->labels = view;
    TRY(arena_take(&batches->arena, &view, plan->batch + 1, sizeof(uint32_t)));
    batches->offset = view;
    TRY(arena_take(&batches->arena, &view, plan->batch, sizeof(uint64_t)));
    batches->keys = view;
    batches->epoch = SIZE_MAX;
out:
    if (status < 0) batches_close(batches);
    return status;
}

void batches_close(struct batches *batches) {
    arena_close(&batches->arena);
    memset(batches, 0, sizeof *batches);
}

static void start_epoch(struct batches *batches, size_t epoch) {
    size_t count = batches->examples->count, window = batches->plan->batch;
    uint64_t seed = batches->plan->seed;

    random_permutation(seed, random_stream("order", epoch, 0), batches->order, count);
    for (size_t begin = 0; begin < count; begin += window) {
        size_t n = count - begin < window ? count - begin : window;
        /* The low half is the example itself: the permutation decides which window it falls into. */
        for (size_t i = 0; i < n; i++)
            batches->keys[i] =
                (uint64_t)length_of(batches, batches->order[begin + i]) << 32 | batches->order[begin + i];
        qsort(batches->keys, n, sizeof *batches->keys, compare_keys);
        for (size_t i = 0; i < n; i++) batches->order[begin + i] = (uint32_t)batches->keys[i];
    }
    random_permutation(seed, random_stream("batches", epoch, 0), batches->slot, batches->per_epoch);
    batches->epoch = epoch;
}

/* Choose tokens to predict; at least one where any may be chosen. */
static void mask_tokens(struct batches *batches, size_t step, int32_t vocabulary) {
    const struct train_plan *plan = batches->plan;
    size_t T = batches->batch.tokens, chosen = 0, candidates = 0;
    struct random random;

    random_open(&random, plan->seed, random_stream("mask", step, 0));
    for (size_t t = 0; t < T; t++) {
        batches->labels[t] = IGNORED;
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
            batches->labels[t] = batches->ids[t];
            if (fate < 0.8) batches->ids[t] = plan->mask_id;
            else if (fate < 0.9)
                batches->ids[t] =
                    plan->special_ids + (int32_t)random_below(&random, (uint64_t)(vocabulary - plan->special_ids));
            chosen++;
        }
    }
}

/* Word dropout: hide tokens from a classifier in training, so that it cannot lean on one telling word. */
static void hide_words(struct batches *batches, size_t step) {
    const struct train_plan *plan = batches->plan;
    struct random random;
    random_open(&random, plan->seed, random_stream("word dropout", step, 0));
    for (size_t t = 0; t < batches->batch.tokens; t++)
        if (batches->ids[t] >= plan->special_ids && random_uniform(&random) < plan->word_dropout)
            batches->ids[t] = plan->mask_id;
}

void batches_step(struct batches *batches, size_t step, size_t vocabulary) {
    const struct examples *examples = batches->examples;
    const struct train_plan *plan = batches->plan;
    size_t epoch = step / batches->per_epoch, begin, count, tokens = 0;

    if (epoch != batches->epoch) start_epoch(batches, epoch);
    begin = batches->slot[step % batches->per_epoch] * plan->batch;
    count = examples->count - begin < plan->batch ? examples->count - begin : plan->batch;
    batches->offset[0] = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t example = batches->order[begin + i];
        size_t length = length_of(batches, example);
        memcpy(batches->ids + tokens, examples->ids + examples->offset[example], length * sizeof(int32_t));
        tokens += length;
        batches->offset[i + 1] = (uint32_t)tokens;
        if (plan->objective == TRAIN_CLASSIFICATION) batches->labels[i] = examples->label[example];
    }
    batches->batch =
        (struct batch){.sequences = count, .tokens = tokens, .ids = batches->ids, .offset = batches->offset};
    if (plan->objective == TRAIN_MASKED_LM) mask_tokens(batches, step, (int32_t)vocabulary);
    else if (plan->word_dropout > 0) hide_words(batches, step);
}
