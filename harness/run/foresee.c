/* See foresee.h. Cells of one pipeline share their stages, and with them the answer. */
#include "run/foresee.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "config/settings.h"
#include "plan/text_index.h"
#include "run/worker.h"

#define SPECIAL_IDS_MAX                                                                                                \
    1000 /* special tokens beyond are additions at a vocabulary's end: nothing follows from them                       \
          */

struct foresight {
    struct experiment *experiment;
    const struct task *task;
    struct build_start start;
    struct tokenizer_special special;
    bool guessed; /* the vocabulary */
};

const char *stage_missing(uint32_t needs, const struct model *model, bool training, bool unlabelled) {
    if ((needs & NEEDS_TRAINING_DATA) && !training) return "training data, which this task does not have";
    if ((needs & NEEDS_CALIBRATION_DATA) && !training)
        return "calibration data: the training data, which this task does not have";
    if ((needs & NEEDS_UNLABELLED_TEXT) && !unlabelled) return "unlabelled text, which this task does not have";
    if (needs & NEEDS_GRADIENTS)
        for (size_t i = 0; i < model->linear_count; i++)
            if (!model->linears[i].value)
                return "an f32 model to train; an earlier stage has packed it: move this stage before it";
    return NULL;
}

int32_t stage_special_ids(const struct tokenizer_special *special) {
    const int32_t ids[] = {special->pad, special->cls, special->sep, special->mask, special->unknown};
    int32_t below = 0;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i] >= below && ids[i] < SPECIAL_IDS_MAX) below = ids[i] + 1;
    return below;
}

/* The sizes of another file's model must fit a vocabulary that is known. */
static bool names_files(const struct stage_plan *stage) {
    for (const struct option *option = stage->technique->options; option && option->name; option++) {
        const void *at = (const char *)stage->options + option->offset;
        if (option->type == OPTION_PATH && **(const char *const *)at) return true;
        if (option->type == OPTION_PATHS && ((const struct option_names *)at)->count) return true;
    }
    return false;
}

/* While planning it says that there is something to ask. */
static int cannot_tell(void *host, const struct model *model, double *value, bool *higher_is_better) {
    (void)host, (void)model, (void)value, (void)higher_is_better;
    return error_record(E_STATE, __FILE__, __LINE__, "nothing is scored while planning");
}

/* Ask one stage of a model that is its sizes, and let it change them. E_UNSUPPORTED: it cannot run; another error: no
 * more can be told. */
static int ask_stage(const struct foresight *foresight, const struct stage_plan *stage, uint64_t seed,
                     struct model *model) {
    int status = 0;
    const struct technique *technique = stage->technique;
    const struct task *task = foresight->task;
    uint32_t needs = stage_needs(stage);
    const struct examples training = {.classes = task->classes}, unlabelled = {0};
    void *options = NULL;
    bool train = task->split[SPLIT_TRAIN].count > 0, text = task_has_unlabelled(task);
    struct technique_context context = {.model = model,
                                        .planning = true,
                                        .objective = task->kind->objective,
                                        .training = needs & NEEDS_TRAINING_DATA ? &training : NULL,
                                        .unlabelled = needs & NEEDS_UNLABELLED_TEXT ? &unlabelled : NULL,
                                        .calibration = needs & NEEDS_CALIBRATION_DATA ? &training : NULL,
                                        .seed = seed,
                                        .mask_id = foresight->special.mask,
                                        .special_ids = stage_special_ids(&foresight->special),
                                        .evaluate = task->split[SPLIT_VALIDATION].count ? cannot_tell : NULL};
    if (technique->options_bytes) {
        TRY(memory_take(&options, 1, technique->options_bytes));
        memcpy(options, stage->options, technique->options_bytes);
    }
    model_set_aside(model, task->kind->heads);
    const char *missing = stage_missing(needs, model, train, text);
    if (missing) FAIL(E_UNSUPPORTED, "needs %s", missing);
    if (technique->settle) TRY(technique->settle(options));
    if (technique->probe) TRY(technique->probe(&context, options));
    if (technique->foresee(&context, options) < 0) status = E_STATE;
out:
    memory_release(options);
    return status;
}

