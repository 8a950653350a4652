/* Cross-entropy with label smoothing and class weights, the divergence to a teacher, and their gradients.
 *
 *   cross-entropy   (1-s) w_y (lse(z) - z_y) + s/V Σ_i w_i (lse(z) - z_i)
 *                   d/dz_i = (1-s) w_y (p_i - [i = y]) + s/V (W p_i - w_i)      p = softmax(z), W = Σ w
 *   divergence      T² Σ_i q_i (log q_i - log p_i)                              q, p = softmax(·/T)
 *                   d/dz_i = T (p_i - q_i)
 *
 * With the best classes of a teacher alone, q is over those and p over all.
 *
 * lse(z) is taken from the softmax itself: the largest logit's probability is 1/Σexp(z - max), so
 * lse = max - log p(max), without a second pass of exponentials. Rows go in fixed chunks whose sums are added in order.
 */
#include "train/loss.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#define PARTS_MAX 64
#define SHARE_MIN 4096 /* fewer logits are not worth waking a thread */
#define LANES 4        /* sums of a row: independent, so that they overlap */

struct task {
    const struct logit_loss *aim;
    const float *logits;
    float *gradient;
    size_t V, grain;
    double label_weight;  /* 1 / Σ weights of the labels, times 1 - alpha */
    double divergence;    /* alpha T² / rows counted */
    double scale;         /* of the gradient */
    double class_weights; /* Σ class_weight */
    float *scratch;       /* [workers][2][V] */
    double partial[PARTS_MAX];
};

static size_t largest(const float *z, size_t V) {
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (!(z[i] <= z[best])) best = i; /* a NaN is chosen and shows in the loss */
    return best;
}

/* Without a gradient to hold the softmax: the plain sum, in double. */
static double log_sum_exp(const float *z, size_t V, float top) {
    double sum = 0;
    size_t i = 0;
    do sum += exp((double)z[i] - (double)top);
    while (++i < V);
    return (double)top + log(sum);
}

/* p = softmax(z / temperature); returns log Σ exp(z / temperature). */
static double soften(const float *z, size_t V, double temperature, float *p) {
    size_t best = largest(z, V);
    double top = (double)z[best] / temperature;
    if (p != z) memcpy(p, z, V * sizeof *p);
    kernels.softmax(1, V, V, (float)(1 / temperature), p);
    return top - log((double)p[best]);
}

/* Σ z_i, of those with a weight Σ weight_i z_i. */
static double sum_of(const float *z, const float *weight, size_t V) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= V; i += LANES)
        for (size_t k = 0; k < LANES; k++) lane[k] += (weight ? (double)weight[i + k] : 1) * (double)z[i + k];
    for (; i < V; i++) lane[0] += (weight ? (double)weight[i] : 1) * (double)z[i];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* Σ q_i (a_i - b_i). */
static double sum_difference(const float *q, const float *a, const float *b, size_t V) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= V; i += LANES)
        for (size_t k = 0; k < LANES; k++) lane[k] += (double)q[i + k] * ((double)a[i + k] - (double)b[i + k]);
    for (; i < V; i++) lane[0] += (double)q[i] * ((double)a[i] - (double)b[i]);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static double row_cross_entropy(const struct task *task, const float *z, size_t label, float *dz) {
    const float *w = task->aim->class_weight;
    size_t V = task->V;
    double s = task->aim->smoothing, own = w ? (double)w[label] : 1, all = w ? task->class_weights : (double)V;
    double chosen = (double)z[label], sum = s > 0 ? sum_of(z, w, V) : 0, lse, spread = s / (double)V;

    if (!dz) {
        lse = log_sum_exp(z, V, z[largest(z, V)]);
    } else {
        float weight = (float)(task->label_weight * task->scale), hit = (float)((1 - s) * own),
              share = (float)((1 - s) * own + spread * all);
        lse = soften(z, V, 1, dz);
        if (w) {
            for (size_t i = 0; i < V; i++) dz[i] = share * dz[i] - (float)spread * w[i];
            dz[label] -= hit;
            for (size_t i = 0; i < V; i++) dz[i] *= weight;
        } else { /* share is 1 */
            dz[label] -= hit;
            for (size_t i = 0; i < V; i++) dz[i] = (dz[i] - (float)spread) * weight;
        }
    }
    return (1 - s) * own * (lse - chosen) + spread * (all * lse - sum);
}

/* KL(teacher ‖ student) of one row, as Σ q (t - z) / T + lse(z) - lse(t); p (V) on return the student's probabilities
 * minus the teacher's. q: scratch (V). */
