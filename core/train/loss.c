/* Cross-entropy with labels and with a teacher, and its gradient in the place of the logits (the formulas are in
 * loss.h).
 *
 *   d ce / dz_j = [(1-s) w[y] (p_j - 1{j = y}) + s/V (W p_j - w[j])] / Σ w[y],   W = Σ_c w[c]
 *   d kl / dz_j = T (q_j - p_j) / rows
 *
 * Log sums are taken from the softmax itself: the largest logit's probability is 1/Σexp(z - max), so lse = max -
 * log p(max), without a second pass of exponentials. Every row's loss has its own place; they are summed in order.
 */
#include "train/loss.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#define SERIAL_LOGITS 4096 /* exponentials of some 10 µs, about what waking a thread costs */
#define LANES 4            /* independent sums of a row, so that they overlap */

/* The teacher has a share in the loss. */
static bool is_taught(const struct logit_loss *loss) {
    return (loss->teacher || loss->teacher_rows) && loss->alpha > 0;
}

int logit_loss_check(const struct logit_loss *loss, size_t rows, size_t V) {
    int status = 0;
    if (!loss->labels && (!is_taught(loss) || loss->alpha < 1))
        FAIL(E_ARGUMENT, "a loss without a teacher needs labels");
    if (is_taught(loss) && !(loss->temperature > 0)) FAIL(E_ARGUMENT, "the temperature is %g", loss->temperature);
    for (size_t i = 0; loss->labels && i < rows; i++)
        if (loss->labels[i] != LABEL_IGNORED && (loss->labels[i] < 0 || (size_t)loss->labels[i] >= V))
            FAIL(E_SHAPE, "label %zu is %d, outside 0..%zu", i, loss->labels[i], V - 1);
    for (size_t i = 0; is_taught(loss) && loss->teacher_top_id && i < rows * loss->teacher_top; i++)
        if (loss->teacher_top_id[i] >= V)
            FAIL(E_SHAPE, "the teacher's id %u is outside 0..%zu", loss->teacher_top_id[i], V - 1);
out:
    return status;
}

static double weight_of(const struct logit_loss *loss, size_t class) {
    return loss->class_weight ? (double)loss->class_weight[class] : 1.0;
}

void logit_loss_means(const struct logit_loss *loss, size_t rows, size_t V, struct logit_means *means) {
    *means = (struct logit_means){0};
    for (size_t c = 0; c < V; c++) means->classes += weight_of(loss, c);
    for (size_t i = 0; i < rows; i++) {
        means->rows += !loss->counted || loss->counted[i];
        if (loss->labels && loss->labels[i] != LABEL_IGNORED) means->weight += weight_of(loss, (size_t)loss->labels[i]);
    }
}

static size_t teacher_width(const struct logit_loss *loss, size_t V) {
    return loss->teacher_top_id ? loss->teacher_top : V;
}

size_t logit_loss_scratch(const struct logit_loss *loss, size_t V) {
    return is_taught(loss) ? size_round_up(V + teacher_width(loss, V), MEMORY_ALIGN / sizeof(float)) : 0;
}

/* x = softmax(x / T); returns log Σ exp(x / T). */
static double soften(size_t n, double temperature, float *x) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (!(x[i] <= x[best])) best = i; /* a NaN is chosen and shows in the loss */
    double top = (double)x[best] / temperature;
    kernels.softmax(1, n, n, (float)(1.0 / temperature), x);
    return top - log((double)x[best]);
}

/* Σ p_i (a_i - b_i). */
static double sum_difference(size_t n, const float *p, const float *a, const float *b) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++) lane[k] += (double)p[i + k] * ((double)a[i + k] - (double)b[i + k]);
    for (; i < n; i++) lane[0] += (double)p[i] * ((double)a[i] - (double)b[i]);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* KL of a row, as Σ p (t - z) / T + lse(z) - lse(t); q (V) becomes q - p. p: scratch of the teacher's width. */
static double teach(const struct logit_loss *loss, size_t row, size_t V, const float *z, float *q, float *p) {
    size_t n = teacher_width(loss, V);
    const uint32_t *ids = loss->teacher_top_id ? loss->teacher_top_id + row * n : NULL;
    const float *teacher = loss->teacher + row * n;
    double T = loss->temperature, sum = 0;
    memcpy(q, z, V * sizeof *q);
    memcpy(p, teacher, n * sizeof *p);
    double lse_q = soften(V, T, q), lse_p = soften(n, T, p);
    if (!ids) {
        sum = sum_difference(n, p, teacher, z);
        for (size_t c = 0; c < V; c++) q[c] -= p[c];
    }
    for (size_t i = 0; ids && i < n; i++) {
        sum += (double)p[i] * ((double)teacher[i] - (double)z[ids[i]]);
        q[ids[i]] -= p[i];
    }
    return sum / T + lse_q - lse_p;
}

