/* See calibrate.h. Batches end at BATCH_TOKENS so that buffers stay small for long texts. */
#include "calibrate/calibrate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"

#define BATCH_EXAMPLES 16
#define BATCH_TOKENS 4096
#define CHANNELS 64 /* at a time: a few cache lines of every row */

size_t calibration_leader(const struct model *model, size_t linear) {
    enum linear_role role = model->linears[linear].role, leader = role;
    if (role == ROLE_KEY || role == ROLE_VALUE) leader = ROLE_QUERY;
    if (role == ROLE_UP && model->config.activation == ACTIVATION_SILU_GATED) leader = ROLE_GATE;
    if (role == leader) return linear;
    for (size_t i = 0; i < model->linear_count; i++)
        if (model->linears[i].block == model->linears[linear].block && model->linears[i].role == leader) return i;
    return linear;
}

int calibration_choose(const struct examples *examples, const struct calibration_plan *plan, uint32_t **chosen,
                       size_t *count) {
    int status = 0;
    void *block = NULL;
    size_t total = examples ? examples->count : 0;
    if (total == 0) FAIL(E_ARGUMENT, "there are no examples to calibrate on");
    TRY(memory_take_raw(&block, total, sizeof **chosen));
    random_permutation(plan->seed, random_stream("calibration", 0, 0), block, total);
    *chosen = block;
    *count = plan->examples && plan->examples < total ? plan->examples : total;
out:
    return status;
}

/* ---- the run ------------------------------------------------------------------------------------------ */

struct run {
    struct model view;
    const struct examples *examples;
    const struct calibration_visitor *visitor;
    int status; /* of the visitor, inside a pass */
    size_t cut;
    int32_t *ids, *types;
    uint32_t *offset;
    struct batch batch;
};

static void see_input(void *context, const struct linear *linear, const float *x, size_t T) {
    struct run *run = context;
    size_t index = (size_t)(linear - run->view.linears);
    if (run->status || calibration_leader(&run->view, index) != index) return;
    run->status = run->visitor->input(run->visitor->context, index, x, T);
    if (run->status < 0) error_prefix(run->status, "input of %s", linear->name);
}

static size_t kept_tokens(const struct run *run, uint32_t example) {
    size_t length = run->examples->offset[example + 1] - run->examples->offset[example];
    return length < run->cut ? length : run->cut;
}

/* Fill the batch with examples from `chosen` on; returns how many. */
static size_t fill_batch(struct run *run, const uint32_t *chosen, size_t count, size_t most) {
    size_t tokens = 0, taken = 0;
    for (; taken < count && taken < most; taken++) {
        size_t from = run->examples->offset[chosen[taken]], length = kept_tokens(run, chosen[taken]);
        if (taken && tokens + length > BATCH_TOKENS) break;
        memcpy(run->ids + tokens, run->examples->ids + from, length * sizeof *run->ids);
        if (run->types) memcpy(run->types + tokens, run->examples->types + from, length * sizeof *run->types);
        run->offset[taken] = (uint32_t)tokens;
        tokens += length;
    }
    run->offset[taken] = (uint32_t)tokens;
    run->batch = (struct batch){
        .sequences = taken, .tokens = tokens, .ids = run->ids, .offset = run->offset, .token_types = run->types};
    return taken;
}

static int take_buffers(struct run *run, const uint32_t *chosen, size_t count, size_t most) {
    int status = 0;
    size_t longest = 1;
    void *block;
    for (size_t i = 0; i < count; i++) {
        size_t length = kept_tokens(run, chosen[i]);
        longest = length > longest ? length : longest;
    }
    size_t tokens = longest > BATCH_TOKENS ? longest : BATCH_TOKENS;
    TRY(memory_take(&block, tokens, sizeof *run->ids));
    run->ids = block;
    TRY(memory_take(&block, most + 1, sizeof *run->offset));
    run->offset = block;
    if (run->examples->types && run->view.config.token_types > 1) {
        TRY(memory_take(&block, tokens, sizeof *run->types));
        run->types = block;
    }
out:
    return status;
}

int calibration_run(const struct model *model, const struct examples *examples, const struct calibration_plan *plan,
                    const struct calibration_visitor *visitor) {
    int status = 0;
    struct run run = {.examples = examples, .visitor = visitor};
    struct model_tap tap = {.input = see_input, .context = &run};
    struct workspace workspace = {0};
    struct model_output output;
    uint32_t *chosen = NULL;
    size_t count = 0, most = plan->batch ? plan->batch : BATCH_EXAMPLES;

    TRY(calibration_choose(examples, plan, &chosen, &count));
    run.cut =
        plan->max_tokens && plan->max_tokens < model->config.positions ? plan->max_tokens : model->config.positions;
    TRY(model_view(&run.view, model, model->config.model_heads));
    TRY(model_prepare(&run.view, GEMM_BUILTIN));
    TRY(take_buffers(&run, chosen, count, most < count ? most : count));
    for (size_t done = 0; done < count;) {
        done += fill_batch(&run, chosen + done, count - done, most);
        TRY(model_forward(&run.view, &run.batch, visitor->input ? &tap : NULL, &workspace, &output));
        TRY(run.status);
        if (visitor->batch)
            TRY(visitor->batch(visitor->context, &run.view, &run.batch, &workspace, &output,
                               (double)done / (double)count));
    }
out:
    workspace_close(&workspace);
    model_close(&run.view);
    memory_release(run.ids);
    memory_release(run.types);
    memory_release(run.offset);
    memory_release(chosen);
    return status;
}

/* ---- channels ----------------------------------------------------------------------------------------- */

struct channels {
    size_t T, N;
    const float *x;
    float *most;
    double *sum;
};

static void absmax_columns(void *context, size_t begin, size_t end, int worker) {
    const struct channels *channels = context;
    (void)worker;
    for (size_t t = 0; t < channels->T; t++) {
        const float *row = channels->x + t * channels->N;
        for (size_t n = begin; n < end; n++) {
            float size = fabsf(row[n]);
            channels->most[n] = size > channels->most[n] ? size : channels->most[n];
        }
    }
}

void channel_absmax(size_t T, size_t N, const float *x, float *most) {
    struct channels channels = {.T = T, .N = N, .x = x, .most = most};
    parallel_for(N, CHANNELS, absmax_columns, &channels);
}

static void add_columns(void *context, size_t begin, size_t end, int worker) {
    const struct channels *channels = context;
    (void)worker;
    for (size_t t = 0; t < channels->T; t++) {
        const float *row = channels->x + t * channels->N;
        for (size_t n = begin; n < end; n++) channels->sum[n] += (double)row[n];
    }
}

void channel_add(size_t T, size_t N, const float *x, double *sum) {
    struct channels channels = {.T = T, .N = N, .x = x, .sum = sum};
    parallel_for(N, CHANNELS, add_columns, &channels);
}
