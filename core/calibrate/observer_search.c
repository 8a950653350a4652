/* Searching a histogram for a range.
 *
 * Entropy goes through the candidates that ONNX Runtime's EntropyCalibrater has: i bins on the left of the middle and
 * i+1 on the right, from quantized_bins/2 to all.
 *
 * Least error: of values spread evenly between a and b, rounding to whole numbers costs G(b) - G(a), where
 * G(x) = r/12 + (x-r)³/3 with r = x rounded is the integral of the squared distance to the nearest whole number; beyond
 * the last levels the distance to them counts, whose square integrates to a cube. So a bin costs the same work whether
 * it is narrower or wider than a step, and no choice of range profits from centres that happen to lie on the grid.
 */
#include "calibrate/observer_search.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* ---- entropy ------------------------------------------------------------------------------------------ */

#define SMOOTH 1e-4 /* what an empty bin gets; the others pay for it */

/* Kullback and Leibler's divergence of q from p, over `count` bins; INFINITY where smoothing would leave nothing. */
static double divergence(size_t count, const double *p, const double *q) {
    const double *both[2] = {p, q};
    double paid[2], total[2], sum = 0;
    for (size_t k = 0; k < 2; k++) {
        size_t zeros = 0;
        total[k] = 0;
        for (size_t i = 0; i < count; i++) {
            zeros += both[k][i] == 0;
            total[k] += both[k][i];
        }
        if (zeros == count) return INFINITY;
        paid[k] = SMOOTH * (double)zeros / (double)(count - zeros);
        if (paid[k] >= 1) return INFINITY;
    }
    for (size_t i = 0; i < count; i++) {
        double pi = (p[i] == 0 ? SMOOTH : p[i] - paid[0]) / total[0];
        double qi = (q[i] == 0 ? SMOOTH : q[i] - paid[1]) / total[1];
        sum += pi * log(pi / qi);
    }
    return sum;
}

/* The slice squeezed into `quantized` bins and spread again over those of its bins where p has something. Whole
 * numbers, as the reference has them. */
static void squeeze(size_t count, const uint64_t *slice, const double *p, size_t quantized, double *q) {
    size_t merged = count / quantized;
    memset(q, 0, count * sizeof *q);
    for (size_t k = 0; k < quantized; k++) {
        uint64_t sum = 0, filled = 0;
        size_t begin = k * merged, end = begin + merged;
        for (size_t i = begin; i < end; i++) {
            sum += slice[i];
            filled += p[i] != 0;
        }
        for (size_t i = end; k + 1 == quantized && i < count; i++) sum += slice[i];
        for (size_t i = begin; filled && i < end; i++) q[i] = (double)(sum / filled);
    }
}

/* The bins of a candidate. */
static void candidate_bins(const struct histogram *histogram, size_t reach, size_t *begin, size_t *end) {
    size_t middle = histogram->bins / 2;
    *begin = middle - reach;
    *end = middle + reach + 1 < histogram->bins ? middle + reach + 1 : histogram->bins;
}

double range_divergence(const struct histogram *histogram, size_t quantized_bins, size_t reach, double *room) {
    size_t begin, end, count;
    double *p = room, *q = room + histogram->bins;
    candidate_bins(histogram, reach, &begin, &end);
    count = end - begin;
    for (size_t k = 0; k < count; k++) p[k] = (double)histogram->counts[begin + k];
    for (size_t k = 0; k < begin; k++) p[0] += (double)histogram->counts[k];
    for (size_t k = end; k < histogram->bins; k++) p[count - 1] += (double)histogram->counts[k];
    squeeze(count, histogram->counts + begin, p, quantized_bins, q);
    return divergence(count, p, q);
}

