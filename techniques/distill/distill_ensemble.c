/* Several teachers that speak as one. Logits are averaged, so the targets are the geometric mean of the teachers'
 * distributions, renormalised (Hinton, Vinyals and Dean 2015, section 2); scores and cosines are averaged as they are.
 * What each says is kept by content, as a single teacher's outputs are, so ensembles that share members share the work.
 */
#include "distill.h"

#include <string.h>

/* Add what one more teacher says. */
static int add_member(float *mean, size_t floats, const char *path, const struct output_task *task, const char *folder,
                      int (*progress)(void *context, size_t done, size_t all), void *context, size_t *forwards) {
    int status = 0;
    struct model model = {0};
    struct teacher member = {.model = &model};
    struct outputs outputs = {0};

    TRY(model_open(&model, path, false));
    TRY(model_prepare(&model, GEMM_BUILTIN));
    TRY(distill_outputs_open(&outputs, &member, task, folder, progress, context));
    const float *rows = (const float *)(const void *)outputs.kept.rows;
    for (size_t i = 0; i < floats; i++) mean[i] += rows[i];
    *forwards += member.forwards;
out:
    distill_outputs_close(&outputs);
    workspace_close(&member.workspace);
    model_close(&model);
    return status;
}

int distill_ensemble_open(struct outputs *outputs, const struct option_names *paths, const struct output_task *task,
                          const char *folder, int (*progress)(void *context, size_t done, size_t all), void *context,
                          size_t *forwards) {
    int status = 0;
    size_t floats = outputs->kept.count * (outputs->kept.row_bytes / sizeof(float));
    void *block;

    TRY(memory_take_raw(&block, floats, sizeof(float)));
    outputs->mean = block;
    memcpy(outputs->mean, outputs->kept.rows, floats * sizeof(float));
    for (size_t i = 0; i < paths->count; i++)
        TRY(add_member(outputs->mean, floats, paths->items[i], task, folder, progress, context, forwards));
    for (size_t i = 0; i < floats; i++) outputs->mean[i] /= (float)(paths->count + 1);
out:
    return status;
}
