/* One model, kept open, that does a piece of work when told to and answers how long it took: our side of
 * `make bench-peers` (tests/peers/bench_peers.py), which lets it and a peer take turns.
 *
 *   bench_model MODEL IDS [STORAGE [THREADS [GEMM]]]      IDS: file of little-endian int32 token ids
 *
 * Commands, one a line; each answers one line "ns multiply_adds weight_bytes value", or "error TEXT":
 * - encode B T: B sequences of T tokens, without a cache (value: first component of the first token's hidden state)
 * - prefill T: one prompt of T tokens, logits of its last token (value: the largest logit)
 * - decode P N: N greedy tokens after a prompt of P tokens, which is not timed (value: the last id)
 * - perplexity W T: W windows of T tokens (value: mean negative log-likelihood of the first window, nats per token)
 * - load: open and prepare the model once more, with its tokenizer (value: 0)
 * - top T K: K lines "= id logit" of the last token of a prompt of T, best first, then an answer; not timed
 * - vector T: the unit embedding of T tokens, a line "= value" per component, then an answer; not timed
 * - peaks: value: best multiply-adds*2 per second of f32 products; multiply_adds: the same of int8 ones, ours;
 *   weight_bytes: bytes per second read; before them a line "= bf16 N": the same of bf16 products (0: not here)
 */
#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "machine_peaks.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct bench {
    const char *path;
    enum weight_storage storage;
    enum gemm_backend backend;
    struct model model;
    struct workspace workspace;
    struct kv_cache cache;
    int32_t *ids; /* [id_count], below the vocabulary */
    size_t id_count;
    float *logits; /* [V] */
    uint32_t *offset;
    int32_t *target;
    float *nll;
    size_t room; /* of offset, target and nll */
};

struct answer {
    uint64_t ns;
    double value;
    uint64_t multiply_adds, weight_bytes;
};

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* The ids start at a place that depends on how many are asked for, so that work of different sizes differs. */
static int need(struct bench *bench, size_t tokens) {
    int status = 0;
    if (tokens > bench->id_count) FAIL(E_LIMIT, "%zu tokens, the file of ids has %zu", tokens, bench->id_count);
    if (tokens < bench->room) goto out;
    memory_release(bench->offset), memory_release(bench->target), memory_release(bench->nll);
    bench->offset = NULL, bench->target = NULL, bench->nll = NULL, bench->room = 0;
    TRY(memory_take((void **)&bench->offset, tokens + 1, sizeof *bench->offset));
    TRY(memory_take((void **)&bench->target, tokens, sizeof *bench->target));
    TRY(memory_take((void **)&bench->nll, tokens, sizeof *bench->nll));
    bench->room = tokens;
out:
    return status;
}

static struct batch batch_of(struct bench *bench, const int32_t *ids, size_t sequences, size_t tokens) {
    for (size_t i = 0; i <= sequences; i++) bench->offset[i] = (uint32_t)(i * tokens);
    return (struct batch){.sequences = sequences, .tokens = sequences * tokens, .ids = ids, .offset = bench->offset};
}

static int run_encode(struct bench *bench, size_t sequences, size_t tokens, struct answer *answer) {
    int status = 0;
    struct model_output output;
    TRY(need(bench, sequences * tokens));
    struct batch batch = batch_of(bench, bench->ids, sequences, tokens);
    uint64_t start = now_ns();
    TRY(model_forward(&bench->model, &batch, NULL, &bench->workspace, &output));
    answer->ns = now_ns() - start;
    answer->value = output.hidden ? (double)output.hidden[0] : 0;
out:
    return status;
}

static size_t largest(const float *values, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (values[i] > values[best]) best = i;
    return best;
}

/* `count` tokens appended to slot 0, logits of the last. */
static int run_step(struct bench *bench, const int32_t *ids, size_t count) {
    int status = 0;
    struct model_output output;
    struct batch batch = batch_of(bench, ids, 1, count);
    batch.cache = &bench->cache;
    batch.read = READ_LAST;
    TRY(model_forward(&bench->model, &batch, NULL, &bench->workspace, &output));
    TRY(model_logits(&bench->model, output.hidden, NULL, 1, &bench->workspace, bench->logits));
out:
    return status;
}

static int cache_for(struct bench *bench, size_t capacity) {
    int status = 0;
    if (bench->cache.capacity < capacity) {
        kv_cache_close(&bench->cache);
        TRY(kv_cache_open(&bench->cache, &bench->model, 1, capacity, CACHE_F16));
    }
    kv_cache_cut(&bench->cache, 0, 0);
out:
    return status;
}