/* *reason: why a cell's stages cannot run; NULL: nothing is known against them, or the model is larger than memory. */
static int ask_stages(struct foresight *foresight, const struct cell *cell, const char **reason) {
    int status = 0;
    struct model model = {0};
    int asked = build_start_shape(&foresight->start, &model);
    *reason = NULL;
    for (size_t s = 0; s < cell->stage_count && asked == 0; s++) {
        const struct stage_plan *stage = &cell->stages[s];
        if (!stage->technique->foresee || (foresight->guessed && names_files(stage))) break;
        asked = ask_stage(foresight, stage, cell->seed, &model);
        if (asked != E_UNSUPPORTED) continue;
        error_prefix(asked, "%s", stage->technique->name);
        TRY(store_text(&foresight->experiment->store, error_text(), reason));
    }
    error_clear();
out:
    model_close(&model);
    return status;
}

static int ask_cells(struct foresight *foresight) {
    int status = 0;
    struct experiment *experiment = foresight->experiment;
    struct text_index asked = {0};
    for (size_t i = 0; i < experiment->cell_count; i++) {
        struct cell *cell = &experiment->cells[i];
        char text[32];
        const char *name;
        size_t first;
        bool fresh;
        if (cell->skip_reason || !cell->stage_count) continue;
        snprintf(text, sizeof text, "%p", (void *)cell->stages);
        TRY(store_text(&experiment->store, text, &name));
        TRY(text_index_put(&asked, name, i, &first, &fresh));
        if (fresh) TRY(ask_stages(foresight, cell, &cell->skip_reason));
        else cell->skip_reason = experiment->cells[first].skip_reason;
    }
out:
    text_index_close(&asked);
    return status;
}

static bool is_trained(const struct cell *cell) {
    for (size_t s = 0; s < cell->stage_count; s++)
        if (stage_needs(&cell->stages[s]) & (NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT)) return true;
    return false;
}

/* A head that the model's file lacks, or a whole new model, is random: what it scores says nothing until it is trained.
 * Its time and size do, so that this is no error. */
static void warn_untrained(const struct foresight *foresight) {
    const struct experiment *experiment = foresight->experiment;
    const struct cell *first = NULL;
    size_t count = 0;
    if (experiment->model.path && !(foresight->task->kind->heads & ~foresight->start.pretrained.config.model_heads))
        return;
    for (size_t i = 0; i < experiment->cell_count; i++) {
        if (experiment->cells[i].skip_reason || is_trained(&experiment->cells[i])) continue;
        if (!count++) first = &experiment->cells[i];
    }
    if (count)
        log_line(LOG_WARN,
                 "%s: %s random numbers, and no stage trains %zu of %zu cells ('%s'): their scores are chance",
                 experiment->name,
                 experiment->model.path ? "the model lacks its task's head, which begins as" : "a new model begins as",
                 count, experiment->cell_count, first->label);
}

int foresee_cells(struct experiment *experiment, const struct task *task, const struct tokenizer *tokenizer) {
    int status = 0;
    struct foresight foresight = {.experiment = experiment, .task = task};
    size_t vocabulary = (size_t)experiment->tokenizer.vocabulary;
    foresight.guessed = !tokenizer && !experiment->model.path;
    if (tokenizer) foresight.special = tokenizer_special(tokenizer);
    if (tokenizer) vocabulary = tokenizer_vocabulary(tokenizer);
    if (build_start_open(&foresight.start, experiment, task, vocabulary) < 0) {
        error_clear();
    } else {
        warn_untrained(&foresight);
        status = ask_cells(&foresight);
    }
    build_start_close(&foresight.start);
    return status;
}
