/* Every call goes over its values twice: for their extremes, which say how many bins there must be, then to count them
 * into arrays of the workers' own, whose sum does not depend on who counted what.
 */
#include "calibrate/histogram.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

#define GRAIN 16384
#define MOST_BINS 65536

int histogram_open(struct histogram *histogram, size_t bins) {
    memset(histogram, 0, sizeof *histogram);
    if (bins < 2 || bins > MOST_BINS || bins % 2)
        return error_record(E_ARGUMENT, __FILE__, __LINE__, "a histogram has an even number of bins up to %d (got %zu)",
                            MOST_BINS, bins);
    histogram->asked = bins;
    return 0;
}

void histogram_close(struct histogram *histogram) {
    memory_release(histogram->counts);
    memset(histogram, 0, sizeof *histogram);
}

/* ---- extremes ----------------------------------------------------------------------------------------- */

struct extremes {
    const float *x;
    struct {
        float low, high;
        bool odd;     /* something is not finite */
        char pad[52]; /* a cache line for each worker */
    } * of;
};

static void find_extremes(void *context, size_t begin, size_t end, int worker) {
    struct extremes *extremes = context;
    float low = extremes->of[worker].low, high = extremes->of[worker].high;
    bool odd = false;
    for (size_t i = begin; i < end; i++) {
        float value = extremes->x[i];
        odd |= !(fabsf(value) <= 3.4028234e38f);
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    extremes->of[worker].low = low;
    extremes->of[worker].high = high;
    extremes->of[worker].odd |= odd;
}

static int extremes_of(const float *x, size_t count, float *low, float *high) {
    int status = 0;
    void *block = NULL;
    struct extremes extremes = {.x = x};
    size_t workers = (size_t)threads_get();

    TRY(memory_take(&block, workers, sizeof *extremes.of));
    extremes.of = block;
    for (size_t i = 0; i < workers; i++) extremes.of[i].low = extremes.of[i].high = x[0];
    parallel_for(count, GRAIN, find_extremes, &extremes);
    *low = *high = x[0];
    for (size_t i = 0; i < workers; i++) {
        if (extremes.of[i].odd) FAIL(E_NUMERIC, "a value is not finite");
        *low = extremes.of[i].low < *low ? extremes.of[i].low : *low;
        *high = extremes.of[i].high > *high ? extremes.of[i].high : *high;
    }
out:
    memory_release(block);
    return status;
}

/* ---- bins --------------------------------------------------------------------------------------------- */

/* `more` empty bins on each side. */
static int widen(struct histogram *histogram, size_t more) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, histogram->bins + 2 * more, sizeof *histogram->counts));
    memcpy((uint64_t *)block + more, histogram->counts, histogram->bins * sizeof *histogram->counts);
    memory_release(histogram->counts);
    histogram->counts = block;
    histogram->bins += 2 * more;
    histogram->half = (double)(histogram->bins / 2) * histogram->width;
out:
    return status;
}

/* Neighbours joined, from the middle outwards, so that zero stays an edge. */
static int join(struct histogram *histogram) {
    int status = 0;
    if (histogram->bins / 2 % 2) TRY(widen(histogram, 1));
    histogram->bins /= 2;
    for (size_t i = 0; i < histogram->bins; i++)
        histogram->counts[i] = histogram->counts[2 * i] + histogram->counts[2 * i + 1];
    histogram->width *= 2;
out:
    return status;
}

/* Make room for magnitudes up to `reach` > 0. */
static int reach_to(struct histogram *histogram, double reach) {
    int status = 0;
    void *block;
    size_t limit = HISTOGRAM_GROWTH * histogram->asked;

    if (histogram->bins == 0) {
        TRY(memory_take(&block, histogram->asked, sizeof *histogram->counts));
        histogram->counts = block;
        histogram->bins = histogram->asked;
        histogram->half = reach;
        histogram->width = 2 * reach / (double)histogram->bins;
        histogram->counts[histogram->bins / 2] = histogram->zeros;
        goto out;
    }
    while (reach > histogram->half) {
        double more = floor((reach - histogram->half) / histogram->width) + 1;
        if (more * 2 + (double)histogram->bins > (double)limit) TRY(join(histogram));
        else TRY(widen(histogram, (size_t)more));
    }
out:
    return status;
}

/* ---- counting ----------------------------------------------------------------------------------------- */

struct counting {
    const struct histogram *histogram;
    const float *x;
    uint64_t *counts; /* (workers, bins) */
};

static void count_values(void *context, size_t begin, size_t end, int worker) {
    const struct counting *counting = context;
    const struct histogram *histogram = counting->histogram;
    uint64_t *counts = counting->counts + (size_t)worker * histogram->bins;
    double inverse = 1 / histogram->width, middle = (double)(histogram->bins / 2);
    for (size_t i = begin; i < end; i++) {
        double value = (double)counting->x[i], place = value * inverse + middle;
        size_t bin = place <= 0 ? 0 : (size_t)place;
        if (bin >= histogram->bins) bin = histogram->bins - 1;
        /* The product may be rounded across an edge; the edges decide. */
        if (bin > 0 && value < histogram_edge(histogram, bin)) bin--;
        else if (bin + 1 < histogram->bins && value >= histogram_edge(histogram, bin + 1)) bin++;
        counts[bin]++;
    }
}

int histogram_add(struct histogram *histogram, const float *x, size_t count, float *low, float *high) {
    int status = 0;
    float least = 0, largest = 0;
    void *block = NULL;
    size_t workers = (size_t)threads_get();

    if (count == 0) goto out;
    TRY(extremes_of(x, count, &least, &largest));
    double reach = fmax(fabs((double)least), fabs((double)largest));
    if (reach > 0) {
        TRY(reach_to(histogram, reach));
        TRY(memory_take(&block, workers * histogram->bins, sizeof *histogram->counts));
        struct counting counting = {.histogram = histogram, .x = x, .counts = block};
        parallel_for(count, GRAIN, count_values, &counting);
        for (size_t i = 0; i < workers; i++)
            for (size_t bin = 0; bin < histogram->bins; bin++)
                histogram->counts[bin] += counting.counts[i * histogram->bins + bin];
    } else if (histogram->bins) {
        histogram->counts[histogram->bins / 2] += count;
    } else {
        histogram->zeros += count;
    }
    if (histogram->values == 0 || least < histogram->low) histogram->low = least;
    if (histogram->values == 0 || largest > histogram->high) histogram->high = largest;
    histogram->values += count;
out:
    if (status == 0 && low) *low = least;
    if (status == 0 && high) *high = largest;
    memory_release(block);
    return status;
}
