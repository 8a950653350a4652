/* Which token comes next: the most probable, or one drawn after temperature, top-k and top-p.
 *
 * The draw of step i is number i of a stream of the seed, so neither threads nor other texts change it. Candidates come
 * off a heap over the vocabulary, best first and only as many as top-k or top-p keep: building it is linear, sorting
 * all of 50 000 would take longer than a layer.
 */
#include "model/generate_private.h"

#include <math.h>

#include "base/random.h"
#include "kernels/kernels.h"

/* Below it the best token's share is 1 in f32 (of equals, the same for each), and its inverse is still finite. */
#define TEMPERATURE_LEAST 1e-30

static size_t largest_index(size_t count, const float *x) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (x[i] > x[best] || x[best] != x[best]) best = i;
    return best;
}

/* Higher probability first; of equals the lower id. */
static bool before(const float *p, int32_t a, int32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; }

static void sift_down(const float *p, int32_t *heap, size_t count, size_t at) {
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(p, heap[child + 1], heap[child])) child++;
        if (!before(p, heap[child], heap[at])) return;
        int32_t id = heap[at];
        heap[at] = heap[child];
        heap[child] = id;
    }
}

/* The best id leaves the heap for the place behind it. */
static int32_t pop(const float *p, int32_t *heap, size_t count) {
    int32_t best = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = best;
    sift_down(p, heap, count - 1, 0);
    return best;
}

/* The candidates, best first, end up at the end of `heap`, read backwards; returns how many stay. */
static size_t candidates(const struct generate_options *options, size_t V, const float *p, int32_t *heap) {
    size_t most = options->top_k && options->top_k < V ? options->top_k : V, kept = 0;
    double mass = 1, sum = 0;
    for (size_t i = 0; i < V; i++) heap[i] = (int32_t)i;
    for (size_t i = V / 2; i-- > 0;) sift_down(p, heap, V, i);
    if (most < V) { /* top-p is a share of what top-k left */
        for (mass = 0; kept < most; kept++) mass += (double)p[pop(p, heap, V - kept)];
        for (kept = 0; kept < most && sum < options->top_p * mass; kept++) sum += (double)p[heap[V - 1 - kept]];
    } else {
        for (; kept < V && sum < options->top_p; kept++) sum += (double)p[pop(p, heap, V - kept)];
    }
    return kept ? kept : 1;
}

static int32_t draw(const struct generate_options *options, size_t index, size_t V, const float *p, int32_t *heap) {
    double uniform = random_uniform_at(options->seed, random_stream("generate", 0, 0), index), mass = 0, sum = 0;
    bool all = (!options->top_k || options->top_k >= V) && options->top_p >= 1;
    size_t kept = all ? V : candidates(options, V, p, heap), last = 0;
    for (size_t i = 0; i < kept; i++) mass += (double)p[all ? i : (size_t)heap[V - 1 - i]];
    for (size_t i = 0; i < kept; i++) {
        size_t id = all ? i : (size_t)heap[V - 1 - i];
        if (!(p[id] > 0)) continue;
        sum += (double)p[id];
        last = id;
        if (uniform * mass < sum) break;
    }
    return (int32_t)last;
}

int32_t choose_token(const struct generate_options *options, size_t index, size_t V, float *logits, int32_t *heap,
                     double *logprob) {
    size_t best = largest_index(V, logits);
    if (options->temperature == 0) {
        kernels.softmax(1, V, V, 1.0f, logits);
        *logprob = log((double)logits[best]);
        return (int32_t)best;
    }
    double temperature = fmax(options->temperature, TEMPERATURE_LEAST);
    float scale = (float)(1 / temperature), most = logits[best];
    double normalizer = 1; /* the best one's own share */
    for (size_t v = 0; v < V; v++)
        if (v != best) normalizer += (double)expf(logits[v] - most);
    kernels.softmax(1, V, V, scale, logits);
    int32_t id = draw(options, index, V, logits, heap);
    /* the ratio to the best one's tempered probability gives back the logit */
    *logprob = temperature * log((double)logits[id] / (double)logits[best]) - log(normalizer);
    return id;
}
