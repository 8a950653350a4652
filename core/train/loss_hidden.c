/* Hidden-state losses: see loss_hidden.h.
 *
 *   cosine        d(1 - cos)/ds = (cos s/|s| - t/|t|) / |s|
 *   mean square   d/ds = 2 (s - t) / count
 *
 * Rows go in chunks of fixed size whose sums are added in order. The weight gradient of a projection is one sum over
 * all rows for each tile of outputs, so its bits depend on neither chunks nor threads.
 */
#include "train/loss_hidden.h"

#include <math.h>

#include "base/threads.h"
#include "kernels/gemm.h"

#define PARTS_MAX 64
#define OUTPUT_TILE 32 /* outputs of a projection whose weight gradient is one piece of work */
#define ROW_TILE 128   /* rows of a projection that are one piece of work */

struct pair {
    const float *student, *teacher;
    float *gradient;
    size_t rows, C, grain;
    double weight; /* of a row, or of an element, in the loss */
    double scale;
    double partial[PARTS_MAX];
};

static double run(struct pair *pair, parallel_body *body) {
    double total = 0;
    if (pair->rows == 0) return 0;
    pair->grain = (pair->rows + PARTS_MAX - 1) / PARTS_MAX;
    parallel_for(pair->rows, pair->grain, body, pair);
    for (size_t i = 0; i < PARTS_MAX; i++) total += pair->partial[i];
    return total * pair->weight;
}

static void cosine_body(void *context, size_t begin, size_t end, int worker) {
    struct pair *pair = context;
    double total = 0;
    (void)worker;
    for (size_t row = begin; row < end; row++) {
        const float *s = pair->student + row * pair->C, *t = pair->teacher + row * pair->C;
        double ss = 0, tt = 0, st = 0;
        for (size_t i = 0; i < pair->C; i++) {
            ss += (double)s[i] * (double)s[i];
            tt += (double)t[i] * (double)t[i];
            st += (double)s[i] * (double)t[i];
        }
        double lengths = sqrt(ss) * sqrt(tt), cosine = lengths > 0 ? st / lengths : 0;
        total += 1 - (lengths != lengths ? lengths : cosine); /* a NaN shows */
        if (!pair->gradient || !(lengths > 0)) continue;
        float own = (float)(pair->weight * pair->scale * cosine / ss),
              other = (float)(pair->weight * pair->scale / lengths), *d = pair->gradient + row * pair->C;
        for (size_t i = 0; i < pair->C; i++) d[i] += own * s[i] - other * t[i];
    }
    pair->partial[begin / pair->grain] = total;
}

double loss_cosine(size_t rows, size_t C, const float *student, const float *teacher, double scale, float *gradient) {
    struct pair pair = {.student = student, .teacher = teacher, .gradient = gradient, .rows = rows, .C = C};
    pair.weight = rows ? 1 / (double)rows : 0;
    pair.scale = scale;
    return run(&pair, cosine_body);
}

static void square_body(void *context, size_t begin, size_t end, int worker) {
    struct pair *pair = context;
    double total = 0;
    float weight = (float)(2 * pair->weight * pair->scale);
    (void)worker;
    for (size_t i = begin * pair->C; i < end * pair->C; i++) {
        float difference = pair->student[i] - pair->teacher[i];
        total += (double)difference * (double)difference;
        if (pair->gradient) pair->gradient[i] += weight * difference;
    }
    pair->partial[begin / pair->grain] = total;
}

double loss_mean_square(size_t rows, size_t C, const float *student, const float *teacher, double scale,
                        float *gradient) {
    struct pair pair = {.student = student, .teacher = teacher, .gradient = gradient, .rows = rows, .C = C};
    pair.weight = rows ? 1 / ((double)rows * (double)C) : 0;
    pair.scale = scale;
    return run(&pair, square_body);
}

struct projection {
    size_t rows, N, R;
    const float *student, *weight, *dprojected;
    float *projected, *dstudent, *dweight;
    bool add;
};

static void forward_body(void *context, size_t begin, size_t end, int worker) {
    const struct projection *p = context;
    (void)worker;
    gemm_f32(false, true, end - begin, p->R, p->N, 1.0f, p->student + begin * p->N, p->N, p->weight, p->N, 0.0f,
             p->projected + begin * p->R, p->R);
}

void projection_forward(size_t rows, size_t N, size_t R, const float *student, const float *weight, float *projected) {
    struct projection p = {.rows = rows, .N = N, .R = R, .student = student, .weight = weight, .projected = projected};
    parallel_for(rows, ROW_TILE, forward_body, &p);
}

static void input_body(void *context, size_t begin, size_t end, int worker) {
    const struct projection *p = context;
    (void)worker;
    gemm_f32(false, false, end - begin, p->N, p->R, 1.0f, p->dprojected + begin * p->R, p->R, p->weight, p->N, 1.0f,
             p->dstudent + begin * p->N, p->N);
}

static void weight_body(void *context, size_t begin, size_t end, int worker) {
    const struct projection *p = context;
    (void)worker;
    gemm_f32(true, false, end - begin, p->N, p->rows, 1.0f, p->dprojected + begin, p->R, p->student, p->N,
             p->add ? 1.0f : 0.0f, p->dweight + begin * p->N, p->N);
}

void projection_backward(size_t rows, size_t N, size_t R, const float *student, const float *weight,
                         const float *dprojected, float *dstudent, bool add, float *dweight) {
    struct projection p = {.rows = rows,
                           .N = N,
                           .R = R,
                           .student = student,
                           .weight = weight,
                           .dprojected = dprojected,
                           .dstudent = dstudent,
                           .dweight = dweight,
                           .add = add};
    parallel_for(rows, ROW_TILE, input_body, &p);
    parallel_for(R, OUTPUT_TILE, weight_body, &p);
}