static int run_prefill(struct bench *bench, size_t tokens, struct answer *answer) {
    int status = 0;
    TRY(need(bench, tokens));
    TRY(cache_for(bench, tokens));
    uint64_t start = now_ns();
    TRY(run_step(bench, bench->ids, tokens));
    answer->ns = now_ns() - start;
    answer->value = (double)bench->logits[largest(bench->logits, bench->model.config.vocabulary)];
out:
    return status;
}

static int run_decode(struct bench *bench, size_t prompt, size_t tokens, struct answer *answer) {
    int status = 0;
    TRY(need(bench, prompt));
    TRY(cache_for(bench, prompt + tokens));
    TRY(run_step(bench, bench->ids, prompt));
    memset(&kernel_counters, 0, sizeof kernel_counters);
    uint64_t start = now_ns();
    int32_t id = 0;
    for (size_t i = 0; i < tokens; i++) {
        id = (int32_t)largest(bench->logits, bench->model.config.vocabulary);
        TRY(run_step(bench, &id, 1));
    }
    answer->ns = now_ns() - start;
    answer->value = id;
out:
    return status;
}

/* Window by window, as the peer does it; the last token of a window has nothing to predict. */
static int run_perplexity(struct bench *bench, size_t windows, size_t tokens, struct answer *answer) {
    int status = 0;
    double sum = 0;
    if (tokens < 2 || !windows) FAIL(E_ARGUMENT, "windows of at least 2 tokens");
    if (windows * tokens > bench->id_count) FAIL(E_LIMIT, "%zu ids are not enough", bench->id_count);
    TRY(need(bench, tokens));
    uint64_t start = now_ns();
    for (size_t w = 0; w < windows; w++) {
        const int32_t *ids = bench->ids + w * tokens;
        struct model_output output;
        struct batch batch = batch_of(bench, ids, 1, tokens);
        TRY(model_forward(&bench->model, &batch, NULL, &bench->workspace, &output));
        memcpy(bench->target, ids + 1, (tokens - 1) * sizeof *ids);
        TRY(model_token_nll(&bench->model, output.hidden, NULL, bench->target, tokens - 1, &bench->workspace,
                            bench->nll, NULL));
        for (size_t i = 0; w == 0 && i + 1 < tokens; i++) sum += (double)bench->nll[i];
    }
    answer->ns = now_ns() - start;
    answer->value = sum / (double)(tokens - 1);
out:
    return status;
}

static int run_load(struct bench *bench, struct answer *answer) {
    int status = 0;
    struct model model = {0};
    struct tokenizer *tokenizer = NULL;
    uint64_t start = now_ns();
    TRY(model_open(&model, bench->path, false));
    TRY(model_prepare_as(&model, bench->backend, bench->storage));
    TRY(tokenizer_open(&tokenizer, bench->path));
    answer->ns = now_ns() - start;
out:
    tokenizer_free(tokenizer);
    model_close(&model);
    return status;
}

static int run_top(struct bench *bench, size_t tokens, size_t count, struct answer *answer) {
    int status = 0;
    TRY(run_prefill(bench, tokens, answer));
    for (size_t i = 0; i < count; i++) {
        size_t best = largest(bench->logits, bench->model.config.vocabulary);
        printf("= %zu %.6f\n", best, (double)bench->logits[best]);
        bench->logits[best] = -INFINITY;
    }
out:
    return status;
}

static int run_vector(struct bench *bench, size_t tokens) {
    int status = 0;
    struct model_output output;
    float *vector = NULL;
    size_t C = bench->model.config.width;
    TRY(need(bench, tokens));
    TRY(memory_take((void **)&vector, C, sizeof *vector));
    struct batch batch = batch_of(bench, bench->ids, 1, tokens);
    TRY(model_forward(&bench->model, &batch, NULL, &bench->workspace, &output));
    model_pool(&bench->model, &batch, output.hidden, true, vector);
    for (size_t c = 0; c < C; c++) printf("= %.8f\n", (double)vector[c]);
out:
    memory_release(vector);
    return status;
}

