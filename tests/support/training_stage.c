#include "training_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* ---- what the host is told ------------------------------------------------------------------------------- */

static void take_metric(void *host, const char *name, const char *unit, double value) {
    struct training_stage *stage = host;
    assert_non_null(unit);
    assert_true(stage->metric_count < sizeof stage->metrics / sizeof *stage->metrics);
    struct metric_told *metric = &stage->metrics[stage->metric_count++];
    snprintf(metric->name, sizeof metric->name, "%s", name);
    metric->value = value;
}

static int take_progress(void *host, double fraction, const char *text) {
    struct training_stage *stage = host;
    assert_true(fraction > 0 && fraction <= 1 && text != NULL);
    return stage->stop_at > 0 && stage->steps == stage->stop_at;
}

static void take_step(void *host, const struct train_progress *progress) {
    struct training_stage *stage = host;
    stage->steps = progress->step;
}

static int take_score(void *host, const struct model *model, double *value, bool *higher_is_better) {
    struct training_stage *stage = host;
    stage->scored++;
    if (stage->look) stage->look(stage->context, model);
    *value = training_stage_loss(model, stage->validation);
    *higher_is_better = false;
    return 0;
}

int training_stage_run(struct training_stage *stage, const char *const *settings) {
    int status = 0;
    const struct technique *technique = stage->technique;
    struct option_store store = {0};
    void *options = calloc(1, technique->options_bytes), *state = calloc(1, technique->state_bytes);
    struct technique_context context = {.model = stage->model,
                                        .objective = stage->task->objective,
                                        .training = &stage->task->examples,
                                        .seed = 6,
                                        .mask_id = SMALL_MASK,
                                        .special_ids = SMALL_SPECIAL,
                                        .checkpoint_dir = stage->checkpoint_dir,
                                        .metric = take_metric,
                                        .progress = take_progress,
                                        .step = take_step,
                                        .evaluate = stage->validation ? take_score : NULL,
                                        .host = stage};
    stage->metric_count = stage->steps = stage->scored = 0;
    assert_true(options != NULL && state != NULL);
    TRY(option_defaults(technique->options, options, &store));
    for (; settings != NULL && *settings != NULL; settings++) {
        char name[64];
        size_t length = strcspn(*settings, "=");
        snprintf(name, sizeof name, "%.*s", (int)length, *settings);
        const struct option *option = option_find(technique->options, name);
        if (option == NULL) fail_msg("no option %s", name);
        TRY(option_set(option, options, *settings + length + 1, &store));
    }
    assert_int_equal(technique->needs_of(options) & ~technique->needs, 0);
    TRY(technique->settle(options));
    TRY(technique->probe(&context, options));
    TRY(technique->apply(&context, state, options));
    TRY(technique->report(&context, state, options));
out:
    if (technique->close) technique->close(state);
    option_store_close(&store);
    free(options);
    free(state);
    return status;
}

double training_stage_metric(const struct training_stage *stage, const char *name) {
    for (size_t i = 0; i < stage->metric_count; i++)
        if (strcmp(stage->metrics[i].name, name) == 0) return stage->metrics[i].value;
    return NAN;
}

/* ---- inference ------------------------------------------------------------------------------------------- */

struct seen {
    struct model view;
    struct workspace workspace;
    struct model_output output;
    struct batch batch;
};

static void run(struct seen *seen, const struct model *model, const struct examples *examples, size_t count) {
    *seen = (struct seen){.batch = {.sequences = count, .ids = examples->ids, .offset = examples->offset}};
    seen->batch.tokens = examples->offset[count];
    must(model_view(&seen->view, model, model->config.model_heads));
    must(model_prepare(&seen->view, GEMM_BUILTIN));
    must(model_forward(&seen->view, &seen->batch, NULL, &seen->workspace, &seen->output));
}

static void forget(struct seen *seen) {
    workspace_close(&seen->workspace);
    model_close(&seen->view);
}

static double class_nll(const float *logits, size_t classes, int32_t label) {
    double top = -INFINITY, sum = 0;
    for (size_t c = 0; c < classes; c++) top = fmax(top, (double)logits[c]);
    for (size_t c = 0; c < classes; c++) sum += exp((double)logits[c] - top);
    return top + log(sum) - (double)logits[label];
}

/* Sum over all tokens but each sequence's first. */
static double next_nll(struct seen *seen, size_t *count) {
    size_t T = seen->batch.tokens;
    float *nll = malloc(T * sizeof *nll);
    int32_t *target = malloc(T * sizeof *target);
    uint32_t *rows = malloc(T * sizeof *rows);
    double sum = 0;
    assert_true(nll != NULL && target != NULL && rows != NULL);
    *count = 0;
    for (size_t s = 0; s < seen->batch.sequences; s++)
        for (uint32_t t = seen->batch.offset[s]; t + 1 < seen->batch.offset[s + 1]; t++) {
            rows[*count] = t;
            target[(*count)++] = seen->batch.ids[t + 1];
        }
    must(model_token_nll(&seen->view, seen->output.hidden, rows, target, *count, &seen->workspace, nll, NULL));
    for (size_t i = 0; i < *count; i++) sum += (double)nll[i];
    free(nll), free(target), free(rows);
    return sum;
}

double training_stage_loss(const struct model *model, const struct examples *examples) {
    struct seen seen;
    double sum = 0;
    size_t count = examples->count;
    run(&seen, model, examples, examples->count);
    if (examples->label != NULL)
        for (size_t i = 0; i < count; i++)
            sum += class_nll(seen.output.logits + i * examples->classes, examples->classes, examples->label[i]);
    else sum = next_nll(&seen, &count);
    forget(&seen);
    return sum / (double)count;
}

float *training_stage_outputs(const struct model *model, const struct examples *examples, size_t count,
                              size_t *values) {
    struct seen seen;
    run(&seen, model, examples, count);
    const float *from = seen.output.logits ? seen.output.logits : seen.output.hidden;
    *values = seen.output.logits ? count * model->config.classes : seen.batch.tokens * model->config.width;
    float *out = malloc(*values * sizeof *out);
    assert_non_null(out);
    memcpy(out, from, *values * sizeof *out);
    forget(&seen);
    return out;
}