static double row_divergence(const struct task *task, const float *z, size_t row, float *p, float *q) {
    const struct logit_loss *aim = task->aim;
    double T = aim->temperature, lse = soften(z, task->V, T, p);

    if (!aim->teacher_top) {
        const float *teacher = aim->teacher + row * task->V;
        double teacher_lse = soften(teacher, task->V, T, q);
        for (size_t i = 0; i < task->V; i++) p[i] -= q[i];
        return sum_difference(q, teacher, z, task->V) / T + lse - teacher_lse;
    }
    const float *teacher = aim->teacher + row * aim->teacher_top;
    const uint32_t *id = aim->teacher_top_id + row * aim->teacher_top;
    double teacher_lse = soften(teacher, aim->teacher_top, T, q), sum = 0;
    for (size_t i = 0; i < aim->teacher_top; i++) {
        sum += (double)q[i] * ((double)teacher[i] - (double)z[id[i]]);
        p[id[i]] -= q[i];
    }
    return sum / T + lse - teacher_lse;
}

static double row_loss(const struct task *task, size_t row, float *scratch) {
    const struct logit_loss *aim = task->aim;
    const float *z = task->logits + row * task->V;
    float *dz = task->gradient ? task->gradient + row * task->V : NULL, *difference = scratch;
    bool compared = task->divergence > 0 && (!aim->counted || aim->counted[row]);
    bool labelled = task->label_weight > 0 && aim->labels[row] != LABEL_IGNORED;
    double loss = 0;

    if (compared) loss += task->divergence * row_divergence(task, z, row, difference, difference + task->V);
    if (labelled) loss += task->label_weight * row_cross_entropy(task, z, (size_t)aim->labels[row], dz);
    else if (dz) memset(dz, 0, task->V * sizeof *dz);
    if (compared && dz) {
        float weight = (float)(task->divergence / aim->temperature * task->scale);
        for (size_t i = 0; i < task->V; i++) dz[i] += weight * difference[i];
    }
    return loss;
}

static void rows_body(void *context, size_t begin, size_t end, int worker) {
    struct task *task = context;
    float *scratch = task->scratch ? task->scratch + (size_t)worker * 2 * task->V : NULL;
    double total = 0;
    for (size_t row = begin; row < end; row++) total += row_loss(task, row, scratch);
    task->partial[begin / task->grain] = total;
}

/* The rows that count, and the factors of their losses. */
static void weigh(struct task *task, size_t rows) {
    const struct logit_loss *aim = task->aim;
    double labels = 0, counted = 0, alpha = aim->teacher ? aim->alpha : 0;
    for (size_t i = 0; i < rows && aim->labels; i++)
        if (aim->labels[i] != LABEL_IGNORED)
            labels += aim->class_weight ? (double)aim->class_weight[aim->labels[i]] : 1;
    for (size_t i = 0; i < rows && alpha > 0; i++) counted += !aim->counted || aim->counted[i];
    task->label_weight = labels > 0 ? (1 - alpha) / labels : 0;
    task->divergence = counted > 0 ? alpha * aim->temperature * aim->temperature / counted : 0;
    if (aim->class_weight)
        for (size_t i = 0; i < task->V; i++) task->class_weights += (double)aim->class_weight[i];
}

static double run(struct task *task, size_t rows) {
    double total = 0;
    task->grain = (rows + PARTS_MAX - 1) / PARTS_MAX;
    if (rows == 0) return 0;
    if (rows * task->V < SHARE_MIN) /* the same chunks in the same order */
        for (size_t i = 0; i < rows; i += task->grain)
            rows_body(task, i, i + task->grain < rows ? i + task->grain : rows, 0);
    else parallel_for(rows, task->grain, rows_body, task);
    for (size_t i = 0; i < PARTS_MAX; i++) total += task->partial[i];
    return total;
}

int loss_logits(const float *logits, size_t rows, size_t V, const struct logit_loss *aim, double scale, float *gradient,
                double *loss) {
    int status = 0;
    struct task task = {.aim = aim, .logits = logits, .gradient = gradient, .V = V, .scale = scale};
    void *scratch = NULL;

    weigh(&task, rows);
    if (task.divergence > 0) {
        TRY(memory_take_raw(&scratch, (size_t)threads_get() * 2 * V, sizeof(float)));
        task.scratch = scratch;
    }
    *loss = run(&task, rows);
out:
    memory_release(scratch);
    return status;
}

double loss_cross_entropy(const float *logits, const int32_t *labels, size_t rows, size_t V, double smoothing,
                          float *gradient) {
    struct logit_loss aim = {.labels = labels, .smoothing = smoothing};
    struct task task = {.aim = &aim, .logits = logits, .gradient = gradient, .V = V, .scale = 1};
    weigh(&task, rows);
    return run(&task, rows);
}

size_t loss_shift_labels(const int32_t *labels, const uint32_t *offset, size_t sequences, int32_t *shifted) {
    size_t counted = 0;
    for (size_t s = 0; s < sequences; s++)
        for (size_t t = offset[s]; t < offset[s + 1]; t++) {
            shifted[t] = t + 1 < offset[s + 1] ? labels[t + 1] : LABEL_IGNORED;
            counted += shifted[t] != LABEL_IGNORED;
        }
    return counted;
}
