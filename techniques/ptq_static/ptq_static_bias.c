/* Bias correction (Nagel et al. 2019, section 4.2, with means from data): a layer is linear, so the mean of its outputs
 * over the calibration rows is W·E[x], and quantized Ŵ·E[x̂]. Their difference is a constant per output, which the bias
 * takes over. x is what the f32 model computes; errors that earlier layers make are not part of it.
 */
#include "ptq_static.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"

#define CHANNELS 64

struct adding {
    const struct activation_quantizer *quantizer;
    size_t T, N;
    const float *x;
    double *sum;
};

/* The columns of x as the layer will see them, summed in row order. */
static void add_quantized(void *context, size_t begin, size_t end, int worker) {
    const struct adding *adding = context;
    float scale = adding->quantizer->scale, zero = (float)adding->quantizer->zero;
    int least, most;
    (void)worker;
    activation_codes(adding->quantizer, &least, &most);
    for (size_t t = 0; t < adding->T; t++)
        for (size_t n = begin; n < end; n++) {
            float code = rintf(adding->x[t * adding->N + n] / scale) + zero;
            code = fminf(fmaxf(code, (float)least), (float)most);
            adding->sum[n] += (double)((code - zero) * scale);
        }
}

struct looking {
    struct ptq_static_means *means;
    struct ptq_static *work;
};

static const struct ptq_static_layer *first_of(const struct ptq_static *work, size_t leader) {
    for (size_t i = 0; i < work->layer_count; i++)
        if (work->layers[i].leader == leader) return &work->layers[i];
    return NULL;
}

static int look(void *context, size_t linear, const float *x, size_t T) {
    struct looking *looking = context;
    size_t N = looking->work->context->model->linears[linear].columns;
    if (!looking->work->leads[linear]) return 0;
    struct adding adding = {&first_of(looking->work, linear)->quantizer, T, N, x, looking->means->rounded[linear]};
    channel_add(T, N, x, looking->means->exact[linear]);
    parallel_for(N, CHANNELS, add_quantized, &adding);
    looking->means->rows[linear] += T;
    return 0;
}

static int looked(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                  const struct model_output *output, double fraction) {
    (void)view, (void)batch, (void)workspace, (void)output;
    return ptq_static_progress(((struct looking *)context)->work, fraction, "means of inputs");
}

int ptq_static_means_open(struct ptq_static_means *means, struct ptq_static *work) {
    int status = 0;
    const struct model *model = work->context->model;
    struct looking looking = {means, work};
    struct calibration_visitor visitor = {.input = look, .batch = looked, .context = &looking};
    void *block;

    TRY(memory_take(&block, 2 * model->linear_count, sizeof(double *)));
    means->exact = block;
    means->rounded = means->exact + model->linear_count;
    TRY(memory_take(&block, model->linear_count, sizeof *means->rows));
    means->rows = block;
    for (size_t i = 0; i < model->linear_count; i++) {
        if (!work->leads[i]) continue;
        TRY(memory_take(&block, 2 * model->linears[i].columns, sizeof(double)));
        means->exact[i] = block;
        means->rounded[i] = means->exact[i] + model->linears[i].columns;
    }
    TRY(calibration_run(model, work->context->calibration, &work->plan, &visitor));
out:
    return status;
}

void ptq_static_means_close(struct ptq_static_means *means, const struct ptq_static *work) {
    for (size_t i = 0; means->exact && i < work->context->model->linear_count; i++) memory_release(means->exact[i]);
    memory_release(means->exact);
    memory_release(means->rows);
    memset(means, 0, sizeof *means);
}

bool ptq_static_correct(const struct ptq_static_means *means, const struct ptq_static_layer *layer,
                        struct linear *linear, const float *before, const float *after) {
    const double *exact = means->exact[layer->leader], *rounded = means->rounded[layer->leader];
    double rows = (double)means->rows[layer->leader];
    if (!linear->bias || rows == 0) return false;
    for (size_t r = 0; r < linear->rows; r++) {
        double lost = 0;
        for (size_t n = 0; n < linear->columns; n++)
            lost += (double)before[r * linear->columns + n] * exact[n] -
                    (double)after[r * linear->columns + n] * rounded[n];
        linear->bias[r] += (float)(lost / rows);
    }
    return true;
}
