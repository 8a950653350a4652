/* See metrics.h: correlations. Sums are in double around the means, so that large offsets do no harm. */
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/metrics.h"

double metric_pearson(const double *x, const double *y, size_t count) {
    double mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
    if (count < 2) return NAN;
    for (size_t i = 0; i < count; i++) {
        mean_x += x[i];
        mean_y += y[i];
    }
    mean_x /= (double)count;
    mean_y /= (double)count;
    for (size_t i = 0; i < count; i++) {
        double dx = x[i] - mean_x, dy = y[i] - mean_y;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

struct placed {
    double x, y;
    size_t item;
};

static int placed_compare(const void *a, const void *b) {
    const struct placed *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? -1 : 1;
    return (p->y > q->y) - (p->y < q->y);
}

static int sorted_pairs(const double *x, const double *y, size_t count, struct placed **pairs) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, count, sizeof **pairs));
    *pairs = block;
    for (size_t i = 0; i < count; i++) (*pairs)[i] = (struct placed){x[i], y ? y[i] : 0, i};
    qsort(*pairs, count, sizeof **pairs, placed_compare);
out:
    return status;
}

int metric_ranks(const double *x, size_t count, double *ranks) {
    int status = 0;
    struct placed *pairs = NULL;
    TRY(sorted_pairs(x, NULL, count, &pairs));
    for (size_t from = 0; from < count;) {
        size_t to = from;
        while (to < count && pairs[to].x == pairs[from].x) to++;
        double rank = (double)(from + 1 + to) / 2;
        for (; from < to; from++) ranks[pairs[from].item] = rank;
    }
out:
    memory_release(pairs);
    return status;
}

int metric_spearman(const double *x, const double *y, size_t count, double *rho) {
    int status = 0;
    void *x_ranks = NULL, *y_ranks = NULL;
    *rho = NAN;
    TRY(memory_take(&x_ranks, count, sizeof(double)));
    TRY(memory_take(&y_ranks, count, sizeof(double)));
    TRY(metric_ranks(x, count, x_ranks));
    TRY(metric_ranks(y, count, y_ranks));
    *rho = metric_pearson(x_ranks, y_ranks, count);
out:
    memory_release(x_ranks);
    memory_release(y_ranks);
    return status;
}

static double pairs_of(size_t count) { return (double)count * ((double)count - 1) / 2; }

/* Merge sort of y[0..count) that counts how many pairs stood in the wrong order. */
static double swaps_sort(double *y, double *scratch, size_t count) {
    if (count < 2) return 0;
    size_t half = count / 2, left = 0, right = half;
    double swaps = swaps_sort(y, scratch, half) + swaps_sort(y + half, scratch, count - half);
    for (size_t i = 0; i < count; i++) {
        bool take_right = left == half || (right < count && y[right] < y[left]);
        if (take_right) swaps += (double)(half - left);
        scratch[i] = take_right ? y[right++] : y[left++];
    }
    for (size_t i = 0; i < count; i++) y[i] = scratch[i];
    return swaps;
}

int metric_kendall(const double *x, const double *y, size_t count, double *tau_b) {
    int status = 0;
    struct placed *pairs = NULL;
    void *values = NULL, *scratch = NULL;
    double tied_x = 0, tied_y = 0, tied_both = 0, total = pairs_of(count);
    *tau_b = NAN;
    TRY(sorted_pairs(x, y, count, &pairs));
    TRY(memory_take(&values, count, sizeof(double)));
    TRY(memory_take(&scratch, count, sizeof(double)));
    double *ordered = values;
    for (size_t i = 0, from = 0, same = 0; i < count; i++) {
        ordered[i] = pairs[i].y;
        if (i > 0 && pairs[i].x != pairs[from].x) from = i;
        if (i > 0 && (pairs[i].x != pairs[same].x || pairs[i].y != pairs[same].y)) same = i;
        tied_x += (double)(i - from); /* one new pair with each earlier member of the run */
        tied_both += (double)(i - same);
    }
    double swaps = swaps_sort(ordered, scratch, count);
    for (size_t i = 0, from = 0; i < count; i++) {
        if (ordered[i] != ordered[from]) from = i;
        tied_y += (double)(i - from);
    }
    double spread = (total - tied_x) * (total - tied_y);
    if (spread > 0) *tau_b = (total - tied_x - tied_y + tied_both - 2 * swaps) / sqrt(spread);
out:
    memory_release(pairs);
    memory_release(values);
    memory_release(scratch);
    return status;
}
