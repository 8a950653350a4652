/* Attention of one block: streamed over rows of a batch, and over a cache in f32 and f16; encoders also in 8-bit
 * products. Candidates take turns; a figure is the best round, in µs and in GF/s of the products that the mask leaves
 * (4·D per query, head and key that it sees).
 *
 *   bench_attention [THREADS [ROUNDS]]      default 40 rounds; heads one after the other, so only one thread is timed
 */
#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "model/attention.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WINDOW_NS 2e6 /* of one candidate in one round */

struct shape {
    const char *what;
    size_t t, past, heads, key_value_heads, D;
    bool causal;
};
static const struct shape shapes[] = {
    {"encoder", 16, 0, 12, 12, 32, false},  {"encoder", 128, 0, 12, 12, 32, false},
    {"encoder", 512, 0, 12, 12, 64, false}, {"prefill", 512, 0, 9, 3, 64, true},
    {"prefill", 2048, 0, 9, 3, 64, true},   {"decode", 1, 143, 9, 3, 64, true},
    {"decode", 1, 2047, 9, 3, 64, true},    {"decode", 1, 2047, 12, 12, 64, true},
};

enum candidate { ROWS, CACHED_F32, CACHED_F16, INT8, CANDIDATES };

struct data {
    float *q, *k, *v, *context, *scratch;
    struct kv_cache cache[2];
};

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static float *normal(size_t count, uint64_t stream) {
    struct random random;
    float *values = malloc(count * sizeof *values);
    random_open(&random, 1, stream);
    for (size_t i = 0; i < count; i++) values[i] = (float)random_normal(&random);
    return values;
}

static void attend(const struct shape *s, const struct data *x, enum candidate candidate) {
    size_t group = s->heads / s->key_value_heads, A = s->heads * s->D, B = s->key_value_heads * s->D;
    for (size_t head = 0; head < s->key_value_heads; head++) {
        struct attention_keys keys = {.k = x->k + head * s->D, .v = x->v + head * s->D, .stride = B};
        keys.count = s->past + s->t;
        if (candidate == INT8) {
            attention_int8(s->t, s->D, x->q + head * s->D, A, &keys, x->context + head * s->D, A, x->scratch);
            continue;
        }
        if (candidate != ROWS) keys = kv_cache_keys(&x->cache[candidate - CACHED_F32], 0, 0, head, keys.count);
        attention_stream(s->t, group, s->D, x->q + head * group * s->D, A, &keys, s->past, s->causal, 0,
                         x->context + head * group * s->D, A, x->scratch);
    }
}

static int data_open(struct data *x, const struct shape *s) {
    size_t A = s->heads * s->D, B = s->key_value_heads * s->D, n = s->past + s->t, floats;
    struct model model = {.config = {.layers = 1,
                                     .heads = s->heads,
                                     .key_value_heads = s->key_value_heads,
                                     .head_width = s->D,
                                     .positions = n,
                                     .causal = true}};
    floats = attention_stream_scratch(s->D, s->heads / s->key_value_heads) + attention_int8_scratch(s->D, n);
    x->q = normal(s->t * A, 1), x->k = normal(n * B, 2), x->v = normal(n * B, 3);
    x->context = malloc(s->t * A * sizeof *x->context), x->scratch = malloc(floats * sizeof *x->scratch);
    for (int half = 0; half < 2; half++) {
        int status = kv_cache_open(&x->cache[half], &model, 1, n, half ? CACHE_F16 : CACHE_F32);
        if (status < 0) return status;
        for (size_t head = 0; head < s->key_value_heads; head++)
            kv_cache_write(&x->cache[half], 0, 0, head, 0, n, x->k + head * s->D, x->v + head * s->D, B);
    }
    return 0;
}

static void data_close(struct data *x) {
    free(x->q), free(x->k), free(x->v), free(x->context), free(x->scratch);
    for (int half = 0; half < 2; half++) kv_cache_close(&x->cache[half]);
}

static void bench(const struct shape *s, int rounds) {
    struct data x = {0};
    double best[CANDIDATES] = {0}, seen = 0;
    size_t repeats[CANDIDATES];
    if (data_open(&x, s) < 0) exit(1);
    for (size_t i = 0; i < s->t; i++) seen += (double)(s->past + (s->causal ? i + 1 : s->t));
    int candidates = s->causal ? INT8 : CANDIDATES;
    for (int c = 0; c < candidates; c++) {
        attend(s, &x, (enum candidate)c);
        double begin = now_ns();
        attend(s, &x, (enum candidate)c);
        repeats[c] = (size_t)(WINDOW_NS / (now_ns() - begin)) + 1;
    }
    for (int round = 0; round < rounds; round++)
        for (int c = 0; c < candidates; c++) {
            double begin = now_ns();
            for (size_t i = 0; i < repeats[c]; i++) attend(s, &x, (enum candidate)c);
            double ns = (now_ns() - begin) / (double)repeats[c];
            if (best[c] == 0 || ns < best[c]) best[c] = ns;
        }
    printf("%-8s %5zu %5zu %3zu/%-3zu %3zu", s->what, s->t, s->past, s->heads, s->key_value_heads, s->D);
    for (int c = 0; c < candidates; c++) {
        double flops = 4 * seen * (double)(s->heads * s->D);
        printf("   %9.1f %6.1f", best[c] / 1e3, flops / best[c]);
    }
    printf("\n");
    fflush(stdout);
    data_close(&x);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1, rounds = argc > 2 ? atoi(argv[2]) : 40;
    if (threads < 1 || rounds < 1) {
        fprintf(stderr, "usage: bench_attention [THREADS [ROUNDS]]\n");
        return 2;
    }
    if (threads > 1) {
        printf("skipped: one head after the other, one thread\n");
        return 0;
    }
    kernels_open(UINT32_MAX);
    printf("attention of one block, one thread, %s: µs and GF/s, best of %d rounds\n",
           kernels_variant("attend_f32", kernels.flags), rounds);
    printf("%-8s %5s %5s %7s %3s   %16s   %16s   %16s   %16s\n", "", "t", "past", "heads", "D", "rows", "cache f32",
           "cache f16", "int8");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) bench(&shapes[i], rounds);
    return 0;
}