int range_least_divergence(const struct histogram *histogram, size_t quantized_bins, struct range *range) {
    int status = 0;
    double least = INFINITY;
    void *room = NULL;

    *range = (struct range){-histogram->half, histogram->half};
    TRY(memory_take(&room, 2 * histogram->bins, sizeof(double)));
    for (size_t reach = quantized_bins / 2; reach <= histogram->bins / 2; reach++) {
        double distance = range_divergence(histogram, quantized_bins, reach, room);
        if (distance < least) {
            size_t begin, end;
            least = distance;
            candidate_bins(histogram, reach, &begin, &end);
            *range = (struct range){histogram_edge(histogram, begin), histogram_edge(histogram, end)};
        }
    }
out:
    memory_release(room);
    return status;
}

/* ---- least squared error ------------------------------------------------------------------------------ */

#define COARSE 64 /* shares of the whole range that are tried for an end */
#define FINE 8    /* steps between two of those */
#define ROUNDS 2  /* times that each end is searched with the other held */

static double whole_distance(double x) {
    double r = nearbyint(x), d = x - r;
    return r / 12 + d * d * d / 3;
}

double range_error(const struct histogram *histogram, struct range range, int codes) {
    double low = fmin(range.low, 0), high = fmax(range.high, 0), scale = (high - low) / (codes - 1), sum = 0;
    if (histogram->values == 0) return 0;
    if (!(scale > 0)) scale = 1; /* every value becomes zero */
    double zero = high > low ? nearbyint(-low / scale) : 0, last = high > low ? (double)(codes - 1) - zero : 0;
    for (size_t i = 0; i < histogram->bins; i++) {
        if (histogram->counts[i] == 0) continue;
        double a = histogram_edge(histogram, i) / scale, b = histogram_edge(histogram, i + 1) / scale;
        double inner_a = fmin(fmax(a, -zero), last), inner_b = fmin(fmax(b, -zero), last), error = 0;
        if (inner_b > inner_a) error += whole_distance(inner_b) - whole_distance(inner_a);
        if (b > last) error += (pow(b - last, 3) - pow(fmax(a - last, 0), 3)) / 3;
        if (a < -zero) error += (pow(-zero - a, 3) - pow(fmax(-zero - b, 0), 3)) / 3;
        sum += (double)histogram->counts[i] * error / (b - a);
    }
    return sum * scale * scale / (double)histogram->values;
}

/* One end at a time, or both, as shares of where they started. */
enum ends { END_LOW = 1, END_HIGH = 2, END_BOTH = 3 };

static struct range shrunk(struct range range, enum ends ends, double share) {
    if (ends & END_LOW) range.low *= share;
    if (ends & END_HIGH) range.high *= share;
    return range;
}

/* The best of the shares 1/COARSE .. 1 of `whole` for these ends, the other end being `range`'s, then of the finer ones
 * beside it; nothing changes unless the error falls. */
static void search_ends(const struct histogram *histogram, int codes, struct range whole, enum ends ends,
                        struct range *range, double *least) {
    double middle = 0, step = 1.0 / COARSE;
    struct range from = {ends & END_LOW ? whole.low : range->low, ends & END_HIGH ? whole.high : range->high};
    for (int i = COARSE; i > 0; i--) {
        struct range candidate = shrunk(from, ends, i * step);
        double error = range_error(histogram, candidate, codes);
        if (error < *least) *least = error, *range = candidate, middle = i * step;
    }
    for (int i = 1 - FINE; middle > 0 && i < FINE; i++) {
        double share = middle + i * step / FINE;
        if (share <= 0 || share > 1) continue;
        struct range candidate = shrunk(from, ends, share);
        double error = range_error(histogram, candidate, codes);
        if (error < *least) *least = error, *range = candidate;
    }
}

void range_least_error(const struct histogram *histogram, bool symmetric, int codes, struct range *range) {
    struct range whole = {fmin((double)histogram->low, 0), fmax((double)histogram->high, 0)};
    double least = INFINITY;
    if (symmetric) {
        whole.high = fmax(-whole.low, whole.high);
        whole.low = -whole.high;
    }
    *range = whole;
    search_ends(histogram, codes, whole, END_BOTH, range, &least);
    for (int i = 0; i < ROUNDS && !symmetric; i++) {
        search_ends(histogram, codes, whole, END_LOW, range, &least);
        search_ends(histogram, codes, whole, END_HIGH, range, &least);
    }
}
