#include "outliers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/fold.h"
#include "training_stage.h"

#define FACTOR 20

void outliers_open(struct technique_run *run, struct small_task *task, const char *family, uint64_t seed) {
    bool classes = strcmp(family, "bert") == 0 || strcmp(family, "distilbert") == 0;
    enum train_objective objective = classes ? TRAIN_CLASSIFICATION : TRAIN_CAUSAL_LM;
    struct fold_site sites[2 * FOLD_KINDS];
    *run = (struct technique_run){0};
    small_task_model(&run->model, family, objective, seed);
    small_task_open(task, objective, 48, seed + 1);
    run->calibration = &task->examples;
    fold_sites(&run->model, sites);
    for (size_t i = 0; i < 2 * FOLD_KINDS; i++) {
        float factor[64];
        if (sites[i].reason) continue;
        assert_true(sites[i].channels <= 64);
        for (size_t c = 0; c < sites[i].channels; c++) factor[c] = c % 8 == 3 ? 1.0f / FACTOR : 1;
        fold_apply(&run->model, &sites[i], factor);
    }
}

void outliers_close(struct technique_run *run, struct small_task *task) {
    technique_run_close(run);
    small_task_close(task);
}

double outliers_change(const struct technique_run *run, const struct small_task *task, float **before) {
    size_t count;
    float *now = training_stage_outputs(&run->model, &task->examples, 12, &count);
    double largest = 0, scale = 0;
    if (!*before) {
        *before = now;
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)now[i] - (double)(*before)[i]));
        scale = fmax(scale, fabs((double)(*before)[i]));
    }
    free(now);
    return largest / scale;
}
