/* Throughput of weight multiplication per format and backend, beside oneDNN's f32 with packed weights.
 *
 * For each shape all candidates take turns, round by round, so that the machine's drift hits all alike; a
 * candidate's figure is its best round, what the code can do when nothing disturbs it: multiply-adds times two per
 * second (GF/s, for integer formats GOP/s, with quantizing the input inside). Ratios are to oneDNN packed f32. oneDNN
 * gets a fresh object per number of tokens, so its weights are in the layout that it likes best.
 *
 *   bench_kernels [THREADS [ROUNDS]]      default: all CPUs, 40 rounds
 */
#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "formats/onednn.h"
#include "formats/weight.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS_MOST 10000
#define WINDOW_NS 5e5 /* of one candidate in one round */

struct candidate {
    const char *label, *format;
    size_t group;
    bool symmetric;
    enum gemm_backend backend;
};

static const struct candidate candidates[] = {
    {"f32 onednn", "f32", 0, false, GEMM_ONEDNN},     {"f32 openblas", "f32", 0, false, GEMM_OPENBLAS},
    {"f32 builtin", "f32", 0, false, GEMM_BUILTIN},   {"f16", "f16", 0, true, GEMM_BUILTIN},
    {"bf16", "bf16", 0, true, GEMM_BUILTIN},          {"int8", "int8", 0, true, GEMM_BUILTIN},
    {"int4 g64 sym", "int4", 64, true, GEMM_BUILTIN}, {"int4 g64 asym", "int4", 64, false, GEMM_BUILTIN},
};
enum { COUNT = sizeof candidates / sizeof *candidates };

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int weight_open(struct weight *weight, const struct candidate *candidate, size_t R, size_t N, const float *w) {
    int status = 0;
    struct weight_shape shape = {.rows = R, .columns = N, .group = candidate->group, .symmetric = candidate->symmetric};
    struct weight_grid grid = {0};
    const struct weight_format *format = weight_format_find(candidate->format);
    size_t groups = weight_grid_groups(format, &shape);
    TRY(memory_take((void **)&grid.scale, R * groups, sizeof(float)));
    if (format->has_asymmetric && !shape.symmetric) TRY(memory_take((void **)&grid.zero, R * groups, 1));
    if (groups) TRY(weight_grid_minmax(format, &shape, w, &grid));
    TRY(weight_pack(weight, format, &shape, w, &grid));
    TRY(weight_prepare(weight, candidate->backend));
out:
    memory_release(grid.scale);
    memory_release(grid.zero);
    return status;
}

static int bench_shape(size_t M, size_t R, size_t N, size_t rounds) {
    int status = 0;
    struct weight weights[COUNT] = {0};
    struct weight_scratch scratch = {0};
    struct random random;
    double best[COUNT] = {0};
    size_t repeats[COUNT];
    float *w = NULL, *x = NULL, *y = NULL, *bias = NULL;
    TRY(memory_take((void **)&w, R * N, sizeof *w));
    TRY(memory_take((void **)&x, M * N, sizeof *x));
    TRY(memory_take((void **)&y, M * R, sizeof *y));
    TRY(memory_take((void **)&bias, R, sizeof *bias));
    random_open(&random, 1, M + R * N);
    for (size_t i = 0; i < R * N; i++) w[i] = (float)random_normal(&random);
    for (size_t i = 0; i < M * N; i++) x[i] = (float)random_normal(&random);
    for (size_t c = 0; c < COUNT; c++) {
        TRY(weight_open(&weights[c], &candidates[c], R, N, w));
        TRY(weight_matmul(&weights[c], M, x, bias, y, &scratch));
        double begin = now_ns();
        for (int i = 0; i < 3; i++) TRY(weight_matmul(&weights[c], M, x, bias, y, &scratch));
        repeats[c] = (size_t)(WINDOW_NS / ((now_ns() - begin) / 3)) + 1;
    }
    for (size_t round = 0; round < rounds; round++)
        for (size_t c = 0; c < COUNT; c++) {
            TRY(weight_matmul(&weights[c], M, x, bias, y, &scratch));
            double begin = now_ns();
            for (size_t i = 0; i < repeats[c]; i++) TRY(weight_matmul(&weights[c], M, x, bias, y, &scratch));
            double ns = (now_ns() - begin) / (double)repeats[c];
            double rate = 2.0 * (double)(M * R) * (double)N / ns;
            if (rate > best[c]) best[c] = rate;
        }
    printf("%5zu %5zu %5zu", M, R, N);
    for (size_t c = 0; c < COUNT; c++) printf("   %7.1f %5.2f", best[c], best[c] / best[0]);
    printf("\n");
out:
    for (size_t c = 0; c < COUNT; c++) weight_close(&weights[c]);
    weight_scratch_close(&scratch);
    memory_release(w), memory_release(x), memory_release(y), memory_release(bias);
    return status;
}

int main(int argc, char **argv) {
    static const size_t tokens[] = {1, 16, 128, 1024}, widths[] = {384, 1536};
    int threads = argc > 1 ? atoi(argv[1]) : threads_get(), rounds = argc > 2 ? atoi(argv[2]) : 40;
    char flags[128];
    if (threads < 1 || rounds < 1 || rounds > ROUNDS_MOST) {
        fprintf(stderr, "usage: bench_kernels [THREADS [ROUNDS]]   (rounds 1..%d)\n", ROUNDS_MOST);
        return 2;
    }
    kernels_open(UINT32_MAX);
    threads_set(threads);
    cpu_flags_text(kernels.flags, flags, sizeof flags);
    printf("matmul: %d threads, %s, kernels %s; %s; %s\n", threads, cpu_model(), flags, gemm_library(),
           onednn_library());
    printf("GF/s or GOP/s (best of %d rounds), and the ratio to oneDNN packed f32\n", rounds);
    printf("%5s %5s %5s", "M", "R", "N");
    for (size_t c = 0; c < COUNT; c++) printf("   %13s", candidates[c].label);
    printf("\n");
    for (size_t m = 0; m < sizeof tokens / sizeof *tokens; m++)
        for (size_t r = 0; r < 2; r++)
            for (size_t n = 0; n < 2; n++) {
                int status = bench_shape(tokens[m], widths[r], widths[n], (size_t)rounds);
                if (status < 0) {
                    fprintf(stderr, "bench_kernels: %s\n", error_text());
                    return 1;
                }
                fflush(stdout);
            }
    return 0;
}
