/* What a run keeps beside the model: the values of its best evaluation, and checkpoints.
 *
 * A checkpoint holds values, moments and tallies, nothing of random numbers: they are functions of (seed, step, place).
 * Moments of rows that never occurred are left out. It goes with the identity of its run: a hash of the plan, the
 * examples and all first values, so that nothing else is ever continued from it.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "train/train_run.h"

#define FILE_NAME "training.checkpoint"

/* ---- identity ---------------------------------------------------------------------------------------- */

static void hash_array(struct hash *hash, const void *values, size_t count, size_t size) {
    hash_number(hash, values ? count : 0);
    if (values) hash_update(hash, values, count * size);
}

static void hash_reals(struct hash *hash, const double *values, size_t count) {
    hash_array(hash, values, count, sizeof *values);
}

static void hash_plan(struct hash *hash, const struct train_plan *plan, size_t classes) {
    const uint64_t numbers[] = {plan->objective,
                                plan->steps,
                                plan->batch,
                                plan->micro_batch,
                                plan->optimizer,
                                plan->schedule,
                                plan->nesterov,
                                plan->balance_classes,
                                plan->max_tokens,
                                plan->patience,
                                plan->keep_best,
                                plan->evaluate_steps,
                                plan->compute,
                                plan->seed,
                                plan->teacher != NULL,
                                (uint64_t)plan->mask_id,
                                (uint64_t)plan->special_ids,
                                plan->checkpoint_activations};
    const double reals[] = {
        plan->epochs,        plan->rate,    plan->warmup_frac,     plan->schedule_power, plan->schedule_end_frac,
        plan->beta1,         plan->beta2,   plan->epsilon,         plan->momentum,       plan->weight_decay,
        plan->clip_norm,     plan->dropout, plan->label_smoothing, plan->word_dropout,   plan->mask_frac,
        plan->average_decay, plan->r_drop};
    hash_array(hash, numbers, sizeof numbers / sizeof *numbers, sizeof *numbers);
    hash_reals(hash, reals, sizeof reals / sizeof *reals);
    hash_reals(hash, plan->class_weights, classes);
    hash_text(hash, plan->identity ? plan->identity : "");
}

static void hash_examples(struct hash *hash, const struct examples *examples) {
    size_t count = examples->count, tokens = examples->offset[count];
    hash_number(hash, examples->pair);
    hash_number(hash, examples->classes);
    hash_array(hash, examples->offset, count + 1, sizeof *examples->offset);
    hash_array(hash, examples->ids, tokens, sizeof *examples->ids);
    hash_array(hash, examples->types, tokens, sizeof *examples->types);
    hash_array(hash, examples->label, count, sizeof *examples->label);
    hash_array(hash, examples->target, examples->pair ? count / 2 : count, sizeof *examples->target);
    hash_array(hash, examples->start, count, sizeof *examples->start);
    hash_array(hash, examples->end, count, sizeof *examples->end);
}

static void hash_values(struct hash *hash, const char *name, const float *values, size_t rows, size_t columns) {
    hash_text(hash, name);
    hash_number(hash, rows);
    hash_array(hash, values, rows * columns, sizeof *values);
}

static void identify(struct training *training) {
    const struct model *model = training->model;
    const struct train_plan *plan = training->plan;
    struct hash hash;
    hash_open(&hash);
    hash_plan(&hash, plan, training->examples->classes);
    hash_examples(&hash, training->examples);
    hash_text(&hash, model->config.family);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        hash_values(&hash, parameter->name, parameter->value, parameter->rows, parameter->columns);
    }
    for (size_t i = 0; i < plan->extra_count; i++)
        hash_values(&hash, plan->extra[i].name, plan->extra[i].value, plan->extra[i].rows, plan->extra[i].columns);
    for (size_t i = 0; i < plan->state_count; i++) hash_array(&hash, plan->states[i].bytes, plan->states[i].count, 1);
    hash_close(&hash, training->identity);
}

/* ---- the best values --------------------------------------------------------------------------------- */

static size_t value_bytes(const struct trainable *trainable) {
    return trainable->rows * trainable->columns * sizeof(float);
}

static size_t kept_bytes(const struct training *training) {
    size_t bytes = 0;
    for (size_t i = 0; i < training->trainables.count; i++) bytes += value_bytes(&training->trainables.items[i]);
    for (size_t i = 0; i < training->plan->state_count; i++) bytes += training->plan->states[i].count;
    return bytes;
}

static void copy(char *kept, void *live, size_t bytes, bool restore) {
    memcpy(restore ? live : kept, restore ? (const void *)kept : live, bytes);
}

