#include "small_task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>

#include "base/error.h"
#include "base/random.h"

#define SIGN SMALL_SPECIAL /* the word behind which an answer stands */

void small_task_model(struct model *model, const char *family, enum train_objective objective, uint64_t seed) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, family), 0);
    config.layers = 2;
    config.width = 32;
    config.heads = config.key_value_heads = 2;
    config.head_width = 16;
    config.feed_forward = 48;
    config.vocabulary = 97;
    config.positions = 24;
    config.classes = objective == TRAIN_REGRESSION ? 1 : 3;
    if (config.rotary_base > 0) config.rotary_base = 100;
    config.model_heads = train_objective_heads(objective);
    if (model_create(model, &config, seed, 0.15) < 0) fail_msg("%s: %s", family, error_text());
}

/* Share of an example's words whose class is 0. */
static float share_of_class(const struct examples *examples, size_t i) {
    size_t words = 0, count = 0;
    for (size_t t = examples->offset[i]; t < examples->offset[i + 1]; t++) {
        if (examples->ids[t] < SMALL_SPECIAL) continue;
        words++;
        count += (examples->ids[t] - SMALL_SPECIAL) % (int32_t)examples->classes == 0;
    }
    return (float)count / (float)words;
}

/* One word becomes the sign; the answer is the word behind it, or two. */
static void place_answer(struct small_task *task, size_t i, struct random *random) {
    int32_t *ids = task->base.ids + task->base.offset[i];
    size_t length = task->base.offset[i + 1] - task->base.offset[i];
    size_t at = 1 + (size_t)random_below(random, length - 3);
    for (size_t t = 1; t + 1 < length; t++)
        if (ids[t] == SIGN) ids[t]++;
    ids[at] = SIGN;
    task->start[i] = (int32_t)at + 1;
    task->end[i] = (int32_t)(at + 2 < length - 1 ? at + 2 : at + 1);
}

static void count_upwards(struct small_task *task, size_t i, struct random *random) {
    int32_t word = (int32_t)random_below(random, 97 - SMALL_SPECIAL);
    for (size_t t = task->base.offset[i]; t < task->base.offset[i + 1]; t++)
        task->base.ids[t] = SMALL_SPECIAL + (word + (int32_t)(t - task->base.offset[i])) % (97 - SMALL_SPECIAL);
}

void small_task_open(struct small_task *task, enum train_objective objective, size_t count, uint64_t seed) {
    struct model_config config = small_config(HEAD_NONE);
    struct random random;
    *task = (struct small_task){.objective = objective};
    small_examples_new(&task->base, &config, count, seed);
    task->examples = task->base.examples;
    task->target = calloc(count, sizeof *task->target);
    task->start = calloc(count, sizeof *task->start);
    task->end = calloc(count, sizeof *task->end);
    random_open(&random, seed, 7);
    for (size_t i = 0; i < count; i++) {
        if (objective == TRAIN_REGRESSION) task->target[i] = share_of_class(&task->examples, i);
        if (objective == TRAIN_SIMILARITY)
            task->target[i / 2] = task->base.label[i / 2 * 2] == task->base.label[i / 2 * 2 + 1] ? 1 : 0;
        if (objective == TRAIN_QUESTION_ANSWERING) place_answer(task, i, &random);
        if (objective == TRAIN_CAUSAL_LM) count_upwards(task, i, &random);
    }
    if (objective != TRAIN_CLASSIFICATION) task->examples.label = NULL, task->examples.classes = 0;
    if (objective == TRAIN_REGRESSION || objective == TRAIN_SIMILARITY) task->examples.target = task->target;
    task->examples.pair = objective == TRAIN_SIMILARITY;
    if (objective == TRAIN_QUESTION_ANSWERING) task->examples.start = task->start, task->examples.end = task->end;
}

void small_task_close(struct small_task *task) {
    small_examples_free(&task->base);
    free(task->target);
    free(task->start);
    free(task->end);
}

void small_task_plan(struct train_plan *plan, enum train_objective objective) {
    train_plan_defaults(plan);
    plan->objective = objective;
    plan->batch = 16;
    plan->rate = 2e-3;
    plan->mask_id = SMALL_MASK;
    plan->special_ids = SMALL_SPECIAL;
    plan->max_tokens = 24;
    plan->seed = 4;
}
