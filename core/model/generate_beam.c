/* Beam search as Hugging Face's `generate` does it (generate.h says how), over a cache with one slot per beam.
 *
 * A step's candidates are the best of K·V sums; they are kept in a short sorted list while all sums are looked at once,
 * against the worst of the list. With E ending ids (1+E)·K candidates are taken, at least 2K, so that K of them do not
 * end. The prompt is computed once, in slot 0: the first step's reordering copies it.
 */
#include "model/generate_private.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "kernels/kernels.h"

struct candidate {
    double sum;
    uint32_t beam;
    int32_t id;
};

struct beams {
    size_t K, kept, length, limit; /* beams, candidates, new tokens so far, at most */
    double *sum;                   /* [K] log-probability of each running beam */
    int32_t *ids, *next;           /* (K,limit) running beams, and room for the next ones; they change places */
    int32_t *block;                /* both */
    uint32_t *from;                /* [K] */
    struct candidate *best;        /* [kept] best first */
    float *p;                      /* [V] probabilities of the beam at work */
    struct generated *done;        /* [K] hypotheses, best first */
    size_t finished;
};

static int beams_open(struct beams *beams, const struct generate_options *options, size_t V, struct generated *out) {
    int status = 0;
    size_t K = options->beams, ends = options->end ? options->end_count : 0;
    void *block;

    memset(beams, 0, sizeof *beams);
    beams->K = K;
    beams->kept = K * (ends > 1 ? 1 + ends : 2);
    beams->limit = options->new_tokens;
    beams->done = out;
    TRY(memory_take(&block, K, sizeof *beams->sum));
    beams->sum = block;
    TRY(memory_take(&block, 2 * K * beams->limit, sizeof *beams->ids));
    beams->block = beams->ids = block;
    beams->next = beams->ids + K * beams->limit;
    TRY(memory_take(&block, K, sizeof *beams->from));
    beams->from = block;
    TRY(memory_take(&block, beams->kept, sizeof *beams->best));
    beams->best = block;
    TRY(memory_take(&block, V, sizeof *beams->p));
    beams->p = block;
out:
    return status;
}

static void beams_close(struct beams *beams) {
    memory_release(beams->sum);
    memory_release(beams->block);
    memory_release(beams->from);
    memory_release(beams->best);
    memory_release(beams->p);
}

/* Put a candidate into the sorted list; of equals the one seen first stays ahead. */
static void insert(struct candidate *best, size_t *count, size_t room, struct candidate candidate) {
    size_t at = *count < room ? (*count)++ : room - 1;
    for (; at > 0 && best[at - 1].sum < candidate.sum; at--) best[at] = best[at - 1];
    best[at] = candidate;
}

/* The logarithm of Σ exp(x) over the logits x[V], in nats; p[V] is scratch. */
static double log_total(size_t V, const float *x, float *p) {
    size_t best = 0;
    for (size_t v = 1; v < V; v++)
        if (x[v] > x[best]) best = v;
    memcpy(p, x, V * sizeof *p);
    kernels.softmax(1, V, V, 1.0f, p);
    return (double)x[best] - log((double)p[best]);
}

/* The best continuations of the running beams. What a continuation adds is its logit less the beam's total: a
 * probability in f32 would be 0 from 88 nats below the best one on, and all of those alike. */
static void find_best(struct beams *beams, size_t running, size_t V, const float *logits) {
    size_t count = 0;
    for (uint32_t beam = 0; beam < running; beam++) {
        const float *x = logits + beam * V;
        double total = log_total(V, x, beams->p);
        for (size_t v = 0; v < V; v++) {
            struct candidate candidate = {beams->sum[beam] + ((double)x[v] - total), beam, (int32_t)v};
            if (count == beams->kept && !(candidate.sum > beams->best[count - 1].sum)) continue;
            insert(beams->best, &count, beams->kept, candidate);
        }
    }
    beams->kept = count;
}

static double score_of(const struct beams *beams, const struct generate_options *options, double sum) {
    return sum / pow((double)beams->length, options->length_penalty);
}

/* A hypothesis among the K best, if it is one. */
static int finish(struct beams *beams, const struct generate_options *options, const struct candidate *candidate) {
    int status = 0;
    struct generated text = {.count = beams->length, .sum_logprob = candidate->sum};
    size_t at;
    void *block;

    text.score = score_of(beams, options, candidate->sum);
    text.ended = generation_ends(options, candidate->id);
    if (beams->finished == beams->K && !(text.score > beams->done[beams->K - 1].score)) goto out;
    TRY(memory_take(&block, text.count, sizeof *text.ids));
    text.ids = block;
    memcpy(text.ids, beams->ids + candidate->beam * beams->limit, (text.count - 1) * sizeof *text.ids);
    text.ids[text.count - 1] = candidate->id;
    if (beams->finished == beams->K) generated_close(&beams->done[beams->K - 1], 1);
    else beams->finished++;
    for (at = beams->finished - 1; at > 0 && beams->done[at - 1].score < text.score; at--)
        beams->done[at] = beams->done[at - 1];
    beams->done[at] = text;
out:
    return status;
}

/* Candidates that end become hypotheses if they rank among the first K; the K best others are the next beams. */
static int advance(struct beams *beams, const struct generate_options *options) {
    int status = 0;
    bool last = beams->length == beams->limit;
    size_t running = 0;

    for (size_t c = 0; c < beams->kept; c++) {
        const struct candidate *candidate = &beams->best[c];
        bool ends = last || generation_ends(options, candidate->id);
        if (ends && c < beams->K) TRY(finish(beams, options, candidate));
        if (ends || running == beams->K) continue;
        int32_t *to = beams->next + running * beams->limit;
        memcpy(to, beams->ids + candidate->beam * beams->limit, (beams->length - 1) * sizeof *to);
        to[beams->length - 1] = candidate->id;
        beams->from[running] = candidate->beam;
        beams->sum[running++] = candidate->sum;
    }
    int32_t *ids = beams->ids;
    beams->ids = beams->next;
    beams->next = ids;
out:
    return status;
}

/* Whether no running beam can still displace the worst of K hypotheses. */
static bool is_over(const struct beams *beams, const struct generate_options *options) {
    if (beams->length == beams->limit) return true;
    if (beams->finished < beams->K) return false;
    return options->early_stopping || score_of(beams, options, beams->sum[0]) <= beams->done[beams->K - 1].score;
}

int generate_beams(struct generation *generation, const int32_t *prompt, size_t prompt_tokens, struct generated *out,
                   size_t *count) {
    int status = 0;
    const struct generate_options *options = generation->options;
    struct beams beams;
    size_t V = generation->model->config.vocabulary, room;
    int32_t *newest = NULL;
    void *block;

    TRY(beams_open(&beams, options, V, out));
    room = beams.kept;
    TRY(memory_take(&block, beams.K, sizeof *newest));
    newest = block;
    for (;;) {
        bool first = beams.length++ == 0;
        if (first) TRY(generation_pass(generation, prompt, 1, prompt_tokens));
        else TRY(generation_pass(generation, newest, beams.K, 1));
        beams.kept = room;
        find_best(&beams, first ? 1 : beams.K, V, generation->logits);
        if (options->token) options->token(options->context, beams.length - 1, beams.best[0].id);
        TRY(advance(&beams, options));
        if (is_over(&beams, options)) break;
        TRY(kv_cache_reorder(&generation->cache, beams.from, beams.K));
        for (size_t k = 0; k < beams.K; k++) newest[k] = beams.ids[k * beams.limit + beams.length - 1];
    }
    *count = beams.finished;
out:
    beams_close(&beams);
    memory_release(newest);
    return status;
}