struct rows_task {
    const struct logit_loss *loss;
    const struct logit_means *means;
    size_t first, V;
    double scale;
    float *logits, *scratch;
    double *row_loss;
};

/* The row's nats; z becomes the gradient, divided by what the mean divides by. */
static double cross_entropy(const struct rows_task *task, int32_t label, float *z) {
    const struct logit_loss *loss = task->loss;
    size_t V = task->V;
    double s = loss->smoothing, w = weight_of(loss, (size_t)label), chosen = (double)z[label], spread = 0;
    for (size_t c = 0; s > 0 && c < V; c++) spread += weight_of(loss, c) * (double)z[c];
    double lse = soften(V, 1, z), share = task->scale / task->means->weight;
    float on_p = (float)(((1 - s) * w + s * task->means->classes / (double)V) * share);
    float even = (float)(s / (double)V * share);
    for (size_t c = 0; c < V; c++) z[c] = z[c] * on_p - (s > 0 ? even * (float)weight_of(loss, c) : 0.0f);
    z[label] -= (float)((1 - s) * w * share);
    return (1 - s) * w * (lse - chosen) + s / (double)V * (task->means->classes * lse - spread);
}

static double row_loss(const struct rows_task *task, size_t i, int worker) {
    const struct logit_loss *loss = task->loss;
    size_t V = task->V, row = task->first + i;
    float *z = task->logits + i * V, *q = NULL;
    int32_t label = loss->labels ? loss->labels[row] : LABEL_IGNORED;
    double alpha = is_taught(loss) ? loss->alpha : 0, T = loss->temperature, total = 0;
    bool taught = alpha > 0 && (!loss->counted || loss->counted[row]), labelled = alpha < 1 && label != LABEL_IGNORED;
    if (taught) {
        q = task->scratch + (size_t)worker * logit_loss_scratch(loss, V);
        total = alpha * T * T * teach(loss, row, V, z, q, q + V) / (double)task->means->rows;
    }
    if (labelled && task->means->weight > 0) total += (1 - alpha) * cross_entropy(task, label, z) / task->means->weight;
    else memset(z, 0, V * sizeof *z);
    if (alpha == 0) return total;
    float on_q = taught ? (float)(alpha * T * task->scale / (double)task->means->rows) : 0, rest = (float)(1 - alpha);
    for (size_t c = 0; c < V; c++) z[c] = z[c] * rest + (taught ? q[c] * on_q : 0.0f);
    return total;
}

static void rows_body(void *context, size_t begin, size_t end, int worker) {
    const struct rows_task *task = context;
    for (size_t i = begin; i < end; i++) task->row_loss[i] = row_loss(task, i, worker);
}

double logit_loss_rows(const struct logit_loss *loss, const struct logit_means *means, size_t first, size_t count,
                       size_t V, double scale, float *logits, double *row_loss_out, float *scratch) {
    struct rows_task task = {loss, means, first, V, scale, logits, scratch, row_loss_out};
    double sum = 0;
    if (count * V <= SERIAL_LOGITS) rows_body(&task, 0, count, 0);
    else parallel_for(count, 1, rows_body, &task);
    for (size_t i = 0; i < count; i++) sum += row_loss_out[i];
    return sum;
}

int loss_logits(float *logits, size_t rows, size_t V, const struct logit_loss *aim, double scale, double *loss) {
    int status = 0;
    struct logit_means means;
    void *row_loss_block = NULL, *scratch = NULL;
    *loss = 0;
    TRY(logit_loss_check(aim, rows, V));
    TRY(memory_take(&row_loss_block, rows, sizeof(double)));
    TRY(memory_take_raw(&scratch, (size_t)threads_get() * logit_loss_scratch(aim, V), sizeof(float)));
    logit_loss_means(aim, rows, V, &means);
    *loss = logit_loss_rows(aim, &means, 0, rows, V, scale, logits, row_loss_block, scratch);
out:
    memory_release(row_loss_block);
    memory_release(scratch);
    return status;
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
