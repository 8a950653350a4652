/* The model that a build starts from: a new one, or a pretrained one with the heads that its task needs.
 *
 * Beside the task's own head a model gets one for hidden words where its family has such a head and the task has text
 * to learn them from, so that a stage may train on that first. Heads that a pretrained model lacks are new and random,
 * all else is copied.
 */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "run/worker.h"

#define HEAD_DEVIATION 0.02 /* of a new head's weights: BERT's initializer_range */

static bool config_allows(const struct model_config *config, unsigned heads, size_t classes) {
    struct model_config trial = *config;
    trial.model_heads = heads;
    if (heads & HEAD_CLASSIFICATION) trial.classes = classes;
    bool allowed = model_config_check(&trial) == 0;
    error_clear();
    return allowed;
}

static unsigned heads_wanted(const struct task *task, const struct model_config *config) {
    unsigned heads = task->kind->heads;
    if (!(heads & HEAD_CAUSAL_LM) && task_has_unlabelled(task) &&
        config_allows(config, heads | HEAD_MASKED_LM, task->classes))
        heads |= HEAD_MASKED_LM;
    return heads;
}

/* A pretrained model's configuration with other heads. */
static struct model_config with_heads(const struct model_config *pretrained, unsigned heads, size_t classes) {
    struct model_config config = *pretrained;
    config.model_heads = heads;
    if (heads & ~pretrained->model_heads & HEAD_CLASSIFICATION) config.classes = classes;
    return config;
}

static struct model_config new_config(const struct experiment *experiment, const struct task *task, size_t vocabulary) {
    struct model_config config = experiment->model.config;
    config.vocabulary = vocabulary;
    config.classes = task->classes;
    config.model_heads = heads_wanted(task, &config);
    return config;
}

/* A folder may name its classes. Where those are the task's labels in another order, every answer would be taken for
 * another one. */
static int check_class_order(const char *path, const struct task *task) {
    int status = 0;
    char file[PATH_MAX], number[24];
    size_t found = 0, moved = 0;
    snprintf(file, sizeof file, "%s/config.json", path);
    json_t *config = json_load_file(file, 0, NULL); /* none: a single file, which names no classes */
    const json_t *names = json_object_get(config, "id2label");
    for (size_t i = 0; task->class_names && i < task->classes; i++) {
        snprintf(number, sizeof number, "%zu", i);
        const char *name = json_string_value(json_object_get(names, number));
        for (size_t k = 0; name && k < task->classes; k++)
            if (strcasecmp(name, task->class_names[k]) == 0) found++, moved += k != i;
    }
    if (task->classes && found == task->classes && moved)
        FAIL(E_ARGUMENT,
             "%s: id2label has the task's `labels` in another order, beginning with \"%.40s\"; give them in the "
             "model's order",
             file, json_string_value(json_object_get(names, "0")));
out:
    json_decref(config);
    return status;
}

static int open_pretrained(struct model *model, const struct build_job *job) {
    int status = 0;
    const char *path = job->experiment->model.path;
    struct model pretrained = {0};
    size_t classes = job->task->classes;
    if (job->task->kind->check_folder) TRY(job->task->kind->check_folder(path));
    TRY(model_open(&pretrained, path, true));
    unsigned heads = heads_wanted(job->task, &pretrained.config), missing = heads & ~pretrained.config.model_heads;
    if (heads & pretrained.config.model_heads & HEAD_CLASSIFICATION) TRY(check_class_order(path, job->task));
    if (!missing) {
        *model = pretrained;
        pretrained = (struct model){0};
        goto out;
    }
    if (!config_allows(&pretrained.config, heads, classes))
        FAIL(E_UNSUPPORTED, "%s: a %s model lacks the head that the task %s needs", path, pretrained.config.family,
             job->task->kind->name);
    TRY(model_copy_heads(model, &pretrained, heads, classes, job->cell->seed, HEAD_DEVIATION));
out:
    model_close(&pretrained);
    return status;
}

int build_model_open(struct model *model, const struct build_job *job) {
    int status = 0;
    if (job->experiment->model.path) {
        TRY(open_pretrained(model, job));
    } else {
        struct model_config config = new_config(job->experiment, job->task, tokenizer_vocabulary(job->tokenizer));
        TRY(model_create(model, &config, job->cell->seed, job->experiment->model.deviation));
    }
    if (job->tokenizer_json) TRY(model_set_metadata(model, "tokenizer", job->tokenizer_json));
out:
    return status;
}

/* ---- its sizes alone ------------------------------------------------------------------------------------- */

int build_start_open(struct build_start *start, const struct experiment *experiment, const struct task *task,
                     size_t vocabulary) {
    int status = 0;
    *start = (struct build_start){0};
    if (experiment->model.path) {
        const struct model_config *pretrained = &start->pretrained.config;
        TRY(model_open(&start->pretrained, experiment->model.path, false));
        unsigned heads = heads_wanted(task, pretrained);
        start->config = *pretrained;
        if (heads & ~pretrained->model_heads) start->config = with_heads(pretrained, heads, task->classes);
    } else {
        start->config = new_config(experiment, task, vocabulary);
    }
    TRY(model_config_check(&start->config));
out:
    return status;
}

int build_start_shape(const struct build_start *start, struct model *shape) {
    int status = 0;
    const struct model *pretrained = &start->pretrained;
    TRY(model_shape(shape, &start->config));
    shape->int8_attention = pretrained->int8_attention;
    for (size_t i = 0; i < pretrained->linear_count; i++) {
        const struct linear *packed = &pretrained->linears[i];
        struct linear *linear = packed->parameter ? NULL : model_linear_find(shape, packed->name);
        if (linear) linear_shape_packed(linear, packed->weight.format);
    }
out:
    return status;
}

void build_start_close(struct build_start *start) { model_close(&start->pretrained); }