static void copy_all(struct training *training, bool restore) {
    char *at = training->best;
    for (size_t i = 0; i < training->trainables.count; at += value_bytes(&training->trainables.items[i]), i++)
        copy(at, training->trainables.items[i].value, value_bytes(&training->trainables.items[i]), restore);
    for (size_t i = 0; i < training->plan->state_count; at += training->plan->states[i].count, i++)
        copy(at, training->plan->states[i].bytes, training->plan->states[i].count, restore);
}

void train_best_keep(struct training *training) {
    if (!training->best) return;
    optimizer_settle(&training->optimizer);
    copy_all(training, false);
    training->best_kept = true;
}

void train_best_restore(struct training *training) {
    if (!training->best_kept) return;
    optimizer_settle(&training->optimizer);
    copy_all(training, true);
}

/* ---- checkpoints ------------------------------------------------------------------------------------- */

static void add_part(struct training *training, void *bytes, size_t rows, size_t row_bytes, const uint32_t *only,
                     const bool *present) {
    if (bytes)
        training->parts[training->part_count++] = (struct checkpoint_part){bytes, rows, row_bytes, only, present};
}

static int make_parts(struct training *training) {
    int status = 0;
    const struct trainables *trainables = &training->trainables;
    void *block;
    TRY(memory_take(&block, 5 + training->plan->state_count + 4 * trainables->count, sizeof *training->parts));
    training->parts = block;
    add_part(training, &training->tally, 1, sizeof training->tally, NULL, NULL);
    add_part(training, &training->best_kept, 1, sizeof training->best_kept, NULL, NULL);
    for (size_t i = 0; i < trainables->count; i++) {
        const struct trainable *trainable = &trainables->items[i];
        const struct optimizer_item *item = &training->optimizer.items[i];
        size_t rows = trainable->rows, row_bytes = trainable->columns * sizeof(float);
        add_part(training, trainable->value, rows, row_bytes, NULL, NULL);
        add_part(training, item->last, rows, sizeof *item->last, NULL, NULL);
        add_part(training, item->m, rows, row_bytes, item->last, NULL);
        add_part(training, item->v, rows, row_bytes, item->last, NULL);
    }
    for (size_t i = 0; i < training->plan->state_count; i++)
        add_part(training, training->plan->states[i].bytes, 1, training->plan->states[i].count, NULL, NULL);
    add_part(training, &training->average_present, 1, sizeof training->average_present, NULL, NULL);
    add_part(training, training->average, 1, training->average_bytes, NULL, &training->average_present);
    add_part(training, training->best, 1, kept_bytes(training), NULL, &training->best_kept);
out:
    return status;
}

static int go_on(struct training *training) {
    int status = 0;
    bool found;
    TRY(checkpoint_read(training->checkpoint_path, training->identity, training->parts, training->part_count, &found));
    if (!found) goto out;
    if (training->tally.steps > training->schedule.steps)
        FAIL(E_FORMAT, "%s: says that %llu of %zu steps were taken; delete it to start this training anew",
             training->checkpoint_path, (unsigned long long)training->tally.steps, training->schedule.steps);
    training->optimizer.step = training->tally.steps;
    training->started_s -= training->tally.seconds;
    log_line(LOG_INFO, "training goes on after step %llu of %zu from %s", (unsigned long long)training->tally.steps,
             training->schedule.steps, training->checkpoint_path);
out:
    return status;
}

int train_resume_open(struct training *training) {
    int status = 0;
    const char *folder = training->plan->checkpoint_dir;
    void *block;

    if (training->plan->keep_best && training->plan->evaluate_steps) {
        TRY(memory_take_raw(&block, kept_bytes(training), 1));
        training->best = block;
    }
    if (!folder) goto out;
    TRY(memory_take(&block, strlen(folder) + sizeof FILE_NAME + 1, 1));
    training->checkpoint_path = block;
    sprintf(training->checkpoint_path, "%s/%s", folder, FILE_NAME);
    identify(training);
    TRY(make_parts(training));
    TRY(go_on(training));
    training->checkpointed_s = train_now_s();
out:
    return status;
}

void train_resume_close(struct training *training) {
    memory_release(training->best);
    memory_release(training->parts);
    memory_release(training->checkpoint_path);
}

void train_checkpoint(struct training *training) {
    if (!training->checkpoint_path) return;
    optimizer_settle(&training->optimizer);
    training->tally.seconds = train_now_s() - training->started_s;
    if (checkpoint_write(training->checkpoint_path, training->identity, training->parts, training->part_count) == 0) {
        training->checkpoints++;
        training->checkpoint_failing = false;
    } else {
        if (!training->checkpoint_failing)
            log_line(LOG_WARN, "step %llu: no checkpoint could be written, training goes on without (%s)",
                     (unsigned long long)training->tally.steps, error_text());
        training->checkpoints_failed++;
        training->checkpoint_failing = true;
    }
    training->checkpointed_s = train_now_s();
}
