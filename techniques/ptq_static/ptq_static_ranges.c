/* See ptq_static.h. Inputs shared by layers are observed once; ranges are chosen for several of them at a time. */
#include "ptq_static.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"

static int observe(void *context, size_t linear, const float *x, size_t T) {
    struct ptq_static *work = context;
    if (!work->leads[linear]) return 0;
    return observer_add(&work->observers[linear], x, T * work->context->model->linears[linear].columns);
}

static int observed(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                    const struct model_output *output, double fraction) {
    (void)view, (void)batch, (void)workspace, (void)output;
    return ptq_static_progress(context, fraction, "looking at inputs");
}

struct choosing {
    struct ptq_static *work;
    int *status; /* [layer_count] */
};

static void choose(void *opaque, size_t begin, size_t end, int worker) {
    const struct choosing *choosing = opaque;
    struct ptq_static *work = choosing->work;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t leader = work->layers[i].leader;
        bool first = true; /* of the layers with this leader */
        for (size_t k = 0; k < i; k++) first &= work->layers[k].leader != leader;
        if (first) choosing->status[i] = observer_range(&work->observers[leader], &work->ranges[leader]);
    }
}

static int choose_all(struct ptq_static *work) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, work->layer_count, sizeof(int)));
    struct choosing choosing = {work, block};
    parallel_for(work->layer_count, 1, choose, &choosing);
    for (size_t i = 0; i < work->layer_count; i++) {
        const char *name = work->context->model->linears[work->layers[i].linear].name;
        if (choosing.status[i] == E_MEMORY) FAIL(E_MEMORY, "out of memory for the range of %s", name);
        if (choosing.status[i] < 0) FAIL(choosing.status[i], "%s: no input was seen", name);
    }
out:
    memory_release(block);
    return status;
}

int ptq_static_observe(struct ptq_static *work) {
    int status = 0;
    const struct ptq_static_options *options = work->options;
    const struct technique_context *context = work->context;
    struct calibration_visitor visitor = {.input = observe, .batch = observed, .context = work};
    struct observer_plan plan;
    enum calibrator calibrator;

    TRY(calibrator_find(options->calibrator, &calibrator));
    observer_defaults(&plan, calibrator, !options->asymmetric);
    plan.averaging = options->averaging;
    plan.percentile = options->percentile;
    plan.bins = (size_t)options->bins;
    plan.quantized_bins = (size_t)options->quantized_bins;
    for (size_t i = 0; i < work->layer_count; i++) {
        size_t leader = work->layers[i].leader;
        if (work->leads[leader]) continue;
        TRY(observer_open(&work->observers[leader], &plan));
        work->leads[leader] = true;
    }
    TRY(calibration_run(context->model, context->calibration, &work->plan, &visitor));
    TRY(choose_all(work));
    for (size_t i = 0; i < work->layer_count; i++) {
        struct ptq_static_layer *layer = &work->layers[i];
        const struct range *range = &work->ranges[layer->leader];
        layer->quantizer = (struct activation_quantizer){.range = ACTIVATION_STATIC, .asymmetric = options->asymmetric};
        activation_grid(&layer->quantizer, (float)range->low, (float)range->high, &layer->quantizer.scale,
                        &layer->quantizer.zero);
    }
out:
    return status;
}

/* One scale a row, or one for all. */
static int grid_of(const struct ptq_static *work, const struct weight_shape *shape, const struct linear *linear,
                   struct weight_grid *grid) {
    int status = 0;
    float most = 0;
    TRY(weight_grid_minmax(weight_format_find("int8"), shape, linear->value, grid));
    if (strcmp(work->options->granularity, "tensor") != 0) goto out;
    for (size_t r = 0; r < linear->rows; r++) most = fmaxf(most, grid->scale[r]);
    for (size_t r = 0; r < linear->rows; r++) grid->scale[r] = most;
out:
    return status;
}

int ptq_static_pack(const struct ptq_static *work, struct model *model, const struct ptq_static_layer *layer,
                    struct ptq_static_rounded *rounded) {
    int status = 0;
    struct linear *linear = &model->linears[layer->linear];
    const struct weight_format *format = weight_format_find("int8");
    struct weight_shape shape = {linear->rows, linear->columns, 0, true};
    size_t count = linear->rows * linear->columns;
    void *scale = NULL, *block = NULL;
    float *before = NULL, *after = NULL;

    TRY(memory_take(&scale, linear->rows, sizeof(float)));
    struct weight_grid grid = {.scale = scale, .groups = 1};
    TRY(grid_of(work, &shape, linear, &grid));
    if (rounded) {
        TRY(memory_take(&block, 2 * count, sizeof(float)));
        before = block;
        after = before + count;
        memcpy(before, linear->value, count * sizeof(float));
    }
    TRY(linear_pack(model, linear, format, 0, true, &grid));
    TRY(linear_set_activation(model, linear, &layer->quantizer));
    if (!rounded) goto out;
    TRY(format->unpack(&linear->weight.shape, linear->weight.packed, after));
    for (size_t i = 0; i < count; i++) {
        double w = (double)before[i], difference = w - (double)after[i];
        rounded->error += difference * difference;
        rounded->size += w * w;
    }
    if (rounded->means) rounded->corrected += ptq_static_correct(rounded->means, layer, linear, before, after);
out:
    memory_release(scale);
    memory_release(block);
    return status;
}