static int run_peaks(struct answer *answer) {
    int status = 0;
    double operations = 0, int8 = 0, bytes = 0;
    TRY(peak_matmul("f32", GEMM_BUILTIN, 768, 0.5, &operations));
    double other = 0;
    if (peak_matmul("f32", GEMM_ONEDNN, 768, 0.5, &other) == 0 && other > operations) operations = other;
    TRY(peak_matmul("int8", GEMM_BUILTIN, 1536, 0.5, &int8));
    TRY(peak_read((size_t)256 << 20, 1.0, &bytes));
    double bf16 = 0;
    if (cpu_detect() & (CPU_AVX512BF16 | CPU_AMX_BF16)) TRY(peak_matmul("bf16", GEMM_BUILTIN, 1536, 0.5, &bf16));
    printf("= bf16 %.0f\n", bf16);
    answer->value = operations;
    answer->multiply_adds = (uint64_t)int8;
    answer->weight_bytes = (uint64_t)bytes;
out:
    return status;
}

static int run_line(struct bench *bench, const char *line, struct answer *answer) {
    int status = 0;
    size_t a = 0, b = 0;
    memset(&kernel_counters, 0, sizeof kernel_counters);
    if (sscanf(line, "encode %zu %zu", &a, &b) == 2 && a && b) TRY(run_encode(bench, a, b, answer));
    else if (sscanf(line, "prefill %zu", &a) == 1 && a) TRY(run_prefill(bench, a, answer));
    else if (sscanf(line, "decode %zu %zu", &a, &b) == 2 && a && b) TRY(run_decode(bench, a, b, answer));
    else if (sscanf(line, "perplexity %zu %zu", &a, &b) == 2) TRY(run_perplexity(bench, a, b, answer));
    else if (strncmp(line, "load", 4) == 0) TRY(run_load(bench, answer));
    else if (sscanf(line, "top %zu %zu", &a, &b) == 2 && a && b) TRY(run_top(bench, a, b, answer));
    else if (sscanf(line, "vector %zu", &a) == 1 && a) TRY(run_vector(bench, a));
    else if (strncmp(line, "peaks", 5) == 0) return run_peaks(answer);
    else FAIL(E_ARGUMENT, "unknown command: %s", line);
    answer->multiply_adds = kernel_counters.multiply_adds;
    answer->weight_bytes = kernel_counters.weight_bytes;
out:
    return status;
}

static int ids_read(struct bench *bench, const char *path) {
    int status = 0;
    char *text = NULL;
    size_t bytes = 0;
    TRY(file_read(path, (size_t)1 << 30, &text, &bytes));
    bench->id_count = bytes / sizeof *bench->ids;
    TRY(memory_take((void **)&bench->ids, bench->id_count + 1, sizeof *bench->ids));
    memcpy(bench->ids, text, bench->id_count * sizeof *bench->ids);
    for (size_t i = 0; i < bench->id_count; i++)
        bench->ids[i] = (int32_t)((uint32_t)bench->ids[i] % (uint32_t)bench->model.config.vocabulary);
out:
    memory_release(text);
    return status;
}

int main(int count, char **arguments) {
    int status = 0;
    struct bench bench = {.storage = STORAGE_F32, .backend = GEMM_BUILTIN};
    char line[256];
    if (count < 3) FAIL(E_ARGUMENT, "bench_model MODEL IDS [f32|f16|bf16 [THREADS [builtin|onednn]]]");
    bench.path = arguments[1];
    for (int s = STORAGE_F32; count > 3 && s <= STORAGE_BF16; s++)
        if (strcmp(arguments[3], weight_storage_name((enum weight_storage)s)) == 0)
            bench.storage = (enum weight_storage)s;
    if (count > 4) threads_set(atoi(arguments[4]));
    if (count > 5) TRY(gemm_backend_find(arguments[5], &bench.backend));
    kernels_open(UINT32_MAX);
    TRY(model_open(&bench.model, bench.path, false));
    TRY(model_prepare_as(&bench.model, bench.backend, bench.storage));
    TRY(ids_read(&bench, arguments[2]));
    TRY(memory_take((void **)&bench.logits, bench.model.config.vocabulary, sizeof *bench.logits));
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        struct answer answer = {0};
        line[strcspn(line, "\n")] = 0;
        if (run_line(&bench, line, &answer) == 0)
            printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %.9g\n", answer.ns, answer.multiply_adds, answer.weight_bytes,
                   answer.value);
        else printf("error %s\n", error_text());
        fflush(stdout);
    }
out:
    if (status) fprintf(stderr, "bench_model: %s\n", error_text());
    kv_cache_close(&bench.cache);
    workspace_close(&bench.workspace);
    model_close(&bench.model);
    memory_release(bench.ids), memory_release(bench.logits), memory_release(bench.offset);
    memory_release(bench.target), memory_release(bench.nll);
    return status != 0;
}
