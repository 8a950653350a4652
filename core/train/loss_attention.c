/* Attention losses: see loss_attention.h. With s = a·bᵀ/√D of a tile of rows and its gradient ds,
 *
 *   da += ds·b/√D        db += dsᵀ·a/√D
 *
 * One item of work is a sequence and a head of b with all heads of a that share it, so that no two items write the same
 * gradient. Items' losses are added in order.
 */
#include "train/loss_attention.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"

#define ROW_TILE 64 /* rows of scores at a time */

double loss_attention_scores(size_t count, const float *student, const float *teacher, double scale, float *gradient) {
    double total = 0;
    float weight = (float)(2 * scale / (double)count);
    for (size_t i = 0; i < count; i++) {
        float s = student[i] <= ATTENTION_MASKED ? 0 : student[i], t = teacher[i] <= ATTENTION_MASKED ? 0 : teacher[i];
        total += (double)(s - t) * (double)(s - t);
        if (gradient && !(student[i] <= ATTENTION_MASKED)) gradient[i] += weight * (s - t);
    }
    return count ? total / (double)count : 0;
}

struct work {
    const struct attention_task *task;
    double scale, row_weight;
    float *da, *db;
    size_t longest;
    float *scratch;  /* [workers][3][ROW_TILE][longest]: student's and teacher's scores, the gradient */
    double *partial; /* [items] */
};

/* Rows first..first+rows-1 of a head's scores in one sequence, against keys low..high-1. */
static void make_scores(const struct attention_side *side, size_t begin, size_t head, size_t first, size_t rows,
                        size_t low, size_t high, float *scores) {
    size_t D = side->D, a_stride = side->a_heads * D, b_stride = side->b_heads * D;
    const float *a = side->a + (begin + first) * a_stride + head * D,
                *b = side->b + (begin + low) * b_stride + head / (side->a_heads / side->b_heads) * D;
    gemm_f32(false, true, rows, high - low, D, (float)(1 / sqrt((double)D)), a, a_stride, b, b_stride, 0.0f, scores,
             high - low);
}

/* KL of one row, in place: s becomes probabilities, ds the gradient. */
static double relate(size_t n, float *s, float *t, double weight, float *ds) {
    double loss = 0;
    size_t top_s = 0, top_t = 0;
    for (size_t i = 1; i < n; i++) {
        if (!(s[i] <= s[top_s])) top_s = i;
        if (!(t[i] <= t[top_t])) top_t = i;
    }
    double difference = (double)s[top_s] - (double)t[top_t]; /* of the two log-sums, below */
    for (size_t i = 0; i < n; i++) ds[i] = t[i] - s[i];
    kernels.softmax(1, n, n, 1.0f, s);
    kernels.softmax(1, n, n, 1.0f, t);
    difference -= log((double)s[top_s]) - log((double)t[top_t]);
    for (size_t i = 0; i < n; i++) loss += (double)t[i] * (double)ds[i];
    for (size_t i = 0; i < n; i++) ds[i] = (float)weight * (s[i] - t[i]);
    return loss + difference;
}

/* One tile of one head: its rows' losses, and their gradients if wanted. */
static double tile(const struct work *work, size_t begin, size_t t, size_t head, size_t first, size_t rows,
                   float *scratch) {
    const struct attention_task *task = work->task;
    const struct attention_side *student = &task->student;
    size_t D = student->D, a_stride = student->a_heads * D, b_stride = student->b_heads * D;
    size_t high = task->causal ? first + rows : t;
    size_t low = task->causal && task->window && first + 1 > task->window ? first + 1 - task->window : 0;
    size_t span = high - low, key_head = head / (student->a_heads / student->b_heads);
    float *s = scratch, *other = s + ROW_TILE * work->longest, *ds = other + ROW_TILE * work->longest;
    float factor = (float)(1 / sqrt((double)D));
    double loss = 0;

    make_scores(student, begin, head, first, rows, low, high, s);
    make_scores(&task->teacher, begin, head, first, rows, low, high, other);
    memset(ds, 0, rows * span * sizeof *ds);
    for (size_t i = 0; i < rows; i++) {
        size_t row = first + i, to = task->causal ? row + 1 : t,
               from = task->causal && task->window && to > task->window ? to - task->window : 0;
        size_t at = i * span + from - low, n = to - from;
        double weight = work->row_weight * work->scale;
        loss += task->kind == ATTENTION_SCORES ? loss_attention_scores(n, s + at, other + at, weight, ds + at)
                                               : relate(n, s + at, other + at, weight, ds + at);
    }
    if (work->da) {
        const float *a = student->a + (begin + first) * a_stride + head * D,
                    *b = student->b + (begin + low) * b_stride + key_head * D;
        gemm_f32(false, false, rows, D, span, factor, ds, span, b, b_stride, 1.0f,
                 work->da + (begin + first) * a_stride + head * D, a_stride);
        gemm_f32(true, false, span, D, rows, factor, ds, span, a, a_stride, 1.0f,
                 work->db + (begin + low) * b_stride + key_head * D, b_stride);
    }
    return loss;
}

static void item_body(void *context, size_t item, size_t end, int worker) {
    struct work *work = context;
    const struct attention_task *task = work->task;
    size_t heads = task->student.b_heads, group = task->student.a_heads / heads;
    float *scratch = work->scratch + (size_t)worker * 3 * ROW_TILE * work->longest;
    for (; item < end; item++) {
        size_t begin = task->offset[item / heads], t = task->offset[item / heads + 1] - begin;
        double loss = 0;
        for (size_t h = item % heads * group; h < (item % heads + 1) * group; h++)
            for (size_t first = 0; first < t; first += ROW_TILE)
                loss += tile(work, begin, t, h, first, t - first < ROW_TILE ? t - first : ROW_TILE, scratch);
        work->partial[item] = loss;
    }
}

int loss_attention(const struct attention_task *task, double scale, float *da, float *db, double *loss) {
    int status = 0;
    struct work work = {.task = task, .scale = scale, .da = da, .db = db};
    size_t items = task->sequences * task->student.b_heads, bytes;
    size_t tokens = task->offset[task->sequences] - task->offset[0];
    void *scratch = NULL, *partial = NULL;

    *loss = 0;
    CHECK(task->student.a_heads == task->teacher.a_heads, "%zu heads against %zu", task->student.a_heads,
          task->teacher.a_heads);
    for (size_t i = 0; i < task->sequences; i++)
        if (task->offset[i + 1] - task->offset[i] > work.longest) work.longest = task->offset[i + 1] - task->offset[i];
    TRY(size_multiply((size_t)threads_get() * 3 * ROW_TILE * sizeof(float), work.longest, &bytes));
    TRY(memory_take_raw(&scratch, bytes, 1));
    TRY(memory_take(&partial, items, sizeof(double)));
    work.scratch = scratch;
    work.partial = partial;
    work.row_weight = tokens ? 1 / ((double)tokens * (double)task->student.a_heads) : 0;
    parallel_for(items, 1, item_body, &work);
    for (size_t i = 0; i < items; i++) *loss += work.partial[i];
    *loss *= work.row_weight;
out:
    memory_release(scratch);
    memory_release(partial);
    return status;
}
