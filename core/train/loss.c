/* Cross-entropy with label smoothing, and its gradient.
 *
 *   loss = lse(z) - (1-s) z_y - s mean(z)      d loss / dz = softmax(z) - (1-s) onehot(y) - s/V
 *
 * averaged over the rows that count. lse(z) is taken from the softmax itself: the largest logit's probability
 * is 1/Σexp(z - max), so lse = max - log p(max), without a second pass of exponentials.
 */
#include "train/loss.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"

#define PARTS_MAX 64

struct cross_entropy {
    const float *logits;
    const int32_t *labels;
    float *gradient;
    size_t V, grain;
    double smoothing, weight; /* 1 / rows that count */
    double partial[PARTS_MAX];
};

/* Without a gradient to hold the softmax: the plain sum, in double. */
static double log_sum_exp(const float *z, size_t V, float top) {
    double sum = 0;
    size_t i = 0;
    do sum += exp((double)z[i] - (double)top);
    while (++i < V);
    return (double)top + log(sum);
}

static double row_loss(const struct cross_entropy *task, size_t row) {
    const float *z = task->logits + row * task->V;
    float *dz = task->gradient ? task->gradient + row * task->V : NULL;
    size_t V = task->V, label = (size_t)task->labels[row], best = 0;
    double s = task->smoothing, chosen = (double)z[label], sum = 0, lse;
    float top, weight = (float)task->weight;

    for (size_t i = 1; i < V; i++)
        if (!(z[i] <= z[best])) best = i; /* a NaN is chosen and shows in the loss */
    top = z[best];
    for (size_t i = 0; s > 0 && i < V; i++) sum += (double)z[i];
    if (!dz) {
        lse = log_sum_exp(z, V, top);
    } else {
        if (dz != z) memcpy(dz, z, V * sizeof *dz);
        kernels.softmax(1, V, V, 1.0f, dz);
        lse = (double)top - log((double)dz[best]);
        float spread = (float)(s / (double)V);
        dz[label] -= (float)(1 - s);
        for (size_t i = 0; i < V; i++) dz[i] = (dz[i] - spread) * weight;
    }
    return lse - (1 - s) * chosen - s * (sum / (double)V);
}

static void rows_body(void *context, size_t begin, size_t end, int worker) {
    struct cross_entropy *task = context;
    double total = 0;
    (void)worker;
    for (size_t row = begin; row < end; row++) {
        if (task->labels[row] != -100) total += row_loss(task, row);
        else if (task->gradient) memset(task->gradient + row * task->V, 0, task->V * sizeof(float));
    }
    task->partial[begin / task->grain] = total;
}

double loss_cross_entropy(const float *logits, const int32_t *labels, size_t rows, size_t V, double smoothing,
                          float *gradient) {
    struct cross_entropy task = {logits, labels, gradient, V, 1, smoothing, 0, {0}};
    size_t count = 0;
    double total = 0;
    for (size_t i = 0; i < rows; i++) count += labels[i] != -100;
    task.weight = count ? 1.0 / (double)count : 0;
    task.grain = (rows + PARTS_MAX - 1) / PARTS_MAX;
    if (rows == 0) return 0;
    if (rows * V < 4096) /* too little to share; the same chunks in the same order */
        for (size_t i = 0; i < rows; i += task.grain)
            rows_body(&task, i, i + task.grain < rows ? i + task.grain : rows, 0);
    else parallel_for(rows, task.grain, rows_body, &task);
    for (size_t i = 0; i < PARTS_MAX; i++) total += task.partial[i];
    return total * task.weight;
}
